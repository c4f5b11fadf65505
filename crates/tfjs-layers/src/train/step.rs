//! The graph of one step.

use tfjs_graph::{Binding, Fact, GraphModel, ModelOptions, Port, gradients::Gradient, op::Profile};
use tfjs_kernels::{DType, Tensor};

use super::{
    Batch, Grad, Training,
    objective::{Entry, Objective, Report},
};
use crate::{
    Call, Emit, Layer, LayersError, LayersModel, Loss, Sym, WeightId,
    emit::training::{STEP, step_tensor, weight_key},
    regularizers,
};

type Result<T> = std::result::Result<T, LayersError>;

/// A graph for batches of certain shapes.
#[derive(Debug)]
pub(super) struct Step {
    /// Whether it trains; otherwise it evaluates.
    pub(super) train: bool,
    /// What is reported.
    entries: Vec<Entry>,
    /// Losses that can tell whether labels are in range, each with the place of its labels and the number of classes.
    checks: Vec<(Loss, usize, usize)>,
    model: GraphModel,
    binding: Binding,
    fed: Inputs,
    outputs: Vec<Output>,
    /// Outputs of layers, to find the one that made a value that is no number.
    layers: Vec<(String, String)>,
}

/// What the graph is fed, in this order.
#[derive(Debug)]
struct Inputs {
    /// Types and shapes of inputs, labels and weights of samples.
    batch: Vec<Option<Fact>>,
    weights: Vec<WeightId>,
    /// Whether the number of the step is fed.
    numbered: bool,
    /// Whether the optimizer's scale of the loss is.
    scaled: bool,
    /// States that come back, with their shapes.
    states: Vec<(String, Vec<usize>)>,
}

impl Inputs {
    /// Their names in the graph.
    fn keys(&self) -> Vec<String> {
        let batch = self.batch.iter().enumerate().filter(|(_, f)| f.is_some()).map(|(i, _)| batch_key(i));
        let weights = self.weights.iter().map(|id| weight_key(*id));
        let step = self.numbered.then(|| STEP.to_owned());
        let scale = self.scaled.then(|| LOSS_SCALE.to_owned());
        let states = self.states.iter().map(|(name, _)| name.clone());
        batch.chain(weights).chain(step).chain(scale).chain(states).collect()
    }

    fn values(&self, model: &LayersModel, training: &Training, batch: &Batch) -> Result<Vec<Tensor>> {
        let mut feeds: Vec<Tensor> = tensors(batch).flatten().cloned().collect();
        for &id in &self.weights {
            feeds.push(model.params.value(id)?);
        }
        if self.numbered {
            feeds.push(step_tensor(training.steps));
        }
        if self.scaled {
            feeds.push(Tensor::scalar(training.optimizer.loss_scale()));
        }
        for (name, shape) in &self.states {
            let left = training.states.iter().find(|(n, t)| n == name && t.dims() == shape.as_slice());
            feeds.push(match left {
                Some((_, value)) => value.clone(),
                None => Tensor::zeros(DType::Float32, &shape[..])?,
            });
        }
        Ok(feeds)
    }
}

/// What an output of the graph is.
#[derive(Debug)]
enum Output {
    Loss,
    /// A loss or part of a metric: index of the entry.
    Report(usize),
    Update(WeightId),
    /// The gradient of a trainable weight, by its place among them.
    Dense(usize),
    Indices(usize),
    Values,
    State,
}

/// What a step gives.
#[derive(Debug, Default)]
pub(super) struct StepOutputs {
    pub(super) report: Report,
    /// As the trainable weights.
    pub(super) gradients: Vec<Option<Grad>>,
    pub(super) updates: Vec<(WeightId, Tensor)>,
    pub(super) states: Vec<(String, Tensor)>,
    /// When the loss is not a number: where that came from.
    pub(super) bad_layer: Option<String>,
}

fn tensors(batch: &Batch) -> impl Iterator<Item = Option<&Tensor>> {
    batch
        .x
        .iter()
        .map(Some)
        .chain(batch.y.iter().map(Option::as_ref))
        .chain(batch.sample_weight.iter().map(Option::as_ref))
}

impl Step {
    /// Whether the graph is for such a batch.
    pub(super) fn fits(&self, batch: &Batch, train: bool) -> bool {
        let matches = |(fact, tensor): (&Option<Fact>, Option<&Tensor>)| match (fact, tensor) {
            (None, None) => true,
            (Some(fact), Some(t)) => {
                let dims = fact.shape.as_deref().unwrap_or_default();
                fact.dtype == Some(t.dtype())
                    && dims.len() == t.rank()
                    && dims.iter().zip(t.dims()).all(|(d, n)| d.is_none_or(|d| d == *n))
            }
            _ => false,
        };
        self.train == train
            && self.fed.batch.len() == tensors(batch).count()
            && self.fed.batch.iter().zip(tensors(batch)).all(matches)
    }

