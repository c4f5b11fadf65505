//! Classes and options of Keras 1 in the words of Keras 2, and its weights in the layout of Keras 2.

use std::{collections::HashMap, ops::Range};

use serde_json::{Map, Value, json};
use tfjs_format::proto::DataType;
use tfjs_graph::{Constant, LoadError};
use tfjs_kernels::Tensor;

use super::LayerConfig;
use crate::{Network, Params, StoredWeight, StoredWeights};

/// Classes that changed their names, those of TensorFlow 1.13 too.
const CLASSES: &[(&str, &str)] = &[
    ("Convolution1D", "Conv1D"),
    ("Convolution2D", "Conv2D"),
    ("Convolution3D", "Conv3D"),
    ("AtrousConvolution1D", "Conv1D"),
    ("AtrousConvolution2D", "Conv2D"),
    ("AtrousConv1D", "Conv1D"),
    ("AtrousConv2D", "Conv2D"),
    ("Deconvolution2D", "Conv2DTranspose"),
    ("Deconvolution3D", "Conv3DTranspose"),
    ("SeparableConvolution2D", "SeparableConv2D"),
    ("TimeDistributedDense", "Dense"),
];

/// Classes of later versions that are other names of what there is.
const ALIASES: &[(&str, &str)] =
    &[("BatchNormalizationV1", "BatchNormalization"), ("UnifiedGRU", "GRU"), ("UnifiedLSTM", "LSTM")];

/// Options that changed their names.
const OPTIONS: &[(&str, &str)] = &[
    ("nb_filter", "filters"),
    ("output_dim", "units"),
    ("init", "kernel_initializer"),
    ("inner_init", "recurrent_initializer"),
    ("inner_activation", "recurrent_activation"),
    ("bias", "use_bias"),
    ("border_mode", "padding"),
    ("subsample", "strides"),
    ("subsample_length", "strides"),
    ("filter_length", "kernel_size"),
    ("atrous_rate", "dilation_rate"),
    ("pool_length", "pool_size"),
    ("stride", "strides"),
    ("W_regularizer", "kernel_regularizer"),
    ("U_regularizer", "recurrent_regularizer"),
    ("b_regularizer", "bias_regularizer"),
    ("W_constraint", "kernel_constraint"),
    ("U_constraint", "recurrent_constraint"),
    ("b_constraint", "bias_constraint"),
    ("dropout_W", "dropout"),
    ("dropout_U", "recurrent_dropout"),
    ("beta_init", "beta_initializer"),
    ("gamma_init", "gamma_initializer"),
    ("sigma", "stddev"),
    ("length", "size"),
];

/// Options without a meaning since Keras 2.
const GONE: &[&str] = &["consume_less", "mode", "arguments", "node_indices", "tensor_indices", "weights"];

/// The newer name of a class, whatever the dialect.
pub(super) fn class_name(class: &str) -> &str {
    ALIASES.iter().find(|(old, _)| *old == class).map_or(class, |(_, new)| new)
}

/// Brings a layer into the words of Keras 2.
pub(super) fn upgrade(class: &mut String, config: &mut Map<String, Value>) {
    if class == "Merge" {
        merge(class, config);
        return;
    }
    if let Some((_, new)) = CLASSES.iter().find(|(old, _)| *old == class.as_str()) {
        *class = (*new).to_owned();
    }
    let sizes: Vec<Value> = ["nb_row", "nb_col"].iter().filter_map(|k| config.shift_remove(*k)).collect();
    let cubes: Vec<Value> = ["kernel_dim1", "kernel_dim2", "kernel_dim3"]
        .iter()
        .filter_map(|k| config.shift_remove(*k))
        .collect();
    for list in [sizes, cubes].into_iter().filter(|l| !l.is_empty()) {
        config.insert("kernel_size".to_owned(), list.into());
    }
    if let Some(order) = config.shift_remove("dim_ordering") {
        let format = if order == "th" { "channels_first" } else { "channels_last" };
        config.insert("data_format".to_owned(), format.into());
    }
    if let Some(forget) = config.shift_remove("forget_bias_init") {
        config.insert("unit_forget_bias".to_owned(), (forget == "one" || forget == "ones").into());
    }
    if let Some(p) = config.shift_remove("p") {
        config.insert("rate".to_owned(), p);
    }
    let mut renamed = Map::new();
    for (key, value) in std::mem::take(config) {
        let key = match (class.as_str(), key.as_str()) {
            ("Embedding", "init") => "embeddings_initializer",
            ("Embedding", "W_regularizer") => "embeddings_regularizer",
            ("Embedding", "W_constraint") => "embeddings_constraint",
            ("Embedding", "output_dim") => "output_dim",
            ("Embedding", "dropout") => continue,
            ("PReLU", "init") => "alpha_initializer",
            (_, key) if GONE.contains(&key) => continue,
            (_, key) => OPTIONS.iter().find(|(old, _)| *old == key).map_or(key, |(_, new)| new),
        };
        let value = match key {
            key if key.ends_with("_initializer") => initializer(value),
            key if key.ends_with("_regularizer") => regularizer(value),
            _ => value,
        };
        renamed.insert(key.to_owned(), value);
    }
    *config = renamed;
    // What a wrapper holds.
    if let Some(Value::Object(inner)) = config.get_mut("layer")
        && let Some(mut class) = inner.get("class_name").and_then(Value::as_str).map(str::to_owned)
        && let Some(Value::Object(options)) = inner.get_mut("config")
        && !options.contains_key("layers")
    {
        upgrade(&mut class, options);
        inner.insert("class_name".to_owned(), class.into());
    }
}

