//! Convolution, pooling, padding, cropping, scaling.

use serde_json::{Value, json};
use tfjs_graph::Constant;

use super::{
    Outcome, Source,
    activation::dims,
    pieces::{self, Dims},
};
use crate::save::{
    Result,
    fragment::{Fragment, From},
};
use crate::{Dialect, layers::resample};

/// Numbers along `rank` axes: one stands for all.
fn sizes(source: &Source<'_>, key: &str, rank: usize, default: usize) -> Vec<usize> {
    let one = |v: &Value| v.as_u64().map(|n| n as usize);
    match source.config.get(key) {
        Some(Value::Array(items)) => {
            let list: Vec<usize> = items.iter().filter_map(one).collect();
            if list.len() == rank { list } else { vec![list.first().copied().unwrap_or(default); rank] }
        }
        other => vec![other.and_then(one).unwrap_or(default); rank],
    }
}

fn rank_of(class: &str) -> usize {
    class.chars().find(char::is_ascii_digit).and_then(|c| c.to_digit(10)).unwrap_or(2) as usize
}

fn unknown_shape() -> Outcome {
    Outcome::Unsupported(
        "TensorFlow.js lacks it, and its input shape is not known well enough for an equivalent".into(),
    )
}

/// Axes of space, counted without the batch.
fn spatial(source: &Source<'_>, rank: usize) -> std::ops::Range<usize> {
    if source.channels_last() { 0..rank } else { 1..rank + 1 }
}

/// Conv1D, Conv2D, Conv3D.
pub(super) fn conv(source: &mut Source<'_>) -> Result<Outcome> {
    let rank = rank_of(source.class);
    let groups = source.usize("groups").unwrap_or(1);
    let causal = source.text("padding") == Some("causal");
    let first = rank != 2 && !source.channels_last();
    source.config.remove("groups");
    if source.inputs.first().and_then(tfjs_graph::Fact::rank).is_some_and(|r| r != rank + 2) {
        return Ok(Outcome::Unsupported("TensorFlow.js takes one batch axis only".into()));
    }
    if bias_astray(source) {
        return Ok(astray());
    }
    if rank == 1 {
        source.config.remove("data_format");
    }
    if groups <= 1 && !causal && !first {
        return Ok(Outcome::Keep);
    }
    let Some(mut shape) = dims(source.inputs.first()) else { return Ok(unknown_shape()) };
    let mut f = Fragment::default();
    let mut x = From::Input(0);
    let (to_last, to_first) = channel_orders(rank);
    if first {
        x = f.permute(x, &to_last);
        shape.rotate_left(1);
        source.config.insert("data_format".to_owned(), "channels_last".into());
    }
    if causal {
        let Some(padded) = pad_causally(source, &mut f, x, &shape) else { return Ok(unknown_shape()) };
        x = padded;
    }
    if groups > 1 {
        source.change("kernel", |kernel| ungroup(kernel, groups));
    }
    x = f.add_source(source, x);
    if first {
        x = f.permute(x, &to_first);
    }
    Ok(Outcome::Replace(f.give(&[x])))
}

/// Whether Keras 3 added the bias along the last axis although channels come first: it does when that axis has as many
/// places as there are filters.
fn bias_astray(source: &Source<'_>) -> bool {
    let last = source.outputs.first().and_then(|f| f.shape.as_ref()?.last().copied().flatten());
    let filters = source.weight("bias").map(Constant::len);
    source.dialect == Dialect::Keras3
        && !source.channels_last()
        && filters.is_some_and(|n| n > 1 && Some(n) == last)
}

fn astray() -> Outcome {
    Outcome::Unsupported("Keras 3 adds its bias along the width, TensorFlow.js along the channels".into())
}

/// The orders of axes that move channels to the end and back.
fn channel_orders(rank: usize) -> (Vec<usize>, Vec<usize>) {
    ((2..=rank + 1).chain([1]).collect(), [rank + 1].into_iter().chain(1..=rank).collect())
}

/// Zeros before the first of `[steps, channels]`, so that no step sees a later one.
fn pad_causally(source: &mut Source<'_>, f: &mut Fragment, x: From, shape: &Dims) -> Option<From> {
    let (kernel, dilation) = (sizes(source, "kernel_size", 1, 1)[0], sizes(source, "dilation_rate", 1, 1)[0]);
    let pad = kernel.saturating_sub(1) * dilation;
    source.config.insert("padding".to_owned(), "valid".into());
    let padding = json!({"padding": [[0, 0], [pad, 0]]});
    f.on_axis(x, shape, 0, "ZeroPadding2D", padding, shape[0].map(|n| n + pad)).map(|(x, _)| x)
}