    /// Writes the graph: for exactly these shapes, or for any that the model allows.
    pub(super) fn new(
        model: &LayersModel,
        training: &Training,
        batch: &Batch,
        train: bool,
        exact: bool,
    ) -> Result<Step> {
        let outputs = model.output_names();
        let objective = Objective::new(&training.compile, &outputs, model.dialect)?;
        let facts = facts(model, batch, exact)?;
        let mut g = Emit::new(model.params.clone(), model.dialect)
            .keeping_states()
            .feeding_weights(train, training.seed);
        let mut ports = Vec::new();
        for (i, fact) in facts.iter().enumerate() {
            ports.push(fact.as_ref().map(|fact| {
                let dtype = fact.dtype.unwrap_or(DType::Float32);
                g.builder().placeholder(&batch_key(i), dtype, fact.shape.as_deref().unwrap_or_default())
            }));
        }
        let mut ports = ports.into_iter();
        let x: Vec<Sym> = ports.by_ref().take(batch.x.len()).flatten().map(Sym::from).collect();
        let y: Vec<Option<Port>> = ports.by_ref().take(batch.y.len()).collect();
        let weights: Vec<Option<Port>> = ports.collect();
        let y_pred = model.network().call(&mut g, &Call::of(x))?;
        let places = label_places(&objective, &y, &outputs)?;
        let y_true: Vec<Option<Port>> = places.iter().map(|place| (*place).and_then(|i| y[i])).collect();
        let mut checks = Vec::new();
        for (i, place) in places.iter().enumerate() {
            let classes = y_pred.get(i).and_then(|s| *g.fact(s.port).shape.as_ref()?.last()?);
            if let (Some(loss), Some(place), Some(classes)) = (objective.loss(i), *place, classes) {
                checks.push((loss.clone(), place, classes));
            }
        }
        let mut written = objective.write(&mut g, &y_true, &y_pred, &weights)?;
        regularizers::weight_losses(&mut g, &model.params)?;
        let fed = g.take_fed()?;
        let mut loss = written.loss.take();
        for &term in &fed.losses {
            loss = Some(match loss {
                Some(sum) => g.add(sum, term)?,
                None => term,
            });
        }
        let loss = loss.ok_or_else(|| {
            LayersError::Training(
                "there is nothing to train for: no output has a loss, and no layer adds one".to_owned(),
            )
        })?;
        let mut outputs = vec![(Output::Loss, loss)];
        for (i, (_, state)) in written.report.iter().enumerate() {
            for &port in state {
                let port = g.cast(port, DType::Float32)?;
                outputs.push((Output::Report(i), port));
            }
        }
        let scaled = train && training.optimizer.loss_scale() != 1.0;
        if train {
            outputs.extend(fed.updates.iter().map(|&(id, port)| (Output::Update(id), port)));
            let scale = scaled.then(|| g.builder().placeholder(LOSS_SCALE, DType::Float32, &[]));
            let gradients = fed.gradients(&mut g, (loss, scale), &training.trainable)?;
            for (i, gradient) in gradients.into_iter().enumerate() {
                match gradient {
                    None => {}
                    Some(Gradient::Dense(port)) => outputs.push((Output::Dense(i), port)),
                    Some(Gradient::Sparse { indices, values, .. }) => {
                        outputs.push((Output::Indices(i), indices));
                        outputs.push((Output::Values, values));
                    }
                }
            }
        }
        let mut keys = Vec::new();
        for (i, (_, port)) in outputs.iter().enumerate() {
            // A node of its own: an output may be an input too.
            let port = g.op("Identity", &[*port], &[])?;
            keys.push(format!("training/output_{i}"));
            g.builder().output(&keys[i], port);
        }
        let graph_of = |g: &mut Emit, port: Port| {
            let node = &g.builder().graph().node(port.node).name;
            if port.index == 0 { node.clone() } else { format!("{node}:{}", port.index) }
        };
        let layers = fed.layers.iter().map(|(name, port)| (name.clone(), graph_of(&mut g, *port))).collect();
        let emitted = g.finish();
        let graph = GraphModel::from_graph(emitted.graph, ModelOptions::default())
            .with_initializer(emitted.initializer);
        let inputs = Inputs {
            batch: facts,
            weights: fed.weights.iter().map(|(id, _)| *id).collect(),
            numbered: fed.step.is_some(),
            scaled,
            states: emitted.states.iter().map(|s| (s.name.clone(), s.shape.clone())).collect(),
        };
        keys.extend(emitted.states.iter().map(|s| s.name.clone()));
        let mut kinds: Vec<Output> = outputs.into_iter().map(|(kind, _)| kind).collect();
        kinds.extend(emitted.states.iter().map(|_| Output::State));
        let binding = graph.bind(&inputs.keys(), &keys)?;
        Ok(Step {
            train,
            entries: written.report.into_iter().map(|(entry, _)| entry).collect(),
            checks,
            model: graph,
            binding,
            fed: inputs,
            outputs: kinds,
            layers,
        })
    }

