//! Cells: what one step of a recurrent layer computes.

use std::fmt;

use serde_json::Value;
use tfjs_graph::Port;

use crate::{
    Activation, Config, Dialect, Emit, Initializer, LayerConfig, LayersError, Scope, WeightId, WeightInit,
    emit::Dim,
    layers::{
        core::built,
        regularization::{dropout_factors, seed},
    },
    weights::snake_case,
};

use super::{
    conv::ConvLstmCell,
    sequence::{self, Outcome, Over},
};

type Result<T> = std::result::Result<T, LayersError>;

/// One step of a recurrent layer. What depends on the input alone is apart from what depends on the states, so that it
/// can be computed for all steps at once.
pub(in crate::layers) trait Cell: fmt::Debug + Send + Sync {
    /// Declares the weights. `input` are the dimensions of one step's input, channels last, batch first.
    ///
    /// # Errors
    /// When the input does not fit.
    fn build(&mut self, scope: &mut Scope<'_>, input: &[Option<usize>]) -> Result<()>;

    /// Size of the last axis of each state.
    fn state_sizes(&self) -> Vec<usize>;

    /// Index of the state that is the output.
    fn output_state(&self) -> usize {
        0
    }

    /// Size of the last axis of the output.
    fn output_size(&self) -> usize {
        self.state_sizes()[self.output_state()]
    }

    /// Weights as the other functions take them.
    ///
    /// # Errors
    /// When the cell is not built.
    fn weights(&self, g: &mut Emit) -> Result<CellWeights>;

    /// What depends on the input alone. `x` has `leading` axes (time and batch, or batch alone) before those of the cell.
    ///
    /// # Errors
    /// When the input does not fit.
    fn project(&self, g: &mut Emit, weights: &[Port], x: Port, leading: usize) -> Result<Port>;

    /// The next states, from a projected input and the states before.
    ///
    /// # Errors
    /// When shapes do not fit.
    fn step(&self, g: &mut Emit, weights: &[Port], x: Port, states: &[Port]) -> Result<Vec<Port>>;

    /// How many [`Cell::weights`] there are: for the input, for a step.
    fn weight_counts(&self) -> (usize, usize);

    /// How many masks training has, with which it drops parts of the inputs and the states: of [`Cell::input_masks`], of
    /// [`Cell::step_masks`]. They come after the weights.
    fn mask_counts(&self) -> (usize, usize) {
        (0, 0)
    }

    /// Draws masks for inputs of these dimensions.
    ///
    /// # Errors
    /// When the graph cannot be written.
    fn input_masks(&self, _g: &mut Emit, _dims: &[Dim]) -> Result<Vec<Port>> {
        Ok(Vec::new())
    }

    /// Draws masks for states, whose dimensions but the last are these.
    ///
    /// # Errors
    /// When the graph cannot be written.
    fn step_masks(&self, _g: &mut Emit, _leading: &[Dim]) -> Result<Vec<Port>> {
        Ok(Vec::new())
    }

    /// Number of spatial axes, and whether channels come last.
    fn layout(&self) -> (usize, bool) {
        (0, true)
    }

    /// Whether [`Cell::sequence`] works.
    fn has_sequence(&self, _dialect: Dialect) -> bool {
        false
    }

    /// The cell over a sequence of inputs, as an op of this runtime.
    ///
    /// # Errors
    /// When there is none, or the inputs do not fit.
    fn sequence(&self, _g: &mut Emit, _x: Port, _over: &Over<'_>) -> Result<Outcome> {
        sequence::none()
    }
}

/// The weights of a cell, by when they are needed.
#[derive(Debug, Default)]
pub(in crate::layers) struct CellWeights {
    /// For [`Cell::project`].
    pub input: Vec<Port>,
    /// For [`Cell::step`].
    pub step: Vec<Port>,
}

/// A cell and what files call it.
#[derive(Debug)]
pub(super) struct NamedCell {
    /// Its name, part of the names of its weights in Keras.
    pub name: String,
    /// Its class in snake case: Keras 3 names the members of a list after it.
    pub object: String,
    /// Whether training changes its weights.
    pub trainable: bool,
    /// What it does.
    pub cell: Box<dyn Cell>,
}

/// Makes the cell that a config `{class_name, config}` describes.
///
/// # Errors
/// When the class is no cell, or its config is wrong.
pub(super) fn cell(value: &Value, c: &Config<'_>) -> Result<NamedCell> {
    let config = LayerConfig::nested(value, c.dialect)?;
    let reader = c.inner(&config.config);
    let cell = match config.class_name.as_str() {
        "SimpleRNNCell" => Box::new(GateCell::new(&reader, Kind::Simple)?) as Box<dyn Cell>,
        "GRUCell" => Box::new(GateCell::new(&reader, Kind::gru(&reader)?)?),
        "LSTMCell" => Box::new(GateCell::new(&reader, Kind::Lstm)?),
        "ConvLSTM2DCell" => Box::new(ConvLstmCell::new(&reader, 2)?),
        "StackedRNNCells" => Box::new(StackedCells::new(&reader)?),
        other => {
            return Err(LayersError::UnknownClass {
                class: other.to_owned(),
                hint: "; a cell is a SimpleRNNCell, GRUCell, LSTMCell, ConvLSTM2DCell or StackedRNNCells"
                    .to_owned(),
            });
        }
    };
    reader.finish(&config.name, &config.class_name);
    let (object, trainable) = (snake_case(&config.class_name), config.trainable());
    Ok(NamedCell { object, name: config.name, trainable, cell })
}

/// Which gates a cell has.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Kind {
    Simple,
    Lstm,
    Gru { reset_after: bool },
}

