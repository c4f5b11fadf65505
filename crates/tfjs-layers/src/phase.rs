//! Layers in the phase of training against Keras: every line of `fixtures/training/phase.ndjson`, which
//! `fixtures/make/training_phase.py` writes and describes. `CASES=text` chooses some by id.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod images;

use std::{fs, path::Path};

use serde_json::Value;
use tfjs_graph::{Constant, GraphModel, ModelOptions, Port};
use tfjs_kernels::{DType, Tensor};

use crate::{
    Call, Constraint, Emit, Layer, LayersError, LayersModel, LayersOptions, StoredWeight, StoredWeights, Sym,
    emit::training::{STEP, step_tensor, weight_key},
    regularizers,
};

fn tensor(json: &Value) -> Tensor {
    let shape: Vec<usize> =
        json["shape"].as_array().unwrap().iter().map(|d| d.as_u64().unwrap() as usize).collect();
    let data = json["data"].as_array().unwrap();
    if json["dtype"] == "int32" {
        return Tensor::new(shape, data.iter().map(|v| v.as_i64().unwrap() as i32).collect()).unwrap();
    }
    let number = |v: &Value| crate::number(v).unwrap() as f32;
    Tensor::new(shape, data.iter().map(number).collect::<Vec<f32>>()).unwrap()
}

fn load(topology: &Value, weights: &Value) -> Result<LayersModel, LayersError> {
    let stored = |w: &Value| {
        let value = tensor(&w[1]);
        StoredWeight {
            name: w[0].as_str().unwrap().to_owned(),
            value: Constant::new(value.dtype().to_proto(), value),
        }
    };
    let layers = weights.as_array().unwrap().iter().map(|l| {
        (l[0].as_str().unwrap().to_owned(), l[1].as_array().unwrap().iter().map(stored).collect::<Vec<_>>())
    });
    let weights = StoredWeights::ByLayer(layers.filter(|(_, w)| !w.is_empty()).collect());
    LayersModel::new(topology, &weights, &LayersOptions::default())
}

/// What one pass of a model gives.
pub(crate) struct Pass {
    pub(crate) outputs: Vec<Tensor>,
    losses: f32,
    /// By weight.
    gradients: Vec<Option<Tensor>>,
    updated: Vec<Option<Tensor>>,
}

fn value_of(model: &LayersModel, id: usize) -> Tensor {
    model.params.weights[id].value.as_ref().unwrap().tensor().unwrap()
}

/// One pass forwards and backwards.
pub(crate) fn pass(
    model: &LayersModel,
    inputs: &[Tensor],
    training: bool,
    seed: i32,
    step: u64,
) -> Result<Pass, LayersError> {
    let mut g = Emit::new(model.params.clone(), model.dialect).feeding_weights(training, seed);
    let mut feeds = Vec::new();
    let mut syms = Vec::new();
    for (i, x) in inputs.iter().enumerate() {
        let dims: Vec<Option<usize>> = x.dims().iter().map(|&d| Some(d)).collect();
        syms.push(Sym::from(g.builder().placeholder(&format!("x{i}"), x.dtype(), &dims)));
        feeds.push((format!("x{i}"), x.clone()));
    }
    let outputs = model.network().call(&mut g, &Call::of(syms))?;
    regularizers::weight_losses(&mut g, &model.params)?;
    let fed = g.take_fed()?;
    let mut losses = g.scalar(0.0);
    for &loss in &fed.losses {
        losses = g.add(losses, loss)?;
    }
    let mut total = losses;
    let mut start = 0;
    for output in &outputs {
        // Of sizes that are drawn there are no gradients here.
        let dims: Option<Vec<usize>> = g.shape(output.port)?.into_iter().collect();
        let Some(dims) = dims else { continue };
        let size: usize = dims.iter().product();
        let ramp = (start..start + size).map(|n| ((37 * n) % 19) as f32 / 8.0 - 9.0 / 8.0).collect();
        start += size;
        let ramp = g.constant(Tensor::new(&dims[..], ramp)?);
        let y = g.cast(output.port, DType::Float32)?;
        let product = g.mul(y, ramp)?;
        let axes: Vec<usize> = (0..dims.len()).collect();
        let sum = g.reduce("Sum", product, &axes, false)?;
        total = g.add(total, sum)?;
    }
    let mut wanted: Vec<(String, Port)> = vec![("losses".to_owned(), losses)];
    wanted.extend(outputs.iter().enumerate().map(|(i, s)| (format!("y{i}"), s.port)));
    wanted.extend(fed.updates.iter().map(|(id, port)| (format!("update{}", id.0), *port)));
    let trained = model.trainable_weights();
    for (id, gradient) in trained.iter().zip(fed.gradients(&mut g, (total, None), &trained)?) {
        if let Some(gradient) = gradient {
            wanted.push((format!("gradient{}", id.0), gradient.dense(g.builder())?));
        }
    }
    for (name, port) in &wanted {
        let port = g.op("Identity", &[*port], &[])?;
        g.builder().output(name, port);
    }
    for (id, _) in &fed.weights {
        feeds.push((weight_key(*id), value_of(model, id.0)));
    }
    if fed.step.is_some() {
        feeds.push((STEP.to_owned(), step_tensor(step)));
    }
    let emitted = g.finish();
    let graph =
        GraphModel::from_graph(emitted.graph, ModelOptions::default()).with_initializer(emitted.initializer);
    let out = graph.run(feeds)?;
    let get = |name: String| wanted.iter().any(|(n, _)| *n == name).then(|| out[name.as_str()].clone());
    let count = model.params.weights.len();
    Ok(Pass {
        outputs: (0..outputs.len()).filter_map(|i| get(format!("y{i}"))).collect(),
        losses: out["losses"].data::<f32>()?[0],
        gradients: (0..count).map(|i| get(format!("gradient{i}"))).collect(),
        updated: (0..count).map(|i| get(format!("update{i}"))).collect(),
    })
}

