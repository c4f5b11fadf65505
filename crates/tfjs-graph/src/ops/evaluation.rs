//! Searching, sorting and telling apart.
use tfjs_kernels::{DType, evaluation};

use super::infer::{count, dims, dtype, fact, int};
use crate::{
    Fact, Op, OpError,
    op::{OpDef, one, simple, values},
};

pub(super) const OPS: &[OpDef] = &[
    OpDef::new("InTopK", 2..=2, |b| {
        let k = b.attrs.int("k")?;
        simple(move |x| one(evaluation::in_top_k(x.tensor(0)?, x.tensor(1)?, k)), one_bool_each)
    }),
    OpDef::new("InTopKV2", 3..=3, |_| {
        simple(
            |x| {
                let k = x.scalar::<i32>(2, "k")?;
                one(evaluation::in_top_k(x.tensor(0)?, x.tensor(1)?, k.into()))
            },
            one_bool_each,
        )
    }),
    OpDef::new("LowerBound", 2..=2, |_| bound(false)),
    OpDef::new("TopK", 1..=1, |b| {
        let k = count(b, "k", -1, 0, "numbers from 0 up")?;
        let sorted = b.attrs.bool_or("sorted", true)?;
        simple(
            move |x| {
                let (v, i) = evaluation::top_k(x.tensor(0)?, k as i64, sorted)?;
                Ok(values([v, i]))
            },
            move |facts| Ok(top_k_facts(facts, Some(k))),
        )
    }),
    OpDef::new("TopKV2", 2..=2, |b| {
        let sorted = b.attrs.bool_or("sorted", true)?;
        simple(
            move |x| {
                let k = x.scalar::<i32>(1, "k")?;
                let (v, i) = evaluation::top_k(x.tensor(0)?, k.into(), sorted)?;
                Ok(values([v, i]))
            },
            |facts| Ok(top_k_facts(facts, int(facts, 1).and_then(|k| usize::try_from(k).ok()))),
        )
    }),
    OpDef::new("Unique", 1..=1, |_| unique(false)),
    OpDef::new("UniqueV2", 2..=2, |_| unique(false)),
    OpDef::new("UniqueWithCounts", 1..=1, |_| unique(true)),
    OpDef::new("UniqueWithCountsV2", 2..=2, |_| unique(true)),
    OpDef::new("UpperBound", 2..=2, |_| bound(true)),
];

fn one_bool_each(facts: &[Fact]) -> Result<Vec<Fact>, OpError> {
    Ok(vec![fact(Some(DType::Bool), dims(facts, 1).map(<[_]>::to_vec))])
}

fn bound(upper: bool) -> Result<Box<dyn Op>, OpError> {
    simple(
        move |x| one(evaluation::bound(x.tensor(0)?, x.tensor(1)?, upper)),
        |facts| Ok(vec![fact(Some(DType::Int32), dims(facts, 1).map(<[_]>::to_vec))]),
    )
}

fn top_k_facts(facts: &[Fact], k: Option<usize>) -> Vec<Fact> {
    let shape = dims(facts, 0).map(|d| {
        let mut d = d.to_vec();
        if let Some(last) = d.last_mut() {
            *last = k;
        }
        d
    });
    vec![fact(dtype(facts, 0), shape.clone()), fact(Some(DType::Int32), shape)]
}

/// With input 1, an axis: a vector of at most one element.
fn unique(counts: bool) -> Result<Box<dyn Op>, OpError> {
    simple(
        move |x| {
            let axis = match x.len() {
                1 => None,
                _ => match x.elements::<i32>(1, "axis")? {
                    [] => None,
                    &[a] => Some(i64::from(a)),
                    more => {
                        return Err(OpError::input(
                            "axis",
                            format!("expected at most one, got {}", more.len()),
                        ));
                    }
                },
            };
            let u = evaluation::unique(x.tensor(0)?, axis)?;
            let mut out = values([u.values, u.indices]);
            if counts {
                out.push(u.counts.into());
            }
            Ok(out)
        },
        move |facts| {
            let shape = match dims(facts, 0) {
                Some([_]) => Some(vec![None]),
                Some(d) => Some(vec![None; d.len()]),
                None => None,
            };
            let vector = Fact::new(DType::Int32, vec![None]);
            let mut out = vec![fact(dtype(facts, 0), shape), vector.clone()];
            if counts {
                out.push(vector);
            }
            Ok(out)
        },
    )
}
