//! The files of TensorFlow.js: `model.json`, weight shards, and the graphs inside.
//!
//! This crate reads and writes them; it does not run anything. A model is a text, `model.json`, and weight
//! files beside it. The text says what the model is (a TensorFlow graph, or Keras layers) and lists the
//! weights in the order of their bytes.
//!
//! # Reading
//!
//! A [source](io::ModelSource) gives the text and the files. [`ModelJson::load`] reads the text;
//! [`Weights::open`] maps the files and checks that they hold exactly what the manifest says. Values are
//! decoded when asked for, so a large model costs memory only for what is used.
//!
//! ```
//! # use tfjs_format::io::{DirectorySink, ModelSink};
//! # let dir = tempfile::tempdir()?;
//! # let path = dir.path().join("doubler");
//! # let mut sink = DirectorySink::create(&path)?;
//! # sink.begin("group1-shard1of1.bin")?;
//! # sink.write(&2f32.to_le_bytes())?;
//! # sink.finish(r#"{"format": "graph-model", "modelTopology": {"node": [{"name": "two", "op": "Const"}]},
//! #   "weightsManifest": [{"paths": ["group1-shard1of1.bin"],
//! #                        "weights": [{"name": "two", "shape": [], "dtype": "float32"}]}]}"#)?;
//! use tfjs_format::io::FileSource;
//! use tfjs_format::{ModelJson, Topology, Weights};
//!
//! let source = FileSource::open(&path)?; // a model.json, or the directory with it
//! let model = ModelJson::load(&source)?;
//! if let Topology::Graph(graph) = &model.topology {
//!     assert_eq!(graph.def.node[0].op, "Const");
//! }
//! let weights = Weights::open(&source, &model.weights_manifest)?;
//! assert_eq!(*weights.get("two")?.f32s()?, [2.0]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! [`io::open`] takes a path or, with the feature `http`, an address, and the options of TF.js's loaders.
//! [`WeightStream`] decodes weights while they arrive.
//!
//! # Writing
//!
//! A [sink](io::ModelSink) takes the weight files and then the text. [`ShardWriter`] cuts the weights of a
//! group into files; [`Range`] and [`Codec`] quantize. Nothing is visible before [`finish`](io::ModelSink::finish).
//!
//! ```
//! use tfjs_format::io::{DirectorySink, FileSource, ModelSink};
//! use tfjs_format::{
//!     group_bytes, DType, ModelJson, QuantizeTo, Range, ShardOptions, ShardWriter, WeightGroup, WeightSpec, Weights,
//! };
//!
//! let values = [-1.0f32, -0.3, 0.7];
//! let mut range = Range::default();
//! range.update(&values);
//! let codec = range.codec(QuantizeTo::Uint8, "kernel")?;
//! let spec = WeightSpec::new("kernel", [3], DType::Float32).quantized(codec);
//! let mut bytes = Vec::new();
//! codec.encode(&values, &mut bytes);
//!
//! # let dir = tempfile::tempdir()?;
//! # let path = dir.path().join("quantized");
//! let mut sink = DirectorySink::create(&path)?;
//! let total = group_bytes(std::slice::from_ref(&spec), |_| 0)?;
//! let mut writer = ShardWriter::new(&mut sink, 1, total, ShardOptions::default())?;
//! writer.write_weight(&spec, &bytes)?;
//! let shards = writer.finish()?;
//! let model = ModelJson { weights_manifest: vec![WeightGroup::new(shards.paths, vec![spec])], ..ModelJson::default() };
//! sink.finish(&model.to_json()?)?;
//!
//! let source = FileSource::open(&path)?;
//! let weights = Weights::open(&source, &ModelJson::load(&source)?.weights_manifest)?;
//! assert!((weights.get("kernel")?.f32s()?[1] + 0.3).abs() < 1e-6);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Graphs
//!
//! [`proto::GraphDef`] is TensorFlow's own message. [`GraphJson`] is how it stands in a `model.json`, with
//! whatever fields this crate does not know; [`TensorValue`] decodes constants inside a graph, and
//! [`runtime_tensor`] brings them to one of the five [run-time types](DType).
//!
//! # Files that are not as they should be
//!
//! Nothing in a file makes this crate panic, abort or reserve memory that no file fills. [`FormatError`] has
//! a variant per cause and names the file, the place and what was expected there. The limits: JSON nested
//! 127 levels deep, [`MAX_REPEATED_ELEMENTS`] elements made of fewer values. One promise must come from
//! outside: a mapped file is not shortened while it is in use (see [`io::map_file`]).
mod data;
mod dtype;
mod error;
mod graph_json;
pub mod io;
mod json;
mod model_json;
pub mod proto;
mod quantize;
mod reader;
mod signature;
mod storage;
mod tensor_proto;
mod weights;
mod writer;

pub use data::{Payload, TensorBytes};
pub use dtype::DType;
pub use error::FormatError;
pub use graph_json::{GraphJson, UnknownFields};
pub use model_json::{ModelFormat, ModelJson, Topology};
pub use quantize::{QuantizeTo, Range};
pub use reader::{WeightStream, Weights};
pub use signature::{Signature, TensorInfo};
pub use storage::Storage;
pub use tensor_proto::{Lossy, MAX_REPEATED_ELEMENTS, TensorData, TensorValue, runtime_tensor, tensor_shape};
pub use weights::{Affine, Codec, Quantization, WeightGroup, WeightSpec};
pub use writer::{
    DEFAULT_SHARD_SIZE, ShardOptions, ShardWriter, Shards, encode_strings, group_bytes, string_bytes,
};
