//! `GraphDef` as protobuf JSON: strict in what is written, lenient in what is read.
//!
//! Written is what protobuf's own `MessageToDict` gives: lowerCamelCase names, 64-bit integers as strings,
//! bytes as base64, enum names, no default values except inside an attribute's `oneof`. Read are also the
//! dialects of older files: numbers for enums and 64-bit integers, arrays of numbers for bytes, snake_case.
use std::collections::{BTreeMap, HashMap};
use std::marker::PhantomData;

use bytes::Bytes;
use serde::ser::{SerializeMap, SerializeSeq};
use serde::{Serialize, Serializer};
use serde_json::{Map, Value};

use crate::FormatError;
use crate::json::{self, Place};
use crate::proto::attr_value::{ListValue, Value as Attr};
use crate::proto::function_def::ArgAttrs;
use crate::proto::op_def::{ArgDef, AttrDef};
use crate::proto::tensor_shape_proto::Dim;
use crate::proto::{
    AttrValue, DataType, FunctionDef, FunctionDefLibrary, GradientDef, GraphDef, NameAttrList, NodeDef,
    OpDef, TensorProto, TensorShapeProto, VersionDef,
};
use crate::weights::extend;

/// A graph as it stands in a `model.json`, with the fields that [`GraphDef`] has no place for.
///
/// ```
/// use tfjs_format::GraphJson;
/// let text = r#"{"node": [{"name": "x", "op": "Placeholder", "experimentalType": {"typeId": "TFT_ARRAY"}}]}"#;
/// let graph = GraphJson::from_value(serde_json::from_str(text)?, "modelTopology")?;
/// assert_eq!(graph.def.node[0].op, "Placeholder");
/// assert_eq!(serde_json::to_string(&graph)?, text.replace(": ", ":").replace(", ", ","));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GraphJson {
    /// The graph.
    pub def: GraphDef,
    /// What the file says beyond it.
    pub unknown: UnknownFields,
}

/// JSON fields that the messages of this crate do not have, each with the node or object it belongs to.
///
/// They are written back when the object of the same name is still there.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct UnknownFields(HashMap<String, Map<String, Value>>);

impl UnknownFields {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Place and fields, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Map<String, Value>)> {
        self.0.iter().map(|(place, fields)| (place.as_str(), fields))
    }

    fn insert(&mut self, at: &Place<'_>, key: String, value: Value) {
        self.0.entry(at.to_string()).or_default().insert(key, value);
    }

    fn write<M: SerializeMap>(&self, at: &Place<'_>, map: &mut M) -> Result<(), M::Error> {
        if self.is_empty() {
            return Ok(());
        }
        self.0.get(&at.to_string()).map_or(Ok(()), |fields| extend(map, fields))
    }
}

/// Places of unknown fields start here, so that a graph can move from one key of a file to another.
const ROOT: Place<'static> = Place::Root("graph");

impl GraphJson {
    /// Reads a graph. `place` begins the place in errors, as in "modelTopology node `conv1`.attr.strides".
    ///
    /// # Errors
    /// When a field has the wrong kind or is out of range.
    pub fn from_value(value: Value, place: &str) -> Result<GraphJson, FormatError> {
        let mut unknown = UnknownFields::default();
        let def = Plain::read(value, &mut unknown, &ROOT).map_err(|error| match error {
            FormatError::Field { at, expected, found } => {
                FormatError::Field { at: at.replacen("graph", place, 1), expected, found }
            }
            other => other,
        })?;
        Ok(GraphJson { def, unknown })
    }
}

impl From<GraphDef> for GraphJson {
    fn from(def: GraphDef) -> GraphJson {
        GraphJson { def, unknown: UnknownFields::default() }
    }
}

impl Serialize for GraphJson {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Plain::write(&self.def, &ROOT, &self.unknown, serializer)
    }
}

/// Reads a tensor shape outside of a graph, as in a signature.
pub(crate) fn shape_from_json(value: Value, at: &Place<'_>) -> Result<TensorShapeProto, FormatError> {
    Plain::read(value, &mut UnknownFields::default(), at)
}

