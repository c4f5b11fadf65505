//! TensorFlow.js models.

use serde_json::Value;
use tfjs_convert::InputFormat;
use tfjs_format::{
    DType, ModelJson, Topology, WeightSpec,
    io::{self, LoadOptions, ModelSource, ModelText},
};
use tfjs_graph::{Constant, Graph, GraphModel, ModelOptions, Registry, TensorInfo};
use tfjs_layers::{LayersModel, LayersOptions, StoredWeight, StoredWeights};

use super::{Report, Target, TensorReport, layers::chain};
use crate::CliError;

/// The model's text is read whole; of its weight files only their sizes.
pub(super) fn report(location: &str, targets: &[Target]) -> Result<Report, CliError> {
    let source = io::open(location, &LoadOptions::default())?;
    let (text_size, legacy) = match source.model()? {
        ModelText::Json(text) => (text.len(), false),
        ModelText::Legacy { graph, manifest } => (graph.len() + manifest.len(), true),
    };
    let model = ModelJson::load(source.as_ref())?;
    let mut report = match &model.topology {
        Topology::Graph(_) if legacy => {
            Report::new(location, "tfjs_graph_model", "TensorFlow.js graph model, of before 1.0")
        }
        Topology::Graph(_) => Report::new(location, "tfjs_graph_model", "TensorFlow.js graph model"),
        Topology::Layers(_) => Report::new(location, "tfjs_layers_model", "TensorFlow.js layers model"),
        Topology::None => Report::new(location, "tfjs_weights", "TensorFlow.js weights without a topology"),
    };
    report.generated_by = model.generated_by.clone();
    report.converted_by = model.converted_by.clone();
    report.metadata = model.user_defined_metadata.iter().flatten().map(|(key, _)| key.clone()).collect();
    report.size = text_size as u64;
    weights(&mut report, &model, source.as_ref());
    match &model.topology {
        Topology::Graph(_) => graph(&mut report, &model, targets)?,
        Topology::Layers(topology) => {
            layers(&mut report, topology, &model)?;
            super::layers::on_targets(&mut report, location, InputFormat::TfjsLayersModel, targets);
        }
        Topology::None => {
            report.problems.push("there is nothing to run: the file lists weights only".to_owned())
        }
    }
    Ok(report)
}

fn weights(report: &mut Report, model: &ModelJson, source: &dyn ModelSource) {
    let is_url = source.name().contains("://");
    for group in &model.weights_manifest {
        let mut known = 0u64;
        for spec in &group.weights {
            let bytes = spec.byte_len().ok().flatten().unwrap_or(0) as u64;
            known = known.saturating_add(bytes);
            report.weigh(spec.storage().name(), is_float(spec), elements(spec), bytes);
        }
        if is_url {
            report.size = report.size.saturating_add(known);
            continue;
        }
        let mut found = 0u64;
        for path in &group.paths {
            match source.shard(path) {
                Ok(bytes) => found = found.saturating_add(bytes.len() as u64),
                Err(e) => report.problems.push(e.to_string()),
            }
        }
        report.size = report.size.saturating_add(found);
        // Strings have no size of their own in the manifest.
        report.weights.bytes = report.weights.bytes.saturating_add(found.saturating_sub(known));
    }
}

fn elements(spec: &WeightSpec) -> u64 {
    spec.elements().unwrap_or(0) as u64
}

fn is_float(spec: &WeightSpec) -> bool {
    matches!(spec.runtime_dtype(), DType::Float32 | DType::Complex64)
}

fn graph(report: &mut Report, model: &ModelJson, targets: &[Target]) -> Result<(), CliError> {
    let specs: std::collections::HashMap<&str, &WeightSpec> = model
        .weights_manifest
        .iter()
        .flat_map(|g| &g.weights)
        .map(|spec| (spec.name.as_str(), spec))
        .collect();
    // The values themselves do not matter here.
    let constant = |name: &str| {
        let spec = specs.get(name)?;
        let unread = || Err("weights are not read".into());
        Some(Constant::deferred(spec.runtime_dtype().to_proto(), &spec.shape[..], unread))
    };
    let model = GraphModel::from_json(model, &constant, ModelOptions::default())?;
    report.inputs = model.inputs().iter().map(tensor).collect();
    report.outputs = model.outputs().iter().map(tensor).collect();
    let graph = model.graph();
    report.nodes = graph.len();
    report.functions = graph.library.len();
    report.targets = targets.iter().map(|t| t.of_converted(graph)).collect();
    report.ops = nodes(graph).map(|(_, op)| op).collect();
    let registry = Registry::default();
    let mut foreign: Vec<&str> = Vec::new();
    for (node, op) in nodes(graph) {
        if !registry.contains(op) {
            report.problems.push(format!("node `{node}`: op {op} cannot be run yet"));
        }
        if !tfjs_graph::ops::in_tfjs(op) && !foreign.contains(&op) {
            foreign.push(op);
        }
    }
    report.problems.extend(foreign.iter().map(|op| format!("op {op} is not one of TensorFlow.js's own")));
    Ok(())
}

/// Names and ops of all nodes, with those of functions but without their arguments.
fn nodes(graph: &Graph) -> impl Iterator<Item = (&str, &str)> {
    let inner = graph.library.values().flat_map(|function| {
        let arguments: Vec<_> = function.graph.inputs.iter().map(|e| e.port.node).collect();
        function.graph.iter().filter(move |(id, _)| !arguments.contains(id))
    });
    graph.iter().chain(inner).map(|(_, node)| (node.name.as_str(), node.op.as_str()))
}

pub(super) fn tensor(info: &TensorInfo) -> TensorReport {
    TensorReport {
        name: info.key.clone(),
        tensor: info.name.clone(),
        dtype: info.dtype.map(|d| d.name().to_owned()),
        shape: info.shape.clone(),
    }
}

fn layers(report: &mut Report, json: &Value, model: &ModelJson) -> Result<(), CliError> {
    let specs = || model.weights_manifest.iter().flat_map(|g| &g.weights);
    // The values themselves do not matter here.
    let unread = |spec: &WeightSpec| StoredWeight {
        name: spec.name.clone(),
        value: Constant::deferred(spec.runtime_dtype().to_proto(), &spec.shape[..], || {
            Err("weights are not read".into())
        }),
    };
    let weights =
        StoredWeights::ByName(specs().filter(|s| !s.extra.contains_key("group")).map(unread).collect());
    let model = match LayersModel::new(
        json,
        &weights,
        &LayersOptions { strict: false, ..LayersOptions::default() },
    ) {
        Ok(model) => model,
        Err(e) => {
            report.problems.push(format!("the layers cannot be read: {}", chain(&e)));
            return Ok(());
        }
    };
    super::layers::describe(report, &model)
}
