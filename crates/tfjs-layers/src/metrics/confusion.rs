//! Metrics of right and wrong positives and negatives at thresholds.
#![allow(non_upper_case_globals, reason = "metrics are named as Keras's classes are")]

use tfjs_graph::{Port, builder::attr};
use tfjs_kernels::{DType, Tensor};

use super::{Batch, Def, Kind, Metric, Result, ratio, ratios, spread};
use crate::{
    Dialect, Emit, LayersError,
    activations::clip,
    emit::Dim,
    losses::{EPSILON, match_labels, match_weights},
    options::Default,
};

/// What is counted: of which labels, and whether they are predicted as positive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Count {
    TruePositives,
    FalsePositives,
    TrueNegatives,
    FalseNegatives,
}

use Count::{FalseNegatives as Fn, FalsePositives as Fp, TrueNegatives as Tn, TruePositives as Tp};

const ALL: [Count; 4] = [Tp, Fp, Tn, Fn];

/// Stands for −∞ where predictions beyond the first k do not count.
const LOWEST: f32 = -1e10;

const AT_THRESHOLDS: (&str, Default) = ("thresholds", Default::None);
const THRESHOLDS: (&str, Default) = ("num_thresholds", Default::Int(200));
const CLASS: (&str, Default) = ("class_id", Default::None);

metrics! {
    /// Number of positives found, at `thresholds` (0.5).
    TruePositives { name: None, aliases: [], options: [AT_THRESHOLDS], State {
        update: |g, m, b| counts(g, &Counting::at_thresholds(m)?, b, &[Tp]), result: first }}
    /// Number of negatives taken for positives, at `thresholds` (0.5).
    FalsePositives { name: None, aliases: [], options: [AT_THRESHOLDS], State {
        update: |g, m, b| counts(g, &Counting::at_thresholds(m)?, b, &[Fp]), result: first }}
    /// Number of negatives found, at `thresholds` (0.5).
    TrueNegatives { name: None, aliases: [], options: [AT_THRESHOLDS], State {
        update: |g, m, b| counts(g, &Counting::at_thresholds(m)?, b, &[Tn]), result: first }}
    /// Number of positives missed, at `thresholds` (0.5).
    FalseNegatives { name: None, aliases: [], options: [AT_THRESHOLDS], State {
        update: |g, m, b| counts(g, &Counting::at_thresholds(m)?, b, &[Fn]), result: first }}
    /// Share of right ones among what is predicted as positive, at `thresholds` (0.5), or among the `top_k`; of `class_id`.
    Precision { name: None, aliases: [], options: [AT_THRESHOLDS, ("top_k", Default::None), CLASS], State {
        update: |g, m, b| counts(g, &Counting::at_thresholds(m)?, b, &[Tp, Fp]), result: share }}
    /// Share of positives that are found, at `thresholds` (0.5), or among the `top_k`; of `class_id`.
    Recall { name: None, aliases: [], options: [AT_THRESHOLDS, ("top_k", Default::None), CLASS], State {
        update: |g, m, b| counts(g, &Counting::at_thresholds(m)?, b, &[Tp, Fn]), result: share }}
    /// Best sensitivity where specificity is at least `specificity`.
    SensitivityAtSpecificity {
        name: None, aliases: [], options: [("specificity", Default::None), THRESHOLDS, CLASS], State {
        update: |g, m, b| counts(g, &Counting::evenly(m, "specificity")?, b, &ALL),
        result: |m, t| best(m, "specificity", t, |s| (s.specificity(), s.recall())) }}
    /// Best specificity where sensitivity is at least `sensitivity`.
    SpecificityAtSensitivity {
        name: None, aliases: [], options: [("sensitivity", Default::None), THRESHOLDS, CLASS], State {
        update: |g, m, b| counts(g, &Counting::evenly(m, "sensitivity")?, b, &ALL),
        result: |m, t| best(m, "sensitivity", t, |s| (s.recall(), s.specificity())) }}
    /// Best precision where recall is at least `recall`.
    PrecisionAtRecall { name: None, aliases: [], options: [("recall", Default::None), THRESHOLDS, CLASS], State {
        update: |g, m, b| counts(g, &Counting::evenly(m, "recall")?, b, &ALL),
        result: |m, t| best(m, "recall", t, |s| (s.recall(), s.precision())) }}
    /// Best recall where precision is at least `precision`.
    RecallAtPrecision { name: None, aliases: [], options: [("precision", Default::None), THRESHOLDS, CLASS], State {
        update: |g, m, b| counts(g, &Counting::evenly(m, "precision")?, b, &ALL),
        result: |m, t| best(m, "precision", t, |s| (s.precision(), s.recall())) }}
    /// Area under the ROC or PR curve, or that of their gains.
    AUC { name: None, aliases: [], options: [
        THRESHOLDS,
        ("curve", Default::Text("ROC")),
        ("summation_method", Default::Text("interpolation")),
        ("thresholds", Default::None),
        ("multi_label", Default::Bool(false)),
        ("num_labels", Default::None),
        ("label_weights", Default::None),
        ("from_logits", Default::Bool(false)),
    ], State { update: auc_counts, result: auc }}
}

