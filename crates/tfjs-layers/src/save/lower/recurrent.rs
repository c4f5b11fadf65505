//! Recurrent layers and wrappers.

use serde_json::{Map, Value, json};
use tfjs_graph::{Constant, Fact};

use super::{Outcome, Source, activation, pieces};
use crate::{
    save::{
        Result,
        fragment::{Fragment, From},
    },
    topology::LayerConfig,
};

/// Cells of TF.js.
const CELLS: &[&str] = &["SimpleRNNCell", "LSTMCell", "GRUCell", "StackedRNNCells"];

fn flag(config: &Map<String, Value>, key: &str) -> bool {
    config.get(key).and_then(Value::as_bool).unwrap_or(false)
}

/// What TF.js lacks of a recurrent layer with this configuration.
fn lacking(config: &mut Map<String, Value>, source: &Source<'_>) -> Option<String> {
    for key in ["activation", "recurrent_activation"] {
        if let Some(value) = config.get(key).cloned() {
            match activation::native(&value, source.dialect) {
                Some(name) => config.insert(key.to_owned(), name.into()),
                None => {
                    return Some(format!(
                        "TensorFlow.js has no {key} {value} as its version of Keras computes it"
                    ));
                }
            };
        }
    }
    if flag(config, "time_major") {
        return Some("TensorFlow.js has no `time_major`".into());
    }
    if flag(config, "zero_output_for_mask") && source.masked {
        return Some("TensorFlow.js repeats the last output at masked steps".into());
    }
    for key in ["zero_output_for_mask", "time_major"] {
        config.remove(key);
    }
    if config.contains_key("unroll") {
        config.insert("unroll".to_owned(), false.into());
    }
    None
}

/// SimpleRNN, LSTM, GRU.
pub(super) fn layer(source: &mut Source<'_>) -> Result<Outcome> {
    let mut config = source.config.clone();
    if let Some(reason) = lacking(&mut config, source) {
        return Ok(Outcome::Unsupported(reason));
    }
    if source.masked && source.inputs.len() > 1 {
        return Ok(Outcome::Unsupported("TensorFlow.js takes no initial state together with a mask".into()));
    }
    source.config = config;
    if source.class == "GRU" && flag(&source.config, "reset_after") {
        return gru(source);
    }
    if source.class == "GRU" {
        source.config.insert("reset_after".to_owned(), false.into());
    }
    Ok(Outcome::Keep)
}

/// RNN with a cell or several.
pub(super) fn rnn(source: &mut Source<'_>) -> Result<Outcome> {
    let mut config = source.config.clone();
    if let Some(reason) = lacking(&mut config, source) {
        return Ok(Outcome::Unsupported(reason));
    }
    let cell = config.get("cell").cloned().unwrap_or_default();
    let cells = match &cell {
        Value::Array(cells) => cells.clone(),
        cell if cell["class_name"] == "StackedRNNCells" => {
            cell["config"]["cells"].as_array().cloned().unwrap_or_default()
        }
        cell => vec![cell.clone()],
    };
    let stacked = cell.is_array() || cell["class_name"] == "StackedRNNCells";
    let mut written = Vec::new();
    for cell in cells {
        let class = cell["class_name"].as_str().unwrap_or_default().to_owned();
        if !CELLS.contains(&class.as_str()) || class == "StackedRNNCells" {
            return Ok(Outcome::Unsupported(format!("TensorFlow.js has no cell {class}")));
        }
        let mut inner = cell["config"].as_object().cloned().unwrap_or_default();
        if let Some(reason) = lacking(&mut inner, source) {
            return Ok(Outcome::Unsupported(reason));
        }
        if class == "GRUCell" && flag(&inner, "reset_after") {
            if stacked {
                return Ok(Outcome::Unsupported("TensorFlow.js has no GRU cell with `reset_after`".into()));
            }
            // As the layer of that cell.
            let mut whole = inner;
            whole.remove("name");
            whole.extend(config.into_iter().filter(|(k, _)| k != "cell"));
            source.config = whole;
            return gru(source);
        }
        written.push(json!({"class_name": class, "config": inner}));
    }
    let several = source.inputs.len() > 1 || flag(&config, "return_state");
    if stacked && several {
        return Ok(Outcome::Unsupported("TensorFlow.js orders the states of stacked cells otherwise".into()));
    }
    let cell = match (stacked, written.len()) {
        (false, _) => written.remove(0),
        (true, _) => json!({"class_name": "StackedRNNCells", "config": {"cells": written}}),
    };
    config.insert("cell".to_owned(), cell);
    source.config = config;
    Ok(Outcome::Keep)
}

