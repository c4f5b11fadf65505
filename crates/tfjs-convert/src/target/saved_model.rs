//! A minimal SavedModel: one graph whose weights are constants, and a serving signature.

use std::{
    collections::{BTreeMap, HashMap},
    fs,
    path::Path,
};

use prost::Message;
use tfjs_format::proto::{
    AttrValue, DataType, NodeDef, TensorProto, TensorShapeProto, attr_value::Value, tensor_shape_proto::Dim,
};
use tfjs_graph::{Attrs, Constant, Endpoint, Graph, Node, NodeId, Port};
use tfjs_kernels::Tensor;
use tfjs_layers::emit::Emitted;

use crate::{
    ConvertError,
    keras::atomically,
    proto::{
        CollectionDef, MetaGraphDef, SavedModel, SignatureDef, TensorInfo,
        collection_def::{Kind, NodeList},
        meta_graph_def::MetaInfoDef,
        tensor_info::Encoding,
    },
};

type Result<T> = std::result::Result<T, ConvertError>;

/// Largest message that protobuf reads.
const MAX_BYTES: usize = i32::MAX as usize;

/// Writes `saved_model.pb` into `directory`. Constants are part of the graph, so the model must be smaller than 2 GiB.
///
/// # Errors
/// When a constant cannot be read, the model is too large, or writing fails.
pub(crate) fn write(emitted: Emitted, directory: &Path) -> Result<usize> {
    let mut graph = emitted.graph;
    narrow(&mut graph);
    let init_op = emitted.initializer.map(|initializer| merge(&mut graph, initializer));
    let mut def = graph.to_def();
    let mut weights = 0;
    for (node, (_, source)) in def.node.iter_mut().zip(graph.iter()) {
        weights += give_value(node, source.value.as_ref())?;
    }
    for function in def.library.iter_mut().flat_map(|l| &mut l.function) {
        let name = function.signature.as_ref().map_or("", |s| s.name.as_str());
        let Some(body) = graph.library.get(name) else { continue };
        let values: BTreeMap<&str, &Constant> =
            body.graph.iter().filter_map(|(_, n)| Some((n.name.as_str(), n.value.as_ref()?))).collect();
        let prefix = format!("{name}/");
        for node in &mut function.node_def {
            let own = node.name.strip_prefix(&prefix).unwrap_or(&node.name).to_owned();
            give_value(node, values.get(own.as_str()).copied())?;
        }
    }
    let info = |e: &Endpoint| {
        let shape = e.shape.clone().unwrap_or(TensorShapeProto { unknown_rank: true, ..Default::default() });
        let name = graph.port_name(e.port);
        let name = if name.contains(':') { name } else { format!("{name}:0") };
        let encoding = Some(Encoding::Name(name));
        (e.key.clone(), TensorInfo { dtype: e.data_type as i32, tensor_shape: Some(shape), encoding })
    };
    let signature = SignatureDef {
        inputs: graph.inputs.iter().map(info).collect(),
        outputs: graph.outputs.iter().map(info).collect(),
        method_name: "tensorflow/serving/predict".to_owned(),
    };
    let meta = MetaGraphDef {
        meta_info_def: Some(MetaInfoDef {
            tags: vec!["serve".to_owned()],
            tensorflow_version: "2.19.0".to_owned(),
            ..MetaInfoDef::default()
        }),
        graph_def: Some(def),
        collection_def: init_op
            .map(|op| {
                let kind = Some(Kind::NodeList(NodeList { value: vec![op] }));
                ("saved_model_main_op".to_owned(), CollectionDef { kind })
            })
            .into_iter()
            .collect(),
        signature_def: [("serving_default".to_owned(), signature)].into(),
        ..MetaGraphDef::default()
    };
    let model = SavedModel { saved_model_schema_version: 1, meta_graphs: vec![meta] };
    let size = model.encoded_len();
    if size > MAX_BYTES {
        return Err(ConvertError::OutputTooLarge { format: "keras_saved_model", bytes: size as u64 });
    }
    fs::create_dir_all(directory)
        .map_err(|source| ConvertError::Io { path: directory.to_path_buf(), source })?;
    let bytes = model.encode_to_vec();
    atomically(&directory.join("saved_model.pb"), |file| {
        use std::io::Write;
        Ok(file.write_all(&bytes)?)
    })?;
    Ok(weights)
}

