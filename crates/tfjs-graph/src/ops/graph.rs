//! Inputs, constants, identities, and what a graph knows about itself.
use smallvec::SmallVec;
use tfjs_kernels::{DType, Tensor, quantize};

use super::infer::{dims, fact, unsupported};
use crate::{
    Cx, Effect, Fact, Op, OpError,
    op::{ANY, Build, Inputs, OpDef, Values, one, same, simple, values},
};

type Result<T> = std::result::Result<T, OpError>;
type Boxed = Result<Box<dyn Op>>;

pub(super) const OPS: &[OpDef] = &[
    OpDef::new("Assert", 1..=ANY, |b| {
        let summarize = b.attrs.int_or("summarize", 3)?;
        Ok(Box::new(Assert { summarize: usize::try_from(summarize).unwrap_or(usize::MAX) }))
    }),
    OpDef::new("CheckNumerics", 1..=1, check_numerics),
    OpDef::new("CheckNumericsV2", 1..=1, check_numerics),
    OpDef::new("Const", 0..=0, |b| {
        let Some(value) = &b.node.value else {
            return Err(OpError::input("value", "the node has no value"));
        };
        let value = value.tensor().map_err(OpError::Constant)?;
        let fact = Fact::constant(value.clone());
        simple(move |_| one(Ok(value.clone())), move |_| Ok(vec![fact.clone()]))
    }),
    OpDef::new("DeepCopy", 1..=1, |_| identity()),
    OpDef::new("FakeQuantWithMinMaxArgs", 1..=1, |b| {
        let (min, max) = (b.attrs.float_or("min", -6.0)?, b.attrs.float_or("max", 6.0)?);
        let (bits, narrow) = quantization(b)?;
        simple(move |x| one(quantize::fake_quant(x.take(0)?, min, max, bits, narrow)), same)
    }),
    OpDef::new("FakeQuantWithMinMaxVars", 3..=3, |b| {
        let (bits, narrow) = quantization(b)?;
        simple(
            move |x| {
                let (min, max) = (x.scalar(1, "min")?, x.scalar(2, "max")?);
                one(quantize::fake_quant(x.take(0)?, min, max, bits, narrow))
            },
            same,
        )
    }),
    OpDef::new("FakeQuantWithMinMaxVarsPerChannel", 3..=3, |b| {
        let (bits, narrow) = quantization(b)?;
        simple(
            move |x| {
                let input = x.take(0)?;
                one(quantize::fake_quant_per_channel(input, x.tensor(1)?, x.tensor(2)?, bits, narrow))
            },
            same,
        )
    }),
    OpDef::new("Identity", 1..=1, |_| identity()),
    OpDef::new("IdentityN", 1..=ANY, |b| {
        let types: Vec<_> = b.attrs.data_types("T")?.into_iter().map(DType::from_proto).collect();
        simple(
            move |x| {
                for (i, declared) in types.iter().enumerate().take(x.len()) {
                    if let (Some(got), Some(declared)) =
                        (x.value(i)?.as_tensor().map(Tensor::dtype), declared)
                        && got != *declared
                    {
                        return Err(OpError::input(
                            "input",
                            format!("number {i} is {got}, T says {declared}"),
                        ));
                    }
                }
                (0..x.len()).map(|i| x.take_value(i)).collect()
            },
            |f| Ok(f.iter().map(Fact::without_value).collect()),
        )
    }),
    OpDef::new("NoOp", 0..=0, |_| simple(|_| Ok(Values::new()), |_| Ok(Vec::new()))),
    // A placeholder runs only when nobody feeds it.
    OpDef::new("Placeholder", 0..=0, placeholder),
    OpDef::new("PlaceholderV2", 0..=0, placeholder),
    OpDef::new("PlaceholderWithDefault", 1..=1, |_| identity()),
    OpDef::new("PreventGradient", 1..=1, |_| identity()),
    OpDef::new("Print", 1..=ANY, |b| {
        let message = String::from_utf8_lossy(b.attrs.opt_bytes("message")?.unwrap_or_default()).into_owned();
        Ok(Box::new(Print { message, passes_on: true }))
    }),
    OpDef::new("PrintV2", 1..=1, |_| Ok(Box::new(Print { message: String::new(), passes_on: false }))),
    OpDef::new("Rank", 1..=1, |_| {
        simple(
            |x| one(Ok(Tensor::scalar(x.tensor(0)?.rank() as i32))),
            |f| {
                Ok(vec![match dims(f, 0) {
                    Some(d) => Fact::constant(Tensor::scalar(d.len() as i32)),
                    None => Fact::of(DType::Int32, &[]),
                }])
            },
        )
    }),
    OpDef::new("Shape", 1..=1, |b| {
        integer(b)?;
        simple(|x| Ok(values([shape_tensor(x.tensor(0)?)?])), |f| f.iter().take(1).map(shape_fact).collect())
    }),
    OpDef::new("ShapeN", 1..=ANY, |b| {
        integer(b)?;
        simple(
            |x| {
                let shapes = (0..x.len()).map(|i| shape_tensor(x.tensor(i)?));
                Ok(values(shapes.collect::<Result<Vec<_>>>()?))
            },
            |f| f.iter().map(shape_fact).collect(),
        )
    }),
    OpDef::new("Size", 1..=1, |b| {
        integer(b)?;
        simple(
            |x| Ok(values([Tensor::scalar(size(x.tensor(0)?.len())?)])),
            |f| {
                Ok(vec![match f.first().and_then(Fact::full_shape) {
                    Some(shape) => Fact::constant(Tensor::scalar(size(shape.checked_len()?)?)),
                    None => Fact::of(DType::Int32, &[]),
                }])
            },
        )
    }),
    OpDef::new("Snapshot", 1..=1, |_| identity()),
    OpDef::new("StopGradient", 1..=1, |_| identity()),
];

