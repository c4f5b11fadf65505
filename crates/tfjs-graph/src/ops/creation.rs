//! Tensors from shapes and scalars, and random numbers.
use std::fmt;

use tfjs_format::proto::DataType;
use tfjs_kernels::{
    DType, Shape, Tensor, creation,
    random::{self, Distribution, Philox, Precision},
};

use super::infer::{axis, dims, dtype, fact, int, shape_from, unsupported};
use crate::{
    Cx, Effect, Fact, Op, OpError, Value,
    op::{Build, Inputs, OpDef, Values, one, same, simple},
};

pub(super) const OPS: &[OpDef] = &[
    OpDef::new("Empty", 1..=1, |b| {
        let dtype = b.attrs.dtype("dtype")?;
        simple(
            move |x| one(Tensor::zeros(dtype, creation::shape_from(x.tensor(0)?)?)),
            move |facts| Ok(vec![fact(Some(dtype), shape_from(facts, 0))]),
        )
    }),
    OpDef::new("Fill", 2..=2, fill),
    OpDef::new("LinSpace", 3..=3, lin_space),
    OpDef::new("Multinomial", 2..=2, |b| stateful(b, multinomial, class_facts)),
    OpDef::new("OneHot", 4..=4, one_hot),
    OpDef::new("Ones", 1..=1, |b| constant(b, 1)),
    OpDef::new("OnesLike", 1..=1, |_| simple(|x| one(creation::ones_like(x.tensor(0)?)), same)),
    OpDef::new("RandomShuffle", 1..=1, |b| {
        let draw = |s: &mut Philox, x: &mut Inputs, _| {
            let rows = x.tensor(0)?.dims().first().copied().unwrap_or(1);
            one(random::shuffle(s.reserve_shuffle(rows), x.tensor(0)?))
        };
        stateful(b, draw, |facts, _| same(facts))
    }),
    OpDef::new("RandomStandardNormal", 1..=1, |b| stateful_floats(b, Distribution::Normal)),
    OpDef::new("RandomUniform", 1..=1, |b| stateful_floats(b, Distribution::Uniform)),
    OpDef::new("RandomUniformInt", 3..=3, |b| {
        let draw = |s: &mut Philox, x: &mut Inputs, t| {
            let shape = creation::shape_from(x.tensor(0)?)?;
            let part = s.reserve(shape.checked_len()?);
            one(random::integers(part, shape, x.tensor(1)?, x.tensor(2)?, is_wide(t)))
        };
        stateful(b, draw, int_facts)
    }),
    OpDef::new("Range", 3..=3, range),
    OpDef::new("StatelessMultinomial", 3..=3, |_| {
        simple(
            |x| {
                let samples = samples(x)?;
                one(random::multinomial(seed(x, 2)?, x.tensor(0)?, samples))
            },
            |facts| class_facts(facts, DataType::DtInvalid),
        )
    }),
    OpDef::new("StatelessRandomGetAlg", 0..=0, |_| {
        simple(|_| one(Ok(Tensor::scalar(1i32))), |_| Ok(vec![Fact::of(DType::Int32, &[])]))
    }),
    OpDef::new("StatelessRandomGetKeyCounter", 1..=1, key_counter),
    OpDef::new("StatelessRandomGetKeyCounterAlg", 1..=1, key_counter),
    OpDef::new("StatelessRandomNormal", 2..=2, |b| stateless_floats(b, Distribution::Normal, Seed::V1(1))),
    OpDef::new("StatelessRandomNormalV2", 4..=4, |b| stateless_floats(b, Distribution::Normal, Seed::V2)),
    OpDef::new("StatelessRandomUniform", 2..=2, |b| stateless_floats(b, Distribution::Uniform, Seed::V1(1))),
    OpDef::new("StatelessRandomUniformFullInt", 2..=2, |b| stateless_full_ints(b, Seed::V1(1))),
    OpDef::new("StatelessRandomUniformFullIntV2", 4..=4, |b| stateless_full_ints(b, Seed::V2)),
    OpDef::new("StatelessRandomUniformInt", 4..=4, |b| stateless_ints(b, Seed::V1(1), 2)),
    OpDef::new("StatelessRandomUniformIntV2", 6..=6, |b| stateless_ints(b, Seed::V2, 4)),
    OpDef::new("StatelessRandomUniformV2", 4..=4, |b| stateless_floats(b, Distribution::Uniform, Seed::V2)),
    OpDef::new("StatelessTruncatedNormal", 2..=2, |b| {
        stateless_floats(b, Distribution::TruncatedNormal, Seed::V1(1))
    }),
    OpDef::new("StatelessTruncatedNormalV2", 4..=4, |b| {
        stateless_floats(b, Distribution::TruncatedNormal, Seed::V2)
    }),
    OpDef::new("TruncatedNormal", 1..=1, |b| stateful_floats(b, Distribution::TruncatedNormal)),
    OpDef::new("Zeros", 1..=1, |b| constant(b, 0)),
    OpDef::new("ZerosLike", 1..=1, |_| {
        simple(
            |x| {
                if let Value::List(list) = x.value(0)? {
                    return Ok(super::control::zero_list(list));
                }
                let like = x.tensor(0)?;
                one(Tensor::zeros(like.dtype(), like.shape()))
            },
            same,
        )
    }),
];

