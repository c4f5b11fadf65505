//! Ops that TensorFlow.js lacks, expressed by ops that it has. Every lowering gives the same values.

use tfjs_format::proto::{DataType, attr_value::Value};
use tfjs_graph::{Attrs, Constant, Graph, Node, NodeId, Port, Tensor};

/// Ops that are another op under another name, with the same inputs and the attributes that matter.
const RENAMES: &[(&str, &str)] = &[
    ("AccumulateNV2", "AddN"),
    ("BatchFFT", "FFT"),
    ("BatchIFFT", "IFFT"),
    ("BatchMatMulV3", "BatchMatMulV2"),
    ("DeepCopy", "Identity"),
    // TensorFlow.js lists it but cannot run it; what it checks was checked when the model was made.
    ("EnsureShape", "Identity"),
    ("Inv", "Reciprocal"),
    ("PlaceholderV2", "Placeholder"),
    ("PreventGradient", "Identity"),
    ("RefEnter", "Enter"),
    ("RefExit", "Exit"),
    ("RefIdentity", "Identity"),
    ("RefMerge", "Merge"),
    ("RefNextIteration", "NextIteration"),
    ("RefSwitch", "Switch"),
    ("Rint", "Round"),
    ("Snapshot", "Identity"),
    ("SparseMatMul", "MatMul"),
    ("StopGradient", "Identity"),
    ("TensorArrayCloseV2", "TensorArrayCloseV3"),
    ("TensorArrayConcatV2", "TensorArrayConcatV3"),
    ("TensorArrayGatherV2", "TensorArrayGatherV3"),
    ("TensorArrayReadV2", "TensorArrayReadV3"),
    ("TensorArrayScatterV2", "TensorArrayScatterV3"),
    ("TensorArraySizeV2", "TensorArraySizeV3"),
    ("TensorArraySplitV2", "TensorArraySplitV3"),
    ("TensorArrayV2", "TensorArrayV3"),
    ("TensorArrayWriteV2", "TensorArrayWriteV3"),
];

