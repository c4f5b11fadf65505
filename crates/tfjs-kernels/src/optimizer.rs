//! Optimizer steps: weights and their slots are overwritten in one pass over memory.
//!
//! A [`Rule`] says what becomes of one number; [`update`] runs it over a tensor, vectorised and shared among threads.
//! Gradients are dense or a few rows of a table ([`Gradient`]). Bits do not depend on the number of threads.

mod adafactor;
mod lamb;
mod muon;
mod norms;
mod rows;
mod rules;
#[cfg(test)]
mod tests;

pub use adafactor::{Adafactor, Factors, adafactor};
pub use lamb::{Lamb, lamb};
pub use muon::{Muon, muon};
pub use norms::{all_finite, sum_squares};
pub use rows::{RowSums, Second};
pub use rules::Rule;

use crate::{
    KernelError, Result,
    par::{self, Disjoint},
    simd::{self, Isa, Kernel, Simd},
};

/// The most slots that a rule keeps for a weight.
const SLOTS: usize = 3;

/// What happens to a gradient and a weight before the rule sees them: the gradient is multiplied by `unscale`, clipped to
/// ±`clip`, multiplied by `scale`; the weight loses the fraction `decay` of itself.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Prepare {
    /// Undoes a scaled loss.
    pub unscale: f32,
    /// Largest magnitude of an element; infinite for none.
    pub clip: f32,
    /// Clips a norm, or takes a mean.
    pub scale: f32,
    /// Weight decay times learning rate.
    pub decay: f32,
}

impl Default for Prepare {
    fn default() -> Prepare {
        Prepare { unscale: 1.0, clip: f32::INFINITY, scale: 1.0, decay: 0.0 }
    }
}

impl Prepare {
    /// The gradient's element as the rule gets it.
    #[inline(always)]
    pub(crate) fn gradient(self, g: f32) -> f32 {
        let g = g * self.unscale;
        let g = if g > self.clip { self.clip } else { g };
        let g = if g < -self.clip { -self.clip } else { g };
        g * self.scale
    }

    #[inline(always)]
    fn vector<S: Simd>(self, s: S, g: S::F32) -> S::F32 {
        // The order of operands keeps NaN.
        let g = s.min(s.splat(self.clip), s.mul(g, s.splat(self.unscale)));
        s.mul(s.max(s.splat(-self.clip), g), s.splat(self.scale))
    }
}

/// A gradient.
#[derive(Clone, Copy, Debug)]
pub enum Gradient<'a> {
    /// One number for each of the weight's.
    Dense(&'a [f32]),
    /// Rows of the weight's first axis; the others have no gradient.
    Rows {
        /// Which rows, each once, ascending.
        rows: &'a [usize],
        /// Their gradients, row after row. [`Prepare`] does not change them.
        values: &'a [f32],
        /// What takes the place of the gradient's square (or magnitude), if that is not the gradient's own: Keras 3 adds
        /// up the squares of rows that occur more than once, not the rows.
        second: Option<&'a [f32]>,
        /// Rows without gradient stay as they are; otherwise theirs is zero.
        lazy: bool,
    },
}

/// Applies `rule` to every element of `weight`, whose `slots` have its length and the rule's order.
///
/// # Errors
/// [`KernelError`] when lengths differ, or rows are not ascending or out of range.
pub fn update(
    rule: &Rule,
    prepare: Prepare,
    weight: &mut [f32],
    gradient: Gradient<'_>,
    slots: &mut [&mut [f32]],
) -> Result<()> {
    rule.run(Job { prepare, weight, gradient, slots })
}

/// What one element's update is.
trait Update: Copy + Send + Sync {
    /// How many slots it keeps.
    const SLOTS: usize;
    /// What a gradient's second value is, if not given.
    const SECOND: Second = Second::Squares;
    /// The new weight; slots are overwritten. `g` is the gradient, `q` its square or magnitude.
    fn step<S: Simd>(self, s: S, w: S::F32, g: S::F32, q: S::F32, slots: &mut [S::F32; SLOTS]) -> S::F32;
    /// The same for rows without a gradient.
    #[inline(always)]
    fn idle<S: Simd>(self, s: S, w: S::F32, slots: &mut [S::F32; SLOTS]) -> S::F32 {
        self.step(s, w, s.zero(), s.zero(), slots)
    }
}

