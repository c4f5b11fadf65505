//! `TensorFlowOpLayer` of TensorFlow 2.0 to 2.3: a node of a graph as JSON, and the values of its constant inputs.

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Map, Value};
use tfjs_format::proto::{DataType, attr_value::ListValue, attr_value::Value as Attr};
use tfjs_graph::Port;

use super::args::constant;
use super::{Result, one};
use crate::{Call, Config, Emit, Layer, LayersError, Sym};

/// A layer from `config.node_def` and `config.constants`.
pub(super) fn new(c: &Config<'_>) -> Result<Box<dyn Layer>> {
    let wrong = || c.wrong("node_def", "a node of a graph");
    let node: Value = match c.get("node_def") {
        Some(Value::String(text)) => serde_json::from_str(text).map_err(|_| wrong())?,
        Some(node @ Value::Object(_)) => node.clone(),
        _ => return Err(wrong()),
    };
    let op = node.get("op").and_then(Value::as_str).ok_or_else(wrong)?.to_owned();
    let attrs = node.get("attr").and_then(Value::as_object).cloned().unwrap_or_default();
    let mut constants = Vec::new();
    for (index, value) in c.get("constants").and_then(Value::as_object).into_iter().flatten() {
        let index = index.parse().map_err(|_| c.wrong("constants", "values by the index of an input"))?;
        constants.push((index, value.clone()));
    }
    constants.sort_by_key(|(index, _)| *index);
    Ok(Box::new(Node { op, attrs, constants }))
}

#[derive(Debug)]
struct Node {
    op: String,
    attrs: Map<String, Value>,
    /// By input.
    constants: Vec<(usize, Value)>,
}

impl Layer for Node {
    fn call(&self, g: &mut Emit, call: &Call) -> Result<Vec<Sym>> {
        let mut inputs: Vec<Port> = call.inputs.iter().map(|s| s.port).collect();
        let like = inputs.first().map(|&p| g.dtype(p));
        for (index, value) in &self.constants {
            let argument = || LayersError::Argument {
                argument: format!("constants[{index}]"),
                problem: "it is no tensor".to_owned(),
            };
            let value = constant(value, like).ok_or_else(argument)?;
            let value = g.constant(value);
            inputs.insert((*index).min(inputs.len()), value);
        }
        let mut attrs: Vec<(&str, Attr)> = Vec::new();
        for (name, value) in &self.attrs {
            // Types of inputs follow from them; those written here may be wider (float64, int64).
            if matches!(
                name.as_str(),
                "T" | "N"
                    | "Tidx"
                    | "Tshape"
                    | "Tperm"
                    | "Tpaddings"
                    | "Tdim"
                    | "Tparams"
                    | "Tindices"
                    | "Taxis"
            ) {
                continue;
            }
            let problem =
                || LayersError::Argument { argument: name.clone(), problem: "it is no attribute".to_owned() };
            attrs.push((name, attribute(value).ok_or_else(problem)?));
        }
        let count = ["num_split", "num"].iter().find_map(|n| integer(self.attrs.get(*n)?.get("i")?));
        let outputs = match (self.op.as_str(), count) {
            ("TopKV2", _) => g.op_n(&self.op, &inputs, &attrs, 2)?,
            (_, Some(n)) => g.op_n(&self.op, &inputs, &attrs, usize::try_from(n).unwrap_or(1))?,
            _ => one(g.op(&self.op, &inputs, &attrs))?,
        };
        Ok(outputs.into_iter().map(Sym::from).collect())
    }
}

/// 64-bit integers are strings in protobuf's JSON.
fn integer(value: &Value) -> Option<i64> {
    value.as_i64().or_else(|| value.as_str()?.parse().ok())
}

fn bytes(value: &Value) -> Option<Vec<u8>> {
    STANDARD.decode(value.as_str()?).ok()
}

fn data_type(value: &Value) -> Option<i32> {
    match value {
        Value::Number(n) => i32::try_from(n.as_i64()?).ok(),
        other => DataType::from_str_name(other.as_str()?).map(|t| t as i32),
    }
}

fn attribute(value: &Value) -> Option<Attr> {
    let (kind, value) = value.as_object()?.iter().next()?;
    Some(match kind.as_str() {
        "i" => Attr::I(integer(value)?),
        "f" => Attr::F(crate::config::number(value)? as f32),
        "b" => Attr::B(value.as_bool()?),
        "s" => Attr::S(bytes(value)?.into()),
        "type" => Attr::Type(data_type(value)?),
        "list" => {
            let mut list = ListValue::default();
            for (kind, items) in value.as_object()? {
                for item in items.as_array()? {
                    match kind.as_str() {
                        "i" => list.i.push(integer(item)?),
                        "f" => list.f.push(crate::config::number(item)? as f32),
                        "b" => list.b.push(item.as_bool()?),
                        "s" => list.s.push(bytes(item)?.into()),
                        "type" => list.r#type.push(data_type(item)?),
                        _ => return None,
                    }
                }
            }
            Attr::List(Box::new(list))
        }
        _ => return None,
    })
}
