//! Which nodes a target cannot run, and what a conversion makes of them.

use std::{
    collections::{HashMap, HashSet},
    fmt,
};

use clap::ValueEnum;
use serde::Serialize;
use tfjs_convert::Comparison;
use tfjs_format::{
    DType,
    proto::{DataType, attr_value::Value},
};
use tfjs_graph::{
    Graph, Node, builtin,
    ops::{self, Backend, Obstacle},
};

/// Where a model is to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Target {
    /// TensorFlow.js in node, on TensorFlow's library
    Node,
    /// TensorFlow.js in plain JavaScript
    Cpu,
    /// TensorFlow.js in WebAssembly
    Wasm,
    /// TensorFlow.js on graphics cards, by WebGL
    Webgl,
    /// TensorFlow.js on graphics cards, by WebGPU
    Webgpu,
    /// This program and its libraries
    Rust,
}

/// What stands in the way on one target.
#[derive(Debug, Serialize)]
pub(crate) struct TargetReport {
    pub(crate) target: String,
    /// Nodes looked at, before the conversion.
    pub(crate) nodes: usize,
    /// Findings that are left after the conversion.
    pub(crate) left: usize,
    pub(crate) findings: Vec<Finding>,
}

/// A node that the target cannot run.
#[derive(Debug, Serialize)]
pub(crate) struct Finding {
    pub(crate) node: String,
    pub(crate) op: String,
    pub(crate) reason: String,
    /// What a conversion does about it.
    pub(crate) conversion: String,
    /// Whether the converted model runs there.
    pub(crate) solved: bool,
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.backend() {
            Some(backend) => write!(f, "{backend}"),
            None => f.write_str("rust"),
        }
    }
}

impl Target {
    fn backend(self) -> Option<Backend> {
        match self {
            Target::Node => Some(Backend::Node),
            Target::Cpu => Some(Backend::Cpu),
            Target::Wasm => Some(Backend::Wasm),
            Target::Webgl => Some(Backend::Webgl),
            Target::Webgpu => Some(Backend::Webgpu),
            Target::Rust => None,
        }
    }

    /// Looks at a model that is converted first.
    pub(crate) fn of_source(self, graphs: &Comparison) -> TargetReport {
        let after: HashMap<String, &Node> = nodes(&graphs.after).into_iter().collect();
        let before = nodes(&graphs.before);
        let mut findings = Vec::new();
        let mut seen = HashSet::new();
        for (name, node) in &before {
            let Some(reason) = self.obstacle(node) else { continue };
            let left = after.get(name).and_then(|node| self.obstacle(node));
            seen.insert(name.clone());
            let conversion = match (&left, after.get(name)) {
                (Some(_), _) if !ops::in_tfjs(&node.op) => "refused; kept with --skip_op_check".to_owned(),
                (Some(_), _) => "kept".to_owned(),
                (None, Some(now)) if now.op == "Const" => "computed when converting".to_owned(),
                (None, _) => match lowering(&node.op) {
                    Some(by) => format!("expressed by {by}"),
                    None => "removed or made part of another".to_owned(),
                },
            };
            findings.push(Finding {
                node: name.clone(),
                op: node.op.clone(),
                reason,
                conversion,
                solved: left.is_none(),
            });
        }
        let mut new: Vec<_> = after.iter().filter(|(name, _)| !seen.contains(*name)).collect();
        new.sort_by_key(|(name, _)| *name);
        for (name, node) in new {
            if let Some(reason) = self.obstacle(node) {
                let conversion = "made by the conversion".to_owned();
                findings.push(Finding {
                    node: name.clone(),
                    op: node.op.clone(),
                    reason,
                    conversion,
                    solved: false,
                });
            }
        }
        self.report(before.len(), findings)
    }

    /// Looks at a model that runs as it stands.
    pub(crate) fn of_converted(self, graph: &Graph) -> TargetReport {
        let nodes = nodes(graph);
        let findings = nodes.iter().filter_map(|(name, node)| {
            let reason = self.obstacle(node)?;
            let conversion = "none: the model is converted already".to_owned();
            Some(Finding { node: name.clone(), op: node.op.clone(), reason, conversion, solved: false })
        });
        let findings = findings.collect();
        self.report(nodes.len(), findings)
    }

    fn report(self, nodes: usize, findings: Vec<Finding>) -> TargetReport {
        let left = findings.iter().filter(|f| !f.solved).count();
        TargetReport { target: self.to_string(), nodes, left, findings }
    }

    /// Why a node cannot run there.
    fn obstacle(self, node: &Node) -> Option<String> {
        let Some(backend) = self.backend() else { return native_obstacle(node) };
        let obstacle = backend.obstacle(&node.op, types(node).any(|t| t == DType::Complex64))?;
        let named = |kernels: &[&str]| match kernels {
            [one] => format!("kernel {one}"),
            many => format!("kernels {}", many.join(", ")),
        };
        Some(match obstacle {
            Obstacle::NotListed => "TensorFlow.js does not have the op".to_owned(),
            Obstacle::NoCode => "TensorFlow.js accepts the op and cannot run it".to_owned(),
            Obstacle::Kernels(missing) => format!("{backend} has no {}", named(&missing)),
            Obstacle::Complex(kernels) if kernels.is_empty() => format!("{backend} has no complex numbers"),
            Obstacle::Complex(kernels) => format!("{} of {backend} refuses complex numbers", named(&kernels)),
        })
    }
}

fn native_obstacle(node: &Node) -> Option<String> {
    if builtin(&node.op).is_none() {
        return Some("the op is not supported".to_owned());
    }
    let main = node.attrs.opt_data_type("T").ok().flatten()?;
    let dtype = DType::from_proto(main)?;
    let taken = ops::dtypes(&node.op)?;
    (!taken.contains(&dtype)).then(|| format!("it does not take {}", dtype.name()))
}

/// Types among a node's attributes.
fn types(node: &Node) -> impl Iterator<Item = DType> {
    node.attrs.0.values().filter_map(|a| match a.value {
        Some(Value::Type(t)) => DType::from_proto(DataType::try_from(t).ok()?),
        _ => None,
    })
}

fn lowering(op: &str) -> Option<String> {
    tfjs_convert::lowerings().find(|(name, _)| *name == op).map(|(_, by)| by.replace('`', ""))
}

/// All nodes; those of functions without their arguments, under the function's name.
fn nodes(graph: &Graph) -> Vec<(String, &Node)> {
    let own = graph.iter().map(|(_, n)| (n.name.clone(), n));
    let inner = graph.library.iter().flat_map(|(name, f)| {
        let arguments: HashSet<_> = f.graph.inputs.iter().map(|e| e.port.node).collect();
        let nodes = f.graph.iter().filter(move |(id, _)| !arguments.contains(id));
        nodes.map(move |(_, n)| (format!("{name}/{}", n.name), n))
    });
    own.chain(inner).collect()
}