type Lowering = fn(&mut Lower<'_>) -> Option<Root>;

/// Ops that become several nodes.
const LOWERINGS: &[(&str, Lowering)] = &[
    ("Angle", |l| Some(Root::new("Atan2", [l.imag(0), l.real(0)], l.real_type()))),
    ("BatchNormWithGlobalNormalization", batch_norm),
    ("Conj", conjugate),
    ("Erfc", |l| {
        let (one, erf) = (l.scalar("one", 1.0)?, l.node("erf", "Erf", [l.input(0)?]));
        Some(Root::new("Sub", [one, erf], l.dtype()))
    }),
    ("L2Loss", l2_loss),
    ("MulNoNan", |l| {
        let product = l.node("product", "Mul", [l.input(0)?, l.input(1)?]);
        l.unless_zero(1, product)
    }),
    ("NonMaxSuppression", |l| {
        let threshold = l.attrs().float_or("iou_threshold", 0.5).ok()?;
        let threshold = l.constant("iou_threshold", DataType::DtFloat, Tensor::scalar(threshold));
        Some(Root::new(
            "NonMaxSuppressionV2",
            [l.input(0)?, l.input(1)?, l.input(2)?, threshold],
            DataType::DtFloat,
        ))
    }),
    ("Softsign", |l| {
        let (one, magnitude) = (l.scalar("one", 1.0)?, l.node("abs", "Abs", [l.input(0)?]));
        let below = l.node("below", "AddV2", [magnitude, one]);
        Some(Root::new("RealDiv", [l.input(0)?, below], l.dtype()))
    }),
    ("TensorScatterAdd", |l| scatter(l, "AddV2")),
    ("TensorScatterSub", |l| scatter(l, "Sub")),
    ("TopK", |l| {
        let k = i32::try_from(l.attrs().int("k").ok()?).ok()?;
        let k = l.constant("k", DataType::DtInt32, Tensor::scalar(k));
        let mut root = Root::new("TopKV2", [l.input(0)?, k], l.dtype());
        root.attrs.set("sorted", Value::B(l.attrs().bool_or("sorted", true).ok()?));
        Some(root)
    }),
    ("Xdivy", |l| {
        let quotient = l.node("quotient", "RealDiv", [l.input(0)?, l.input(1)?]);
        l.unless_zero(0, quotient)
    }),
    ("Xlog1py", |l| {
        let log = l.node("log", "Log1p", [l.input(1)?]);
        let product = l.node("product", "Mul", [l.input(0)?, log]);
        l.unless_zero(0, product)
    }),
    ("Xlogy", |l| {
        let log = l.node("log", "Log", [l.input(1)?]);
        let product = l.node("product", "Mul", [l.input(0)?, log]);
        l.unless_zero(0, product)
    }),
];

/// Lowers what can be lowered in one graph; says how many nodes.
pub(crate) fn lower(graph: &mut Graph) -> usize {
    let mut count = 0;
    for id in graph.ids() {
        let op = graph.node(id).op.as_str();
        if let Some((_, to)) = RENAMES.iter().find(|(from, _)| *from == op) {
            if batch_matmul_changes_type(graph.node(id)) {
                continue;
            }
            (*to).clone_into(&mut graph.node_mut(id).op);
            count += 1;
        } else if let Some((_, lowering)) = LOWERINGS.iter().find(|(from, _)| *from == op) {
            let Some(root) = lowering(&mut Lower { graph, id }) else { continue };
            let node = graph.node_mut(id);
            root.op.clone_into(&mut node.op);
            node.inputs = root.inputs;
            node.attrs = root.attrs;
            count += 1;
        }
    }
    count
}

/// Version 3 may multiply 8-bit integers into 32 bits.
fn batch_matmul_changes_type(node: &Node) -> bool {
    let types = ["Ta", "Tb", "Tout"].map(|a| node.attrs.opt_data_type(a).ok().flatten());
    node.op == "BatchMatMulV3" && types.iter().flatten().any(|t| Some(*t) != types[0])
}

/// What the node itself becomes; it keeps its name.
struct Root {
    op: &'static str,
    inputs: Vec<Port>,
    attrs: Attrs,
}

impl Root {
    fn new<const N: usize>(op: &'static str, inputs: [Port; N], dtype: DataType) -> Root {
        Root { op, inputs: inputs.to_vec(), attrs: Attrs::default().with("T", Value::Type(dtype as i32)) }
    }
}

/// The node at work and the graph around it.
struct Lower<'a> {
    graph: &'a mut Graph,
    id: NodeId,
}

impl Lower<'_> {
    fn attrs(&self) -> &Attrs {
        &self.graph.node(self.id).attrs
    }

    fn input(&self, i: usize) -> Option<Port> {
        self.graph.node(self.id).inputs.get(i).copied()
    }

    fn dtype(&self) -> DataType {
        self.attrs().opt_data_type("T").ok().flatten().unwrap_or(DataType::DtFloat)
    }

    /// The type of the parts of a complex number.
    fn real_type(&self) -> DataType {
        match self.dtype() {
            DataType::DtComplex128 => DataType::DtDouble,
            _ => DataType::DtFloat,
        }
    }

    /// A node of the root's type, named after it.
    fn node<const N: usize>(&mut self, part: &str, op: &str, inputs: [Port; N]) -> Port {
        let attrs = Attrs::default().with("T", Value::Type(self.dtype() as i32));
        self.add(part, op, &inputs, attrs)
    }

    fn add(&mut self, part: &str, op: &str, inputs: &[Port], attrs: Attrs) -> Port {
        let name = format!("{}/{part}", self.graph.node(self.id).name);
        self.graph.add_fresh(Node::new(name, op).inputs(inputs.iter().copied()).attrs(attrs)).into()
    }

    fn constant(&mut self, part: &str, dtype: DataType, tensor: Tensor) -> Port {
        let name = format!("{}/{part}", self.graph.node(self.id).name);
        self.graph.add_fresh(Node::constant(name, Constant::new(dtype, tensor))).into()
    }

    /// A constant of the root's type; `None` when that is not a float.
    fn scalar(&mut self, part: &str, value: f32) -> Option<Port> {
        let dtype = self.dtype();
        let float =
            matches!(dtype, DataType::DtFloat | DataType::DtDouble | DataType::DtHalf | DataType::DtBfloat16);
        float.then(|| self.constant(part, dtype, Tensor::scalar(value)))
    }

    fn part_of_complex(&mut self, op: &str, input: usize) -> Port {
        let (complex, real) = (self.dtype(), self.real_type());
        let attrs =
            Attrs::default().with("T", Value::Type(complex as i32)).with("Tout", Value::Type(real as i32));
        let source = self.input(input).unwrap_or(self.id.into());
        self.add(&op.to_lowercase(), op, &[source], attrs)
    }

    fn real(&mut self, input: usize) -> Port {
        self.part_of_complex("Real", input)
    }

    fn imag(&mut self, input: usize) -> Port {
        self.part_of_complex("Imag", input)
    }

    /// `value`, but 0 where the root's input `i` is 0, even if `value` is not a number there.
    fn unless_zero(&mut self, i: usize, value: Port) -> Option<Root> {
        let zero = self.scalar("zero", 0.0)?;
        let is_zero = self.node("is_zero", "Equal", [self.input(i)?, zero]);
        let zeros = self.node("zeros", "ZerosLike", [value]);
        Some(Root::new("SelectV2", [is_zero, zeros, value], self.dtype()))
    }
}

