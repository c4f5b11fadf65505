//! Functions of single elements.
use std::f32::consts::{FRAC_2_SQRT_PI, FRAC_PI_2, PI};

use super::{GradCx, Result, Row, row};
use crate::Port;

pub(super) const RULES: &[Row] = &[
    row("Abs", |c| c.chain(|c, x, _| c.un("Sign", x))),
    row("Acos", |c| {
        c.chain(|c, x, _| {
            let g = one_minus_square(c, x)?;
            let g = c.un("Rsqrt", g)?;
            c.neg(g)
        })
    }),
    row("Acosh", |c| {
        c.chain(|c, _, y| {
            let sinh = c.un("Sinh", y)?;
            c.un("Reciprocal", sinh)
        })
    }),
    row("Angle", |c| {
        let (x, dy) = (c.x(0), c.dy()?);
        let (re, im) = (c.un("Real", x)?, c.un("Imag", x)?);
        let turned = c.bin("Complex", im, re)?;
        let inverse = c.un("Reciprocal", turned)?;
        let zero = c.un("ZerosLike", dy)?;
        let dy = c.bin("Complex", dy, zero)?;
        let g = c.mul(dy, inverse)?;
        let g = c.neg(g)?;
        c.set(0, g)
    }),
    row("Asin", |c| {
        c.chain(|c, x, _| {
            let g = one_minus_square(c, x)?;
            c.un("Rsqrt", g)
        })
    }),
    row("Asinh", |c| {
        c.chain(|c, _, y| {
            let cosh = c.un("Cosh", y)?;
            c.un("Reciprocal", cosh)
        })
    }),
    row("Atan", |c| {
        c.chain(|c, x, _| {
            let square = c.un("Square", x)?;
            let g = c.plus(square, 1.0)?;
            c.un("Reciprocal", g)
        })
    }),
    row("Atanh", |c| {
        c.chain(|c, x, _| {
            let g = one_minus_square(c, x)?;
            c.un("Reciprocal", g)
        })
    }),
    row("BesselI0", |c| c.chain(|c, x, _| c.un("BesselI1", x))),
    row("BesselI0e", |c| {
        c.chain(|c, x, y| {
            let (i1, sign) = (c.un("BesselI1e", x)?, c.un("Sign", x)?);
            let part = c.mul(sign, y)?;
            c.sub(i1, part)
        })
    }),
    row("BesselI1", |c| {
        c.chain(|c, x, y| {
            let i0 = c.un("BesselI0", x)?;
            let ratio = c.div(y, x)?;
            let g = c.sub(i0, ratio)?;
            at_zero(c, x, g, 0.5)
        })
    }),
    row("BesselI1e", |c| {
        c.chain(|c, x, y| {
            let (i0, sign) = (c.un("BesselI0e", x)?, c.un("Sign", x)?);
            let inverse = c.un("Reciprocal", x)?;
            let factor = c.add(sign, inverse)?;
            let part = c.mul(y, factor)?;
            let g = c.sub(i0, part)?;
            at_zero(c, x, g, 0.5)
        })
    }),
    row("BesselJ0", |c| {
        c.chain(|c, x, _| {
            let g = c.un("BesselJ1", x)?;
            c.neg(g)
        })
    }),
    row("BesselJ1", |c| {
        c.chain(|c, x, y| {
            let j0 = c.un("BesselJ0", x)?;
            let ratio = c.div(y, x)?;
            let g = c.sub(j0, ratio)?;
            at_zero(c, x, g, 0.5)
        })
    }),
    row("BesselK0", |c| {
        c.chain(|c, x, _| {
            let g = c.un("BesselK1", x)?;
            c.neg(g)
        })
    }),
    row("BesselK0e", |c| {
        c.chain(|c, x, y| {
            let k1 = c.un("BesselK1e", x)?;
            c.sub(y, k1)
        })
    }),
    row("BesselK1", |c| {
        c.chain(|c, x, y| {
            let k0 = c.un("BesselK0", x)?;
            let ratio = c.div(y, x)?;
            let sum = c.add(k0, ratio)?;
            c.neg(sum)
        })
    }),
    row("BesselK1e", |c| {
        c.chain(|c, x, y| {
            let k0 = c.un("BesselK0e", x)?;
            let inverse = c.un("Reciprocal", x)?;
            let factor = c.minus(1.0, inverse)?;
            let part = c.mul(y, factor)?;
            c.sub(part, k0)
        })
    }),
    row("BesselY0", |c| {
        c.chain(|c, x, _| {
            let g = c.un("BesselY1", x)?;
            c.neg(g)
        })
    }),
    row("BesselY1", |c| {
        c.chain(|c, x, y| {
            let y0 = c.un("BesselY0", x)?;
            let ratio = c.div(y, x)?;
            c.sub(y0, ratio)
        })
    }),
    row("Betainc", betainc),
    row("ClipByValue", clip),
    row("Complex", |c| {
        let dy = c.dy()?;
        let (re, im) = (c.un("Real", dy)?, c.un("Imag", dy)?);
        c.set_reduced(0, re)?;
        c.set_reduced(1, im)
    }),
    row("ComplexAbs", |c| {
        let (x, dy) = (c.x(0), c.dy()?);
        let zero = c.un("ZerosLike", dy)?;
        let (dy, sign) = (c.bin("Complex", dy, zero)?, c.un("Sign", x)?);
        let g = c.mul(dy, sign)?;
        c.set(0, g)
    }),
    row("Conj", |c| {
        let dy = c.dy()?;
        let g = c.un("Conj", dy)?;
        c.set(0, g)
    }),
    row("Cos", |c| {
        c.chain(|c, x, _| {
            let g = c.un("Sin", x)?;
            c.neg(g)
        })
    }),
    row("Cosh", |c| c.chain(|c, x, _| c.un("Sinh", x))),
    row("Dawsn", |c| {
        c.chain(|c, x, y| {
            let product = c.mul(x, y)?;
            let double = c.scale(product, 2.0)?;
            c.minus(1.0, double)
        })
    }),
    row("Digamma", |c| {
        c.chain(|c, x, _| {
            let one = c.number(1.0, x);
            c.bin("Polygamma", one, x)
        })
    }),
    row("Elu", |c| with_output(c, "EluGrad")),
    row("Erf", |c| c.chain(|c, x, _| gaussian(c, x, FRAC_2_SQRT_PI))),
    row("Erfc", |c| c.chain(|c, x, _| gaussian(c, x, -FRAC_2_SQRT_PI))),
    row("Erfinv", |c| {
        c.chain(|c, _, y| {
            let square = c.un("Square", y)?;
            let exp = c.un("Exp", square)?;
            c.scale(exp, 1.0 / FRAC_2_SQRT_PI)
        })
    }),
    row("Exp", |c| c.chain(|_, _, y| Ok(y))),
    row("Expint", |c| {
        c.chain(|c, x, _| {
            let exp = c.un("Exp", x)?;
            c.div(exp, x)
        })
    }),
    row("Expm1", |c| c.chain(|c, x, _| c.un("Exp", x))),
    row("FresnelCos", |c| c.chain(|c, x, _| fresnel(c, x, "Cos"))),
    row("FresnelSin", |c| c.chain(|c, x, _| fresnel(c, x, "Sin"))),
    row("Igamma", |c| incomplete_gamma(c, 1.0)),
    row("Igammac", |c| incomplete_gamma(c, -1.0)),
    row("Imag", |c| {
        let dy = c.dy()?;
        let zero = c.un("ZerosLike", dy)?;
        let g = c.bin("Complex", zero, dy)?;
        c.set(0, g)
    }),
    row("Inv", inverse),
    row("LeakyRelu", |c| {
        let (x, dy) = (c.x(0), c.dy()?);
        let g = c.op_with("LeakyReluGrad", &[dy, x], &["alpha"])?;
        c.set(0, g)
    }),
    row("Lgamma", |c| c.chain(|c, x, _| c.un("Digamma", x))),
    row("Log", |c| c.chain(|c, x, _| c.un("Reciprocal", x))),
    row("Log1p", |c| {
        c.chain(|c, x, _| {
            let g = c.plus(x, 1.0)?;
            c.un("Reciprocal", g)
        })
    }),
    row("Ndtri", |c| {
        c.chain(|c, _, y| {
            let square = c.un("Square", y)?;
            let half = c.scale(square, 0.5)?;
            let exp = c.un("Exp", half)?;
            c.scale(exp, (2.0 * PI).sqrt())
        })
    }),
    row("Neg", |c| {
        let dy = c.dy()?;
        let g = c.neg(dy)?;
        c.set(0, g)
    }),
    row("Polygamma", |c| {
        let (n, x, dy) = (c.x(0), c.x(1), c.dy()?);
        if c.wants(0) {
            return c.refuse("the derivative by the order is not known");
        }
        let next = c.plus(n, 1.0)?;
        let slope = c.bin("Polygamma", next, x)?;
        let g = c.mul(dy, slope)?;
        c.set_reduced(1, g)
    }),
    row("Prelu", |c| {
        let (x, alpha, dy) = (c.x(0), c.x(1), c.dy()?);
        let zero = c.number(0.0, x);
        let negative = c.bin("Less", x, zero)?;
        if c.wants(0) {
            let scaled = c.mul(dy, alpha)?;
            let g = c.op("SelectV2", &[negative, scaled, dy], &[])?;
            c.set_reduced(0, g)?;
        }
        if c.wants(1) {
            let g = c.mul(dy, x)?;
            let g = c.only_where(negative, g)?;
            c.set_reduced(1, g)?;
        }
        Ok(())
    }),
    row("Real", |c| {
        let dy = c.dy()?;
        let zero = c.un("ZerosLike", dy)?;
        let g = c.bin("Complex", dy, zero)?;
        c.set(0, g)
    }),
    row("Reciprocal", inverse),
    row("Relu", |c| {
        let (y, dy) = (c.y(0), c.dy()?);
        let g = c.bin("ReluGrad", dy, y)?;
        c.set(0, g)
    }),
    row("Relu6", |c| {
        let (y, dy) = (c.y(0), c.dy()?);
        let g = c.bin("Relu6Grad", dy, y)?;
        c.set(0, g)
    }),
    row("Rsqrt", |c| {
        let (y, dy) = (c.y(0), c.dy()?);
        let g = c.bin("RsqrtGrad", y, dy)?;
        c.set(0, g)
    }),
    row("Selu", |c| with_output(c, "SeluGrad")),
    row("Sigmoid", |c| {
        let (y, dy) = (c.y(0), c.dy()?);
        let g = c.bin("SigmoidGrad", y, dy)?;
        c.set(0, g)
    }),
    row("Sin", |c| c.chain(|c, x, _| c.un("Cos", x))),
    row("Sinh", |c| c.chain(|c, x, _| c.un("Cosh", x))),
    row("Softplus", |c| {
        let (x, dy) = (c.x(0), c.dy()?);
        let g = c.bin("SoftplusGrad", dy, x)?;
        c.set(0, g)
    }),
    row("Softsign", |c| {
        let (x, dy) = (c.x(0), c.dy()?);
        let g = c.bin("SoftsignGrad", dy, x)?;
        c.set(0, g)
    }),
    row("Spence", |c| {
        c.chain(|c, x, _| {
            let (log, rest) = (c.un("Log", x)?, c.minus(1.0, x)?);
            let g = c.div(log, rest)?;
            let (one, limit) = (c.number(1.0, x), c.number(-1.0, x));
            let at_one = c.bin("Equal", x, one)?;
            c.op("SelectV2", &[at_one, limit, g], &[])
        })
    }),
    row("Sqrt", |c| {
        let (y, dy) = (c.y(0), c.dy()?);
        let g = c.bin("SqrtGrad", y, dy)?;
        c.set(0, g)
    }),
    row("Square", |c| c.chain(|c, x, _| c.scale(x, 2.0))),
    row("Tan", |c| {
        c.chain(|c, x, _| {
            let cos = c.un("Cos", x)?;
            let inverse = c.un("Reciprocal", cos)?;
            c.un("Square", inverse)
        })
    }),
    row("Tanh", |c| {
        let (y, dy) = (c.y(0), c.dy()?);
        let g = c.bin("TanhGrad", y, dy)?;
        c.set(0, g)
    }),
    row("Zeta", |c| {
        let (x, q, dy) = (c.x(0), c.x(1), c.dy()?);
        if c.wants(0) {
            return c.refuse("the derivative by the exponent is not known");
        }
        let next = c.plus(x, 1.0)?;
        let zeta = c.bin("Zeta", next, q)?;
        let slope = c.mul(x, zeta)?;
        let g = c.mul(dy, slope)?;
        let g = c.neg(g)?;
        c.set_reduced(1, g)
    }),
];

