//! Reductions over axes, positions of extremes, and running totals.
use num_complex::{Complex32, Complex64};

use crate::{
    DType, Element, KernelError, Result, Shape, Tensor, TensorOf,
    elementwise::map,
    par,
    simd::{self, Isa, Kernel, Simd},
    unary::{narrow, widen},
};

/// A reduction over axes, named as in TensorFlow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ReduceOp {
    /// Sum; integers wrap.
    Sum,
    /// Arithmetic mean; integers round toward zero.
    Mean,
    /// Product; integers wrap.
    Prod,
    /// Largest element; NaN wins.
    Max,
    /// Smallest element; NaN wins.
    Min,
    /// Whether all are true.
    All,
    /// Whether any is true.
    Any,
    /// Square root of the sum of squares.
    EuclideanNorm,
}

impl ReduceOp {
    /// All of them.
    pub const ALL: &[ReduceOp] = &[
        ReduceOp::Sum,
        ReduceOp::Mean,
        ReduceOp::Prod,
        ReduceOp::Max,
        ReduceOp::Min,
        ReduceOp::All,
        ReduceOp::Any,
        ReduceOp::EuclideanNorm,
    ];

    /// Checks the type of the input, which is also that of the result.
    ///
    /// # Errors
    /// [`KernelError::DType`] when the op does not take it.
    pub fn check(self, dtype: DType) -> Result<()> {
        let (fits, expected) = match self {
            ReduceOp::All | ReduceOp::Any => (dtype == DType::Bool, "bool"),
            ReduceOp::Max | ReduceOp::Min => {
                (matches!(dtype, DType::Float32 | DType::Int32), "float32 or int32")
            }
            _ => (!matches!(dtype, DType::Bool | DType::String), "float32, int32 or complex64"),
        };
        if fits { Ok(()) } else { Err(KernelError::DType { what: "the input", got: dtype, expected }) }
    }
}

/// A dimension's number from an axis that may count from the end.
///
/// # Errors
/// [`KernelError::Range`] when there is no such dimension.
pub fn axis(axis: i64, rank: usize) -> Result<usize> {
    let r = rank as i64;
    if (-r..r).contains(&axis) {
        return Ok(axis.rem_euclid(r.max(1)) as usize);
    }
    Err(KernelError::Range { what: "axis", got: axis, min: -r, max: r })
}

