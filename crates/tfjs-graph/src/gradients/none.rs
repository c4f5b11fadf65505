//! Ops through which nothing flows back: their value moves in steps, or does not depend on the values of their inputs.
use super::{Row, Rule};

/// Many rows of one kind.
macro_rules! zero {
    ($($op:literal)*) => { &[$(($op, Rule::Zero),)*] };
}

pub(super) const RULES: &[Row] = zero!(
    "All" "Any" "ApproximateEqual" "ArgMax" "ArgMin" "AsString" "Assert" "BitwiseAnd" "BitwiseOr" "BitwiseXor"
    "BroadcastArgs" "BroadcastGradientArgs" "Bucketize" "Ceil" "CombinedNonMaxSuppression" "Const" "EmptyTensorList"
    "Equal" "Floor" "FloorDiv" "Greater" "GreaterEqual" "InTopK" "InTopKV2" "InvertPermutation" "Invert" "IsFinite"
    "IsInf" "IsNan" "LeftShift" "Less" "LessEqual" "LinSpace" "LogicalAnd" "LogicalNot" "LogicalOr" "LowerBound"
    "Multinomial" "NextAfter" "NoOp" "NonMaxSuppression" "NonMaxSuppressionV2" "NonMaxSuppressionV3"
    "NonMaxSuppressionV4" "NonMaxSuppressionV5" "NonMaxSuppressionWithOverlaps" "NotEqual" "OneHot" "Ones" "OnesLike"
    "Placeholder" "PlaceholderV2" "PreventGradient" "PrintV2" "RandomShuffle" "RandomStandardNormal" "RandomUniform"
    "RandomUniformInt" "Range" "Rank" "RightShift" "Rint" "Round" "Shape" "ShapeN" "Sign" "Size"
    "StatelessMultinomial" "StatelessRandomNormal" "StatelessRandomNormalV2" "StatelessRandomUniform"
    "StatelessRandomUniformFullInt" "StatelessRandomUniformFullIntV2" "StatelessRandomUniformInt"
    "StatelessRandomUniformIntV2" "StatelessRandomUniformV2" "StatelessTruncatedNormal" "StatelessTruncatedNormalV2"
    "StopGradient" "TensorListElementShape" "TensorListLength" "TensorListReserve" "TruncateDiv" "TruncatedNormal"
    "Unique" "UniqueV2" "UniqueWithCounts" "UniqueWithCountsV2" "UpperBound" "Where" "Zeros" "ZerosLike"
);
