//! What a model is trained for when nobody says: from its last layer and the labels.

use serde_json::{Value, json};
use tfjs_layers::{Compile, Dialect, LayersModel, Loss, ModelConfig, Optimizer};

use crate::{
    CliError,
    data::{Data, LabelKind},
    files,
};

/// A name, JSON, or `@` and a file with JSON.
pub(crate) fn value(flag: &'static str, text: &str) -> Result<Value, CliError> {
    let json =
        |text: &[u8]| serde_json::from_slice(text).map_err(|source| CliError::NotJson { flag, source });
    match text.strip_prefix('@') {
        Some(path) => json(&files::read(path.as_ref())?),
        None if text.trim_start().starts_with(['{', '[', '"']) => json(text.as_bytes()),
        None => Ok(Value::from(text)),
    }
}

/// Metrics: names with commas between them, or as [`value`].
pub(crate) fn metrics(text: &str) -> Result<Value, CliError> {
    Ok(match value("--metrics", text)? {
        Value::String(names) => {
            names.split(',').map(str::trim).filter(|n| !n.is_empty()).map(Value::from).collect()
        }
        other => other,
    })
}

/// The optimizer asked for.
pub(crate) fn optimizer(text: &str, dialect: Dialect) -> Result<Optimizer, CliError> {
    Ok(Optimizer::from_config(&value("--optimizer", text)?, dialect)?)
}

/// Losses and metrics for outputs that nobody said anything of, with the reasons.
pub(crate) fn objective(model: &LayersModel, data: &Data) -> Result<(Compile, Vec<String>), CliError> {
    let names = model.output_names();
    let shapes: Vec<Option<Vec<Option<usize>>>> =
        model.compiled()?.outputs().iter().map(|o| o.shape.clone()).collect();
    let activations = activations(&model.network().config);
    let mut losses = Vec::new();
    let mut metrics = Vec::new();
    let mut reasons = Vec::new();
    for (i, name) in names.iter().enumerate() {
        let Some((kind, labels)) = data.labels(i) else {
            losses.push(Value::Null);
            metrics.push(json!([]));
            continue;
        };
        let shape = shapes.get(i).cloned().flatten().unwrap_or_default();
        let width = shape.last().copied().flatten();
        let activation = activations.get(i).map_or("linear", String::as_str);
        let (loss, metric, why) = one(kind, &labels, shape.len(), width, activation);
        let output = if names.len() > 1 { format!("output `{name}`: ") } else { String::new() };
        let spelled = loss.as_str().or(loss["class_name"].as_str()).unwrap_or_default();
        let note = if loss.is_object() { " from logits" } else { "" };
        reasons.push(format!("{output}loss {spelled}{note}, metric {metric}: {why}"));
        losses.push(loss);
        metrics.push(json!([metric]));
    }
    let single = names.len() == 1;
    let loss = if single { losses.pop().unwrap_or_default() } else { Value::Array(losses) };
    let metrics = if single { metrics.pop().unwrap_or_default() } else { Value::Array(metrics) };
    Ok((Compile { loss, metrics, ..Compile::default() }, reasons))
}

/// Loss and metric of one output, and why.
fn one(
    kind: LabelKind,
    labels: &[usize],
    rank: usize,
    width: Option<usize>,
    activation: &str,
) -> (Value, &'static str, String) {
    let several = width.is_none_or(|w| w > 1);
    let whole = matches!(kind, LabelKind::Classes | LabelKind::Binary | LabelKind::OneHot);
    // A class for each sample or step, instead of a number for each output.
    let by_number =
        several && (labels.len() + 1 == rank || (labels.len() == rank && labels.last() == Some(&1)));
    let logits = |class: &str| json!({"class_name": class, "config": {"from_logits": true}});
    let classes = width.map_or_else(|| "several".to_owned(), |w| w.to_string());
    match activation {
        "softmax" if by_number && whole => (
            json!("sparse_categorical_crossentropy"),
            "accuracy",
            format!("softmax over {classes} classes, and labels are their numbers"),
        ),
        "softmax" => (
            json!("categorical_crossentropy"),
            "accuracy",
            format!("softmax over {classes} classes, and labels are rows of as many"),
        ),
        "sigmoid" if !by_number => {
            (json!("binary_crossentropy"), "accuracy", "sigmoid, and labels are zeros and ones".to_owned())
        }
        "linear" if by_number && whole => (
            logits("SparseCategoricalCrossentropy"),
            "accuracy",
            format!("{classes} outputs without softmax, and labels are numbers of classes"),
        ),
        "linear" if several && kind == LabelKind::OneHot => (
            logits("CategoricalCrossentropy"),
            "accuracy",
            format!("{classes} outputs without softmax, and labels are rows with a one"),
        ),
        _ => (json!("mse"), "mae", "outputs and labels are numbers".to_owned()),
    }
}

/// What each output last went through.
fn activations(config: &ModelConfig) -> Vec<String> {
    let of = |t: &tfjs_layers::topology::TensorRef| {
        let layer = &config.layers[t.layer];
        if let Some(inner) = &layer.model {
            return activations(inner).get(t.tensor).cloned().unwrap_or_default();
        }
        match layer.class_name.as_str() {
            "Softmax" => "softmax".to_owned(),
            _ => {
                let activation = &layer.config.get("activation").cloned().unwrap_or_default();
                let name = activation.as_str().or_else(|| {
                    let config = &activation["config"];
                    activation["class_name"].as_str().filter(|c| *c != "function").or(config.as_str())
                });
                name.unwrap_or("linear").to_lowercase()
            }
        }
    };
    config.outputs.flat().into_iter().map(of).collect()
}

/// Whether a loss takes rows with a one for classes.
pub(crate) fn takes_rows(loss: &Value, dialect: Dialect) -> bool {
    let class = Loss::from_config(loss, dialect).map(|l| l.class_name());
    matches!(class, Ok(c) if !c.starts_with("Sparse"))
}
