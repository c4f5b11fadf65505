//! Dense, Masking, and layers that only arrange what they are given: Flatten, Reshape, Permute, RepeatVector.

use tfjs_graph::{Fact, Port, builder::attr};
use tfjs_kernels::{DType, Tensor};

use super::quantized;
use crate::{
    Activation, Call, Config, Dialect, Emit, Initializer, Layer, LayerDef, LayersError, Scope, Sym, WeightId,
    WeightInit, emit::Dim,
};

type Result<T> = std::result::Result<T, LayersError>;

pub(super) const LAYERS: &[LayerDef] = &[
    LayerDef::new("InputLayer", |c| identity(c, &["sparse", "ragged", "optional", "batch_size"])),
    LayerDef::new("Identity", |c| match c.dialect {
        Dialect::Keras3 => identity(c, &[]),
        _ => Ok(Box::new(Unmasked)),
    }),
    LayerDef::new("Dense", |c| {
        c.known(&["input_dim", "kernel_quantizer", "bias_quantizer"]);
        Ok(Box::new(Dense {
            units: c.usize("units")?,
            activation: c.activation("activation", "linear")?,
            bias_initializer: c
                .bool_or("use_bias", true)?
                .then(|| c.initializer("bias", "zeros"))
                .transpose()?,
            kernel: Kernel::new(c, "kernel", "glorot_uniform")?,
            weights: None,
        }))
    }),
    LayerDef::new("Masking", |c| Ok(Box::new(Masking { value: c.f64_or("mask_value", 0.0)? }))),
    LayerDef::new("Flatten", |c| Ok(Box::new(Flatten { channels_last: c.channels_last()? }))),
    LayerDef::new("Reshape", |c| Ok(Box::new(Reshape { target: target_shape(c)? }))),
    LayerDef::new("Permute", |c| {
        let dims = c.opt_ints("dims")?.ok_or_else(|| c.wrong("dims", "the axes in their new order"))?;
        let order = std::iter::once(Ok(0)).chain(dims.into_iter().map(usize::try_from));
        let order = order.collect::<std::result::Result<_, _>>();
        Ok(Box::new(Permute { order: order.map_err(|_| c.wrong("dims", "the axes, counted from 1"))? }))
    }),
    LayerDef::new("RepeatVector", |c| {
        c.known(&["input_dim", "input_length"]);
        let count = i32::try_from(c.usize("n")?).map_err(|_| c.wrong("n", "a size"))?;
        Ok(Box::new(RepeatVector { count }))
    }),
];

