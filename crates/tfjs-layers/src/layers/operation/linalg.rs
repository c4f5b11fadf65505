//! Products, norms, and matrices of a known size: determinants, inverses, solutions of linear equations.

use serde_json::Value;
use tfjs_graph::{Port, builder::attr};
use tfjs_kernels::{DType, Tensor};

use super::args::{Args, NAMED, wrong};
use super::{Result, Row, one, reduction, shape::flat};
use crate::emit::table_size;
use crate::{Emit, einsum::einsum, emit::Dim, topology::Arg};

pub(super) const OPS: &[Row] = &[
    ("matmul", |g, a| {
        let (x, y) = a.pair(g)?;
        let flag = |names: &[&str]| a.bool(NAMED, names, false);
        let (tx, ty) = (flag(&["transpose_a", "adjoint_a"])?, flag(&["transpose_b", "adjoint_b"])?);
        one(matmul(g, x, y, tx, ty))
    }),
    ("einsum", |g, a| {
        let equation = match (a.text(NAMED, &["subscripts", "equation"])?, a.get(0, &[])) {
            (Some(equation), _) => equation,
            (None, Some(Arg::Value(Value::String(equation)))) => equation,
            _ => return Err(wrong(&["subscripts"], "it is missing")),
        };
        let operands = a.operands(g)?;
        one(einsum(g, &equation, &operands))
    }),
    ("dot", |g, a| {
        let (x, y) = a.pair(g)?;
        match (g.rank(x)?, g.rank(y)?) {
            (0, _) | (_, 0) => one(g.mul(x, y)),
            (_, 1) => {
                let last = g.rank(x)? as i64 - 1;
                one(tensordot(g, x, y, &[last], &[0]))
            }
            (n, m) => one(tensordot(g, x, y, &[n as i64 - 1], &[m as i64 - 2])),
        }
    }),
    ("inner", |g, a| {
        let (x, y) = a.pair(g)?;
        if g.rank(x)? == 0 || g.rank(y)? == 0 {
            return one(g.mul(x, y));
        }
        one(tensordot(g, x, y, &[-1], &[-1]))
    }),
    ("vdot", |g, a| {
        let (x, y) = a.pair(g)?;
        let (x, y) = (flat(g, x)?, flat(g, y)?);
        let product = g.mul(x, y)?;
        one(g.reduce("Sum", product, &[0], false))
    }),
    ("outer", |g, a| {
        let (x, y) = a.pair(g)?;
        let (x, y) = (flat(g, x)?, flat(g, y)?);
        let (x, y) = (g.expand_dims(x, 1)?, g.expand_dims(y, 0)?);
        one(g.mul(x, y))
    }),
    ("tensordot", |g, a| {
        let (x, y) = a.pair(g)?;
        let (of_x, of_y) = match a.get(2, &["axes"]) {
            Some(Arg::Value(Value::Array(pair))) if pair.len() == 2 => {
                let list = |v: &Value| match v {
                    Value::Array(items) => items.iter().map(Value::as_i64).collect::<Option<Vec<_>>>(),
                    v => v.as_i64().map(|n| vec![n]),
                };
                match (list(&pair[0]), list(&pair[1])) {
                    (Some(x), Some(y)) => (x, y),
                    _ => return Err(wrong(&["axes"], "they are no axes")),
                }
            }
            _ => {
                let n = a.int(2, &["axes"])?.unwrap_or(2);
                ((-n..0).collect(), (0..n).collect())
            }
        };
        one(tensordot(g, x, y, &of_x, &of_y))
    }),
    ("kron", |g, a| {
        let (x, y) = a.pair(g)?;
        let rank = g.rank(x)?;
        if rank != g.rank(y)? {
            return Err(wrong(&["x2"], "it has another rank"));
        }
        let (mut wide, mut own) = (x, y);
        let mut dims = Vec::new();
        for axis in 0..rank {
            wide = g.expand_dims(wide, 2 * axis + 1)?;
            own = g.expand_dims(own, 2 * axis)?;
            let product = g.known_dim(x, axis, "size")?.saturating_mul(g.known_dim(y, axis, "size")?);
            dims.push(Dim::Known(product));
        }
        let product = g.mul(wide, own)?;
        one(g.reshape(product, &dims))
    }),
    ("cross", |g, a| {
        let (x, y) = a.pair(g)?;
        let axis = a.int(NAMED, &["axis"])?.unwrap_or(-1);
        let (i, j) = (g.axis(x, axis)?, g.axis(y, axis)?);
        let (xs, ys) = (g.split(x, i, 3)?, g.split(y, j, 3)?);
        let mut parts = Vec::new();
        for k in 0..3 {
            let (m, n) = ((k + 1) % 3, (k + 2) % 3);
            let (first, second) = (g.mul(xs[m], ys[n])?, g.mul(xs[n], ys[m])?);
            parts.push(g.sub(first, second)?);
        }
        one(g.concat(&parts, i))
    }),
    ("norm", |g, a| one(norm(g, a))),
    ("det", |g, a| {
        let x = a.float_x(g)?;
        one(eliminate(g, x, None)
            .map(|(_, (sign, logs))| (sign, logs))
            .and_then(|(sign, size)| g.mul(sign, size)))
    }),
    ("slogdet", |g, a| {
        let x = a.float_x(g)?;
        let (_, (sign, size)) = eliminate(g, x, None)?;
        let log = g.unary("Log", size)?;
        Ok(vec![sign, log])
    }),
    ("logdet", |g, a| {
        let x = a.float_x(g)?;
        let (_, (_, size)) = eliminate(g, x, None)?;
        one(g.unary("Log", size))
    }),
    ("inv", |g, a| {
        let x = a.float_x(g)?;
        one(inverse(g, x))
    }),
    ("solve", |g, a| {
        let x = a.float_x(g)?;
        let b = a.tensor(g, 1, &["b", "rhs"])?;
        one(solve(g, x, b))
    }),
    ("cholesky", |g, a| {
        let x = a.float_x(g)?;
        one(cholesky(g, x, a.bool(NAMED, &["upper"], false)?))
    }),
    ("c_dist", |g, a| {
        let (x, y) = a.pair(g)?;
        let p = a.float(NAMED, &["p"])?.unwrap_or(2.0) as f32;
        let (rx, ry) = (g.rank(x)?, g.rank(y)?);
        let (x, y) = (g.expand_dims(x, rx - 1)?, g.expand_dims(y, ry.saturating_sub(2))?);
        let distance = g.sub(x, y)?;
        let last = g.axis(distance, -1)?;
        one(vector_norm(g, distance, p, last, false))
    }),
];

