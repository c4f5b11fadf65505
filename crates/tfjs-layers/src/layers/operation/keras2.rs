//! Functions of TensorFlow as Keras 2 records them: `TFOpLambda` and `SlicingOpLambda` with the function's public name.

use serde_json::Map;
use tfjs_graph::{Port, builder::attr};
use tfjs_kernels::DType;

use super::args::{Args, NAMED, wrong};
use super::{Emitter, OPERATIONS, Operation, Result, Row, one, reduction, shape};
use crate::emit::table_size;
use crate::{Config, Emit, Layer, LayersError, activations, layers::core::constant};

/// Names of TensorFlow (without modules) and what the tables of operations call them.
const ALIASES: &[(&str, &str)] = &[
    ("acos", "arccos"),
    ("acosh", "arccosh"),
    ("asin", "arcsin"),
    ("asinh", "arcsinh"),
    ("atan", "arctan"),
    ("atanh", "arctanh"),
    ("argmin_v2", "argmin"),
    ("bessel_i0", "i0"),
    ("clip_by_value", "clip"),
    ("concat", "concatenate"),
    ("conj", "conjugate"),
    ("div", "divide"),
    ("div_no_nan", "divide_no_nan"),
    ("floor_div", "floor_divide"),
    ("floordiv", "floor_divide"),
    ("floormod", "mod"),
    ("getitem", "get_item"),
    ("invert", "bitwise_invert"),
    ("is_finite", "isfinite"),
    ("is_inf", "isinf"),
    ("is_nan", "isnan"),
    ("matrix_determinant", "det"),
    ("matrix_inverse", "inv"),
    ("matrix_transpose", "linalg_transpose"),
    ("neg", "negative"),
    ("permute_dimensions", "transpose"),
    ("pow", "power"),
    ("realdiv", "divide"),
    ("reduce_all", "all"),
    ("reduce_any", "any"),
    ("reduce_euclidean_norm", "norm"),
    ("reduce_logsumexp", "logsumexp"),
    ("reduce_max", "max"),
    ("reduce_mean", "mean"),
    ("reduce_min", "min"),
    ("reduce_prod", "prod"),
    ("reduce_std", "std"),
    ("reduce_sum", "sum"),
    ("reduce_variance", "var"),
    ("repeat_elements", "repeat"),
    ("reverse", "flip"),
    ("rsub", "reversed_subtract"),
    ("sub", "subtract"),
    ("mul", "multiply"),
    ("truediv", "true_divide"),
    ("uniform_noise", "identity"),
    ("batch_normalization", "batch_norm"),
    ("avg_pool", "average_pool"),
    ("avg_pool1d", "average_pool"),
    ("avg_pool2d", "average_pool"),
    ("avg_pool3d", "average_pool"),
    ("max_pool1d", "max_pool"),
    ("max_pool2d", "max_pool"),
    ("max_pool3d", "max_pool"),
    ("conv1d", "conv"),
    ("conv2d", "conv"),
    ("conv3d", "conv"),
    ("convolution", "conv"),
    ("depthwise_conv2d", "depthwise_conv"),
];