/// Reduces `x` over `axes` (none means none: the result is `x`); `keep_dims` leaves them with size 1.
///
/// # Errors
/// [`KernelError`] when the op does not take the type, or an axis is out of range or repeated.
pub fn reduce(op: ReduceOp, x: Tensor, axes: &[i64], keep_dims: bool) -> Result<Tensor> {
    op.check(x.dtype())?;
    let plan = Plan::new(x.dims(), axes, keep_dims)?;
    if axes.is_empty() && op != ReduceOp::EuclideanNorm {
        return Ok(x);
    }
    let n = plan.count;
    match x {
        Tensor::F32(x) => {
            let data = x.data();
            let out = match op {
                // In double precision: long sums keep all their digits, and memory is slower than the conversion.
                ReduceOp::Sum | ReduceOp::Mean => {
                    let sums = plan.run(data, 0.0f64, |a, v: f32| a + f64::from(v), |a, b| a + b);
                    let scale = if op == ReduceOp::Mean { n as f64 } else { 1.0 };
                    sums.into_iter().map(|s| (s / scale) as f32).collect()
                }
                ReduceOp::Prod => plan.run(data, 1.0, |a, v: f32| a * v, |a, b| a * b),
                // Written so that NaN wins from either side.
                ReduceOp::Max => {
                    let max = |a: f32, v: f32| if v <= a || a.is_nan() { a } else { v };
                    plan.run(data, f32::NEG_INFINITY, max, max)
                }
                ReduceOp::Min => {
                    let min = |a: f32, v: f32| if v >= a || a.is_nan() { a } else { v };
                    plan.run(data, f32::INFINITY, min, min)
                }
                _ => {
                    let squares =
                        plan.run(data, 0.0f64, |a, v: f32| a + f64::from(v) * f64::from(v), |a, b| a + b);
                    squares.into_iter().map(|s| s.sqrt() as f32).collect()
                }
            };
            Ok(TensorOf::new(plan.shape, out)?.into())
        }
        Tensor::I32(x) => {
            let data = x.data();
            let out = match op {
                ReduceOp::Sum => plan.run(data, 0, i32::wrapping_add, i32::wrapping_add),
                ReduceOp::Mean => {
                    let sums = plan.run(data, 0i64, |a, v: i32| a + i64::from(v), |a, b| a + b);
                    sums.into_iter().map(|s| s.checked_div(n as i64).unwrap_or(0) as i32).collect()
                }
                ReduceOp::Prod => plan.run(data, 1, i32::wrapping_mul, i32::wrapping_mul),
                ReduceOp::Max => plan.run(data, i32::MIN, |a, b| a.max(b), |a, b| a.max(b)),
                ReduceOp::Min => plan.run(data, i32::MAX, |a, b| a.min(b), |a, b| a.min(b)),
                _ => {
                    let squares =
                        plan.run(data, 0.0f64, |a, v: i32| a + f64::from(v) * f64::from(v), |a, b| a + b);
                    squares.into_iter().map(|s| s.sqrt() as i32).collect()
                }
            };
            Ok(TensorOf::new(plan.shape, out)?.into())
        }
        Tensor::C64(x) => {
            let data = x.data();
            let zero = Complex64::default();
            let out: Vec<Complex32> = match op {
                ReduceOp::Sum | ReduceOp::Mean => {
                    let sums = plan.run(data, zero, |a, v| a + widen(v), |a, b| a + b);
                    let scale = if op == ReduceOp::Mean { n as f64 } else { 1.0 };
                    sums.into_iter().map(|s| narrow(s / scale)).collect()
                }
                ReduceOp::Prod => {
                    let products =
                        plan.run(data, Complex64::new(1.0, 0.0), |a, v| a * widen(v), |a, b| a * b);
                    products.into_iter().map(narrow).collect()
                }
                _ => {
                    let squares = plan.run(data, 0.0, |a, v| a + widen(v).norm_sqr(), |a, b| a + b);
                    squares.into_iter().map(|s| Complex32::new(s.sqrt() as f32, 0.0)).collect()
                }
            };
            Ok(TensorOf::new(plan.shape, out)?.into())
        }
        Tensor::Bool(x) => {
            let out = if op == ReduceOp::All {
                plan.run(x.data(), true, |a, b| a & b, |a, b| a & b)
            } else {
                plan.run(x.data(), false, |a, b| a | b, |a, b| a | b)
            };
            Ok(TensorOf::new(plan.shape, out)?.into())
        }
        // `check` has refused strings.
        Tensor::Str(x) => Ok(x.into()),
    }
}

/// The result's shape, without computing it.
///
/// # Errors
/// [`KernelError`] when an axis is out of range or repeated.
pub fn reduced_shape(dims: &[usize], axes: &[i64], keep_dims: bool) -> Result<Shape> {
    Ok(Plan::new(dims, axes, keep_dims)?.shape)
}

/// How a reduction walks its input.
struct Plan {
    shape: Shape,
    /// Number of elements that make one of the result.
    count: usize,
    /// Sizes of merged neighbours, and whether they are reduced.
    blocks: Vec<(usize, bool)>,
}

