//! Attention, `softmax(q · kᵀ · scale + mask) · v`, without the matrix of all scores.
//!
//! Heads are shared by threads. A block of rows of `q` meets all keys, which are packed as the right operand of a product;
//! its scores stay in the second cache until they have become weights of the values.

use crate::{
    KernelError, Result, Shape, Tensor,
    epilogue::Finish,
    gemm::{self, BorrowedRhs, Matrix, Target},
    par::{self, Disjoint},
    pool, scratch,
    simd::{self, Isa, Kernel, Simd},
    vecmath,
};

/// In which order the dimensions of an operand lie: which of them are batch, head, row (a query, key or value) and column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Order([usize; 4]);

impl Order {
    /// `[batch, head, row, column]`
    pub const HEADS_FIRST: Order = Order([0, 1, 2, 3]);
    /// `[batch, row, head, column]`, as a dense layer makes them.
    pub const ROWS_FIRST: Order = Order([0, 2, 1, 3]);

    /// From where batch, head, row and column stand.
    ///
    /// # Errors
    /// When that is no permutation.
    pub fn new(places: [usize; 4]) -> Result<Order> {
        let mut sorted = places;
        sorted.sort_unstable();
        if sorted == [0, 1, 2, 3] {
            return Ok(Order(places));
        }
        let expected = "each dimension once";
        Err(KernelError::Argument { what: "the order of dimensions", got: format!("{places:?}"), expected })
    }

    /// Where batch, head, row and column stand.
    pub fn places(self) -> [usize; 4] {
        self.0
    }

    /// `[batch, head, row, column]` in this order.
    fn shape(self, sizes: [usize; 4]) -> Shape {
        let mut shape: Shape = [0; 4].as_slice().into();
        for (place, size) in self.0.into_iter().zip(sizes) {
            shape[place] = size;
        }
        shape
    }
}

/// How operands lie, and the factor of the scores.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Attention {
    /// Of the queries.
    pub q: Order,
    /// Of the keys.
    pub k: Order,
    /// Of the values.
    pub v: Order,
    /// Of the result.
    pub out: Order,
    /// Factor of the scores.
    pub scale: f32,
}

/// Floats of scores that are held at once, about: a quarter of a second cache.
const SCORES: usize = 64 * 1024;
/// Rows of queries that are taken at once, at most: a few register tiles of each unit.
const ROWS: usize = 84;
/// Fewer heads than this are cut, as there may be more threads.
const FEW_HEADS: usize = 8;

/// An operand and the distances of its batches, heads, rows and columns.
#[derive(Clone, Copy)]
struct Operand<'a> {
    data: &'a [f32],
    sizes: [usize; 4],
    strides: [usize; 4],
}

impl<'a> Operand<'a> {
    fn new(t: &'a Tensor, order: Order, what: &'static str) -> Result<Operand<'a>> {
        let typed = t.typed::<f32>(what)?;
        if typed.dims().len() != 4 {
            return Err(KernelError::Rank { what, got: typed.shape(), expected: "four dimensions" });
        }
        let (dims, strides) = (typed.dims(), typed.shape().strides());
        Ok(Operand {
            data: typed.data(),
            sizes: order.0.map(|place| dims[place]),
            strides: order.0.map(|place| strides[place]),
        })
    }

    /// All rows of a head.
    fn head(&self, batch: usize, head: usize) -> &'a [f32] {
        &self.data[batch * self.strides[0] + head * self.strides[1]..]
    }
}

