//! Step sizes by the sum or the moving average of squared gradients: Adagrad, Adadelta, RMSprop, Ftrl.
use tfjs_kernels::optimizer::Rule;

use super::{
    Result,
    algorithm::{Algorithm, Flavour, Initial, OptimizerDef, Options, Slot, Target, Time, flag, float},
    optimizer,
};

const KERAS: &[Flavour] = &[Flavour::Keras2, Flavour::Legacy, Flavour::Keras3];
const APART: &[Flavour] = &[Flavour::Legacy, Flavour::Tfjs];

pub(super) const OPTIMIZERS: &[OptimizerDef] = &[
    OptimizerDef {
        name: "Adagrad",
        flavours: Flavour::ALL,
        options: &[
            float("learning_rate", 0.001).tfjs("learningRate", 0.01),
            float("initial_accumulator_value", 0.1).tfjs("initialAccumulatorValue", 0.1),
            float("epsilon", 1e-7),
        ],
        weight_decay: None,
        make: adagrad,
    },
    OptimizerDef {
        name: "Adadelta",
        flavours: Flavour::ALL,
        options: &[
            float("learning_rate", 0.001).tfjs("learningRate", 1.0),
            float("rho", 0.95).tfjs("rho", 0.95),
            float("epsilon", 1e-7).tfjs("epsilon", 1e-7),
        ],
        weight_decay: None,
        make: adadelta,
    },
    OptimizerDef {
        name: "RMSprop",
        flavours: Flavour::ALL,
        options: &[
            float("learning_rate", 0.001).tfjs("learningRate", 0.001),
            float("rho", 0.9).tfjs("decay", 0.9),
            float("momentum", 0.0).tfjs("momentum", 0.0),
            float("epsilon", 1e-7).tfjs("epsilon", 1e-7),
            flag("centered").tfjs_flag("centered"),
        ],
        weight_decay: None,
        make: rmsprop,
    },
    OptimizerDef {
        name: "Ftrl",
        flavours: KERAS,
        options: &[
            float("learning_rate", 0.001),
            float("learning_rate_power", -0.5),
            float("initial_accumulator_value", 0.1),
            float("l1_regularization_strength", 0.0),
            float("l2_regularization_strength", 0.0),
            float("l2_shrinkage_regularization_strength", 0.0),
            float("beta", 0.0),
        ],
        weight_decay: None,
        make: ftrl,
    },
];

optimizer! {
    /// Step sizes by the sum of squared gradients (Duchi et al. 2011).
    Adagrad as adagrad: "Adagrad", 0.001 {
        /// Where the sum begins.
        initial_accumulator_value: f64 = 0.1,
        /// Keeps the divisor from zero.
        epsilon: f64 = 1e-7,
    }
}

optimizer! {
    /// Step sizes by moving averages of squared gradients and steps (Zeiler 2012).
    Adadelta as adadelta: "Adadelta", 0.001 {
        /// Share of the averages that stays.
        rho: f64 = 0.95,
        /// Keeps the divisor from zero.
        epsilon: f64 = 1e-7,
    }
}

optimizer! {
    /// Step sizes by the root of the moving average of squared gradients.
    RmsProp as rmsprop: "RMSprop", 0.001 {
        /// Share of the average that stays.
        rho: f64 = 0.9,
        /// Share of the last step that stays.
        momentum: f64 = 0.0,
        /// Keeps the divisor from zero.
        epsilon: f64 = 1e-7,
        /// Divides by the deviation instead.
        centered: bool = false,
    }
}

optimizer! {
    /// Follow the regularized leader (McMahan et al. 2013).
    Ftrl as ftrl: "Ftrl", 0.001 {
        /// Not positive; 0 for a fixed learning rate.
        learning_rate_power: f64 = -0.5,
        /// Where the sum of squared gradients begins.
        initial_accumulator_value: f64 = 0.1,
        /// L1 penalty.
        l1_regularization_strength: f64 = 0.0,
        /// L2 penalty.
        l2_regularization_strength: f64 = 0.0,
        /// L2 penalty on the gradient alone.
        l2_shrinkage_regularization_strength: f64 = 0.0,
        /// Beta of the paper.
        beta: f64 = 0.0,
    }
}

fn not_negative(o: &Options, key: &str) -> Result<f32> {
    let x = o.f32(key)?;
    if x >= 0.0 { Ok(x) } else { Err(o.wrong(key, "zero or more")) }
}

#[derive(Debug)]
struct Sum {
    flavour: Flavour,
    initial: f32,
    epsilon: f32,
}

fn adagrad(o: &Options) -> Result<Box<dyn Algorithm>> {
    let initial = not_negative(o, "initial_accumulator_value")?;
    Ok(Box::new(Sum { flavour: o.flavour, initial, epsilon: o.epsilon()? }))
}

impl Algorithm for Sum {
    fn rule(&self, time: Time) -> Rule {
        let outside = self.flavour == Flavour::Legacy;
        Rule::Adagrad { learning_rate: time.learning_rate, epsilon: self.epsilon, outside }
    }