impl Plan {
    fn new(dims: &[usize], axes: &[i64], keep_dims: bool) -> Result<Plan> {
        let mut reduced = vec![false; dims.len()];
        for &a in axes {
            let i = axis(a, dims.len())?;
            if std::mem::replace(&mut reduced[i], true) {
                return Err(KernelError::Argument {
                    what: "the list of axes",
                    got: format!("{axes:?}"),
                    expected: "each dimension at most once",
                });
            }
        }
        let (mut shape, mut count) = (Shape::default(), 1);
        let mut blocks: Vec<(usize, bool)> = Vec::new();
        for (&d, &r) in dims.iter().zip(&reduced) {
            match (r, keep_dims) {
                (false, _) => shape.push(d),
                (true, true) => shape.push(1),
                (true, false) => {}
            }
            if r {
                count *= d;
            }
            match blocks.last_mut() {
                Some(last) if last.1 == r => last.0 *= d,
                _ => blocks.push((d, r)),
            }
        }
        if !reduced.contains(&true) {
            blocks.push((1, true));
        }
        Ok(Plan { shape, count, blocks })
    }

    /// Reduces one block after the other, the innermost first.
    fn run<T: Copy + Send + Sync, A: Copy + Send + Sync>(
        &self,
        data: &[T],
        init: A,
        step: impl Fn(A, T) -> A + Copy + Send + Sync,
        merge: impl Fn(A, A) -> A + Copy + Send + Sync,
    ) -> Vec<A> {
        let mut blocks = self.blocks.clone();
        let next = |blocks: &mut Vec<(usize, bool)>| {
            let p = blocks.iter().rposition(|b| b.1)?;
            let inner = blocks[p + 1..].iter().map(|b| b.0).product();
            let (r, _) = blocks.remove(p);
            Some((blocks[..p].iter().map(|b| b.0).product(), r, inner))
        };
        let Some((outer, r, inner)) = next(&mut blocks) else { return Vec::new() };
        let mut acc = fold(data, (outer, r, inner), init, step, merge);
        while let Some((outer, r, inner)) = next(&mut blocks) {
            acc = fold(&acc, (outer, r, inner), init, merge, merge);
        }
        acc
    }
}

/// Rows that are added up before the sum goes to the next level: keeps rounding errors of long sums
/// small, and is the unit of work for threads.
const ROWS: usize = 256;
/// Elements of one row reduced at a time, for the same reasons.
const RUN: usize = 4096;
/// Accumulators side by side: two vectors of the widest unit.
const LANES: usize = 32;

/// `[outer, r, inner]` to `[outer, inner]`.
fn fold<T: Copy + Send + Sync, A: Copy + Send + Sync>(
    data: &[T],
    (outer, r, inner): (usize, usize, usize),
    init: A,
    step: impl Fn(A, T) -> A + Copy + Send + Sync,
    merge: impl Fn(A, A) -> A + Copy + Send + Sync,
) -> Vec<A> {
    let mut out = vec![init; outer * inner];
    if out.is_empty() || r == 0 {
        return out;
    }
    let isa = Isa::current();
    if inner == 1 {
        if outer == 1 {
            let parts = par::map_ranges(r, 4 * RUN, |range| {
                simd::dispatch_on(isa, FoldRow { row: &data[range], init, step, merge })
            });
            out[0] = parts.into_iter().fold(init, merge);
            return out;
        }
        let rows = (par::GRAIN / r).max(1);
        par::for_each_chunk(&mut out, rows, |start, out| {
            simd::dispatch_on(
                isa,
                FoldRows { data: &data[start * r..][..out.len() * r], r, out, init, step, merge },
            );
        });
        return out;
    }
    if outer == 1 && r > ROWS {
        let parts = par::map_ranges(r, ROWS, |range| {
            let mut acc = vec![init; inner];
            let data = &data[range.start * inner..range.end * inner];
            simd::dispatch_on(isa, FoldColumns { data, acc: &mut acc, step });
            acc
        });
        for part in parts {
            out.iter_mut().zip(part).for_each(|(a, b)| *a = merge(*a, b));
        }
        return out;
    }
    par::for_each_chunk(&mut out, inner, |start, acc| {
        let data = &data[start * r..][..r * inner];
        if r <= ROWS {
            simd::dispatch_on(isa, FoldColumns { data, acc, step });
            return;
        }
        let mut part = vec![init; inner];
        for block in data.chunks(ROWS * inner) {
            part.fill(init);
            simd::dispatch_on(isa, FoldColumns { data: block, acc: &mut part, step });
            acc.iter_mut().zip(&part).for_each(|(a, &b)| *a = merge(*a, b));
        }
    });
    out
}

