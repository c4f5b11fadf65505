//! One step: clipping, the update of each weight, moving averages.
use tfjs_kernels::{
    Tensor,
    optimizer::{self as kernels, Gradient, Prepare, RowSums, Rule, all_finite, sum_squares},
};

use super::{
    Grad, Optimizer, Result,
    algorithm::{Flavour, Target, Time, Update},
    not_built,
    state::Variable,
};
use crate::LayersError;

impl Grad {
    /// The numbers, as they were given.
    fn values(&self) -> Result<&[f32]> {
        match self {
            Grad::Dense(values) | Grad::Sparse { values, .. } => Ok(values.data::<f32>()?),
        }
    }

    /// Checks that it fits a weight.
    fn check(&self, variable: &Variable) -> Result<()> {
        let wrong = |problem: String| LayersError::Argument {
            argument: format!("gradient of `{}`", variable.name),
            problem,
        };
        let shape = &variable.shape;
        match self {
            Grad::Dense(g) if g.dims() == shape.as_slice() => {}
            Grad::Dense(g) => return Err(wrong(format!("has shape {}, the weight {shape:?}", g.shape()))),
            Grad::Sparse { indices, values } => {
                let n = indices.len();
                let fits = matches!((values.dims(), shape.as_slice()),
                    ([first, rest @ ..], [_, own @ ..]) if *first == n && rest == own);
                if indices.rank() != 1 || !fits {
                    let (i, v) = (indices.shape(), values.shape());
                    return Err(wrong(format!("has rows {i} of shape {v}, the weight is {shape:?}")));
                }
            }
        }
        self.values().map(|_| ())
    }
}

/// Clips a norm: the factor of a gradient of this norm.
fn norm_scale(norm: f32, limit: f32) -> f32 {
    // A maximum that keeps NaN.
    if norm > limit || norm.is_nan() { limit / norm } else { 1.0 }
}

/// The same for the norm of all gradients; one that is not finite makes all of them NaN, as in TensorFlow.
fn global_scale(norm: f32, limit: f32) -> f32 {
    if norm.is_finite() { limit * (1.0 / norm).min(1.0 / limit) } else { f32::NAN }
}

