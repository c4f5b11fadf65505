//! Which variable gets which tensor of the checkpoint: found by following the restore ops of a graph.

use std::collections::{HashMap, HashSet};

use bytes::Bytes;
use tfjs_format::proto::{FunctionDef, GraphDef, NodeDef, attr_value::Value};

use super::{import::Stored, ordered_code::Slice, tensor::RawData, tensor_proto::raw_tensor};

/// Deepest nesting of calls inside the restore function.
const MAX_DEPTH: usize = 64;

/// What the restore op assigns: values of variables, keys and values of tables, by node name.
#[derive(Debug, Default)]
pub(crate) struct Restored {
    pub(crate) variables: HashMap<String, Stored>,
    pub(crate) tables: HashMap<String, (Stored, Stored)>,
}

/// Follows `restore_op` of a graph. Nodes that are not understood are passed over: a variable without a value is
/// reported when it is needed.
pub(crate) fn restored(graph: &GraphDef, restore_op: &str) -> Restored {
    let functions = graph.library.iter().flat_map(|l| &l.function);
    let functions =
        functions.filter_map(|f| Some((f.signature.as_ref()?.name.as_str(), f))).collect::<HashMap<_, _>>();
    let nodes: HashMap<_, _> = graph.node.iter().map(|n| (n.name.as_str(), n)).collect();
    let mut walk = Walk { functions, out: Restored::default() };
    let scope = Scope { nodes, args: HashMap::new(), outermost: true };
    let mut seen = HashSet::new();
    let mut stack = vec![node_name(restore_op)];
    while let Some(name) = stack.pop() {
        if !seen.insert(name) {
            continue;
        }
        if let Some(node) = scope.nodes.get(name) {
            walk.effect(&scope, node, 0);
            stack.extend(node.input.iter().map(|i| node_name(i)));
        }
    }
    walk.out
}

/// What a tensor of the restore graph stands for.
#[derive(Clone, Debug)]
enum Known {
    Stored(Stored),
    /// A variable or table of the main graph.
    Handle(String),
    Strings(Vec<Bytes>),
}

struct Scope<'a> {
    nodes: HashMap<&'a str, &'a NodeDef>,
    args: HashMap<&'a str, Option<Known>>,
    outermost: bool,
}

struct Walk<'a> {
    functions: HashMap<&'a str, &'a FunctionDef>,
    out: Restored,
}

impl<'a> Walk<'a> {
    /// Records what running `node` assigns.
    fn effect(&mut self, scope: &Scope<'a>, node: &'a NodeDef, depth: usize) {
        let input = |walk: &Walk<'a>, i: usize| walk.value(scope, node.input.get(i)?, depth);
        match node.op.as_str() {
            "Assign" | "AssignVariableOp" => {
                if let (Some(Known::Handle(name)), Some(Known::Stored(value))) =
                    (input(self, 0), input(self, 1))
                {
                    self.out.variables.insert(name, value);
                }
            }
            "LookupTableImport" | "LookupTableImportV2" => {
                if let (Some(Known::Handle(name)), Some(Known::Stored(keys)), Some(Known::Stored(values))) =
                    (input(self, 0), input(self, 1), input(self, 2))
                {
                    self.out.tables.insert(name, (keys, values));
                }
            }
            _ => {
                let Some((function, inner)) = self.call(scope, node, depth) else { return };
                for node in &function.node_def {
                    self.effect(&inner, node, depth + 1);
                }
            }
        }
    }

    /// The called function and a scope with its arguments.
    fn call(
        &self,
        scope: &Scope<'a>,
        node: &'a NodeDef,
        depth: usize,
    ) -> Option<(&'a FunctionDef, Scope<'a>)> {
        if depth >= MAX_DEPTH {
            return None;
        }
        let name = match node.attr.get("f").and_then(|a| a.value.as_ref()) {
            Some(Value::Func(f)) if node.op.ends_with("PartitionedCall") => f.name.as_str(),
            _ => node.op.as_str(),
        };
        let function = *self.functions.get(name)?;
        let args = function.signature.as_ref()?.input_arg.iter().zip(&node.input);
        let args = args.map(|(arg, input)| (arg.name.as_str(), self.value(scope, input, depth))).collect();
        let nodes = function.node_def.iter().map(|n| (n.name.as_str(), n)).collect();
        Some((function, Scope { nodes, args, outermost: false }))
    }