/// Where TensorFlow means something else than Keras 3 by a name.
const FUNCTIONS: &[Row] = &[
    ("arctan2", |g, a| {
        let (y, x) = a.pair_of(g, (0, &["y"]), (1, &["x"]))?;
        one(g.op("Atan2", &[y, x], &[]))
    }),
    ("atan2", |g, a| {
        let (y, x) = a.pair_of(g, (0, &["y"]), (1, &["x"]))?;
        one(g.op("Atan2", &[y, x], &[]))
    }),
    ("cumsum", |g, a| running(g, a, "Cumsum")),
    ("cumprod", |g, a| running(g, a, "Cumprod")),
    ("argmax", |g, a| arg(g, a, "ArgMax")),
    ("argmin", |g, a| arg(g, a, "ArgMin")),
    ("divide", |g, a| {
        let (x, y) = a.pair(g)?;
        one(g.op("RealDiv", &[x, y], &[]))
    }),
    ("gather", |g, a| {
        let x = a.tensor(g, 0, &["params", "reference"])?;
        let indices = a.tensor(g, 1, &["indices"])?;
        let batch = a.int(NAMED, &["batch_dims"])?.unwrap_or(0);
        let axis = a.axis()?.unwrap_or(batch);
        let (axis, indices) = (g.int(axis as i32), g.cast(indices, DType::Int32)?);
        one(g.op("GatherV2", &[x, indices, axis], &[("batch_dims", attr::int(batch))]))
    }),
    ("gather_nd", |g, a| {
        let x = a.tensor(g, 0, &["params"])?;
        let indices = a.tensor(g, 1, &["indices"])?;
        a.refuse("batch_dims", &[0.into()])?;
        one(g.op("GatherNd", &[x, indices], &[]))
    }),
    ("l2_normalize", |g, a| {
        let x = a.float_x(g)?;
        let axes = reduction::axes(g, a, x)?;
        let least = a.float(NAMED, &["epsilon"])?.unwrap_or(1e-12) as f32;
        let square = g.unary("Square", x)?;
        let sum = g.reduce("Sum", square, &axes, true)?;
        let least = g.scalar(least);
        let sum = g.op("Maximum", &[sum, least], &[])?;
        let factor = g.unary("Rsqrt", sum)?;
        one(g.mul(x, factor))
    }),
    ("linalg_transpose", |g, a| {
        let x = a.x(g)?;
        let rank = g.rank(x)?;
        let mut order: Vec<usize> = (0..rank).collect();
        if rank < 2 {
            return Err(wrong(&["a"], "it is no matrix"));
        }
        order.swap(rank - 1, rank - 2);
        one(g.transpose(x, &order))
    }),
    ("matvec", |g, a| {
        let (x, y) = a.pair(g)?;
        let transpose = a.bool(NAMED, &["transpose_a", "adjoint_a"], false)?;
        let last = g.rank(y)?;
        let y = g.expand_dims(y, last)?;
        let product = super::linalg::matmul(g, x, y, transpose, false)?;
        let last = g.axis(product, -1)?;
        one(g.squeeze(product, &[last]))
    }),
    ("reversed_subtract", |g, a| {
        let (x, y) = a.pair(g)?;
        one(g.sub(y, x))
    }),
    ("radd", |g, a| swapped(g, a, "AddV2")),
    ("rmul", |g, a| swapped(g, a, "Mul")),
    ("rtruediv", |g, a| swapped(g, a, "RealDiv")),
    ("rpow", |g, a| swapped(g, a, "Pow")),
    ("rfloordiv", |g, a| swapped(g, a, "FloorDiv")),
    ("rmod", |g, a| swapped(g, a, "FloorMod")),
    ("rmatmul", |g, a| {
        let (x, y) = a.pair(g)?;
        one(super::linalg::matmul(g, y, x, false, false))
    }),
    ("eq", |g, a| compare(g, a, "Equal")),
    ("ne", |g, a| compare(g, a, "NotEqual")),
    ("add_n", |g, a| {
        let parts = a.tensors(g, &["inputs"])?;
        one(g.op("AddN", &parts, &[]))
    }),
    ("bias_add", |g, a| {
        let x = a.x(g)?;
        let mut bias = a.tensor(g, 1, &["bias"])?;
        bias = g.cast(bias, g.dtype(x))?;
        if a.text(NAMED, &["data_format"])?.is_some_and(|f| f.starts_with("NC")) {
            for _ in 2..g.rank(x)? {
                let last = g.rank(bias)?;
                bias = g.expand_dims(bias, last)?;
            }
        }
        one(g.add(x, bias))
    }),
    ("crelu", |g, a| {
        let x = a.float_x(g)?;
        let axis = a.axis_of(g, x, -1)?;
        let negative = g.unary("Neg", x)?;
        let both = g.concat(&[x, negative], axis)?;
        one(g.unary("Relu", both))
    }),
    ("hard_sigmoid", |g, a| {
        let x = a.float_x(g)?;
        let scaled = g.scale(x, 0.2)?;
        let shifted = g.offset(scaled, 0.5)?;
        one(activations::clip(g, shifted, 0.0, 1.0))
    }),
    ("zeros", |g, a| filled(g, a, 0.0)),
    ("ones", |g, a| filled(g, a, 1.0)),
    ("fill", |g, a| {
        let shape = a.tensor(g, 0, &["dims"])?;
        let value = a.tensor(g, 1, &["value"])?;
        one(g.op("Fill", &[shape, value], &[]))
    }),
    ("rank", |g, a| {
        let x = a.x(g)?;
        let rank = g.rank(x)? as i32;
        Ok(vec![g.int(rank)])
    }),
    ("range", |g, a| {
        let (mut start, mut end) = (a.get(0, &["start"]), a.get(1, &["limit"]));
        if end.is_none() {
            end = start.take();
        }
        let whole = |g: &mut Emit, arg: Option<crate::topology::Arg<crate::Sym>>, default: i32| match arg {
            Some(arg) => super::args::port(g, &arg, Some(DType::Int32), &["range"]),
            None => Ok(g.int(default)),
        };
        let (start, end) = (whole(g, start, 0)?, whole(g, end, 0)?);
        let step = a.get(2, &["delta"]);
        let step = whole(g, step, 1)?;
        let tidx = g.dtype(end);
        let (start, step) = (g.cast(start, tidx)?, g.cast(step, tidx)?);
        let y = g.op("Range", &[start, end, step], &[("Tidx", attr::dtype(tidx))])?;
        g.set_shape(y, &[None]);
        one(match a.dtype(NAMED)? {
            Some(dtype) => g.cast(y, dtype),
            None => Ok(y),
        })
    }),
    ("eye", |g, a| {
        let rows = a.int(0, &["num_rows"])?.and_then(|n| usize::try_from(n).ok());
        let rows = rows.ok_or_else(|| wrong(&["num_rows"], "it is no size"))?;
        let columns = a.int(1, &["num_columns"])?.and_then(|n| usize::try_from(n).ok()).unwrap_or(rows);
        a.refuse("batch_shape", &[])?;
        table_size(&[rows, columns])?;
        let data = (0..rows).flat_map(|r| (0..columns).map(move |c| f32::from(u8::from(r == c)))).collect();
        let y = g.constant(tfjs_kernels::Tensor::new([rows, columns], data)?);
        one(match a.dtype(NAMED)? {
            Some(dtype) => g.cast(y, dtype),
            None => Ok(y),
        })
    }),
    ("band_part", |g, a| {
        let x = a.x(g)?;
        let lower = a.tensor(g, 1, &["num_lower"])?;
        let upper = a.tensor(g, 2, &["num_upper"])?;
        one(g.op("MatrixBandPart", &[x, lower, upper], &[]))
    }),
    ("local_response_normalization", |g, a| {
        let x = a.x(g)?;
        let number = |names: &[&str], default: f64| {
            Ok::<_, LayersError>(a.float(NAMED, names)?.unwrap_or(default) as f32)
        };
        let radius = a.int(NAMED, &["depth_radius"])?.unwrap_or(5);
        let attrs = [
            ("depth_radius", attr::int(radius)),
            ("bias", attr::float(number(&["bias"], 1.0)?)),
            ("alpha", attr::float(number(&["alpha"], 1.0)?)),
            ("beta", attr::float(number(&["beta"], 0.5)?)),
        ];
        one(g.op("LRN", &[x], &attrs))
    }),
    ("boolean_mask", |g, a| {
        let x = a.x(g)?;
        let mask = a.tensor(g, 1, &["mask"])?;
        if g.rank(mask)? != 1 {
            return Err(wrong(&["mask"], "it has several axes"));
        }
        let axis = a.axis_of(g, x, 0)?;
        let places = g.op("Where", &[mask], &[])?;
        let places = g.cast(places, DType::Int32)?;
        let shape = g.ints(&[-1]);
        let places = g.op("Reshape", &[places, shape], &[])?;
        let axis = g.int(axis as i32);
        one(g.op("GatherV2", &[x, places, axis], &[("batch_dims", attr::int(0))]))
    }),
    ("dropout", |g, a| one(a.x(g))),
    ("in_train_phase", |g, a| one(a.tensor(g, 1, &["alt"]))),
    ("log10", |g, a| {
        let x = a.float_x(g)?;
        let x = g.unary("Log", x)?;
        one(g.scale(x, std::f32::consts::LOG10_E))
    }),
    ("tensor_scatter_nd_update", |g, a| {
        let x = a.tensor(g, 0, &["tensor"])?;
        let (indices, updates) = (a.tensor(g, 1, &["indices"])?, a.tensor(g, 2, &["updates"])?);
        let updates = g.cast(updates, g.dtype(x))?;
        one(g.op("TensorScatterUpdate", &[x, indices, updates], &[]))
    }),
    ("batch_dot", |g, a| {
        let (x, y) = a.pair(g)?;
        one(g.op("BatchMatMulV2", &[x, y], &[("adj_x", attr::bool(false)), ("adj_y", attr::bool(false))]))
    }),
    ("flatten", |g, a| {
        let x = a.x(g)?;
        one(shape::flat(g, x))
    }),
    ("batch_flatten", |g, a| {
        let x = a.x(g)?;
        one(crate::layers::core::reshape_batch(g, x, &[None]))
    }),
];

