//! Arithmetic with broadcasting.
use tfjs_kernels::DType;

use super::{GradCx, Result, Row, row};

pub(super) const RULES: &[Row] = &[
    row("AccumulateNV2", add_n),
    row("Add", add),
    row("AddN", add_n),
    row("AddV2", add),
    row("Atan2", |c| {
        let (y, x, dy) = (c.x(0), c.x(1), c.dy()?);
        let (yy, xx) = (c.un("Square", y)?, c.un("Square", x)?);
        let squares = c.add(yy, xx)?;
        let g = c.div(dy, squares)?;
        let (gy, gx) = (c.mul(x, g)?, c.mul(y, g)?);
        let gx = c.neg(gx)?;
        c.set_reduced(0, gy)?;
        c.set_reduced(1, gx)
    }),
    row("BiasAdd", bias_add),
    row("BiasAddV1", bias_add),
    row("Div", quotient),
    row("DivNoNan", |c| {
        let (x, y, dy) = (c.x(0), c.x(1), c.dy()?);
        let (x, y) = (c.conj(x)?, c.conj(y)?);
        let gx = c.bin("DivNoNan", dy, y)?;
        c.set_reduced(0, gx)?;
        if c.wants(1) {
            let q = c.bin("DivNoNan", x, y)?;
            let q = c.bin("DivNoNan", q, y)?;
            let gy = c.mul(dy, q)?;
            let gy = c.neg(gy)?;
            c.set_reduced(1, gy)?;
        }
        Ok(())
    }),
    row("FloorMod", |c| remainder(c, "FloorDiv")),
    row("Maximum", |c| extreme(c, "GreaterEqual")),
    row("Minimum", |c| extreme(c, "LessEqual")),
    row("Mul", |c| {
        let (x, y, dy) = (c.x(0), c.x(1), c.dy()?);
        if c.wants(0) {
            let y = c.conj(y)?;
            let g = c.mul(dy, y)?;
            c.set_reduced(0, g)?;
        }
        if c.wants(1) {
            let x = c.conj(x)?;
            let g = c.mul(x, dy)?;
            c.set_reduced(1, g)?;
        }
        Ok(())
    }),
    row("MulNoNan", |c| {
        let (x, y, dy) = (c.x(0), c.x(1), c.dy()?);
        let gx = c.bin("MulNoNan", dy, y)?;
        c.set_reduced(0, gx)?;
        let gy = c.bin("MulNoNan", x, dy)?;
        c.set_reduced(1, gy)
    }),
    row("NextAfter", |c| {
        // The neighbour moves as the number does.
        let dy = c.dy()?;
        c.set_reduced(0, dy)?;
        let zeros = c.un("ZerosLike", dy)?;
        c.set_reduced(1, zeros)
    }),
    row("Pow", power),
    row("RealDiv", quotient),
    row("SquaredDifference", |c| {
        let (x, y, dy) = (c.x(0), c.x(1), c.dy()?);
        let difference = c.sub(x, y)?;
        let double = c.scale(difference, 2.0)?;
        let g = c.mul(dy, double)?;
        c.set_reduced(0, g)?;
        let g = c.neg(g)?;
        c.set_reduced(1, g)
    }),
    row("Sub", |c| {
        let dy = c.dy()?;
        c.set_reduced(0, dy)?;
        if c.wants(1) {
            let g = c.neg(dy)?;
            c.set_reduced(1, g)?;
        }
        Ok(())
    }),
    row("TruncateMod", |c| remainder(c, "TruncateDiv")),
    row("Mod", |c| remainder(c, "TruncateDiv")),
    row("Xdivy", |c| {
        let (x, y, dy) = (c.x(0), c.x(1), c.dy()?);
        let one = c.number(1.0, x);
        let inverse = xdivy(c, x, one, y)?;
        let gx = c.mul(inverse, dy)?;
        c.set_reduced(0, gx)?;
        let squared = c.un("Square", y)?;
        let minus = c.neg(x)?;
        let slope = c.bin("Xdivy", minus, squared)?;
        let gy = c.mul(slope, dy)?;
        c.set_reduced(1, gy)
    }),
    row("Xlog1py", |c| {
        let (x, y, dy) = (c.x(0), c.x(1), c.dy()?);
        let mask = nonzero(c, x)?;
        let slope = c.bin("Xlog1py", mask, y)?;
        let gx = c.mul(slope, dy)?;
        c.set_reduced(0, gx)?;
        let base = c.plus(y, 1.0)?;
        let slope = c.bin("Xdivy", x, base)?;
        let gy = c.mul(slope, dy)?;
        c.set_reduced(1, gy)
    }),
    row("Xlogy", |c| {
        let (x, y, dy) = (c.x(0), c.x(1), c.dy()?);
        let mask = nonzero(c, x)?;
        let slope = c.bin("Xlogy", mask, y)?;
        let gx = c.mul(slope, dy)?;
        c.set_reduced(0, gx)?;
        let slope = c.bin("Xdivy", x, y)?;
        let gy = c.mul(slope, dy)?;
        c.set_reduced(1, gy)
    }),
];

