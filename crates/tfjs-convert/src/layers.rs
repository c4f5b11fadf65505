//! Models of Keras layers: from any of their files to any other.

use std::{path::Path, sync::Arc};

use serde_json::{Map, Value};
use tfjs_format::{
    DEFAULT_SHARD_SIZE, ModelFormat, ModelJson, Topology,
    io::{DirectorySink, ModelSink},
};
use tfjs_graph::Constant;
use tfjs_layers::{
    Assets, LayersError, LayersModel, LayersOptions, Quantizer, SaveOptions, SaveReport, StoredWeights,
};

use crate::{
    ConvertError, ConvertOptions, InputFormat, OutputFormat, Progress, Summary, Warning,
    convert::refuse_loss, export, keras::KerasFile, model::Model, target,
};

type Result<T> = std::result::Result<T, ConvertError>;

/// What was read.
pub(crate) enum Source {
    /// A whole model.
    Model(Box<LayersModel>),
    /// Weights alone.
    Weights(Box<KerasFile>),
}

fn in_file(path: &Path) -> impl Fn(LayersError) -> ConvertError {
    let path = path.to_path_buf();
    move |source| ConvertError::Layers { path: path.clone(), source }
}

/// Opens a model of Keras layers: an `.h5` or `.keras` file (told apart by their contents), or the directory of a
/// SavedModel that Keras wrote.
///
/// # Errors
/// When the file is malformed, holds weights alone, or a layer is not known.
pub fn open_keras(path: impl AsRef<Path>) -> Result<LayersModel> {
    let path = path.as_ref();
    match read_keras(path)? {
        Source::Model(model) => Ok(*model),
        Source::Weights(_) => Err(weights_only(path)),
    }
}

/// Writes a model of layers for Keras: `.h5` and `.hdf5`, `.keras`, or the directory of a SavedModel, by the name of `path`. What is
/// there is replaced.
///
/// ```no_run
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use tfjs_layers::build::{Dense, Sequential};
/// let model = Sequential::new().add(Dense::new(3).activation("softmax").input_shape([4])).build(7)?;
/// model.save("web_model")?; // for TensorFlow.js
/// tfjs_convert::save_keras(&model, "model.keras")?;
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// When Keras has no such layer, a weight cannot be read, or writing fails.
pub fn save_keras(model: &LayersModel, path: impl AsRef<Path>) -> Result<()> {
    let path = path.as_ref();
    match path.extension().and_then(|e| e.to_str()) {
        Some("h5" | "hdf5") => target::keras::write_h5(model, path)?,
        Some("keras") => target::keras::write_keras(model, path)?,
        _ => target::saved_model::write(model.to_graph().map_err(in_file(path))?, path)?,
    };
    Ok(())
}

/// Reads a model of layers.
pub(crate) fn read(options: &ConvertOptions) -> Result<Source> {
    let path = Path::new(&options.input);
    if options.input_format != InputFormat::TfjsLayersModel {
        return read_keras(path);
    }
    let model = LayersModel::open(path).map_err(in_file(path))?;
    Ok(Source::Model(Box::new(model)))
}

fn read_keras(path: &Path) -> Result<Source> {
    let file = KerasFile::open(path)?;
    let Some(config) = &file.config else { return Ok(Source::Weights(Box::new(file))) };
    let mut topology = Map::new();
    for (key, value) in [("keras_version", &file.keras_version), ("backend", &file.backend)] {
        topology.extend(value.clone().map(|v| (key.to_owned(), Value::from(v))));
    }
    topology.insert("model_config".to_owned(), config.clone());
    let assets = file.assets.clone();
    let assets = Assets::new(move |path| match assets.read(path) {
        Ok(bytes) => Ok(bytes.map(|b| b.to_vec())),
        Err(e) => Err(LayersError::Asset { path: path.to_owned(), source: Box::new(e) }),
    });
    let options = LayersOptions { assets, ..LayersOptions::default() };
    let mut model = LayersModel::new(&topology.into(), &file.weights, &options).map_err(in_file(path))?;
    model.training_config = file.training_config.clone();
    model.optimizer_weights = file.optimizer.clone();
    Ok(Source::Model(Box::new(model)))
}

/// The model's graph, as passes work on it.
pub(crate) fn to_graph(source: Source, options: &ConvertOptions) -> Result<Model> {
    match source {
        Source::Model(model) => {
            let emitted = model.to_graph().map_err(in_file(Path::new(&options.input)))?;
            let mut graph = Model { initializer: emitted.initializer, ..Model::from_graph(emitted.graph) };
            graph.warnings = unknown_options(&model);
            Ok(graph)
        }
        Source::Weights(_) => Err(weights_only(Path::new(&options.input))),
    }
}

fn weights_only(path: &Path) -> ConvertError {
    ConvertError::WeightsOnly { path: path.to_path_buf(), expected: "tfjs_layers_model" }
}

/// What writing would warn of.
pub(crate) fn check(source: Source, options: &ConvertOptions) -> Result<Vec<Warning>> {
    let Source::Model(model) = source else { return Ok(Vec::new()) };
    let save = save_options(options, Map::new());
    let report = model.check_save(&save).map_err(in_file(Path::new(&options.input)))?;
    Ok(warnings(&model, report))
}

/// What is warned of when a model is written for TensorFlow.js.
fn warnings(model: &LayersModel, report: SaveReport) -> Vec<Warning> {
    unknown_options(model).into_iter().chain(report.warnings.into_iter().map(Warning::Layer)).collect()
}

fn unknown_options(model: &LayersModel) -> Vec<Warning> {
    model.unknown_options().iter().cloned().map(Warning::UnknownOption).collect()
}

