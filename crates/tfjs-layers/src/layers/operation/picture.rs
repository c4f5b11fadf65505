//! Operations on images.

use serde_json::Value;
use tfjs_graph::{Port, builder::attr};
use tfjs_kernels::{DType, Tensor};

use super::args::{Args, wrong};
use super::{Result, Row, nn::channels_last, one};
use crate::{Emit, emit::table_size};

pub(super) const OPS: &[Row] = &[
    ("rgb_to_hsv", |g, a| on_pictures(g, a, |g, x| g.unary("RGBToHSV", x))),
    ("hsv_to_rgb", |g, a| on_pictures(g, a, |g, x| g.unary("HSVToRGB", x))),
    ("affine_transform", |g, a| {
        let mut matrix = a.tensor(g, 1, &["transform"])?;
        matrix = g.cast(matrix, DType::Float32)?;
        if g.rank(matrix)? == 1 {
            matrix = g.expand_dims(matrix, 0)?;
        }
        let word = |position, name: &'static str, default: &str| {
            Ok::<_, crate::LayersError>(
                a.text(position, &[name])?.unwrap_or_else(|| default.to_owned()).to_uppercase(),
            )
        };
        let attrs = [
            ("interpolation", attr::text(&word(2, "interpolation", "bilinear")?)),
            ("fill_mode", attr::text(&word(3, "fill_mode", "constant")?)),
        ];
        let fill = g.scalar(a.float(4, &["fill_value"])?.unwrap_or(0.0) as f32);
        on_pictures(g, a, |g, x| {
            let size = [g.dim(x, 1)?, g.dim(x, 2)?];
            let size = g.shape_value(&size)?;
            let y = g.op("ImageProjectiveTransformV3", &[x, matrix, size, fill], &attrs)?;
            let shape = g.shape(x)?;
            g.set_shape(y, &shape);
            Ok(y)
        })
    }),
    ("extract_patches", |g, a| {
        let missing = || wrong(&["size"], "it is no pair of sizes");
        let pair = |position: usize, name: &'static str| -> Result<Option<[i64; 2]>> {
            match a.ints(position, &[name])?.as_deref() {
                None => Ok(None),
                Some(&[n]) => Ok(Some([n, n])),
                Some(&[h, w]) => Ok(Some([h, w])),
                Some(_) => Err(wrong(&[name], "it is no pair of sizes")),
            }
        };
        let size = pair(1, "size")?.ok_or_else(missing)?;
        let strides = pair(2, "strides")?.unwrap_or(size);
        let rates = pair(3, "dilation_rate")?.unwrap_or([1, 1]);
        let padding = a.text(4, &["padding"])?.unwrap_or_else(|| "valid".to_owned()).to_uppercase();
        let wide = |[h, w]: [i64; 2]| attr::ints([1, h, w, 1]);
        let attrs = [
            ("ksizes", wide(size)),
            ("strides", wide(strides)),
            ("rates", wide(rates)),
            ("padding", attr::text(&padding)),
        ];
        on_pictures(g, a, |g, x| g.op("ExtractImagePatches", &[x], &attrs))
    }),
    ("gaussian_blur", |g, a| {
        let sizes = a.ints(1, &["kernel_size"])?.unwrap_or_else(|| vec![3, 3]);
        let sigma = match a.get(2, &["sigma"]) {
            None => vec![1.0, 1.0],
            Some(crate::topology::Arg::Value(v)) => {
                let sigma = super::constant(&v, Some(DType::Float32));
                let sigma = sigma.ok_or_else(|| wrong(&["sigma"], "it is no pair of numbers"))?;
                sigma.data::<f32>()?.to_vec()
            }
            Some(_) => return Err(wrong(&["sigma"], "it is not constant")),
        };
        let (&[height, width], &[sigma_x, sigma_y]) = (sizes.as_slice(), sigma.as_slice()) else {
            return Err(wrong(&["kernel_size"], "it is no pair, or `sigma` is none"));
        };
        let whole = |n: i64| usize::try_from(n).ok().filter(|&n| n > 0);
        let (Some(height), Some(width)) = (whole(height), whole(width)) else {
            return Err(wrong(&["kernel_size"], "they are no sizes"));
        };
        table_size(&[height, width])?;
        let bell = |n: usize, sigma: f32| -> Vec<f32> {
            let middle = (n as f32 - 1.0) / 2.0;
            let bell: Vec<f32> =
                (0..n).map(|i| (-0.5 * ((i as f32 - middle) / sigma).powi(2)).exp()).collect();
            let sum: f32 = bell.iter().sum();
            bell.into_iter().map(|v| v / sum).collect()
        };
        // The first size and deviation go along the width, as Keras has it; the kernel has the sizes in their order.
        let (along_x, along_y) = (bell(height, sigma_x), bell(width, sigma_y));
        let weights: Vec<f32> = along_y.iter().flat_map(|y| along_x.iter().map(move |x| x * y)).collect();
        on_pictures(g, a, |g, x| {
            let channels = g.known_dim(x, 3, "number of channels")?;
            table_size(&[height, width, channels])?;
            let kernel: Vec<f32> = weights.iter().flat_map(|&w| std::iter::repeat_n(w, channels)).collect();
            let kernel = g.constant(Tensor::new([height, width, channels, 1], kernel)?);
            let attrs = [
                ("strides", attr::ints([1, 1, 1, 1])),
                ("dilations", attr::ints([1, 1, 1, 1])),
                ("padding", attr::text("SAME")),
                ("data_format", attr::text("NHWC")),
                ("explicit_paddings", attr::ints([])),
            ];
            g.op("DepthwiseConv2dNative", &[x, kernel], &attrs)
        })
    }),
    ("all_close", |g, a| {
        let near = super::elementwise::is_close(g, a)?;
        let axes: Vec<usize> = (0..g.rank(near)?).collect();
        one(g.reduce("All", near, &axes, false))
    }),
    ("nanargmax", |g, a| nan_arg(g, a, "ArgMax", f32::NEG_INFINITY)),
    ("nanargmin", |g, a| nan_arg(g, a, "ArgMin", f32::INFINITY)),
    ("slice_update", |g, a| {
        let x = a.tensor(g, 0, &["inputs"])?;
        let start = a.tensor(g, 1, &["start_indices"])?;
        let updates = a.tensor(g, 2, &["updates"])?;
        let updates = g.cast(updates, g.dtype(x))?;
        let start = g.cast(start, DType::Int32)?;
        let dims = g.dims(updates)?;
        let size = g.shape_value(&dims)?;
        let end = g.add(start, size)?;
        let steps = g.ints(&vec![1; dims.len()]);
        one(g.op("TensorStridedSliceUpdate", &[x, start, end, steps, updates], &[]))
    }),
];

