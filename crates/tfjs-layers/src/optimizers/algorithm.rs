//! What the groups of optimizers have in common: a row of the table, its options, and the arithmetic behind it.
use std::fmt;

use serde_json::{Value, json};
use tfjs_kernels::optimizer::{Gradient, Prepare, Rule, update};

use super::Result;
use crate::{Dialect, LayersError, number};

/// Whose optimizer it is: formulas, options, names and order of slots differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flavour {
    /// tf_keras since 2.11.
    Keras2,
    /// Keras before, and `keras.optimizers.legacy`.
    Legacy,
    /// Keras 3.
    Keras3,
    /// TF.js.
    Tfjs,
}

impl Flavour {
    pub(super) const ALL: &[Flavour] = &[Flavour::Keras2, Flavour::Legacy, Flavour::Keras3, Flavour::Tfjs];

    pub(super) fn dialect(self) -> Dialect {
        match self {
            Flavour::Keras2 | Flavour::Legacy => Dialect::Keras2,
            Flavour::Keras3 => Dialect::Keras3,
            Flavour::Tfjs => Dialect::Tfjs,
        }
    }
}

/// A default that stands in a table.
#[derive(Clone, Copy, Debug)]
pub(super) enum Literal {
    Number(f64),
    Bool(bool),
    Null,
    List,
}

impl Literal {
    pub(super) fn value(self) -> Value {
        match self {
            Literal::Number(x) => json!(x),
            Literal::Bool(b) => json!(b),
            Literal::Null => Value::Null,
            Literal::List => json!([]),
        }
    }
}

/// An option of an optimizer.
#[derive(Clone, Copy, Debug)]
pub(super) struct OptionDef {
    /// Keras's key.
    pub(super) key: &'static str,
    pub(super) default: Literal,
    /// TF.js's key and default, if TF.js has it.
    pub(super) tfjs: Option<(&'static str, Literal)>,
    /// Keras 2's default, where Keras 3 has another.
    pub(super) keras2: Option<f64>,
    /// Flavours that have it, TF.js aside.
    pub(super) flavours: &'static [Flavour],
}

/// An option that Keras has in all flavours, TF.js aside.
pub(super) const fn option(key: &'static str, default: Literal) -> OptionDef {
    const KERAS: &[Flavour] = &[Flavour::Keras2, Flavour::Legacy, Flavour::Keras3];
    OptionDef { key, default, tfjs: None, keras2: None, flavours: KERAS }
}

/// A number that Keras has in all flavours.
pub(super) const fn float(key: &'static str, default: f64) -> OptionDef {
    option(key, Literal::Number(default))
}

/// A truth value that Keras has in all flavours.
pub(super) const fn flag(key: &'static str) -> OptionDef {
    option(key, Literal::Bool(false))
}

impl OptionDef {
    /// TF.js has it too, under this key and with this default.
    pub(super) const fn tfjs(mut self, key: &'static str, default: f64) -> OptionDef {
        self.tfjs = Some((key, Literal::Number(default)));
        self
    }

    pub(super) const fn tfjs_flag(mut self, key: &'static str) -> OptionDef {
        self.tfjs = Some((key, Literal::Bool(false)));
        self
    }

    /// Keras 2 has another default.
    pub(super) const fn keras2(mut self, default: f64) -> OptionDef {
        self.keras2 = Some(default);
        self
    }

    /// Only these flavours have it.
    pub(super) const fn only(mut self, flavours: &'static [Flavour]) -> OptionDef {
        self.flavours = flavours;
        self
    }

    pub(super) fn in_flavour(&self, flavour: Flavour) -> bool {
        if flavour == Flavour::Tfjs { self.tfjs.is_some() } else { self.flavours.contains(&flavour) }
    }

