//! Products of matrices and of batches of them.

use num_complex::Complex32;

use crate::{
    Element, Epilogue, KernelError, Result, Shape, Tensor,
    epilogue::Finish,
    gemm::{self, Matrix, PackedRhs, Target, Turned},
    par, pool,
    simd::Isa,
};

/// The right operand of a product, laid out for the CPU's vector unit. Make it once per weight matrix.
#[derive(Clone, Debug)]
pub struct PackedB {
    rhs: PackedRhs,
}

impl PackedB {
    /// Packs `b: [k, n]`, or `[n, k]` with `transpose`.
    ///
    /// # Errors
    /// When the tensor is not `float32` or not a matrix.
    pub fn new(b: &Tensor, transpose: bool) -> Result<PackedB> {
        let typed = b.typed::<f32>("the right operand")?;
        let &[rows, cols] = typed.dims() else {
            return Err(KernelError::Rank {
                what: "the right operand",
                got: typed.shape(),
                expected: "two dimensions",
            });
        };
        let (k, n) = if transpose { (cols, rows) } else { (rows, cols) };
        let strides = if transpose { (1, cols) } else { (cols, 1) };
        Ok(PackedB { rhs: PackedRhs::new(Isa::current(), k, n, typed.data(), strides) })
    }

    /// Rows, the length of the sums.
    pub fn rows(&self) -> usize {
        self.rhs.rows()
    }

    /// Columns of the result.
    pub fn cols(&self) -> usize {
        self.rhs.cols()
    }

    /// Memory taken, in bytes.
    pub fn bytes(&self) -> usize {
        self.rhs.bytes()
    }
}

/// `a · b`, then the epilogue. `a: [.., m, k]` with any leading dimensions, or with `transpose_a` a matrix `[k, m]`.
///
/// # Errors
/// When `a` is not `float32`, shapes do not go together, or the result would be too large.
pub fn matmul_packed(a: &Tensor, b: &PackedB, transpose_a: bool, epilogue: &Epilogue) -> Result<Tensor> {
    let typed = a.typed::<f32>("the left operand")?;
    let dims = typed.dims();
    let expected = if transpose_a { "two dimensions" } else { "two or more dimensions" };
    if dims.len() < 2 || (transpose_a && dims.len() > 2) {
        return Err(KernelError::Rank { what: "the left operand", got: dims.into(), expected });
    }
    let lead = &dims[..dims.len() - 2];
    let (m, k) = oriented(dims, transpose_a);
    let shape: Shape = lead.iter().copied().chain([m, b.cols()]).collect();
    if k != b.rows() {
        return Err(mismatch(dims, &[b.rows(), b.cols()]));
    }
    let mut out = pool::buffer(shape.checked_len()?);
    if !out.is_empty() {
        let rows = lead.iter().product::<usize>() * m;
        let strides = if transpose_a { (1, m) } else { (k, 1) };
        let operands = epilogue.operands(&shape)?;
        let lhs = Matrix { data: typed.data(), rows, strides };
        let target = Target { start: 0, stride: b.cols() };
        gemm::gemm(&lhs, &b.rhs, &mut out, target, &operands.finish(b.cols()));
    }
    Tensor::from_buffer(shape, out)
}

/// How operands enter a product.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Orientation {
    /// As they are.
    #[default]
    Plain,
    /// The last two dimensions swapped.
    Transposed,
    /// The last two dimensions swapped, and conjugated if complex.
    Adjoint,
}

impl Orientation {
    /// [`Orientation::Transposed`] if so.
    pub fn transposed(yes: bool) -> Orientation {
        if yes { Orientation::Transposed } else { Orientation::Plain }
    }

    /// [`Orientation::Adjoint`] if so.
    pub fn adjoint(yes: bool) -> Orientation {
        if yes { Orientation::Adjoint } else { Orientation::Plain }
    }

    fn swaps(self) -> bool {
        self != Orientation::Plain
    }
}

