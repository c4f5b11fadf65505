//! Learning rates that change from step to step.
use serde_json::{Map, Value, json};

use super::Result;
use crate::{Config, Dialect, LayersError};

/// How the learning rate depends on the number of steps taken. Computed in single precision, as Keras does.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Schedule {
    /// `initial · rate^(step / decay_steps)`
    ExponentialDecay {
        /// At step 0.
        initial_learning_rate: f64,
        /// Steps per factor.
        decay_steps: f64,
        /// The factor.
        decay_rate: f64,
        /// Only whole multiples of `decay_steps` count.
        staircase: bool,
    },
    /// `values[i]` up to and including step `boundaries[i]`, then the last.
    PiecewiseConstantDecay {
        /// Last steps of all values but the last, ascending.
        boundaries: Vec<f64>,
        /// Learning rates, one more than boundaries.
        values: Vec<f64>,
    },
    /// `(initial − end)·(1 − step / decay_steps)^power + end`
    PolynomialDecay {
        /// At step 0.
        initial_learning_rate: f64,
        /// Steps until the end.
        decay_steps: f64,
        /// The last learning rate.
        end_learning_rate: f64,
        /// 1 is linear.
        power: f64,
        /// Starts again with a multiple of `decay_steps`.
        cycle: bool,
    },
    /// `initial / (1 + rate·step / decay_steps)`
    InverseTimeDecay {
        /// At step 0.
        initial_learning_rate: f64,
        /// Unit of time.
        decay_steps: f64,
        /// Decay per unit.
        decay_rate: f64,
        /// Only whole units count.
        staircase: bool,
    },
    /// Half a cosine down to `alpha`'s share, after a linear rise to `warmup_target`, if there is one.
    CosineDecay {
        /// At step 0.
        initial_learning_rate: f64,
        /// Steps of the cosine.
        decay_steps: f64,
        /// Share that remains.
        alpha: f64,
        /// Where the rise ends; `None` for no rise.
        warmup_target: Option<f64>,
        /// Steps of the rise.
        warmup_steps: f64,
    },
    /// Half cosines, each `t_mul` times as long and `m_mul` times as high as the one before.
    CosineDecayRestarts {
        /// At step 0.
        initial_learning_rate: f64,
        /// Steps of the first.
        first_decay_steps: f64,
        /// Factor of the length.
        t_mul: f64,
        /// Factor of the height.
        m_mul: f64,
        /// Share that remains.
        alpha: f64,
    },
    /// `initial·((alpha + 1 − p)·½(1 + cos(2π·num_periods·p)) + beta)`, `p = step / decay_steps`.
    LinearCosineDecay {
        /// At step 0.
        initial_learning_rate: f64,
        /// Steps until the end.
        decay_steps: f64,
        /// Cosine periods.
        num_periods: f64,
        /// Added to the linear part.
        alpha: f64,
        /// Added at the end.
        beta: f64,
    },
}

/// Classes and their keys.
const CLASSES: &[(&str, &[&str])] = &[
    ("ExponentialDecay", &["initial_learning_rate", "decay_steps", "decay_rate", "staircase"]),
    ("PiecewiseConstantDecay", &["boundaries", "values"]),
    ("PolynomialDecay", &["initial_learning_rate", "decay_steps", "end_learning_rate", "power", "cycle"]),
    ("InverseTimeDecay", &["initial_learning_rate", "decay_steps", "decay_rate", "staircase"]),
    ("CosineDecay", &["initial_learning_rate", "decay_steps", "alpha", "warmup_target", "warmup_steps"]),
    ("CosineDecayRestarts", &["initial_learning_rate", "first_decay_steps", "t_mul", "m_mul", "alpha"]),
    ("LinearCosineDecay", &["initial_learning_rate", "decay_steps", "num_periods", "alpha", "beta"]),
];

