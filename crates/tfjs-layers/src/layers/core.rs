//! Dense, Activation, Embedding, Flatten, Reshape, dropout and other layers of Keras's "core".

use tfjs_graph::{Fact, builder::attr};

use crate::{
    Activation, Call, Config, Emit, Initializer, Layer, LayerDef, LayersError, Scope, Sym, WeightId,
    emit::Dim,
};

type Result<T> = std::result::Result<T, LayersError>;

pub(super) const LAYERS: &[LayerDef] = &[
    LayerDef::new("InputLayer", |c| {
        c.known(&["sparse", "ragged", "optional", "batch_size"]);
        identity("InputLayer", c)
    }),
    LayerDef::new("Dense", |c| {
        c.known(&["input_dim", "kernel_quantizer", "lora_rank"]);
        Ok(Box::new(Dense {
            units: c.usize("units")?,
            activation: c.activation("activation", "linear")?,
            use_bias: c.bool_or("use_bias", true)?,
            kernel_initializer: c.initializer("kernel", "glorot_uniform")?,
            bias_initializer: c.initializer("bias", "zeros")?,
            weights: None,
        }))
    }),
    LayerDef::new("Activation", |c| Ok(Box::new(ActivationLayer(c.activation("activation", "linear")?)))),
    LayerDef::new("Dropout", |c| {
        c.known(&["rate", "noise_shape", "seed"]);
        identity("Dropout", c)
    }),
    LayerDef::new("Flatten", |c| Ok(Box::new(Flatten { channels_last: c.channels_last()? }))),
];

fn identity(_class: &'static str, c: &Config<'_>) -> Result<Box<dyn Layer>> {
    c.known(&["activity_regularizer"]);
    Ok(Box::new(Identity))
}

/// Hands its inputs on, masks too: what does nothing at inference.
#[derive(Debug)]
pub(super) struct Identity;

impl Layer for Identity {
    fn call(&self, _g: &mut Emit, call: &Call) -> Result<Vec<Sym>> {
        Ok((0..call.inputs.len()).map(|i| Sym::masked(call.inputs[i].port, call.mask(i))).collect())
    }
}

/// `activation(x · kernel + bias)` along the last axis.
///
/// kernel: `[in, units]`, bias: `[units]`.
#[derive(Debug)]
struct Dense {
    units: usize,
    activation: Activation,
    use_bias: bool,
    kernel_initializer: Initializer,
    bias_initializer: Initializer,
    weights: Option<(WeightId, Option<WeightId>)>,
}

impl Layer for Dense {
    fn build(&mut self, scope: &mut Scope<'_>, inputs: &[Fact]) -> Result<()> {
        let width = last_dim(inputs)?;
        let kernel = scope.weight("kernel", &[width, self.units], self.kernel_initializer.clone());
        let bias = self.use_bias.then(|| scope.weight("bias", &[self.units], self.bias_initializer.clone()));
        self.weights = Some((kernel, bias));
        Ok(())
    }

    fn call(&self, g: &mut Emit, call: &Call) -> Result<Vec<Sym>> {
        let x = call.one()?.port;
        let (kernel, bias) = built(self.weights)?;
        let kernel = g.weight(kernel);
        let mut y = g.matmul(x, kernel)?;
        if let Some(bias) = bias {
            let bias = g.weight(bias);
            y = g.bias_add(y, bias)?;
        }
        let y = self.activation.emit(g, y)?;
        Ok(vec![Sym::masked(y, call.mask(0))])
    }
}

#[derive(Debug)]
struct ActivationLayer(Activation);

impl Layer for ActivationLayer {
    fn call(&self, g: &mut Emit, call: &Call) -> Result<Vec<Sym>> {
        let y = self.0.emit(g, call.one()?.port)?;
        Ok(vec![Sym::masked(y, call.mask(0))])
    }
}

/// All axes but the first as one.
#[derive(Debug)]
struct Flatten {
    channels_last: bool,
}

impl Layer for Flatten {
    fn call(&self, g: &mut Emit, call: &Call) -> Result<Vec<Sym>> {
        let mut x = call.one()?.port;
        let rank = g.rank(x)?;
        if !self.channels_last && rank > 2 {
            let order: Vec<usize> = [0].into_iter().chain(2..rank).chain([1]).collect();
            x = g.transpose(x, &order)?;
        }
        let dims = g.dims(x)?;
        let size = dims.iter().skip(1).try_fold(1usize, |n, d| match d {
            Dim::Known(k) => n.checked_mul(*k),
            Dim::Of(..) => None,
        });
        let y = match (size, dims.first()) {
            (Some(size), Some(&batch)) => g.reshape(x, &[batch, Dim::Known(size)])?,
            _ => {
                let batch = dims.first().copied().unwrap_or(Dim::Known(1));
                let batch = g.dim_value(batch)?;
                let rest = g.int(-1);
                let shape = g.op("Pack", &[batch, rest], &[("axis", attr::int(0))])?;
                let y = g.op("Reshape", &[x, shape], &[])?;
                g.set_shape(y, &[None, None]);
                y
            }
        };
        Ok(vec![y.into()])
    }
}

/// The last dimension of the first input.
///
/// # Errors
/// When it is not known.
pub(super) fn last_dim(inputs: &[Fact]) -> Result<usize> {
    let shape = inputs.first().and_then(|f| f.shape.as_ref());
    shape.and_then(|s| s.last().copied().flatten()).ok_or_else(|| {
        let got = inputs.first().map_or("nothing".to_owned(), ToString::to_string);
        LayersError::Inputs(format!("the last dimension of the input must be known, it is {got}"))
    })
}

/// What a layer knows only once it is built.
///
/// # Errors
/// When it is called before.
pub(super) fn built<T>(value: Option<T>) -> Result<T> {
    value.ok_or_else(|| LayersError::Inputs("the layer is called before it is built".to_owned()))
}
