//! Loops that the element-wise families share: everything here knows chunks, nothing knows ops.
use crate::{Element, Result, TensorOf};

/// Elements copied at a time when an input cannot be overwritten: small enough to stay in the L1 cache.
pub(crate) const CHUNK: usize = 1024;

/// Overwrites `x` with `f` of slices of it; copies chunk by chunk when the data is shared.
pub(crate) fn overwrite<T: Element + Copy>(mut x: TensorOf<T>, f: impl Fn(&mut [T]) + Sync) -> TensorOf<T> {
    if x.is_unique() {
        f(x.data_mut());
        return x;
    }
    let mut out = Vec::with_capacity(x.len());
    for chunk in x.data().chunks(CHUNK) {
        let start = out.len();
        out.extend_from_slice(chunk);
        f(&mut out[start..]);
    }
    // The shape is that of an existing tensor of the same length.
    TensorOf::new(x.shape(), out).unwrap_or(x)
}

/// `f` of every element, overwriting `x` where possible.
pub(crate) fn map_same<T: Element + Copy>(x: TensorOf<T>, f: impl Fn(T) -> T + Sync) -> TensorOf<T> {
    overwrite(x, |s| s.iter_mut().for_each(|v| *v = f(*v)))
}

/// `f` of every element, as another type.
pub(crate) fn map<T: Element + Copy, O: Element>(
    x: &TensorOf<T>,
    f: impl Fn(T) -> O + Sync,
) -> Result<TensorOf<O>> {
    TensorOf::new(x.shape(), x.data().iter().map(|&v| f(v)).collect())
}
