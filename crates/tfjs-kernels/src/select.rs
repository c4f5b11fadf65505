//! Choosing between two tensors, element by element.
use crate::{
    Element, KernelError, Result, Tensor, TensorOf,
    broadcast::{Walk, broadcast_shape},
};

/// TF1's `Select`: `then` and `otherwise` have one shape; `condition` has it too, or is a scalar, or
/// is a vector that chooses whole rows along the first dimension.
///
/// # Errors
/// [`KernelError`] when types or shapes do not go together.
pub fn select(condition: &Tensor, then: Tensor, otherwise: Tensor) -> Result<Tensor> {
    if then.dims() != otherwise.dims() {
        return Err(KernelError::Shapes { left: then.shape(), right: otherwise.shape(), why: "differ" });
    }
    let choose = condition.typed::<bool>("the condition")?;
    let &[pick] = choose.data() else {
        let rank = then.rank();
        let fits = choose.dims() == then.dims()
            || (choose.dims().len() == 1 && then.dims().first() == choose.dims().first());
        if !fits {
            return Err(KernelError::Shapes {
                left: choose.shape(),
                right: then.shape(),
                why: "do not agree: the condition is a scalar, a vector over the first dimension, or of the same shape",
            });
        }
        let mut shape = choose.shape();
        while shape.len() < rank {
            shape.push(1);
        }
        return select_v2(&Tensor::Bool(choose.clone().reshape(shape)?), then, otherwise);
    };
    let one_row = choose.dims().len() == 1 && then.dims().first() == Some(&1);
    let fits = choose.dims().is_empty() || choose.dims() == then.dims() || one_row;
    if !fits {
        return Err(KernelError::Shapes {
            left: choose.shape(),
            right: then.shape(),
            why: "do not agree: the condition is a scalar, a vector over the first dimension, or of the same shape",
        });
    }
    if then.dtype() != otherwise.dtype() {
        return Err(mismatch(&then, &otherwise));
    }
    Ok(if pick { then } else { otherwise })
}

/// `condition ? then : otherwise`, all three broadcast.
///
/// # Errors
/// [`KernelError`] when types or shapes do not go together.
pub fn select_v2(condition: &Tensor, then: Tensor, otherwise: Tensor) -> Result<Tensor> {
    let choose = condition.typed::<bool>("the condition")?;
    match (then, otherwise) {
        (Tensor::F32(a), Tensor::F32(b)) => Ok(pick(choose, a, b)?.into()),
        (Tensor::I32(a), Tensor::I32(b)) => Ok(pick(choose, a, b)?.into()),
        (Tensor::Bool(a), Tensor::Bool(b)) => Ok(pick(choose, a, b)?.into()),
        (Tensor::Str(a), Tensor::Str(b)) => Ok(pick(choose, a, b)?.into()),
        (Tensor::C64(a), Tensor::C64(b)) => Ok(pick(choose, a, b)?.into()),
        (then, otherwise) => Err(mismatch(&then, &otherwise)),
    }
}

fn mismatch(then: &Tensor, otherwise: &Tensor) -> KernelError {
    KernelError::DType { what: "the value for false", got: otherwise.dtype(), expected: then.dtype().name() }
}

fn pick<T: Element>(choose: &TensorOf<bool>, mut a: TensorOf<T>, b: TensorOf<T>) -> Result<TensorOf<T>> {
    let shape = broadcast_shape(&broadcast_shape(choose.dims(), a.dims())?, b.dims())?;
    let len = shape.checked_len()?;
    if a.dims() == &shape[..] && choose.dims() == &shape[..] && b.dims() == &shape[..] && a.is_unique() {
        let values = a.data_mut().iter_mut().zip(b.data());
        for (&keep, (a, b)) in choose.data().iter().zip(values) {
            if !keep {
                a.clone_from(b);
            }
        }
        return Ok(a);
    }
    let walk = Walk::new(&shape, [choose.dims(), a.dims(), b.dims()]);
    let mut out = Vec::with_capacity(len);
    if len > 0 {
        let (c, a, b, n) = (choose.data(), a.data(), b.data(), walk.inner);
        let [mc, ma, mb] = walk.moves.map(usize::from);
        walk.for_rows(0..walk.rows(), |_, [i, j, k]| match walk.moves {
            [true, true, true] => out.extend(
                c[i..i + n]
                    .iter()
                    .zip(a[j..j + n].iter().zip(&b[k..k + n]))
                    .map(|(&c, (a, b))| if c { a.clone() } else { b.clone() }),
            ),
            [false, true, _] if c[i] => out.extend_from_slice(&a[j..j + n]),
            [false, _, true] if !c[i] => out.extend_from_slice(&b[k..k + n]),
            _ => out.extend(
                (0..n).map(|x| if c[i + mc * x] { a[j + ma * x].clone() } else { b[k + mb * x].clone() }),
            ),
        });
    }
    TensorOf::new(shape, out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v(x: &[f32]) -> Tensor {
        Tensor::vector(x.to_vec())
    }

    #[test]
    fn a_vector_condition_chooses_rows() {
        let (a, b) = (
            v(&[1.0, 2.0, 3.0, 4.0]).reshape([2, 2]).unwrap(),
            v(&[5.0, 6.0, 7.0, 8.0]).reshape([2, 2]).unwrap(),
        );
        let c = Tensor::vector(vec![true, false]);
        let got = select(&c, a, b).unwrap();
        assert_eq!(got.data::<f32>().unwrap(), [1.0, 2.0, 7.0, 8.0]);
    }

    #[test]
    fn select_does_not_broadcast_values_but_select_v2_does() {
        let c = Tensor::vector(vec![true, false]);
        assert!(select(&c, Tensor::scalar(1.0f32), v(&[5.0, 6.0])).is_err());
        let got = select_v2(&c, Tensor::scalar(1.0f32), v(&[5.0, 6.0])).unwrap();
        assert_eq!(got.data::<f32>().unwrap(), [1.0, 6.0]);
    }

    #[test]
    fn select_v2_broadcasts_all_three() {
        let c = Tensor::new([2, 1], vec![true, false]).unwrap();
        let got = select_v2(&c, v(&[1.0, 2.0, 3.0]), Tensor::scalar(0.0f32)).unwrap();
        assert_eq!(got.dims(), [2, 3]);
        assert_eq!(got.data::<f32>().unwrap(), [1.0, 2.0, 3.0, 0.0, 0.0, 0.0]);
    }
}