    fn value(&self, scope: &Scope<'a>, tensor: &'a str, depth: usize) -> Option<Known> {
        let mut tensor = tensor;
        // Identities are followed in a loop, calls by recursion.
        loop {
            let name = node_name(tensor);
            if let Some(value) = scope.args.get(name) {
                return value.clone();
            }
            let node = *scope.nodes.get(name)?;
            let index: usize = tensor.rsplit_once(':').and_then(|(_, i)| i.parse().ok()).unwrap_or(0);
            match node.op.as_str() {
                "Identity" | "Reshape" | "Cast" => tensor = node.input.first()?,
                "Const" => {
                    let Some(Value::Tensor(t)) = node.attr.get("value").and_then(|a| a.value.as_ref()) else {
                        return None;
                    };
                    let RawData::Strings(strings) = raw_tensor(t, name).ok()?.data else { return None };
                    return Some(Known::Strings(strings));
                }
                "RestoreV2" => {
                    let Known::Strings(names) = self.value(scope, node.input.get(1)?, depth)? else {
                        return None;
                    };
                    let Known::Strings(slices) = self.value(scope, node.input.get(2)?, depth)? else {
                        return None;
                    };
                    return stored(names.get(index)?, slices.get(index)?);
                }
                "Restore" | "RestoreSlice" => {
                    let Known::Strings(names) = self.value(scope, node.input.get(1)?, depth)? else {
                        return None;
                    };
                    let slice = match node.input.get(2).filter(|_| node.op == "RestoreSlice") {
                        None => Bytes::new(),
                        Some(input) => match self.value(scope, input, depth)? {
                            Known::Strings(slices) => slices.first()?.clone(),
                            _ => return None,
                        },
                    };
                    return stored(names.first()?, &slice);
                }
                op if op.contains("PartitionedCall") || self.functions.contains_key(op) => {
                    let (function, inner) = self.call(scope, node, depth)?;
                    let output = function.signature.as_ref()?.output_arg.get(index)?;
                    return self.value(&inner, function.ret.get(&output.name)?, depth + 1);
                }
                op if scope.outermost
                    && (op.starts_with("Var") || op.contains("Variable") || op.contains("HashTable")) =>
                {
                    return Some(Known::Handle(node.name.clone()));
                }
                _ => return None,
            }
        }
    }
}

fn stored(key: &Bytes, slice: &Bytes) -> Option<Known> {
    let key = String::from_utf8(key.to_vec()).ok()?;
    Some(Known::Stored(Stored { key, slice: parse_slice(std::str::from_utf8(slice).ok()?)? }))
}

/// `"10 4 0,5:-"`: the full shape, then first index and extent per dimension, `-` for all of it. Empty for the whole.
fn parse_slice(spec: &str) -> Option<Slice> {
    let Some(slice) = spec.split_whitespace().last() else { return Some(Slice::new()) };
    let dim = |d: &str| match d {
        "-" => Some((0, None)),
        _ => {
            let (start, extent) = d.split_once(',')?;
            Some((start.parse().ok()?, Some(extent.parse().ok()?)))
        }
    };
    slice.split(':').map(dim).collect()
}

/// The node of `^node`, `node`, `node:1` or `node:out:1`.
pub(crate) fn node_name(input: &str) -> &str {
    let name = input.strip_prefix('^').unwrap_or(input);
    name.split(':').next().unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use super::parse_slice;

    #[test]
    fn slice_specs_of_partitioned_variables_are_read() {
        assert_eq!(parse_slice(""), Some(vec![]));
        assert_eq!(parse_slice("200 3 67,67:0,3"), Some(vec![(67, Some(67)), (0, Some(3))]));
        assert_eq!(parse_slice("200 3 67,67:-"), Some(vec![(67, Some(67)), (0, None)]));
        assert_eq!(parse_slice("4 x,y"), None);
    }
}
