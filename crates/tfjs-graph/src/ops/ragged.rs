//! Ragged tensors.
use tfjs_kernels::{
    DType,
    ragged::{self, RowPartition},
};

use super::infer::{count, dims, dtype, fact, ints, unsupported};
use crate::{
    Op, OpError,
    op::{ANY, Build, OpDef, one, simple, values},
};

type Boxed = Result<Box<dyn Op>, OpError>;

pub(super) const OPS: &[OpDef] = &[
    OpDef::new("RaggedGather", 3..=ANY, |b| {
        let levels = b.node.inputs.len() - 2;
        let declared = count(b, "PARAMS_RAGGED_RANK", levels as i64, 1, "1 or more")?;
        if declared != levels {
            return Err(OpError::Arity { got: b.node.inputs.len(), expected: format!("{}", declared + 2) });
        }
        let out_levels = count(b, "OUTPUT_RAGGED_RANK", 0, 0, "0 or more")?;
        simple(
            move |x| {
                let splits = x.take_tensors(0..levels)?;
                let (mut out, flat) =
                    ragged::ragged_gather(&splits, x.tensor(levels)?, x.tensor(levels + 1)?)?;
                if out.len() != out_levels {
                    let problem =
                        format!("{} levels come out, OUTPUT_RAGGED_RANK is {out_levels}", out.len());
                    return Err(OpError::input("indices", problem));
                }
                out.push(flat);
                Ok(values(out))
            },
            move |f| {
                let mut facts = vec![fact(Some(DType::Int32), Some(vec![None])); out_levels];
                let flat =
                    dims(f, levels).and_then(|d| Some([None].iter().chain(d.get(1..)?).copied().collect()));
                facts.push(fact(dtype(f, levels), flat));
                Ok(facts)
            },
        )
    }),
    OpDef::new("RaggedRange", 3..=3, |_| {
        simple(
            |x| Ok(values(ragged::ragged_range(x.tensor(0)?, x.tensor(1)?, x.tensor(2)?)?)),
            |f| {
                // Vectors all have one length; scalars alone make one row.
                let lengths: Option<Vec<_>> =
                    (0..3).map(|i| dims(f, i).map(|d| d.first().copied())).collect();
                let rows = lengths.and_then(|l| l.into_iter().flatten().next().unwrap_or(Some(1)));
                Ok(vec![
                    fact(Some(DType::Int32), Some(vec![rows.map(|r| r + 1)])),
                    fact(dtype(f, 0), Some(vec![None])),
                ])
            },
        )
    }),
    OpDef::new("RaggedTensorToSparse", 2..=ANY, |b| {
        let levels = b.node.inputs.len() - 1;
        simple(
            move |x| {
                let splits = x.take_tensors(0..levels)?;
                Ok(values(ragged::ragged_to_sparse(&splits, x.tensor(levels)?)?))
            },
            move |f| {
                let rank = dims(f, levels).map(|d| d.len() + levels);
                Ok(vec![
                    fact(Some(DType::Int32), Some(vec![None, rank])),
                    fact(dtype(f, levels), Some(vec![None])),
                    fact(Some(DType::Int32), Some(vec![rank])),
                ])
            },
        )
    }),
    OpDef::new("RaggedTensorToTensor", 4..=ANY, to_tensor),
];

fn to_tensor(b: &Build<'_>) -> Boxed {
    let kinds = b
        .attrs
        .strings("row_partition_types")?
        .into_iter()
        .map(|kind| match kind {
            b"FIRST_DIM_SIZE" => Ok(RowPartition::FirstDimSize),
            b"VALUE_ROWIDS" => Ok(RowPartition::ValueRowIds),
            b"ROW_SPLITS" => Ok(RowPartition::RowSplits),
            other => {
                let got = String::from_utf8_lossy(other);
                Err(unsupported("row_partition_types", got, "FIRST_DIM_SIZE, VALUE_ROWIDS and ROW_SPLITS"))
            }
        })
        .collect::<Result<Vec<_>, _>>()?;
    if kinds.len() + 3 != b.node.inputs.len() {
        return Err(OpError::Arity { got: b.node.inputs.len(), expected: (kinds.len() + 3).to_string() });
    }
    let levels = kinds.iter().filter(|&&k| k != RowPartition::FirstDimSize).count();
    simple(
        move |x| {
            let default = x.take(2)?;
            let partitions = x.take_tensors(3..x.len())?;
            one(ragged::ragged_to_tensor(x.tensor(0)?, x.tensor(1)?, default, &partitions, &kinds))
        },
        move |f| {
            let inner = dims(f, 1).and_then(|d| d.get(1..));
            let shape = inner.map(|inner| {
                let wanted = ints(f, 0).filter(|w| w.len() == levels + 1 + inner.len());
                let outer = (0..=levels).map(|d| wanted.and_then(|w| usize::try_from(w[d]).ok()));
                outer.chain(inner.iter().copied()).collect()
            });
            Ok(vec![fact(dtype(f, 1), shape)])
        },
    )
}
