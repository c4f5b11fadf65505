//! State variables, in the order and under the names that files have.
use tfjs_format::proto::DataType;
use tfjs_graph::Constant;
use tfjs_kernels::{Shape, Tensor, optimizer::RowSums};

use super::{
    Optimizer, Result,
    algorithm::{Algorithm, Flavour, Initial, Slot, Target, Time},
    loss_scale::Scale,
    options::Common,
};
use crate::{LayersError, StoredWeight};

/// How [`Optimizer::state`] names variables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StateNames {
    /// Names of variables, as `.h5` files and TF.js have them: `Adam/m/dense/kernel`, `dense/kernel/m`.
    Variables,
    /// Paths of objects, as `.keras` files have them: `optimizer/vars/2`.
    Paths,
}

/// All that changes from step to step.
#[derive(Clone, Debug)]
pub(super) struct State {
    pub(super) common: Common,
    pub(super) iterations: u64,
    /// See [`Algorithm::factor`].
    pub(super) product: f32,
    pub(super) variables: Vec<Variable>,
    /// Slots that begin as their weights have yet to do so.
    fresh: bool,
    pub(super) scale: Option<Scale>,
    /// Working memory.
    pub(super) sums: RowSums,
    pub(super) dense: Vec<f32>,
    pub(super) second: Vec<f32>,
}

/// What is kept for a weight.
#[derive(Clone, Debug)]
pub(super) struct Variable {
    pub(super) name: String,
    pub(super) shape: Vec<usize>,
    /// Weight decay, unless excluded.
    pub(super) decay: Option<f64>,
    specs: Vec<Slot>,
    pub(super) slots: Vec<Vec<f32>>,
    /// Moving average of the weight, if kept.
    pub(super) average: Vec<f32>,
    /// Sum of gradients, if accumulated.
    pub(super) accumulated: Vec<f32>,
}

impl Variable {
    fn new(
        name: &str,
        shape: &[usize],
        owner: &Optimizer,
        algorithm: &dyn Algorithm,
        common: &Common,
    ) -> Result<Variable> {
        let target = Target { name, shape };
        let specs = algorithm.slots(&target);
        let len = Shape::from(shape).checked_len()?;
        let mut slots = Vec::with_capacity(specs.len());
        for spec in &specs {
            let len =
                spec.shape.as_ref().map_or(Ok(len), |shape| Shape::from(shape.as_slice()).checked_len())?;
            let initial = if let Initial::Constant(x) = spec.initial { x } else { 0.0 };
            slots.push(vec![initial; len]);
        }
        let excluded = owner.exclude.iter().any(|pattern| pattern.is_match(name));
        let decay = algorithm.weight_decay(&target, common.weight_decay).filter(|_| !excluded);
        let buffer = |wanted: bool| if wanted { vec![0.0; len] } else { Vec::new() };
        Ok(Variable {
            name: name.to_owned(),
            shape: shape.to_vec(),
            decay,
            specs,
            slots,
            average: buffer(common.ema.is_some()),
            accumulated: buffer(common.accumulation.is_some()),
        })
    }
}

/// One variable of a file.
#[derive(Clone, Copy, Debug)]
enum Entry {
    Iterations,
    LearningRate,
    Product,
    GoodSteps,
    Scale,
    /// Of the optimizer around another: never used.
    OuterIterations,
    OuterLearningRate,
    Average(usize),
    Accumulated(usize),
    Slot(usize, usize),
}

