//! Options: from a configuration and back.
use serde_json::{Map, Value, json};

use super::{
    LearningRate, Result, TABLES,
    algorithm::{Flavour, Literal, OptimizerDef, OptionDef, Options, float, option},
    snake_case, unknown_option,
};
use crate::{Dialect, LayersError};

const NEW: &[Flavour] = &[Flavour::Keras2, Flavour::Keras3];
const KERAS_3: &[Flavour] = &[Flavour::Keras3];
const KERAS_2: &[Flavour] = &[Flavour::Keras2];

/// Options of all optimizers.
const COMMON: &[OptionDef] = &[
    option("name", Literal::Null),
    option("weight_decay", Literal::Null).only(NEW),
    option("clipnorm", Literal::Null),
    option("global_clipnorm", Literal::Null),
    option("clipvalue", Literal::Null),
    option("use_ema", Literal::Bool(false)).only(NEW),
    float("ema_momentum", 0.99).only(NEW),
    option("ema_overwrite_frequency", Literal::Null).only(NEW),
    option("loss_scale_factor", Literal::Null).only(KERAS_3),
    option("gradient_accumulation_steps", Literal::Null).only(KERAS_3),
    option("jit_compile", Literal::Bool(false)).only(KERAS_2),
    option("is_legacy_optimizer", Literal::Bool(false)).only(KERAS_2),
    float("decay", 0.0).only(&[Flavour::Legacy]),
];

/// Options that stand for an old or another name.
const ALIASES: &[(Flavour, &str, &str)] =
    &[(Flavour::Legacy, "lr", "learning_rate"), (Flavour::Legacy, "schedule_decay", "decay")];

/// All options of an optimizer in a flavour, its own before the common ones.
fn of(def: &OptimizerDef, flavour: Flavour) -> impl Iterator<Item = &'static OptionDef> {
    let own = def.options;
    let common = COMMON.iter().filter(move |o| own.iter().all(|x| x.key != o.key || !x.in_flavour(flavour)));
    own.iter().chain(common).filter(move |o| o.in_flavour(flavour))
}

/// The rows of a flavour, by class.
pub(super) fn named(class: &str, flavour: Flavour) -> Result<&'static OptimizerDef> {
    let rows = || TABLES.iter().flat_map(|t| t.iter()).filter(|d| d.flavours.contains(&flavour));
    rows().find(|d| d.name.eq_ignore_ascii_case(class)).ok_or_else(|| {
        let known: Vec<&str> = rows().map(|d| d.name).collect();
        let whose = match flavour {
            Flavour::Keras2 => "Keras 2's",
            Flavour::Legacy => "Keras's legacy",
            Flavour::Keras3 => "Keras 3's",
            Flavour::Tfjs => "TF.js's",
        };
        let hint = format!("; {whose} optimizers are {}", known.join(", "));
        LayersError::UnknownClass { class: class.to_owned(), hint }
    })
}

/// Which optimizer a configuration means, and whose.
pub(super) fn resolve(
    class: &str,
    config: &Map<String, Value>,
    module: &str,
    dialect: Dialect,
) -> Result<(&'static OptimizerDef, Flavour)> {
    let name = class.rsplit(['>', '.', '/']).next().unwrap_or_default();
    let marked = module.contains("legacy") || class.contains("legacy.");
    let flavour = match dialect {
        Dialect::Tfjs => Flavour::Tfjs,
        Dialect::Keras3 => Flavour::Keras3,
        Dialect::Keras1 => Flavour::Legacy,
        Dialect::Keras2 if marked => Flavour::Legacy,
        // Keras 2 reads a configuration that does not say what it is as one of old.
        Dialect::Keras2 => match config.get("is_legacy_optimizer") {
            Some(Value::Bool(false)) => Flavour::Keras2,
            None if config.is_empty() => Flavour::Keras2,
            _ => Flavour::Legacy,
        },
    };
    let name = name.strip_prefix("Experimental").unwrap_or(name);
    match named(name, flavour) {
        // Optimizers that came later have no old form.
        Err(_) if flavour == Flavour::Legacy && !marked && named(name, Flavour::Keras2).is_ok() => {
            Ok((named(name, Flavour::Keras2)?, Flavour::Keras2))
        }
        found => Ok((found?, flavour)),
    }
}