    pub(super) fn default_in(&self, flavour: Flavour) -> Value {
        match self.tfjs {
            Some((_, default)) if flavour == Flavour::Tfjs => default.value(),
            _ => match self.keras2 {
                Some(default) if flavour != Flavour::Keras3 => json!(default),
                _ => self.default.value(),
            },
        }
    }

    /// Its key in a file.
    pub(super) fn key_in(&self, flavour: Flavour) -> &'static str {
        match self.tfjs {
            Some((key, _)) if flavour == Flavour::Tfjs => key,
            _ => self.key,
        }
    }
}

/// A row of the table of optimizers.
#[derive(Debug)]
pub(super) struct OptimizerDef {
    /// Keras's class.
    pub(super) name: &'static str,
    /// Flavours that have it.
    pub(super) flavours: &'static [Flavour],
    /// Its own options, the learning rate first.
    pub(super) options: &'static [OptionDef],
    /// Default of `weight_decay`.
    pub(super) weight_decay: Option<f64>,
    pub(super) make: fn(&Options) -> Result<Box<dyn Algorithm>>,
}

/// Options of an optimizer with their values.
#[derive(Clone, Debug)]
pub(super) struct Options {
    pub(super) flavour: Flavour,
    pub(super) values: Vec<(&'static str, Value)>,
}

impl Options {
    pub(super) fn get(&self, key: &str) -> &Value {
        self.values.iter().find(|(k, _)| *k == key).map_or(&Value::Null, |(_, v)| v)
    }

    pub(super) fn wrong(&self, key: &str, expected: &str) -> LayersError {
        let value = self.get(key).to_string();
        LayersError::Config { key: key.to_owned(), value, expected: expected.to_owned() }
    }

    pub(super) fn opt_f64(&self, key: &str) -> Result<Option<f64>> {
        match self.get(key) {
            Value::Null => Ok(None),
            v => number(v).map(Some).ok_or_else(|| self.wrong(key, "a number")),
        }
    }

    pub(super) fn f64(&self, key: &str) -> Result<f64> {
        self.opt_f64(key)?.ok_or_else(|| self.wrong(key, "a number"))
    }

    pub(super) fn f32(&self, key: &str) -> Result<f32> {
        Ok(self.f64(key)? as f32)
    }

    /// A share: at least 0 and at most 1.
    pub(super) fn share(&self, key: &str) -> Result<f64> {
        self.f64(key)
            .ok()
            .filter(|x| (0.0..=1.0).contains(x))
            .ok_or_else(|| self.wrong(key, "a number from 0 to 1"))
    }

    pub(super) fn bool(&self, key: &str) -> Result<bool> {
        match self.get(key) {
            Value::Null => Ok(false),
            Value::Bool(b) => Ok(*b),
            Value::Number(n) if n.as_i64().is_some_and(|n| n == 0 || n == 1) => Ok(n.as_i64() == Some(1)),
            _ => Err(self.wrong(key, "true or false")),
        }
    }

    /// A count of at least `min`, if given.
    pub(super) fn opt_count(&self, key: &str, min: u64, expected: &str) -> Result<Option<u64>> {
        match self.opt_f64(key)? {
            None => Ok(None),
            Some(n) if n.fract() == 0.0 && n >= min as f64 && n < 9e15 => Ok(Some(n as u64)),
            Some(_) => Err(self.wrong(key, expected)),
        }
    }

    /// `epsilon`, which old files leave open.
    pub(super) fn epsilon(&self) -> Result<f32> {
        Ok(self.opt_f64("epsilon")?.map_or(1e-7, |e| e as f32))
    }

    /// `1 − x` as the flavour computes it: in Python, or in single precision.
    pub(super) fn rest(&self, key: &str) -> Result<f32> {
        let x = self.f64(key)?;
        Ok(if self.flavour == Flavour::Legacy { 1.0 - x as f32 } else { (1.0 - x) as f32 })
    }
}

/// A step's place in time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Time {
    pub(super) learning_rate: f32,
    /// Updates before this one.
    pub(super) step: u64,
    /// [`Algorithm::factor`] of all steps up to this one.
    pub(super) product: f32,
}

