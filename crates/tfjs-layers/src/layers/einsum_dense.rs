//! EinsumDense: a dense layer whose contraction is an equation.

use serde_json::Value;
use tfjs_graph::{Fact, Port};
use tfjs_kernels::DType;

use super::core::{Kernel, KernelIds, built};
use super::quantized;
use crate::{
    Activation, Call, Config, Dialect, Emit, Initializer, Layer, LayerDef, LayersError, Scope, Sym, WeightId,
    WeightInit, einsum::einsum,
};

type Result<T> = std::result::Result<T, LayersError>;

pub(super) const LAYERS: &[LayerDef] =
    &[LayerDef::new("EinsumDense", |c| Ok(Box::new(EinsumDense::new(c)?)))];

/// `activation(einsum(equation, x, kernel) + bias)`.
///
/// kernel: dimensions of its labels in the equation; bias: those of `bias_axes`, 1 for other axes of the output behind the
/// first of them.
#[derive(Debug)]
pub(super) struct EinsumDense {
    equation: String,
    /// Of the output without the batch; `None` where it follows from the input.
    output_shape: Vec<Option<usize>>,
    bias_axes: Option<String>,
    activation: Activation,
    kernel: Kernel,
    bias_initializer: WeightInit,
    weights: Option<Weights>,
}

#[derive(Clone, Debug)]
struct Weights {
    kernel: KernelIds,
    bias: Option<WeightId>,
    scale: Option<WeightId>,
}

/// Labels of an equation in one of the three forms that Keras takes.
#[derive(Clone, Debug)]
struct Labels {
    input: Vec<char>,
    kernel: Vec<char>,
    output: Vec<char>,
    /// Whether an ellipsis stands before the labels, or behind.
    left: bool,
}

impl EinsumDense {
    fn new(c: &Config<'_>) -> Result<EinsumDense> {
        let equation = c.opt_str("equation")?.ok_or_else(|| c.wrong("equation", "an equation"))?;
        let dims = match c.get("output_shape") {
            Some(Value::Array(dims)) => dims.clone(),
            Some(one) => vec![one.clone()],
            None => Vec::new(),
        };
        Ok(EinsumDense {
            equation: equation.to_owned(),
            output_shape: dims.iter().map(|d| d.as_u64().and_then(|n| usize::try_from(n).ok())).collect(),
            bias_axes: c.opt_str("bias_axes")?.map(str::to_owned),
            activation: c.activation("activation", "linear")?,
            kernel: Kernel::new(c, "kernel", "glorot_uniform")?,
            bias_initializer: c.initializer("bias", "zeros")?,
            weights: None,
        })
    }

    fn labels(&self) -> Result<Labels> {
        let wrong = || LayersError::Config {
            key: "equation".to_owned(),
            value: self.equation.clone(),
            expected: "an equation such as `ab,bc->ac`, `...b,bc->...c` or `ab...,bc->ac...`".to_owned(),
        };
        let compact: String = self.equation.chars().filter(|c| !c.is_whitespace()).collect();
        let (inputs, output) = compact.split_once("->").ok_or_else(wrong)?;
        let (input, kernel) = inputs.split_once(',').ok_or_else(wrong)?;
        let left = input.starts_with("...");
        let plain = |s: &str| -> Result<Vec<char>> {
            let s = s.strip_prefix("...").or_else(|| s.strip_suffix("...")).unwrap_or(s);
            if s.is_empty() || !s.chars().all(char::is_alphabetic) {
                Err(wrong())
            } else {
                Ok(s.chars().collect())
            }
        };
        if input.contains("...") != output.contains("...") || left != output.starts_with("...") {
            return Err(wrong());
        }
        Ok(Labels { input: plain(input)?, kernel: plain(kernel)?, output: plain(output)?, left })
    }

    /// Shapes of kernel and bias.
    fn shapes(&self, labels: &Labels, input: &[Option<usize>]) -> Result<(Vec<usize>, Option<Vec<usize>>)> {
        let unfit =
            || LayersError::Inputs(format!("equation `{}` does not fit the input {input:?}", self.equation));
        let hidden = input.len().checked_sub(labels.input.len()).ok_or_else(unfit)?;
        let before = if labels.left { hidden } else { 0 };
        let mut output = vec![input.first().copied().flatten()];
        if labels.left && hidden > 0 {
            output.extend_from_slice(&input[1..hidden]);
        }
        output.extend_from_slice(&self.output_shape);
        let of_input =
            |l: char| Some(input.get(labels.input.iter().position(|&x| x == l)? + before).copied().flatten());
        let of_output = |l: char| {
            Some(output.get(labels.output.iter().position(|&x| x == l)? + before).copied().flatten())
        };
        let size = |l: &char| {
            of_input(*l).flatten().or_else(|| of_output(*l).flatten()).ok_or_else(|| {
                LayersError::Inputs(format!(
                    "dimension `{l}` of `{}` must be known, the input is {input:?}",
                    self.equation
                ))
            })
        };
        let kernel = labels.kernel.iter().map(size).collect::<Result<Vec<_>>>()?;
        let Some(axes) = &self.bias_axes else { return Ok((kernel, None)) };
        let first = labels.output.iter().position(|&l| axes.contains(l)).ok_or_else(unfit)?;
        let sizes = labels.output[first..].iter().map(|l| if axes.contains(*l) { size(l) } else { Ok(1) });
        let mut bias = sizes.collect::<Result<Vec<_>>>()?;
        if !labels.left {
            bias.extend(std::iter::repeat_n(1, hidden));
        }
        Ok((kernel, Some(bias)))
    }

