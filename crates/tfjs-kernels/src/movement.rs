//! The copy behind most ops that only move elements: [`gather`], where each output axis picks from the same
//! source axis.
use smallvec::SmallVec;

use crate::{Element, KernelError, Result, Shape, buffer::Buffer, par, pool};

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
pub(crate) fn gather<T: Element>(src: &[T], dims: &[usize], axes: &[Axis], fill: &T) -> Buffer<T> {
    debug_assert_eq!(dims.len(), axes.len());
    let n = axes.iter().map(Axis::len).product();
    let mut out = pool::zeros(n);
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
    use super::{Axis, Run, gather};

    #[test]
    fn gather_mixes_runs_fills_and_blocks() {
        let src: Vec<i32> = (0..12).collect();
        let pad = Axis::from_runs([Run::Fill { len: 1 }, Run::Copy { start: 2, step: -1, len: 3 }]);
        let got = gather(&src, &[2, 3, 2], &[Axis::range(1, 0, 2), pad, Axis::whole(2)], &-1);
        let row = [-1, -1, 10, 11, 8, 9, 6, 7];
        assert_eq!(got[..], [row, row].concat());
    }

    #[test]
    fn gather_from_nothing_is_all_fill() {
        let got = gather::<f32>(&[], &[0], &[Axis::from_runs([Run::Fill { len: 2 }])], &3.0);
        assert_eq!(got[..], [3.0, 3.0]);
    }
}
