//! All losses: a row each.
#![allow(non_upper_case_globals, reason = "losses are named as Keras's classes are")]

use tfjs_graph::{Fact, Port, builder::attr};

use super::{
    Def, EPSILON, Labels, Loss, Result, Values, crossentropy,
    similarity::{circle, cosine, ctc, dice, tversky},
};
use crate::{
    Emit,
    activations::clip,
    options::{self, Default},
};

macro_rules! losses {
    ($($(#[$doc:meta])* $class:ident { $name:literal, $function:literal, $aliases:expr, $labels:ident, $options:expr,
        $values:expr })*) => {
        $(static $class: Def = Def {
            class: stringify!($class),
            name: $name,
            function: $function,
            aliases: &$aliases,
            options: &$options,
            labels: Labels::$labels,
            values: $values,
        };)*

        impl Loss {
            $($(#[$doc])* pub const $class: Loss = Loss::of(&$class);)*
        }

        /// All of them.
        pub(crate) static LOSSES: &[&Def] = &[$(&$class),*];
    };
}

losses! {
    /// mean((y − p)²)
    MeanSquaredError { "mean_squared_error", "mean_squared_error", ["mse"], Numbers, [], |g, _, y, p| {
        let square = g.op("SquaredDifference", &[p, y], &[])?;
        mean(g, square)
    }}
    /// mean(|y − p|)
    MeanAbsoluteError { "mean_absolute_error", "mean_absolute_error", ["mae"], Numbers, [], |g, _, y, p| {
        let difference = g.sub(p, y)?;
        let distance = g.unary("Abs", difference)?;
        mean(g, distance)
    }}
    /// 100 · mean(|y − p| / max(|y|, ε))
    MeanAbsolutePercentageError {
        "mean_absolute_percentage_error", "mean_absolute_percentage_error", ["mape"], Numbers, [], |g, _, y, p| {
        let difference = g.sub(y, p)?;
        let size = g.unary("Abs", y)?;
        let size = at_least(g, size, EPSILON)?;
        let ratio = g.div(difference, size)?;
        let ratio = g.unary("Abs", ratio)?;
        let mean = last(g, "Mean", ratio)?;
        Ok(g.scale(mean, 100.0)?.into())
    }}
    /// mean((log(max(y, ε) + 1) − log(max(p, ε) + 1))²)
    MeanSquaredLogarithmicError {
        "mean_squared_logarithmic_error", "mean_squared_logarithmic_error", ["msle"], Numbers, [], |g, _, y, p| {
        let log = |g: &mut Emit, x| {
            let x = at_least(g, x, EPSILON)?;
            let x = g.offset(x, 1.0)?;
            g.unary("Log", x)
        };
        let (p, y) = (log(g, p)?, log(g, y)?);
        let square = g.op("SquaredDifference", &[p, y], &[])?;
        mean(g, square)
    }}
    /// (p − y)² / 2 up to `delta` (1), a line of slope `delta` beyond; the mean.
    Huber { "huber_loss", "huber", [], Numbers, [("delta", Default::Float(1.0))], |g, o, y, p| {
        let delta = o.float("delta")? as f32;
        let error = g.sub(p, y)?;
        let distance = g.unary("Abs", error)?;
        let square = g.unary("Square", error)?;
        let near = g.scale(square, 0.5)?;
        let line = g.scale(distance, delta)?;
        let far = g.offset(line, -0.5 * delta * delta)?;
        let bound = g.scalar(delta);
        let is_near = g.op("LessEqual", &[distance, bound], &[])?;
        let values = g.select(is_near, near, far)?;
        mean(g, values)
    }}
    /// mean(log(cosh(p − y)))
    LogCosh { "log_cosh", "log_cosh", ["log_cosh_error"], Numbers, [], |g, _, y, p| {
        let x = g.sub(p, y)?;
        let twice = g.scale(x, -2.0)?;
        let plus = g.unary("Softplus", twice)?;
        let sum = g.add(x, plus)?;
        let values = g.offset(sum, -std::f32::consts::LN_2)?;
        mean(g, values)
    }}
    /// −Σ y/‖y‖ · p/‖p‖ along `axis` (−1)
    CosineSimilarity {
        "cosine_similarity", "cosine_similarity", ["cosine_proximity", "cosine"], Numbers,
        [("axis", Default::Int(-1))], |g, o, y, p| {
        let similarity = cosine(g, o, y, p)?;
        Ok(g.unary("Neg", similarity)?.into())
    }}
    /// mean(max(1 − y·p, 0)); labels 0 and 1 become −1 and 1.
    Hinge { "hinge", "hinge", [], Numbers, [], |g, _, y, p| {
        let margin = hinge(g, y, p)?;
        mean(g, margin)
    }}
    /// mean(max(1 − y·p, 0)²); labels 0 and 1 become −1 and 1.
    SquaredHinge { "squared_hinge", "squared_hinge", [], Numbers, [], |g, _, y, p| {
        let margin = hinge(g, y, p)?;
        let square = g.unary("Square", margin)?;
        mean(g, square)
    }}
    /// max(max((1 − y)·p) − Σ y·p + 1, 0)
    CategoricalHinge { "categorical_hinge", "categorical_hinge", [], Numbers, [], |g, _, y, p| {
        let product = g.mul(y, p)?;
        let positive = last(g, "Sum", product)?;
        let one = g.scalar(1.0);
        let others = g.sub(one, y)?;
        let others = g.mul(others, p)?;
        let negative = last(g, "Max", others)?;
        let margin = g.sub(negative, positive)?;
        let margin = g.offset(margin, 1.0)?;
        Ok(at_least(g, margin, 0.0)?.into())
    }}
    /// Σ y · log(y / p), both at least ε and at most 1.
    KLDivergence {
        "kl_divergence", "kl_divergence", ["kld", "kullback_leibler_divergence"], Numbers, [], |g, _, y, p| {
        let (y, p) = (clip(g, y, EPSILON, 1.0)?, clip(g, p, EPSILON, 1.0)?);
        let ratio = g.div(y, p)?;
        let log = g.unary("Log", ratio)?;
        let product = g.mul(y, log)?;
        Ok(last(g, "Sum", product)?.into())
    }}
    /// mean(p − y · log(p + ε))
    Poisson { "poisson", "poisson", [], Numbers, [], |g, _, y, p| {
        let inside = g.offset(p, EPSILON)?;
        let log = g.unary("Log", inside)?;
        let product = g.mul(y, log)?;
        let values = g.sub(p, product)?;
        mean(g, values)
    }}
    /// −mean(y · log p + (1 − y) · log(1 − p)) along `axis`
    BinaryCrossentropy { "binary_crossentropy", "binary_crossentropy", ["bce"], Alike, [
        ("from_logits", Default::Bool(false)),
        ("label_smoothing", Default::Float(0.0)),
        ("axis", Default::Int(-1)),
    ], crossentropy::binary }
    /// Binary crossentropy times (1 − probability of the true class)^`gamma`.
    BinaryFocalCrossentropy { "binary_focal_crossentropy", "binary_focal_crossentropy", [], Alike, [
        ("from_logits", Default::Bool(false)),
        ("label_smoothing", Default::Float(0.0)),
        ("axis", Default::Int(-1)),
        ("apply_class_balancing", Default::Bool(false)),
        ("alpha", Default::Float(0.25)),
        ("gamma", Default::Float(2.0)),
    ], crossentropy::binary_focal }
    /// −Σ y · log p along `axis`, for one-hot classes
    CategoricalCrossentropy { "categorical_crossentropy", "categorical_crossentropy", ["cce"], Alike, [
        ("from_logits", Default::Bool(false)),
        ("label_smoothing", Default::Float(0.0)),
        ("axis", Default::Int(-1)),
    ], crossentropy::categorical }
    /// −Σ `alpha` · (1 − p)^`gamma` · y · log p
    CategoricalFocalCrossentropy {
        "categorical_focal_crossentropy", "categorical_focal_crossentropy", [], Alike, [
        ("from_logits", Default::Bool(false)),
        ("label_smoothing", Default::Float(0.0)),
        ("axis", Default::Int(-1)),
        ("alpha", Default::Float(0.25)),
        ("gamma", Default::Float(2.0)),
    ], crossentropy::categorical_focal }
    /// −log of the probability of the class that the label names; rows of `ignore_class` do not count.
    SparseCategoricalCrossentropy {
        "sparse_categorical_crossentropy", "sparse_categorical_crossentropy", [], Classes, [
        ("from_logits", Default::Bool(false)),
        ("ignore_class", Default::None),
        ("axis", Default::Int(-1)),
    ], crossentropy::sparse }
    /// (1 − p^`q`) / q, p the probability of the class that the label names
    CategoricalGeneralizedCrossEntropy {
        "categorical_generalized_cross_entropy", "categorical_generalized_cross_entropy", [], Classes, [
        ("q", Default::Float(0.5)),
    ], crossentropy::generalized }
    /// 1 − 2 Σ y·p / (Σ y + Σ p + ε) over `axis`, or everything
    Dice { "dice", "dice", [], Numbers, [("axis", Default::None)], dice }
    /// 1 − Σ y·p / (Σ y·p + `alpha` Σ (1 − p)·y + `beta` Σ p·(1 − y) + ε) over `axis`, or everything
    Tversky { "tversky", "tversky", [], Numbers, [
        ("alpha", Default::Float(0.5)),
        ("beta", Default::Float(0.5)),
        ("axis", Default::None),
    ], tversky }
    /// Circle loss of the normalised embeddings of a batch, by their labels
    Circle { "circle", "circle", [], Groups, [
        ("gamma", Default::Float(80.0)),
        ("margin", Default::Float(0.4)),
        ("remove_diagonal", Default::Bool(true)),
    ], circle }
    /// Connectionist temporal classification: labels (batch, length) padded with 0, logits (batch, steps, classes), of
    /// which class 0 is the blank
    CTC { "ctc", "ctc", [], Sequences, [], ctc }
}

/// `crossentropy`, `ce` of Keras 3: the one that fits the output.
static ANY_CROSSENTROPY: Def = Def {
    class: "Crossentropy",
    name: "crossentropy",
    function: "crossentropy",
    aliases: &["ce"],
    options: CategoricalCrossentropy.options,
    labels: Labels::Any,
    values: crossentropy::categorical,
};

/// What a number of classes and labels ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Task {
    Binary,
    Sparse,
    Categorical,
}

/// Keras's rule: one number is predicted; labels have a smaller rank or one number for several; or neither.
pub(crate) fn task(y_true: &Fact, y_pred: &Fact) -> Task {
    let (t, p) = (y_true.shape.as_deref().unwrap_or(&[]), y_pred.shape.as_deref().unwrap_or(&[]));
    match (t.last().copied().flatten(), p.last().copied().flatten()) {
        (_, Some(1)) => Task::Binary,
        _ if t.len() < p.len() => Task::Sparse,
        (Some(1), _) => Task::Sparse,
        _ => Task::Categorical,
    }
}

/// The crossentropy that fits labels and predictions.
pub(crate) fn crossentropy_for(y_true: &Fact, y_pred: &Fact) -> &'static Def {
    match task(y_true, y_pred) {
        Task::Binary => &BinaryCrossentropy,
        Task::Sparse => &SparseCategoricalCrossentropy,
        Task::Categorical => &CategoricalCrossentropy,
    }
}

