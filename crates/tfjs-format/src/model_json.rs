//! `model.json`: graph models, layers models, and the older files they come from.
use bytes::Bytes;
use prost::Message;
use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};
use serde_json::{Map, Value};

use crate::json::{self, Place};
use crate::proto::GraphDef;
use crate::{FormatError, GraphJson, Signature, WeightGroup};

/// What a `model.json` says.
///
/// ```
/// use tfjs_format::{ModelFormat, ModelJson, Topology};
/// let text = br#"{"format": "graph-model", "modelTopology": {"node": [{"name": "x", "op": "Placeholder"}]},
///     "weightsManifest": [{"paths": ["group1-shard1of1.bin"],
///                          "weights": [{"name": "w", "shape": [2, 3], "dtype": "float32"}]}]}"#;
/// let model = ModelJson::parse(text)?;
/// assert_eq!(model.format, Some(ModelFormat::GraphModel));
/// let Topology::Graph(graph) = &model.topology else { panic!("not a graph") };
/// assert_eq!(graph.def.node[0].name, "x");
/// assert_eq!(model.weights_manifest[0].weights[0].byte_len()?, Some(24));
/// # Ok::<(), tfjs_format::FormatError>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ModelJson {
    /// What the file says it is; files of TF.js before 1.3 do not say. See [`ModelJson::topology`].
    pub format: Option<ModelFormat>,
    /// The program that made the original model, such as TensorFlow's version.
    pub generated_by: Option<String>,
    /// The program that wrote the file.
    pub converted_by: Option<String>,
    /// Inputs and outputs of a graph model; [`ModelJson::effective_signature`] is the one to use.
    pub signature: Option<Signature>,
    /// The model itself.
    pub topology: Topology,
    /// Loss, metrics and optimizer of a layers model that TF.js saved.
    pub training_config: Option<Value>,
    /// Data of whoever made the model.
    pub user_defined_metadata: Option<Map<String, Value>>,
    /// Graph that fills hash tables, to be run once before the first inference.
    pub initializer: Option<GraphJson>,
    /// Outputs of the initializer: handles, tied to inputs of the model by their resource ids.
    pub initializer_signature: Option<Signature>,
    /// Weights and their files.
    pub weights_manifest: Vec<WeightGroup>,
    /// Fields that this crate does not know, and known ones that are explicitly `null`.
    pub extra: Map<String, Value>,
}

/// The two kinds of models.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ModelFormat {
    /// A TensorFlow graph.
    GraphModel,
    /// A Keras topology.
    LayersModel,
}

/// The model itself.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Topology {
    /// Weights only.
    #[default]
    None,
    /// A graph.
    Graph(GraphJson),
    /// Keras JSON: `{model_config: …}` from Python, `{class_name, config}` from TF.js.
    Layers(Value),
}

impl ModelFormat {
    /// The value of `format`.
    pub fn name(self) -> &'static str {
        match self {
            ModelFormat::GraphModel => "graph-model",
            ModelFormat::LayersModel => "layers-model",
        }
    }
}

impl Topology {
    /// Which kind of model this is; `None` for weights alone.
    pub fn format(&self) -> Option<ModelFormat> {
        match self {
            Topology::None => None,
            Topology::Graph(_) => Some(ModelFormat::GraphModel),
            Topology::Layers(_) => Some(ModelFormat::LayersModel),
        }
    }
}

impl ModelJson {
    /// Reads a `model.json`, or a `weights_manifest.json` (then there is no topology).
    ///
    /// # Errors
    /// When the text is not JSON (with a hint for HTML pages, protobufs and Git LFS pointers), when it is
    /// nested too deeply, holds neither topology nor weights, or has a field of the wrong kind.
    pub fn parse(text: &[u8]) -> Result<ModelJson, FormatError> {
        let fields = match json::parse(text)? {
            Value::Object(fields) => fields,
            manifest @ Value::Array(_) => {
                let weights_manifest = groups(manifest, &Place::Root("weights manifest"))?;
                return Ok(ModelJson { weights_manifest, ..ModelJson::default() });
            }
            other => return Err(Place::Root("model.json").wrong("an object", &other)),
        };
        if !fields.contains_key("modelTopology") && !fields.contains_key("weightsManifest") {
            return Err(FormatError::NotAModel);
        }
        let mut model = ModelJson::default();
        let mut topology = None;
        for (key, value) in fields {
            let at = Place::Root(&key);
            match (key.as_str(), value) {
                ("format", Value::String(format)) => model.format = Some(format_of(format)?),
                ("generatedBy", Value::String(text)) => model.generated_by = Some(text),
                ("convertedBy", Value::String(text)) => model.converted_by = Some(text),
                ("modelTopology", value @ Value::Object(_)) => topology = Some(value),
                // Old savers wrote the Keras JSON as a string.
                ("modelTopology", Value::String(text)) => topology = Some(json::parse(text.as_bytes())?),
                (
                    "signature"
                    | "modelTopology"
                    | "trainingConfig"
                    | "userDefinedMetadata"
                    | "modelInitializer"
                    | "initializerSignature"
                    | "weightsManifest",
                    Value::Null,
                ) => {
                    model.extra.insert(key, Value::Null);
                }
                ("modelTopology", other) => return Err(at.wrong("an object", &other)),
                ("signature", value) => model.signature = Some(Signature::from_json(value, &at)?),
                ("trainingConfig", value) => model.training_config = Some(value),
                ("userDefinedMetadata", value) => {
                    model.user_defined_metadata = Some(json::object(value, &at)?);
                }
                ("modelInitializer", value) => model.initializer = Some(GraphJson::from_value(value, &key)?),
                ("initializerSignature", value) => {
                    model.initializer_signature = Some(Signature::from_json(value, &at)?);
                }
                ("weightsManifest", value) => model.weights_manifest = groups(value, &at)?,
                (_, value) => {
                    model.extra.insert(key, value);
                }
            }
        }
        if let Some(value) = topology {
            let is_graph = match model.format {
                Some(format) => format == ModelFormat::GraphModel,
                None => !["model_config", "class_name", "config"].iter().any(|key| value.get(key).is_some()),
            };
            model.topology = match is_graph {
                true => Topology::Graph(GraphJson::from_value(value, "modelTopology")?),
                false => Topology::Layers(value),
            };
        }
        Ok(model)
    }

