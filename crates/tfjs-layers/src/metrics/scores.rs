//! F-scores, R², correlations, and plain means and sums of predictions.
#![allow(non_upper_case_globals, reason = "metrics are named as Keras's classes are")]

use tfjs_graph::Port;
use tfjs_kernels::DType;

use super::{Batch, Def, Kind, Metric, Result, ratio, spread};
use crate::{
    Emit, LayersError,
    losses::{EPSILON, count, match_labels, match_weights, over_all},
    options::Default,
};

metrics! {
    /// Harmonic mean of precision and recall per class; `average` is micro, macro, weighted or none.
    F1Score {
        name: None, aliases: [], options: [("average", Default::None), ("threshold", Default::None)],
        State { update: f_counts, result: f_score }
    }
    /// As [`Metric::F1Score`], with recall counting `beta` times as much as precision.
    FBetaScore {
        name: Some(["fbeta_score", "fbeta_score"]), aliases: [], options: [
            ("average", Default::None), ("beta", Default::Float(1.0)), ("threshold", Default::None),
        ],
        State { update: f_counts, result: f_score }
    }
    /// Share of the variance that is explained.
    R2Score {
        name: None, aliases: [], options: [
            ("class_aggregation", Default::Text("uniform_average")), ("num_regressors", Default::Int(0)),
        ],
        State { update: r2_sums, result: r2 }
    }
    /// Pearson's correlation along `axis` (−1); the mean over samples.
    PearsonCorrelation {
        name: None, aliases: [], options: [("axis", Default::Int(-1))],
        Mean(|g, m, y, p| {
            let axis = g.axis(p, m.options.int("axis")?)?;
            let normal = |g: &mut Emit, x: Port| {
                let x = centred(g, x, axis)?;
                let variance = variance(g, x, axis)?;
                let deviation = g.unary("Sqrt", variance)?;
                g.div(x, deviation)
            };
            let y = g.cast(y, DType::Float32)?;
            let (y, p) = (normal(g, y)?, normal(g, p)?);
            let product = g.mul(y, p)?;
            Ok(g.reduce("Mean", product, &[axis], false)?.into())
        })
    }
    /// Lin's concordance along `axis` (−1), as Keras computes it; the mean over samples.
    ConcordanceCorrelation {
        name: None, aliases: [], options: [("axis", Default::Int(-1))],
        Mean(|g, m, y, p| {
            let axis = g.axis(p, m.options.int("axis")?)?;
            let y = g.cast(y, DType::Float32)?;
            let (mean_y, mean_p) = (g.reduce("Mean", y, &[axis], true)?, g.reduce("Mean", p, &[axis], true)?);
            let (own_y, own_p) = (g.sub(y, mean_y)?, g.sub(p, mean_p)?);
            let (var_y, var_p) = (variance(g, own_y, axis)?, variance(g, own_p, axis)?);
            // From the mean of the predictions, in both.
            let from_p = g.sub(y, mean_p)?;
            let product = g.mul(from_p, own_p)?;
            let twice = g.scale(product, 2.0)?;
            let apart = g.op("SquaredDifference", &[mean_y, mean_p], &[])?;
            let norm = g.add(var_y, var_p)?;
            let norm = g.add(norm, apart)?;
            let norm = g.offset(norm, EPSILON)?;
            let values = g.div(twice, norm)?;
            Ok(g.reduce("Mean", values, &[axis], false)?.into())
        })
    }
    /// Mean of the predictions.
    Mean { name: None, aliases: [], options: [], Mean(|_, _, _, p| Ok(p.into())) }
    /// Sum of the predictions.
    Sum {
        name: None, aliases: [], options: [],
        State {
            update: |g, _, b| {
                let values = weighted(g, b)?.0;
                Ok(vec![over_all(g, "Sum", values)?])
            },
            result: |_, totals| totals.first().cloned().ok_or_else(super::foreign)
        }
    }
    /// Mean of the predictions, number by number: all batches have one shape.
    MeanTensor {
        name: None, aliases: [], options: [("shape", Default::None)],
        State {
            update: |g, _, b| {
                let (values, weight) = weighted(g, b)?;
                Ok(vec![values, weight])
            },
            result: |_, totals| match totals {
                [total, count] => Ok(super::ratios(total, count)),
                _ => Err(super::foreign()),
            }
        }
    }
}

/// Predictions times weights, and the weights.
fn weighted(g: &mut Emit, batch: Batch) -> Result<(Port, Port)> {
    let p = batch.y_pred;
    match batch.weight {
        Some(w) => {
            let (p, w) = match_weights(g, p, w)?;
            let w = spread(g, w, p)?;
            Ok((g.mul(p, w)?, w))
        }
        None => Ok((p, g.unary("OnesLike", p)?)),
    }
}

fn centred(g: &mut Emit, x: Port, axis: usize) -> Result<Port> {
    let mean = g.reduce("Mean", x, &[axis], true)?;
    g.sub(x, mean)
}

fn variance(g: &mut Emit, x: Port, axis: usize) -> Result<Port> {
    let x = centred(g, x, axis)?;
    let square = g.unary("Square", x)?;
    g.reduce("Mean", square, &[axis], true)
}

/// Labels and predictions (batch, outputs).
fn matrices(g: &mut Emit, batch: Batch) -> Result<(Port, Port)> {
    let y = g.cast(batch.y_true, DType::Float32)?;
    let (y, p) = match_labels(g, y, batch.y_pred)?;
    if g.rank(y)? != 2 || g.rank(p)? != 2 {
        let problem =
            format!("it takes labels and predictions (batch, outputs), not {} and {}", g.fact(y), g.fact(p));
        return Err(LayersError::Inputs(problem));
    }
    Ok((y, p))
}

