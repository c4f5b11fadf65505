//! A finished graph as `model.json` and weight files.

use std::collections::HashSet;

use bytes::Bytes;
use indexmap::IndexMap;
use serde_json::{Map, Value as Json};
use tfjs_format::{
    Codec, DEFAULT_SHARD_SIZE, DType, GraphJson, ModelFormat, ModelJson, QuantizeTo, Range, ShardOptions,
    ShardWriter, Signature, TensorInfo, Topology, WeightGroup, WeightSpec, encode_strings, group_bytes,
    io::ModelSink,
    proto::{DataType, GraphDef},
    string_bytes,
};
use tfjs_graph::{Constant, Endpoint, Graph, Registry, Tensor, output_args, passes::infer_facts};

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
    let weights = write_weights(constants(model), options, sink, progress)?;
    let json = ModelJson {
        format: Some(ModelFormat::GraphModel),
        generated_by: (!model.tensorflow_version.is_empty()).then(|| model.tensorflow_version.clone()),
        converted_by: Some(CONVERTED_BY.to_owned()),
        signature: Some(signature(&model.graph)?),
        topology: Topology::Graph(topology(&model.graph)),
        user_defined_metadata: user_metadata(model, options, metadata),
        initializer: model.initializer.as_ref().map(topology),
        initializer_signature: model.initializer.as_ref().map(signature).transpose()?,
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
    let mut weights = collect(constants, options)?;
    let sized: Vec<WeightSpec> = weights.iter().map(Weight::sized).collect();
    let mut sizes = weights.iter().map(|w| w.strings.as_deref().map_or(0, string_bytes));
    let by_name: std::collections::HashMap<&str, u64> =
        weights.iter().map(|w| w.spec.name.as_str()).zip(&mut sizes).collect();
    let total = group_bytes(&sized, |spec| by_name.get(spec.name.as_str()).copied().unwrap_or(0))?;
    let size = options.weight_shard_size_bytes.unwrap_or(DEFAULT_SHARD_SIZE);
    let mut writer = ShardWriter::new(sink, 1, total, ShardOptions { size, sha256: false })?;
    let mut done = 0;
    for weight in &mut weights {
        done += weight.write(&mut writer)?;
        progress(Progress::Weights { done, total });
    }
    let shards = writer.finish()?;
    let specs: Vec<WeightSpec> = weights.into_iter().map(|w| w.spec).collect();
    let (count, files) = (specs.len(), shards.paths.len());
    Ok(WrittenWeights { group: WeightGroup::new(shards.paths, specs), count, files, bytes: shards.bytes })
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

struct Weight<'a> {
    spec: WeightSpec,
    constant: &'a Constant,
    quantize: Option<QuantizeTo>,
    /// Elements of a string weight: their size has to be known before anything is written.
    strings: Option<Vec<Bytes>>,
}

/// All constants of a model: those of the graph and its functions, then those of the initializer.
fn constants(model: &Model) -> Vec<(String, &Constant)> {
    let mut all = model.graph.constants();
    // Functions of the initializer are the model's: their constants are written once.
    let initial = model.initializer.iter();
    all.extend(initial.flat_map(|g| g.iter().filter_map(|(_, n)| Some((n.name.clone(), n.value.as_ref()?)))));
    all
}

fn collect<'a>(
    constants: Vec<(String, &'a Constant)>,
    options: &ConvertOptions,
) -> Result<Vec<Weight<'a>>, ConvertError> {
    let mut names = HashSet::new();
    let mut weights = Vec::new();
    for (name, constant) in constants {
        if !names.insert(name.clone()) {
            return Err(ConvertError::DuplicateWeight { name });
        }
        let dtype = DType::from_proto(constant.data_type()).ok_or_else(|| ConvertError::UnsupportedType {
            name: name.clone(),
            dtype: constant.data_type().as_str_name(),
        })?;
        let quantize = if dtype == DType::Float32 { options.quantization.find(&name)? } else { None };
        let strings = (dtype == DType::String).then(|| strings(constant, &name)).transpose()?;
        let spec = WeightSpec::new(name, constant.shape(), dtype);
        weights.push(Weight { spec, constant, quantize, strings });
    }
    Ok(weights)
}

