//! SavedModels, frozen graphs, TF-Hub modules and session bundles.

use std::{
    collections::{BTreeMap, HashSet},
    path::Path,
};

use tfjs_convert::{
    ConvertOptions, InputFormat,
    proto::{TensorInfo, tensor_info::Encoding},
    source::{Bundle, frozen, saved_model, session_bundle, width},
};
use tfjs_format::{
    proto::{DataType, GraphDef, NodeDef, TensorProto, attr_value::Value},
    tensor_shape,
};

use super::{Report, SignatureReport, Target, TensorReport, dims, dtype_name, layers::chain};
use crate::CliError;

const INIT_SIGNATURE: &str = "__saved_model_init_op";

pub(super) fn report(
    location: &str,
    format: InputFormat,
    path: &Path,
    targets: &[Target],
) -> Result<Report, CliError> {
    let mut report = match format {
        InputFormat::TfFrozenModel => of_frozen(location, path)?,
        InputFormat::TfSessionBundle => of_session_bundle(location, path)?,
        _ => of_saved_model(location, format, path)?,
    };
    report.size = super::size(path);
    if format == InputFormat::TfSessionBundle && path.is_file() {
        report.size = path.parent().map_or(report.size, super::size);
    }
    let options = options(&report, format, path);
    match tfjs_convert::check(&options) {
        Ok(warnings) => report.problems.extend(warnings.iter().map(ToString::to_string)),
        Err(e) => report.problems.push(format!("it would not convert: {}", chain(&e))),
    }
    report.compare(&options, targets);
    Ok(report)
}

fn of_saved_model(location: &str, format: InputFormat, path: &Path) -> Result<Report, CliError> {
    let about = match format {
        InputFormat::TfHub => "TF-Hub module, version 1",
        _ => "SavedModel",
    };
    let mut report = Report::new(location, format.name(), about);
    let (model, _) = saved_model::load(path)?;
    for meta in &model.meta_graphs {
        let info = meta.meta_info_def.as_ref();
        let tags = info.map(|i| i.tags.clone()).unwrap_or_default();
        let version = info.map(|i| i.tensorflow_version.as_str()).filter(|v| !v.is_empty());
        report.generated_by = report.generated_by.or_else(|| version.map(|v| format!("TensorFlow {v}")));
        for (name, signature) in meta.signature_def.iter().filter(|(name, _)| *name != INIT_SIGNATURE) {
            report.signatures.push(SignatureReport {
                name: name.clone(),
                tags: tags.clone(),
                inputs: tensors(&signature.inputs),
                outputs: tensors(&signature.outputs),
            });
        }
    }
    let favourite = ["serving_default", "default"]
        .iter()
        .find_map(|name| report.signatures.iter().find(|s| s.name == *name))
        .or(report.signatures.first());
    if let Some(signature) = favourite {
        (report.inputs, report.outputs) = (signature.inputs.clone(), signature.outputs.clone());
    }
    let first = model.meta_graphs.first().and_then(|meta| meta.graph_def.as_ref());
    if let Some(graph) = first {
        graph_def(&mut report, graph);
    }
    let prefix = path.join("variables").join("variables");
    if prefix.with_extension("index").is_file() {
        let bundle = Bundle::open(&prefix)?;
        for name in bundle.names() {
            // Bookkeeping of checkpoints, not of the model.
            if name == "_CHECKPOINTABLE_OBJECT_GRAPH" || name.starts_with("save_counter") {
                continue;
            }
            if let Some(meta) = bundle.meta(&name)? {
                let bytes = meta.byte_len().unwrap_or(0) as u64;
                weigh(&mut report, meta.dtype, meta.elements().unwrap_or(0) as u64, bytes);
            }
        }
    }
    Ok(report)
}

fn of_frozen(location: &str, path: &Path) -> Result<Report, CliError> {
    let (graph, _) = frozen::load(path)?;
    let mut report = Report::new(location, InputFormat::TfFrozenModel.name(), "frozen graph");
    graph_def(&mut report, &graph);
    placeholders_and_ends(&mut report, &graph);
    Ok(report)
}

fn of_session_bundle(location: &str, path: &Path) -> Result<Report, CliError> {
    let mut report = Report::new(
        location,
        InputFormat::TfSessionBundle.name(),
        "session bundle (export.meta and a checkpoint)",
    );
    let (meta, _) = session_bundle::load(path)?;
    let info = meta.meta_info_def.unwrap_or_default();
    report.generated_by =
        Some(info.tensorflow_version).filter(|v| !v.is_empty()).map(|v| format!("TensorFlow {v}"));
    let graph = meta.graph_def.unwrap_or_default();
    graph_def(&mut report, &graph);
    for (name, signature) in meta.signature_def.iter().filter(|(name, _)| *name != INIT_SIGNATURE) {
        let (inputs, outputs) = (tensors(&signature.inputs), tensors(&signature.outputs));
        report.signatures.push(SignatureReport {
            name: name.clone(),
            tags: info.tags.clone(),
            inputs,
            outputs,
        });
    }
    match report.signatures.first() {
        Some(first) => (report.inputs, report.outputs) = (first.inputs.clone(), first.outputs.clone()),
        None => placeholders_and_ends(&mut report, &graph),
    }
    Ok(report)
}