fn differs(what: &str, got: &Tensor, expected: &Tensor, tolerance: f32) -> Option<String> {
    if got.dims() != expected.dims() {
        return Some(format!("{what} has shape {}, not {}", got.shape(), expected.shape()));
    }
    let (got, expected) = (got.data::<f32>().ok()?, expected.data::<f32>().ok()?);
    let far = |(a, b): (&f32, &f32)| (a - b).abs() > tolerance * (1.0 + b.abs());
    let at = got.iter().zip(expected).position(far)?;
    Some(format!("{what}: element {at} is {}, not {}", got[at], expected[at]))
}

fn check(case: &Value) -> Result<(), String> {
    let tolerance = case["tolerance"].as_f64().unwrap_or(1e-5) as f32;
    if !case["constraint"].is_null() {
        let mut weight = tensor(&case["weight"]).data::<f32>().unwrap().to_vec();
        let expected = tensor(&case["result"]);
        let constraint = Constraint::parse(&case["constraint"]).unwrap();
        constraint.apply(expected.dims(), &mut weight).map_err(|e| e.to_string())?;
        let got = Tensor::new(expected.dims(), weight).unwrap();
        return differs("the weight", &got, &expected, tolerance).map_or(Ok(()), Err);
    }
    let text = |e: LayersError| format!("{e} {:?}", std::error::Error::source(&e));
    let model = load(&case["topology"], &case["weights"]).map_err(text)?;
    let inputs: Vec<Tensor> = case["inputs"].as_array().unwrap().iter().map(tensor).collect();
    let got = pass(&model, &inputs, true, 7, 0).map_err(text)?;
    for (i, (y, expected)) in got.outputs.iter().zip(case["outputs"].as_array().unwrap()).enumerate() {
        differs(&format!("output {i}"), y, &tensor(expected), tolerance).map_or(Ok(()), Err)?;
    }
    let losses = case["losses"].as_f64().unwrap() as f32;
    differs("the losses", &Tensor::scalar(got.losses), &Tensor::scalar(losses), tolerance)
        .map_or(Ok(()), Err)?;
    let gradients = load(&case["topology"], &case["gradients"]).map_err(text)?;
    let updated = load(&case["topology"], &case["updated"]).map_err(text)?;
    for (i, weight) in model.params.weights.iter().enumerate() {
        let zeros = || Tensor::zeros(DType::Float32, &weight.shape[..]).unwrap();
        let gradient = got.gradients[i].clone().unwrap_or_else(zeros);
        let name = &weight.keras;
        differs(&format!("the gradient of {name}"), &gradient, &value_of(&gradients, i), tolerance)
            .map_or(Ok(()), Err)?;
        let now = got.updated[i].clone().unwrap_or_else(|| value_of(&model, i));
        differs(&format!("{name} afterwards"), &now, &value_of(&updated, i), tolerance)
            .map_or(Ok(()), Err)?;
    }
    Ok(())
}

