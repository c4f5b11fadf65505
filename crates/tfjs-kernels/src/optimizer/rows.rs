use super::Prepare;
use crate::{KernelError, Result};

/// What an optimizer adds up besides the gradient.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Second {
    /// Squares.
    Squares,
    /// Magnitudes.
    Magnitudes,
}

/// Adds up rows of a gradient that belong to one row of the weight. Keeps its memory for the next step.
#[derive(Debug, Default, Clone)]
pub struct RowSums {
    order: Vec<(usize, usize)>,
    /// Rows of the weight that have a gradient, ascending.
    pub rows: Vec<usize>,
    /// Their sums, row after row.
    pub values: Vec<f32>,
    /// Sums of squares or magnitudes, if asked for and if any row occurs twice; otherwise empty.
    pub second: Vec<f32>,
}

impl RowSums {
    /// Adds up `values` (row `i` belongs to row `indices[i]` of a weight of `count` rows) after `prepare`, in the order in
    /// which they stand.
    ///
    /// # Errors
    /// [`KernelError`] when an index is out of range or `values` are not whole rows.
    pub fn collect(
        &mut self,
        indices: &[i32],
        values: &[f32],
        count: usize,
        prepare: Prepare,
        second: Option<Second>,
    ) -> Result<()> {
        self.order.clear();
        self.rows.clear();
        self.values.clear();
        self.second.clear();
        let width = values.len().checked_div(indices.len()).unwrap_or(0);
        if width * indices.len() != values.len() {
            let got = values.len().to_string();
            return Err(KernelError::Argument {
                what: "the number of a gradient's values",
                got,
                expected: "whole rows",
            });
        }
        for (i, &index) in indices.iter().enumerate() {
            let row = usize::try_from(index).ok().filter(|&row| row < count);
            let (got, max) = (i64::from(index), count as i64);
            let row = row.ok_or(KernelError::Range { what: "a row of the gradient", got, min: 0, max })?;
            self.order.push((row, i));
        }
        // Pairs differ, so this sort keeps the order of equal rows, and it needs no memory.
        self.order.sort_unstable();
        self.rows.extend(self.order.iter().map(|(row, _)| *row));
        self.rows.dedup();
        let second = second.filter(|_| self.rows.len() < indices.len());
        self.values.resize(self.rows.len() * width, 0.0);
        if second.is_some() {
            self.second.resize(self.rows.len() * width, 0.0);
        }
        let mut at = 0;
        for (k, &(row, i)) in self.order.iter().enumerate() {
            if k > 0 && row != self.order[k - 1].0 {
                at += width;
            }
            let from = &values[i * width..(i + 1) * width];
            for (sum, &g) in self.values[at..at + width].iter_mut().zip(from) {
                *sum += prepare.gradient(g);
            }
            if let Some(second) = second {
                for (sum, &g) in self.second[at..at + width].iter_mut().zip(from) {
                    let g = prepare.gradient(g);
                    *sum += if second == Second::Squares { g * g } else { g.abs() };
                }
            }
        }
        Ok(())
    }

    /// The second sums, if they differ from those of the first.
    pub fn second(&self) -> Option<&[f32]> {
        (!self.second.is_empty()).then_some(&self.second)
    }

    /// Writes the sums into a table of zeros otherwise.
    pub fn spread(rows: &[usize], values: &[f32], out: &mut [f32]) {
        out.fill(0.0);
        let width = values.len().checked_div(rows.len()).unwrap_or(0);
        for (i, &row) in rows.iter().enumerate() {
            if let Some(to) = out.get_mut(row * width..(row + 1) * width) {
                to.copy_from_slice(&values[i * width..(i + 1) * width]);
            }
        }
    }
}