struct FoldRow<'a, T, A, F, M> {
    row: &'a [T],
    init: A,
    step: F,
    merge: M,
}

impl<T: Copy, A: Copy, F: Fn(A, T) -> A, M: Fn(A, A) -> A> Kernel for FoldRow<'_, T, A, F, M> {
    type Output = A;
    #[inline(always)]
    fn run<S: Simd>(self, _: S) -> A {
        fold_row(self.row, self.init, &self.step, &self.merge)
    }
}

#[inline(always)]
fn fold_row<T: Copy, A: Copy>(
    row: &[T],
    init: A,
    step: &impl Fn(A, T) -> A,
    merge: &impl Fn(A, A) -> A,
) -> A {
    let mut total = init;
    for run in row.chunks(RUN) {
        let mut acc = [init; LANES];
        let mut pieces = run.chunks_exact(LANES);
        for piece in &mut pieces {
            for (a, &v) in acc.iter_mut().zip(piece) {
                *a = step(*a, v);
            }
        }
        for (a, &v) in acc.iter_mut().zip(pieces.remainder()) {
            *a = step(*a, v);
        }
        let mut width = LANES / 2;
        while width > 0 {
            for i in 0..width {
                acc[i] = merge(acc[i], acc[i + width]);
            }
            width /= 2;
        }
        total = merge(total, acc[0]);
    }
    total
}

struct FoldRows<'a, T, A, F, M> {
    data: &'a [T],
    r: usize,
    out: &'a mut [A],
    init: A,
    step: F,
    merge: M,
}

impl<T: Copy, A: Copy, F: Fn(A, T) -> A, M: Fn(A, A) -> A> Kernel for FoldRows<'_, T, A, F, M> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        for (o, row) in self.out.iter_mut().zip(self.data.chunks_exact(self.r)) {
            *o = if self.r < LANES {
                row.iter().fold(self.init, |a, &v| (self.step)(a, v))
            } else {
                fold_row(row, self.init, &self.step, &self.merge)
            };
        }
    }
}

struct FoldColumns<'a, T, A, F> {
    data: &'a [T],
    acc: &'a mut [A],
    step: F,
}

impl<T: Copy, A: Copy, F: Fn(A, T) -> A> Kernel for FoldColumns<'_, T, A, F> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        // Four rows at a time, as each pass loads and stores all sums.
        let n = self.acc.len();
        let mut fours = self.data.chunks_exact(4 * n);
        for four in &mut fours {
            let (first, second) = four.split_at(2 * n);
            let ((a, b), (c, d)) = (first.split_at(n), second.split_at(n));
            let rows = a.iter().zip(b).zip(c.iter().zip(d));
            for (sum, ((&a, &b), (&c, &d))) in self.acc.iter_mut().zip(rows) {
                let step = &self.step;
                *sum = step(step(step(step(*sum, a), b), c), d);
            }
        }
        for row in fours.remainder().chunks_exact(n) {
            for (a, &v) in self.acc.iter_mut().zip(row) {
                *a = (self.step)(*a, v);
            }
        }
    }
}

