//! Moving and selecting the elements of matrices.
use crate::{Element, KernelError, Result, Shape, Tensor, TensorOf, buffer::Buffer, match_tensor, par, pool};

/// Permutes dimensions: dimension `i` of the result is dimension `perm[i]` of `x`.
///
/// # Errors
/// [`KernelError`] when `perm` is not a permutation of the dimensions.
pub fn transpose(x: Tensor, perm: &[usize]) -> Result<Tensor> {
    let rank = x.rank();
    let mut seen = vec![false; rank];
    let valid =
        perm.len() == rank && perm.iter().all(|&p| p < rank && !std::mem::replace(&mut seen[p], true));
    if !valid {
        return Err(KernelError::Shapes {
            left: x.shape(),
            right: perm.into(),
            why: "do not agree: the second is not a permutation of the first's dimensions",
        });
    }
    let shape: Shape = perm.iter().map(|&p| x.dims()[p]).collect();
    // What does not move in memory is only reshaped.
    if x.is_empty() || perm.iter().filter(|&&p| x.dims()[p] != 1).is_sorted() {
        return x.reshape(shape);
    }
    match_tensor!(&x, t => Tensor::from_buffer(shape, permuted(t, perm)))
}

/// A permutation from the elements of an int32 tensor.
///
/// # Errors
/// [`KernelError`] when there is more than one dimension or an element is negative.
pub fn permutation(perm: &Tensor) -> Result<Vec<usize>> {
    let list = perm.typed::<i32>("the permutation")?;
    if list.dims().len() > 1 {
        return Err(KernelError::Rank { what: "the permutation", got: list.shape(), expected: "a vector" });
    }
    let n = list.len() as i64;
    // Negative entries count from the end, as TensorFlow's shape inference and kernels have it.
    list.data()
        .iter()
        .map(|&p| {
            let p = i64::from(p);
            if (-n..n).contains(&p) {
                Ok(p.rem_euclid(n) as usize)
            } else {
                Err(KernelError::Range { what: "perm", got: p, min: -n, max: n })
            }
        })
        .collect()
}

/// Side of the blocks in which two dimensions are exchanged: a block of each side fits the L1 cache.
const BLOCK: usize = 16;

/// The elements of `x` with dimension `d` of the result being dimension `perm[d]`; `perm` is a permutation.
pub(crate) fn permuted<T: Element>(x: &TensorOf<T>, perm: &[usize]) -> Buffer<T> {
    if x.is_empty() {
        return Buffer::default();
    }
    // Merge dimensions that stay together, drop those of size 1.
    let strides = x.shape().strides();
    let mut dims: Vec<(usize, usize)> = Vec::new();
    for &p in perm {
        let (d, s) = (x.dims()[p], strides[p]);
        match dims.last_mut() {
            _ if d == 1 => {}
            Some((size, stride)) if *stride == s * d => (*size, *stride) = (*size * d, s),
            _ => dims.push((d, s)),
        }
    }
    let data = x.data();
    let mut out = pool::elements(x.len());
    let Some(&(last, last_stride)) = dims.last() else {
        out.clone_from_slice(data);
        return out;
    };
    if last_stride == 1 {
        // Rows stay rows.
        let outer = &dims[..dims.len() - 1];
        let rows = (par::GRAIN / last).max(1);
        par::for_each_chunk(&mut out, rows * last, |start, out| {
            let mut walk = Odometer::new(outer, start / last);
            for row in out.chunks_exact_mut(last) {
                row.clone_from_slice(&data[walk.offset..][..last]);
                walk.advance(outer);
            }
        });
        return out;
    }
    // Some other dimension is contiguous in the input: exchange it with the last one block by block.
    let Some(from) = dims.iter().position(|d| d.1 == 1) else { return out };
    let width = dims[from].0;
    let out_stride: usize = dims[from + 1..].iter().map(|d| d.0).product();
    let outer: Vec<(usize, usize)> =
        dims.iter().enumerate().filter(|&(i, _)| i != from && i != dims.len() - 1).map(|(_, &d)| d).collect();
    let out_strides: Vec<usize> = {
        let mut s = vec![1; dims.len()];
        for i in (0..dims.len() - 1).rev() {
            s[i] = s[i + 1] * dims[i + 1].0;
        }
        s.into_iter().enumerate().filter(|&(i, _)| i != from && i != dims.len() - 1).map(|(_, s)| s).collect()
    };
    let planes: usize = outer.iter().map(|d| d.0).product();
    let strips = width.div_ceil(BLOCK);
    let target = par::Disjoint::new(&mut out);
    let per_task = (par::GRAIN / (last * BLOCK)).max(1);
    par::for_each_range(planes * strips, per_task, |tasks| {
        for task in tasks {
            let (plane, strip) = (task / strips, task % strips);
            let (mut source, mut dest, mut rest) = (0, 0, plane);
            for (&(d, s), &o) in outer.iter().zip(&out_strides).rev() {
                source += rest % d * s;
                dest += rest % d * o;
                rest /= d;
            }
            let columns = strip * BLOCK..width.min((strip + 1) * BLOCK);
            for start in (0..last).step_by(BLOCK) {
                let end = last.min(start + BLOCK);
                for j in columns.clone() {
                    let at = dest + j * out_stride;
                    // SAFETY: every element of the output belongs to one plane, one column and one block.
                    let row = unsafe { target.slice(at + start..at + end) };
                    for (k, o) in (start..end).zip(row) {
                        o.clone_from(&data[source + k * last_stride + j]);
                    }
                }
            }
        }
    });
    out
}

