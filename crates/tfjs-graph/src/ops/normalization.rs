//! Norms, batch norm, softmax, local response normalisation.
use tfjs_kernels::{
    DType, DataFormat, Tensor,
    binary::{BinaryOp, binary},
    normalize::{self, BatchNorm},
    reduce::{ReduceOp, reduce},
    unary::{UnaryOp, unary},
};

use super::{
    arithmetic::channels_first,
    infer::{count, dims, dtype, fact},
    reduction::over_axes,
};
use crate::{
    Fact, Op, OpError,
    op::{Build, OpDef, one, same, simple, values},
};

pub(super) const OPS: &[OpDef] = &[
    OpDef::new("EuclideanNorm", 2..=2, |b| over_axes(b, ReduceOp::EuclideanNorm)),
    OpDef::new("FusedBatchNorm", 5..=5, |b| batch_norm(b, 2)),
    OpDef::new("FusedBatchNormV2", 5..=5, |b| batch_norm(b, 2)),
    OpDef::new("FusedBatchNormV3", 5..=5, |b| batch_norm(b, 3)),
    OpDef::new("L2Loss", 1..=1, |_| {
        simple(
            |x| {
                let squares = unary(UnaryOp::Square, x.take(0)?)?;
                let axes: Vec<i64> = (0..squares.rank() as i64).collect();
                let sum = reduce(ReduceOp::Sum, squares, &axes, false)?;
                one(binary(BinaryOp::Mul, sum, Tensor::scalar(0.5f32)))
            },
            |facts| Ok(vec![fact(dtype(facts, 0), Some(Vec::new()))]),
        )
    }),
    OpDef::new("LRN", 1..=1, lrn),
    OpDef::new("LogSoftmax", 1..=1, |_| {
        simple(|x| one(normalize::log_softmax(x.take(0)?)), at_least_a_vector)
    }),
    OpDef::new("Softmax", 1..=1, |_| simple(|x| one(normalize::softmax(x.take(0)?)), at_least_a_vector)),
];

fn at_least_a_vector(facts: &[Fact]) -> Result<Vec<Fact>, OpError> {
    if dims(facts, 0).is_some_and(<[_]>::is_empty) {
        return Err(OpError::input("logits", "a scalar has no dimension to normalise over"));
    }
    same(facts)
}

fn lrn(b: &Build<'_>) -> Result<Box<dyn Op>, OpError> {
    let radius = count(b, "depth_radius", 5, 0, "numbers from 0 up")?;
    let (bias, alpha, beta) =
        (b.attrs.float_or("bias", 1.0)?, b.attrs.float_or("alpha", 1.0)?, b.attrs.float_or("beta", 0.5)?);
    simple(move |x| one(normalize::lrn(x.tensor(0)?, radius, bias, alpha, beta)), same)
}

/// Outputs the image, mean and variance, and as many reserved tensors, which gradients use.
fn batch_norm(b: &Build<'_>, reserved: usize) -> Result<Box<dyn Op>, OpError> {
    let data_format = if channels_first(b)? { DataFormat::ChannelsFirst } else { DataFormat::ChannelsLast };
    let epsilon = b.attrs.float_or("epsilon", 1e-4)?;
    let factor = b.attrs.float_or("exponential_avg_factor", 1.0)?;
    let training = b.attrs.bool_or("is_training", true)?;
    simple(
        move |x| {
            let image = x.take(0)?;
            if image.rank() < 4 {
                return Err(OpError::input("x", format!("expected 4 dimensions, got {}", image.rank())));
            }
            let norm = BatchNorm { scale: x.tensor(1)?, offset: x.tensor(2)?, epsilon, data_format };
            let (mean, variance) = (x.tensor(3)?, x.tensor(4)?);
            let mut out = if training {
                let running = (factor != 1.0).then_some((mean, variance, factor));
                let n = normalize::batch_norm_training(image, running, &norm)?;
                values([n.y, n.mean, n.variance, n.saved_mean, n.saved_variance])
            } else {
                let y = normalize::batch_norm(image, mean, variance, &norm)?;
                values([y, mean.clone(), variance.clone(), mean.clone(), variance.clone()])
            };
            if reserved > 2 {
                out.push(Tensor::zeros(DType::Float32, [0])?.into());
            }
            Ok(out)
        },
        move |facts| {
            if let Some(d) = dims(facts, 0) {
                if d.len() < 4 {
                    return Err(OpError::input("x", format!("expected 4 dimensions, got {}", d.len())));
                }
                let channels = d[if data_format == DataFormat::ChannelsFirst { 1 } else { d.len() - 1 }];
                for (i, what) in [(1, "scale"), (2, "offset")] {
                    let wrong = match dims(facts, i) {
                        Some(&[n]) => n.zip(channels).is_some_and(|(n, c)| n != c),
                        Some(_) => true,
                        None => false,
                    };
                    if wrong {
                        return Err(OpError::input(what, "it does not have one element per channel"));
                    }
                }
            }
            let channel = fact(Some(DType::Float32), dims(facts, 1).map(<[_]>::to_vec));
            let image = fact(dtype(facts, 0), dims(facts, 0).map(<[_]>::to_vec));
            let mut out = vec![image, channel.clone(), channel.clone(), channel.clone(), channel];
            if reserved > 2 {
                out.push(Fact::of(DType::Float32, &[0]));
            }
            Ok(out)
        },
    )
}
