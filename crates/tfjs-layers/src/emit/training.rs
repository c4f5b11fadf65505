//! Graphs of which the weights are inputs: those of training, and those that evaluate between two epochs.

use tfjs_graph::{
    Constant, Port,
    builder::attr,
    gradients::{Gradient, gradients_of},
};
use tfjs_kernels::{DType, Tensor};

use super::{Dim, Emit, Result};
use crate::{LayersError, Sym, Weight, WeightId};

/// What layers say besides their outputs while a model with fed weights is written.
#[derive(Debug)]
pub(crate) struct Fed {
    /// Whether layers are in the phase of training.
    training: bool,
    /// Seed of the model's random numbers.
    seed: i32,
    /// Number of the step, an input.
    pub(crate) step: Option<Port>,
    /// How many draws of random numbers there are so far.
    draws: i32,
    /// Weights that are inputs, in the order of their first use.
    pub(crate) weights: Vec<(WeightId, Port)>,
    /// All values that trained weights have in the course of the step, in order.
    pub(crate) versions: Vec<(WeightId, Port)>,
    /// What weights become after the step.
    pub(crate) updates: Vec<(WeightId, Port)>,
    /// Outputs of layers, in the order of their calls.
    pub(crate) layers: Vec<(String, Port)>,
    /// Scalars that layers add to the loss.
    pub(crate) losses: Vec<Port>,
    /// A weight that was asked for where it cannot be fed.
    pub(crate) unreachable: Option<String>,
}

/// Name of the input that holds the number of the step.
pub(crate) const STEP: &str = "training/step";

/// Name of the input, and of the output after an update, that holds a weight.
pub(crate) fn weight_key(id: WeightId) -> String {
    format!("training/weight_{}", id.0)
}

impl Emit {
    /// The same, with the weights that may change as inputs. `training` says in which phase layers are; `seed` is that of
    /// all random numbers.
    #[must_use]
    pub(crate) fn feeding_weights(self, training: bool, seed: i32) -> Emit {
        let fed = Fed {
            training,
            seed,
            step: None,
            draws: 0,
            weights: Vec::new(),
            versions: Vec::new(),
            updates: Vec::new(),
            layers: Vec::new(),
            losses: Vec::new(),
            unreachable: None,
        };
        Emit { fed: Some(fed), ..self }
    }

    /// Whether layers are in the phase of training: dropouts drop, batch norms use the batch.
    pub fn training(&self) -> bool {
        self.fed.as_ref().is_some_and(|f| f.training)
    }

    /// What a weight becomes after the step; later calls of [`Emit::weight`] see it, as in Keras. Outside of training there
    /// is nothing to update. A weight that is trained too has the gradients of all its values, and none flows from one into
    /// the one before.
    ///
    /// # Errors
    /// Never for a value of this graph.
    pub fn update(&mut self, id: WeightId, value: Port) -> Result<()> {
        if !self.training() {
            return Ok(());
        }
        let trained = self.params.weights.get(id.0).is_some_and(|w| w.trainable);
        let value = if trained { self.op("StopGradient", &[value], &[])? } else { value };
        if let Some(fed) = self.fed.as_mut() {
            fed.updates.retain(|(other, _)| *other != id);
            fed.updates.push((id, value));
            if trained {
                fed.versions.push((id, value));
            }
        }
        self.weights.insert(id, value);
        Ok(())
    }

    /// Whether this is a graph for training or evaluating, and not for predicting.
    pub(crate) fn feeds_weights(&self) -> bool {
        self.fed.is_some()
    }

    /// Whether the layer of a weight, or a model around it, is not to change.
    pub(crate) fn frozen(&self, id: WeightId) -> bool {
        self.params.weights.get(id.0).is_some_and(|w| w.frozen)
    }

    /// Adds a scalar to the loss that is trained and reported.
    pub fn add_loss(&mut self, value: Port) {
        if let Some(fed) = &mut self.fed {
            fed.losses.push(value);
        }
    }

    /// Takes note of what a layer gives, for finding the one that fails.
    pub(crate) fn note_layer(&mut self, name: &str, outputs: &[Sym]) {
        // What lies inside a loop cannot be asked for.
        if self.loops == 0
            && let Some(fed) = &mut self.fed
        {
            fed.layers.extend(outputs.iter().map(|s| (name.to_owned(), s.port)));
        }
    }

    /// The input that a weight is, where weights are fed.
    pub(super) fn fed_weight(&mut self, id: WeightId, weight: &Weight) -> Option<Port> {
        let fed = self.fed.as_mut().filter(|_| !weight.frozen)?;
        if self.loops > 0 {
            fed.unreachable.get_or_insert_with(|| weight.keras.clone());
            return None;
        }
        let dims: Vec<Option<usize>> = weight.shape.iter().map(|&d| Some(d)).collect();
        let port = self.builder.placeholder(&weight_key(id), weight.dtype, &dims);
        fed.weights.push((id, port));
        if weight.trainable {
            fed.versions.push((id, port));
        }
        Some(port)
    }