/// Counts through dimensions and keeps the offset that goes with the count.
struct Odometer {
    index: Vec<usize>,
    offset: usize,
}

impl Odometer {
    fn new(dims: &[(usize, usize)], mut number: usize) -> Odometer {
        let mut index = vec![0; dims.len()];
        let mut offset = 0;
        for (i, &(d, s)) in index.iter_mut().zip(dims).rev() {
            *i = number % d;
            offset += *i * s;
            number /= d;
        }
        Odometer { index, offset }
    }

    fn advance(&mut self, dims: &[(usize, usize)]) {
        for (i, &(d, s)) in self.index.iter_mut().zip(dims).rev() {
            *i += 1;
            self.offset += s;
            if *i < d {
                return;
            }
            self.offset -= d * s;
            *i = 0;
        }
    }
}

/// Keeps the elements of each innermost matrix that lie within `lower` diagonals below and `upper` above the main
/// one (negative: all), and zeroes the rest.
///
/// # Errors
/// [`KernelError`] when there are fewer than two dimensions, or a count exceeds the matrix.
pub fn matrix_band_part(x: Tensor, lower: i64, upper: i64) -> Result<Tensor> {
    let (rows, cols) = matrix_dims(&x)?;
    for (what, n, size) in [("num_lower", lower, rows), ("num_upper", upper, cols)] {
        if n > size as i64 {
            return Err(KernelError::Range { what, got: n, min: i64::MIN, max: size as i64 + 1 });
        }
    }
    fn band<T: Element>(mut x: TensorOf<T>, rows: usize, cols: usize, lower: i64, upper: i64) -> TensorOf<T> {
        if x.is_empty() {
            return x;
        }
        for (i, row) in x.data_mut().chunks_mut(cols).enumerate() {
            let i = (i % rows) as i64;
            let first = if lower < 0 { 0 } else { (i - lower).clamp(0, cols as i64) as usize };
            let end = if upper < 0 { cols } else { (i + upper + 1).clamp(0, cols as i64) as usize };
            row[..first].fill(T::default());
            row[end.max(first)..].fill(T::default());
        }
        x
    }
    Ok(match_tensor!(x, t => Tensor::from(band(t, rows, cols, lower, upper))))
}

