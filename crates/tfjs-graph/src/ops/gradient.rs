//! Ops that only gradients have.
use tfjs_kernels::{
    DType, DataFormat, Tensor,
    gradient::{self, ActivationGrad, Ctc, activation_grad, ctc_loss},
    image::{CropMethod, Sampling},
    normalize,
    reduce::{ReduceOp, reduce},
    transform::MirrorMode,
};

use super::{
    arithmetic::channels_first,
    infer::{choice, count, dims, dtype, fact, ints, shape_from},
};
use crate::{
    Fact, Op, OpError,
    op::{Build, OpDef, one, same, simple, values},
};

type Result<T> = std::result::Result<T, OpError>;
type Boxed = Result<Box<dyn Op>>;

pub(super) const OPS: &[OpDef] = &[
    OpDef::new("BiasAddGrad", 1..=1, |b| {
        let first = channels_first(b)?;
        simple(
            move |x| {
                let dy = x.take(0)?;
                let channels = if first { 1 } else { dy.rank() as i64 - 1 };
                let axes: Vec<i64> = (0..dy.rank() as i64).filter(|&a| a != channels).collect();
                one(reduce(ReduceOp::Sum, dy, &axes, false))
            },
            move |f| {
                let channels = dims(f, 0).and_then(|d| if first { d.get(1) } else { d.last() }).copied();
                Ok(vec![fact(dtype(f, 0), Some(vec![channels.flatten()]))])
            },
        )
    }),
    OpDef::new("BroadcastGradientArgs", 2..=2, |_| {
        simple(
            |x| {
                let axes = broadcast_axes(x.elements::<i32>(0, "s0")?, x.elements::<i32>(1, "s1")?)?;
                Ok(values(axes.map(Tensor::vector)))
            },
            |_| {
                Ok(vec![Fact::new(DType::Int32, Some(vec![None])), Fact::new(DType::Int32, Some(vec![None]))])
            },
        )
    }),
    OpDef::new("CTCLoss", 4..=4, |b| ctc(b, false)),
    OpDef::new("CTCLossV2", 4..=4, |b| ctc(b, true)),
    OpDef::new("CropAndResizeGradBoxes", 4..=4, |_| {
        simple(
            |x| {
                let (dy, images) = (x.tensor(0)?, x.tensor(1)?);
                one(gradient::crop_and_resize_grad_boxes(dy, images, x.tensor(2)?, x.tensor(3)?))
            },
            |f| Ok(vec![fact(Some(DType::Float32), dims(f, 2).map(<[_]>::to_vec))]),
        )
    }),
    OpDef::new("CropAndResizeGradImage", 4..=4, |b| {
        let options = [("bilinear", CropMethod::Bilinear), ("nearest", CropMethod::Nearest)];
        let method = choice(b, "method", "bilinear", &options, "bilinear and nearest")?;
        simple(
            move |x| {
                let shape = four(x.elements(3, "image_size")?)?;
                one(gradient::crop_and_resize_grad(x.tensor(0)?, x.tensor(1)?, x.tensor(2)?, shape, method))
            },
            |f| Ok(vec![fact(Some(DType::Float32), shape_from(f, 3))]),
        )
    }),
    OpDef::new("EluGrad", 2..=2, |_| from_features(ActivationGrad::Elu)),
    OpDef::new("FakeQuantWithMinMaxArgsGradient", 2..=2, |b| {
        let (min, max) = (b.attrs.float_or("min", -6.0)?, b.attrs.float_or("max", 6.0)?);
        let (bits, narrow) = quantization(b)?;
        simple(
            move |x| {
                let dy = x.take(0)?;
                let (dx, ..) = gradient::fake_quant_grad(dy, x.tensor(1)?, min, max, bits, narrow)?;
                Ok(values([dx]))
            },
            same,
        )
    }),
    OpDef::new("FakeQuantWithMinMaxVarsGradient", 4..=4, |b| {
        let (bits, narrow) = quantization(b)?;
        simple(
            move |x| {
                let (min, max) = (x.scalar(2, "min")?, x.scalar(3, "max")?);
                let dy = x.take(0)?;
                let (dx, low, high) = gradient::fake_quant_grad(dy, x.tensor(1)?, min, max, bits, narrow)?;
                Ok(values([dx, Tensor::scalar(low), Tensor::scalar(high)]))
            },
            |f| {
                let scalar = Fact::of(DType::Float32, &[]);
                Ok(vec![fact(dtype(f, 0), dims(f, 0).map(<[_]>::to_vec)), scalar.clone(), scalar])
            },
        )
    }),
    OpDef::new("FakeQuantWithMinMaxVarsPerChannelGradient", 4..=4, |b| {
        let (bits, narrow) = quantization(b)?;
        simple(
            move |x| {
                let dy = x.take(0)?;
                let (x, min, max) = (x.tensor(1)?, x.tensor(2)?, x.tensor(3)?);
                let (dx, low, high) = gradient::fake_quant_per_channel_grad(dy, x, min, max, bits, narrow)?;
                Ok(values([dx, low, high]))
            },
            |f| {
                let like = |i| fact(dtype(f, i), dims(f, i).map(<[_]>::to_vec));
                Ok(vec![like(0), like(2), like(3)])
            },
        )
    }),
    OpDef::new("FusedBatchNormGrad", 5..=5, batch_norm_grad),
    OpDef::new("FusedBatchNormGradV2", 5..=5, batch_norm_grad),
    OpDef::new("FusedBatchNormGradV3", 6..=6, batch_norm_grad),
    OpDef::new("InvGrad", 2..=2, |_| from_output(ActivationGrad::Reciprocal)),
    OpDef::new("LRNGrad", 3..=3, |b| {
        let radius = count(b, "depth_radius", 5, 0, "numbers from 0 up")?;
        let (bias, alpha, beta) =
            (b.attrs.float_or("bias", 1.0)?, b.attrs.float_or("alpha", 1.0)?, b.attrs.float_or("beta", 0.5)?);
        simple(
            move |x| {
                one(normalize::lrn_grad(x.tensor(0)?, x.tensor(1)?, x.tensor(2)?, radius, bias, alpha, beta))
            },
            same,
        )
    }),
    OpDef::new("LeakyReluGrad", 2..=2, |b| {
        from_features(ActivationGrad::LeakyRelu(b.attrs.float_or("alpha", 0.2)?))
    }),
    OpDef::new("MirrorPadGrad", 2..=2, |b| {
        let options = [("REFLECT", MirrorMode::Reflect), ("SYMMETRIC", MirrorMode::Symmetric)];
        let mode = choice(b, "mode", "", &options, "REFLECT and SYMMETRIC")?;
        simple(
            move |x| one(gradient::mirror_pad_grad(x.tensor(0)?, x.tensor(1)?, mode)),
            |f| Ok(vec![fact(dtype(f, 0), dims(f, 0).map(|d| vec![None; d.len()]))]),
        )
    }),
    OpDef::new("ReciprocalGrad", 2..=2, |_| from_output(ActivationGrad::Reciprocal)),
    OpDef::new("Relu6Grad", 2..=2, |_| from_features(ActivationGrad::Relu6)),
    OpDef::new("ReluGrad", 2..=2, |_| from_features(ActivationGrad::Relu)),
    OpDef::new("ResizeBicubicGrad", 2..=2, |b| {
        let sampling = sampling(b)?;
        simple(
            move |x| one(gradient::resize_bicubic_grad(x.tensor(0)?, size_of(x.tensor(1)?)?, sampling)),
            like_second,
        )
    }),
    OpDef::new("ResizeBilinearGrad", 2..=2, |b| {
        let sampling = sampling(b)?;
        simple(
            move |x| one(gradient::resize_bilinear_grad(x.tensor(0)?, size_of(x.tensor(1)?)?, sampling)),
            like_second,
        )
    }),
    OpDef::new("ResizeNearestNeighborGrad", 2..=2, |b| {
        let sampling = sampling(b)?;
        simple(
            move |x| {
                let size = match *x.elements::<i32>(1, "size")? {
                    [h, w] => [usize::try_from(h).unwrap_or(0), usize::try_from(w).unwrap_or(0)],
                    ref other => return Err(OpError::input("size", format!("{other:?} is not two sizes"))),
                };
                one(gradient::resize_nearest_grad(x.tensor(0)?, size, sampling))
            },
            |f| {
                let [h, w] = match ints(f, 1) {
                    Some(&[h, w]) => [usize::try_from(h).ok(), usize::try_from(w).ok()],
                    _ => [None; 2],
                };
                let shape = dims(f, 0).filter(|d| d.len() == 4).map(|d| vec![d[0], h, w, d[3]]);
                Ok(vec![fact(dtype(f, 0), shape)])
            },
        )
    }),
    OpDef::new("RsqrtGrad", 2..=2, |_| from_output(ActivationGrad::Rsqrt)),
    OpDef::new("SeluGrad", 2..=2, |_| from_features(ActivationGrad::Selu)),
    OpDef::new("SigmoidGrad", 2..=2, |_| from_output(ActivationGrad::Sigmoid)),
    OpDef::new("SoftmaxCrossEntropyWithLogits", 2..=2, |_| {
        simple(
            |x| {
                let logits = x.take(0)?;
                let (loss, backprop) = gradient::softmax_cross_entropy(logits, x.tensor(1)?)?;
                Ok(values([loss, backprop]))
            },
            |f| {
                let both = super::arithmetic::broadcast(dims(f, 0), dims(f, 1))?;
                Ok(losses(f, both))
            },
        )
    }),
    OpDef::new("SoftplusGrad", 2..=2, |_| from_features(ActivationGrad::Softplus)),
    OpDef::new("SoftsignGrad", 2..=2, |_| from_features(ActivationGrad::Softsign)),
    OpDef::new("SparseSoftmaxCrossEntropyWithLogits", 2..=2, |_| {
        simple(
            |x| {
                let logits = x.take(0)?;
                let (loss, backprop) = gradient::sparse_softmax_cross_entropy(logits, x.tensor(1)?)?;
                Ok(values([loss, backprop]))
            },
            |f| Ok(losses(f, dims(f, 0).map(<[_]>::to_vec))),
        )
    }),
    OpDef::new("SqrtGrad", 2..=2, |_| from_output(ActivationGrad::Sqrt)),
    OpDef::new("TanhGrad", 2..=2, |_| from_output(ActivationGrad::Tanh)),
];