impl Kind {
    /// Files from before the option existed lack it, and their layers reset before; TF.js knows no other way.
    pub(super) fn gru(c: &Config<'_>) -> Result<Kind> {
        let written_in_full = c.has("kernel_initializer");
        let default = match c.dialect {
            Dialect::Keras3 => true,
            Dialect::Keras2 => !written_in_full,
            Dialect::Keras1 | Dialect::Tfjs => false,
        };
        Ok(Kind::Gru { reset_after: c.bool_or("reset_after", default)? })
    }

    fn gates(self) -> usize {
        match self {
            Kind::Simple => 1,
            Kind::Lstm => 4,
            Kind::Gru { .. } => 3,
        }
    }
}

/// Cells whose gates are matrix products.
///
/// * `SimpleRNN`: h' = act(x·K + b + h·R)
/// * `LSTM`: i, f, c̃, o = x·K + b + h·R; c' = σ(f)·c + σ(i)·act(c̃); h' = σ(o)·act(c')
/// * `GRU`: z, r = σ(x·K + b + h·R); h̃ = act(x·K + b + (r·h)·R), or with `reset_after` act(x·K + b + r·(h·R + b'));
///   h' = z·h + (1 − z)·h̃
///
/// kernel K: `[in, gates·units]`, recurrent kernel R: `[units, gates·units]`, bias b: `[gates·units]`, of a GRU with
/// `reset_after` `[2, 3·units]`.
#[derive(Debug)]
pub(super) struct GateCell {
    pub(super) kind: Kind,
    units: usize,
    pub(super) activation: Activation,
    pub(super) recurrent_activation: Activation,
    use_bias: bool,
    kernel_initializer: WeightInit,
    recurrent_initializer: WeightInit,
    bias_initializer: WeightInit,
    drops: Drops,
    weights: Option<(WeightId, WeightId, Option<WeightId>)>,
}

/// What training drops of inputs and states. A mask is the same in all steps.
#[derive(Debug)]
pub(super) struct Drops {
    input: f32,
    recurrent: f32,
    /// How many masks there are of each.
    masks: usize,
    seed: Option<i64>,
}