/// Beyond this, a gate is open or shut to the last bit, whatever else acts on it.
const SHUT: f32 = 3e4;

/// GRU with `reset_after`, h̃ = tanh(x·K + b + r ⊙ (h·R + b′)), by one without it, which takes three steps for each.
///
/// Its state is (h, y, q), and its candidate is linear. Each input comes three times, with a mark for the step:
/// 1. y ← r ⊙ (h·R + b′): the update gate, opened by r, lets the product in where y was 0; q ← −1
/// 2. q ← tanh(x·K + b + y): between −1 and 1 the update gate is σ(−2a), and −σ(−2a) + σ(2a) = tanh a
/// 3. h ← z ⊙ h + (1 − z) ⊙ q; y ← 0
struct Gru {
    units: usize,
    features: usize,
    kernel: Constant,
    recurrent: Constant,
    bias: Option<Constant>,
    /// Whether the candidate passes through tanh; a sigmoid otherwise.
    tanh: bool,
    /// Marks before those of this direction.
    marks: (usize, usize),
}

impl Gru {
    /// What TF.js calls kernel: `[features + marks, 9 · units]`.
    fn kernel(&self) -> Result<Constant> {
        let (u, n, tanh) = (self.units, self.features, self.tanh);
        let (first, marks) = self.marks;
        let bias = self.bias.clone();
        let rows = n + marks;
        let steep = if tanh { 2.0 } else { 1.0 };
        let bias_values = bias
            .map(|b| b.tensor())
            .transpose()
            .map_err(|source| crate::LayersError::WeightValue { weight: "bias".to_owned(), source })?;
        let inner: Vec<f32> = match &bias_values {
            Some(t) => t.data::<f32>()?[3 * u + 2 * u..6 * u].to_vec(),
            None => vec![0.0; u],
        };
        Ok(pieces::map(&self.kernel, vec![rows, 9 * u], move |k, _| {
            let mut out = vec![0.0; rows * 9 * u];
            let mut set =
                |row: usize, block: usize, at: usize, value: f32| out[(row * 9 + block) * u + at] = value;
            for at in 0..u {
                for row in 0..n {
                    set(row, 0, at, k[row * 3 * u + at]);
                    set(row, 1, at, -k[row * 3 * u + u + at]);
                    set(row, 2, at, -steep * k[row * 3 * u + 2 * u + at]);
                }
                let [one, two, three] = [0, 1, 2].map(|step| n + first + step);
                for (row, block, value) in [
                    (one, 0, SHUT),
                    (two, 0, SHUT),
                    (two, 1, SHUT),
                    (three, 1, -SHUT),
                    (one, 2, -SHUT),
                    (one, 3, SHUT),
                    (three, 3, -SHUT),
                    (one, 7, inner[at]),
                    (one, 8, if tanh { -1.0 } else { 0.0 }),
                    (two, 8, 1.0),
                ] {
                    set(row, block, at, value);
                }
            }
            out
        }))
    }

    /// `[3 · units, 9 · units]`
    fn recurrent(&self) -> Constant {
        let (u, steep) = (self.units, if self.tanh { 2.0 } else { 1.0 });
        pieces::map(&self.recurrent, vec![3 * u, 9 * u], move |r, _| {
            let mut out = vec![0.0; 27 * u * u];
            let mut set =
                |row: usize, block: usize, at: usize, value: f32| out[(row * 9 + block) * u + at] = value;
            for row in 0..u {
                for at in 0..u {
                    set(row, 0, at, r[row * 3 * u + at]);
                    set(row, 1, at, -r[row * 3 * u + u + at]);
                    set(row, 7, at, r[row * 3 * u + 2 * u + at]);
                }
                set(u + row, 2, row, -steep);
                set(2 * u + row, 6, row, 1.0);
            }
            out
        })
    }

    /// `[9 · units]`
    fn bias(&self) -> Result<Constant> {
        let (u, steep) = (self.units, if self.tanh { 2.0 } else { 1.0 });
        let fill = move |b: &[f32]| {
            let mut out = vec![0.0; 9 * u];
            for at in 0..u {
                if b.len() == 6 * u {
                    out[at] = b[at] + b[3 * u + at];
                    out[u + at] = -(b[u + at] + b[4 * u + at]);
                    out[2 * u + at] = -steep * b[2 * u + at];
                }
                out[5 * u + at] = SHUT;
            }
            out
        };
        Ok(match &self.bias {
            Some(bias) => pieces::map(bias, vec![9 * u], move |b, _| fill(b)),
            None => pieces::constant(&[9 * u], fill(&[]))?,
        })
    }