impl Schedule {
    /// From `{class_name, config}`, as Keras serialises it.
    ///
    /// # Errors
    /// When the class or an option is unknown, missing or cannot be used.
    pub fn from_config(value: &Value) -> Result<Schedule> {
        let class = value["class_name"].as_str().unwrap_or_default();
        let name = class.rsplit(['>', '.']).next().unwrap_or_default();
        let Some((name, keys)) = CLASSES.iter().find(|(known, _)| *known == name) else {
            let known: Vec<&str> = CLASSES.iter().map(|(name, _)| *name).collect();
            let hint = format!("; learning rate schedules are {}", known.join(", "));
            return Err(LayersError::UnknownClass { class: class.to_owned(), hint });
        };
        let empty = Map::new();
        let map = value["config"].as_object().unwrap_or(&empty);
        if let Some(key) = map.keys().find(|k| *k != "name" && !keys.contains(&k.as_str())) {
            return Err(super::unknown_option(name, key, keys.iter().copied()));
        }
        let c = Config::new(map, Dialect::default());
        let needed = |key: &str| c.opt_f64(key)?.ok_or_else(|| c.wrong(key, "a number"));
        let positive = |key: &str| match needed(key)? {
            steps if steps > 0.0 => Ok(steps),
            _ => Err(c.wrong(key, "a positive number")),
        };
        let numbers = |key: &str| -> Result<Vec<f64>> {
            let list = c.get(key).and_then(Value::as_array);
            let list = list.and_then(|l| l.iter().map(crate::number).collect::<Option<Vec<f64>>>());
            list.ok_or_else(|| c.wrong(key, "a list of numbers"))
        };
        let initial = || needed("initial_learning_rate");
        Ok(match *name {
            "ExponentialDecay" => Schedule::ExponentialDecay {
                initial_learning_rate: initial()?,
                decay_steps: positive("decay_steps")?,
                decay_rate: needed("decay_rate")?,
                staircase: c.bool_or("staircase", false)?,
            },
            "PiecewiseConstantDecay" => {
                let (boundaries, values) = (numbers("boundaries")?, numbers("values")?);
                if boundaries.is_empty() || values.len() != boundaries.len() + 1 {
                    return Err(
                        c.wrong("values", "one number more than `boundaries`, which has at least one")
                    );
                }
                Schedule::PiecewiseConstantDecay { boundaries, values }
            }
            "PolynomialDecay" => Schedule::PolynomialDecay {
                initial_learning_rate: initial()?,
                decay_steps: positive("decay_steps")?,
                end_learning_rate: c.f64_or("end_learning_rate", 0.0001)?,
                power: c.f64_or("power", 1.0)?,
                cycle: c.bool_or("cycle", false)?,
            },
            "InverseTimeDecay" => Schedule::InverseTimeDecay {
                initial_learning_rate: initial()?,
                decay_steps: positive("decay_steps")?,
                decay_rate: needed("decay_rate")?,
                staircase: c.bool_or("staircase", false)?,
            },
            "CosineDecay" => Schedule::CosineDecay {
                initial_learning_rate: initial()?,
                decay_steps: positive("decay_steps")?,
                alpha: c.f64_or("alpha", 0.0)?,
                warmup_target: c.opt_f64("warmup_target")?,
                warmup_steps: c.f64_or("warmup_steps", 0.0)?,
            },
            "CosineDecayRestarts" => Schedule::CosineDecayRestarts {
                initial_learning_rate: initial()?,
                first_decay_steps: positive("first_decay_steps")?,
                t_mul: c.f64_or("t_mul", 2.0)?,
                m_mul: c.f64_or("m_mul", 1.0)?,
                alpha: c.f64_or("alpha", 0.0)?,
            },
            _ => Schedule::LinearCosineDecay {
                initial_learning_rate: initial()?,
                decay_steps: positive("decay_steps")?,
                num_periods: c.f64_or("num_periods", 0.5)?,
                alpha: c.f64_or("alpha", 0.0)?,
                beta: c.f64_or("beta", 0.001)?,
            },
        })
    }

