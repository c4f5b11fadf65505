//! Losses: what training makes small. All of Keras 2 and 3, by every name that they and TF.js give them.
//!
//! A loss writes graph nodes and computes nothing itself. `losses/table.rs` has a row for each.

mod crossentropy;
mod rank;
mod similarity;
mod table;

use std::borrow::Cow;

use serde_json::{Map, Value, json};
use tfjs_graph::{Fact, Port};
use tfjs_kernels::{DType, Tensor};

pub(crate) use rank::{as_column, match_labels, match_weights};
pub(crate) use similarity::cosine;
pub(crate) use table::{Task, find, task};

use crate::{
    Dialect, Emit, LayersError, Sym, dtype_of,
    options::{self, Defaults, Options},
    weights::snake_case,
};

type Result<T> = std::result::Result<T, LayersError>;

/// Keras's epsilon.
pub(crate) const EPSILON: f32 = 1e-7;

/// How values per sample become the loss of a batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reduction {
    /// The mean over all values, of those that are not masked. Keras 2 calls it `auto` too.
    #[default]
    SumOverBatchSize,
    /// The sum.
    Sum,
    /// As [`Reduction::SumOverBatchSize`]; a word of Keras 3.
    Mean,
    /// The sum of weighted values over the sum of the weights; Keras 3 only.
    MeanWithSampleWeight,
    /// Not at all: the loss keeps the shape of its values.
    None,
}

impl Reduction {
    const WORDS: &[(&str, Reduction)] = &[
        ("sum_over_batch_size", Reduction::SumOverBatchSize),
        ("auto", Reduction::SumOverBatchSize),
        ("sum", Reduction::Sum),
        ("mean", Reduction::Mean),
        ("mean_with_sample_weight", Reduction::MeanWithSampleWeight),
        ("none", Reduction::None),
    ];

    fn parse(value: &Value) -> Result<Reduction> {
        let word = value.as_str().unwrap_or(if value.is_null() { "none" } else { "" });
        let found = Reduction::WORDS.iter().find(|(w, _)| *w == word);
        found.map(|(_, r)| *r).ok_or_else(|| {
            let words: Vec<&str> = Reduction::WORDS.iter().map(|(w, _)| *w).collect();
            let expected = format!("one of {}", words.join(", "));
            LayersError::Config { key: "reduction".to_owned(), value: value.to_string(), expected }
        })
    }

    fn word(self) -> &'static str {
        Reduction::WORDS.iter().find(|(_, r)| *r == self).map_or("sum_over_batch_size", |(w, _)| w)
    }

    /// Whether the result is a mean over what is not masked.
    fn is_mean(self) -> bool {
        matches!(self, Reduction::SumOverBatchSize | Reduction::Mean)
    }
}

/// What a loss takes for labels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Labels {
    /// Numbers of a shape that broadcasts with the predictions.
    Numbers,
    /// Numbers of the shape of the predictions, such as one-hot classes.
    Alike,
    /// The index of the class, for each row of predictions.
    Classes,
    /// One class for each sample, whose embedding is predicted.
    Groups,
    /// Sequences of classes, padded with zeros.
    Sequences,
    /// Those of the loss that is chosen when shapes are known.
    Any,
}

/// A row of the table of losses.
#[derive(Debug)]
pub(crate) struct Def {
    /// Class in Keras.
    pub(crate) class: &'static str,
    /// Name of an object of that class, unless it has its own.
    pub(crate) name: &'static str,
    /// Function in Keras.
    pub(crate) function: &'static str,
    /// Other names, in any spelling.
    pub(crate) aliases: &'static [&'static str],
    pub(crate) options: Defaults,
    pub(crate) labels: Labels,
    pub(crate) values: fn(&mut Emit, &Options, Port, Port) -> Result<Values>,
}

/// Values of a loss before they are reduced.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Values {
    pub(crate) port: Port,
    /// Which of them count, where the loss itself decides.
    pub(crate) mask: Option<Port>,
}

impl From<Port> for Values {
    fn from(port: Port) -> Values {
        Values { port, mask: None }
    }
}

