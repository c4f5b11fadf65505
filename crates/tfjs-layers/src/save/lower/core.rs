//! Dense layers, shapes, merges, scaling, and layers that do nothing when a model predicts.

use serde_json::{Value, json};
use tfjs_graph::Fact;

use super::{Outcome, Source, activation::dims, pieces};
use crate::{
    config::number,
    save::{
        Result,
        fragment::{Fragment, From},
        spelling,
    },
};

/// A layer that hands on its input when the model predicts.
pub(super) fn identity(source: &mut Source<'_>) -> Result<Outcome> {
    let mut f = Fragment::default();
    let dtype = |facts: &[Fact]| facts.first().and_then(|f| f.dtype);
    let x = match dtype(&source.inputs) == dtype(source.outputs) {
        true => f.function(From::Input(0), "linear"),
        // Integers become floats.
        false => f.rescale(From::Input(0), 1.0, 0.0),
    };
    Ok(Outcome::Replace(f.give(&[x])))
}

/// RandomCrop of Keras 2 cuts the middle out; that of Keras 3 hands its input on.
pub(super) fn random_crop(source: &mut Source<'_>) -> Result<Outcome> {
    let same = source.inputs.first().map(|f| &f.shape) == source.outputs.first().map(|f| &f.shape);
    if same && !source.outputs.is_empty() {
        return identity(source);
    }
    Ok(Outcome::Unsupported("TensorFlow.js has no such layer".into()))
}

/// SpatialDropout2D, SpatialDropout3D: whole maps are dropped.
pub(super) fn spatial_dropout(source: &mut Source<'_>) -> Result<Outcome> {
    let rank = source.inputs.first().and_then(Fact::rank).unwrap_or(4);
    let channels = if source.channels_last() { rank - 1 } else { 1 };
    let noise: Vec<Value> =
        (0..rank).map(|i| if i == 0 || i == channels { Value::Null } else { json!(1) }).collect();
    let get = |key: &str| source.config.get(key).cloned().unwrap_or_default();
    let config = json!({"rate": get("rate"), "noise_shape": noise, "seed": get("seed")});
    let mut f = Fragment::default();
    let x = f.add("dropout", "Dropout", config, &[From::Input(0)]);
    Ok(Outcome::Replace(f.give(&[x])))
}

/// Inputs: TF.js turns those of one axis into columns.
pub(super) fn input(source: &mut Source<'_>) -> Result<Outcome> {
    let dims = source.config.get("batch_input_shape").and_then(Value::as_array).map(Vec::len);
    Ok(match dims {
        Some(0 | 1) => Outcome::Unsupported("TensorFlow.js feeds inputs of two axes or more".into()),
        _ => Outcome::Keep,
    })
}

/// Layers whose weights TF.js takes only as numbers.
pub(super) fn plain_weights(source: &mut Source<'_>) -> Result<Outcome> {
    Ok(match source.config.get("dtype").is_some_and(spelling::is_quantized) {
        true => Outcome::Unsupported("TensorFlow.js has no layers with quantized arithmetic".into()),
        false => Outcome::Keep,
    })
}

/// Flatten: TF.js wants three axes at least.
pub(super) fn flatten(source: &mut Source<'_>) -> Result<Outcome> {
    if source.config.get("data_format").is_some_and(Value::is_null) {
        source.config.remove("data_format");
    }
    match source.inputs.first().and_then(Fact::rank) {
        Some(2) => identity(source),
        Some(1) => {
            let mut f = Fragment::default();
            let x = f.add("reshape", "Reshape", json!({"target_shape": [1]}), &[From::Input(0)]);
            Ok(Outcome::Replace(f.give(&[x])))
        }
        _ => Ok(Outcome::Keep),
    }
}

/// Concatenate: TF.js takes every negative axis for the last one.
pub(super) fn concatenate(source: &mut Source<'_>) -> Result<Outcome> {
    if source.masked {
        return Ok(Outcome::Unsupported("TensorFlow.js joins masks otherwise".into()));
    }
    let axis = source.config.get("axis").and_then(number).unwrap_or(-1.0);
    if let (true, Some(rank)) = (axis < 0.0, source.inputs.first().and_then(Fact::rank)) {
        source.config.insert("axis".to_owned(), (axis as i64 + rank as i64).into());
    }
    Ok(Outcome::Keep)
}

/// Merges, whose masks TF.js gets wrong.
pub(super) fn merge(source: &mut Source<'_>) -> Result<Outcome> {
    Ok(match source.masked {
        true => Outcome::Unsupported("TensorFlow.js joins masks otherwise".into()),
        false => Outcome::Keep,
    })
}

/// a − b = a + (−b)
pub(super) fn subtract(_source: &mut Source<'_>) -> Result<Outcome> {
    let mut f = Fragment::default();
    let minus = f.rescale(From::Input(1), -1.0, 0.0);
    let x = f.sum(&[From::Input(0), minus]);
    Ok(Outcome::Replace(f.give(&[x])))
}

