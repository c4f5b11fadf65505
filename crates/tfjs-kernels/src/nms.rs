//! Non-maximum suppression.
use std::{cmp::Ordering, collections::BinaryHeap};

use crate::{KernelError, Result, Tensor, TensorOf};

/// When a box is dropped for one already selected.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Suppression {
    /// Most boxes to select.
    pub max_output_size: i64,
    /// Boxes that overlap a selected one by more are dropped: intersection over union, 0 to 1.
    pub iou_threshold: f32,
    /// Boxes with this score or less are dropped.
    pub score_threshold: f32,
    /// Sigma of soft suppression, which lowers scores by `exp(-iou^2 / (2 sigma))` instead; 0 for hard.
    pub soft_nms_sigma: f32,
}

/// The selected boxes, best first.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Selected {
    /// Numbers of the boxes.
    pub indices: Vec<i32>,
    /// Their scores, after soft suppression.
    pub scores: Vec<f32>,
}

impl Selected {
    /// Indices and scores as vectors, padded with zeros to `len`, and how many are valid.
    pub fn padded(self, len: usize) -> (Tensor, Tensor, Tensor) {
        let n = self.indices.len();
        let (mut indices, mut scores) = (self.indices, self.scores);
        indices.resize(len.max(n), 0);
        scores.resize(len.max(n), 0.0);
        (Tensor::vector(indices), Tensor::vector(scores), Tensor::scalar(n as i32))
    }
}

/// Selects from `boxes: [n, 4]` (two opposite corners each) by `scores: [n]`.
///
/// # Errors
/// [`KernelError`] when the inputs do not have these shapes, or a threshold is out of range.
pub fn non_max_suppression(boxes: &Tensor, scores: &Tensor, how: &Suppression) -> Result<Selected> {
    let (boxes, scores) = (boxes.typed::<f32>("boxes")?, scores.typed::<f32>("scores")?);
    let n = match boxes.dims() {
        &[n, 4] => n,
        _ => return Err(KernelError::Rank { what: "boxes", got: boxes.shape(), expected: "[boxes, 4]" }),
    };
    check_scores(scores, n)?;
    if !(0.0..=1.0).contains(&how.iou_threshold) {
        return Err(KernelError::Argument {
            what: "iou_threshold",
            got: how.iou_threshold.to_string(),
            expected: "a number from 0 to 1",
        });
    }
    let b = boxes.data();
    let corners = |i: usize| [b[4 * i], b[4 * i + 1], b[4 * i + 2], b[4 * i + 3]];
    select(scores.data(), how, |i, j| iou(corners(i), corners(j)))
}

/// Selects by `scores: [n]`, dropping what overlaps by `overlaps: [n, n]`; `iou_threshold` is the largest
/// overlap allowed.
///
/// # Errors
/// [`KernelError`] when the inputs do not have these shapes.
pub fn non_max_suppression_with_overlaps(
    overlaps: &Tensor,
    scores: &Tensor,
    how: &Suppression,
) -> Result<Selected> {
    let (overlaps, scores) = (overlaps.typed::<f32>("overlaps")?, scores.typed::<f32>("scores")?);
    let n = match overlaps.dims() {
        &[n, m] if n == m => n,
        _ => {
            return Err(KernelError::Rank {
                what: "overlaps",
                got: overlaps.shape(),
                expected: "[boxes, boxes]",
            });
        }
    };
    check_scores(scores, n)?;
    select(scores.data(), how, |i, j| overlaps.data()[i * n + j])
}

fn check_scores(scores: &TensorOf<f32>, n: usize) -> Result<()> {
    if scores.dims() == [n] {
        return Ok(());
    }
    Err(KernelError::Rank {
        what: "scores",
        got: scores.shape(),
        expected: "a vector with one score per box",
    })
}

struct Candidate {
    score: f32,
    index: usize,
    /// How many selected boxes it has been compared with.
    compared: usize,
}

impl Ord for Candidate {
    fn cmp(&self, other: &Candidate) -> Ordering {
        // NaN never becomes a candidate, and -0 cannot be told from 0 by the score alone.
        (self.score + 0.0).total_cmp(&(other.score + 0.0)).then(other.index.cmp(&self.index))
    }
}

