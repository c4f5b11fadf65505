//! Optimizers that look at a weight as a whole: Adafactor, Lamb, Muon.
use regex::Regex;
use serde_json::Value;
use tfjs_kernels::optimizer::{self as kernels, Factors, Gradient, Rule};

use super::{
    Result,
    algorithm::{
        Algorithm, Flavour, Initial, Literal, OptimizerDef, Options, Slot, Target, Time, Update, float,
        option,
    },
    optimizer,
};
use crate::LayersError;

pub(super) const OPTIMIZERS: &[OptimizerDef] = &[
    OptimizerDef {
        name: "Adafactor",
        flavours: &[Flavour::Keras2, Flavour::Keras3],
        options: &[
            float("learning_rate", 0.001),
            float("beta_2_decay", -0.8),
            float("epsilon_1", 1e-30),
            float("epsilon_2", 1e-3),
            float("clip_threshold", 1.0),
            option("relative_step", Literal::Bool(true)),
        ],
        weight_decay: None,
        make: adafactor,
    },
    OptimizerDef {
        name: "Lamb",
        flavours: &[Flavour::Keras3],
        options: &[
            float("learning_rate", 0.001),
            float("beta_1", 0.9),
            float("beta_2", 0.999),
            float("epsilon", 1e-7),
        ],
        weight_decay: None,
        make: lamb,
    },
    OptimizerDef {
        name: "Muon",
        flavours: &[Flavour::Keras3],
        options: &[
            float("learning_rate", 0.001),
            float("adam_beta_1", 0.9),
            float("adam_beta_2", 0.999),
            float("adam_weight_decay", 0.004),
            float("epsilon", 1e-7),
            option("exclude_layers", Literal::List),
            option("exclude_embeddings", Literal::Bool(true)),
            float("muon_a", 3.4445),
            float("muon_b", -4.775),
            float("muon_c", 2.0315),
            float("adam_lr_ratio", 1.0),
            float("momentum", 0.95),
            float("ns_steps", 5.0),
            option("nesterov", Literal::Bool(true)),
            float("rms_rate", 0.2),
        ],
        weight_decay: Some(0.004),
        make: muon,
    },
];

optimizer! {
    /// Adam with second moments of rows and columns only (Shazeer and Stern 2018).
    Adafactor as adafactor: "Adafactor", 0.001 {
        /// Power of the step in the second moment's share.
        beta_2_decay: f64 = -0.8,
        /// Added to squares.
        epsilon_1: f64 = 1e-30,
        /// Smallest scale of a weight.
        epsilon_2: f64 = 1e-3,
        /// Largest root mean square of a step.
        clip_threshold: f64 = 1.0,
        /// A constant learning rate is at most `1/√step`.
        relative_step: bool = true,
    }
}

optimizer! {
    /// Adam with steps as long as the weights (You et al. 2019).
    Lamb as lamb: "Lamb", 0.001 {
        /// Share of the first moment that stays.
        beta_1: f64 = 0.9,
        /// Share of the second moment that stays.
        beta_2: f64 = 0.999,
        /// Keeps the divisor from zero.
        epsilon: f64 = 1e-7,
    }
}

optimizer! {
    /// Orthogonalised momentum for matrices, Adam for other weights (Jordan et al. 2024).
    Muon as muon: "Muon", 0.001 {
        /// Share of Adam's first moment that stays.
        adam_beta_1: f64 = 0.9,
        /// Share of Adam's second moment that stays.
        adam_beta_2: f64 = 0.999,
        /// Weight decay where Adam is used.
        adam_weight_decay: f64 = 0.004,
        /// Keeps Adam's divisor from zero.
        epsilon: f64 = 1e-7,
        /// Patterns of the names of weights that Adam trains.
        exclude_layers: Vec<String> = Vec::new(),
        /// Adam trains embeddings.
        exclude_embeddings: bool = true,
        /// Linear coefficient of the Newton-Schulz polynomial.
        muon_a: f64 = 3.4445,
        /// Cubic coefficient.
        muon_b: f64 = -4.775,
        /// Quintic coefficient.
        muon_c: f64 = 2.0315,
        /// Adam's learning rate in units of Muon's.
        adam_lr_ratio: f64 = 1.0,
        /// Share of the momentum that stays.
        momentum: f64 = 0.95,
        /// Newton-Schulz steps.
        ns_steps: u64 = 5,
        /// Looks one step ahead.
        nesterov: bool = true,
        /// Root mean square of a step; `None` leaves it.
        rms_rate: Option<f64> = Some(0.2),
    }
}