/// Position of the largest (`max`) or smallest element along an axis, the first of equals; NaN never wins.
///
/// # Errors
/// [`KernelError`] when the axis is out of range or empty, or the type has no order.
pub fn arg_extreme(x: &Tensor, dimension: i64, max: bool) -> Result<Tensor> {
    let d = axis(dimension, x.rank())?;
    let dims = x.dims();
    let (outer, r, inner) =
        (dims[..d].iter().product::<usize>(), dims[d], dims[d + 1..].iter().product::<usize>());
    if r == 0 {
        return Err(KernelError::Rank {
            what: "the input",
            got: x.shape(),
            expected: "elements along the axis",
        });
    }
    let shape: Shape = dims[..d].iter().chain(&dims[d + 1..]).copied().collect();
    let geometry = (outer, r, inner);
    let out = match (x, max) {
        (Tensor::F32(x), true) => positions(x.data(), geometry, f32::MIN, |v, best| v > best),
        (Tensor::F32(x), false) => positions(x.data(), geometry, f32::MAX, |v, best| v < best),
        (Tensor::I32(x), true) => positions(x.data(), geometry, i32::MIN, |v, best| v > best),
        (Tensor::I32(x), false) => positions(x.data(), geometry, i32::MAX, |v, best| v < best),
        (Tensor::Bool(x), true) => positions(x.data(), geometry, false, |v, best| v & !best),
        (Tensor::Bool(x), false) => positions(x.data(), geometry, true, |v, best| !v & best),
        _ => {
            return Err(KernelError::DType {
                what: "the input",
                got: x.dtype(),
                expected: "float32, int32 or bool",
            });
        }
    };
    Tensor::new(shape, out)
}

fn positions<T: Copy>(
    data: &[T],
    (outer, r, inner): (usize, usize, usize),
    start: T,
    beats: impl Fn(T, T) -> bool,
) -> Vec<i32> {
    let mut out = vec![0i32; outer * inner];
    let mut best = vec![start; inner];
    for (o, block) in out.chunks_mut(inner.max(1)).zip(data.chunks(inner.max(1) * r)) {
        best.fill(start);
        for (k, row) in block.chunks(inner).enumerate() {
            for ((o, b), &v) in o.iter_mut().zip(&mut best).zip(row) {
                if beats(v, *b) {
                    *b = v;
                    *o = k as i32;
                }
            }
        }
    }
    out
}

/// A running total along an axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ScanOp {
    /// Sum; integers wrap.
    Sum,
    /// Product; integers wrap.
    Prod,
    /// `log(sum(exp(x)))`.
    LogSumExp,
}

/// Running totals along an axis. `exclusive` leaves an element out of its own total, `reverse` starts at the end.
///
/// # Errors
/// [`KernelError`] when the axis is out of range or the op does not take the type.
pub fn scan(op: ScanOp, x: Tensor, at: i64, exclusive: bool, reverse: bool) -> Result<Tensor> {
    let d = axis(at, x.rank())?;
    let dims = x.dims();
    let (r, inner) = (dims[d], dims[d + 1..].iter().product::<usize>());
    let how = (r, inner, exclusive, reverse);
    let one = Complex32::new(1.0, 0.0);
    Ok(match (op, x) {
        (ScanOp::Sum, Tensor::F32(x)) => scan_with(x, how, 0.0, |a, v| a + v).into(),
        (ScanOp::Prod, Tensor::F32(x)) => scan_with(x, how, 1.0, |a, v| a * v).into(),
        (ScanOp::LogSumExp, Tensor::F32(x)) => scan_with(x, how, f32::NEG_INFINITY, |a, v| {
            let (a, v) = (f64::from(a), f64::from(v));
            let top = a.max(v);
            // Equal infinities must not be subtracted.
            let sum = if a == v { a + 2f64.ln() } else { top + (-(a - v).abs()).exp().ln_1p() };
            if a.is_nan() || v.is_nan() { f32::NAN } else { sum as f32 }
        })
        .into(),
        (ScanOp::Sum, Tensor::I32(x)) => scan_with(x, how, 0, i32::wrapping_add).into(),
        (ScanOp::Prod, Tensor::I32(x)) => scan_with(x, how, 1, i32::wrapping_mul).into(),
        (ScanOp::Sum, Tensor::C64(x)) => scan_with(x, how, Complex32::default(), |a, v| a + v).into(),
        (ScanOp::Prod, Tensor::C64(x)) => scan_with(x, how, one, |a, v| a * v).into(),
        (ScanOp::LogSumExp, x) => {
            return Err(KernelError::DType { what: "the input", got: x.dtype(), expected: "float32" });
        }
        (_, x) => {
            return Err(KernelError::DType {
                what: "the input",
                got: x.dtype(),
                expected: "float32, int32 or complex64",
            });
        }
    })
}