fn matrix_dims(x: &Tensor) -> Result<(usize, usize)> {
    match x.dims() {
        [.., rows, cols] => Ok((*rows, *cols)),
        _ => Err(KernelError::Rank { what: "the input", got: x.shape(), expected: "at least 2 dimensions" }),
    }
}

/// Where diagonals lie in the band that holds them, one per row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Align {
    /// Diagonals above the main one end at the right border of the band.
    pub upper_right: bool,
    /// Diagonals below the main one (and that one) end at the right border of the band.
    pub lower_right: bool,
}

impl Align {
    /// All diagonals start at the left.
    pub const LEFT: Align = Align { upper_right: false, lower_right: false };

    /// From TensorFlow's names: `RIGHT_LEFT` and the like.
    pub fn from_name(name: &str) -> Option<Align> {
        let (upper_right, lower_right) = match name {
            "RIGHT_LEFT" => (true, false),
            "LEFT_RIGHT" => (false, true),
            "LEFT_LEFT" => (false, false),
            "RIGHT_RIGHT" => (true, true),
            _ => return None,
        };
        Some(Align { upper_right, lower_right })
    }
}

/// Diagonals `lower..=upper` of matrices of a size: 0 is the main one, positive ones lie above it.
#[derive(Clone, Copy, Debug)]
struct Band {
    rows: usize,
    cols: usize,
    lower: i64,
    upper: i64,
    align: Align,
}

impl Band {
    fn new(rows: usize, cols: usize, k: (i64, i64), align: Align) -> Result<Band> {
        let (lower, upper) = k;
        if lower > upper {
            return Err(KernelError::Range {
                what: "the lower diagonal",
                got: lower,
                min: i64::MIN,
                max: upper + 1,
            });
        }
        let (min, max) = (-(rows as i64), cols as i64);
        for d in [lower, upper] {
            // An empty matrix still has its main diagonal.
            if !((min < d && d < max) || d == 0) {
                return Err(KernelError::Range { what: "a diagonal", got: d, min: min + 1, max });
            }
        }
        Ok(Band { rows, cols, lower, upper, align })
    }

    fn count(&self) -> usize {
        (self.upper - self.lower + 1) as usize
    }

    /// Length of the longest diagonal.
    fn width(&self) -> usize {
        let rows = self.rows as i64 + self.upper.min(0);
        let cols = self.cols as i64 - self.lower.max(0);
        rows.min(cols).max(0) as usize
    }

    fn length(&self, d: i64) -> usize {
        (self.rows as i64 + d.min(0)).min(self.cols as i64 - d.max(0)).max(0) as usize
    }

    /// Calls `f` with the place in a band and the place in a matrix of every element on a diagonal.
    fn for_each(&self, mut f: impl FnMut(usize, usize)) {
        let width = self.width();
        for k in 0..self.count() {
            let d = self.upper - k as i64;
            let n = self.length(d);
            // The main diagonal counts as both; it is as long as the band only if nothing shortens it.
            let right = if d >= 0 { self.align.upper_right } else { self.align.lower_right };
            let start = if right { width - n } else { 0 };
            for i in 0..n {
                let (row, col) = (i + (-d).max(0) as usize, i + d.max(0) as usize);
                f(k * width + start + i, row * self.cols + col);
            }
        }
    }

    /// Shape of a band under leading dimensions.
    fn band_shape(&self, outer: &[usize]) -> Shape {
        let mut shape: Shape = outer.into();
        if self.count() > 1 {
            shape.push(self.count());
        }
        shape.push(self.width());
        shape
    }
}