/// Passes on any value, handles and lists included.
fn identity() -> Boxed {
    simple(|x| Ok(Values::from_iter([x.take_value(0)?])), same)
}

fn placeholder(b: &Build<'_>) -> Boxed {
    let declared = fact(b.attrs.dtype("dtype").ok(), b.attrs.shape("shape")?);
    simple(
        |_| Err(OpError::input("dtype", "no value was given for this input")),
        move |_| Ok(vec![declared.clone()]),
    )
}

/// Shapes are int32 here, whichever integer type TensorFlow would use.
fn integer(b: &Build<'_>) -> Result<()> {
    match b.attrs.dtype_or("out_type", DType::Int32)? {
        DType::Int32 => Ok(()),
        other => Err(unsupported("out_type", other, "integer types")),
    }
}

fn size(n: usize) -> Result<i32> {
    i32::try_from(n).map_err(|_| OpError::input("input", format!("{n} elements do not fit an int32")))
}

fn shape_tensor(t: &Tensor) -> Result<Tensor> {
    Ok(Tensor::vector(t.dims().iter().map(|&d| size(d)).collect::<Result<Vec<i32>>>()?))
}

fn shape_fact(f: &Fact) -> Result<Fact> {
    Ok(match (f.full_shape(), f.rank()) {
        (Some(shape), _) => {
            let sizes = shape.iter().map(|&d| size(d)).collect::<Result<Vec<i32>>>()?;
            Fact::constant(Tensor::vector(sizes))
        }
        (None, rank) => fact(Some(DType::Int32), Some(vec![rank])),
    })
}

fn quantization(b: &Build<'_>) -> Result<(u32, bool)> {
    let bits = b.attrs.int_or("num_bits", 8)?;
    if !(2..=16).contains(&bits) {
        return Err(unsupported("num_bits", bits, "2 to 16"));
    }
    Ok((bits as u32, b.attrs.bool_or("narrow_range", false)?))
}

fn check_numerics(b: &Build<'_>) -> Boxed {
    let message = String::from_utf8_lossy(b.attrs.opt_bytes("message")?.unwrap_or_default()).into_owned();
    simple(
        move |x| {
            let input = x.take(0)?;
            let bad = |v: f32| !v.is_finite();
            let found = match &input {
                Tensor::F32(t) => t.data().iter().any(|&v| bad(v)),
                Tensor::C64(t) => t.data().iter().any(|z| bad(z.re) || bad(z.im)),
                _ => false,
            };
            if found {
                return Err(OpError::input("tensor", format!("{message}: it has NaN or infinite values")));
            }
            one(Ok(input))
        },
        same,
    )
}

/// Fails unless its first input is true; the others say why.
#[derive(Debug)]
struct Assert {
    summarize: usize,
}

impl Op for Assert {
    fn eval(&self, _cx: &mut Cx<'_>, inputs: Inputs) -> Result<Values> {
        if inputs.scalar::<bool>(0, "condition")? {
            return Ok(Values::new());
        }
        let data =
            (1..inputs.len()).filter_map(|i| inputs.tensor(i).ok()).map(|t| summary(t, self.summarize));
        let data: Vec<String> = data.collect();
        Err(OpError::input("condition", format!("the assertion failed: {}", data.join(" "))))
    }

    fn effect(&self) -> Effect {
        Effect::Stateful
    }
}

/// The first few elements.
fn summary(t: &Tensor, count: usize) -> String {
    tfjs_kernels::match_tensor!(t, t => {
        let shown: Vec<String> = t.data().iter().take(count).map(|v| format!("{v:?}")).collect();
        let more = if t.len() > count { " …" } else { "" };
        format!("[{}{more}]", shown.join(" "))
    })
}

/// Writes its inputs to the trace.
#[derive(Debug)]
struct Print {
    message: String,
    /// `Print` returns its first input, `PrintV2` nothing.
    passes_on: bool,
}

impl Op for Print {
    fn eval(&self, cx: &mut Cx<'_>, mut inputs: Inputs) -> Result<Values> {
        let data: Vec<String> = (usize::from(self.passes_on)..inputs.len())
            .filter_map(|i| inputs.tensor(i).ok())
            .map(|t| summary(t, 10))
            .collect();
        tracing::info!(node = cx.node, "{}{}", self.message, data.join(""));
        if self.passes_on { Ok(SmallVec::from_iter([inputs.take_value(0)?])) } else { Ok(Values::new()) }
    }

    fn infer(&self, inputs: &[Fact]) -> Result<Vec<Fact>> {
        if self.passes_on { same(inputs) } else { Ok(Vec::new()) }
    }

    fn effect(&self) -> Effect {
        Effect::Stateful
    }
}