fn save_options(options: &ConvertOptions, metadata: Map<String, Value>) -> SaveOptions {
    let map = options.quantization.clone();
    SaveOptions {
        lower: !options.no_lower,
        split_weights_by_layer: options.split_weights_by_layer,
        shard_size: options.weight_shard_size_bytes.unwrap_or(DEFAULT_SHARD_SIZE),
        quantize: (!map.is_empty()).then(|| -> Quantizer { Arc::new(move |name| Ok(map.find(name)?)) }),
        metadata,
        // Files of Keras hold it in another form, which TF.js cannot read.
        include_optimizer: options.input_format == InputFormat::TfjsLayersModel,
        converted_by: Some(export::CONVERTED_BY.to_owned()),
        ..SaveOptions::default()
    }
}

/// Writes a layers model for TensorFlow.js.
fn write_layers(
    model: &LayersModel,
    options: &ConvertOptions,
    metadata: Map<String, Value>,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<Summary> {
    let save = save_options(options, metadata);
    let failed = in_file(Path::new(&options.input));
    if options.strict {
        refuse_loss(options, &warnings(model, model.check_save(&save).map_err(&failed)?))?;
    }
    let mut sink = DirectorySink::create(&options.output)?;
    let mut tell = |done, total| progress(Progress::Weights { done, total });
    let report = model.save_with_progress(&mut sink, &save, &mut tell).map_err(&failed)?;
    Ok(Summary {
        model: options.output.join("model.json"),
        weights: report.weights,
        shards: report.shards,
        weight_bytes: report.bytes,
        inputs: model.input_names(),
        outputs: model.output_names(),
        layers: model.network().nodes.len(),
        warnings: warnings(model, report),
        ..Summary::default()
    })
}

/// Writes a model of layers in another format.
pub(crate) fn write(
    source: Source,
    options: &ConvertOptions,
    output: OutputFormat,
    metadata: Map<String, Value>,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<Summary> {
    progress(Progress::Step("write"));
    match (source, output) {
        (Source::Model(model), OutputFormat::TfjsLayersModel) => {
            write_layers(&model, options, metadata, progress)
        }
        (Source::Weights(file), OutputFormat::TfjsLayersModel) => {
            let weights = match file.weights {
                StoredWeights::ByLayer(layers) => layers.into_iter().flat_map(|(_, w)| w).collect(),
                StoredWeights::ByPath(list) | StoredWeights::ByName(list) => list,
            };
            let weights = weights.into_iter().map(|w| (w.name, w.value)).collect();
            write_weights(weights, options, metadata, progress)
        }
        (Source::Weights(_), _) => Err(weights_only(Path::new(&options.input))),
        (Source::Model(model), OutputFormat::Keras) => {
            let path = file_output(options, "the path to an HDF5 file")?;
            written(&model, options, path, || target::keras::write_h5(&model, path))
        }
        (Source::Model(model), OutputFormat::KerasKeras) => {
            let path = file_output(options, "the path to a .keras file")?;
            written(&model, options, path, || target::keras::write_keras(&model, path))
        }
        (Source::Model(model), OutputFormat::KerasSavedModel) => {
            let emitted = model.to_graph().map_err(in_file(Path::new(&options.input)))?;
            let path = options.output.join("saved_model.pb");
            written(&model, options, &path, || target::saved_model::write(emitted, &options.output))
        }
        (Source::Model(_), OutputFormat::TfjsGraphModel) => unreachable!("graphs go through the pipeline"),
    }
}

/// Writes for Keras; `write` gives the number of weights.
fn written(
    model: &LayersModel,
    options: &ConvertOptions,
    path: &Path,
    write: impl FnOnce() -> Result<usize>,
) -> Result<Summary> {
    let warnings = unknown_options(model);
    refuse_loss(options, &warnings)?;
    let weights = write()?;
    let bytes = std::fs::metadata(path).map_or(0, |m| m.len());
    let model = path.to_path_buf();
    Ok(Summary { model, weights, shards: 1, weight_bytes: bytes, warnings, ..Summary::default() })
}

/// The output when it is to be a file.
fn file_output<'o>(options: &'o ConvertOptions, expected: &'static str) -> Result<&'o Path> {
    let path = options.output.as_path();
    if path.is_dir() {
        return Err(ConvertError::OutputIsDirectory { path: path.to_path_buf(), expected });
    }
    if let Some(parent) = path.parent().filter(|p| !p.as_os_str().is_empty()) {
        let failed = |source| ConvertError::Io { path: parent.to_path_buf(), source };
        std::fs::create_dir_all(parent).map_err(failed)?;
    }
    Ok(path)
}

/// Writes weights without a model.
fn write_weights(
    weights: Vec<(String, Constant)>,
    options: &ConvertOptions,
    metadata: Map<String, Value>,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<Summary> {
    let mut sink = DirectorySink::create(&options.output)?;
    let constants = weights.iter().map(|(name, value)| (name.clone(), value)).collect();
    let written = export::write_weights(constants, options, &mut sink, progress)?;
    let json = ModelJson {
        format: Some(ModelFormat::LayersModel),
        converted_by: Some(export::CONVERTED_BY.to_owned()),
        topology: Topology::None,
        user_defined_metadata: (!metadata.is_empty()).then_some(metadata),
        weights_manifest: vec![written.group],
        ..ModelJson::default()
    };
    sink.finish(&json.to_json()?)?;
    Ok(Summary {
        model: options.output.join("model.json"),
        weights: written.count,
        shards: written.files,
        weight_bytes: written.bytes,
        ..Summary::default()
    })
}