/// A kernel `[…, in / groups, out]` as `[…, in, out]` with zeros between groups.
fn ungroup(kernel: &Constant, groups: usize) -> Constant {
    let mut shape = kernel.shape().to_vec();
    let rank = shape.len();
    let (inner, out) = (shape[rank - 2], shape[rank - 1]);
    shape[rank - 2] = inner * groups;
    pieces::map(kernel, shape, move |values, _| {
        let per_group = out / groups.max(1);
        let mut all = vec![0.0; values.len() * groups];
        for (at, &value) in values.iter().enumerate() {
            let (place, o) = (at / out, at % out);
            let (tap, i) = (place / inner, place % inner);
            let group = o / per_group.max(1);
            all[(tap * inner * groups + group * inner + i) * out + o] = value;
        }
        all
    })
}

/// A kernel whose first `dilation.len()` axes are space, with zeros between its taps and `tail` zeros after them.
fn dilated(kernel: &Constant, dilation: &[usize], tail: &[usize]) -> Constant {
    let from = kernel.shape().to_vec();
    let n = dilation.len();
    let mut to = from.clone();
    for axis in 0..n {
        to[axis] = (from[axis].saturating_sub(1)) * dilation[axis] + 1 + tail[axis];
    }
    let (target, dilation) = (to.clone(), dilation.to_vec());
    pieces::map(kernel, to, move |values, _| {
        let inner: usize = from[n..].iter().product();
        let mut out = vec![0.0; target.iter().product()];
        for (tap, chunk) in values.chunks(inner.max(1)).enumerate() {
            let (mut rest, mut place, mut stride) = (tap, 0, 1);
            for axis in (0..n).rev() {
                place += (rest % from[axis]) * dilation[axis] * stride;
                rest /= from[axis];
                stride *= target[axis];
            }
            out[place * inner..place * inner + chunk.len()].copy_from_slice(chunk);
        }
        out
    })
}

/// DepthwiseConv2D, whose dilation TF.js ignores.
pub(super) fn depthwise(source: &mut Source<'_>) -> Result<Outcome> {
    if bias_astray(source) {
        return Ok(astray());
    }
    let dilation = sizes(source, "dilation_rate", 2, 1);
    if dilation == [1, 1] {
        return Ok(Outcome::Keep);
    }
    source.change("depthwise_kernel", |k| dilated(k, &dilation, &[0, 0]));
    let mut config = source.config.clone();
    let kernel = sizes(source, "kernel_size", 2, 1);
    config.insert(
        "kernel_size".to_owned(),
        json!(kernel.iter().zip(&dilation).map(|(k, d)| k.saturating_sub(1) * d + 1).collect::<Vec<_>>()),
    );
    config.insert("dilation_rate".to_owned(), json!([1, 1]));
    let mut f = Fragment::default();
    let x =
        f.add_with("depthwise", "DepthwiseConv2D", config.into(), source.weights.clone(), &[From::Input(0)]);
    Ok(Outcome::Replace(f.give(&[x])))
}

/// SeparableConv2D: TF.js refuses options of the kernel that it does not have, and adds the bias along the wrong axis
/// when channels come first.
pub(super) fn separable(source: &mut Source<'_>) -> Result<Outcome> {
    drop_kernel_options(source);
    if bias_astray(source) {
        return Ok(astray());
    }
    let dilation = sizes(source, "dilation_rate", 2, 1);
    if dilation != [1, 1] {
        // TF.js takes either strides or dilation.
        source.change("depthwise_kernel", |k| dilated(k, &dilation, &[0, 0]));
        let kernel = sizes(source, "kernel_size", 2, 1);
        let size: Vec<usize> =
            kernel.iter().zip(&dilation).map(|(k, d)| k.saturating_sub(1) * d + 1).collect();
        source.config.insert("kernel_size".to_owned(), json!(size));
        source.config.insert("dilation_rate".to_owned(), json!([1, 1]));
        if source.channels_last() {
            let mut f = Fragment::default();
            let x = f.add_source(source, From::Input(0));
            return Ok(Outcome::Replace(f.give(&[x])));
        }
    }
    if source.channels_last() {
        return Ok(Outcome::Keep);
    }
    let mut f = Fragment::default();
    let x = f.permute(From::Input(0), &[2, 3, 1]);
    source.config.insert("data_format".to_owned(), "channels_last".into());
    let x = f.add_source(source, x);
    let x = f.permute(x, &[3, 1, 2]);
    Ok(Outcome::Replace(f.give(&[x])))
}