impl Drops {
    /// `masks` of each, one per gate, unless the cell computes all gates at once.
    pub(super) fn new(c: &Config<'_>, masks: usize, by_gate: bool) -> Result<Drops> {
        let rate = |key: &str| -> Result<f32> {
            let rate = c.f32_or(key, 0.0)?.clamp(0.0, 1.0);
            // Cells with several gates leave a rate of 1 out.
            Ok(if masks > 1 && rate >= 1.0 { 0.0 } else { rate })
        };
        let (input, recurrent) = (rate("dropout")?, rate("recurrent_dropout")?);
        let apart = matches!(c.int_or("implementation", 2)?, 0 | 1) || recurrent > 0.0;
        let apart = by_gate || apart && c.dialect != Dialect::Tfjs;
        Ok(Drops { input, recurrent, masks: if apart { masks } else { 1 }, seed: seed(c) })
    }

    pub(super) fn counts(&self) -> (usize, usize) {
        let count = |rate: f32| if rate > 0.0 { self.masks } else { 0 };
        (count(self.input), count(self.recurrent))
    }

    pub(super) fn input_masks(&self, g: &mut Emit, dims: &[Dim]) -> Result<Vec<Port>> {
        (0..self.counts().0).map(|_| dropout_factors(g, self.input, dims, self.seed)).collect()
    }

    pub(super) fn step_masks(&self, g: &mut Emit, leading: &[Dim], size: usize) -> Result<Vec<Port>> {
        let dims: Vec<Dim> = leading.iter().copied().chain([Dim::Known(size)]).collect();
        (0..self.counts().1).map(|_| dropout_factors(g, self.recurrent, &dims, self.seed)).collect()
    }
}

/// `f(x, kernel)`, with masks on `x`: one of them for all gates, or for each gate its own, in which case `kernel` holds as
/// many gates along its last axis.
pub(super) fn masked(
    g: &mut Emit,
    x: Port,
    kernel: Port,
    masks: &[Port],
    mut f: impl FnMut(&mut Emit, Port, Port) -> Result<Port>,
) -> Result<Port> {
    match *masks {
        [] => f(g, x, kernel),
        [mask] => {
            let x = g.mul(x, mask)?;
            f(g, x, kernel)
        }
        _ => {
            let axis = g.rank(kernel)?.saturating_sub(1);
            let kernels = g.split(kernel, axis, masks.len())?;
            let mut gates = Vec::new();
            for (&mask, kernel) in masks.iter().zip(kernels) {
                let x = g.mul(x, mask)?;
                gates.push(f(g, x, kernel)?);
            }
            let last = g.rank(gates[0])?.saturating_sub(1);
            g.concat(&gates, last)
        }
    }
}

impl GateCell {
    pub(super) fn new(c: &Config<'_>, kind: Kind) -> Result<GateCell> {
        c.known(&["activity_regularizer"]);
        let tfjs = matches!(c.dialect, Dialect::Tfjs | Dialect::Keras1);
        let recurrent_activation = if kind == Kind::Simple {
            Activation::linear()
        } else {
            c.activation("recurrent_activation", if tfjs { "hard_sigmoid" } else { "sigmoid" })?
        };
        let bias_initializer = bias_initializer(c, kind == Kind::Lstm)?;
        let kernel = if c.dialect == Dialect::Tfjs { "glorot_normal" } else { "glorot_uniform" };
        Ok(GateCell {
            kind,
            units: c.usize("units")?,
            activation: c.activation("activation", "tanh")?,
            recurrent_activation,
            use_bias: c.bool_or("use_bias", true)?,
            kernel_initializer: c.initializer("kernel", kernel)?,
            recurrent_initializer: c.initializer("recurrent", "orthogonal")?,
            bias_initializer,
            drops: Drops::new(c, kind.gates(), false)?,
            weights: None,
        })
    }

