use std::time::Instant;

use tfjs_format::io::{DirectorySink, ModelSink};
use tfjs_graph::Graph;
use tracing::info;

use crate::{
    ConvertError, ConvertOptions, InputFormat, OutputFormat, Progress, Summary, Warning, export, layers,
    model::Model,
    pipeline,
    source::{Imported, frozen, hub, saved_model, session_bundle},
};

/// Converts a model and writes it, all or nothing.
///
/// # Errors
/// When options do not fit together, the input cannot be read, or it cannot be expressed for TensorFlow.js.
///
/// ```no_run
/// use tfjs_convert::{ConvertOptions, convert};
/// let options = ConvertOptions {
///     input: "saved_model".to_owned(),
///     output: "web_model".into(),
///     ..ConvertOptions::default()
/// };
/// let summary = convert(&options, &mut |_| {})?;
/// println!("{} weights in {} files", summary.weights, summary.shards);
/// # Ok::<(), tfjs_convert::ConvertError>(())
/// ```
pub fn convert(
    options: &ConvertOptions,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<Summary, ConvertError> {
    let start = Instant::now();
    let output = options.check()?;
    let metadata = options.load_metadata()?;
    progress(Progress::Step("read"));
    let (model, warnings) = match options.input_format {
        input if input.is_keras() => {
            let source = layers::read(options)?;
            if output != OutputFormat::TfjsGraphModel {
                let mut summary = layers::write(source, options, output, metadata, progress)?;
                summary.elapsed = start.elapsed();
                return Ok(summary);
            }
            (layers::to_graph(source, options)?, Vec::new())
        }
        _ => {
            let (imported, warnings) = read(options)?;
            (Model::new(imported)?, warnings)
        }
    };
    let mut summary = write_graph(model, warnings, options, metadata, progress)?;
    summary.elapsed = start.elapsed();
    info!(model = %summary.model.display(), nodes = summary.nodes_after, weights = summary.weights, "converted");
    Ok(summary)
}

/// Runs the passes over a graph and writes it.
fn write_graph(
    mut model: Model,
    mut warnings: Vec<Warning>,
    options: &ConvertOptions,
    metadata: serde_json::Map<String, serde_json::Value>,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<Summary, ConvertError> {
    let report = pipeline::run(&mut model, options, &mut |step| progress(Progress::Step(step)))?;
    progress(Progress::Step("write"));
    let mut sink = DirectorySink::create(&options.output)?;
    let written = export::write(&model, options, metadata, &mut sink, progress)?;
    warnings.append(&mut model.warnings);
    warnings.extend(model.ledger.entries());
    refuse_loss(options, &warnings)?;
    sink.finish(&written.text)?;
    let keys = |endpoints: &[tfjs_graph::Endpoint]| endpoints.iter().map(|e| e.key.clone()).collect();
    Ok(Summary {
        model: options.output.join("model.json"),
        nodes_before: report.nodes_before,
        nodes_after: pipeline::node_count(&model.graph),
        layers: 0,
        weights: written.weights,
        shards: written.shards,
        weight_bytes: written.bytes,
        passes: report.passes,
        inputs: keys(&model.graph.inputs),
        outputs: keys(&model.graph.outputs),
        elapsed: std::time::Duration::ZERO,
        warnings,
    })
}

/// With `strict`, steps that lost something are an error.
pub(crate) fn refuse_loss(options: &ConvertOptions, warnings: &[Warning]) -> Result<(), ConvertError> {
    let lossy: Vec<Warning> = warnings.iter().filter(|w| w.is_lossy()).cloned().collect();
    if options.strict && !lossy.is_empty() {
        return Err(ConvertError::Lossy { warnings: lossy });
    }
    Ok(())
}

/// Goes through a conversion without writing anything, and without reading weights that no pass looks at. Says what
/// would be warned of; the output path does not matter.
///
/// # Errors
/// As [`convert`], where the cause lies before writing.
pub fn check(options: &ConvertOptions) -> Result<Vec<Warning>, ConvertError> {
    let options = ConvertOptions { output: ".".into(), dump: None, ..options.clone() };
    let output = options.check()?;
    if options.input_format.is_keras() {
        let source = layers::read(&options)?;
        if output == OutputFormat::TfjsGraphModel {
            let mut model = layers::to_graph(source, &options)?;
            pipeline::run(&mut model, &options, &mut |_| {})?;
            return Ok(model.warnings);
        }
        return layers::check(source, &options);
    }
    let (imported, mut warnings) = read(&options)?;
    let mut model = Model::new(imported)?;
    pipeline::run(&mut model, &options, &mut |_| {})?;
    warnings.append(&mut model.warnings);
    warnings.extend(model.ledger.entries());
    Ok(warnings)
}

/// A model's graph before and after a conversion.
#[derive(Clone, Debug)]
pub struct Comparison {
    /// As it was read: functions are inlined, variables are constants, and only what the outputs need is left.
    pub before: Graph,
    /// As it would be written.
    pub after: Graph,
}

/// The graph that a conversion starts from and the one it leads to, whatever ops there are; nothing is written.
///
/// # Errors
/// As [`convert`], where the cause lies before writing and is not an op.
pub fn compare(options: &ConvertOptions) -> Result<Comparison, ConvertError> {
    let options = ConvertOptions {
        output: ".".into(),
        dump: None,
        skip_op_check: true,
        output_format: Some(OutputFormat::TfjsGraphModel),
        ..options.clone()
    };
    let mut model = if options.input_format.is_keras() {
        layers::to_graph(layers::read(&options)?, &options)?
    } else {
        options.check()?;
        Model::new(read(&options)?.0)?
    };
    let mut before = None;
    pipeline::run_watched(&mut model, &options, &mut |_| {}, &mut |pass, model| {
        if pass == "prune" {
            before = Some(model.graph.clone());
        }
    })?;
    Ok(Comparison { before: before.unwrap_or_default(), after: model.graph })
}

fn read(options: &ConvertOptions) -> Result<(Imported, Vec<Warning>), ConvertError> {
    let tags = &options.saved_model_tags;
    let input = std::path::Path::new(&options.input);
    let signature = options.signature_name.as_deref();
    let serving = saved_model::Selection { tags, signature: signature.unwrap_or("serving_default") };
    let imported = match options.input_format {
        InputFormat::TfSavedModel => saved_model::read(input, &serving)?,
        InputFormat::TfFrozenModel => frozen::read(input, &options.output_node_names)?,
        InputFormat::TfSessionBundle => session_bundle::read(input, &options.output_node_names, &serving)?,
        InputFormat::TfHub => return hub::read(&options.input, tags, signature),
        InputFormat::Keras
        | InputFormat::KerasKeras
        | InputFormat::KerasSavedModel
        | InputFormat::TfjsLayersModel => unreachable!("read by `layers::read`"),
    };
    Ok((imported, Vec::new()))
}
