//! Losses that give their own gradient.
use super::same_shape;
use crate::{
    KernelError, Result, Tensor,
    binary::{BinaryOp, binary},
    normalize,
    reduce::{ReduceOp, reduce},
    unary::{UnaryOp, unary},
};

fn matrix(t: &Tensor) -> Result<(usize, usize)> {
    match *t.dims() {
        [rows, classes] => Ok((rows, classes)),
        _ => Err(KernelError::Rank { what: "the logits", got: t.shape(), expected: "two dimensions" }),
    }
}

/// `-Σ labels · log softmax(logits)` per row, `[batch]`, and its gradient by the logits, `softmax - labels`.
///
/// `logits, labels: [batch, classes]`, broadcast.
///
/// # Errors
/// When a tensor is not a `float32` matrix, or the shapes do not broadcast.
pub fn softmax_cross_entropy(logits: Tensor, labels: &Tensor) -> Result<(Tensor, Tensor)> {
    matrix(&logits)?;
    matrix(labels)?;
    // Where the labels have more rows or columns than the logits.
    let logits = if logits.dims() == labels.dims() {
        logits
    } else {
        let zeros = Tensor::zeros(labels.dtype(), labels.shape())?;
        binary(BinaryOp::Add, logits, zeros)?
    };
    let log = normalize::log_softmax(logits)?;
    let softmax = unary(UnaryOp::Exp, log.clone())?;
    let products = binary(BinaryOp::Mul, log, labels.clone())?;
    let loss = unary(UnaryOp::Neg, reduce(ReduceOp::Sum, products, &[1], false)?)?;
    let gradient = binary(BinaryOp::Sub, softmax, labels.clone())?;
    Ok((loss, gradient))
}

/// `-log softmax(logits)[label]` per row, `[batch]`, and its gradient by the logits.
///
/// `logits: [batch, classes]`, `labels: [batch]` (`int32`).
///
/// # Errors
/// When types or shapes are others, or a label is not that of a class.
pub fn sparse_softmax_cross_entropy(logits: Tensor, labels: &Tensor) -> Result<(Tensor, Tensor)> {
    let (rows, classes) = matrix(&logits)?;
    let typed = labels.typed::<i32>("the labels")?;
    if typed.dims() != [rows] {
        let why = "do not go together: there is one label per row";
        return Err(KernelError::Shapes { left: logits.shape(), right: typed.shape(), why });
    }
    let log = normalize::log_softmax(logits)?;
    let mut softmax = unary(UnaryOp::Exp, log.clone())?.into_typed::<f32>("the logits")?;
    let mut loss = Vec::with_capacity(rows);
    let logs = log.data::<f32>()?;
    let out = softmax.data_mut();
    for (row, &label) in typed.data().iter().enumerate() {
        let index = usize::try_from(label).ok().filter(|&l| l < classes).ok_or(KernelError::Range {
            what: "a label",
            got: label.into(),
            min: 0,
            max: classes as i64,
        })?;
        let at = row * classes + index;
        loss.push(-logs[at]);
        out[at] -= 1.0;
    }
    let softmax: Tensor = softmax.into();
    same_shape(&softmax, &log)?;
    Ok((Tensor::vector(loss), softmax))
}
