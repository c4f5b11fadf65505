//! The value that a callback watches, and what counts as better.

use super::{Context, Logs, Result};
use crate::{Dialect, LayersError};

/// Whether the value that is watched should become small or large.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// As follows from its name; in Keras 3 from the metric itself.
    #[default]
    Auto,
    /// Smaller is better.
    Min,
    /// Larger is better.
    Max,
}

/// Metrics of which more is better, by Keras 3's classes.
const UP: &[&str] = &[
    "Accuracy",
    "BinaryAccuracy",
    "CategoricalAccuracy",
    "SparseCategoricalAccuracy",
    "TopKCategoricalAccuracy",
    "SparseTopKCategoricalAccuracy",
    "Precision",
    "Recall",
    "SensitivityAtSpecificity",
    "SpecificityAtSensitivity",
    "PrecisionAtRecall",
    "RecallAtPrecision",
    "AUC",
    "IoU",
    "BinaryIoU",
    "MeanIoU",
    "OneHotIoU",
    "OneHotMeanIoU",
    "FBetaScore",
    "F1Score",
    "CosineSimilarity",
    "R2Score",
    "PearsonCorrelation",
    "ConcordanceCorrelation",
];

/// Metrics that are neither good nor bad in themselves.
const NEITHER: &[&str] =
    &["TruePositives", "TrueNegatives", "FalsePositives", "FalseNegatives", "Mean", "Sum", "MeanTensor"];

/// Which of Keras 2's callbacks asks: each reads names in its own way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asks {
    EarlyStopping,
    ModelCheckpoint,
    ReduceLrOnPlateau,
}

/// A value with its best so far.
#[derive(Clone, Debug)]
pub(super) struct Monitor {
    /// The class of the callback, for messages.
    asks: Asks,
    dialect: Dialect,
    /// Larger is better; known after the first epoch.
    up: Option<bool>,
    /// The smallest change that counts.
    min_delta: f64,
    pub(super) best: Option<f64>,
}

impl Monitor {
    pub(super) fn new(asks: Asks, min_delta: f64) -> Monitor {
        Monitor { asks, dialect: Dialect::default(), up: None, min_delta, best: None }
    }

    /// The value in an epoch's logs; `None` with a warning when it was not measured. Finds out what is better.
    pub(super) fn current(
        &mut self,
        cx: &Context<'_>,
        name: &str,
        mode: Mode,
        logs: &Logs,
    ) -> Result<Option<f64>> {
        self.dialect = cx.model.dialect();
        if self.up.is_none() {
            self.up = Some(match mode {
                Mode::Min => false,
                Mode::Max => true,
                Mode::Auto => self.direction(cx, name)?,
            });
        }
        let value = logs.get(name);
        if value.is_none() {
            let known: Vec<&str> = logs.iter().map(|(n, _)| n).collect();
            tracing::warn!(
                "`{name}`, which {} watches, is not measured; measured are {}",
                self.class(),
                known.join(", ")
            );
        }
        Ok(value)
    }

    fn class(&self) -> &'static str {
        match self.asks {
            Asks::EarlyStopping => "EarlyStopping",
            Asks::ModelCheckpoint => "ModelCheckpoint",
            Asks::ReduceLrOnPlateau => "ReduceLROnPlateau",
        }
    }

    /// Whether more is better, as the model's Keras finds out.
    fn direction(&self, cx: &Context<'_>, name: &str) -> Result<bool> {
        let own = name.strip_prefix("val_").unwrap_or(name);
        if self.dialect != Dialect::Keras3 {
            let ends = |suffixes: &[&str]| suffixes.iter().any(|s| name.ends_with(s));
            return Ok(match self.asks {
                Asks::EarlyStopping if self.dialect == Dialect::Tfjs => name.contains("acc"),
                Asks::EarlyStopping => ends(&["acc", "accuracy", "auc"]),
                Asks::ModelCheckpoint => name.contains("acc") || name.starts_with("fmeasure"),
                Asks::ReduceLrOnPlateau => name.contains("acc"),
            });
        }
        if own == "loss" || (own.ends_with("_loss") && cx.metric(own).is_none()) {
            return Ok(false);
        }
        let class = cx.metric(own).map(|m| m.class_name());
        match class {
            Some(class) if UP.contains(&class) => Ok(true),
            Some(class) if !NEITHER.contains(&class) => Ok(false),
            _ => Err(LayersError::Training(format!(
                "{} watches `{name}`, and it is not known whether that should be large or small; give the mode `min` or `max`",
                self.class()
            ))),
        }
    }

    /// Whether a value is better than another one: Keras 3 compares in single precision.
    pub(super) fn improves(&self, value: f64, than: Option<f64>) -> bool {
        let up = self.up.unwrap_or(false);
        let than = match than {
            Some(than) => than,
            // In Keras 3 whatever comes first is the best so far, in Keras 2 every number is better than nothing.
            None if self.dialect == Dialect::Keras3 => return true,
            None if up => f64::NEG_INFINITY,
            None => f64::INFINITY,
        };
        let delta = if up { self.min_delta } else { -self.min_delta };
        let (value, than) = if self.dialect == Dialect::Keras3 {
            (f64::from((value - delta) as f32), f64::from(than as f32))
        } else if self.asks == Asks::ReduceLrOnPlateau {
            (value, than + delta)
        } else {
            (value - delta, than)
        };
        if up { value > than } else { value < than }
    }

    /// Whether a value is the best so far, which it then is.
    pub(super) fn improve(&mut self, value: f64) -> bool {
        let better = self.improves(value, self.best);
        if better {
            self.best = Some(value);
        }
        better
    }

    pub(super) fn reset(&mut self, best: Option<f64>) {
        self.best = best;
    }
}