/// Applies something to images in a batch with channels last, whatever they are given as.
fn on_pictures(
    g: &mut Emit,
    a: &Args<'_>,
    f: impl FnOnce(&mut Emit, Port) -> Result<Port>,
) -> Result<Vec<Port>> {
    let mut x = a.float_x(g)?;
    let alone = match g.rank(x)? {
        3 => true,
        4 => false,
        _ => return Err(wrong(&["images"], "it has neither three nor four axes")),
    };
    let last = channels_last(a)?;
    if alone {
        x = g.expand_dims(x, 0)?;
    }
    if !last {
        x = g.transpose(x, &[0, 2, 3, 1])?;
    }
    let mut y = f(g, x)?;
    if !last {
        y = g.transpose(y, &[0, 3, 1, 2])?;
    }
    one(if alone { g.squeeze(y, &[0]) } else { Ok(y) })
}

/// The place of an extreme among the numbers; −1 where there are none.
fn nan_arg(g: &mut Emit, a: &Args<'_>, op: &str, least: f32) -> Result<Vec<Port>> {
    let mut x = a.float_x(g)?;
    a.refuse("keepdims", &[Value::Bool(false)])?;
    let axis = match a.int(1, &["axis"])? {
        Some(axis) => g.axis(x, axis)?,
        None => {
            x = super::shape::flat(g, x)?;
            0
        }
    };
    let (is_nan, least) = (g.unary("IsNan", x)?, g.scalar(least));
    let filled = g.select(is_nan, least, x)?;
    let along = g.int(axis as i32);
    let place = g.op(op, &[filled, along], &[("output_type", attr::dtype(DType::Int32))])?;
    let none = g.reduce("All", is_nan, &[axis], false)?;
    let nowhere = g.int(-1);
    one(g.select(none, nowhere, place))
}