/// `a · b` for `a: [.., m, k]` and `b: [.., k, n]`, each as its orientation says. Leading dimensions broadcast.
/// `float32`, `int32` (wrapping) and `complex64`.
///
/// # Errors
/// When the element types differ or are others, shapes do not go together, or the result would be too large.
pub fn matmul(a: &Tensor, b: &Tensor, a_as: Orientation, b_as: Orientation) -> Result<Tensor> {
    match a {
        Tensor::F32(_) => {
            let p = Product::<f32>::new(a, b, a_as, b_as)?;
            let mut out = pool::buffer(p.shape.checked_len()?);
            if !out.is_empty() {
                p.float(&mut out);
            }
            Tensor::from_buffer(p.shape, out)
        }
        Tensor::I32(_) => {
            Product::<i32>::new(a, b, a_as, b_as)?.plain(|sum, x, y| sum.wrapping_add(x.wrapping_mul(y)))
        }
        Tensor::C64(_) => {
            let conjugate = |o, x: Complex32| if o == Orientation::Adjoint { x.conj() } else { x };
            Product::<Complex32>::new(a, b, a_as, b_as)?
                .plain(|sum, x, y| sum + conjugate(a_as, x) * conjugate(b_as, y))
        }
        Tensor::Bool(_) | Tensor::Str(_) => Err(KernelError::DType {
            what: "the left operand",
            got: a.dtype(),
            expected: "float32, int32 or complex64",
        }),
    }
}

/// `a · b` of vectors, `(rows, columns)` as oriented.
fn oriented(dims: &[usize], swap: bool) -> (usize, usize) {
    let (r, c) = (dims[dims.len() - 2], dims[dims.len() - 1]);
    if swap { (c, r) } else { (r, c) }
}

fn mismatch(a: &[usize], b: &[usize]) -> KernelError {
    KernelError::Shapes { left: a.into(), right: b.into(), why: "cannot be multiplied as matrices" }
}

/// A batch of products that has been checked.
struct Product<'a, T> {
    a: &'a [T],
    b: &'a [T],
    m: usize,
    k: usize,
    n: usize,
    a_strides: (usize, usize),
    b_strides: (usize, usize),
    /// For each product of the result the offsets of its operands.
    offsets: Vec<(usize, usize)>,
    shape: Shape,
}

impl<'a, T: Element + Copy> Product<'a, T> {
    fn new(a: &'a Tensor, b: &'a Tensor, a_as: Orientation, b_as: Orientation) -> Result<Product<'a, T>> {
        let (at, bt) = (a.typed::<T>("the left operand")?, b.typed::<T>("the right operand")?);
        for (what, t) in [("the left operand", at), ("the right operand", bt)] {
            if t.dims().len() < 2 {
                return Err(KernelError::Rank { what, got: t.shape(), expected: "two or more dimensions" });
            }
        }
        let (ad, bd) = (at.dims(), bt.dims());
        let ((m, k), (k2, n)) = (oriented(ad, a_as.swaps()), oriented(bd, b_as.swaps()));
        let (al, bl) = (&ad[..ad.len() - 2], &bd[..bd.len() - 2]);
        let rank = al.len().max(bl.len());
        let dim = |l: &[usize], i: usize| if i + l.len() >= rank { l[i + l.len() - rank] } else { 1 };
        let mut shape: Shape = Shape::default();
        for i in 0..rank {
            match (dim(al, i), dim(bl, i)) {
                (x, y) if x == y => shape.push(x),
                (1, y) => shape.push(y),
                (x, 1) => shape.push(x),
                _ => return Err(mismatch(ad, bd)),
            }
        }
        if k != k2 {
            return Err(mismatch(ad, bd));
        }
        let batches = shape.checked_len()?;
        let lead = shape.clone();
        shape.push(m);
        shape.push(n);
        let len = shape.checked_len()?;
        let offset = |l: &[usize], size: usize, index: usize| {
            let (mut rest, mut at, mut step) = (index, 0, size);
            for i in (0..rank).rev() {
                let d = dim(l, i);
                at += if d == 1 { 0 } else { rest % lead[i] * step };
                rest /= lead[i];
                step *= d;
            }
            at
        };
        // Without elements there is nothing to multiply, however many products there are.
        let count = if len == 0 { 0 } else { batches };
        let offsets = (0..count).map(|i| (offset(al, m * k, i), offset(bl, k * n, i))).collect();
        // One row is the same transposed or not, but as a row it lies in memory.
        let strides =
            |swap: bool, rows: usize, cols: usize| if swap && rows > 1 { (1, rows) } else { (cols, 1) };
        Ok(Product {
            a: at.data(),
            b: bt.data(),
            m,
            k,
            n,
            a_strides: strides(a_as.swaps(), m, k),
            b_strides: strides(b_as.swaps(), k, n),
            offsets,
            shape,
        })
    }

    /// Any arithmetic, one line of the result at a time.
    fn plain(self, f: impl Fn(T, T, T) -> T + Sync + Send) -> Result<Tensor> {
        let mut out = pool::zeros(self.shape.checked_len()?);
        let Product { a, b, m, k, n, a_strides, b_strides, .. } = self;
        par::for_each_chunk(&mut out, n, |start, row| {
            let (batch, i) = (start / n / m, start / n % m);
            let (from_a, from_b) = self.offsets[batch];
            for l in 0..k {
                let x = a[from_a + i * a_strides.0 + l * a_strides.1];
                let y = &b[from_b + l * b_strides.0..];
                if b_strides.1 == 1 {
                    for (sum, &y) in row.iter_mut().zip(&y[..n]) {
                        *sum = f(*sum, x, y);
                    }
                } else {
                    for (j, sum) in row.iter_mut().enumerate() {
                        *sum = f(*sum, x, y[j * b_strides.1]);
                    }
                }
            }
        });
        Tensor::from_buffer(self.shape, out)
    }
}

