//! Activations, normalizations, pooling, convolutions and operations on images.

use serde_json::{Map, Value};
use tfjs_graph::{Port, builder::attr};
use tfjs_kernels::DType;

use super::args::{Args, NAMED, wrong};
use super::{Result, Row, layer, one, reduction};
use crate::{Activation, Emit, LayersError, activations, topology::Arg};

pub(super) const OPS: &[Row] = &[
    ("linear", |g, a| one(a.x(g))),
    ("relu", |g, a| activation(g, a, "relu")),
    ("relu6", |g, a| activation(g, a, "relu6")),
    ("re_lu", |g, a| activation(g, a, "relu")),
    ("sigmoid", |g, a| activation(g, a, "sigmoid")),
    ("sparse_sigmoid", |g, a| activation(g, a, "sparse_sigmoid")),
    ("softplus", |g, a| activation(g, a, "softplus")),
    ("softsign", |g, a| activation(g, a, "softsign")),
    ("soft_shrink", |g, a| activation(g, a, "soft_shrink")),
    ("sparse_plus", |g, a| activation(g, a, "sparse_plus")),
    ("silu", |g, a| activation(g, a, "silu")),
    ("swish", |g, a| activation(g, a, "silu")),
    ("squareplus", |g, a| activation(g, a, "squareplus")),
    ("log_sigmoid", |g, a| activation(g, a, "log_sigmoid")),
    ("leaky_relu", |g, a| activation(g, a, "leaky_relu")),
    ("hard_sigmoid", |g, a| activation(g, a, "hard_sigmoid")),
    ("hard_silu", |g, a| activation(g, a, "hard_silu")),
    ("elu", |g, a| activation(g, a, "elu")),
    ("selu", |g, a| activation(g, a, "selu")),
    ("gelu", |g, a| activation(g, a, "gelu")),
    ("celu", |g, a| activation(g, a, "celu")),
    ("glu", |g, a| activation(g, a, "glu")),
    ("mish", |g, a| activation(g, a, "mish")),
    ("exponential", |g, a| activation(g, a, "exponential")),
    ("tanh_shrink", |g, a| activation(g, a, "tanh_shrink")),
    ("hard_tanh", |g, a| activation(g, a, "hard_tanh")),
    ("hard_shrink", |g, a| activation(g, a, "hard_shrink")),
    ("threshold", |g, a| activation(g, a, "threshold")),
    ("sparsemax", |g, a| activation(g, a, "sparsemax")),
    ("softmax", |g, a| {
        let x = a.float_x(g)?;
        // No axis means all of them in Keras 3, the last in TensorFlow.
        let axes = match a.axes_of(g, x)? {
            Some(axes) => axes,
            None if a.get(NAMED, &["name"]).is_some() && g.dialect == crate::Dialect::Keras3 => {
                (0..g.rank(x)?).collect()
            }
            None => vec![g.axis(x, -1)?],
        };
        one(crate::layers::activation::softmax_over(g, x, &axes))
    }),
    ("log_softmax", |g, a| {
        let x = a.float_x(g)?;
        let axis = a.axis_of(g, x, -1)?;
        if axis + 1 == g.rank(x)? {
            return one(g.unary("LogSoftmax", x));
        }
        let sum = reduction::log_sum_exp(g, x, &[axis], true)?;
        one(g.sub(x, sum))
    }),
    ("normalize", |g, a| {
        let x = a.float_x(g)?;
        let axis = a.axis_of(g, x, -1)?;
        let order = a.float(NAMED, &["order"])?.unwrap_or(2.0) as f32;
        let epsilon = a.float(NAMED, &["epsilon"])?.unwrap_or(1e-7) as f32;
        if order == 2.0 {
            let square = g.unary("Square", x)?;
            let sum = g.reduce("Sum", square, &[axis], true)?;
            let least = g.scalar(epsilon * epsilon);
            let sum = g.op("Maximum", &[sum, least], &[])?;
            let factor = g.unary("Rsqrt", sum)?;
            return one(g.mul(x, factor));
        }
        let norm = super::linalg::vector_norm(g, x, order, axis, true)?;
        let least = g.scalar(epsilon);
        let norm = g.op("Maximum", &[norm, least], &[])?;
        one(g.div(x, norm))
    }),
    ("rms_norm", |g, a| {
        let x = a.float_x(g)?;
        let axes = last_axes(g, a, x)?;
        let square = g.unary("Square", x)?;
        let mean = g.reduce("Mean", square, &axes, true)?;
        let y = scaled(g, a, x, mean)?;
        one(with_scale(g, a, y, 1, &["scale"], "Mul"))
    }),
    ("layer_norm", |g, a| {
        let x = a.float_x(g)?;
        let axes = last_axes(g, a, x)?;
        let mean = g.reduce("Mean", x, &axes, true)?;
        let spread = reduction::spread(g, x, &axes, true)?;
        let centred = g.sub(x, mean)?;
        let y = scaled(g, a, centred, spread)?;
        let y = with_scale(g, a, y, 1, &["gamma"], "Mul")?;
        one(with_scale(g, a, y, 2, &["beta"], "AddV2"))
    }),
    ("batch_norm", |g, a| {
        let x = a.float_x(g)?;
        let axis = a.axis_of(g, x, -1)?;
        let rank = g.rank(x)?;
        let mut along = |position, names: &[&str]| -> Result<Option<Port>> {
            let Some(mut v) = a.opt_tensor(g, position, names, DType::Float32)? else { return Ok(None) };
            for _ in axis + 1..rank {
                let last = g.rank(v)?;
                v = g.expand_dims(v, last)?;
            }
            Ok(Some(v))
        };
        let missing = || wrong(&["mean"], "it is missing");
        let mean = along(1, &["mean"])?.ok_or_else(missing)?;
        let variance = along(2, &["variance"])?.ok_or_else(missing)?;
        let (offset, scale) = (along(NAMED, &["offset", "beta"])?, along(NAMED, &["scale", "gamma"])?);
        let epsilon = a.float(NAMED, &["epsilon", "variance_epsilon"])?.unwrap_or(1e-3) as f32;
        let variance = g.offset(variance, epsilon)?;
        let mut factor = g.unary("Rsqrt", variance)?;
        if let Some(scale) = scale {
            factor = g.mul(factor, scale)?;
        }
        let centred = g.sub(x, mean)?;
        let y = g.mul(centred, factor)?;
        one(match offset {
            Some(offset) => g.add(y, offset),
            None => Ok(y),
        })
    }),
    ("max_pool", |g, a| pool(g, a, "Max")),
    ("average_pool", |g, a| pool(g, a, "Average")),
    ("adaptive_max_pool", |g, a| adaptive(g, a, "AdaptiveMax")),
    ("adaptive_average_pool", |g, a| adaptive(g, a, "AdaptiveAverage")),
    ("conv", |g, a| one(conv(g, a, false))),
    ("depthwise_conv", |g, a| one(conv(g, a, true))),
    ("depth_to_space", |g, a| one(depth_space(g, a, "DepthToSpace"))),
    ("space_to_depth", |g, a| one(depth_space(g, a, "SpaceToDepth"))),
    ("rgb_to_grayscale", |g, a| {
        let x = a.x(g)?;
        let last = g.axis(x, if channels_last(a)? { -1 } else { -3 })?;
        let mut weights = g.floats(&[0.2989, 0.5870, 0.1140]);
        for _ in last + 1..g.rank(x)? {
            let end = g.rank(weights)?;
            weights = g.expand_dims(weights, end)?;
        }
        let x = g.cast(x, DType::Float32)?;
        let product = g.mul(x, weights)?;
        one(g.reduce("Sum", product, &[last], true))
    }),
    ("resize", |g, a| {
        let x = a.x(g)?;
        let size = a.ints(1, &["size"])?.ok_or_else(|| wrong(&["size"], "it is missing"))?;
        let (height, width) = match size.as_slice() {
            [n] => (*n, *n),
            [h, w] => (*h, *w),
            _ => return Err(wrong(&["size"], "it is no pair of sizes")),
        };
        let mut config = options(
            a,
            &[
                "interpolation",
                "antialias",
                "crop_to_aspect_ratio",
                "pad_to_aspect_ratio",
                "fill_mode",
                "fill_value",
                "data_format",
            ],
        );
        if let Some(method) = a.text(NAMED, &["method"])? {
            config.insert("interpolation".to_owned(), method.into());
        }
        config.insert("height".to_owned(), height.into());
        config.insert("width".to_owned(), width.into());
        let wide = if g.rank(x)? == 3 { g.expand_dims(x, 0)? } else { x };
        let outputs = layer(g, "Resizing", Value::Object(config), &[wide])?;
        match outputs.first() {
            Some(&y) if wide != x => one(g.squeeze(y, &[0])),
            _ => Ok(outputs),
        }
    }),
    ("pad_images", |g, a| one(frame(g, a, true))),
    ("crop_images", |g, a| one(frame(g, a, false))),
    ("dot_product_attention", |g, a| one(attention(g, a))),
    ("binary_crossentropy", |g, a| {
        let (t, p) = cross_entropy_args(g, a)?;
        let logits = a.bool(NAMED, &["from_logits"], false)?;
        let one_ = g.scalar(1.0);
        let (yes, no) = if logits {
            let no = g.unary("Neg", p)?;
            (activations::log_sigmoid(g, p)?, activations::log_sigmoid(g, no)?)
        } else {
            let p = activations::clip(g, p, 1e-7, 1.0 - 1e-7)?;
            let rest = g.sub(one_, p)?;
            (g.unary("Log", p)?, g.unary("Log", rest)?)
        };
        let other = g.sub(one_, t)?;
        let (yes, no) = (g.mul(t, yes)?, g.mul(other, no)?);
        let sum = g.add(yes, no)?;
        one(g.unary("Neg", sum))
    }),
    ("categorical_crossentropy", |g, a| {
        let (t, p) = cross_entropy_args(g, a)?;
        let axis = a.axis_of(g, p, -1)?;
        let log = log_probabilities(g, a, p, axis)?;
        let product = g.mul(t, log)?;
        let sum = g.reduce("Sum", product, &[axis], false)?;
        one(g.unary("Neg", sum))
    }),
    ("sparse_categorical_crossentropy", |g, a| {
        let (t, p) = cross_entropy_args(g, a)?;
        let axis = a.axis_of(g, p, -1)?;
        let log = log_probabilities(g, a, p, axis)?;
        let classes = g.known_dim(p, axis, "number of classes")?;
        let t = g.cast(t, DType::Int32)?;
        let t = if g.rank(t)? == g.rank(p)? { g.squeeze(t, &[axis])? } else { t };
        let (depth, on, off) = (g.int(classes as i32), g.scalar(1.0), g.scalar(0.0));
        let hot = super::index::one_hot(g, t, depth, on, off, axis as i64)?;
        let product = g.mul(hot, log)?;
        let sum = g.reduce("Sum", product, &[axis], false)?;
        one(g.unary("Neg", sum))
    }),
];

