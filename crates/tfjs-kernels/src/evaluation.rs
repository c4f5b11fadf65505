//! Searching and sorting: top k, unique, where, bounds.
use std::{
    collections::{HashMap, HashSet},
    hash::Hash,
};

use num_complex::Complex32;

use crate::{Element, KernelError, Result, Shape, Tensor, TensorOf, TfString, match_tensor, reduce::axis};

/// The `k` largest elements along the last axis and their indices; the lower index first among equals, NaN last.
/// In descending order, or, if they need not be `sorted`, in the order in which TensorFlow gives them then.
///
/// # Errors
/// [`KernelError`] when the input is a scalar or not a number, or `k` is negative or larger than the last dimension.
pub fn top_k(x: &Tensor, k: i64, sorted: bool) -> Result<(Tensor, Tensor)> {
    let Some((&n, outer)) = x.dims().split_last() else {
        return Err(KernelError::Rank {
            what: "the input",
            got: x.shape(),
            expected: "at least 1 dimension",
        });
    };
    let k = usize::try_from(k).ok().filter(|&k| k <= n).ok_or(KernelError::Range {
        what: "k",
        got: k,
        min: 0,
        max: n as i64 + 1,
    })?;
    let mut shape: Shape = outer.into();
    shape.push(k);
    match x {
        Tensor::F32(x) => largest(x, n, k, shape, sorted, descending_key),
        Tensor::I32(x) => largest(x, n, k, shape, sorted, |v| !v),
        other => {
            Err(KernelError::DType { what: "the input", got: other.dtype(), expected: "float32 or int32" })
        }
    }
}

/// A key that sorts floats in descending order: both zeros alike, NaN last.
fn descending_key(v: f32) -> i32 {
    if v.is_nan() {
        return i32::MAX;
    }
    let bits = (v + 0.0).to_bits() as i32;
    // Negative floats sort backwards by their bits.
    !(if bits < 0 { bits ^ i32::MAX } else { bits })
}

fn largest<T: Element + Copy>(
    x: &TensorOf<T>,
    n: usize,
    k: usize,
    shape: Shape,
    sorted: bool,
    key: impl Fn(T) -> i32,
) -> Result<(Tensor, Tensor)> {
    let len = shape.checked_len()?;
    let (mut values, mut indices) = (Vec::with_capacity(len), Vec::with_capacity(len));
    if k > 0 {
        let mut order: Vec<(i32, i32)> = Vec::with_capacity(n);
        for row in x.data().chunks(n) {
            order.clear();
            order.extend(row.iter().enumerate().map(|(i, &v)| (key(v), i as i32)));
            if sorted || k == 1 || k == n {
                if k < n {
                    order.select_nth_unstable(k);
                }
                order[..k].sort_unstable();
            } else {
                heap_order(&mut order, k);
            }
            indices.extend(order[..k].iter().map(|&(_, i)| i));
            values.extend(order[..k].iter().map(|&(_, i)| row[i as usize]));
        }
    }
    Ok((Tensor::new(shape.clone(), values)?, Tensor::new(shape, indices)?))
}

/// Leaves the `k` first of `items` in front, in the order in which TensorFlow's bounded heap holds them: what its
/// `TopKV2` gives when the result need not be sorted. Any order would do, but models were made with this one.
fn heap_order(items: &mut [(i32, i32)], k: usize) {
    let (heap, rest) = items.split_at_mut(k + 1);
    for parent in (0..=(k - 1) / 2).rev() {
        let item = heap[parent];
        sift(heap, parent, item);
    }
    pop(heap);
    for &item in rest.iter() {
        // The front is the last of those kept.
        if item < heap[0] {
            heap[k] = item;
            pop(heap);
        }
    }
}

/// Moves the front behind the others and lets the last item find its place among them.
fn pop(heap: &mut [(i32, i32)]) {
    if let [rest @ .., last] = heap
        && !rest.is_empty()
    {
        let item = std::mem::replace(last, rest[0]);
        sift(rest, 0, item);
    }
}

/// Puts `item` into a heap with a hole, the way the GNU standard library does: the hole sinks to the bottom along
/// the later children, then the item rises.
fn sift(heap: &mut [(i32, i32)], top: usize, item: (i32, i32)) {
    let (n, mut hole) = (heap.len(), top);
    loop {
        let right = 2 * hole + 2;
        let child = match right {
            r if r < n => {
                if heap[r] < heap[r - 1] {
                    r - 1
                } else {
                    r
                }
            }
            r if r == n => r - 1,
            _ => break,
        };
        heap[hole] = heap[child];
        hole = child;
    }
    while hole > top {
        let parent = (hole - 1) / 2;
        if heap[parent] >= item {
            break;
        }
        heap[hole] = heap[parent];
        hole = parent;
    }
    heap[hole] = item;
}