/// A loss of Keras, with its options.
///
/// ```
/// use tfjs_layers::{Dialect, Loss, Reduction};
///
/// let loss = Loss::CategoricalCrossentropy.with("label_smoothing", 0.1)?.reduction(Reduction::Sum);
/// assert_eq!(loss.name(), "categorical_crossentropy");
/// let same = Loss::from_config(&loss.config(), Dialect::Keras3)?;
/// assert_eq!(same, loss);
/// assert_eq!(Loss::try_from("mse")?.name(), "mean_squared_error");
/// # Ok::<(), tfjs_layers::LayersError>(())
/// ```
#[derive(Clone, Debug)]
pub struct Loss {
    def: &'static Def,
    name: Cow<'static, str>,
    options: Options,
    reduction: Reduction,
    /// The word by which it was chosen, if it was a word: that is what files keep.
    word: Option<String>,
}

impl PartialEq for Loss {
    fn eq(&self, other: &Loss) -> bool {
        let named = |l: &Loss| (l.def.class, l.name.clone(), l.reduction, l.word.clone());
        named(self) == named(other) && self.config() == other.config()
    }
}

impl From<Loss> for Value {
    fn from(loss: Loss) -> Value {
        loss.config()
    }
}

impl TryFrom<&str> for Loss {
    type Error = LayersError;

    /// From any name of Keras 2, Keras 3 or TF.js.
    fn try_from(name: &str) -> Result<Loss> {
        Loss::from_config(&json!(name), Dialect::default())
    }
}

impl Loss {
    pub(crate) const fn of(def: &'static Def) -> Loss {
        let name = Cow::Borrowed(def.name);
        let options = Options::new(def.options);
        Loss { def, name, options, reduction: Reduction::SumOverBatchSize, word: None }
    }

    /// From a name, or an object as Keras serialises it: `{class_name, config}`, with `fn` in Keras 2's configurations.
    ///
    /// # Errors
    /// When the name or an option is not known, or an option has a value that it cannot have.
    pub fn from_config(value: &Value, dialect: Dialect) -> Result<Loss> {
        let spelled = options::spelled("loss", value)?;
        if spelled.name == "LossFunctionWrapper" {
            let function = spelled.config.and_then(|c| c.get("fn")).unwrap_or(&Value::Null);
            let inner = options::spelled("fn", function)?;
            let mut loss = Loss::of(table::find(inner.name)?);
            loss.configure(spelled.config)?;
            return Ok(loss);
        }
        let def = table::find(spelled.name)?;
        let mut loss = Loss::of(def);
        if spelled.name != def.class {
            loss.word = Some(spelled.name.to_owned());
            // Keras 3 calls the loss as it was asked for, Keras 2 after the function.
            let name = if dialect == Dialect::Keras3 { spelled.name } else { def.function };
            loss.name = Cow::Owned(name.to_owned());
        }
        loss.configure(spelled.config)?;
        Ok(loss)
    }

    fn configure(&mut self, config: Option<&Map<String, Value>>) -> Result<()> {
        for (key, value) in config.into_iter().flatten() {
            match key.as_str() {
                "name" => {
                    if let Some(name) = value.as_str() {
                        self.name = Cow::Owned(name.to_owned());
                    }
                }
                "reduction" => self.reduction = Reduction::parse(value)?,
                "fn" | "module" | "registered_name" => {}
                "dtype" if value.is_null() || dtype_of(value) == Some(DType::Float32) => {}
                "dtype" => {
                    let expected = "a type of floating-point numbers".to_owned();
                    return Err(LayersError::Config { key: key.clone(), value: value.to_string(), expected });
                }
                _ => self.options.set(key, value)?,
            }
        }
        Ok(())
    }

    /// The same with another value of an option, such as `from_logits`, `label_smoothing`, `delta`.
    ///
    /// # Errors
    /// When the loss has no such option, or it takes another type.
    pub fn with(mut self, option: &str, value: impl Into<Value>) -> Result<Loss> {
        self.options.set(option, &value.into())?;
        self.word = None;
        Ok(self)
    }

    /// The same with another reduction.
    #[must_use]
    pub fn reduction(mut self, reduction: Reduction) -> Loss {
        self.reduction = reduction;
        self.word = None;
        self
    }

    /// How values per sample become the loss of a batch.
    pub fn get_reduction(&self) -> Reduction {
        self.reduction
    }

