//! Adam and its relatives: moving averages of the gradient and of its square or magnitude.
use tfjs_kernels::optimizer::Rule;

use super::{
    Result,
    algorithm::{
        Algorithm, Flavour, Initial, Literal, OptimizerDef, Options, Slot, Target, Time, flag, float, option,
    },
    optimizer,
};

const KERAS: &[Flavour] = &[Flavour::Keras2, Flavour::Legacy, Flavour::Keras3];
/// Flavours in which each slot stands for all weights before the next does.
const APART: &[Flavour] = &[Flavour::Legacy, Flavour::Tfjs];

pub(super) const OPTIMIZERS: &[OptimizerDef] = &[
    OptimizerDef {
        name: "Adam",
        flavours: Flavour::ALL,
        options: &[
            float("learning_rate", 0.001).tfjs("learningRate", 0.001),
            float("beta_1", 0.9).tfjs("beta1", 0.9),
            float("beta_2", 0.999).tfjs("beta2", 0.999),
            float("epsilon", 1e-7).tfjs("epsilon", 1e-7),
            option("adaptive_epsilon", Literal::Null).only(&[Flavour::Keras2]),
            flag("amsgrad"),
        ],
        weight_decay: None,
        make: adam,
    },
    OptimizerDef {
        name: "AdamW",
        flavours: &[Flavour::Keras2, Flavour::Keras3],
        options: &[
            float("learning_rate", 0.001),
            float("beta_1", 0.9),
            float("beta_2", 0.999),
            float("epsilon", 1e-7),
            flag("amsgrad"),
        ],
        weight_decay: Some(0.004),
        make: adam_w,
    },
    OptimizerDef {
        name: "Adamax",
        flavours: Flavour::ALL,
        options: &[
            float("learning_rate", 0.001).tfjs("learningRate", 0.002),
            float("beta_1", 0.9).tfjs("beta1", 0.9),
            float("beta_2", 0.999).tfjs("beta2", 0.999),
            float("epsilon", 1e-7).tfjs("epsilon", 1e-7),
            float("decay", 0.0).tfjs("decay", 0.0).only(&[]),
        ],
        weight_decay: None,
        make: adamax,
    },
    OptimizerDef {
        name: "Nadam",
        flavours: KERAS,
        options: &[
            float("learning_rate", 0.001),
            float("beta_1", 0.9),
            float("beta_2", 0.999),
            float("epsilon", 1e-7),
            float("decay", 0.004).only(&[Flavour::Legacy]),
        ],
        weight_decay: None,
        make: nadam,
    },
    OptimizerDef {
        name: "ScheduleFreeAdamW",
        flavours: &[Flavour::Keras3],
        options: &[
            float("learning_rate", 0.0025),
            float("beta_1", 0.9),
            float("beta_2", 0.999),
            float("epsilon", 1e-8),
            float("warmup_steps", 0.0),
        ],
        weight_decay: None,
        make: schedule_free,
    },
];

optimizer! {
    /// Adaptive moments (Kingma and Ba 2014).
    Adam as adam: "Adam", 0.001 {
        /// Share of the first moment that stays.
        beta_1: f64 = 0.9,
        /// Share of the second moment that stays.
        beta_2: f64 = 0.999,
        /// Keeps the divisor from zero.
        epsilon: f64 = 1e-7,
        /// Divides by the largest second moment so far.
        amsgrad: bool = false,
    }
}

optimizer! {
    /// Adam with decoupled weight decay (Loshchilov and Hutter 2019), 0.004 unless set.
    AdamW as adam_w: "AdamW", 0.001 {
        /// Share of the first moment that stays.
        beta_1: f64 = 0.9,
        /// Share of the second moment that stays.
        beta_2: f64 = 0.999,
        /// Keeps the divisor from zero.
        epsilon: f64 = 1e-7,
        /// Divides by the largest second moment so far.
        amsgrad: bool = false,
    }
}

optimizer! {
    /// Adam with the largest magnitude in place of the second moment.
    Adamax as adamax: "Adamax", 0.001 {
        /// Share of the first moment that stays.
        beta_1: f64 = 0.9,
        /// Share of the largest magnitude that stays.
        beta_2: f64 = 0.999,
        /// Keeps the divisor from zero.
        epsilon: f64 = 1e-7,
    }
}