fn one_minus_square(c: &mut GradCx<'_>, x: Port) -> Result<Port> {
    let square = c.un("Square", x)?;
    c.minus(1.0, square)
}

/// `g`, but `value` where `x` is zero.
fn at_zero(c: &mut GradCx<'_>, x: Port, g: Port, value: f32) -> Result<Port> {
    let (zero, value) = (c.number(0.0, x), c.number(value, x));
    let zero = c.bin("Equal", x, zero)?;
    c.op("SelectV2", &[zero, value, g], &[])
}

/// `factor · exp(-x²)`
fn gaussian(c: &mut GradCx<'_>, x: Port, factor: f32) -> Result<Port> {
    let square = c.un("Square", x)?;
    let minus = c.neg(square)?;
    let exp = c.un("Exp", minus)?;
    c.scale(exp, factor)
}

fn fresnel(c: &mut GradCx<'_>, x: Port, op: &str) -> Result<Port> {
    let square = c.un("Square", x)?;
    let angle = c.scale(square, FRAC_PI_2)?;
    c.un(op, angle)
}

/// A gradient op that takes the gradient and the output.
fn with_output(c: &mut GradCx<'_>, op: &str) -> Result<()> {
    let (y, dy) = (c.y(0), c.dy()?);
    let g = c.bin(op, dy, y)?;
    c.set(0, g)
}