fn drop_kernel_options(source: &mut Source<'_>) {
    for key in ["kernel_initializer", "kernel_regularizer", "kernel_constraint", "groups"] {
        source.config.remove(key);
    }
}

/// SeparableConv1D, DepthwiseConv1D, Conv1DTranspose: with a second axis of size 1.
pub(super) fn one_dimensional(source: &mut Source<'_>) -> Result<Outcome> {
    if bias_astray(source) {
        return Ok(astray());
    }
    let Some(mut shape) = dims(source.inputs.first()) else { return Ok(unknown_shape()) };
    let class = match source.class {
        "SeparableConv1D" => "SeparableConv2D",
        "DepthwiseConv1D" => "DepthwiseConv2D",
        _ => "Conv2DTranspose",
    };
    let first = !source.channels_last();
    let mut f = Fragment::default();
    let mut x = From::Input(0);
    if first {
        x = f.permute(x, &[2, 1]);
        shape.swap(0, 1);
    }
    let (kernel, strides) = (sizes(source, "kernel_size", 1, 1)[0], sizes(source, "strides", 1, 1)[0]);
    let dilation = sizes(source, "dilation_rate", 1, 1)[0];
    if source.text("padding") == Some("causal") {
        let Some(padded) = pad_causally(source, &mut f, x, &shape) else { return Ok(unknown_shape()) };
        x = padded;
        shape[0] = None;
    }
    let Some(y) = f.reshape(x, &[shape[0], Some(1), shape[1]]) else { return Ok(unknown_shape()) };
    if class == "Conv2DTranspose" {
        source.change("kernel", widened);
        let padding = source
            .config
            .get("output_padding")
            .filter(|v| !v.is_null())
            .map(|v| v.get(0).unwrap_or(v).clone());
        let set = [
            ("kernel_size", json!([kernel, 1])),
            ("strides", json!([strides, 1])),
            ("dilation_rate", json!([dilation, 1])),
            ("output_padding", padding.map_or(Value::Null, |p| json!([p, 0]))),
        ];
        source.config.extend(set.map(|(k, v)| (k.to_owned(), v)));
        // A width of 1 stays 1, whatever the padding.
    } else {
        for name in ["depthwise_kernel", "pointwise_kernel"] {
            source.change(name, widened);
        }
        drop_kernel_options(source);
        let mut dilation = dilation;
        let mut kernel = kernel;
        if dilation > 1 {
            source.change("depthwise_kernel", |k| dilated(k, &[dilation, 1], &[0, 0]));
            kernel = kernel.saturating_sub(1) * dilation + 1;
            dilation = 1;
        }
        let set = [
            ("kernel_size", json!([kernel, 1])),
            ("strides", json!([strides, strides])),
            ("dilation_rate", json!([dilation, dilation])),
        ];
        source.config.extend(set.map(|(k, v)| (k.to_owned(), v)));
    }
    source.config.insert("data_format".to_owned(), "channels_last".into());
    let mut y = if class == "Conv2DTranspose" {
        transposed(source, &mut f, y, class, 2, None)
    } else {
        Some(f.add_with("conv", class, source.config.clone().into(), source.weights.clone(), &[y]))
    };
    let out = dims(source.outputs.first());
    let channels = out.as_ref().and_then(|o| o.get(if first { 0 } else { 1 }).copied().flatten());
    let steps = out.as_ref().and_then(|o| o.get(if first { 1 } else { 0 }).copied().flatten());
    y = y.and_then(|y| f.reshape(y, &[steps, channels]));
    let Some(mut y) = y else { return Ok(unknown_shape()) };
    if first {
        y = f.permute(y, &[2, 1]);
    }
    Ok(Outcome::Replace(f.give(&[y])))
}

