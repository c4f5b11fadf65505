//! Optimizers: from Keras's and TF.js's configurations, in their arithmetic, with their state.
//!
//! ```
//! use tfjs_layers::optimizers::{Adam, Optimizer, Schedule};
//!
//! let plain = Optimizer::adam(0.01).clipnorm(1.0);
//! let schedule = Schedule::ExponentialDecay {
//!     initial_learning_rate: 0.1, decay_steps: 1000.0, decay_rate: 0.96, staircase: false,
//! };
//! let amsgrad = Optimizer::from(Adam { amsgrad: true, learning_rate: schedule.into(), ..Adam::default() });
//! # let _ = (plain, amsgrad);
//! ```
//!
//! Formulas and the names and order of state variables are those of tf_keras 2.19 (its legacy optimizers too), Keras 3.15
//! or TF.js 4.22. They differ: `docs/numerics.md`.

mod adam;
mod adaptive;
mod algorithm;
mod gradient_descent;
mod layerwise;
mod loss_scale;
mod options;
mod schedules;
mod state;
mod step;

use std::sync::Arc;

use regex::Regex;
use serde_json::{Map, Value, json};
use tfjs_kernels::Tensor;

pub use adam::{Adam, AdamW, Adamax, Nadam, ScheduleFreeAdamW};
pub use adaptive::{Adadelta, Adagrad, Ftrl, RmsProp};
pub use gradient_descent::{Lion, Sgd};
pub use layerwise::{Adafactor, Lamb, Muon};
pub use schedules::{LearningRate, Schedule};
pub use state::StateNames;

use crate::{Dialect, LayersError};
use algorithm::{Algorithm, Flavour, OptimizerDef, Options};
use loss_scale::LossScale;
use state::State;

type Result<T, E = LayersError> = std::result::Result<T, E>;

/// All optimizers.
const TABLES: &[&[OptimizerDef]] =
    &[gradient_descent::OPTIMIZERS, adam::OPTIMIZERS, adaptive::OPTIMIZERS, layerwise::OPTIMIZERS];

/// The gradient of one weight.
#[derive(Clone, Debug)]
pub enum Grad {
    /// A number for each of the weight's.
    Dense(Tensor),
    /// Rows of the weight's first axis.
    Sparse {
        /// `[n]`, int32: which row each gradient belongs to. A row may occur several times.
        indices: Tensor,
        /// `[n, ..]`: gradients, with the weight's shape from its second axis on.
        values: Tensor,
    },
}

/// An optimizer with its options and, once built, its state.
#[derive(Clone, Debug)]
pub struct Optimizer {
    def: &'static OptimizerDef,
    options: Options,
    rate: LearningRate,
    exclude: Vec<Regex>,
    scaling: Option<LossScale>,
    built: Option<(Arc<dyn Algorithm>, State)>,
}

