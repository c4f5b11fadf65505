//! Losses and metrics of a model, output by output.

use serde_json::{Map, Value};
use tfjs_graph::Port;
use tfjs_kernels::Tensor;

use super::{Compile, Logs};
use crate::{Dialect, Emit, LayersError, Loss, Metric, Sym};

type Result<T> = std::result::Result<T, LayersError>;

/// Losses and metrics, with the values that they put into the graph of a step.
#[derive(Debug)]
pub(super) struct Objective {
    /// By output: its loss, what it counts, its labels, metrics and weighted metrics.
    outputs: Vec<Output>,
    dialect: Dialect,
}

#[derive(Debug, Default)]
struct Output {
    name: String,
    loss: Option<Loss>,
    loss_weight: f32,
    metrics: Vec<Value>,
    weighted: Vec<Value>,
}

/// What a step writes besides the outputs of layers.
#[derive(Debug, Default)]
pub(super) struct Written {
    /// Sum of all losses of outputs, if there are any.
    pub(super) loss: Option<Port>,
    /// What is reported, in order.
    pub(super) report: Vec<(Entry, Vec<Port>)>,
}

/// Something that is reported.
#[derive(Clone, Debug)]
pub(super) enum Entry {
    /// A mean over samples.
    Loss(String),
    /// A metric with its state.
    Metric(String, Metric),
}

impl Objective {
    /// Reads what is to be trained.
    pub(super) fn new(compile: &Compile, outputs: &[String], dialect: Dialect) -> Result<Objective> {
        let losses = per_output("loss", &compile.loss, outputs, false, dialect)?;
        let weights = per_output("loss_weights", &compile.loss_weights, outputs, false, dialect)?;
        let metrics = per_output("metrics", &compile.metrics, outputs, true, dialect)?;
        let weighted = per_output("weighted_metrics", &compile.weighted_metrics, outputs, true, dialect)?;
        let mut all = Vec::new();
        let rows = outputs.iter().zip(losses).zip(weights).zip(metrics.into_iter().zip(weighted));
        for (((name, loss), weight), (metrics, weighted)) in rows {
            let loss = match loss.as_slice() {
                [] | [Value::Null] => None,
                [one] => Some(Loss::from_config(one, dialect)?),
                _ => return Err(wrong("loss", &compile.loss, "one loss per output")),
            };
            let loss_weight = match weight.as_slice() {
                [] | [Value::Null] => 1.0,
                [one] => one.as_f64().ok_or_else(|| wrong("loss_weights", one, "a number"))? as f32,
                _ => return Err(wrong("loss_weights", &compile.loss_weights, "one number per output")),
            };
            let present =
                |list: Vec<Value>| list.into_iter().filter(|v| !v.is_null()).collect::<Vec<Value>>();
            let (metrics, weighted) = (present(metrics), present(weighted));
            for metric in metrics.iter().chain(&weighted) {
                // Unknown names are found here, before there are data.
                Metric::from_config(metric, dialect)?;
            }
            all.push(Output { name: name.clone(), loss, loss_weight, metrics, weighted });
        }
        Ok(Objective { outputs: all, dialect })
    }

    /// Which outputs need labels.
    pub(super) fn labelled(&self) -> Vec<bool> {
        self.outputs
            .iter()
            .map(|o| o.loss.is_some() || !o.metrics.is_empty() || !o.weighted.is_empty())
            .collect()
    }

    pub(super) fn loss(&self, output: usize) -> Option<&Loss> {
        self.outputs.get(output)?.loss.as_ref()
    }