    fn weights(&self, prefix: &str) -> Result<Vec<(String, Constant)>> {
        Ok(vec![
            (format!("{prefix}kernel"), self.kernel()?),
            (format!("{prefix}recurrent_kernel"), self.recurrent()),
            (format!("{prefix}bias"), self.bias()?),
        ])
    }
}

/// The weights of a GRU, by the beginning of their names.
fn gru_of(
    source: &Source<'_>,
    config: &Map<String, Value>,
    prefix: &str,
    marks: (usize, usize),
) -> Option<Gru> {
    let find = |name: &str| {
        let mut found = source
            .weights
            .iter()
            .filter(|(n, _)| n.starts_with(prefix) && n.rsplit('/').next() == Some(name));
        found.next().map(|(_, w)| w.clone())
    };
    let (kernel, recurrent) = (find("kernel")?, find("recurrent_kernel")?);
    let units = *recurrent.shape().first()?;
    let text = |key: &str| config.get(key).and_then(Value::as_str);
    if text("recurrent_activation") != Some("sigmoid")
        || !matches!(text("activation"), Some("tanh" | "sigmoid"))
    {
        return None;
    }
    let bias = find("bias");
    if kernel.shape().last() != Some(&(3 * units)) || bias.as_ref().is_some_and(|b| b.len() != 6 * units) {
        return None;
    }
    Some(Gru {
        units,
        features: *kernel.shape().first()?,
        kernel,
        recurrent,
        bias,
        tanh: text("activation") == Some("tanh"),
        marks,
    })
}

/// Each step three times, with marks: (place of the mark, per step) for each direction.
fn thrice(
    f: &mut Fragment,
    input: &Fact,
    features: usize,
    directions: &[[usize; 3]],
) -> Result<Option<From>> {
    let marks = 3 * directions.len();
    let width = features + marks;
    let mut kernel = vec![0.0; features * 3 * width];
    let mut bias = vec![0.0; 3 * width];
    for step in 0..3 {
        for i in 0..features {
            kernel[i * 3 * width + step * width + i] = 1.0;
        }
        for (d, phases) in directions.iter().enumerate() {
            bias[step * width + features + 3 * d + phases[step]] = 1.0;
        }
    }
    let weights = vec![
        ("kernel".to_owned(), pieces::constant(&[features, 3 * width], kernel)?),
        ("bias".to_owned(), pieces::constant(&[3 * width], bias)?),
    ];
    let config = json!({"units": 3 * width, "activation": "linear", "use_bias": true, "trainable": false});
    let x = f.add_with("steps", "Dense", config, weights, &[From::Input(0)]);
    let steps = input.shape.as_ref().and_then(|s| s.get(1).copied().flatten());
    Ok(f.reshape(x, &[steps.map(|t| 3 * t), Some(width)]))
}

/// A state of the layer as one of the longer layer.
fn widened_state(f: &mut Fragment, x: From, units: usize) -> Result<From> {
    let mut kernel = vec![0.0; units * 3 * units];
    (0..units).for_each(|i| kernel[i * 3 * units + i] = 1.0);
    let weights = vec![("kernel".to_owned(), pieces::constant(&[units, 3 * units], kernel)?)];
    let config = json!({"units": 3 * units, "activation": "linear", "use_bias": false, "trainable": false});
    Ok(f.add_with("state", "Dense", config, weights, &[x]))
}

fn not_expressible() -> Outcome {
    Outcome::Unsupported(
        "TensorFlow.js has no GRU with `reset_after`, and these options leave no equivalent".into(),
    )
}

fn inner_config(config: &Map<String, Value>, units: usize) -> Map<String, Value> {
    let mut out = Map::new();
    for key in ["return_sequences", "return_state", "go_backwards", "stateful"] {
        out.insert(key.to_owned(), flag(config, key).into());
    }
    let set = json!({"units": 3 * units, "activation": "linear", "recurrent_activation": "sigmoid", "use_bias": true,
        "reset_after": false, "dropout": 0.0, "recurrent_dropout": 0.0, "implementation": 2, "unroll": false});
    out.extend(set.as_object().cloned().unwrap_or_default());
    out
}

