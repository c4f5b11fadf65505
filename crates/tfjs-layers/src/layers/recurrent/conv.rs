//! Cells whose gates are convolutions.

use tfjs_graph::{Port, builder::attr};

use super::cell::{Cell, CellWeights, Drops, bias_initializer, lstm_gates, masked};
use crate::{
    Activation, Config, Dialect, Emit, LayersError, Scope, WeightId, WeightInit, emit::Dim,
    layers::core::built,
};

type Result<T> = std::result::Result<T, LayersError>;

/// LSTM with convolutions in place of matrix products:
/// i, f, c̃, o = x ∗ K + b + h ∗ R, the rest as an LSTM.
///
/// kernel K: `[size…, in, 4·filters]`, recurrent kernel R: `[size…, filters, 4·filters]`, bias b: `[4·filters]`. `x ∗ K`
/// has the layer's strides, padding and dilation; `h ∗ R` keeps the size.
#[derive(Debug)]
pub(super) struct ConvLstmCell {
    rank: usize,
    filters: usize,
    kernel_size: Vec<usize>,
    strides: Vec<usize>,
    dilations: Vec<usize>,
    same: bool,
    channels_last: bool,
    activation: Activation,
    recurrent_activation: Activation,
    use_bias: bool,
    kernel_initializer: WeightInit,
    recurrent_initializer: WeightInit,
    bias_initializer: WeightInit,
    drops: Drops,
    weights: Option<(WeightId, WeightId, Option<WeightId>)>,
}

impl ConvLstmCell {
    pub(super) fn new(c: &Config<'_>, rank: usize) -> Result<ConvLstmCell> {
        c.known(&["activity_regularizer", "implementation"]);
        let gate = if c.dialect == Dialect::Keras3 { "sigmoid" } else { "hard_sigmoid" };
        let kernel = if c.dialect == Dialect::Tfjs { "glorot_normal" } else { "glorot_uniform" };
        Ok(ConvLstmCell {
            rank,
            filters: c.usize("filters")?,
            kernel_size: c.sizes("kernel_size", rank)?,
            strides: c.sizes_or("strides", rank, 1)?,
            dilations: c.sizes_or("dilation_rate", rank, 1)?,
            same: c.one_of("padding", &["valid", "same"], "valid")? == "same",
            channels_last: c.channels_last()?,
            activation: c.activation("activation", "tanh")?,
            recurrent_activation: c.activation("recurrent_activation", gate)?,
            use_bias: c.bool_or("use_bias", true)?,
            bias_initializer: bias_initializer(c, true)?,
            kernel_initializer: c.initializer("kernel", kernel)?,
            recurrent_initializer: c.initializer("recurrent", "orthogonal")?,
            drops: Drops::new(c, 4, true)?,
            weights: None,
        })
    }

    /// Convolution along the axes of the cell, channels last. One axis is a picture of height 1.
    fn conv(
        &self,
        g: &mut Emit,
        x: Port,
        kernel: Port,
        strides: &[usize],
        dilations: &[usize],
        same: bool,
    ) -> Result<Port> {
        let (mut x, mut kernel) = (x, kernel);
        if self.rank == 1 {
            x = g.expand_dims(x, 1)?;
            kernel = g.expand_dims(kernel, 0)?;
        }
        let spread = |sizes: &[usize]| {
            let lone: &[usize] = if self.rank == 1 { &[1] } else { &[] };
            attr::ints([1].iter().chain(lone).chain(sizes).chain(&[1]).map(|&n| n as i64))
        };
        let (op, format) = if self.rank == 3 { ("Conv3D", "NDHWC") } else { ("Conv2D", "NHWC") };
        let attrs = [
            ("strides", spread(strides)),
            ("padding", attr::text(if same { "SAME" } else { "VALID" })),
            ("dilations", spread(dilations)),
            ("data_format", attr::text(format)),
        ];
        let y = g.op(op, &[x, kernel], &attrs)?;
        if self.rank == 1 { g.squeeze(y, &[1]) } else { Ok(y) }
    }
}

impl Cell for ConvLstmCell {
    fn build(&mut self, scope: &mut Scope<'_>, input: &[Option<usize>]) -> Result<()> {
        let channels = match input.last() {
            Some(Some(channels)) if input.len() == self.rank + 2 => *channels,
            _ => {
                let problem = format!(
                    "steps with {} spatial axes and a known number of channels are needed, they are {input:?}",
                    self.rank
                );
                return Err(LayersError::Inputs(problem));
            }
        };
        let size = self
            .filters
            .checked_mul(4)
            .ok_or_else(|| LayersError::Inputs(format!("{} filters are too many", self.filters)))?;
        let shape = |channels: usize| [&self.kernel_size[..], &[channels, size]].concat();
        let kernel = scope.weight("kernel", &shape(channels), self.kernel_initializer.clone());
        let recurrent =
            scope.weight("recurrent_kernel", &shape(self.filters), self.recurrent_initializer.clone());
        let bias = self.use_bias.then(|| scope.weight("bias", &[size], self.bias_initializer.clone()));
        self.weights = Some((kernel, recurrent, bias));
        Ok(())
    }

    fn state_sizes(&self) -> Vec<usize> {
        vec![self.filters; 2]
    }

    fn weights(&self, g: &mut Emit) -> Result<CellWeights> {
        let (kernel, recurrent, bias) = built(self.weights)?;
        let mut input = vec![g.weight(kernel)];
        input.extend(bias.map(|b| g.weight(b)));
        Ok(CellWeights { input, step: vec![g.weight(recurrent)] })
    }

    fn weight_counts(&self) -> (usize, usize) {
        (1 + usize::from(self.use_bias), 1)
    }

    fn mask_counts(&self) -> (usize, usize) {
        self.drops.counts()
    }

    fn input_masks(&self, g: &mut Emit, dims: &[Dim]) -> Result<Vec<Port>> {
        self.drops.input_masks(g, dims)
    }

    fn step_masks(&self, g: &mut Emit, leading: &[Dim]) -> Result<Vec<Port>> {
        self.drops.step_masks(g, leading, self.filters)
    }

    fn project(&self, g: &mut Emit, weights: &[Port], x: Port, leading: usize) -> Result<Port> {
        let (weights, masks) = weights.split_at(self.weight_counts().0);
        let dims = g.dims(x)?;
        let (outer, _) = dims.split_at(leading.min(dims.len()));
        let mut y = masked(g, x, weights[0], masks, |g, x, kernel| {
            let flat = g.join_leading(x, leading)?;
            self.conv(g, flat, kernel, &self.strides, &self.dilations, self.same)
        })?;
        if let Some(&bias) = weights.get(1) {
            y = g.add(y, bias)?;
        }
        g.split_leading(y, outer)
    }

    fn step(&self, g: &mut Emit, weights: &[Port], x: Port, states: &[Port]) -> Result<Vec<Port>> {
        let ones = vec![1; self.rank];
        let (weights, masks) = weights.split_at(self.weight_counts().1);
        let r = masked(g, states[0], weights[0], masks, |g, h, kernel| {
            self.conv(g, h, kernel, &ones, &ones, true)
        })?;
        let z = g.add(x, r)?;
        lstm_gates(g, z, states[1], &self.activation, &self.recurrent_activation)
    }

    fn layout(&self) -> (usize, bool) {
        (self.rank, self.channels_last)
    }
}