/// Arguments by name that are constants.
fn options(a: &Args<'_>, names: &[&str]) -> Map<String, Value> {
    let given = |name: &&str| match a.get(NAMED, &[name]) {
        Some(Arg::Value(v)) => Some(((*name).to_owned(), v)),
        _ => None,
    };
    names.iter().filter_map(given).collect()
}

fn activation(g: &mut Emit, a: &Args<'_>, name: &'static str) -> Result<Vec<Port>> {
    let x = a.float_x(g)?;
    let keys =
        ["negative_slope", "alpha", "approximate", "axis", "threshold", "default_value", "b", "max_value"];
    let config = options(a, &keys);
    one(Activation { name, config }.emit(g, x))
}

pub(super) fn channels_last(a: &Args<'_>) -> Result<bool> {
    Ok(a.text(NAMED, &["data_format"])?
        .is_none_or(|f| !matches!(f.as_str(), "channels_first" | "NCHW" | "NCW" | "NCDHW")))
}

fn last_axes(g: &Emit, a: &Args<'_>, x: Port) -> Result<Vec<usize>> {
    match a.axes_of(g, x)? {
        Some(axes) => Ok(axes),
        None => Ok(vec![g.axis(x, -1)?]),
    }
}

/// x / √(spread + epsilon)
fn scaled(g: &mut Emit, a: &Args<'_>, x: Port, spread: Port) -> Result<Port> {
    let epsilon = a.float(NAMED, &["epsilon"])?.unwrap_or(1e-7) as f32;
    let spread = g.offset(spread, epsilon)?;
    let factor = g.unary("Rsqrt", spread)?;
    g.mul(x, factor)
}