impl Time {
    /// `base` to the power of the steps, this one included.
    pub(super) fn power(&self, base: f32) -> f32 {
        f64::from(base).powf((self.step + 1) as f64) as f32
    }
}

/// What an optimizer keeps for a weight.
#[derive(Clone, Debug)]
pub(super) struct Slot {
    /// Name in files of this flavour.
    pub(super) name: &'static str,
    /// What it is, the same in every flavour.
    pub(super) role: &'static str,
    /// Slots of a group stand together weight by weight; groups follow each other.
    pub(super) group: usize,
    /// Shape, if not the weight's.
    pub(super) shape: Option<Vec<usize>>,
    pub(super) initial: Initial,
}

/// How a slot begins.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Initial {
    Constant(f32),
    /// The weight.
    Weight,
    /// Not used; files have a zero in its place.
    Filler,
}

impl Slot {
    /// Slots with these names in each flavour (`"-"` is not there), each a group of its own in the flavours that `apart`
    /// names, otherwise one group.
    pub(super) fn table(
        flavour: Flavour,
        roles: &[(&'static str, [&'static str; 4])],
        apart: &[Flavour],
    ) -> Vec<Slot> {
        let index = Flavour::ALL.iter().position(|f| *f == flavour).unwrap_or(0);
        let slots = roles.iter().filter(|(_, names)| names[index] != "-").enumerate();
        slots
            .map(|(i, (role, names))| Slot {
                name: names[index],
                role,
                group: if apart.contains(&flavour) { i } else { 0 },
                shape: None,
                initial: Initial::Constant(0.0),
            })
            .collect()
    }
}

/// A weight that is trained.
#[derive(Clone, Debug)]
pub(super) struct Target<'a> {
    pub(super) name: &'a str,
    pub(super) shape: &'a [usize],
}

/// A weight's gradient, ready for use.
#[derive(Clone, Copy, Debug)]
pub(super) struct Update<'a> {
    pub(super) prepare: Prepare,
    pub(super) gradient: Gradient<'a>,
}

/// The arithmetic of an optimizer.
pub(super) trait Algorithm: fmt::Debug + Send + Sync {
    /// The rule of this step; optimizers that are no rule have their own [`Algorithm::apply`].
    fn rule(&self, time: Time) -> Rule;

    /// What it keeps for a weight, in the rule's order.
    fn slots(&self, target: &Target<'_>) -> Vec<Slot>;

    /// Whether rows of a table without gradient keep their slots too.
    fn lazy(&self) -> bool {
        false
    }

    /// A number that is multiplied from step to step.
    fn factor(&self, _time: Time) -> Option<f32> {
        None
    }

    /// Whether [`Algorithm::apply`] needs the gradient of this weight for every element.
    fn dense(&self, _target: &Target<'_>) -> bool {
        false
    }

    /// Weight decay of this weight, if it is not the optimizer's own.
    fn weight_decay(&self, _target: &Target<'_>, common: Option<f64>) -> Option<f64> {
        common
    }

    /// Updates a weight. `second` are the sums of squares of a gradient that was made dense, if they are not its squares.
    fn apply(
        &self,
        time: Time,
        _target: &Target<'_>,
        weight: &mut [f32],
        step: Update<'_>,
        _second: Option<&[f32]>,
        slots: &mut [Vec<f32>],
    ) -> Result<()> {
        let rule = self.rule(time);
        // Rules have at most three slots.
        let mut slots = slots.iter_mut().take(rule.slots()).map(Vec::as_mut_slice);
        let mut own: [&mut [f32]; 3] = std::array::from_fn(|_| slots.next().unwrap_or_default());
        Ok(update(&rule, step.prepare, weight, step.gradient, &mut own[..rule.slots()])?)
    }
}
