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

/// Ops that become several nodes: what they become, where it depends under which condition, and how.
const LOWERINGS: &[(&str, &str, Lowering)] = &[
    ("Angle", "`Atan2` of imaginary and real part", |l| {
        Some(Root::new("Atan2", [l.imag(0), l.real(0)], l.real_type()))
    }),
    ("BatchNormWithGlobalNormalization", "`FusedBatchNormV3`", batch_norm),
    ("Conj", "`Complex` of `Real` and the negated `Imag`", conjugate),
    ("Cumprod", "a negative axis counts from the front", |l| axis_from_the_front(l, "Cumprod")),
    ("Cumsum", "a negative axis counts from the front", |l| axis_from_the_front(l, "Cumsum")),
    ("Erfc", "1 − `Erf`", |l| {
        let (one, erf) = (l.scalar("one", 1.0)?, l.node("erf", "Erf", [l.input(0)?]));
        Some(Root::new("Sub", [one, erf], l.dtype()))
    }),
    (
        "FusedBatchNorm",
        "in training, the statistics of the batch are computed beside it",
        batch_norm_of_batch,
    ),
    ("FusedBatchNormV2", "as `FusedBatchNorm`", batch_norm_of_batch),
    ("FusedBatchNormV3", "as `FusedBatchNorm`", batch_norm_of_batch),
    ("L2Loss", "half the `Sum` of `Square`", l2_loss),
    ("LookupTableFind", "`LookupTableFindV2`, reshaped as the keys", keep_key_shape),
    ("LookupTableFindV2", "itself, reshaped as the keys", keep_key_shape),
    ("MatrixBandPart", "`SelectV2` by distances from the diagonal", band_part),
    ("MulNoNan", "`Mul`, and 0 where the second factor is", |l| {
        let product = l.node("product", "Mul", [l.input(0)?, l.input(1)?]);
        l.unless_zero(1, product)
    }),
    ("NonMaxSuppression", "`NonMaxSuppressionV2`", |l| {
        let threshold = l.attrs().float_or("iou_threshold", 0.5).ok()?;
        let threshold = l.constant("iou_threshold", DataType::DtFloat, Tensor::scalar(threshold));
        Some(Root::new(
            "NonMaxSuppressionV2",
            [l.input(0)?, l.input(1)?, l.input(2)?, threshold],
            DataType::DtFloat,
        ))
    }),
    ("Softsign", "x / (1 + |x|)", |l| {
        let (one, magnitude) = (l.scalar("one", 1.0)?, l.node("abs", "Abs", [l.input(0)?]));
        let below = l.node("below", "AddV2", [magnitude, one]);
        Some(Root::new("RealDiv", [l.input(0)?, below], l.dtype()))
    }),
    ("StridedSlice", "two of them, where axes are dropped after others are stepped through", slice_in_two),
    ("StringLower", "`StaticRegexReplace` per letter (ASCII)", ascii_lower),
    (
        "StringSplitV2",
        "`StringSplit`, if it splits at one constant character or at white space",
        split_by_one,
    ),
    ("TensorScatterAdd", "`ScatterNd` and `AddV2`", |l| scatter(l, "AddV2")),
    ("TensorScatterSub", "`ScatterNd` and `Sub`", |l| scatter(l, "Sub")),
    ("TopK", "`TopKV2`", |l| {
        let k = i32::try_from(l.attrs().int("k").ok()?).ok()?;
        let k = l.constant("k", DataType::DtInt32, Tensor::scalar(k));
        let mut root = Root::new("TopKV2", [l.input(0)?, k], l.dtype());
        root.attrs.set("sorted", Value::B(l.attrs().bool_or("sorted", true).ok()?));
        Some(root)
    }),
    ("Xdivy", "`RealDiv`, and 0 where x is", |l| {
        let quotient = l.node("quotient", "RealDiv", [l.input(0)?, l.input(1)?]);
        l.unless_zero(0, quotient)
    }),
    ("Xlog1py", "`Mul` and `Log1p`, and 0 where x is", |l| {
        let log = l.node("log", "Log1p", [l.input(1)?]);
        let product = l.node("product", "Mul", [l.input(0)?, log]);
        l.unless_zero(0, product)
    }),
    ("Xlogy", "`Mul` and `Log`, and 0 where x is", |l| {
        let log = l.node("log", "Log", [l.input(1)?]);
        let product = l.node("product", "Mul", [l.input(0)?, log]);
        l.unless_zero(0, product)
    }),
];

