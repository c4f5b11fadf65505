//! How much work a node is: what its time is to be compared with.

/// Arithmetic and traffic of one evaluation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Work {
    /// Multiplications and additions of products and convolutions, by their definition; zero for other ops, which are
    /// bound by memory.
    pub(crate) flops: u64,
    /// Bytes of all inputs and outputs, each once.
    pub(crate) bytes: u64,
}

/// Floating-point operations of `op` for inputs and outputs of these shapes.
pub(crate) fn flops(op: &str, inputs: &[&[usize]], outputs: &[&[usize]]) -> u64 {
    let size = |dims: &[usize]| dims.iter().map(|&d| d as u64).product::<u64>();
    let (Some(&a), Some(&b)) = (inputs.first(), inputs.get(1)) else { return 0 };
    let Some(&out) = outputs.first() else { return 0 };
    // Products of one output element of a convolution with this filter.
    let window = |filter: &[usize]| size(filter) / filter.last().map_or(1, |&n| n.max(1) as u64);
    let last_two = |dims: &[usize]| dims.iter().rev().take(2).map(|&d| d as u64).product::<u64>();
    let products = match op {
        "Conv1D" | "Conv2D" | "_FusedConv2D" | "FusedConv2D" | "Conv3D" => size(out) * window(b),
        "DepthwiseConv2d" | "DepthwiseConv2dNative" | "FusedDepthwiseConv2dNative" => {
            size(out) * size(b.get(..2).unwrap_or_default())
        }
        "Conv2DTranspose" | "Conv2DBackpropInput" | "Conv3DBackpropInput" | "Conv3DBackpropInputV2" => {
            inputs.get(2).map_or(0, |dy| size(dy) * window(b))
        }
        "Conv2DBackpropFilter" | "Conv3DBackpropFilterV2" => {
            inputs.get(2).map_or(0, |dy| size(dy) * window(out))
        }
        "DepthwiseConv2dNativeBackpropInput" => {
            inputs.get(2).map_or(0, |dy| size(dy) * size(b.get(..2).unwrap_or_default()))
        }
        "DepthwiseConv2dNativeBackpropFilter" => {
            inputs.get(2).map_or(0, |dy| size(dy) * size(out.get(..2).unwrap_or_default()))
        }
        // The inner dimension is what the left operand has besides the rows of the result, transposed or not.
        "MatMul" | "_FusedMatMul" | "BatchMatMul" | "BatchMatMulV2" | "BatchMatMulV3" => {
            let (rows, columns) = match *out {
                [.., m, n] => (m as u64, n as u64),
                _ => return 0,
            };
            let right = last_two(b).checked_div(columns).unwrap_or(0);
            let left = last_two(a).checked_div(rows).unwrap_or(0);
            size(out) * if b.len() >= 2 { right } else { left }
        }
        // Every step multiplies the state with the recurrent kernel; the inputs were projected before.
        "_SequenceLSTM" | "_SequenceGRU" | "_SequenceRNN" => match *a {
            [batch, time, _] => (batch * time) as u64 * size(b),
            _ => 0,
        },
        // Rows · inner dimension, inner dimension · columns and rows · columns are known.
        "_Dense" => (size(a) * size(b)).saturating_mul(size(out)).isqrt(),
        // Queries with keys, weights with values. Shapes do not tell rows from heads, of which there are fewer.
        "_Attention" => {
            let keys = b.iter().skip(1).take(2).max().map_or(0, |&n| n as u64);
            (size(a) + size(out)) * keys
        }
        _ => 0,
    };
    products.saturating_mul(2)
}

#[cfg(test)]
mod tests {
    use super::flops;

    #[test]
    fn products_are_counted_as_textbooks_do() {
        // 112·112·32 results of 3·3·3 products each.
        let conv = flops("_FusedConv2D", &[&[1, 224, 224, 3], &[3, 3, 3, 32]], &[&[1, 112, 112, 32]]);
        assert_eq!(conv, 2 * 112 * 112 * 32 * 27);
        let depthwise =
            flops("DepthwiseConv2dNative", &[&[1, 10, 10, 8], &[3, 3, 8, 2]], &[&[1, 10, 10, 16]]);
        assert_eq!(depthwise, 2 * 10 * 10 * 16 * 9);
        assert_eq!(flops("MatMul", &[&[4, 5], &[5, 6]], &[&[4, 6]]), 2 * 4 * 5 * 6);
        assert_eq!(flops("MatMul", &[&[5, 4], &[6, 5]], &[&[4, 6]]), 2 * 4 * 5 * 6);
        assert_eq!(flops("BatchMatMulV2", &[&[2, 3, 4, 5], &[5, 6]], &[&[2, 3, 4, 6]]), 2 * 6 * 4 * 5 * 6);
        assert_eq!(flops("_SequenceLSTM", &[&[2, 7, 16], &[4, 16]], &[&[2, 7, 4]]), 2 * 2 * 7 * 4 * 16);
        assert_eq!(flops("_Dense", &[&[2, 3, 4, 5], &[20, 6]], &[&[2, 3, 6]]), 2 * 6 * 20 * 6);
        let rows_first: &[usize] = &[2, 7, 3, 4];
        assert_eq!(flops("_Attention", &[rows_first; 3], &[rows_first]), 2 * 2 * 3 * 7 * 7 * (4 + 4));
        assert_eq!(flops("Relu", &[&[4]], &[&[4]]), 0);
        assert_eq!(flops("MatMul", &[&[0, 5], &[5, 0]], &[&[0, 0]]), 0);
    }
}
