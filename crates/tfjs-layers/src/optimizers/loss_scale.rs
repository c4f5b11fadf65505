//! Dynamic loss scaling around an optimizer, as mixed precision training uses it.
use serde_json::{Map, Value, json};

use super::{Optimizer, Result, algorithm::Flavour, unknown_option};
use crate::{Dialect, LayersError};

const KEYS: &[&str] = &["name", "inner_optimizer", "initial_scale", "dynamic_growth_steps", "dynamic"];

/// Options of the scale.
#[derive(Clone, Debug)]
pub(super) struct LossScale {
    initial_scale: f64,
    /// Steps without overflow after which the scale doubles; `None` for a fixed scale.
    growth_steps: Option<u64>,
    /// Class and name in files.
    class: String,
    name: Option<String>,
}

/// The scale and how many steps it has lasted.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scale {
    pub(super) scale: f32,
    pub(super) good_steps: u64,
    growth_steps: Option<u64>,
}

impl LossScale {
    /// Reads a wrapped optimizer; `None` when the class is another.
    pub(super) fn wrapping(
        class: &str,
        config: &Map<String, Value>,
        dialect: Dialect,
    ) -> Result<Option<Optimizer>> {
        let name = class.rsplit(['>', '.']).next().unwrap_or_default();
        if !name.to_lowercase().starts_with("lossscaleoptimizer") {
            return Ok(None);
        }
        if let Some(key) = config.keys().find(|k| !KEYS.contains(&k.as_str())) {
            return Err(unknown_option(name, key, KEYS.iter().copied()));
        }
        let wrong = |key: &str, expected: &str| LayersError::Config {
            key: key.to_owned(),
            value: config.get(key).map_or("missing".to_owned(), Value::to_string),
            expected: expected.to_owned(),
        };
        let inner = config.get("inner_optimizer").ok_or_else(|| wrong("inner_optimizer", "an optimizer"))?;
        let inner = Optimizer::from_config(inner, dialect)?;
        if inner.scaling.is_some() {
            return Err(wrong("inner_optimizer", "an optimizer that does not scale the loss itself"));
        }
        let dynamic = match config.get("dynamic") {
            None | Some(Value::Null) => true,
            Some(value) => value.as_bool().ok_or_else(|| wrong("dynamic", "true or false"))?,
        };
        let given = |key: &str| config.get(key).filter(|v| !v.is_null());
        let initial_scale = match given("initial_scale") {
            None if !dynamic => return Err(wrong("initial_scale", "a number where the scale is fixed")),
            None => 32768.0,
            Some(value) => crate::number(value)
                .filter(|s| *s > 0.0)
                .ok_or_else(|| wrong("initial_scale", "a positive number"))?,
        };
        let growth_steps = match given("dynamic_growth_steps") {
            _ if !dynamic => None,
            None => Some(2000),
            Some(value) => Some(
                crate::number(value)
                    .filter(|s| *s >= 1.0 && s.fract() == 0.0)
                    .ok_or_else(|| wrong("dynamic_growth_steps", "a positive number of steps"))?
                    as u64,
            ),
        };
        let own_name = given("name").and_then(Value::as_str).map(str::to_owned);
        let scaling = LossScale { initial_scale, growth_steps, class: name.to_owned(), name: own_name };
        Ok(Some(Optimizer { scaling: Some(scaling), ..inner }))
    }

    pub(super) fn initial(&self) -> f32 {
        self.initial_scale as f32
    }

    pub(super) fn start(&self) -> Scale {
        Scale { scale: self.initial(), good_steps: 0, growth_steps: self.growth_steps }
    }

    /// Name of the object in files.
    pub(super) fn name(&self) -> &str {
        self.name.as_deref().unwrap_or("loss_scale_optimizer")
    }

    pub(super) fn config(&self, inner: Value, flavour: Flavour) -> Value {
        if flavour == Flavour::Keras3 {
            let config = json!({
                "name": self.name(), "inner_optimizer": inner, "initial_scale": self.initial_scale,
                "dynamic_growth_steps": self.growth_steps,
            });
            return json!({"module": "keras.optimizers", "class_name": "LossScaleOptimizer", "config": config,
                "registered_name": null});
        }
        let new = "LossScaleOptimizerV3";
        let (module, class, registered) = match flavour {
            Flavour::Keras2 => ("tf_keras.src.mixed_precision.loss_scale_optimizer", new, json!(new)),
            _ => ("keras.mixed_precision", self.class.as_str(), Value::Null),
        };
        let config = json!({
            "inner_optimizer": inner, "dynamic": self.growth_steps.is_some(),
            "initial_scale": self.initial_scale, "dynamic_growth_steps": self.growth_steps,
        });
        json!({"module": module, "class_name": class, "config": config, "registered_name": registered})
    }
}

impl Scale {
    /// Whether the step is taken; the scale follows.
    pub(super) fn update(&mut self, finite: bool, flavour: Flavour) -> bool {
        let Some(growth) = self.growth_steps else { return true };
        if !finite {
            self.good_steps = 0;
            self.scale *= 0.5;
            if flavour != Flavour::Keras3 {
                self.scale = self.scale.max(1.0);
            }
            return false;
        }
        self.good_steps += 1;
        if self.good_steps >= growth {
            self.good_steps = 0;
            if flavour == Flavour::Keras3 || (self.scale * 2.0).is_finite() {
                self.scale *= 2.0;
            }
        }
        true
    }
}