/// Reads a data type by name or number.
pub(crate) fn dtype_from_json(value: Value, at: &Place<'_>) -> Result<i32, FormatError> {
    Enum::read(value, &mut UnknownFields::default(), at)
}

/// A shape or data type outside of a graph, to be serialized.
pub(crate) struct AsJson<'a, T, C>(pub(crate) &'a T, pub(crate) PhantomData<C>);

impl<T, C: Codec<T>> Serialize for AsJson<'_, T, C> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        C::write(self.0, &ROOT, &UnknownFields::default(), serializer)
    }
}

/// How a Rust type stands in JSON. [`Plain`] covers all but enums, which prost stores as `i32`.
pub(crate) trait Codec<T> {
    fn read(value: Value, unknown: &mut UnknownFields, at: &Place<'_>) -> Result<T, FormatError>;
    fn is_default(value: &T) -> bool;
    fn write<S: Serializer>(
        value: &T,
        at: &Place<'_>,
        unknown: &UnknownFields,
        serializer: S,
    ) -> Result<S::Ok, S::Error>;
}

pub(crate) struct Plain;
pub(crate) struct Enum;

/// A value with its codec and place, on its way through a serializer.
struct Out<'a, T, C> {
    value: &'a T,
    at: Place<'a>,
    unknown: &'a UnknownFields,
    codec: PhantomData<C>,
}

impl<T, C: Codec<T>> Serialize for Out<'_, T, C> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        C::write(self.value, &self.at, self.unknown, serializer)
    }
}

fn write_entry<T, C: Codec<T>, M: SerializeMap>(
    map: &mut M,
    (key, value, _): (&str, &T, C),
    at: &Place<'_>,
    unknown: &UnknownFields,
) -> Result<(), M::Error> {
    map.serialize_entry(key, &Out { value, at: at.key(key), unknown, codec: PhantomData::<C> })
}

/// Scalars: how to read, what is the default, what to write.
macro_rules! scalars {
    ($($type:ty, $codec:ident: |$value:ident, $at:ident| $read:expr, |$v:ident| $default:expr, $s:ident => $write:expr;)*) => {$(
        impl Codec<$type> for $codec {
            fn read($value: Value, _: &mut UnknownFields, $at: &Place<'_>) -> Result<$type, FormatError> {
                $read
            }
            fn is_default($v: &$type) -> bool {
                $default
            }
            fn write<S: Serializer>($v: &$type, _: &Place<'_>, _: &UnknownFields, $s: S) -> Result<S::Ok, S::Error> {
                $write
            }
        }
    )*};
}

scalars! {
    String, Plain: |value, at| json::string(value, at), |v| v.is_empty(), s => s.serialize_str(v);
    bool, Plain: |value, at| json::boolean(&value, at), |v| !*v, s => s.serialize_bool(*v);
    i32, Plain: |value, at| json::integer(&value, at), |v| *v == 0, s => s.serialize_i32(*v);
    u32, Plain: |value, at| json::integer(&value, at), |v| *v == 0, s => s.serialize_u32(*v);
    i64, Plain: |value, at| json::integer(&value, at), |v| *v == 0, s => s.collect_str(v);
    u64, Plain: |value, at| json::integer(&value, at), |v| *v == 0, s => s.collect_str(v);
    f32, Plain: |value, at| Ok(json::number(&value, at)? as f32), |v| v.to_bits() == 0, s => match v.is_finite() {
        true => s.serialize_f64(json::shortest_f32(*v)),
        false => s.serialize_str(non_finite(f64::from(*v))),
    };
    f64, Plain: |value, at| json::number(&value, at), |v| v.to_bits() == 0, s => match v.is_finite() {
        true => s.serialize_f64(*v),
        false => s.serialize_str(non_finite(*v)),
    };
    Bytes, Plain: |value, at| json::bytes(value, at), |v| v.is_empty(), s => s.serialize_str(&json::base64(v));
    i32, Enum: |value, at| match &value {
        Value::String(name) if name.starts_with("DT_") => DataType::from_str_name(name)
            .map(|dtype| dtype as i32)
            .ok_or_else(|| at.wrong("the name of a data type", &value)),
        other => json::integer(other, at),
    }, |v| *v == 0, s => match DataType::try_from(*v) {
        Ok(dtype) => s.serialize_str(dtype.as_str_name()),
        Err(_) => s.serialize_i32(*v),
    };
}