/// Whether each target is among the `k` largest predictions of its row; never when a prediction is not finite.
///
/// # Errors
/// [`KernelError`] when the inputs are not `predictions: [rows, classes]` and `targets: [rows]`.
pub fn in_top_k(predictions: &Tensor, targets: &Tensor, k: i64) -> Result<Tensor> {
    let (p, t) = (predictions.typed::<f32>("predictions")?, targets.typed::<i32>("targets")?);
    let &[rows, classes] = p.dims() else {
        return Err(KernelError::Rank { what: "predictions", got: p.shape(), expected: "2 dimensions" });
    };
    if t.dims() != [rows] {
        return Err(KernelError::Shapes {
            left: p.shape(),
            right: t.shape(),
            why: "do not agree: there is one target per row",
        });
    }
    let out = t.data().iter().enumerate().map(|(i, &target)| {
        let row = &p.data()[i * classes..][..classes];
        let Some(&value) = usize::try_from(target).ok().and_then(|t| row.get(t)) else { return false };
        row.iter().all(|v| v.is_finite()) && (row.iter().filter(|&&v| v > value).count() as i64) < k
    });
    Tensor::new([rows], out.collect::<Vec<_>>())
}

/// For each value, the first place in its row of `sorted` where it could be inserted (`upper`: the last such place).
///
/// # Errors
/// [`KernelError`] when the inputs are not `sorted: [rows, n]` and `values: [rows, m]` of one number type.
pub fn bound(sorted: &Tensor, values: &Tensor, upper: bool) -> Result<Tensor> {
    let (&[rows, n], &[other, m]) = (sorted.dims(), values.dims()) else {
        let got = if sorted.rank() == 2 { values.shape() } else { sorted.shape() };
        return Err(KernelError::Rank { what: "the input", got, expected: "2 dimensions" });
    };
    if rows != other {
        return Err(KernelError::Shapes {
            left: sorted.shape(),
            right: values.shape(),
            why: "differ in their first dimension",
        });
    }
    fn search<T: Copy + PartialOrd>(sorted: &[T], values: &[T], n: usize, m: usize, upper: bool) -> Vec<i32> {
        let mut out = Vec::with_capacity(values.len());
        for (i, &v) in values.iter().enumerate() {
            let row = &sorted[i / m * n..][..n];
            // NaN is less than nothing and nothing is less than it.
            #[allow(clippy::neg_cmp_op_on_partial_ord)]
            let at = if upper { row.partition_point(|&s| !(v < s)) } else { row.partition_point(|&s| s < v) };
            out.push(at as i32);
        }
        out
    }
    let out = match sorted {
        Tensor::I32(s) => search(s.data(), values.typed::<i32>("the values")?.data(), n, m, upper),
        s => search(
            s.typed::<f32>("the sorted input")?.data(),
            values.typed::<f32>("the values")?.data(),
            n,
            m,
            upper,
        ),
    };
    Tensor::new([rows, m], out)
}

/// Coordinates of the elements that are not zero, false or empty: `[count, rank]`, in row-major order.
///
/// # Errors
/// [`KernelError`] for scalars.
pub fn where_true(condition: &Tensor) -> Result<Tensor> {
    if condition.rank() == 0 {
        return Err(KernelError::Rank {
            what: "the condition",
            got: condition.shape(),
            expected: "at least 1 dimension",
        });
    }
    fn find<T: Element>(x: &TensorOf<T>) -> Result<Tensor> {
        let (rank, zero) = (x.dims().len(), T::default());
        let mut out: Vec<i32> = Vec::new();
        for (i, v) in x.data().iter().enumerate() {
            if *v != zero {
                let (at, mut rest) = (out.len(), i);
                out.resize(at + rank, 0);
                for (slot, &d) in out[at..].iter_mut().zip(x.dims()).rev() {
                    *slot = (rest % d) as i32;
                    rest /= d;
                }
            }
        }
        Tensor::new([out.len() / rank, rank], out)
    }
    match_tensor!(condition, x => find(x))
}

