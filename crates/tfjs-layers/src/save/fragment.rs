use serde_json::{Map, Value};
use tfjs_graph::Constant;

/// What one layer becomes: layers of TF.js, connected.
#[derive(Debug, Default)]
pub(super) struct Fragment {
    pub(super) parts: Vec<Part>,
    pub(super) outputs: Vec<From>,
}

/// A layer of TF.js.
#[derive(Debug)]
pub(super) struct Part {
    /// Appended to the name of the layer that it stands for; the part that gives the output takes that name itself.
    pub(super) suffix: String,
    pub(super) class: String,
    pub(super) config: Map<String, Value>,
    /// Names within the layer, such as `kernel` or `forward_lstm/kernel`, in TF.js's order.
    pub(super) weights: Vec<(String, Constant)>,
    pub(super) inputs: Vec<From>,
}

/// Where an input of a part comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum From {
    /// The layer's own input.
    Input(usize),
    /// An output of another part.
    Part(usize, usize),
}

impl Fragment {
    /// Adds a layer with one output.
    pub(super) fn add(&mut self, suffix: &str, class: &str, config: Value, inputs: &[From]) -> From {
        self.add_with(suffix, class, config, Vec::new(), inputs)
    }

    /// Adds a layer with weights.
    pub(super) fn add_with(
        &mut self,
        suffix: &str,
        class: &str,
        config: Value,
        weights: Vec<(String, Constant)>,
        inputs: &[From],
    ) -> From {
        let config = match config {
            Value::Object(map) => map,
            _ => Map::new(),
        };
        let part = Part {
            suffix: suffix.to_owned(),
            class: class.to_owned(),
            config,
            weights,
            inputs: inputs.to_vec(),
        };
        self.parts.push(part);
        From::Part(self.parts.len() - 1, 0)
    }

    /// What comes out of the layer.
    pub(super) fn give(mut self, outputs: &[From]) -> Fragment {
        self.outputs = outputs.to_vec();
        self
    }
}