/// `[k, …]` as `[k, 1, …]`.
fn widened(kernel: &Constant) -> Constant {
    let mut shape = kernel.shape().to_vec();
    shape.insert(1, 1);
    pieces::reshaped(kernel, shape)
}

/// Conv2DTranspose, Conv3DTranspose: `dilation_rate` and `output_padding`, which TF.js ignores.
pub(super) fn transpose(source: &mut Source<'_>) -> Result<Outcome> {
    let rank = rank_of(source.class);
    source.config.remove("groups");
    let padding = source.config.get("output_padding").is_none_or(Value::is_null);
    let (kernel, strides) = (sizes(source, "kernel_size", rank, 1), sizes(source, "strides", rank, 1));
    if bias_astray(source) {
        return Ok(astray());
    }
    if padding && kernel.iter().zip(&strides).all(|(k, s)| k <= s) {
        // The same result, and one that TF.js gets right.
        source.config.insert("padding".to_owned(), "valid".into());
    }
    if sizes(source, "dilation_rate", rank, 1).iter().all(|&d| d == 1) && padding {
        source.config.remove("output_padding");
        source.config.remove("dilation_rate");
        return Ok(Outcome::Keep);
    }
    let mut f = Fragment::default();
    let class = source.class.to_owned();
    let shape = dims(source.outputs.first());
    Ok(match transposed(source, &mut f, From::Input(0), &class, rank, shape) {
        Some(x) => Outcome::Replace(f.give(&[x])),
        None => unknown_shape(),
    })
}

fn transposed(
    source: &mut Source<'_>,
    f: &mut Fragment,
    x: From,
    class: &str,
    rank: usize,
    out: Option<Dims>,
) -> Option<From> {
    let dilation = sizes(source, "dilation_rate", rank, 1);
    let strides = sizes(source, "strides", rank, 1);
    let kernel: Vec<usize> = sizes(source, "kernel_size", rank, 1)
        .iter()
        .zip(&dilation)
        .map(|(k, d)| k.saturating_sub(1) * d + 1)
        .collect();
    let extra = source.config.get("output_padding").filter(|v| !v.is_null()).is_some();
    let same = source.text("padding") == Some("same");
    let mut crops = vec![(0, 0); rank];
    let mut tail = vec![0; rank];
    if extra {
        let extra = sizes(source, "output_padding", rank, 0);
        for axis in 0..rank {
            let (k, s, p) = (kernel[axis] as i64, strides[axis] as i64, extra[axis] as i64);
            // Keras cuts what the whole convolution gives beyond (L − 1)·s + k − 2·⌊k/2⌋ + p steps.
            let cut = if same { 2 * (k / 2) - p } else { -p };
            let before = cut.max(0) / 2;
            let after = |k: i64| k.max(s) - k + cut - before + (k - kernel[axis] as i64);
            let mut grown = 0;
            while after(k + grown) < 0 && grown <= p {
                grown += 1;
            }
            tail[axis] = grown as usize;
            crops[axis] = (before, after(k + grown));
        }
        source.config.insert("padding".to_owned(), "valid".into());
    }
    if crops.iter().any(|&(_, after)| after < 0) {
        return None;
    }
    if dilation.iter().any(|&d| d > 1) || tail.iter().any(|&t| t > 0) {
        source.change("kernel", |k| dilated(k, &dilation, &tail));
    }
    let size: Vec<usize> = kernel.iter().zip(&tail).map(|(k, t)| k + t).collect();
    source.config.insert("kernel_size".to_owned(), json!(size));
    source.config.insert("dilation_rate".to_owned(), json!(vec![1; rank]));
    source.config.remove("output_padding");
    let mut x = f.add_with("conv", class, source.config.clone().into(), source.weights.clone(), &[x]);
    if crops.iter().all(|&c| c == (0, 0)) {
        return Some(x);
    }
    if rank == 2 {
        let format = source.text("data_format").unwrap_or("channels_last").to_owned();
        let cropping: Vec<[i64; 2]> = crops.iter().map(|&(a, b)| [a, b]).collect();
        return Some(f.add("crop", "Cropping2D", json!({"cropping": cropping, "data_format": format}), &[x]));
    }
    let mut shape = out?;
    let axes = spatial(source, rank);
    for (axis, (a, b)) in axes.clone().zip(&crops) {
        shape[axis] = shape[axis].map(|n| n + (*a + *b) as usize);
    }
    for (axis, (a, b)) in axes.zip(crops) {
        let to = shape[axis].map(|n| n - (a + b) as usize);
        let cropping = json!({"cropping": [[0, 0], [a, b]]});
        (x, shape) = f.on_axis(x, &shape, axis, "Cropping2D", cropping, to)?;
    }
    Some(x)
}

