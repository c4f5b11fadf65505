//! A finished graph as `model.json` and weight files.

use indexmap::IndexMap;
use serde_json::{Map, Value as Json};
use tfjs_format::{
    DEFAULT_SHARD_SIZE, DType, GraphJson, ModelFormat, ModelJson, ShardOptions, Signature, TensorInfo,
    Topology, WeightGroup,
    io::ModelSink,
    proto::{DataType, GraphDef},
};
use tfjs_graph::{
    Constant, Endpoint, Graph, Registry, WeightFile, output_args, passes::infer_facts, write_group,
};

use crate::{ConvertError, ConvertOptions, Progress, model::Model};

/// What was written.
pub(crate) struct Written {
    pub(crate) text: String,
    pub(crate) weights: usize,
    pub(crate) shards: usize,
    pub(crate) bytes: u64,
}

/// Writes the weight files and returns the text of the model, which the caller puts in place.
pub(crate) fn write(
    model: &Model,
    options: &ConvertOptions,
    metadata: Map<String, Json>,
    sink: &mut dyn ModelSink,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<Written, ConvertError> {
    let weights =
        write_weights(constants(&model.graph, model.initializer.as_ref()), options, sink, progress)?;
    let json = ModelJson {
        format: Some(ModelFormat::GraphModel),
        generated_by: (!model.tensorflow_version.is_empty()).then(|| model.tensorflow_version.clone()),
        converted_by: Some(CONVERTED_BY.to_owned()),
        signature: Some(signature(&model.graph)?),
        topology: Topology::Graph(topology(&model.graph)),
        user_defined_metadata: user_metadata(model, options, metadata),
        initializer: model.initializer.as_ref().map(topology),
        // Without outputs, tables are found by the names of their nodes.
        initializer_signature: (model.initializer.as_ref())
            .filter(|g| !g.outputs.is_empty())
            .map(signature)
            .transpose()?,
        weights_manifest: vec![weights.group],
        ..ModelJson::default()
    };
    Ok(Written { text: json.to_json()?, weights: weights.count, shards: weights.files, bytes: weights.bytes })
}

/// What stands in `convertedBy`.
pub(crate) const CONVERTED_BY: &str = concat!("TensorFlow.js Converter in Rust v", env!("CARGO_PKG_VERSION"));

/// A group of weights that was written.
pub(crate) struct WrittenWeights {
    pub(crate) group: WeightGroup,
    pub(crate) count: usize,
    pub(crate) files: usize,
    pub(crate) bytes: u64,
}

/// Writes the values of constants into weight files.
pub(crate) fn write_weights(
    constants: Vec<(String, &Constant)>,
    options: &ConvertOptions,
    sink: &mut dyn ModelSink,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<WrittenWeights, ConvertError> {
    let mut weights = Vec::with_capacity(constants.len());
    let mut total = 0;
    for (name, constant) in constants {
        let float = DType::from_proto(constant.data_type()) == Some(DType::Float32);
        let quantize = if float { options.quantization.find(&name)? } else { None };
        let weight = WeightFile::new(name, constant, quantize)?;
        total += weight.bytes()?;
        weights.push(weight);
    }
    let count = weights.len();
    let size = options.weight_shard_size_bytes.unwrap_or(DEFAULT_SHARD_SIZE);
    let shards = ShardOptions { size, sha256: false };
    let mut report = |done| progress(Progress::Weights { done, total });
    let (group, bytes) = write_group(1, weights, sink, shards, &mut report)?;
    Ok(WrittenWeights { files: group.paths.len(), group, count, bytes })
}

fn user_metadata(
    model: &Model,
    options: &ConvertOptions,
    mut metadata: Map<String, Json>,
) -> Option<Map<String, Json>> {
    if options.use_structured_outputs_names {
        // Outputs of the signature are in the same order, so that pairing them by position is right.
        let keys = model.graph.outputs.iter().map(|o| Json::String(o.key.clone())).collect();
        metadata.insert("structuredOutputKeys".to_owned(), Json::Array(keys));
    }
    (!metadata.is_empty()).then_some(metadata)
}

/// All constants of a model: those of the graph and its functions, then those of the initializer.
pub(crate) fn constants<'g>(graph: &'g Graph, initializer: Option<&'g Graph>) -> Vec<(String, &'g Constant)> {
    let mut all = graph.constants();
    // Functions of the initializer are the model's: their constants are written once.
    let initial = initializer.into_iter();
    all.extend(initial.flat_map(|g| g.iter().filter_map(|(_, n)| Some((n.name.clone(), n.value.as_ref()?)))));
    all
}

/// The message form, spelled so that TensorFlow.js reads it right.
pub(crate) fn topology(graph: &Graph) -> GraphJson {
    let mut def = graph.to_def();
    let functions = def.library.iter_mut().flat_map(|l| &mut l.function);
    for node in def.node.iter_mut().chain(functions.flat_map(|f| &mut f.node_def)) {
        // Marks of this program, and hints for TensorFlow's own runtime.
        node.attr.retain(|name, _| !name.starts_with('_'));
    }
    flatten_outputs(graph, &mut def);
    def.into()
}

/// In function bodies TensorFlow.js takes the last number of `node:output:k` for a flat index, whatever the output:
/// only the first output can be spelled by name.
fn flatten_outputs(graph: &Graph, def: &mut GraphDef) {
    let Some(library) = &mut def.library else { return };
    for function in &mut library.function {
        let Some(signature) = &function.signature else { continue };
        let Some(body) = graph.library.get(&signature.name) else { continue };
        let flat = |tensor: &str| -> Option<String> {
            let mut parts = tensor.split(':');
            let (name, arg, k) = (parts.next()?, parts.next()?, parts.next()?.parse::<usize>().ok()?);
            let node = body.graph.find(name)?;
            let node = body.graph.node(node);
            let args = output_args(&node.op, &node.attrs);
            let before: usize = args.iter().take_while(|(n, _)| *n != arg).map(|(_, len)| len).sum();
            (before > 0).then(|| format!("{name}:{}", before + k))
        };
        let inputs = function.node_def.iter_mut().flat_map(|n| &mut n.input);
        for tensor in inputs.chain(function.ret.values_mut()) {
            if let Some(spelled) = flat(tensor) {
                *tensor = spelled;
            }
        }
    }
}

pub(crate) fn signature(graph: &Graph) -> Result<Signature, ConvertError> {
    let unknown = graph.outputs.iter().any(|o| o.data_type == DataType::DtInvalid);
    let facts = if unknown { infer_facts(graph, &Registry::default())? } else { Default::default() };
    let info = |endpoint: &Endpoint| {
        let fact = facts.get(&endpoint.port);
        let dtype = match endpoint.data_type {
            DataType::DtInvalid => fact.and_then(|f| f.dtype).map(DType::to_proto),
            known => Some(known),
        };
        let inferred = || fact.and_then(|f| f.shape.as_ref()).map(|s| shape_proto(s));
        let name = graph.port_name(endpoint.port);
        TensorInfo {
            name: if endpoint.port.index == 0 { format!("{name}:0") } else { name },
            dtype,
            tensor_shape: endpoint.shape.clone().or_else(inferred),
            resource_id: endpoint.resource_id,
            ..TensorInfo::default()
        }
    };
    let side = |endpoints: &[Endpoint]| -> IndexMap<String, TensorInfo> {
        endpoints.iter().map(|e| (e.key.clone(), info(e))).collect()
    };
    Ok(Signature { inputs: side(&graph.inputs), outputs: side(&graph.outputs), ..Signature::default() })
}

fn shape_proto(dims: &[Option<usize>]) -> tfjs_format::proto::TensorShapeProto {
    let dim = |d: &Option<usize>| tfjs_format::proto::tensor_shape_proto::Dim {
        size: d.and_then(|d| i64::try_from(d).ok()).unwrap_or(-1),
        name: String::new(),
    };
    tfjs_format::proto::TensorShapeProto { dim: dims.iter().map(dim).collect(), unknown_rank: false }
}