/// Matrices whose diagonals `k.0..=k.1` are the last dimension (or two, if there are several) of `diagonal`, and
/// whose other elements are `padding`. Sizes of -1 are the smallest that fit.
///
/// # Errors
/// [`KernelError`] when the shapes do not fit.
pub fn matrix_diag(
    diagonal: &Tensor,
    k: (i64, i64),
    rows: i64,
    cols: i64,
    padding: &Tensor,
    align: Align,
) -> Result<Tensor> {
    let dims = diagonal.dims();
    let several = k.0 != k.1;
    let need = if several { 2 } else { 1 };
    if dims.len() < need {
        return Err(KernelError::Rank {
            what: "the diagonal",
            got: diagonal.shape(),
            expected: if several { "at least 2 dimensions" } else { "at least 1 dimension" },
        });
    }
    let (lower, upper) = k;
    let width = dims[dims.len() - 1] as i64;
    let min_rows = width - upper.min(0);
    let min_cols = width + lower.max(0);
    let wrong = || KernelError::Argument {
        what: "the number of rows or columns",
        got: format!("{rows} and {cols}"),
        expected: "-1, or a size that the diagonals fit exactly",
    };
    if rows < -1 || cols < -1 || lower > upper {
        return Err(wrong());
    }
    let (rows, cols) = match (rows, cols) {
        (-1, -1) => (min_rows.max(min_cols), min_rows.max(min_cols)),
        (-1, c) => (min_rows, c),
        (r, -1) => (r, min_cols),
        both => both,
    };
    // One of them must be as small as the longest diagonal allows, and neither smaller.
    if rows < min_rows || cols < min_cols || (rows != min_rows && cols != min_cols) {
        return Err(wrong());
    }
    let band = Band::new(rows as usize, cols as usize, k, align)?;
    if several && dims[dims.len() - 2] != band.count() {
        return Err(KernelError::Rank {
            what: "the diagonal",
            got: diagonal.shape(),
            expected: "one row per diagonal",
        });
    }
    let outer = &dims[..dims.len() - need];
    let mut shape: Shape = outer.into();
    shape.push(band.rows);
    shape.push(band.cols);
    fn build<T: Element>(
        diagonal: &TensorOf<T>,
        padding: &Tensor,
        band: Band,
        shape: Shape,
    ) -> Result<Tensor> {
        let mut out = vec![padding_value::<T>(padding)?; shape.checked_len()?];
        let (from, to) = (band.count() * band.width(), band.rows * band.cols);
        for (matrix, source) in out.chunks_mut(to.max(1)).zip(diagonal.data().chunks(from.max(1))) {
            band.for_each(|b, m| matrix[m] = source[b].clone());
        }
        Tensor::new(shape, out)
    }
    match_tensor!(diagonal, t => build(t, padding, band, shape))
}

fn padding_value<T: Element>(padding: &Tensor) -> Result<T> {
    match padding.typed::<T>("the padding")?.data() {
        [value] => Ok(value.clone()),
        _ => Err(KernelError::Rank { what: "the padding", got: padding.shape(), expected: "a scalar" }),
    }
}

/// The diagonals `k.0..=k.1` of each innermost matrix, as the last dimension (or two, if there are several);
/// `padding` fills what is shorter than the longest.
///
/// # Errors
/// [`KernelError`] when the shapes do not fit.
pub fn matrix_diag_part(x: &Tensor, k: (i64, i64), padding: &Tensor, align: Align) -> Result<Tensor> {
    let (rows, cols) = matrix_dims(x)?;
    let band = Band::new(rows, cols, k, align)?;
    let shape = band.band_shape(&x.dims()[..x.rank() - 2]);
    fn part<T: Element>(x: &TensorOf<T>, padding: &Tensor, band: Band, shape: Shape) -> Result<Tensor> {
        let mut out = vec![padding_value::<T>(padding)?; shape.checked_len()?];
        let (to, from) = (band.count() * band.width(), band.rows * band.cols);
        for (target, matrix) in out.chunks_mut(to.max(1)).zip(x.data().chunks(from.max(1))) {
            band.for_each(|b, m| target[b] = matrix[m].clone());
        }
        Tensor::new(shape, out)
    }
    match_tensor!(x, t => part(t, padding, band, shape))
}