/// Pairs along axes: n, [a, b] for one axis, [a, b, c] the same on both sides, [[a, b], …].
fn pairs(value: Option<&Value>, rank: usize) -> Option<Vec<(usize, usize)>> {
    let one = |v: &Value| v.as_u64().map(|n| n as usize);
    match value? {
        Value::Array(items) if rank == 1 && items.len() == 2 && items[0].is_number() => {
            Some(vec![(one(&items[0])?, one(&items[1])?)])
        }
        Value::Array(items) => {
            let items = items.iter().map(|v| match v {
                Value::Array(pair) => Some((one(pair.first()?)?, one(pair.get(1)?)?)),
                v => Some((one(v)?, one(v)?)),
            });
            items.collect::<Option<Vec<_>>>().filter(|p| p.len() == rank)
        }
        v => Some(vec![(one(v)?, one(v)?); rank]),
    }
}

/// ZeroPadding1D/3D, Cropping1D/3D, UpSampling1D/3D: axis by axis with the layers of two dimensions.
pub(super) fn axis_by_axis(source: &mut Source<'_>) -> Result<Outcome> {
    let rank = rank_of(source.class);
    let Some(mut shape) = dims(source.inputs.first()) else { return Ok(unknown_shape()) };
    let mut f = Fragment::default();
    let mut x = From::Input(0);
    let up = source.class.starts_with("UpSampling");
    let factors = sizes(source, "size", rank, 2);
    let key = if source.class.starts_with("Zero") { "padding" } else { "cropping" };
    let one = json!(1);
    let amounts = pairs(source.config.get(key).or(Some(&one)), rank).unwrap_or_else(|| vec![(0, 0); rank]);
    let mut axes: Vec<usize> = spatial(source, rank).collect();
    if rank == 1 && source.config.get("data_format").is_none_or(Value::is_null) {
        axes = vec![0];
    }
    for (i, &axis) in axes.iter().enumerate() {
        let (a, b) = amounts[i];
        if (up && factors[i] == 1) || (!up && (a, b) == (0, 0)) {
            continue;
        }
        let n = shape[axis];
        let (class, config, to) = match (up, key) {
            (true, _) => (
                "UpSampling2D",
                json!({"size": [1, factors[i]], "interpolation": "nearest", "data_format": "channels_last"}),
                n.map(|n| n * factors[i]),
            ),
            (_, "padding") => (
                "ZeroPadding2D",
                json!({"padding": [[0, 0], [a, b]], "data_format": "channels_last"}),
                n.map(|n| n + a + b),
            ),
            _ => (
                "Cropping2D",
                json!({"cropping": [[0, 0], [a, b]], "data_format": "channels_last"}),
                n.map(|n| n.saturating_sub(a + b)),
            ),
        };
        match f.on_axis(x, &shape, axis, class, config, to) {
            Some((y, s)) => (x, shape) = (y, s),
            None => return Ok(unknown_shape()),
        }
    }
    if x == From::Input(0) {
        x = f.function(x, "linear");
    }
    Ok(Outcome::Replace(f.give(&[x])))
}

/// UpSampling2D: TF.js takes a list as size, and interpolates on another grid than Keras.
pub(super) fn up_sampling(source: &mut Source<'_>) -> Result<Outcome> {
    let size = sizes(source, "size", 2, 2);
    source.config.insert("size".to_owned(), json!(size));
    let method = source.text("interpolation").unwrap_or("nearest").to_owned();
    if source.dialect == Dialect::Tfjs {
        return Ok(Outcome::Keep);
    }
    if method == "nearest" || size == [1, 1] {
        source.config.insert("interpolation".to_owned(), "nearest".into());
        return Ok(Outcome::Keep);
    }
    let Some(shape) = dims(source.inputs.first()) else { return Ok(unknown_shape()) };
    let mut f = Fragment::default();
    let mut x = From::Input(0);
    for (i, axis) in spatial(source, 2).enumerate() {
        let Some(n) = shape[axis] else { return Ok(unknown_shape()) };
        let Some(matrix) = resize_matrix(&method, n, n.saturating_mul(size[i]), false) else {
            return Ok(Outcome::Unsupported(format!("TensorFlow.js has no interpolation `{method}`")));
        };
        x = f.along_axis(x, shape.len(), axis, &matrix, n * size[i])?;
    }
    Ok(Outcome::Replace(f.give(&[x])))
}

