#![allow(clippy::unwrap_used, reason = "helpers of tests")]
//! What is recognised computes what it did; what looks alike but is not stays.
use tfjs_format::DType;
use tfjs_kernels::Tensor;

use super::recognize_blocks;
use crate::{
    GraphModel, ModelOptions, Port, Registry,
    builder::{Builder, attr},
};

fn noise(shape: &[usize], seed: usize) -> Tensor {
    let n: usize = shape.iter().product();
    let data = (0..n).map(|i| ((i + 31 * seed) * 7919 % 1013) as f32 / 506.5 - 1.0).collect::<Vec<_>>();
    Tensor::new(shape, data).unwrap()
}

/// A graph that is being written.
struct Write {
    b: Builder,
    feeds: Vec<(String, Tensor)>,
}

impl Write {
    fn new() -> Write {
        Write { b: Builder::default(), feeds: Vec::new() }
    }

    /// An input whose first dimension is not known.
    fn input(&mut self, shape: &[usize]) -> Port {
        let name = format!("x{}", self.feeds.len());
        let dims: Vec<_> = shape.iter().enumerate().map(|(i, &d)| (i > 0).then_some(d)).collect();
        self.feeds.push((name.clone(), noise(shape, self.feeds.len())));
        self.b.placeholder(&name, DType::Float32, &dims)
    }

    fn weight(&mut self, shape: &[usize]) -> Port {
        self.b.constant(noise(shape, 77))
    }

    fn number(&mut self, x: f32) -> Port {
        self.b.constant(Tensor::scalar(x))
    }

    fn ints(&mut self, x: &[i32]) -> Port {
        self.b.constant(Tensor::vector(x.to_vec()))
    }

    fn op(&mut self, op: &str, inputs: &[Port]) -> Port {
        self.b.op(op, inputs, &[]).unwrap()
    }

    fn mean(&mut self, x: Port, axes: &[i32]) -> Port {
        let axes = self.ints(axes);
        self.b.op("Mean", &[x, axes], &[("keep_dims", attr::bool(true))]).unwrap()
    }

    fn einsum(&mut self, equation: &str, inputs: [Port; 2]) -> Port {
        let attrs = [("equation", attr::text(equation)), ("N", attr::int(2))];
        self.b.op("Einsum", &inputs, &attrs).unwrap()
    }

    fn transpose(&mut self, x: Port, perm: &[i32]) -> Port {
        let perm = self.ints(perm);
        self.op("Transpose", &[x, perm])
    }

    fn pick(&mut self, shape: Port, places: &[i32]) -> Port {
        let (places, axis) = (self.ints(places), self.b.constant(Tensor::scalar(0i32)));
        self.b.op("GatherV2", &[shape, places, axis], &[("batch_dims", attr::int(0))]).unwrap()
    }

    fn prod(&mut self, sizes: Port) -> Port {
        let axes = self.ints(&[0]);
        self.b.op("Prod", &[sizes, axes], &[("keep_dims", attr::bool(false))]).unwrap()
    }

    fn pack(&mut self, sizes: &[Port]) -> Port {
        let attrs = [("N", attr::int(sizes.len() as i64)), ("axis", attr::int(0))];
        self.b.op("Pack", sizes, &attrs).unwrap()
    }

    /// Which of this runtime's ops the graph has in the end. Its results must be those of the graph as it was.
    fn found(mut self, outputs: &[Port], bound: f32) -> Vec<String> {
        for (i, &port) in outputs.iter().enumerate() {
            self.b.output(&format!("y{i}"), port);
        }
        let graph = self.b.finish();
        let mut changed = graph.clone();
        recognize_blocks(&mut changed, &Registry::default()).unwrap();
        let mut ops: Vec<String> =
            changed.iter().map(|(_, n)| n.op.clone()).filter(|op| op.starts_with('_')).collect();
        ops.sort();
        let run = |graph, optimize| {
            let options = ModelOptions { optimize, ..ModelOptions::default() };
            GraphModel::from_graph(graph, options).run(self.feeds.clone()).unwrap().into_tensors()
        };
        let want = run(graph.clone(), false);
        for got in [run(changed, false), run(graph, true)] {
            for (got, want) in got.iter().zip(&want) {
                assert_eq!(got.dims(), want.dims());
                let (got, want) = (got.data::<f32>().unwrap(), want.data::<f32>().unwrap());
                let largest = want.iter().fold(1.0f32, |m, x| m.max(x.abs()));
                for (g, w) in got.iter().zip(want) {
                    assert!((g - w).abs() <= bound * largest, "{g} {w}");
                }
            }
        }
        ops
    }
}