/// The inverse of matrices.
pub(super) fn inverse(g: &mut Emit, x: Port) -> Result<Port> {
    let n = g.known_dim(x, g.rank(x)?.saturating_sub(1), "size of the matrix")?;
    let eye: Vec<f32> =
        (0..table_size(&[n, n])?).map(|i| f32::from(u8::from(i / n.max(1) == i % n.max(1)))).collect();
    let eye = g.constant(Tensor::new([n, n], eye)?);
    eliminate(g, x, Some(eye)).map(|(solution, _)| solution)
}

/// What times the matrices gives `b`, which may be of vectors.
pub(super) fn solve(g: &mut Emit, x: Port, b: Port) -> Result<Port> {
    if g.rank(b)? + 1 == g.rank(x)? {
        let last = g.rank(b)?;
        let b = g.expand_dims(b, last)?;
        let y = eliminate(g, x, Some(b))?.0;
        return g.squeeze(y, &[last]);
    }
    eliminate(g, x, Some(b)).map(|(solution, _)| solution)
}

impl Args<'_> {
    /// All tensors of an equation.
    fn operands(&self, g: &mut Emit) -> Result<Vec<Port>> {
        let mut out = Vec::new();
        let mut position = 0;
        while let Some(arg) = self.get(position, &[]) {
            position += 1;
            match arg {
                Arg::Value(Value::String(_)) => {}
                Arg::List(items) => {
                    for item in &items {
                        out.push(super::args::port(g, item, Some(DType::Float32), &["operands"])?);
                    }
                }
                other => out.push(super::args::port(g, &other, Some(DType::Float32), &["operands"])?),
            }
        }
        // TensorFlow's wrapper names the operands behind the equation.
        if let Some(Arg::List(items)) = self.get(NAMED, &["inputs", "operands"]) {
            for item in &items {
                out.push(super::args::port(g, item, Some(DType::Float32), &["operands"])?);
            }
        }
        Ok(out)
    }
}

