use std::collections::BTreeMap;

use tfjs_format::proto::{
    AttrValue, FunctionDef, FunctionDefLibrary, GraphDef, NodeDef, TensorProto, TensorShapeProto,
    attr_value::Value as AttrValueKind, tensor_shape_proto::Dim,
};

use crate::{Constant, Function, Graph, Node, Port, registry::output_args};

impl Graph {
    /// The message form with its library. Values of constants are left out (as TF.js has it); they are found
    /// with [`Graph::constants`].
    pub fn to_def(&self) -> GraphDef {
        let function: Vec<FunctionDef> = self.library.values().map(|f| f.to_def()).collect();
        GraphDef {
            node: self.iter().map(|(_, n)| self.node_def(n, &n.name, &|p| self.port_name(p))).collect(),
            versions: Some(self.versions.clone()),
            library: (!function.is_empty())
                .then(|| FunctionDefLibrary { function, ..FunctionDefLibrary::default() }),
            ..GraphDef::default()
        }
    }

    /// All constants with the names they have in a weight manifest: those of the graph first, in node order,
    /// then those of each function as `function/node`.
    pub fn constants(&self) -> Vec<(String, &Constant)> {
        let own = self.iter().filter_map(|(_, n)| Some((n.name.clone(), n.value.as_ref()?)));
        let inner = self
            .library
            .values()
            .flat_map(|f| f.graph.iter().filter_map(|(_, n)| Some((f.constant_name(n), n.value.as_ref()?))));
        own.chain(inner).collect()
    }

    fn node_def(&self, node: &Node, name: &str, tensor: &dyn Fn(Port) -> String) -> NodeDef {
        let mut attr = node.attrs.0.clone();
        if let Some(value) = &node.value {
            let dtype = value.data_type() as i32;
            let shape = TensorShapeProto {
                dim: value.shape().iter().map(|&d| Dim { size: d as i64, name: String::new() }).collect(),
                unknown_rank: false,
            };
            let proto = TensorProto { dtype, tensor_shape: Some(shape), ..TensorProto::default() };
            attr.insert("value".into(), AttrValue { value: Some(AttrValueKind::Tensor(Box::new(proto))) });
            attr.insert("dtype".into(), AttrValue { value: Some(AttrValueKind::Type(dtype)) });
        }
        NodeDef {
            name: name.to_owned(),
            op: node.op.clone(),
            input: node
                .inputs
                .iter()
                .map(|&p| tensor(p))
                .chain(
                    node.controls
                        .iter()
                        .map(|&c| format!("^{}", tensor(c.into()).split(':').next().unwrap_or_default())),
                )
                .collect(),
            device: node.device.clone(),
            attr,
        }
    }
}

impl Function {
    /// The name of a constant of the body in a weight manifest, and in the exported body.
    fn constant_name(&self, node: &Node) -> String {
        let prefix = format!("{}/", self.signature.name);
        if node.name.starts_with(&prefix) { node.name.clone() } else { prefix + &node.name }
    }

    /// The message form.
    pub fn to_def(&self) -> FunctionDef {
        let g = &self.graph;
        let name_of = |n: &Node| if n.value.is_some() { self.constant_name(n) } else { n.name.clone() };
        let arg_names: BTreeMap<_, _> = g.inputs.iter().map(|e| (e.port.node, e.key.as_str())).collect();
        let tensor = |p: Port| {
            if let Some(arg) = arg_names.get(&p.node) {
                return (*arg).to_owned();
            }
            let node = g.node(p.node);
            let mut rest = p.index as usize;
            let mut last = "output";
            for (arg, len) in output_args(&node.op, &node.attrs) {
                if rest < len {
                    return format!("{}:{arg}:{rest}", name_of(node));
                }
                rest -= len;
                last = arg;
            }
            format!("{}:{last}:{rest}", name_of(node))
        };
        let node_def = g
            .iter()
            .filter(|(id, _)| !arg_names.contains_key(id))
            .map(|(_, n)| g.node_def(n, &name_of(n), &tensor))
            .collect();
        let ret = g.outputs.iter().map(|e| (e.key.clone(), tensor(e.port))).collect();
        let control_ret: BTreeMap<String, String> =
            g.targets.iter().map(|&t| (g.node(t).name.clone(), g.node(t).name.clone())).collect();
        let mut signature = self.signature.clone();
        signature.control_output = control_ret.keys().cloned().collect();
        FunctionDef {
            signature: Some(signature),
            attr: self.attrs.0.clone(),
            node_def,
            ret,
            control_ret,
            ..FunctionDef::default()
        }
    }
}