    /// The contraction in steps of int8: scales of both sides divide the result, laid out as the output.
    fn quantized(&self, g: &mut Emit, x: Port, kernel: Port, scale: Port) -> Result<Port> {
        let labels = self.labels()?;
        let rank = g.rank(x)?;
        let hidden = rank.saturating_sub(labels.input.len());
        let at = |i: usize| if labels.left { i + hidden } else { i };
        let inner: Vec<usize> =
            (0..labels.input.len()).filter(|&i| !labels.output.contains(&labels.input[i])).map(at).collect();
        let (steps, mut per_unit) = quantized::quantize(g, x, &inner, false)?;
        let kernel = g.cast(kernel, DType::Float32)?;
        let y = einsum(g, &self.equation, &[steps, kernel])?;
        // Bring the input's scale into the order of the output's axes, with size 1 where only the kernel has one.
        let free: Vec<char> = labels.input.iter().copied().filter(|l| labels.output.contains(l)).collect();
        let wanted: Vec<char> = labels.output.iter().copied().filter(|l| free.contains(l)).collect();
        let offset = if labels.left { hidden } else { 0 };
        let place = |l: &char| free.iter().position(|f| f == l).unwrap_or_default() + offset;
        let order: Vec<usize> = (0..offset)
            .chain(wanted.iter().map(place))
            .chain(offset + free.len()..offset + free.len() + hidden - offset)
            .collect();
        per_unit = g.transpose(per_unit, &order)?;
        for (i, l) in labels.output.iter().enumerate() {
            if !free.contains(l) {
                per_unit = g.expand_dims(per_unit, i + offset)?;
            }
        }
        let scale = g.mul(per_unit, scale)?;
        g.div(y, scale)
    }
}

impl Layer for EinsumDense {
    fn build(&mut self, scope: &mut Scope<'_>, inputs: &[Fact]) -> Result<()> {
        let labels = self.labels()?;
        let input = inputs.first().and_then(|f| f.shape.clone()).unwrap_or_default();
        let (kernel_shape, bias_shape) = self.shapes(&labels, &input)?;
        if scope.dialect == Dialect::Keras3 {
            // Fans follow from the labels, not from the order of the axes.
            let axes = |keep: bool| -> Value {
                let is_inner = |l: &char| labels.input.contains(l) && !labels.output.contains(l);
                let chosen = labels.kernel.iter().enumerate().filter(|(_, l)| is_inner(l) == keep);
                chosen.map(|(i, _)| Value::from(i)).collect()
            };
            let config = &mut self.kernel.init.initializer.config;
            if config.get("input_axes").is_none_or(Value::is_null) {
                config.insert("input_axes".to_owned(), axes(true));
                config.insert("output_axes".to_owned(), axes(false));
            }
        }
        let mut kernel = self.kernel.declare(scope, &kernel_shape);
        let bias = bias_shape.map(|shape| scope.weight("bias", &shape, self.bias_initializer.clone()));
        let scale = self.kernel.int8.then(|| {
            let of_kernel =
                |l: &char| labels.kernel.iter().position(|k| k == l).map_or(1, |i| kernel_shape[i]);
            let hidden = input.len().saturating_sub(labels.input.len());
            let ones = std::iter::repeat_n(1, hidden);
            let own = labels.output.iter().map(of_kernel);
            let shape: Vec<usize> =
                if labels.left { ones.chain(own).collect() } else { own.chain(ones).collect() };
            scope.state("kernel_scale", &shape, Initializer::ones())
        });
        self.kernel.declare_lora(scope, &kernel_shape, &mut kernel);
        self.weights = Some(Weights { kernel, bias, scale });
        Ok(())
    }

    fn call(&self, g: &mut Emit, call: &Call) -> Result<Vec<Sym>> {
        let x = call.one()?.port;
        let weights = built(self.weights.clone())?;
        let kernel = self.kernel.emit(g, weights.kernel)?;
        let mut y = match weights.scale {
            Some(scale) => {
                let scale = g.weight(scale);
                self.quantized(g, x, kernel, scale)?
            }
            None => einsum(g, &self.equation, &[x, kernel])?,
        };
        if let Some(bias) = weights.bias {
            let bias = g.weight(bias);
            y = g.add(y, bias)?;
        }
        Ok(vec![self.activation.emit(g, y)?.into()])
    }
}
