//! Tensors from shapes and scalars.
use crate::{Element, KernelError, Result, Shape, Tensor, match_tensor, pool, reduce::axis};

/// A shape from the elements of an int32 tensor.
///
/// # Errors
/// [`KernelError`] when there is more than one dimension, or a size is negative.
pub fn shape_from(dims: &Tensor) -> Result<Shape> {
    let list = dims.typed::<i32>("the shape")?;
    if list.dims().len() > 1 {
        return Err(KernelError::Rank { what: "the shape", got: list.shape(), expected: "a vector" });
    }
    list.data()
        .iter()
        .map(|&d| {
            usize::try_from(d).map_err(|_| KernelError::Argument {
                what: "a dimension",
                got: d.to_string(),
                expected: "at least 0",
            })
        })
        .collect()
}

/// A tensor of `shape` in which every element is the scalar `value`.
///
/// # Errors
/// [`KernelError`] when `value` is not a scalar, or the shape is too large.
pub fn fill(shape: Shape, value: &Tensor) -> Result<Tensor> {
    if value.rank() != 0 {
        return Err(KernelError::Rank { what: "the value", got: value.shape(), expected: "a scalar" });
    }
    fn of<T: Element>(shape: Shape, value: &[T]) -> Result<Tensor> {
        let n = shape.checked_len()?;
        let mut out = pool::elements(n);
        out.fill(value.first().cloned().unwrap_or_default());
        Tensor::from_buffer(shape, out)
    }
    match_tensor!(value, t => of(shape, t.data()))
}

/// Ones (`true` for bool) in the type and shape of `x`.
///
/// # Errors
/// [`KernelError::DType`] for strings.
pub fn ones_like(x: &Tensor) -> Result<Tensor> {
    let one = crate::cast::cast(Tensor::scalar(1i32), x.dtype().to_proto(), false);
    match one {
        Ok(one) => fill(x.shape(), &one),
        Err(_) => Err(KernelError::DType { what: "the input", got: x.dtype(), expected: "a number or bool" }),
    }
}

/// `start`, `start + delta`, … up to but not including `limit`.
///
/// # Errors
/// [`KernelError`] when the three are not scalars of one number type, `delta` is 0 or leads away from `limit`,
/// or there would be too many elements.
pub fn range(start: &Tensor, limit: &Tensor, delta: &Tensor) -> Result<Tensor> {
    let away = |got: String| {
        Err(KernelError::Argument { what: "delta", got, expected: "not 0, and leading from start to limit" })
    };
    match start {
        Tensor::I32(_) => {
            let [a, b, d] =
                [scalar::<i32>(start, "start")?, scalar(limit, "limit")?, scalar(delta, "delta")?];
            let (span, step) = (i64::from(b) - i64::from(a), i64::from(d));
            if step == 0 || (span != 0 && (span < 0) != (step < 0)) {
                return away(d.to_string());
            }
            let n = span.unsigned_abs().div_ceil(step.unsigned_abs()) as usize;
            let n = Shape::from([n]).checked_len()?;
            Ok(Tensor::vector((0..n as i64).map(|i| (i64::from(a) + i * step) as i32).collect()))
        }
        _ => {
            let [a, b, d] =
                [scalar::<f32>(start, "start")?, scalar(limit, "limit")?, scalar(delta, "delta")?];
            if d == 0.0 || d.is_nan() || (d > 0.0 && a > b) || (d < 0.0 && a < b) {
                return away(d.to_string());
            }
            let n = ((f64::from(b) - f64::from(a)) / f64::from(d)).abs().ceil();
            if !(0.0..2f64.powi(40)).contains(&n) {
                return Err(KernelError::TooLarge { shape: format!("[{n}]") });
            }
            Ok(Tensor::vector((0..n as usize).map(|i| a + i as f32 * d).collect()))
        }
    }
}

/// `num` evenly spaced numbers from `start` to `stop`, both included.
///
/// # Errors
/// [`KernelError`] when the bounds are not float32 scalars or `num` is not positive.
pub fn linspace(start: &Tensor, stop: &Tensor, num: i64) -> Result<Tensor> {
    let (a, b) = (scalar::<f32>(start, "start")?, scalar::<f32>(stop, "stop")?);
    let n = usize::try_from(num).ok().filter(|&n| n > 0).ok_or_else(|| KernelError::Argument {
        what: "num",
        got: num.to_string(),
        expected: "at least 1",
    })?;
    let n = Shape::from([n]).checked_len()?;
    if n == 1 {
        return Ok(Tensor::vector(vec![a]));
    }
    let step = (b - a) / (n - 1) as f32;
    let mut out: Vec<f32> = (0..n).map(|i| a + step * i as f32).collect();
    out[n - 1] = b;
    Ok(Tensor::vector(out))
}

