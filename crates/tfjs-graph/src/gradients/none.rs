//! Ops through which nothing flows back: their value moves in steps, or does not depend on the values of their inputs.
use super::{Row, Rule};

/// Many rows of one kind.
macro_rules! zero {
    ($($op:literal)*) => { &[$(($op, Rule::Zero),)*] };
}

pub(super) const RULES: &[Row] = zero!(
    "All" "AnonymousHashTable" "AnonymousMutableHashTable" "Any" "ApproximateEqual" "ArgMax" "ArgMin" "AsString"
    "Assert" "BitwiseAnd" "BitwiseOr" "BitwiseXor" "BroadcastArgs" "BroadcastGradientArgs" "Bucketize" "Ceil"
    "Const" "DecodeBase64" "DecodeRaw" "Empty" "EmptyTensorList" "EncodeBase64" "Equal" "Floor" "FloorDiv" "Greater"
    "GreaterEqual" "HSVToRGB" "HashTable" "HashTableV2" "InTopK" "InTopKV2" "InitializeTable" "InitializeTableV2"
    "Invert" "InvertPermutation" "IsFinite" "IsInf" "IsNan" "LeftShift" "Less" "LessEqual" "LinSpace" "ListDiff"
    "LogicalAnd" "LogicalNot" "LogicalOr" "LookupTableExport" "LookupTableExportV2" "LookupTableFind"
    "LookupTableFindV2" "LookupTableImport" "LookupTableImportV2" "LookupTableInsert" "LookupTableInsertV2"
    "LookupTableRemoveV2" "LookupTableSize" "LookupTableSizeV2" "LoopCond" "LowerBound" "Multinomial"
    "MutableHashTable" "MutableHashTableOfTensors" "MutableHashTableOfTensorsV2" "MutableHashTableV2" "NoOp"
    "NonMaxSuppression" "NonMaxSuppressionV2" "NonMaxSuppressionV3" "NonMaxSuppressionV4"
    "NonMaxSuppressionWithOverlaps" "NotEqual" "OneHot" "Ones" "OnesLike" "ParseExample" "ParseExampleV2"
    "ParseSingleExample" "Placeholder" "PlaceholderV2" "PreventGradient" "PrintV2" "RaggedRange" "RandomShuffle"
    "RandomStandardNormal" "RandomUniform" "RandomUniformInt" "Range" "Rank" "ReduceJoin" "RegexFullMatch"
    "RegexReplace" "RightShift" "Rint" "Round" "Shape" "ShapeN" "Sign" "Size" "SparseCross" "SparseReshape"
    "StatelessMultinomial" "StatelessRandomGetAlg" "StatelessRandomGetKeyCounter" "StatelessRandomGetKeyCounterAlg"
    "StatelessRandomNormal" "StatelessRandomNormalV2" "StatelessRandomUniform" "StatelessRandomUniformFullInt"
    "StatelessRandomUniformFullIntV2" "StatelessRandomUniformInt" "StatelessRandomUniformIntV2"
    "StatelessRandomUniformV2" "StatelessTruncatedNormal" "StatelessTruncatedNormalV2" "StaticRegexFullMatch"
    "StaticRegexReplace" "StopGradient" "StringJoin" "StringLength" "StringLower" "StringNGrams" "StringSplit"
    "StringSplitV2" "StringStrip" "StringToHashBucketFast" "StringToHashBucketStrong" "StringToNumber" "StringUpper"
    "Substr" "TensorArrayCloseV3" "TensorArraySizeV3" "TensorArrayV3" "TensorListConcatLists"
    "TensorListElementShape" "TensorListLength" "TensorListReserve" "TruncateDiv" "TruncatedNormal" "UpperBound"
    "Where" "Zeros" "ZerosLike"
);