/// Whether [`attention`] takes these shapes: all sizes agree and the mask, if any, broadcasts to the scores.
///
/// Products of matrices broadcast batches and heads, and sums the scores; these do not.
pub fn fits(q: &Tensor, k: &Tensor, v: &Tensor, mask: Option<&Tensor>, how: &Attention) -> bool {
    let sizes = |t: &Tensor, o: Order| (t.rank() == 4).then(|| o.0.map(|place| t.dims()[place]));
    let (Some([b, h, t, d]), Some([kb, kh, s, kd]), Some([vb, vh, vs, _])) =
        (sizes(q, how.q), sizes(k, how.k), sizes(v, how.v))
    else {
        return false;
    };
    let mask = mask.is_none_or(|m| {
        m.rank() <= 4 && m.dims().iter().rev().zip([s, t, h, b]).all(|(&m, of)| m == of || m == 1)
    });
    [kb, kh, kd, vb, vh, vs] == [b, h, d, b, h, s] && mask
}

/// Runs attention. Operands are `float32` of four dimensions; `mask` is added to the scores `[batch, head, query, key]`, to
/// which it broadcasts.
///
/// # Errors
/// When types or shapes do not go together (see [`fits`]), or the result would be too large.
pub fn attention(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    mask: Option<&Tensor>,
    how: &Attention,
) -> Result<Tensor> {
    if !fits(q, k, v, mask, how) {
        let why = "do not go together: queries, keys and values agree in batch, heads and depth";
        return Err(KernelError::Shapes { left: q.shape(), right: k.shape(), why });
    }
    let (q, k, v) = (
        Operand::new(q, how.q, "the queries")?,
        Operand::new(k, how.k, "the keys")?,
        Operand::new(v, how.v, "the values")?,
    );
    let [batch, heads, rows, _] = q.sizes;
    let depth = v.sizes[3];
    let shape = how.out.shape([batch, heads, rows, depth]);
    let mask = mask.map(|m| Mask::new(m, k.sizes[2])).transpose()?;
    let mut out = pool::buffer(shape.checked_len()?);
    if !out.is_empty() {
        let strides = shape.strides();
        let run = Run {
            isa: Isa::current(),
            q,
            k,
            v,
            mask,
            scale: how.scale,
            strides: how.out.0.map(|place| strides[place]),
            out: Disjoint::new(&mut out),
        };
        // Each task packs the keys and values of its head, which many rows must pay for.
        let cuts = if batch * heads < FEW_HEADS { rows.div_ceil(ROWS).min(4) } else { 1 };
        let each = rows.div_ceil(cuts);
        par::for_each(batch * heads * cuts, |task| {
            let (head, cut) = (task / cuts, task % cuts);
            let rows = (cut * each).min(rows)..((cut + 1) * each).min(rows);
            if !rows.is_empty() {
                run.head(head / heads, head % heads, rows);
            }
        });
    }
    Tensor::from_buffer(shape, out)
}

/// What is added to the scores.
struct Mask<'a> {
    data: &'a [f32],
    /// Of batch, head and row; zero where it repeats.
    strides: [usize; 3],
    /// One element serves a whole row.
    same: bool,
}

impl<'a> Mask<'a> {
    /// A mask that fits scores of so many keys.
    fn new(mask: &'a Tensor, keys: usize) -> Result<Mask<'a>> {
        let typed = mask.typed::<f32>("the mask")?;
        let (dims, steps) = (typed.dims(), typed.shape().strides());
        let missing = 4 - dims.len();
        let stride = |i: usize| if i < missing || dims[i - missing] == 1 { 0 } else { steps[i - missing] };
        let same = stride(3) == 0 && keys != 1;
        Ok(Mask { data: typed.data(), strides: [stride(0), stride(1), stride(2)], same })
    }

    #[inline(always)]
    fn row(&self, batch: usize, head: usize, row: usize, keys: usize) -> &'a [f32] {
        let at = batch * self.strides[0] + head * self.strides[1] + row * self.strides[2];
        &self.data[at..at + if self.same { 1 } else { keys }]
    }
}

/// Attention that is being run. Rows of the result are different tasks'.
struct Run<'a> {
    isa: Isa,
    q: Operand<'a>,
    k: Operand<'a>,
    v: Operand<'a>,
    mask: Option<Mask<'a>>,
    scale: f32,
    /// Of batch, head, row and column of the result.
    strides: [usize; 4],
    out: Disjoint<'a, f32>,
}

