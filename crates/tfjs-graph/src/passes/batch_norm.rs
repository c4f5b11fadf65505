use tfjs_format::proto::{DataType, attr_value::Value as Attr};
use tfjs_kernels::Tensor;

use super::{Patch, View, rewrite};
use crate::{Attrs, Constant, Graph, LoadError, Node, NodeId, Port};

const CONVOLUTIONS: &[&str] = &["Conv2D", "DepthwiseConv2dNative"];
const ADDS: &[&str] = &["BiasAdd", "Add", "AddV2"];

/// Folds batch norms, and multiplications by one factor per channel, into the filters of the convolutions before them;
/// says how many.
///
/// `BN(conv(x, w) + b)` becomes `BiasAdd(conv(x, w·s), (b − mean)·s + beta)` with `s = gamma / sqrt(variance + epsilon)`,
/// computed in f64 when the weights are read. The `BiasAdd` keeps the norm's name. Unlike the reference converter this
/// asks that nobody else uses the convolution, that only output 0 of the norm is used, and that the norm does not train.
pub fn fold_batch_norms(graph: &mut Graph) -> usize {
    rewrite(graph, &[&fold_norm, &fold_factor])
}

/// A convolution with constant filter, perhaps with a constant bias, that only the root uses.
struct Conv<'g> {
    id: NodeId,
    node: &'g Node,
    filter: &'g Constant,
    bias: Option<&'g Constant>,
    chain: Vec<NodeId>,
    channels: usize,
}

fn match_conv<'g>(v: &View<'g>, port: Port) -> Option<Conv<'g>> {
    let mut chain = Vec::new();
    let (mut port, mut bias) = (port, None);
    if let Some((id, add)) = v.sole_producer(port, ADDS) {
        let side = usize::from(v.constant(add.inputs[0]).is_some());
        bias = Some(v.constant(add.inputs[1 - side])?);
        chain.push(id);
        port = add.inputs[side];
    }
    let (id, node) = v.sole_producer(port, CONVOLUTIONS)?;
    chain.push(id);
    let filter = v.constant(node.inputs[1])?;
    let [_, _, a, b] = *filter.shape() else { return None };
    let channels = if node.op == "Conv2D" { b } else { a * b };
    if filter.data_type() != DataType::DtFloat || bias.is_some_and(|b| b.shape() != [channels]) {
        return None;
    }
    Some(Conv { id, node, filter, bias, chain, channels })
}

fn fold_norm(v: &View<'_>, id: NodeId) -> Option<Patch> {
    let node = v.graph.node(id);
    // Position of mean, variance, beta, gamma, and the attribute that holds epsilon.
    let (mean, variance, beta, gamma, epsilon) = match node.op.as_str() {
        "FusedBatchNorm" | "FusedBatchNormV2" | "FusedBatchNormV3" => {
            (3, 4, 2, 1, node.attrs.float_or("epsilon", 1e-4).ok()?)
        }
        "BatchNormWithGlobalNormalization" => {
            (1, 2, 3, 4, node.attrs.float_or("variance_epsilon", 1e-3).ok()?)
        }
        _ => return None,
    };
    if node.op.starts_with("Fused") && node.attrs.bool_or("is_training", true).ok()? {
        return None;
    }
    if v.consumers.of(id).iter().any(|u| u.port.index != 0)
        || v.graph.outputs.iter().any(|e| e.port.node == id && e.port.index != 0)
    {
        return None;
    }
    let scaled =
        node.op.starts_with("Fused") || node.attrs.bool_or("scale_after_normalization", true).ok()?;
    let conv = match_conv(v, *node.inputs.first()?)?;
    let parameter =
        |i: usize| v.constant(*node.inputs.get(i)?).filter(|c| c.shape() == [conv.channels]).cloned();
    let (mean, variance, beta, gamma) =
        (parameter(mean)?, parameter(variance)?, parameter(beta)?, parameter(gamma)?);
    let bias = conv.bias.cloned();
    let scale = move || -> Result<Vec<f64>, LoadError> {
        let (variance, gamma) = (floats(&variance)?, floats(&gamma)?);
        let of = |(v, g): (&f64, &f64)| if scaled { g } else { &1.0 } / (v + f64::from(epsilon)).sqrt();
        Ok(variance.iter().zip(&gamma).map(of).collect())
    };
    let offset = {
        let scale = scale.clone();
        move || -> Result<Tensor, LoadError> {
            let (mean, beta, scale) = (floats(&mean)?, floats(&beta)?, scale()?);
            let bias = bias.as_ref().map(floats).transpose()?.unwrap_or_else(|| vec![0.0; mean.len()]);
            let values = (0..mean.len()).map(|i| ((bias[i] - mean[i]) * scale[i] + beta[i]) as f32).collect();
            Ok(Tensor::vector(values))
        }
    };
    let offset = Constant::deferred(DataType::DtFloat, [conv.channels], offset);
    Some(patch(v, id, conv, scale, Some(offset)))
}