/// Weights of samples as a column.
fn column(g: &mut Emit, weight: Port) -> Result<Port> {
    if g.rank(weight)? == 1 { g.expand_dims(weight, 1) } else { Ok(weight) }
}

fn f_counts(g: &mut Emit, m: &Metric, batch: Batch) -> Result<Vec<Port>> {
    let (y, p) = matrices(g, batch)?;
    let positive = match m.options.floats("threshold")?.as_deref() {
        None => {
            let max = g.reduce("Max", p, &[1], true)?;
            let largest = g.op("GreaterEqual", &[p, max], &[])?;
            let (size, tiny) = (g.unary("Abs", p)?, g.scalar(1e-9));
            let is_some = g.op("Greater", &[size, tiny], &[])?;
            g.op("LogicalAnd", &[largest, is_some], &[])?
        }
        Some(&[t]) if t > 0.0 && t <= 1.0 => {
            let threshold = g.scalar(t as f32);
            g.op("Greater", &[p, threshold], &[])?
        }
        Some(_) => return Err(m.options.wrong("threshold", "a number greater than 0, at most 1")),
    };
    average(m)?;
    let p = g.cast(positive, DType::Float32)?;
    let one = g.scalar(1.0);
    let (not_y, not_p) = (g.sub(one, y)?, g.sub(one, p)?);
    let (tp, fp, missed) = (g.mul(p, y)?, g.mul(p, not_y)?, g.mul(not_p, y)?);
    let weight = batch.weight.map(|w| column(g, w)).transpose()?;
    [tp, fp, missed, y]
        .into_iter()
        .map(|x| {
            let x = weight.map_or(Ok(x), |w| g.mul(x, w))?;
            if average(m)? == Some("micro") { over_all(g, "Sum", x) } else { g.reduce("Sum", x, &[0], false) }
        })
        .collect()
}

fn average(m: &Metric) -> Result<Option<&'static str>> {
    if m.options.is_set("average") {
        m.options.word("average", &["micro", "macro", "weighted"]).map(Some)
    } else {
        Ok(None)
    }
}

fn f_score(m: &Metric, totals: &[Vec<f64>]) -> Result<Vec<f64>> {
    let [tp, fp, missed, weights] = totals else { return Err(super::foreign()) };
    let beta = if m.def.class == "F1Score" { 1.0 } else { m.options.float("beta")? };
    if beta.is_nan() || beta <= 0.0 {
        return Err(m.options.wrong("beta", "a positive number"));
    }
    let score = |((&tp, &fp), &missed): ((&f64, &f64), &f64)| {
        let (precision, recall) = (ratio(tp, tp + fp), ratio(tp, tp + missed));
        ratio(precision * recall, beta * beta * precision + recall) * (1.0 + beta * beta)
    };
    let scores: Vec<f64> = tp.iter().zip(fp).zip(missed).map(score).collect();
    Ok(match average(m)? {
        None => scores,
        Some("weighted") => {
            let sum: f64 = scores.iter().zip(weights).map(|(s, w)| s * w).sum();
            vec![ratio(sum, weights.iter().sum())]
        }
        Some(_) => vec![ratio(scores.iter().sum(), scores.len() as f64)],
    })
}

/// Number of labels; then per output the sums of labels, their squares and squared errors, and of weights.
fn r2_sums(g: &mut Emit, m: &Metric, batch: Batch) -> Result<Vec<Port>> {
    aggregation(m)?;
    let (y, p) = matrices(g, batch)?;
    let weight = match batch.weight {
        Some(w) => column(g, w)?,
        None => g.scalar(1.0),
    };
    let weight = spread(g, weight, y)?;
    let labels = g.mul(y, weight)?;
    let squares = g.mul(y, labels)?;
    let errors = g.op("SquaredDifference", &[y, p], &[])?;
    let errors = g.mul(errors, weight)?;
    let mut out = vec![count(g, y)?];
    for x in [labels, squares, errors, weight] {
        out.push(g.reduce("Sum", x, &[0], false)?);
    }
    Ok(out)
}

fn aggregation(m: &Metric) -> Result<Option<&'static str>> {
    if m.options.value("class_aggregation").is_null() {
        return Ok(None);
    }
    m.options.word("class_aggregation", &["uniform_average", "variance_weighted_average"]).map(Some)
}

fn r2(m: &Metric, totals: &[Vec<f64>]) -> Result<Vec<f64>> {
    let [number, sums, squares, errors, counts] = totals else { return Err(super::foreign()) };
    let [number] = number.as_slice() else { return Err(super::foreign()) };
    let totals: Vec<f64> =
        sums.iter().zip(squares).zip(counts).map(|((&s, &q), &c)| q - s * (s / c)).collect();
    let raw = errors.iter().zip(&totals).map(|(e, t)| 1.0 - e / t);
    let raw: Vec<f64> = raw.map(|r| if r.is_infinite() { 0.0 } else { r }).collect();
    let mut scores = match aggregation(m)? {
        None => raw,
        Some("uniform_average") => vec![raw.iter().sum::<f64>() / raw.len().max(1) as f64],
        Some(_) => {
            let weighted: f64 = raw.iter().zip(&totals).map(|(r, t)| r * t).sum();
            vec![weighted / totals.iter().sum::<f64>()]
        }
    };
    let regressors = m.options.int("num_regressors")? as f64;
    // Otherwise there are too few labels to adjust by.
    if regressors != 0.0 && regressors < number - 1.0 {
        for score in &mut scores {
            *score = 1.0 - (1.0 - *score) * (number - 1.0) / (number - regressors - 1.0);
        }
    }
    Ok(scores)
}