/// 1 where `x` is not zero.
fn nonzero(c: &mut GradCx<'_>, x: crate::Port) -> Result<crate::Port> {
    let zero = c.number(0.0, x);
    let differs = c.bin("NotEqual", x, zero)?;
    let dtype = c.fact(x).dtype.unwrap_or(DType::Float32);
    c.cast(differs, dtype)
}

/// `one / y` where `x` is not zero.
fn xdivy(c: &mut GradCx<'_>, x: crate::Port, _one: crate::Port, y: crate::Port) -> Result<crate::Port> {
    let mask = nonzero(c, x)?;
    c.bin("Xdivy", mask, y)
}

fn add(c: &mut GradCx<'_>) -> Result<()> {
    let dy = c.dy()?;
    c.set_reduced(0, dy)?;
    c.set_reduced(1, dy)
}

fn add_n(c: &mut GradCx<'_>) -> Result<()> {
    let dy = c.dy()?;
    (0..c.inputs()).try_for_each(|i| c.set(i, dy))
}

fn bias_add(c: &mut GradCx<'_>) -> Result<()> {
    let dy = c.dy()?;
    c.set(0, dy)?;
    if c.wants(1) {
        let g = c.op_with("BiasAddGrad", &[dy], &["data_format"])?;
        c.set(1, g)?;
    }
    Ok(())
}

fn quotient(c: &mut GradCx<'_>) -> Result<()> {
    let (x, y, dy) = (c.x(0), c.x(1), c.dy()?);
    let y = c.conj(y)?;
    if c.wants(0) {
        let g = c.div(dy, y)?;
        c.set_reduced(0, g)?;
    }
    if c.wants(1) {
        let x = c.conj(x)?;
        let minus = c.neg(x)?;
        let q = c.div(minus, y)?;
        let q = c.div(q, y)?;
        let g = c.mul(dy, q)?;
        c.set_reduced(1, g)?;
    }
    Ok(())
}

/// `x - quotient · y`.
fn remainder(c: &mut GradCx<'_>, quotient: &str) -> Result<()> {
    let (x, y, dy) = (c.x(0), c.x(1), c.dy()?);
    c.set_reduced(0, dy)?;
    let q = c.bin(quotient, x, y)?;
    let g = c.mul(dy, q)?;
    let g = c.neg(g)?;
    c.set_reduced(1, g)
}

/// The first input has the gradient where it is the one, or as good.
fn extreme(c: &mut GradCx<'_>, first: &str) -> Result<()> {
    let (x, y, dy) = (c.x(0), c.x(1), c.dy()?);
    let picked = c.bin(first, x, y)?;
    if c.wants(0) {
        let g = c.only_where(picked, dy)?;
        c.set_reduced(0, g)?;
    }
    if c.wants(1) {
        let g = c.unless(picked, dy)?;
        c.set_reduced(1, g)?;
    }
    Ok(())
}

fn power(c: &mut GradCx<'_>) -> Result<()> {
    let (x, y, z, dy) = (c.x(0), c.x(1), c.y(0), c.dy()?);
    let (x, y, z) = (c.conj(x)?, c.conj(y)?, c.conj(z)?);
    if c.wants(0) {
        let less = c.plus(y, -1.0)?;
        let power = c.bin("Pow", x, less)?;
        let slope = c.mul(y, power)?;
        let g = c.mul(dy, slope)?;
        c.set_reduced(0, g)?;
    }
    if c.wants(1) {
        // The logarithm of zero and of negative numbers does not count.
        let zero = c.number(0.0, x);
        let complex = c.fact(x).dtype == Some(DType::Complex64);
        let counts = c.bin(if complex { "NotEqual" } else { "Greater" }, x, zero)?;
        let one = c.number(1.0, x);
        let safe = c.op("SelectV2", &[counts, x, one], &[])?;
        let log = c.un("Log", safe)?;
        let slope = c.mul(z, log)?;
        let g = c.mul(dy, slope)?;
        c.set_reduced(1, g)?;
    }
    Ok(())
}