/// Real numbers are their own conjugates.
fn conjugate(l: &mut Lower<'_>) -> Option<Root> {
    if !matches!(l.dtype(), DataType::DtComplex64 | DataType::DtComplex128) {
        return Some(Root::new("Identity", [l.input(0)?], l.dtype()));
    }
    let (real, imag, part) = (l.real(0), l.imag(0), l.real_type());
    let negated = l.add("negated", "Neg", &[imag], Attrs::default().with("T", Value::Type(part as i32)));
    let mut root = Root::new("Complex", [real, negated], part);
    root.attrs.set("Tout", Value::Type(l.dtype() as i32));
    Some(root)
}

/// Inputs are `t, mean, variance, beta, gamma`.
fn batch_norm(l: &mut Lower<'_>) -> Option<Root> {
    let epsilon = l.attrs().float_or("variance_epsilon", 0.001).ok()?;
    let scaled = l.attrs().bool_or("scale_after_normalization", true).ok()?;
    let [x, mean, variance, beta, gamma] = [l.input(0)?, l.input(1)?, l.input(2)?, l.input(3)?, l.input(4)?];
    let scale = if scaled { gamma } else { l.node("scale", "OnesLike", [gamma]) };
    let mut root = Root::new("FusedBatchNormV3", [x, scale, beta, mean, variance], l.dtype());
    root.attrs.set("U", Value::Type(l.dtype() as i32));
    root.attrs.set("epsilon", Value::F(epsilon));
    root.attrs.set("is_training", Value::B(false));
    root.attrs.set("data_format", Value::S("NHWC".into()));
    Some(root)
}

fn l2_loss(l: &mut Lower<'_>) -> Option<Root> {
    let half = l.scalar("half", 0.5)?;
    let flat = l.constant("flat", DataType::DtInt32, Tensor::vector(vec![-1i32]));
    let axis = l.constant("axis", DataType::DtInt32, Tensor::vector(vec![0i32]));
    let vector = l.node("vector", "Reshape", [l.input(0)?, flat]);
    let square = l.node("square", "Square", [vector]);
    let sum = l.node("sum", "Sum", [square, axis]);
    Some(Root::new("Mul", [half, sum], l.dtype()))
}

/// `tensor ± scattered updates`.
fn scatter(l: &mut Lower<'_>, op: &'static str) -> Option<Root> {
    let indices = l.attrs().opt_data_type("Tindices").ok().flatten().unwrap_or(DataType::DtInt32);
    let shape_attrs = Attrs::default()
        .with("T", Value::Type(l.dtype() as i32))
        .with("out_type", Value::Type(indices as i32));
    let shape = l.add("shape", "Shape", &[l.input(0)?], shape_attrs);
    let attrs = Attrs::default()
        .with("T", Value::Type(l.dtype() as i32))
        .with("Tindices", Value::Type(indices as i32));
    let scattered = l.add("scattered", "ScatterNd", &[l.input(1)?, l.input(2)?, shape], attrs);
    Some(Root::new(op, [l.input(0)?, scattered], l.dtype()))
}