    /// Whether its options are those for which Keras 2 has another op.
    pub(super) fn is_usual(&self) -> bool {
        let plain = |a: &Activation, name: &str| a.name == name && a.config.is_empty();
        plain(&self.activation, "tanh")
            && plain(&self.recurrent_activation, "sigmoid")
            && self.use_bias
            && self.drops.counts().1 == 0
            && self.kind != Kind::Gru { reset_after: false }
    }

    /// The recurrent kernel as a whole.
    pub(super) fn recurrent_kernel(&self, g: &mut Emit) -> Result<Port> {
        let (_, recurrent, _) = built(self.weights)?;
        Ok(g.weight(recurrent))
    }

    fn gate(&self, g: &mut Emit, a: Port, b: Port) -> Result<Port> {
        let sum = g.add(a, b)?;
        self.recurrent_activation.emit(g, sum)
    }
}

/// The initializer of the bias: with `unit_forget_bias`, `[b, 1, b, b]`.
pub(super) fn bias_initializer(c: &Config<'_>, forgets: bool) -> Result<WeightInit> {
    let inner = c.initializer("bias", "zeros")?;
    if !forgets || !c.bool_or("unit_forget_bias", c.dialect != Dialect::Tfjs)? {
        return Ok(inner);
    }
    let mut unit = Initializer::named("UnitForgetBias");
    let own = &inner.initializer;
    let own = serde_json::json!({"class_name": own.class_name, "config": own.config});
    unit.config.insert("bias_initializer".to_owned(), own);
    Ok(WeightInit { initializer: unit, ..inner })
}

impl Cell for GateCell {
    fn build(&mut self, scope: &mut Scope<'_>, input: &[Option<usize>]) -> Result<()> {
        let width = match input {
            [_, Some(width)] => *width,
            _ => {
                let problem = format!("steps of shape [batch, features] are needed, they are {input:?}");
                return Err(LayersError::Inputs(problem));
            }
        };
        let size = self
            .kind
            .gates()
            .checked_mul(self.units)
            .ok_or_else(|| LayersError::Inputs(format!("{} units are too many", self.units)))?;
        let kernel = scope.weight("kernel", &[width, size], self.kernel_initializer.clone());
        let recurrent =
            scope.weight("recurrent_kernel", &[self.units, size], self.recurrent_initializer.clone());
        let bias_shape: &[usize] =
            if self.kind == (Kind::Gru { reset_after: true }) { &[2, size] } else { &[size] };
        let bias = self.use_bias.then(|| scope.weight("bias", bias_shape, self.bias_initializer.clone()));
        self.weights = Some((kernel, recurrent, bias));
        Ok(())
    }

    fn state_sizes(&self) -> Vec<usize> {
        vec![self.units; if self.kind == Kind::Lstm { 2 } else { 1 }]
    }

    fn weights(&self, g: &mut Emit) -> Result<CellWeights> {
        let (kernel, recurrent, bias) = built(self.weights)?;
        let (kernel, recurrent) = (g.weight(kernel), g.weight(recurrent));
        let mut weights = CellWeights { input: vec![kernel], step: vec![recurrent] };
        let bias = bias.map(|b| g.weight(b));
        match self.kind {
            Kind::Gru { reset_after: true } => {
                if let Some(bias) = bias {
                    let rows = g.op_n(
                        "Unpack",
                        &[bias],
                        &[
                            ("num", tfjs_graph::builder::attr::int(2)),
                            ("axis", tfjs_graph::builder::attr::int(0)),
                        ],
                        2,
                    )?;
                    weights.input.push(rows[0]);
                    weights.step.push(rows[1]);
                }
                return Ok(weights);
            }
            Kind::Gru { reset_after: false } => {
                let units = self.units as i32;
                let gates = g.slice(recurrent, &[0, 0], &[-1, 2 * units])?;
                let candidate = g.slice(recurrent, &[0, 2 * units], &[-1, units])?;
                weights.step = vec![gates, candidate];
            }
            Kind::Simple | Kind::Lstm => {}
        }
        weights.input.extend(bias);
        Ok(weights)
    }

