use super::{Gradient, Loop, Prepare, Rule, length, norms::sum_blocks, sum_squares, update};
use crate::{
    Result,
    par::{self, Disjoint},
    simd::{self, Isa},
};

/// One step of LAMB (You et al. 2019): Adam's direction, as long as the weight.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Lamb {
    /// Step size.
    pub learning_rate: f32,
    /// Speed of the first moment.
    pub one_minus_beta_1: f32,
    /// Speed of the second moment.
    pub one_minus_beta_2: f32,
    /// Divisor of the first moment.
    pub correction_1: f32,
    /// Divisor of the second moment.
    pub correction_2: f32,
    /// Keeps the divisor from zero.
    pub epsilon: f32,
}

/// Updates `weight` and its moments.
///
/// # Errors
/// [`crate::KernelError`] when lengths do not fit.
pub fn lamb(
    step: Lamb,
    prepare: Prepare,
    weight: &mut [f32],
    gradient: Gradient<'_>,
    m: &mut [f32],
    v: &mut [f32],
) -> Result<()> {
    let n = weight.len();
    if m.len() != n || v.len() != n {
        return Err(length("the length of a slot", m.len(), "the weight's"));
    }
    // Adam with a step of zero moves the moments (and decays the weight).
    let moments = Rule::Adam {
        alpha: 0.0,
        one_minus_beta_1: step.one_minus_beta_1,
        one_minus_beta_2: step.one_minus_beta_2,
        epsilon: step.epsilon,
        amsgrad: false,
    };
    update(&moments, prepare, weight, gradient, &mut [&mut *m, &mut *v])?;
    let (m, v) = (&*m, &*v);
    let direction = |i: usize| m[i] / step.correction_1 / ((v[i] / step.correction_2).sqrt() + step.epsilon);
    let isa = Isa::current();
    let square = |i: usize| {
        let d = f64::from(direction(i));
        d * d
    };
    let length = sum_blocks(n, |r| simd::dispatch_on(isa, Loop(|| r.map(square).sum::<f64>()))).sqrt() as f32;
    let size = sum_squares(weight, Prepare::default()).sqrt() as f32;
    let ratio = if size > 0.0 && length > 0.0 { size / length } else { 1.0 };
    let out = Disjoint::new(weight);
    par::for_each_range(n, par::GRAIN, |r| {
        // SAFETY: ranges do not overlap.
        let w = unsafe { out.slice(r.clone()) };
        simd::dispatch_on(
            isa,
            Loop(|| w.iter_mut().zip(r).for_each(|(w, i)| *w -= ratio * step.learning_rate * direction(i))),
        );
    });
    Ok(())
}