fn load(constant: &Constant, name: &str) -> Result<Tensor, ConvertError> {
    constant.tensor().map_err(|source| ConvertError::Value { name: name.to_owned(), source })
}

fn strings(constant: &Constant, name: &str) -> Result<Vec<Bytes>, ConvertError> {
    match load(constant, name)? {
        Tensor::Str(t) => Ok(t.into_vec().into_iter().map(|s| s.0).collect()),
        other => Err(wrong_type(name, DType::String, other.dtype())),
    }
}

fn wrong_type(name: &str, expected: DType, got: DType) -> ConvertError {
    ConvertError::ValueType { name: name.to_owned(), expected, got }
}

impl Weight<'_> {
    /// The specification with any codec of the right width, to count bytes before the values are known.
    fn sized(&self) -> WeightSpec {
        let line = tfjs_format::Affine { min: 0.0, scale: 1.0 };
        match self.quantize {
            None => self.spec.clone(),
            Some(QuantizeTo::Uint8) => self.spec.clone().quantized(Codec::Uint8(line)),
            Some(QuantizeTo::Uint16) => self.spec.clone().quantized(Codec::Uint16(line)),
            Some(QuantizeTo::Float16) => self.spec.clone().quantized(Codec::Float16),
        }
    }

    fn write(&mut self, writer: &mut ShardWriter<'_>) -> Result<u64, ConvertError> {
        let name = self.spec.name.clone();
        if let Some(strings) = self.strings.take() {
            let bytes = encode_strings(&strings)?;
            writer.write_weight(&self.spec, &bytes)?;
            return Ok(bytes.len() as u64);
        }
        let tensor = load(self.constant, &name)?;
        if tensor.dims() != self.spec.shape {
            return Err(ConvertError::ValueShape {
                name,
                expected: self.spec.shape.clone(),
                got: tensor.dims().to_vec(),
            });
        }
        let bytes = match tensor {
            Tensor::F32(t) => {
                if let Some(to) = self.quantize {
                    let mut range = Range::default();
                    range.update(t.data());
                    let codec = range.codec(to, &name)?;
                    self.spec = self.spec.clone().quantized(codec);
                    write_pieces(writer, t.data(), |piece, out| codec.encode(piece, out))?
                } else {
                    write_pieces(writer, t.data(), |piece, out| {
                        out.extend(piece.iter().flat_map(|x| x.to_le_bytes()))
                    })?
                }
            }
            Tensor::I32(t) => write_pieces(writer, t.data(), |piece, out| {
                out.extend(piece.iter().flat_map(|x| x.to_le_bytes()))
            })?,
            Tensor::Bool(t) => {
                write_pieces(writer, t.data(), |piece, out| out.extend(piece.iter().map(|&b| u8::from(b))))?
            }
            Tensor::C64(t) => write_pieces(writer, t.data(), |piece, out| {
                out.extend(piece.iter().flat_map(|c| [c.re, c.im]).flat_map(f32::to_le_bytes));
            })?,
            Tensor::Str(_) => return Err(wrong_type(&name, self.spec.runtime_dtype(), DType::String)),
        };
        Ok(bytes)
    }
}

/// Elements encoded at a time, so that a large tensor is not held twice.
const PIECE: usize = 1 << 16;

fn write_pieces<T>(
    writer: &mut ShardWriter<'_>,
    values: &[T],
    encode: impl Fn(&[T], &mut Vec<u8>),
) -> Result<u64, ConvertError> {
    let mut buffer = Vec::new();
    let mut bytes = 0;
    for piece in values.chunks(PIECE) {
        buffer.clear();
        encode(piece, &mut buffer);
        writer.write(&buffer)?;
        bytes += buffer.len() as u64;
    }
    Ok(bytes)
}

/// The message form, spelled so that TensorFlow.js reads it right.
fn topology(graph: &Graph) -> GraphJson {
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

fn signature(graph: &Graph) -> Result<Signature, ConvertError> {
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