/// Inputs: the gradients, then the features.
fn from_features(op: ActivationGrad) -> Boxed {
    simple(
        move |x| {
            let dy = x.take(0)?;
            one(activation_grad(op, dy, x.tensor(1)?))
        },
        same,
    )
}

/// Inputs: the function's output, then the gradients.
fn from_output(op: ActivationGrad) -> Boxed {
    simple(
        move |x| {
            let dy = x.take(1)?;
            one(activation_grad(op, dy, x.tensor(0)?))
        },
        same,
    )
}

/// For each of two shapes the axes along which it is repeated.
fn broadcast_axes(a: &[i32], b: &[i32]) -> Result<[Vec<i32>; 2]> {
    let rank = a.len().max(b.len());
    let mut out = [Vec::new(), Vec::new()];
    for i in 0..rank {
        let dim = |s: &[i32]| (i + s.len()).checked_sub(rank).map(|k| s[k]);
        let (x, y) = (dim(a), dim(b));
        match (x.unwrap_or(1), y.unwrap_or(1)) {
            (1, 1) => {
                out[0].push(i as i32);
                out[1].push(i as i32);
            }
            (1, _) => out[0].push(i as i32),
            (_, 1) => out[1].push(i as i32),
            (x, y) if x == y => {}
            (x, y) => {
                return Err(OpError::input(
                    "s1",
                    format!("{y} does not broadcast with {x} in dimension {i}"),
                ));
            }
        }
    }
    Ok(out)
}

