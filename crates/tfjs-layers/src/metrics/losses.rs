//! Metrics that are means of losses.
#![allow(non_upper_case_globals, reason = "metrics are named as Keras's classes are")]

use tfjs_graph::Port;
use tfjs_kernels::DType;

use super::{Def, Kind, Metric, Result};
use crate::{
    Emit,
    losses::{self, Values},
    options::{Default, Options},
};

/// The loss of the metric's class.
fn of_class(g: &mut Emit, metric: &Metric, y: Port, p: Port) -> Result<Values> {
    named(g, metric, metric.def.class, y, p)
}

/// A loss with the options of the metric.
fn named(g: &mut Emit, metric: &Metric, loss: &str, y: Port, p: Port) -> Result<Values> {
    let def = losses::find(loss)?;
    let mut options = Options::new(def.options);
    for (key, _) in metric.options.defaults() {
        if metric.options.is_set(key) {
            options.set(key, &metric.options.value(key))?;
        }
    }
    losses::values_of(g, def, &options, y, p)
}

/// Any other loss.
pub(super) static ANY: Def = Def {
    class: "MeanMetricWrapper",
    name: None,
    aliases: &[],
    options: &[],
    kind: Kind::Mean(|g, m, y, p| match &m.loss {
        Some(loss) => loss.masked_values(g, y, p),
        None => Err(super::foreign()),
    }),
};

metrics! {
    /// Mean of (y − p)².
    MeanSquaredError { name: None, aliases: ["mse"], options: [], Mean(of_class) }
    /// Mean of |y − p|.
    MeanAbsoluteError { name: None, aliases: ["mae"], options: [], Mean(of_class) }
    /// Mean of 100 · |y − p| / |y|.
    MeanAbsolutePercentageError { name: None, aliases: ["mape"], options: [], Mean(of_class) }
    /// Mean of (log(y + 1) − log(p + 1))².
    MeanSquaredLogarithmicError { name: None, aliases: ["msle"], options: [], Mean(of_class) }
    /// Mean of log(cosh(p − y)).
    LogCoshError {
        name: Some(["logcosh", "logcosh"]), aliases: ["log_cosh"], options: [],
        Mean(|g, m, y, p| named(g, m, "LogCosh", y, p))
    }
    /// Mean of Σ y · log(y / p).
    KLDivergence {
        name: Some(["kullback_leibler_divergence", "kl_divergence"]), aliases: ["kld"], options: [], Mean(of_class)
    }
    /// Mean of p − y · log p.
    Poisson { name: None, aliases: [], options: [], Mean(of_class) }
    /// Mean of max(1 − y·p, 0).
    Hinge { name: None, aliases: [], options: [], Mean(of_class) }
    /// Mean of max(1 − y·p, 0)².
    SquaredHinge { name: None, aliases: [], options: [], Mean(of_class) }
    /// Mean of max(max((1 − y)·p) − Σ y·p + 1, 0).
    CategoricalHinge { name: None, aliases: [], options: [], Mean(of_class) }
    /// Mean binary crossentropy.
    BinaryCrossentropy {
        name: None, aliases: ["bce"],
        options: [("from_logits", Default::Bool(false)), ("label_smoothing", Default::Float(0.0))], Mean(of_class)
    }
    /// Mean crossentropy of one-hot classes.
    CategoricalCrossentropy {
        name: None, aliases: [],
        options: [
            ("from_logits", Default::Bool(false)),
            ("label_smoothing", Default::Float(0.0)),
            ("axis", Default::Int(-1)),
        ],
        Mean(of_class)
    }
    /// Mean crossentropy of classes by number.
    SparseCategoricalCrossentropy {
        name: None, aliases: [],
        options: [
            ("from_logits", Default::Bool(false)),
            ("ignore_class", Default::None),
            ("axis", Default::Int(-1)),
        ],
        Mean(of_class)
    }
    /// Mean of Σ y/‖y‖ · p/‖p‖: 1 for the same direction, where the loss is −1.
    CosineSimilarity {
        name: None, aliases: ["cosine_proximity", "cosine"], options: [("axis", Default::Int(-1))],
        Mean(|g, m, y, p| {
            let y = g.cast(y, DType::Float32)?;
            Ok(losses::cosine(g, &m.options, y, p)?.into())
        })
    }
    /// Root of the mean of (y − p)².
    RootMeanSquaredError {
        name: None, aliases: ["rmse"], options: [],
        RootMean(|g, _, y, p| {
            let y = g.cast(y, DType::Float32)?;
            Ok(g.op("SquaredDifference", &[p, y], &[])?.into())
        })
    }
    /// Mean of |y − p| / `normalizer`.
    MeanRelativeError {
        name: None, aliases: [], options: [("normalizer", Default::None)],
        Mean(|g, m, y, p| {
            let missing = || m.options.wrong("normalizer", "a number or a list of numbers");
            let by: Vec<f32> =
                m.options.floats("normalizer")?.ok_or_else(missing)?.into_iter().map(|x| x as f32).collect();
            let y = g.cast(y, DType::Float32)?;
            let difference = g.sub(y, p)?;
            let distance = g.unary("Abs", difference)?;
            let by = if let [one] = by.as_slice() { g.scalar(*one) } else { g.floats(&by) };
            Ok(g.op("DivNoNan", &[distance, by], &[])?.into())
        })
    }
}
