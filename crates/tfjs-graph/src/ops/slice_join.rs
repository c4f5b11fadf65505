//! Cutting, joining and indexing.
use tfjs_kernels::slice_join::{self, BadIndices, ScatterOp, SliceSpec};

use super::infer::{Dims, axis, choice, count, dims, dtype, fact, full, int, ints, known, shape_from};
use crate::{
    Fact, Op, OpError,
    op::{ANY, Build, Inputs, OpDef, one, same, simple, values},
};

type Result<T> = std::result::Result<T, OpError>;
type Boxed = Result<Box<dyn Op>>;

pub(super) const OPS: &[OpDef] = &[
    OpDef::new("Concat", 2..=ANY, |_| concat(false)),
    OpDef::new("ConcatV2", 2..=ANY, |_| concat(true)),
    OpDef::new("DynamicPartition", 2..=2, |b| {
        let n = count(b, "num_partitions", 1, 1, "1 or more")?;
        simple(
            move |x| Ok(values(slice_join::dynamic_partition(x.tensor(0)?, x.tensor(1)?, n)?)),
            move |f| {
                let rest = dims(f, 0).zip(dims(f, 1)).map(|(data, parts)| {
                    [None].iter().chain(data.get(parts.len()..).unwrap_or_default()).copied().collect()
                });
                Ok(vec![fact(dtype(f, 0), rest); n])
            },
        )
    }),
    OpDef::new("DynamicStitch", 2..=ANY, stitch),
    OpDef::new("Gather", 2..=2, |_| {
        simple(|x| one(slice_join::gather(x.tensor(0)?, x.tensor(1)?, 0, 0)), |f| gather_facts(f, Some(0), 0))
    }),
    OpDef::new("GatherNd", 2..=2, |b| {
        let bad = bad_indices(b)?;
        simple(
            move |x| one(slice_join::gather_nd(x.tensor(0)?, x.tensor(1)?, bad)),
            |f| {
                let shape = dims(f, 0).zip(dims(f, 1)).and_then(|(params, index)| {
                    let (depth, lead) = index.split_last()?;
                    Some(lead.iter().chain(params.get((*depth)?..)?).copied().collect())
                });
                Ok(vec![fact(dtype(f, 0), shape)])
            },
        )
    }),
    OpDef::new("GatherV2", 3..=3, |b| {
        let batch = b.attrs.int_or("batch_dims", 0)?;
        simple(
            move |x| {
                let axis = x.scalar::<i32>(2, "axis")?;
                one(slice_join::gather(x.tensor(0)?, x.tensor(1)?, axis.into(), batch))
            },
            move |f| gather_facts(f, int(f, 2), batch),
        )
    }),
    OpDef::new("InvertPermutation", 1..=1, |_| {
        simple(|x| one(slice_join::invert_permutation(x.tensor(0)?)), same)
    }),
    OpDef::new("Pack", 1..=ANY, |b| {
        let at = b.attrs.int_or("axis", 0)?;
        simple(
            move |x| one(slice_join::pack(x.take_tensors(0..x.len())?, at)),
            move |f| {
                let Some(shape) = f.iter().find_map(|f| f.shape.as_ref()) else {
                    return Ok(vec![fact(dtype(f, 0), None)]);
                };
                let mut shape = shape.clone();
                let at = axis(at, shape.len() + 1)?;
                shape.insert(at, Some(f.len()));
                Ok(vec![fact(dtype(f, 0), Some(shape))])
            },
        )
    }),
    OpDef::new("ParallelDynamicStitch", 2..=ANY, stitch),
    OpDef::new("Reverse", 2..=2, |_| {
        simple(
            |x| {
                let flip = x.elements::<bool>(1, "dims")?;
                if flip.len() != x.tensor(0)?.rank() {
                    return Err(OpError::input(
                        "dims",
                        format!("{} values, not one per dimension", flip.len()),
                    ));
                }
                let axes: Vec<i32> = (0..).zip(flip).filter(|(_, flip)| **flip).map(|(d, _)| d).collect();
                one(slice_join::reverse(x.take(0)?, &axes))
            },
            same,
        )
    }),
    OpDef::new("ReverseSequence", 2..=2, |b| {
        let (seq, batch) = (b.attrs.int("seq_dim")?, b.attrs.int_or("batch_dim", 0)?);
        simple(
            move |x| {
                let input = x.take(0)?;
                one(slice_join::reverse_sequence(input, x.elements(1, "seq_lengths")?, seq, batch))
            },
            same,
        )
    }),
    OpDef::new("ReverseV2", 2..=2, |_| {
        simple(
            |x| {
                let input = x.take(0)?;
                one(slice_join::reverse(input, x.elements(1, "axis")?))
            },
            same,
        )
    }),
    OpDef::new("Roll", 3..=3, |_| {
        simple(
            |x| {
                let input = x.take(0)?;
                one(slice_join::roll(input, x.elements(1, "shift")?, x.elements(2, "axis")?))
            },
            same,
        )
    }),
    OpDef::new("ScatterNd", 3..=3, |b| {
        let bad = bad_indices(b)?;
        simple(
            move |x| one(slice_join::scatter_nd(x.tensor(0)?, x.tensor(1)?, x.elements(2, "shape")?, bad)),
            |f| Ok(vec![fact(dtype(f, 1), shape_from(f, 2))]),
        )
    }),
    OpDef::new("Slice", 3..=3, |_| {
        simple(
            |x| {
                let input = x.take(0)?;
                one(slice_join::slice(input, x.elements(1, "begin")?, x.elements(2, "size")?))
            },
            slice_facts,
        )
    }),
    OpDef::new("SparseToDense", 4..=4, |b| {
        let validate = b.attrs.bool_or("validate_indices", true)?;
        simple(
            move |x| {
                let shape = x.elements(1, "output_shape")?;
                one(slice_join::sparse_to_dense(x.tensor(0)?, shape, x.tensor(2)?, x.tensor(3)?, validate))
            },
            |f| Ok(vec![fact(dtype(f, 2), shape_from(f, 1))]),
        )
    }),
    OpDef::new("Split", 2..=2, |b| {
        let n = count(b, "num_split", 1, 1, "1 or more")?;
        simple(
            move |x| {
                let axis = x.scalar::<i32>(0, "split_dim")?;
                Ok(values(slice_join::split(x.take(1)?, n, axis.into())?))
            },
            move |f| {
                let mut piece = fact(dtype(f, 1), dims(f, 1).map(<[_]>::to_vec));
                match (&mut piece.shape, int(f, 0)) {
                    (Some(shape), Some(at)) => {
                        let at = axis(at.into(), shape.len())?;
                        shape[at] = shape[at].map(|d| d / n);
                    }
                    (Some(shape), None) => shape.iter_mut().for_each(|d| *d = None),
                    (None, _) => {}
                }
                Ok(vec![piece; n])
            },
        )
    }),
    OpDef::new("SplitV", 3..=3, |b| {
        let n = count(b, "num_split", 1, 1, "1 or more")?;
        simple(
            move |x| {
                let axis = x.scalar::<i32>(2, "split_dim")?;
                let input = x.take(0)?;
                let sizes = x.elements::<i32>(1, "size_splits")?;
                if sizes.len() != n {
                    return Err(OpError::input(
                        "size_splits",
                        format!("{} values, expected {n}", sizes.len()),
                    ));
                }
                Ok(values(slice_join::split_v(input, sizes, axis.into())?))
            },
            move |f| split_v_facts(f, n),
        )
    }),
    OpDef::new("StridedSlice", 4..=4, |b| {
        let masks = masks(b)?;
        let known_masks = masks.clone();
        simple(
            move |x| {
                let spec = spec(x, &masks)?;
                one(slice_join::strided_slice(x.take(0)?, &spec))
            },
            move |f| {
                let shape = match (dims(f, 0), ints(f, 1), ints(f, 2), ints(f, 3)) {
                    (Some(dims), Some(begin), Some(end), Some(strides)) => {
                        let (begin, end, strides) = (begin.to_vec(), end.to_vec(), strides.to_vec());
                        Some(SliceSpec { begin, end, strides, ..known_masks.clone() }.output_dims(dims)?)
                    }
                    _ => None,
                };
                Ok(vec![fact(dtype(f, 0), shape)])
            },
        )
    }),
    OpDef::new("StridedSliceGrad", 5..=5, |b| {
        let masks = masks(b)?;
        simple(
            move |x| {
                let spec = spec(x, &masks)?;
                one(slice_join::strided_slice_grad(x.elements(0, "shape")?, x.tensor(4)?, &spec))
            },
            |f| Ok(vec![fact(dtype(f, 4), shape_from(f, 0))]),
        )
    }),
    OpDef::new("TensorScatterAdd", 3..=3, |b| scatter(b, ScatterOp::Add)),
    OpDef::new("TensorScatterMax", 3..=3, |b| scatter(b, ScatterOp::Max)),
    OpDef::new("TensorScatterMin", 3..=3, |b| scatter(b, ScatterOp::Min)),
    OpDef::new("TensorScatterSub", 3..=3, |b| scatter(b, ScatterOp::Sub)),
    OpDef::new("TensorScatterUpdate", 3..=3, |b| scatter(b, ScatterOp::Update)),
    OpDef::new("TensorStridedSliceUpdate", 5..=5, |b| {
        let masks = masks(b)?;
        simple(
            move |x| {
                let spec = spec(x, &masks)?;
                one(slice_join::strided_slice_update(x.take(0)?, x.tensor(4)?, &spec))
            },
            same,
        )
    }),
    OpDef::new("Tile", 2..=2, |_| {
        simple(
            |x| {
                let input = x.take(0)?;
                one(slice_join::tile(input, x.elements(1, "multiples")?))
            },
            |f| {
                let shape = match (dims(f, 0), ints(f, 1)) {
                    (Some(dims), Some(by)) if dims.len() == by.len() => Some(
                        dims.iter()
                            .zip(by)
                            .map(|(d, &m)| (*d)?.checked_mul(usize::try_from(m).ok()?))
                            .collect(),
                    ),
                    (Some(dims), _) => Some(vec![None; dims.len()]),
                    _ => None,
                };
                Ok(vec![fact(dtype(f, 0), shape)])
            },
        )
    }),
    OpDef::new("Unpack", 1..=1, |b| {
        let (n, at) = (count(b, "num", 0, 0, "0 or more")?, b.attrs.int_or("axis", 0)?);
        let wrong = move |got| OpError::input("value", format!("{got} slices along the axis, expected {n}"));
        simple(
            move |x| {
                let parts = slice_join::unpack(x.tensor(0)?, at)?;
                if parts.len() == n { Ok(values(parts)) } else { Err(wrong(parts.len())) }
            },
            move |f| {
                let mut shape = dims(f, 0).map(<[_]>::to_vec);
                if let Some(shape) = &mut shape {
                    let at = axis(at, shape.len())?;
                    if let Some(got) = shape.remove(at).filter(|&d| d != n) {
                        return Err(wrong(got));
                    }
                }
                Ok(vec![fact(dtype(f, 0), shape); n])
            },
        )
    }),
];