/// Inputs: logits by step, indices of the labels, labels, numbers of steps.
fn ctc(b: &Build<'_>, blank_first: bool) -> Boxed {
    let options = Ctc {
        blank_first,
        merge_repeated: b.attrs.bool_or("ctc_merge_repeated", true)?,
        collapse_repeated: b.attrs.bool_or("preprocess_collapse_repeated", false)?,
        ignore_longer: b.attrs.bool_or("ignore_longer_outputs_than_inputs", false)?,
    };
    simple(
        move |x| {
            let logits = x.take(0)?;
            let (loss, gradient) = ctc_loss(logits, x.tensor(1)?, x.tensor(2)?, x.tensor(3)?, options)?;
            Ok(values([loss, gradient]))
        },
        |f| {
            let shape = dims(f, 0).filter(|d| d.len() == 3).map(<[_]>::to_vec);
            let batch = shape.as_ref().and_then(|d| d[1]);
            Ok(vec![fact(dtype(f, 0), Some(vec![batch])), fact(dtype(f, 0), shape)])
        },
    )
}

fn losses(f: &[Fact], shape: super::infer::Dims) -> Vec<Fact> {
    let rows = shape.as_ref().and_then(|s| s.first().copied().flatten());
    vec![fact(dtype(f, 0), Some(vec![rows])), fact(dtype(f, 0), shape)]
}