/// One call of [`update`].
struct Job<'a, 'b> {
    prepare: Prepare,
    weight: &'a mut [f32],
    gradient: Gradient<'a>,
    slots: &'a mut [&'b mut [f32]],
}

fn length(what: &'static str, got: usize, expected: &'static str) -> KernelError {
    KernelError::Argument { what, got: got.to_string(), expected }
}

impl Job<'_, '_> {
    fn run<U: Update>(self, rule: U) -> Result<()> {
        let Job { prepare, weight, gradient, slots } = self;
        let n = weight.len();
        if slots.len() != U::SLOTS || slots.iter().any(|slot| slot.len() != n) {
            return Err(length(
                "a slot of the optimizer",
                slots.len(),
                "one per slot, each as long as the weight",
            ));
        }
        if n == 0 {
            return Ok(());
        }
        let isa = Isa::current();
        let weight = Disjoint::new(weight);
        let mut slots = slots.iter_mut();
        let slots: [Disjoint<'_, f32>; SLOTS] =
            std::array::from_fn(|_| Disjoint::new(slots.next().map_or(&mut [][..], |slot| &mut **slot)));
        let part = |range: std::ops::Range<usize>| {
            // SAFETY: callers take ranges that do not overlap, inside the weight and so inside the slots.
            let weight = unsafe { weight.slice(range.clone()) };
            let slots = std::array::from_fn(|i| match i < U::SLOTS {
                // SAFETY: as above.
                true => unsafe { slots[i].slice(range.clone()) },
                false => &mut [][..],
            });
            Part { rule, prepare, weight, slots }
        };
        match gradient {
            Gradient::Dense(g) => {
                if g.len() != n {
                    return Err(length("the length of the gradient", g.len(), "the weight's"));
                }
                par::for_each_range(n, par::GRAIN, |r| {
                    simd::dispatch_on(isa, Dense { g: &g[r.clone()], part: part(r) });
                });
            }
            Gradient::Rows { rows, values, second, lazy } => {
                let Some(&last) = rows.last() else {
                    if lazy {
                        return Ok(());
                    }
                    par::for_each_range(n, par::GRAIN, |r| simd::dispatch_on(isa, Idle { part: part(r) }));
                    return Ok(());
                };
                let width = values.len() / rows.len();
                let whole =
                    width * rows.len() == values.len() && second.is_none_or(|q| q.len() == values.len());
                if !whole || width == 0 || !n.is_multiple_of(width) {
                    return Err(length(
                        "the length of the gradient's rows",
                        values.len(),
                        "whole rows of the weight",
                    ));
                }
                let count = n / width;
                if last >= count || !rows.is_sorted_by(|a, b| a < b) {
                    let (got, max) = (last as i64, count as i64);
                    return Err(KernelError::Range { what: "a row of the gradient", got, min: 0, max });
                }
                let per_chunk = (par::GRAIN / width).max(1);
                if lazy {
                    par::for_each_range(rows.len(), per_chunk, |r| {
                        for i in r {
                            let at = i * width..(i + 1) * width;
                            let (g, q) = (&values[at.clone()], second.map(|q| &q[at]));
                            let part = part(rows[i] * width..(rows[i] + 1) * width);
                            simd::dispatch_on(isa, Row { g, q, part });
                        }
                    });
                } else {
                    par::for_each_range(count, per_chunk, |r| {
                        let mut next = r.start;
                        let first = rows.partition_point(|&row| row < r.start);
                        for (i, &row) in
                            rows.iter().enumerate().skip(first).take_while(|(_, row)| **row < r.end)
                        {
                            let at = i * width..(i + 1) * width;
                            let (g, q) = (&values[at.clone()], second.map(|q| &q[at]));
                            simd::dispatch_on(isa, Idle { part: part(next * width..row * width) });
                            simd::dispatch_on(isa, Row { g, q, part: part(row * width..(row + 1) * width) });
                            next = row + 1;
                        }
                        simd::dispatch_on(isa, Idle { part: part(next * width..r.end * width) });
                    });
                }
            }
        }
        Ok(())
    }
}

/// A piece of the weight and its slots.
struct Part<'a, U> {
    rule: U,
    prepare: Prepare,
    weight: &'a mut [f32],
    slots: [&'a mut [f32]; SLOTS],
}

impl<U: Update> Part<'_, U> {
    /// `step` gets an index, the number of elements from there, the weight and the slots.
    #[inline(always)]
    fn each<S: Simd>(mut self, s: S, step: impl Fn(usize, usize, S::F32, &mut [S::F32; SLOTS]) -> S::F32) {
        let n = self.weight.len();
        let decay = s.splat(self.prepare.decay);
        let decays = self.prepare.decay != 0.0;
        // Slots have the weight's length; the compiler is told so.
        for slot in &mut self.slots[..U::SLOTS] {
            assert_eq!(slot.len(), n);
        }
        for i in (0..n).step_by(S::LANES) {
            let len = (n - i).min(S::LANES);
            let mut w = load(s, self.weight, i, len);
            let mut slots = [s.zero(); SLOTS];
            for (value, slot) in slots.iter_mut().zip(&self.slots[..U::SLOTS]) {
                *value = load(s, slot, i, len);
            }
            if decays {
                w = s.fnma(w, decay, w);
            }
            // Called in one place, so that it is compiled there, for the vector unit.
            w = step(i, len, w, &mut slots);
            store(s, self.weight, i, len, w);
            for (value, slot) in slots.iter().zip(&mut self.slots[..U::SLOTS]) {
                store(s, slot, i, len, *value);
            }
        }
    }
}

