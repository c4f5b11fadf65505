use tfjs_format::proto::DataType;
use tfjs_kernels::Tensor;

use super::{Patch, View, has_frames, rewrite};
use crate::{Attrs, Graph, Node, NodeId, Port};

/// Recognises activations that are spelled out in primitive ops and makes each one op of this runtime; says how many.
///
/// These are `x·sigmoid(x)` (swish), `relu6(x + 3) / 6` (hard sigmoid), `x·relu6(x + 3) / 6` (hard swish), and both
/// forms of GELU, however their factors are ordered and constants written. `IdentityN` (which custom gradients leave
/// behind) is read through, as it counts as a second user of what it hands on.
pub fn recognize_activations(graph: &mut Graph) -> usize {
    bypass_identity_n(graph) + rewrite(graph, &[&recognize])
}

fn bypass_identity_n(graph: &mut Graph) -> usize {
    // The identities behind a `Switch` carry which branch is alive.
    if has_frames(graph) {
        return 0;
    }
    let mut changes = 0;
    for id in graph.ids() {
        for i in 0..graph.node(id).inputs.len() {
            loop {
                let port = graph.node(id).inputs[i];
                let source = graph.node(port.node);
                if source.op != "IdentityN" || !source.controls.is_empty() {
                    break;
                }
                let Some(&through) = source.inputs.get(port.index as usize) else { break };
                graph.node_mut(id).inputs[i] = through;
                changes += 1;
            }
        }
    }
    changes + super::prune(graph)
}

/// Functions that activations are made of.
const INNER: &[&str] = &["Sigmoid", "Relu6", "Erf", "Erfc", "Tanh", "_HardSigmoid"];

fn recognize(v: &View<'_>, id: NodeId) -> Option<Patch> {
    let node = v.graph.node(id);
    let product = matches!(node.op.as_str(), "Mul" | "RealDiv" | "Div");
    if !product || node.attrs.opt_data_type("T").ok()?.is_some_and(|t| t != DataType::DtFloat) {
        return None;
    }
    let mut factors = Factors { scale: 1.0, ports: Vec::new() };
    factors.collect(v, id, 0)?;
    let (op, x) = match factors.ports[..] {
        [g] => one_factor(v, factors.scale, g)?,
        [a, b] => two_factors(v, factors.scale, a, b).or_else(|| two_factors(v, factors.scale, b, a))?,
        _ => return None,
    };
    let mut attrs = Attrs::default();
    if let Some(t) = node.attrs.get("T") {
        attrs.set("T", t.clone());
    }
    let set = Node { controls: node.controls.clone(), ..Node::new("", op).attrs(attrs).inputs([x]) };
    Some(Patch { set: vec![(id, set)], ..Patch::default() })
}

/// A tree of products, flattened: `scale · ports[0] · ports[1] · …`
struct Factors {
    scale: f64,
    ports: Vec<Port>,
}

impl Factors {
    /// Adds the factors of a product; those that are products themselves, which nobody else uses, are taken apart.
    fn collect(&mut self, v: &View<'_>, id: NodeId, depth: usize) -> Option<()> {
        let node = v.graph.node(id);
        let &[a, b] = &node.inputs[..] else { return None };
        let divides = node.op != "Mul";
        for (i, port) in [a, b].into_iter().enumerate() {
            if let Some(c) = scalar(v, port) {
                self.scale = if divides && i == 1 { self.scale / c } else { self.scale * c };
            } else if divides && i == 1 || depth > 3 {
                return None;
            } else {
                match v.sole_producer(port, &["Mul", "RealDiv", "Div"]) {
                    Some((inner, _)) => self.collect(v, inner, depth + 1)?,
                    None => self.ports.push(port),
                }
            }
        }
        Some(())
    }
}

/// `scale · g` as a function of one value.
fn one_factor(v: &View<'_>, scale: f64, g: Port) -> Option<(&'static str, Port)> {
    let (_, relu6) = v.sole_producer(g, &["Relu6"])?;
    let x = v
        .graph
        .node(relu6.inputs[0].node)
        .inputs
        .iter()
        .copied()
        .find(|&x| near(polynomial(v, relu6.inputs[0], x, 0), &[3.0, 1.0]))?;
    near(Some([scale, 0.0, 0.0, 0.0]), &[1.0 / 6.0]).then_some(("_HardSigmoid", x))
}