fn initializer(value: Value) -> Value {
    match value.as_str() {
        Some("zero") => "zeros".into(),
        Some("one") => "ones".into(),
        Some("normal") => "random_normal".into(),
        Some("uniform") => "random_uniform".into(),
        _ => value,
    }
}

/// `{name: "WeightRegularizer", l1, l2}`
fn regularizer(value: Value) -> Value {
    if value.get("class_name").is_some() || !value.is_object() {
        return value;
    }
    let get = |key: &str| value.get(key).cloned().unwrap_or(json!(0.0));
    json!({"class_name": "L1L2", "config": {"l1": get("l1"), "l2": get("l2")}})
}

/// One class for all merges, told apart by `mode`.
fn merge(class: &mut String, config: &mut Map<String, Value>) {
    let branches = config.get("layers").and_then(Value::as_array).is_some_and(|l| !l.is_empty());
    let mode = config.get("mode").and_then(Value::as_str).unwrap_or("sum").to_owned();
    let new = match mode.as_str() {
        "sum" => "Add",
        "mul" => "Multiply",
        "ave" => "Average",
        "max" => "Maximum",
        "min" => "Minimum",
        "concat" => "Concatenate",
        "dot" | "cos" => "Dot",
        _ => return,
    };
    if branches {
        return;
    }
    let mut out = Map::new();
    for key in ["name", "trainable"] {
        out.extend(config.get(key).map(|v| (key.to_owned(), v.clone())));
    }
    match new {
        "Concatenate" => {
            out.insert("axis".to_owned(), config.get("concat_axis").cloned().unwrap_or(json!(-1)));
        }
        "Dot" => {
            let axes = config.get("dot_axes").cloned().unwrap_or(json!(-1));
            // Keras 1 counted them in pairs of lists.
            let flat = axes.as_array().map(|a| a.iter().map(|v| v.get(0).unwrap_or(v).clone()).collect());
            out.insert("axes".to_owned(), flat.unwrap_or(axes));
            out.insert("normalize".to_owned(), (mode == "cos").into());
        }
        _ => {}
    }
    *class = new.to_owned();
    *config = out;
}

/// Weights of a file of Keras 1, or of one written with Theano, in the layout of Keras 2 and under the names of the layers.
pub(crate) fn weights(
    network: &Network,
    params: &Params,
    weights: &StoredWeights,
    keras1: bool,
    theano: bool,
) -> Option<StoredWeights> {
    let StoredWeights::ByLayer(layers) = weights else { return None };
    if !keras1 && !theano {
        return None;
    }
    let places = if keras1 { by_position(network, layers) } else { None };
    let upgraded = layers.iter().enumerate().map(|(at, (name, stored))| {
        let place = match &places {
            Some(places) => places.get(&at).copied(),
            None => network.config.layers.iter().position(|l| l.name == *name),
        };
        let Some(place) = place else { return (name.clone(), stored.clone()) };
        let layer = &network.config.layers[place];
        let own = match network.nodes[place].layer.network() {
            Some(inner) => nested_weights(inner, params, stored, keras1, theano),
            None => Some(layer_weights(layer, stored, keras1, theano)),
        };
        (layer.name.clone(), own.unwrap_or_else(|| stored.clone()))
    });
    Some(StoredWeights::ByLayer(upgraded.collect()))
}

/// Which layer each entry of a file belongs to, where names do not say: Keras 1 went by the order of the layers that have
/// weights, and did not write the names of sequential models within others.
fn by_position(network: &Network, layers: &[(String, Vec<StoredWeight>)]) -> Option<HashMap<usize, usize>> {
    let filled = || layers.iter().enumerate().filter(|(_, (_, w))| !w.is_empty());
    if filled().all(|(_, (name, _))| network.config.layers.iter().any(|l| l.name == *name)) {
        return None;
    }
    let places: Vec<usize> =
        (0..network.nodes.len()).filter(|&i| !network.nodes[i].weights.is_empty()).collect();
    (filled().count() == places.len()).then(|| filled().map(|(at, _)| at).zip(places).collect())
}