/// Product of matrices in the last two axes; vectors are rows on the left, columns on the right.
pub(super) fn matmul(g: &mut Emit, x: Port, y: Port, transpose_x: bool, transpose_y: bool) -> Result<Port> {
    let (rx, ry) = (g.rank(x)?, g.rank(y)?);
    if rx == 1 || ry == 1 {
        let wide_x = if rx == 1 { g.expand_dims(x, 0)? } else { x };
        let wide_y = if ry == 1 { g.expand_dims(y, 1)? } else { y };
        let product = matmul(g, wide_x, wide_y, transpose_x && rx > 1, transpose_y && ry > 1)?;
        let rank = g.rank(product)?;
        let mut axes = Vec::new();
        if rx == 1 {
            axes.push(rank - 2);
        }
        if ry == 1 {
            axes.push(rank - 1);
        }
        return g.squeeze(product, &axes);
    }
    let (tx, ty) = (attr::bool(transpose_x), attr::bool(transpose_y));
    if rx == 2 && ry == 2 {
        return g.op("MatMul", &[x, y], &[("transpose_a", tx), ("transpose_b", ty)]);
    }
    let known = |d: Option<usize>| d.is_some();
    if ry == 2 && !transpose_x && !transpose_y && g.shape(y)?.into_iter().all(known) {
        return g.matmul(x, y);
    }
    g.op("BatchMatMulV2", &[x, y], &[("adj_x", tx), ("adj_y", ty)])
}

fn tensordot(g: &mut Emit, x: Port, y: Port, of_x: &[i64], of_y: &[i64]) -> Result<Port> {
    let axes =
        |g: &Emit, v: Port, list: &[i64]| list.iter().map(|&i| g.axis(v, i)).collect::<Result<Vec<_>>>();
    let (of_x, of_y) = (axes(g, x, of_x)?, axes(g, y, of_y)?);
    if of_x.len() != of_y.len() || g.rank(x)? + g.rank(y)? > 40 {
        return Err(wrong(&["axes"], "they do not fit"));
    }
    let letters: Vec<char> = ('a'..='z').chain('A'..='Z').collect();
    let left: Vec<char> = letters[..g.rank(x)?].to_vec();
    let mut right: Vec<char> = letters[left.len()..left.len() + g.rank(y)?].to_vec();
    for (&i, &j) in of_x.iter().zip(&of_y) {
        right[j] = left[i];
    }
    let free = |side: &[char], other: &[char]| side.iter().filter(|c| !other.contains(c)).collect::<String>();
    let output = free(&left, &right) + &free(&right, &left);
    let text = |side: &[char]| side.iter().collect::<String>();
    einsum(g, &format!("{},{}->{output}", text(&left), text(&right)), &[x, y])
}

/// (Σ |x|ᵖ)^(1/p) along an axis.
pub(super) fn vector_norm(g: &mut Emit, x: Port, p: f32, axis: usize, keep: bool) -> Result<Port> {
    if p == 2.0 {
        let square = g.unary("Square", x)?;
        let sum = g.reduce("Sum", square, &[axis], keep)?;
        return g.unary("Sqrt", sum);
    }
    let magnitude = g.unary("Abs", x)?;
    if p == f32::INFINITY {
        return g.reduce("Max", magnitude, &[axis], keep);
    }
    if p == f32::NEG_INFINITY {
        return g.reduce("Min", magnitude, &[axis], keep);
    }
    if p == 1.0 {
        return g.reduce("Sum", magnitude, &[axis], keep);
    }
    if p == 0.0 {
        let zero = g.scalar(0.0);
        let there = g.op("NotEqual", &[x, zero], &[])?;
        let there = g.cast(there, DType::Float32)?;
        return g.reduce("Sum", there, &[axis], keep);
    }
    let (power, root) = (g.scalar(p), g.scalar(1.0 / p));
    let raised = g.op("Pow", &[magnitude, power], &[])?;
    let sum = g.reduce("Sum", raised, &[axis], keep)?;
    g.op("Pow", &[sum, root], &[])
}