fn non_finite(x: f64) -> &'static str {
    if x.is_nan() {
        "NaN"
    } else if x > 0.0 {
        "Infinity"
    } else {
        "-Infinity"
    }
}

impl<T, C: Codec<T>> Codec<Vec<T>> for C {
    fn read(value: Value, unknown: &mut UnknownFields, at: &Place<'_>) -> Result<Vec<T>, FormatError> {
        let items = json::array(value, at)?;
        items.into_iter().enumerate().map(|(i, item)| C::read(item, unknown, &at.index(i))).collect()
    }

    fn is_default(value: &Vec<T>) -> bool {
        value.is_empty()
    }

    fn write<S: Serializer>(
        value: &Vec<T>,
        at: &Place<'_>,
        unknown: &UnknownFields,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        let mut seq = serializer.serialize_seq(Some(value.len()))?;
        for (i, value) in value.iter().enumerate() {
            seq.serialize_element(&Out { value, at: at.index(i), unknown, codec: PhantomData::<C> })?;
        }
        seq.end()
    }
}

impl<T, C: Codec<T>> Codec<Option<T>> for C {
    fn read(value: Value, unknown: &mut UnknownFields, at: &Place<'_>) -> Result<Option<T>, FormatError> {
        C::read(value, unknown, at).map(Some)
    }

    fn is_default(value: &Option<T>) -> bool {
        value.is_none()
    }

    fn write<S: Serializer>(
        value: &Option<T>,
        at: &Place<'_>,
        unknown: &UnknownFields,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        match value {
            Some(value) => C::write(value, at, unknown, serializer),
            None => serializer.serialize_none(),
        }
    }
}

/// Keys of maps: strings in JSON, whatever they are in protobuf.
trait Key: Ord + Sized {
    fn parse(text: String, at: &Place<'_>) -> Result<Self, FormatError>;
    fn text(&self) -> std::borrow::Cow<'_, str>;
}

impl Key for String {
    fn parse(text: String, _: &Place<'_>) -> Result<String, FormatError> {
        Ok(text)
    }

    fn text(&self) -> std::borrow::Cow<'_, str> {
        self.as_str().into()
    }
}

impl Key for u32 {
    fn parse(text: String, at: &Place<'_>) -> Result<u32, FormatError> {
        json::integer(&Value::String(text), at)
    }

    fn text(&self) -> std::borrow::Cow<'_, str> {
        self.to_string().into()
    }
}

impl<K: Key, T, C: Codec<T>> Codec<BTreeMap<K, T>> for C {
    fn read(
        value: Value,
        unknown: &mut UnknownFields,
        at: &Place<'_>,
    ) -> Result<BTreeMap<K, T>, FormatError> {
        let mut map = BTreeMap::new();
        for (key, value) in json::object(value, at)? {
            let value = C::read(value, unknown, &at.key(&key))?;
            map.insert(K::parse(key, at)?, value);
        }
        Ok(map)
    }

    fn is_default(value: &BTreeMap<K, T>) -> bool {
        value.is_empty()
    }

    fn write<S: Serializer>(
        value: &BTreeMap<K, T>,
        at: &Place<'_>,
        unknown: &UnknownFields,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(value.len()))?;
        for (key, value) in value {
            let key = key.text();
            let at = at.key(&key);
            map.serialize_entry(&*key, &Out { value, at, unknown, codec: PhantomData::<C> })?;
        }
        map.end()
    }
}