/// `x` with the diagonals `k.0..=k.1` of each innermost matrix replaced by those in `diagonal`.
///
/// # Errors
/// [`KernelError`] when the types or shapes do not fit.
pub fn matrix_set_diag(x: Tensor, diagonal: &Tensor, k: (i64, i64), align: Align) -> Result<Tensor> {
    let (rows, cols) = matrix_dims(&x)?;
    let band = Band::new(rows, cols, k, align)?;
    let shape = band.band_shape(&x.dims()[..x.rank() - 2]);
    if diagonal.dims() != &shape[..] {
        return Err(KernelError::Shapes {
            left: shape,
            right: diagonal.shape(),
            why: "differ: the second is the diagonal given, the first the one that fits",
        });
    }
    fn set<T: Element>(mut x: TensorOf<T>, diagonal: &Tensor, band: Band) -> Result<Tensor> {
        let source = diagonal.typed::<T>("the diagonal")?.data();
        let (from, to) = (band.count() * band.width(), band.rows * band.cols);
        for (matrix, source) in x.data_mut().chunks_mut(to.max(1)).zip(source.chunks(from.max(1))) {
            band.for_each(|b, m| matrix[m] = source[b].clone());
        }
        Ok(T::wrap(x))
    }
    match_tensor!(x, t => set(t, diagonal, band))
}

/// TensorFlow's `Diag`: a tensor of shape `dims + dims` with `x` on its diagonal.
///
/// # Errors
/// [`KernelError::TooLarge`] when the result does not fit in memory.
pub fn diag(x: &Tensor) -> Result<Tensor> {
    let shape: Shape = x.dims().iter().chain(x.dims()).copied().collect();
    fn build<T: Element>(x: &TensorOf<T>, shape: Shape) -> Result<Tensor> {
        let mut out = vec![T::default(); shape.checked_len()?];
        for (i, v) in x.data().iter().enumerate() {
            out[i * (x.len() + 1)] = v.clone();
        }
        Tensor::new(shape, out)
    }
    match_tensor!(x, t => build(t, shape))
}

