//! Frozen graphs: one GraphDef, binary or text, and the names of the nodes to fetch.

use std::{fs, path::Path};

use prost::Message;
use tfjs_format::proto::{DataType, GraphDef};

use super::{
    import::{Imported, Signature, TensorRef},
    restore::node_name,
    skim, text_format,
};
use crate::ConvertError;

/// Reads the graph in `path`, to be fetched at `outputs` (`node` or `node:1`).
///
/// # Errors
/// When the file is not a GraphDef, or an output does not exist.
pub fn read(path: &Path, outputs: &[String]) -> Result<Imported, ConvertError> {
    let (graph, contents) = load(path)?;
    let signature = by_node_names(&graph, outputs, path)?;
    Ok(Imported { graph, signature, contents, ..Imported::default() })
}

/// The message of a `.pb` or `.pbtxt` file; large constants are left in the file.
///
/// # Errors
/// When it cannot be read or decoded.
pub fn load(path: &Path) -> Result<(GraphDef, skim::Contents), ConvertError> {
    if path.extension().is_some_and(|e| e == "pbtxt") {
        let wrap = |source| ConvertError::Io { path: path.to_path_buf(), source };
        let text = fs::read_to_string(path).map_err(wrap)?;
        let graph = text_format::decode(&text, "GraphDef").map_err(|e| e.in_file(path))?;
        return Ok((graph, skim::Contents::default()));
    }
    let (bytes, contents) = skim::skim(path, &skim::GRAPH)?;
    let graph = GraphDef::decode(bytes).map_err(|source| ConvertError::Decode {
        path: path.to_path_buf(),
        what: "GraphDef",
        source,
    })?;
    Ok((graph, contents))
}

/// A signature whose keys are the names of the fetched tensors. Inputs are found by the graph's placeholders.
pub(super) fn by_node_names(
    graph: &GraphDef,
    outputs: &[String],
    path: &Path,
) -> Result<Signature, ConvertError> {
    let mut signature = Signature::default();
    let mut missing = Vec::new();
    for output in outputs.iter().map(|o| o.trim()).filter(|o| !o.is_empty()) {
        if !graph.node.iter().any(|n| n.name == node_name(output)) {
            missing.push(output.to_owned());
        }
        let tensor = TensorRef { name: output.to_owned(), dtype: DataType::DtInvalid, shape: None };
        signature.outputs.insert(output.to_owned(), tensor);
    }
    if !missing.is_empty() {
        return Err(ConvertError::NoSuchNodes { path: path.to_path_buf(), nodes: missing });
    }
    Ok(signature)
}
