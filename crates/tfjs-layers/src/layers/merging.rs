//! Layers that join their inputs: Add, Multiply, Concatenate, Dot and others.

use tfjs_graph::Port;
use tfjs_kernels::{DType, Tensor};

use super::core::constant;
use crate::{Call, Config, Dialect, Emit, Layer, LayerDef, LayersError, Sym, einsum::einsum};

type Result<T> = std::result::Result<T, LayersError>;

pub(super) const LAYERS: &[LayerDef] = &[
    LayerDef::new("Add", |_| merge(Kind::Add)),
    LayerDef::new("Subtract", |_| merge(Kind::Subtract)),
    LayerDef::new("Multiply", |_| merge(Kind::Multiply)),
    LayerDef::new("Average", |_| merge(Kind::Average)),
    LayerDef::new("Maximum", |_| merge(Kind::Maximum)),
    LayerDef::new("Minimum", |_| merge(Kind::Minimum)),
    LayerDef::new("Concatenate", |c| Ok(Box::new(Concatenate { axis: c.int_or("axis", -1)? }))),
    LayerDef::new("Dot", |c| Ok(Box::new(Dot::new(c)?))),
];

fn merge(kind: Kind) -> Result<Box<dyn Layer>> {
    Ok(Box::new(Merge(kind)))
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Add,
    Subtract,
    Multiply,
    Average,
    Maximum,
    Minimum,
}

impl Kind {
    fn op(self) -> &'static str {
        match self {
            Kind::Add | Kind::Average => "AddV2",
            Kind::Subtract => "Sub",
            Kind::Multiply => "Mul",
            Kind::Maximum => "Maximum",
            Kind::Minimum => "Minimum",
        }
    }
}

/// Inputs joined element by element; those of smaller rank get axes behind the batch.
#[derive(Debug)]
struct Merge(Kind);

impl Layer for Merge {
    fn call(&self, g: &mut Emit, call: &Call) -> Result<Vec<Sym>> {
        if call.inputs.is_empty() || (self.0 == Kind::Subtract && call.inputs.len() != 2) {
            return Err(LayersError::Inputs(format!("{} inputs cannot be joined", call.inputs.len())));
        }
        let ranks: Vec<usize> = call.inputs.iter().map(|s| g.rank(s.port)).collect::<Result<_>>()?;
        let rank = ranks.iter().copied().max().unwrap_or_default();
        let mut values = Vec::new();
        for (s, own) in call.inputs.iter().zip(&ranks) {
            let mut x = s.port;
            for _ in *own..rank {
                x = g.expand_dims(x, 1)?;
            }
            values.push(x);
        }
        let masks: Vec<Option<Port>> = (0..values.len()).map(|i| call.mask(i)).collect();
        if g.dialect != Dialect::Keras3 {
            // Keras 2: steps count that count in every input that has a mask.
            let y = self.reduce(g, &values)?;
            let mask = combine(g, &masks, "LogicalAnd")?;
            return Ok(vec![Sym::masked(y, mask)]);
        }
        let has_masks = masks.iter().any(Option::is_some);
        match self.0 {
            Kind::Maximum | Kind::Minimum if has_masks => self.masked_extreme(g, &values, &masks),
            Kind::Multiply if has_masks => masked_product(g, &values, &masks),
            _ => {
                // Keras 3: steps count that count in any input, if all have masks.
                let y = self.reduce(g, &values)?;
                let all = masks.iter().all(Option::is_some);
                let mask = if all { combine(g, &masks, "LogicalOr")? } else { None };
                Ok(vec![Sym::masked(y, mask)])
            }
        }
    }
}

impl Merge {
    fn reduce(&self, g: &mut Emit, values: &[Port]) -> Result<Port> {
        let mut rest = values.iter().copied();
        let mut y = rest.next().ok_or_else(|| LayersError::Inputs("there is no input".to_owned()))?;
        for x in rest {
            y = g.op(self.0.op(), &[y, x], &[])?;
        }
        if self.0 != Kind::Average || values.len() == 1 && g.dtype(y) == DType::Float32 {
            return Ok(y);
        }
        let y = g.cast(y, DType::Float32)?;
        let count = g.scalar(values.len() as f32);
        g.div(y, count)
    }