    fn slots(&self, _: &Target<'_>) -> Vec<Slot> {
        let mut slots = Slot::table(self.flavour, &[("accumulator", ["accumulator"; 4])], &[]);
        slots[0].initial = Initial::Constant(self.initial);
        slots
    }
}

#[derive(Debug)]
struct Delta {
    flavour: Flavour,
    rho: f32,
    rest: f32,
    epsilon: f32,
}

fn adadelta(o: &Options) -> Result<Box<dyn Algorithm>> {
    o.share("rho")?;
    let (rho, rest, epsilon) = (o.f32("rho")?, o.rest("rho")?, o.epsilon()?);
    Ok(Box::new(Delta { flavour: o.flavour, rho, rest, epsilon }))
}

impl Algorithm for Delta {
    fn rule(&self, time: Time) -> Rule {
        Rule::Adadelta {
            learning_rate: time.learning_rate,
            rho: self.rho,
            one_minus_rho: self.rest,
            epsilon: self.epsilon,
            stale: self.flavour == Flavour::Tfjs,
        }
    }

    fn slots(&self, _: &Target<'_>) -> Vec<Slot> {
        let roles = [
            ("grad", ["accumulated_grad", "accum_grad", "accumulated_grad", "accum_grad"]),
            ("delta", ["accumulated_delta_var", "accum_var", "accumulated_delta_var", "accum_var"]),
        ];
        Slot::table(self.flavour, &roles, APART)
    }

    fn lazy(&self) -> bool {
        self.flavour == Flavour::Legacy
    }
}

#[derive(Debug)]
struct Root {
    flavour: Flavour,
    rho: f32,
    rest: f32,
    /// `None` for no slot.
    momentum: Option<f32>,
    epsilon: f32,
    centered: bool,
}

fn rmsprop(o: &Options) -> Result<Box<dyn Algorithm>> {
    o.share("rho")?;
    let momentum = o.share("momentum")? as f32;
    Ok(Box::new(Root {
        flavour: o.flavour,
        rho: o.f32("rho")?,
        rest: o.rest("rho")?,
        momentum: Some(momentum).filter(|m| *m > 0.0 || o.flavour == Flavour::Tfjs),
        epsilon: o.epsilon()?,
        centered: o.bool("centered")?,
    }))
}

impl Algorithm for Root {
    fn rule(&self, time: Time) -> Rule {
        Rule::RmsProp {
            learning_rate: time.learning_rate,
            rho: self.rho,
            one_minus_rho: self.rest,
            momentum: self.momentum,
            epsilon: self.epsilon,
            centered: self.centered,
            outside: self.flavour == Flavour::Legacy && self.momentum.is_none(),
        }
    }

    fn slots(&self, _: &Target<'_>) -> Vec<Slot> {
        let mut roles = vec![("rms", ["velocity", "rms", "velocity", "rms"])];
        if self.momentum.is_some() {
            roles.push(("momentum", ["momentum"; 4]));
        }
        if self.centered {
            roles.push(("mg", ["average_gradient", "mg", "average_gradient", "mg"]));
        }
        Slot::table(self.flavour, &roles, Flavour::ALL)
    }

    fn lazy(&self) -> bool {
        self.flavour == Flavour::Legacy && self.momentum.is_some()
    }
}

#[derive(Debug)]
struct Leader {
    flavour: Flavour,
    power: f32,
    initial: f32,
    l1: f32,
    l2: f32,
    shrinkage: f32,
    beta: f32,
}

fn ftrl(o: &Options) -> Result<Box<dyn Algorithm>> {
    let power = o.f32("learning_rate_power")?;
    if power > 0.0 {
        return Err(o.wrong("learning_rate_power", "zero or less"));
    }
    Ok(Box::new(Leader {
        flavour: o.flavour,
        power: -power,
        initial: not_negative(o, "initial_accumulator_value")?,
        l1: not_negative(o, "l1_regularization_strength")?,
        l2: not_negative(o, "l2_regularization_strength")?,
        shrinkage: 2.0 * not_negative(o, "l2_shrinkage_regularization_strength")?,
        beta: o.f32("beta")?,
    }))
}

impl Algorithm for Leader {
    fn rule(&self, time: Time) -> Rule {
        Rule::Ftrl {
            learning_rate: time.learning_rate,
            power: self.power,
            l1: self.l1,
            l2: self.l2 + self.beta / (2.0 * time.learning_rate),
            shrinkage: self.shrinkage,
        }
    }

    fn slots(&self, _: &Target<'_>) -> Vec<Slot> {
        let roles = [("accumulator", ["accumulator"; 4]), ("linear", ["linear"; 4])];
        let mut slots = Slot::table(self.flavour, &roles, &[]);
        slots[0].initial = Initial::Constant(self.initial);
        slots
    }

    fn lazy(&self) -> bool {
        self.flavour == Flavour::Legacy
    }
}
