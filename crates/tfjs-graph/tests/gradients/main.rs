//! Every rule of differentiation against central differences; loops, branches and sparse gradients besides.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
#![allow(clippy::vec_init_then_push, reason = "a case per statement reads better")]

mod cases;
mod flow;
mod rows;
mod tensorflow;

use tfjs_format::proto::attr_value::Value;
use tfjs_graph::{
    DType, GraphModel, ModelOptions, Port, Tensor,
    builder::{Builder, attr},
    gradients::{self, gradients_of},
};

/// An input of a case.
#[derive(Clone)]
enum In {
    /// Numbers to differentiate by.
    X(Vec<usize>, Vec<f32>),
    /// Complex numbers to differentiate by: real and imaginary parts.
    Z(Vec<usize>),
    /// A constant.
    C(Tensor),
}

/// A use of an op.
struct Case {
    /// The ops that it tests.
    covers: Vec<&'static str>,
    inputs: Vec<In>,
    /// Writes the nodes; the outputs that count.
    build: Box<dyn Fn(&mut Builder, &[Port]) -> Vec<Port>>,
}

/// Numbers in a range that look random and keep away from each other.
fn spread(n: usize, low: f32, high: f32, seed: usize) -> Vec<f32> {
    let mut order: Vec<usize> = (0..n).collect();
    order.sort_by_key(|i| ((i + seed + 1) * 7919) % 1009 * 1000 + i);
    let mut out = vec![0.0; n];
    for (rank, i) in order.into_iter().enumerate() {
        out[i] = low + (high - low) * (rank as f32 + 0.5) / n as f32;
    }
    out
}

fn weights(n: usize, seed: usize) -> Vec<f32> {
    spread(n, -1.0, 1.0, seed + 17)
}

/// The inputs as one list of numbers per placeholder.
fn numbers(inputs: &[In]) -> Vec<(Vec<usize>, Vec<f32>)> {
    let mut out = Vec::new();
    for (i, input) in inputs.iter().enumerate() {
        match input {
            In::X(shape, data) => out.push((shape.clone(), data.clone())),
            In::Z(shape) => {
                let n = shape.iter().product();
                out.push((shape.clone(), spread(n, -1.5, 2.0, i)));
                out.push((shape.clone(), spread(n, -2.0, 1.0, i + 5)));
            }
            In::C(_) => {}
        }
    }
    out
}

/// The graph of a case: placeholders, and real outputs. With `open`, dimensions of placeholders are not known.
fn graph(case: &Case, open: bool) -> (Builder, Vec<Port>, Vec<Port>) {
    let mut b = Builder::default();
    let mut variables = Vec::new();
    let mut ports = Vec::new();
    for input in &case.inputs {
        let mut variable = |b: &mut Builder, shape: &[usize]| {
            let dims: Vec<Option<usize>> = shape.iter().map(|&d| if open { None } else { Some(d) }).collect();
            let port = b.placeholder(&format!("x{}", variables.len()), DType::Float32, &dims);
            variables.push(port);
            port
        };
        ports.push(match input {
            In::X(shape, _) => variable(&mut b, shape),
            In::Z(shape) => {
                let (re, im) = (variable(&mut b, shape), variable(&mut b, shape));
                b.op("Complex", &[re, im], &[]).unwrap()
            }
            In::C(value) => b.constant(value.clone()),
        });
    }
    let mut outputs = Vec::new();
    for port in (case.build)(&mut b, &ports) {
        if b.fact(port).dtype == Some(DType::Complex64) {
            outputs.push(b.op("Real", &[port], &[]).unwrap());
            outputs.push(b.op("Imag", &[port], &[]).unwrap());
        } else {
            outputs.push(port);
        }
    }
    (b, variables, outputs)
}

fn model(b: &Builder) -> GraphModel {
    GraphModel::from_graph(b.graph().clone(), ModelOptions::default())
}

fn run(
    model: &GraphModel,
    feeds: &[(Vec<usize>, Vec<f32>)],
    extra: &[Tensor],
) -> Result<Vec<Tensor>, String> {
    let mut fed: Vec<(String, Tensor)> = feeds
        .iter()
        .enumerate()
        .map(|(i, (shape, data))| (format!("x{i}"), Tensor::new(shape.clone(), data.clone()).unwrap()))
        .collect();
    fed.extend(extra.iter().enumerate().map(|(i, w)| (format!("w{i}"), w.clone())));
    let out = model.run(fed).map_err(|e| chain(&e))?;
    Ok(out.into_tensors())
}

fn chain(error: &dyn std::error::Error) -> String {
    error.source().map_or_else(|| error.to_string(), |source| format!("{error}: {}", chain(source)))
}

/// How far from zero a step goes.
const STEP: f32 = 1.0 / 64.0;

/// Central differences of two steps, extrapolated: the sums are in double precision, so that what is left of the error is
/// the rounding of single outputs, about 1e-7 / STEP, and STEP⁴ times the fifth derivative.
const TOLERANCE: f64 = 1e-3;

