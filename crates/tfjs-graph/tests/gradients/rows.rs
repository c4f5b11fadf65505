//! Cases of ops that move, pick and group rows: segments, sparse and ragged tensors, patches; colours and projections.
use tfjs_format::proto::attr_value::Value;
use tfjs_graph::{DType, Tensor, builder::attr};

use crate::{Case, In, case, case_n, custom, int, ints, x};

pub(crate) fn all() -> Vec<Case> {
    [segments(), sparse(), ragged(), images(), filters()].into_iter().flatten().collect()
}

fn table(shape: [usize; 2], values: &[i32]) -> In {
    In::C(Tensor::new(shape, values.to_vec()).unwrap())
}

fn segments() -> Vec<Case> {
    let mut out = Vec::new();
    // One zero in a segment, two in another.
    let data = || In::X(vec![5, 2], vec![1.5, 0.0, 0.7, 2.0, -1.2, 0.5, 0.0, 1.1, 0.0, -0.8]);
    out.push(case("SegmentProd", vec![data(), ints(&[0, 0, 1, 2, 2])], &[]));
    out.push(case("UnsortedSegmentProd", vec![data(), ints(&[3, 0, -1, 0, 3]), int(4)], &[]));
    for op in ["SparseSegmentSum", "SparseSegmentMean", "SparseSegmentSqrtN"] {
        out.push(case(op, vec![x(&[4, 2], 0.0, 1.0), ints(&[3, 0, 3]), ints(&[0, 0, 1])], &[]));
    }
    for op in [
        "SparseSegmentSumWithNumSegments",
        "SparseSegmentMeanWithNumSegments",
        "SparseSegmentSqrtNWithNumSegments",
    ] {
        let inputs = vec![x(&[4, 2, 1], 0.0, 1.0), ints(&[3, 0, 3]), ints(&[0, 0, 2]), int(4)];
        out.push(case(op, inputs, &[]));
    }
    out.push(case("Bincount", vec![ints(&[2, 0, 2, 5]), int(4), x(&[4], -1.0, 1.0)], &[]));
    out.push(case("DenseBincount", vec![ints(&[2, 0, 2, 5]), int(4), x(&[4], -1.0, 1.0)], &[]));
    let rows = table([2, 3], &[2, 0, 2, 1, 3, 3]);
    out.push(case("DenseBincount", vec![rows, int(3), x(&[2, 3], -1.0, 1.0)], &[]));
    // Far from where the next number is further away.
    out.push(case("NextAfter", vec![x(&[3], 0.6, 0.9), In::C(Tensor::scalar(2f32))], &[]));
    out.push(case("Cumprod", vec![In::X(vec![4], vec![1.5, -0.7, 2.0, 0.4]), int(0)], &[]));
    out
}

fn sparse() -> Vec<Case> {
    let mut out = Vec::new();
    let inputs = || vec![ints(&[3, 4]), x(&[2], -1.0, 1.0), x(&[], 0.4, 0.6)];
    let mut of_table = inputs();
    of_table.insert(0, table([2, 2], &[0, 1, 2, 3]));
    out.push(case("SparseToDense", of_table, &[]));
    let of_vector = vec![ints(&[1, 3]), ints(&[5]), x(&[2], -1.0, 1.0), x(&[], 0.4, 0.6)];
    out.push(case("SparseToDense", of_vector, &[]));
    let of_scalar = vec![ints(&[1, 3]), ints(&[5]), x(&[], 0.1, 0.3), x(&[], 0.4, 0.6)];
    out.push(case("SparseToDense", of_scalar, &[]));
    out.push(case_n(
        "SparseFillEmptyRows",
        vec![table([3, 2], &[0, 1, 2, 3, 2, 0]), x(&[3], -1.0, 1.0), ints(&[4, 4]), x(&[], 0.4, 0.6)],
        &[],
        2,
    ));
    let last = out.pop().unwrap();
    out.push(Case {
        build: Box::new(move |b, p| vec![(last.build)(b, p)[1]]),
        covers: last.covers,
        inputs: last.inputs,
    });
    for op in ["TensorScatterMax", "TensorScatterMin"] {
        let inputs = vec![x(&[5], -1.0, 1.0), table([3, 1], &[3, 0, 3]), x(&[3], -0.45, 0.65)];
        out.push(case(op, inputs, &[]));
    }
    out
}