/// Resizing, which TF.js cannot run inside a model.
pub(super) fn resizing(source: &mut Source<'_>) -> Result<Outcome> {
    let Some(shape) = dims(source.inputs.first()) else { return Ok(unknown_shape()) };
    let (Some(height), Some(width)) = (source.usize("height"), source.usize("width")) else {
        return Ok(unknown_shape());
    };
    let antialias = source.config.get("antialias").and_then(Value::as_bool).unwrap_or(false);
    for key in ["crop_to_aspect_ratio", "pad_to_aspect_ratio"] {
        if source.config.get(key).and_then(Value::as_bool).unwrap_or(false) {
            return Ok(Outcome::Unsupported(format!("TensorFlow.js has no `{key}`")));
        }
    }
    let method = source.text("interpolation").unwrap_or("bilinear").to_owned();
    let mut f = Fragment::default();
    let mut x = From::Input(0);
    for (axis, to) in spatial(source, 2).zip([height, width]) {
        let Some(n) = shape.get(axis).copied().flatten() else { return Ok(unknown_shape()) };
        let Some(matrix) = resize_matrix(&method, n, to, antialias) else {
            return Ok(Outcome::Unsupported(format!("TensorFlow.js has no interpolation `{method}`")));
        };
        x = f.along_axis(x, shape.len(), axis, &matrix, to)?;
    }
    Ok(Outcome::Replace(f.give(&[x])))
}

/// `[to, from]`: how each new place is a mean of old ones, with centres of pixels at halves.
fn resize_matrix(method: &str, from: usize, to: usize, antialias: bool) -> Option<Vec<f32>> {
    if from == 0 || to == 0 {
        return None;
    }
    let mut matrix = vec![0.0; to.checked_mul(from)?];
    let scale = from as f32 / to as f32;
    for o in 0..to {
        let row = &mut matrix[o * from..(o + 1) * from];
        match method {
            "nearest" => row[(((o as f32 + 0.5) * scale).floor() as usize).min(from - 1)] = 1.0,
            "bilinear" if !antialias => {
                let at = (o as f32 + 0.5) * scale - 0.5;
                let low = at.floor();
                let part = at - low;
                let clamp = |x: f32| (x.max(0.0) as usize).min(from - 1);
                row[clamp(low)] += 1.0 - part;
                row[clamp(low + 1.0)] += part;
            }
            _ => return resample::matrix(method, from, to, antialias),
        }
    }
    Some(matrix)
}

/// CenterCrop, whose shapes TF.js gets wrong.
pub(super) fn center_crop(source: &mut Source<'_>) -> Result<Outcome> {
    let Some(shape) = dims(source.inputs.first()) else { return Ok(unknown_shape()) };
    let mut crops = Vec::new();
    for (axis, key) in spatial(source, 2).zip(["height", "width"]) {
        let (Some(n), Some(to)) = (shape.get(axis).copied().flatten(), source.usize(key)) else {
            return Ok(unknown_shape());
        };
        let Some(cut) = n.checked_sub(to) else {
            return Ok(Outcome::Unsupported("it enlarges its input, which TensorFlow.js cannot".into()));
        };
        crops.push([cut / 2, cut - cut / 2]);
    }
    let format = if source.channels_last() { "channels_last" } else { "channels_first" };
    let mut f = Fragment::default();
    let x = f.add("crop", "Cropping2D", json!({"cropping": crops, "data_format": format}), &[From::Input(0)]);
    Ok(Outcome::Replace(f.give(&[x])))
}

/// MaxPooling1D, AveragePooling1D: TF.js knows no `data_format` there.
pub(super) fn pooling(source: &mut Source<'_>) -> Result<Outcome> {
    let rank = rank_of(source.class);
    for key in ["pool_size", "strides"] {
        if source.config.get(key).is_some_and(|v| !v.is_null()) {
            let list = sizes(source, key, rank, 2);
            source.config.insert(key.to_owned(), json!(list));
        }
    }
    if rank != 1 || source.channels_last() {
        return Ok(Outcome::Keep);
    }
    source.config.remove("data_format");
    let mut f = Fragment::default();
    let x = f.permute(From::Input(0), &[2, 1]);
    let x = f.add_source(source, x);
    let x = f.permute(x, &[2, 1]);
    Ok(Outcome::Replace(f.give(&[x])))
}