/// Elements of `x` that are not in `y`, and their indices.
///
/// # Errors
/// [`KernelError`] when the inputs are not vectors of one type.
pub fn list_diff(x: &Tensor, y: &Tensor) -> Result<(Tensor, Tensor)> {
    for t in [x, y] {
        if t.rank() != 1 {
            return Err(KernelError::Rank { what: "the input", got: t.shape(), expected: "a vector" });
        }
    }
    fn diff<T: Element + Key>(x: &TensorOf<T>, y: &Tensor) -> Result<(Tensor, Tensor)> {
        let y = y.typed::<T>("the second input")?;
        let drop: HashSet<_> = y.data().iter().filter_map(Key::key).collect();
        let kept = x.data().iter().enumerate().filter(|(_, v)| v.key().is_none_or(|k| !drop.contains(&k)));
        let (indices, values): (Vec<i32>, Vec<T>) = kept.map(|(i, v)| (i as i32, v.clone())).unzip();
        Ok((Tensor::vector(values), Tensor::vector(indices)))
    }
    match_tensor!(x, t => diff(t, y))
}

/// What [`unique`] finds.
#[derive(Clone, Debug, PartialEq)]
pub struct Unique {
    /// The different slices, in order of first occurrence.
    pub values: Tensor,
    /// For each slice of the input, its number in `values`.
    pub indices: Tensor,
    /// How often each occurs.
    pub counts: Tensor,
}

/// The different slices of `x` along an axis; `None` takes the elements of a vector. NaN differs from itself.
///
/// # Errors
/// [`KernelError`] when the axis is out of range, or there is none and `x` is not a vector.
pub fn unique(x: &Tensor, at: Option<i64>) -> Result<Unique> {
    if at.is_none() && x.rank() != 1 {
        return Err(KernelError::Rank { what: "the input", got: x.shape(), expected: "a vector" });
    }
    let d = axis(at.unwrap_or(0), x.rank())?;
    match_tensor!(x, t => slices(t, d))
}

fn slices<T: Element + Key>(x: &TensorOf<T>, d: usize) -> Result<Unique> {
    let dims = x.dims();
    let (n, inner) = (dims[d], dims[d + 1..].iter().product::<usize>());
    let outer: usize = dims[..d].iter().product();
    let slice = |k: usize| (0..outer).flat_map(move |o| &x.data()[(o * n + k) * inner..][..inner]);
    let mut seen: HashMap<Vec<T::Of<'_>>, usize> = HashMap::new();
    let (mut first, mut indices, mut counts) = (Vec::new(), Vec::with_capacity(n), Vec::<i32>::new());
    for k in 0..n {
        // A slice with NaN in it has no key and equals nothing.
        let known = slice(k).map(Key::key).collect::<Option<Vec<_>>>();
        let number = match known {
            Some(key) => *seen.entry(key).or_insert(first.len()),
            None => first.len(),
        };
        if number == first.len() {
            first.push(k);
            counts.push(0);
        }
        counts[number] += 1;
        indices.push(number as i32);
    }
    let mut data = Vec::with_capacity(outer * first.len() * inner);
    for o in 0..outer {
        for &k in &first {
            data.extend_from_slice(&x.data()[(o * n + k) * inner..][..inner]);
        }
    }
    let mut shape = x.shape();
    shape[d] = first.len();
    Ok(Unique {
        values: Tensor::new(shape, data)?,
        indices: Tensor::vector(indices),
        counts: Tensor::vector(counts),
    })
}

/// What elements are compared by: `None` for NaN, which equals nothing.
trait Key {
    type Of<'a>: Eq + Hash
    where
        Self: 'a;
    fn key(&self) -> Option<Self::Of<'_>>;
}

impl Key for f32 {
    type Of<'a> = u32;
    fn key(&self) -> Option<u32> {
        // Adding zero makes the two zeros one.
        (!self.is_nan()).then(|| (self + 0.0).to_bits())
    }
}

impl Key for i32 {
    type Of<'a> = i32;
    fn key(&self) -> Option<i32> {
        Some(*self)
    }
}

impl Key for bool {
    type Of<'a> = bool;
    fn key(&self) -> Option<bool> {
        Some(*self)
    }
}

impl Key for TfString {
    type Of<'a> = &'a [u8];
    fn key(&self) -> Option<&[u8]> {
        Some(self)
    }
}