/// A dense layer on a sequence, whose leading dimensions come back in some order.
fn tensordot(free: &[i32]) -> Vec<String> {
    let mut w = Write::new();
    let x = w.input(&[2, 3, 8]);
    let shape = w.op("Shape", &[x]);
    let (lead, last) = (w.pick(shape, free), w.pick(shape, &[2]));
    let (rows, depth) = (w.prod(lead), w.prod(last));
    let flat = w.pack(&[rows, depth]);
    let flat = w.op("Reshape", &[x, flat]);
    let (kernel, bias) = (w.weight(&[8, 5]), w.weight(&[5]));
    let product = w.op("MatMul", &[flat, kernel]);
    let (units, axis) = (w.ints(&[5]), w.b.constant(Tensor::scalar(0i32)));
    let back = w.b.op("ConcatV2", &[lead, units, axis], &[("N", attr::int(2))]).unwrap();
    let y = w.op("Reshape", &[product, back]);
    let y = w.b.op("BiasAdd", &[y, bias], &[("data_format", attr::text("NHWC"))]).unwrap();
    w.found(&[y], 1e-6)
}

#[test]
fn a_dense_layer_on_a_sequence_is_one_product() {
    assert_eq!(tensordot(&[0, 1]), ["_Dense"]);
    assert!(tensordot(&[1, 0]).is_empty(), "the dimensions come back in another order");
}

#[test]
fn dense_layers_one_after_the_other_are_found() {
    let mut w = Write::new();
    let mut x = w.input(&[2, 3, 8]);
    for _ in 0..2 {
        let shape = w.op("Shape", &[x]);
        let (lead, last) = (w.pick(shape, &[0, 1]), w.pick(shape, &[2]));
        let (rows, depth) = (w.prod(lead), w.prod(last));
        let flat = w.pack(&[rows, depth]);
        let flat = w.op("Reshape", &[x, flat]);
        let kernel = w.weight(&[8, 8]);
        let product = w.op("MatMul", &[flat, kernel]);
        let (units, axis) = (w.ints(&[8]), w.b.constant(Tensor::scalar(0i32)));
        let back = w.b.op("ConcatV2", &[lead, units, axis], &[("N", attr::int(2))]).unwrap();
        x = w.op("Reshape", &[product, back]);
        x = w.op("Tanh", &[x]);
    }
    assert_eq!(w.found(&[x], 1e-6), ["_Dense", "_Dense"]);
}

#[test]
fn products_over_the_last_labels_of_a_sum_are_dense_layers() {
    let run = |equation, x: &[usize], kernel: &[usize], bias: &[usize]| {
        let mut w = Write::new();
        let (x, kernel, bias) = (w.input(x), w.weight(kernel), w.weight(bias));
        let y = w.einsum(equation, [x, kernel]);
        let y = w.op("AddV2", &[y, bias]);
        let z = w.op("Relu", &[y]);
        w.found(&[z], 1e-6)
    };
    assert_eq!(run("abc,cde->abde", &[2, 3, 8], &[8, 2, 5], &[2, 5]), ["_Dense"]);
    assert_eq!(run("abcd,cde->abe", &[2, 3, 4, 2], &[4, 2, 5], &[5]), ["_Dense"]);
    assert_eq!(run("...x,xy->...y", &[2, 3, 8], &[8, 5], &[5]), ["_Dense"]);
    assert_eq!(run("ab,bc->ac", &[2, 3], &[3, 4], &[4]), ["_Dense"]);
    // A bias along other dimensions is added as before.
    assert_eq!(run("abc,cde->abde", &[2, 3, 8], &[8, 2, 5], &[5]), ["_Dense"]);
    assert_eq!(run("abc,cde->abde", &[2, 3, 8], &[8, 2, 5], &[3, 2, 5]), ["_Dense"]);
    assert!(run("abc,cde->abed", &[2, 3, 8], &[8, 2, 5], &[5, 2]).is_empty());
    assert!(run("abc,dce->abde", &[2, 3, 8], &[4, 8, 5], &[4, 5]).is_empty());
    assert!(run("abc,bcd->abd", &[2, 3, 8], &[3, 8, 5], &[5]).is_empty());
    assert!(run("acb,cd->abd", &[2, 8, 3], &[8, 5], &[5]).is_empty());
}