    /// Keras 3: the extreme among the inputs that count at each step.
    fn masked_extreme(&self, g: &mut Emit, values: &[Port], masks: &[Option<Port>]) -> Result<Vec<Sym>> {
        let mut out: Option<(Port, Option<Port>)> = None;
        for (&x, &mask) in values.iter().zip(masks) {
            let mask = mask.map(|m| wide(g, m, x)).transpose()?;
            out = Some(match out {
                None => (x, mask),
                Some((y, y_mask)) => {
                    let x = match mask {
                        Some(mask) => g.select(mask, x, y)?,
                        None => x,
                    };
                    let y = match y_mask {
                        Some(y_mask) => g.select(y_mask, y, x)?,
                        None => y,
                    };
                    let both = match (y_mask, mask) {
                        (Some(a), Some(b)) => Some(g.op("LogicalOr", &[a, b], &[])?),
                        _ => None,
                    };
                    (g.op(self.0.op(), &[y, x], &[])?, both)
                }
            });
        }
        let (y, mask) = out.ok_or_else(|| LayersError::Inputs("there is no input".to_owned()))?;
        let mask = mask.map(|m| narrow(g, m)).transpose()?;
        Ok(vec![Sym::masked(y, mask)])
    }
}

/// Keras 3: the product of the inputs that count at each step; 0 where none does.
fn masked_product(g: &mut Emit, values: &[Port], masks: &[Option<Port>]) -> Result<Vec<Sym>> {
    let all = masks.iter().all(Option::is_some);
    let mut out: Option<Port> = None;
    let mut out_mask: Option<Port> = None;
    for (&x, &mask) in values.iter().zip(masks) {
        let mut x = x;
        if let Some(mask) = mask {
            let mask = wide(g, mask, x)?;
            let one = constant(g, 1.0, g.dtype(x));
            x = g.select(mask, x, one)?;
            if all {
                out_mask = Some(match out_mask {
                    None => mask,
                    Some(m) => g.op("LogicalOr", &[m, mask], &[])?,
                });
            }
        }
        out = Some(match out {
            None => x,
            Some(y) => g.mul(y, x)?,
        });
    }
    let mut y = out.ok_or_else(|| LayersError::Inputs("there is no input".to_owned()))?;
    if let Some(mask) = out_mask {
        let zero = constant(g, 0.0, g.dtype(y));
        y = g.select(mask, y, zero)?;
    }
    let mask = out_mask.map(|m| narrow(g, m)).transpose()?;
    Ok(vec![Sym::masked(y, mask)])
}

/// A mask in the shape of the value it belongs to.
fn wide(g: &mut Emit, mask: Port, x: Port) -> Result<Port> {
    let last = g.rank(mask)?;
    let mask = g.expand_dims(mask, last)?;
    let none = falses_like(g, x)?;
    g.op("LogicalOr", &[mask, none], &[])
}

/// `false` in the shape of `x`.
fn falses_like(g: &mut Emit, x: Port) -> Result<Port> {
    let dims = g.dims(x)?;
    let shape = g.shape_value(&dims)?;
    let no = g.constant(Tensor::scalar(false));
    let out = g.op("Fill", &[shape, no], &[])?;
    let known = g.shape(x)?;
    g.set_shape(out, &known);
    Ok(out)
}

fn narrow(g: &mut Emit, mask: Port) -> Result<Port> {
    let last = g.axis(mask, -1)?;
    g.reduce("Any", mask, &[last], false)
}

/// All masks there are, joined.
fn combine(g: &mut Emit, masks: &[Option<Port>], op: &str) -> Result<Option<Port>> {
    let mut out: Option<Port> = None;
    for mask in masks.iter().flatten().copied() {
        out = Some(match out {
            None => mask,
            Some(m) => g.op(op, &[m, mask], &[])?,
        });
    }
    Ok(out)
}

/// Inputs joined along an axis.
#[derive(Debug)]
struct Concatenate {
    axis: i64,
}