fn inverse(c: &mut GradCx<'_>) -> Result<()> {
    c.chain(|c, _, y| {
        let square = c.un("Square", y)?;
        c.neg(square)
    })
}

fn clip(c: &mut GradCx<'_>) -> Result<()> {
    let (x, low, high, dy) = (c.x(0), c.x(1), c.x(2), c.dy()?);
    let (below, above) = (c.bin("Less", x, low)?, c.bin("Greater", x, high)?);
    if c.wants(0) {
        let outside = c.bin("LogicalOr", below, above)?;
        let g = c.unless(outside, dy)?;
        c.set(0, g)?;
    }
    for (i, outside) in [(1, below), (2, above)] {
        if c.wants(i) {
            let g = c.only_where(outside, dy)?;
            c.set_reduced(i, g)?;
        }
    }
    Ok(())
}

/// By `a` an op of its own, by `x` `± x^(a - 1) e^-x / Γ(a)`.
fn incomplete_gamma(c: &mut GradCx<'_>, sign: f32) -> Result<()> {
    let (a, x, dy) = (c.x(0), c.x(1), c.dy()?);
    if c.wants(0) {
        let slope = c.bin("IgammaGradA", a, x)?;
        let slope = c.scale(slope, sign)?;
        let g = c.mul(dy, slope)?;
        c.set_reduced(0, g)?;
    }
    if !c.wants(1) {
        return Ok(());
    }
    let (less, log) = (c.plus(a, -1.0)?, c.un("Log", x)?);
    let (power, gamma) = (c.mul(less, log)?, c.un("Lgamma", a)?);
    let exponent = c.sub(power, x)?;
    let exponent = c.sub(exponent, gamma)?;
    let slope = c.un("Exp", exponent)?;
    let slope = c.scale(slope, sign)?;
    let g = c.mul(dy, slope)?;
    c.set_reduced(1, g)
}

/// By `x` only.
fn betainc(c: &mut GradCx<'_>) -> Result<()> {
    let (a, b, x, dy) = (c.x(0), c.x(1), c.x(2), c.dy()?);
    if c.wants(0) || c.wants(1) {
        return c.refuse("the derivatives by `a` and `b` are not known");
    }
    let (la, lb) = (c.un("Lgamma", a)?, c.un("Lgamma", b)?);
    let both = c.add(a, b)?;
    let lab = c.un("Lgamma", both)?;
    let beta = c.add(la, lb)?;
    let beta = c.sub(beta, lab)?;
    let (b1, a1, minus) = (c.plus(b, -1.0)?, c.plus(a, -1.0)?, c.neg(x)?);
    let (one, two) = (c.bin("Xlog1py", b1, minus)?, c.bin("Xlogy", a1, x)?);
    let sum = c.add(one, two)?;
    let exponent = c.sub(sum, beta)?;
    let slope = c.un("Exp", exponent)?;
    let g = c.mul(dy, slope)?;
    c.set_reduced(2, g)
}
