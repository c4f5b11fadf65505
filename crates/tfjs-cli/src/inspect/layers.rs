//! Models of Keras layers.

use std::path::Path;

use tfjs_convert::{ConvertOptions, InputFormat};
use tfjs_layers::{LayersModel, Network, SaveOptions};

use super::{LayerReport, Report, Target, tfjs::tensor};
use crate::CliError;

/// A Keras file.
pub(super) fn report(
    location: &str,
    format: InputFormat,
    about: &str,
    targets: &[Target],
) -> Result<Report, CliError> {
    let mut report = Report::new(location, format.name(), about);
    report.size = super::size(Path::new(location));
    let model = match tfjs_convert::open_keras(location) {
        Ok(model) => model,
        Err(e) => {
            report.problems.push(chain(&e));
            return Ok(report);
        }
    };
    for (_, weight) in model.weights() {
        let elements = weight.shape.iter().product::<usize>() as u64;
        let float = weight.dtype == tfjs_format::DType::Float32;
        let bytes = elements.saturating_mul(weight.dtype.size().unwrap_or(0) as u64);
        report.weigh(weight.dtype.name(), float, elements, bytes);
    }
    describe(&mut report, &model)?;
    let written = model.check_save(&SaveOptions::default())?;
    report.problems.extend(written.warnings.iter().map(ToString::to_string));
    on_targets(&mut report, location, format, targets);
    Ok(report)
}

/// What the graph of a model needs that targets do not have.
pub(super) fn on_targets(report: &mut Report, location: &str, format: InputFormat, targets: &[Target]) {
    let options =
        ConvertOptions { input: location.to_owned(), input_format: format, ..ConvertOptions::default() };
    report.compare(&options, targets);
}

/// What a model takes and gives, and its layers.
pub(super) fn describe(report: &mut Report, model: &LayersModel) -> Result<(), CliError> {
    report.generated_by =
        report.generated_by.take().or_else(|| Some(format!("keras v{}", model.keras_version.as_ref()?)));
    network(report, model.network(), model, "");
    report.problems.extend(model.unknown_options().iter().map(ToString::to_string));
    let graph = model.compiled()?;
    report.inputs = graph.inputs().iter().map(tensor).collect();
    report.outputs = graph.outputs().iter().map(tensor).collect();
    Ok(())
}

/// The layers of a model, those of models inside after the layer that holds them.
fn network(report: &mut Report, network: &Network, model: &LayersModel, prefix: &str) {
    for (config, node) in network.config.layers.iter().zip(&network.nodes).filter(|(c, _)| !c.implied) {
        let name = format!("{prefix}{}", config.name);
        report.layers.push(LayerReport {
            name: name.clone(),
            class_name: config.class_name.clone(),
            parameters: model.parameters(node) as u64,
        });
        if let Some(inner) = node.layer.network() {
            self::network(report, inner, model, &format!("{name}/"));
        }
    }
}

/// An error with its causes on one line.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(e) = source {
        text += &format!(": {e}");
        source = e.source();
    }
    text
}
