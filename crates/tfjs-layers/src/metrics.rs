//! Metrics: what training reports. All of Keras 2 and 3, by every name that they and TF.js give them.
//!
//! A metric's state is additive: [`Metric::update`] writes nodes whose values are the increments of a batch, whoever trains
//! adds them up, and [`Metric::result`] turns the totals into a number. There is a table per family, in `metrics/`.

/// A table of metrics, with a constant for each.
macro_rules! metrics {
    ($($(#[$doc:meta])* $class:ident { name: $name:expr, aliases: $aliases:expr, options: $options:expr, $($kind:tt)* })*) => {
        $(static $class: Def = Def {
            class: stringify!($class),
            name: $name,
            aliases: &$aliases,
            options: &$options,
            kind: Kind::$($kind)*,
        };)*

        impl Metric {
            $($(#[$doc])* pub const $class: Metric = Metric::of(&$class);)*
        }

        /// The metrics of this family.
        pub(super) static METRICS: &[&Def] = &[$(&$class),*];
    };
}

mod accuracy;
mod confusion;
mod iou;
mod losses;
mod scores;

use std::borrow::Cow;

use serde_json::{Map, Value, json};
use tfjs_graph::{Fact, Port};
use tfjs_kernels::{DType, Tensor};

use crate::{
    Dialect, Emit, LayersError, Loss, Sym, dtype_of,
    losses::{Values, as_column, count, match_labels, match_weights, over_all, times_mask},
    options::{self, Defaults, Options},
    weights::snake_case,
};

type Result<T> = std::result::Result<T, LayersError>;

/// Labels, predictions and weights of a batch: numbers, with ranks as Keras matches them.
#[derive(Clone, Copy, Debug)]
struct Batch {
    y_true: Port,
    y_pred: Port,
    weight: Option<Port>,
}

/// How a metric is computed.
#[derive(Debug)]
enum Kind {
    /// The weighted mean of values.
    Mean(fn(&mut Emit, &Metric, Port, Port) -> Result<Values>),
    /// The square root of that.
    RootMean(fn(&mut Emit, &Metric, Port, Port) -> Result<Values>),
    /// Anything else.
    State {
        update: fn(&mut Emit, &Metric, Batch) -> Result<Vec<Port>>,
        result: fn(&Metric, &[Vec<f64>]) -> Result<Vec<f64>>,
    },
}

/// A row of a table of metrics.
#[derive(Debug)]
struct Def {
    /// Class in Keras.
    class: &'static str,
    /// Name of an object of that class, in Keras 2 and 3, where it is not the class in snake case.
    name: Option<[&'static str; 2]>,
    /// Other names, in any spelling.
    aliases: &'static [&'static str],
    options: Defaults,
    kind: Kind,
}

/// A metric of Keras, with its options.
///
/// ```
/// use tfjs_layers::{Dialect, Metric};
///
/// let metric = Metric::TopKCategoricalAccuracy.with("k", 3)?;
/// assert_eq!(metric.name(), "top_k_categorical_accuracy");
/// assert_eq!(Metric::try_from("acc")?.name(), "acc");
/// # Ok::<(), tfjs_layers::LayersError>(())
/// ```
#[derive(Clone, Debug)]
pub struct Metric {
    def: &'static Def,
    name: Option<Cow<'static, str>>,
    options: Options,
    /// The word by which it was chosen, if it was a word: Keras 2 then takes a function, and files keep it.
    word: Option<Cow<'static, str>>,
    /// The loss whose mean it is, if that is no metric of its own.
    loss: Option<Box<Loss>>,
}

impl PartialEq for Metric {
    fn eq(&self, other: &Metric) -> bool {
        self.def.class == other.def.class && self.name() == other.name() && self.config() == other.config()
    }
}

impl TryFrom<&str> for Metric {
    type Error = LayersError;

    /// From any name of Keras 2, Keras 3 or TF.js.
    fn try_from(name: &str) -> Result<Metric> {
        Metric::from_config(&json!(name), Dialect::default())
    }
}

impl From<Loss> for Metric {
    /// The mean of a loss.
    fn from(loss: Loss) -> Metric {
        let name = Some(Cow::Owned(loss.name().to_owned()));
        let options = Options::new(losses::ANY.options);
        Metric { def: &losses::ANY, name, options, word: None, loss: Some(Box::new(loss)) }
    }
}

impl From<Metric> for Value {
    fn from(metric: Metric) -> Value {
        metric.config()
    }
}

impl Metric {
    /// How often predictions are right, as fits them: binary, of classes by number, or of one-hot classes. It is Keras's
    /// `accuracy`; the class of that name, which compares for equality, is `{class_name: "Accuracy"}`.
    #[allow(non_upper_case_globals, reason = "metrics are named as Keras's classes are")]
    pub const Accuracy: Metric = Metric {
        def: &accuracy::ACCURACY,
        name: None,
        options: Options::new(&[]),
        word: Some(Cow::Borrowed("accuracy")),
        loss: None,
    };

    const fn of(def: &'static Def) -> Metric {
        Metric { def, name: None, options: Options::new(def.options), word: None, loss: None }
    }

    /// From a name, or an object as Keras serialises it: `{class_name, config}`.
    ///
    /// # Errors
    /// When the name or an option is not known, or an option has a value that it cannot have.
    pub fn from_config(value: &Value, dialect: Dialect) -> Result<Metric> {
        let spelled = options::spelled("metric", value)?;
        if spelled.name == "MeanMetricWrapper" {
            let config = spelled.config.cloned().unwrap_or_default();
            let mut metric = Metric::from_config(config.get("fn").unwrap_or(&Value::Null), dialect)?;
            metric.configure(Some(&config))?;
            return Ok(metric);
        }
        let Some(def) = find(spelled.name) else {
            // Any other loss is a metric too.
            let loss = Loss::from_config(value, dialect).map_err(|error| match error {
                LayersError::UnknownName { .. } => options::unknown("metric", spelled.name, known()),
                other => other,
            })?;
            let mut metric = Metric::from(loss);
            if spelled.config.is_none() {
                metric.name = Some(Cow::Owned(in_logs(spelled.name, dialect).to_owned()));
            }
            return Ok(metric);
        };
        let mut metric = Metric::of(def);
        metric.name = def.name.map(|names| Cow::Borrowed(names[usize::from(dialect == Dialect::Keras3)]));
        let is_word = spelled.config.is_none() && !value.is_object() || value["class_name"] == "function";
        if is_word && (spelled.name != def.class || def.class == "Accuracy" || dialect == Dialect::Keras3) {
            metric.word = Some(Cow::Owned(spelled.name.to_owned()));
            metric.name = Some(Cow::Owned(in_logs(spelled.name, dialect).to_owned()));
        }
        metric.configure(spelled.config)?;
        Ok(metric)
    }

    fn configure(&mut self, config: Option<&Map<String, Value>>) -> Result<()> {
        let takes_dtype = self.def.options.iter().any(|(name, _)| *name == "dtype");
        for (key, value) in config.into_iter().flatten() {
            match key.as_str() {
                "name" => {
                    if let Some(name) = value.as_str() {
                        self.name = Some(Cow::Owned(name.to_owned()));
                    }
                }
                "fn" | "module" | "registered_name" => {}
                "dtype" if !takes_dtype => {
                    if !value.is_null() && dtype_of(value) != Some(DType::Float32) {
                        let expected = "a type of floating-point numbers".to_owned();
                        return Err(LayersError::Config {
                            key: key.clone(),
                            value: value.to_string(),
                            expected,
                        });
                    }
                }
                _ => self.options.set(key, value)?,
            }
        }
        Ok(())
    }

    /// The same with another value of an option, such as `k`, `threshold`, `num_classes`.
    ///
    /// # Errors
    /// When the metric has no such option, or it takes another type.
    pub fn with(mut self, option: &str, value: impl Into<Value>) -> Result<Metric> {
        self.options.set(option, &value.into())?;
        self.word = None;
        Ok(self)
    }

    /// The same with another name.
    #[must_use]
    pub fn named(mut self, name: impl Into<String>) -> Metric {
        self.name = Some(Cow::Owned(name.into()));
        self
    }

    /// Its class in Keras.
    pub fn class_name(&self) -> &'static str {
        self.loss.as_ref().map_or(self.def.class, |loss| loss.class_name())
    }

    /// Its name, as in logs: the word it was asked for by, or that of its class. Keras numbers metrics of one name; that
    /// is left to whoever lists several.
    pub fn name(&self) -> Cow<'_, str> {
        match (&self.name, &self.word, self.def.name) {
            (Some(name), _, _) | (None, Some(name), _) => Cow::Borrowed(name.as_ref()),
            (None, None, Some([name, _])) => Cow::Borrowed(name),
            (None, None, None) => Cow::Owned(snake_case(self.def.class)),
        }
    }

    /// As Keras serialises it: the word it was chosen by, or `{class_name, config}`.
    pub fn config(&self) -> Value {
        if let Some(loss) = &self.loss {
            return loss.config();
        }
        if let Some(word) = &self.word {
            return json!(word);
        }
        let mut config = Map::new();
        config.insert("name".to_owned(), json!(self.name()));
        self.options.write(&mut config);
        options::object("keras.metrics", self.def.class, config)
    }

    /// Whether it takes labels of `y_true` and predictions of `y_pred`, as far as can be known before the first step.
    ///
    /// # Errors
    /// When it does not, or an option that it needs is missing.
    pub fn check(&self, y_true: &Fact, y_pred: &Fact) -> Result<()> {
        let mut g = Emit::new(crate::Params::default(), Dialect::default());
        let mut placeholder = |name: &str, fact: &Fact| {
            let dims = fact.shape.as_ref()?;
            Some(g.builder().placeholder(name, fact.dtype.unwrap_or(DType::Float32), dims))
        };
        let (Some(y_true), Some(y_pred)) = (placeholder("y_true", y_true), placeholder("y_pred", y_pred))
        else {
            return Ok(());
        };
        self.update(&mut g, y_true, Sym::from(y_pred), None).map(|_| ())
    }

    /// The increments of the state that a batch makes. `weight`: weights of samples for weighted metrics, `None` for others.
    /// Masks count as in Keras: in Keras 2 for all metrics, in Keras 3 for those that are means of values.
    ///
    /// # Errors
    /// When labels, predictions and weights do not fit.
    pub fn update(&self, g: &mut Emit, y_true: Port, y_pred: Sym, weight: Option<Port>) -> Result<Vec<Port>> {
        let scope = format!("metric_{}", snake_case(self.def.class));
        g.scoped(&scope, |g| self.write(g, y_true, y_pred, weight)).map_err(|error| match error {
            LayersError::Inputs(problem) => {
                LayersError::Objective { what: "metric", name: self.name().into_owned(), problem }
            }
            other => other,
        })
    }

    fn write(&self, g: &mut Emit, y_true: Port, y_pred: Sym, weight: Option<Port>) -> Result<Vec<Port>> {
        let p = y_pred.port;
        if let Some(fitting) = self.by_shape(g.fact(y_true), g.fact(p)) {
            return fitting.write(g, y_true, y_pred, weight);
        }
        let mut weight = weight.map(|w| g.cast(w, DType::Float32)).transpose()?;
        let y_true = as_column(g, y_true, p)?;
        if let Some(w) = weight {
            weight = Some(as_column(g, w, p)?);
        }
        let is_mean = matches!(self.def.kind, Kind::Mean(_) | Kind::RootMean(_));
        if g.dialect != Dialect::Keras3 || is_mean {
            weight = times_mask(g, weight, y_pred.mask)?;
        }
        let p = g.cast(p, DType::Float32)?;
        match &self.def.kind {
            Kind::Mean(values) | Kind::RootMean(values) => {
                let (y_true, p) = match_labels(g, y_true, p)?;
                let values = values(g, self, y_true, p)?;
                mean(g, values, weight)
            }
            Kind::State { update, .. } => update(g, self, Batch { y_true, y_pred: p, weight }),
        }
    }

    /// What `accuracy` and `crossentropy` mean for labels and predictions of these shapes.
    fn by_shape(&self, y_true: &Fact, y_pred: &Fact) -> Option<Metric> {
        if let Some(loss) = self.loss.as_ref().and_then(|loss| loss.by_shape(y_true, y_pred)) {
            return Some(Metric::from(loss));
        }
        let is_word = self.def.class == "Accuracy" && self.word.is_some();
        is_word.then(|| Metric { def: accuracy::fitting(y_true, y_pred), ..self.clone() })
    }

    /// The metric of summed increments; the mean of [`Metric::results`] where there are several.
    ///
    /// # Errors
    /// When `totals` are not those of [`Metric::update`].
    pub fn result(&self, totals: &[Tensor]) -> Result<f64> {
        let values = self.results(totals)?;
        Ok(values.iter().sum::<f64>() / values.len().max(1) as f64)
    }

    /// All numbers of the metric: one, except for several thresholds, for classes without an average, and for
    /// `MeanTensor`.
    ///
    /// # Errors
    /// When `totals` are not those of [`Metric::update`].
    pub fn results(&self, totals: &[Tensor]) -> Result<Vec<f64>> {
        let totals = totals
            .iter()
            .map(|t| Ok(t.data::<f32>()?.iter().map(|&x| f64::from(x)).collect()))
            .collect::<Result<Vec<Vec<f64>>>>()?;
        match (&self.def.kind, totals.as_slice()) {
            (Kind::Mean(_), [total, count]) => Ok(ratios(total, count)),
            (Kind::RootMean(_), [total, count]) => {
                Ok(ratios(total, count).into_iter().map(f64::sqrt).collect())
            }
            (Kind::State { result, .. }, totals) => result(self, totals),
            _ => Err(foreign()),
        }
    }
}

/// The name of a metric that was asked for by a word. TF.js shortens two of them.
fn in_logs(word: &str, dialect: Dialect) -> &str {
    match (dialect, word) {
        (Dialect::Tfjs, "accuracy") => "acc",
        (Dialect::Tfjs, "crossentropy") => "ce",
        _ => word,
    }
}

/// The row of a name.
fn find(name: &str) -> Option<&'static Def> {
    let wanted = options::folded(name);
    let is = |word: &str| options::folded(word) == wanted;
    rows().find(|def| {
        is(def.class)
            || def.name.is_some_and(|n| n.iter().any(|n| is(n)))
            || def.aliases.iter().any(|a| is(a))
    })
}

fn rows() -> impl Iterator<Item = &'static Def> {
    let families = [accuracy::METRICS, confusion::METRICS, iou::METRICS, losses::METRICS, scores::METRICS];
    families.into_iter().flatten().copied().chain([&accuracy::ACCURACY])
}