/// Messages: fields in the order of their numbers (protobuf writes them so), each with JSON name and codec.
/// Messages with a name of their own appear under it in places.
macro_rules! messages {
    ($($message:ty $(, $kind:literal by $path:literal, |$m:ident| $name:expr)? => { $($field:ident $json:literal $codec:ident,)* })*) => {$(
        impl Codec<$message> for Plain {
            fn read(value: Value, unknown: &mut UnknownFields, at: &Place<'_>) -> Result<$message, FormatError> {
                let fields = json::object(value, at)?;
                $(
                    let name = name_at(&fields, $path);
                    let named = name.as_deref().map(|name| at.named($kind, name));
                    let at = named.as_ref().unwrap_or(at);
                )?
                let mut message = <$message>::default();
                for (key, value) in fields {
                    if value.is_null() {
                        continue;
                    }
                    match key.as_str() {
                        $(key if key == $json || key == stringify!($field) => {
                            message.$field = $codec::read(value, unknown, &at.key($json))?;
                        })*
                        _ => unknown.insert(at, key, value),
                    }
                }
                Ok(message)
            }

            fn is_default(_: &$message) -> bool {
                false
            }

            fn write<S: Serializer>(
                message: &$message,
                at: &Place<'_>,
                unknown: &UnknownFields,
                serializer: S,
            ) -> Result<S::Ok, S::Error> {
                $(
                    let $m = message;
                    let named = at.named($kind, $name);
                    let at = &named;
                )?
                let mut map = serializer.serialize_map(None)?;
                $(
                    if !<$codec as Codec<_>>::is_default(&message.$field) {
                        write_entry(&mut map, ($json, &message.$field, $codec), at, unknown)?;
                    }
                )*
                unknown.write(at, &mut map)?;
                map.end()
            }
        }
    )*};
}

/// The string below `signature.name` or `name`.
fn name_at(fields: &Map<String, Value>, path: &str) -> Option<String> {
    let value = match path.split_once('.') {
        Some((outer, inner)) => fields.get(outer)?.get(inner)?,
        None => fields.get(path)?,
    };
    value.as_str().map(str::to_owned)
}

messages! {
    GraphDef => { node "node" Plain, library "library" Plain, version "version" Plain, versions "versions" Plain, }
    NodeDef, "node" by "name", |m| &m.name => {
        name "name" Plain, op "op" Plain, input "input" Plain, device "device" Plain, attr "attr" Plain,
    }
    NameAttrList => { name "name" Plain, attr "attr" Plain, }
    ListValue => {
        s "s" Plain, i "i" Plain, f "f" Plain, b "b" Plain, r#type "type" Enum, shape "shape" Plain,
        tensor "tensor" Plain, func "func" Plain,
    }
    TensorShapeProto => { dim "dim" Plain, unknown_rank "unknownRank" Plain, }
    Dim => { size "size" Plain, name "name" Plain, }
    TensorProto => {
        dtype "dtype" Enum, tensor_shape "tensorShape" Plain, version_number "versionNumber" Plain,
        tensor_content "tensorContent" Plain, float_val "floatVal" Plain, double_val "doubleVal" Plain,
        int_val "intVal" Plain, string_val "stringVal" Plain, scomplex_val "scomplexVal" Plain,
        int64_val "int64Val" Plain, bool_val "boolVal" Plain, dcomplex_val "dcomplexVal" Plain,
        half_val "halfVal" Plain, uint32_val "uint32Val" Plain, uint64_val "uint64Val" Plain,
        float8_val "float8Val" Plain,
    }
    FunctionDefLibrary => { function "function" Plain, gradient "gradient" Plain, }
    FunctionDef, "function" by "signature.name", |m| m.signature.as_ref().map_or("", |s| &s.name) => {
        signature "signature" Plain, node_def "nodeDef" Plain, ret "ret" Plain, attr "attr" Plain,
        control_ret "controlRet" Plain, arg_attr "argAttr" Plain,
        resource_arg_unique_id "resourceArgUniqueId" Plain,
    }
    ArgAttrs => { attr "attr" Plain, }
    OpDef => {
        name "name" Plain, input_arg "inputArg" Plain, output_arg "outputArg" Plain, attr "attr" Plain,
        summary "summary" Plain, description "description" Plain, is_aggregate "isAggregate" Plain,
        is_stateful "isStateful" Plain, is_commutative "isCommutative" Plain,
        allows_uninitialized_input "allowsUninitializedInput" Plain, control_output "controlOutput" Plain,
        is_distributed_communication "isDistributedCommunication" Plain,
    }
    ArgDef => {
        name "name" Plain, description "description" Plain, r#type "type" Enum, type_attr "typeAttr" Plain,
        number_attr "numberAttr" Plain, type_list_attr "typeListAttr" Plain, is_ref "isRef" Plain,
    }
    AttrDef => {
        name "name" Plain, r#type "type" Plain, default_value "defaultValue" Plain,
        description "description" Plain, has_minimum "hasMinimum" Plain, minimum "minimum" Plain,
        allowed_values "allowedValues" Plain,
    }
    GradientDef => { function_name "functionName" Plain, gradient_func "gradientFunc" Plain, }
    VersionDef => {
        producer "producer" Plain, min_consumer "minConsumer" Plain, bad_consumers "badConsumers" Plain,
    }
}

