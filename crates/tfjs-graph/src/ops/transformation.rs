//! Changing shapes.
use tfjs_kernels::{
    DType, Shape, Tensor, cast,
    transform::{self, MirrorMode, SpaceFormat},
};

use super::infer::{
    Dims, axis, choice, count, dims, dtype, fact, full, int, ints, known, shape_from, unsupported,
};
use crate::{
    Fact, Op, OpError,
    op::{Build, OpDef, one, simple, unknown},
};

type Result<T> = std::result::Result<T, OpError>;
type Boxed = Result<Box<dyn Op>>;

pub(super) const OPS: &[OpDef] = &[
    OpDef::new("BatchToSpace", 2..=2, |b| {
        let size = count(b, "block_size", 2, 2, "2 or more")?;
        let size = i32::try_from(size).map_err(|_| unsupported("block_size", size, "sizes below 2^31"))?;
        simple(
            move |x| {
                let input = x.take(0)?;
                one(transform::batch_to_space(input, &[size, size], x.tensor(1)?))
            },
            move |f| {
                let crops = f.get(1).and_then(|f| f.value.as_ref());
                let shape = match (full(f, 0), crops) {
                    (Some(s), Some(crops)) => {
                        known(&transform::batch_to_space_shape(&s, &[size, size], crops)?)
                    }
                    _ => Some(vec![None; 4]),
                };
                Ok(vec![fact(dtype(f, 0), shape)])
            },
        )
    }),
    OpDef::new("BatchToSpaceND", 3..=3, |_| {
        simple(
            |x| {
                let input = x.take(0)?;
                one(transform::batch_to_space(input, x.elements(1, "block_shape")?, x.tensor(2)?))
            },
            |f| blocked(f, transform::batch_to_space_shape),
        )
    }),
    OpDef::new("BroadcastArgs", 2..=2, |_| {
        simple(
            |x| one(transform::broadcast_args(x.tensor(0)?, x.tensor(1)?)),
            |f| {
                let len = |i| match dims(f, i) {
                    Some([n]) => *n,
                    Some([]) => Some(1),
                    _ => None,
                };
                Ok(vec![fact(Some(DType::Int32), Some(vec![len(0).zip(len(1)).map(|(a, b)| a.max(b))]))])
            },
        )
    }),
    OpDef::new("BroadcastTo", 2..=2, |_| {
        simple(
            |x| {
                let input = x.take(0)?;
                one(transform::broadcast_to(input, x.elements(1, "shape")?))
            },
            |f| Ok(vec![fact(dtype(f, 0), shape_from(f, 1))]),
        )
    }),
    OpDef::new("Bucketize", 1..=1, |b| {
        let boundaries = b.attrs.floats("boundaries")?;
        if !boundaries.is_sorted() {
            return Err(unsupported("boundaries", format!("{boundaries:?}"), "lists in ascending order"));
        }
        simple(
            move |x| one(transform::bucketize(x.tensor(0)?, &boundaries)),
            |f| Ok(vec![fact(Some(DType::Int32), dims(f, 0).map(<[_]>::to_vec))]),
        )
    }),
    OpDef::new("Cast", 1..=1, cast),
    OpDef::new("DepthToSpace", 1..=1, |b| space(b, true)),
    OpDef::new("EnsureShape", 1..=1, |b| {
        let want = b.attrs.shape("shape")?;
        simple(
            {
                let want = want.clone();
                move |x| {
                    let input = x.take(0)?;
                    match &want {
                        Some(want) if !fits(&known(input.dims()), want) => {
                            Err(mismatch(&known(input.dims()), want))
                        }
                        _ => one(Ok(input)),
                    }
                }
            },
            move |f| {
                let got: Dims = dims(f, 0).map(<[_]>::to_vec);
                let shape = match (&want, &got) {
                    (Some(want), _) if !fits(&got, want) => return Err(mismatch(&got, want)),
                    (Some(want), Some(got)) => Some(want.iter().zip(got).map(|(w, g)| w.or(*g)).collect()),
                    (want, got) => want.clone().or(got.clone()),
                };
                Ok(vec![fact(dtype(f, 0), shape)])
            },
        )
    }),
    OpDef::new("ExpandDims", 2..=2, |_| {
        simple(
            |x| {
                let at = x.scalar::<i32>(1, "dim")?;
                one(transform::expand_dims(x.take(0)?, at.into()))
            },
            |f| {
                let shape = match (dims(f, 0), int(f, 1)) {
                    (Some(dims), Some(at)) => {
                        let mut shape = dims.to_vec();
                        shape.insert(axis(at.into(), dims.len() + 1)?, Some(1));
                        Some(shape)
                    }
                    (Some(dims), None) => Some(vec![None; dims.len() + 1]),
                    _ => None,
                };
                Ok(vec![fact(dtype(f, 0), shape)])
            },
        )
    }),
    OpDef::new("MirrorPad", 2..=2, |b| {
        let options = [("REFLECT", MirrorMode::Reflect), ("SYMMETRIC", MirrorMode::Symmetric)];
        let mode = choice(b, "mode", "", &options, "REFLECT and SYMMETRIC")?;
        simple(
            move |x| {
                let input = x.take(0)?;
                one(transform::mirror_pad(input, x.tensor(1)?, mode))
            },
            padded,
        )
    }),
    OpDef::new("Pad", 2..=2, |_| {
        simple(
            |x| {
                let input = x.take(0)?;
                one(transform::pad(input, x.tensor(1)?, None))
            },
            padded,
        )
    }),
    OpDef::new("PadV2", 3..=3, |_| {
        simple(
            |x| {
                let input = x.take(0)?;
                one(transform::pad(input, x.tensor(1)?, Some(x.tensor(2)?)))
            },
            padded,
        )
    }),
    OpDef::new("Reshape", 2..=2, |_| {
        simple(
            |x| {
                if x.tensor(1)?.rank() > 1 {
                    return Err(OpError::input("shape", "a vector of sizes is expected"));
                }
                let input = x.take(0)?;
                one(transform::reshape(input, x.elements(1, "shape")?))
            },
            reshaped,
        )
    }),
    OpDef::new("SpaceToBatch", 2..=2, |b| {
        let size = count(b, "block_size", 2, 2, "2 or more")?;
        let size = i32::try_from(size).map_err(|_| unsupported("block_size", size, "sizes below 2^31"))?;
        simple(
            move |x| {
                let input = x.take(0)?;
                one(transform::space_to_batch(input, &[size, size], x.tensor(1)?))
            },
            move |f| {
                let pads = f.get(1).and_then(|f| f.value.as_ref());
                let shape = match (full(f, 0), pads) {
                    (Some(s), Some(pads)) => {
                        known(&transform::space_to_batch_shape(&s, &[size, size], pads)?)
                    }
                    _ => Some(vec![None; 4]),
                };
                Ok(vec![fact(dtype(f, 0), shape)])
            },
        )
    }),
    OpDef::new("SpaceToBatchND", 3..=3, |_| {
        simple(
            |x| {
                let input = x.take(0)?;
                one(transform::space_to_batch(input, x.elements(1, "block_shape")?, x.tensor(2)?))
            },
            |f| blocked(f, transform::space_to_batch_shape),
        )
    }),
    OpDef::new("SpaceToDepth", 1..=1, |b| space(b, false)),
    OpDef::new("Squeeze", 1..=1, |b| {
        // The attribute's old and new names.
        let mut axes = b.attrs.ints("squeeze_dims")?;
        if axes.is_empty() {
            axes = b.attrs.ints("axis")?;
        }
        simple(
            {
                let axes = axes.clone();
                move |x| one(transform::squeeze(x.take(0)?, &axes))
            },
            move |f| squeezed(f, &axes),
        )
    }),
];