/// Outputs of ops that are always int64 in TensorFlow. Graphs here know int32 alone.
const INT64_OUTPUTS: &[(&str, &[u32])] = &[
    ("StringSplitV2", &[0, 2]),
    ("StringToHashBucketFast", &[0]),
    ("StringToHashBucketStrong", &[0]),
    ("Where", &[0]),
];

/// Puts a cast behind each of them.
fn narrow(graph: &mut Graph) {
    for id in graph.ids() {
        let node = graph.node(id);
        let Some((_, outputs)) = INT64_OUTPUTS.iter().find(|(op, _)| *op == node.op) else { continue };
        let name = format!("{}/to_int32", node.name);
        for &index in *outputs {
            let (wide, cast) = (Port { node: id, index }, Port::from(graph.next_id()));
            graph.redirect(|p| if p == wide { cast } else { p });
            let attrs = Attrs::default()
                .with("SrcT", Value::Type(DataType::DtInt64 as i32))
                .with("DstT", Value::Type(DataType::DtInt32 as i32));
            graph.add_fresh(Node::new(name.as_str(), "Cast").inputs([wide]).attrs(attrs));
        }
    }
}

/// Makes an initializer part of the graph: tables of one name are one. Returns the name of the node that fills them all.
fn merge(graph: &mut Graph, initializer: Graph) -> String {
    let mut moved: HashMap<NodeId, NodeId> = HashMap::new();
    let consumers = initializer.consumers();
    let mut ends = Vec::new();
    for (id, node) in initializer.iter() {
        let mut node = node.clone();
        // Nodes of an initializer stand in the order they were written, producers first.
        for port in &mut node.inputs {
            port.node = moved.get(&port.node).copied().unwrap_or(port.node);
        }
        let same =
            graph.find(&node.name).filter(|&other| graph.node(other).op == node.op && node.value.is_none());
        let new = same.unwrap_or_else(|| graph.add_fresh(node));
        moved.insert(id, new);
        if consumers.of(id).is_empty() {
            ends.push(new);
        }
    }
    graph.library.extend(initializer.library);
    let init = graph.add_fresh(Node { controls: ends, ..Node::new("init", "NoOp") });
    graph.node(init).name.clone()
}

/// Puts the value of a constant into its node.
fn give_value(node: &mut NodeDef, value: Option<&Constant>) -> Result<usize> {
    let Some(constant) = value else { return Ok(0) };
    let failed = |source| ConvertError::Value { name: node.name.clone(), source };
    let tensor = constant.tensor().map_err(failed)?;
    let dim = tensor.dims().iter().map(|&d| Dim { size: d as i64, name: String::new() }).collect();
    let dtype = constant.data_type();
    let mut proto = TensorProto {
        dtype: dtype as i32,
        tensor_shape: Some(TensorShapeProto { dim, unknown_rank: false }),
        ..TensorProto::default()
    };
    match &tensor {
        Tensor::F32(t) => proto.tensor_content = bytes(t.data(), f32::to_le_bytes),
        Tensor::I32(t) if dtype == DataType::DtInt64 => {
            proto.tensor_content = bytes(t.data(), |x| i64::from(x).to_le_bytes());
        }
        Tensor::I32(t) => proto.tensor_content = bytes(t.data(), i32::to_le_bytes),
        Tensor::Bool(t) => proto.bool_val = t.data().to_vec(),
        Tensor::Str(t) => proto.string_val = t.data().iter().map(|s| s.0.clone()).collect(),
        Tensor::C64(t) => {
            proto.scomplex_val = t.data().iter().flat_map(|c| [c.re, c.im]).collect();
        }
    }
    node.attr.insert("value".to_owned(), AttrValue { value: Some(Value::Tensor(Box::new(proto))) });
    Ok(1)
}

fn bytes<T: Copy, const N: usize>(values: &[T], encode: impl Fn(T) -> [u8; N]) -> bytes::Bytes {
    values.iter().flat_map(|&v| encode(v)).collect::<Vec<u8>>().into()
}
