//! The list of what works cannot lie: the registry and TF.js's op list are compared (and `docs/ops.md`, in
//! `tfjs-convert`, which knows what a conversion lowers).

use std::collections::BTreeMap;

use tfjs_graph::{
    builtin,
    gradients::{self, Differentiable, differentiable},
    ops,
};

#[test]
fn every_op_of_tfjs_is_there_or_left_out_with_a_reason() {
    let missing: Vec<&str> = ops::tfjs_ops()
        .map(|(_, op)| op)
        .filter(|op| builtin(op).is_none() && !ops::LEFT_OUT.iter().any(|(o, _)| o == op))
        .collect();
    assert!(missing.is_empty(), "not in the registry: {missing:?}");
}

#[test]
fn no_op_is_in_two_families() {
    let mut family: BTreeMap<&str, &str> = BTreeMap::new();
    for (name, defs) in ops::families() {
        for def in defs {
            let before = family.insert(def.name, name);
            assert_eq!(before, None, "{} is in {name} too", def.name);
        }
    }
}

#[test]
fn every_rule_of_differentiation_is_for_an_op_that_there_is() {
    let unknown: Vec<&str> = gradients::rules().filter(|op| builtin(op).is_none()).collect();
    assert!(unknown.is_empty(), "not in the registry: {unknown:?}");
}

/// Ops whose gradient is refused, and why.
const REFUSED: &[(&str, &[&str])] = &[
    (
        "loops and branches of TensorFlow 1, refused with the way out",
        &[
            "Enter",
            "Exit",
            "Merge",
            "NextIteration",
            "RefEnter",
            "RefExit",
            "RefMerge",
            "RefNextIteration",
            "RefSwitch",
            "Switch",
            "TensorArrayConcatV3",
            "TensorArrayGatherV3",
            "TensorArrayReadV3",
            "TensorArrayScatterV3",
            "TensorArraySplitV3",
            "TensorArrayWriteV3",
        ],
    ),
    (
        "gradients themselves: second derivatives are left out",
        &[
            "AvgPool3DGrad",
            "AvgPoolGrad",
            "BiasAddGrad",
            "CropAndResizeGradBoxes",
            "CropAndResizeGradImage",
            "Dilation2DBackpropFilter",
            "Dilation2DBackpropInput",
            "EluGrad",
            "FakeQuantWithMinMaxArgsGradient",
            "FakeQuantWithMinMaxVarsGradient",
            "FakeQuantWithMinMaxVarsPerChannelGradient",
            "FusedBatchNormGrad",
            "FusedBatchNormGradV2",
            "FusedBatchNormGradV3",
            "IgammaGradA",
            "InvGrad",
            "LRNGrad",
            "LeakyReluGrad",
            "MaxPool3DGrad",
            "MaxPoolGrad",
            "MirrorPadGrad",
            "ReciprocalGrad",
            "Relu6Grad",
            "ReluGrad",
            "ResizeBicubicGrad",
            "ResizeBilinearGrad",
            "ResizeNearestNeighborGrad",
            "RsqrtGrad",
            "SeluGrad",
            "SigmoidGrad",
            "SoftplusGrad",
            "SoftsignGrad",
            "SqrtGrad",
            "TanhGrad",
            "_SequenceGRUGrad",
            "_SequenceLSTMGrad",
            "_SequenceRNNGrad",
        ],
    ),
    ("they are put into plans, after gradients were taken", &["_Attention", "_Dense", "_LayerNorm"]),
    (
        "a pass puts them into graphs that are run, behind all gradients",
        &["_Gelu", "_GeluTanh", "_HardSigmoid", "_HardSwish", "_Swish"],
    ),
    (
        "TensorFlow refuses it too, and nothing would be worse than an error",
        &[
            "AdjustHue",
            "AdjustSaturation",
            "CombinedNonMaxSuppression",
            "NonMaxSuppressionV5",
            "ResizeArea",
            "Unique",
            "UniqueV2",
            "UniqueWithCounts",
            "UniqueWithCountsV2",
        ],
    ),
];

