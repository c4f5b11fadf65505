//! The two copies behind every op that only moves elements: [`gather`], where each output axis picks from
//! the same source axis, and [`transpose`].
use smallvec::SmallVec;

use crate::{Element, KernelError, Result, Shape, par};

/// Consecutive indices of one output axis.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Run {
    /// Source indices `start`, `start + step`, … (`step` 0 repeats one index).
    Copy { start: usize, step: isize, len: usize },
    /// No source: the fill value.
    Fill { len: usize },
}

impl Run {
    fn len(self) -> usize {
        match self {
            Run::Copy { len, .. } | Run::Fill { len } => len,
        }
    }
}

/// Where the indices of one output axis lie along the same source axis.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Axis(SmallVec<[Run; 3]>);

impl Axis {
    /// The source axis as it is.
    pub(crate) fn whole(dim: usize) -> Axis {
        Axis::range(0, 1, dim)
    }

    /// `len` indices from `start` in steps of `step`.
    pub(crate) fn range(start: usize, step: isize, len: usize) -> Axis {
        Axis::from_runs([Run::Copy { start, step, len }])
    }

    /// Runs one after the other; empty ones are dropped.
    pub(crate) fn from_runs(runs: impl IntoIterator<Item = Run>) -> Axis {
        Axis(runs.into_iter().filter(|r| r.len() > 0).collect())
    }

    /// Number of output indices.
    pub(crate) fn len(&self) -> usize {
        self.0.iter().map(|r| r.len()).sum()
    }

    fn is_whole(&self, dim: usize) -> bool {
        match self.0.as_slice() {
            [] => dim == 0,
            [Run::Copy { start: 0, step: 1, len }] => *len == dim,
            [Run::Copy { start: 0, len: 1, .. }] => dim == 1,
            _ => false,
        }
    }

    /// Source offset of every output index, `None` where the fill value goes.
    fn offsets(&self, stride: usize) -> Vec<Option<usize>> {
        let mut offsets = Vec::with_capacity(self.len());
        for run in &self.0 {
            match *run {
                Run::Fill { len } => offsets.extend(std::iter::repeat_n(None, len)),
                Run::Copy { start, step, len } => offsets.extend(
                    (0..len as isize).map(|i| Some(start.wrapping_add_signed(i * step).wrapping_mul(stride))),
                ),
            }
        }
        offsets
    }
}

/// The shape that `axes` make, checked for size.
pub(crate) fn gathered_shape(axes: &[Axis]) -> Result<Shape> {
    let shape: Shape = axes.iter().map(Axis::len).collect();
    shape.checked_len()?;
    Ok(shape)
}

/// Copies `out[i0, i1, …] = src[axes[0][i0], axes[1][i1], …]`, whole inner runs at a time.
///
/// `axes` has one entry per dimension of `dims`, with source indices inside it; the caller has checked that
/// the result fits in memory ([`gathered_shape`]).
pub(crate) fn gather<T: Element>(src: &[T], dims: &[usize], axes: &[Axis], fill: &T) -> Vec<T> {
    debug_assert_eq!(dims.len(), axes.len());
    let n = axes.iter().map(Axis::len).product();
    let mut out = vec![T::default(); n];
    if n == 0 {
        return out;
    }
    // Neighbouring axes that are taken whole are one axis; the innermost ones are one block.
    let mut merged: SmallVec<[(usize, Axis); 6]> = SmallVec::new();
    for (&dim, axis) in dims.iter().zip(axes) {
        match merged.last_mut() {
            Some((d, a)) if axis.is_whole(dim) && a.is_whole(*d) => {
                *d *= dim;
                *a = Axis::whole(*d);
            }
            _ => merged.push((dim, axis.clone())),
        }
    }
    let mut block = 1;
    while let Some((dim, _)) = merged.last().filter(|(dim, axis)| axis.is_whole(*dim)) {
        block *= dim;
        merged.pop();
    }
    let Some((last_dim, last)) = merged.pop() else {
        copy_block(&mut out, src);
        return out;
    };
    let mut stride = block * last_dim;
    let mut tables: SmallVec<[Vec<Option<usize>>; 6]> = SmallVec::new();
    for (dim, axis) in merged.iter().rev() {
        tables.push(axis.offsets(stride));
        stride *= dim;
    }
    tables.reverse();
    let fill_differs = *fill != T::default();
    let row_len = last.len() * block;
    rows(&mut out, row_len, |first, lines| {
        // Odometer over the outer axes, started at this chunk's first row.
        let mut index: SmallVec<[usize; 6]> = SmallVec::from_elem(0, tables.len());
        let mut rest = first;
        for (i, table) in index.iter_mut().zip(&tables).rev() {
            *i = rest % table.len();
            rest /= table.len();
        }
        for row in lines.chunks_exact_mut(row_len) {
            let base = index.iter().zip(&tables).try_fold(0, |sum, (&i, table)| Some(sum + table[i]?));
            match base {
                Some(base) => {
                    copy_runs(row, src.get(base..).unwrap_or_default(), &last.0, block, fill, fill_differs)
                }
                None if fill_differs => row.fill(fill.clone()),
                None => {}
            }
            for (i, table) in index.iter_mut().zip(&tables).rev() {
                *i += 1;
                if *i < table.len() {
                    break;
                }
                *i = 0;
            }
        }
    });
    out
}