/// `scale · x · g` where `g` is a function of `x`.
fn two_factors(v: &View<'_>, scale: f64, x: Port, g: Port) -> Option<(&'static str, Port)> {
    let f = inner_function(v, g, 0)?;
    let node = v.graph.node(f.node);
    let outer = polynomial(v, g, f, 0)?.map(|c| c * scale);
    let argument = polynomial(v, node.inputs[0], x, 0)?;
    let is = |of: [f64; 4], want: &[f64]| near(Some(of), want);
    let sqrt_half = std::f64::consts::FRAC_1_SQRT_2;
    let k = (2.0 / std::f64::consts::PI).sqrt();
    let op = match node.op.as_str() {
        "Sigmoid" if is(outer, &[0.0, 1.0]) && is(argument, &[0.0, 1.0]) => "_Swish",
        "_HardSigmoid" if is(outer, &[0.0, 1.0]) && is(argument, &[0.0, 1.0]) => "_HardSwish",
        "Relu6" if is(outer, &[0.0, 1.0 / 6.0]) && is(argument, &[3.0, 1.0]) => "_HardSwish",
        "Erf" if is(outer, &[0.5, 0.5]) && is(argument, &[0.0, sqrt_half]) => "_Gelu",
        "Erfc" if is(outer, &[0.0, 0.5]) && is(argument, &[0.0, -sqrt_half]) => "_Gelu",
        "Tanh" if is(outer, &[0.5, 0.5]) && is(argument, &[0.0, k, 0.0, k * 0.044715]) => "_GeluTanh",
        _ => return None,
    };
    Some((op, x))
}

/// The function that an expression of constants and one value is about.
fn inner_function(v: &View<'_>, port: Port, depth: usize) -> Option<Port> {
    let (_, node) = v.producer(port);
    if port.index != 0 || depth > 3 {
        return None;
    }
    if INNER.contains(&node.op.as_str()) {
        return Some(port);
    }
    if !matches!(node.op.as_str(), "Add" | "AddV2" | "Mul" | "RealDiv" | "Div") {
        return None;
    }
    let &[a, b] = &node.inputs[..] else { return None };
    match (scalar(v, a), scalar(v, b)) {
        (None, Some(_)) => inner_function(v, a, depth + 1),
        (Some(_), None) => inner_function(v, b, depth + 1),
        _ => None,
    }
}

/// The coefficients of an expression that is a polynomial in `x` of degree three or less with scalar coefficients.
fn polynomial(v: &View<'_>, port: Port, x: Port, depth: usize) -> Option<[f64; 4]> {
    if port == x {
        return Some([0.0, 1.0, 0.0, 0.0]);
    }
    if let Some(c) = scalar(v, port) {
        return Some([c, 0.0, 0.0, 0.0]);
    }
    let (_, node) = v.producer(port);
    if port.index != 0 || depth > 8 {
        return None;
    }
    let of = |i: usize| polynomial(v, *node.inputs.get(i)?, x, depth + 1);
    match node.op.as_str() {
        "Add" | "AddV2" => Some(add(of(0)?, of(1)?, 1.0)),
        "Sub" => Some(add(of(0)?, of(1)?, -1.0)),
        "Neg" => Some(of(0)?.map(|c| -c)),
        "Mul" => multiply(of(0)?, of(1)?),
        "Square" => multiply(of(0)?, of(0)?),
        "RealDiv" | "Div" => {
            let divisor = scalar(v, *node.inputs.get(1)?)?;
            Some(of(0)?.map(|c| c / divisor))
        }
        "Pow" => {
            let base = of(0)?;
            match scalar(v, *node.inputs.get(1)?)? {
                2.0 => multiply(base, base),
                3.0 => multiply(multiply(base, base)?, base),
                _ => None,
            }
        }
        _ => None,
    }
}

fn add(a: [f64; 4], b: [f64; 4], sign: f64) -> [f64; 4] {
    std::array::from_fn(|i| a[i] + sign * b[i])
}

fn multiply(a: [f64; 4], b: [f64; 4]) -> Option<[f64; 4]> {
    let mut product = [0.0; 4];
    for (i, &a) in a.iter().enumerate() {
        for (j, &b) in b.iter().enumerate() {
            match product.get_mut(i + j) {
                Some(p) => *p += a * b,
                None if a * b != 0.0 => return None,
                None => {}
            }
        }
    }
    Some(product)
}

/// A constant without dimensions: it cannot broadcast what it meets.
fn scalar(v: &View<'_>, port: Port) -> Option<f64> {
    if !v.constant(port)?.shape().is_empty() {
        return None;
    }
    match v.small(port)? {
        Tensor::F32(t) => t.data().first().map(|&c| f64::from(c)),
        _ => None,
    }
}

/// Whether coefficients are these, up to what rounding them to float32 a few times may change.
fn near(got: Option<[f64; 4]>, want: &[f64]) -> bool {
    got.is_some_and(|got| {
        got.iter().enumerate().all(|(i, &g)| {
            let w = want.get(i).copied().unwrap_or(0.0);
            (g - w).abs() <= 1e-6 * w.abs()
        })
    })
}

#[cfg(test)]
mod tests {
    use tfjs_kernels::DType;

    use super::*;
    use crate::{
        GraphError,
        builder::{Builder, attr},
        passes::{FuseTarget, fuse_activations},
    };