/// TensorFlow's `DiagPart`, the inverse of [`diag`].
///
/// # Errors
/// [`KernelError::Rank`] when the second half of the dimensions does not repeat the first.
pub fn diag_part(x: &Tensor) -> Result<Tensor> {
    let (first, second) = x.dims().split_at(x.rank() / 2);
    if first != second || x.rank() == 0 {
        return Err(KernelError::Rank {
            what: "the input",
            got: x.shape(),
            expected: "dimensions that come twice",
        });
    }
    let n: usize = first.iter().product();
    match_tensor!(x, t => Tensor::new(first, t.data().iter().step_by(n + 1).take(n).cloned().collect::<Vec<_>>()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ramp(shape: &[usize]) -> Tensor {
        let n = shape.iter().product::<usize>();
        Tensor::new(shape, (0..n).map(|i| i as f32).collect::<Vec<_>>()).unwrap()
    }

    fn f(t: &Tensor) -> &[f32] {
        t.data().unwrap()
    }

    #[test]
    fn transposing_agrees_with_ndarray_for_every_permutation() {
        let perms = [
            [0, 1, 2, 3],
            [0, 2, 1, 3],
            [3, 2, 1, 0],
            [0, 2, 3, 1],
            [0, 3, 1, 2],
            [1, 0, 3, 2],
            [2, 0, 1, 3],
            [1, 2, 3, 0],
        ];
        for shape in [[2, 3, 4, 5], [1, 33, 17, 20], [2, 40, 1, 19], [7, 1, 1, 3]] {
            let x = ramp(&shape);
            for perm in perms {
                let got = transpose(x.clone(), &perm).unwrap();
                let want = Tensor::from(x.view::<f32>().unwrap().permuted_axes(&perm[..]).to_owned());
                assert_eq!(got, want, "{shape:?} {perm:?}");
            }
        }
    }

    #[test]
    fn what_is_not_a_permutation_is_refused() {
        for perm in [&[0, 0][..], &[0], &[0, 2], &[0, 1, 2]] {
            assert!(transpose(ramp(&[2, 3]), perm).is_err());
        }
    }

    #[test]
    fn bands_agree_with_tensorflow() {
        let y = matrix_band_part(ramp(&[3, 4]), 0, 1).unwrap();
        assert_eq!(f(&y), [0.0, 1.0, 0.0, 0.0, 0.0, 5.0, 6.0, 0.0, 0.0, 0.0, 10.0, 11.0]);
        assert!(matrix_band_part(ramp(&[3, 4]), 4, 1).is_err());
    }

    #[test]
    fn diagonals_agree_with_tensorflow() {
        let pad = Tensor::scalar(-9.0f32);
        let part = |name| {
            let y = matrix_diag_part(&ramp(&[3, 4]), (-1, 2), &pad, Align::from_name(name).unwrap()).unwrap();
            f(&y).to_vec()
        };
        assert_eq!(part("RIGHT_LEFT"), [-9.0, 2.0, 7.0, 1.0, 6.0, 11.0, 0.0, 5.0, 10.0, 4.0, 9.0, -9.0]);
        assert_eq!(part("LEFT_RIGHT"), [2.0, 7.0, -9.0, 1.0, 6.0, 11.0, 0.0, 5.0, 10.0, -9.0, 4.0, 9.0]);
        let set = |name| {
            let d = Tensor::new([3, 3], vec![0.0f32, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 0.0]).unwrap();
            let y = matrix_set_diag(
                Tensor::new([3, 4], vec![0.0f32; 12]).unwrap(),
                &d,
                (-1, 1),
                Align::from_name(name).unwrap(),
            );
            f(&y.unwrap()).to_vec()
        };
        assert_eq!(set("RIGHT_LEFT"), [3.0, 0.0, 0.0, 0.0, 6.0, 4.0, 1.0, 0.0, 0.0, 7.0, 5.0, 2.0]);
        assert_eq!(set("LEFT_RIGHT"), [3.0, 0.0, 0.0, 0.0, 7.0, 4.0, 1.0, 0.0, 0.0, 0.0, 5.0, 2.0]);
        let d = Tensor::new([2, 3], vec![1.0f32, 2.0, 3.0, 4.0, 5.0, 0.0]).unwrap();
        let build = |name| {
            let y =
                matrix_diag(&d, (-1, 0), -1, -1, &Tensor::scalar(9.0f32), Align::from_name(name).unwrap());
            f(&y.unwrap()).to_vec()
        };
        assert_eq!(build("RIGHT_LEFT"), [1.0, 9.0, 9.0, 4.0, 2.0, 9.0, 9.0, 5.0, 3.0]);
        assert_eq!(build("LEFT_RIGHT"), [1.0, 9.0, 9.0, 5.0, 2.0, 9.0, 9.0, 0.0, 3.0]);
    }

    #[test]
    fn sizes_that_the_diagonal_does_not_fit_are_refused() {
        let (d, pad) = (Tensor::vector(vec![1.0f32, 2.0]), Tensor::scalar(8.0f32));
        let run = |k, r, c| matrix_diag(&d, (k, k), r, c, &pad, Align::LEFT);
        assert!(run(1, 3, 4).is_err() && run(0, 4, 4).is_err());
        assert_eq!(f(&run(-1, -1, -1).unwrap()), [8.0, 8.0, 8.0, 1.0, 8.0, 8.0, 8.0, 2.0, 8.0]);
        assert_eq!(run(0, -1, 4).unwrap().dims(), [2, 4]);
        assert!(matrix_diag_part(&ramp(&[3, 4]), (5, 5), &pad, Align::LEFT).is_err());
    }

    #[test]
    fn diag_and_its_inverse_agree() {
        let x = ramp(&[2, 2]);
        let y = diag(&x).unwrap();
        assert_eq!(y.dims(), [2, 2, 2, 2]);
        assert_eq!(diag_part(&y).unwrap(), x);
        assert_eq!(f(&diag_part(&ramp(&[2, 2, 2, 2])).unwrap()), [0.0, 5.0, 10.0, 15.0]);
    }
}
