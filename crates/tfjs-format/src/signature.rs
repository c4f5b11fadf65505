//! Signatures: the names under which a graph's inputs and outputs are known.
use std::marker::PhantomData;

use indexmap::IndexMap;
use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};
use serde_json::{Map, Value};

use crate::FormatError;
use crate::graph_json::{AsJson, Enum, Plain, dtype_from_json, shape_from_json};
use crate::json::{self, Place};
use crate::proto::{DataType, TensorShapeProto};
use crate::weights::extend;

/// Inputs and outputs of a graph by key, in the order of the file (TF.js passes lists in this order).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Signature {
    /// Key to input tensor.
    pub inputs: IndexMap<String, TensorInfo>,
    /// Key to output tensor.
    pub outputs: IndexMap<String, TensorInfo>,
    /// Fields that this crate does not know.
    pub extra: Map<String, Value>,
}

/// A tensor of a graph, as a signature describes it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TensorInfo {
    /// Tensor name such as `x:0`; frozen graphs have bare node names.
    pub name: String,
    /// TensorFlow's type, if known.
    pub dtype: Option<DataType>,
    /// Shape, if known.
    pub tensor_shape: Option<TensorShapeProto>,
    /// Ties the handle of a resource (a hash table) to the initializer's output with the same number.
    pub resource_id: Option<i64>,
    /// Fields that this crate does not know.
    pub extra: Map<String, Value>,
}

impl TensorInfo {
    /// Dimensions; `None` for unknown ones, and `None` altogether when not even the rank is known.
    pub fn dims(&self) -> Option<Vec<Option<usize>>> {
        let shape = self.tensor_shape.as_ref().filter(|shape| !shape.unknown_rank)?;
        Some(shape.dim.iter().map(|dim| usize::try_from(dim.size).ok()).collect())
    }
}

impl Signature {
    pub(crate) fn from_json(value: Value, at: &Place<'_>) -> Result<Signature, FormatError> {
        let mut signature = Signature::default();
        for (key, value) in json::object(value, at)? {
            let at = at.key(&key);
            match key.as_str() {
                "inputs" | "outputs" if value.is_null() => {}
                "inputs" => signature.inputs = tensors(value, &at)?,
                "outputs" => signature.outputs = tensors(value, &at)?,
                _ => {
                    signature.extra.insert(key, value);
                }
            }
        }
        Ok(signature)
    }
}

fn tensors(value: Value, at: &Place<'_>) -> Result<IndexMap<String, TensorInfo>, FormatError> {
    json::object(value, at)?
        .into_iter()
        .map(|(key, value)| {
            let info = TensorInfo::from_json(value, &at.key(&key))?;
            Ok((key, info))
        })
        .collect()
}

impl TensorInfo {
    fn from_json(value: Value, at: &Place<'_>) -> Result<TensorInfo, FormatError> {
        let mut info = TensorInfo::default();
        for (key, value) in json::object(value, at)? {
            let at = at.key(&key);
            match key.as_str() {
                _ if value.is_null() => {
                    info.extra.insert(key, value);
                }
                "name" => info.name = json::string(value, &at)?,
                "dtype" => {
                    let number = dtype_from_json(value, &at)?;
                    let known = DataType::try_from(number);
                    info.dtype = Some(known.map_err(|_| at.wrong("a data type", &number.into()))?);
                }
                "tensorShape" | "tensor_shape" => info.tensor_shape = Some(shape_from_json(value, &at)?),
                "resourceId" | "resource_id" => info.resource_id = Some(json::integer(&value, &at)?),
                _ => {
                    info.extra.insert(key, value);
                }
            }
        }
        Ok(info)
    }
}

impl Serialize for Signature {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        if !self.inputs.is_empty() {
            map.serialize_entry("inputs", &self.inputs)?;
        }
        if !self.outputs.is_empty() {
            map.serialize_entry("outputs", &self.outputs)?;
        }
        extend(&mut map, &self.extra)?;
        map.end()
    }
}

impl Serialize for TensorInfo {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        if !self.name.is_empty() {
            map.serialize_entry("name", &self.name)?;
        }
        if let Some(dtype) = self.dtype {
            map.serialize_entry("dtype", &AsJson(&(dtype as i32), PhantomData::<Enum>))?;
        }
        if let Some(shape) = &self.tensor_shape {
            map.serialize_entry("tensorShape", &AsJson(shape, PhantomData::<Plain>))?;
        }
        if let Some(id) = self.resource_id {
            map.serialize_entry("resourceId", &id)?;
        }
        extend(&mut map, &self.extra)?;
        map.end()
    }
}