fn identity(c: &Config<'_>, keys: &[&str]) -> Result<Box<dyn Layer>> {
    c.known(keys);
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

/// The `Identity` of Keras 2, which drops masks.
#[derive(Debug)]
struct Unmasked;

impl Layer for Unmasked {
    fn call(&self, _g: &mut Emit, call: &Call) -> Result<Vec<Sym>> {
        Ok(call.inputs.iter().map(|s| s.port.into()).collect())
    }
}

/// A matrix of weights in any form that Keras 3 gives it: plain, quantized, or fine-tuned by one of low rank.
///
/// kernel: any shape; quantized also kernel_scale; fine-tuned also `lora_kernel_a` and `lora_kernel_b`, whose product is
/// added.
#[derive(Debug)]
pub(super) struct Kernel {
    name: &'static str,
    pub(super) init: WeightInit,
    pub(super) int8: bool,
    /// Rank, and the factor of the product.
    lora: Option<(usize, f32)>,
}

/// The weights of a [`Kernel`].
#[derive(Clone, Copy, Debug)]
pub(super) struct KernelIds {
    kernel: WeightId,
    lora: Option<(WeightId, WeightId, f32)>,
}

impl Kernel {
    pub(super) fn new(c: &Config<'_>, name: &'static str, default: &str) -> Result<Kernel> {
        let rank = c.opt_usize("lora_rank")?.filter(|&r| r > 0);
        let alpha = c.opt_f64("lora_alpha")?;
        let lora = rank.map(|r| (r, (alpha.unwrap_or(r as f64) / r as f64) as f32));
        Ok(Kernel { name, init: c.initializer(name, default)?, int8: c.int8()?, lora })
    }

    pub(super) fn declare(&self, scope: &mut Scope<'_>, shape: &[usize]) -> KernelIds {
        let (name, init) = (self.name, self.init.clone());
        let kernel = if self.int8 {
            scope.declare(name, shape, DType::Int32, init, false)
        } else if self.lora.is_some() {
            scope.state(name, shape, init)
        } else {
            scope.weight(name, shape, init)
        };
        KernelIds { kernel, lora: None }
    }

    /// Weights of fine-tuning come after all others.
    pub(super) fn declare_lora(&self, scope: &mut Scope<'_>, shape: &[usize], ids: &mut KernelIds) {
        let (Some((rank, factor)), Some((&columns, rows))) = (self.lora, shape.split_last()) else { return };
        let a_shape: Vec<usize> = rows.iter().copied().chain([rank]).collect();
        let a = scope.weight(&format!("lora_{}_a", self.name), &a_shape, Initializer::named("he_uniform"));
        let b = scope.weight(&format!("lora_{}_b", self.name), &[rank, columns], Initializer::zeros());
        ids.lora = Some((a, b, factor));
    }

    /// The matrix; int32 when it is quantized.
    pub(super) fn emit(&self, g: &mut Emit, ids: KernelIds) -> Result<Port> {
        let kernel = g.weight(ids.kernel);
        match ids.lora {
            Some((a, b, factor)) if g.has_value(a) && g.has_value(b) => {
                let (a, b) = (g.weight(a), g.weight(b));
                let product = g.matmul(a, b)?;
                let product = g.scale(product, factor)?;
                g.add(kernel, product)
            }
            _ => Ok(kernel),
        }
    }
}

/// `activation(x · kernel + bias)` along the last axis.
///
/// kernel: `[in, units]`, bias: `[units]`; quantized also kernel_scale: `[units]`.
#[derive(Debug)]
struct Dense {
    units: usize,
    activation: Activation,
    kernel: Kernel,
    bias_initializer: Option<WeightInit>,
    weights: Option<(KernelIds, Option<WeightId>, Option<WeightId>)>,
}

impl Layer for Dense {
    fn build(&mut self, scope: &mut Scope<'_>, inputs: &[Fact]) -> Result<()> {
        let shape = [last_dim(inputs)?, self.units];
        let mut kernel = self.kernel.declare(scope, &shape);
        let bias = self.bias_initializer.clone().map(|i| scope.weight("bias", &[self.units], i));
        let scale = self.kernel.int8.then(|| scope.state("kernel_scale", &[self.units], Initializer::ones()));
        self.kernel.declare_lora(scope, &shape, &mut kernel);
        self.weights = Some((kernel, bias, scale));
        Ok(())
    }

    fn call(&self, g: &mut Emit, call: &Call) -> Result<Vec<Sym>> {
        let x = call.one()?.port;
        let (kernel, bias, scale) = built(self.weights)?;
        let kernel = self.kernel.emit(g, kernel)?;
        let mut y = match scale {
            Some(scale) => {
                let scale = g.weight(scale);
                quantized::matmul(g, x, kernel, scale)?
            }
            None => {
                let x = g.cast(x, DType::Float32)?;
                g.matmul(x, kernel)?
            }
        };
        if let Some(bias) = bias {
            let bias = g.weight(bias);
            y = g.bias_add(y, bias)?;
        }
        let y = self.activation.emit(g, y)?;
        Ok(vec![Sym::masked(y, call.mask(0))])
    }
}

/// Marks steps whose values all equal `value` as absent, and zeroes them.
#[derive(Debug)]
struct Masking {
    value: f64,
}

impl Layer for Masking {
    fn call(&self, g: &mut Emit, call: &Call) -> Result<Vec<Sym>> {
        let x = call.one()?.port;
        let last = g.axis(x, -1)?;
        let value = constant(g, self.value, g.dtype(x));
        let differs = g.op("NotEqual", &[x, value], &[])?;
        let kept = g.reduce("Any", differs, &[last], true)?;
        let y = if g.dialect == Dialect::Keras3 {
            let zero = constant(g, 0.0, g.dtype(x));
            g.select(kept, x, zero)?
        } else {
            let kept = g.cast(kept, g.dtype(x))?;
            g.mul(x, kept)?
        };
        let mask = g.squeeze(kept, &[last])?;
        Ok(vec![Sym::masked(y, Some(mask))])
    }
}

/// A scalar of a type of numbers.
pub(crate) fn constant(g: &mut Emit, value: f64, dtype: DType) -> Port {
    match dtype {
        DType::Int32 => g.int(value as i32),
        DType::Bool => g.constant(Tensor::scalar(value != 0.0)),
        _ => g.scalar(value as f32),
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
        Ok(vec![reshape_batch(g, x, &[None])?.into()])
    }
}

fn target_shape(c: &Config<'_>) -> Result<Vec<Option<usize>>> {
    let wrong = || c.wrong("target_shape", "sizes, one of which may be -1");
    let list = match c.get("target_shape") {
        Some(serde_json::Value::Array(items)) => items.clone(),
        Some(other) => vec![other.clone()],
        None => return Err(wrong()),
    };
    let size = |v: &serde_json::Value| match v {
        serde_json::Value::Null => Ok(None),
        v => match v.as_i64() {
            Some(-1) => Ok(None),
            Some(n) => usize::try_from(n).map(Some).map_err(|_| wrong()),
            None => Err(wrong()),
        },
    };
    let target: Vec<Option<usize>> = list.iter().map(size).collect::<Result<_>>()?;
    if target.iter().filter(|d| d.is_none()).count() > 1 {
        return Err(wrong());
    }
    Ok(target)
}

/// Another shape behind the batch axis; one size may be left to follow from the others.
#[derive(Debug)]
struct Reshape {
    target: Vec<Option<usize>>,
}

impl Layer for Reshape {
    fn call(&self, g: &mut Emit, call: &Call) -> Result<Vec<Sym>> {
        Ok(vec![reshape_batch(g, call.one()?.port, &self.target)?.into()])
    }
}

/// Reshapes all axes but the first. One size of `target` may be open.
///
/// # Errors
/// When the numbers of elements are known to differ.
pub(crate) fn reshape_batch(g: &mut Emit, x: Port, target: &[Option<usize>]) -> Result<Port> {
    let dims = g.dims(x)?;
    let elements = dims.iter().skip(1).try_fold(1usize, |n, d| match d {
        Dim::Known(k) => n.checked_mul(*k),
        Dim::Of(..) => None,
    });
    let given = target.iter().flatten().try_fold(1usize, |n, &d| n.checked_mul(d));
    let open = match (elements, given) {
        (Some(e), Some(g)) if g > 0 && e % g == 0 => Some(e / g),
        _ => None,
    };
    let resolved: Option<Vec<usize>> = target.iter().map(|d| d.or(open)).collect();
    let batch = dims.first().copied().unwrap_or(Dim::Known(1));
    if let Some(resolved) = resolved {
        let all: Vec<Dim> = std::iter::once(batch).chain(resolved.into_iter().map(Dim::Known)).collect();
        return g.reshape(x, &all);
    }
    let mut parts = vec![g.dim_value(batch)?];
    parts.extend(target.iter().map(|d| g.int(d.map_or(-1, |n| n as i32))));
    let shape = g.op("Pack", &parts, &[("axis", attr::int(0))])?;
    let y = g.op("Reshape", &[x, shape], &[])?;
    let first = match batch {
        Dim::Known(n) => Some(n),
        Dim::Of(..) => None,
    };
    let known: Vec<Option<usize>> = std::iter::once(first).chain(target.iter().copied()).collect();
    g.set_shape(y, &known);
    Ok(y)
}

/// Axes in another order.
#[derive(Debug)]
struct Permute {
    order: Vec<usize>,
}

impl Layer for Permute {
    fn call(&self, g: &mut Emit, call: &Call) -> Result<Vec<Sym>> {
        let x = call.one()?.port;
        let rank = g.rank(x)?;
        if (0..rank).any(|axis| !self.order.contains(&axis)) || self.order.len() != rank {
            return Err(LayersError::Inputs(format!("`dims` is no order of the axes of {}", g.fact(x))));
        }
        Ok(vec![g.transpose(x, &self.order)?.into()])
    }
}

/// `[batch, n]` repeated along a new axis 1.
#[derive(Debug)]
struct RepeatVector {
    count: i32,
}

impl Layer for RepeatVector {
    fn call(&self, g: &mut Emit, call: &Call) -> Result<Vec<Sym>> {
        let x = g.expand_dims(call.one()?.port, 1)?;
        let times = g.ints(&[1, self.count, 1]);
        Ok(vec![g.op("Tile", &[x, times], &[])?.into()])
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
pub(crate) fn built<T>(value: Option<T>) -> Result<T> {
    value.ok_or_else(|| LayersError::Inputs("the layer is called before it is built".to_owned()))
}
