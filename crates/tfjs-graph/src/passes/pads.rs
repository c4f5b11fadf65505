use tfjs_format::proto::attr_value::{ListValue, Value as Attr};
use tfjs_kernels::Tensor;

use super::{Patch, View, rewrite};
use crate::{Graph, Node, NodeId};

/// Folds zeros padded around an image into the explicit padding of the convolutions behind it, and of those maximum
/// poolings that zeros cannot change; says how many. Keras pads this way before convolutions of stride 2.
pub fn fold_pads(graph: &mut Graph) -> usize {
    rewrite(graph, &[&fold])
}

const CONVOLUTIONS: &[&str] =
    &["Conv2D", "DepthwiseConv2dNative", "FusedDepthwiseConv2dNative", "_FusedConv2D"];

fn fold(v: &View<'_>, id: NodeId) -> Option<Patch> {
    let node = v.graph.node(id);
    let pools = node.op == "MaxPool";
    if !pools && !CONVOLUTIONS.contains(&node.op.as_str()) {
        return None;
    }
    let (pad_id, pad) = v.producer(*node.inputs.first()?);
    let zero = match pad.op.as_str() {
        "Pad" => true,
        "PadV2" => matches!(v.small(*pad.inputs.get(2)?)?, Tensor::F32(t) if t.data() == [0.0]),
        _ => false,
    };
    // Poolings leave padding out; at a zero instead, values that are not negative come to the same, as long as no window
    // lies in the padding alone.
    if !zero || !pad.controls.is_empty() || pools && !not_negative(v, pad) {
        return None;
    }
    let amounts = v.small(*pad.inputs.get(1)?)?;
    let mut amounts: Vec<i64> = amounts.data::<i32>().ok()?.iter().map(|&a| a.into()).collect();
    let spatial = if node.attrs.str_or("data_format", "NHWC").ok()? == "NHWC" { 2..6 } else { 4..8 };
    if amounts.len() != 8 || amounts.iter().enumerate().any(|(i, &a)| a < 0 || a > 0 && !spatial.contains(&i))
    {
        return None;
    }
    match node.attrs.str_or("padding", "").ok()? {
        "VALID" => {}
        "EXPLICIT" if !pools => {
            let own = node.attrs.ints("explicit_paddings").ok()?;
            if own.len() != 8 {
                return None;
            }
            amounts.iter_mut().zip(own).for_each(|(a, own)| *a += own);
        }
        _ => return None,
    }
    if pools {
        let window = node.attrs.ints("ksize").ok()?;
        if window.len() != 4 || window.iter().zip(amounts.chunks_exact(2)).any(|(w, a)| a[0].max(a[1]) >= *w)
        {
            return None;
        }
    }
    let mut set = node.clone();
    set.inputs[0] = pad.inputs[0];
    set.attrs.set("padding", Attr::S("EXPLICIT".into()));
    let amounts = ListValue { i: amounts, ..ListValue::default() };
    set.attrs.set("explicit_paddings", Attr::List(Box::new(amounts)));
    Some(Patch { set: vec![(id, set)], chain: vec![pad_id], ..Patch::default() })
}

/// Whether what is padded comes out of an activation that gives no negative numbers.
fn not_negative(v: &View<'_>, pad: &Node) -> bool {
    let Some((_, node)) = pad.inputs.first().map(|p| v.producer(*p)) else { return false };
    let last = match node.attrs.strings("fused_ops") {
        Ok(steps) if node.op.contains("Fused") => {
            steps.last().map(|s| String::from_utf8_lossy(s).into_owned())
        }
        _ => Some(node.op.clone()),
    };
    matches!(last.as_deref(), Some("Relu" | "Relu6" | "Sigmoid"))
}

#[cfg(test)]
mod tests {
    use tfjs_kernels::DType;

    use super::*;
    use crate::{
        Port,
        builder::{Builder, attr},
    };

    fn padded(b: &mut Builder, x: Port, channels: i32) -> Port {
        let amounts = b.constant(Tensor::new([4, 2], vec![0, 0, 0, 1, 0, 1, 0, channels]).unwrap());
        b.op("Pad", &[x, amounts], &[]).unwrap()
    }

    fn ops(graph: &Graph) -> Vec<&str> {
        graph.iter().filter(|(_, n)| n.value.is_none()).map(|(_, n)| n.op.as_str()).collect()
    }

    #[test]
    fn zeros_around_an_image_become_padding_of_the_convolution() {
        for channels in [0, 1] {
            let mut b = Builder::default();
            let x = b.placeholder("x", DType::Float32, &[None, Some(8), Some(8), Some(2)]);
            let x = padded(&mut b, x, channels);
            let size = 2 + channels as usize;
            let filter = b.constant(Tensor::new([3, 3, size, 1], vec![0.5f32; 9 * size]).unwrap());
            let attrs = [("strides", attr::ints([1, 2, 2, 1])), ("padding", attr::text("VALID"))];
            let y = b.op("DepthwiseConv2dNative", &[x, filter], &attrs).unwrap();
            b.output("y", y);
            let mut graph = b.finish();
            let folded = fold_pads(&mut graph);
            assert_eq!(folded, usize::from(channels == 0), "channels are no place for padding");
            assert_eq!(ops(&graph).contains(&"Pad"), channels > 0);
        }
    }

    #[test]
    fn zeros_before_a_maximum_vanish_after_relu_only() {
        for relu in [true, false] {
            let mut b = Builder::default();
            let mut x = b.placeholder("x", DType::Float32, &[None, Some(8), Some(8), Some(2)]);
            if relu {
                x = b.op("Relu", &[x], &[]).unwrap();
            }
            let x = padded(&mut b, x, 0);
            let attrs = [
                ("strides", attr::ints([1, 2, 2, 1])),
                ("ksize", attr::ints([1, 3, 3, 1])),
                ("padding", attr::text("VALID")),
            ];
            let y = b.op("MaxPool", &[x], &attrs).unwrap();
            b.output("y", y);
            let mut graph = b.finish();
            assert_eq!(fold_pads(&mut graph), usize::from(relu));
        }
    }
}
