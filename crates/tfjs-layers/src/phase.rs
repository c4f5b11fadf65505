//! Layers in the phase of training against Keras: every line of `fixtures/training/phase.ndjson`, which
//! `fixtures/make/training_phase.py` writes and describes. `CASES=text` chooses some by id.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::{fs, path::Path};

use serde_json::Value;
use tfjs_graph::{Constant, GraphModel, ModelOptions, Port, gradients::gradients};
use tfjs_kernels::{DType, Tensor};

use crate::{
    Call, Constraint, Emit, Layer, LayersError, LayersModel, LayersOptions, StoredWeight, StoredWeights, Sym,
    WeightId,
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
        let dims: Vec<usize> = g.shape(output.port)?.into_iter().map(Option::unwrap).collect();
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
    let current = |id: WeightId| fed.updates.iter().find(|(other, _)| *other == id).map(|(_, port)| *port);
    wanted.extend(fed.updates.iter().map(|(id, port)| (format!("update{}", id.0), *port)));
    let trained: Vec<(WeightId, Port)> = fed
        .weights
        .iter()
        .filter(|(id, _)| model.params.get(*id).trainable)
        .map(|&(id, port)| (id, current(id).unwrap_or(port)))
        .collect();
    let ports: Vec<Port> = trained.iter().map(|(_, port)| *port).collect();
    for ((id, _), gradient) in trained.iter().zip(gradients(g.builder(), total, &ports)?) {
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
