//! Functions against the gradients of TensorFlow's tape; `fixtures/make/gradient_cases.py` describes the files.
use std::{fs, path::Path};

use serde_json::{Value, json};
use tfjs_format::ModelJson;
use tfjs_graph::{GraphModel, ModelOptions, Port, Tensor, builder::Builder, gradients::gradients_of};

use crate::chain;

#[test]
fn elementwise_gradients_agree_with_tensorflow() {
    check_family("elementwise");
}

#[test]
fn gradients_of_reductions_agree_with_tensorflow() {
    check_family("reductions");
}

#[test]
fn gradients_of_shape_ops_agree_with_tensorflow() {
    check_family("shapes");
}

#[test]
fn gradients_of_image_ops_agree_with_tensorflow() {
    check_family("images");
}

#[test]
fn gradients_of_control_flow_agree_with_tensorflow() {
    check_family("flow");
}

#[test]
fn gradients_of_segments_sparse_and_ragged_tensors_agree_with_tensorflow() {
    check_family("rows");
}

#[test]
fn gradients_of_colours_patches_and_transforms_agree_with_tensorflow() {
    check_family("pictures");
}

#[test]
fn gradients_of_diagonals_in_equations_agree_with_tensorflow() {
    check_family("diagonals");
}

#[test]
fn gradients_of_incomplete_gamma_functions_agree_with_tensorflow() {
    check_family("incomplete");
}

fn check_family(name: &str) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/gradients");
    let text = fs::read_to_string(folder.join(name).with_extension("ndjson")).unwrap();
    let mut failures = Vec::new();
    for line in text.lines() {
        let case: Value = serde_json::from_str(line).unwrap();
        if let Err(reason) = check(&case) {
            failures.push(format!("{}: {reason}", case["id"].as_str().unwrap()));
        }
    }
    assert!(failures.is_empty(), "{} failed:\n{}", failures.len(), failures.join("\n"));
}

fn check(case: &Value) -> Result<(), String> {
    let graph = &case["graph"];
    let json = json!({"format": "graph-model", "modelTopology": graph, "weightsManifest": []});
    let json = ModelJson::parse(json.to_string().as_bytes()).map_err(|e| chain(&e))?;
    let model = GraphModel::from_json(&json, &|_| None, ModelOptions::default()).map_err(|e| chain(&e))?;
    let mut b = Builder::from_graph(model.graph().clone()).map_err(|e| chain(&e))?;
    let port = |b: &Builder, name: &str| -> Result<Port, String> {
        b.graph().port(name).ok_or_else(|| format!("no tensor {name}"))
    };
    let mut feeds = Vec::new();
    for (i, input) in items(&case["in"]).iter().enumerate() {
        feeds.push((format!("x{i}"), tensor(input)));
    }
    let mut ys = Vec::new();
    for (i, (name, dy)) in items(&case["out"]).iter().zip(items(&case["dy"])).enumerate() {
        let dy = tensor(dy);
        let dims: Vec<Option<usize>> = dy.dims().iter().map(|&d| Some(d)).collect();
        let seed = b.placeholder(&format!("dy{i}"), dy.dtype(), &dims);
        feeds.push((format!("dy{i}"), dy));
        ys.push((port(&b, name.as_str().unwrap())?, Some(seed)));
    }
    let wrt = items(&case["wrt"])
        .iter()
        .map(|i| port(&b, &format!("x{i}")))
        .collect::<Result<Vec<Port>, String>>()?;
    let grads = gradients_of(&mut b, &ys, &wrt).map_err(|e| chain(&e))?;
    let (mut wanted, mut names) = (Vec::new(), Vec::new());
    for (i, (gradient, want)) in grads.into_iter().zip(items(&case["grad"])).enumerate() {
        match (gradient, want.is_null()) {
            (None, true) => {}
            (Some(gradient), false) => {
                let dense = gradient.dense(&mut b).map_err(|e| chain(&e))?;
                b.output(&format!("g{i}"), dense);
                names.push(format!("g{i}"));
                wanted.push(tensor(want));
            }
            (None, false) => {
                // Zeros, where TensorFlow multiplies by zero.
                if tensor(want).data::<f32>().unwrap().iter().any(|&v| v != 0.0) {
                    return Err(format!("input {} has no gradient", wrt[i].node.0));
                }
            }
            (Some(_), true) => return Err(format!("input {i} has a gradient, TensorFlow gives none")),
        }
    }
    let model = GraphModel::from_graph(b.finish(), ModelOptions::default());
    if wanted.is_empty() {
        return Ok(());
    }
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let got = model.run_for(feeds, &names).map_err(|e| chain(&e))?.into_tensors();
    let tolerance = (case["tol"][0].as_f64().unwrap(), case["tol"][1].as_f64().unwrap());
    for (i, (got, want)) in got.iter().zip(&wanted).enumerate() {
        if got.dims() != want.dims() {
            return Err(format!("gradient {i} has shape {}, expected {}", got.shape(), want.shape()));
        }
        let (got, want) = (got.data::<f32>().unwrap(), want.data::<f32>().unwrap());
        for (at, (&g, &w)) in got.iter().zip(want).enumerate() {
            let (g, w) = (f64::from(g), f64::from(w));
            if (g - w).abs() > tolerance.1 + tolerance.0 * w.abs() {
                return Err(format!("gradient {i}[{at}] is {g}, expected {w}"));
            }
        }
    }
    Ok(())
}

fn items(value: &Value) -> &[Value] {
    value.as_array().unwrap()
}

fn tensor(entry: &Value) -> Tensor {
    let shape: Vec<usize> = items(&entry["shape"]).iter().map(|d| d.as_u64().unwrap() as usize).collect();
    let data = items(&entry["data"]);
    match entry["dtype"].as_str().unwrap() {
        "float32" => Tensor::new(shape, data.iter().map(|v| v.as_f64().unwrap() as f32).collect()),
        "int32" => Tensor::new(shape, data.iter().map(|v| v.as_i64().unwrap() as i32).collect()),
        other => panic!("dtype {other}"),
    }
    .unwrap()
}