/// What a dense step needs: rows are made dense before.
fn whole<'a>(step: &Update<'a>) -> &'a [f32] {
    match step.gradient {
        Gradient::Dense(g) => g,
        Gradient::Rows { .. } => &[],
    }
}

#[derive(Debug)]
struct Factored {
    flavour: Flavour,
    beta_2_decay: f32,
    epsilon_1: f32,
    epsilon_2: f32,
    clip_threshold: f32,
}

fn adafactor(o: &Options) -> Result<Box<dyn Algorithm>> {
    // Whether it is on or off, the step is never longer than `1/√step`: Keras takes that minimum twice.
    o.bool("relative_step")?;
    Ok(Box::new(Factored {
        flavour: o.flavour,
        beta_2_decay: o.f32("beta_2_decay")?,
        epsilon_1: o.f32("epsilon_1")?,
        epsilon_2: o.f32("epsilon_2")?,
        clip_threshold: o.f32("clip_threshold")?,
    }))
}

impl Algorithm for Factored {
    fn rule(&self, time: Time) -> Rule {
        Rule::Sgd { learning_rate: time.learning_rate }
    }

    fn slots(&self, target: &Target<'_>) -> Vec<Slot> {
        let roles =
            [("r", ["r", "-", "r", "-"]), ("c", ["c", "-", "c", "-"]), ("v", ["v", "-", "velocity", "-"])];
        let mut slots = Slot::table(self.flavour, &roles, &[]);
        match target.shape {
            [lead @ .., rows, columns] => {
                slots[0].shape = Some(lead.iter().chain([rows]).copied().collect());
                slots[1].shape = Some(lead.iter().chain([columns]).copied().collect());
            }
            // Keras 3's files have zeros in their place.
            _ => {
                for slot in &mut slots[..2] {
                    (slot.shape, slot.initial) = (Some(Vec::new()), Initial::Filler);
                }
            }
        }
        slots
    }

    fn dense(&self, _: &Target<'_>) -> bool {
        true
    }

    fn apply(
        &self,
        time: Time,
        target: &Target<'_>,
        weight: &mut [f32],
        step: Update<'_>,
        second: Option<&[f32]>,
        slots: &mut [Vec<f32>],
    ) -> Result<()> {
        let t = (time.step + 1) as f32;
        let adafactor = kernels::Adafactor {
            learning_rate: time.learning_rate.min(1.0 / t.sqrt()),
            beta_2: 1.0 - t.powf(self.beta_2_decay),
            epsilon_1: self.epsilon_1,
            epsilon_2: self.epsilon_2,
            clip_threshold: self.clip_threshold,
        };
        let [r, c, v] = slots else { return Ok(()) };
        let factors = match *target.shape {
            [.., rows, columns] => Some(Factors { r, c, rows, columns }),
            _ => None,
        };
        Ok(kernels::adafactor(adafactor, step.prepare, weight, (whole(&step), second), v, factors)?)
    }
}

#[derive(Debug)]
struct Lengthwise {
    flavour: Flavour,
    beta_1: f32,
    beta_2: f32,
    rest_1: f32,
    rest_2: f32,
    epsilon: f32,
}

fn lamb(o: &Options) -> Result<Box<dyn Algorithm>> {
    o.share("beta_1")?;
    o.share("beta_2")?;
    Ok(Box::new(Lengthwise {
        flavour: o.flavour,
        beta_1: o.f32("beta_1")?,
        beta_2: o.f32("beta_2")?,
        rest_1: o.rest("beta_1")?,
        rest_2: o.rest("beta_2")?,
        epsilon: o.epsilon()?,
    }))
}

const MOMENTS: &[(&str, [&str; 4])] =
    &[("m", ["-", "-", "momentum", "-"]), ("v", ["-", "-", "velocity", "-"])];

impl Algorithm for Lengthwise {
    fn rule(&self, time: Time) -> Rule {
        Rule::Adam {
            alpha: time.learning_rate,
            one_minus_beta_1: self.rest_1,
            one_minus_beta_2: self.rest_2,
            epsilon: self.epsilon,
            amsgrad: false,
        }
    }

    fn slots(&self, _: &Target<'_>) -> Vec<Slot> {
        Slot::table(self.flavour, MOMENTS, &[])
    }

