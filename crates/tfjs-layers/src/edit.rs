//! Models changed after they were loaded: layers frozen, heads replaced.

use serde_json::{Map, Value};

use crate::{
    LayerConfig, LayersError, LayersModel, ModelConfig, Network, Params,
    build::LayerSpec,
    layer::Layer,
    topology::{Arg, CallConfig, ModelKind, Structure, TensorRef},
    weights::Scope,
};

type Result<T> = std::result::Result<T, LayersError>;

impl LayersModel {
    /// Says whether training changes the weights of a layer, or of all layers of a model inside. `layer` is a name, or a path
    /// of names: `encoder/dense_1`. A frozen batch norm keeps its statistics and uses them. The model has to be compiled
    /// anew.
    ///
    /// # Errors
    /// When there is no such layer.
    pub fn set_trainable(&mut self, layer: &str, trainable: bool) -> Result<()> {
        let mut config = self.network.config.clone();
        let way = way(&config, layer, layer)?;
        if let Some(layer) = at(&mut config, &way) {
            set_flag(layer, trainable);
        }
        self.rebuild(config)
    }

    /// Says whether training changes the weights of any layer.
    ///
    /// # Errors
    /// Never for a model that was loaded.
    pub fn set_all_trainable(&mut self, trainable: bool) -> Result<()> {
        let mut config = self.network.config.clone();
        all_trainable(&mut config, trainable);
        self.rebuild(config)
    }

    /// Whether training changes a layer's weights: its own flag, whatever the models around it say.
    ///
    /// # Errors
    /// When there is no such layer.
    pub fn is_trainable(&self, layer: &str) -> Result<bool> {
        let way = way(&self.network.config, layer, layer)?;
        let (mut model, mut found) = (Some(&self.network.config), None);
        for at in way {
            found = model.and_then(|m| m.layers.get(at));
            model = found.and_then(|l| l.model.as_deref());
        }
        Ok(found.is_none_or(LayerConfig::trainable))
    }

    /// The model up to the layer `after` with other layers behind it, whose weights are drawn from their initializers: a
    /// classifier for other classes on a trained network, for example.
    ///
    /// ```
    /// use tfjs_layers::build::{Dense, Dropout, Sequential};
    /// let trained = Sequential::new()
    ///     .add(Dense::new(8).activation("relu").input_shape([4]).name("features"))
    ///     .add(Dense::new(1000).activation("softmax"))
    ///     .build(7)?;
    /// let mut model = trained.with_head("features", [Dropout::new(0.2), Dense::new(3).activation("softmax")], 8)?;
    /// model.set_trainable("features", false)?;
    /// assert_eq!(model.trainable_weights().len(), 2);
    /// # Ok::<(), tfjs_layers::LayersError>(())
    /// ```
    ///
    /// # Errors
    /// When there is no such layer, a class is not known, or shapes do not fit.
    pub fn with_head(
        mut self,
        after: &str,
        head: impl IntoIterator<Item = LayerSpec>,
        seed: u64,
    ) -> Result<LayersModel> {
        let mut config = self.network.config.clone();
        let at = position(&config, after, after)?;
        let kept = ancestors(&config, at);
        let mut places = vec![None; config.layers.len()];
        let mut layers = Vec::new();
        for (i, layer) in std::mem::take(&mut config.layers).into_iter().enumerate() {
            if kept.contains(&i) {
                places[i] = Some(layers.len());
                layers.push(layer);
            }
        }
        let moved = |t: &TensorRef| -> Result<TensorRef> {
            let layer = places[t.layer]
                .ok_or_else(|| LayersError::Disconnected { layers: vec![after.to_owned()] })?;
            Ok(TensorRef { layer, ..t.clone() })
        };
        for layer in &mut layers {
            // Calls that served other parts of the model are gone with them.
            let calls = std::mem::take(&mut layer.calls);
            for call in calls {
                let mut map = |t: &TensorRef| moved(t);
                let args = call.args.iter().map(|a| a.map(&mut map)).collect::<Result<_>>();
                let kwargs =
                    call.kwargs.iter().map(|(k, a)| Ok((k.clone(), a.map(&mut map)?))).collect::<Result<_>>();
                if let (Ok(args), Ok(kwargs)) = (args, kwargs) {
                    layer.calls.push(CallConfig { args, kwargs });
                }
            }
        }
        let inputs = config.inputs.flat().into_iter().filter(|t| places[t.layer].is_some()).map(moved);
        let inputs: Vec<Structure> = inputs.map(|t| Ok(Structure::One(t?))).collect::<Result<_>>()?;
        let mut end = moved(&TensorRef { layer: at, call: 0, tensor: 0 })?;
        for spec in head {
            let mut layer = spec.into_config(&layers.iter().map(|l| l.name.as_str()).collect::<Vec<_>>());
            layer.calls = vec![CallConfig { args: vec![Arg::Tensor(end)], kwargs: Vec::new() }];
            layers.push(layer);
            end = TensorRef { layer: layers.len() - 1, call: 0, tensor: 0 };
        }
        config.layers = layers;
        config.inputs = Structure::List(inputs);
        config.outputs = Structure::List(vec![Structure::One(end)]);
        if config.kind == ModelKind::Functional {
            // A subclass's name says what the whole model was.
            "Functional".clone_into(&mut config.class_name);
        }
        self.rebuild(config)?;
        self.initialize(seed)?;
        Ok(self)
    }

