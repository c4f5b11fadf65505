//! The topology in TF.js's dialect.

use serde_json::{Map, Value, json};

use super::draft::{Draft, DraftLayer};
use crate::topology::{Arg, CallConfig, TensorRef};

/// `{class_name, config}` of a model.
pub(super) fn model(draft: &Draft) -> Value {
    json!({"class_name": draft.class_name, "config": config(draft)})
}

fn config(draft: &Draft) -> Value {
    if draft.class_name == "Sequential" {
        let layers: Vec<Value> = draft
            .layers
            .iter()
            .map(|l| json!({"class_name": l.class_name, "config": layer_config(l)}))
            .collect();
        return json!({"name": draft.name, "layers": layers});
    }
    let layers: Vec<Value> = draft
        .layers
        .iter()
        .map(|l| {
            let nodes: Vec<Value> =
                if l.class_name == "InputLayer" { Vec::new() } else { l.calls.iter().map(|c| node(draft, c)).collect() };
            let mut entry =
                json!({"class_name": l.class_name, "config": layer_config(l), "name": l.name, "inbound_nodes": nodes});
            if let Some(module) = &l.module {
                entry["module"] = module.clone().into();
            }
            entry
        })
        .collect();
    let ends = |ends: &[TensorRef]| ends.iter().map(|t| reference(draft, t)).collect::<Vec<_>>();
    json!({"name": draft.name, "layers": layers,
           "input_layers": ends(&draft.inputs), "output_layers": ends(&draft.outputs)})
}

fn layer_config(layer: &DraftLayer) -> Value {
    match &layer.model {
        Some(model) => {
            let mut config = config(model);
            config["name"] = layer.name.clone().into();
            config
        }
        None => layer.config.clone().into(),
    }
}

/// `[layer, call, tensor]`; the call by which a model was itself made counts as its first.
fn reference(draft: &Draft, t: &TensorRef) -> Value {
    let layer = &draft.layers[t.layer];
    let call = t.call + usize::from(layer.model.is_some());
    json!([layer.name, call, t.tensor])
}

fn node(draft: &Draft, call: &CallConfig) -> Value {
    let plain = |a: &Arg<TensorRef>| matches!(a, Arg::Tensor(_));
    let tensors = match call.args.as_slice() {
        [one] if plain(one) => Some(one.tensors()),
        [Arg::List(items)] if items.iter().all(plain) => Some(call.args[0].tensors()),
        _ => None,
    };
    let kwargs: Map<String, Value> =
        call.kwargs.iter().map(|(k, a)| (k.clone(), argument(draft, a, tensors.is_none()))).collect();
    match tensors {
        Some(tensors) => {
            let mut entries: Vec<Value> = tensors.into_iter().map(|t| reference(draft, t)).collect();
            for entry in &mut entries {
                if let Value::Array(items) = entry {
                    items.push(kwargs.clone().into());
                }
            }
            entries.into()
        }
        // Operations, which TF.js does not have: in the form of Keras 3, which can say it.
        None => {
            let args: Vec<Value> = call.args.iter().map(|a| argument(draft, a, true)).collect();
            json!({"args": args, "kwargs": kwargs})
        }
    }
}

fn argument(draft: &Draft, arg: &Arg<TensorRef>, keras3: bool) -> Value {
    match arg {
        Arg::Tensor(t) if keras3 => {
            json!({"class_name": "__keras_tensor__", "config": {"keras_history": reference(draft, t)}})
        }
        Arg::Tensor(t) => reference(draft, t),
        Arg::Value(value) => value.clone(),
        Arg::List(items) => items.iter().map(|a| argument(draft, a, keras3)).collect(),
        Arg::Dict(items) => {
            Value::Object(items.iter().map(|(k, a)| (k.clone(), argument(draft, a, keras3))).collect())
        }
    }
}