impl Key for Complex32 {
    type Of<'a> = (u32, u32);
    fn key(&self) -> Option<(u32, u32)> {
        Some((self.re.key()?, self.im.key()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn f(v: &[f32]) -> Tensor {
        Tensor::vector(v.to_vec())
    }

    fn ints(t: &Tensor) -> &[i32] {
        t.data().unwrap()
    }

    #[test]
    fn top_k_takes_the_lower_index_among_equals() {
        let (v, i) = top_k(&f(&[1.0, 3.0, -0.0, 3.0, f32::NEG_INFINITY, 0.0]), 5, true).unwrap();
        assert_eq!(v.data::<f32>().unwrap(), [3.0, 3.0, 1.0, -0.0, 0.0]);
        assert_eq!(ints(&i), [1, 3, 0, 2, 5]);
        let (v, _) = top_k(&Tensor::new([2, 2], vec![i32::MIN, 5, 7, i32::MAX]).unwrap(), 1, true).unwrap();
        assert_eq!((v.dims(), ints(&v)), (&[2usize, 1][..], &[5, i32::MAX][..]));
        assert!(top_k(&f(&[1.0]), 2, true).is_err() && top_k(&f(&[1.0]), -1, true).is_err());
    }

    #[test]
    fn unsorted_results_have_tensorflows_order() {
        let rows = vec![
            0.7788, 0.8012, 0.7244, 0.2309, 0.7271, 0.1804, 0.5056, 0.8925, 0.5461, 0.9234, 0.0856, 0.7938,
            0.6591, 0.5556, 0.1596, 0.3087, 0.1548, 0.4695,
        ];
        let (_, i) = top_k(&Tensor::new([3, 6], rows).unwrap(), 5, false).unwrap();
        assert_eq!(ints(&i), [3, 4, 2, 1, 0, 0, 5, 2, 3, 1, 2, 3, 5, 0, 1]);
    }

    #[test]
    fn unique_keeps_nan_apart_and_zeros_together() {
        let u = unique(&f(&[1.0, f32::NAN, f32::NAN, -0.0, 0.0, 1.0]), None).unwrap();
        assert_eq!(ints(&u.indices), [0, 1, 2, 3, 3, 0]);
        assert_eq!(ints(&u.counts), [2, 1, 1, 2]);
    }

    #[test]
    fn unique_compares_slices_along_an_axis() {
        let x = Tensor::new([2, 3], vec![1, 3, 1, 2, 3, 2]).unwrap();
        let u = unique(&x, Some(1)).unwrap();
        assert_eq!((u.values.dims(), ints(&u.values)), (&[2usize, 2][..], &[1, 3, 2, 3][..]));
        assert_eq!(ints(&u.indices), [0, 1, 0]);
        assert!(unique(&x, None).is_err());
    }

    #[test]
    fn bounds_are_places_of_insertion() {
        let s = Tensor::new([1, 3], vec![1.0f32, 2.0, 3.0]).unwrap();
        let v = Tensor::new([1, 3], vec![f32::NAN, f32::INFINITY, 2.0]).unwrap();
        assert_eq!(ints(&bound(&s, &v, false).unwrap()), [0, 3, 1]);
        assert_eq!(ints(&bound(&s, &v, true).unwrap()), [3, 3, 2]);
    }

    #[test]
    fn where_lists_coordinates() {
        let x = Tensor::new([2, 2], vec![f32::NAN, 0.0, -0.0, 1.0]).unwrap();
        let w = where_true(&x).unwrap();
        assert_eq!((w.dims(), ints(&w)), (&[2usize, 2][..], &[0, 0, 1, 1][..]));
        assert!(where_true(&Tensor::scalar(true)).is_err());
    }

    #[test]
    fn list_diff_drops_what_the_second_list_has() {
        let (v, i) = list_diff(&f(&[1.0, f32::NAN, 0.0]), &f(&[f32::NAN, -0.0])).unwrap();
        assert!(v.data::<f32>().unwrap()[0] == 1.0 && v.data::<f32>().unwrap()[1].is_nan());
        assert_eq!(ints(&i), [0, 1]);
    }

    #[test]
    fn targets_must_be_among_finite_predictions() {
        let p =
            vec![0.1, 0.2, 0.3, 0.3, 0.3, 0.2, f32::NAN, 0.1, 0.2, f32::INFINITY, 0.1, 0.2, 0.1, 0.2, 0.3];
        let p = Tensor::new([5, 3], p).unwrap();
        let got = in_top_k(&p, &Tensor::vector(vec![1, 0, 1, 1, 7]), 2).unwrap();
        assert_eq!(got.data::<bool>().unwrap(), [true, true, false, false, false]);
    }
}