impl Run<'_> {
    fn head(&self, batch: usize, head: usize, rows: std::ops::Range<usize>) {
        let (keys, depth, columns) = (self.k.sizes[2], self.k.sizes[3], self.v.sizes[3]);
        let [.., q_row, q_col] = self.q.strides;
        let [.., k_row, k_col] = self.k.strides;
        let [.., v_row, v_col] = self.v.strides;
        let (k_len, v_len) =
            (BorrowedRhs::len(self.isa, depth, keys), BorrowedRhs::len(self.isa, keys, columns));
        // An odd number of cache lines puts rows into different sets.
        let stride = keys.next_multiple_of(32) + 16;
        // Blocks of nearly equal height.
        let most = (SCORES / stride).clamp(1, ROWS);
        let block = rows.len().div_ceil(rows.len().div_ceil(most));
        let lens = [k_len, v_len, block * stride, block * columns].map(|n| n.next_multiple_of(16));
        scratch::with(lens.iter().sum(), |memory| {
            let (k_to, memory) = memory.split_at_mut(lens[0]);
            let (v_to, memory) = memory.split_at_mut(lens[1]);
            let (scores, result) = memory.split_at_mut(lens[2]);
            let (k, v) = (self.k.head(batch, head), self.v.head(batch, head));
            let k = BorrowedRhs::pack(self.isa, (depth, keys), k, (k_col, k_row), &mut k_to[..k_len]);
            let v = BorrowedRhs::pack(self.isa, (keys, columns), v, (v_row, v_col), &mut v_to[..v_len]);
            let q = self.q.head(batch, head);
            for first in rows.clone().step_by(block) {
                let count = block.min(rows.end - first);
                let lhs = Matrix { data: &q[first * q_row..], rows: count, strides: (q_row, q_col) };
                gemm::gemm(&lhs, &k, scores, Target { start: 0, stride }, &Finish::default());
                let sums = &mut [0.0; ROWS][..count];
                let weights = Weights { run: self, batch, head, first, scores, stride, keys, sums };
                simd::dispatch_on(self.isa, weights);
                let lhs = Matrix { data: scores, rows: count, strides: (stride, 1) };
                let target = Target { start: 0, stride: columns };
                gemm::gemm(&lhs, &v, result, target, &Finish::default());
                for (i, (row, &sum)) in result.chunks_exact(columns).zip(&*sums).enumerate() {
                    // Without keys nothing is summed.
                    let by = if keys == 0 { 0.0 } else { 1.0 / sum };
                    let [b, h, r, c] = self.strides;
                    let start = batch * b + head * h + (first + i) * r;
                    if c == 1 {
                        // SAFETY: rows of a head are one task's.
                        let to = unsafe { self.out.slice(start..start + columns) };
                        simd::dispatch_on(self.isa, Scale { row, by, to });
                        continue;
                    }
                    for (j, x) in row.iter().enumerate() {
                        // SAFETY: as above.
                        let to = unsafe { self.out.slice(start + j * c..start + j * c + 1) };
                        to[0] = x * by;
                    }
                }
            }
        });
    }
}

/// Turns scores into weights of the values, which are yet to be divided by their sums.
struct Weights<'a> {
    run: &'a Run<'a>,
    batch: usize,
    head: usize,
    first: usize,
    scores: &'a mut [f32],
    stride: usize,
    keys: usize,
    sums: &'a mut [f32],
}

