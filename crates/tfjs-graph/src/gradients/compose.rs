//! Ops that are compositions of others: their gradient is that of the composition. Forward values that it does not use are
//! not computed again.
use tfjs_format::proto::attr_value::Value;

use super::{GradCx, Gradient, Result, Row, gradients_of, row};
use crate::{
    Port,
    builder::{Builder, attr},
};

pub(super) const RULES: &[Row] = &[
    row("AdjustContrastv2", |c| {
        compose(c, |c, x| {
            let rank = c.rank(x[0])? as i32;
            let axes = c.ints(&[rank - 3, rank - 2]);
            let mean = c.op("Mean", &[x[0], axes], &[("keep_dims", attr::bool(true))])?;
            let centred = c.sub(x[0], mean)?;
            let scaled = c.mul(centred, x[1])?;
            c.add(scaled, mean)
        })
    }),
    row("Conv1D", |c| {
        let attrs = c.attrs();
        let (stride, dilation) = (attrs.int_or("stride", 1)?, attrs.int_or("dilation", 1)?);
        let padding = attrs.str_or("padding", "")?.to_owned();
        compose(c, |c, x| {
            let (one, zero) = (c.int(1), c.int(0));
            let image = c.op("ExpandDims", &[x[0], one], &[])?;
            let filter = c.op("ExpandDims", &[x[1], zero], &[])?;
            let attrs = [
                ("strides", attr::ints([1, 1, stride, 1])),
                ("dilations", attr::ints([1, 1, dilation, 1])),
                ("padding", attr::text(&padding)),
            ];
            let y = c.op("Conv2D", &[image, filter], &attrs)?;
            c.op("Squeeze", &[y], &[("squeeze_dims", attr::ints([1]))])
        })
    }),
    row("Fill", |c| {
        compose(c, |c, x| {
            let shape = c.x(0);
            c.op("BroadcastTo", &[x[1], shape], &[])
        })
    }),
    row("FusedDepthwiseConv2dNative", |c| fused(c, "DepthwiseConv2dNative")),
    row("SparseTensorDenseMatMul", |c| {
        let flag = |name: &str| c.attrs().bool_or(name, false).unwrap_or(false);
        let (adjoint_a, adjoint_b) = (flag("adjoint_a"), flag("adjoint_b"));
        compose(c, |c, x| {
            let (indices, shape, axis) = (c.x(0), c.x(2), c.int(1));
            let (first, second) = (c.int(0), c.int(1));
            let mut ends = [first, second].map(|i| c.op("GatherV2", &[indices, i, axis], &[]));
            if adjoint_a {
                ends.swap(0, 1);
            }
            let [to, from] = ends;
            let (values, b) = (x[1], x[3]);
            let values = if adjoint_a { c.conj(values)? } else { values };
            let b = if adjoint_b {
                let turned = c.transpose(b, &[1, 0])?;
                c.conj(turned)?
            } else {
                b
            };
            let rows = c.op("GatherV2", &[b, from?, first], &[])?;
            let column = c.op("ExpandDims", &[values, axis], &[])?;
            let products = c.mul(column, rows)?;
            let count = c.element(shape, i32::from(adjoint_a))?;
            c.op("UnsortedSegmentSum", &[products, to?, count], &[])
        })
    }),
    row("_FusedConv2D", |c| fused(c, "Conv2D")),
    row("_FusedMatMul", |c| fused(c, "MatMul")),
];