fn fill(_: &Build<'_>) -> Result<Box<dyn Op>, OpError> {
    simple(
        |x| one(creation::fill(creation::shape_from(x.tensor(0)?)?, x.tensor(1)?)),
        |facts| Ok(vec![fact(dtype(facts, 1), shape_from(facts, 0))]),
    )
}

/// TF.js's own `Zeros` and `Ones`, which name their type `T` or `dtype`.
fn constant(b: &Build<'_>, value: i32) -> Result<Box<dyn Op>, OpError> {
    let attr = if b.attrs.get("T").is_some() { "T" } else { "dtype" };
    let to = b.attrs.opt_data_type(attr)?.unwrap_or(DataType::DtFloat);
    let scalar = tfjs_kernels::cast::cast(Tensor::scalar(value), to, false)?;
    let dtype = scalar.dtype();
    simple(
        move |x| one(creation::fill(creation::shape_from(x.tensor(0)?)?, &scalar)),
        move |facts| Ok(vec![fact(Some(dtype), shape_from(facts, 0))]),
    )
}

fn range(_: &Build<'_>) -> Result<Box<dyn Op>, OpError> {
    simple(
        |x| one(creation::range(x.tensor(0)?, x.tensor(1)?, x.tensor(2)?)),
        |facts| Ok(vec![fact(dtype(facts, 0), Some(vec![None]))]),
    )
}

fn lin_space(_: &Build<'_>) -> Result<Box<dyn Op>, OpError> {
    simple(
        |x| {
            let n = x.scalar::<i32>(2, "num")?;
            one(creation::linspace(x.tensor(0)?, x.tensor(1)?, n.into()))
        },
        |facts| {
            let n = int(facts, 2).and_then(|n| usize::try_from(n).ok());
            Ok(vec![fact(dtype(facts, 0), Some(vec![n]))])
        },
    )
}

fn one_hot(b: &Build<'_>) -> Result<Box<dyn Op>, OpError> {
    let at = b.attrs.int_or("axis", -1)?;
    simple(
        move |x| {
            let depth = x.scalar::<i32>(1, "depth")?;
            one(creation::one_hot(x.tensor(0)?, depth.into(), x.tensor(2)?, x.tensor(3)?, at))
        },
        move |facts| {
            let shape = match dims(facts, 0) {
                Some(d) => {
                    let mut d = d.to_vec();
                    let depth = int(facts, 1).and_then(|n| usize::try_from(n).ok());
                    d.insert(axis(at, d.len() + 1)?, depth);
                    Some(d)
                }
                None => None,
            };
            Ok(vec![fact(dtype(facts, 2).or(dtype(facts, 3)), shape)])
        },
    )
}

