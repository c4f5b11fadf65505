//! `Pad`, `PadV2`, `MirrorPad`.
use crate::{
    KernelError, Result, Shape, Tensor,
    movement::{self, Axis, Run},
};

/// How [`mirror_pad`] reflects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MirrorMode {
    /// The border itself is not repeated: `cb|abc|ba`.
    Reflect,
    /// The border is repeated: `ba|abc|cb`.
    Symmetric,
}

/// Amounts before and after each dimension of `dims`, from an `[n, 2]` tensor of paddings.
fn amounts(dims: &[usize], paddings: &Tensor) -> Result<Vec<(usize, usize)>> {
    let p = paddings.typed::<i32>("paddings")?;
    if p.dims() != [dims.len(), 2] {
        return Err(KernelError::Shapes {
            left: p.shape(),
            right: Shape::from(dims),
            why: "do not go together: paddings have one row of two values per dimension",
        });
    }
    p.data()
        .chunks_exact(2)
        .map(|pair| Ok((movement::count("a padding", pair[0])?, movement::count("a padding", pair[1])?)))
        .collect()
}

/// The shape of a tensor of shape `dims` after padding.
///
/// # Errors
/// [`KernelError`] when `paddings` is not `[rank, 2]`, has negative values, or the result is too large.
pub fn padded_shape(dims: &[usize], paddings: &Tensor) -> Result<Shape> {
    let mut shape = Shape::default();
    for (&d, (before, after)) in dims.iter().zip(amounts(dims, paddings)?) {
        let sum = d.checked_add(before).and_then(|n| n.checked_add(after));
        shape.push(sum.ok_or_else(|| KernelError::TooLarge { shape: format!("{d} + {before} + {after}") })?);
    }
    shape.checked_len()?;
    Ok(shape)
}

/// Surrounds a tensor with a constant (zeros, `false`, empty strings by default).
///
/// `paddings: [rank, 2]`.
///
/// # Errors
/// [`KernelError`] as [`padded_shape`], or when `value` is not a scalar of the input's type.
pub fn pad(input: Tensor, paddings: &Tensor, value: Option<&Tensor>) -> Result<Tensor> {
    let dims = input.shape();
    let shape = padded_shape(&dims, paddings)?;
    if let Some(value) = value.filter(|v| v.rank() != 0) {
        return Err(KernelError::Rank {
            what: "the padding value",
            got: value.shape(),
            expected: "a scalar",
        });
    }
    let axes: Vec<Axis> = dims
        .iter()
        .zip(amounts(&dims, paddings)?)
        .map(|(&d, (before, after))| {
            Axis::from_runs([
                Run::Fill { len: before },
                Run::Copy { start: 0, step: 1, len: d },
                Run::Fill { len: after },
            ])
        })
        .collect();
    crate::match_tensor!(input, t => {
        let fill = match value {
            Some(v) => same_type(v, &t)?.data().first().cloned().unwrap_or_default(),
            None => Default::default(),
        };
        if shape == dims {
            return Ok(crate::Element::wrap(t));
        }
        Tensor::from_buffer(shape, movement::gather(t.data(), &dims, &axes, &fill))
    })
}

/// Lets the type of `value` follow from that of `like`.
fn same_type<'a, T: crate::Element>(
    value: &'a Tensor,
    _like: &crate::TensorOf<T>,
) -> Result<&'a crate::TensorOf<T>> {
    value.typed::<T>("the padding value")
}

/// Surrounds a tensor with its own reflection.
///
/// `paddings: [rank, 2]`, each at most the dimension ([`MirrorMode::Symmetric`]) or one less
/// ([`MirrorMode::Reflect`]).
///
/// # Errors
/// [`KernelError`] as [`padded_shape`], or when a padding is larger than that.
pub fn mirror_pad(input: Tensor, paddings: &Tensor, mode: MirrorMode) -> Result<Tensor> {
    let dims = input.shape();
    let shape = padded_shape(&dims, paddings)?;
    let skip = usize::from(mode == MirrorMode::Reflect);
    let axes = dims
        .iter()
        .zip(amounts(&dims, paddings)?)
        .map(|(&d, (before, after))| {
            let max = d.saturating_sub(skip);
            if before.max(after) > max {
                return Err(KernelError::Range {
                    what: "a padding",
                    got: before.max(after) as i64,
                    min: 0,
                    max: max as i64 + 1,
                });
            }
            Ok(Axis::from_runs([
                Run::Copy { start: (before + skip).saturating_sub(1), step: -1, len: before },
                Run::Copy { start: 0, step: 1, len: d },
                Run::Copy { start: d.saturating_sub(1 + skip), step: -1, len: after },
            ]))
        })
        .collect::<Result<Vec<_>>>()?;
    if shape == dims {
        return Ok(input);
    }
    crate::match_tensor!(&input, t => Tensor::from_buffer(shape, movement::gather(t.data(), &dims, &axes, &Default::default())))
}

#[cfg(test)]
mod tests {
    use super::{MirrorMode, mirror_pad};
    use crate::Tensor;

    // Values from TensorFlow 2.19.
    #[test]
    fn mirrors_with_and_without_the_border() {
        let x = || Tensor::new([2, 3], vec![1, 2, 3, 4, 5, 6]).unwrap();
        let pad = |v: [i32; 4]| Tensor::new([2, 2], v.to_vec()).unwrap();
        let t = mirror_pad(x(), &pad([1, 1, 2, 1]), MirrorMode::Reflect).unwrap();
        let (a, b) = ([6, 5, 4, 5, 6, 5], [3, 2, 1, 2, 3, 2]);
        assert_eq!(t.data::<i32>().unwrap(), [a, b, a, b].concat());
        let t = mirror_pad(x(), &pad([1, 0, 1, 3]), MirrorMode::Symmetric).unwrap();
        let (a, b) = ([1, 1, 2, 3, 3, 2, 1], [4, 4, 5, 6, 6, 5, 4]);
        assert_eq!(t.data::<i32>().unwrap(), [a, a, b].concat());
        assert!(mirror_pad(x(), &pad([2, 0, 0, 0]), MirrorMode::Reflect).is_err());
    }
}