fn bad_indices(b: &Build<'_>) -> Result<BadIndices> {
    let options = [
        ("", BadIndices::Error),
        ("DEFAULT", BadIndices::Error),
        ("ERROR", BadIndices::Error),
        ("IGNORE", BadIndices::Ignore),
    ];
    choice(b, "bad_indices_policy", "", &options, "DEFAULT, ERROR and IGNORE")
}

fn concat(axis_last: bool) -> Boxed {
    let ends = move |n: usize| if axis_last { (n - 1, 0..n - 1) } else { (0, 1..n) };
    simple(
        move |x| {
            let (at, range) = ends(x.len());
            let axis = x.scalar::<i32>(at, "axis")?;
            one(slice_join::concat(x.take_tensors(range)?, axis.into()))
        },
        move |f| {
            let (at, range) = ends(f.len());
            let parts = &f[range];
            let shape = match int(f, at) {
                Some(at) => joined(parts, at.into())?,
                None => parts.iter().find_map(Fact::rank).map(|rank| vec![None; rank]),
            };
            Ok(vec![fact(parts.iter().find_map(|p| p.dtype), shape)])
        },
    )
}

/// Shape of parts joined along an axis: each other dimension from any part that knows it.
fn joined(parts: &[Fact], at: i64) -> Result<Dims> {
    let Some(rank) = parts.iter().find_map(Fact::rank) else { return Ok(None) };
    let at = axis(at, rank)?;
    let mut shape = vec![None; rank];
    for part in parts.iter().filter_map(|p| p.shape.as_ref()) {
        if part.len() != rank {
            return Err(OpError::input("values", "their numbers of dimensions differ"));
        }
        for (d, size) in part.iter().enumerate().filter(|(d, size)| *d != at && size.is_some()) {
            if shape[d].is_some_and(|known| Some(known) != *size) {
                return Err(OpError::input("values", "a dimension other than the joined one differs"));
            }
            shape[d] = *size;
        }
    }
    shape[at] = parts.iter().try_fold(0usize, |n, p| n.checked_add(p.shape.as_ref()?[at]?));
    Ok(Some(shape))
}

