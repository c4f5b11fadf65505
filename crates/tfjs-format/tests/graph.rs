//! GraphDef JSON and tensor constants, against what protobuf and TensorFlow say (`data/make.py`).
#![allow(clippy::unwrap_used, reason = "helpers of tests")]
use base64::Engine;
use proptest::prelude::{Just, Strategy, any, prop, prop_assert_eq, prop_oneof, proptest};
use prost::Message;
use serde_json::{Value, json};
use tfjs_format::proto::attr_value::{ListValue, Value as Attr};
use tfjs_format::proto::{AttrValue, DataType, GraphDef, NodeDef};
use tfjs_format::{
    DType, FormatError, GraphJson, Lossy, ModelJson, TensorData, TensorValue, Topology, runtime_tensor,
};

fn odd_graph() -> GraphDef {
    GraphDef::decode(&include_bytes!("data/odd_attrs.pb")[..]).unwrap()
}

#[test]
fn graphs_are_written_as_protobuf_writes_them() {
    let model = ModelJson { topology: Topology::Graph(odd_graph().into()), ..ModelJson::default() };
    let text = model.to_json().unwrap();
    let expected = include_str!("data/odd_attrs.json");
    assert_eq!(text, format!(r#"{{"modelTopology": {expected}, "weightsManifest": []}}"#));
}

#[test]
fn what_protobuf_writes_is_read_back_unchanged() {
    let value = serde_json::from_str(include_str!("data/odd_attrs.json")).unwrap();
    let graph = GraphJson::from_value(value, "modelTopology").unwrap();
    assert!(graph.unknown.is_empty());
    // NaN differs from itself, so compare the bytes.
    assert_eq!(graph.def.encode_to_vec(), odd_graph().encode_to_vec());
}

fn read(value: Value) -> Result<GraphJson, FormatError> {
    GraphJson::from_value(value, "modelTopology")
}

fn attr(value: Value) -> Attr {
    let graph = read(json!({"node": [{"name": "n", "attr": {"a": value}}]})).unwrap();
    graph.def.node[0].attr["a"].value.clone().unwrap()
}

#[test]
fn old_dialects_are_understood() {
    assert_eq!(attr(json!({"type": 1})), Attr::Type(1));
    assert_eq!(attr(json!({"type": "1"})), Attr::Type(1));
    assert_eq!(attr(json!({"i": 7})), Attr::I(7));
    assert_eq!(attr(json!({"i": "-7"})), Attr::I(-7));
    assert_eq!(attr(json!({"f": 1})), Attr::F(1.0));
    assert_eq!(attr(json!({"f": "-Infinity"})), Attr::F(f32::NEG_INFINITY));
    assert_eq!(attr(json!({"s": [78, 72, 87, 67]})), Attr::S("NHWC".into()));
    assert_eq!(attr(json!({"s": "TkhXQw"})), Attr::S("NHWC".into()));
    assert_eq!(attr(json!({"s": "-_8"})), Attr::S([0xfb, 0xff][..].to_vec().into()));
    assert_eq!(attr(json!({"s": "+/8="})), Attr::S([0xfb, 0xff][..].to_vec().into()));
    let Attr::Shape(shape) = attr(json!({"shape": {"dim": [{"size": -1}, {}], "unknown_rank": false}}))
    else {
        panic!("not a shape")
    };
    assert_eq!(shape.dim.iter().map(|d| d.size).collect::<Vec<_>>(), [-1, 0]);
    let Attr::Tensor(tensor) = attr(json!({"tensor": {"dtype": 3, "tensor_shape": {}, "int_val": ["5"]}}))
    else {
        panic!("not a tensor")
    };
    assert_eq!((tensor.dtype, tensor.int_val.as_slice()), (3, &[5][..]));
}

#[test]
fn nodes_may_lack_everything_but_what_they_say() {
    let graph = read(json!({"node": [{"name": "a", "op": "NoOp"}, {"name": "b", "input": null}]})).unwrap();
    assert_eq!(graph.def.node.len(), 2);
    assert!(graph.def.node[0].input.is_empty() && graph.def.versions.is_none());
}

#[test]
fn unknown_fields_come_back_with_their_nodes() {
    let value = json!({
        "node": [
            {"name": "gone", "op": "NoOp", "experimentalType": {"typeId": "TFT_ARRAY"}},
            {"name": "kept", "op": "Const", "attr": {"value": {"tensor": {"dtype": "DT_FLOAT", "odd": [1]}}},
             "experimentalDebugInfo": {"originalNodeNames": ["x"]}},
        ],
        "library": {"function": [{"signature": {"name": "f", "inputArg": [{"name": "i", "handleData": {}}]},
                                  "nodeDef": [{"name": "inner", "op": "NoOp", "more": 1}]}],
                    "registeredGradients": []},
        "debugInfo": {"files": ["a.py"]},
    });
    let mut graph = read(value.clone()).unwrap();
    assert_eq!(serde_json::to_value(&graph).unwrap(), value);
    graph.def.node.remove(0);
    let mut expected = value;
    expected["node"].as_array_mut().unwrap().remove(0);
    assert_eq!(serde_json::to_value(&graph).unwrap(), expected);
}

#[test]
fn errors_name_node_and_attribute() {
    let error = read(
        json!({"node": [{"name": "ok"}, {"name": "conv1", "attr": {"strides": {"list": {"i": [1, "x"]}}}}]}),
    );
    assert_eq!(
        error.unwrap_err().to_string(),
        r#"modelTopology node `conv1`.attr.strides.list.i[1]: expected an integer in range, found "x""#
    );
    let error = read(json!({"node": [{"name": "n", "attr": {"T": {"type": "DT_FLOATY"}}}]}));
    assert_eq!(
        error.unwrap_err().to_string(),
        r#"modelTopology node `n`.attr.T.type: expected the name of a data type, found "DT_FLOATY""#
    );
}

/// Every element as TensorFlow printed it.
fn printed(data: &TensorData) -> Vec<Value> {
    fn number(x: f64) -> Value {
        if x.is_nan() { "nan".into() } else { format!("{x:?}").into() }
    }
    let text = |items: &mut dyn Iterator<Item = String>| items.map(Value::from).collect();
    match data {
        TensorData::Float32(v) => v.iter().map(|&x| number(x.into())).collect(),
        TensorData::Float64(v) => v.iter().map(|&x| number(x)).collect(),
        TensorData::Float16(v) => v.iter().map(|&x| number(x.into())).collect(),
        TensorData::Bfloat16(v) => v.iter().map(|&x| number(x.into())).collect(),
        TensorData::Int8(v) => text(&mut v.iter().map(|x| x.to_string())),
        TensorData::Uint8(v) => text(&mut v.iter().map(|x| x.to_string())),
        TensorData::Int16(v) => text(&mut v.iter().map(|x| x.to_string())),
        TensorData::Uint16(v) => text(&mut v.iter().map(|x| x.to_string())),
        TensorData::Int32(v) => text(&mut v.iter().map(|x| x.to_string())),
        TensorData::Uint32(v) => text(&mut v.iter().map(|x| x.to_string())),
        TensorData::Int64(v) => text(&mut v.iter().map(|x| x.to_string())),
        TensorData::Uint64(v) => text(&mut v.iter().map(|x| x.to_string())),
        TensorData::Bool(v) => text(&mut v.iter().map(|x| x.to_string())),
        TensorData::String(v) => {
            text(&mut v.iter().map(|x| base64::engine::general_purpose::STANDARD.encode(x)))
        }
        TensorData::Complex64(v) => {
            v.iter().map(|&[re, im]| json!([number(re.into()), number(im.into())])).collect()
        }
        TensorData::Complex128(v) => v.iter().map(|&[re, im]| json!([number(re), number(im)])).collect(),
    }
}

#[test]
fn constants_have_the_values_that_tensorflow_sees() {
    let cases: Vec<Value> = serde_json::from_str(include_str!("data/tensors.json")).unwrap();
    assert_eq!(cases.len(), 64);
    for case in cases {
        let bytes =
            base64::engine::general_purpose::STANDARD.decode(case["proto"].as_str().unwrap()).unwrap();
        let proto = tfjs_format::proto::TensorProto::decode(&bytes[..]).unwrap();
        let value = TensorValue::from_proto(&proto).unwrap();
        assert_eq!(value.dtype.as_str_name(), case["dtype"]);
        assert_eq!(json!(value.shape), case["shape"]);
        assert_eq!(Value::from(printed(&value.data)), case["values"], "{case}");
        assert_eq!(TensorValue::from_proto(&value.to_proto()).unwrap(), value);
        let (quick, lossy) = runtime_tensor(&proto).unwrap();
        assert_eq!((quick, lossy), value.into_runtime());
    }
}

fn constant(dtype: DataType, shape: Vec<usize>, data: TensorData) -> TensorValue {
    TensorValue { dtype, shape, data }
}

#[test]
fn lossy_conversions_are_counted_and_saturate() {
    let data = TensorData::Int64(vec![1 << 40, -(1 << 40), 5, i64::from(i32::MAX)]);
    let (tensor, lossy) = constant(DataType::DtInt64, vec![4], data).into_runtime();
    assert_eq!(*tensor.i32s().unwrap(), [i32::MAX, i32::MIN, 5, i32::MAX]);
    assert_eq!(lossy, Lossy { int64_out_of_range: 2, float64_rounded: 0 });

    let data = TensorData::Float64(vec![0.5, 0.1, f64::NAN, 1e300]);
    let (tensor, lossy) = constant(DataType::DtDouble, vec![4], data).into_runtime();
    assert_eq!(tensor.f32s().unwrap()[..2], [0.5, 0.1]);
    assert_eq!(lossy, Lossy { int64_out_of_range: 0, float64_rounded: 2 });
    assert!(lossy.any());
}

#[test]
fn raw_bytes_of_a_runtime_type_are_not_copied() {
    let proto = constant(DataType::DtFloat, vec![2], TensorData::Float32(vec![1.0, 2.0])).to_proto();
    let (tensor, _) = runtime_tensor(&proto).unwrap();
    let tfjs_format::Payload::Plain(bytes) = &tensor.data else { panic!("strings") };
    assert_eq!(bytes.as_ptr(), proto.tensor_content.as_ptr());
    assert_eq!((tensor.dtype, &*tensor.f32s().unwrap()), (DType::Float32, &[1.0, 2.0][..]));
}

#[test]
fn strings_may_be_raw_bytes_with_their_lengths_first() {
    let mut proto = constant(DataType::DtString, vec![2], TensorData::String(Vec::new())).to_proto();
    proto.tensor_content = b"\x01\x02abc"[..].into();
    let value = TensorValue::from_proto(&proto).unwrap();
    assert_eq!(value.data, TensorData::String(vec!["a".into(), "bc".into()]));
}

fn attrs() -> impl Strategy<Value = AttrValue> {
    let value = prop_oneof![
        any::<Vec<u8>>().prop_map(|v| Attr::S(v.into())),
        any::<i64>().prop_map(Attr::I),
        prop::num::f32::NORMAL.prop_map(Attr::F),
        any::<bool>().prop_map(Attr::B),
        (0..200i32).prop_map(Attr::Type),
        any::<String>().prop_map(Attr::Placeholder),
        (
            any::<Vec<i64>>(),
            any::<Vec<bool>>(),
            prop::collection::vec(prop::num::f32::ANY.prop_filter("NaN", |x| !x.is_nan()), 0..4)
        )
            .prop_map(|(i, b, f)| Attr::List(Box::new(ListValue {
                i,
                b,
                f,
                ..ListValue::default()
            }))),
    ];
    prop_oneof![Just(None), value.prop_map(Some)].prop_map(|value| AttrValue { value })
}

fn graphs() -> impl Strategy<Value = GraphDef> {
    let node = (
        any::<String>(),
        any::<String>(),
        any::<Vec<String>>(),
        prop::collection::btree_map(any::<String>(), attrs(), 0..4),
    )
        .prop_map(|(name, op, input, attr)| NodeDef { name, op, input, attr, ..NodeDef::default() });
    prop::collection::vec(node, 0..5).prop_map(|node| GraphDef { node, ..GraphDef::default() })
}

proptest! {
    #[test]
    fn any_graph_survives_writing_and_reading(graph in graphs()) {
        let model = ModelJson { topology: Topology::Graph(graph.into()), ..ModelJson::default() };
        let text = model.to_json().unwrap();
        prop_assert_eq!(ModelJson::parse(text.as_bytes()).unwrap(), model);
    }

    #[test]
    fn no_bytes_make_the_constant_decoder_panic(bytes in any::<Vec<u8>>()) {
        if let Ok(proto) = tfjs_format::proto::TensorProto::decode(&bytes[..]) {
            let _ = runtime_tensor(&proto);
        }
    }

    #[test]
    fn no_text_makes_the_reader_panic(text in r#"[\[\]{}":,a-z0-9]{0,60}"#) {
        let _ = ModelJson::parse(text.as_bytes());
    }
}