#[test]
fn every_layer_does_in_training_what_it_does_in_keras() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/training/phase.ndjson");
    let wanted = std::env::var("CASES").unwrap_or_default();
    let mut failures = Vec::new();
    let mut count = 0;
    for line in fs::read_to_string(path).unwrap().lines() {
        let case: Value = serde_json::from_str(line).unwrap();
        let id = case["id"].as_str().map_or_else(|| case["constraint"].to_string(), str::to_owned);
        if !id.contains(&wanted) {
            continue;
        }
        count += 1;
        if let Err(problem) = check(&case) {
            failures.push(format!("{id}: {problem}"));
        }
    }
    assert!(failures.is_empty(), "{} of {count}:\n{}", failures.len(), failures.join("\n"));
}

mod random {
    //! What is drawn: shares and moments within five standard errors, and the same draws for the same seed and step.

    use serde_json::json;
    use tfjs_kernels::Tensor;

    use super::pass;
    use crate::{
        LayersModel,
        build::{LayerSpec, Sequential, layer},
    };

    fn model(spec: LayerSpec, shape: [usize; 2]) -> LayersModel {
        Sequential::new().add(spec.input_shape(shape)).build(1).unwrap()
    }

    fn ones(shape: [usize; 3]) -> Tensor {
        Tensor::new(shape, vec![1f32; shape.iter().product()]).unwrap()
    }

    fn drawn(model: &LayersModel, x: &Tensor, training: bool, seed: i32, step: u64) -> Vec<f32> {
        pass(model, std::slice::from_ref(x), training, seed, step).unwrap().outputs[0]
            .data::<f32>()
            .unwrap()
            .to_vec()
    }

    /// Mean and variance.
    fn moments(x: &[f32]) -> (f64, f64) {
        let mean = x.iter().map(|&v| f64::from(v)).sum::<f64>() / x.len() as f64;
        (mean, x.iter().map(|&v| (f64::from(v) - mean).powi(2)).sum::<f64>() / x.len() as f64)
    }

    fn close(got: f64, expected: f64, deviation: f64, count: usize) -> bool {
        (got - expected).abs() < 5.0 * deviation / (count as f64).sqrt()
    }

    #[test]
    fn dropout_keeps_the_share_and_the_mean() {
        let (model, x) = (model(layer("Dropout").set("rate", 0.25), [400, 25]), ones([10, 400, 25]));
        let y = drawn(&model, &x, true, 3, 0);
        assert!(y.iter().all(|&v| v == 0.0 || (v - 4.0 / 3.0).abs() < 1e-6));
        let kept = y.iter().filter(|&&v| v > 0.0).count();
        assert!(close(kept as f64 / y.len() as f64, 0.75, 0.75f64.sqrt() * 0.5, y.len()), "{kept}");
        assert_eq!(y, drawn(&model, &x, true, 3, 0));
        assert_ne!(y, drawn(&model, &x, true, 3, 1));
        assert_ne!(y, drawn(&model, &x, true, 4, 0));
        assert!(drawn(&model, &x, false, 3, 0).iter().all(|&v| v == 1.0));
    }

    #[test]
    fn noise_has_the_moments_of_keras() {
        let x = ones([10, 400, 25]);
        for (class, option, value, mean, variance) in
            [("GaussianNoise", "stddev", 0.5, 1.0, 0.25f64), ("GaussianDropout", "rate", 0.2, 1.0, 0.25)]
        {
            let model = model(layer(class).set(option, value), [400, 25]);
            let y = drawn(&model, &x, true, 3, 0);
            let (m, v) = moments(&y);
            assert!(close(m, mean, variance.sqrt(), y.len()), "{class}: mean {m}");
            assert!(close(v, variance, variance * 2f64.sqrt(), y.len()), "{class}: variance {v}");
            assert_eq!(y, drawn(&model, &x, true, 3, 0), "{class}");
            assert_ne!(y, drawn(&model, &x, true, 3, 1), "{class}");
            assert!(drawn(&model, &x, false, 3, 0).iter().all(|&v| v == 1.0), "{class}");
        }
    }

    #[test]
    fn alpha_dropout_keeps_mean_and_variance_of_normal_inputs() {
        let normal = layer("GaussianNoise").set("stddev", 1.0).input_shape([400, 25]);
        let model =
            Sequential::new().add(normal).add(layer("AlphaDropout").set("rate", 0.3)).build(1).unwrap();
        let x = Tensor::new([10, 400, 25], vec![0f32; 100_000]).unwrap();
        let (mean, variance) = moments(&drawn(&model, &x, true, 3, 0));
        assert!(mean.abs() < 0.02 && (variance - 1.0).abs() < 0.03, "{mean} {variance}");
    }