/// Modules that a function's name may begin with.
const MODULES: &[&str] = &[
    "compat.v1.",
    "compat.v2.",
    "keras.",
    "_api.v2.",
    "math.",
    "nn.",
    "linalg.",
    "__operators__.",
    "image.",
    "activations.",
    "backend.",
    "bitwise.",
    "special.",
    "experimental.numpy.",
];

fn plain_name(function: &str) -> &str {
    let mut name = function;
    while let Some(rest) = MODULES.iter().find_map(|m| name.strip_prefix(m)) {
        name = rest;
    }
    name
}

/// What the tables call a function of TensorFlow.
pub(super) fn name(function: &str) -> &str {
    let name = plain_name(function);
    ALIASES.iter().find(|(from, _)| *from == name).map_or(name, |(_, to)| to)
}

fn find(function: &str) -> Option<Emitter> {
    let name = name(function);
    let own = FUNCTIONS.iter().find(|(n, _)| *n == name).map(|(_, emit)| *emit);
    own.or_else(|| OPERATIONS.get(name).copied())
}

/// A layer from `config.function`.
pub(super) fn new(c: &Config<'_>) -> Result<Box<dyn Layer>> {
    let function = c.opt_str("function")?.ok_or_else(|| c.wrong("function", "the name of a function"))?;
    let emit = find(function).ok_or_else(|| LayersError::UnknownClass {
        class: format!("TFOpLambda `tf.{function}`"),
        hint: "; there is no form of this function in a graph here: export the model as a SavedModel and convert that".to_owned(),
    })?;
    Ok(Box::new(Operation { emit, config: Map::new() }))
}

