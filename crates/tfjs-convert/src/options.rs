use std::{
    fs,
    path::{Path, PathBuf},
};

use serde_json::{Map, Value};
use tfjs_format::QuantizeTo;

use crate::{ConvertError, fnmatch::fnmatch, keras::KerasFile};

/// What to convert, to what, and how. Field by field these are the flags of `tensorflowjs_converter`.
#[derive(Clone, Debug)]
pub struct ConvertOptions {
    /// File or directory to read; for TF-Hub also a URL.
    pub input: String,
    /// Directory to write to.
    pub output: PathBuf,
    /// What the input is.
    pub input_format: InputFormat,
    /// What to write; by default what suits the input.
    pub output_format: Option<OutputFormat>,
    /// Signature key; by default `serving_default`, for TF-Hub `default`.
    pub signature_name: Option<String>,
    /// Tags of the meta graph.
    pub saved_model_tags: Vec<String>,
    /// Which weights to quantize.
    pub quantization: QuantizationMap,
    /// One weight group per layer (layers models only).
    pub split_weights_by_layer: bool,
    /// Write ops that TensorFlow.js does not have instead of refusing them.
    pub skip_op_check: bool,
    /// Remove `Assert`, `CheckNumerics` and `Print`.
    pub strip_debug_ops: bool,
    /// Record the keys of a dictionary of outputs as `structuredOutputKeys`.
    pub use_structured_outputs_names: bool,
    /// Most bytes per weight file; 4 MiB by default.
    pub weight_shard_size_bytes: Option<u64>,
    /// What to fetch, as `node` or `node:1` (frozen graphs and session bundles).
    pub output_node_names: Vec<String>,
    /// Accepted for compatibility: loops and conditionals always stay functional here.
    pub control_flow_v2: bool,
    /// JSON files to embed as `userDefinedMetadata`, by key.
    pub metadata: Vec<(String, PathBuf)>,
    /// Directory that gets the graph after each pass.
    pub dump: Option<PathBuf>,
    /// Keep layers that TF.js lacks instead of writing equivalents (layers models only).
    pub no_lower: bool,
    /// Makes every lossy step an error.
    pub strict: bool,
}

impl Default for ConvertOptions {
    fn default() -> ConvertOptions {
        ConvertOptions {
            input: String::new(),
            output: PathBuf::new(),
            input_format: InputFormat::default(),
            output_format: None,
            signature_name: None,
            saved_model_tags: vec!["serve".to_owned()],
            quantization: QuantizationMap::default(),
            split_weights_by_layer: false,
            skip_op_check: false,
            strip_debug_ops: true,
            use_structured_outputs_names: false,
            weight_shard_size_bytes: None,
            output_node_names: Vec::new(),
            control_flow_v2: false,
            metadata: Vec::new(),
            dump: None,
            no_lower: false,
            strict: false,
        }
    }
}

/// What a conversion reads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum InputFormat {
    /// Keras HDF5 file.
    Keras,
    /// SavedModel that Keras wrote.
    KerasSavedModel,
    /// `.keras` file.
    KerasKeras,
    /// SavedModel.
    #[default]
    TfSavedModel,
    /// TF-Hub module.
    TfHub,
    /// Frozen GraphDef.
    TfFrozenModel,
    /// Export of TensorFlow before SavedModel.
    TfSessionBundle,
    /// TensorFlow.js layers model.
    TfjsLayersModel,
}

/// What a conversion writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum OutputFormat {
    /// Keras HDF5 file.
    Keras,
    /// SavedModel that Keras reads.
    KerasSavedModel,
    /// `.keras` file.
    KerasKeras,
    /// TensorFlow.js layers model.
    TfjsLayersModel,
    /// TensorFlow.js graph model.
    TfjsGraphModel,
}

impl InputFormat {
    /// All formats.
    pub const ALL: [InputFormat; 8] = [
        InputFormat::Keras,
        InputFormat::KerasSavedModel,
        InputFormat::KerasKeras,
        InputFormat::TfSavedModel,
        InputFormat::TfHub,
        InputFormat::TfFrozenModel,
        InputFormat::TfSessionBundle,
        InputFormat::TfjsLayersModel,
    ];