impl State {
    pub(super) fn new<'a>(
        weights: impl Iterator<Item = (&'a str, &'a [usize])>,
        owner: &Optimizer,
        algorithm: &dyn Algorithm,
        common: Common,
    ) -> Result<State> {
        let variables = weights
            .map(|(name, shape)| Variable::new(name, shape, owner, algorithm, &common))
            .collect::<Result<Vec<_>>>()?;
        Ok(State {
            common,
            iterations: 0,
            product: 1.0,
            variables,
            fresh: true,
            scale: owner.scaling.as_ref().map(|scaling| scaling.start()),
            sums: RowSums::default(),
            dense: Vec::new(),
            second: Vec::new(),
        })
    }

    pub(super) fn loss_scale(&self) -> f32 {
        match &self.scale {
            Some(scale) => scale.scale,
            None => self.common.loss_scale_factor.unwrap_or(1.0),
        }
    }

    /// Before the first step: some slots begin as their weights.
    pub(super) fn begin(&mut self, weights: &[Tensor], flavour: Flavour) -> Result<()> {
        if !std::mem::take(&mut self.fresh) {
            return Ok(());
        }
        for (variable, weight) in self.variables.iter_mut().zip(weights) {
            for (slot, _) in
                variable.slots.iter_mut().zip(&variable.specs).filter(|(_, s)| s.initial == Initial::Weight)
            {
                slot.copy_from_slice(weight.data()?);
            }
            if flavour == Flavour::Keras2 && !variable.average.is_empty() {
                variable.average.copy_from_slice(weight.data()?);
            }
        }
        Ok(())
    }

    /// The same state as another flavour of the optimizer keeps it; `rate` is the learning rate.
    pub(super) fn convert(
        &self,
        to: &Optimizer,
        algorithm: &dyn Algorithm,
        common: &Common,
        (flavour, rate): (Flavour, f32),
    ) -> Result<State> {
        let weights = self.variables.iter().map(|v| (v.name.as_str(), v.shape.as_slice()));
        let mut state = State::new(weights, to, algorithm, common.clone())?;
        (state.iterations, state.product, state.fresh) = (self.iterations, self.product, self.fresh);
        if let (Some(to), Some(from)) = (&mut state.scale, &self.scale) {
            (to.scale, to.good_steps) = (from.scale, from.good_steps);
        }
        // TF.js keeps the sum of gradients, Keras what it did to the weight.
        let factor = match (flavour, to.options.flavour) {
            (from, to) if from == to => 1.0,
            (_, Flavour::Tfjs) => -1.0 / rate,
            (Flavour::Tfjs, _) => -rate,
            _ => 1.0,
        };
        let descent = matches!(to.def.name, "SGD" | "Momentum");
        for (to, from) in state.variables.iter_mut().zip(&self.variables) {
            for (slot, spec) in to.slots.iter_mut().zip(&to.specs) {
                let same = from.specs.iter().position(|s| s.role == spec.role);
                if let Some(old) = same.and_then(|i| from.slots.get(i)).filter(|old| old.len() == slot.len())
                {
                    let factor = if descent { factor } else { 1.0 };
                    slot.iter_mut().zip(old).for_each(|(new, old)| *new = factor * old);
                }
            }
            for (to, from) in [(&mut to.average, &from.average), (&mut to.accumulated, &from.accumulated)] {
                if to.len() == from.len() {
                    to.copy_from_slice(from);
                }
            }
        }
        Ok(state)
    }

    /// Product of the factors of all steps before this.
    fn replay(&self, algorithm: &dyn Algorithm) -> f32 {
        let mut time = Time { learning_rate: 0.0, step: 0, product: 1.0 };
        // The product falls below the smallest number within a few thousand steps.
        for step in 0..self.iterations {
            time.step = step;
            match algorithm.factor(time) {
                Some(factor) if time.product > 0.0 => time.product *= factor,
                _ => break,
            }
        }
        time.product
    }
}

