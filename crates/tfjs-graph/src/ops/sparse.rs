//! Sparse tensors.
use tfjs_kernels::{
    DType, Tensor,
    sparse::{self, SegmentReduce},
};

use super::infer::{dims, dtype, fact, int, ints};
use crate::{
    Op, OpError,
    op::{ANY, Build, OpDef, one, simple, values},
};

fn int_attr(b: &Build<'_>, name: &str) -> Result<i32, OpError> {
    let value = b.attrs.int(name)?;
    i32::try_from(value).map_err(|_| OpError::input("num_buckets", format!("{value} does not fit 32 bits")))
}

type Boxed = Result<Box<dyn Op>, OpError>;

pub(super) const OPS: &[OpDef] = &[
    OpDef::new("SparseCross", 1..=ANY, |b| {
        let buckets = int_attr(b, "num_buckets")?;
        let key = b.attrs.int("hash_key")? as u64;
        if b.attrs.int_or("N", 0)? != 0 || !b.attrs.bool_or("hashed_output", false)? {
            return Err(OpError::input("indices", "only dense columns can be crossed, and only with hashes"));
        }
        simple(
            move |x| {
                let columns: Vec<&Tensor> = (0..x.len()).map(|i| x.tensor(i)).collect::<Result<_, _>>()?;
                let crossed = tfjs_kernels::strings::cross_hashed(&columns, buckets, key)?;
                let (rows, width) = (crossed.dims()[0], crossed.dims()[1]);
                let indices =
                    (0..rows).flat_map(|r| (0..width).flat_map(move |c| [r as i32, c as i32])).collect();
                let all = rows * width;
                let indices = Tensor::new([all, 2], indices)?;
                let shape = Tensor::vector(vec![rows as i32, width as i32]);
                Ok(smallvec::smallvec![indices.into(), crossed.reshape([all])?.into(), shape.into()])
            },
            |_| {
                Ok(vec![
                    fact(Some(DType::Int32), Some(vec![None, Some(2)])),
                    fact(Some(DType::Int32), Some(vec![None])),
                    fact(Some(DType::Int32), Some(vec![Some(2)])),
                ])
            },
        )
    }),
    OpDef::new("SparseFillEmptyRows", 4..=4, |_| {
        simple(
            |x| {
                let parts = (x.tensor(0)?, x.tensor(1)?, x.tensor(2)?, x.tensor(3)?);
                Ok(values(sparse::sparse_fill_empty_rows(parts.0, parts.1, parts.2, parts.3)?))
            },
            |f| {
                let columns = dims(f, 0).and_then(|d| *d.get(1)?);
                let entries = dims(f, 0).and_then(|d| *d.first()?);
                let rows = ints(f, 2).and_then(|s| usize::try_from(*s.first()?).ok());
                Ok(vec![
                    fact(Some(DType::Int32), Some(vec![None, columns])),
                    fact(dtype(f, 1), Some(vec![None])),
                    fact(Some(DType::Bool), Some(vec![rows])),
                    fact(Some(DType::Int32), Some(vec![entries])),
                ])
            },
        )
    }),
    OpDef::new("SparseReshape", 3..=3, |_| {
        simple(
            |x| Ok(values(sparse::sparse_reshape(x.tensor(0)?, x.tensor(1)?, x.tensor(2)?)?)),
            |f| {
                let entries = dims(f, 0).and_then(|d| *d.first()?);
                let rank = dims(f, 2).and_then(|d| *d.first()?);
                Ok(vec![
                    fact(Some(DType::Int32), Some(vec![entries, rank])),
                    fact(Some(DType::Int32), Some(vec![rank])),
                ])
            },
        )
    }),
    OpDef::new("SparseSegmentMean", 3..=3, |_| segment(SegmentReduce::Mean)),
    OpDef::new("SparseSegmentMeanWithNumSegments", 4..=4, |_| segment(SegmentReduce::Mean)),
    OpDef::new("SparseSegmentSqrtN", 3..=3, |_| segment(SegmentReduce::SqrtN)),
    OpDef::new("SparseSegmentSqrtNWithNumSegments", 4..=4, |_| segment(SegmentReduce::SqrtN)),
    OpDef::new("SparseSegmentSum", 3..=3, |_| segment(SegmentReduce::Sum)),
    OpDef::new("SparseSegmentSumWithNumSegments", 4..=4, |_| segment(SegmentReduce::Sum)),
    OpDef::new("SparseTensorDenseMatMul", 4..=4, |b| {
        let (a, b) = (b.attrs.bool_or("adjoint_a", false)?, b.attrs.bool_or("adjoint_b", false)?);
        simple(
            move |x| {
                let shape = x.elements(2, "a_shape")?;
                one(sparse::sparse_tensor_dense_matmul(x.tensor(0)?, x.tensor(1)?, shape, x.tensor(3)?, a, b))
            },
            move |f| {
                let size = |d: i32| usize::try_from(d).ok();
                let rows = ints(f, 2).and_then(|s| size(*s.get(usize::from(a))?));
                let columns = dims(f, 3).and_then(|d| *d.get(usize::from(!b))?);
                Ok(vec![fact(dtype(f, 1), Some(vec![rows, columns]))])
            },
        )
    }),
];

fn segment(reduce: SegmentReduce) -> Boxed {
    simple(
        move |x| {
            let segments = if x.len() > 3 { Some(x.scalar::<i32>(3, "num_segments")?) } else { None };
            one(sparse::sparse_segment(x.tensor(0)?, x.tensor(1)?, x.tensor(2)?, segments, reduce))
        },
        |f| {
            let rows = int(f, 3).and_then(|n| usize::try_from(n).ok());
            let shape = dims(f, 0).and_then(|d| Some([rows].iter().chain(d.get(1..)?).copied().collect()));
            Ok(vec![fact(dtype(f, 0), shape)])
        },
    )
}