fn gru(source: &mut Source<'_>) -> Result<Outcome> {
    if source.masked || source.has_kwarg("mask") {
        return Ok(Outcome::Unsupported(
            "TensorFlow.js has no GRU with `reset_after`, and a mask leaves no equivalent".into(),
        ));
    }
    let config = source.config.clone();
    let Some(gru) = gru_of(source, &config, "", (0, 3)) else { return Ok(not_expressible()) };
    let Some(input) = source.inputs.first() else { return Ok(not_expressible()) };
    let (u, back) = (gru.units, flag(&config, "go_backwards"));
    let mut f = Fragment::default();
    let phases = if back { [2, 1, 0] } else { [0, 1, 2] };
    let Some(x) = thrice(&mut f, input, gru.features, &[phases])? else { return Ok(not_expressible()) };
    let mut inputs = vec![x];
    if source.inputs.len() > 1 {
        inputs.push(widened_state(&mut f, From::Input(1), u)?);
    }
    let sequences = flag(&config, "return_sequences");
    let mut longer = inner_config(&config, u);
    // The last output is the state: TF.js disposes of both when the first of them is used up.
    longer.insert("return_state".to_owned(), (sequences && flag(&config, "return_state")).into());
    let out = f.add_with("gru", "GRU", longer.into(), gru.weights("")?, &inputs);
    let From::Part(at, _) = out else { return Ok(not_expressible()) };
    let steps = input.shape.as_ref().and_then(|s| s.get(1).copied().flatten());
    let written = (|| {
        let y = if sequences {
            let y = f.reshape(out, &[steps, Some(9 * u)])?;
            f.slice_last(y, &[steps, Some(9 * u)], 6 * u, 7 * u)?
        } else {
            f.slice_last(out, &[Some(3 * u)], 0, u)?
        };
        let mut outputs = vec![y];
        if flag(&config, "return_state") {
            outputs.push(if sequences {
                f.slice_last(From::Part(at, 1), &[Some(3 * u)], 0, u)?
            } else {
                f.function(y, "linear")
            });
        }
        Some(outputs)
    })();
    Ok(match written {
        Some(outputs) => Outcome::Replace(f.give(&outputs)),
        None => not_expressible(),
    })
}

/// Options of which the two directions of a Bidirectional may differ.
const OF_DIRECTION: &[&str] = &["name", "go_backwards", "trainable", "dtype", "seed"];

pub(super) fn bidirectional(source: &mut Source<'_>) -> Result<Outcome> {
    let mut config = source.config.clone();
    let layer = config.get("layer").cloned().unwrap_or_default();
    let class = layer["class_name"].as_str().unwrap_or_default().to_owned();
    let mut inner = layer["config"].as_object().cloned().unwrap_or_default();
    if !["SimpleRNN", "LSTM", "GRU", "RNN", "ConvLSTM2D"].contains(&class.as_str()) {
        return Ok(Outcome::Unsupported(format!("TensorFlow.js has no {class}")));
    }
    if let Some(backward) = config.remove("backward_layer").filter(|v| !v.is_null()) {
        let differs = |(key, value): (&String, &Value)| {
            !OF_DIRECTION.contains(&key.as_str())
                && !key.ends_with("_initializer")
                && inner.get(key).is_some_and(|own| own != value)
        };
        let other = backward["class_name"] != layer["class_name"];
        if other || backward["config"].as_object().is_some_and(|c| c.iter().any(differs)) {
            return Ok(Outcome::Unsupported("TensorFlow.js has one layer for both directions".into()));
        }
    }
    if let Some(reason) = lacking(&mut inner, source) {
        return Ok(Outcome::Unsupported(reason));
    }
    if source.masked && source.inputs.len() > 1 {
        return Ok(Outcome::Unsupported("TensorFlow.js takes no initial state together with a mask".into()));
    }
    if source.masked && flag(&inner, "return_sequences") {
        return Ok(Outcome::Unsupported(
            "TensorFlow.js repeats the last output at masked steps, where Keras gives zeros".into(),
        ));
    }
    let name = inner.get("name").and_then(Value::as_str).unwrap_or("layer").to_owned();
    inner.insert("name".to_owned(), name.strip_prefix("forward_").unwrap_or(&name).into());
    if class == "GRU" && flag(&inner, "reset_after") {
        return both_grus(source, &config, &inner);
    }
    if class == "GRU" {
        inner.insert("reset_after".to_owned(), false.into());
    }
    if class == "RNN" {
        let layer = LayerConfig::new("RNN", inner.clone());
        let mut cell = Source {
            layer: &layer,
            class: "RNN",
            config: inner.clone(),
            inputs: source.inputs[..1.min(source.inputs.len())].to_vec(),
            ..source.copy()
        };
        match rnn(&mut cell)? {
            Outcome::Keep => inner = cell.config,
            Outcome::Replace(_) => return Ok(not_expressible()),
            unsupported => return Ok(unsupported),
        }
    }
    config.insert("layer".to_owned(), json!({"class_name": class, "config": inner}));
    config.remove("weights");
    source.config = config;
    Ok(Outcome::Keep)
}