fn tensors(side: &BTreeMap<String, TensorInfo>) -> Vec<TensorReport> {
    side.iter()
        .map(|(name, info)| TensorReport {
            name: name.clone(),
            tensor: match &info.encoding {
                Some(Encoding::Name(name)) => name.clone(),
                _ => String::new(),
            },
            dtype: DataType::try_from(info.dtype).ok().and_then(dtype_name),
            shape: dims(info.tensor_shape.as_ref()),
        })
        .collect()
}

fn graph_def(report: &mut Report, graph: &GraphDef) {
    let functions = graph.library.as_ref().map(|l| l.function.as_slice()).unwrap_or_default();
    let nodes = || graph.node.iter().chain(functions.iter().flat_map(|f| &f.node_def));
    report.nodes += nodes().count();
    report.functions += functions.len();
    report.ops = nodes().map(|node| node.op.as_str()).collect();
    for proto in nodes().filter(|n| n.op == "Const").filter_map(value) {
        let dtype = DataType::try_from(proto.dtype).unwrap_or(DataType::DtInvalid);
        let shape = tensor_shape(proto).unwrap_or_default();
        let elements = shape.iter().try_fold(1u64, |n, &d| n.checked_mul(d as u64)).unwrap_or(0);
        weigh(report, dtype, elements, elements.saturating_mul(width(dtype).unwrap_or(0) as u64));
    }
}

fn value(node: &NodeDef) -> Option<&TensorProto> {
    match node.attr.get("value")?.value.as_ref()? {
        Value::Tensor(proto) => Some(proto),
        _ => None,
    }
}

fn weigh(report: &mut Report, dtype: DataType, elements: u64, bytes: u64) {
    let name = dtype.as_str_name();
    let name = name.strip_prefix("DT_").unwrap_or(name).to_ascii_lowercase();
    let name = if name == "float" { "float32".to_owned() } else { name };
    let float = ["float", "double", "half", "bfloat", "complex"].iter().any(|f| name.starts_with(f));
    report.weigh(&name, float, elements, bytes);
}

/// Without a signature, placeholders are what is fed, and nodes that nobody uses are what can be fetched.
fn placeholders_and_ends(report: &mut Report, graph: &GraphDef) {
    let used: HashSet<&str> = graph
        .node
        .iter()
        .flat_map(|node| &node.input)
        .map(|input| input.trim_start_matches('^').split(':').next().unwrap_or_default())
        .collect();
    for node in graph.node.iter().filter(|node| !of_saver(&node.name)) {
        let attr = |name: &str| node.attr.get(name).and_then(|a| a.value.as_ref());
        let dtype = |name| match attr(name) {
            Some(Value::Type(dtype)) => DataType::try_from(*dtype).ok().and_then(dtype_name),
            _ => None,
        };
        let entry = |dtype, shape| TensorReport {
            name: node.name.clone(),
            tensor: format!("{}:0", node.name),
            dtype,
            shape,
        };
        if node.op.starts_with("Placeholder") {
            let shape = match attr("shape") {
                Some(Value::Shape(shape)) => dims(Some(shape)),
                _ => None,
            };
            report.inputs.push(entry(dtype("dtype"), shape));
        } else if !used.contains(node.name.as_str()) && !NO_RESULTS.contains(&node.op.as_str()) {
            report.outputs.push(entry(dtype("T"), None));
        }
    }
}

/// Ops whose values nobody wants.
const NO_RESULTS: [&str; 5] = ["NoOp", "Const", "Assert", "VarIsInitializedOp", "IsVariableInitialized"];

/// Whether a node belongs to what `tf.train.Saver` adds, in scopes `save`, `save_1`, ….
fn of_saver(name: &str) -> bool {
    let number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    name.split_once('/')
        .is_some_and(|(scope, _)| scope == "save" || scope.strip_prefix("save_").is_some_and(number))
}

/// How the model is converted when nothing is asked for in particular.
fn options(report: &Report, format: InputFormat, path: &Path) -> ConvertOptions {
    let tags = report.signatures.first().map(|s| s.tags.clone());
    let named = format == InputFormat::TfFrozenModel
        || format == InputFormat::TfSessionBundle && report.signatures.is_empty();
    let signature = |name: &str| report.signatures.iter().any(|s| s.name == name);
    ConvertOptions {
        input: path.to_string_lossy().into_owned(),
        input_format: format,
        saved_model_tags: tags.unwrap_or_else(|| vec!["serve".to_owned()]),
        signature_name: match report.signatures.first() {
            Some(first) if !signature("serving_default") && !signature("default") => Some(first.name.clone()),
            _ => None,
        },
        output_node_names: if named {
            report.outputs.iter().map(|o| o.name.clone()).collect()
        } else {
            Vec::new()
        },
        ..ConvertOptions::default()
    }
}