    /// The classes of all losses.
    pub fn classes() -> impl Iterator<Item = &'static str> {
        table::LOSSES.iter().map(|def| def.class)
    }

    /// Its class in Keras, such as `MeanSquaredError`.
    pub fn class_name(&self) -> &'static str {
        self.def.class
    }

    /// Its function in Keras, such as `mean_squared_error`: the name that files of TF.js have.
    pub fn function_name(&self) -> &'static str {
        self.def.function
    }

    /// Whether all its options have their defaults.
    pub(crate) fn is_plain(&self) -> bool {
        let plain = Loss { name: self.name.clone(), ..Loss::of(self.def) };
        self.reduction.is_mean() && Loss { word: None, reduction: plain.reduction, ..self.clone() } == plain
    }

    /// Its name, as in logs.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// As Keras serialises it: the word it was chosen by, or `{class_name, config}` with the options that are not at their
    /// default.
    pub fn config(&self) -> Value {
        if let Some(word) = &self.word {
            return json!(word);
        }
        let mut config = Map::new();
        config.insert("reduction".to_owned(), json!(self.reduction.word()));
        config.insert("name".to_owned(), json!(self.name));
        self.options.write(&mut config);
        options::object("keras.losses", self.def.class, config)
    }

    /// Values per sample: of the shape of the predictions without the axis that the loss sums over. Differentiable.
    ///
    /// # Errors
    /// When labels and predictions do not fit.
    pub fn values(&self, g: &mut Emit, y_true: Port, y_pred: Port) -> Result<Port> {
        Ok(self.masked_values(g, y_true, y_pred)?.port)
    }

    /// The loss of a batch: a scalar, unless the reduction is [`Reduction::None`]. Masked steps do not count; weights are
    /// for samples or, of the rank of the values, for steps.
    ///
    /// # Errors
    /// When labels, predictions and weights do not fit.
    pub fn call(&self, g: &mut Emit, y_true: Port, y_pred: Sym, sample_weight: Option<Port>) -> Result<Port> {
        let scope = format!("loss_{}", snake_case(self.def.class));
        g.scoped(&scope, |g| {
            if g.dialect == Dialect::Keras3 {
                self.call_keras3(g, y_true, y_pred, sample_weight)
            } else {
                self.call_keras2(g, y_true, y_pred, sample_weight)
            }
        })
    }

    /// What `crossentropy` means for labels and predictions of these shapes.
    pub(crate) fn by_shape(&self, y_true: &Fact, y_pred: &Fact) -> Option<Loss> {
        (self.def.labels == Labels::Any).then(|| Loss::of(table::crossentropy_for(y_true, y_pred)))
    }

    /// Values, and which of them count.
    pub(crate) fn masked_values(&self, g: &mut Emit, y_true: Port, y_pred: Port) -> Result<Values> {
        if let Some(fitting) = self.by_shape(g.fact(y_true), g.fact(y_pred)) {
            return fitting.masked_values(g, y_true, y_pred);
        }
        let y_pred = g.cast(y_pred, DType::Float32)?;
        let (y_true, y_pred) = match_labels(g, y_true, y_pred)?;
        values_of(g, self.def, &self.options, y_true, y_pred)
    }

    fn call_keras2(&self, g: &mut Emit, y_true: Port, y_pred: Sym, weight: Option<Port>) -> Result<Port> {
        let p = y_pred.port;
        let y_true = as_column(g, y_true, p)?;
        let mut weight = weight.map(|w| g.cast(w, DType::Float32)).transpose()?;
        if let Some(w) = weight {
            weight = Some(as_column(g, w, p)?);
        }
        // Once for the model and once more, with another scale, for the loss.
        weight = times_mask(g, weight, y_pred.mask)?;
        let values = self.masked_values(g, y_true, p)?;
        if let Some(mask) = both(g, y_pred.mask, values.mask)? {
            let mut mask = g.cast(mask, DType::Float32)?;
            if self.reduction.is_mean() {
                let scale = per_valid(g, mask, "RealDiv")?;
                mask = g.mul(mask, scale)?;
            }
            weight = times_mask(g, weight, Some(mask))?;
        }
        self.reduce(g, values.port, weight)
    }

    fn call_keras3(&self, g: &mut Emit, y_true: Port, y_pred: Sym, weight: Option<Port>) -> Result<Port> {
        let values = self.masked_values(g, y_true, y_pred.port)?;
        let mut weight = weight.map(|w| g.cast(w, DType::Float32)).transpose()?;
        if let Some(mask) = both(g, y_pred.mask, values.mask)? {
            let mut float = g.cast(mask, DType::Float32)?;
            if self.reduction.is_mean() {
                let scale = per_valid(g, float, "DivNoNan")?;
                let zero = g.scalar(0.0);
                float = g.select(mask, scale, zero)?;
            }
            weight = times_mask(g, weight, Some(float))?;
        }
        self.reduce(g, values.port, weight)
    }

    fn reduce(&self, g: &mut Emit, values: Port, weight: Option<Port>) -> Result<Port> {
        let (mut values, mut weight) = (values, weight);
        if let Some(w) = weight {
            let (v, w) = match_weights(g, values, w)?;
            (values, weight) = (g.mul(v, w)?, Some(w));
        }
        match (self.reduction, weight) {
            (Reduction::None, _) => Ok(values),
            (Reduction::Sum, _) => over_all(g, "Sum", values),
            (Reduction::MeanWithSampleWeight, Some(w)) => {
                let (sum, weights) = (over_all(g, "Sum", values)?, over_all(g, "Sum", w)?);
                g.op("DivNoNan", &[sum, weights], &[])
            }
            _ => over_all(g, "Mean", values),
        }
    }

    /// Whether labels of `y_true` and predictions of `y_pred` fit the loss, as far as can be known before the first step.
    ///
    /// # Errors
    /// When they do not, with what would.
    pub fn check(&self, y_true: &Fact, y_pred: &Fact) -> Result<()> {
        let (Some(t), Some(p)) = (&y_true.shape, &y_pred.shape) else { return Ok(()) };
        if let Some(fitting) = self.by_shape(y_true, y_pred) {
            return fitting.check(y_true, y_pred);
        }
        let wrong = |problem: String| {
            Err(LayersError::Objective { what: "loss", name: self.name.clone().into_owned(), problem })
        };
        let given = format!("labels of shape {}, predictions of shape {}", shape(t), shape(p));
        // A last axis of size 1 does not count.
        let trimmed = |s: &[Option<usize>]| match s {
            [.., Some(1)] if s.len() > 1 => s[..s.len() - 1].to_vec(),
            _ => s.to_vec(),
        };
        let alike = |a: &[Option<usize>], b: &[Option<usize>]| {
            let dims = a.iter().zip(b);
            a.len() == b.len() && dims.into_iter().all(|(a, b)| a.is_none() || b.is_none() || a == b)
        };
        let classes = p.last().copied().flatten();
        match self.def.labels {
            Labels::Alike if !alike(t, p) && !alike(&trimmed(t), &trimmed(p)) => {
                let of_classes = alike(&trimmed(t), &p[..p.len().saturating_sub(1)]) && classes > Some(1);
                if of_classes && self.def.class.starts_with("Categorical") {
                    wrong(format!(
                        "{given}: it takes labels in categorical format, such as one-hot; for integer classes use \
                         `sparse_categorical_crossentropy`"
                    ))
                } else {
                    wrong(format!("{given}: labels and predictions must have the same shape"))
                }
            }
            Labels::Classes if p.is_empty() || !alike(&trimmed(t), &trimmed(&p[..p.len() - 1])) => {
                let rest = &p[..p.len().saturating_sub(1)];
                let fits = alike(t, rest) || t.len() == p.len() && t.last() == Some(&Some(1));
                if fits {
                    Ok(())
                } else if alike(t, p) {
                    wrong(format!(
                        "{given}: it takes the index of the class for each row of predictions; for one-hot classes \
                         use `categorical_crossentropy`"
                    ))
                } else {
                    wrong(format!("{given}: it takes the index of the class for each row of predictions"))
                }
            }
            Labels::Sequences if t.len() != 2 || p.len() != 3 => wrong(format!(
                "{given}: it takes labels (batch, length) and predictions (batch, steps, classes)"
            )),
            Labels::Groups if p.len() != 2 => {
                wrong(format!("{given}: it takes embeddings (batch, features)"))
            }
            Labels::Numbers if !broadcast(t, p) && !broadcast(&trimmed(t), &trimmed(p)) => {
                wrong(format!("{given}: labels and predictions must have the same shape"))
            }
            _ => Ok(()),
        }
    }

    /// Whether labels are classes from 0 up to `classes`, where the loss takes classes.
    ///
    /// # Errors
    /// When one is not; the first is named.
    pub fn check_labels(&self, y_true: &Tensor, classes: usize) -> Result<()> {
        if !matches!(self.def.labels, Labels::Classes | Labels::Sequences) {
            return Ok(());
        }
        let ignored = self.options.opt_int("ignore_class")?.map(|c| c as f64);
        let labels = tfjs_kernels::cast::cast(y_true.clone(), DType::Float32.to_proto(), false)?;
        let values = labels.data::<f32>()?;
        let good = |&x: &f32| {
            let x = f64::from(x);
            Some(x) == ignored || (x >= 0.0 && x.trunc() < classes as f64)
        };
        match values.iter().position(|x| !good(x)) {
            None => Ok(()),
            Some(at) => Err(LayersError::Objective {
                what: "loss",
                name: self.name.clone().into_owned(),
                problem: format!(
                    "label {} (number {at}) is not a class from 0 to {}",
                    values[at],
                    classes.max(1) - 1
                ),
            }),
        }
    }
}