impl Product<'_, f32> {
    /// The left operand is transposed, as in the gradient of a product by its right operand.
    fn turned(&self, out: &mut [f32]) {
        let Product { a, b, m, k, n, b_strides, .. } = *self;
        let isa = Isa::current();
        let multiply = |&(at, bt): &(usize, usize), out: &mut [f32]| {
            let inner = Matrix { data: &a[at..at + m * k], rows: k, strides: (m, 1) };
            let rhs = PackedRhs::new(isa, k, n, &b[bt..bt + k * n], b_strides);
            let target = Target { start: 0, stride: n };
            gemm::gemm(&Turned { inner, rows: m }, &rhs, out, target, &Finish::default());
        };
        let small = m * k * n < par::GRAIN_FLOPS;
        let each =
            if small { (par::GRAIN_FLOPS / 4 / (m * k * n).max(1)).max(1) } else { self.offsets.len() };
        par::for_each_chunk(out, each.min(self.offsets.len().div_ceil(4)).max(1) * m * n, |start, out| {
            for (i, out) in out.chunks_exact_mut(m * n).enumerate() {
                multiply(&self.offsets[start / (m * n) + i], out);
            }
        });
    }

    fn float(&self, out: &mut [f32]) {
        let Product { a, b, m, k, n, a_strides, b_strides, .. } = *self;
        let isa = Isa::current();
        let finish = Finish::default();
        let target = Target { start: 0, stride: n };
        if a_strides.1 != 1 {
            return self.turned(out);
        }
        let lhs = |at: usize, rows: usize| Matrix { data: &a[at..at + rows * k], rows, strides: a_strides };
        let rhs = |at: usize| PackedRhs::new(isa, k, n, &b[at..at + k * n], b_strides);
        let one_b = self.offsets.iter().all(|o| o.1 == self.offsets[0].1);
        let in_a_row = self.offsets.iter().enumerate().all(|(i, o)| o.0 == i * m * k);
        if one_b && in_a_row && a_strides.1 == 1 {
            // One matrix on the right: the batch is one tall product.
            gemm::gemm(&lhs(0, self.offsets.len() * m), &rhs(0), out, target, &finish);
        } else if self.offsets.len() >= 4 && m * k * n < par::GRAIN_FLOPS {
            // Many small products: each on one thread.
            let each = (par::GRAIN_FLOPS / 4 / (m * k * n).max(1)).clamp(1, self.offsets.len().div_ceil(4));
            par::for_each_chunk(out, each * m * n, |start, out| {
                for (i, out) in out.chunks_exact_mut(m * n).enumerate() {
                    let (at, bt) = self.offsets[start / (m * n) + i];
                    gemm::gemm(&lhs(at, m), &rhs(bt), out, target, &finish);
                }
            });
        } else {
            let mut packed: Option<(usize, PackedRhs)> = None;
            for (&(at, bt), out) in self.offsets.iter().zip(out.chunks_exact_mut(m * n)) {
                let (_, rhs) = match packed.take() {
                    Some(same) if same.0 == bt => packed.insert(same),
                    _ => packed.insert((bt, rhs(bt))),
                };
                gemm::gemm(&lhs(at, m), rhs, out, target, &finish);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use num_complex::Complex32;

    use super::{Orientation, PackedB, matmul, matmul_packed};
    use crate::{
        Activation, Epilogue, KernelError, Tensor,
        simd::Isa,
        testing::{assert_close, noise},
    };

    const PLAIN: Orientation = Orientation::Plain;
    const SWAP: Orientation = Orientation::Transposed;

    fn tensor(shape: &[usize], seed: u64) -> Tensor {
        Tensor::new(shape, noise(shape.iter().product(), seed)).unwrap()
    }

    #[test]
    fn batches_broadcast_and_operands_transpose() {
        let cases: [(&[usize], &[usize], &[usize]); 8] = [
            (&[], &[], &[]),
            (&[3], &[3], &[3]),
            (&[3], &[], &[3]),
            (&[], &[2], &[2]),
            (&[2, 1], &[3], &[2, 3]),
            (&[5, 2], &[5, 2], &[5, 2]),
            (&[1, 4], &[2, 1], &[2, 4]),
            (&[0, 2], &[2], &[0, 2]),
        ];
        let at = |t: &Tensor, batch: &[usize], index: &[usize], swap: bool, r: usize, c: usize| -> f64 {
            let v = t.view::<f32>().unwrap();
            let lead = t.rank() - 2;
            let mut i: Vec<usize> =
                (0..lead).map(|d| if t.dims()[d] == 1 { 0 } else { index[batch.len() - lead + d] }).collect();
            i.extend(if swap { [c, r] } else { [r, c] });
            f64::from(v[&i[..]])
        };
        for (la, lb, lc) in cases {
            for (m, k, n) in [(1, 5, 7), (6, 17, 33), (70, 40, 70)] {
                for (ta, tb) in [(false, false), (true, false), (false, true), (true, true)] {
                    let a = tensor(&[la, &(if ta { [k, m] } else { [m, k] })].concat(), 1);
                    let b = tensor(&[lb, &(if tb { [n, k] } else { [k, n] })].concat(), 2);
                    let mut want = Vec::new();
                    for batch in 0..lc.iter().product() {
                        let mut rest = batch;
                        let mut index = vec![0; lc.len()];
                        for d in (0..lc.len()).rev() {
                            index[d] = rest % lc[d];
                            rest /= lc[d];
                        }
                        for i in 0..m {
                            for j in 0..n {
                                want.push(
                                    (0..k)
                                        .map(|l| at(&a, lc, &index, ta, i, l) * at(&b, lc, &index, tb, l, j))
                                        .sum::<f64>(),
                                );
                            }
                        }
                    }
                    for isa in Isa::available() {
                        let got = isa
                            .scope(|| {
                                matmul(&a, &b, Orientation::transposed(ta), Orientation::adjoint(tb)).unwrap()
                            })
                            .unwrap();
                        assert_eq!(got.dims(), [lc, &[m, n]].concat());
                        assert_close(
                            got.data().unwrap(),
                            &want,
                            1e-5,
                            &format!("{isa} {la:?} {lb:?} {m} {ta} {tb}"),
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn packed_products_agree_with_unpacked_ones() {
        let b = tensor(&[20, 30], 2);
        for (dims, transpose_a) in [(vec![7, 20], false), (vec![2, 3, 20], false), (vec![20, 9], true)] {
            let a = tensor(&dims, 1);
            let want = matmul(&a, &b, Orientation::transposed(transpose_a), PLAIN).unwrap();
            let packed = PackedB::new(&b, false).unwrap();
            assert_eq!(matmul_packed(&a, &packed, transpose_a, &Epilogue::default()).unwrap(), want);
            let epilogue = Epilogue {
                bias: Some(tensor(&[30], 5)),
                activation: Activation::Tanh,
                ..Epilogue::default()
            };
            let got = matmul_packed(&a, &packed, transpose_a, &epilogue).unwrap();
            let late = epilogue.apply(want).unwrap();
            let late: Vec<f64> = late.data::<f32>().unwrap().iter().map(|&x| f64::from(x)).collect();
            assert_close(got.data().unwrap(), &late, 1e-6, "epilogue");
        }
        let swapped = PackedB::new(&tensor(&[30, 20], 3), true).unwrap();
        assert_eq!((swapped.rows(), swapped.cols()), (20, 30));
    }

    #[test]
    fn integers_wrap_and_complex_numbers_conjugate() {
        let a = Tensor::new([1, 2], vec![i32::MAX, 3]).unwrap();
        let b = Tensor::new([2, 1], vec![2i32, 5]).unwrap();
        assert_eq!(matmul(&a, &b, PLAIN, PLAIN).unwrap().data::<i32>().unwrap(), [13]);
        assert_eq!(matmul(&a, &a, PLAIN, SWAP).unwrap().data::<i32>().unwrap(), [10]);
        let i = Complex32::new(0.0, 1.0);
        let z = Tensor::new([1, 2], vec![i, Complex32::new(2.0, 1.0)]).unwrap();
        // tf.matmul(z, z, adjoint_b=True), with transpose_b=True, and with adjoint_a=True, of TensorFlow 2.19.
        assert_eq!(
            matmul(&z, &z, PLAIN, Orientation::Adjoint).unwrap().data::<Complex32>().unwrap(),
            [6.0.into()]
        );
        assert_eq!(
            matmul(&z, &z, PLAIN, SWAP).unwrap().data::<Complex32>().unwrap(),
            [Complex32::new(2.0, 4.0)]
        );
        assert_eq!(
            matmul(&z, &z, Orientation::Adjoint, PLAIN).unwrap().data::<Complex32>().unwrap(),
            [1.0.into(), Complex32::new(1.0, -2.0), Complex32::new(1.0, 2.0), 5.0.into()]
        );
    }

    #[test]
    fn empty_and_wrong_operands_do_not_panic() {
        let product = |a: &[usize], b: &[usize]| matmul(&tensor(a, 1), &tensor(b, 2), PLAIN, PLAIN);
        assert_eq!(product(&[2, 0], &[0, 3]).unwrap().data::<f32>().unwrap(), [0.0; 6]);
        assert_eq!(product(&[0, 4], &[4, 3]).unwrap().dims(), [0, 3]);
        assert_eq!(
            product(&[3, 2, 4], &[0, 4, 3]).map_err(|e| matches!(e, KernelError::Shapes { .. })),
            Err(true)
        );
        assert!(matches!(product(&[2, 3], &[4, 3]), Err(KernelError::Shapes { .. })));
        assert!(matches!(product(&[3], &[3, 3]), Err(KernelError::Rank { .. })));
        let words = Tensor::new([1, 1], vec![true]).unwrap();
        assert!(matches!(matmul(&words, &words, PLAIN, PLAIN), Err(KernelError::DType { .. })));
        let ints = Tensor::new([1, 1], vec![1i32]).unwrap();
        assert!(matches!(matmul(&tensor(&[1, 1], 1), &ints, PLAIN, PLAIN), Err(KernelError::DType { .. })));
        let b = PackedB::new(&tensor(&[3, 3], 1), false).unwrap();
        assert!(matmul_packed(&tensor(&[2, 4], 1), &b, false, &Epilogue::default()).is_err());
        assert!(matmul_packed(&tensor(&[4], 1), &b, false, &Epilogue::default()).is_err());
    }
}
