//! Where masks come from and go to.
//!
//! TF.js, like Keras 2, hands masks from layer to layer unseen. Keras 3 writes them out in functional models: operations
//! compute them again (`NotEqual`, `Any`), and consumers take them as an argument. Where both say the same, the operations go.

use std::collections::{HashMap, HashSet};

use serde_json::Value;

use crate::{
    Network,
    layers::RECURRENT,
    topology::{Arg, CallConfig, TensorRef},
};

/// Classes that hand a mask on in TF.js.
pub(super) const PASSES_MASK: &[&str] = &[
    "Dense",
    "Activation",
    "Dropout",
    "SpatialDropout1D",
    "Masking",
    "ReLU",
    "PReLU",
    "BatchNormalization",
    "LayerNormalization",
    "TimeDistributed",
    "GaussianNoise",
    "GaussianDropout",
    "AlphaDropout",
];

/// A call of a layer.
type Call = (usize, usize);

/// What is known of masks in a model.
#[derive(Debug, Default)]
pub(super) struct Masks {
    /// Layers one of whose inputs has a mask, in Keras or in TF.js.
    pub(super) masked: HashSet<usize>,
    /// Layers that come after one that makes a mask.
    pub(super) after: HashSet<usize>,
    /// Calls whose argument `mask` is the mask that their input brings along.
    pub(super) dropped: HashSet<Call>,
    /// Operations that only computed such masks.
    pub(super) dead: HashSet<usize>,
    /// Layers that TF.js would give a mask that belongs to another layer.
    pub(super) stale: HashSet<usize>,
}

/// How an operation computes a mask: `NotEqual(tensor, value)`, perhaps `Any` of it.
#[derive(Clone, PartialEq)]
struct Computed {
    of: TensorRef,
    value: f64,
    any: bool,
}

impl Masks {
    pub(super) fn of(network: &Network) -> Masks {
        let mut masks = Masks::default();
        let layers = &network.config.layers;
        // The call that made the mask of a value.
        let mut origin: HashMap<TensorRef, Call> = HashMap::new();
        let mut computed: HashMap<TensorRef, Computed> = HashMap::new();
        let mut makers: Vec<(Call, Computed)> = Vec::new();
        for &(l, c) in &network.order {
            let (layer, call) = (&layers[l], &layers[l].calls[c]);
            let out = TensorRef { layer: l, call: c, tensor: 0 };
            let input = call.args.first().and_then(|a| a.tensors().first().copied()).cloned();
            let Some(input) = input else { continue };
            let given = origin.get(&input).copied();
            let flag = |key: &str| layer.config.get(key).and_then(Value::as_bool).unwrap_or(false);
            match layer.class_name.as_str() {
                "NotEqual" => {
                    if let Some(value) = constant_argument(call) {
                        computed.insert(out, Computed { of: input, value, any: false });
                    }
                    continue;
                }
                "Any" => {
                    if let Some(inner) = computed.get(&input).cloned() {
                        computed.insert(out, Computed { any: true, ..inner });
                    }
                    continue;
                }
                "Masking" => {
                    let value = layer.config.get("mask_value").and_then(crate::number).unwrap_or(0.0);
                    makers.push(((l, c), Computed { of: input, value, any: true }));
                    origin.insert(out, (l, c));
                    continue;
                }
                "Embedding" => {
                    if flag("mask_zero") {
                        makers.push(((l, c), Computed { of: input, value: 0.0, any: false }));
                        origin.insert(out, (l, c));
                    }
                    continue;
                }
                _ => {}
            }
            if let Some((_, Arg::Tensor(mask))) = call.kwargs.iter().find(|(k, _)| k == "mask")
                && let Some(how) = computed.get(mask)
                && let Some((maker, _)) = makers.iter().find(|(_, m)| m == how)
                && given == Some(*maker)
            {
                masks.dropped.insert((l, c));
            }
            let class = layer.class_name.as_str();
            let inner = layer.config.get("layer").and_then(|l| l["class_name"].as_str());
            let uses = RECURRENT.contains(&class)
                || class == "Softmax"
                || (class == "TimeDistributed" && inner.is_some_and(|c| RECURRENT.contains(&c)));
            // What Keras knows of the inputs' masks.
            let in_keras = call
                .args
                .iter()
                .flat_map(Arg::tensors)
                .any(|t| network.nodes[t.layer].masks.get(t.tensor).copied().unwrap_or(false));
            if in_keras {
                masks.masked.insert(l);
            }
            if !makers.is_empty() {
                masks.after.insert(l);
            }
            if in_keras && given.is_none() && uses {
                masks.stale.insert(l);
            }
            match given {
                Some(from) => {
                    masks.masked.insert(l);
                    if class == "TimeDistributed" && uses {
                        masks.stale.insert(l);
                    }
                    let sequences = flag("return_sequences")
                        || layer.config.get("layer").is_some_and(|l| l["config"]["return_sequences"] == true);
                    if PASSES_MASK.contains(&class) || (RECURRENT.contains(&class) && sequences) {
                        origin.insert(out, from);
                    }
                }
                None if uses && !makers.is_empty() => {
                    masks.stale.insert(l);
                }
                None => {}
            }
        }
        masks.find_dead(network);
        masks
    }

    /// Operations whose results only were masks that are implicit now.
    fn find_dead(&mut self, network: &Network) {
        let layers = &network.config.layers;
        let outputs = network.config.outputs.flat();
        loop {
            let needed = |l: usize| {
                let used =
                    layers.iter().enumerate().filter(|(i, _)| !self.dead.contains(i)).any(|(i, layer)| {
                        layer.calls.iter().enumerate().any(|(c, call)| {
                            let mask_goes = self.dropped.contains(&(i, c));
                            let kwargs = call
                                .kwargs
                                .iter()
                                .filter(|(k, _)| !(mask_goes && k == "mask"))
                                .map(|(_, a)| a);
                            call.args.iter().chain(kwargs).flat_map(Arg::tensors).any(|t| t.layer == l)
                        })
                    });
                used || outputs.iter().any(|t| t.layer == l)
            };
            let gone = |l: &usize| {
                matches!(layers[*l].class_name.as_str(), "NotEqual" | "Any")
                    && !self.dead.contains(l)
                    && !needed(*l)
            };
            match (0..layers.len()).find(gone) {
                Some(l) => self.dead.insert(l),
                None => return,
            };
        }
    }
}

/// The constant operand of a comparison.
fn constant_argument(call: &CallConfig) -> Option<f64> {
    call.args.iter().skip(1).chain(call.kwargs.iter().map(|(_, a)| a)).find_map(|a| match a {
        Arg::Value(value) => crate::number(value),
        _ => None,
    })
}