    fn recognized(spell: impl Fn(&mut Builder, Port) -> Result<Port, GraphError>) -> Vec<String> {
        let mut b = Builder::default();
        let x = b.placeholder("x", DType::Float32, &[None, Some(8), Some(8), Some(2)]);
        let filter = b.constant(Tensor::new([1, 1, 2, 2], vec![0.5f32; 4]).unwrap());
        let bias = b.constant(Tensor::vector(vec![1f32, 2.0]));
        let attrs = [("strides", attr::ints([1; 4])), ("padding", attr::text("SAME"))];
        let y = b.op("Conv2D", &[x, filter], &attrs).unwrap();
        let y = b.op("BiasAdd", &[y, bias], &[]).unwrap();
        let y = spell(&mut b, y).unwrap();
        b.output("y", y);
        let mut graph = b.finish();
        recognize_activations(&mut graph);
        fuse_activations(&mut graph, FuseTarget::Native);
        let steps = |n: &Node| -> Vec<String> {
            n.attrs
                .strings("fused_ops")
                .unwrap()
                .iter()
                .map(|s| String::from_utf8_lossy(s).into_owned())
                .collect()
        };
        let rest = |n: &Node| n.value.is_none() && !["Placeholder", "Identity"].contains(&n.op.as_str());
        assert_eq!(graph.iter().filter(|(_, n)| rest(n)).count(), 1, "one node is left");
        graph.iter().find(|(_, n)| n.op == "_FusedConv2D").map(|(_, n)| steps(n)).unwrap()
    }

    fn c(b: &mut Builder, value: f32) -> Port {
        b.constant(Tensor::scalar(value))
    }

    #[test]
    fn swish_is_recognized_through_the_identities_of_its_gradient() {
        let steps = recognized(|b, x| {
            let s = b.op("Sigmoid", &[x], &[])?;
            let y = b.op("Mul", &[x, s], &[])?;
            let both = b.op("IdentityN", &[y, x], &[])?;
            b.op("Identity", &[both], &[])
        });
        assert_eq!(steps, ["BiasAdd", "_Swish"]);
    }

    #[test]
    fn hard_swish_is_recognized_with_either_factor_first() {
        for divide in [false, true] {
            let steps = recognized(|b, x| {
                let (three, six, sixth) = (c(b, 3.0), c(b, 6.0), c(b, 1.0 / 6.0));
                let s = b.op("AddV2", &[x, three], &[])?;
                let r = b.op("Relu6", &[s], &[])?;
                if divide {
                    let y = b.op("Mul", &[r, x], &[])?;
                    b.op("RealDiv", &[y, six], &[])
                } else {
                    let h = b.op("Mul", &[r, sixth], &[])?;
                    b.op("Mul", &[x, h], &[])
                }
            });
            assert_eq!(steps, ["BiasAdd", "_HardSwish"]);
        }
    }

    #[test]
    fn gelu_is_recognized_as_keras_writes_it() {
        let steps = recognized(|b, x| {
            let (half, one, root) = (c(b, 0.5), c(b, 1.0), c(b, std::f32::consts::SQRT_2));
            let h = b.op("Mul", &[half, x], &[])?;
            let d = b.op("RealDiv", &[x, root], &[])?;
            let e = b.op("Erf", &[d], &[])?;
            let e = b.op("AddV2", &[one, e], &[])?;
            b.op("Mul", &[h, e], &[])
        });
        assert_eq!(steps, ["BiasAdd", "_Gelu"]);
        let steps = recognized(|b, x| {
            let (half, one, k, a) = (c(b, 0.5), c(b, 1.0), c(b, 0.797_884_6), c(b, 0.044_715));
            let three = c(b, 3.0);
            let h = b.op("Mul", &[half, x], &[])?;
            let cube = b.op("Pow", &[x, three], &[])?;
            let cube = b.op("Mul", &[a, cube], &[])?;
            let s = b.op("AddV2", &[x, cube], &[])?;
            let s = b.op("Mul", &[k, s], &[])?;
            let t = b.op("Tanh", &[s], &[])?;
            let t = b.op("AddV2", &[one, t], &[])?;
            b.op("Mul", &[h, t], &[])
        });
        assert_eq!(steps, ["BiasAdd", "_GeluTanh"]);
    }

    #[test]
    fn what_only_looks_like_an_activation_stays() {
        let mut b = Builder::default();
        let x = b.placeholder("x", DType::Float32, &[None, Some(2)]);
        let k = c(&mut b, 1.702);
        let scaled = b.op("Mul", &[x, k], &[]).unwrap();
        let s = b.op("Sigmoid", &[scaled], &[]).unwrap();
        let y = b.op("Mul", &[x, s], &[]).unwrap();
        b.output("y", y);
        let mut graph = b.finish();
        assert_eq!(recognize_activations(&mut graph), 0);
    }
}