pub(super) fn dot(source: &mut Source<'_>) -> Result<Outcome> {
    let large = source.inputs.iter().any(|f| f.rank().is_some_and(|r| r > 3));
    Ok(match large {
        true => Outcome::Unsupported("TensorFlow.js takes inputs of at most three axes".into()),
        false => Outcome::Keep,
    })
}

/// Rescaling by one number, or by one per channel.
pub(super) fn rescaling(source: &mut Source<'_>) -> Result<Outcome> {
    let list = |key: &str, default: f64| match source.config.get(key) {
        Some(Value::Array(items)) => items.iter().map(number).collect(),
        other => Some(vec![other.and_then(number).unwrap_or(default)]),
    };
    let (Some(scale), Some(offset)) = (list("scale", 1.0), list("offset", 0.0)) else {
        return Ok(Outcome::Unsupported("TensorFlow.js scales by one number only".into()));
    };
    if let (&[scale], &[offset]) = (scale.as_slice(), offset.as_slice()) {
        source.config.insert("scale".to_owned(), scale.into());
        source.config.insert("offset".to_owned(), offset.into());
        return Ok(Outcome::Keep);
    }
    let size = scale.len().max(offset.len());
    let wide =
        |v: &[f64]| -> Vec<f32> { (0..size).map(|i| v[if v.len() == 1 { 0 } else { i }] as f32).collect() };
    let mut f = Fragment::default();
    let (scale, offset) =
        (pieces::constant(&[size], wide(&scale))?, pieces::constant(&[size], wide(&offset))?);
    let x = f.affine(From::Input(0), Some(scale), Some(offset), size)?;
    Ok(Outcome::Replace(f.give(&[x])))
}

/// A product along named axes: a Dense layer between transpositions.
pub(super) fn einsum_dense(source: &mut Source<'_>) -> Result<Outcome> {
    if source.config.get("dtype").is_some_and(spelling::is_quantized) {
        return plain_weights(source);
    }
    let no = || {
        Outcome::Unsupported("its equation is not a product with a matrix, all that TensorFlow.js has".into())
    };
    let equation = source.text("equation").unwrap_or_default().replace(' ', "");
    let Some(((a, b), c)) = equation.split_once("->").and_then(|(ab, c)| Some((ab.split_once(',')?, c)))
    else {
        return Ok(no());
    };
    let Some(input) = dims(source.inputs.first()) else { return Ok(no()) };
    // Axes of an ellipsis get letters of their own.
    let spare: String = ('A'..='Z').filter(|l| !equation.contains(*l)).collect();
    let count = (input.len() + 1).saturating_sub(a.replace("...", "").len());
    let Some(ellipsis) = spare.get(..count) else { return Ok(no()) };
    let (a, c) = (a.replace("...", ellipsis), c.replace("...", ellipsis));
    let (a, b, c): (Vec<char>, Vec<char>, Vec<char>) =
        (a.chars().collect(), b.chars().collect(), c.chars().collect());
    let summed: Vec<char> = b.iter().copied().filter(|l| a.contains(l) && !c.contains(l)).collect();
    let fresh: Vec<char> = c.iter().copied().filter(|l| b.contains(l) && !a.contains(l)).collect();
    let kept: Vec<char> = a.iter().copied().filter(|l| !summed.contains(l)).collect();
    let fits = summed.len() + fresh.len() == b.len()
        && kept.iter().all(|l| c.contains(l) && !b.contains(l))
        && kept.len() + fresh.len() == c.len()
        && a.len() == input.len() + 1
        && a.first().is_some_and(|l| kept.first() == Some(l) && c.first() == Some(l))
        && !summed.is_empty();
    let Some(kernel) = source.weight("kernel").filter(|k| fits && k.shape().len() == b.len()).cloned() else {
        return Ok(no());
    };
    let size = |l: char| b.iter().position(|x| *x == l).map(|i| kernel.shape()[i]);
    let dim = |l: &char| a.iter().position(|x| x == l).and_then(|i| input[i - 1]).or_else(|| size(*l));
    let wide: usize = fresh.iter().filter_map(|&l| size(l)).product();
    let deep: usize = summed.iter().filter_map(|&l| size(l)).product();
    // The kernel with summed axes first.
    let order: Vec<usize> =
        summed.iter().chain(&fresh).filter_map(|l| b.iter().position(|x| x == l)).collect();
    let matrix =
        pieces::map(&kernel, vec![deep, wide], move |values, shape| transposed(values, shape, &order));
    let mut f = Fragment::default();
    let at = |letters: &[char], l: &char| letters.iter().position(|x| x == l).unwrap_or(0);
    let order: Vec<usize> = kept.iter().skip(1).chain(&summed).map(|l| at(&a, l)).collect();
    let mut x = f.permute(From::Input(0), &order);
    let kept_dims: Vec<Option<usize>> = kept.iter().skip(1).map(dim).collect();
    if summed.len() > 1 {
        let Some(y) = f.reshape(x, &[kept_dims.as_slice(), &[Some(deep)]].concat()) else { return Ok(no()) };
        x = y;
    }
    let mut weights = vec![("kernel".to_owned(), matrix)];
    if let Some(bias) = source.weight("bias").cloned() {
        let axes: Vec<char> = source.text("bias_axes").unwrap_or_default().chars().collect();
        if !axes.iter().all(|l| fresh.contains(l)) {
            return Ok(Outcome::Unsupported("its bias differs along axes of the input".into()));
        }
        let sizes: Vec<(usize, bool)> =
            fresh.iter().map(|l| (size(*l).unwrap_or(1), axes.contains(l))).collect();
        let bias = pieces::map(&bias, vec![wide], move |values, _| {
            (0..wide)
                .map(|mut flat| {
                    let (mut at, mut stride) = (0, 1);
                    for &(n, has) in sizes.iter().rev() {
                        if has {
                            at += (flat % n) * stride;
                            stride *= n;
                        }
                        flat /= n;
                    }
                    values[at]
                })
                .collect()
        });
        weights.push(("bias".to_owned(), bias));
    }
    let activation = source.config.get("activation").cloned().unwrap_or_default();
    let last = fresh.len() == 1 && c.last() == fresh.first();
    let inside = activation != "softmax" && activation != "log_softmax" || last;
    let config = json!({"units": wide, "use_bias": weights.len() > 1,
        "activation": if inside { activation.clone() } else { "linear".into() }});
    x = f.add_with("dense", "Dense", config, weights, &[x]);
    if fresh.len() != 1 {
        let fresh_dims: Vec<Option<usize>> = fresh.iter().map(|&l| size(l)).collect();
        let Some(y) = f.reshape(x, &[kept_dims, fresh_dims].concat()) else { return Ok(no()) };
        x = y;
    }
    let now: Vec<char> = kept.iter().chain(&fresh).copied().collect();
    let order: Vec<usize> = c.iter().skip(1).map(|l| at(&now, l)).collect();
    x = f.permute(x, &order);
    if !inside {
        x = f.add("softmax", "Activation", json!({"activation": activation}), &[x]);
    }
    Ok(Outcome::Replace(f.give(&[x])))
}

