//! Functions of each element.

use std::f32::consts;

use tfjs_graph::Port;
use tfjs_kernels::DType;

use super::args::{Args, NAMED, common, wrong};
use super::{Result, Row, one};
use crate::{Emit, activations::clip, layers::core::constant};

pub(super) const OPS: &[Row] = &[
    // Any type of numbers.
    ("absolute", |g, a| unary(g, a, "Abs")),
    ("abs", |g, a| unary(g, a, "Abs")),
    ("negative", |g, a| unary(g, a, "Neg")),
    ("sign", |g, a| unary(g, a, "Sign")),
    ("square", |g, a| unary(g, a, "Square")),
    ("identity", |g, a| one(a.x(g))),
    ("copy", |g, a| one(a.x(g))),
    ("view", |g, a| one(a.x(g))),
    ("stop_gradient", |g, a| one(a.x(g))),
    ("conjugate", |g, a| one(a.x(g))),
    ("real", |g, a| one(a.x(g))),
    // Floats.
    ("fabs", |g, a| float(g, a, "Abs")),
    ("arccos", |g, a| float(g, a, "Acos")),
    ("arccosh", |g, a| float(g, a, "Acosh")),
    ("arcsin", |g, a| float(g, a, "Asin")),
    ("arcsinh", |g, a| float(g, a, "Asinh")),
    ("arctan", |g, a| float(g, a, "Atan")),
    ("arctanh", |g, a| float(g, a, "Atanh")),
    ("cos", |g, a| float(g, a, "Cos")),
    ("cosh", |g, a| float(g, a, "Cosh")),
    ("sin", |g, a| float(g, a, "Sin")),
    ("sinh", |g, a| float(g, a, "Sinh")),
    ("tan", |g, a| float(g, a, "Tan")),
    ("tanh", |g, a| float(g, a, "Tanh")),
    ("exp", |g, a| float(g, a, "Exp")),
    ("expm1", |g, a| float(g, a, "Expm1")),
    ("log", |g, a| float(g, a, "Log")),
    ("log1p", |g, a| float(g, a, "Log1p")),
    ("sqrt", |g, a| float(g, a, "Sqrt")),
    ("rsqrt", |g, a| float(g, a, "Rsqrt")),
    ("reciprocal", |g, a| float(g, a, "Reciprocal")),
    ("ceil", |g, a| float(g, a, "Ceil")),
    ("floor", |g, a| float(g, a, "Floor")),
    ("erf", |g, a| float(g, a, "Erf")),
    ("erfinv", |g, a| float(g, a, "Erfinv")),
    ("i0", |g, a| float(g, a, "BesselI0")),
    ("isfinite", |g, a| float(g, a, "IsFinite")),
    ("isinf", |g, a| float(g, a, "IsInf")),
    ("isnan", |g, a| float(g, a, "IsNan")),
    ("exp2", |g, a| scaled_before(g, a, consts::LN_2, "Exp")),
    ("log2", |g, a| scaled_after(g, a, "Log", consts::LOG2_E)),
    ("log10", |g, a| scaled_after(g, a, "Log", consts::LOG10_E)),
    ("deg2rad", |g, a| scaled_before(g, a, std::f32::consts::PI / 180.0, "Identity")),
    ("rad2deg", |g, a| scaled_before(g, a, 180.0 / std::f32::consts::PI, "Identity")),
    ("erfc", |g, a| {
        let x = a.float_x(g)?;
        let erf = g.unary("Erf", x)?;
        let one_ = g.scalar(1.0);
        one(g.sub(one_, erf))
    }),
    ("cbrt", |g, a| {
        let x = a.float_x(g)?;
        let (sign, magnitude, third) = (g.unary("Sign", x)?, g.unary("Abs", x)?, g.scalar(1.0 / 3.0));
        let root = g.op("Pow", &[magnitude, third], &[])?;
        one(g.mul(sign, root))
    }),
    ("trunc", |g, a| {
        let x = a.x(g)?;
        one(if g.dtype(x) == DType::Float32 { truncate(g, x) } else { Ok(x) })
    }),
    ("round", |g, a| {
        let x = a.x(g)?;
        let decimals = a.int(NAMED, &["decimals"])?.unwrap_or(0);
        if g.dtype(x) != DType::Float32 {
            return Ok(vec![x]);
        }
        let factor = 10f32.powi(i32::try_from(decimals).unwrap_or(0));
        let scaled = if decimals == 0 { x } else { g.scale(x, factor)? };
        let rounded = g.unary("Round", scaled)?;
        one(if decimals == 0 { Ok(rounded) } else { g.scale(rounded, 1.0 / factor) })
    }),
    ("sinc", |g, a| {
        let x = a.float_x(g)?;
        let x = g.scale(x, consts::PI)?;
        let sine = g.unary("Sin", x)?;
        let (zero, one_) = (g.scalar(0.0), g.scalar(1.0));
        let is_zero = g.op("Equal", &[x, zero], &[])?;
        let below = g.select(is_zero, one_, x)?;
        let ratio = g.div(sine, below)?;
        one(g.select(is_zero, one_, ratio))
    }),
    ("imag", |g, a| {
        let x = a.x(g)?;
        one(g.unary("ZerosLike", x))
    }),
    ("angle", |g, a| {
        let x = a.float_x(g)?;
        let (zero, pi) = (g.scalar(0.0), g.scalar(consts::PI));
        let negative = g.op("Less", &[x, zero], &[])?;
        one(g.select(negative, pi, zero))
    }),
    ("signbit", |g, a| {
        let x = a.float_x(g)?;
        let zero = g.scalar(0.0);
        let negative = g.op("Less", &[x, zero], &[])?;
        // −0 is told by its reciprocal.
        let turned = g.unary("Reciprocal", x)?;
        let turned = g.op("Less", &[turned, zero], &[])?;
        one(g.op("LogicalOr", &[negative, turned], &[]))
    }),
    ("isposinf", |g, a| compare_to(g, a, f32::INFINITY)),
    ("isneginf", |g, a| compare_to(g, a, f32::NEG_INFINITY)),
    ("isreal", |g, a| {
        let x = a.x(g)?;
        one(g.op("Equal", &[x, x], &[]).and_then(|e| {
            let not = g.unary("LogicalNot", e)?;
            g.op("LogicalOr", &[e, not], &[])
        }))
    }),
    ("nan_to_num", |g, a| {
        let mut x = a.float_x(g)?;
        let nan = a.float(NAMED, &["nan"])?.unwrap_or(0.0) as f32;
        let high = a.float(NAMED, &["posinf"])?.map_or(f32::MAX, |v| v as f32);
        let low = a.float(NAMED, &["neginf"])?.map_or(f32::MIN, |v| v as f32);
        let is_nan = g.unary("IsNan", x)?;
        let nan = g.scalar(nan);
        x = g.select(is_nan, nan, x)?;
        for (edge, value) in [(f32::INFINITY, high), (f32::NEG_INFINITY, low)] {
            let (edge, value) = (g.scalar(edge), g.scalar(value));
            let at = g.op("Equal", &[x, edge], &[])?;
            x = g.select(at, value, x)?;
        }
        Ok(vec![x])
    }),
    // Two values.
    ("add", |g, a| binary(g, a, "AddV2")),
    ("subtract", |g, a| binary(g, a, "Sub")),
    ("multiply", |g, a| binary(g, a, "Mul")),
    ("maximum", |g, a| binary(g, a, "Maximum")),
    ("minimum", |g, a| binary(g, a, "Minimum")),
    ("power", |g, a| binary(g, a, "Pow")),
    ("floor_divide", |g, a| binary(g, a, "FloorDiv")),
    ("mod", |g, a| binary(g, a, "FloorMod")),
    ("squared_difference", |g, a| binary(g, a, "SquaredDifference")),
    ("divide", |g, a| float_binary(g, a, "RealDiv")),
    ("true_divide", |g, a| float_binary(g, a, "RealDiv")),
    ("divide_no_nan", |g, a| float_binary(g, a, "DivNoNan")),
    ("arctan2", |g, a| float_binary(g, a, "Atan2")),
    ("nextafter", |g, a| float_binary(g, a, "NextAfter")),
    ("fmax", |g, a| ignoring_nan(g, a, "Maximum")),
    ("fmin", |g, a| ignoring_nan(g, a, "Minimum")),
    ("fmod", |g, a| {
        let (x, y) = a.pair(g)?;
        if g.dtype(x) != DType::Float32 {
            return one(g.op("Mod", &[x, y], &[]));
        }
        let ratio = g.div(x, y)?;
        let whole = truncate(g, ratio)?;
        let whole = g.mul(whole, y)?;
        one(g.sub(x, whole))
    }),
    ("hypot", |g, a| {
        let (x, y) = float_pair(g, a)?;
        let (x, y) = (g.unary("Square", x)?, g.unary("Square", y)?);
        let sum = g.add(x, y)?;
        one(g.unary("Sqrt", sum))
    }),
    ("logaddexp", |g, a| {
        let (x, y) = float_pair(g, a)?;
        one(log_add_exp(g, x, y))
    }),
    ("logaddexp2", |g, a| {
        let (x, y) = float_pair(g, a)?;
        let (x, y) = (g.scale(x, consts::LN_2)?, g.scale(y, consts::LN_2)?);
        let sum = log_add_exp(g, x, y)?;
        one(g.scale(sum, consts::LOG2_E))
    }),
    ("ldexp", |g, a| {
        let (x, y) = float_pair(g, a)?;
        let y = g.scale(y, consts::LN_2)?;
        let power = g.unary("Exp", y)?;
        let power = g.unary("Round", power).and_then(|whole| {
            // Powers of two are exact where they are whole.
            let one_ = g.scalar(1.0);
            let large = g.op("GreaterEqual", &[power, one_], &[])?;
            g.select(large, whole, power)
        })?;
        one(g.mul(x, power))
    }),
    ("heaviside", |g, a| {
        let (x, y) = float_pair(g, a)?;
        let (zero, one_) = (g.scalar(0.0), g.scalar(1.0));
        let negative = g.op("Less", &[x, zero], &[])?;
        let at = g.op("Equal", &[x, zero], &[])?;
        let other = g.select(at, y, one_)?;
        one(g.select(negative, zero, other))
    }),
    ("bitwise_and", |g, a| binary(g, a, "BitwiseAnd")),
    ("bitwise_or", |g, a| binary(g, a, "BitwiseOr")),
    ("bitwise_xor", |g, a| binary(g, a, "BitwiseXor")),
    ("bitwise_invert", |g, a| unary(g, a, "Invert")),
    ("bitwise_not", |g, a| unary(g, a, "Invert")),
    ("bitwise_left_shift", |g, a| binary(g, a, "LeftShift")),
    ("left_shift", |g, a| binary(g, a, "LeftShift")),
    ("bitwise_right_shift", |g, a| binary(g, a, "RightShift")),
    ("right_shift", |g, a| binary(g, a, "RightShift")),
    // Comparisons.
    ("equal", |g, a| binary(g, a, "Equal")),
    ("not_equal", |g, a| binary(g, a, "NotEqual")),
    ("greater", |g, a| binary(g, a, "Greater")),
    ("greater_equal", |g, a| binary(g, a, "GreaterEqual")),
    ("less", |g, a| binary(g, a, "Less")),
    ("less_equal", |g, a| binary(g, a, "LessEqual")),
    ("isclose", |g, a| one(is_close(g, a))),
    ("allclose", |g, a| {
        let close = is_close(g, a)?;
        let axes: Vec<usize> = (0..g.rank(close)?).collect();
        one(g.reduce("All", close, &axes, false))
    }),
    ("logical_and", |g, a| logical(g, a, "LogicalAnd")),
    ("logical_or", |g, a| logical(g, a, "LogicalOr")),
    ("logical_xor", |g, a| logical(g, a, "NotEqual")),
    ("logical_not", |g, a| {
        let x = a.x(g)?;
        let x = g.cast(x, DType::Bool)?;
        one(g.unary("LogicalNot", x))
    }),
    // Choices and types.
    ("where", |g, a| {
        let condition = a.tensor(g, 0, &["condition"])?;
        let condition = g.cast(condition, DType::Bool)?;
        let (x, y) = a.pair_of(g, (1, &["x1", "x"]), (2, &["x2", "y"]))?;
        one(g.select(condition, x, y))
    }),
    ("clip", |g, a| {
        let x = a.x(g)?;
        let (low, high) = (["x_min", "clip_value_min", "a_min"], ["x_max", "clip_value_max", "a_max"]);
        if let (Ok(Some(low)), Ok(Some(high)), DType::Float32) =
            (a.float(1, &low), a.float(2, &high), g.dtype(x))
        {
            return one(clip(g, x, low as f32, high as f32));
        }
        let dtype = g.dtype(x);
        let mut y = x;
        if let Some(low) = a.opt_tensor(g, 1, &low, dtype)? {
            y = joined(g, y, low, "Maximum")?;
        }
        if let Some(high) = a.opt_tensor(g, 2, &high, dtype)? {
            y = joined(g, y, high, "Minimum")?;
        }
        Ok(vec![y])
    }),
    ("cast", |g, a| {
        let x = a.x(g)?;
        let dtype = a.dtype(1)?.ok_or_else(|| wrong(&["dtype"], "it is missing"))?;
        one(g.cast(x, dtype))
    }),
    ("saturate_cast", |g, a| {
        let x = a.x(g)?;
        let name = a.text(1, &["dtype"])?.unwrap_or_default();
        let dtype = a.dtype(1)?.ok_or_else(|| wrong(&["dtype"], "it is missing"))?;
        let range = match name.as_str() {
            "uint8" => Some((0.0, 255.0)),
            "int8" => Some((-128.0, 127.0)),
            "uint16" => Some((0.0, 65_535.0)),
            "int16" => Some((-32_768.0, 32_767.0)),
            _ => None,
        };
        let mut y = x;
        if let Some((low, high)) = range {
            let kind = g.dtype(x);
            let (low, high) = (constant(g, low, kind), constant(g, high, kind));
            y = g.op("Maximum", &[y, low], &[])?;
            y = g.op("Minimum", &[y, high], &[])?;
        }
        one(g.cast(y, dtype))
    }),
    ("convert_to_tensor", |g, a| {
        let x = a.x(g)?;
        one(match a.dtype(NAMED)? {
            Some(dtype) => g.cast(x, dtype),
            None => Ok(x),
        })
    }),
    ("array", |g, a| {
        let x = a.x(g)?;
        one(match a.dtype(NAMED)? {
            Some(dtype) => g.cast(x, dtype),
            None => Ok(x),
        })
    }),
    ("xlogy", |g, a| {
        let (x, y) = float_pair(g, a)?;
        let zero = g.scalar(0.0);
        let is_zero = g.op("Equal", &[x, zero], &[])?;
        let log = g.unary("Log", y)?;
        let product = g.mul(x, log)?;
        one(g.select(is_zero, zero, product))
    }),
];