/// How predictions are counted.
struct Counting {
    thresholds: Vec<f64>,
    /// They are evenly distributed over 0 to 1, the ends perhaps moved out a little: then predictions are sorted into
    /// buckets.
    even: bool,
    top_k: Option<usize>,
    class: Option<usize>,
    multi_label: bool,
    label_weights: Option<Vec<f64>>,
}

impl Counting {
    fn new(thresholds: Vec<f64>, even: bool) -> Counting {
        Counting { thresholds, even, top_k: None, class: None, multi_label: false, label_weights: None }
    }

    fn at_thresholds(m: &Metric) -> Result<Counting> {
        let top_k = m.options.opt_size("top_k")?;
        let default = if top_k.is_some() { f64::from(LOWEST) } else { 0.5 };
        let given = m.options.floats("thresholds")?;
        if given.as_ref().is_some_and(|t| t.is_empty() || !t.iter().all(|t| (0.0..=1.0).contains(t))) {
            return Err(m.options.wrong("thresholds", "numbers from 0 to 1"));
        }
        let thresholds = given.unwrap_or_else(|| vec![default]);
        let even = evenly_distributed(&thresholds);
        Ok(Counting { top_k, class: class(m)?, ..Counting::new(thresholds, even) })
    }

    fn evenly(m: &Metric, bound: &str) -> Result<Counting> {
        at_least(m, bound)?;
        let count = number_of_thresholds(m)?;
        let thresholds = match count {
            1 => vec![0.5],
            n => (0..n).map(|i| i as f64 / (n - 1) as f64).collect(),
        };
        Ok(Counting { class: class(m)?, ..Counting::new(thresholds, count > 1) })
    }

    fn auc(m: &Metric) -> Result<Counting> {
        let (low, high) = (-f64::from(EPSILON), 1.0 + f64::from(EPSILON));
        let (inner, even) = match m.options.floats("thresholds")? {
            Some(mut inner) => {
                inner.sort_by(f64::total_cmp);
                let ends: Vec<f64> = [0.0].into_iter().chain(inner.iter().copied()).chain([1.0]).collect();
                (inner, evenly_distributed(&ends))
            }
            None => {
                let n = number_of_thresholds(m)?;
                if n < 2 {
                    return Err(m.options.wrong("num_thresholds", "an integer greater than 1"));
                }
                ((1..n - 1).map(|i| i as f64 / (n - 1) as f64).collect(), true)
            }
        };
        let thresholds = [low].into_iter().chain(inner).chain([high]).collect();
        let multi_label = m.options.flag("multi_label");
        let label_weights = if multi_label { None } else { m.options.floats("label_weights")? };
        Ok(Counting { multi_label, label_weights, ..Counting::new(thresholds, even) })
    }
}