    /// As Keras serialises it; `dialect` decides about the name, which Keras 2 leaves open.
    pub fn config(&self, dialect: Dialect) -> Value {
        let (class, default_name, mut config) = match self {
            Schedule::ExponentialDecay { initial_learning_rate, decay_steps, decay_rate, staircase } => (
                "ExponentialDecay",
                "ExponentialDecay",
                json!({"initial_learning_rate": initial_learning_rate, "decay_steps": steps(*decay_steps),
                    "decay_rate": decay_rate, "staircase": staircase}),
            ),
            Schedule::PiecewiseConstantDecay { boundaries, values } => (
                "PiecewiseConstantDecay",
                "PiecewiseConstant",
                json!({"boundaries": boundaries.iter().copied().map(steps).collect::<Vec<_>>(), "values": values}),
            ),
            Schedule::PolynomialDecay {
                initial_learning_rate,
                decay_steps,
                end_learning_rate,
                power,
                cycle,
            } => (
                "PolynomialDecay",
                "PolynomialDecay",
                json!({"initial_learning_rate": initial_learning_rate, "decay_steps": steps(*decay_steps),
                    "end_learning_rate": end_learning_rate, "power": power, "cycle": cycle}),
            ),
            Schedule::InverseTimeDecay { initial_learning_rate, decay_steps, decay_rate, staircase } => (
                "InverseTimeDecay",
                "InverseTimeDecay",
                json!({"initial_learning_rate": initial_learning_rate, "decay_steps": steps(*decay_steps),
                    "decay_rate": decay_rate, "staircase": staircase}),
            ),
            Schedule::CosineDecay {
                initial_learning_rate,
                decay_steps,
                alpha,
                warmup_target,
                warmup_steps,
            } => (
                "CosineDecay",
                "CosineDecay",
                json!({"initial_learning_rate": initial_learning_rate, "decay_steps": steps(*decay_steps),
                    "alpha": alpha, "warmup_target": warmup_target, "warmup_steps": steps(*warmup_steps)}),
            ),
            Schedule::CosineDecayRestarts {
                initial_learning_rate,
                first_decay_steps,
                t_mul,
                m_mul,
                alpha,
            } => (
                "CosineDecayRestarts",
                "SGDRDecay",
                json!({"initial_learning_rate": initial_learning_rate,
                    "first_decay_steps": steps(*first_decay_steps), "t_mul": t_mul, "m_mul": m_mul, "alpha": alpha}),
            ),
            Schedule::LinearCosineDecay { initial_learning_rate, decay_steps, num_periods, alpha, beta } => (
                "LinearCosineDecay",
                "LinearCosineDecay",
                json!({"initial_learning_rate": initial_learning_rate, "decay_steps": steps(*decay_steps),
                    "num_periods": num_periods, "alpha": alpha, "beta": beta}),
            ),
        };
        config["name"] = if dialect == Dialect::Keras3 { default_name.into() } else { Value::Null };
        json!({"module": "keras.optimizers.schedules", "class_name": class, "config": config,
            "registered_name": null})
    }

