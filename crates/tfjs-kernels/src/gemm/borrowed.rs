use std::ops::Range;

use super::Rhs;
use crate::simd::Isa;

/// Side of the squares in which a matrix is transposed.
const BLOCK: usize = 16;

/// A right operand that is packed into memory of the caller's, for products that are made once.
pub(crate) struct BorrowedRhs<'a> {
    isa: Isa,
    k: usize,
    n: usize,
    data: &'a [f32],
}

impl<'a> BorrowedRhs<'a> {
    /// Floats that `k` rows of `n` columns take.
    pub(crate) fn len(isa: Isa, k: usize, n: usize) -> usize {
        k * n.next_multiple_of(isa.lanes())
    }

    /// Packs a matrix whose element `(row, column)` is `data[row * strides.0 + column * strides.1]`.
    ///
    /// # Panics
    /// When an element is outside `data`, or `to` has another length than [`BorrowedRhs::len`].
    pub(crate) fn pack(
        isa: Isa,
        (k, n): (usize, usize),
        data: &[f32],
        strides: (usize, usize),
        to: &'a mut [f32],
    ) -> BorrowedRhs<'a> {
        assert_eq!(to.len(), BorrowedRhs::len(isa, k, n));
        let wide = 2 * isa.lanes();
        for (i, panel) in to.chunks_mut((k * wide).max(1)).enumerate() {
            let (first, width) = (i * wide, panel.len() / k);
            let cols = width.min(n - first);
            if strides.1 == 1 {
                for (row, to) in panel.chunks_exact_mut(width).enumerate() {
                    to[..cols].copy_from_slice(&data[row * strides.0 + first..][..cols]);
                    to[cols..].fill(0.0);
                }
                continue;
            }
            // Transposed: a block of rows reuses each line of a column that it loads, and writes whole lines.
            for (block, rows) in panel.chunks_mut(BLOCK * width).enumerate() {
                let (top, count) = (block * BLOCK, rows.len() / width);
                let mut square = [0.0; BLOCK * BLOCK];
                for left in (0..width).step_by(BLOCK) {
                    let across = BLOCK.min(width - left);
                    for col in 0..across.min(cols.saturating_sub(left)) {
                        let from = &data[top * strides.0 + (first + left + col) * strides.1..];
                        if strides.0 == 1 && count == BLOCK {
                            for (row, &x) in from[..BLOCK].iter().enumerate() {
                                square[row * BLOCK + col] = x;
                            }
                        } else {
                            for row in 0..count {
                                square[row * BLOCK + col] = from[row * strides.0];
                            }
                        }
                    }
                    for (row, to) in rows.chunks_exact_mut(width).enumerate() {
                        let there = cols.saturating_sub(left).min(across);
                        to[left..left + there].copy_from_slice(&square[row * BLOCK..][..there]);
                        to[left + there..left + across].fill(0.0);
                    }
                }
            }
        }
        BorrowedRhs { isa, k, n, data: to }
    }
}

impl Rhs for BorrowedRhs<'_> {
    fn isa(&self) -> Isa {
        self.isa
    }

    fn rows(&self) -> usize {
        self.k
    }

    fn cols(&self) -> usize {
        self.n
    }

    #[inline(always)]
    fn panel(&self, first: usize, width: usize, rows: Range<usize>) -> (&[f32], usize) {
        (&self.data[self.k * first + rows.start * width..][..rows.len() * width], width)
    }
}