fn known() -> Vec<&'static str> {
    rows().flat_map(|def| std::iter::once(def.class).chain(def.aliases.iter().copied())).collect()
}

fn foreign() -> LayersError {
    LayersError::Inputs("the totals are not those of this metric".to_owned())
}

/// total / count, 0 where there is nothing.
fn ratio(total: f64, count: f64) -> f64 {
    if count == 0.0 { 0.0 } else { total / count }
}

fn ratios(total: &[f64], count: &[f64]) -> Vec<f64> {
    total.iter().zip(count).map(|(&t, &c)| ratio(t, c)).collect()
}

/// Weights of the shape of the values.
fn spread(g: &mut Emit, weight: Port, like: Port) -> Result<Port> {
    let ones = g.unary("OnesLike", like)?;
    g.mul(weight, ones)
}

/// The sum of values and their number, weighted.
fn mean(g: &mut Emit, values: Values, weight: Option<Port>) -> Result<Vec<Port>> {
    let v = values.port;
    if g.dialect == Dialect::Keras3 {
        return mean_keras3(g, values, weight);
    }
    let Some(weight) = times_mask(g, weight, values.mask)? else {
        return Ok(vec![over_all(g, "Sum", v)?, count(g, v)?]);
    };
    let (mut v, w) = match_weights(g, v, weight)?;
    let (rank, weight_rank) = (g.rank(v)?, g.rank(w)?);
    if weight_rank > 0 && weight_rank < rank {
        let axes: Vec<usize> = (weight_rank..rank).collect();
        v = g.reduce("Mean", v, &axes, false)?;
    }
    let w = spread(g, w, v)?;
    let product = g.mul(v, w)?;
    Ok(vec![over_all(g, "Sum", product)?, over_all(g, "Sum", w)?])
}

/// Keras 3: the mean of each sample counts, with the mean of its weights.
fn mean_keras3(g: &mut Emit, values: Values, weight: Option<Port>) -> Result<Vec<Port>> {
    let trailing = |g: &mut Emit, x: Port, from: usize| {
        let axes: Vec<usize> = (from..g.rank(x)?).collect();
        if axes.is_empty() { Ok(x) } else { g.reduce("Mean", x, &axes, false) }
    };
    let mut v = values.port;
    let Some(weight) = weight else {
        let v = trailing(g, v, 1)?;
        let number = count(g, v)?;
        return Ok(vec![over_all(g, "Sum", v)?, number]);
    };
    let weight = times_mask(g, Some(weight), values.mask)?.unwrap_or(weight);
    let (matched, mut w) = match_weights(g, v, weight)?;
    v = matched;
    let weight_rank = g.rank(w)?;
    v = trailing(g, v, weight_rank)?;
    w = spread(g, w, v)?;
    v = g.mul(v, w)?;
    if weight_rank > 1 {
        w = trailing(g, w, 1)?;
    }
    v = trailing(g, v, 1)?;
    Ok(vec![over_all(g, "Sum", v)?, over_all(g, "Sum", w)?])
}