/// Values of a loss for labels and predictions whose ranks are matched.
pub(crate) fn values_of(
    g: &mut Emit,
    def: &Def,
    options: &Options,
    y_true: Port,
    y_pred: Port,
) -> Result<Values> {
    let labels = match def.labels {
        Labels::Numbers | Labels::Alike | Labels::Any => DType::Float32,
        Labels::Classes | Labels::Groups | Labels::Sequences => DType::Int32,
    };
    let y_true = g.cast(y_true, labels)?;
    (def.values)(g, options, y_true, y_pred)
}

/// Weights times a mask, of whichever there is.
pub(crate) fn times_mask(g: &mut Emit, weight: Option<Port>, mask: Option<Port>) -> Result<Option<Port>> {
    let Some(mask) = mask else { return Ok(weight) };
    let mask = g.cast(mask, DType::Float32)?;
    let Some(weight) = weight else { return Ok(Some(mask)) };
    let (mask, weight) = match_weights(g, mask, weight)?;
    Ok(Some(g.mul(weight, mask)?))
}

/// A reduction over all axes.
pub(crate) fn over_all(g: &mut Emit, op: &str, x: Port) -> Result<Port> {
    let axes: Vec<usize> = (0..g.rank(x)?).collect();
    g.reduce(op, x, &axes, false)
}