    /// The learning rate after `step` steps.
    pub fn at(&self, step: u64) -> f32 {
        let t = step as f32;
        let cosine = |x: f32| 0.5 * (1.0 + (std::f32::consts::PI * x).cos());
        match self {
            Schedule::ExponentialDecay { initial_learning_rate, decay_steps, decay_rate, staircase } => {
                let p = t / *decay_steps as f32;
                let p = if *staircase { p.floor() } else { p };
                *initial_learning_rate as f32 * (*decay_rate as f32).powf(p)
            }
            Schedule::PiecewiseConstantDecay { boundaries, values } => {
                let i = boundaries.iter().position(|&b| step as f64 <= b).unwrap_or(boundaries.len());
                values.get(i).copied().unwrap_or_default() as f32
            }
            Schedule::PolynomialDecay {
                initial_learning_rate,
                decay_steps,
                end_learning_rate,
                power,
                cycle,
            } => {
                let (mut steps, mut t) = (*decay_steps as f32, t);
                if *cycle {
                    steps *= if step == 0 { 1.0 } else { (t / steps).ceil() };
                } else {
                    t = t.min(steps);
                }
                let end = *end_learning_rate as f32;
                (*initial_learning_rate as f32 - end) * (1.0 - t / steps).powf(*power as f32) + end
            }
            Schedule::InverseTimeDecay { initial_learning_rate, decay_steps, decay_rate, staircase } => {
                let p = t / *decay_steps as f32;
                let p = if *staircase { p.floor() } else { p };
                *initial_learning_rate as f32 / (1.0 + *decay_rate as f32 * p)
            }
            Schedule::CosineDecay {
                initial_learning_rate,
                decay_steps,
                alpha,
                warmup_target,
                warmup_steps,
            } => {
                let (initial, steps) = (*initial_learning_rate as f32, *decay_steps as f32);
                let decayed = |p: f32| (1.0 - alpha) as f32 * cosine(p) + *alpha as f32;
                let Some(target) = warmup_target.map(|x| x as f32) else {
                    return initial * decayed(t.min(steps) / steps);
                };
                let warmup = *warmup_steps as f32;
                let t = t.min(steps + warmup);
                if t < warmup {
                    (target - initial) * (t / warmup) + initial
                } else {
                    target * decayed((t - warmup) / steps)
                }
            }
            Schedule::CosineDecayRestarts {
                initial_learning_rate,
                first_decay_steps,
                t_mul,
                m_mul,
                alpha,
            } => {
                let (length, height, alpha) = (*t_mul as f32, *m_mul as f32, *alpha as f32);
                let p = t / *first_decay_steps as f32;
                let (restart, p) = if length == 1.0 {
                    (p.floor(), p - p.floor())
                } else {
                    let restart = ((1.0 - p * (1.0 - length)).ln() / length.ln()).floor();
                    let before = (1.0 - length.powf(restart)) / (1.0 - length);
                    (restart, (p - before) / length.powf(restart))
                };
                let decayed = (1.0 - alpha) * (height.powf(restart) * cosine(p)) + alpha;
                *initial_learning_rate as f32 * decayed
            }
            Schedule::LinearCosineDecay { initial_learning_rate, decay_steps, num_periods, alpha, beta } => {
                let steps = *decay_steps as f32;
                let p = t.min(steps) / steps;
                let linear = (steps - t.min(steps)) / steps;
                let wave = cosine(2.0 * *num_periods as f32 * p);
                *initial_learning_rate as f32 * ((*alpha as f32 + linear) * wave + *beta as f32)
            }
        }
    }
}

/// Numbers of steps are integers where they can be.
fn steps(n: f64) -> Value {
    if n.fract() == 0.0 && n.abs() < 9e15 { json!(n as i64) } else { json!(n) }
}

/// A number or a schedule.
#[derive(Clone, Debug, PartialEq)]
pub enum LearningRate {
    /// The same at every step, until somebody sets another.
    Constant(f64),
    /// Depends on the step.
    Schedule(Schedule),
}

impl LearningRate {
    pub(super) fn parse(value: &Value) -> Result<LearningRate> {
        match value {
            Value::Object(map) if map.contains_key("class_name") => {
                Schedule::from_config(value).map(LearningRate::Schedule)
            }
            _ => crate::number(value).map(LearningRate::Constant).ok_or_else(|| LayersError::Config {
                key: "learning_rate".to_owned(),
                value: value.to_string(),
                expected: "a number or a learning rate schedule".to_owned(),
            }),
        }
    }

    pub(super) fn config(&self, dialect: Dialect) -> Value {
        match self {
            LearningRate::Constant(rate) => json!(rate),
            LearningRate::Schedule(schedule) => schedule.config(dialect),
        }
    }

    pub(super) fn at(&self, step: u64) -> f32 {
        match self {
            LearningRate::Constant(rate) => *rate as f32,
            LearningRate::Schedule(schedule) => schedule.at(step),
        }
    }
}

impl From<f64> for LearningRate {
    fn from(rate: f64) -> LearningRate {
        LearningRate::Constant(rate)
    }
}

impl From<Schedule> for LearningRate {
    fn from(schedule: Schedule) -> LearningRate {
        LearningRate::Schedule(schedule)
    }
}