impl Optimizer {
    /// Takes a step: updates `weights`, which are those of [`Optimizer::build`], in place (a tensor that nobody else holds
    /// is not copied). Weights without gradient stay as they are.
    ///
    /// # Errors
    /// When the optimizer is not built, weights or gradients do not fit it, or there is no gradient at all.
    pub fn apply(&mut self, weights: &mut [Tensor], grads: &[Option<Grad>]) -> Result<()> {
        let Optimizer { def, options, rate, built, .. } = self;
        let (algorithm, state) = built.as_mut().ok_or_else(not_built)?;
        let flavour = options.flavour;
        let keras3 = flavour == Flavour::Keras3;
        let wrong = |argument: &str, problem: String| LayersError::Argument {
            argument: argument.to_owned(),
            problem,
        };
        let count = state.variables.len();
        if weights.len() != count || grads.len() != count {
            let (w, g) = (weights.len(), grads.len());
            let problem =
                format!("{w} weights and {g} gradients, the optimizer is built for {count} weights");
            return Err(wrong("weights", problem));
        }
        if count == 0 {
            return Ok(());
        }
        if grads.iter().all(Option::is_none) {
            return Err(wrong(
                "gradients",
                "no weight has a gradient; does the loss depend on them?".to_owned(),
            ));
        }
        for ((weight, grad), variable) in weights.iter().zip(grads).zip(&state.variables) {
            weight.data::<f32>()?;
            if weight.dims() != variable.shape.as_slice() {
                let problem =
                    format!("has shape {}, the optimizer is built for {:?}", weight.shape(), variable.shape);
                return Err(wrong(&variable.name, problem));
            }
            grad.as_ref().map_or(Ok(()), |g| g.check(variable))?;
        }
        state.begin(weights, flavour)?;

        let unscale = 1.0 / state.loss_scale();
        if let Some(scale) = &mut state.scale {
            let mut finite = true;
            for grad in grads.iter().flatten() {
                finite &= all_finite(grad.values()?);
            }
            if !scale.update(finite, flavour) {
                // Keras 2 counts steps that it leaves out.
                state.iterations += u64::from(!keras3);
                return Ok(());
            }
        }
        let mut prepare = Prepare { unscale, ..Prepare::default() };
        let common = &state.common;
        let mut step = state.iterations;
        let mut updates = true;
        if let Some(steps) = common.accumulation {
            step /= steps;
            updates = (state.iterations + 1).is_multiple_of(steps);
            for (variable, grad) in state.variables.iter_mut().zip(grads) {
                let Some(grad) = grad else { continue };
                let (gradient, before) = match grad {
                    Grad::Dense(g) => (Gradient::Dense(g.data()?), prepare),
                    Grad::Sparse { indices, values } => {
                        let rows = variable.shape.first().copied().unwrap_or(0);
                        state.sums.collect(indices.data()?, values.data()?, rows, prepare, None)?;
                        let (rows, values) = (&state.sums.rows[..], &state.sums.values[..]);
                        (Gradient::Rows { rows, values, second: None, lazy: true }, Prepare::default())
                    }
                };
                kernels::update(&Rule::Add, before, &mut variable.accumulated, gradient, &mut [])?;
            }
            prepare.unscale = 1.0 / steps as f32;
        }
        if updates {
            let mut learning_rate = rate.at(state.iterations);
            if common.decay > 0.0 {
                learning_rate /= 1.0 + common.decay * state.iterations as f32;
            }
            let mut time = Time { learning_rate, step, product: state.product };
            if let Some(factor) = algorithm.factor(time) {
                state.product *= factor;
                time.product = state.product;
            }
            // Legacy optimizers clip in every way they are told, the others in one.
            let legacy = flavour == Flavour::Legacy;
            let by_norm = common.clipnorm;
            let by_global = common.global_clipnorm.filter(|_| legacy || by_norm.is_none());
            if let Some(limit) =
                common.clipvalue.filter(|_| legacy || (by_norm.is_none() && by_global.is_none()))
            {
                prepare.clip = limit;
            }
            let accumulates = common.accumulation.is_some();
            if let Some(limit) = by_global {
                let mut squares = 0.0;
                for (variable, grad) in state.variables.iter().zip(grads) {
                    let Some(grad) = grad else { continue };
                    squares += sum_squares(
                        if accumulates { &variable.accumulated } else { grad.values()? },
                        prepare,
                    );
                }
                prepare.scale = global_scale(squares.sqrt() as f32, limit);
            }
            for ((weight, variable), grad) in weights.iter_mut().zip(&mut state.variables).zip(grads) {
                let Some(grad) = grad else { continue };
                let Tensor::F32(weight) = weight else { continue };
                let Variable { name, shape, decay, slots, accumulated, .. } = variable;
                let accumulated = accumulated.as_slice();
                let target = Target { name, shape };
                let mut own = prepare;
                if let Some(limit) = by_norm {
                    let values = if accumulates { accumulated } else { grad.values()? };
                    own.scale = norm_scale(sum_squares(values, own).sqrt() as f32, limit);
                }
                let decay = decay.map_or(0.0, |d| d as f32 * time.learning_rate);
                let mut second = None;
                let (gradient, prepare) = match grad {
                    _ if accumulates => (Gradient::Dense(accumulated), Prepare { decay, ..own }),
                    Grad::Dense(g) => (Gradient::Dense(g.data()?), Prepare { decay, ..own }),
                    Grad::Sparse { indices, values } => {
                        let rule = algorithm.rule(time);
                        let rows = shape.first().copied().unwrap_or(0);
                        // Keras 3 squares before it adds up, unless scaling by the global norm made the gradient dense.
                        let wanted = (keras3 && by_global.is_none()).then(|| rule.second());
                        state.sums.collect(indices.data()?, values.data()?, rows, own, wanted)?;
                        let sums = &state.sums;
                        let after = Prepare { decay, ..Prepare::default() };
                        if algorithm.dense(&target) {
                            state.dense.resize(weight.len(), 0.0);
                            RowSums::spread(&sums.rows, &sums.values, &mut state.dense);
                            if let Some(values) = sums.second() {
                                state.second.resize(weight.len(), 0.0);
                                RowSums::spread(&sums.rows, values, &mut state.second);
                                second = Some(state.second.as_slice());
                            }
                            (Gradient::Dense(&state.dense), after)
                        } else {
                            let lazy = algorithm.lazy() || (rule.rests() && decay == 0.0);
                            let (rows, values) = (&sums.rows[..], &sums.values[..]);
                            (Gradient::Rows { rows, values, second: sums.second(), lazy }, after)
                        }
                    }
                };
                algorithm.apply(
                    time,
                    &target,
                    weight.data_mut(),
                    Update { prepare, gradient },
                    second,
                    slots,
                )?;
            }
            if accumulates {
                state.variables.iter_mut().for_each(|v| v.accumulated.fill(0.0));
            }
        }
        if let Some(momentum) = common.ema {
            // Keras 3 begins with the weights, and averages all of them.
            let keep = if keras3 && step == 0 { 0.0 } else { momentum };
            let overwrites = common.ema_overwrite_frequency.is_some_and(|f| (step + 1).is_multiple_of(f));
            for ((weight, variable), grad) in weights.iter_mut().zip(&mut state.variables).zip(grads) {
                let Tensor::F32(weight) = weight else { continue };
                if grad.is_none() && !keras3 {
                    continue;
                }
                let gradient = Gradient::Dense(weight.data());
                kernels::update(
                    &Rule::Average { keep },
                    Prepare::default(),
                    &mut variable.average,
                    gradient,
                    &mut [],
                )?;
                if overwrites {
                    weight.data_mut().copy_from_slice(&variable.average);
                }
            }
        }
        state.iterations += 1;
        tracing::trace!(optimizer = def.name, iterations = state.iterations, "step");
        Ok(())
    }

    /// What happens at the end of training: with moving averages, they replace the weights.
    ///
    /// # Errors
    /// When the optimizer is not built for these weights.
    pub fn finalize(&self, weights: &mut [Tensor]) -> Result<()> {
        let Some((_, state)) = &self.built else { return Ok(()) };
        if state.common.ema.is_none() || state.iterations == 0 {
            return Ok(());
        }
        for (weight, variable) in weights.iter_mut().zip(&state.variables) {
            if weight.len() != variable.average.len() {
                let problem =
                    format!("has shape {}, the optimizer is built for {:?}", weight.shape(), variable.shape);
                return Err(LayersError::Argument { argument: variable.name.clone(), problem });
            }
            if let Tensor::F32(weight) = weight {
                weight.data_mut().copy_from_slice(&variable.average);
            }
        }
        Ok(())
    }
}