    fn weight_counts(&self) -> (usize, usize) {
        let bias = usize::from(self.use_bias);
        match self.kind {
            Kind::Simple | Kind::Lstm => (1 + bias, 1),
            Kind::Gru { reset_after: true } => (1 + bias, 1 + bias),
            Kind::Gru { reset_after: false } => (1 + bias, 2),
        }
    }

    fn mask_counts(&self) -> (usize, usize) {
        self.drops.counts()
    }

    fn input_masks(&self, g: &mut Emit, dims: &[Dim]) -> Result<Vec<Port>> {
        self.drops.input_masks(g, dims)
    }

    fn step_masks(&self, g: &mut Emit, leading: &[Dim]) -> Result<Vec<Port>> {
        self.drops.step_masks(g, leading, self.units)
    }

    fn project(&self, g: &mut Emit, weights: &[Port], x: Port, _leading: usize) -> Result<Port> {
        let (weights, masks) = weights.split_at(self.weight_counts().0);
        let y = masked(g, x, weights[0], masks, Emit::matmul)?;
        match weights.get(1) {
            Some(&bias) => g.bias_add(y, bias),
            None => Ok(y),
        }
    }

    fn has_sequence(&self, dialect: Dialect) -> bool {
        self.has_words(dialect)
    }

    fn sequence(&self, g: &mut Emit, x: Port, over: &Over<'_>) -> Result<Outcome> {
        self.write_sequence(g, x, over)
    }

    fn step(&self, g: &mut Emit, weights: &[Port], x: Port, states: &[Port]) -> Result<Vec<Port>> {
        let h = states[0];
        let (weights, masks) = weights.split_at(self.weight_counts().1);
        match self.kind {
            Kind::Simple => {
                let r = masked(g, h, weights[0], masks, Emit::matmul)?;
                let sum = g.add(x, r)?;
                Ok(vec![self.activation.emit(g, sum)?])
            }
            Kind::Lstm => {
                let r = masked(g, h, weights[0], masks, Emit::matmul)?;
                let z = g.add(x, r)?;
                lstm_gates(g, z, states[1], &self.activation, &self.recurrent_activation)
            }
            Kind::Gru { reset_after } => {
                let xs = g.split(x, 1, 3)?;
                let (z, candidate) = if reset_after {
                    let mut r = masked(g, h, weights[0], masks, Emit::matmul)?;
                    if let Some(&bias) = weights.get(1) {
                        r = g.bias_add(r, bias)?;
                    }
                    let rs = g.split(r, 1, 3)?;
                    let z = self.gate(g, xs[0], rs[0])?;
                    let reset = self.gate(g, xs[1], rs[1])?;
                    (z, g.mul(reset, rs[2])?)
                } else {
                    // Masks of the two gates of the first matrix, and that of the candidate.
                    let (of_gates, last) = masks.split_at(masks.len().saturating_sub(1));
                    let of_gates = if of_gates.is_empty() { last } else { of_gates };
                    let r = masked(g, h, weights[0], of_gates, Emit::matmul)?;
                    let rs = g.split(r, 1, 2)?;
                    let z = self.gate(g, xs[0], rs[0])?;
                    let reset = self.gate(g, xs[1], rs[1])?;
                    let kept = g.mul(reset, h)?;
                    (z, masked(g, kept, weights[1], last, Emit::matmul)?)
                };
                let sum = g.add(xs[2], candidate)?;
                let candidate = self.activation.emit(g, sum)?;
                let kept = g.mul(z, h)?;
                let one = g.scalar(1.0);
                let rest = g.sub(one, z)?;
                let new = g.mul(rest, candidate)?;
                Ok(vec![g.add(kept, new)?])
            }
        }
    }
}

