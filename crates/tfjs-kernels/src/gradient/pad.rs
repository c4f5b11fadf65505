//! `MirrorPadGrad`.
use crate::{KernelError, Result, Shape, Tensor, transform::MirrorMode};

/// Adds what lies in the padding of a [`crate::transform::mirror_pad`] to where it was copied from.
///
/// `paddings: [rank, 2]`; the result has the shape before padding.
///
/// # Errors
/// When types or shapes do not fit, or a padding is larger than the mode allows.
pub fn mirror_pad_grad(dy: &Tensor, paddings: &Tensor, mode: MirrorMode) -> Result<Tensor> {
    let typed = dy.typed::<f32>("the gradients")?;
    let pairs = paddings.typed::<i32>("paddings")?;
    let rank = typed.dims().len();
    if pairs.dims() != [rank, 2] {
        let why = "do not go together: paddings have one row of two values per dimension";
        return Err(KernelError::Shapes { left: pairs.shape(), right: typed.shape(), why });
    }
    let skip = usize::from(mode == MirrorMode::Reflect);
    // For each dimension where each index came from.
    let mut sources: Vec<Vec<usize>> = Vec::with_capacity(rank);
    let mut shape = Shape::default();
    for (&len, pair) in typed.dims().iter().zip(pairs.data().chunks_exact(2)) {
        let wrong = || KernelError::Range {
            what: "a padding",
            got: i64::from(pair[0].max(pair[1])),
            min: 0,
            max: len as i64,
        };
        let size = |v: i32| usize::try_from(v).map_err(|_| wrong());
        let (before, after) = (size(pair[0])?, size(pair[1])?);
        let inner = len.checked_sub(before + after).ok_or_else(wrong)?;
        if before.max(after) > inner.saturating_sub(skip) {
            return Err(wrong());
        }
        sources.push(
            (0..len)
                .map(|i| {
                    if i < before {
                        before - 1 - i + skip
                    } else if i < before + inner {
                        i - before
                    } else {
                        inner - 1 - skip - (i - before - inner)
                    }
                })
                .collect(),
        );
        shape.push(inner);
    }
    let strides = shape.strides();
    let mut out = vec![0.0f32; shape.checked_len()?];
    let mut index = vec![0usize; rank];
    for &g in typed.data() {
        let at: usize =
            index.iter().zip(&sources).zip(&strides).map(|((&i, s), &stride)| s[i] * stride).sum();
        out[at] += g;
        for d in (0..rank).rev() {
            index[d] += 1;
            if index[d] < typed.dims()[d] {
                break;
            }
            index[d] = 0;
        }
    }
    Tensor::new(shape, out)
}