    /// The name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            InputFormat::Keras => "keras",
            InputFormat::KerasSavedModel => "keras_saved_model",
            InputFormat::KerasKeras => "keras_keras",
            InputFormat::TfSavedModel => "tf_saved_model",
            InputFormat::TfHub => "tf_hub",
            InputFormat::TfFrozenModel => "tf_frozen_model",
            InputFormat::TfSessionBundle => "tf_session_bundle",
            InputFormat::TfjsLayersModel => "tfjs_layers_model",
        }
    }

    /// The inverse of [`InputFormat::name`].
    pub fn from_name(name: &str) -> Option<InputFormat> {
        InputFormat::ALL.into_iter().find(|f| f.name() == name)
    }

    /// What an input looks like: its address, the files in its directory, or the first bytes of the file. A SavedModel
    /// counts as Keras's only when something is to be written that needs layers.
    pub fn guess(input: &str, output: Option<OutputFormat>) -> InputFormat {
        if input.starts_with("http://") || input.starts_with("https://") {
            return InputFormat::TfHub;
        }
        let path = Path::new(input);
        let layers = !matches!(output, None | Some(OutputFormat::TfjsGraphModel));
        if path.join("tfhub_module.pb").exists() {
            InputFormat::TfHub
        } else if path.join("saved_model.pb").exists() && layers {
            InputFormat::KerasSavedModel
        } else if path.is_dir() && path.join("model.json").exists() {
            InputFormat::TfjsLayersModel
        } else if path.join("config.json").exists() && !path.join("saved_model.pb").exists() {
            InputFormat::KerasKeras
        } else if path.is_dir() {
            InputFormat::TfSavedModel
        } else {
            let mut start = [0; 8];
            let read = fs::File::open(path).and_then(|mut f| std::io::Read::read(&mut f, &mut start));
            match &start[..read.unwrap_or(0)] {
                bytes if bytes.starts_with(b"PK\x03\x04") => InputFormat::KerasKeras,
                [b'{', ..] if input.ends_with(".weights.json") => InputFormat::Keras,
                [b'{', ..] => InputFormat::TfjsLayersModel,
                _ if KerasFile::looks_like(path) => InputFormat::Keras,
                bytes if !bytes.is_empty() => InputFormat::TfFrozenModel,
                // Nothing to read: the name says what is missing.
                _ => match path.extension().and_then(|e| e.to_str()) {
                    Some("h5" | "hdf5") => InputFormat::Keras,
                    Some("keras") => InputFormat::KerasKeras,
                    Some("json") => InputFormat::TfjsLayersModel,
                    _ => InputFormat::TfSavedModel,
                },
            }
        }
    }

    /// Whether the model is made of Keras layers.
    pub fn is_keras(self) -> bool {
        matches!(
            self,
            InputFormat::Keras
                | InputFormat::KerasKeras
                | InputFormat::KerasSavedModel
                | InputFormat::TfjsLayersModel
        )
    }

    /// What is written when nothing is said.
    pub fn default_output(self) -> Option<OutputFormat> {
        match self {
            InputFormat::Keras | InputFormat::KerasSavedModel | InputFormat::KerasKeras => {
                Some(OutputFormat::TfjsLayersModel)
            }
            InputFormat::TfSavedModel
            | InputFormat::TfHub
            | InputFormat::TfFrozenModel
            | InputFormat::TfSessionBundle => Some(OutputFormat::TfjsGraphModel),
            InputFormat::TfjsLayersModel => Some(OutputFormat::Keras),
        }
    }
}

impl OutputFormat {
    /// All formats.
    pub const ALL: [OutputFormat; 5] = [
        OutputFormat::Keras,
        OutputFormat::KerasSavedModel,
        OutputFormat::KerasKeras,
        OutputFormat::TfjsLayersModel,
        OutputFormat::TfjsGraphModel,
    ];

    /// The name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            OutputFormat::Keras => "keras",
            OutputFormat::KerasSavedModel => "keras_saved_model",
            OutputFormat::KerasKeras => "keras_keras",
            OutputFormat::TfjsLayersModel => "tfjs_layers_model",
            OutputFormat::TfjsGraphModel => "tfjs_graph_model",
        }
    }

    /// The inverse of [`OutputFormat::name`].
    pub fn from_name(name: &str) -> Option<OutputFormat> {
        OutputFormat::ALL.into_iter().find(|f| f.name() == name)
    }
}

/// Which weights get which stored type: patterns per type, or a type for all that no pattern matches.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct QuantizationMap {
    /// Pattern lists (`fnmatch`: `*`, `?`, `[seq]`, `[!seq]`, on the whole name).
    pub patterns: Vec<(QuantizeTo, Vec<String>)>,
    /// Type for float weights that no pattern matches.
    pub fallthrough: Option<QuantizeTo>,
}