impl Optimizer {
    /// What a file holds, in its order, under the names of variables.
    fn entries(&self, state: &State, algorithm: &dyn Algorithm) -> Vec<(String, Entry)> {
        let flavour = self.options.flavour;
        let own = match flavour {
            Flavour::Keras3 => state.common.name.as_str(),
            _ => self.def.name,
        };
        let mut entries = Vec::new();
        let keras3 = flavour == Flavour::Keras3;
        let prefix = match &self.scaling {
            Some(scaling) if keras3 => {
                let outer = scaling.name();
                let outer_entries = [
                    ("iteration", Entry::OuterIterations),
                    ("learning_rate", Entry::OuterLearningRate),
                    ("step_counter", Entry::GoodSteps),
                    ("dynamic_scale", Entry::Scale),
                ];
                entries.extend(outer_entries.map(|(name, entry)| (format!("{outer}/{name}"), entry)));
                format!("{outer}/{own}")
            }
            _ => own.to_owned(),
        };
        entries.push((
            match flavour {
                Flavour::Keras2 => "iteration".to_owned(),
                Flavour::Legacy => format!("{own}/iter"),
                Flavour::Keras3 => format!("{own}/iteration"),
                Flavour::Tfjs => "iter".to_owned(),
            },
            Entry::Iterations,
        ));
        if keras3 && matches!(self.rate, super::LearningRate::Constant(_)) {
            entries.push((format!("{own}/learning_rate"), Entry::LearningRate));
        }
        let has_product = algorithm.factor(Time { learning_rate: 0.0, step: 0, product: 1.0 }).is_some();
        if has_product && flavour == Flavour::Legacy {
            entries.push((format!("{own}/momentum_cache"), Entry::Product));
        }
        let named = |variable: &Variable, slot: &str| match flavour {
            // Keras 2 leaves its name out where the optimizer is inside another.
            Flavour::Keras2 if self.scaling.is_some() => format!("{slot}/{}", variable.name),
            Flavour::Keras2 => format!("{own}/{slot}/{}", variable.name),
            Flavour::Legacy => format!("{own}/{}/{slot}", variable.name),
            Flavour::Keras3 => format!("{prefix}/{}_{slot}", variable.name.replace('/', "_")),
            Flavour::Tfjs => format!("{}/{slot}", variable.name),
        };
        let variables = || state.variables.iter().enumerate();
        if state.common.ema.is_some() {
            entries.extend(variables().map(|(i, v)| (named(v, "average"), Entry::Average(i))));
        }
        if state.common.accumulation.is_some() {
            entries
                .extend(variables().map(|(i, v)| (named(v, "gradient_accumulator"), Entry::Accumulated(i))));
        }
        let groups = variables().flat_map(|(_, v)| v.specs.iter().map(|s| s.group + 1)).max().unwrap_or(0);
        for group in 0..groups {
            for (i, variable) in variables() {
                let own = variable.specs.iter().enumerate().filter(|(_, spec)| spec.group == group);
                // Keras 2 has no zeros in the place of slots that are not used.
                let own = own.filter(|(_, spec)| keras3 || spec.initial != Initial::Filler);
                entries.extend(own.map(|(k, spec)| (named(variable, spec.name), Entry::Slot(i, k))));
            }
        }
        if has_product && keras3 {
            entries.push((format!("{own}/variable"), Entry::Product));
        }
        // TF.js cannot store this one's.
        if flavour == Flavour::Tfjs && self.def.name == "Adamax" {
            entries.clear();
        }
        entries
    }

    /// State variables in the order of files of this dialect, to be written into one. Empty for TF.js's Adamax, whose state
    /// TF.js cannot read.
    ///
    /// # Errors
    /// When the optimizer is not built.
    pub fn state(&self, names: StateNames) -> Result<Vec<StoredWeight>> {
        let state = self.state_of()?;
        let algorithm = &*self.built.as_ref().ok_or_else(super::not_built)?.0;
        let flavour = self.options.flavour;
        let count = |n: u64| {
            let tensor = Tensor::scalar(i32::try_from(n).unwrap_or(i32::MAX));
            let stored = if flavour == Flavour::Tfjs { DataType::DtInt32 } else { DataType::DtInt64 };
            Constant::new(stored, tensor)
        };
        let float = |x: f32| Constant::new(DataType::DtFloat, Tensor::scalar(x));
        let tensor = |shape: &[usize], data: &[f32]| -> Result<Constant> {
            Ok(Constant::new(DataType::DtFloat, Tensor::new(shape, data.to_vec())?))
        };
        let entries = self.entries(state, algorithm);
        let mut stored = Vec::with_capacity(entries.len());
        for (name, entry) in entries {
            let value = match entry {
                Entry::Iterations => count(state.iterations),
                Entry::OuterIterations => count(0),
                Entry::GoodSteps => count(state.scale.map_or(0, |s| s.good_steps)),
                Entry::Scale => float(state.loss_scale()),
                Entry::LearningRate => float(self.learning_rate() as f32),
                Entry::OuterLearningRate => float(0.0),
                Entry::Product => float(state.product),
                Entry::Average(i) => tensor(&state.variables[i].shape, &state.variables[i].average)?,
                Entry::Accumulated(i) => tensor(&state.variables[i].shape, &state.variables[i].accumulated)?,
                Entry::Slot(i, k) => {
                    let variable = &state.variables[i];
                    let spec = &variable.specs[k];
                    match spec.initial {
                        Initial::Filler => Constant::new(DataType::DtInt32, Tensor::scalar(0i32)),
                        _ => tensor(spec.shape.as_ref().unwrap_or(&variable.shape), &variable.slots[k])?,
                    }
                }
            };
            stored.push((name, entry, value));
        }
        if names == StateNames::Variables {
            return Ok(stored.into_iter().map(|(name, _, value)| StoredWeight { name, value }).collect());
        }
        let path = |i: usize| format!("optimizer/vars/{i}");
        let all = stored
            .iter()
            .enumerate()
            .map(|(i, (_, _, value))| StoredWeight { name: path(i), value: value.clone() });
        // An optimizer inside another has its variables at its own place too.
        let first = stored.iter().position(|(_, entry, _)| matches!(entry, Entry::Iterations)).unwrap_or(0);
        let inner = stored.iter().skip(first).filter(|_| self.scaling.is_some()).enumerate().map(
            |(i, (_, _, value))| StoredWeight {
                name: format!("optimizer/inner_optimizer/vars/{i}"),
                value: value.clone(),
            },
        );
        Ok(all.chain(inner).collect())
    }