    /// Writes losses and metrics.
    pub(super) fn write(
        &self,
        g: &mut Emit,
        y_true: &[Option<Port>],
        y_pred: &[Sym],
        weights: &[Option<Port>],
    ) -> Result<Written> {
        let mut written = Written::default();
        let several = self.outputs.len() > 1;
        let mut later = Vec::new();
        for (i, output) in self.outputs.iter().enumerate() {
            let Some(pred) = y_pred.get(i).copied() else { continue };
            let Some(truth) = y_true.get(i).copied().flatten() else { continue };
            let weight = weights.get(i).copied().flatten();
            if let Some(loss) = &output.loss {
                loss.check(&g.fact(truth).clone(), &g.fact(pred.port).clone())
                    .map_err(|e| LayersError::Training(format!("output `{}`: {e}", output.name)))?;
                let value = loss.call(g, truth, pred, weight)?;
                if several {
                    let name = format!("{}_loss", output.name);
                    written.report.push((Entry::Loss(name), vec![value]));
                }
                let scaled =
                    if output.loss_weight == 1.0 { value } else { g.scale(value, output.loss_weight)? };
                written.loss = Some(match written.loss {
                    Some(sum) => g.add(sum, scaled)?,
                    None => scaled,
                });
            }
            let unweighted = output.metrics.iter().map(|m| (m, None, false));
            let weighted = output.weighted.iter().map(|m| (m, weight, true));
            for (spec, weight, weighted) in unweighted.chain(weighted) {
                let metric = Metric::from_config(spec, self.dialect)?;
                metric.check(g.fact(truth), g.fact(pred.port))?;
                let prefix = if several { format!("{}_", output.name) } else { String::new() };
                let state = metric.update(g, truth, pred, weight)?;
                later.push((weighted, prefix, metric, state));
            }
        }
        self.name_metrics(&mut written.report, later);
        Ok(written)
    }

    /// Adds metrics, each with whether it is weighted, what stands before its name, and its state.
    fn name_metrics<T>(&self, report: &mut Vec<(Entry, T)>, mut metrics: Vec<(bool, String, Metric, T)>) {
        // In all versions a weighted metric says so where there is another of its name.
        let mut seen: Vec<String> = Vec::new();
        if self.dialect == Dialect::Keras3 {
            metrics.sort_by_key(|(weighted, ..)| *weighted);
        }
        for (weighted, prefix, metric, state) in metrics {
            let mut name = format!("{prefix}{}", metric.name());
            if weighted && seen.contains(&name) {
                name = format!("{prefix}weighted_{}", metric.name());
            }
            seen.push(name.clone());
            report.push((Entry::Metric(name, metric), state));
        }
        unique(report);
    }

    /// Names of all that is reported when every output has its labels.
    pub(super) fn names(&self) -> Result<Vec<String>> {
        let several = self.outputs.len() > 1;
        let (mut report, mut metrics) = (Vec::new(), Vec::new());
        for output in &self.outputs {
            if several && output.loss.is_some() {
                report.push((Entry::Loss(format!("{}_loss", output.name)), ()));
            }
            let unweighted = output.metrics.iter().map(|m| (m, false));
            for (spec, weighted) in unweighted.chain(output.weighted.iter().map(|m| (m, true))) {
                let prefix = if several { format!("{}_", output.name) } else { String::new() };
                metrics.push((weighted, prefix, Metric::from_config(spec, self.dialect)?, ()));
            }
        }
        self.name_metrics(&mut report, metrics);
        let names = report.into_iter().map(|(Entry::Loss(name) | Entry::Metric(name, _), ())| name);
        Ok(std::iter::once("loss".to_owned()).chain(names).collect())
    }
}

/// Names that occur twice get a number, as in Keras.
fn unique<T>(report: &mut [(Entry, T)]) {
    let mut seen: Vec<String> = Vec::new();
    for (entry, _) in report {
        let (Entry::Loss(name) | Entry::Metric(name, _)) = entry;
        let base = name.clone();
        let mut count = 0;
        while seen.contains(name) {
            count += 1;
            *name = format!("{base}_{count}");
        }
        seen.push(name.clone());
    }
}

fn wrong(key: &str, value: &Value, expected: &str) -> LayersError {
    LayersError::Config { key: key.to_owned(), value: value.to_string(), expected: expected.to_owned() }
}