/// Declares the options of an optimizer as a struct, and how it becomes an [`Optimizer`].
macro_rules! optimizer {
    (
        $(#[$doc:meta])*
        $name:ident as $function:ident: $class:literal, $rate:literal {
            $($(#[$field_doc:meta])* $field:ident: $type:ty = $default:expr,)*
        }
    ) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq)]
        pub struct $name {
            /// Step size.
            pub learning_rate: super::LearningRate,
            $($(#[$field_doc])* pub $field: $type,)*
        }

        impl Default for $name {
            fn default() -> $name {
                $name { learning_rate: super::LearningRate::Constant($rate), $($field: $default,)* }
            }
        }

        impl From<$name> for super::Optimizer {
            fn from(options: $name) -> super::Optimizer {
                let own = OPTIMIZERS.iter().find(|def| def.name == $class).unwrap_or(&OPTIMIZERS[0]);
                let values = [$((stringify!($field), serde_json::json!(options.$field)),)*];
                super::Optimizer::from_code(own, options.learning_rate, &values)
            }
        }

        impl super::Optimizer {
            #[doc = concat!("[`", stringify!($name), "`] with this learning rate.")]
            pub fn $function(learning_rate: impl Into<super::LearningRate>) -> super::Optimizer {
                $name { learning_rate: learning_rate.into(), ..$name::default() }.into()
            }
        }
    };
}
use optimizer;

/// `RMSprop` is `rm_sprop`, as Keras 3 names objects.
fn snake_case(class: &str) -> String {
    let letters: Vec<char> = class.chars().collect();
    let mut out = String::new();
    for (i, c) in letters.iter().enumerate() {
        let before = i.checked_sub(1).map(|k| letters[k]);
        let lower = |c: Option<char>| c.is_some_and(|c| c.is_lowercase());
        if c.is_uppercase() && before.is_some() && (lower(before) || lower(letters.get(i + 1).copied())) {
            out.push('_');
        }
        out.extend(c.to_lowercase());
    }
    out
}

fn unknown_option<'a>(class: &str, key: &str, known: impl Iterator<Item = &'a str>) -> LayersError {
    let known = known.collect::<Vec<_>>().join(", ");
    LayersError::UnknownOption { class: class.to_owned(), key: key.to_owned(), known }
}

/// A regular expression of a caller.
fn pattern(key: &str, text: &str) -> Result<Regex> {
    Regex::new(text).map_err(|_| LayersError::Config {
        key: key.to_owned(),
        value: format!("{text:?}"),
        expected: "regular expressions".to_owned(),
    })
}

impl Optimizer {
    /// From what Keras or TF.js calls it: a name in any spelling (`"adam"`, `"RMSprop"`, `"keras.optimizers.legacy.SGD"`),
    /// or the object that Keras serialises (`{class_name, config, module, registered_name}`) or TF.js's `optimizer_config`.
    ///
    /// # Errors
    /// When the class or an option is unknown, or an option has a value that it cannot have.
    pub fn from_config(value: &Value, dialect: Dialect) -> Result<Optimizer> {
        let empty = Map::new();
        let (class, config, module) = match value {
            Value::String(name) => (name.as_str(), &empty, ""),
            Value::Object(object) => {
                let class = object.get("class_name").or(object.get("className")).and_then(Value::as_str);
                let config = object.get("config").and_then(Value::as_object).unwrap_or(&empty);
                (class.unwrap_or_default(), config, value["module"].as_str().unwrap_or_default())
            }
            _ => {
                return Err(LayersError::Config {
                    key: "optimizer".to_owned(),
                    value: value.to_string(),
                    expected: "a name or an object with `class_name` and `config`".to_owned(),
                });
            }
        };
        if let Some(scaling) = LossScale::wrapping(class, config, dialect)? {
            return Ok(scaling);
        }
        let (def, flavour) = options::resolve(class, config, module, dialect)?;
        let (options, rate) = options::read(def, flavour, config)?;
        let optimizer = Optimizer { def, options, rate, exclude: Vec::new(), scaling: None, built: None };
        optimizer.make()?;
        Ok(optimizer)
    }

    fn from_code(
        def: &'static OptimizerDef,
        rate: LearningRate,
        values: &[(&'static str, Value)],
    ) -> Optimizer {
        let mut options = options::defaults(def, Flavour::Keras3);
        for (key, value) in values {
            options.set(key, value.clone());
        }
        Optimizer { def, options, rate, exclude: Vec::new(), scaling: None, built: None }
    }

    /// The arithmetic, with all options checked.
    fn make(&self) -> Result<(Arc<dyn Algorithm>, options::Common)> {
        let mut common = options::Common::new(&self.options)?;
        let legacy_nadam = self.options.flavour == Flavour::Legacy && self.def.name == "Nadam";
        if legacy_nadam && matches!(self.rate, LearningRate::Schedule(_)) {
            return Err(LayersError::Config {
                key: "learning_rate".to_owned(),
                value: self.rate.config(Dialect::Keras2).to_string(),
                expected: "a number: the legacy Nadam has a schedule of its own".to_owned(),
            });
        }
        if legacy_nadam {
            // Its decay is the momentum's, not the learning rate's.
            common.decay = 0.0;
        }
        Ok(((self.def.make)(&self.options)?.into(), common))
    }

    /// The classes of all optimizers.
    pub fn classes() -> impl Iterator<Item = &'static str> {
        TABLES.iter().flat_map(|rows| rows.iter()).map(|def| def.name)
    }

    /// Keras's class: `Adam`.
    pub fn class_name(&self) -> &'static str {
        self.def.name
    }

    /// As the dialect it belongs to serialises it. [`Optimizer::from_config`] reads it back.
    pub fn config(&self) -> Value {
        let own = self.own_config();
        match &self.scaling {
            Some(scaling) => scaling.config(own, self.options.flavour),
            None => own,
        }
    }

    fn own_config(&self) -> Value {
        let flavour = self.options.flavour;
        let mut config = options::write(self.def, &self.options);
        let rate = self.rate.config(flavour.dialect());
        let class =
            if flavour == Flavour::Tfjs && self.def.name == "RMSprop" { "RMSProp" } else { self.def.name };
        if flavour == Flavour::Tfjs {
            config.insert("learningRate".to_owned(), rate);
            return json!({"class_name": class, "config": config});
        }
        config.insert("learning_rate".to_owned(), rate);
        let module = match flavour {
            Flavour::Legacy => "keras.optimizers.legacy",
            _ => "keras.optimizers",
        };
        json!({"module": module, "class_name": class, "config": config, "registered_name": null})
    }

    /// Sets an option by Keras's key.
    ///
    /// # Errors
    /// When the optimizer has no such option, the value does not fit, or the optimizer is built already.
    pub fn with(mut self, key: &str, value: impl Into<Value>) -> Result<Optimizer> {
        self.not_built(key)?;
        let mut config = Map::new();
        config.insert(key.to_owned(), value.into());
        options::apply(self.def, &mut self.options, &mut self.rate, &config)?;
        self.make()?;
        Ok(self)
    }

    fn not_built(&self, what: &str) -> Result<()> {
        if self.built.is_none() {
            return Ok(());
        }
        let problem = "can be set only before the optimizer is built".to_owned();
        Err(LayersError::Argument { argument: what.to_owned(), problem })
    }

    /// Clips each gradient to this norm.
    #[must_use]
    pub fn clipnorm(self, norm: f64) -> Optimizer {
        self.set("clipnorm", json!(norm))
    }

    /// Clips each element of a gradient to ± this value.
    #[must_use]
    pub fn clipvalue(self, value: f64) -> Optimizer {
        self.set("clipvalue", json!(value))
    }

    /// Clips all gradients together to this norm.
    #[must_use]
    pub fn global_clipnorm(self, norm: f64) -> Optimizer {
        self.set("global_clipnorm", json!(norm))
    }

    /// Takes this share of each weight, times the learning rate, at each step.
    #[must_use]
    pub fn weight_decay(self, share: f64) -> Optimizer {
        self.set("weight_decay", json!(share))
    }

    /// Keeps moving averages of the weights; every `overwrite_frequency` steps, if given, and at the end they replace them.
    #[must_use]
    pub fn ema(self, momentum: f64, overwrite_frequency: Option<u64>) -> Optimizer {
        let this = self.set("use_ema", json!(true)).set("ema_momentum", json!(momentum));
        this.set("ema_overwrite_frequency", json!(overwrite_frequency))
    }

    /// Updates the weights after this many steps, with the mean of their gradients.
    #[must_use]
    pub fn gradient_accumulation_steps(self, steps: u64) -> Optimizer {
        self.set("gradient_accumulation_steps", json!(steps))
    }

    /// The loss is multiplied by this factor before gradients are taken.
    #[must_use]
    pub fn loss_scale_factor(self, factor: f64) -> Optimizer {
        self.set("loss_scale_factor", json!(factor))
    }

    /// Weights whose names one of these patterns matches do not decay.
    ///
    /// # Errors
    /// When a pattern is no regular expression, or the optimizer is built already.
    pub fn exclude_from_weight_decay(mut self, patterns: &[&str]) -> Result<Optimizer> {
        self.not_built("exclude_from_weight_decay")?;
        self.exclude =
            patterns.iter().map(|p| pattern("exclude_from_weight_decay", p)).collect::<Result<_>>()?;
        Ok(self)
    }

    /// Values are checked when the optimizer is built.
    fn set(mut self, key: &'static str, value: Value) -> Optimizer {
        self.options.set(key, value);
        self
    }

    /// The same optimizer as another dialect computes it and stores its state.
    ///
    /// # Errors
    /// When the dialect does not have it, or an option that is set.
    pub fn for_dialect(self, dialect: Dialect) -> Result<Optimizer> {
        let flavour = match dialect {
            Dialect::Keras3 => Flavour::Keras3,
            Dialect::Tfjs => Flavour::Tfjs,
            _ if self.options.flavour == Flavour::Legacy => Flavour::Legacy,
            _ => Flavour::Keras2,
        };
        if flavour == self.options.flavour {
            return Ok(self);
        }
        let momentum = self.options.opt_f64("momentum")?.unwrap_or(0.0) != 0.0;
        let name = match (self.def.name, flavour) {
            ("SGD", Flavour::Tfjs) if momentum => "Momentum",
            ("Momentum", _) => "SGD",
            (name, _) => name,
        };
        let def = options::named(name, flavour)?;
        if let (LearningRate::Schedule(_), Flavour::Tfjs) = (&self.rate, flavour) {
            return Err(LayersError::Config {
                key: "learning_rate".to_owned(),
                value: self.rate.config(dialect).to_string(),
                expected: "a number: TF.js has no schedules".to_owned(),
            });
        }
        let options = options::convert(&self.options, def, flavour)?;
        let scaling = self.scaling.clone();
        let mut other = Optimizer {
            def,
            options,
            rate: self.rate.clone(),
            exclude: self.exclude.clone(),
            scaling,
            built: None,
        };
        let (algorithm, common) = other.make()?;
        if let Some((_, state)) = &self.built {
            let rate = self.learning_rate() as f32;
            let state = state.convert(&other, &*algorithm, &common, (self.options.flavour, rate))?;
            other.built = Some((algorithm, state));
        }
        Ok(other)
    }

    /// Makes the state for these weights, which are trained, in this order.
    ///
    /// # Errors
    /// When an option has a value that it cannot have, or a slot would be too large.
    pub fn build<N: AsRef<str>, S: AsRef<[usize]>>(&mut self, weights: &[(N, S)]) -> Result<()> {
        let (algorithm, common) = self.make()?;
        let weights = weights.iter().map(|(name, shape)| (name.as_ref(), shape.as_ref()));
        let state = State::new(weights, self, &*algorithm, common)?;
        self.built = Some((algorithm, state));
        Ok(())
    }

    fn state_of(&self) -> Result<&State> {
        self.built.as_ref().map(|(_, state)| state).ok_or_else(not_built)
    }

    /// Number of steps taken, as Keras counts them.
    pub fn iterations(&self) -> u64 {
        self.built.as_ref().map_or(0, |(_, state)| state.iterations)
    }

    /// The learning rate of the next step.
    pub fn learning_rate(&self) -> f64 {
        f64::from(self.rate.at(self.iterations()))
    }

    /// Sets the learning rate.
    ///
    /// # Errors
    /// When a schedule decides about it.
    pub fn set_learning_rate(&mut self, rate: f64) -> Result<()> {
        if let LearningRate::Schedule(_) = self.rate {
            let problem =
                "a learning rate schedule decides about it; create the optimizer with a number to set it";
            return Err(LayersError::Argument {
                argument: "learning_rate".to_owned(),
                problem: problem.to_owned(),
            });
        }
        self.rate = LearningRate::Constant(rate);
        Ok(())
    }

    /// What the loss is multiplied by before gradients are taken; [`Optimizer::apply`] divides them by it.
    pub fn loss_scale(&self) -> f32 {
        match (&self.scaling, &self.built) {
            (Some(scaling), None) => scaling.initial(),
            (_, Some((_, state))) => state.loss_scale(),
            (None, None) => {
                self.options.opt_f64("loss_scale_factor").ok().flatten().map_or(1.0, |factor| factor as f32)
            }
        }
    }
}

fn not_built() -> LayersError {
    LayersError::Argument {
        argument: "optimizer".to_owned(),
        problem: "is not built; call `build` with the weights that are trained".to_owned(),
    }
}
