//! Models to run.

use tfjs_format::io::LoadOptions;
use tfjs_graph::{GraphError, GraphModel, ModelOptions};
use tfjs_kernels::Threads;
use tfjs_layers::{LayersModel, LayersOptions};

use crate::{
    CliError,
    args::ModelArgs,
    inputs,
    inspect::{self, Kind},
};

/// The model that the arguments name: a graph model, or a model of layers (TensorFlow.js's or a Keras file) as a graph.
///
/// # Errors
/// When it cannot be reached or is malformed.
pub(crate) fn model(args: &ModelArgs) -> Result<GraphModel, CliError> {
    let load = options(args);
    let options = ModelOptions { optimize: !args.no_optimize, ..ModelOptions::default() };
    if let Ok(Kind::Keras(_)) = inspect::detect(&args.model) {
        return as_graph(tfjs_convert::open_keras(&args.model)?);
    }
    match GraphModel::open_with(&args.model, &load, options) {
        Err(GraphError::WrongKind { found: "a layers model", .. }) => {
            as_graph(LayersModel::open_with(&args.model, &load, &LayersOptions::default())?)
        }
        other => Ok(other?),
    }
}

fn as_graph(model: LayersModel) -> Result<GraphModel, CliError> {
    for option in model.unknown_options() {
        eprintln!("warning: {option}");
    }
    Ok(model.into_graph_model()?)
}

/// How the arguments say a model of TensorFlow.js is to be reached.
pub(crate) fn options(args: &ModelArgs) -> LoadOptions {
    LoadOptions {
        headers: args.headers.clone(),
        weight_path_prefix: args.weight_path_prefix.clone(),
        from_tf_hub: args.from_tf_hub,
        ..LoadOptions::default()
    }
}

/// A model of layers: a Keras file, or a layers model of TensorFlow.js.
///
/// # Errors
/// When it cannot be reached, is malformed, or is a graph model.
pub(crate) fn layers(model: &str, load: &LoadOptions) -> Result<LayersModel, CliError> {
    if let Ok(Kind::Keras(_)) = inspect::detect(model) {
        return Ok(tfjs_convert::open_keras(model)?);
    }
    Ok(LayersModel::open_with(model, load, &LayersOptions::default())?)
}

/// Runs `f` on as many threads as the arguments say.
///
/// # Errors
/// When the threads cannot be started, and those of `f`.
pub(crate) fn on_threads<R: Send>(
    args: &ModelArgs,
    f: impl FnOnce() -> Result<R, CliError> + Send,
) -> Result<R, CliError> {
    with_threads(args.threads, f)
}

/// Runs `f` on so many threads, or on one per processor.
///
/// # Errors
/// When the threads cannot be started, and those of `f`.
pub(crate) fn with_threads<R: Send>(
    threads: Option<std::num::NonZeroUsize>,
    f: impl FnOnce() -> Result<R, CliError> + Send,
) -> Result<R, CliError> {
    match threads {
        None => f(),
        Some(n) => Threads::new(n.get()).map_err(CliError::Threads)?.run(f),
    }
}

/// The tensors that the arguments name.
///
/// # Errors
/// When a file cannot be read or does not fit.
pub(crate) fn inputs(
    args: &ModelArgs,
    model: &GraphModel,
) -> Result<Vec<(String, tfjs_kernels::Tensor)>, CliError> {
    inputs::load(&args.inputs, model, &args.normalise)
}