/// One row of [`gather`]: runs of blocks of `block` elements.
fn copy_runs<T: Element>(row: &mut [T], src: &[T], runs: &[Run], block: usize, fill: &T, fill_differs: bool) {
    let mut rest = row;
    for run in runs {
        let (out, tail) = rest.split_at_mut(run.len() * block);
        rest = tail;
        match *run {
            Run::Fill { .. } if fill_differs => out.fill(fill.clone()),
            Run::Fill { .. } => {}
            Run::Copy { start, step: 1, len } => copy_block(out, &src[start * block..][..len * block]),
            Run::Copy { start, step: 0, .. } if block == 1 => out.fill(src[start].clone()),
            Run::Copy { start, step, .. } if block == 1 => {
                let mut at = start;
                for o in out {
                    *o = src[at].clone();
                    at = at.wrapping_add_signed(step);
                }
            }
            Run::Copy { start, step, .. } => {
                let mut at = start;
                for o in out.chunks_exact_mut(block) {
                    copy_block(o, &src[at * block..][..block]);
                    at = at.wrapping_add_signed(step);
                }
            }
        }
    }
}

/// `clone_from_slice` is `memcpy` for the number types, but for a few elements a loop beats the call.
#[inline]
pub(crate) fn copy_block<T: Element>(out: &mut [T], src: &[T]) {
    if out.len() < 8 {
        for (o, s) in out.iter_mut().zip(src) {
            *o = s.clone();
        }
    } else {
        out.clone_from_slice(src);
    }
}

/// Side of the square tiles of a transposed copy: 16 floats are one cache line.
const TILE: usize = 16;

/// Copies so that output axis `d` is source axis `perm[d]`; `perm` is a permutation of `0..dims.len()`.
pub(crate) fn transpose<T: Element>(src: &[T], dims: &[usize], perm: &[usize]) -> Vec<T> {
    debug_assert_eq!(dims.len(), perm.len());
    if src.is_empty() {
        return Vec::new();
    }
    // Source strides in output order, without axes of size 1, neighbours that stay neighbours joined.
    let strides = Shape::from(dims).strides();
    let mut axes: SmallVec<[(usize, usize); 6]> = SmallVec::new();
    for &p in perm {
        if dims[p] == 1 {
            continue;
        }
        match axes.last_mut() {
            Some((len, stride)) if *stride == strides[p] * dims[p] => {
                *len *= dims[p];
                *stride = strides[p];
            }
            _ => axes.push((dims[p], strides[p])),
        }
    }
    let mut out = vec![T::default(); src.len()];
    let Some(&(last_len, last_stride)) = axes.last() else {
        copy_block(&mut out, src);
        return out;
    };
    if axes.len() == 1 {
        copy_block(&mut out, src);
        return out;
    }
    if last_stride == 1 {
        let outer = &axes[..axes.len() - 1];
        rows(&mut out, last_len, |first, lines| {
            for (i, row) in lines.chunks_exact_mut(last_len).enumerate() {
                let base = source_offset(first + i, outer);
                copy_block(row, &src[base..][..last_len]);
            }
        });
        return out;
    }
    // The source's innermost axis is output axis `inner`: copy tiles of (inner × last).
    let inner = axes.iter().position(|&(_, stride)| stride == 1).unwrap_or(0);
    let unit: usize = axes[1..].iter().map(|a| a.0).product();
    rows(&mut out, unit, |first, chunk| {
        let mut axes = axes.clone();
        axes[0].0 = chunk.len() / unit;
        transpose_tiles(chunk, &src[first * axes[0].1..], &axes, inner);
    });
    out
}

/// Source offset of row number `row` over the `outer` axes `(length, source stride)`.
fn source_offset(mut row: usize, outer: &[(usize, usize)]) -> usize {
    let mut base = 0;
    for &(len, stride) in outer.iter().rev() {
        base += row % len * stride;
        row /= len;
    }
    base
}