/// Global pooling: `keepdims`, three dimensions, channels first in one dimension, masks.
pub(super) fn global_pooling(source: &mut Source<'_>) -> Result<Outcome> {
    let rank = rank_of(source.class);
    let average = source.class.contains("Average");
    if rank == 1 && average && (source.masked || source.has_kwarg("mask")) {
        return Ok(Outcome::Unsupported("TensorFlow.js counts masked steps too".into()));
    }
    let keep = source.config.get("keepdims").and_then(Value::as_bool).unwrap_or(false);
    source.config.remove("keepdims");
    let last = source.channels_last();
    if !keep && rank == 2 || !keep && rank == 1 && last {
        return Ok(Outcome::Keep);
    }
    let mut f = Fragment::default();
    let mut x = From::Input(0);
    if rank == 2 {
        x = f.add_source(source, x);
    } else {
        let shape = dims(source.inputs.first()).unwrap_or_default();
        let channels = shape.get(if last { rank } else { 0 }).copied().flatten();
        if rank == 3 {
            let Some(channels) = channels else { return Ok(unknown_shape()) };
            let flat = if last { [None, Some(channels)] } else { [Some(channels), None] };
            let Some(y) = f.reshape(x, &flat) else { return Ok(unknown_shape()) };
            x = y;
        }
        if !last {
            x = f.permute(x, &[2, 1]);
        }
        let class = if average { "GlobalAveragePooling1D" } else { "GlobalMaxPooling1D" };
        x = f.add("pool", class, json!({"data_format": "channels_last"}), &[x]);
    }
    if keep {
        let Some(y) = dims(source.outputs.first()).and_then(|out| f.reshape(x, &out)) else {
            return Ok(unknown_shape());
        };
        x = y;
    }
    Ok(Outcome::Replace(f.give(&[x])))
}

/// Adaptive pooling: an average is a matrix along each axis; a maximum needs windows of one size.
pub(super) fn adaptive_pooling(source: &mut Source<'_>) -> Result<Outcome> {
    let rank = rank_of(source.class);
    let Some(shape) = dims(source.inputs.first()) else { return Ok(unknown_shape()) };
    let wanted = sizes(source, "output_size", rank, 1);
    let axes: Vec<usize> = spatial(source, rank).collect();
    let mut f = Fragment::default();
    let mut x = From::Input(0);
    if source.class.contains("Average") {
        for (&axis, &to) in axes.iter().zip(&wanted) {
            let Some(n) = shape[axis] else { return Ok(unknown_shape()) };
            let mut matrix = vec![0.0; to * n];
            for o in 0..to {
                let (begin, end) = (o * n / to, ((o + 1) * n).div_ceil(to));
                for i in begin..end {
                    matrix[o * n + i] = 1.0 / (end - begin) as f32;
                }
            }
            x = f.along_axis(x, shape.len(), axis, &matrix, to)?;
        }
        return Ok(Outcome::Replace(f.give(&[x])));
    }
    let mut windows = Vec::new();
    for (&axis, &to) in axes.iter().zip(&wanted) {
        match shape[axis] {
            Some(n) if to > 0 && n % to == 0 => windows.push(n / to),
            _ => {
                return Ok(Outcome::Unsupported(
                    "its windows are not all of one size, as TensorFlow.js needs".into(),
                ));
            }
        }
    }
    let first = !source.channels_last();
    let mut order: Vec<usize> = (2..=rank + 1).collect();
    order.push(1);
    if first {
        x = f.permute(x, &order);
    }
    let class = ["MaxPooling1D", "MaxPooling2D", "MaxPooling3D"][rank - 1];
    x = f.add("pool", class, json!({"pool_size": windows, "strides": windows, "padding": "valid"}), &[x]);
    if first {
        let back: Vec<usize> = [rank + 1].into_iter().chain(1..=rank).collect();
        x = f.permute(x, &back);
    }
    Ok(Outcome::Replace(f.give(&[x])))
}