pub(super) fn defaults(def: &OptimizerDef, flavour: Flavour) -> Options {
    let mut values: Vec<(&'static str, Value)> = of(def, flavour)
        .filter(|o| o.key != "learning_rate")
        .map(|o| (o.key, o.default_in(flavour)))
        .collect();
    for (key, value) in &mut values {
        match *key {
            "weight_decay" => *value = json!(def.weight_decay),
            "name" if flavour == Flavour::Keras3 => *value = snake_case(def.name).into(),
            "name" => *value = def.name.into(),
            // So it is in Keras 2, where averages are not the default.
            "ema_overwrite_frequency" if flavour == Flavour::Keras2 && def.name == "RMSprop" => {
                *value = json!(100)
            }
            _ => {}
        }
    }
    Options { flavour, values }
}

pub(super) fn read(
    def: &OptimizerDef,
    flavour: Flavour,
    config: &Map<String, Value>,
) -> Result<(Options, LearningRate)> {
    let mut options = defaults(def, flavour);
    let rate = def.options.iter().find(|o| o.key == "learning_rate").map(|o| o.default_in(flavour));
    let mut rate = LearningRate::parse(&rate.unwrap_or_default())?;
    apply(def, &mut options, &mut rate, config)?;
    Ok((options, rate))
}

/// Letters and digits alone: `useNesterov` and `use_nesterov` are one key.
fn squashed(key: &str) -> String {
    key.chars().filter(|c| *c != '_').flat_map(char::to_lowercase).collect()
}

/// Sets the options of a configuration.
pub(super) fn apply(
    def: &OptimizerDef,
    options: &mut Options,
    rate: &mut LearningRate,
    config: &Map<String, Value>,
) -> Result<()> {
    let flavour = options.flavour;
    for (given, value) in config {
        let key = ALIASES
            .iter()
            .find(|(f, from, _)| *f == flavour && from == given)
            .map_or(given.as_str(), |a| a.2);
        let matches = |o: &&OptionDef| match flavour {
            Flavour::Tfjs => squashed(o.key_in(flavour)) == squashed(key),
            _ => o.key == key,
        };
        let Some(found) = of(def, flavour).find(matches) else {
            // Names, and marks of a flavour that says the same; what has no effect needs no place.
            let idle = match key {
                "name" => true,
                "is_legacy_optimizer" => flavour == Flavour::Legacy,
                "decay" => value.is_null() || crate::number(value) == Some(0.0),
                _ => false,
            };
            if idle {
                continue;
            }
            return Err(unknown_option(def.name, given, of(def, flavour).map(|o| o.key_in(flavour))));
        };
        if flavour == Flavour::Tfjs && value.is_null() {
            continue;
        }
        if found.key == "learning_rate" {
            *rate = LearningRate::parse(value)?;
        } else {
            options.set(found.key, value.clone());
        }
    }
    Ok(())
}

/// The configuration of the options; the learning rate aside.
pub(super) fn write(def: &OptimizerDef, options: &Options) -> Map<String, Value> {
    let mut map = Map::new();
    let flavour = options.flavour;
    for option in COMMON.iter().chain(def.options).filter(|o| o.in_flavour(flavour)) {
        let value = options.get(option.key);
        let optional = flavour == Flavour::Legacy && option.key.contains("clip");
        // Keras 2 takes it but does not write it.
        if option.key == "learning_rate"
            || (value.is_null() && (optional || option.key == "adaptive_epsilon"))
        {
            continue;
        }
        map.insert(option.key_in(flavour).to_owned(), value.clone());
    }
    map
}

/// The options of `from` in another flavour.
pub(super) fn convert(from: &Options, def: &OptimizerDef, flavour: Flavour) -> Result<Options> {
    let mut options = defaults(def, flavour);
    for (key, value) in &from.values {
        let there = options.values.iter_mut().find(|(k, _)| k == key);
        match (there, *key) {
            (_, "name" | "jit_compile" | "is_legacy_optimizer" | "ema_momentum" | "relative_step") => {}
            (Some((_, own)), _) => *own = value.clone(),
            (None, _) => {
                let idle = match value {
                    Value::Null | Value::Bool(false) => true,
                    Value::Number(n) => {
                        n.as_f64() == Some(0.0) || matches!(*key, "ema_overwrite_frequency" | "epsilon")
                    }
                    _ => false,
                };
                if !idle {
                    return Err(unknown_option(def.name, key, of(def, flavour).map(|o| o.key_in(flavour))));
                }
            }
        }
    }
    for key in ["ema_momentum", "relative_step"] {
        if from.values.iter().any(|(k, _)| *k == key) {
            options.set(key, from.get(key).clone());
        }
    }
    Ok(options)
}

impl Options {
    /// Sets an option; one that the flavour does not have is kept all the same, and [`Common::new`] reports it.
    pub(super) fn set(&mut self, key: &'static str, value: Value) {
        match self.values.iter_mut().find(|(k, _)| *k == key) {
            Some((_, own)) => *own = value,
            None => self.values.push((key, value)),
        }
    }
}

/// Options of all optimizers, checked.
#[derive(Clone, Debug)]
pub(super) struct Common {
    pub(super) name: String,
    pub(super) weight_decay: Option<f64>,
    pub(super) clipnorm: Option<f32>,
    pub(super) global_clipnorm: Option<f32>,
    pub(super) clipvalue: Option<f32>,
    /// Momentum of the moving averages, if they are kept.
    pub(super) ema: Option<f32>,
    pub(super) ema_overwrite_frequency: Option<u64>,
    pub(super) loss_scale_factor: Option<f32>,
    pub(super) accumulation: Option<u64>,
    /// Legacy decay of the learning rate.
    pub(super) decay: f32,
}

impl Common {
    pub(super) fn new(o: &Options) -> Result<Common> {
        let clip = |key: &str| -> Result<Option<f32>> {
            let x = o.opt_f64(key)?;
            if o.flavour == Flavour::Legacy && x.is_some_and(|x| x < 0.0) {
                return Err(o.wrong(key, "zero or more"));
            }
            // Keras takes zero and less for no clipping, legacy optimizers aside.
            Ok(x.filter(|x| *x > 0.0 || o.flavour == Flavour::Legacy).map(|x| x as f32))
        };
        let (clipnorm, global_clipnorm, clipvalue) =
            (clip("clipnorm")?, clip("global_clipnorm")?, clip("clipvalue")?);
        let count = |keys: &[&str]| keys.iter().filter(|k| !o.get(k).is_null()).count();
        if count(&["clipnorm", "global_clipnorm"]) > 1 {
            return Err(o.wrong("global_clipnorm", "nothing where `clipnorm` is set"));
        }
        if o.flavour == Flavour::Keras3 && count(&["clipnorm", "global_clipnorm", "clipvalue"]) > 1 {
            return Err(o.wrong("clipvalue", "nothing where a norm is clipped"));
        }
        let use_ema = o.bool("use_ema")?;
        let frequency = match o.get("ema_overwrite_frequency") {
            Value::Number(n) if n.as_i64() == Some(0) => None,
            _ if !use_ema => None,
            _ => o.opt_count("ema_overwrite_frequency", 1, "a number of steps")?,
        };
        let legacy = o.flavour == Flavour::Legacy;
        let decay = if legacy { o.opt_f64("decay")?.unwrap_or(0.0) } else { 0.0 };
        if decay < 0.0 {
            return Err(o.wrong("decay", "zero or more"));
        }
        Ok(Common {
            name: o.get("name").as_str().unwrap_or_default().to_owned(),
            weight_decay: o.opt_f64("weight_decay")?,
            clipnorm,
            global_clipnorm,
            clipvalue,
            ema: if use_ema { Some(o.share("ema_momentum")? as f32) } else { None },
            ema_overwrite_frequency: frequency,
            loss_scale_factor: o.opt_f64("loss_scale_factor")?.map(|f| f as f32),
            accumulation: o.opt_count("gradient_accumulation_steps", 2, "2 or more steps")?,
            decay: decay as f32,
        })
    }
}