/// A new dimension of size `depth` at `at` (-1: the last), with `on` where its index is the element of `indices`
/// and `off` elsewhere.
///
/// # Errors
/// [`KernelError`] when the types do not fit, `depth` is negative or the axis is out of range.
pub fn one_hot(indices: &Tensor, depth: i64, on: &Tensor, off: &Tensor, at: i64) -> Result<Tensor> {
    let list = indices.typed::<i32>("the indices")?;
    let depth = usize::try_from(depth).map_err(|_| KernelError::Argument {
        what: "depth",
        got: depth.to_string(),
        expected: "at least 0",
    })?;
    let rank = list.dims().len();
    if at < -1 {
        return Err(KernelError::Range { what: "axis", got: at, min: -1, max: rank as i64 + 1 });
    }
    let d = axis(at, rank + 1)?;
    let dims = list.dims();
    let shape: Shape = dims[..d].iter().chain([&depth]).chain(&dims[d..]).copied().collect();
    let inner: usize = dims[d..].iter().product();

    fn of<T: Element>(
        indices: &[i32],
        depth: usize,
        inner: usize,
        shape: Shape,
        on: &[T],
        off: &Tensor,
    ) -> Result<Tensor> {
        let ([on], [off]) = (on, off.typed::<T>("off_value")?.data()) else {
            return Err(KernelError::Rank {
                what: "on_value or off_value",
                got: off.shape(),
                expected: "scalars",
            });
        };
        let n = shape.checked_len()?;
        let mut out = pool::elements(n);
        out.fill(off.clone());
        if n > 0 {
            for (k, &i) in indices.iter().enumerate() {
                if let Ok(i) = usize::try_from(i)
                    && i < depth
                {
                    out[(k / inner * depth + i) * inner + k % inner] = on.clone();
                }
            }
        }
        Tensor::from_buffer(shape, out)
    }
    match_tensor!(on, t => of(list.data(), depth, inner, shape, t.data(), off))
}

pub(crate) fn scalar<T: Element>(x: &Tensor, what: &'static str) -> Result<T> {
    let t = x.typed::<T>(what)?;
    match t.data() {
        [v] => Ok(v.clone()),
        _ => Err(KernelError::Rank { what, got: t.shape(), expected: "a scalar" }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn s<T: Element>(v: T) -> Tensor {
        Tensor::scalar(v)
    }

    #[test]
    fn ranges_agree_with_tensorflow() {
        let r = range(&s(0f32), &s(1f32), &s(0.1f32)).unwrap();
        assert_eq!(r.data::<f32>().unwrap(), [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.900_000_04]);
        let r = range(&s(1f32), &s(0f32), &s(-0.3f32)).unwrap();
        assert_eq!(r.data::<f32>().unwrap(), [1.0, 0.7, 0.399_999_98, 0.099_999_964]);
        assert_eq!(range(&s(5), &s(0), &s(-2)).unwrap().data::<i32>().unwrap(), [5, 3, 1]);
        assert!(range(&s(0), &s(5), &s(0)).is_err());
        assert!(range(&s(0), &s(5), &s(-1)).is_err());
        assert!(range(&s(0f32), &s(f32::MAX), &s(1e-10f32)).is_err());
    }

    #[test]
    fn linspace_agrees_with_tensorflow() {
        let r = linspace(&s(0.1f32), &s(0.7f32), 7).unwrap();
        let want = [0.1, 0.199_999_99, 0.299_999_98, 0.399_999_98, 0.499_999_97, 0.599_999_96, 0.7];
        assert_eq!(r.data::<f32>().unwrap(), want);
        assert!(linspace(&s(0f32), &s(1f32), 0).is_err());
    }

    #[test]
    fn one_hot_leaves_out_what_is_out_of_range() {
        let i = Tensor::vector(vec![0, -1, 2]);
        let y = one_hot(&i, 2, &s(1f32), &s(0f32), 0).unwrap();
        assert_eq!((y.dims(), y.data::<f32>().unwrap()), (&[2, 3][..], &[1.0, 0.0, 0.0, 0.0, 0.0, 0.0][..]));
        assert!(one_hot(&i, -2, &s(1f32), &s(0f32), 0).is_err());
        assert!(one_hot(&i, 2, &s(1f32), &s(0f32), 2).is_err());
    }

    #[test]
    fn huge_fills_are_refused() {
        assert!(fill(Shape::from([usize::MAX, 2]), &s(0f32)).is_err());
        assert!(shape_from(&Tensor::vector(vec![2, -1])).is_err());
    }
}