/// Whether a shape may be what is wanted.
fn cast(b: &Build<'_>) -> Boxed {
    let (from, to) = (b.attrs.opt_data_type("SrcT")?, b.attrs.data_type("DstT")?);
    let truncate = b.attrs.bool_or("Truncate", false)?;
    let source = from.and_then(DType::from_proto);
    let target = DType::from_proto(to)
        .ok_or_else(|| unsupported("DstT", format!("{to:?}"), "types that tensors hold"))?;
    let check = move |got: DType| match source {
        Some(s) if s != got => Err(OpError::input("x", format!("it is {got}, but SrcT says {s}"))),
        _ => Ok(()),
    };
    simple(
        move |x| {
            let input = x.take(0)?;
            check(input.dtype())?;
            one(cast::cast(input, to, truncate))
        },
        move |f| {
            dtype(f, 0).map(check).transpose()?;
            Ok(vec![fact(Some(target), dims(f, 0).map(<[_]>::to_vec))])
        },
    )
}

fn fits(got: &Dims, want: &[Option<usize>]) -> bool {
    got.as_ref().is_none_or(|got| {
        got.len() == want.len() && got.iter().zip(want).all(|(g, w)| g.is_none() || w.is_none() || g == w)
    })
}

fn mismatch(got: &Dims, want: &[Option<usize>]) -> OpError {
    let show = |shape: &[Option<usize>]| {
        let sizes: Vec<_> = shape.iter().map(|d| d.map_or("?".into(), |d| d.to_string())).collect();
        format!("[{}]", sizes.join(", "))
    };
    let got = got.as_deref().unwrap_or_default();
    OpError::input("input", format!("its shape is {}, expected {}", show(got), show(want)))
}