#[inline(always)]
fn load<S: Simd>(s: S, x: &[f32], i: usize, n: usize) -> S::F32 {
    if n == S::LANES { s.load(&x[i..]) } else { s.load_part(&x[i..]) }
}

#[inline(always)]
fn store<S: Simd>(s: S, x: &mut [f32], i: usize, n: usize, v: S::F32) {
    if n == S::LANES { s.store(&mut x[i..], v) } else { s.store_part(&mut x[i..], v) }
}

#[inline(always)]
fn second<S: Simd, U: Update>(s: S, g: S::F32) -> S::F32 {
    match U::SECOND {
        Second::Squares => s.mul(g, g),
        Second::Magnitudes => s.abs(g),
    }
}

/// A piece with a gradient for every element.
struct Dense<'a, U> {
    g: &'a [f32],
    part: Part<'a, U>,
}

impl<U: Update> Kernel for Dense<'_, U> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Dense { g, part } = self;
        let (rule, prepare) = (part.rule, part.prepare);
        part.each(s, |i, n, w, slots| {
            let g = prepare.vector(s, load(s, g, i, n));
            rule.step(s, w, g, second::<S, U>(s, g), slots)
        });
    }
}

/// One row with a gradient that is prepared already.
struct Row<'a, U> {
    g: &'a [f32],
    q: Option<&'a [f32]>,
    part: Part<'a, U>,
}

impl<U: Update> Kernel for Row<'_, U> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Row { g, q, part } = self;
        let rule = part.rule;
        part.each(s, |i, n, w, slots| {
            let g = load(s, g, i, n);
            let q = match q {
                Some(q) => load(s, q, i, n),
                None => second::<S, U>(s, g),
            };
            rule.step(s, w, g, q, slots)
        });
    }
}

/// A piece without a gradient.
struct Idle<'a, U> {
    part: Part<'a, U>,
}

impl<U: Update> Kernel for Idle<'_, U> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let rule = self.part.rule;
        self.part.each(s, |_, _, w, slots| rule.idle(s, w, slots));
    }
}

/// Runs a loop compiled for the best vector unit.
struct Loop<F>(F);

impl<R, F: FnOnce() -> R> Kernel for Loop<F> {
    type Output = R;
    #[inline(always)]
    fn run<S: Simd>(self, _: S) -> R {
        (self.0)()
    }
}