fn ragged() -> Vec<Case> {
    let kinds = |names: &[&str]| {
        [
            ("row_partition_types", attr::texts(names.iter().copied())),
            ("num_row_partition_tensors", attr::int(names.len() as i64)),
        ]
    };
    vec![
        case(
            "RaggedTensorToTensor",
            vec![ints(&[3, 2]), x(&[5], -1.0, 1.0), x(&[], 0.4, 0.6), ints(&[0, 3, 4, 5])],
            &kinds(&["ROW_SPLITS"]),
        ),
        case(
            "RaggedTensorToTensor",
            vec![ints(&[-1, -1, 2]), x(&[4, 2], -1.0, 1.0), x(&[2], 0.4, 0.6), int(3), ints(&[0, 0, 0, 2])],
            &kinds(&["FIRST_DIM_SIZE", "VALUE_ROWIDS"]),
        ),
        custom(&["RaggedTensorToSparse"], vec![ints(&[0, 2, 3]), x(&[3, 2], -1.0, 1.0)], |b, p| {
            let attrs = [("RAGGED_RANK", attr::int(1)), ("T", attr::dtype(DType::Float32))];
            let parts = b.op_n("RaggedTensorToSparse", p, &attrs, 3).unwrap();
            vec![parts[1]]
        }),
        custom(
            &["RaggedGather"],
            vec![ints(&[0, 2, 3, 3]), x(&[3, 2], -1.0, 1.0), ints(&[1, 0, 1])],
            |b, p| {
                let attrs = [("PARAMS_RAGGED_RANK", attr::int(1)), ("OUTPUT_RAGGED_RANK", attr::int(1))];
                let parts = b.op_n("RaggedGather", p, &attrs, 2).unwrap();
                vec![parts[1]]
            },
        ),
    ]
}

fn images() -> Vec<Case> {
    let mut out = Vec::new();
    let list = |v: &[i64]| attr::ints(v.iter().copied());
    for padding in ["SAME", "VALID"] {
        let attrs = [
            ("ksizes", list(&[1, 2, 3, 1])),
            ("strides", list(&[1, 2, 1, 1])),
            ("rates", list(&[1, 2, 1, 1])),
            ("padding", attr::text(padding)),
        ];
        out.push(case("ExtractImagePatches", vec![x(&[2, 4, 4, 3], -1.0, 1.0)], &attrs));
    }
    // Every channel is the largest and the smallest once.
    let colours = [
        [0.9, 0.5, 0.1],
        [0.9, 0.15, 0.45],
        [0.4, 0.8, 0.2],
        [0.1, 0.7, 0.3],
        [0.2, 0.5, 0.95],
        [0.6, 0.35, 0.85],
    ];
    out.push(case("RGBToHSV", vec![In::X(vec![2, 3, 3], colours.concat())], &[]));
    // Moves by whole pixels: the way back is the adjoint.
    let moves = Tensor::new([1, 8], vec![1f32, 0.0, 1.0, 0.0, 1.0, -2.0, 0.0, 0.0]).unwrap();
    let attrs: [(&str, Value); 1] = [("interpolation", attr::text("BILINEAR"))];
    let inputs = vec![x(&[1, 4, 4, 2], -1.0, 1.0), In::C(moves.clone()), ints(&[4, 4])];
    out.push(case("ImageProjectiveTransformV2", inputs, &attrs));
    let fill = In::C(Tensor::scalar(0f32));
    let inputs = vec![x(&[1, 4, 4, 2], -1.0, 1.0), In::C(moves), ints(&[4, 4]), fill];
    out.push(case("ImageProjectiveTransformV3", inputs, &attrs));
    for size in [[3, 2], [1, 1]] {
        let boxes = In::X(vec![2, 4], vec![0.13, 0.02, 0.91, 0.83, 0.31, 0.22, 0.77, 0.7]);
        let inputs = vec![x(&[2, 5, 6, 2], 0.0, 1.0), boxes, ints(&[1, 0]), ints(&size)];
        out.push(case("CropAndResize", inputs, &[]));
    }
    out
}

fn filters() -> Vec<Case> {
    let mut out = Vec::new();
    let list = |v: &[i64]| attr::ints(v.iter().copied());
    let attrs = [("strides", list(&[1, 2, 2, 1])), ("padding", attr::text("SAME"))];
    let (image, dy) = (|| x(&[1, 4, 3, 2], -1.0, 1.0), || x(&[1, 2, 2, 3], -1.0, 1.0));
    out.push(case("Conv2DBackpropFilter", vec![image(), ints(&[3, 2, 2, 3]), dy()], &attrs));
    let wide = || x(&[1, 2, 2, 4], -1.0, 1.0);
    let inputs = vec![image(), ints(&[3, 2, 2, 2]), wide()];
    out.push(case("DepthwiseConv2dNativeBackpropFilter", inputs, &attrs));
    let inputs = vec![ints(&[1, 4, 3, 2]), x(&[3, 2, 2, 2], -1.0, 1.0), wide()];
    out.push(case("DepthwiseConv2dNativeBackpropInput", inputs, &attrs));
    let attrs = [("strides", list(&[1, 2, 2, 2, 1])), ("padding", attr::text("SAME"))];
    let inputs = vec![x(&[1, 3, 4, 2, 1], -1.0, 1.0), ints(&[2, 2, 2, 1, 2]), x(&[1, 2, 2, 1, 2], -1.0, 1.0)];
    out.push(case("Conv3DBackpropFilterV2", inputs, &attrs));
    out
}
