//! Training as files hold it: taken up again where one left it, and written into one.

use super::{Compile, Training};
use serde_json::{Map, Value, json};

use crate::{Dialect, LayersError, LayersModel, Loss, Optimizer, StoredWeight, optimizers::StateNames};

type Result<T> = std::result::Result<T, LayersError>;

/// How training goes on, in the form of a file.
#[derive(Clone, Debug)]
pub struct TrainingState {
    /// Optimizer, losses and metrics.
    pub config: Value,
    /// State of the optimizer, in the file's order.
    pub weights: Vec<StoredWeight>,
}

impl LayersModel {
    /// Compiles the model as the file says it was, with the state of its optimizer: training goes on as if it had not
    /// ended. Gives `false` when the file says nothing of it.
    ///
    /// # Errors
    /// When an optimizer, loss or metric is not known, or the state does not fit.
    pub fn restore_training(&mut self) -> Result<bool> {
        self.training = self.restored()?.map(Box::new);
        self.params.load()?;
        Ok(self.training.is_some())
    }

    fn restored(&self) -> Result<Option<Training>> {
        let Some(config) = &self.training_config else { return Ok(None) };
        let optimizer = config.get("optimizer_config").or_else(|| config.get("optimizer"));
        let Some(optimizer) = optimizer.filter(|v| !v.is_null()) else { return Ok(None) };
        let mut optimizer = Optimizer::from_config(optimizer, self.training_dialect)?;
        optimizer.build(&self.trainable_shapes())?;
        if !self.optimizer_weights.is_empty() {
            optimizer.set_state(&self.optimizer_weights)?;
        }
        let part = |key: &str| config.get(key).cloned().unwrap_or_default();
        let compile = Compile {
            loss: part("loss"),
            loss_weights: part("loss_weights"),
            metrics: part("metrics"),
            weighted_metrics: part("weighted_metrics"),
        };
        let steps = optimizer.iterations();
        let training = self.compiled_with(optimizer.for_dialect(self.dialect)?, compile)?;
        Ok(Some(Training { steps, ..training }))
    }

    /// How training goes on, as files of Keras hold it: `.keras` archives, or `.h5`. Nothing for a model that was never
    /// compiled, or in a way that is not known here.
    ///
    /// # Errors
    /// When Keras lacks the optimizer or an option of it.
    pub fn keras_training(&self, archive: bool) -> Result<Option<TrainingState>> {
        let restored;
        let training = match self.training.as_deref() {
            Some(training) => training,
            None => {
                restored = self.restored().unwrap_or_else(|error| {
                    tracing::warn!(%error, "how the model was trained is not kept");
                    None
                });
                let Some(training) = &restored else { return Ok(None) };
                training
            }
        };
        let dialect = self.keras_dialect();
        let optimizer = training.optimizer.clone().for_dialect(dialect)?;
        let names = if archive { StateNames::Paths } else { StateNames::Variables };
        Ok(Some(TrainingState {
            config: training.keras_config(&optimizer, dialect, archive),
            weights: optimizer.state(names)?,
        }))
    }

    /// `training_config` of a topology that is written.
    pub(crate) fn written_training_config(&self) -> Option<Value> {
        let own = || self.training_config.clone().filter(|_| self.training_dialect != Dialect::Tfjs);
        let training = self.training.as_deref();
        training.map(|t| t.keras_config(&t.optimizer, self.dialect, false)).or_else(own)
    }
}

impl Training {
    /// `compile_config` of archives, `training_config` of `.h5` files.
    fn keras_config(&self, optimizer: &Optimizer, dialect: Dialect, archive: bool) -> Value {
        let c = &self.compile;
        let mut config = Map::new();
        let mut optimizer = optimizer.config();
        if !archive && let Some(object) = optimizer.as_object_mut() {
            let legacy = object.get("module").and_then(Value::as_str).is_some_and(|m| m.ends_with("legacy"));
            // What tf_keras registers its optimizers as; a bare name would do as well.
            if dialect == Dialect::Keras2
                && !legacy
                && let Some(class) = object.get_mut("class_name")
            {
                *class = json!(format!("Custom>{}", class.as_str().unwrap_or_default()));
            }
            object.retain(|key, _| key == "class_name" || key == "config");
        }
        // Keras 3 does not read the words that it writes into `.h5` files itself.
        let loss = if dialect == Dialect::Keras3 && !archive { spelled_out(&c.loss) } else { c.loss.clone() };
        let rest = [
            ("loss", loss),
            ("metrics", c.metrics.clone()),
            ("loss_weights", c.loss_weights.clone()),
            ("weighted_metrics", c.weighted_metrics.clone()),
        ];
        if archive {
            config.insert("optimizer".to_owned(), optimizer.clone());
        }
        config.extend(rest.map(|(key, value)| (key.to_owned(), value)));
        if archive || dialect == Dialect::Keras3 {
            config.insert("run_eagerly".to_owned(), json!(false));
            config.insert("steps_per_execution".to_owned(), json!(1));
            config.insert("jit_compile".to_owned(), json!(false));
        }
        if !archive {
            config.insert("optimizer_config".to_owned(), optimizer);
        }
        config.into()
    }