fn scan_with<T: Element + Copy>(
    mut x: TensorOf<T>,
    (r, inner, exclusive, reverse): (usize, usize, bool, bool),
    init: T,
    step: impl Fn(T, T) -> T,
) -> TensorOf<T> {
    if x.is_empty() {
        return x;
    }
    let mut acc = vec![init; inner];
    for block in x.data_mut().chunks_mut(r * inner) {
        acc.fill(init);
        for k in 0..r {
            let k = if reverse { r - 1 - k } else { k };
            for (v, a) in block[k * inner..][..inner].iter_mut().zip(&mut acc) {
                let total = step(*a, *v);
                *v = if exclusive { *a } else { total };
                *a = total;
            }
        }
    }
    x
}

/// The number of `boundaries` (in increasing order) not above each element; all of them for NaN.
///
/// # Errors
/// [`KernelError::DType`] when the input is not a number.
pub fn bucketize(x: &Tensor, boundaries: &[f32]) -> Result<Tensor> {
    let place = |v: f32| boundaries.partition_point(|&b| b <= v || v.is_nan()) as i32;
    Ok(match x {
        Tensor::I32(x) => map(x, |v| place(v as f32))?.into(),
        other => map(other.typed::<f32>("the input")?, place)?.into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ramp(shape: &[usize]) -> Tensor {
        let n = shape.iter().product::<usize>();
        Tensor::new(shape, (0..n).map(|i| i as f32).collect::<Vec<_>>()).unwrap()
    }

    fn run(op: ReduceOp, x: Tensor, axes: &[i64], keep: bool) -> (Vec<usize>, Vec<f32>) {
        let y = reduce(op, x, axes, keep).unwrap();
        (y.dims().to_vec(), y.data::<f32>().unwrap().to_vec())
    }

    #[test]
    fn any_set_of_axes_reduces() {
        assert_eq!(run(ReduceOp::Sum, ramp(&[2, 3, 2]), &[0, 2], false), (vec![3], vec![14.0, 22.0, 30.0]));
        assert_eq!(
            run(ReduceOp::Sum, ramp(&[2, 3, 2]), &[-2], true),
            (vec![2, 1, 2], vec![6.0, 9.0, 24.0, 27.0])
        );
        assert_eq!(run(ReduceOp::Mean, ramp(&[2, 3]), &[0, 1], false), (vec![], vec![2.5]));
        assert_eq!(
            run(ReduceOp::Max, ramp(&[2, 3]), &[], true),
            (vec![2, 3], vec![0.0, 1.0, 2.0, 3.0, 4.0, 5.0])
        );
    }

    #[test]
    fn long_sums_stay_precise_along_every_axis() {
        for shape in [[1, 300_000], [300_000, 1], [2, 150_000]] {
            let x = Tensor::new(shape, vec![0.1f32; 300_000]).unwrap();
            let (_, y) = run(ReduceOp::Sum, x, &[0, 1], false);
            assert!((y[0] - 30_000.0).abs() < 0.02, "{y:?}");
        }
        let x = Tensor::new([100_000, 3], vec![0.1f32; 300_000]).unwrap();
        let (_, y) = run(ReduceOp::Sum, x, &[0], false);
        assert!(y.iter().all(|v| (v - 10_000.0).abs() < 0.01), "{y:?}");
    }

    #[test]
    fn nothing_reduces_to_the_neutral_element() {
        let empty = || Tensor::zeros(DType::Float32, [2, 0]).unwrap();
        assert_eq!(run(ReduceOp::Sum, empty(), &[1], false).1, [0.0, 0.0]);
        assert_eq!(run(ReduceOp::Max, empty(), &[1], false).1, [f32::NEG_INFINITY; 2]);
        assert!(run(ReduceOp::Mean, empty(), &[1], false).1[0].is_nan());
        let ints = reduce(ReduceOp::Mean, Tensor::zeros(DType::Int32, [0]).unwrap(), &[0], false).unwrap();
        assert_eq!(ints.data::<i32>().unwrap(), [0]);
    }

    #[test]
    fn nan_wins_wherever_it_stands() {
        for k in [0, 1, 40, 99] {
            let mut v = vec![2.0f32; 100];
            v[k] = f32::NAN;
            assert!(run(ReduceOp::Max, Tensor::vector(v.clone()), &[0], false).1[0].is_nan());
            assert!(run(ReduceOp::Min, Tensor::new([100, 1], v).unwrap(), &[0], false).1[0].is_nan());
        }
    }

    #[test]
    fn integers_wrap_and_their_mean_does_not() {
        let x = || Tensor::vector(vec![i32::MAX, i32::MAX]);
        let get = |op| reduce(op, x(), &[0], false).unwrap().data::<i32>().unwrap()[0];
        assert_eq!((get(ReduceOp::Sum), get(ReduceOp::Mean)), (-2, i32::MAX));
        let norm = reduce(ReduceOp::EuclideanNorm, Tensor::vector(vec![3, 4, 5]), &[0], false).unwrap();
        assert_eq!(norm.data::<i32>().unwrap(), [7]);
    }

    #[test]
    fn bad_axes_are_errors() {
        for axes in [&[2][..], &[-3], &[0, 0], &[0, -2]] {
            assert!(reduce(ReduceOp::Sum, ramp(&[2, 3]), axes, false).is_err());
        }
        assert!(reduce(ReduceOp::Any, ramp(&[2]), &[0], false).is_err());
    }

    #[test]
    fn nan_never_wins_a_position() {
        let nan = f32::NAN;
        let run = |v: &[f32], max| {
            arg_extreme(&Tensor::vector(v.to_vec()), 0, max).unwrap().data::<i32>().unwrap()[0]
        };
        let rows = [&[nan, 1.0, 2.0][..], &[1.0, nan, 2.0], &[1.0, 2.0, nan], &[nan, nan], &[2.0, 2.0]];
        assert_eq!(rows.map(|v| run(v, true)), [2, 2, 1, 0, 0]);
        assert_eq!(rows.map(|v| run(v, false)), [1, 0, 0, 0, 0]);
    }

    #[test]
    fn running_totals_go_both_ways() {
        let x = || Tensor::vector(vec![1.0f32, 2.0, 3.0]);
        let run = |op, ex, rev| scan(op, x(), -1, ex, rev).unwrap().data::<f32>().unwrap().to_vec();
        assert_eq!(run(ScanOp::Sum, false, false), [1.0, 3.0, 6.0]);
        assert_eq!(run(ScanOp::Sum, true, true), [5.0, 3.0, 0.0]);
        assert_eq!(run(ScanOp::Prod, true, false), [1.0, 1.0, 2.0]);
        let l = run(ScanOp::LogSumExp, true, false);
        assert!(l[0] == f32::NEG_INFINITY && l[1] == 1.0 && (l[2] - 2.313_261_7).abs() < 1e-6);
        assert!(scan(ScanOp::Sum, Tensor::scalar(1.0f32), 0, false, false).is_err());
    }

    #[test]
    fn values_fall_into_buckets() {
        let x = Tensor::vector(vec![-5.0, 0.0, 1.0, 2.0, 3.5, f32::NAN]);
        assert_eq!(bucketize(&x, &[0.0, 1.0, 2.0]).unwrap().data::<i32>().unwrap(), [0, 1, 2, 3, 3, 3]);
    }
}
