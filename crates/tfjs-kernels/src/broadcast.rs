use smallvec::SmallVec;

use crate::{KernelError, Result, Shape};

type Dims = SmallVec<[usize; 6]>;

/// The shape to which two shapes broadcast by NumPy's rule.
///
/// # Errors
/// [`KernelError::Shapes`] when they do not go together.
pub fn broadcast_shape(left: &[usize], right: &[usize]) -> Result<Shape> {
    let rank = left.len().max(right.len());
    let dim = |dims: &[usize], i: usize| (i + dims.len()).checked_sub(rank).map_or(1, |k| dims[k]);
    (0..rank)
        .map(|i| match (dim(left, i), dim(right, i)) {
            (a, b) if a == b => Ok(a),
            (1, b) => Ok(b),
            (a, 1) => Ok(a),
            _ => Err(KernelError::Shapes {
                left: left.into(),
                right: right.into(),
                why: "cannot be broadcast together",
            }),
        })
        .collect::<Result<Shape>>()
}

/// How `N` row-major operands are walked to fill one row-major output.
///
/// Dimensions of size 1 are dropped and neighbours that every operand walks alike are merged, so
/// that few dimensions remain and the innermost has stride 1 or 0 (one value repeated).
#[derive(Debug)]
pub(crate) struct Walk<const N: usize> {
    /// Length of the innermost run.
    pub(crate) inner: usize,
    /// Whether each operand advances along the innermost run.
    pub(crate) moves: [bool; N],
    outer: Dims,
    strides: [Dims; N],
}

impl<const N: usize> Walk<N> {
    /// `operands` must broadcast to `out`.
    pub(crate) fn new(out: &[usize], operands: [&[usize]; N]) -> Walk<N> {
        let mut dims = Dims::new();
        let mut strides: [Dims; N] = std::array::from_fn(|_| Dims::new());
        let mut running = [1usize; N];
        // Innermost first; reversed at the end.
        for i in (0..out.len()).rev() {
            let back = out.len() - 1 - i;
            let step: [usize; N] = std::array::from_fn(|k| {
                let d = operands[k].len().checked_sub(back + 1).map_or(1, |j| operands[k][j]);
                let step = if d == 1 { 0 } else { running[k] };
                running[k] *= d;
                step
            });
            if out[i] == 1 {
                continue;
            }
            let merges = dims
                .last()
                .is_some_and(|&d: &usize| (0..N).all(|k| step[k] == strides[k].last().map_or(0, |s| s * d)));
            match dims.last_mut() {
                Some(d) if merges => *d *= out[i],
                _ => {
                    dims.push(out[i]);
                    for (list, s) in strides.iter_mut().zip(step) {
                        list.push(s);
                    }
                }
            }
        }
        dims.reverse();
        let inner = dims.pop().unwrap_or(1);
        let moves = std::array::from_fn(|k| {
            strides[k].reverse();
            strides[k].pop().unwrap_or(0) != 0
        });
        Walk { inner, moves, outer: dims, strides }
    }

    /// Number of innermost runs.
    pub(crate) fn rows(&self) -> usize {
        self.outer.iter().product()
    }

    /// Calls `f` for each run in `rows` with its number and where each operand's run starts.
    #[inline(always)] // so that `f` is compiled for the vector unit of the kernel that calls
    pub(crate) fn for_rows(&self, rows: std::ops::Range<usize>, mut f: impl FnMut(usize, [usize; N])) {
        if self.outer.is_empty() {
            if !rows.is_empty() {
                f(0, [0; N]);
            }
            return;
        }
        let mut cursor = self.cursor(rows.start);
        for row in rows {
            f(row, cursor.start);
            self.advance(&mut cursor);
        }
    }

    /// The cursor at a run.
    fn cursor(&self, row: usize) -> Cursor<N> {
        let mut cursor = Cursor { index: SmallVec::from_elem(0, self.outer.len()), start: [0; N] };
        let mut rest = row;
        for d in (0..self.outer.len()).rev() {
            cursor.index[d] = rest % self.outer[d].max(1);
            rest /= self.outer[d].max(1);
            for k in 0..N {
                cursor.start[k] += cursor.index[d] * self.strides[k][d];
            }
        }
        cursor
    }

    /// Moves the cursor to the next run. Not part of the loop, so that it is compiled once and not for every op.
    #[inline(never)]
    fn advance(&self, cursor: &mut Cursor<N>) {
        for d in (0..self.outer.len()).rev() {
            cursor.index[d] += 1;
            for k in 0..N {
                cursor.start[k] += self.strides[k][d];
            }
            if cursor.index[d] < self.outer[d] {
                return;
            }
            for k in 0..N {
                cursor.start[k] -= self.outer[d] * self.strides[k][d];
            }
            cursor.index[d] = 0;
        }
    }
}

/// A place in a [`Walk`].
struct Cursor<const N: usize> {
    index: Dims,
    start: [usize; N],
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_shapes_are_one_run() {
        let w = Walk::new(&[2, 3, 4], [&[2, 3, 4], &[2, 3, 4]]);
        assert_eq!((w.rows(), w.inner, w.moves), (1, 24, [true, true]));
    }

    #[test]
    fn a_row_is_repeated_without_moving_the_outer_stride() {
        let w = Walk::new(&[2, 3, 4], [&[2, 3, 4], &[4]]);
        let mut starts = Vec::new();
        w.for_rows(0..w.rows(), |_, s| starts.push(s));
        assert_eq!((w.rows(), w.inner), (6, 4));
        assert_eq!(starts[5], [20, 0]);
        let mut tail = Vec::new();
        w.for_rows(4..6, |_, s| tail.push(s));
        assert_eq!(tail, starts[4..]);
    }

    #[test]
    fn a_column_does_not_move_along_the_run() {
        let w = Walk::new(&[3, 2], [&[3, 1], &[1, 2]]);
        assert_eq!(w.moves, [false, true]);
        let mut starts = Vec::new();
        w.for_rows(0..3, |_, s| starts.push(s));
        assert_eq!(starts, [[0, 0], [1, 0], [2, 0]]);
    }

    #[test]
    fn shapes_broadcast_by_the_rule_of_numpy() {
        assert_eq!(broadcast_shape(&[2, 1, 3], &[4, 1]).unwrap(), Shape::from([2, 4, 3]));
        assert_eq!(broadcast_shape(&[0, 3], &[1, 1]).unwrap(), Shape::from([0, 3]));
        assert!(broadcast_shape(&[2, 3], &[2]).is_err());
    }
}
