//! Gradients of recurrent layers against TensorFlow's tape, through the op for whole sequences and through the loop that is
//! written to files. `fixtures/make/recurrent_gradients.py` makes the cases.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use std::{fs, path::Path};

use common::{chain, close, tensor};
use serde_json::Value;
use tfjs_graph::{
    Constant, Graph, GraphModel, ModelOptions, Port, builder::Builder, gradients::gradients_of,
};
use tfjs_kernels::Tensor;
use tfjs_layers::{LayersModel, LayersOptions, StoredWeight, StoredWeights};

fn model(case: &Value) -> LayersModel {
    let stored = |w: &Value| {
        let value = tensor(&w[1]);
        StoredWeight {
            name: w[0].as_str().unwrap().to_owned(),
            value: Constant::new(value.dtype().to_proto(), value),
        }
    };
    let weights = case["weights"].as_array().unwrap().iter().map(|l| {
        (l[0].as_str().unwrap().to_owned(), l[1].as_array().unwrap().iter().map(stored).collect::<Vec<_>>())
    });
    let weights = StoredWeights::ByLayer(weights.filter(|(_, w)| !w.is_empty()).collect());
    LayersModel::new(&case["topology"], &weights, &LayersOptions::default()).unwrap()
}

fn tensors(list: &Value) -> Vec<Tensor> {
    list.as_array().unwrap().iter().map(tensor).collect()
}

/// The constant of a graph that has this value.
fn constant(graph: &Graph, value: &Tensor) -> Port {
    let held = |c: &Constant| c.shape() == value.dims() && c.tensor().is_ok_and(|t| t == *value);
    let found = graph.iter().find(|(_, node)| node.value.as_ref().is_some_and(held));
    found.map(|(id, _)| Port::from(id)).unwrap()
}

fn check(case: &Value, model: &LayersModel, graph: Graph) -> Result<(), String> {
    let mut wrt: Vec<Port> = graph.inputs.iter().map(|e| e.port).collect();
    for layer in case["weights"].as_array().unwrap() {
        wrt.extend(layer[1].as_array().unwrap().iter().map(|w| constant(&graph, &tensor(&w[1]))));
    }
    let ys: Vec<Port> = graph.outputs.iter().map(|e| e.port).collect();
    let mut b = Builder::from_graph(graph).map_err(|e| chain(&e))?;
    let ys: Vec<(Port, Option<Port>)> =
        ys.into_iter().zip(tensors(&case["factors"])).map(|(y, f)| (y, Some(b.constant(f)))).collect();
    let gradients = gradients_of(&mut b, &ys, &wrt).map_err(|e| chain(&e))?;
    for (i, gradient) in gradients.into_iter().enumerate() {
        let gradient = gradient.ok_or_else(|| format!("gradient {i} is missing"))?;
        let port = gradient.dense(&mut b).map_err(|e| chain(&e))?;
        b.output(&format!("gradient_{i}"), port);
    }
    let graph = GraphModel::from_graph(b.finish(), ModelOptions::default());
    let inputs = model.input_names().into_iter().zip(tensors(&case["inputs"]));
    let out = graph.run(inputs).map_err(|e| chain(&e))?;
    let wanted = [tensors(&case["input_gradients"]), tensors(&case["weight_gradients"])].concat();
    assert_eq!(wanted.len(), wrt.len());
    for (i, want) in wanted.iter().enumerate() {
        // Six digits are written down; float32 sums in another order.
        close(&out[&*format!("gradient_{i}")], want, 2e-5, 2e-6).map_err(|e| format!("gradient {i}: {e}"))?;
    }
    Ok(())
}

fn all(run: impl Fn(&Value) -> Result<(), String>) {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/gradients/recurrent_layers.ndjson");
    let text = fs::read_to_string(Path::new(file)).unwrap();
    let failed: Vec<String> = text
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap())
        .filter_map(|case| Some(format!("{}: {}", case["id"], run(&case).err()?)))
        .collect();
    assert!(failed.is_empty(), "\n{}", failed.join("\n"));
}

#[test]
fn the_gradient_of_a_sequence_is_that_of_tensorflow() {
    all(|case| {
        let model = model(case);
        let graph = model.compiled().map_err(|e| chain(&e))?.graph().clone();
        let native = graph.iter().any(|(_, node)| node.op.starts_with("_Sequence"));
        if native { check(case, &model, graph) } else { Err("it has no op for sequences".to_owned()) }
    });
}

#[test]
fn the_gradient_of_the_loop_is_that_of_tensorflow() {
    all(|case| {
        let model = model(case);
        let graph = model.to_graph().map_err(|e| chain(&e))?.graph;
        check(case, &model, graph)
    });
}