/// Ops through which nothing flows although TensorFlow's registry does not say so, and why.
const ZERO: &[(&str, &[&str])] = &[
    (
        "they have no number as an input, or take only its shape",
        &[
            "BroadcastArgs",
            "Empty",
            "EmptyTensorList",
            "NoOp",
            "Ones",
            "Placeholder",
            "PlaceholderV2",
            "PrintV2",
            "RandomUniformInt",
            "TensorListReserve",
            "Zeros",
        ],
    ),
    (
        "positions, truths and counts come out",
        &[
            "All",
            "Any",
            "Bucketize",
            "InTopK",
            "InTopKV2",
            "IsFinite",
            "IsInf",
            "IsNan",
            "ListDiff",
            "LowerBound",
            "NonMaxSuppressionV3",
            "NonMaxSuppressionV4",
            "UpperBound",
            "Where",
        ],
    ),
    ("steps: TensorFlow's function multiplies by zero", &["Ceil", "Sign"]),
    ("the gradient stops there; TensorFlow raises an error", &["PreventGradient"]),
];

#[test]
fn every_op_is_differentiated_as_in_tensorflow_or_stands_in_a_list_with_a_reason() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/gradients/registry.json");
    let registry: BTreeMap<String, Vec<String>> =
        serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let says = |list: &str, op: &str| registry[list].iter().any(|o| o == op);
    let listed = |lists: &[(&str, &[&str])], op: &str| lists.iter().any(|(_, ops)| ops.contains(&op));
    let mut problems = Vec::new();
    for (family, defs) in ops::families() {
        for def in defs {
            let op = def.name;
            // Text and tables hold no numbers that a gradient could be of.
            let no_numbers = ["string", "hash_table", "parsing", "sparse", "creation"].contains(&family);
            match differentiable(op) {
                Differentiable::Yes if says("nothing", op) => {
                    problems.push(format!("{op}: TensorFlow has none"))
                }
                Differentiable::Zero if says("gradient", op) && !listed(ZERO, op) => {
                    problems.push(format!("{op}: zero here, TensorFlow has a gradient"));
                }
                Differentiable::Zero if !says("nothing", op) && !listed(ZERO, op) && !no_numbers => {
                    problems.push(format!("{op}: zero here, TensorFlow refuses it"));
                }
                Differentiable::No if !listed(REFUSED, op) => {
                    problems.push(format!("{op}: no rule, no reason"))
                }
                Differentiable::Yes | Differentiable::Zero if listed(REFUSED, op) => {
                    problems.push(format!("{op}: not refused any more"));
                }
                _ => {}
            }
        }
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

#[test]
fn backends_of_tfjs_are_known_op_by_op() {
    use ops::{Backend, Obstacle};
    let obstacle = |op, complex| Backend::Wasm.obstacle(op, complex);
    assert_eq!(obstacle("Conv2D", false), None);
    assert_eq!(obstacle("Erfc", false), Some(Obstacle::NotListed));
    assert_eq!(obstacle("EnsureShape", false), Some(Obstacle::NoCode));
    assert_eq!(obstacle("FFT", true), Some(Obstacle::Kernels(vec!["FFT"])));
    assert_eq!(obstacle("Mul", true), Some(Obstacle::Complex(vec![])));
    assert_eq!(Backend::Cpu.obstacle("TopKV2", true), Some(Obstacle::Complex(vec!["TopK"])));
    // Every op that has code is known to run on some backend.
    let nowhere = ops::tfjs_ops()
        .map(|(_, op)| op)
        .filter(|op| Backend::ALL.iter().all(|b| b.obstacle(op, false).is_some()));
    let nowhere: Vec<&str> = nowhere.filter(|op| !op.starts_with("SimpleML")).collect();
    assert_eq!(nowhere, ["BitwiseAnd", "EnsureShape"]);
    assert_eq!(ops::tfjs_version(), "4.22.0");
}
