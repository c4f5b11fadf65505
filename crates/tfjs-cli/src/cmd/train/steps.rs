//! Training step by step, as a file says: what to compare with other implementations, and to continue in them.

use std::{
    fs::File,
    io::{self, BufReader, Write},
    path::{Path, PathBuf},
};

use serde::Deserialize;
use serde_json::{Map, Value};
use tfjs_kernels::Tensor;
use tfjs_layers::{Batch, ClassWeight, Compile, Logs, Optimizer};

use super::{number, open, save};
use crate::{CliError, args::TrainArgs, files, npy};

/// How to train: optimizer, loss and metrics as Keras serialises them.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    /// Whose rules it was written by; the model's file says the same.
    #[serde(rename = "keras")]
    _keras: Option<Value>,
    #[serde(rename = "keras_version")]
    _keras_version: Option<Value>,
    /// Without it, training goes on with what the model's file holds.
    optimizer: Option<Value>,
    #[serde(default)]
    loss: Value,
    #[serde(default)]
    metrics: Value,
    #[serde(default)]
    weighted_metrics: Value,
    #[serde(default)]
    loss_weights: Value,
    class_weight: Option<Value>,
    /// An `.npz` beside this file: `x0`, `x1`, …, `y0`, …, `sw0`, …, each `[batches, batch size, …]`.
    batches: PathBuf,
    /// How many steps; step `i` takes batch `i` modulo their number.
    steps: usize,
    /// Number of the first step.
    #[serde(default)]
    start: usize,
    /// Seed of dropouts and noise.
    #[serde(default)]
    seed: i32,
}

pub(super) fn run(args: &TrainArgs, path: &Path) -> Result<String, CliError> {
    let config = read(path)?;
    let mut model = open(&args.model)?;
    match &config.optimizer {
        Some(optimizer) => {
            let optimizer = Optimizer::from_config(optimizer, model.dialect())?;
            let compile = Compile {
                loss: config.loss.clone(),
                loss_weights: config.loss_weights.clone(),
                metrics: config.metrics.clone(),
                weighted_metrics: config.weighted_metrics.clone(),
            };
            model.compile_with(optimizer, compile)?;
        }
        None if model.restore_training()? => {}
        None => {
            return Err(CliError::NothingToTrainFor {
                model: args.model.clone(),
                config: path.to_path_buf(),
            });
        }
    }
    model.set_seed(config.seed)?;
    let class_weight = config.class_weight.as_ref().filter(|v| !v.is_null());
    let class_weight = class_weight.map(ClassWeight::from_config).transpose()?;
    let batches = Batches::read(&path.parent().unwrap_or(Path::new("")).join(&config.batches))?;
    for step in config.start..config.start.saturating_add(config.steps) {
        let mut batch = batches.batch(step)?;
        if let Some(weights) = &class_weight {
            batch = batch.weighted_by_class(weights)?;
        }
        tell(args.data.json, step, &model.train_on_batch(&batch)?)?;
    }
    if let Some(out) = args.out() {
        save(&model, out)?;
    }
    Ok(String::new())
}

fn read(path: &Path) -> Result<Config, CliError> {
    let wrong = |source| CliError::TrainConfig { path: path.to_path_buf(), source };
    serde_json::from_slice(&files::read(path)?).map_err(wrong)
}

/// One line per step.
fn tell(json: bool, step: usize, logs: &Logs) -> Result<(), CliError> {
    let line = if json {
        let mut object = Map::new();
        object.insert("step".to_owned(), step.into());
        object.extend(logs.iter().map(|(name, v)| (name.to_owned(), number(v))));
        Value::Object(object).to_string()
    } else {
        let values: Vec<String> = logs.iter().map(|(name, v)| format!("{name} {v:.6}")).collect();
        format!("step {step}: {}", values.join(", "))
    };
    let mut out = io::stdout().lock();
    writeln!(out, "{line}").and_then(|()| out.flush()).map_err(CliError::Stdout)
}

/// Batches of a file.
struct Batches {
    path: PathBuf,
    x: Vec<Tensor>,
    y: Vec<Option<Tensor>>,
    sample_weight: Vec<Option<Tensor>>,
    count: usize,
}

impl Batches {
    fn read(path: &Path) -> Result<Batches, CliError> {
        let failed = |source| CliError::Array { path: path.to_path_buf(), source };
        let file = File::open(path).map_err(|source| CliError::File {
            action: "read",
            path: path.to_path_buf(),
            source,
        })?;
        let arrays = npy::read_zip(BufReader::new(file)).map_err(failed)?;
        let numbered = |prefix: &str| {
            let mut found: Vec<(usize, Tensor)> = arrays
                .iter()
                .filter_map(|(name, t)| Some((name.strip_prefix(prefix)?.parse().ok()?, t.clone())))
                .collect();
            found.sort_by_key(|(i, _)| *i);
            found
        };
        let x: Vec<Tensor> = numbered("x").into_iter().map(|(_, t)| t).collect();
        // Outputs without labels have no number.
        let gaps = |found: Vec<(usize, Tensor)>| {
            let mut all = vec![None; found.last().map_or(0, |(i, _)| i + 1).min(arrays.len() + 64)];
            for (i, t) in found {
                if let Some(place) = all.get_mut(i) {
                    *place = Some(t);
                }
            }
            all
        };
        let (y, sample_weight) = (gaps(numbered("y")), gaps(numbered("sw")));
        let count = x.first().and_then(|t| t.dims().first().copied()).unwrap_or(0);
        let all = x.iter().chain(y.iter().flatten()).chain(sample_weight.iter().flatten());
        if count == 0 || all.into_iter().any(|t| t.dims().first() != Some(&count)) {
            let found = arrays.iter().map(|(n, t)| format!("{n} {}", t.shape())).collect();
            return Err(CliError::Batches { path: path.to_path_buf(), found });
        }
        Ok(Batches { path: path.to_path_buf(), x, y, sample_weight, count })
    }

    /// Batch `step` modulo the number of batches.
    fn batch(&self, step: usize) -> Result<Batch, CliError> {
        let part = |t: &Tensor| row(t, step % self.count).map_err(|source| self.failed(source));
        let optional = |t: &Option<Tensor>| t.as_ref().map(part).transpose();
        Ok(Batch {
            x: self.x.iter().map(part).collect::<Result<_, _>>()?,
            y: self.y.iter().map(optional).collect::<Result<_, _>>()?,
            sample_weight: self.sample_weight.iter().map(optional).collect::<Result<_, _>>()?,
        })
    }

    fn failed(&self, source: tfjs_kernels::KernelError) -> CliError {
        CliError::Array { path: self.path.clone(), source: source.into() }
    }
}

/// What stands at place `i` along the first axis.
fn row(t: &Tensor, i: usize) -> Result<Tensor, tfjs_kernels::KernelError> {
    let rest = &t.dims()[1..];
    let n: usize = rest.iter().product();
    let range = i * n..(i + 1) * n;
    match t {
        Tensor::F32(t) => Tensor::new(rest, t.data()[range].to_vec()),
        Tensor::I32(t) => Tensor::new(rest, t.data()[range].to_vec()),
        Tensor::Bool(t) => Tensor::new(rest, t.data()[range].to_vec()),
        Tensor::Str(t) => Tensor::new(rest, t.data()[range].to_vec()),
        Tensor::C64(t) => Tensor::new(rest, t.data()[range].to_vec()),
    }
}