#[test]
fn what_is_added_to_a_dense_layer_may_be_larger_or_smaller() {
    for shape in [&[2, 3, 5][..], &[1, 3, 1], &[4, 1, 3, 5], &[]] {
        let mut w = Write::new();
        let (x, kernel, bias) = (w.input(&[2, 3, 8]), w.weight(&[8, 5]), w.weight(&[5]));
        let y = w.einsum("abc,cd->abd", [x, kernel]);
        let y = w.op("AddV2", &[bias, y]);
        let other = w.input(shape);
        let y = w.op("AddV2", &[other, y]);
        let y = w.op("Tanh", &[y]);
        assert_eq!(w.found(&[y], 1e-6), ["_Dense"]);
    }
}

#[test]
fn a_product_that_others_use_keeps_its_bias_apart() {
    let mut w = Write::new();
    let (x, kernel, bias) = (w.input(&[2, 3, 8]), w.weight(&[8, 5]), w.weight(&[5]));
    let y = w.einsum("abc,cd->abd", [x, kernel]);
    let z = w.op("AddV2", &[bias, y]);
    assert_eq!(w.found(&[y, z], 1e-6), ["_Dense"]);
}

/// A layer norm as Keras 2 exports it.
fn through_batch_norm(columns_first: bool) -> Vec<String> {
    let mut w = Write::new();
    let x = w.input(&[3, 4, 16]);
    let shape = w.op("Shape", &[x]);
    let (lead, last) = (w.pick(shape, &[0, 1]), w.pick(shape, &[2]));
    let (rows, columns) = (w.prod(lead), w.prod(last));
    let one = w.b.constant(Tensor::scalar(1i32));
    let to = if columns_first { [one, columns, rows, one] } else { [one, rows, columns, one] };
    let to = w.pack(&to);
    let image = w.op("Reshape", &[x, to]);
    let channels = w.pack(&[to_channels(columns_first, rows, columns)]);
    let (ones, zeros) = (w.number(1.0), w.number(0.0));
    let (ones, zeros) = (w.op("Fill", &[channels, ones]), w.op("Fill", &[channels, zeros]));
    let image = w.transpose(image, &[0, 2, 3, 1]);
    let none = w.b.constant(Tensor::new([0], Vec::<f32>::new()).unwrap());
    let attrs = [("epsilon", attr::float(0.01)), ("is_training", attr::bool(true))];
    let norm = w.b.op("FusedBatchNormV3", &[image, ones, zeros, none, none], &attrs).unwrap();
    let image = w.transpose(norm, &[0, 3, 1, 2]);
    let y = w.op("Reshape", &[image, shape]);
    let (scale, offset) = (w.weight(&[16]), w.weight(&[16]));
    let y = w.op("Mul", &[y, scale]);
    let y = w.op("AddV2", &[y, offset]);
    w.found(&[y], 1e-5)
}

fn to_channels(columns_first: bool, rows: Port, columns: Port) -> Port {
    if columns_first { columns } else { rows }
}

#[test]
fn layer_norms_through_batch_norms_are_recognised() {
    assert_eq!(through_batch_norm(false), ["_LayerNorm"]);
    assert!(through_batch_norm(true).is_empty(), "that one normalises the wrong dimension");
}

