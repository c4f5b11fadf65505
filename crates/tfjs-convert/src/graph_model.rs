//! Graph models written as they are.

use std::path::Path;

use tfjs_format::{
    ModelFormat, ModelJson, Topology,
    io::{DirectorySink, ModelSink},
};
use tfjs_graph::GraphModel;

use crate::{
    ConvertError, ConvertOptions, Progress, QuantizationMap, Summary, export, passes::ops_check, pipeline,
};

/// How a graph model is written.
#[derive(Clone, Debug, Default)]
pub struct GraphSaveOptions {
    /// Which weights are quantized.
    pub quantization: QuantizationMap,
    /// Most bytes per weight file; 4 MiB if not given.
    pub weight_shard_size_bytes: Option<u64>,
}

/// Writes a graph model into a directory, as TensorFlow.js reads it: `model.json` and weight files, all or nothing. It may be the
/// directory that the model came from. Graph, signature, metadata and initializer are those of the model; weights whose
/// file had them quantized are written as the floats that they are when the model runs.
///
/// ```no_run
/// use tfjs_graph::GraphModel;
/// use tfjs_layers::FineTune;
/// let model = GraphModel::open("web_model")?;
/// let mut tuning = model.fine_tune(&["dense/kernel", "dense/bias"])?;
/// // compile, fit …
/// tfjs_convert::save_graph_model(&tuning.into_graph_model()?, "tuned_model")?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// When a weight cannot be read, the graph has ops that TensorFlow.js lacks, or writing fails.
pub fn save_graph_model(model: &GraphModel, directory: impl AsRef<Path>) -> Result<Summary, ConvertError> {
    save_graph_model_with(model, directory, &GraphSaveOptions::default(), &mut |_| {})
}

/// As [`save_graph_model`], with options; `progress` is told of the weights.
///
/// # Errors
/// As [`save_graph_model`].
pub fn save_graph_model_with(
    model: &GraphModel,
    directory: impl AsRef<Path>,
    options: &GraphSaveOptions,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<Summary, ConvertError> {
    let directory = directory.as_ref();
    let (graph, initializer) = (model.graph(), model.initializer());
    let ops: Vec<_> = std::iter::once(graph).chain(initializer).flat_map(ops_check::unsupported).collect();
    if !ops.is_empty() {
        return Err(ConvertError::NotInTfjs { ops });
    }
    let options = ConvertOptions {
        quantization: options.quantization.clone(),
        weight_shard_size_bytes: options.weight_shard_size_bytes,
        ..ConvertOptions::default()
    };
    let mut sink = DirectorySink::create(directory)?;
    let constants = export::constants(graph, initializer);
    let written = export::write_weights(constants, &options, &mut sink, progress)?;
    // What the file said is kept word for word; nodes have their names still.
    let signature = match model.signature() {
        Some(signature) => signature.clone(),
        None => export::signature(graph)?,
    };
    let json = ModelJson {
        format: Some(ModelFormat::GraphModel),
        generated_by: model.origin().0.map(str::to_owned),
        converted_by: Some(model.origin().1.unwrap_or(export::CONVERTED_BY).to_owned()),
        signature: Some(signature),
        topology: Topology::Graph(export::topology(graph)),
        user_defined_metadata: model.metadata().cloned(),
        initializer: initializer.map(export::topology),
        initializer_signature: (initializer.filter(|g| !g.outputs.is_empty()))
            .map(export::signature)
            .transpose()?,
        weights_manifest: vec![written.group],
        ..ModelJson::default()
    };
    sink.finish(&json.to_json()?)?;
    let nodes = pipeline::node_count(graph);
    Ok(Summary {
        model: directory.join("model.json"),
        nodes_before: nodes,
        nodes_after: nodes,
        weights: written.count,
        shards: written.files,
        weight_bytes: written.bytes,
        inputs: model.inputs().iter().map(|i| i.key.clone()).collect(),
        outputs: model.outputs().iter().map(|o| o.key.clone()).collect(),
        ..Summary::default()
    })
}