    /// What was said besides outputs.
    pub(crate) fn take_fed(&mut self) -> Result<Fed> {
        let fed = self.fed.take().ok_or_else(|| LayersError::Inputs("weights are not fed".to_owned()))?;
        match fed.unreachable {
            Some(weight) => Err(LayersError::Inputs(format!(
                "weight `{weight}` is used inside a loop and cannot be trained there"
            ))),
            None => Ok(fed),
        }
    }

    /// Numbers from `[0, 1)`, new in every run. In training they follow from the seed, the place in the model and the number of
    /// the step alone: a training that is taken up again draws what it would have drawn. They are not Keras's numbers.
    ///
    /// # Errors
    /// When they are too many.
    pub fn random_uniform(&mut self, dims: &[Dim], seed: Option<i64>) -> Result<Port> {
        self.random("RandomUniform", "StatelessRandomUniform", dims, seed)
    }

    /// Numbers from the normal distribution, drawn as [`Emit::random_uniform`] does.
    ///
    /// # Errors
    /// When they are too many.
    pub fn random_normal(&mut self, dims: &[Dim], seed: Option<i64>) -> Result<Port> {
        self.random("RandomStandardNormal", "StatelessRandomNormal", dims, seed)
    }

    /// Numbers from the normal distribution cut off at two deviations, drawn as [`Emit::random_uniform`] does.
    ///
    /// # Errors
    /// When they are too many.
    pub fn random_truncated_normal(&mut self, dims: &[Dim], seed: Option<i64>) -> Result<Port> {
        self.random("TruncatedNormal", "StatelessTruncatedNormal", dims, seed)
    }

    /// Random numbers, new in every run. In training they follow from the seed, the place in the model and the number of
    /// the step alone: a training that is taken up again draws what it would have drawn. They are not Keras's numbers.
    fn random(&mut self, op: &str, stateless: &str, dims: &[Dim], seed: Option<i64>) -> Result<Port> {
        let shape = self.shape_value(dims)?;
        let known: Vec<Option<usize>> = dims
            .iter()
            .map(|d| match d {
                Dim::Known(n) => Some(*n),
                Dim::Of(..) => None,
            })
            .collect();
        let dtype = ("dtype", attr::dtype(DType::Float32));
        let Some(fed) = &mut self.fed else {
            let seeds = [("seed", attr::int(seed.unwrap_or(0))), ("seed2", attr::int(0))];
            let [first, second] = seeds;
            let out = self.op(op, &[shape], &[dtype, first, second])?;
            self.set_shape(out, &known);
            return Ok(out);
        };
        fed.draws += 1;
        // Any odd numbers will do: draws of one model must differ, and so must models.
        let key = seed.map_or(fed.seed, |s| s as i32).wrapping_mul(0x61c8_8647)
            ^ fed.draws.wrapping_mul(0x0019_660d);
        let step = self.step()?;
        let key = self.int(key);
        let seed = self.op("Pack", &[key, step], &[("axis", attr::int(0))])?;
        let out = self.op(stateless, &[shape, seed], &[dtype])?;
        self.set_shape(out, &known);
        Ok(out)
    }

    /// The number of the step, int32.
    fn step(&mut self) -> Result<Port> {
        match &self.fed {
            Some(Fed { step: Some(port), .. }) => return Ok(*port),
            _ if self.loops > 0 => {
                return Err(LayersError::Inputs("random numbers cannot be drawn inside a loop".to_owned()));
            }
            _ => {}
        }
        let port = self.builder.placeholder(STEP, DType::Int32, &[]);
        if let Some(fed) = &mut self.fed {
            fed.step = Some(port);
        }
        Ok(port)
    }

    /// The value of a weight as a constant, in graphs where it is not fed.
    pub(super) fn constant_weight(&mut self, weight: &Weight) -> Port {
        let name = weight.keras.clone();
        let value = weight.value.clone().unwrap_or_else(|| {
            let name = name.clone();
            let missing = move || Err(LayersError::MissingWeights { names: vec![name.clone()] }.into());
            Constant::deferred(weight.dtype.to_proto(), weight.shape.as_slice(), missing)
        });
        self.builder.weight(&name, value)
    }
}

impl Fed {
    /// The gradients of a loss by trained weights: of each the sum of those of all values that it has in the step.
    pub(crate) fn gradients(
        &self,
        g: &mut Emit,
        loss: (Port, Option<Port>),
        weights: &[WeightId],
    ) -> Result<Vec<Option<Gradient>>> {
        let of =
            |id: WeightId| self.versions.iter().filter(move |(other, _)| *other == id).map(|(_, port)| *port);
        let wrt: Vec<Port> = weights.iter().flat_map(|&id| of(id)).collect();
        let mut found = gradients_of(g.builder(), &[loss], &wrt)?.into_iter();
        let mut sums = Vec::with_capacity(weights.len());
        for &id in weights {
            let ports: Vec<Port> = of(id).collect();
            let parts: Vec<Gradient> = found.by_ref().take(ports.len()).flatten().collect();
            sums.push(
                ports.last().map(|&like| Gradient::sum(g.builder(), like, &parts)).transpose()?.flatten(),
            );
        }
        Ok(sums)
    }
}

/// The number of a step as the graph takes it.
pub(crate) fn step_tensor(step: u64) -> Tensor {
    // Beyond 2³¹ steps the numbers begin again.
    Tensor::scalar((step & 0x7fff_ffff) as i32)
}