fn number_of_thresholds(m: &Metric) -> Result<usize> {
    let given = m.options.opt_size("num_thresholds")?;
    given
        .filter(|&n| n <= 1 << 20)
        .ok_or_else(|| m.options.wrong("num_thresholds", "a number up to a million"))
}

fn class(m: &Metric) -> Result<Option<usize>> {
    let wrong = |_| m.options.wrong("class_id", "a class");
    m.options.opt_int("class_id")?.map(|c| usize::try_from(c).map_err(wrong)).transpose()
}

/// The bound that a metric is called after.
fn at_least(m: &Metric, bound: &str) -> Result<f64> {
    let given = if m.options.is_set(bound) { Some(m.options.float(bound)?) } else { None };
    given.filter(|x| (0.0..=1.0).contains(x)).ok_or_else(|| m.options.wrong(bound, "a number from 0 to 1"))
}

fn evenly_distributed(thresholds: &[f64]) -> bool {
    let last = thresholds.len().saturating_sub(1) as f64;
    let even = |(i, t): (usize, &f64)| {
        let at = i as f64 / last;
        (t - at).abs() <= f64::from(EPSILON) + 1e-5 * at
    };
    thresholds.len() >= 3 && thresholds.iter().enumerate().all(even)
}

/// Counts at each threshold, `[thresholds]`, or `[thresholds, labels]` for several labels.
fn counts(g: &mut Emit, how: &Counting, batch: Batch, which: &[Count]) -> Result<Vec<Port>> {
    let y = g.cast(batch.y_true, DType::Float32)?;
    let (mut y, mut p) = match_labels(g, y, batch.y_pred)?;
    let mut weight = batch.weight;
    if let Some(w) = weight {
        weight = Some(weight_of_rows(g, y, p, w)?);
    }
    if let Some(k) = how.top_k {
        p = only_top_k(g, p, k)?;
    }
    if let Some(class) = how.class {
        let (last, classes) = (g.axis(p, -1)?, g.shape(p)?);
        if g.rank(p)? < 2 || classes[last].is_some_and(|n| class >= n) {
            return Err(LayersError::Inputs(format!("class {class} is none of {}", g.fact(p))));
        }
        (y, p) = (column(g, y, class)?, column(g, p, class)?);
    }
    weight = weight.map(|w| spread(g, w, p)).transpose()?;
    if let Some(labels) = &how.label_weights {
        let labels: Vec<f32> = labels.iter().map(|&w| w as f32).collect();
        let labels = g.floats(&labels);
        let labels = spread(g, labels, p)?;
        weight = Some(match weight {
            Some(w) => g.mul(w, labels)?,
            None => labels,
        });
    }
    // Weights of positive and of negative labels.
    let zero = g.scalar(0.0);
    let is = g.op("NotEqual", &[y, zero], &[("incompatible_shape_error", attr::bool(true))])?;
    let is = g.cast(is, DType::Float32)?;
    let one = g.scalar(1.0);
    let is_not = g.sub(one, is)?;
    let (mut positive, mut negative) = (spread(g, is, p)?, spread(g, is_not, p)?);
    if let Some(w) = weight {
        (positive, negative) = (g.mul(positive, w)?, g.mul(negative, w)?);
    }
    if !how.multi_label {
        let every = g.ints(&[-1]);
        let mut flat = |x| g.op("Reshape", &[x, every], &[]);
        (p, positive, negative) = (flat(p)?, flat(positive)?, flat(negative)?);
    } else if g.rank(p)? != 2 {
        return Err(LayersError::Inputs(format!(
            "multi_label takes predictions (batch, labels), not {}",
            g.fact(p)
        )));
    }
    if how.even {
        in_buckets(g, how, p, positive, negative, which)
    } else {
        at_each(g, how, p, positive, negative, which)
    }
}