impl PartialOrd for Candidate {
    fn partial_cmp(&self, other: &Candidate) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Candidate {
    fn eq(&self, other: &Candidate) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Candidate {}

fn select(scores: &[f32], how: &Suppression, overlap: impl Fn(usize, usize) -> f32) -> Result<Selected> {
    let most = usize::try_from(how.max_output_size).map_err(|_| KernelError::Argument {
        what: "max_output_size",
        got: how.max_output_size.to_string(),
        expected: "at least 0",
    })?;
    if how.soft_nms_sigma < 0.0 || how.soft_nms_sigma.is_nan() {
        return Err(KernelError::Argument {
            what: "soft_nms_sigma",
            got: how.soft_nms_sigma.to_string(),
            expected: "at least 0",
        });
    }
    let soft = how.soft_nms_sigma > 0.0;
    let scale = if soft { -0.5 / how.soft_nms_sigma } else { 0.0 };
    let mut queue: BinaryHeap<Candidate> = scores
        .iter()
        .enumerate()
        .filter(|(_, s)| **s > how.score_threshold)
        .map(|(index, &score)| Candidate { score, index, compared: 0 })
        .collect();
    let mut out = Selected::default();
    while out.indices.len() < most
        && let Some(mut next) = queue.pop()
    {
        let before = next.score;
        let mut dropped = false;
        for &chosen in out.indices[next.compared..].iter().rev() {
            let iou = overlap(next.index, chosen as usize);
            if soft {
                next.score *= (scale * iou * iou).exp();
            } else if iou > how.iou_threshold {
                dropped = true;
                break;
            }
            if next.score <= how.score_threshold {
                break;
            }
        }
        next.compared = out.indices.len();
        if dropped {
            continue;
        }
        if next.score == before {
            out.indices.push(next.index as i32);
            out.scores.push(next.score);
        } else if next.score > how.score_threshold {
            queue.push(next);
        }
    }
    Ok(out)
}

/// Intersection over union of two boxes, each given by two opposite corners; 0 for boxes without area.
fn iou(a: [f32; 4], b: [f32; 4]) -> f32 {
    let order = |[y1, x1, y2, x2]: [f32; 4]| [y1.min(y2), x1.min(x2), y1.max(y2), x1.max(x2)];
    let (a, b) = (order(a), order(b));
    let area = |b: [f32; 4]| (b[2] - b[0]) * (b[3] - b[1]);
    if area(a) <= 0.0 || area(b) <= 0.0 {
        return 0.0;
    }
    let height = (a[2].min(b[2]) - a[0].max(b[0])).max(0.0);
    let width = (a[3].min(b[3]) - a[1].max(b[1])).max(0.0);
    let shared = height * width;
    shared / (area(a) + area(b) - shared)
}

/// Options of [`combined_non_max_suppression`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Combined {
    /// Most boxes per class.
    pub max_output_size_per_class: i64,
    /// Most boxes per image.
    pub max_total_size: i64,
    /// As in [`Suppression`].
    pub iou_threshold: f32,
    /// As in [`Suppression`].
    pub score_threshold: f32,
    /// Pad to `max_output_size_per_class` times the number of classes, if that is less.
    pub pad_per_class: bool,
    /// Clip the resulting boxes to `[0, 1]`.
    pub clip_boxes: bool,
}

/// Suppression per class for a batch: `boxes: [batch, n, 1 or classes, 4]`, `scores: [batch, n, classes]`.
/// Gives boxes `[batch, size, 4]`, scores and classes `[batch, size]`, and counts `[batch]`.
///
/// # Errors
/// [`KernelError`] when the inputs do not have these shapes, or a number is out of range.
pub fn combined_non_max_suppression(boxes: &Tensor, scores: &Tensor, how: &Combined) -> Result<[Tensor; 4]> {
    let (bx, sc) = (boxes.typed::<f32>("boxes")?, scores.typed::<f32>("scores")?);
    let (&[batch, n, q, 4], &[batch2, n2, classes]) = (bx.dims(), sc.dims()) else {
        return Err(KernelError::Shapes {
            left: bx.shape(),
            right: sc.shape(),
            why: "are not [batch, boxes, 1 or classes, 4] and [batch, boxes, classes]",
        });
    };
    if batch != batch2 || n != n2 || (q != 1 && q != classes) {
        return Err(KernelError::Shapes {
            left: bx.shape(),
            right: sc.shape(),
            why: "are not [batch, boxes, 1 or classes, 4] and [batch, boxes, classes]",
        });
    }
    let positive = |what, v: i64| {
        usize::try_from(v).ok().filter(|&v| v > 0).ok_or_else(|| KernelError::Argument {
            what,
            got: v.to_string(),
            expected: "at least 1",
        })
    };
    let per_class = positive("max_output_size_per_class", how.max_output_size_per_class)?;
    let total = positive("max_total_size", how.max_total_size)?;
    let size = if how.pad_per_class { total.min(per_class.saturating_mul(classes)) } else { total };
    crate::Shape::from([batch, size, 4]).checked_len()?;
    let one = Suppression {
        max_output_size: per_class.min(n) as i64,
        iou_threshold: how.iou_threshold,
        score_threshold: how.score_threshold,
        soft_nms_sigma: 0.0,
    };
    let mut out_boxes = vec![0.0f32; batch * size * 4];
    let (mut out_scores, mut out_classes) = (vec![0.0f32; batch * size], vec![0.0f32; batch * size]);
    let mut valid = Vec::with_capacity(batch);
    for b in 0..batch {
        let corners = |i: usize, class: usize| {
            let at = ((b * n + i) * q + if q == 1 { 0 } else { class }) * 4;
            let c = &bx.data()[at..at + 4];
            [c[0], c[1], c[2], c[3]]
        };
        let mut found: Vec<(f32, usize, usize)> = Vec::new();
        for class in 0..classes {
            let row: Vec<f32> = (0..n).map(|i| sc.data()[(b * n + i) * classes + class]).collect();
            let chosen = select(&row, &one, |i, j| iou(corners(i, class), corners(j, class)))?;
            found.extend(chosen.indices.iter().map(|&i| (row[i as usize], i as usize, class)));
        }
        found.sort_by(|x, y| y.0.total_cmp(&x.0));
        found.truncate(size);
        valid.push(found.len() as i32);
        for (k, &(score, i, class)) in found.iter().enumerate() {
            let mut c = corners(i, class);
            if how.clip_boxes {
                c = c.map(|v| v.clamp(0.0, 1.0));
            }
            out_boxes[(b * size + k) * 4..][..4].copy_from_slice(&c);
            out_scores[b * size + k] = score;
            out_classes[b * size + k] = class as f32;
        }
    }
    Ok([
        Tensor::new([batch, size, 4], out_boxes)?,
        Tensor::new([batch, size], out_scores)?,
        Tensor::new([batch, size], out_classes)?,
        Tensor::vector(valid),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    const HARD: Suppression =
        Suppression { max_output_size: 5, iou_threshold: 0.5, score_threshold: 0.0, soft_nms_sigma: 0.0 };

    #[test]
    fn overlapping_boxes_are_dropped() {
        let boxes = vec![0.0f32, 0.0, 1.0, 1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 5.0, 1.0, 6.0];
        let boxes = Tensor::new([3, 4], boxes).unwrap();
        let scores = Tensor::vector(vec![0.9f32, 0.8, 0.7]);
        let got = non_max_suppression(&boxes, &scores, &HARD).unwrap();
        assert_eq!(got.indices, [0, 2]);
        let (indices, _, valid) = got.padded(5);
        assert_eq!(indices.data::<i32>().unwrap(), [0, 2, 0, 0, 0]);
        assert_eq!(valid.data::<i32>().unwrap(), [2]);
        assert!(non_max_suppression(&boxes, &Tensor::vector(vec![0.1f32]), &HARD).is_err());
    }

    #[test]
    fn soft_suppression_agrees_with_tensorflow() {
        let boxes = vec![0.0f32, 0.0, 1.0, 1.0, 0.0, 0.0, 1.0, 1.1, 0.0, 5.0, 1.0, 6.0, 0.0, 0.2, 1.0, 1.2];
        let boxes = Tensor::new([4, 4], boxes).unwrap();
        let scores = Tensor::vector(vec![0.9f32, 0.8, 0.7, 0.85]);
        let how = Suppression { score_threshold: 0.1, soft_nms_sigma: 0.5, ..HARD };
        let got = non_max_suppression(&boxes, &scores, &how).unwrap();
        assert_eq!(got.indices, [0, 2, 3, 1]);
        let want = [0.9, 0.7, 0.545_003_35, 0.199_470_25];
        assert!(got.scores.iter().zip(want).all(|(g, w): (_, f32)| (g - w).abs() < 1e-6));
    }

    #[test]
    fn combined_suppression_agrees_with_tensorflow() {
        let boxes = vec![0.0f32, 0.0, 1.0, 1.0, 0.0, 0.0, 1.0, 1.1, 0.0, 5.0, 1.0, 6.0, 0.0, 0.2, 1.0, 1.2];
        let boxes = Tensor::new([1, 4, 1, 4], boxes).unwrap();
        let scores = Tensor::new([1, 4, 2], vec![0.9f32, 0.1, 0.8, 0.3, 0.7, 0.95, 0.85, 0.2]).unwrap();
        let how = Combined {
            max_output_size_per_class: 2,
            max_total_size: 5,
            iou_threshold: 0.5,
            score_threshold: 0.15,
            pad_per_class: false,
            clip_boxes: true,
        };
        let [b, s, c, n] = combined_non_max_suppression(&boxes, &scores, &how).unwrap();
        assert_eq!(s.data::<f32>().unwrap(), [0.95, 0.9, 0.7, 0.3, 0.0]);
        assert_eq!(c.data::<f32>().unwrap(), [1.0, 0.0, 0.0, 1.0, 0.0]);
        assert_eq!(b.data::<f32>().unwrap()[..4], [0.0, 1.0, 1.0, 1.0]);
        assert_eq!(n.data::<i32>().unwrap(), [4]);
        let how = Combined { max_output_size_per_class: 1, pad_per_class: true, ..how };
        assert_eq!(combined_non_max_suppression(&boxes, &scores, &how).unwrap()[1].dims(), [1, 2]);
    }
}