fn unary(g: &mut Emit, a: &Args<'_>, op: &str) -> Result<Vec<Port>> {
    let x = a.x(g)?;
    one(g.unary(op, x))
}

fn float(g: &mut Emit, a: &Args<'_>, op: &str) -> Result<Vec<Port>> {
    let x = a.float_x(g)?;
    one(g.unary(op, x))
}

fn scaled_before(g: &mut Emit, a: &Args<'_>, factor: f32, op: &str) -> Result<Vec<Port>> {
    let x = a.float_x(g)?;
    let x = g.scale(x, factor)?;
    one(if op == "Identity" { Ok(x) } else { g.unary(op, x) })
}

fn scaled_after(g: &mut Emit, a: &Args<'_>, op: &str, factor: f32) -> Result<Vec<Port>> {
    let x = a.float_x(g)?;
    let x = g.unary(op, x)?;
    one(g.scale(x, factor))
}

fn compare_to(g: &mut Emit, a: &Args<'_>, value: f32) -> Result<Vec<Port>> {
    let x = a.float_x(g)?;
    let value = g.scalar(value);
    one(g.op("Equal", &[x, value], &[]))
}

fn binary(g: &mut Emit, a: &Args<'_>, op: &str) -> Result<Vec<Port>> {
    let (x, y) = a.pair(g)?;
    one(g.op(op, &[x, y], &[]))
}

