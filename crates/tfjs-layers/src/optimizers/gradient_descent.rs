//! SGD, with momentum or without, and Lion.
use tfjs_kernels::optimizer::Rule;

use super::{
    Result,
    algorithm::{Algorithm, Flavour, OptimizerDef, Options, Slot, Target, Time, flag, float},
    optimizer,
};

pub(super) const OPTIMIZERS: &[OptimizerDef] = &[
    OptimizerDef {
        name: "SGD",
        flavours: Flavour::ALL,
        options: &[
            float("learning_rate", 0.01).tfjs("learningRate", 0.01),
            float("momentum", 0.0),
            flag("nesterov"),
        ],
        weight_decay: None,
        make: |o| sgd(o, false),
    },
    OptimizerDef {
        name: "Momentum",
        flavours: &[Flavour::Tfjs],
        options: &[
            float("learning_rate", 0.01).tfjs("learningRate", 0.01),
            float("momentum", 0.9).tfjs("momentum", 0.9),
            flag("nesterov").tfjs_flag("useNesterov"),
        ],
        weight_decay: None,
        make: |o| sgd(o, true),
    },
    OptimizerDef {
        name: "Lion",
        flavours: &[Flavour::Keras2, Flavour::Keras3],
        options: &[float("learning_rate", 0.001).keras2(0.0001), float("beta_1", 0.9), float("beta_2", 0.99)],
        weight_decay: None,
        make: lion,
    },
];

optimizer! {
    /// Gradient descent: `w -= learning_rate·g`, or with momentum `m = momentum·m − learning_rate·g; w += m`.
    Sgd as sgd: "SGD", 0.01 {
        /// Share of the last step that stays.
        momentum: f64 = 0.0,
        /// Looks one step ahead.
        nesterov: bool = false,
    }
}

optimizer! {
    /// `w -= learning_rate·sign(beta_1·m + (1−beta_1)·g)` (Chen et al. 2023).
    Lion as lion: "Lion", 0.001 {
        /// Share of the average in the step.
        beta_1: f64 = 0.9,
        /// Share of the average that stays.
        beta_2: f64 = 0.99,
    }
}

#[derive(Debug)]
struct Descent {
    flavour: Flavour,
    momentum: f32,
    nesterov: bool,
}

fn sgd(o: &Options, has_momentum: bool) -> Result<Box<dyn Algorithm>> {
    let plain = o.flavour == Flavour::Tfjs && !has_momentum;
    let momentum = if plain { 0.0 } else { o.share("momentum")? as f32 };
    Ok(Box::new(Descent { flavour: o.flavour, momentum, nesterov: !plain && o.bool("nesterov")? }))
}

impl Algorithm for Descent {
    fn rule(&self, time: Time) -> Rule {
        let Descent { flavour, momentum, nesterov } = *self;
        let learning_rate = time.learning_rate;
        match (momentum, flavour) {
            // Keras 2 would write slots that it never reads.
            (0.0, _) => Rule::Sgd { learning_rate },
            (_, Flavour::Tfjs) => Rule::Velocity { learning_rate, momentum, nesterov },
            _ => Rule::Momentum { learning_rate, momentum, nesterov },
        }
    }

    fn slots(&self, _: &Target<'_>) -> Vec<Slot> {
        if self.momentum == 0.0 && self.flavour != Flavour::Keras2 {
            return Vec::new();
        }
        Slot::table(self.flavour, &[("momentum", ["m", "momentum", "momentum", "momentum"])], &[])
    }

    fn lazy(&self) -> bool {
        self.flavour == Flavour::Legacy
    }
}

#[derive(Debug)]
struct SignDescent {
    flavour: Flavour,
    beta_1: f32,
    beta_2: f32,
}

fn lion(o: &Options) -> Result<Box<dyn Algorithm>> {
    let beta_1 = o.share("beta_1")? as f32;
    if beta_1 == 0.0 {
        return Err(o.wrong("beta_1", "more than 0 and at most 1"));
    }
    Ok(Box::new(SignDescent { flavour: o.flavour, beta_1, beta_2: o.f32("beta_2")? }))
}

impl Algorithm for SignDescent {
    fn rule(&self, time: Time) -> Rule {
        Rule::Lion { learning_rate: time.learning_rate, beta_1: self.beta_1, beta_2: self.beta_2 }
    }

    fn slots(&self, _: &Target<'_>) -> Vec<Slot> {
        Slot::table(self.flavour, &[("momentum", ["m", "-", "momentum", "-"])], &[])
    }
}
