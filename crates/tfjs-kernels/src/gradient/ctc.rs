//! Connectionist temporal classification (Graves et al., 2006).
use crate::{KernelError, Result, Tensor, normalize, par};

/// Which class is the blank, and what happens to labels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ctc {
    /// The blank is class 0; otherwise the last one.
    pub blank_first: bool,
    /// A class that goes on for several steps is one label; otherwise only blanks go on.
    pub merge_repeated: bool,
    /// Repeated labels are made one before anything else.
    pub collapse_repeated: bool,
    /// Sequences with more labels than steps have no loss; otherwise they are an error.
    pub ignore_longer: bool,
}

/// `-log P(labels | logits)` per sequence, `[batch]`, and its gradient by the logits; both 0 beyond the length of a sequence.
///
/// `logits: [steps, batch, classes]`; label `i` is `values[i]`, of the sequence `indices[i, 0]`; `lengths: [batch]` are steps.
///
/// # Errors
/// When types or shapes are others, a label is no class, or a sequence has too few steps for its labels.
pub fn ctc_loss(
    logits: Tensor,
    indices: &Tensor,
    values: &Tensor,
    lengths: &Tensor,
    ctc: Ctc,
) -> Result<(Tensor, Tensor)> {
    let [steps, batch, classes] = *logits.dims() else {
        return Err(KernelError::Rank {
            what: "the logits",
            got: logits.shape(),
            expected: "three dimensions",
        });
    };
    let (indices, values) = (indices.typed::<i32>("the indices")?, values.typed::<i32>("the labels")?);
    let lengths = lengths.typed::<i32>("the lengths")?;
    if lengths.dims() != [batch] {
        let why = "do not go together: there is one length per sequence";
        return Err(KernelError::Shapes { left: logits.shape(), right: lengths.shape(), why });
    }
    if indices.dims() != [values.data().len(), 2] || values.dims().len() != 1 {
        let why = "do not go together: a label has a sequence and a place in it";
        return Err(KernelError::Shapes { left: values.shape(), right: indices.shape(), why });
    }
    let range = |what, got: i32, max: usize| {
        usize::try_from(got).ok().filter(|&n| n < max).ok_or(KernelError::Range {
            what,
            got: got.into(),
            min: 0,
            max: max as i64,
        })
    };
    let blank = if ctc.blank_first { 0 } else { classes.saturating_sub(1) };
    let mut labels: Vec<Vec<usize>> = vec![Vec::new(); batch];
    for (place, &label) in indices.data().chunks_exact(2).zip(values.data()) {
        labels[range("the sequence of a label", place[0], batch)?].push(range("a label", label, classes)?);
    }
    for (sequence, labels) in labels.iter_mut().enumerate() {
        if ctc.collapse_repeated {
            labels.dedup();
        }
        let length = range("the length of a sequence", lengths.data()[sequence], steps + 1)?;
        // A repeated label needs a blank in between.
        let needed = labels.len() + labels.windows(2).filter(|w| w[0] == w[1]).count();
        if needed > length && !ctc.ignore_longer {
            return Err(KernelError::Range {
                what: "the number of steps that the labels of a sequence need",
                got: needed as i64,
                min: 0,
                max: length as i64 + 1,
            });
        }
    }
    let log = normalize::log_softmax(logits)?;
    let log = log.data::<f32>()?;
    let results = par::map_ranges(batch, 1, |r| {
        let b = r.start;
        let length = usize::try_from(lengths.data()[b]).unwrap_or(0);
        let rows: Vec<&[f32]> = (0..length).map(|t| &log[(t * batch + b) * classes..][..classes]).collect();
        one(&rows, &labels[b], blank, ctc.merge_repeated)
    });
    let mut loss = Vec::with_capacity(batch);
    let mut gradient = vec![0f32; steps * batch * classes];
    for (b, (value, rows)) in results.into_iter().enumerate() {
        loss.push(value);
        for (t, row) in rows.chunks_exact(classes.max(1)).enumerate() {
            gradient[(t * batch + b) * classes..][..classes].copy_from_slice(row);
        }
    }
    Ok((Tensor::vector(loss), Tensor::new([steps, batch, classes], gradient)?))
}

/// The loss of a sequence, and its gradient step by step. `log`: the logarithms of the probabilities of each step.
fn one(log: &[&[f32]], labels: &[usize], blank: usize, merge: bool) -> (f32, Vec<f32>) {
    const NONE: f64 = f64::NEG_INFINITY;
    let classes = log.first().map_or(0, |row| row.len());
    // Blanks before, between and after the labels.
    let states: Vec<usize> = labels.iter().flat_map(|&l| [blank, l]).chain([blank]).collect();
    let (n, steps) = (states.len(), log.len());
    if steps == 0 {
        return (0.0, Vec::new());
    }
    let skips = |s: usize| s >= 2 && states[s] != blank && !(merge && states[s] == states[s - 2]);
    let stays = |s: usize| merge || states[s] == blank;
    let at = |t: usize, s: usize| f64::from(log[t][states[s]]);
    // Logarithms of the probability to have come to a state, with its step.
    let mut forward = vec![NONE; steps * n];
    for (s, first) in forward.iter_mut().take(n.min(2)).enumerate() {
        *first = at(0, s);
    }
    for t in 1..steps {
        let (before, now) = forward[(t - 1) * n..(t + 1) * n].split_at_mut(n);
        for s in 0..n {
            let mut sum = if stays(s) { before[s] } else { NONE };
            if s >= 1 {
                sum = log_add(sum, before[s - 1]);
            }
            if skips(s) {
                sum = log_add(sum, before[s - 2]);
            }
            now[s] = sum + at(t, s);
        }
    }
    let ends = &forward[(steps - 1) * n..];
    let total =
        ends[n - 1..].iter().chain(n.checked_sub(2).map(|s| &ends[s])).fold(NONE, |a, &b| log_add(a, b));
    let mut gradient = vec![0f32; steps * classes];
    if total == NONE {
        return (0.0, gradient);
    }
    // Logarithms of the probability to go on from a state to the end, without its step.
    let mut backward = vec![NONE; n];
    backward[n.saturating_sub(2)..].fill(0.0);
    let mut occupied = vec![0f64; classes];
    for t in (0..steps).rev() {
        occupied.fill(0.0);
        for s in 0..n {
            occupied[states[s]] += (forward[t * n + s] + backward[s] - total).exp();
        }
        let row = &mut gradient[t * classes..(t + 1) * classes];
        for ((g, &l), &o) in row.iter_mut().zip(log[t]).zip(&occupied) {
            *g = (f64::from(l).exp() - o) as f32;
        }
        // In place: a state goes to itself and to later ones.
        let next: Vec<f64> = (0..n).map(|s| backward[s] + at(t, s)).collect();
        for s in 0..n {
            let mut sum = if stays(s) { next[s] } else { NONE };
            if s + 1 < n {
                sum = log_add(sum, next[s + 1]);
            }
            if s + 2 < n && skips(s + 2) {
                sum = log_add(sum, next[s + 2]);
            }
            backward[s] = sum;
        }
    }
    (-total as f32, gradient)
}

/// log(exp a + exp b)
fn log_add(a: f64, b: f64) -> f64 {
    let (low, high) = if a < b { (a, b) } else { (b, a) };
    if low == f64::NEG_INFINITY { high } else { high + (low - high).exp().ln_1p() }
}