fn float_pair(g: &mut Emit, a: &Args<'_>) -> Result<(Port, Port)> {
    let (x, y) = a.pair(g)?;
    Ok((g.cast(x, DType::Float32)?, g.cast(y, DType::Float32)?))
}

fn float_binary(g: &mut Emit, a: &Args<'_>, op: &str) -> Result<Vec<Port>> {
    let (x, y) = float_pair(g, a)?;
    one(g.op(op, &[x, y], &[]))
}

fn logical(g: &mut Emit, a: &Args<'_>, op: &str) -> Result<Vec<Port>> {
    let (x, y) = a.pair(g)?;
    let (x, y) = (g.cast(x, DType::Bool)?, g.cast(y, DType::Bool)?);
    one(g.op(op, &[x, y], &[]))
}

fn ignoring_nan(g: &mut Emit, a: &Args<'_>, op: &str) -> Result<Vec<Port>> {
    let (x, y) = float_pair(g, a)?;
    let (no_x, no_y) = (g.unary("IsNan", x)?, g.unary("IsNan", y)?);
    let extreme = g.op(op, &[x, y], &[])?;
    let with_x = g.select(no_y, x, extreme)?;
    one(g.select(no_x, y, with_x))
}

/// Two values of a common type under an op.
pub(super) fn joined(g: &mut Emit, x: Port, y: Port, op: &str) -> Result<Port> {
    let dtype = common(g.dtype(x), g.dtype(y));
    let (x, y) = (g.cast(x, dtype)?, g.cast(y, dtype)?);
    g.op(op, &[x, y], &[])
}