fn swapped(g: &mut Emit, a: &Args<'_>, op: &str) -> Result<Vec<Port>> {
    let (x, y) = a.pair(g)?;
    one(g.op(op, &[y, x], &[]))
}

fn compare(g: &mut Emit, a: &Args<'_>, op: &str) -> Result<Vec<Port>> {
    let (x, y) = a.pair_of(g, (0, &["self", "x"]), (1, &["other", "y"]))?;
    one(g.op(op, &[x, y], &[]))
}

fn running(g: &mut Emit, a: &Args<'_>, op: &str) -> Result<Vec<Port>> {
    let x = a.x(g)?;
    let axis = a.axis_of(g, x, 0)?;
    let axis = g.int(axis as i32);
    let flag = |name: &str| Ok::<_, LayersError>(attr::bool(a.bool(NAMED, &[name], false)?));
    one(g.op(op, &[x, axis], &[("exclusive", flag("exclusive")?), ("reverse", flag("reverse")?)]))
}

fn arg(g: &mut Emit, a: &Args<'_>, op: &str) -> Result<Vec<Port>> {
    let x = a.x(g)?;
    let axis = g.axis(x, a.int(NAMED, &["axis", "dimension"])?.unwrap_or(0))?;
    let axis = g.int(axis as i32);
    one(g.op(op, &[x, axis], &[("output_type", attr::dtype(DType::Int32))]))
}

fn filled(g: &mut Emit, a: &Args<'_>, value: f64) -> Result<Vec<Port>> {
    let shape = a.tensor(g, 0, &["shape"])?;
    let dtype = a.dtype(NAMED)?.unwrap_or(DType::Float32);
    let value = constant(g, value, dtype);
    let known: Option<Vec<Option<usize>>> =
        g.fact(shape).ints().map(|sizes| sizes.iter().map(|&n| usize::try_from(n).ok()).collect());
    let y = g.op("Fill", &[shape, value], &[])?;
    if let Some(known) = known {
        g.set_shape(y, &known);
    }
    Ok(vec![y])
}
