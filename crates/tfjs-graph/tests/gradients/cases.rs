//! The cases: small inputs, away from where a function has a corner.
use tfjs_graph::{DType, Tensor, builder::attr};

use crate::{Case, In, case, case_n, custom, flag, int, ints, rows, x};

pub(crate) fn all() -> Vec<Case> {
    [
        elementwise(),
        reductions(),
        matrices(),
        joins(),
        shapes(),
        images(),
        norms(),
        composed(),
        spectral(),
        lists(),
        recurrent(),
        rows::all(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn elementwise() -> Vec<Case> {
    let mut out = Vec::new();
    for op in ["Add", "AddV2", "Sub", "Mul", "RealDiv", "Div", "DivNoNan", "MulNoNan", "SquaredDifference"] {
        out.push(case(op, vec![x(&[2, 3], -2.0, 2.0), x(&[2, 3], 0.5, 2.5)], &[]));
        out.push(case(op, vec![x(&[2, 1, 3], -2.0, 2.0), x(&[4, 1], 0.5, 2.5)], &[]));
        out.push(case(op, vec![x(&[], 0.3, 2.0), x(&[3], 0.5, 2.5)], &[]));
    }
    for op in ["Add", "Sub", "Mul", "RealDiv"] {
        out.push(case(op, vec![In::Z(vec![2, 3]), In::Z(vec![3])], &[]));
    }
    for op in ["Maximum", "Minimum"] {
        out.push(case(op, vec![x(&[2, 3], -2.0, 2.0), x(&[3], -1.0, 1.5)], &[]));
    }
    for op in ["FloorMod", "TruncateMod", "Mod"] {
        out.push(case(op, vec![x(&[2, 2], 3.1, 3.9), x(&[2], 0.93, 1.01)], &[]));
    }
    out.push(case("Pow", vec![x(&[2, 3], 0.5, 2.0), x(&[3], -1.0, 2.0)], &[]));
    out.push(case("Atan2", vec![x(&[2, 3], 0.5, 2.0), x(&[3], -1.0, 2.0)], &[]));
    for op in ["Xdivy", "Xlogy", "Xlog1py"] {
        out.push(case(op, vec![x(&[2, 3], -1.0, 2.1), x(&[3], 0.5, 2.0)], &[]));
    }
    out.push(case("AddN", vec![x(&[3], 0.0, 1.0), x(&[3], -1.0, 1.0), x(&[3], 1.0, 2.0)], &[]));
    out.push(case("AccumulateNV2", vec![x(&[3], 0.0, 1.0), x(&[3], -1.0, 1.0)], &[]));
    for op in ["BiasAdd", "BiasAddV1"] {
        out.push(case(op, vec![x(&[2, 2, 3], 0.0, 1.0), x(&[3], -1.0, 1.0)], &[]));
    }
    let first = [("data_format", attr::text("NCHW"))];
    out.push(case("BiasAdd", vec![x(&[2, 3, 2, 2], 0.0, 1.0), x(&[3], -1.0, 1.0)], &first));
    for (op, low, high) in [
        ("Abs", -2.0, 1.9),
        ("Acos", -0.8, 0.8),
        ("Acosh", 1.5, 3.0),
        ("Asin", -0.8, 0.8),
        ("Asinh", -2.0, 2.0),
        ("Atan", -2.0, 2.0),
        ("Atanh", -0.7, 0.7),
        ("BesselI0", -2.0, 2.0),
        ("BesselI0e", -2.0, 1.9),
        ("BesselI1", -2.0, 2.0),
        ("BesselI1e", -2.0, 1.9),
        ("BesselJ0", 0.5, 3.0),
        ("BesselJ1", 0.5, 3.0),
        ("BesselK0", 0.8, 3.0),
        ("BesselK0e", 0.8, 3.0),
        ("BesselK1", 0.8, 3.0),
        ("BesselK1e", 0.8, 3.0),
        ("BesselY0", 0.8, 3.0),
        ("BesselY1", 0.8, 3.0),
        ("Cos", -2.0, 2.0),
        ("Cosh", -2.0, 2.0),
        ("Dawsn", -2.0, 2.0),
        ("Digamma", 0.8, 3.0),
        ("Elu", -2.0, 1.9),
        ("Erf", -2.0, 2.0),
        ("Erfc", -2.0, 2.0),
        ("Erfinv", -0.7, 0.7),
        ("Exp", -2.0, 2.0),
        ("Expint", 0.5, 2.0),
        ("Expm1", -2.0, 2.0),
        ("FresnelCos", -1.5, 1.5),
        ("FresnelSin", -1.5, 1.5),
        ("Inv", 0.5, 2.0),
        ("LeakyRelu", -2.0, 1.9),
        ("Lgamma", 0.8, 3.0),
        ("Log", 0.5, 2.0),
        ("Log1p", -0.4, 2.0),
        ("Ndtri", 0.25, 0.75),
        ("Neg", -2.0, 2.0),
        ("Reciprocal", 0.5, 2.0),
        ("Relu", -2.0, 1.9),
        ("Relu6", -2.0, 8.3),
        ("Rsqrt", 0.5, 2.0),
        ("Selu", -2.0, 1.9),
        ("Sigmoid", -3.0, 3.0),
        ("Sin", -2.0, 2.0),
        ("Sinh", -2.0, 2.0),
        ("Softplus", -3.0, 3.0),
        ("Softsign", -2.0, 1.9),
        ("Spence", 0.5, 2.5),
        ("Sqrt", 0.5, 2.0),
        ("Square", -2.0, 2.0),
        ("Tan", -1.0, 1.0),
        ("Tanh", -2.0, 2.0),
        ("Identity", -2.0, 2.0),
        ("Snapshot", -2.0, 2.0),
        ("DeepCopy", -2.0, 2.0),
        ("CheckNumerics", -2.0, 2.0),
        ("CheckNumericsV2", -2.0, 2.0),
        ("PlaceholderWithDefault", -2.0, 2.0),
        ("Print", -2.0, 2.0),
        ("EnsureShape", -2.0, 2.0),
    ] {
        out.push(case(op, vec![x(&[7], low, high)], &[]));
    }
    for op in [
        "Exp",
        "Sin",
        "Tanh",
        "Sqrt",
        "Sigmoid",
        "Square",
        "Conj",
        "Real",
        "Imag",
        "ComplexAbs",
        "Angle",
        "Log",
    ] {
        out.push(case(op, vec![In::Z(vec![5])], &[]));
    }
    out.push(case("Complex", vec![x(&[2, 3], -1.0, 1.0), x(&[3], 0.0, 1.0)], &[]));
    out.push(case("Polygamma", vec![In::C(Tensor::scalar(1f32)), x(&[3], 1.0, 3.0)], &[]));
    out.push(case("Zeta", vec![In::C(Tensor::scalar(2f32)), x(&[3], 1.0, 3.0)], &[]));
    out.push(case("Igamma", vec![In::C(Tensor::vector(vec![1f32, 2.0])), x(&[2], 0.8, 3.0)], &[]));
    out.push(case("Igammac", vec![In::C(Tensor::vector(vec![1f32, 2.0])), x(&[2], 0.8, 3.0)], &[]));
    for op in ["Igamma", "Igammac"] {
        out.push(case(op, vec![x(&[2, 1], 0.7, 3.0), x(&[3], 0.8, 5.0)], &[]));
    }
    let (a, b) = (Tensor::vector(vec![1f32, 2.0]), Tensor::vector(vec![2f32, 3.0]));
    out.push(case("Betainc", vec![In::C(a), In::C(b), x(&[2], 0.2, 0.8)], &[]));
    out.push(case("Prelu", vec![x(&[2, 2, 3], -2.0, 1.9), x(&[3], 0.1, 0.4)], &[]));
    out.push(case("ClipByValue", vec![x(&[2, 3], -2.1, 2.0), x(&[], -1.0, -0.9), x(&[], 0.9, 1.0)], &[]));
    let condition = || In::C(Tensor::new([2, 3], vec![true, false, true, true, false, false]).unwrap());
    out.push(case("Select", vec![condition(), x(&[2, 3], 0.0, 1.0), x(&[2, 3], -1.0, 0.0)], &[]));
    out.push(case("SelectV2", vec![condition(), x(&[3], 0.0, 1.0), x(&[2, 1], -1.0, 0.0)], &[]));
    out.push(case_n("IdentityN", vec![x(&[2], 0.0, 1.0), x(&[3], -1.0, 0.0)], &[], 2));
    // Quantization moves in steps; what is tested is a sum that makes it linear again.
    out.push(custom(&["Cast"], vec![x(&[3], -1.0, 1.0)], |b, p| {
        let to = |t| [("DstT", attr::dtype(t))];
        let z = b.op("Cast", &[p[0]], &to(DType::Complex64)).unwrap();
        let z = b.op("Mul", &[z, z], &[]).unwrap();
        vec![b.op("Cast", &[z], &to(DType::Float32)).unwrap()]
    }));
    out
}

fn reductions() -> Vec<Case> {
    let mut out = Vec::new();
    let keep = |k| [("keep_dims", flag(k))];
    for op in ["Sum", "Mean", "Max", "Min", "Prod", "EuclideanNorm"] {
        out.push(case(op, vec![x(&[2, 3, 2], 0.5, 2.0), ints(&[0, -1])], &keep(false)));
        out.push(case(op, vec![x(&[2, 3, 2], 0.5, 2.0), ints(&[1])], &keep(true)));
        out.push(case(op, vec![x(&[4], 0.5, 2.0), ints(&[0])], &keep(false)));
    }
    // A zero among the factors.
    out.push(case("Prod", vec![In::X(vec![2, 2], vec![0.0, 2.0, 3.0, 1.5]), ints(&[1])], &[]));
    for (exclusive, reverse) in [(false, false), (true, false), (false, true), (true, true)] {
        let attrs = [("exclusive", flag(exclusive)), ("reverse", flag(reverse))];
        out.push(case("Cumsum", vec![x(&[2, 3], -1.0, 1.0), int(1)], &attrs));
        out.push(case("Cumprod", vec![x(&[2, 3], 0.5, 2.0), int(-1)], &attrs));
        if !exclusive {
            out.push(case("CumulativeLogsumexp", vec![x(&[2, 3], -1.0, 1.0), int(1)], &attrs));
        }
    }
    for op in ["SegmentSum", "SegmentMean", "SegmentMax", "SegmentMin"] {
        out.push(case(op, vec![x(&[5, 2], -1.0, 1.0), ints(&[0, 0, 1, 2, 2])], &[]));
    }
    for op in ["UnsortedSegmentSum", "UnsortedSegmentMax", "UnsortedSegmentMin"] {
        out.push(case(op, vec![x(&[5, 2], -1.0, 1.0), ints(&[1, 0, 1, -1, 0]), int(2)], &[]));
    }
    out.push(case("L2Loss", vec![x(&[2, 3], -1.0, 1.0)], &[]));
    out
}

fn matrices() -> Vec<Case> {
    let mut out = Vec::new();
    for (ta, tb) in [(false, false), (true, false), (false, true), (true, true)] {
        let (a, b) = (if ta { [3, 2] } else { [2, 3] }, if tb { [4, 3] } else { [3, 4] });
        let attrs = [("transpose_a", flag(ta)), ("transpose_b", flag(tb))];
        out.push(case("MatMul", vec![x(&a, -1.0, 1.0), x(&b, -1.0, 1.0)], &attrs));
        let attrs = [("adj_x", flag(ta)), ("adj_y", flag(tb))];
        let wide = |m: [usize; 2], lead: &[usize]| [lead, &m].concat();
        for op in ["BatchMatMulV2", "BatchMatMulV3"] {
            out.push(case(op, vec![x(&wide(a, &[2, 1]), -1.0, 1.0), x(&wide(b, &[2]), -1.0, 1.0)], &attrs));
        }
        out.push(case(
            "BatchMatMul",
            vec![x(&wide(a, &[2]), -1.0, 1.0), x(&wide(b, &[2]), -1.0, 1.0)],
            &attrs,
        ));
        out.push(case("BatchMatMulV2", vec![In::Z(a.to_vec()), In::Z(b.to_vec())], &attrs));
    }
    let equation = |text| [("equation", attr::text(text))];
    let two = |a: &[usize], b: &[usize]| vec![x(a, -1.0, 1.0), x(b, -1.0, 1.0)];
    out.push(case("Einsum", two(&[2, 3], &[3, 4]), &equation("ij,jk->ik")));
    out.push(case("Einsum", two(&[2, 3, 2], &[3, 4, 2]), &equation("abc,bde->ad")));
    out.push(case("Einsum", two(&[2, 3], &[4, 3]), &equation("ij,kj->k")));
    out.push(case("Einsum", two(&[2, 1, 2, 3], &[2, 3, 2]), &equation("...ij,...jk->...ik")));
    out.push(case("Einsum", vec![x(&[2, 3], -1.0, 1.0)], &equation("ij->ji")));
    for (text, shape) in [
        ("ii->i", &[3, 3][..]),
        ("ii->", &[3, 3]),
        ("iij->ij", &[2, 2, 3]),
        ("jii->", &[3, 2, 2]),
        ("iii->i", &[2, 2, 2]),
        ("ijij->ji", &[2, 3, 2, 3]),
        ("...ii->...i", &[3, 2, 2]),
        ("i...i->...", &[2, 3, 2]),
        ("i...j->...", &[2, 3, 2]),
    ] {
        out.push(case("Einsum", vec![x(shape, -1.0, 1.0)], &equation(text)));
    }
    out.push(case("Einsum", vec![In::Z(vec![3, 3])], &equation("ii->i")));
    out.push(case("Einsum", two(&[2, 2], &[3, 2]), &equation("ii,jk->ik")));
    out.push(case("Einsum", two(&[2, 3, 2], &[3, 4]), &equation("iji,jk->ki")));
    out.push(case("Einsum", two(&[1, 2, 2], &[3, 2]), &equation("...ii,...j->...i")));
    out.push(case("Transpose", vec![x(&[2, 3, 2], -1.0, 1.0), ints(&[2, 0, 1])], &[]));
    out.push(case("ConjugateTranspose", vec![In::Z(vec![2, 3]), ints(&[1, 0])], &[]));
    for op in ["MatrixBandPart", "BatchMatrixBandPart"] {
        out.push(case(op, vec![x(&[2, 3, 3], -1.0, 1.0), int(1), int(0)], &[]));
    }
    for op in ["MatrixDiag", "BatchMatrixDiag"] {
        out.push(case(op, vec![x(&[2, 3], -1.0, 1.0)], &[]));
    }
    for op in ["MatrixDiagPart", "BatchMatrixDiagPart"] {
        out.push(case(op, vec![x(&[2, 3, 4], -1.0, 1.0)], &[]));
    }
    for op in ["MatrixSetDiag", "BatchMatrixSetDiag"] {
        out.push(case(op, vec![x(&[2, 3, 3], -1.0, 1.0), x(&[2, 3], -1.0, 1.0)], &[]));
    }
    out.push(case("Diag", vec![x(&[3], -1.0, 1.0)], &[]));
    out.push(case("DiagPart", vec![x(&[3, 3], -1.0, 1.0)], &[]));
    let align = [("align", attr::text("RIGHT_LEFT"))];
    for (part, set, diag, attrs) in [
        ("MatrixDiagPartV2", "MatrixSetDiagV2", "MatrixDiagV2", &[][..]),
        ("MatrixDiagPartV3", "MatrixSetDiagV3", "MatrixDiagV3", &align[..]),
    ] {
        let zero = || In::C(Tensor::scalar(0f32));
        out.push(case(part, vec![x(&[3, 3], -1.0, 1.0), ints(&[-1, 1]), zero()], attrs));
        out.push(case(set, vec![x(&[3, 3], -1.0, 1.0), x(&[2, 3], 0.0, 1.0), ints(&[0, 1])], attrs));
        let inputs = vec![x(&[3], -1.0, 1.0), int(1), int(-1), int(-1), x(&[], 0.5, 0.6)];
        out.push(case(diag, inputs, attrs));
    }
    out
}

fn joins() -> Vec<Case> {
    let mut out = Vec::new();
    out.push(case("Concat", vec![int(1), x(&[2, 1], 0.0, 1.0), x(&[2, 3], 0.0, 1.0)], &[]));
    out.push(case("ConcatV2", vec![x(&[2, 1], 0.0, 1.0), x(&[2, 3], 0.0, 1.0), int(-1)], &[]));
    out.push(case("Pack", vec![x(&[2, 3], 0.0, 1.0), x(&[2, 3], -1.0, 0.0)], &[("axis", attr::int(1))]));
    out.push(case_n(
        "Unpack",
        vec![x(&[2, 3], 0.0, 1.0)],
        &[("num", attr::int(3)), ("axis", attr::int(1))],
        2,
    ));
    out.push(case_n("Split", vec![int(1), x(&[2, 4], 0.0, 1.0)], &[("num_split", attr::int(2))], 1));
    out.push(case_n(
        "SplitV",
        vec![x(&[2, 4], 0.0, 1.0), ints(&[1, 3]), int(1)],
        &[("num_split", attr::int(2))],
        2,
    ));
    out.push(case("Slice", vec![x(&[3, 4], 0.0, 1.0), ints(&[1, 0]), ints(&[-1, 2])], &[]));
    let slice = || vec![x(&[3, 4, 2], 0.0, 1.0), ints(&[2, 1]), ints(&[0, 4]), ints(&[-1, 2])];
    out.push(case("StridedSlice", slice(), &[]));
    let shrunk = vec![x(&[3, 4, 2], 0.0, 1.0), ints(&[2, 1]), ints(&[3, 0]), ints(&[1, 2])];
    out.push(case("StridedSlice", shrunk, &[("shrink_axis_mask", attr::int(1)), ("end_mask", attr::int(2))]));
    let grad = vec![ints(&[3, 4]), ints(&[0, 1]), ints(&[3, 4]), ints(&[1, 2]), x(&[3, 2], 0.0, 1.0)];
    out.push(case("StridedSliceGrad", grad, &[]));
    let update =
        vec![x(&[3, 4], 0.0, 1.0), ints(&[0, 1]), ints(&[3, 4]), ints(&[1, 2]), x(&[3, 2], 0.0, 1.0)];
    out.push(case("TensorStridedSliceUpdate", update, &[]));
    out.push(case("Gather", vec![x(&[4, 2], 0.0, 1.0), ints(&[3, 0, 3])], &[]));
    let indices = |shape: &[usize], v: &[i32]| In::C(Tensor::new(shape, v.to_vec()).unwrap());
    let more = || indices(&[2, 2], &[1, 0, 2, 1]);
    let batch = |n| [("batch_dims", attr::int(n))];
    out.push(case("GatherV2", vec![x(&[4, 2], 0.0, 1.0), more(), int(0)], &batch(0)));
    out.push(case("GatherV2", vec![x(&[2, 3, 2], 0.0, 1.0), more(), int(1)], &batch(0)));
    out.push(case("GatherV2", vec![x(&[2, 3, 2], 0.0, 1.0), more(), int(1)], &batch(1)));
    out.push(case("GatherV2", vec![x(&[2, 2, 3], 0.0, 1.0), more(), int(2)], &batch(1)));
    out.push(case("GatherNd", vec![x(&[3, 2, 2], 0.0, 1.0), indices(&[2, 2], &[2, 0, 1, 1])], &[]));
    out.push(case("ScatterNd", vec![indices(&[2, 1], &[2, 0]), x(&[2, 3], 0.0, 1.0), ints(&[4, 3])], &[]));
    for op in ["TensorScatterAdd", "TensorScatterSub", "TensorScatterUpdate"] {
        out.push(case(op, vec![x(&[4, 2], 0.0, 1.0), indices(&[2, 1], &[2, 0]), x(&[2, 2], 1.0, 2.0)], &[]));
    }
    out.push(case("Tile", vec![x(&[2, 3], 0.0, 1.0), ints(&[2, 3])], &[]));
    out.push(case("Reverse", vec![x(&[2, 3], 0.0, 1.0), In::C(Tensor::vector(vec![true, false]))], &[]));
    out.push(case("ReverseV2", vec![x(&[2, 3], 0.0, 1.0), ints(&[1])], &[]));
    let dims = [("seq_dim", attr::int(1)), ("batch_dim", attr::int(0))];
    out.push(case("ReverseSequence", vec![x(&[2, 3], 0.0, 1.0), ints(&[2, 3])], &dims));
    out.push(case("Roll", vec![x(&[2, 3], 0.0, 1.0), ints(&[1, -2]), ints(&[0, 1])], &[]));
    out.push(case("TopKV2", vec![x(&[2, 5], 0.0, 1.0), int(2)], &[]));
    out.push(case("TopK", vec![x(&[2, 5], 0.0, 1.0)], &[("k", attr::int(2))]));
    let stitch = || vec![ints(&[0, 3]), ints(&[1, 2]), x(&[2, 2], 0.0, 1.0), x(&[2, 2], 1.0, 2.0)];
    for op in ["DynamicStitch", "ParallelDynamicStitch"] {
        out.push(case(op, stitch(), &[("N", attr::int(2))]));
    }
    let parts = [("num_partitions", attr::int(2))];
    out.push(case_n("DynamicPartition", vec![x(&[4, 2], 0.0, 1.0), ints(&[0, 1, 1, 0])], &parts, 2));
    out
}

fn shapes() -> Vec<Case> {
    let pads = || In::C(Tensor::new([2, 2], vec![1, 0, 2, 1]).unwrap());
    let crops = || In::C(Tensor::new([2, 2], vec![0, 1, 1, 0]).unwrap());
    let block = [("block_size", attr::int(2))];
    let mut out = vec![
        case("Reshape", vec![x(&[2, 6], 0.0, 1.0), ints(&[3, -1])], &[]),
        case("ExpandDims", vec![x(&[2, 3], 0.0, 1.0), int(1)], &[]),
        case("Squeeze", vec![x(&[2, 1, 3], 0.0, 1.0)], &[("squeeze_dims", attr::ints([1]))]),
        case("BroadcastTo", vec![x(&[2, 1], 0.0, 1.0), ints(&[3, 2, 4])], &[]),
        case("Pad", vec![x(&[2, 3], 0.0, 1.0), pads()], &[]),
        case("PadV2", vec![x(&[2, 3], 0.0, 1.0), pads(), x(&[], 0.5, 0.7)], &[]),
        case("SpaceToBatchND", vec![x(&[1, 3, 3, 2], 0.0, 1.0), ints(&[2, 2]), crops()], &[]),
        case("BatchToSpaceND", vec![x(&[4, 2, 2, 1], 0.0, 1.0), ints(&[2, 2]), crops()], &[]),
        case("SpaceToBatch", vec![x(&[1, 3, 3, 2], 0.0, 1.0), crops()], &block),
        case("BatchToSpace", vec![x(&[4, 2, 2, 1], 0.0, 1.0), crops()], &block),
        case("DepthToSpace", vec![x(&[1, 2, 2, 4], 0.0, 1.0)], &block),
        case("SpaceToDepth", vec![x(&[1, 4, 2, 1], 0.0, 1.0)], &block),
    ];
    for mode in ["REFLECT", "SYMMETRIC"] {
        out.push(case("MirrorPad", vec![x(&[3, 4], 0.0, 1.0), pads()], &[("mode", attr::text(mode))]));
    }
    out
}

fn images() -> Vec<Case> {
    let mut out = Vec::new();
    let list = |v: &[i64]| attr::ints(v.iter().copied());
    for (padding, stride, dilation) in
        [("SAME", 1, 1), ("VALID", 1, 1), ("SAME", 2, 1), ("VALID", 2, 1), ("SAME", 1, 2)]
    {
        for format in ["NHWC", "NCHW"] {
            let first = format == "NCHW";
            let order = |v: i64| if first { list(&[1, 1, v, v]) } else { list(&[1, v, v, 1]) };
            let attrs = [
                ("strides", order(stride)),
                ("dilations", order(dilation)),
                ("padding", attr::text(padding)),
                ("data_format", attr::text(format)),
            ];
            let image = if first { [2, 2, 5, 4] } else { [2, 5, 4, 2] };
            out.push(case("Conv2D", vec![x(&image, -1.0, 1.0), x(&[3, 2, 2, 3], -1.0, 1.0)], &attrs));
            for m in [1, 2] {
                out.push(case(
                    "DepthwiseConv2dNative",
                    vec![x(&image, -1.0, 1.0), x(&[3, 2, 2, m], -1.0, 1.0)],
                    &attrs,
                ));
            }
            if !first && dilation == 1 {
                let grouped = vec![x(&[1, 5, 4, 4], -1.0, 1.0), x(&[2, 2, 2, 6], -1.0, 1.0)];
                out.push(case("Conv2D", grouped, &attrs));
                let (h, w) = if padding == "SAME" { (5, 4) } else { (5, 5) };
                let image = match (padding, stride) {
                    ("SAME", 1) => [1, 5, 4, 3],
                    ("SAME", _) => [1, 3, 2, 3],
                    (_, 1) => [1, 3, 4, 3],
                    _ => [1, 2, 2, 3],
                };
                out.push(case(
                    "Conv2DBackpropInput",
                    vec![ints(&[1, h, w, 2]), x(&[3, 2, 2, 3], -1.0, 1.0), x(&image, -1.0, 1.0)],
                    &attrs,
                ));
            }
        }
        if dilation == 1 {
            let attrs = [
                ("strides", list(&[1, stride, stride, stride, 1])),
                ("padding", attr::text(padding)),
                ("data_format", attr::text("NDHWC")),
            ];
            let inputs = vec![x(&[1, 3, 4, 3, 2], -1.0, 1.0), x(&[2, 2, 2, 2, 2], -1.0, 1.0)];
            out.push(case("Conv3D", inputs, &attrs));
        }
        for (op, rank) in [("MaxPool", 2), ("AvgPool", 2), ("MaxPool3D", 3), ("AvgPool3D", 3)] {
            if dilation != 1 {
                continue;
            }
            let around = |v: i64| {
                let mut all = vec![1];
                all.extend(vec![v; rank]);
                all.push(1);
                list(&all)
            };
            let attrs = [("ksize", around(2)), ("strides", around(stride)), ("padding", attr::text(padding))];
            let image: &[usize] = if rank == 2 { &[2, 4, 3, 2] } else { &[1, 3, 3, 2, 2] };
            out.push(case(op, vec![x(image, -3.0, 3.0)], &attrs));
            if op == "MaxPool" {
                out.push(case("MaxPoolWithArgmax", vec![x(image, -3.0, 3.0)], &attrs));
                let v2 = vec![
                    x(image, -3.0, 3.0),
                    ints(&[1, 2, 2, 1]),
                    ints(&[1, stride as i32, stride as i32, 1]),
                ];
                out.push(case("MaxPoolV2", v2, &attrs[2..]));
            }
        }
    }
    let attrs = [("strides", list(&[1, 2, 2, 2, 1])), ("padding", attr::text("SAME"))];
    let inputs = vec![ints(&[1, 3, 4, 2, 1]), x(&[2, 2, 2, 1, 2], -1.0, 1.0), x(&[1, 2, 2, 1, 2], -1.0, 1.0)];
    out.push(case("Conv3DBackpropInputV2", inputs, &attrs));
    let explicit = [
        ("strides", list(&[1, 1, 1, 1])),
        ("padding", attr::text("EXPLICIT")),
        ("explicit_paddings", list(&[0, 0, 1, 2, 0, 3, 0, 0])),
    ];
    out.push(case("Conv2D", vec![x(&[1, 4, 3, 2], -1.0, 1.0), x(&[2, 2, 2, 3], -1.0, 1.0)], &explicit));
    let same = [("strides", list(&[1, 2, 2, 1])), ("padding", attr::text("SAME"))];
    out.push(case("DepthwiseConv2d", vec![x(&[1, 4, 3, 2], -1.0, 1.0), x(&[3, 3, 2, 1], -1.0, 1.0)], &same));
    let dilation =
        [("strides", list(&[1, 2, 1, 1])), ("rates", list(&[1, 1, 1, 1])), ("padding", attr::text("SAME"))];
    out.push(case("Dilation2D", vec![x(&[1, 4, 3, 2], -3.0, 3.0), x(&[2, 2, 2], -0.5, 0.5)], &dilation));
    for op in ["ResizeBilinear", "ResizeNearestNeighbor", "ResizeBicubic"] {
        for (corners, centers) in [(false, false), (true, false), (false, true)] {
            let attrs = [("align_corners", flag(corners)), ("half_pixel_centers", flag(centers))];
            out.push(case(op, vec![x(&[1, 3, 4, 2], 0.0, 1.0), ints(&[5, 3])], &attrs));
        }
    }
    for method in ["bilinear", "nearest"] {
        let boxes = Tensor::new([2, 4], vec![0.1f32, 0.0, 0.9, 1.0, 0.3, 0.2, 1.2, 0.7]).unwrap();
        let inputs = vec![x(&[2, 4, 3, 2], 0.0, 1.0), In::C(boxes), ints(&[1, 0]), ints(&[3, 2])];
        out.push(case("CropAndResize", inputs, &[("method", attr::text(method))]));
    }
    out
}

fn norms() -> Vec<Case> {
    let mut out = Vec::new();
    for op in ["Softmax", "LogSoftmax"] {
        out.push(case(op, vec![x(&[2, 5], -2.0, 2.0)], &[]));
    }
    for op in ["FusedBatchNorm", "FusedBatchNormV2", "FusedBatchNormV3"] {
        for format in ["NHWC", "NCHW"] {
            let image: &[usize] = if format == "NHWC" { &[2, 3, 2, 3] } else { &[2, 3, 3, 2] };
            let attrs = |training| {
                [
                    ("is_training", flag(training)),
                    ("data_format", attr::text(format)),
                    ("epsilon", attr::float(0.01)),
                ]
            };
            let (gamma, beta) = (x(&[3], 0.5, 1.5), x(&[3], -1.0, 1.0));
            let empty = || In::C(Tensor::vector(Vec::<f32>::new()));
            let inputs = vec![x(image, -2.0, 2.0), gamma.clone(), beta.clone(), empty(), empty()];
            out.push(case(op, inputs, &attrs(true)));
            let inputs = vec![x(image, -2.0, 2.0), gamma, beta, x(&[3], -0.5, 0.5), x(&[3], 0.5, 2.0)];
            out.push(case(op, inputs, &attrs(false)));
        }
    }
    let attrs = [
        ("depth_radius", attr::int(1)),
        ("bias", attr::float(1.2)),
        ("alpha", attr::float(0.6)),
        ("beta", attr::float(0.75)),
    ];
    out.push(case("LRN", vec![x(&[1, 2, 2, 4], -1.5, 1.5)], &attrs));
    // TensorFlow's gradient supposes that labels add up to one.
    let labels = In::X(vec![2, 4], vec![0.1, 0.2, 0.3, 0.4, 0.7, 0.1, 0.1, 0.1]);
    out.push(case("SoftmaxCrossEntropyWithLogits", vec![x(&[2, 4], -2.0, 2.0), labels], &[]));
    out.push(case("SparseSoftmaxCrossEntropyWithLogits", vec![x(&[3, 4], -2.0, 2.0), ints(&[2, 0, 3])], &[]));
    for op in ["CTCLoss", "CTCLossV2"] {
        let places = In::C(Tensor::new([3, 2], vec![0i32, 0, 0, 1, 1, 0]).unwrap());
        out.push(case(op, vec![x(&[4, 2, 3], -2.0, 2.0), places, ints(&[1, 1, 1]), ints(&[4, 2])], &[]));
    }
    out
}

fn composed() -> Vec<Case> {
    let mut out = Vec::new();
    out.push(case("AdjustContrastv2", vec![x(&[1, 2, 3, 2], 0.0, 1.0), x(&[], 1.4, 1.6)], &[]));
    out.push(case("Fill", vec![ints(&[2, 3]), x(&[], 1.4, 1.6)], &[]));
    let attrs = [("stride", attr::int(2)), ("padding", attr::text("SAME"))];
    out.push(case("Conv1D", vec![x(&[2, 5, 3], -1.0, 1.0), x(&[3, 3, 2], -1.0, 1.0)], &attrs));
    for activation in ["Relu", "Relu6", "Elu", "LeakyRelu", "Sigmoid", "Tanh"] {
        let steps = ("fused_ops", attr::texts(["BiasAdd", activation]));
        out.push(case(
            "_FusedMatMul",
            vec![x(&[2, 3], -1.0, 1.0), x(&[3, 4], -1.0, 1.0), x(&[4], -0.4, 1.0)],
            &[steps],
        ));
    }
    let strides = || ("strides", attr::ints([1, 1, 1, 1]));
    let padding = || ("padding", attr::text("SAME"));
    let image = || x(&[1, 3, 3, 2], -1.0, 1.0);
    let steps = ("fused_ops", attr::texts(["BiasAdd", "Add", "Tanh"]));
    let inputs = vec![image(), x(&[2, 2, 2, 3], -1.0, 1.0), x(&[3], -1.0, 1.0), x(&[1, 3, 3, 3], -1.0, 1.0)];
    out.push(case("_FusedConv2D", inputs, &[steps, strides(), padding()]));
    let steps = ("fused_ops", attr::texts(["BiasAdd", "Prelu"]));
    let inputs = vec![image(), x(&[2, 2, 2, 3], -1.0, 1.0), x(&[3], -1.0, 1.0), x(&[3], 0.1, 0.4)];
    out.push(case("_FusedConv2D", inputs, &[steps, strides(), padding()]));
    let steps = ("fused_ops", attr::texts(["BiasAdd", "Sigmoid"]));
    let inputs = vec![image(), x(&[2, 2, 2, 2], -1.0, 1.0), x(&[4], -1.0, 1.0)];
    out.push(case("FusedDepthwiseConv2dNative", inputs, &[steps, strides(), padding()]));
    for (a, b) in [(false, false), (true, true)] {
        let attrs = [("adjoint_a", flag(a)), ("adjoint_b", flag(b))];
        let at = In::C(Tensor::new([3, 2], vec![0, 1, 1, 0, 1, 2]).unwrap());
        let other: &[usize] = if a { &[4, 2] } else { &[3, 4] };
        let inputs = vec![at, x(&[3], 0.0, 1.0), ints(&[2, 3]), x(other, -1.0, 1.0)];
        out.push(case("SparseTensorDenseMatMul", inputs, &attrs));
    }
    out
}

fn spectral() -> Vec<Case> {
    let mut out = Vec::new();
    for op in ["FFT", "IFFT", "BatchFFT", "BatchIFFT"] {
        out.push(case(op, vec![In::Z(vec![2, 5])], &[]));
    }
    for op in ["FFT2D", "IFFT2D"] {
        out.push(case(op, vec![In::Z(vec![2, 2, 3])], &[]));
    }
    for op in ["FFT3D", "IFFT3D"] {
        out.push(case(op, vec![In::Z(vec![2, 2, 3])], &[]));
    }
    for n in [5, 6] {
        for length in [n as i32, 4] {
            out.push(case("RFFT", vec![x(&[2, n], -1.0, 1.0), ints(&[length])], &[]));
            out.push(case("IRFFT", vec![In::Z(vec![2, n / 2 + 1]), ints(&[length])], &[]));
        }
        let lengths = || ints(&[3, n as i32]);
        out.push(case("RFFT2D", vec![x(&[2, 3, n], -1.0, 1.0), lengths()], &[]));
        out.push(case("IRFFT2D", vec![In::Z(vec![2, 3, n / 2 + 1]), lengths()], &[]));
        let lengths = || ints(&[2, 3, n as i32]);
        out.push(case("RFFT3D", vec![x(&[2, 3, n], -1.0, 1.0), lengths()], &[]));
        out.push(case("IRFFT3D", vec![In::Z(vec![1, 2, 3, n / 2 + 1]), lengths()], &[]));
    }
    out
}

fn lists() -> Vec<Case> {
    let float = || [("element_dtype", attr::dtype(DType::Float32))];
    let shape = |b: &mut tfjs_graph::builder::Builder| b.constant(Tensor::vector(vec![2i32]));
    let number = |b: &mut tfjs_graph::builder::Builder, v: i32| b.constant(Tensor::scalar(v));
    vec![
        custom(
            &["TensorListFromTensor", "TensorListGetItem", "TensorListSetItem", "TensorListStack"],
            vec![x(&[3, 2], -1.0, 1.0), x(&[2], -1.0, 1.0)],
            move |b, p| {
                let (shape, one, two) = (shape(b), number(b, 1), number(b, 2));
                let list = b.op("TensorListFromTensor", &[p[0], shape], &[]).unwrap();
                let item = b.op("TensorListGetItem", &[list, two, shape], &float()).unwrap();
                let item = b.op("Mul", &[item, item], &[]).unwrap();
                let sum = b.op("AddV2", &[item, p[1]], &[]).unwrap();
                let list = b.op("TensorListSetItem", &[list, one, sum], &[]).unwrap();
                vec![b.op("TensorListStack", &[list, shape], &float()).unwrap()]
            },
        ),
        custom(
            &["TensorListSplit", "TensorListConcat", "TensorListConcatV2"],
            vec![x(&[3, 2], -1.0, 1.0)],
            move |b, p| {
                let (any, lengths) = (number(b, -1), b.constant(Tensor::vector(vec![2i32, 1])));
                let list = b.op("TensorListSplit", &[p[0], any, lengths], &[]).unwrap();
                let one = b.op("TensorListConcat", &[list], &float()).unwrap();
                let two = b.op("TensorListConcatV2", &[list, any, lengths], &float()).unwrap();
                vec![one, b.op("Mul", &[one, two], &[]).unwrap()]
            },
        ),
        custom(
            &["TensorListPushBack", "TensorListPopBack", "TensorListResize"],
            vec![x(&[2], -1.0, 1.0), x(&[2], -1.0, 1.0)],
            move |b, p| {
                let (shape, any, three) = (shape(b), number(b, -1), number(b, 3));
                let list = b.op("EmptyTensorList", &[shape, any], &float()).unwrap();
                let list = b.op("TensorListPushBack", &[list, p[0]], &[]).unwrap();
                let list = b.op("TensorListPushBack", &[list, p[1]], &[]).unwrap();
                let popped = b.op_n("TensorListPopBack", &[list, shape], &float(), 2).unwrap();
                let list = b.op("TensorListResize", &[popped[0], three], &[]).unwrap();
                let all = b.op("TensorListStack", &[list, shape], &float()).unwrap();
                vec![all, popped[1]]
            },
        ),
        custom(
            &[
                "TensorListGather",
                "TensorListScatter",
                "TensorListScatterIntoExistingList",
                "TensorListScatterV2",
            ],
            vec![x(&[2, 2], -1.0, 1.0)],
            move |b, p| {
                let (shape, four) = (shape(b), number(b, 4));
                let at = b.constant(Tensor::vector(vec![3i32, 1]));
                let list = b.op("TensorListScatterV2", &[p[0], at, shape, four], &[]).unwrap();
                let other = b.op("TensorListScatter", &[p[0], at, shape], &[]).unwrap();
                let back = b.op("TensorListGather", &[list, at, shape], &float()).unwrap();
                let more = b.op("TensorListGather", &[other, at, shape], &float()).unwrap();
                let turned = b.constant(Tensor::vector(vec![0i32, 3]));
                let into = [list, p[0], turned];
                let third = b.op("TensorListScatterIntoExistingList", &into, &[]).unwrap();
                let third = b.op("TensorListGather", &[third, at, shape], &float()).unwrap();
                vec![back, more, third]
            },
        ),
    ]
}

/// Recurrent layers: every cell, every way through the sequence.
fn recurrent() -> Vec<Case> {
    let mut out = Vec::new();
    let cells: [(&'static str, bool, usize); 4] = [
        ("_SequenceRNN", false, 1),
        ("_SequenceLSTM", false, 4),
        ("_SequenceGRU", true, 3),
        ("_SequenceGRU", false, 3),
    ];
    for (op, after, gates) in cells {
        for way in 0..4 {
            let (states, masked, sequences, zeros) = (way != 0, way > 1, way != 2, way == 3);
            let units = 2;
            let mut inputs =
                vec![x(&[2, 3, gates * units], -1.0, 1.0), x(&[units, gates * units], -0.9, 0.8)];
            if after && states {
                inputs.push(x(&[gates * units], -0.5, 0.5));
            }
            let of_lstm = op == "_SequenceLSTM";
            if states {
                inputs.push(x(&[2, units], -0.8, 1.0));
                if of_lstm {
                    inputs.push(x(&[2, units], -0.7, 1.0));
                }
            }
            if masked {
                let steps = vec![false, true, false, true, true, true];
                inputs.push(In::C(Tensor::new([2, 3], steps).unwrap()));
            }
            let attrs = [
                ("activation", attr::text("tanh")),
                ("recurrent_activation", attr::text("sigmoid")),
                ("reset_after", flag(after)),
                ("bias", flag(after && states)),
                ("states", flag(states)),
                ("mask", flag(masked)),
                ("go_backwards", flag(way == 1)),
                ("return_sequences", flag(sequences)),
                ("zero_output_for_mask", flag(zeros)),
            ];
            // Without more outputs than the first, the gradients of the others are missing.
            let outputs = match way {
                0 => 1,
                _ if of_lstm => 3,
                _ => 2,
            };
            out.push(case_n(op, inputs, &attrs, outputs));
        }
    }
    out
}