fn stitch(b: &Build<'_>) -> Boxed {
    let n = b.node.inputs.len() / 2;
    if b.node.inputs.len() != 2 * n {
        return Err(OpError::Arity { got: b.node.inputs.len(), expected: "an even number".into() });
    }
    simple(
        move |x| {
            let indices = x.take_tensors(0..n)?;
            one(slice_join::dynamic_stitch(&indices, &x.take_tensors(n..2 * n)?))
        },
        move |f| {
            let tail = dims(f, n).zip(dims(f, 0)).and_then(|(data, index)| data.get(index.len()..));
            Ok(vec![fact(dtype(f, n), tail.map(|t| [None].iter().chain(t).copied().collect()))])
        },
    )
}

fn gather_facts(f: &[Fact], at: Option<i32>, batch: i64) -> Result<Vec<Fact>> {
    let (Some(params), Some(index)) = (dims(f, 0), dims(f, 1)) else {
        return Ok(vec![fact(dtype(f, 0), None)]);
    };
    let batch = usize::try_from(if batch < 0 { batch + index.len() as i64 } else { batch }).ok();
    let Some((batch, tail)) = batch.and_then(|b| Some((b, index.get(b..)?))) else {
        return Err(OpError::input("indices", "they have fewer dimensions than batch_dims"));
    };
    let Some(at) = at else {
        let rank = (params.len() + tail.len()).checked_sub(1);
        return Ok(vec![fact(dtype(f, 0), rank.map(|r| vec![None; r]))]);
    };
    if let (Some(params), Some(index)) = (full(f, 0), full(f, 1)) {
        let (shape, ..) = slice_join::gather_shape(&params, &index, at.into(), batch as i64)?;
        return Ok(vec![fact(dtype(f, 0), known(&shape))]);
    }
    let at = axis(at.into(), params.len())?;
    let shape = params[..at].iter().chain(tail).chain(&params[at + 1..]).copied().collect();
    Ok(vec![fact(dtype(f, 0), Some(shape))])
}

