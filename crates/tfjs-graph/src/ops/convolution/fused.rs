//! What `fused_ops` lists behind a convolution or matrix product.
use tfjs_kernels::{Activation, Epilogue, Tensor};

use super::Result;
use crate::{
    OpError,
    op::{Build, Inputs},
    ops::{activation, infer::unsupported},
};

/// Parsed `fused_ops`: which of the inputs after the operands is what.
#[derive(Clone, Debug, Default)]
pub(in crate::ops) struct Fused {
    bias: Option<usize>,
    residual: Option<usize>,
    prelu: Option<usize>,
    /// First of scale, offset, mean and variance.
    batch_norm: Option<usize>,
    epsilon: f32,
    activation: Activation,
}

const KNOWN: &str = "BiasAdd, Add, FusedBatchNorm and NoOp, then Relu, Relu6, Elu, Selu, LeakyRelu, Sigmoid, Softplus, Tanh or Prelu";

impl Fused {
    /// Reads `fused_ops`; the extra inputs come after the first `operands`, in the order of the ops that take them.
    pub(in crate::ops) fn new(b: &Build<'_>, operands: usize) -> Result<Fused> {
        let steps = b.attrs.strings("fused_ops")?;
        let mut fused = Fused { epsilon: b.attrs.float_or("epsilon", 1e-4)?, ..Fused::default() };
        let mut next = operands;
        let mut take = |count| {
            next += count;
            Some(next - count)
        };
        let mut done = false;
        for step in &steps {
            // Nothing comes after an activation.
            let wrong = || unsupported("fused_ops", format!("[{}]", text(&steps)), KNOWN);
            if done {
                return Err(wrong());
            }
            let fresh = fused.bias.is_none() && fused.residual.is_none() && fused.batch_norm.is_none();
            match *step {
                b"NoOp" => {}
                b"BiasAdd" if fresh => fused.bias = take(1),
                b"FusedBatchNorm" if fresh => fused.batch_norm = take(4),
                b"Add" | b"AddV2" if fused.residual.is_none() => fused.residual = take(1),
                b"Prelu" => (fused.prelu, done) = (take(1), true),
                _ => {
                    fused.activation = match *step {
                        b"LeakyRelu" => Activation::LeakyRelu(b.attrs.float_or("leakyrelu_alpha", 0.2)?),
                        name => activation::by_name(name).ok_or_else(wrong)?,
                    };
                    done = true;
                }
            }
        }
        if b.node.inputs.len() != next {
            return Err(OpError::Arity {
                got: b.node.inputs.len(),
                expected: format!("{next} for the fused ops [{}]", text(&steps)),
            });
        }
        Ok(fused)
    }

    /// Input with the scale of a fused batch norm.
    pub(super) fn batch_norm(&self) -> Option<usize> {
        self.batch_norm
    }

    /// Input that is added after the bias.
    pub(super) fn residual(&self) -> Option<usize> {
        self.residual
    }

    /// What follows the product, out of its inputs.
    pub(in crate::ops) fn epilogue(&self, x: &mut Inputs) -> Result<Epilogue> {
        let mut take = |i: Option<usize>| i.map(|i| x.take(i)).transpose();
        Ok(Epilogue {
            bias: take(self.bias)?,
            residual: take(self.residual)?,
            prelu: take(self.prelu)?,
            activation: self.activation,
        })
    }

    /// Factor per channel and what is added then, for a fused batch norm with these four vectors.
    pub(super) fn affine(&self, parts: [&Tensor; 4]) -> Result<(Vec<f32>, Vec<f32>)> {
        let mut vectors = [&[][..]; 4];
        for (v, part) in vectors.iter_mut().zip(parts) {
            *v = part.typed::<f32>("a batch norm vector")?.data();
        }
        let [scale, offset, mean, variance] = vectors;
        if vectors.iter().any(|v| v.len() != scale.len()) {
            return Err(OpError::input("scale", "the four vectors of the batch norm differ in length"));
        }
        let factor: Vec<f32> =
            scale.iter().zip(variance).map(|(s, v)| s / (v + self.epsilon).sqrt()).collect();
        let shift = offset.iter().zip(mean).zip(&factor).map(|((o, m), f)| o - m * f).collect();
        Ok((factor, shift))
    }
}

fn text(steps: &[&[u8]]) -> String {
    String::from_utf8_lossy(&steps.join(&b", "[..])).into_owned()
}