/// What belongs to each output: from one for all, a list, or an object by name. `lists` says whether an output may have
/// several.
fn per_output(
    key: &str,
    value: &Value,
    outputs: &[String],
    lists: bool,
    dialect: Dialect,
) -> Result<Vec<Vec<Value>>> {
    let n = outputs.len();
    let one = |v: &Value| match v {
        Value::Null => Vec::new(),
        Value::Array(items) if lists => items.clone(),
        other => vec![other.clone()],
    };
    match value {
        Value::Null => Ok(vec![Vec::new(); n]),
        Value::Object(map) if !is_object_of_keras(map) => {
            let name_of = |k: &str| outputs.iter().position(|o| o == k);
            if let Some(unknown) = map.keys().find(|k| name_of(k).is_none()) {
                return Err(wrong(
                    key,
                    &Value::from(unknown.clone()),
                    &format!("a name of an output: {}", outputs.join(", ")),
                ));
            }
            Ok(outputs.iter().map(|o| map.get(o).map_or_else(Vec::new, one)).collect())
        }
        Value::Array(items) if lists => {
            let nested = items.iter().any(Value::is_array);
            if n == 1 && items.len() == 1 && nested {
                return Ok(vec![one(&items[0])]);
            }
            if n == 1 || (!nested && dialect != Dialect::Keras3) {
                // A flat list is meant for every output; Keras 3 wants an entry for each.
                return Ok(vec![items.clone(); n]);
            }
            if items.len() != n {
                return Err(wrong(key, value, &format!("a list for each of the {n} outputs")));
            }
            Ok(items.iter().map(one).collect())
        }
        Value::Array(items) => {
            if items.len() != n {
                return Err(wrong(key, value, &format!("one entry for each of the {n} outputs")));
            }
            Ok(items.iter().map(one).collect())
        }
        single => Ok(vec![one(single); n]),
    }
}

fn is_object_of_keras(map: &Map<String, Value>) -> bool {
    map.contains_key("class_name")
}

/// What one step reports.
#[derive(Debug, Default)]
pub(super) struct Report {
    pub(super) samples: usize,
    pub(super) loss: f64,
    /// The entries of the graph with their values.
    pub(super) entries: Vec<(Entry, Vec<Tensor>)>,
}

/// Loss and metrics over several batches.
#[derive(Debug, Default)]
pub(crate) struct Totals {
    samples: f64,
    loss: f64,
    entries: Vec<Total>,
}

#[derive(Debug)]
struct Total {
    entry: Entry,
    /// Sums in double precision: a count does not stop growing at 2²⁴.
    sums: Vec<(Vec<usize>, Vec<f64>)>,
}

impl Totals {
    /// Adds a batch.
    pub(super) fn add(&mut self, report: &Report) {
        let samples = report.samples as f64;
        self.samples += samples;
        self.loss += report.loss * samples;
        if self.entries.is_empty() {
            for (entry, values) in &report.entries {
                let sums = values.iter().map(|t| (t.dims().to_vec(), vec![0.0; t.len()])).collect();
                self.entries.push(Total { entry: entry.clone(), sums });
            }
        }
        for (total, (entry, values)) in self.entries.iter_mut().zip(&report.entries) {
            // A loss is a mean over the samples of a batch already.
            let factor = if matches!(entry, Entry::Loss(_)) { samples } else { 1.0 };
            for ((_, sum), value) in total.sums.iter_mut().zip(values) {
                let value = value.data::<f32>().unwrap_or_default();
                sum.iter_mut().zip(value).for_each(|(s, v)| *s += f64::from(*v) * factor);
            }
        }
    }

    /// Whether nothing was added yet.
    pub(crate) fn is_empty(&self) -> bool {
        self.samples == 0.0
    }

    /// The loss so far.
    pub(crate) fn loss(&self) -> f64 {
        self.loss / self.samples
    }

    /// The metric that is reported under this name.
    pub(crate) fn metric(&self, name: &str) -> Option<&Metric> {
        self.entries.iter().find_map(|total| match &total.entry {
            Entry::Metric(own, metric) if own == name => Some(metric),
            _ => None,
        })
    }

    /// Loss and metrics so far.
    pub(crate) fn logs(&self) -> Result<Logs> {
        let mut logs = Logs::default();
        logs.set("loss", self.loss / self.samples);
        for total in &self.entries {
            match &total.entry {
                Entry::Loss(name) => {
                    let sum = total.sums.first().and_then(|(_, s)| s.first());
                    logs.set(name, sum.map_or(f64::NAN, |s| s / self.samples));
                }
                Entry::Metric(name, metric) => {
                    let totals = total.sums.iter().map(|(dims, sums)| {
                        Tensor::new(&dims[..], sums.iter().map(|&s| s as f32).collect::<Vec<f32>>())
                    });
                    logs.set(name, metric.result(&totals.collect::<std::result::Result<Vec<_>, _>>()?)?);
                }
            }
        }
        Ok(logs)
    }
}
