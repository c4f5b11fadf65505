//! Trains the last layer of a frozen TensorFlow graph again, after it was spoilt, and writes the graph for TensorFlow.js:
//!
//! ```text
//! cargo run --release -p tfjs-convert --example fine_tune
//! ```

#![allow(clippy::print_stdout, reason = "an example prints")]

use std::{error::Error, path::Path};

use tfjs_convert::{ConvertOptions, InputFormat, convert, save_graph_model};
use tfjs_graph::GraphModel;
use tfjs_kernels::Tensor;
use tfjs_layers::{FineTune, FitOptions, Loss, Metric, optimizers::Adam};

/// 1437 digits to learn, then 360 to be asked for: 64 gray values and the digit, a byte each.
const DIGITS: &[u8] = include_bytes!("../../../fixtures/digits.bin");
const LEARNT: usize = 1437;

fn digits(part: &[u8]) -> Result<(Tensor, Tensor), Box<dyn Error>> {
    let rows: Vec<&[u8]> = part.chunks(65).collect();
    let images = rows.iter().flat_map(|row| row[..64].iter().map(|&gray| f32::from(gray))).collect();
    let labels = rows.iter().map(|row| i32::from(row[64])).collect();
    Ok((Tensor::new([rows.len(), 8, 8, 1], images)?, Tensor::vector::<i32>(labels)))
}

/// The frozen graph, converted.
fn frozen(output: &Path) -> Result<GraphModel, Box<dyn Error>> {
    let options = ConvertOptions {
        input: concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/models/digits_cnn/frozen.pb").to_owned(),
        output: output.to_owned(),
        input_format: InputFormat::TfFrozenModel,
        output_node_names: vec!["probabilities".to_owned()],
        ..ConvertOptions::default()
    };
    convert(&options, &mut |_| {})?;
    Ok(GraphModel::open(output)?)
}

fn main() -> Result<(), Box<dyn Error>> {
    let directory = tempfile::tempdir()?;
    let model = frozen(&directory.path().join("frozen"))?;
    for (name, shape) in model.tunable() {
        println!("{name} {shape:?}");
    }
    let (x, y) = digits(&DIGITS[..LEARNT * 65])?;
    let (new_x, new_y) = digits(&DIGITS[LEARNT * 65..])?;

    let mut tuning = model.fine_tune_where(|name, _| name.contains("probabilities/"))?;
    tuning.compile(Adam::default(), Loss::SparseCategoricalCrossentropy, [Metric::Accuracy])?;
    let say = |when: &str, logs: &tfjs_layers::Logs| {
        let accuracy = logs.get("accuracy").unwrap_or(f64::NAN);
        println!("{when}: {:.2} % of 360 new digits", accuracy * 100.0);
    };
    say("as it was frozen", &tuning.evaluate(new_x.clone(), new_y.clone())?);
    for (name, shape) in model.tunable().iter().filter(|(name, _)| name.contains("probabilities/")) {
        tuning.set_weight(name, Tensor::zeros(tfjs_kernels::DType::Float32, &shape[..])?)?;
    }
    say("with its last layer erased", &tuning.evaluate(new_x.clone(), new_y.clone())?);
    tuning.fit(x, y, FitOptions { epochs: 10, ..FitOptions::default() })?;
    say("fine-tuned", &tuning.evaluate(new_x.clone(), new_y.clone())?);

    let tuned = directory.path().join("tuned");
    save_graph_model(&tuning.into_graph_model()?, &tuned)?;
    let scores = GraphModel::open(&tuned)?.run([("image", new_x)])?;
    let right = scores[0].data::<f32>()?.chunks(10).zip(new_y.data::<i32>()?).filter(|(scores, digit)| {
        let best = scores.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1));
        best.is_some_and(|(i, _)| i as i32 == **digit)
    });
    println!("written and read: {:.2} %", right.count() as f64 / 3.6);
    Ok(())
}