/// The layers of a model and of those inside it, with their weights.
fn leaves<'n>(network: &'n Network, out: &mut Vec<(&'n LayerConfig, Range<usize>)>) {
    for (layer, node) in network.config.layers.iter().zip(&network.nodes) {
        match node.layer.network() {
            Some(inner) => leaves(inner, out),
            None => out.push((layer, node.weights.clone())),
        }
    }
}

/// Weights of a model inside another: those that are trained, layer by layer, then the others, layer by layer. `None` when
/// there are more or fewer than its layers have.
fn nested_weights(
    network: &Network,
    params: &Params,
    stored: &[StoredWeight],
    keras1: bool,
    theano: bool,
) -> Option<Vec<StoredWeight>> {
    let mut all = Vec::new();
    leaves(network, &mut all);
    let trained = |i: usize| params.weights[i].trainable;
    let ids = |of: &Range<usize>, which: bool| {
        of.clone().filter(|&i| trained(i) == which && !params.weights[i].optional()).collect::<Vec<_>>()
    };
    let mut rest = stored;
    let mut own: Vec<Vec<StoredWeight>> = vec![Vec::new(); all.len()];
    for which in [true, false] {
        for ((layer, of), own) in all.iter().zip(&mut own) {
            let count = ids(of, which).len();
            if count == 0 {
                continue;
            }
            let parts = if keras1 { parts(layer, rest.first()?) } else { 1 };
            let (here, others) = rest.split_at_checked(count * parts)?;
            own.extend_from_slice(here);
            rest = others;
        }
    }
    let mut found = Vec::new();
    for ((layer, of), own) in all.iter().zip(&own) {
        let ids: Vec<usize> = [true, false].into_iter().flat_map(|which| ids(of, which)).collect();
        let upgraded = if own.is_empty() { Vec::new() } else { layer_weights(layer, own, keras1, theano) };
        if upgraded.len() != ids.len() {
            return None;
        }
        found.extend(ids.into_iter().zip(upgraded));
    }
    // The order in which the weights of the whole are given out.
    found.sort_by_key(|(i, _)| (!trained(*i), *i));
    rest.is_empty().then(|| found.into_iter().map(|(_, w)| w).collect())
}

/// How many arrays Keras 1 stored for one of Keras 2: one for each gate, if it was not told to join them.
fn parts(layer: &LayerConfig, first: &StoredWeight) -> usize {
    if let ("TimeDistributed" | "Bidirectional", Some(inner)) =
        (layer.class_name.as_str(), layer.config.get("layer"))
    {
        return LayerConfig::nested(inner, crate::Dialect::Keras1).map_or(1, |inner| parts(&inner, first));
    }
    let units = layer.config.get("units").and_then(Value::as_u64);
    let apart = units.is_some_and(|n| first.value.shape().last().is_some_and(|&d| d as u64 == n));
    match layer.class_name.as_str() {
        "LSTM" if apart => 4,
        "GRU" if apart => 3,
        "ConvLSTM2D" => 4,
        _ => 1,
    }
}

fn layer_weights(
    layer: &LayerConfig,
    stored: &[StoredWeight],
    keras1: bool,
    theano: bool,
) -> Vec<StoredWeight> {
    let (mut class, mut config) = (layer.class_name.as_str(), &layer.config);
    if let ("TimeDistributed", Some(Value::Object(inner))) = (class, layer.config.get("layer")) {
        class = inner.get("class_name").and_then(Value::as_str).unwrap_or_default();
        config = inner.get("config").and_then(Value::as_object).unwrap_or(config);
    }
    if class == "Bidirectional" && stored.len().is_multiple_of(2) {
        let Some(inner) =
            layer.config.get("layer").and_then(|l| LayerConfig::nested(l, crate::Dialect::Keras1).ok())
        else {
            return stored.to_vec();
        };
        let (ahead, behind) = stored.split_at(stored.len() / 2);
        return [ahead, behind].iter().flat_map(|half| layer_weights(&inner, half, keras1, theano)).collect();
    }
    let mut out = stored.to_vec();
    if keras1 {
        let first = config.get("data_format").and_then(Value::as_str) == Some("channels_first");
        match (class, out.len()) {
            ("Conv1D", 1 | 2) if out[0].value.shape().len() == 4 => {
                let shape = out[0].value.shape().to_vec();
                let filters = config.get("filters").and_then(Value::as_u64).unwrap_or(0) as usize;
                if shape[1] != 1 || shape[3] != filters {
                    out[0] = transposed(&out[0], &[2, 3, 1, 0]);
                }
                let shape = out[0].value.shape().to_vec();
                out[0] = reshaped(&out[0], vec![shape[0] * shape[1], shape[2], shape[3]]);
            }
            ("Conv2D", 1 | 2) if first => out[0] = transposed(&out[0], &[2, 3, 1, 0]),
            ("Conv2DTranspose", 1 | 2) if first => out[0] = transposed(&out[0], &[2, 3, 0, 1]),
            ("Conv2DTranspose", 1 | 2) => out[0] = transposed(&out[0], &[0, 1, 3, 2]),
            ("Conv3D", 1 | 2) if first => out[0] = transposed(&out[0], &[2, 3, 4, 1, 0]),
            // One set of weights per gate, input, candidate, forget, output.
            ("LSTM" | "ConvLSTM2D", 12) => out = gates(stored, &[0, 6, 3, 9]),
            ("GRU", 9) => out = gates(stored, &[0, 3, 6]),
            _ => {}
        }
    }
    if theano && class.starts_with("Conv") {
        // Theano turns kernels round when it convolves.
        for weight in out.iter_mut().take(if class == "ConvLSTM2D" { 2 } else { 1 }) {
            *weight = flipped(weight);
        }
    }
    out
}