impl Kernel for Weights<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let scale = s.splat(self.run.scale);
        for (i, (sum, row)) in self.sums.iter_mut().zip(self.scores.chunks_mut(self.stride)).enumerate() {
            let row = &mut row[..self.keys];
            let mask = self.run.mask.as_ref();
            let mask = mask.map(|m| m.row(self.batch, self.head, self.first + i, self.keys));
            let mut largest = s.splat(f32::NEG_INFINITY);
            for at in (0..self.keys).step_by(S::LANES) {
                let part = &mut row[at..self.keys.min(at + S::LANES)];
                let mut x = s.mul(s.load_part(part), scale);
                match mask {
                    Some(&[one]) => x = s.add(x, s.splat(one)),
                    Some(mask) => x = s.add(x, s.load_part(&mask[at..])),
                    None => {}
                }
                s.store_part(part, x);
                if part.len() == S::LANES {
                    largest = s.max(x, largest);
                } else {
                    // Only the lanes that exist count.
                    let most = part.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                    largest = s.max(s.splat(most), largest);
                }
            }
            let largest = s.splat(s.reduce_max(largest));
            let mut total = s.zero();
            for at in (0..self.keys).step_by(S::LANES) {
                let part = &mut row[at..self.keys.min(at + S::LANES)];
                let e = vecmath::exp(s, s.sub(s.load_part(part), largest));
                s.store_part(part, e);
                total = s.add(total, if part.len() == S::LANES { e } else { s.load_part(part) });
            }
            *sum = s.reduce_add(total);
        }
    }
}

/// A row times a number.
struct Scale<'a> {
    row: &'a [f32],
    by: f32,
    to: &'a mut [f32],
}