fn like_second(f: &[Fact]) -> Result<Vec<Fact>> {
    Ok(vec![fact(dtype(f, 1), dims(f, 1).map(<[_]>::to_vec))])
}

fn size_of(images: &Tensor) -> Result<[usize; 2]> {
    match *images.dims() {
        [_, h, w, _] => Ok([h, w]),
        _ => Err(OpError::input("original_image", "it has not four dimensions")),
    }
}

fn four(shape: &[i32]) -> Result<[usize; 4]> {
    let wrong = || OpError::input("image_size", format!("{shape:?} is not a shape of four dimensions"));
    let sizes: Vec<usize> =
        shape.iter().map(|&d| usize::try_from(d).map_err(|_| wrong())).collect::<Result<_>>()?;
    sizes.try_into().map_err(|_| wrong())
}

fn sampling(b: &Build<'_>) -> Result<Sampling> {
    Ok(Sampling {
        align_corners: b.attrs.bool_or("align_corners", false)?,
        half_pixel_centers: b.attrs.bool_or("half_pixel_centers", false)?,
    })
}

fn quantization(b: &Build<'_>) -> Result<(u32, bool)> {
    let bits = count(b, "num_bits", 8, 2, "2 to 16")?;
    Ok((u32::try_from(bits).unwrap_or(u32::MAX).min(32), b.attrs.bool_or("narrow_range", false)?))
}

/// Outputs the gradients by image, scale and offset, and two empty tensors.
fn batch_norm_grad(b: &Build<'_>) -> Boxed {
    let format = if channels_first(b)? { DataFormat::ChannelsFirst } else { DataFormat::ChannelsLast };
    let epsilon = b.attrs.float_or("epsilon", 1e-4)?;
    let training = b.attrs.bool_or("is_training", true)?;
    simple(
        move |x| {
            let dy = x.take(0)?;
            let (image, scale, mean, variance) = (x.tensor(1)?, x.tensor(2)?, x.tensor(3)?, x.tensor(4)?);
            let g = normalize::batch_norm_grad(dy, image, scale, mean, variance, epsilon, format, training)?;
            let empty = Tensor::zeros(DType::Float32, [0])?;
            Ok(values([g.x, g.scale, g.offset, empty.clone(), empty]))
        },
        |f| {
            let like = |i| fact(dtype(f, i), dims(f, i).map(<[_]>::to_vec));
            let empty = Fact::of(DType::Float32, &[0]);
            Ok(vec![like(1), like(2), like(2), empty.clone(), empty])
        },
    )
}