/// How a layer norm is spelled out.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Form {
    /// `(x - mean) · rsqrt(variance + ε)`
    Rsqrt,
    /// `(x - mean) / √(variance + ε)`, of squares of differences
    Sqrt,
    /// `x · f + (offset - mean · f)`
    Combined,
}

fn moments(form: Form, axes: &[i32], scale: &[usize], offset: &[usize]) -> Vec<String> {
    let mut w = Write::new();
    let x = w.input(&[3, 4, 4]);
    let (scale, offset) = (w.weight(scale), w.weight(offset));
    let mean = w.mean(x, axes);
    let difference = w.op("Sub", &[x, mean]);
    let squares = match form {
        Form::Sqrt => w.op("Square", &[difference]),
        _ => w.op("SquaredDifference", &[x, mean]),
    };
    let variance = w.mean(squares, axes);
    let epsilon = w.number(1e-3);
    let variance = w.op("AddV2", &[variance, epsilon]);
    let y = match form {
        Form::Sqrt => {
            let root = w.op("Sqrt", &[variance]);
            let y = w.op("RealDiv", &[difference, root]);
            let y = w.op("Mul", &[scale, y]);
            w.op("AddV2", &[y, offset])
        }
        Form::Rsqrt => {
            let factor = w.op("Rsqrt", &[variance]);
            let y = w.op("Mul", &[difference, factor]);
            let y = w.op("Mul", &[y, scale]);
            w.op("AddV2", &[offset, y])
        }
        Form::Combined => {
            let factor = w.op("Rsqrt", &[variance]);
            let factor = w.op("Mul", &[factor, scale]);
            let main = w.op("Mul", &[x, factor]);
            let shift = w.op("Mul", &[mean, factor]);
            let shift = w.op("Sub", &[offset, shift]);
            w.op("AddV2", &[main, shift])
        }
    };
    w.found(&[y], 1e-5)
}

#[test]
fn layer_norms_of_moments_are_recognised_however_they_are_written() {
    for form in [Form::Rsqrt, Form::Sqrt, Form::Combined] {
        assert_eq!(moments(form, &[2], &[4], &[4]), ["_LayerNorm"], "{form:?}");
        assert_eq!(moments(form, &[-1], &[1, 1, 4], &[4]), ["_LayerNorm"], "{form:?}");
        assert_eq!(moments(form, &[1, 2], &[4, 4], &[4, 4]), ["_LayerNorm"], "{form:?}");
        assert!(moments(form, &[1], &[4], &[4]).is_empty(), "{form:?}");
        assert!(moments(form, &[0, 2], &[4], &[4]).is_empty(), "{form:?}");
    }
    // Of other parameters only the norm itself is left.
    assert_eq!(moments(Form::Rsqrt, &[2], &[4, 1], &[4]), ["_LayerNorm"]);
    assert!(moments(Form::Combined, &[2], &[4, 1], &[4]).is_empty());
    assert_eq!(moments(Form::Sqrt, &[2], &[4], &[3, 4, 4]), ["_LayerNorm"]);
}

#[test]
fn norms_with_another_mean_stay() {
    let mut w = Write::new();
    let (x, other) = (w.input(&[3, 4]), w.input(&[3, 4]));
    let (mean, wrong) = (w.mean(x, &[1]), w.mean(other, &[1]));
    let squares = w.op("SquaredDifference", &[x, wrong]);
    let variance = w.mean(squares, &[1]);
    let epsilon = w.number(1e-3);
    let variance = w.op("AddV2", &[variance, epsilon]);
    let factor = w.op("Rsqrt", &[variance]);
    let difference = w.op("Sub", &[x, mean]);
    let y = w.op("Mul", &[difference, factor]);
    assert!(w.found(&[y], 0.0).is_empty());
}

/// What is different about an attention.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Twist {
    None,
    /// A mask of this shape.
    Mask(&'static [usize]),
    /// The mask is scaled too.
    ScaledMask,
    /// Somebody wants to see the weights.
    WeightsAreUsed,
}

