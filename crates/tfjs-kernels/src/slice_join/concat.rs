//! `Concat`, `Pack`, `Unpack`, `Split`, `SplitV`, `Tile`.
use crate::{
    Element, KernelError, Result, Shape, Tensor, TensorOf,
    movement::{self, Axis, Run, copy_block},
    pool,
};

/// Joins tensors of one type along `axis` (negative counts from the end).
///
/// # Errors
/// [`KernelError`] when there are no inputs, types or ranks differ, a dimension other than `axis` differs,
/// or `axis` is out of range.
pub fn concat(inputs: Vec<Tensor>, axis: i64) -> Result<Tensor> {
    let Some(first) = inputs.first() else {
        return Err(no_inputs("the number of tensors to join"));
    };
    let shape = first.shape();
    let axis = movement::axis(axis, shape.len())?;
    if inputs.len() == 1 {
        return inputs.into_iter().next().ok_or(no_inputs("the number of tensors to join"));
    }
    let mut out = shape.clone();
    out[axis] = 0;
    for t in &inputs {
        same_but(&shape, &t.shape(), Some(axis), "cannot be joined along this axis")?;
        out[axis] = out[axis]
            .checked_add(t.dims()[axis])
            .ok_or_else(|| KernelError::TooLarge { shape: out.to_string() })?;
    }
    out.checked_len()?;
    match first {
        Tensor::F32(_) => join::<f32>(&inputs, out, axis),
        Tensor::I32(_) => join::<i32>(&inputs, out, axis),
        Tensor::Bool(_) => join::<bool>(&inputs, out, axis),
        Tensor::Str(_) => join::<crate::TfString>(&inputs, out, axis),
        Tensor::C64(_) => join::<num_complex::Complex32>(&inputs, out, axis),
    }
}

/// Stacks tensors of one shape and type along a new `axis`.
///
/// # Errors
/// [`KernelError`] when there are no inputs, shapes or types differ, or `axis` is out of range.
pub fn pack(inputs: Vec<Tensor>, axis: i64) -> Result<Tensor> {
    let Some(first) = inputs.first() else {
        return Err(no_inputs("the number of tensors to stack"));
    };
    let shape = first.shape();
    let axis = movement::axis(axis, shape.len() + 1)?;
    for t in &inputs {
        same_but(&shape, &t.shape(), None, "differ, so the tensors cannot be stacked")?;
    }
    let one: Shape = shape[..axis].iter().copied().chain([1]).chain(shape[axis..].iter().copied()).collect();
    let inputs = inputs.into_iter().map(|t| t.reshape(one.clone())).collect::<Result<Vec<_>>>()?;
    concat(inputs, axis as i64)
}

/// Takes a tensor apart along `axis`, which disappears.
///
/// # Errors
/// [`KernelError`] when `axis` is out of range.
pub fn unpack(input: &Tensor, axis: i64) -> Result<Vec<Tensor>> {
    let dims = input.dims();
    let axis = movement::axis(axis, dims.len())?;
    let without: Shape = dims[..axis].iter().chain(&dims[axis + 1..]).copied().collect();
    let sizes = vec![1; dims[axis]];
    cut(input, axis, &sizes)?.into_iter().map(|t| t.reshape(without.clone())).collect()
}

/// Cuts a tensor into `count` equal pieces along `axis`.
///
/// # Errors
/// [`KernelError`] when `axis` is out of range or its size is not a multiple of `count`.
pub fn split(input: Tensor, count: usize, axis: i64) -> Result<Vec<Tensor>> {
    let axis = movement::axis(axis, input.rank())?;
    let dim = input.dims()[axis];
    if count == 0 || !dim.is_multiple_of(count) {
        return Err(KernelError::Argument {
            what: "the number of pieces",
            got: format!("{count} for a dimension of {dim}"),
            expected: "a divisor of the dimension",
        });
    }
    if count == 1 {
        return Ok(vec![input]);
    }
    cut(&input, axis, &vec![dim / count; count])
}

/// Cuts a tensor into pieces of the given sizes along `axis`; one size may be -1.
///
/// # Errors
/// [`KernelError`] when `axis` is out of range or the sizes do not add up to its size.
pub fn split_v(input: Tensor, sizes: &[i32], axis: i64) -> Result<Vec<Tensor>> {
    let axis = movement::axis(axis, input.rank())?;
    let sizes = split_v_sizes(input.dims()[axis], sizes)?;
    if sizes.len() == 1 {
        return Ok(vec![input]);
    }
    cut(&input, axis, &sizes)
}

