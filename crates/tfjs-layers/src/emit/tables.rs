//! Hash tables: a graph that makes and fills them once.

use tfjs_format::proto::{DataType, TensorShapeProto, attr_value::Value};
use tfjs_graph::{Constant, Endpoint, Graph, Node, builder::attr};
use tfjs_kernels::Tensor;

/// The initialising graph in the making.
#[derive(Debug, Default)]
pub(super) struct Tables {
    graph: Graph,
    count: i64,
}

impl Tables {
    /// Adds a table and returns the id under which the main graph gets it.
    pub(super) fn add(&mut self, name: &str, keys: Tensor, values: Tensor) -> i64 {
        // From 1 on: TF.js takes 0 for "none".
        self.count += 1;
        let id = self.count;
        let (key, value) = (attr::dtype(keys.dtype()), attr::dtype(values.dtype()));
        // Two tables may share a scope; the name under which the table is kept must be its own.
        let table = Node::new(name, "HashTableV2").attrs(
            tfjs_graph::Attrs::default()
                .with("key_dtype", key.clone())
                .with("value_dtype", value.clone())
                .with("container", attr::text(""))
                .with("shared_name", attr::text(&format!("{name}_{id}")))
                .with("use_node_name_sharing", attr::bool(false)),
        );
        let handle = self.graph.add_fresh(table);
        let mut constant = |part: &str, value: Tensor| {
            let value = Constant::new(value.dtype().to_proto(), value);
            self.graph.add_fresh(Node::constant(format!("{name}/{part}"), value))
        };
        let (keys, values) = (constant("keys", keys), constant("values", values));
        let import = Node::new(format!("{name}/import"), "LookupTableImportV2")
            .inputs([handle.into(), keys.into(), values.into()])
            .attrs(tfjs_graph::Attrs::default().with("Tin", key).with("Tout", value));
        let import = self.graph.add_fresh(import);
        let output = if id == 1 { "Identity".to_owned() } else { format!("Identity_{}", id - 1) };
        let mut output = Node::new(output, "Identity").inputs([handle.into()]);
        output.attrs.set("T", Value::Type(DataType::DtResource as i32));
        output.controls = vec![import];
        let output = self.graph.add_fresh(output);
        self.graph.targets.push(import);
        self.graph.outputs.push(Endpoint {
            key: format!("{}:0", self.graph.node(output).name),
            port: output.into(),
            data_type: DataType::DtResource,
            shape: Some(TensorShapeProto::default()),
            resource_id: Some(id),
        });
        id
    }

    /// The graph, if it makes any tables.
    pub(super) fn finish(self) -> Option<Graph> {
        (self.count > 0).then_some(self.graph)
    }
}
