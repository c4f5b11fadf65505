use std::collections::HashMap;

use super::{ModelConfig, ModelKind, TensorRef};

/// A call of a layer: indices of both.
type Node = (usize, usize);

impl ModelConfig {
    /// The layers in the order that Keras gives them when it builds the model from its configuration: by decreasing
    /// distance from the outputs, then as they are met going back from the outputs. Files number weights by it
    /// (`_map_graph_network` of Keras 2, `map_graph` of Keras 3).
    pub(crate) fn keras_order(&self) -> Vec<usize> {
        if self.kind == ModelKind::Sequential {
            return (0..self.layers.len()).collect();
        }
        let (sorted, mut met) = self.walk_back();
        let (_, depths) = self.depths(&sorted);
        let mut order: Vec<usize> = (0..self.layers.len()).collect();
        // Layers that no output needs come last; Keras leaves them out.
        order.sort_by_key(|layer| {
            let next = met.len();
            let index = *met.entry(*layer).or_insert(next);
            (std::cmp::Reverse(depths.get(layer).copied().unwrap_or(0)), index)
        });
        order
    }

    /// The calls in the order in which Keras makes them: of two calls of a layer that do not need each other, the later one
    /// may come first. Calls that no output needs are left out.
    pub(crate) fn keras_calls(&self) -> Vec<Node> {
        let (mut nodes, _) = self.depths(&self.walk_back().0);
        nodes.sort_by_key(|(_, depth)| std::cmp::Reverse(*depth));
        nodes.into_iter().map(|(node, _)| node).collect()
    }

    /// Distances from the outputs: of calls, in the order in which they are found, and of layers.
    fn depths(&self, sorted: &[Node]) -> (Vec<(Node, usize)>, HashMap<usize, usize>) {
        let mut nodes: Vec<(Node, usize)> = Vec::with_capacity(sorted.len());
        let mut places: HashMap<Node, usize> = HashMap::new();
        let mut layers: HashMap<usize, usize> = HashMap::new();
        let mut deepen = |node: Node, depth: usize| {
            let place = *places.entry(node).or_insert(nodes.len());
            if place == nodes.len() {
                nodes.push((node, depth));
            }
            nodes[place].1 = nodes[place].1.max(depth);
            nodes[place].1
        };
        for &node in sorted.iter().rev() {
            let depth = deepen(node, layers.get(&node.0).copied().unwrap_or(0));
            layers.insert(node.0, depth);
            for t in self.layers[node.0].calls[node.1].tensors() {
                deepen((t.layer, t.call), depth + 1);
            }
        }
        (nodes, layers)
    }

    /// Calls with those they need before them, and layers by when they were first met.
    fn walk_back(&self) -> (Vec<Node>, HashMap<usize, usize>) {
        let mut sorted = Vec::new();
        let mut met: HashMap<usize, usize> = HashMap::new();
        let mut seen: HashMap<Node, bool> = HashMap::new();
        for output in self.outputs.flat() {
            // Depth first without recursion; the number is the next input to look at.
            let mut stack: Vec<(Node, usize)> = Vec::new();
            let enter = |t: &TensorRef,
                         stack: &mut Vec<(Node, usize)>,
                         met: &mut HashMap<usize, usize>,
                         seen: &mut HashMap<Node, bool>| {
                let node = (t.layer, t.call);
                if seen.insert(node, true).is_none() {
                    let next = met.len();
                    met.entry(node.0).or_insert(next);
                    stack.push((node, 0));
                }
            };
            enter(output, &mut stack, &mut met, &mut seen);
            while let Some((node, next)) = stack.pop() {
                let inputs = self.layers[node.0].calls[node.1].tensors();
                match inputs.get(next) {
                    Some(t) => {
                        stack.push((node, next + 1));
                        enter(t, &mut stack, &mut met, &mut seen);
                    }
                    None => sorted.push(node),
                }
            }
        }
        (sorted, met)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use crate::{Dialect, ModelConfig};

    #[test]
    fn layers_are_ordered_by_their_distance_from_the_outputs_as_keras_does() {
        let layer = |name: &str, from: &[&str]| {
            let inbound: Vec<Value> = from.iter().map(|f| json!([f, 0, 0, {}])).collect();
            let class = if from.is_empty() { "InputLayer" } else { "Add" };
            json!({"class_name": class, "name": name, "config": {"name": name},
                "inbound_nodes": if from.is_empty() { json!([]) } else { json!([inbound]) }})
        };
        // tf_keras 2.19 and Keras 3.15 both list these layers as x, y, a, b, c, d.
        let layers = json!([
            layer("d", &["c"]),
            layer("c", &["b", "y"]),
            layer("y", &[]),
            layer("b", &["a"]),
            layer("a", &["x", "y"]),
            layer("x", &[])
        ]);
        let model = json!({"class_name": "Functional", "config": {"name": "m", "layers": layers,
            "input_layers": [["x", 0, 0], ["y", 0, 0]], "output_layers": [["d", 0, 0]]}});
        let model = ModelConfig::read(&model, Dialect::Keras2).unwrap();
        let names: Vec<&str> =
            model.keras_order().into_iter().map(|i| model.layers[i].name.as_str()).collect();
        assert_eq!(names, ["x", "y", "a", "b", "c", "d"]);
    }
}