optimizer! {
    /// Adam with Nesterov's momentum (Dozat 2015).
    Nadam as nadam: "Nadam", 0.001 {
        /// Share of the first moment that stays.
        beta_1: f64 = 0.9,
        /// Share of the second moment that stays.
        beta_2: f64 = 0.999,
        /// Keeps the divisor from zero.
        epsilon: f64 = 1e-7,
    }
}

optimizer! {
    /// Schedule-free AdamW (Defazio et al. 2024).
    ScheduleFreeAdamW as schedule_free_adam_w: "ScheduleFreeAdamW", 0.0025 {
        /// Share of the average in the weight.
        beta_1: f64 = 0.9,
        /// Share of the second moment that stays.
        beta_2: f64 = 0.999,
        /// Keeps the divisor from zero.
        epsilon: f64 = 1e-8,
        /// Steps over which the learning rate rises.
        warmup_steps: u64 = 0,
    }
}

/// Numbers of all of them.
#[derive(Debug)]
struct Moments {
    flavour: Flavour,
    beta_1: f32,
    beta_2: f32,
    /// `1 − beta` as the flavour computes it.
    rest_1: f32,
    rest_2: f32,
    epsilon: f32,
}

impl Moments {
    fn new(o: &Options) -> Result<Moments> {
        o.share("beta_1")?;
        o.share("beta_2")?;
        Ok(Moments {
            flavour: o.flavour,
            beta_1: o.f32("beta_1")?,
            beta_2: o.f32("beta_2")?,
            rest_1: o.rest("beta_1")?,
            rest_2: o.rest("beta_2")?,
            epsilon: o.epsilon()?,
        })
    }
}

/// Adam's slots in every flavour.
const ADAM: &[(&str, [&str; 4])] = &[
    ("m", ["m", "m", "momentum", "m"]),
    ("v", ["v", "v", "velocity", "v"]),
    ("vhat", ["vhat", "vhat", "velocity_hat", "-"]),
];

#[derive(Debug)]
struct Adaptive {
    moments: Moments,
    amsgrad: bool,
    /// Corrects `epsilon` as it does the second moment.
    adaptive_epsilon: bool,
}

fn adam(o: &Options) -> Result<Box<dyn Algorithm>> {
    let tfjs = o.flavour == Flavour::Tfjs;
    Ok(Box::new(Adaptive {
        moments: Moments::new(o)?,
        amsgrad: !tfjs && o.bool("amsgrad")?,
        adaptive_epsilon: tfjs || o.bool("adaptive_epsilon")?,
    }))
}

fn adam_w(o: &Options) -> Result<Box<dyn Algorithm>> {
    if o.opt_f64("weight_decay")?.is_none() {
        return Err(o.wrong("weight_decay", "a number: AdamW is Adam with weight decay"));
    }
    adam(o)
}

impl Algorithm for Adaptive {
    fn rule(&self, time: Time) -> Rule {
        let Moments { beta_1, beta_2, rest_1, rest_2, epsilon, .. } = self.moments;
        let root = (1.0 - time.power(beta_2)).sqrt();
        Rule::Adam {
            alpha: time.learning_rate * root / (1.0 - time.power(beta_1)),
            one_minus_beta_1: rest_1,
            one_minus_beta_2: rest_2,
            epsilon: if self.adaptive_epsilon { epsilon * root } else { epsilon },
            amsgrad: self.amsgrad,
        }
    }

    fn slots(&self, _: &Target<'_>) -> Vec<Slot> {
        let mut slots = Slot::table(self.moments.flavour, &ADAM[..2 + usize::from(self.amsgrad)], APART);
        if let Some(largest) = slots.get_mut(2) {
            largest.group = largest.group.max(1);
        }
        slots
    }
}

#[derive(Debug)]
struct Largest {
    moments: Moments,
    /// TF.js's decay of the learning rate.
    decay: f32,
}