/// Writes the composition over stand-ins for the inputs and takes its gradient.
pub(super) fn compose(
    c: &mut GradCx<'_>,
    write: impl FnOnce(&mut GradCx<'_>, &[Port]) -> Result<Port>,
) -> Result<()> {
    let dy = c.dy()?;
    compose_from(c, dy, write)
}

/// As [`compose`] of an output whose gradient is `dy`.
fn compose_from(
    c: &mut GradCx<'_>,
    dy: Port,
    write: impl FnOnce(&mut GradCx<'_>, &[Port]) -> Result<Port>,
) -> Result<()> {
    let n = c.inputs();
    let mut inputs = Vec::with_capacity(n);
    for i in 0..n {
        let x = c.x(i);
        inputs.push(if c.wants(i) { stand_in(c.b, x)? } else { x });
    }
    let y = write(c, &inputs)?;
    let wanted: Vec<usize> = (0..n).filter(|&i| c.wants(i)).collect();
    let wrt: Vec<Port> = wanted.iter().map(|&i| inputs[i]).collect();
    for (&i, gradient) in wanted.iter().zip(gradients_of(c.b, &[(y, Some(dy))], &wrt)?) {
        if let Some(gradient) = gradient {
            let gradient = match gradient {
                Gradient::Dense(port) => Gradient::Dense(port),
                sparse => Gradient::Dense(sparse.dense(c.b)?),
            };
            c.set_any(i, gradient)?;
        }
    }
    Ok(())
}

/// The value under another name, so that the gradient stops there.
fn stand_in(b: &mut Builder, x: Port) -> Result<Port> {
    let port = b.op("Identity", &[x], &[])?;
    b.refine(port, x);
    Ok(port)
}

/// A product with bias, residual, batch norm and activation. The gradient of most activations follows from the output.
fn fused(c: &mut GradCx<'_>, op: &str) -> Result<()> {
    let steps: Vec<String> =
        c.attrs().strings("fused_ops")?.iter().map(|s| String::from_utf8_lossy(s).into_owned()).collect();
    let alpha = c.attrs().float_or("leakyrelu_alpha", 0.2)?;
    let epsilon = c.attrs().float_or("epsilon", 1e-4)?;
    let names =
        ["strides", "dilations", "padding", "data_format", "explicit_paddings", "transpose_a", "transpose_b"];
    let (y, mut dy) = (c.y(0), c.dy()?);
    let mut steps = &steps[..];
    if let Some((last, before)) = steps.split_last() {
        let slope = match last.as_str() {
            "Relu" => Some(c.bin("ReluGrad", dy, y)?),
            "Relu6" => Some(c.bin("Relu6Grad", dy, y)?),
            "Elu" => Some(c.bin("EluGrad", dy, y)?),
            "Selu" => Some(c.bin("SeluGrad", dy, y)?),
            "LeakyRelu" => Some(c.op("LeakyReluGrad", &[dy, y], &[("alpha", attr::float(alpha))])?),
            "Sigmoid" => Some(c.bin("SigmoidGrad", y, dy)?),
            "Tanh" => Some(c.bin("TanhGrad", y, dy)?),
            _ => None,
        };
        if let Some(slope) = slope {
            (dy, steps) = (slope, before);
        }
    }
    compose_from(c, dy, |c, x| {
        let mut out = c.op_with(op, &x[..2], &names)?;
        let format: Vec<(String, Value)> = c.copied(&["data_format"]);
        let format: Vec<(&str, Value)> = format.iter().map(|(n, v)| (n.as_str(), v.clone())).collect();
        let mut extra = x[2..].iter().copied();
        for step in steps {
            let mut next = || match extra.next() {
                Some(port) => Ok(port),
                None => Err(crate::GraphError::Gradient {
                    node: op.to_owned(),
                    op: op.to_owned(),
                    problem: "it has fewer inputs than fused ops".to_owned(),
                }),
            };
            out = match step.as_str() {
                "NoOp" => out,
                "BiasAdd" => {
                    let bias = next()?;
                    c.op("BiasAdd", &[out, bias], &format)?
                }
                "Add" | "AddV2" => {
                    let other = next()?;
                    c.add(out, other)?
                }
                "Prelu" => {
                    let slope = next()?;
                    c.bin("Prelu", out, slope)?
                }
                "FusedBatchNorm" => {
                    let inputs = [out, next()?, next()?, next()?, next()?];
                    let mut attrs = format.clone();
                    attrs.push(("epsilon", attr::float(epsilon)));
                    attrs.push(("is_training", attr::bool(false)));
                    c.op("FusedBatchNormV3", &inputs, &attrs)?
                }
                other => return c.refuse(format!("the fused op {other} has no rule")),
            };
        }
        Ok(out)
    })
}
