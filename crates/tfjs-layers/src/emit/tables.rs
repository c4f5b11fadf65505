//! Hash tables: a graph that makes and fills them once.

use tfjs_format::proto::attr_value::Value;
use tfjs_graph::{
    Constant, Endpoint, Graph, GraphError, Node,
    builder::{Builder, attr},
};
use tfjs_kernels::Tensor;

/// The op that makes a table.
pub(super) const TABLE: &str = "HashTableV2";

/// The initialising graph in the making.
#[derive(Debug, Default)]
pub(super) struct Tables {
    graph: Graph,
}

impl Tables {
    /// Adds what fills the table of node `name`. The node is in both graphs: tables are found by its name.
    pub(super) fn add(&mut self, name: &str, attrs: &[(&str, Value)], keys: Tensor, values: Tensor) {
        let (key, value) = (attr::dtype(keys.dtype()), attr::dtype(values.dtype()));
        let mut table = Node::new(name, TABLE);
        attrs.iter().for_each(|(name, value)| table.attrs.set(name, value.clone()));
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
        self.graph.targets.push(import);
    }

    /// Adds a graph that fills tables of its own.
    pub(super) fn adopt(&mut self, graph: &Graph) -> Result<(), GraphError> {
        let mut builder = Builder::from_graph(std::mem::take(&mut self.graph))?;
        let inlined = builder.inline(graph, &[])?;
        self.graph = builder.finish();
        let outputs = graph.outputs.iter().zip(inlined.outputs);
        self.graph.outputs.extend(outputs.map(|(e, port)| Endpoint { port, ..e.clone() }));
        Ok(())
    }

    /// The graph, if it makes any tables.
    pub(super) fn finish(self) -> Option<Graph> {
        (!self.graph.is_empty()).then_some(self.graph)
    }
}