    /// Whether labels are such as the losses know.
    pub(super) fn check_labels(&self, batch: &Batch) -> Result<()> {
        for (loss, place, classes) in &self.checks {
            if let Some(Some(y)) = batch.y.get(*place) {
                loss.check_labels(y, *classes)?;
            }
        }
        Ok(())
    }

    /// Runs the step.
    pub(super) fn run(
        &self,
        model: &LayersModel,
        training: &Training,
        batch: &Batch,
        profile: Option<&mut Profile>,
    ) -> Result<StepOutputs> {
        self.check_labels(batch)?;
        let feeds = self.fed.values(model, training, batch)?;
        let results = self.model.run_bound(&self.binding, feeds, profile)?;
        let mut out = StepOutputs::default();
        out.report.samples = batch.samples();
        out.report.entries = self.entries.iter().map(|e| (e.clone(), Vec::new())).collect();
        out.gradients.resize_with(training.trainable.len(), || None);
        let mut pending = None;
        let mut states = self.fed.states.iter();
        for (kind, value) in self.outputs.iter().zip(results) {
            match kind {
                Output::Loss => {
                    out.report.loss = value.data::<f32>()?.first().copied().map_or(f64::NAN, f64::from);
                }
                Output::Report(i) => out.report.entries[*i].1.push(value),
                Output::Update(id) => out.updates.push((*id, value)),
                Output::Dense(i) => out.gradients[*i] = Some(Grad::Dense(value)),
                Output::Indices(i) => pending = Some((*i, value)),
                Output::Values => {
                    if let Some((i, indices)) = pending.take() {
                        out.gradients[i] = Some(Grad::Sparse { indices, values: value });
                    }
                }
                Output::State => {
                    if let Some((name, _)) = states.next() {
                        out.states.push((name.clone(), value));
                    }
                }
            }
        }
        Ok(out)
    }

    /// The layer that first made something that is no number; "loss" if none did.
    pub(super) fn first_bad_layer(
        &self,
        model: &LayersModel,
        training: &Training,
        batch: &Batch,
    ) -> Result<Option<String>> {
        let names: Vec<&str> = self.layers.iter().map(|(_, port)| port.as_str()).collect();
        let feeds: Vec<(String, Tensor)> =
            self.fed.keys().into_iter().zip(self.fed.values(model, training, batch)?).collect();
        let values = self.model.run_for(feeds, &names)?;
        let bad = |t: &Tensor| t.data::<f32>().is_ok_and(|d| d.iter().any(|v| !v.is_finite()));
        let first = self.layers.iter().zip(values.iter()).find(|(_, (_, value))| bad(value));
        Ok(Some(first.map_or_else(|| "loss".to_owned(), |((name, _), _)| name.clone())))
    }
}

/// Name of the input that gradients are multiplied by.
const LOSS_SCALE: &str = "training/loss_scale";

fn batch_key(i: usize) -> String {
    format!("training/batch_{i}")
}

/// What is known of each tensor of a batch: all, or what the model says and types and ranks.
fn facts(model: &LayersModel, batch: &Batch, exact: bool) -> Result<Vec<Option<Fact>>> {
    let inputs = model.network().input_facts()?;
    let all = tensors(batch).enumerate().map(|(i, tensor)| {
        let tensor = tensor?;
        let fact = Fact::of(tensor.dtype(), tensor.dims());
        if exact {
            return Some(fact);
        }
        Some(match inputs.get(i) {
            Some(declared) => Fact { dtype: Some(tensor.dtype()), ..declared.clone() },
            None => Fact::new(tensor.dtype(), vec![None; tensor.rank()]),
        })
    });
    Ok(all.collect())
}

/// Which of the labels given belong to each output: they are given for every output, or for those that need some.
fn label_places(objective: &Objective, y: &[Option<Port>], outputs: &[String]) -> Result<Vec<Option<usize>>> {
    let labelled = objective.labelled();
    let wanted = labelled.iter().filter(|l| **l).count();
    let places: Vec<Option<usize>> = if y.len() == outputs.len() {
        (0..y.len()).map(Some).collect()
    } else if y.len() == wanted {
        let mut rest = 0..;
        labelled.iter().map(|l| if *l { rest.next() } else { None }).collect()
    } else {
        return Err(LayersError::Training(format!(
            "labels for {wanted} outputs are needed ({}), {} were given",
            outputs.join(", "),
            y.len()
        )));
    };
    for ((place, needed), name) in places.iter().zip(labelled).zip(outputs) {
        if needed && place.is_none_or(|i| y[i].is_none()) {
            let problem = format!("output `{name}` has a loss or metrics, and no labels were given for it");
            return Err(LayersError::Training(problem));
        }
    }
    Ok(places)
}