fn norm(g: &mut Emit, a: &Args<'_>) -> Result<Port> {
    let x = a.float_x(g)?;
    let keep = reduction::keep_dims(a)?;
    let axes = reduction::axes(g, a, x)?;
    let given = a.get(NAMED, &["ord"]);
    let frobenius = match &given {
        None => true,
        Some(Arg::Value(Value::String(s))) => matches!(s.as_str(), "fro" | "euclidean"),
        _ => false,
    };
    if frobenius {
        let square = g.unary("Square", x)?;
        let sum = g.reduce("Sum", square, &axes, keep)?;
        return g.unary("Sqrt", sum);
    }
    let order = a.float(NAMED, &["ord"])?.unwrap_or(2.0) as f32;
    match axes.as_slice() {
        [axis] => vector_norm(g, x, order, *axis, keep),
        [rows, columns] => {
            let magnitude = g.unary("Abs", x)?;
            let (summed, other) = match order.abs() {
                1.0 => (*rows, *columns),
                o if o.is_infinite() => (*columns, *rows),
                _ => {
                    return Err(wrong(
                        &["ord"],
                        "matrix norms by singular values have no form in a graph here",
                    ));
                }
            };
            let sums = g.reduce("Sum", magnitude, &[summed], true)?;
            let y = g.reduce(if order > 0.0 { "Max" } else { "Min" }, sums, &[other], true)?;
            if keep { Ok(y) } else { g.squeeze(y, &axes) }
        }
        _ => Err(wrong(&["axis"], "norms are taken along one axis or two")),
    }
}

/// Largest matrices whose elimination is written out.
const LARGEST: usize = 32;

