use super::{Loop, Prepare, length, norms::sum_blocks, sum_squares};
use crate::{
    Result,
    par::{self, Disjoint},
    simd::{self, Isa},
};

/// One step of Adafactor (Shazeer and Stern 2018).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Adafactor {
    /// Step size relative to the weight's root mean square.
    pub learning_rate: f32,
    /// Share of the moments that stays.
    pub beta_2: f32,
    /// Added to squares.
    pub epsilon_1: f32,
    /// Smallest root mean square of the weight.
    pub epsilon_2: f32,
    /// Largest root mean square of the step.
    pub clip_threshold: f32,
}

/// Moments of a weight of two or more axes: means over rows and columns of its last two.
#[derive(Debug)]
pub struct Factors<'a> {
    /// `[.., rows]`
    pub r: &'a mut [f32],
    /// `[.., columns]`
    pub c: &'a mut [f32],
    /// Length of the last axis but one.
    pub rows: usize,
    /// Length of the last axis.
    pub columns: usize,
}

fn each(n: usize, chunk: usize, f: impl Fn(std::ops::Range<usize>) + Sync + Send) {
    let isa = Isa::current();
    par::for_each_range(n, chunk, |r| simd::dispatch_on(isa, Loop(|| f(r))));
}

/// Updates `weight` and its second moment `v`. `gradient` is dense; `second` takes the place of its squares, if given.
/// `factors` are the moments of a weight with two axes or more.
///
/// # Errors
/// [`crate::KernelError`] when lengths do not fit.
pub fn adafactor(
    step: Adafactor,
    prepare: Prepare,
    weight: &mut [f32],
    (gradient, second): (&[f32], Option<&[f32]>),
    v: &mut [f32],
    factors: Option<Factors<'_>>,
) -> Result<()> {
    let n = weight.len();
    let fits = |f: &Factors<'_>| {
        let size = f.rows.checked_mul(f.columns);
        size.is_some_and(|s| {
            s > 0 && n.is_multiple_of(s) && f.r.len() == n / f.columns && f.c.len() == n / f.rows
        })
    };
    let lengths = gradient.len() == n && v.len() == n && second.is_none_or(|q| q.len() == n);
    if n > 0 && (!lengths || factors.as_ref().is_some_and(|f| !fits(f))) {
        return Err(length("the length of the gradient or a slot", gradient.len(), "what the weight needs"));
    }
    if n == 0 {
        return Ok(());
    }
    let square = |i: usize| {
        let g = prepare.gradient(gradient[i]);
        second.map_or(g * g, |q| q[i])
    };
    if prepare.decay != 0.0 {
        let out = Disjoint::new(weight);
        each(n, par::GRAIN, |r| {
            // SAFETY: ranges do not overlap.
            unsafe { out.slice(r) }.iter_mut().for_each(|w| *w -= *w * prepare.decay);
        });
    }
    let scale = (sum_squares(weight, Prepare::default()) / n as f64).sqrt() as f32;
    let alpha = step.epsilon_2.max(scale) * step.learning_rate;
    let (keep, share) = (step.beta_2, 1.0 - step.beta_2);
    match factors {
        None => {
            let out = Disjoint::new(v);
            each(n, par::GRAIN, |r| {
                // SAFETY: ranges do not overlap.
                let v = unsafe { out.slice(r.clone()) };
                v.iter_mut().zip(r).for_each(|(v, i)| *v = keep * *v + share * (square(i) + step.epsilon_1));
            });
        }
        Some(Factors { r, c, rows, columns }) => {
            let out = Disjoint::new(r);
            each(n / columns, (par::GRAIN / columns).max(1), |range| {
                // SAFETY: ranges do not overlap.
                let part = unsafe { out.slice(range.clone()) };
                for (r, row) in part.iter_mut().zip(range) {
                    let sum: f32 =
                        (row * columns..(row + 1) * columns).map(|i| square(i) + step.epsilon_1).sum();
                    *r = keep * *r + share * (sum / columns as f32);
                }
            });
            let out = Disjoint::new(c);
            let wide = (par::GRAIN / rows).max(16);
            for matrix in 0..n / (rows * columns) {
                each(columns, wide, |range| {
                    let at = matrix * columns;
                    // SAFETY: ranges do not overlap.
                    let part = unsafe { out.slice(at + range.start..at + range.end) };
                    for (c, column) in part.iter_mut().zip(range) {
                        let first = matrix * rows * columns + column;
                        let sum: f32 = (0..rows).map(|k| square(first + k * columns) + step.epsilon_1).sum();
                        *c = keep * *c + share * (sum / rows as f32);
                    }
                });
            }
            let (r, c) = (&*r, &*c);
            let out = Disjoint::new(v);
            for matrix in 0..n / (rows * columns) {
                let r = &r[matrix * rows..(matrix + 1) * rows];
                let c = &c[matrix * columns..(matrix + 1) * columns];
                let mean = r.iter().sum::<f32>() / rows as f32;
                each(rows, (par::GRAIN / columns).max(1), |range| {
                    for row in range {
                        let first = (matrix * rows + row) * columns;
                        // SAFETY: rows do not overlap.
                        let v = unsafe { out.slice(first..first + columns) };
                        let scale = r[row] / mean;
                        v.iter_mut().zip(c).for_each(|(v, c)| *v = scale * c);
                    }
                });
            }
        }
    }
    let v = &*v;
    let isa = Isa::current();
    let sum = sum_blocks(n, |r| {
        simd::dispatch_on(isa, Loop(|| r.map(|i| f64::from(square(i) / v[i])).sum::<f64>()))
    });
    let size = (sum / n as f64).sqrt() as f32 / step.clip_threshold;
    // A maximum that keeps NaN.
    let size = if size > 1.0 || size.is_nan() { size } else { 1.0 };
    let out = Disjoint::new(weight);
    each(n, par::GRAIN, |r| {
        // SAFETY: ranges do not overlap.
        let w = unsafe { out.slice(r.clone()) };
        w.iter_mut()
            .zip(r)
            .for_each(|(w, i)| *w -= alpha * (prepare.gradient(gradient[i]) / v[i].sqrt() / size));
    });
    Ok(())
}