fn slice_facts(f: &[Fact]) -> Result<Vec<Fact>> {
    let (begin, size) = (ints(f, 1), ints(f, 2));
    let shape = match (dims(f, 0), begin, size) {
        (Some(dims), Some(begin), Some(size)) if dims.len() == begin.len() && begin.len() == size.len() => {
            if let Some(shape) = full(f, 0) {
                known(&slice_join::slice_shape(&shape, begin, size)?)
            } else {
                let one = |((d, &b), &s): ((&Option<usize>, &i32), &i32)| match s {
                    -1 => (*d)?.checked_sub(usize::try_from(b).ok()?),
                    s => usize::try_from(s).ok(),
                };
                Some(dims.iter().zip(begin).zip(size).map(one).collect())
            }
        }
        (Some(dims), _, Some(size)) if dims.len() == size.len() => {
            Some(size.iter().map(|&s| usize::try_from(s).ok()).collect())
        }
        (Some(dims), ..) => Some(vec![None; dims.len()]),
        (None, ..) => shape_from(f, 2).map(|s| vec![None; s.len()]),
    };
    Ok(vec![fact(dtype(f, 0), shape)])
}

fn split_v_facts(f: &[Fact], n: usize) -> Result<Vec<Fact>> {
    let Some(shape) = dims(f, 0) else { return Ok(vec![fact(dtype(f, 0), None); n]) };
    let Some(at) = int(f, 2) else { return Ok(vec![fact(dtype(f, 0), Some(vec![None; shape.len()])); n]) };
    let at = axis(at.into(), shape.len())?;
    let sizes: Vec<Option<usize>> = match (shape[at], ints(f, 1)) {
        (Some(dim), Some(sizes)) => slice_join::split_v_sizes(dim, sizes)?.into_iter().map(Some).collect(),
        (None, Some(sizes)) => sizes.iter().map(|&s| usize::try_from(s).ok()).collect(),
        _ => vec![None; n],
    };
    let piece = |size| {
        let mut shape = shape.to_vec();
        shape[at] = size;
        fact(dtype(f, 0), Some(shape))
    };
    Ok(sizes.into_iter().map(piece).collect())
}

fn scatter(b: &Build<'_>, op: ScatterOp) -> Boxed {
    let bad = bad_indices(b)?;
    simple(
        move |x| {
            let tensor = x.take(0)?;
            one(slice_join::tensor_scatter(tensor, x.tensor(1)?, x.tensor(2)?, op, bad))
        },
        same,
    )
}

fn masks(b: &Build<'_>) -> Result<SliceSpec> {
    // Masks are 32 bits; a set bit 31 may have been written as a positive number.
    let mask = |name| Ok::<_, OpError>(b.attrs.int_or(name, 0)? as i32);
    Ok(SliceSpec {
        begin_mask: mask("begin_mask")?,
        end_mask: mask("end_mask")?,
        ellipsis_mask: mask("ellipsis_mask")?,
        new_axis_mask: mask("new_axis_mask")?,
        shrink_axis_mask: mask("shrink_axis_mask")?,
        ..SliceSpec::default()
    })
}

fn spec(x: &Inputs, masks: &SliceSpec) -> Result<SliceSpec> {
    let vector = |i, what| Ok::<_, OpError>(x.elements::<i32>(i, what)?.to_vec());
    let (begin, end, strides) = (vector(1, "begin")?, vector(2, "end")?, vector(3, "strides")?);
    Ok(SliceSpec { begin, end, strides, ..masks.clone() })
}
