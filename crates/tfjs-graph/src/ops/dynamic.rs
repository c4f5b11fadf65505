//! Ops whose output shapes depend on values.
use tfjs_kernels::{
    DType, evaluation,
    nms::{self, Combined, Selected, Suppression},
};

use super::infer::{dims, dtype, fact};
use crate::{
    Fact, Op, OpError,
    op::{Build, Inputs, OpDef, one, simple, values},
};

pub(super) const OPS: &[OpDef] = &[
    OpDef::new("CombinedNonMaxSuppression", 6..=6, combined),
    OpDef::new("ListDiff", 2..=2, list_diff),
    OpDef::new("NonMaxSuppression", 3..=3, |b| {
        let threshold = b.attrs.float_or("iou_threshold", 0.5)?;
        simple(
            move |x| {
                let how = suppression(x, threshold)?;
                Ok(values([nms::non_max_suppression(x.tensor(0)?, x.tensor(1)?, &how)?.padded(0).0]))
            },
            one_vector,
        )
    }),
    OpDef::new("NonMaxSuppressionV2", 4..=4, |_| {
        simple(
            |x| {
                let how = suppression(x, x.scalar(3, "iou_threshold")?)?;
                Ok(values([nms::non_max_suppression(x.tensor(0)?, x.tensor(1)?, &how)?.padded(0).0]))
            },
            one_vector,
        )
    }),
    OpDef::new("NonMaxSuppressionV3", 5..=5, |_| {
        simple(|x| Ok(values([scored(x)?.padded(0).0])), one_vector)
    }),
    OpDef::new("NonMaxSuppressionV4", 5..=5, |b| {
        let pad = b.attrs.bool_or("pad_to_max_output_size", false)?;
        simple(
            move |x| {
                let len = padded_len(x, pad)?;
                let (indices, _, valid) = scored(x)?.padded(len);
                Ok(values([indices, valid]))
            },
            |_| Ok(vec![vector(), Fact::of(DType::Int32, &[])]),
        )
    }),
    OpDef::new("NonMaxSuppressionV5", 6..=6, |b| {
        let pad = b.attrs.bool_or("pad_to_max_output_size", false)?;
        simple(
            move |x| {
                let len = padded_len(x, pad)?;
                let (indices, scores, valid) = scored(x)?.padded(len);
                Ok(values([indices, scores, valid]))
            },
            |_| Ok(vec![vector(), Fact::new(DType::Float32, vec![None]), Fact::of(DType::Int32, &[])]),
        )
    }),
    OpDef::new("NonMaxSuppressionWithOverlaps", 5..=5, |_| {
        simple(
            |x| {
                let how = Suppression {
                    score_threshold: x.scalar(4, "score_threshold")?,
                    ..suppression(x, x.scalar(3, "overlap_threshold")?)?
                };
                let chosen = nms::non_max_suppression_with_overlaps(x.tensor(0)?, x.tensor(1)?, &how)?;
                Ok(values([chosen.padded(0).0]))
            },
            one_vector,
        )
    }),
    OpDef::new("Where", 1..=1, |_| {
        simple(
            |x| one(evaluation::where_true(x.tensor(0)?)),
            |facts| Ok(vec![Fact::new(DType::Int32, vec![None, dims(facts, 0).map(<[_]>::len)])]),
        )
    }),
];

fn vector() -> Fact {
    Fact::new(DType::Int32, vec![None])
}

fn one_vector(_: &[Fact]) -> Result<Vec<Fact>, OpError> {
    Ok(vec![vector()])
}

/// Hard suppression of any score, as many as input 2 says.
fn suppression(x: &Inputs, iou_threshold: f32) -> Result<Suppression, OpError> {
    Ok(Suppression {
        max_output_size: x.scalar::<i32>(2, "max_output_size")?.into(),
        iou_threshold,
        score_threshold: f32::MIN,
        soft_nms_sigma: 0.0,
    })
}

/// `NonMaxSuppressionV3` to `V5`.
fn scored(x: &Inputs) -> Result<Selected, OpError> {
    let how = Suppression {
        score_threshold: x.scalar(4, "score_threshold")?,
        soft_nms_sigma: if x.len() > 5 { x.scalar(5, "soft_nms_sigma")? } else { 0.0 },
        ..suppression(x, x.scalar(3, "iou_threshold")?)?
    };
    Ok(nms::non_max_suppression(x.tensor(0)?, x.tensor(1)?, &how)?)
}

fn padded_len(x: &Inputs, pad: bool) -> Result<usize, OpError> {
    let n = x.scalar::<i32>(2, "max_output_size")?;
    let n = usize::try_from(n).map_err(|_| OpError::input("max_output_size", format!("{n} is negative")))?;
    Ok(if pad { n } else { 0 })
}

fn combined(b: &Build<'_>) -> Result<Box<dyn Op>, OpError> {
    let (pad_per_class, clip_boxes) =
        (b.attrs.bool_or("pad_per_class", false)?, b.attrs.bool_or("clip_boxes", true)?);
    simple(
        move |x| {
            let how = Combined {
                max_output_size_per_class: x.scalar::<i32>(2, "max_output_size_per_class")?.into(),
                max_total_size: x.scalar::<i32>(3, "max_total_size")?.into(),
                iou_threshold: x.scalar(4, "iou_threshold")?,
                score_threshold: x.scalar(5, "score_threshold")?,
                pad_per_class,
                clip_boxes,
            };
            Ok(values(nms::combined_non_max_suppression(x.tensor(0)?, x.tensor(1)?, &how)?))
        },
        |facts| {
            let batch = dims(facts, 0).and_then(|d| d.first().copied().flatten());
            Ok(vec![
                Fact::new(DType::Float32, vec![batch, None, Some(4)]),
                Fact::new(DType::Float32, vec![batch, None]),
                Fact::new(DType::Float32, vec![batch, None]),
                Fact::new(DType::Int32, vec![batch]),
            ])
        },
    )
}

fn list_diff(_: &Build<'_>) -> Result<Box<dyn Op>, OpError> {
    simple(
        |x| {
            let (kept, indices) = evaluation::list_diff(x.tensor(0)?, x.tensor(1)?)?;
            Ok(values([kept, indices]))
        },
        |facts| Ok(vec![fact(dtype(facts, 0), Some(vec![None])), vector()]),
    )
}
