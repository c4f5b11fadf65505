//! Teaches a MobileNetV2 of Keras other classes: its layers are frozen and get another head.
//!
//! ```text
//! cargo run --release -p tfjs-cli --example transfer_learning -- mobilenet_v2.h5 [PICTURES]
//! ```
//!
//! PICTURES holds a folder of pictures for each class; without it, handwritten digits are enlarged to pictures.

#![allow(clippy::print_stdout, reason = "an example prints")]

use std::{error::Error, fs, path::Path};

use image::{DynamicImage, GrayImage, imageops::FilterType};
use tfjs_kernels::Tensor;
use tfjs_layers::{
    FitOptions, LayersModel, Loss, Metric, Validation,
    build::{Dense, Dropout},
    optimizers::Adam,
};

/// 64 gray values and the digit, a byte each.
const DIGITS: &[u8] = include_bytes!("../../../fixtures/digits.bin");

type Pictures = Vec<(DynamicImage, usize)>;

fn digits(count: usize) -> Pictures {
    let picture = |row: &[u8]| Some((GrayImage::from_raw(8, 8, row[..64].to_vec())?.into(), row[64].into()));
    DIGITS.chunks(65).take(count).filter_map(picture).collect()
}

/// The pictures of each folder; and the folders' names, which are the classes.
fn folders(path: &Path) -> Result<(Pictures, Vec<String>), Box<dyn Error>> {
    let mut classes: Vec<_> = fs::read_dir(path)?.collect::<Result<_, _>>()?;
    classes.retain(|entry| entry.path().is_dir());
    classes.sort_by_key(fs::DirEntry::path);
    let mut pictures = Vec::new();
    for (class, folder) in classes.iter().enumerate() {
        for file in fs::read_dir(folder.path())? {
            pictures.push((image::open(file?.path())?, class));
        }
    }
    Ok((pictures, classes.iter().map(|c| c.file_name().to_string_lossy().into_owned()).collect()))
}

/// Pictures of one size with values from -1 to 1, as MobileNetV2 takes them, in an order that mixes the classes.
fn tensors(mut pictures: Pictures, side: u32) -> Result<(Tensor, Tensor), Box<dyn Error>> {
    let mut state = 7u64;
    for i in (1..pictures.len()).rev() {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        pictures.swap(i, (state >> 33) as usize % (i + 1));
    }
    let mut values = Vec::new();
    for (picture, _) in &pictures {
        let picture = picture.resize_exact(side, side, FilterType::Triangle).to_rgb8();
        values.extend(picture.as_raw().iter().map(|&v| f32::from(v) / 127.5 - 1.0));
    }
    let labels = pictures.iter().map(|&(_, class)| class as i32).collect::<Vec<i32>>();
    let side = side as usize;
    Ok((Tensor::new([pictures.len(), side, side, 3], values)?, Tensor::vector(labels)))
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let file = arguments.next().ok_or("usage: transfer_learning MODEL.h5 [PICTURES]")?;
    let base: LayersModel = tfjs_convert::open_keras(file)?;
    let (pictures, classes) = match arguments.next() {
        Some(path) => folders(path.as_ref())?,
        None => (digits(600), (0..10).map(|digit| digit.to_string()).collect()),
    };
    let shape = base.network().input_facts()?.remove(0).shape.unwrap_or_default();
    let side = shape.get(1).copied().flatten().unwrap_or(224);
    let (x, y) = tensors(pictures, u32::try_from(side)?)?;

    let layers = &base.network().config.layers;
    let pooling = layers.iter().find(|layer| layer.class_name == "GlobalAveragePooling2D");
    let pooling = pooling.ok_or("the model has no global pooling")?.name.clone();
    let mut base = base;
    base.set_all_trainable(false)?;
    let head = [Dropout::new(0.2), Dense::new(classes.len()).activation("softmax").name("classes")];
    let mut model = base.with_head(&pooling, head, 7)?;
    println!("{} classes, {} pictures of {side} × {side}", classes.len(), x.dims()[0]);
    println!("{} of {} weights are trained", model.trainable_weights().len(), model.weights().count());

    let optimizer = Adam { learning_rate: 5e-3.into(), ..Adam::default() };
    model.compile(optimizer, Loss::SparseCategoricalCrossentropy, [Metric::Accuracy])?;
    let options = FitOptions { epochs: 5, validation: Validation::Split(0.2), ..FitOptions::default() };
    let history = model.fit(x, y, options)?;
    for (epoch, logs) in history.logs.iter().enumerate() {
        let values: Vec<String> = logs.iter().map(|(name, value)| format!("{name} {value:.4}")).collect();
        println!("epoch {epoch}: {}", values.join(", "));
    }
    Ok(())
}