/// The sizes of [`split_v`] with -1 filled in.
///
/// # Errors
/// [`KernelError::Argument`] when they do not add up to `dim`.
pub fn split_v_sizes(dim: usize, sizes: &[i32]) -> Result<Vec<usize>> {
    let wrong =
        |expected| KernelError::Argument { what: "the split sizes", got: format!("{sizes:?}"), expected };
    let known: i64 = sizes.iter().filter(|&&s| s != -1).map(|&s| i64::from(s)).sum();
    let missing = sizes.iter().filter(|&&s| s == -1).count();
    if sizes.iter().any(|&s| s < -1) || missing > 1 || sizes.is_empty() {
        return Err(wrong("sizes that are not negative, with at most one -1"));
    }
    let rest = dim as i64 - known;
    if rest < 0 || (missing == 0 && rest != 0) {
        return Err(wrong("sizes that add up to the dimension"));
    }
    Ok(sizes.iter().map(|&s| if s == -1 { rest as usize } else { s as usize }).collect())
}

/// Repeats a tensor `multiples[d]` times along each dimension.
///
/// # Errors
/// [`KernelError`] when there is not one multiple per dimension, one is negative, or the result is too large.
pub fn tile(input: Tensor, multiples: &[i32]) -> Result<Tensor> {
    let dims = input.shape();
    if multiples.len() != dims.len() {
        return Err(KernelError::Argument {
            what: "multiples",
            got: format!("{multiples:?}"),
            expected: "one value per dimension",
        });
    }
    let mut out = Shape::default();
    for (&d, &m) in dims.iter().zip(multiples) {
        let m = movement::count("a multiple", m)?;
        out.push(
            d.checked_mul(m)
                .ok_or_else(|| KernelError::TooLarge { shape: format!("{dims} x {multiples:?}") })?,
        );
    }
    let len = out.checked_len()?;
    if multiples.iter().all(|&m| m == 1) {
        return Ok(input);
    }
    if len == 0 {
        return Tensor::zeros(input.dtype(), out);
    }
    let axes: Vec<Axis> = dims
        .iter()
        .zip(multiples)
        .map(|(&d, &m)| match d {
            1 => Axis::range(0, 0, m as usize),
            d => Axis::from_runs((0..m).map(|_| Run::Copy { start: 0, step: 1, len: d })),
        })
        .collect();
    crate::match_tensor!(&input, t => Tensor::from_buffer(out, movement::gather(t.data(), &dims, &axes, &Default::default())))
}

/// Pieces of the given sizes, which add up to the dimension.
fn cut(input: &Tensor, axis: usize, sizes: &[usize]) -> Result<Vec<Tensor>> {
    crate::match_tensor!(input, t => cut_of(t, axis, sizes))
}

fn cut_of<T: Element>(input: &TensorOf<T>, axis: usize, sizes: &[usize]) -> Result<Vec<Tensor>> {
    let dims = input.dims();
    let outer: usize = dims[..axis].iter().product();
    let inner: usize = dims[axis + 1..].iter().product();
    let row = dims[axis] * inner;
    let mut start = 0;
    sizes
        .iter()
        .map(|&size| {
            let mut shape = Shape::from(dims);
            shape[axis] = size;
            let width = size * inner;
            let mut data = pool::elements(outer * width);
            for (o, line) in data.chunks_exact_mut(width.max(1)).enumerate() {
                copy_block(line, &input.data()[o * row + start * inner..][..width]);
            }
            start += size;
            Tensor::from_buffer(shape, data)
        })
        .collect()
}

fn join<T: Element>(inputs: &[Tensor], shape: Shape, axis: usize) -> Result<Tensor> {
    let inner: usize = shape[axis + 1..].iter().product();
    let mut parts: Vec<(&[T], usize)> = Vec::with_capacity(inputs.len());
    for t in inputs {
        parts.push((t.typed::<T>("a tensor to join")?.data(), t.dims()[axis] * inner));
    }
    let row = shape[axis] * inner;
    let mut out = pool::elements(shape.checked_len()?);
    movement::rows(&mut out, row, |first, chunk| {
        for (i, mut line) in chunk.chunks_exact_mut(row).enumerate() {
            for &(data, width) in &parts {
                let (head, tail) = line.split_at_mut(width);
                copy_block(head, &data[(first + i) * width..][..width]);
                line = tail;
            }
        }
    });
    Tensor::from_buffer(shape, out)
}

fn same_but(left: &Shape, right: &Shape, axis: Option<usize>, why: &'static str) -> Result<()> {
    let same = left.len() == right.len() && (0..left.len()).all(|d| Some(d) == axis || left[d] == right[d]);
    if same { Ok(()) } else { Err(KernelError::Shapes { left: left.clone(), right: right.clone(), why }) }
}

fn no_inputs(what: &'static str) -> KernelError {
    KernelError::Argument { what, got: "0".into(), expected: "at least 1" }
}