fn both_grus(
    source: &Source<'_>,
    config: &Map<String, Value>,
    inner: &Map<String, Value>,
) -> Result<Outcome> {
    if source.masked || source.has_kwarg("mask") || flag(inner, "go_backwards") {
        return Ok(not_expressible());
    }
    let (Some(forward), Some(backward)) =
        (gru_of(source, inner, "forward_", (0, 6)), gru_of(source, inner, "backward_", (3, 6)))
    else {
        return Ok(not_expressible());
    };
    let Some(input) = source.inputs.first() else { return Ok(not_expressible()) };
    let u = forward.units;
    let mut f = Fragment::default();
    // The backward direction meets the three steps in the opposite order.
    let Some(x) = thrice(&mut f, input, forward.features, &[[0, 1, 2], [2, 1, 0]])? else {
        return Ok(not_expressible());
    };
    let mut inputs = vec![x];
    for k in 1..source.inputs.len() {
        inputs.push(widened_state(&mut f, From::Input(k), u)?);
    }
    let mut weights = forward.weights("forward_gru/")?;
    weights.extend(backward.weights("backward_gru/")?);
    let mut longer = inner_config(inner, u);
    longer.insert("name".to_owned(), "gru".into());
    let both = json!({"layer": {"class_name": "GRU", "config": longer}, "merge_mode": "concat"});
    let out = f.add_with("both", "Bidirectional", both, weights, &inputs);
    let From::Part(at, _) = out else { return Ok(not_expressible()) };
    let steps = input.shape.as_ref().and_then(|s| s.get(1).copied().flatten());
    let sequences = flag(inner, "return_sequences");
    let mode = config.get("merge_mode").and_then(Value::as_str).unwrap_or("").to_owned();
    let mode = if config.contains_key("merge_mode") { mode } else { "concat".to_owned() };
    let written = (|| {
        let (ahead, behind) = if sequences {
            let dims = [steps, Some(18 * u)];
            let y = f.reshape(out, &dims)?;
            (f.slice_last(y, &dims, 12 * u, 13 * u)?, f.slice_last(y, &dims, 3 * u, 4 * u)?)
        } else {
            (f.slice_last(out, &[Some(6 * u)], 0, u)?, f.slice_last(out, &[Some(6 * u)], 3 * u, 4 * u)?)
        };
        let pair = [ahead, behind];
        let mut outputs = match mode.as_str() {
            "concat" => {
                vec![f.add("join", "Concatenate", json!({"axis": if sequences { 2 } else { 1 }}), &pair)]
            }
            "sum" => vec![f.sum(&pair)],
            "mul" => vec![f.product(&pair)],
            "ave" => vec![f.add("mean", "Average", json!({}), &pair)],
            _ => pair.to_vec(),
        };
        if flag(inner, "return_state") {
            for state in 1..=2 {
                outputs.push(f.slice_last(From::Part(at, state), &[Some(3 * u)], 0, u)?);
            }
        }
        Some(outputs)
    })();
    Ok(match written {
        Some(outputs) => Outcome::Replace(f.give(&outputs)),
        None => not_expressible(),
    })
}

/// Layers that do the same to every step without being told.
const PER_ELEMENT: &[&str] = &[
    "Add",
    "Multiply",
    "Average",
    "Maximum",
    "Minimum",
    "Activation",
    "Rescaling",
    "ReLU",
    "LeakyReLU",
    "ThresholdedReLU",
];

