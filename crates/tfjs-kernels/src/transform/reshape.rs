//! `Reshape`, `ExpandDims`, `Squeeze`, `BroadcastTo`, `BroadcastArgs`.
use smallvec::SmallVec;

use crate::{
    KernelError, Result, Shape, Tensor,
    movement::{self, Axis},
};

/// The same elements under a shape that may contain one -1.
///
/// # Errors
/// As [`reshape_dims`].
pub fn reshape(input: Tensor, shape: &[i32]) -> Result<Tensor> {
    let shape = reshape_dims(&input.shape(), shape)?;
    input.reshape(shape)
}

/// The shape with its -1, if any, filled in for a tensor of shape `from`.
///
/// # Errors
/// [`KernelError`] for a second -1, other negative values, or a number of elements that does not fit.
pub fn reshape_dims(from: &Shape, shape: &[i32]) -> Result<Shape> {
    let wrong =
        |expected| KernelError::Argument { what: "the new shape", got: format!("{shape:?}"), expected };
    let elements = from.checked_len()?;
    let open = shape.iter().filter(|&&d| d == -1).count();
    if open > 1 {
        return Err(wrong("a shape with at most one -1"));
    }
    if shape.iter().any(|&d| d < -1) {
        return Err(wrong("a shape with no negative values but one -1"));
    }
    let given: Shape = shape.iter().filter(|&&d| d != -1).map(|&d| d as usize).collect();
    let missing = if open == 0 {
        0
    } else if given.contains(&0) {
        // Nothing determines the -1 of an empty shape; TensorFlow compares what is not 0 on either side.
        let product = |s: &Shape| s.iter().filter(|&&d| d != 0).copied().collect::<Shape>().checked_len();
        product(from)? / product(&given)?
    } else {
        let given = given.checked_len()?;
        if !elements.is_multiple_of(given) {
            return Err(wrong("a shape whose -1 can be filled in for the number of elements"));
        }
        elements / given
    };
    let to: Shape = shape.iter().map(|&d| if d == -1 { missing } else { d as usize }).collect();
    if to.checked_len()? != elements {
        let why = "have different numbers of elements";
        return Err(KernelError::Shapes { left: from.clone(), right: to, why });
    }
    Ok(to)
}

/// Inserts a dimension of size 1 before `axis`, in `[-rank-1, rank]`.
///
/// # Errors
/// [`KernelError::Range`] when `axis` is out of range.
pub fn expand_dims(input: Tensor, axis: i64) -> Result<Tensor> {
    let shape = expand_dims_shape(input.dims(), axis)?;
    input.reshape(shape)
}

/// `dims` with one more dimension, of size `one`, at `axis`.
///
/// # Errors
/// [`KernelError::Range`] when `axis` is out of range.
pub fn expand_dims_shape(dims: &[usize], axis: i64) -> Result<Shape> {
    let axis = movement::axis(axis, dims.len() + 1)?;
    Ok(dims[..axis].iter().copied().chain([1]).chain(dims[axis..].iter().copied()).collect())
}

/// Drops dimensions of size 1: those named, or all when none are.
///
/// # Errors
/// [`KernelError`] when a named axis is out of range or its size is not 1.
pub fn squeeze(input: Tensor, axes: &[i64]) -> Result<Tensor> {
    let shape = squeeze_shape(input.dims(), axes)?;
    input.reshape(shape)
}

/// Shape of [`squeeze`]'s result.
///
/// # Errors
/// As [`squeeze`].
pub fn squeeze_shape(dims: &[usize], axes: &[i64]) -> Result<Shape> {
    let mut drop: SmallVec<[bool; 6]> = dims.iter().map(|&d| axes.is_empty() && d == 1).collect();
    for &a in axes {
        let axis = movement::axis(a, dims.len())?;
        if dims[axis] != 1 {
            return Err(KernelError::Argument {
                what: "the size of a squeezed dimension",
                got: dims[axis].to_string(),
                expected: "1",
            });
        }
        drop[axis] = true;
    }
    Ok(dims.iter().zip(drop).filter(|(_, drop)| !drop).map(|(&d, _)| d).collect())
}