/// New states `[h', c']` from the sums `z` of all gates (i, f, c̃, o along the last axis).
pub(super) fn lstm_gates(
    g: &mut Emit,
    z: Port,
    c: Port,
    activation: &Activation,
    recurrent_activation: &Activation,
) -> Result<Vec<Port>> {
    let axis = g.rank(z)? - 1;
    let gates = g.split(z, axis, 4)?;
    let input = recurrent_activation.emit(g, gates[0])?;
    let forget = recurrent_activation.emit(g, gates[1])?;
    let candidate = activation.emit(g, gates[2])?;
    let output = recurrent_activation.emit(g, gates[3])?;
    let kept = g.mul(forget, c)?;
    let new = g.mul(input, candidate)?;
    let c = g.add(kept, new)?;
    let shown = activation.emit(g, c)?;
    Ok(vec![g.mul(output, shown)?, c])
}

/// Cells on top of each other. States are those of the first cell, then those of the second, …; in models of TF.js cells
/// come in reverse.
#[derive(Debug)]
pub(super) struct StackedCells {
    cells: Vec<NamedCell>,
    reversed: bool,
}

impl StackedCells {
    pub(super) fn new(c: &Config<'_>) -> Result<StackedCells> {
        c.known(&["activity_regularizer"]);
        let expected = "a list of cells";
        let list = c.get("cells").and_then(Value::as_array).ok_or_else(|| c.wrong("cells", expected))?;
        let cells = list.iter().map(|v| cell(v, c)).collect::<Result<Vec<_>>>()?;
        if cells.is_empty() {
            return Err(c.wrong("cells", expected));
        }
        Ok(StackedCells { cells, reversed: c.dialect == Dialect::Tfjs })
    }

    /// For each cell where its states start.
    fn offsets(&self) -> Vec<usize> {
        let sizes: Vec<usize> = self.cells.iter().map(|c| c.cell.state_sizes().len()).collect();
        let before =
            |i: usize| if self.reversed { sizes[i + 1..].iter().sum() } else { sizes[..i].iter().sum() };
        (0..sizes.len()).map(before).collect()
    }
}

impl Cell for StackedCells {
    fn build(&mut self, scope: &mut Scope<'_>, input: &[Option<usize>]) -> Result<()> {
        let mut input = input.to_vec();
        let mut counts = std::collections::HashMap::new();
        for (i, NamedCell { name, object, trainable, cell }) in self.cells.iter_mut().enumerate() {
            // Keras 3 numbers the members of a list by class.
            let n: &mut usize = counts.entry(object.clone()).or_default();
            let object = if *n == 0 { object.clone() } else { format!("{object}_{n}") };
            *n += 1;
            let tfjs = format!("RNNCell_{i}");
            let place = [&format!("cells/{object}"), name.as_str(), &tfjs];
            scope.enter_held(place, *trainable, |s| cell.build(s, &input))?;
            if let Some(last) = input.last_mut() {
                *last = Some(cell.output_size());
            }
        }
        Ok(())
    }

    fn state_sizes(&self) -> Vec<usize> {
        let mut cells: Vec<_> = self.cells.iter().map(|c| c.cell.state_sizes()).collect();
        if self.reversed {
            cells.reverse();
        }
        cells.concat()
    }

    fn output_state(&self) -> usize {
        let last = self.cells.len() - 1;
        self.offsets()[last] + self.cells[last].cell.output_state()
    }

    fn weights(&self, g: &mut Emit) -> Result<CellWeights> {
        let mut all = CellWeights::default();
        for (i, NamedCell { cell, .. }) in self.cells.iter().enumerate() {
            let weights = cell.weights(g)?;
            if i == 0 {
                all.input = weights.input;
            } else {
                all.step.extend(weights.input);
            }
            all.step.extend(weights.step);
        }
        Ok(all)
    }