    /// Makes the layers anew; weights keep their values, by the names of their layers.
    fn rebuild(&mut self, config: ModelConfig) -> Result<()> {
        let mut network = Network::new(config, self.dialect)?;
        let mut params = Params::default();
        network.build(&mut Scope::new(&mut params, self.dialect), &[])?;
        let ids: Vec<_> = (0..params.weights.len()).map(crate::WeightId).collect();
        for id in ids {
            let weight = params.get(id);
            let same = |w: &crate::Weight| {
                w.layer == weight.layer && w.object == weight.object && w.shape == weight.shape
            };
            let old = self.params.weights.iter().find(|w| same(w)).and_then(|w| w.value.clone());
            if let Some(value) = old {
                params.set(id, value);
            }
        }
        (self.network, self.params) = (network, params);
        self.training = None;
        self.forget_compiled();
        self.reset_states();
        Ok(())
    }
}

/// Layers whose outputs a layer needs for its first call, itself included.
fn ancestors(config: &ModelConfig, layer: usize) -> Vec<usize> {
    let mut found = vec![layer];
    let mut waiting = vec![(layer, 0)];
    let mut seen = std::collections::HashSet::new();
    while let Some((layer, call)) = waiting.pop() {
        if !seen.insert((layer, call)) {
            continue;
        }
        for t in config.layers[layer].calls.get(call).map(CallConfig::tensors).unwrap_or_default() {
            if !found.contains(&t.layer) {
                found.push(t.layer);
            }
            waiting.push((t.layer, t.call));
        }
    }
    found
}

fn position(config: &ModelConfig, name: &str, path: &str) -> Result<usize> {
    let found = config.layers.iter().position(|l| l.name == name);
    found.ok_or_else(|| LayersError::NotFound { what: "layer", name: path.to_owned() })
}

/// The layer of this name, or at the end of this path of names: the way to it, as places of layers.
fn way(config: &ModelConfig, rest: &str, path: &str) -> Result<Vec<usize>> {
    // Names of layers may hold slashes themselves.
    if let Ok(at) = position(config, rest, path) {
        return Ok(vec![at]);
    }
    for (at, layer) in config.layers.iter().enumerate() {
        let inner = rest.strip_prefix(layer.name.as_str()).and_then(|r| r.strip_prefix('/'));
        if let (Some(model), Some(inner)) = (&layer.model, inner) {
            return Ok([vec![at], way(model, inner, path)?].concat());
        }
    }
    Err(LayersError::NotFound { what: "layer", name: path.to_owned() })
}

/// The layer at the end of a way.
fn at<'c>(config: &'c mut ModelConfig, way: &[usize]) -> Option<&'c mut LayerConfig> {
    let (first, rest) = way.split_first()?;
    let layer = config.layers.get_mut(*first)?;
    if rest.is_empty() { Some(layer) } else { at(layer.model.as_mut()?, rest) }
}

fn set_flag(layer: &mut LayerConfig, trainable: bool) {
    set_in(&mut layer.config, trainable);
    if let Some(model) = &mut layer.model {
        all_trainable(model, trainable);
    }
}

/// Sets the flag in a configuration, and in those of the layers and cells that it holds.
fn set_in(config: &mut Map<String, Value>, trainable: bool) {
    config.insert("trainable".to_owned(), trainable.into());
    for key in ["layer", "backward_layer", "forward_layer", "cell", "cells", "layers"] {
        let held = match config.get_mut(key) {
            Some(Value::Array(list)) => list.as_mut_slice(),
            Some(one) => std::slice::from_mut(one),
            None => &mut [],
        };
        for inner in held.iter_mut().filter_map(|v| v.get_mut("config")?.as_object_mut()) {
            set_in(inner, trainable);
        }
    }
}

fn all_trainable(config: &mut ModelConfig, trainable: bool) {
    config.trainable = trainable;
    config.layers.iter_mut().for_each(|l| set_flag(l, trainable));
}