/// Values of a tensor with its axes in another order.
fn transposed(values: &[f32], shape: &[usize], order: &[usize]) -> Vec<f32> {
    let mut strides = vec![1; shape.len()];
    for i in (0..shape.len().saturating_sub(1)).rev() {
        strides[i] = strides[i + 1] * shape[i + 1];
    }
    let mut out = Vec::with_capacity(values.len());
    let mut index = vec![0usize; order.len()];
    for _ in 0..values.len() {
        out.push(values[index.iter().zip(order).map(|(i, &o)| i * strides[o]).sum::<usize>()]);
        for axis in (0..order.len()).rev() {
            index[axis] += 1;
            if index[axis] < shape[order[axis]] {
                break;
            }
            index[axis] = 0;
        }
    }
    out
}

/// CategoryEncoding: rows of a unit matrix, looked up; TF.js's own layer cannot stand in a model.
pub(super) fn category_encoding(source: &mut Source<'_>) -> Result<Outcome> {
    let no = |why: &str| Ok(Outcome::Unsupported(why.to_owned()));
    if source.layer.calls.iter().any(|c| c.tensors().len() != 1) {
        return no("TensorFlow.js takes no weights of counts");
    }
    let (Some(tokens), Some(input)) = (source.usize("num_tokens"), dims(source.inputs.first())) else {
        return no("its shape is not known");
    };
    let mut unit = vec![0.0; tokens * tokens];
    (0..tokens).for_each(|i| unit[i * tokens + i] = 1.0);
    let weights = vec![("embeddings".to_owned(), pieces::constant(&[tokens, tokens], unit)?)];
    let config = json!({"input_dim": tokens, "output_dim": tokens, "mask_zero": false, "trainable": false});
    let mut f = Fragment::default();
    let mut x = f.add_with("table", "Embedding", config, weights, &[From::Input(0)]);
    let out = dims(source.outputs.first());
    match source.text("output_mode").unwrap_or("multi_hot") {
        "one_hot" | "onehot" => {
            match out.and_then(|o| if o.len() == input.len() + 1 { Some(x) } else { f.reshape(x, &o) }) {
                Some(y) => x = y,
                None => return no("its shape is not known"),
            }
        }
        mode @ ("multi_hot" | "binary" | "count") => {
            if input.len() > 1 {
                return no("TensorFlow.js encodes one axis only");
            }
            if let [steps] = input.as_slice() {
                if mode == "count" {
                    let Some(steps) = steps else { return no("its shape is not known") };
                    x = f.add("mean", "GlobalAveragePooling1D", json!({}), &[x]);
                    x = f.rescale(x, *steps as f64, 0.0);
                } else {
                    x = f.add("any", "GlobalMaxPooling1D", json!({}), &[x]);
                }
            }
        }
        mode => return no(&format!("TensorFlow.js has no output mode `{mode}`")),
    }
    Ok(Outcome::Replace(f.give(&[x])))
}