    #[test]
    fn spatial_dropout_drops_whole_channels() {
        let model = model(layer("SpatialDropout1D").set("rate", 0.5), [6, 50]);
        let y = drawn(&model, &ones([20, 6, 50]), true, 3, 0);
        for sample in y.chunks(300) {
            assert!((0..50).all(|c| (0..6).all(|t| sample[t * 50 + c] == sample[c])));
        }
        let kept = y.iter().filter(|&&v| v > 0.0).count() as f64 / y.len() as f64;
        assert!(close(kept, 0.5, 0.5, 1000), "{kept}");
    }

    /// A recurrent layer that adds its input to what it keeps of its state.
    fn mirror(option: &str, recurrent: &str) -> LayersModel {
        let spec = layer("SimpleRNN").set("units", 40).set("return_sequences", true);
        let spec = spec.set("activation", "linear").set("kernel_initializer", "identity");
        model(spec.set("recurrent_initializer", recurrent).set(option, 0.5), [5, 40])
    }

    #[test]
    fn recurrent_layers_drop_the_same_inputs_in_every_step() {
        let model = mirror("dropout", "zeros");
        let y = drawn(&model, &ones([25, 5, 40]), true, 3, 0);
        for sample in y.chunks(200) {
            assert!(sample.chunks(40).all(|step| step == &sample[..40]));
        }
        let kept = y.iter().filter(|&&v| v == 2.0).count() as f64 / y.len() as f64;
        assert!(close(kept, 0.5, 0.5, 1000), "{kept}");
        assert!(y.iter().all(|&v| v == 0.0 || v == 2.0));
        assert!(drawn(&model, &ones([25, 5, 40]), false, 3, 0).iter().all(|&v| v == 1.0));
    }

    #[test]
    fn recurrent_dropout_drops_the_same_states_in_every_step() {
        let model = mirror("recurrent_dropout", "identity");
        let y = drawn(&model, &ones([25, 5, 40]), true, 3, 0);
        // A state that is dropped stays 1; others double and add 1.
        for sample in y.chunks(200) {
            for unit in 0..40 {
                let steps: Vec<f32> = (0..5).map(|t| sample[t * 40 + unit]).collect();
                assert!(steps == [1.0; 5] || steps == [1.0, 3.0, 7.0, 15.0, 31.0], "{steps:?}");
            }
        }
    }

    #[test]
    fn every_cell_trains_with_dropout() {
        for (class, options) in [
            ("LSTM", json!({"dropout": 0.3, "recurrent_dropout": 0.3})),
            ("LSTM", json!({"dropout": 0.3, "implementation": 1, "unroll": true})),
            ("GRU", json!({"dropout": 0.3, "recurrent_dropout": 0.3})),
            ("GRU", json!({"dropout": 0.3, "recurrent_dropout": 0.3, "reset_after": false})),
            ("LSTM", json!({"dropout": 0.3})),
        ] {
            let mut spec = layer(class).set("units", 4);
            for (key, value) in options.as_object().unwrap() {
                spec = spec.set(key, value.clone());
            }
            let model = model(spec, [5, 3]);
            let x = ones([2, 5, 3]);
            let y = drawn(&model, &x, true, 3, 0);
            assert_eq!(y, drawn(&model, &x, true, 3, 0), "{class} {options}");
            assert_ne!(y, drawn(&model, &x, true, 3, 1), "{class} {options}");
            assert!(y.iter().all(|v| v.is_finite()));
        }
        let cell = |drop: f64| json!({"class_name": "LSTMCell", "config": {"units": 4, "dropout": drop, "recurrent_dropout": 0.2}});
        let stacked = model(layer("RNN").set("cell", json!([cell(0.5), cell(0.4)])), [5, 3]);
        let x = ones([2, 5, 3]);
        assert_ne!(drawn(&stacked, &x, true, 3, 0), drawn(&stacked, &x, true, 3, 1));
        let conv = layer("ConvLSTM2D").set("filters", 2).set("kernel_size", 2).set("dropout", 0.4);
        let conv = conv.set("recurrent_dropout", 0.4).input_shape([3, 4, 4, 1]);
        let conv = Sequential::new().add(conv).build(1).unwrap();
        let x = Tensor::new([2, 3, 4, 4, 1], vec![1f32; 96]).unwrap();
        assert_ne!(drawn(&conv, &x, true, 3, 0), drawn(&conv, &x, true, 3, 1));
    }