impl Kernel for Scale<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let by = s.splat(self.by);
        for at in (0..self.row.len()).step_by(S::LANES) {
            let end = self.row.len().min(at + S::LANES);
            s.store_part(&mut self.to[at..end], s.mul(s.load_part(&self.row[at..end]), by));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Attention, Order, attention, fits};
    use crate::{
        Tensor, Threads,
        simd::Isa,
        testing::{assert_close, noise},
    };

    fn tensor(order: Order, sizes: [usize; 4], seed: u64) -> Tensor {
        Tensor::new(order.shape(sizes), noise(sizes.iter().product(), seed)).unwrap()
    }

    fn at(t: &Tensor, order: Order, index: [usize; 4]) -> f64 {
        let strides = t.shape().strides();
        let place: usize = order.0.iter().zip(index).map(|(&p, i)| strides[p] * i).sum();
        f64::from(t.data::<f32>().unwrap()[place])
    }

    #[test]
    fn it_agrees_with_a_plain_loop_in_every_order() {
        let orders = [
            [Order::ROWS_FIRST; 4],
            [Order::HEADS_FIRST; 4],
            [Order::ROWS_FIRST, Order([0, 1, 3, 2]), Order::HEADS_FIRST, Order([3, 0, 1, 2])],
        ];
        let sizes = [(1, 1, 1, 1, 1, 1), (2, 3, 5, 7, 4, 6), (1, 4, 90, 37, 16, 33), (3, 3, 20, 40, 8, 64)];
        for [q, k, v, out] in orders {
            for (b, h, t, s, d, e) in sizes {
                let masks: [Option<&[usize]>; 5] =
                    [None, Some(&[b, 1, 1, s]), Some(&[t, s]), Some(&[b, h, t, 1]), Some(&[])];
                for mask in masks {
                    let mask = mask.map(|dims| {
                        let n = dims.iter().product();
                        Tensor::new(dims, noise(n, 9).iter().map(|x| x * 3.0).collect::<Vec<_>>()).unwrap()
                    });
                    let how = Attention { q, k, v, out, scale: 1.7 };
                    let (qt, kt, vt) =
                        (tensor(q, [b, h, t, d], 1), tensor(k, [b, h, s, d], 2), tensor(v, [b, h, s, e], 3));
                    assert!(fits(&qt, &kt, &vt, mask.as_ref(), &how));
                    let masked = |index: [usize; 4]| -> f64 {
                        let Some(m) = &mask else { return 0.0 };
                        let index = &index[4 - m.rank()..];
                        let strides = m.shape().strides();
                        let place: usize = (0..m.rank())
                            .map(|i| if m.dims()[i] == 1 { 0 } else { index[i] * strides[i] })
                            .sum();
                        f64::from(m.data::<f32>().unwrap()[place])
                    };
                    let shape = out.shape([b, h, t, e]);
                    let strides = shape.strides();
                    let mut want = vec![0.0; b * h * t * e];
                    for (b, h, t) in (0..b * h * t).map(|i| (i / (h * t), i / t % h, i % t)) {
                        let score = |s: usize| -> f64 {
                            let dot: f64 =
                                (0..d).map(|d| at(&qt, q, [b, h, t, d]) * at(&kt, k, [b, h, s, d])).sum();
                            dot * f64::from(how.scale) + masked([b, h, t, s])
                        };
                        let scores: Vec<f64> = (0..s).map(|s| score(s).exp()).collect();
                        let sum: f64 = scores.iter().sum();
                        for e in 0..e {
                            let place: usize =
                                out.0.iter().zip([b, h, t, e]).map(|(&p, i)| strides[p] * i).sum();
                            want[place] =
                                (0..s).map(|s| scores[s] / sum * at(&vt, v, [b, h, s, e])).sum::<f64>();
                        }
                    }
                    for isa in Isa::available() {
                        let run = || attention(&qt, &kt, &vt, mask.as_ref(), &how).unwrap();
                        let got = isa.scope(|| Threads::new(1).unwrap().run(run)).unwrap();
                        assert_eq!(got, isa.scope(|| Threads::new(2).unwrap().run(run)).unwrap());
                        assert_eq!(got.dims(), &shape[..]);
                        assert_close(got.data().unwrap(), &want, 2e-6, &format!("{isa} {how:?}"));
                    }
                }
            }
        }
    }

    #[test]
    fn long_sequences_are_cut_into_blocks() {
        let sizes = [1, 1, 200, 8];
        let o = Order::HEADS_FIRST;
        let how = Attention { q: o, k: o, v: o, out: o, scale: 0.5 };
        // With equal keys every value weighs the same.
        let k = Tensor::new([1, 1, 5000, 8], vec![0.25f32; 40_000]).unwrap();
        let v = tensor(o, [1, 1, 5000, 8], 3);
        let got = attention(&tensor(o, sizes, 1), &k, &v, None, &how).unwrap();
        let mean = |e: usize| (0..5000).map(|s| at(&v, o, [0, 0, s, e])).sum::<f64>() / 5000.0;
        let want: Vec<f64> = (0..1600).map(|i| mean(i % 8)).collect();
        assert_close(got.data().unwrap(), &want, 1e-5, "means");
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let o = Order::HEADS_FIRST;
        let how = Attention { q: o, k: o, v: o, out: o, scale: 1.0 };
        let t = |sizes| tensor(o, sizes, 1);
        let run = |q, k, v, mask: Option<Tensor>| attention(&t(q), &t(k), &t(v), mask.as_ref(), &how);
        assert!(run([1, 2, 3, 4], [1, 2, 5, 4], [1, 2, 5, 6], None).is_ok());
        assert!(run([2, 2, 3, 4], [1, 2, 5, 4], [1, 2, 5, 6], None).is_err());
        assert!(run([1, 2, 3, 4], [1, 2, 5, 3], [1, 2, 5, 6], None).is_err());
        assert!(run([1, 2, 3, 4], [1, 2, 5, 4], [1, 2, 4, 6], None).is_err());
        let mask = Tensor::new([2, 1, 1, 5], vec![0f32; 10]).unwrap();
        assert!(run([1, 2, 3, 4], [1, 2, 5, 4], [1, 2, 5, 6], Some(mask)).is_err());
        assert_eq!(run([1, 2, 0, 4], [1, 2, 5, 4], [1, 2, 5, 6], None).unwrap().dims(), [1, 2, 0, 6]);
        let none = run([1, 1, 2, 4], [1, 1, 0, 4], [1, 1, 0, 3], None).unwrap();
        assert_eq!(none.data::<f32>().unwrap(), [0.0; 6]);
        assert!(Order::new([0, 1, 1, 3]).is_err());
    }
}