    /// `trainingConfig` as TF.js reads it, and the optimizer as TF.js has it.
    ///
    /// # Errors
    /// When TF.js lacks the optimizer, an option of it, or a loss.
    pub(crate) fn for_tfjs(&self) -> Result<(Value, Optimizer)> {
        let optimizer = self.optimizer.clone().for_dialect(Dialect::Tfjs)?;
        let loss = match &self.compile.loss {
            Value::Array(all) => Value::Array(all.iter().map(tfjs_loss).collect::<Result<_>>()?),
            Value::Object(map) if !map.contains_key("class_name") => {
                let one = |(name, loss): (&String, &Value)| Ok((name.clone(), tfjs_loss(loss)?));
                Value::Object(map.iter().map(one).collect::<Result<_>>()?)
            }
            one => tfjs_loss(one)?,
        };
        for (key, value) in [
            ("loss_weights", &self.compile.loss_weights),
            ("weighted_metrics", &self.compile.weighted_metrics),
        ] {
            let empty = value.as_array().is_some_and(Vec::is_empty);
            if !value.is_null() && !empty {
                return Err(LayersError::Config {
                    key: key.to_owned(),
                    value: value.to_string(),
                    expected: "nothing: TF.js has no such option".to_owned(),
                });
            }
        }
        // A metric that TF.js does not know would keep the model from loading there.
        let known = |m: &&Value| m.as_str().is_some_and(|m| TFJS_METRICS.contains(&m));
        let metrics: Vec<&Value> =
            self.compile.metrics.as_array().into_iter().flatten().filter(known).collect();
        Ok((json!({"loss": loss, "metrics": metrics, "optimizer_config": optimizer.config()}), optimizer))
    }
}

/// Metrics that TF.js finds by their name.
const TFJS_METRICS: &[&str] = &[
    "accuracy",
    "acc",
    "crossentropy",
    "ce",
    "binary_accuracy",
    "categorical_accuracy",
    "precision",
    "categorical_crossentropy",
    "sparse_categorical_crossentropy",
    "mse",
    "MSE",
    "mae",
    "MAE",
    "mape",
    "MAPE",
    "cosine",
];

/// Losses that TF.js finds by their name.
const TFJS_LOSSES: &[&str] = &[
    "mean_squared_error",
    "mean_absolute_error",
    "mean_absolute_percentage_error",
    "mean_squared_logarithmic_error",
    "squared_hinge",
    "hinge",
    "categorical_hinge",
    "logcosh",
    "categorical_crossentropy",
    "sparse_categorical_crossentropy",
    "binary_crossentropy",
    "kullback_leibler_divergence",
    "poisson",
];

/// The name of a loss in TF.js.
fn tfjs_loss(loss: &Value) -> Result<Value> {
    if loss.is_null() {
        return Ok(Value::Null);
    }
    let read = Loss::from_config(loss, Dialect::Keras2)?;
    let name = match read.function_name() {
        "kl_divergence" => "kullback_leibler_divergence",
        "log_cosh" => "logcosh",
        other => other,
    };
    if !TFJS_LOSSES.contains(&name) || !read.is_plain() {
        return Err(LayersError::Config {
            key: "loss".to_owned(),
            value: loss.to_string(),
            expected: "a loss that TF.js has, without options".to_owned(),
        });
    }
    Ok(json!(name))
}

/// Losses given by a word as objects.
fn spelled_out(loss: &Value) -> Value {
    match loss {
        Value::String(_) => {
            let read = Loss::from_config(loss, Dialect::Keras3);
            // Setting an option makes an object of a word.
            read.map_or_else(|_| loss.clone(), |l| l.clone().reduction(l.get_reduction()).config())
        }
        Value::Array(all) => all.iter().map(spelled_out).collect(),
        Value::Object(map) if !map.contains_key("class_name") => {
            Value::Object(map.iter().map(|(name, loss)| (name.clone(), spelled_out(loss))).collect())
        }
        other => other.clone(),
    }
}