/// Keras's way to the rank of the predictions.
fn weight_of_rows(g: &mut Emit, y: Port, p: Port, w: Port) -> Result<Port> {
    if g.dialect != Dialect::Keras3 {
        return Ok(match_weights(g, p, w)?.1);
    }
    let (rank, labels) = (g.rank(w)?, g.rank(y)?);
    if rank == labels { Ok(w) } else { g.expand_dims(w, rank) }
}

/// The predictions that are among the k largest of their row; the others count as −∞.
fn only_top_k(g: &mut Emit, p: Port, k: usize) -> Result<Port> {
    let last = g.axis(p, -1)?;
    let dim = g.dim(p, last)?;
    let k = g.int(i32::try_from(k).unwrap_or(i32::MAX));
    let index = g.op_n("TopKV2", &[p, k], &[("sorted", attr::bool(false))], 2)?[1];
    let depth = g.dim_value(dim)?;
    let (on, off) = (g.scalar(1.0), g.scalar(0.0));
    let hot = g.op("OneHot", &[index, depth, on, off], &[("axis", attr::int(-1))])?;
    let mask = g.reduce("Sum", hot, &[last], false)?;
    let (one, lowest) = (g.scalar(1.0), g.scalar(LOWEST));
    let rest = g.sub(one, mask)?;
    let (kept, dropped) = (g.mul(p, mask)?, g.mul(lowest, rest)?);
    g.add(kept, dropped)
}

/// One class, as a last axis of size 1.
fn column(g: &mut Emit, x: Port, class: usize) -> Result<Port> {
    let rank = g.rank(x)?;
    let (mut begin, mut sizes) = (vec![0; rank], vec![-1; rank]);
    if let (Some(begin), Some(size)) = (begin.last_mut(), sizes.last_mut()) {
        (*begin, *size) = (i32::try_from(class).unwrap_or(i32::MAX), 1);
    }
    g.slice(x, &begin, &sizes)
}

/// Compares with each threshold.
fn at_each(
    g: &mut Emit,
    how: &Counting,
    p: Port,
    positive: Port,
    negative: Port,
    which: &[Count],
) -> Result<Vec<Port>> {
    let rank = g.rank(p)?;
    let mut shape = vec![1; rank + 1];
    shape[0] = how.thresholds.len();
    let thresholds: Vec<f32> = how.thresholds.iter().map(|&t| t as f32).collect();
    let thresholds = g.constant(Tensor::new(shape, thresholds)?);
    let p = g.expand_dims(p, 0)?;
    let above = g.op("Greater", &[p, thresholds], &[])?;
    let above = g.cast(above, DType::Float32)?;
    let one = g.scalar(1.0);
    let below = g.sub(one, above)?;
    which
        .iter()
        .map(|count| {
            let (side, weight) = match count {
                Tp => (above, positive),
                Fp => (above, negative),
                Tn => (below, negative),
                Fn => (below, positive),
            };
            let product = g.mul(side, weight)?;
            g.reduce("Sum", product, &[1], false)
        })
        .collect()
}