fn computed(
    weight: &StoredWeight,
    shape: Vec<usize>,
    f: impl Fn(&[f32]) -> Vec<f32> + Send + Sync + 'static,
) -> StoredWeight {
    let target = shape.clone();
    let value = weight
        .value
        .map(shape, move |t| Tensor::new(&target[..], f(t.data::<f32>()?)).map_err(LoadError::from));
    StoredWeight { name: weight.name.clone(), value }
}

fn reshaped(weight: &StoredWeight, shape: Vec<usize>) -> StoredWeight {
    computed(weight, shape, <[f32]>::to_vec)
}

fn transposed(weight: &StoredWeight, order: &[usize]) -> StoredWeight {
    let shape = weight.value.shape().to_vec();
    if shape.len() != order.len() {
        return weight.clone();
    }
    let to: Vec<usize> = order.iter().map(|&o| shape[o]).collect();
    let (order, target) = (order.to_vec(), to.clone());
    computed(weight, to, move |values| {
        let mut strides = vec![1; shape.len()];
        for i in (0..shape.len().saturating_sub(1)).rev() {
            strides[i] = strides[i + 1] * shape[i + 1];
        }
        let at = |flat: usize| -> usize {
            let mut rest = flat;
            let mut from = 0;
            for axis in (0..target.len()).rev() {
                from += rest % target[axis] * strides[order[axis]];
                rest /= target[axis];
            }
            from
        };
        (0..values.len()).map(|i| values[at(i)]).collect()
    })
}

/// All axes but the last two in the opposite direction.
fn flipped(weight: &StoredWeight) -> StoredWeight {
    let shape = weight.value.shape().to_vec();
    let inner: usize = shape.iter().rev().take(2).product();
    computed(weight, shape, move |values| values.chunks(inner.max(1)).rev().flatten().copied().collect())
}

/// Weights per gate as one for all gates: kernels, recurrent kernels, biases.
fn gates(stored: &[StoredWeight], first: &[usize]) -> Vec<StoredWeight> {
    let names = ["kernel", "recurrent_kernel", "bias"];
    let scope = stored[0].name.rsplit_once('/').map_or(String::new(), |(s, _)| format!("{s}/"));
    let join = |(kind, name): (usize, &&str)| {
        let parts: Vec<Constant> = first.iter().map(|&g| stored[g + kind].value.clone()).collect();
        let widths: Vec<usize> = parts.iter().map(|p| p.shape().last().copied().unwrap_or(1)).collect();
        let mut shape = parts[0].shape().to_vec();
        if let Some(last) = shape.last_mut() {
            *last = widths.iter().sum();
        }
        let target = shape.clone();
        let value = Constant::deferred(DataType::DtFloat, shape, move || {
            let tensors = parts.iter().map(Constant::tensor).collect::<Result<Vec<_>, _>>()?;
            let rows: usize = target.iter().rev().skip(1).product();
            let mut out = Vec::new();
            for row in 0..rows {
                for (tensor, width) in tensors.iter().zip(&widths) {
                    let data = tensor.data::<f32>()?;
                    out.extend_from_slice(data.get(row * width..(row + 1) * width).unwrap_or_default());
                }
            }
            Tensor::new(&target[..], out).map_err(LoadError::from)
        });
        StoredWeight { name: format!("{scope}{name}"), value }
    };
    names.iter().enumerate().map(join).collect()
}