/// The loss of a name.
///
/// # Errors
/// When there is none.
pub(crate) fn find(name: &str) -> Result<&'static Def> {
    let wanted = options::folded(name);
    let is = |def: &Def| {
        let names = [def.class, def.name, def.function];
        names.iter().chain(def.aliases).any(|n| options::folded(n) == wanted)
    };
    LOSSES.iter().copied().chain([&ANY_CROSSENTROPY]).find(|def| is(def)).ok_or_else(|| {
        let known =
            LOSSES.iter().flat_map(|def| std::iter::once(def.function).chain(def.aliases.iter().copied()));
        options::unknown("loss", name, known.collect())
    })
}

/// A reduction over the last axis.
pub(super) fn last(g: &mut Emit, op: &str, x: Port) -> Result<Port> {
    let axis = g.axis(x, -1)?;
    g.reduce(op, x, &[axis], false)
}

pub(super) fn mean(g: &mut Emit, x: Port) -> Result<Values> {
    Ok(last(g, "Mean", x)?.into())
}

pub(super) fn at_least(g: &mut Emit, x: Port, low: f32) -> Result<Port> {
    let low = g.scalar(low);
    g.op("Maximum", &[x, low], &[])
}

/// max(1 − y·p, 0)
fn hinge(g: &mut Emit, y: Port, p: Port) -> Result<Port> {
    let (zero, one) = (g.scalar(0.0), g.scalar(1.0));
    let equal = |g: &mut Emit, to| g.op("Equal", &[y, to], &[("incompatible_shape_error", attr::bool(true))]);
    let (zeros, ones) = (equal(g, zero)?, equal(g, one)?);
    let either = g.op("LogicalOr", &[zeros, ones], &[])?;
    let is_binary = super::over_all(g, "All", either)?;
    let signs = g.scale(y, 2.0)?;
    let signs = g.offset(signs, -1.0)?;
    let y = g.select(is_binary, signs, y)?;
    let product = g.mul(y, p)?;
    let margin = g.sub(one, product)?;
    at_least(g, margin, 0.0)
}