/// Sorts predictions into the intervals between evenly distributed thresholds.
fn in_buckets(
    g: &mut Emit,
    how: &Counting,
    p: Port,
    positive: Port,
    negative: Port,
    which: &[Count],
) -> Result<Vec<Port>> {
    let n = how.thresholds.len();
    let p = clip(g, p, 0.0, 1.0)?;
    let scaled = g.scale(p, (n - 1) as f32)?;
    let bucket = g.unary("Ceil", scaled)?;
    let mut bucket = g.offset(bucket, -1.0)?;
    // Where the first threshold lies below 0, a prediction of 0 is above it.
    if how.thresholds.first().is_some_and(|&t| t < 0.0) || how.thresholds.last().is_some_and(|&t| t > 1.0) {
        bucket = g.unary("Relu", bucket)?;
    }
    let mut bucket = g.cast(bucket, DType::Int32)?;
    let mut labels = 1;
    if how.multi_label {
        labels = g.known_dim(p, 1, "number of labels")?;
        let offsets: Vec<i32> = (0..labels).map(|l| i32::try_from(l * n).unwrap_or(i32::MAX)).collect();
        let offsets = g.ints(&offsets);
        bucket = g.add(bucket, offsets)?;
    }
    let every = g.ints(&[-1]);
    let ids = g.op("Reshape", &[bucket, every], &[])?;
    let mut sides = |weight: Port| -> Result<(Port, Port)> {
        let flat = g.op("Reshape", &[weight, every], &[])?;
        let segments = g.int(i32::try_from(n * labels).unwrap_or(i32::MAX));
        let sums = g.op("UnsortedSegmentSum", &[flat, ids, segments], &[])?;
        let sums = g.reshape(sums, &[Dim::Known(labels), Dim::Known(n)])?;
        let along = g.int(1);
        let attrs = [("exclusive", attr::bool(false)), ("reverse", attr::bool(true))];
        let above = g.op("Cumsum", &[sums, along], &attrs)?;
        let total = g.reduce("Sum", sums, &[1], true)?;
        let below = g.sub(total, above)?;
        let shape = |g: &mut Emit, x: Port| {
            if how.multi_label { g.transpose(x, &[1, 0]) } else { g.reshape(x, &[Dim::Known(n)]) }
        };
        Ok((shape(g, above)?, shape(g, below)?))
    };
    let ((true_above, true_below), (false_above, false_below)) = (sides(positive)?, sides(negative)?);
    let pick = |count: &Count| match count {
        Tp => true_above,
        Fp => false_above,
        Tn => false_below,
        Fn => true_below,
    };
    Ok(which.iter().map(pick).collect())
}

fn first(_: &Metric, totals: &[Vec<f64>]) -> Result<Vec<f64>> {
    totals.first().cloned().ok_or_else(super::foreign)
}

/// a / (a + b)
fn share(_: &Metric, totals: &[Vec<f64>]) -> Result<Vec<f64>> {
    let [a, b] = totals else { return Err(super::foreign()) };
    Ok(ratios(a, &sum(a, b)))
}

fn sum(a: &[f64], b: &[f64]) -> Vec<f64> {
    a.iter().zip(b).map(|(a, b)| a + b).collect()
}

/// Counts at all thresholds.
struct Counts<'a> {
    tp: &'a [f64],
    fp: &'a [f64],
    tn: &'a [f64],
    miss: &'a [f64],
}