/// The ops that a conversion expresses by others, and by which (for a page: Markdown).
pub fn lowerings() -> impl Iterator<Item = (&'static str, String)> {
    let renamed = RENAMES.iter().map(|(from, to)| (*from, format!("`{to}`")));
    let several = LOWERINGS.iter().map(|(op, what, _)| (*op, (*what).to_owned()));
    let cases = ["Case", "StatelessCase"].map(|op| (op, "a chain of `If`".to_owned()));
    renamed.chain(several).chain(cases)
}

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
        } else if let Some((_, _, lowering)) = LOWERINGS.iter().find(|(from, ..)| *from == op) {
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

    /// The dimensions of a tensor of a type, as int32.
    fn shape_of(&mut self, tensor: Port, dtype: DataType) -> Port {
        let attrs = Attrs::default()
            .with("T", Value::Type(dtype as i32))
            .with("out_type", Value::Type(DataType::DtInt32 as i32));
        self.add("shape", "Shape", &[tensor], attrs)
    }

    /// Whether anybody uses an output beyond the first.
    fn has_further_outputs(&self) -> bool {
        let further = |p: &Port| p.node == self.id && p.index > 0;
        self.graph.iter().any(|(_, n)| n.inputs.iter().any(further))
            || self.graph.outputs.iter().any(|o| further(&o.port))
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

/// TensorFlow.js does not take a negative axis. `Rank` folds where the rank is known.
fn axis_from_the_front(l: &mut Lower<'_>, op: &'static str) -> Option<Root> {
    let (x, axis) = (l.input(0)?, l.input(1)?);
    let axis = match l.graph.node(axis.node).value.as_ref()?.tensor().ok()? {
        Tensor::I32(axis) => *axis.data().first().filter(|a| **a < 0)?,
        _ => return None,
    };
    let attrs = l.attrs().clone().with("Tidx", Value::Type(DataType::DtInt32 as i32));
    let of_int32 = Attrs::default().with("T", Value::Type(DataType::DtInt32 as i32));
    let rank = l.node("rank", "Rank", [x]);
    let axis = l.constant("axis/from_end", DataType::DtInt32, Tensor::scalar(axis));
    let axis = l.add("axis", "AddV2", &[rank, axis], of_int32);
    Some(Root { op, inputs: vec![x, axis], attrs })
}

/// TensorFlow.js always normalises with the statistics that it is given; here they are those of the batch.
fn batch_norm_of_batch(l: &mut Lower<'_>) -> Option<Root> {
    let nhwc = l.attrs().str_or("data_format", "NHWC") == Ok("NHWC");
    // TensorFlow trains unless told otherwise.
    if !l.attrs().bool_or("is_training", true).ok()? || !nhwc || l.has_further_outputs() {
        return None;
    }
    let axes = l.constant("axes", DataType::DtInt32, Tensor::vector(vec![0i32, 1, 2]));
    let mean = l.node("mean", "Mean", [l.input(0)?, axes]);
    let squares = l.node("squares", "SquaredDifference", [l.input(0)?, mean]);
    let variance = l.node("variance", "Mean", [squares, axes]);
    let mut root =
        Root::new("FusedBatchNormV3", [l.input(0)?, l.input(1)?, l.input(2)?, mean, variance], l.dtype());
    root.attrs = l.attrs().clone();
    root.attrs.set("is_training", Value::B(false));
    root.attrs.remove("exponential_avg_factor");
    Some(root)
}

/// TensorFlow.js returns a vector whatever the shape of the keys.
fn keep_key_shape(l: &mut Lower<'_>) -> Option<Root> {
    let (keys, attrs) = (l.input(1)?, l.attrs().clone());
    let key_type = attrs.opt_data_type("Tin").ok().flatten()?;
    let value_type = attrs.opt_data_type("Tout").ok().flatten()?;
    let producer = l.graph.node(keys.node);
    let declared = producer.attrs.shape("shape").ok().flatten();
    if producer.op == "Placeholder" && declared.is_some_and(|s| s.len() == 1) {
        return None;
    }
    let found = l.add("values", "LookupTableFindV2", &[l.input(0)?, keys, l.input(2)?], attrs);
    let shape = l.shape_of(keys, key_type);
    let mut root = Root::new("Reshape", [found, shape], value_type);
    root.attrs.set("Tshape", Value::Type(DataType::DtInt32 as i32));
    Some(root)
}

/// One replacement for each letter. TensorFlow.js changes the attributes of nodes to lower case, so the letter stands by
/// its number.
fn ascii_lower(l: &mut Lower<'_>) -> Option<Root> {
    if !l.attrs().str_or("encoding", "").ok()?.is_empty() {
        return None;
    }
    let mut text = l.input(0)?;
    for upper in b'A'..=b'Y' {
        let (pattern, letter) = replacement_of(upper);
        text = l.add(&format!("lower_{letter}"), "StaticRegexReplace", &[text], replace(&pattern, &letter));
    }
    let (pattern, letter) = replacement_of(b'Z');
    Some(Root { op: "StaticRegexReplace", inputs: vec![text], attrs: replace(&pattern, &letter) })
}

fn replacement_of(upper: u8) -> (String, String) {
    (format!("\\x{upper:02x}"), char::from(upper.to_ascii_lowercase()).to_string())
}

fn replace(pattern: &str, rewrite: &str) -> Attrs {
    Attrs::default()
        .with("pattern", Value::S(pattern.to_owned().into_bytes().into()))
        .with("rewrite", Value::S(rewrite.to_owned().into_bytes().into()))
        .with("replace_global", Value::B(true))
}

/// TensorFlow.js splits at single characters: at one given, or at white space once that is all the same.
fn split_by_one(l: &mut Lower<'_>) -> Option<Root> {
    let (text, separator) = (l.input(0)?, l.input(1)?);
    if l.attrs().int_or("maxsplit", -1).ok()? >= 0 {
        return None;
    }
    let constant = l.graph.node(separator.node).value.as_ref()?.tensor().ok()?;
    let Tensor::Str(constant) = constant else { return None };
    let given = constant.data().first()?.to_vec();
    let (text, separator) = match given.as_slice() {
        [] => {
            let text = l.add("spaces", "StaticRegexReplace", &[text], replace(r"[\t\n\x0b\x0c\r]", " "));
            let space = Tensor::scalar(tfjs_kernels::TfString::from(" "));
            (text, l.constant("delimiter", DataType::DtString, space))
        }
        [byte] if byte.is_ascii() => (text, separator),
        _ => return None,
    };
    let attrs = Attrs::default().with("skip_empty", Value::B(given.is_empty()));
    Some(Root { op: "StringSplit", inputs: vec![text, separator], attrs })
}

/// TensorFlow.js takes wrong elements where an axis is dropped and another has steps: the axes are dropped afterwards.
fn slice_in_two(l: &mut Lower<'_>) -> Option<Root> {
    let mask = |key: &str| l.attrs().int_or(key, 0).ok();
    let (begin_mask, end_mask) = (mask("begin_mask")?, mask("end_mask")?);
    let (ellipsis, new_axis) = (mask("ellipsis_mask")?, mask("new_axis_mask")?);
    let shrink = mask("shrink_axis_mask")? & !ellipsis & !new_axis;
    let [x, begin, end, strides] = [l.input(0)?, l.input(1)?, l.input(2)?, l.input(3)?];
    let Tensor::I32(strides) = l.graph.node(strides.node).value.as_ref()?.tensor().ok()? else { return None };
    let dropped = |i: usize| i < 63 && shrink & 1 << i != 0;
    let steps: Vec<i32> =
        strides.data().iter().enumerate().map(|(i, &s)| if dropped(i) { 1 } else { s }).collect();
    if shrink == 0 || steps.iter().all(|&s| s == 1) {
        return None;
    }
    let ones = vec![1; steps.len()];
    let others = ((1i64 << steps.len().min(31)) - 1) & !shrink;
    let steps = l.constant("steps", DataType::DtInt32, Tensor::vector(steps));
    let ones = l.constant("ones", DataType::DtInt32, Tensor::vector(ones));
    let mut masked = l.attrs().clone();
    masked.set("begin_mask", Value::I(begin_mask | shrink));
    masked.set("end_mask", Value::I(end_mask | shrink));
    masked.set("shrink_axis_mask", Value::I(0));
    let stepped = l.add("stepped", "StridedSlice", &[x, begin, end, steps], masked);
    let mut attrs = l.attrs().clone();
    attrs.set("begin_mask", Value::I(others));
    attrs.set("end_mask", Value::I(others));
    attrs.set("new_axis_mask", Value::I(0));
    attrs.set("shrink_axis_mask", Value::I(shrink));
    Some(Root { op: "StridedSlice", inputs: vec![stepped, begin, end, ones], attrs })
}

/// TensorFlow.js takes the number of diagonals below for that above, too. Inputs are `matrices, lower, upper`.
fn band_part(l: &mut Lower<'_>) -> Option<Root> {
    let matrices = l.input(0)?;
    let int32 = |attrs: Attrs, key: &str| attrs.with(key, Value::Type(DataType::DtInt32 as i32));
    let of_int32 = int32(Attrs::default(), "T");
    let mut whole = |part: &str, i: i32| l.constant(part, DataType::DtInt32, Tensor::scalar(i));
    let (zero, one) = (whole("zero", 0), whole("one", 1));
    let shape = l.shape_of(matrices, l.dtype());
    let mut range = |part: &str, from_end: i32| {
        let at = l.constant(&format!("{part}/axis"), DataType::DtInt32, Tensor::vector(vec![-from_end]));
        let attrs = of_int32.clone().with("Index", Value::Type(DataType::DtInt32 as i32));
        let ones = l.constant(&format!("{part}/one"), DataType::DtInt32, Tensor::vector(vec![1i32]));
        let attrs = attrs.with("shrink_axis_mask", Value::I(1));
        // With the axis shrunk away, only where it begins matters.
        let size = l.add(&format!("{part}/size"), "StridedSlice", &[shape, at, ones, ones], attrs);
        l.add(part, "Range", &[zero, size, one], int32(Attrs::default(), "Tidx"))
    };
    let (rows, columns) = (range("rows", 2), range("columns", 1));
    let rows = l.add("row", "ExpandDims", &[rows, one], int32(of_int32.clone(), "Tdim"));
    let below = l.add("below", "Sub", &[rows, columns], of_int32.clone());
    let above = l.add("above", "Sub", &[columns, rows], of_int32.clone());
    let index = l.attrs().opt_data_type("Tindex").ok().flatten().unwrap_or(DataType::DtInt64);
    let mut within = |part: &str, distance: Port, input: usize| {
        let cast = Attrs::default().with("SrcT", Value::Type(index as i32));
        let limit = l.input(input)?;
        let limit = l.add(&format!("{part}/limit"), "Cast", &[limit], int32(cast, "DstT"));
        let all = l.add(&format!("{part}/all"), "Less", &[limit, zero], of_int32.clone());
        let near = l.add(&format!("{part}/near"), "LessEqual", &[distance, limit], of_int32.clone());
        Some(l.add(part, "LogicalOr", &[all, near], Attrs::default()))
    };
    let (lower, upper) = (within("lower", below, 1)?, within("upper", above, 2)?);
    let band = l.add("band", "LogicalAnd", &[lower, upper], Attrs::default());
    let zeros = l.node("zeros", "ZerosLike", [matrices]);
    Some(Root::new("SelectV2", [band, matrices, zeros], l.dtype()))
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

#[cfg(test)]
mod tests {
    use tfjs_graph::{
        DType, GraphModel, ModelOptions,
        builder::{Builder, attr},
    };

    use super::{Tensor, lower};

    /// `x[:, ::-1, 2]` of 0 … 23 in shape 2, 3, 4, as NumPy gives it.
    #[test]
    fn axes_are_dropped_after_others_are_stepped_through() {
        let mut b = Builder::default();
        let x = b.placeholder("x", DType::Float32, &[None, Some(3), Some(4)]);
        let [begin, end, strides] =
            [[0, 0, 2], [0, 0, 3], [1, -1, 1]].map(|v| b.constant(Tensor::vector(v.to_vec())));
        let attrs =
            [("begin_mask", 3), ("end_mask", 3), ("shrink_axis_mask", 4)].map(|(k, v)| (k, attr::int(v)));
        let y = b.op("StridedSlice", &[x, begin, end, strides], &attrs).unwrap();
        b.output("y", y);
        let mut graph = b.finish();
        assert_eq!(lower(&mut graph), 1);
        assert_eq!(graph.iter().filter(|(_, n)| n.op == "StridedSlice").count(), 2);
        assert_eq!(lower(&mut graph), 0);
        let model = GraphModel::from_graph(graph, ModelOptions::default());
        let x = Tensor::new([2, 3, 4], (0..24).map(|i| i as f32).collect::<Vec<_>>()).unwrap();
        let y = model.run([("x", x)]).unwrap();
        assert_eq!(y["y"].dims(), [2, 3]);
        assert_eq!(y["y"].data::<f32>().unwrap(), [10.0, 6.0, 2.0, 22.0, 18.0, 14.0]);
    }
}