/// Gauss-Jordan elimination with the largest pivot of each column: the solution of `x · s = b` (`x` itself without `b`), and
/// sign and magnitude of the determinant.
fn eliminate(g: &mut Emit, x: Port, b: Option<Port>) -> Result<(Port, (Port, Port))> {
    let rank = g.rank(x)?;
    if rank < 2 {
        return Err(wrong(&["x"], "it is no matrix"));
    }
    let n = g.known_dim(x, rank - 1, "size of the matrix")?;
    if n > LARGEST || g.known_dim(x, rank - 2, "size of the matrix")? != n {
        return Err(wrong(&["x"], "it is no square matrix of up to 32 rows"));
    }
    let mut m = x;
    if let Some(b) = b {
        // Broadcast over the batch.
        let zero = reduction::cut(g, x, rank - 1, 0, Some(1))?;
        let zero = g.unary("ZerosLike", zero)?;
        let b = g.add(zero, b)?;
        m = g.concat(&[x, b], rank - 1)?;
    }
    let (mut sign, mut size): (Option<Port>, Option<Port>) = (None, None);
    for k in 0..n {
        let at = |i: usize| -> Vec<f32> { (0..n).map(|r| f32::from(u8::from(r == i))).collect() };
        let column = reduction::cut(g, m, rank - 1, k as i64, Some(k as i64 + 1))?;
        let column = g.squeeze(column, &[rank - 1])?;
        let magnitude = g.unary("Abs", column)?;
        // Rows above are done with.
        let open: Vec<f32> = (0..n).map(|r| if r < k { -1.0 } else { 0.0 }).collect();
        let weight: Vec<f32> = (0..n).map(|r| if r < k { 0.0 } else { 1.0 }).collect();
        let (open, weight) = (g.floats(&open), g.floats(&weight));
        let magnitude = g.mul(magnitude, weight)?;
        let magnitude = g.add(magnitude, open)?;
        let along = g.int((rank - 2) as i32);
        let place = g.op("ArgMax", &[magnitude, along], &[("output_type", attr::dtype(DType::Int32))])?;
        let (depth, on, off) = (g.int(n as i32), g.scalar(1.0), g.scalar(0.0));
        let hot = g.op("OneHot", &[place, depth, on, off], &[("axis", attr::int(-1))])?;
        let hot = g.expand_dims(hot, rank - 1)?;
        let picked = g.mul(hot, m)?;
        let pivot_row = g.reduce("Sum", picked, &[rank - 2], true)?;
        let own_row = reduction::cut(g, m, rank - 2, k as i64, Some(k as i64 + 1))?;
        // The pivot's row and row k change places.
        let half = g.scalar(0.5);
        let is_pivot = g.op("Greater", &[hot, half], &[])?;
        let own = g.constant(Tensor::new([n, 1], at(k))?);
        let is_own = g.op("Greater", &[own, half], &[])?;
        let below = g.select(is_own, pivot_row, m)?;
        let moved = g.select(is_pivot, own_row, below)?;
        let moved = g.select(is_own, pivot_row, moved)?;
        let pivot = reduction::cut(g, pivot_row, rank - 1, k as i64, Some(k as i64 + 1))?;
        let scaled = g.div(pivot_row, pivot)?;
        let factors = reduction::cut(g, moved, rank - 1, k as i64, Some(k as i64 + 1))?;
        let zero = g.scalar(0.0);
        let factors = g.select(is_own, zero, factors)?;
        let change = g.mul(factors, scaled)?;
        let reduced = g.sub(moved, change)?;
        m = g.select(is_own, scaled, reduced)?;
        let value = g.squeeze(pivot, &[rank - 2, rank - 1])?;
        let k_port = g.int(k as i32);
        let stayed = g.op("Equal", &[place, k_port], &[])?;
        let (plus, minus) = (g.scalar(1.0), g.scalar(-1.0));
        let turn = g.select(stayed, plus, minus)?;
        let own_sign = g.unary("Sign", value)?;
        let own_sign = g.mul(own_sign, turn)?;
        let own_size = g.unary("Abs", value)?;
        sign = Some(match sign {
            Some(s) => g.mul(s, own_sign)?,
            None => own_sign,
        });
        size = Some(match size {
            Some(s) => g.mul(s, own_size)?,
            None => own_size,
        });
    }
    let (Some(sign), Some(size)) = (sign, size) else { return Err(wrong(&["x"], "it is empty")) };
    let solution = if b.is_some() { reduction::cut(g, m, rank - 1, n as i64, None)? } else { m };
    Ok((solution, (sign, size)))
}

/// The triangular root of a positive definite matrix, column by column.
fn cholesky(g: &mut Emit, x: Port, upper: bool) -> Result<Port> {
    let rank = g.rank(x)?;
    let n = g.known_dim(x, rank.saturating_sub(1), "size of the matrix")?;
    if rank < 2 || n > LARGEST {
        return Err(wrong(&["x"], "it is no square matrix of up to 32 rows"));
    }
    let mut rest = x;
    let mut columns = Vec::new();
    for k in 0..n {
        let column = reduction::cut(g, rest, rank - 1, k as i64, Some(k as i64 + 1))?;
        let pivot = reduction::cut(g, column, rank - 2, k as i64, Some(k as i64 + 1))?;
        let root = g.unary("Sqrt", pivot)?;
        let column = g.div(column, root)?;
        let below: Vec<f32> = (0..n).map(|r| f32::from(u8::from(r >= k))).collect();
        let below = g.constant(Tensor::new([n, 1], below)?);
        let half = g.scalar(0.5);
        let is_below = g.op("Greater", &[below, half], &[])?;
        let zero = g.scalar(0.0);
        let column = g.select(is_below, column, zero)?;
        columns.push(column);
        let mut order: Vec<usize> = (0..rank).collect();
        order.swap(rank - 1, rank - 2);
        let row = g.transpose(column, &order)?;
        let product = g.mul(column, row)?;
        rest = g.sub(rest, product)?;
    }
    let y = g.concat(&columns, rank - 1)?;
    if !upper {
        return Ok(y);
    }
    let mut order: Vec<usize> = (0..rank).collect();
    order.swap(rank - 1, rank - 2);
    g.transpose(y, &order)
}