pub(super) fn time_distributed(source: &mut Source<'_>) -> Result<Outcome> {
    let Some(layer) = source.config.get("layer").cloned() else { return Ok(Outcome::Keep) };
    if layer["config"]["layers"].is_array() {
        return Ok(Outcome::Unsupported("TensorFlow.js finds no weights of a model in a wrapper".into()));
    }
    let without_time = |fact: &Fact| {
        let mut fact = fact.clone();
        if let Some(shape) = fact.shape.as_mut().filter(|s| s.len() > 1) {
            shape.remove(1);
        }
        fact
    };
    let inner = LayerConfig {
        calls: source.layer.calls.clone(),
        ..LayerConfig::new(
            layer["class_name"].as_str().unwrap_or_default(),
            layer["config"].as_object().cloned().unwrap_or_default(),
        )
    };
    let outputs: Vec<Fact> = source.outputs.iter().map(without_time).collect();
    let mut child = Source {
        layer: &inner,
        class: &inner.class_name,
        config: inner.config.clone(),
        dialect: source.dialect,
        masked: source.masked,
        inputs: source.inputs.iter().map(without_time).collect(),
        outputs: &outputs,
        weights: source.weights.clone(),
    };
    let outcome = super::lower(&mut child)?;
    let wrap =
        |class: &str, config: Map<String, Value>| json!({"layer": {"class_name": class, "config": config}});
    match outcome {
        Outcome::Keep => {
            let config = child.config;
            let wrapped = wrap(&inner.class_name, config);
            source.config.extend(wrapped.as_object().cloned().unwrap_or_default());
            Ok(Outcome::Keep)
        }
        Outcome::Replace(mut fragment) => {
            for part in &mut fragment.parts {
                if PER_ELEMENT.contains(&part.class.as_str()) {
                    continue;
                }
                if part.class == "Concatenate" {
                    let axis = part.config.get("axis").and_then(Value::as_i64).unwrap_or(-1);
                    part.config.insert("axis".to_owned(), (axis + i64::from(axis > 0)).into());
                    continue;
                }
                if part.inputs.len() != 1 {
                    return Ok(Outcome::Unsupported("its inner layer has no equivalent of one input".into()));
                }
                let mut config = std::mem::take(&mut part.config);
                config.insert("name".to_owned(), part.suffix.clone().into());
                config.entry("trainable").or_insert(true.into());
                config.entry("dtype").or_insert("float32".into());
                part.config = wrap(&part.class, config).as_object().cloned().unwrap_or_default();
                part.class = "TimeDistributed".to_owned();
            }
            Ok(Outcome::Replace(fragment))
        }
        unsupported => Ok(unsupported),
    }
}

/// ConvLSTM2D, and ConvLSTM1D with a second axis of size 1.
pub(super) fn conv_lstm(source: &mut Source<'_>) -> Result<Outcome> {
    let mut config = source.config.clone();
    if let Some(reason) = lacking(&mut config, source) {
        return Ok(Outcome::Unsupported(reason));
    }
    source.config = config;
    if source.inputs.len() > 1 {
        return Ok(Outcome::Unsupported("TensorFlow.js takes no initial state there".into()));
    }
    if source.class == "ConvLSTM2D" {
        return Ok(Outcome::Keep);
    }
    let no = || Outcome::Unsupported("TensorFlow.js lacks it, and these options leave no equivalent".into());
    let shape = activation::dims(source.inputs.first()).unwrap_or_default();
    let &[steps, length, channels] = shape.as_slice() else { return Ok(no()) };
    if !source.channels_last()
        || source.inputs.len() > 1
        || flag(&source.config, "return_state")
        || source.masked
    {
        return Ok(no());
    }
    let mut f = Fragment::default();
    let Some(x) = f.reshape(From::Input(0), &[steps, length, Some(1), channels]) else { return Ok(no()) };
    for name in ["kernel", "recurrent_kernel"] {
        source.change(name, |k| {
            let mut shape = k.shape().to_vec();
            shape.insert(1, 1);
            pieces::reshaped(k, shape)
        });
    }
    for key in ["kernel_size", "strides", "dilation_rate"] {
        let n = match source.config.get(key) {
            Some(Value::Array(items)) => items.first().cloned().unwrap_or(json!(1)),
            Some(n) if n.is_number() => n.clone(),
            _ => json!(1),
        };
        source.config.insert(key.to_owned(), json!([n, 1]));
    }
    let x = f.add_with("lstm", "ConvLSTM2D", source.config.clone().into(), source.weights.clone(), &[x]);
    let out = activation::dims(source.outputs.first()).unwrap_or_default();
    Ok(match f.reshape(x, &out) {
        Some(x) => Outcome::Replace(f.give(&[x])),
        None => no(),
    })
}