/// `conv · k` with one factor per channel: the form that norms take once their constants are folded.
fn fold_factor(v: &View<'_>, id: NodeId) -> Option<Patch> {
    let node = v.graph.node(id);
    if node.op != "Mul" {
        return None;
    }
    let side = usize::from(v.constant(node.inputs[0]).is_some());
    let factor = v.constant(node.inputs[1 - side])?;
    let conv = match_conv(v, node.inputs[side])?;
    let per_channel = match factor.shape() {
        [] | [1] => factor.data_type() == DataType::DtFloat,
        [outer @ .., c] => {
            let nhwc = conv.node.attrs.str_or("data_format", "NHWC").ok()? == "NHWC";
            nhwc && *c == conv.channels && outer.len() <= 3 && outer.iter().all(|&d| d == 1)
        }
    };
    if !per_channel {
        return None;
    }
    let (factor, channels) = (factor.clone(), conv.channels);
    let scale = move || -> Result<Vec<f64>, LoadError> {
        let f = floats(&factor)?;
        Ok(if f.len() == channels { f } else { vec![f[0]; channels] })
    };
    let offset = conv.bias.cloned().map(|bias| {
        let scale = scale.clone();
        Constant::deferred(DataType::DtFloat, [channels], move || {
            let values = floats(&bias)?.iter().zip(scale()?).map(|(b, s)| (b * s) as f32).collect();
            Ok(Tensor::vector(values))
        })
    });
    Some(patch(v, id, conv, scale, offset))
}

/// A convolution with a scaled filter and, if there is an offset, a `BiasAdd` in the root's place.
fn patch(
    v: &View<'_>,
    root: NodeId,
    conv: Conv<'_>,
    scale: impl Fn() -> Result<Vec<f64>, LoadError> + Send + Sync + 'static,
    offset: Option<Constant>,
) -> Patch {
    let filter = conv.filter.map(conv.filter.shape(), move |w| {
        let scale = scale()?;
        let mut w = w.into_typed::<f32>("filter")?;
        for row in w.data_mut().chunks_exact_mut(scale.len().max(1)) {
            row.iter_mut().zip(&scale).for_each(|(w, s)| *w = (f64::from(*w) * s) as f32);
        }
        Ok(Tensor::F32(w))
    });
    let next = v.graph.next_id().0;
    let mut patch = Patch { chain: conv.chain, ..Patch::default() };
    patch.add.push(Node::constant(format!("{}_weights", conv.node.name), filter));
    let scaled = Node { inputs: vec![conv.node.inputs[0], NodeId(next).into()], ..conv.node.clone() };
    let root_controls = v.graph.node(root).controls.clone();
    match offset {
        None => patch.set.push((root, Node { controls: root_controls, ..scaled })),
        Some(offset) => {
            patch.add.push(Node::constant(format!("{}_bn_offset", conv.node.name), offset));
            let mut attrs = Attrs::default().with("T", Attr::Type(DataType::DtFloat as i32));
            if let Some(format) = conv.node.attrs.get("data_format") {
                attrs.set("data_format", format.clone());
            }
            let bias =
                Node::new("", "BiasAdd").attrs(attrs).inputs([conv.id.into(), NodeId(next + 1).into()]);
            patch.set.push((conv.id, scaled));
            patch.set.push((root, Node { controls: root_controls, ..bias }));
        }
    }
    patch
}

fn floats(c: &Constant) -> Result<Vec<f64>, LoadError> {
    Ok(c.tensor()?.data::<f32>()?.iter().map(|&x| f64::from(x)).collect())
}