/// The number of elements, as a float.
pub(crate) fn count(g: &mut Emit, x: Port) -> Result<Port> {
    let shape = g.shape(x)?;
    if let Some(n) = shape.iter().try_fold(1usize, |n, d| n.checked_mul((*d)?)) {
        return Ok(g.scalar(n as f32));
    }
    let size = g.op("Size", &[x], &[("out_type", tfjs_graph::builder::attr::dtype(DType::Int32))])?;
    g.cast(size, DType::Float32)
}

/// The number of elements of a mask over the number of those that are on.
fn per_valid(g: &mut Emit, mask: Port, division: &str) -> Result<Port> {
    let (total, valid) = (count(g, mask)?, over_all(g, "Sum", mask)?);
    g.op(division, &[total, valid], &[])
}

fn both(g: &mut Emit, a: Option<Port>, b: Option<Port>) -> Result<Option<Port>> {
    match (a, b) {
        (Some(a), Some(b)) => Ok(Some(g.op("LogicalAnd", &[a, b], &[])?)),
        (one, other) => Ok(one.or(other)),
    }
}

/// As Keras writes shapes: `(None, 10)`.
pub(crate) fn shape(dims: &[Option<usize>]) -> String {
    let dims: Vec<String> = dims.iter().map(|d| d.map_or("None".to_owned(), |d| d.to_string())).collect();
    match dims.as_slice() {
        [one] => format!("({one},)"),
        dims => format!("({})", dims.join(", ")),
    }
}

fn broadcast(a: &[Option<usize>], b: &[Option<usize>]) -> bool {
    let pairs = a.iter().rev().zip(b.iter().rev());
    pairs.into_iter().all(|(a, b)| match (a, b) {
        (Some(a), Some(b)) => a == b || *a == 1 || *b == 1,
        _ => true,
    })
}