/// Repeats dimensions of size 1 until the tensor has `shape`.
///
/// # Errors
/// [`KernelError`] when the shapes do not go together or the result is too large.
pub fn broadcast_to(input: Tensor, shape: &[i32]) -> Result<Tensor> {
    let from = input.shape();
    let wrong = |right: Shape| KernelError::Shapes {
        left: from.clone(),
        right,
        why: "do not go together: the first cannot be broadcast to the second",
    };
    let mut to = Shape::default();
    for &s in shape {
        to.push(movement::count("a dimension", s)?);
    }
    if to.len() < from.len() {
        return Err(wrong(to));
    }
    let len = to.checked_len()?;
    let mut dims: Shape = std::iter::repeat_n(1, to.len() - from.len()).collect();
    from.iter().for_each(|&d| dims.push(d));
    let mut axes = Vec::with_capacity(to.len());
    for (&from, &to_dim) in dims.iter().zip(to.iter()) {
        axes.push(match (from, to_dim) {
            (f, t) if f == t => Axis::whole(t),
            (1, t) => Axis::range(0, 0, t),
            _ => return Err(wrong(to)),
        });
    }
    if dims == to {
        return input.reshape(to);
    }
    if len == 0 {
        return Tensor::zeros(input.dtype(), to);
    }
    crate::match_tensor!(&input, t => Tensor::from_buffer(to, movement::gather(t.data(), &dims, &axes, &Default::default())))
}

/// The shape that two shapes broadcast to, by the usual rules (right-aligned, 1 stretches).
///
/// # Errors
/// [`KernelError::Shapes`] when they cannot.
pub fn broadcast_shapes(left: &Shape, right: &Shape) -> Result<Shape> {
    let rank = left.len().max(right.len());
    let dim = |s: &Shape, d: usize| (d + s.len()).checked_sub(rank).map_or(1, |i| s[i]);
    (0..rank)
        .map(|d| match (dim(left, d), dim(right, d)) {
            (a, b) if a == b || b == 1 => Ok(a),
            (1, b) => Ok(b),
            _ => Err(KernelError::Shapes {
                left: left.clone(),
                right: right.clone(),
                why: "cannot be broadcast together",
            }),
        })
        .collect()
}

/// [`broadcast_shapes`] on shapes that are tensors: `s0: [r0]`, `s1: [r1]`.
///
/// # Errors
/// [`KernelError`] when an input is not a vector of sizes or the shapes cannot be broadcast together.
pub fn broadcast_args(s0: &Tensor, s1: &Tensor) -> Result<Tensor> {
    let shape = |t: &Tensor, what| {
        if t.rank() > 1 {
            return Err(KernelError::Rank { what, got: t.shape(), expected: "a vector of sizes" });
        }
        let dims = t.typed::<i32>(what)?.data().iter().map(|&d| movement::count("a dimension", d));
        Ok(Shape::from(dims.collect::<Result<Vec<_>>>()?))
    };
    let out = broadcast_shapes(&shape(s0, "s0")?, &shape(s1, "s1")?)?;
    // Every entry came from an i32.
    Ok(Tensor::vector(out.iter().map(|&d| d as i32).collect::<Vec<_>>()))
}

#[cfg(test)]
mod tests {
    use super::{broadcast_to, reshape_dims, squeeze_shape};
    use crate::{Shape, Tensor};

    // As TensorFlow 2.19 does.
    #[test]
    fn one_dimension_of_a_reshape_may_be_left_open() {
        let dims = |from: &[usize], to: &[i32]| reshape_dims(&Shape::from(from), to).map(|s| s.to_vec());
        assert_eq!(dims(&[2, 6], &[3, -1]).unwrap(), [3, 4]);
        assert_eq!(dims(&[], &[-1]).unwrap(), [1]);
        assert_eq!(dims(&[1, 2, 0], &[2, 0, -1]).unwrap(), [2, 0, 1]);
        assert_eq!(dims(&[0, 3], &[-1, 3]).unwrap(), [0, 3]);
        for (from, to) in
            [(&[2, 6][..], &[5, -1][..]), (&[4], &[-1, -1]), (&[4], &[-2]), (&[4], &[5]), (&[4], &[0, -1])]
        {
            assert!(dims(from, to).is_err(), "{from:?} {to:?}");
        }
    }

    #[test]
    fn malformed_arguments_are_errors() {
        assert!(squeeze_shape(&[2, 1], &[0]).is_err());
        assert!(broadcast_to(Tensor::vector(vec![1, 2]), &[3]).is_err());
        assert!(broadcast_to(Tensor::vector(vec![1, 2]), &[-1, 2]).is_err());
        assert!(broadcast_to(Tensor::scalar(1), &[i32::MAX, i32::MAX, i32::MAX]).is_err());
    }
}