    fn apply(
        &self,
        time: Time,
        _: &Target<'_>,
        weight: &mut [f32],
        step: Update<'_>,
        _: Option<&[f32]>,
        slots: &mut [Vec<f32>],
    ) -> Result<()> {
        let lamb = kernels::Lamb {
            learning_rate: time.learning_rate,
            one_minus_beta_1: self.rest_1,
            one_minus_beta_2: self.rest_2,
            correction_1: 1.0 - time.power(self.beta_1),
            correction_2: 1.0 - time.power(self.beta_2),
            epsilon: self.epsilon,
        };
        let [m, v] = slots else { return Ok(()) };
        Ok(kernels::lamb(lamb, step.prepare, weight, step.gradient, m, v)?)
    }
}

#[derive(Debug)]
struct Orthogonal {
    flavour: Flavour,
    adam: Lengthwise,
    adam_rate: f32,
    adam_weight_decay: Option<f64>,
    exclude: Vec<Regex>,
    exclude_embeddings: bool,
    muon: kernels::Muon,
}

fn muon(o: &Options) -> Result<Box<dyn Algorithm>> {
    let patterns = match o.get("exclude_layers") {
        Value::Null => Vec::new(),
        Value::Array(list) => list.clone(),
        _ => return Err(o.wrong("exclude_layers", "a list of patterns")),
    };
    let pattern = |v: &Value| super::pattern("exclude_layers", v.as_str().unwrap_or_default());
    let adam = Lengthwise {
        flavour: o.flavour,
        beta_1: o.f32("adam_beta_1")?,
        beta_2: o.f32("adam_beta_2")?,
        rest_1: o.rest("adam_beta_1")?,
        rest_2: o.rest("adam_beta_2")?,
        epsilon: o.epsilon()?,
    };
    let steps = o.opt_count("ns_steps", 0, "a number of steps")?.unwrap_or(5);
    Ok(Box::new(Orthogonal {
        flavour: o.flavour,
        adam,
        adam_rate: o.f32("adam_lr_ratio")?,
        adam_weight_decay: o.opt_f64("adam_weight_decay")?,
        exclude: patterns.iter().map(pattern).collect::<Result<_, LayersError>>()?,
        exclude_embeddings: o.bool("exclude_embeddings")?,
        muon: kernels::Muon {
            learning_rate: 0.0,
            momentum: o.f32("momentum")?,
            nesterov: o.bool("nesterov")?,
            steps: usize::try_from(steps)
                .ok()
                .filter(|s| *s <= 1000)
                .ok_or_else(|| o.wrong("ns_steps", "at most 1000"))?,
            coefficients: [o.f32("muon_a")?, o.f32("muon_b")?, o.f32("muon_c")?],
            rms_rate: o.opt_f64("rms_rate")?.map(|r| r as f32),
        },
    }))
}

impl Orthogonal {
    fn uses_adam(&self, target: &Target<'_>) -> bool {
        target.shape.len() != 2
            || (self.exclude_embeddings && target.name.to_lowercase().contains("embedding"))
            || self.exclude.iter().any(|pattern| pattern.is_match(target.name))
    }
}

impl Algorithm for Orthogonal {
    fn rule(&self, time: Time) -> Rule {
        let root = (1.0 - time.power(self.adam.beta_2)).sqrt();
        Rule::Adam {
            alpha: time.learning_rate * self.adam_rate * root / (1.0 - time.power(self.adam.beta_1)),
            one_minus_beta_1: self.adam.rest_1,
            one_minus_beta_2: self.adam.rest_2,
            epsilon: self.adam.epsilon,
            amsgrad: false,
        }
    }

    fn slots(&self, target: &Target<'_>) -> Vec<Slot> {
        let slots = if self.uses_adam(target) { MOMENTS } else { &MOMENTS[..1] };
        Slot::table(self.flavour, slots, &[])
    }

    fn dense(&self, target: &Target<'_>) -> bool {
        !self.uses_adam(target)
    }

    fn weight_decay(&self, target: &Target<'_>, common: Option<f64>) -> Option<f64> {
        if self.uses_adam(target) { self.adam_weight_decay } else { common }
    }

    fn apply(
        &self,
        time: Time,
        target: &Target<'_>,
        weight: &mut [f32],
        step: Update<'_>,
        _: Option<&[f32]>,
        slots: &mut [Vec<f32>],
    ) -> Result<()> {
        match (slots, target.shape) {
            ([m, v], _) => {
                let slots = &mut [m.as_mut_slice(), v.as_mut_slice()];
                Ok(kernels::update(&self.rule(time), step.prepare, weight, step.gradient, slots)?)
            }
            ([m], &[rows, columns]) => {
                let muon = kernels::Muon { learning_rate: time.learning_rate, ..self.muon };
                Ok(kernels::muon(muon, step.prepare, weight, whole(&step), m, [rows, columns])?)
            }
            _ => Ok(()),
        }
    }
}
