//! A model as a table, in the layout of Keras 2.

use std::fmt::Write;

use tfjs_graph::Fact;

use crate::{
    LayerConfig, LayersModel, ModelKind, Node,
    network::input_fact,
    topology::{Arg, TensorRef},
};

/// One layer of a model, for looking at it.
#[derive(Clone, Copy, Debug)]
pub struct LayerView<'m> {
    /// What the file says.
    pub config: &'m LayerConfig,
    /// The layer and where its weights are.
    pub node: &'m Node,
}

impl LayersModel {
    /// The layers of the model; those of models inside are theirs.
    pub fn layers(&self) -> impl Iterator<Item = LayerView<'_>> {
        self.network
            .config
            .layers
            .iter()
            .zip(&self.network.nodes)
            .map(|(config, node)| LayerView { config, node })
    }

    /// A layer by its name.
    ///
    /// # Errors
    /// When there is none of this name.
    pub fn layer(&self, name: &str) -> Result<LayerView<'_>, crate::LayersError> {
        self.layers()
            .find(|l| l.config.name == name)
            .ok_or_else(|| crate::LayersError::NotFound { what: "layer", name: name.to_owned() })
    }

    /// Names (of TF.js) and shapes of a layer's weights.
    ///
    /// # Errors
    /// When there is no layer of this name.
    pub fn layer_weights(&self, layer: &str) -> Result<Vec<(&str, &[usize])>, crate::LayersError> {
        let node = self.layer(layer)?.node;
        Ok(node
            .weights
            .clone()
            .map(|i| {
                let weight = &self.params.weights[i];
                (weight.tfjs.as_str(), weight.shape.as_slice())
            })
            .collect())
    }

    /// The table that Keras 2 prints: layers, shapes of their outputs, numbers of weights, and, for functional models, where
    /// their inputs come from.
    pub fn summary(&self) -> String {
        let network = &self.network;
        let connected = network.config.kind == ModelKind::Functional && !self.is_chain();
        let with_inputs = network.config.kind == ModelKind::Functional;
        // Keras's widths: 65 and 98 characters, with columns ending at these parts of them.
        let (width, ends): (usize, &[f64]) =
            if connected { (98, &[0.3, 0.6, 0.7, 1.0]) } else { (65, &[0.45, 0.85, 1.0]) };
        let ends: Vec<usize> = ends.iter().map(|e| (e * width as f64) as usize).collect();
        let mut out = format!("Model: \"{}\"\n{}\n", self.name(), "_".repeat(width));
        let mut titles = vec!["Layer (type)".to_owned(), "Output Shape".to_owned(), "Param #".to_owned()];
        titles.extend(connected.then(|| "Connected to".to_owned()));
        row(&mut out, &ends, &titles);
        let _ = writeln!(out, "{}", "=".repeat(width));
        let shown = |l: &LayerView<'_>| with_inputs || l.config.class_name != "InputLayer";
        for layer in self.layers().filter(shown) {
            let LayerView { config, node } = layer;
            let facts = match config.class_name.as_str() {
                "InputLayer" => input_fact(config).into_iter().collect(),
                _ => node.outputs.clone(),
            };
            let mut shapes = facts.iter().map(shape).collect::<Vec<_>>().join(", ");
            if facts.len() > 1 || config.class_name == "InputLayer" {
                shapes = format!("[{shapes}]");
            }
            let count = self.parameters(node).to_string();
            let mut cells = vec![format!("{} ({})", config.name, config.class_name), shapes, count];
            cells.extend(connected.then(|| self.sources(config)));
            row(&mut out, &ends, &cells);
            let _ = writeln!(out, "{}", " ".repeat(width));
        }
        let _ = writeln!(out, "{}", "=".repeat(width));
        let size = |trainable: Option<bool>| -> usize {
            let counted = self.params.weights.iter().filter(|w| trainable.is_none_or(|t| w.trainable == t));
            counted.map(|w| w.shape.iter().product::<usize>()).sum()
        };
        for (title, n) in
            [("Total", size(None)), ("Trainable", size(Some(true))), ("Non-trainable", size(Some(false)))]
        {
            let _ = writeln!(out, "{title} params: {n} ({})", memory(n * 4));
        }
        let _ = writeln!(out, "{}", "_".repeat(width));
        out
    }

    /// `'name[call][output]'` of every input, as a list.
    fn sources(&self, config: &LayerConfig) -> String {
        let layers = &self.network.config.layers;
        let name = |t: &TensorRef| format!("'{}[{}][{}]'", layers[t.layer].name, t.call, t.tensor);
        let tensors = config.calls.iter().flat_map(|c| c.args.iter().chain(c.kwargs.iter().map(|(_, a)| a)));
        format!("[{}]", tensors.flat_map(Arg::tensors).map(name).collect::<Vec<_>>().join(", "))
    }

    /// Whether each layer is called once, with what the one before gives.
    fn is_chain(&self) -> bool {
        let config = &self.network.config;
        let mut taken = std::collections::HashSet::new();
        config.layers.iter().all(|l| {
            let mut tensors = l.calls.iter().flat_map(|c| c.tensors());
            l.calls.len() <= 1
                && tensors.next().is_none_or(|t| taken.insert(t.layer))
                && tensors.next().is_none()
        }) && config.inputs.flat().len() == 1
    }
}

/// Cells of one row; what does not fit goes on in further lines, and so does what follows a bracket and a comma.
fn row(out: &mut String, ends: &[usize], cells: &[String]) {
    let mut rest: Vec<Vec<char>> = cells.iter().map(|c| c.chars().collect()).collect();
    while rest.iter().any(|c| !c.is_empty()) {
        let mut line: Vec<char> = Vec::new();
        for (i, cell) in rest.iter_mut().enumerate() {
            let start = if i == 0 { 0 } else { ends[i - 1] };
            let space = if i + 1 < ends.len() { 2 } else { 0 };
            let mut cut = ends[i].saturating_sub(start + space).max(1).min(cell.len());
            let breaks = |w: &[char]| matches!(w, [')' | '}' | ']' | '\'', ',']);
            if let Some(at) = cell[..cut].windows(2).position(breaks) {
                cut = at + 2;
            }
            if i == 0 {
                line.push(' ');
            }
            line.extend(cell.drain(..cut));
            line.extend(std::iter::repeat_n(' ', space.max(ends[i].saturating_sub(line.len()))));
        }
        let _ = writeln!(out, "{}", line.into_iter().collect::<String>());
    }
}

fn shape(fact: &Fact) -> String {
    match &fact.shape {
        None => "unknown".to_owned(),
        Some(dims) => {
            let dims: Vec<String> =
                dims.iter().map(|d| d.map_or("None".to_owned(), |n| n.to_string())).collect();
            if dims.len() == 1 { format!("({},)", dims[0]) } else { format!("({})", dims.join(", ")) }
        }
    }
}

fn memory(bytes: usize) -> String {
    let units = ["Byte", "KB", "MB", "GB", "TB"];
    let mut size = bytes as f64;
    let mut unit = 0;
    while size >= 1024.0 && unit + 1 < units.len() {
        size /= 1024.0;
        unit += 1;
    }
    format!("{size:.2} {}", units[unit])
}