fn with_scale(
    g: &mut Emit,
    a: &Args<'_>,
    x: Port,
    position: usize,
    names: &[&str],
    op: &str,
) -> Result<Port> {
    match a.opt_tensor(g, position, names, DType::Float32)? {
        Some(factor) => g.op(op, &[x, factor], &[]),
        None => Ok(x),
    }
}

/// The class of a layer for inputs of this rank.
fn by_rank(g: &Emit, x: Port, classes: [&'static str; 3]) -> Result<&'static str> {
    let axes = g.rank(x)?.checked_sub(3).and_then(|i| classes.get(i).copied());
    axes.ok_or_else(|| {
        LayersError::Inputs(format!("it takes inputs with 1 to 3 spatial axes, not {}", g.fact(x)))
    })
}

fn format_option(a: &Args<'_>, config: &mut Map<String, Value>) -> Result<()> {
    let format = if channels_last(a)? { "channels_last" } else { "channels_first" };
    config.insert("data_format".to_owned(), format.into());
    Ok(())
}

fn pool(g: &mut Emit, a: &Args<'_>, kind: &str) -> Result<Vec<Port>> {
    let x = a.x(g)?;
    let class = match kind {
        "Max" => by_rank(g, x, ["MaxPooling1D", "MaxPooling2D", "MaxPooling3D"])?,
        _ => by_rank(g, x, ["AveragePooling1D", "AveragePooling2D", "AveragePooling3D"])?,
    };
    let mut config = options(a, &["pool_size", "strides", "padding"]);
    if let Some(size) = a.get(NAMED, &["ksize"])
        && let Arg::Value(size) = size
    {
        config.insert("pool_size".to_owned(), size);
    }
    // TensorFlow writes sizes of all axes too.
    let spatial = g.rank(x)? - 2;
    let first = if channels_last(a)? { 1 } else { 2 };
    for key in ["pool_size", "strides"] {
        if let Some(Value::Array(sizes)) = config.get_mut(key)
            && sizes.len() == spatial + 2
        {
            *sizes = sizes[first..first + spatial].to_vec();
        }
    }
    format_option(a, &mut config)?;
    layer(g, class, Value::Object(config), &[x])
}

fn adaptive(g: &mut Emit, a: &Args<'_>, kind: &str) -> Result<Vec<Port>> {
    let x = a.x(g)?;
    let class = match kind {
        "AdaptiveMax" => {
            by_rank(g, x, ["AdaptiveMaxPooling1D", "AdaptiveMaxPooling2D", "AdaptiveMaxPooling3D"])?
        }
        _ => by_rank(
            g,
            x,
            ["AdaptiveAveragePooling1D", "AdaptiveAveragePooling2D", "AdaptiveAveragePooling3D"],
        )?,
    };
    let mut config = options(a, &["output_size"]);
    format_option(a, &mut config)?;
    layer(g, class, Value::Object(config), &[x])
}

fn conv(g: &mut Emit, a: &Args<'_>, depthwise: bool) -> Result<Port> {
    let mut x = a.float_x(g)?;
    let mut kernel = a.tensor(g, 1, &["kernel", "filters", "filter"])?;
    let spatial = g.rank(x)?.checked_sub(2).filter(|s| (1..=3).contains(s));
    let spatial = spatial.ok_or_else(|| wrong(&["inputs"], "they have no spatial axes"))?;
    let last = channels_last(a)?;
    if !last {
        let order: Vec<usize> = std::iter::once(0).chain(2..spatial + 2).chain([1]).collect();
        x = g.transpose(x, &order)?;
    }
    let sizes = |names: &[&str]| -> Result<Vec<i64>> {
        let list = a.ints(NAMED, names)?.unwrap_or_else(|| vec![1]);
        Ok(match list.len() {
            1 => vec![list[0]; spatial],
            n if n == spatial + 2 => list[if last { 1..=spatial } else { 2..=spatial + 1 }].to_vec(),
            _ => list,
        })
    };
    let (mut strides, mut dilations) =
        (sizes(&["strides", "stride"])?, sizes(&["dilation_rate", "dilations"])?);
    let padding = a.text(NAMED, &["padding"])?.unwrap_or_else(|| "valid".to_owned()).to_uppercase();
    let flat = spatial == 1;
    if flat {
        x = g.expand_dims(x, 1)?;
        kernel = g.expand_dims(kernel, 0)?;
        strides.insert(0, if depthwise { strides[0] } else { 1 });
        dilations.insert(0, 1);
    }
    let wrap = |list: Vec<i64>| attr::ints(std::iter::once(1).chain(list).chain([1]));
    let three = spatial == 3;
    let attrs = [
        ("strides", wrap(strides)),
        ("dilations", wrap(dilations)),
        ("padding", attr::text(&padding)),
        ("data_format", attr::text(if three { "NDHWC" } else { "NHWC" })),
        ("explicit_paddings", attr::ints([])),
    ];
    let op = match (depthwise, three) {
        (true, false) => "DepthwiseConv2dNative",
        (false, true) => "Conv3D",
        (false, false) => "Conv2D",
        (true, true) => return Err(wrong(&["kernel"], "there is no depthwise convolution along three axes")),
    };
    let count = if three { 4 } else { attrs.len() };
    let mut y = g.op(op, &[x, kernel], &attrs[..count])?;
    if flat {
        y = g.squeeze(y, &[1])?;
    }
    if !last {
        let order: Vec<usize> = [0, spatial + 1].into_iter().chain(1..=spatial).collect();
        y = g.transpose(y, &order)?;
    }
    Ok(y)
}

/// Blocks of pixels moved to channels, or back.
fn depth_space(g: &mut Emit, a: &Args<'_>, op: &str) -> Result<Port> {
    let mut x = a.x(g)?;
    let block = a.int(1, &["block_size"])?.and_then(|n| usize::try_from(n).ok()).filter(|&n| n > 0);
    let block = block.ok_or_else(|| wrong(&["block_size"], "it is no size"))?;
    let last = channels_last(a)?;
    if !last {
        x = g.transpose(x, &[0, 2, 3, 1])?;
    }
    let mut y = if op == "DepthToSpace" {
        let attrs = [("block_size", attr::int(block as i64)), ("data_format", attr::text("NHWC"))];
        g.op(op, &[x], &attrs)?
    } else {
        // TF.js has no op for this direction.
        use crate::emit::Dim;
        let dims = g.dims(x)?;
        let (height, width) = (g.known_dim(x, 1, "height")?, g.known_dim(x, 2, "width")?);
        let depth = g.known_dim(x, 3, "number of channels")?;
        let batch = dims[0];
        let known = |n: usize| Dim::Known(n);
        let split =
            [batch, known(height / block), known(block), known(width / block), known(block), known(depth)];
        let x = g.reshape(x, &split)?;
        let x = g.transpose(x, &[0, 1, 3, 2, 4, 5])?;
        g.reshape(x, &[batch, known(height / block), known(width / block), known(depth * block * block)])?
    };
    if !last {
        y = g.transpose(y, &[0, 3, 1, 2])?;
    }
    Ok(y)
}

/// Images with a frame added or cut off; what is not said follows from the size that is wanted.
fn frame(g: &mut Emit, a: &Args<'_>, add: bool) -> Result<Port> {
    let x = a.x(g)?;
    let rank = g.rank(x)?;
    let last = channels_last(a)?;
    let (rows, columns) = match (last, rank) {
        (true, 3) => (0, 1),
        (true, 4) => (1, 2),
        (false, 3) => (1, 2),
        (false, 4) => (2, 3),
        _ => return Err(wrong(&["images"], "they are no images")),
    };
    let word = if add { "padding" } else { "cropping" };
    let sides = |g: &Emit, axis: usize, before: &str, after: &str, target: &str| -> Result<(usize, usize)> {
        let size = |name: &str| -> Result<Option<usize>> {
            Ok(a.int(NAMED, &[name])?.and_then(|n| usize::try_from(n).ok()))
        };
        let before = size(&format!("{before}_{word}"))?;
        let after = size(&format!("{after}_{word}"))?;
        if let (Some(before), Some(after)) = (before, after) {
            return Ok((before, after));
        }
        let have = g.known_dim(x, axis, "size of the image")?;
        let want = size(target)?.ok_or_else(|| wrong(&["images"], "neither sides nor the size are given"))?;
        let total = if add { want.checked_sub(have) } else { have.checked_sub(want) };
        let total = total.ok_or_else(|| wrong(&["images"], "the size does not fit"))?;
        let missing = |given: usize| {
            total.checked_sub(given).ok_or_else(|| wrong(&["images"], "the size does not fit"))
        };
        Ok(match (before, after) {
            (Some(before), _) => (before, missing(before)?),
            (None, Some(after)) => (missing(after)?, after),
            (None, None) => (total / 2, total - total / 2),
        })
    };
    let vertical = sides(g, rows, "top", "bottom", "target_height")?;
    let horizontal = sides(g, columns, "left", "right", "target_width")?;
    if add {
        let mut pads = vec![(0, 0); rank];
        pads[rows] = vertical;
        pads[columns] = horizontal;
        return g.pad(x, &pads, 0.0);
    }
    let end = |after: usize| if after == 0 { None } else { Some(-(after as i64)) };
    let y = reduction::cut(g, x, rows, vertical.0 as i64, end(vertical.1))?;
    reduction::cut(g, y, columns, horizontal.0 as i64, end(horizontal.1))
}

fn attention(g: &mut Emit, a: &Args<'_>) -> Result<Port> {
    let query = a.tensor(g, 0, &["query"])?;
    let key = a.tensor(g, 1, &["key"])?;
    let value = a.tensor(g, 2, &["value"])?;
    let width = g.known_dim(key, 3, "width of keys")?;
    let scale = a.float(NAMED, &["scale"])?.map_or(1.0 / (width as f32).sqrt(), |s| s as f32);
    let (heads, own) = (g.known_dim(query, 2, "number of heads")?, g.known_dim(key, 2, "number of heads")?);
    if heads != own && own != 1 {
        return Err(wrong(&["key"], "it has another number of heads than the query"));
    }
    let mut scores = crate::einsum::einsum(g, "btnh,bsnh->bnts", &[query, key])?;
    scores = g.scale(scores, scale)?;
    if let Some(bias) = a.opt_tensor(g, NAMED, &["bias"], DType::Float32)? {
        scores = g.add(scores, bias)?;
    }
    let mut mask = a.opt_tensor(g, NAMED, &["mask"], DType::Bool)?;
    if a.bool(NAMED, &["is_causal"], false)? {
        let (queries, keys) = (g.dim(scores, 2)?, g.dim(scores, 3)?);
        let causal = crate::layers::attention::causal_mask(g, queries, keys)?;
        mask = Some(match mask {
            Some(mask) => g.op("LogicalAnd", &[mask, causal], &[])?,
            None => causal,
        });
    }
    if let Some(mask) = mask {
        let low = g.scalar(-0.7 * f32::MAX);
        scores = g.select(mask, scores, low)?;
    }
    let weights = g.unary("Softmax", scores)?;
    crate::einsum::einsum(g, "bnts,bsnh->btnh", &[weights, value])
}

fn cross_entropy_args(g: &mut Emit, a: &Args<'_>) -> Result<(Port, Port)> {
    let target = a.tensor(g, 0, &["target"])?;
    let output = a.tensor(g, 1, &["output"])?;
    Ok((g.cast(target, DType::Float32)?, g.cast(output, DType::Float32)?))
}

fn log_probabilities(g: &mut Emit, a: &Args<'_>, p: Port, axis: usize) -> Result<Port> {
    if a.bool(NAMED, &["from_logits"], false)? {
        let sum = reduction::log_sum_exp(g, p, &[axis], true)?;
        return g.sub(p, sum);
    }
    let sum = g.reduce("Sum", p, &[axis], true)?;
    let p = g.div(p, sum)?;
    let p = activations::clip(g, p, 1e-7, 1.0 - 1e-7)?;
    g.unary("Log", p)
}