impl<'a> Counts<'a> {
    fn new(totals: &'a [Vec<f64>]) -> Result<Counts<'a>> {
        let [tp, fp, tn, miss] = totals else { return Err(super::foreign()) };
        if [fp, tn, miss].iter().any(|t| t.len() != tp.len()) {
            return Err(super::foreign());
        }
        Ok(Counts { tp, fp, tn, miss })
    }

    fn recall(&self) -> Vec<f64> {
        ratios(self.tp, &sum(self.tp, self.miss))
    }

    fn precision(&self) -> Vec<f64> {
        ratios(self.tp, &sum(self.tp, self.fp))
    }

    fn specificity(&self) -> Vec<f64> {
        ratios(self.tn, &sum(self.tn, self.fp))
    }
}

/// The best of the second where the first is large enough; 0 if it is nowhere.
fn best(
    m: &Metric,
    bound: &str,
    totals: &[Vec<f64>],
    curves: fn(&Counts<'_>) -> (Vec<f64>, Vec<f64>),
) -> Result<Vec<f64>> {
    // As Keras compares them, in single precision.
    let bound = at_least(m, bound)? as f32;
    let (constrained, dependent) = curves(&Counts::new(totals)?);
    let feasible = constrained.iter().zip(&dependent).filter(|(c, _)| **c as f32 >= bound);
    Ok(vec![feasible.map(|(_, &d)| d).fold(0.0, f64::max)])
}

fn auc_counts(g: &mut Emit, m: &Metric, batch: Batch) -> Result<Vec<Port>> {
    let p = if m.options.flag("from_logits") { g.unary("Sigmoid", batch.y_pred)? } else { batch.y_pred };
    counts(g, &Counting::auc(m)?, Batch { y_pred: p, ..batch }, &ALL)
}

fn auc(m: &Metric, totals: &[Vec<f64>]) -> Result<Vec<f64>> {
    let thresholds = Counting::auc(m)?.thresholds.len();
    let all = Counts::new(totals)?;
    let labels = all.tp.len() / thresholds;
    if labels * thresholds != all.tp.len() {
        return Err(super::foreign());
    }
    let of_label = |label: usize| {
        let pick = |t: &[f64]| -> Vec<f64> { t.iter().skip(label).step_by(labels).copied().collect() };
        let (tp, fp, tn, miss) = (pick(all.tp), pick(all.fp), pick(all.tn), pick(all.miss));
        area(m, &Counts { tp: &tp, fp: &fp, tn: &tn, miss: &miss })
    };
    let areas = (0..labels).map(of_label).collect::<Result<Vec<f64>>>()?;
    let value = match m.options.floats("label_weights")?.filter(|_| m.options.flag("multi_label")) {
        Some(weights) => {
            let sum: f64 = areas.iter().zip(&weights).map(|(a, w)| a * w).sum();
            ratio(sum, weights.iter().sum())
        }
        None => ratio(areas.iter().sum(), labels as f64),
    };
    Ok(vec![value])
}

fn area(m: &Metric, c: &Counts<'_>) -> Result<f64> {
    let curve = m.options.word("curve", &["ROC", "PR", "PRGAIN"])?;
    let method = m.options.word("summation_method", &["interpolation", "minoring", "majoring"])?;
    let (x, y) = match curve {
        "PR" if method == "interpolation" => return Ok(interpolated_pr(c)),
        "PR" => (c.recall(), c.precision()),
        "PRGAIN" => gains(c),
        _ => (ratios(c.fp, &sum(c.fp, c.tn)), c.recall()),
    };
    let height = |a: f64, b: f64| match method {
        "minoring" => a.min(b),
        "majoring" => a.max(b),
        _ => f64::midpoint(a, b),
    };
    Ok(x.windows(2).zip(y.windows(2)).map(|(x, y)| (x[0] - x[1]) * height(y[0], y[1])).sum())
}

/// Gains of recall and precision over a classifier that takes everything for positive.
fn gains(c: &Counts<'_>) -> (Vec<f64>, Vec<f64>) {
    let at = |i: usize| {
        let (tp, fp, tn, miss) = (c.tp[i], c.fp[i], c.tn[i], c.miss[i]);
        if tp == 0.0 {
            return (0.0, 1.0);
        }
        let odds = ratio(tp + miss, tn + fp);
        ((1.0 - odds * miss / tp).max(0.0), 1.0 - odds * fp / tp)
    };
    (0..c.tp.len()).map(at).unzip()
}

/// Davis and Goadrich's interpolation between points of the PR curve.
fn interpolated_pr(c: &Counts<'_>) -> f64 {
    let p = sum(c.tp, c.fp);
    let part = |i: usize| {
        let (dtp, dp) = (c.tp[i] - c.tp[i + 1], p[i] - p[i + 1]);
        let slope = ratio(dtp, dp.max(0.0));
        let intercept = c.tp[i + 1] - slope * p[i + 1];
        let safe = if p[i] > 0.0 && p[i + 1] > 0.0 { p[i] / p[i + 1] } else { 1.0 };
        ratio(slope * (dtp + intercept * safe.ln()), (c.tp[i + 1] + c.miss[i + 1]).max(0.0))
    };
    (0..c.tp.len().saturating_sub(1)).map(part).sum()
}