fn check(case: &Case, open: bool) -> Result<(), String> {
    let (mut b, variables, outputs) = graph(case, open);
    let feeds = numbers(&case.inputs);
    outputs.iter().enumerate().for_each(|(i, &y)| b.output(&format!("y{i}"), y));
    let forward = model(&b);
    let ys = run(&forward, &feeds, &[])?;
    let w: Vec<Tensor> =
        ys.iter().enumerate().map(|(i, y)| Tensor::new(y.shape(), weights(y.len(), i)).unwrap()).collect();
    let total = |ys: &[Tensor]| -> f64 {
        let pairs = ys.iter().zip(&w);
        pairs
            .flat_map(|(y, w)| y.data::<f32>().unwrap().iter().zip(w.data::<f32>().unwrap()))
            .map(|(&y, &w)| f64::from(y) * f64::from(w))
            .sum()
    };

    let mut g = graph(case, open).0;
    let seeds: Vec<(Port, Option<Port>)> = outputs
        .iter()
        .zip(&w)
        .enumerate()
        .map(|(i, (&y, w))| {
            let dims: Vec<Option<usize>> =
                w.dims().iter().map(|&d| if open { None } else { Some(d) }).collect();
            (y, Some(g.placeholder(&format!("w{i}"), DType::Float32, &dims)))
        })
        .collect();
    let grads = gradients_of(&mut g, &seeds, &variables).map_err(|e| chain(&e))?;
    for (i, gradient) in grads.into_iter().enumerate() {
        let gradient = gradient.ok_or(format!("no gradient for input {i}"))?;
        let port = gradient.dense(&mut g).map_err(|e| chain(&e))?;
        g.output(&format!("g{i}"), port);
    }
    let got = run(&model(&g), &feeds, &w)?;

    for (i, got) in got.iter().enumerate() {
        if got.dims() != feeds[i].0 {
            return Err(format!("gradient {i} has shape {}, expected {:?}", got.shape(), feeds[i].0));
        }
        let data = got.data::<f32>().map_err(|e| e.to_string())?;
        for (at, &found) in data.iter().enumerate() {
            let difference = |step: f32| -> Result<f64, String> {
                let mut moved = feeds.clone();
                let x = moved[i].1[at];
                moved[i].1[at] = x + step;
                let high = total(&run(&forward, &moved, &[])?);
                moved[i].1[at] = x - step;
                let low = total(&run(&forward, &moved, &[])?);
                Ok((high - low) / f64::from((x + step) - (x - step)))
            };
            let (coarse, fine) = (difference(STEP)?, difference(STEP / 2.0)?);
            let want = (4.0 * fine - coarse) / 3.0;
            if (f64::from(found) - want).abs() > TOLERANCE * (1.0 + want.abs()) {
                return Err(format!("gradient {i}[{at}] is {found}, differences say {want}"));
            }
        }
    }
    Ok(())
}

#[test]
fn every_rule_agrees_with_central_differences() {
    let cases = cases::all();
    let mut failures = Vec::new();
    for (i, case) in cases.iter().enumerate() {
        for open in [false, true] {
            let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| check(case, open)));
            if let Err(reason) = result.unwrap_or_else(|_| Err("a panic".into())) {
                let how = if open { ", dimensions unknown" } else { "" };
                failures.push(format!("case {i} of {:?}{how}: {reason}", case.covers));
            }
        }
    }
    let missing: Vec<&str> = gradients::rules()
        .filter(|op| !flow::COVERED.contains(op) && !cases.iter().any(|c| c.covers.contains(op)))
        .collect();
    assert!(
        failures.is_empty() && missing.is_empty(),
        "{} failed:\n{}\nwithout a case: {missing:?}",
        failures.len(),
        failures.join("\n")
    );
}

fn x(shape: &[usize], low: f32, high: f32) -> In {
    let n: usize = shape.iter().product();
    In::X(shape.to_vec(), spread(n, low, high, shape.len() + n))
}

fn ints(values: &[i32]) -> In {
    In::C(Tensor::vector(values.to_vec()))
}

fn int(value: i32) -> In {
    In::C(Tensor::scalar(value))
}

/// One op with all inputs in order; its first `outputs` outputs count.
fn case_n(op: &'static str, inputs: Vec<In>, attrs: &[(&'static str, Value)], outputs: usize) -> Case {
    let attrs = attrs.to_vec();
    let build = move |b: &mut Builder, p: &[Port]| {
        let attrs: Vec<(&str, Value)> = attrs.clone();
        b.op_n(op, p, &attrs, outputs).unwrap_or_else(|e| panic!("{op}: {}", chain(&e)))
    };
    Case { covers: vec![op], inputs, build: Box::new(build) }
}

fn case(op: &'static str, inputs: Vec<In>, attrs: &[(&'static str, Value)]) -> Case {
    case_n(op, inputs, attrs, 1)
}

/// A case whose nodes are written by hand.
fn custom(
    covers: &[&'static str],
    inputs: Vec<In>,
    build: impl Fn(&mut Builder, &[Port]) -> Vec<Port> + 'static,
) -> Case {
    Case { covers: covers.to_vec(), inputs, build: Box::new(build) }
}

fn flag(value: bool) -> Value {
    attr::bool(value)
}