/// Rounded towards zero.
fn truncate(g: &mut Emit, x: Port) -> Result<Port> {
    let (sign, magnitude) = (g.unary("Sign", x)?, g.unary("Abs", x)?);
    let whole = g.unary("Floor", magnitude)?;
    g.mul(sign, whole)
}

/// log(eˣ + eʸ)
fn log_add_exp(g: &mut Emit, x: Port, y: Port) -> Result<Port> {
    let top = g.op("Maximum", &[x, y], &[])?;
    let distance = g.sub(x, y)?;
    let distance = g.unary("Abs", distance)?;
    let distance = g.unary("Neg", distance)?;
    let rest = g.unary("Exp", distance)?;
    let rest = g.unary("Log1p", rest)?;
    g.add(top, rest)
}

pub(super) fn is_close(g: &mut Emit, a: &Args<'_>) -> Result<Port> {
    let (x, y) = float_pair(g, a)?;
    let rtol = a.float(NAMED, &["rtol"])?.unwrap_or(1e-5) as f32;
    let atol = a.float(NAMED, &["atol"])?.unwrap_or(1e-8) as f32;
    let same = g.op("Equal", &[x, y], &[])?;
    let distance = g.sub(x, y)?;
    let distance = g.unary("Abs", distance)?;
    let bound = g.unary("Abs", y)?;
    let bound = g.scale(bound, rtol)?;
    let bound = g.offset(bound, atol)?;
    let near = g.op("LessEqual", &[distance, bound], &[])?;
    let finite = g.unary("IsFinite", y)?;
    let near = g.op("LogicalAnd", &[near, finite], &[])?;
    let mut out = g.op("LogicalOr", &[same, near], &[])?;
    if a.bool(NAMED, &["equal_nan"], false)? {
        let (no_x, no_y) = (g.unary("IsNan", x)?, g.unary("IsNan", y)?);
        let both = g.op("LogicalAnd", &[no_x, no_y], &[])?;
        out = g.op("LogicalOr", &[out, both], &[])?;
    }
    Ok(out)
}