fn transpose_tiles<T: Element>(out: &mut [T], src: &[T], axes: &[(usize, usize)], inner: usize) {
    let last = axes.len() - 1;
    let (cols, col_stride) = axes[last];
    let rows = axes[inner].0;
    let out_shape: Shape = axes.iter().map(|a| a.0).collect();
    let out_strides = out_shape.strides();
    let row_stride = out_strides[inner];
    let others: SmallVec<[usize; 6]> = (0..last).filter(|&d| d != inner).collect();
    let planes: usize = others.iter().map(|&d| axes[d].0).product();
    for plane in 0..planes {
        let (mut rest, mut from, mut to) = (plane, 0, 0);
        for &d in others.iter().rev() {
            let i = rest % axes[d].0;
            rest /= axes[d].0;
            from += i * axes[d].1;
            to += i * out_strides[d];
        }
        for r0 in (0..rows).step_by(TILE) {
            for c0 in (0..cols).step_by(TILE) {
                for r in r0..rows.min(r0 + TILE) {
                    let width = TILE.min(cols - c0);
                    let line = &mut out[to + r * row_stride + c0..][..width];
                    let mut at = from + r + c0 * col_stride;
                    for o in line {
                        *o = src[at].clone();
                        at += col_stride;
                    }
                }
            }
        }
    }
}

/// Calls `fill(first row, rows)` on consecutive whole rows that together are `out`, on several threads.
pub(crate) fn rows<T: Send>(out: &mut [T], row_len: usize, fill: impl Fn(usize, &mut [T]) + Sync + Send) {
    // Rows of nothing are nothing to fill.
    let Some(lines) = par::GRAIN.checked_div(row_len) else { return };
    par::for_each_chunk(out, lines.max(1) * row_len, |start, part| fill(start / row_len, part));
}

/// A possibly negative axis as an index into `0..rank`.
///
/// # Errors
/// [`KernelError::Range`] when it is not in `[-rank, rank)`.
pub(crate) fn axis(axis: i64, rank: usize) -> Result<usize> {
    let r = rank as i64;
    if (-r..r).contains(&axis) {
        Ok(if axis < 0 { axis + r } else { axis } as usize)
    } else {
        Err(KernelError::Range { what: "axis", got: axis, min: -r, max: r })
    }
}

/// An index that must be in `0..dim`.
///
/// # Errors
/// [`KernelError::Range`] when it is not.
#[inline]
pub(crate) fn index(what: &'static str, got: i32, dim: usize) -> Result<usize> {
    match usize::try_from(got) {
        Ok(i) if i < dim => Ok(i),
        _ => Err(KernelError::Range { what, got: got.into(), min: 0, max: dim as i64 }),
    }
}

/// A count that must not be negative.
///
/// # Errors
/// [`KernelError::Argument`] when it is.
#[inline]
pub(crate) fn count(what: &'static str, got: i32) -> Result<usize> {
    usize::try_from(got).map_err(|_| KernelError::Argument {
        what,
        got: got.to_string(),
        expected: "not negative",
    })
}

#[cfg(test)]
mod tests {
    use super::{Axis, Run, gather, transpose};

    #[test]
    fn gather_mixes_runs_fills_and_blocks() {
        let src: Vec<i32> = (0..12).collect();
        let pad = Axis::from_runs([Run::Fill { len: 1 }, Run::Copy { start: 2, step: -1, len: 3 }]);
        let got = gather(&src, &[2, 3, 2], &[Axis::range(1, 0, 2), pad, Axis::whole(2)], &-1);
        let row = [-1, -1, 10, 11, 8, 9, 6, 7];
        assert_eq!(got, [row, row].concat());
    }

    #[test]
    fn gather_from_nothing_is_all_fill() {
        let got = gather::<f32>(&[], &[0], &[Axis::from_runs([Run::Fill { len: 2 }])], &3.0);
        assert_eq!(got, [3.0, 3.0]);
    }

    #[test]
    fn transpose_agrees_with_ndarray_for_every_permutation() {
        let dims = [3, 1, 17, 4];
        let src: Vec<i32> = (0..204).collect();
        let array = ndarray::Array::from_shape_vec(dims, src.clone()).unwrap();
        for code in 0..256usize {
            let perm = [code & 3, code >> 2 & 3, code >> 4 & 3, code >> 6 & 3];
            if (0..4).any(|d| !perm.contains(&d)) {
                continue;
            }
            let want: Vec<i32> = array.view().permuted_axes(perm).iter().copied().collect();
            assert_eq!(transpose(&src, &dims, &perm), want, "{perm:?}");
        }
    }
}