fn padded(f: &[Fact]) -> Result<Vec<Fact>> {
    let shape = match (dims(f, 0), f.get(1).and_then(|f| f.value.as_ref())) {
        (Some(shape), Some(pads)) if pads.dims() == [shape.len(), 2] => {
            let pads = pads.data::<i32>()?;
            if let Some(shape) = full(f, 0) {
                let pads = Tensor::new([shape.len(), 2], pads.to_vec())?;
                known(&transform::padded_shape(&shape, &pads)?)
            } else {
                let pads = pads.chunks_exact(2).map(|p| usize::try_from(p[0].checked_add(p[1])?).ok());
                Some(shape.iter().zip(pads).map(|(d, p)| (*d)?.checked_add(p?)).collect())
            }
        }
        (Some(shape), _) => Some(vec![None; shape.len()]),
        (None, _) => match dims(f, 1) {
            Some([Some(rank), _]) => Some(vec![None; *rank]),
            _ => None,
        },
    };
    Ok(vec![fact(dtype(f, 0), shape)])
}

fn reshaped(f: &[Fact]) -> Result<Vec<Fact>> {
    let shape = match (full(f, 0), ints(f, 1)) {
        (Some(from), Some(to)) => known(&transform::reshape_dims(&from, to)?),
        (None, Some(to)) => {
            // With one size unknown on the left, 0 and -1 aside, nothing can be filled in; but a single unknown
            // dimension that stays the only one is the same one.
            Some(to.iter().map(|&d| usize::try_from(d).ok()).collect())
        }
        _ => shape_from(f, 1),
    };
    Ok(vec![fact(dtype(f, 0), shape)])
}

fn blocked(
    f: &[Fact],
    shape_of: fn(&[usize], &[i32], &Tensor) -> tfjs_kernels::Result<Shape>,
) -> Result<Vec<Fact>> {
    let amounts = f.get(2).and_then(|f| f.value.as_ref());
    let shape = match (full(f, 0), ints(f, 1), amounts) {
        (Some(shape), Some(block), Some(amounts)) => known(&shape_of(&shape, block, amounts)?),
        (_, block, _) => dims(f, 0).map(|d| {
            // Dimensions behind the blocks stay.
            let kept = block.map_or(d.len(), |b| b.len() + 1);
            d.iter().enumerate().map(|(i, d)| d.filter(|_| i >= kept)).collect()
        }),
    };
    Ok(vec![fact(dtype(f, 0), shape)])
}

fn space(b: &Build<'_>, to_space: bool) -> Boxed {
    let size = count(b, "block_size", 2, 2, "2 or more")?;
    let options = [("NHWC", SpaceFormat::Nhwc), ("NCHW", SpaceFormat::Nchw)];
    let format = choice(b, "data_format", "NHWC", &options, "NHWC and NCHW")?;
    simple(
        move |x| match to_space {
            true => one(transform::depth_to_space(x.take(0)?, size, format)),
            false => one(transform::space_to_depth(x.take(0)?, size, format)),
        },
        move |f| {
            let Some(&[n, a, b, c]) = dims(f, 0) else {
                return Ok(vec![fact(dtype(f, 0), Some(vec![None; 4]))]);
            };
            let up = |d: Option<usize>, by: usize| d.and_then(|d| d.checked_mul(by));
            let down = |d: Option<usize>, by: usize| d.map(|d| d / by);
            let Some(square) = size.checked_mul(size) else { return unknown(f) };
            let (depth, side): (fn(_, _) -> _, fn(_, _) -> _) =
                if to_space { (down, up) } else { (up, down) };
            let shape = match format {
                SpaceFormat::Nhwc => vec![n, side(a, size), side(b, size), depth(c, square)],
                SpaceFormat::Nchw => vec![n, depth(a, square), side(b, size), side(c, size)],
            };
            Ok(vec![fact(dtype(f, 0), Some(shape))])
        },
    )
}

fn squeezed(f: &[Fact], axes: &[i64]) -> Result<Vec<Fact>> {
    let shape = match dims(f, 0) {
        None => None,
        Some(_) if full(f, 0).is_some() => {
            known(&transform::squeeze_shape(&full(f, 0).unwrap_or_default(), axes)?)
        }
        // Which dimensions are 1 is not known.
        Some(_) if axes.is_empty() => None,
        Some(dims) => {
            let drop = axes.iter().map(|&a| axis(a, dims.len())).collect::<Result<Vec<_>>>()?;
            let kept = dims.iter().enumerate().filter(|(d, _)| !drop.contains(d));
            Some(kept.map(|(_, d)| *d).collect())
        }
    };
    Ok(vec![fact(dtype(f, 0), shape)])
}