    /// Images of 4 × 6 that count up.
    fn images(count: usize) -> Tensor {
        let ramp = (0..count * 24).map(|i| (i % 24) as f32 * 8.0).collect();
        Tensor::new([count, 4, 6, 1], ramp).unwrap()
    }

    fn augmented(spec: LayerSpec, count: usize) -> Vec<f32> {
        let model = Sequential::new().add(spec.input_shape([4, 6, 1])).build(1).unwrap();
        assert_eq!(drawn(&model, &images(2), false, 3, 0), images(2).data::<f32>().unwrap());
        drawn(&model, &images(count), true, 3, 0)
    }

    #[test]
    fn flips_are_those_of_each_image() {
        let y = augmented(layer("RandomFlip").set("mode", "horizontal"), 1000);
        let flipped = y.chunks(24).filter(|image| image[0] == 40.0).count();
        assert!(
            y.chunks(24).all(|image| image[0] == 40.0 || image[..6] == [0.0, 8.0, 16.0, 24.0, 32.0, 40.0])
        );
        assert!(close(flipped as f64 / 1000.0, 0.5, 0.5, 1000), "{flipped}");
    }

    #[test]
    fn images_move_by_what_the_factors_say() {
        // Values of the layers of tf_keras 2.19 with the same fixed factors.
        let fixed = |class: &str| layer(class).set("fill_mode", "constant").set("interpolation", "nearest");
        let right = fixed("RandomTranslation").set("height_factor", json!([0.25, 0.25]));
        let y = augmented(right.set("width_factor", json!([0.5, 0.5])), 1);
        let mut expected = vec![0f32; 24];
        for row in 1..4 {
            for column in 3..6 {
                expected[row * 6 + column] = ((row - 1) * 6 + column - 3) as f32 * 8.0;
            }
        }
        assert_eq!(y, expected);
        let half = augmented(fixed("RandomRotation").set("factor", json!([0.5, 0.5])), 1);
        let turned: Vec<f32> = (0..24).rev().map(|i| i as f32 * 8.0).collect();
        assert_eq!(half, turned);
        let quarter = augmented(fixed("RandomRotation").set("factor", json!([0.25, 0.25])), 1);
        let expected =
            [0, 32, 80, 128, 176, 0, 0, 24, 72, 120, 168, 0, 0, 16, 64, 112, 160, 0, 0, 8, 56, 104, 152, 0];
        assert_eq!(quarter, expected.map(|v| v as f32));
        let zoomed = augmented(fixed("RandomZoom").set("height_factor", json!([0.5, 0.5])), 1);
        let expected = [0, 0, 0, 0, 0, 0, 0, 48, 64, 72, 88, 0, 0, 96, 112, 120, 136, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(zoomed, expected.map(|v| v as f32));
    }

    #[test]
    fn brightness_and_contrast_stay_within_their_range() {
        let bright = augmented(layer("RandomBrightness").set("factor", json!([0.25, 0.5])), 400);
        assert!(bright.chunks(24).all(|i| (63.7..=127.6).contains(&i[0]) && i[23] <= 255.0));
        let firsts: Vec<f32> = bright.chunks(24).map(|i| i[0]).collect();
        let (mean, variance) = moments(&firsts);
        assert!(close(mean, 255.0 * 0.375, variance.sqrt(), 400), "{mean}");
        let contrast = augmented(layer("RandomContrast").set("factor", json!([0.5, 0.0])), 400);
        assert!(contrast.iter().all(|v| (0.0..=255.0).contains(v)));
        // The mean of the image is 92.
        assert!(contrast.chunks(24).all(|i| (-1e-3..=46.001).contains(&i[0])));
    }

    #[test]
    fn an_augmentation_that_is_not_there_is_named() {
        let model = Sequential::new()
            .add(layer("RandomGaussianBlur").set("factor", 0.5).input_shape([4, 6, 3]))
            .build(1)
            .unwrap();
        let x = Tensor::new([1, 4, 6, 3], vec![0f32; 72]).unwrap();
        let error = pass(&model, &[x], true, 3, 0).err().unwrap();
        assert!(format!("{error:?}").contains("RandomGaussianBlur"), "{error:?}");
    }
}