    fn weight_counts(&self) -> (usize, usize) {
        let all: usize = self.cells.iter().map(|c| c.cell.weight_counts()).map(|(i, s)| i + s).sum();
        let (input, _) = self.cells[0].cell.weight_counts();
        (input, all - input)
    }

    fn mask_counts(&self) -> (usize, usize) {
        let all: usize = self.cells.iter().map(|c| c.cell.mask_counts()).map(|(i, s)| i + s).sum();
        let (input, _) = self.cells[0].cell.mask_counts();
        (input, all - input)
    }

    fn input_masks(&self, g: &mut Emit, dims: &[Dim]) -> Result<Vec<Port>> {
        self.cells[0].cell.input_masks(g, dims)
    }

    fn step_masks(&self, g: &mut Emit, leading: &[Dim]) -> Result<Vec<Port>> {
        let mut masks = Vec::new();
        let mut below = None;
        for NamedCell { cell, .. } in &self.cells {
            if let Some(size) = below {
                let dims: Vec<Dim> = leading.iter().copied().chain([Dim::Known(size)]).collect();
                masks.extend(cell.input_masks(g, &dims)?);
            }
            masks.extend(cell.step_masks(g, leading)?);
            below = Some(cell.output_size());
        }
        Ok(masks)
    }

    fn project(&self, g: &mut Emit, weights: &[Port], x: Port, leading: usize) -> Result<Port> {
        self.cells[0].cell.project(g, weights, x, leading)
    }

    fn step(&self, g: &mut Emit, weights: &[Port], x: Port, states: &[Port]) -> Result<Vec<Port>> {
        let (mut weights, mut masks) = weights.split_at(self.weight_counts().1);
        let drops = !masks.is_empty();
        let mut new = states.to_vec();
        let mut x = x;
        for (i, (NamedCell { cell, .. }, offset)) in self.cells.iter().zip(self.offsets()).enumerate() {
            let (input, step) = cell.weight_counts();
            let (input_masks, step_masks) = if drops { cell.mask_counts() } else { (0, 0) };
            let mut take = |weight_count: usize, mask_count: usize| {
                let (own, rest) = weights.split_at(weight_count);
                let (own_masks, rest_masks) = masks.split_at(mask_count);
                (weights, masks) = (rest, rest_masks);
                [own, own_masks].concat()
            };
            if i > 0 {
                x = cell.project(g, &take(input, input_masks), x, 1)?;
            }
            let own = take(step, step_masks);
            let range = offset..offset + cell.state_sizes().len();
            let out = cell.step(g, &own, x, &states[range.clone()])?;
            x = out[cell.output_state()];
            new[range].copy_from_slice(&out);
        }
        Ok(new)
    }

    fn has_sequence(&self, dialect: Dialect) -> bool {
        self.cells.iter().all(|c| c.cell.has_sequence(dialect))
    }

    fn sequence(&self, g: &mut Emit, x: Port, over: &Over<'_>) -> Result<Outcome> {
        let offsets = self.offsets();
        sequence::stacked(g, x, over, self.cells.iter().map(|c| c.cell.as_ref()).zip(offsets))
    }

    fn layout(&self) -> (usize, bool) {
        self.cells[0].cell.layout()
    }
}

/// States of zeros. `leading` are all dimensions but the last.
pub(super) fn zero_states(g: &mut Emit, cell: &dyn Cell, leading: &[Dim]) -> Result<Vec<Port>> {
    let mut made: Vec<(usize, Port)> = Vec::new();
    let mut states = Vec::new();
    for size in cell.state_sizes() {
        let zeros = match made.iter().find(|(s, _)| *s == size) {
            Some((_, port)) => *port,
            None => {
                let dims: Vec<Dim> = leading.iter().copied().chain([Dim::Known(size)]).collect();
                g.zeros(&dims)?
            }
        };
        made.push((size, zeros));
        states.push(zeros);
    }
    Ok(states)
}