    /// Takes the state of a file of this dialect: variables by their place, as Keras and TF.js do.
    ///
    /// # Errors
    /// When the optimizer is not built, or the variables are not those that it keeps.
    pub fn set_state(&mut self, stored: &[StoredWeight]) -> Result<()> {
        let wrong = |problem: String| LayersError::Argument {
            argument: "state of the optimizer".to_owned(),
            problem,
        };
        let state = self.state_of()?;
        let algorithm = self.built.as_ref().ok_or_else(super::not_built)?.0.clone();
        let entries = self.entries(state, &*algorithm);
        // `.keras` files number their variables; text would sort 10 before 2.
        let number = |w: &StoredWeight| -> Option<u64> {
            let (path, last) = w.name.rsplit_once('/')?;
            path.ends_with("vars").then(|| last.parse().ok()).flatten()
        };
        let mut stored: Vec<&StoredWeight> =
            stored.iter().filter(|w| number(w).is_none() || !w.name.contains("inner_optimizer/")).collect();
        stored.sort_by_key(|w| number(w).unwrap_or(0));
        let tfjs = self.options.flavour == Flavour::Tfjs;
        // TF.js makes slots at the first step.
        let unused = tfjs && stored.len() <= 1;
        if stored.len() != entries.len() && !unused {
            let (got, needs) = (stored.len(), entries.len());
            return Err(wrong(format!("{got} variables, {} needs {needs}", self.def.name)));
        }
        let mut next = state.clone();
        let mut rate = None;
        let mut has_product = false;
        for ((name, entry), weight) in entries.iter().zip(&stored) {
            let at = |source| LayersError::WeightValue { weight: weight.name.clone(), source };
            let tensor = weight.value.tensor().map_err(at)?;
            let shaped = |shape: &[usize]| {
                if tensor.dims() == shape {
                    return Ok(());
                }
                let problem =
                    format!("`{}` has shape {}, `{name}` needs {shape:?}", weight.name, tensor.shape());
                Err(wrong(problem))
            };
            let data = |shape: &[usize], to: &mut Vec<f32>| -> Result<()> {
                shaped(shape)?;
                to.copy_from_slice(tensor.data::<f32>()?);
                Ok(())
            };
            let count = || -> Result<u64> {
                shaped(&[])?;
                let n = tensor.data::<i32>()?.first().copied().unwrap_or(0);
                u64::try_from(n).map_err(|_| {
                    wrong(format!("`{}` is {n}, a number of steps is not negative", weight.name))
                })
            };
            let float = || -> Result<f32> {
                shaped(&[])?;
                Ok(tensor.data::<f32>()?.first().copied().unwrap_or(0.0))
            };
            match *entry {
                Entry::Iterations => next.iterations = count()?,
                Entry::OuterIterations | Entry::OuterLearningRate => {}
                Entry::LearningRate => rate = Some(float()?),
                Entry::Product => (next.product, has_product) = (float()?, true),
                Entry::GoodSteps => {
                    let steps = count()?;
                    next.scale.iter_mut().for_each(|s| s.good_steps = steps);
                }
                Entry::Scale => {
                    let scale = float()?;
                    next.scale.iter_mut().for_each(|s| s.scale = scale);
                }
                Entry::Average(i) => {
                    let variable = &mut next.variables[i];
                    data(&variable.shape, &mut variable.average)?;
                }
                Entry::Accumulated(i) => {
                    let variable = &mut next.variables[i];
                    data(&variable.shape, &mut variable.accumulated)?;
                }
                Entry::Slot(i, k) => {
                    let Variable { specs, slots, shape, .. } = &mut next.variables[i];
                    if specs[k].initial != Initial::Filler {
                        data(specs[k].shape.as_ref().unwrap_or(shape), &mut slots[k])?;
                    }
                }
            }
        }
        // Keras 2 forgets this product and goes on differently after a restart; here training goes on as if without one.
        if !has_product {
            next.product = next.replay(&*algorithm);
        }
        next.fresh = next.iterations == 0 && unused;
        if let Some(rate) = rate {
            self.set_learning_rate(f64::from(rate))?;
        }
        self.built = Some((algorithm, next));
        Ok(())
    }
}