fn adamax(o: &Options) -> Result<Box<dyn Algorithm>> {
    let decay = if o.flavour == Flavour::Tfjs { o.opt_f64("decay")?.unwrap_or(0.0) as f32 } else { 0.0 };
    Ok(Box::new(Largest { moments: Moments::new(o)?, decay }))
}

impl Algorithm for Largest {
    fn rule(&self, time: Time) -> Rule {
        let Moments { beta_1, beta_2, rest_1, epsilon, .. } = self.moments;
        let rate = time.learning_rate / (1.0 + self.decay * time.step as f32);
        Rule::Adamax { alpha: rate / (1.0 - time.power(beta_1)), one_minus_beta_1: rest_1, beta_2, epsilon }
    }

    fn slots(&self, _: &Target<'_>) -> Vec<Slot> {
        let roles = [("m", ["m", "m", "momentum", "m"]), ("u", ["u", "v", "norm", "v"])];
        Slot::table(self.moments.flavour, &roles, APART)
    }

    fn lazy(&self) -> bool {
        self.moments.flavour == Flavour::Legacy
    }
}

#[derive(Debug)]
struct Ahead {
    moments: Moments,
    /// How fast the momentum rises, in steps.
    schedule_decay: f32,
}

fn nadam(o: &Options) -> Result<Box<dyn Algorithm>> {
    let schedule_decay = if o.flavour == Flavour::Legacy { o.f32("decay")? } else { 1.0 };
    let moments = Moments::new(o)?;
    // Computed in single precision in every flavour.
    let moments = Moments { rest_1: 1.0 - moments.beta_1, rest_2: 1.0 - moments.beta_2, ..moments };
    Ok(Box::new(Ahead { moments, schedule_decay }))
}

impl Ahead {
    fn momentum(&self, step: u64) -> f32 {
        let power = f64::from(0.96f32).powf(f64::from(self.schedule_decay * step as f32)) as f32;
        self.moments.beta_1 * (1.0 - 0.5 * power)
    }
}

impl Algorithm for Ahead {
    fn rule(&self, time: Time) -> Rule {
        let (now, next) = (self.momentum(time.step + 1), self.momentum(time.step + 2));
        Rule::Nadam {
            learning_rate: time.learning_rate,
            momentum: next / (1.0 - time.product * next),
            gradient: (1.0 - now) / (1.0 - time.product),
            correction: 1.0 - time.power(self.moments.beta_2),
            one_minus_beta_1: self.moments.rest_1,
            one_minus_beta_2: self.moments.rest_2,
            epsilon: self.moments.epsilon,
            lazy_weights: self.moments.flavour == Flavour::Legacy,
        }
    }

    fn slots(&self, _: &Target<'_>) -> Vec<Slot> {
        Slot::table(self.moments.flavour, &ADAM[..2], APART)
    }

    fn factor(&self, time: Time) -> Option<f32> {
        Some(self.momentum(time.step + 1))
    }
}

#[derive(Debug)]
struct Averaged {
    moments: Moments,
    warmup: f32,
}

fn schedule_free(o: &Options) -> Result<Box<dyn Algorithm>> {
    let warmup = o.opt_count("warmup_steps", 0, "a number of steps")?.unwrap_or(0) as f32;
    let moments = Moments::new(o)?;
    if moments.beta_1 == 0.0 {
        return Err(o.wrong("beta_1", "more than 0 and at most 1"));
    }
    Ok(Box::new(Averaged { moments, warmup }))
}

impl Algorithm for Averaged {
    fn rule(&self, time: Time) -> Rule {
        let step = (time.step + 1) as f32;
        let risen = if self.warmup > 0.0 { (step / self.warmup).min(1.0) } else { 1.0 };
        Rule::ScheduleFree {
            learning_rate: time.learning_rate * risen,
            beta_1: self.moments.beta_1,
            one_minus_beta_2: 1.0 - self.moments.beta_2,
            correction: 1.0 - time.power(self.moments.beta_2),
            epsilon: self.moments.epsilon,
            weight: 1.0 / step,
        }
    }

    fn slots(&self, _: &Target<'_>) -> Vec<Slot> {
        let mut slots = Slot::table(self.moments.flavour, &ADAM[..2], &[]);
        slots[0].initial = Initial::Weight;
        slots
    }
}