impl QuantizationMap {
    /// Adds what one `--quantize_*` flag says: patterns separated by commas, or nothing for "all others".
    ///
    /// # Errors
    /// When a second flag says "all others".
    pub fn add(&mut self, to: QuantizeTo, patterns: Option<&str>) -> Result<(), ConvertError> {
        match patterns {
            Some(list) => self.patterns.push((to, list.split(',').map(str::to_owned).collect())),
            None if self.fallthrough.is_some() => return Err(ConvertError::TwoFallthroughs),
            None => self.fallthrough = Some(to),
        }
        Ok(())
    }

    /// What the deprecated `--quantization_bytes` says: 1 or 2 bytes for all weights.
    ///
    /// # Errors
    /// When another quantization was asked for, or the number is neither.
    pub fn add_bytes(&mut self, bytes: u64) -> Result<(), ConvertError> {
        if !self.is_empty() {
            return Err(ConvertError::MixedQuantizationFlags);
        }
        self.fallthrough = match bytes {
            1 => Some(QuantizeTo::Uint8),
            2 => Some(QuantizeTo::Uint16),
            _ => return Err(ConvertError::QuantizationBytes { bytes }),
        };
        Ok(())
    }

    /// Whether nothing is quantized.
    pub fn is_empty(&self) -> bool {
        self.patterns.is_empty() && self.fallthrough.is_none()
    }

    /// The type for a weight of this name.
    ///
    /// # Errors
    /// When patterns of two types match it.
    pub fn find(&self, name: &str) -> Result<Option<QuantizeTo>, ConvertError> {
        let mut found = None;
        for (to, patterns) in &self.patterns {
            if patterns.iter().any(|p| fnmatch(p, name))
                && let Some(first) = found.replace(*to).filter(|first| first != to)
            {
                let (first, second) = (first.storage(), to.storage());
                return Err(ConvertError::TwoQuantizations { first, second, name: name.to_owned() });
            }
        }
        Ok(found.or(self.fallthrough))
    }
}

impl ConvertOptions {
    /// Checks that the options fit together, and returns what is to be written.
    ///
    /// # Errors
    /// The first of the reference converter's complaints that applies.
    pub fn check(&self) -> Result<OutputFormat, ConvertError> {
        if self.input.is_empty() {
            return Err(ConvertError::MissingArgument { name: "input_path" });
        }
        if self.output.as_os_str().is_empty() {
            return Err(ConvertError::MissingArgument { name: "output_path" });
        }
        let output = self.output_format.or(self.input_format.default_output());
        let tfjs = matches!(output, Some(OutputFormat::TfjsGraphModel | OutputFormat::TfjsLayersModel));
        match self.weight_shard_size_bytes {
            Some(_) if !tfjs => return Err(ConvertError::ShardSizeUnused),
            Some(0) => return Err(ConvertError::ShardSizeZero),
            _ => {}
        }
        let input = self.input_format;
        if input == InputFormat::TfFrozenModel && self.output_node_names.is_empty() {
            return Err(ConvertError::OutputNodesRequired);
        }
        let has_signatures =
            matches!(input, InputFormat::TfSavedModel | InputFormat::TfHub | InputFormat::TfSessionBundle);
        if self.signature_name.is_some() && !has_signatures {
            return Err(ConvertError::SignatureUnused { input: input.name() });
        }
        if self.control_flow_v2 && output != Some(OutputFormat::TfjsGraphModel) {
            return Err(ConvertError::ControlFlowUnused {
                output: output.map_or("none", OutputFormat::name),
            });
        }
        let unsupported = ConvertError::UnsupportedPair {
            input: input.name(),
            output: output.map_or("None", OutputFormat::name),
        };
        let output = output.ok_or(unsupported)?;
        if !input.is_keras() && output != OutputFormat::TfjsGraphModel {
            return Err(ConvertError::UnsupportedPair { input: input.name(), output: output.name() });
        }
        Ok(output)
    }

    /// The files of `metadata`, parsed.
    ///
    /// # Errors
    /// When one cannot be read or is not JSON.
    pub(crate) fn load_metadata(&self) -> Result<Map<String, Value>, ConvertError> {
        let mut all = Map::new();
        for (key, path) in &self.metadata {
            let text =
                fs::read_to_string(path).map_err(|source| ConvertError::Io { path: path.clone(), source })?;
            let value = serde_json::from_str(&text)
                .map_err(|source| ConvertError::Metadata { path: path.clone(), source })?;
            all.insert(key.clone(), value);
        }
        Ok(all)
    }
}