/// A random op with state of its own: each evaluation takes the next part of its stream.
struct Random<D, I> {
    seed: (i64, i64),
    dtype: DataType,
    draw: D,
    infer: I,
}

impl<D, I> fmt::Debug for Random<D, I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Random").field("seed", &self.seed).field("dtype", &self.dtype).finish()
    }
}

impl<D, I> Op for Random<D, I>
where
    D: Fn(&mut Philox, &mut Inputs, DataType) -> Result<Values, OpError> + Send + Sync,
    I: Fn(&[Fact], DataType) -> Result<Vec<Fact>, OpError> + Send + Sync,
{
    fn eval(&self, cx: &mut Cx<'_>, mut inputs: Inputs) -> Result<Values, OpError> {
        let stream = cx.node_state(|| Philox::seeded(self.seed.0, self.seed.1));
        (self.draw)(stream, &mut inputs, self.dtype)
    }

    fn infer(&self, inputs: &[Fact]) -> Result<Vec<Fact>, OpError> {
        (self.infer)(inputs, self.dtype)
    }

    fn effect(&self) -> Effect {
        Effect::Stateful
    }
}

fn stateful<D, I>(b: &Build<'_>, draw: D, infer: I) -> Result<Box<dyn Op>, OpError>
where
    D: Fn(&mut Philox, &mut Inputs, DataType) -> Result<Values, OpError> + Send + Sync + 'static,
    I: Fn(&[Fact], DataType) -> Result<Vec<Fact>, OpError> + Send + Sync + 'static,
{
    let seed = (b.attrs.int_or("seed", 0)?, b.attrs.int_or("seed2", 0)?);
    let mut dtype = DataType::DtInvalid;
    for attr in ["Tout", "dtype"] {
        dtype = b.attrs.opt_data_type(attr)?.unwrap_or(dtype);
    }
    Ok(Box::new(Random { seed, dtype, draw, infer }))
}

fn precision(dtype: DataType) -> Result<Precision, OpError> {
    match dtype {
        DataType::DtHalf => Ok(Precision::Half),
        DataType::DtBfloat16 => Ok(Precision::Bfloat16),
        DataType::DtFloat => Ok(Precision::Single),
        DataType::DtDouble => Ok(Precision::Double),
        other => Err(unsupported("dtype", format!("{other:?}"), "half, bfloat16, float and double")),
    }
}

fn is_wide(dtype: DataType) -> bool {
    matches!(dtype, DataType::DtInt64 | DataType::DtUint64)
}

fn stateful_floats(b: &Build<'_>, distribution: Distribution) -> Result<Box<dyn Op>, OpError> {
    let precision = precision(b.attrs.opt_data_type("dtype")?.unwrap_or(DataType::DtFloat))?;
    stateful(
        b,
        move |s, x, _| {
            let shape = creation::shape_from(x.tensor(0)?)?;
            let part = s.reserve(shape.checked_len()?);
            one(random::floats(part, shape, distribution, precision))
        },
        |facts, _| Ok(vec![fact(Some(DType::Float32), shape_from(facts, 0))]),
    )
}

fn int_facts(facts: &[Fact], _: DataType) -> Result<Vec<Fact>, OpError> {
    Ok(vec![fact(Some(DType::Int32), shape_from(facts, 0))])
}

fn samples(x: &Inputs) -> Result<usize, OpError> {
    let n = x.scalar::<i32>(1, "num_samples")?;
    usize::try_from(n).map_err(|_| OpError::input("num_samples", format!("{n} is negative")))
}

fn multinomial(stream: &mut Philox, x: &mut Inputs, _: DataType) -> Result<Values, OpError> {
    let n = samples(x)?;
    let logits = x.tensor(0)?;
    let rows = logits.dims().first().copied().unwrap_or(0);
    let outputs = Shape::from([rows, n.div_ceil(4), 8]).checked_len()?;
    one(random::multinomial(stream.reserve(outputs), logits, n))
}

fn class_facts(facts: &[Fact], _: DataType) -> Result<Vec<Fact>, OpError> {
    let rows = dims(facts, 0).and_then(|d| d.first().copied().flatten());
    let n = int(facts, 1).and_then(|n| usize::try_from(n).ok());
    Ok(vec![fact(Some(DType::Int32), Some(vec![rows, n]))])
}

/// Where a stateless op has its seed.
#[derive(Clone, Copy)]
enum Seed {
    /// A two-element vector.
    V1(usize),
    /// Key, counter and algorithm as inputs 1 to 3. No tensor here holds 64-bit integers, so
    /// `StatelessRandomGetKeyCounter` passes the seed on in the key and the counter, and it is scrambled here.
    V2,
}

fn seed(x: &Inputs, index: usize) -> Result<Philox, OpError> {
    match x.elements::<i32>(index, "seed")? {
        &[a, b] => Ok(Philox::stateless(a.into(), b.into())),
        other => Err(OpError::input("seed", format!("expected two elements, got {}", other.len()))),
    }
}

fn stream(x: &Inputs, from: Seed) -> Result<Philox, OpError> {
    match from {
        Seed::V1(index) => seed(x, index),
        Seed::V2 => {
            let (key, counter) = (x.elements::<i32>(1, "key")?, x.elements::<i32>(2, "counter")?);
            // 1 is Philox, 3 leaves the choice.
            match (x.scalar::<i32>(3, "alg")?, key, counter) {
                (1 | 3, &[a], &[b, 0]) => Ok(Philox::stateless(a.into(), b.into())),
                (1 | 3, _, _) => Err(OpError::input(
                    "key and counter",
                    "they do not come from StatelessRandomGetKeyCounter, and 64-bit ones are not supported",
                )),
                (alg, _, _) => Err(OpError::input("alg", format!("{alg} is not 1 (Philox) or 3 (auto)"))),
            }
        }
    }
}

fn key_counter(b: &Build<'_>) -> Result<Box<dyn Op>, OpError> {
    let with_alg = b.node.op.ends_with("Alg");
    simple(
        move |x| match x.elements::<i32>(0, "seed")? {
            &[a, b] => {
                let mut out = crate::op::values([Tensor::vector(vec![a]), Tensor::vector(vec![b, 0])]);
                if with_alg {
                    out.push(Tensor::scalar(1i32).into());
                }
                Ok(out)
            }
            other => Err(OpError::input("seed", format!("expected two elements, got {}", other.len()))),
        },
        |_| Ok(vec![Fact::of(DType::Int32, &[1]), Fact::of(DType::Int32, &[2]), Fact::of(DType::Int32, &[])]),
    )
}

fn stateless_floats(b: &Build<'_>, d: Distribution, from: Seed) -> Result<Box<dyn Op>, OpError> {
    let precision = precision(b.attrs.opt_data_type("dtype")?.unwrap_or(DataType::DtFloat))?;
    simple(
        move |x| {
            let shape = creation::shape_from(x.tensor(0)?)?;
            one(random::floats(stream(x, from)?, shape, d, precision))
        },
        |facts| Ok(vec![fact(Some(DType::Float32), shape_from(facts, 0))]),
    )
}

fn stateless_ints(b: &Build<'_>, from: Seed, min: usize) -> Result<Box<dyn Op>, OpError> {
    let wide = is_wide(b.attrs.opt_data_type("dtype")?.unwrap_or(DataType::DtInt32));
    simple(
        move |x| {
            let shape = creation::shape_from(x.tensor(0)?)?;
            one(random::integers(stream(x, from)?, shape, x.tensor(min)?, x.tensor(min + 1)?, wide))
        },
        |facts| int_facts(facts, DataType::DtInvalid),
    )
}

fn stateless_full_ints(b: &Build<'_>, from: Seed) -> Result<Box<dyn Op>, OpError> {
    let wide = is_wide(b.attrs.opt_data_type("dtype")?.unwrap_or(DataType::DtInt32));
    simple(
        move |x| {
            let shape = creation::shape_from(x.tensor(0)?)?;
            one(random::full_integers(stream(x, from)?, shape, wide))
        },
        |facts| int_facts(facts, DataType::DtInvalid),
    )
}