fn keras_attention(twist: Twist) -> Vec<String> {
    let mut w = Write::new();
    let [q, k, v] = [(); 3].map(|()| w.input(&[2, 5, 3, 8]));
    let factor = w.number(0.3);
    let q = w.op("Mul", &[q, factor]);
    let mut scores = w.einsum("aecd,abcd->acbe", [k, q]);
    if let Twist::Mask(shape) = twist {
        let mask = w.weight(shape);
        scores = w.op("AddV2", &[scores, mask]);
    }
    if twist == Twist::ScaledMask {
        let mask = w.weight(&[5, 5]);
        scores = w.op("AddV2", &[scores, mask]);
        scores = w.op("Mul", &[scores, factor]);
    }
    let weights = w.op("Softmax", &[scores]);
    let y = w.einsum("acbe,aecd->abcd", [weights, v]);
    let outputs = if twist == Twist::WeightsAreUsed { vec![y, weights] } else { vec![y] };
    w.found(&outputs, 2e-6)
}

#[test]
fn attention_of_keras_is_recognised() {
    assert_eq!(keras_attention(Twist::None), ["_Attention"]);
    for shape in [&[5, 5][..], &[1, 1, 1, 5], &[2, 1, 5, 5], &[2, 3, 5, 1], &[]] {
        assert_eq!(keras_attention(Twist::Mask(shape)), ["_Attention"], "{shape:?}");
    }
    assert!(keras_attention(Twist::ScaledMask).is_empty());
    assert!(keras_attention(Twist::WeightsAreUsed).is_empty());
}

#[test]
fn a_mask_that_makes_more_of_the_scores_still_does() {
    let mut w = Write::new();
    let [q, k, v] = [(); 3].map(|()| w.input(&[1, 3, 5, 8]));
    let scores = w.b.op("BatchMatMulV2", &[q, k], &[("adj_y", attr::bool(true))]).unwrap();
    let mask = w.weight(&[4, 1, 5, 5]);
    let scores = w.op("AddV2", &[scores, mask]);
    let weights = w.op("Softmax", &[scores]);
    let y = w.op("BatchMatMulV2", &[weights, v]);
    assert_eq!(w.found(&[y], 2e-6), ["_Attention"]);
}

#[test]
fn attention_of_products_and_transpositions_is_recognised() {
    for adjoint in [false, true] {
        let mut w = Write::new();
        let [q, k, v] = [(); 3].map(|()| w.input(&[2, 5, 3, 8]));
        let q = w.transpose(q, &[0, 2, 1, 3]);
        let k = if adjoint { w.transpose(k, &[0, 2, 1, 3]) } else { w.transpose(k, &[0, 2, 3, 1]) };
        let v = w.transpose(v, &[0, 2, 1, 3]);
        let scores = w.b.op("BatchMatMulV2", &[q, k], &[("adj_y", attr::bool(adjoint))]).unwrap();
        let (root, mask) = (w.number(2.5), w.weight(&[1, 1, 1, 5]));
        let scores = w.op("RealDiv", &[scores, root]);
        let scores = w.op("AddV2", &[mask, scores]);
        let weights = w.op("Softmax", &[scores]);
        let y = w.op("BatchMatMulV2", &[weights, v]);
        let y = w.transpose(y, &[0, 2, 1, 3]);
        assert_eq!(w.found(&[y], 2e-6), ["_Attention"], "{adjoint}");
    }
}

#[test]
fn attention_whose_scores_lie_in_another_order_stays() {
    let mut w = Write::new();
    let [q, k, v] = [(); 3].map(|()| w.input(&[2, 5, 3, 8]));
    // The softmax is over the queries.
    let scores = w.einsum("aecd,abcd->aceb", [k, q]);
    let weights = w.op("Softmax", &[scores]);
    let y = w.einsum("aceb,aecd->abcd", [weights, v]);
    assert!(w.found(&[y], 0.0).is_empty());
}