impl Layer for Concatenate {
    fn call(&self, g: &mut Emit, call: &Call) -> Result<Vec<Sym>> {
        let axis = g.axis(call.input(0)?.port, self.axis)?;
        let mut values: Vec<Port> = call.inputs.iter().map(|s| s.port).collect();
        // Keras joins values of several types in the widest of them.
        if values.iter().any(|&x| g.dtype(x) == DType::Float32) {
            for x in &mut values {
                *x = g.cast(*x, DType::Float32)?;
            }
        }
        let y = g.concat(&values, axis)?;
        let masks: Vec<Option<Port>> = (0..values.len()).map(|i| call.mask(i)).collect();
        if masks.iter().all(Option::is_none) {
            return Ok(vec![y.into()]);
        }
        let mut parts = Vec::new();
        for (&x, mask) in values.iter().zip(masks) {
            parts.push(match mask {
                None => {
                    let none = falses_like(g, x)?;
                    g.op("LogicalNot", &[none], &[])?
                }
                Some(m) if g.rank(m)? >= g.rank(x)? => m,
                Some(m) => wide(g, m, x)?,
            });
        }
        let joined = g.concat(&parts, axis)?;
        let last = g.axis(joined, -1)?;
        // Keras 2: all of a step must count, Keras 3: any.
        let rule = if g.dialect == Dialect::Keras3 { "Any" } else { "All" };
        let mask = g.reduce(rule, joined, &[last], false)?;
        Ok(vec![Sym::masked(y, Some(mask))])
    }
}

/// Product of two inputs along an axis of each, for each element of the batch.
#[derive(Debug)]
struct Dot {
    axes: [i64; 2],
    normalize: bool,
}

impl Dot {
    fn new(c: &Config<'_>) -> Result<Dot> {
        let axes = match c.opt_ints("axes")?.as_deref() {
            Some(&[one]) => [one, one],
            Some(&[a, b]) => [a, b],
            _ => return Err(c.wrong("axes", "an axis, or one of each input")),
        };
        Ok(Dot { axes, normalize: c.bool_or("normalize", false)? })
    }
}

impl Layer for Dot {
    fn call(&self, g: &mut Emit, call: &Call) -> Result<Vec<Sym>> {
        let [mut x, mut y] = [call.input(0)?.port, call.input(1)?.port];
        let axes = [g.axis(x, self.axes[0])?, g.axis(y, self.axes[1])?];
        if axes.contains(&0) {
            return Err(LayersError::Inputs("the axes of `Dot` cannot be that of the batch".to_owned()));
        }
        if self.normalize {
            x = l2_normalize(g, x, axes[0])?;
            y = l2_normalize(g, y, axes[1])?;
        }
        let ranks = [g.rank(x)?, g.rank(y)?];
        if ranks.iter().any(|&r| r < 2) || ranks[0] + ranks[1] > 40 {
            return Err(LayersError::Inputs(format!(
                "`Dot` needs axes besides the batch, ranks are {ranks:?}"
            )));
        }
        // z is the batch, y the contracted axis.
        let labels = |rank: usize, axis: usize, first: u8| -> String {
            let own = |i: usize| char::from(first + i as u8);
            (0..rank)
                .map(|i| {
                    if i == 0 {
                        'z'
                    } else if i == axis {
                        'y'
                    } else {
                        own(i)
                    }
                })
                .collect()
        };
        let (a, b) = (labels(ranks[0], axes[0], b'A'), labels(ranks[1], axes[1], b'a'));
        let free = |s: &str| s.chars().filter(|c| !matches!(c, 'z' | 'y')).collect::<String>();
        let equation = format!("{a},{b}->z{}{}", free(&a), free(&b));
        let mut out = einsum(g, &equation, &[x, y])?;
        if g.rank(out)? == 1 {
            out = g.expand_dims(out, 1)?;
        }
        Ok(vec![out.into()])
    }
}

/// x / √max(Σx², 10⁻¹²) along an axis; as TF.js has it, 10⁻⁷.
fn l2_normalize(g: &mut Emit, x: Port, axis: usize) -> Result<Port> {
    let square = g.unary("Square", x)?;
    let sum = g.reduce("Sum", square, &[axis], true)?;
    let least = g.scalar(if g.dialect == Dialect::Tfjs { 1e-7 } else { 1e-12 });
    let sum = g.op("Maximum", &[sum, least], &[])?;
    let factor = g.unary("Rsqrt", sum)?;
    g.mul(x, factor)
}