    /// Reads the two files of a model converted before TF.js 1.0: `tensorflowjs_model.pb`, a binary graph
    /// without constant values, and `weights_manifest.json`.
    ///
    /// # Errors
    /// When the graph cannot be decoded, and as for [`ModelJson::parse`].
    pub fn from_legacy(graph: Bytes, manifest: &[u8]) -> Result<ModelJson, FormatError> {
        if json::is_lfs_pointer(&graph) {
            return Err(FormatError::GitLfsPointer.in_file("tensorflowjs_model.pb"));
        }
        let graph = GraphDef::decode(graph).map_err(|source| {
            FormatError::Protobuf { message: "GraphDef", source }.in_file("tensorflowjs_model.pb")
        })?;
        let mut model = ModelJson::parse(manifest).map_err(|e| e.in_file("weights_manifest.json"))?;
        model.topology = Topology::Graph(graph.into());
        Ok(model)
    }

    /// The JSON text, formatted like the reference converter's: one line, ASCII only.
    ///
    /// # Errors
    /// When a value cannot be written as JSON.
    pub fn to_json(&self) -> Result<String, FormatError> {
        json::to_python_json(self)
    }

    /// The signature that holds: one in `userDefinedMetadata`, as old converters wrote it, comes first.
    ///
    /// # Errors
    /// When the signature in the metadata is malformed.
    pub fn effective_signature(&self) -> Result<Option<Signature>, FormatError> {
        match self.user_defined_metadata.as_ref().and_then(|metadata| metadata.get("signature")) {
            Some(value) if !value.is_null() => {
                Signature::from_json(value.clone(), &Place::Root("userDefinedMetadata.signature")).map(Some)
            }
            _ => Ok(self.signature.clone()),
        }
    }

    /// Keys of a dictionary of outputs, if the converter was asked to keep them. They are sorted; the
    /// reference pairs them with outputs by position.
    pub fn structured_output_keys(&self) -> Option<Vec<&str>> {
        let keys = self.user_defined_metadata.as_ref()?.get("structuredOutputKeys")?.as_array()?;
        keys.iter().map(Value::as_str).collect()
    }
}

fn format_of(text: String) -> Result<ModelFormat, FormatError> {
    [ModelFormat::GraphModel, ModelFormat::LayersModel]
        .into_iter()
        .find(|format| format.name() == text)
        .ok_or(FormatError::UnknownModelFormat { found: text })
}

fn groups(value: Value, at: &Place<'_>) -> Result<Vec<WeightGroup>, FormatError> {
    let groups = json::array(value, at)?;
    groups.into_iter().enumerate().map(|(i, group)| WeightGroup::from_json(group, &at.index(i))).collect()
}

impl Serialize for ModelJson {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut out = Fields { map: serializer.serialize_map(None)?, extra: &self.extra };
        out.field("format", self.format.map(ModelFormat::name).as_ref())?;
        out.field("generatedBy", self.generated_by.as_ref())?;
        out.field("convertedBy", self.converted_by.as_ref())?;
        out.field("signature", self.signature.as_ref())?;
        // The reference writes metadata on either side of the topology, depending on the kind of model.
        let metadata_first = !matches!(self.topology, Topology::Graph(_));
        if metadata_first {
            out.field("userDefinedMetadata", self.user_defined_metadata.as_ref())?;
        }
        match &self.topology {
            Topology::None => out.field("modelTopology", None::<&Value>)?,
            Topology::Graph(graph) => out.field("modelTopology", Some(graph))?,
            Topology::Layers(value) => out.field("modelTopology", Some(value))?,
        }
        out.field("trainingConfig", self.training_config.as_ref())?;
        if !metadata_first {
            out.field("userDefinedMetadata", self.user_defined_metadata.as_ref())?;
        }
        out.field("modelInitializer", self.initializer.as_ref())?;
        out.field("initializerSignature", self.initializer_signature.as_ref())?;
        out.map.serialize_entry("weightsManifest", &self.weights_manifest)?;
        for (key, value) in &self.extra {
            if !(KNOWN.contains(&key.as_str()) && value.is_null()) {
                out.map.serialize_entry(key, value)?;
            }
        }
        out.map.end()
    }
}

/// Keys whose `null` is kept in [`ModelJson::extra`] and written in its usual place.
const KNOWN: [&str; 10] = [
    "format",
    "generatedBy",
    "convertedBy",
    "signature",
    "modelTopology",
    "trainingConfig",
    "userDefinedMetadata",
    "modelInitializer",
    "initializerSignature",
    "weightsManifest",
];

struct Fields<'a, M> {
    map: M,
    extra: &'a Map<String, Value>,
}

impl<M: SerializeMap> Fields<'_, M> {
    fn field<T: Serialize>(&mut self, key: &'static str, value: Option<&T>) -> Result<(), M::Error> {
        match value {
            Some(value) => self.map.serialize_entry(key, value),
            None if self.extra.get(key).is_some_and(Value::is_null) => self.map.serialize_entry(key, &()),
            None => Ok(()),
        }
    }
}
