//! Trains a small convolutional net on handwritten digits, five times, and says how many digits it has never seen it knows:
//!
//! ```text
//! cargo run --release -p tfjs-layers --example digits
//! ```

#![allow(clippy::print_stdout, reason = "an example prints")]

use tfjs_kernels::Tensor;
use tfjs_layers::{
    FitOptions, LayersError, LayersModel, Loss, Metric,
    build::{
        BatchNormalization, Conv2D, Dense, DepthwiseConv2D, Dropout, Flatten, MaxPooling2D, Sequential, layer,
    },
    optimizers::Adam,
};

/// 1437 digits to learn, then 360 to be asked for: 64 gray values and the digit, a byte each.
const DIGITS: &[u8] = include_bytes!("../../../fixtures/digits.bin");
const LEARNT: usize = 1437;

fn digits(part: &[u8]) -> Result<(Tensor, Tensor), LayersError> {
    let rows: Vec<&[u8]> = part.chunks(65).collect();
    let images =
        rows.iter().flat_map(|row| row[..64].iter().map(|&gray| f32::from(gray))).collect::<Vec<f32>>();
    let labels = rows.iter().map(|row| i32::from(row[64])).collect::<Vec<i32>>();
    Ok((Tensor::new([rows.len(), 8, 8, 1], images)?, Tensor::vector(labels)))
}

fn network(seed: u64) -> Result<LayersModel, LayersError> {
    Sequential::new()
        .add(layer("Rescaling").set("scale", 1.0 / 255.0).input_shape([8, 8, 1]))
        .add(Conv2D::new(16, 3).set("padding", "same").set("use_bias", false))
        .add(BatchNormalization::new())
        .add(layer("ReLU"))
        .add(Conv2D::new(24, 3).set("padding", "same").activation("relu"))
        .add(MaxPooling2D::new(2))
        .add(DepthwiseConv2D::new(3).set("padding", "same"))
        .add(BatchNormalization::new())
        .add(layer("ReLU").set("max_value", 6.0))
        .add(Flatten::new())
        .add(Dropout::new(0.3))
        .add(Dense::new(10).activation("softmax"))
        .build(seed)
}

fn main() -> Result<(), LayersError> {
    let (x, y) = digits(&DIGITS[..LEARNT * 65])?;
    let (new_x, new_y) = digits(&DIGITS[LEARNT * 65..])?;
    let mut sum = 0.0;
    for seed in 0..5 {
        let mut model = network(seed)?;
        let optimizer = Adam { learning_rate: 2e-3.into(), ..Adam::default() };
        model.compile(optimizer, Loss::SparseCategoricalCrossentropy, [Metric::Accuracy])?;
        model.set_seed(seed as i32)?;
        model.fit(x.clone(), y.clone(), FitOptions { epochs: 40, ..FitOptions::default() })?;
        let accuracy = model.evaluate(new_x.clone(), new_y.clone())?.get("accuracy").unwrap_or(f64::NAN);
        println!("seed {seed}: {:.2} % of 360 new digits", accuracy * 100.0);
        sum += accuracy;
    }
    println!("mean: {:.2} %", sum * 20.0);
    Ok(())
}