impl Codec<AttrValue> for Plain {
    fn read(value: Value, unknown: &mut UnknownFields, at: &Place<'_>) -> Result<AttrValue, FormatError> {
        let mut attr = AttrValue::default();
        for (key, value) in json::object(value, at)? {
            if value.is_null() {
                continue;
            }
            let place = at.key(&key);
            attr.value = Some(match key.as_str() {
                "s" => Attr::S(Plain::read(value, unknown, &place)?),
                "i" => Attr::I(Plain::read(value, unknown, &place)?),
                "f" => Attr::F(Plain::read(value, unknown, &place)?),
                "b" => Attr::B(Plain::read(value, unknown, &place)?),
                "type" => Attr::Type(Enum::read(value, unknown, &place)?),
                "shape" => Attr::Shape(Box::new(Plain::read(value, unknown, &place)?)),
                "tensor" => Attr::Tensor(Box::new(Plain::read(value, unknown, &place)?)),
                "list" => Attr::List(Box::new(Plain::read(value, unknown, &place)?)),
                "func" => Attr::Func(Box::new(Plain::read(value, unknown, &place)?)),
                "placeholder" => Attr::Placeholder(Plain::read(value, unknown, &place)?),
                _ => {
                    unknown.insert(at, key, value);
                    continue;
                }
            });
        }
        Ok(attr)
    }

    fn is_default(_: &AttrValue) -> bool {
        false
    }

    fn write<S: Serializer>(
        attr: &AttrValue,
        at: &Place<'_>,
        unknown: &UnknownFields,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        match &attr.value {
            None => {}
            Some(Attr::S(v)) => write_entry(&mut map, ("s", v, Plain), at, unknown)?,
            Some(Attr::I(v)) => write_entry(&mut map, ("i", v, Plain), at, unknown)?,
            Some(Attr::F(v)) => write_entry(&mut map, ("f", v, Plain), at, unknown)?,
            Some(Attr::B(v)) => write_entry(&mut map, ("b", v, Plain), at, unknown)?,
            Some(Attr::Type(v)) => write_entry(&mut map, ("type", v, Enum), at, unknown)?,
            Some(Attr::Shape(v)) => write_entry(&mut map, ("shape", &**v, Plain), at, unknown)?,
            Some(Attr::Tensor(v)) => write_entry(&mut map, ("tensor", &**v, Plain), at, unknown)?,
            Some(Attr::List(v)) => write_entry(&mut map, ("list", &**v, Plain), at, unknown)?,
            Some(Attr::Func(v)) => write_entry(&mut map, ("func", &**v, Plain), at, unknown)?,
            Some(Attr::Placeholder(v)) => write_entry(&mut map, ("placeholder", v, Plain), at, unknown)?,
        }
        unknown.write(at, &mut map)?;
        map.end()
    }
}
