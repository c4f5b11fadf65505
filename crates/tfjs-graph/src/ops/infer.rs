//! What families share: looking at facts, and at attributes that choose one of a few words.
use tfjs_kernels::{DType, Shape};

use crate::{AttrError, Fact, OpError, op::Build};

/// Partly known dimensions; `None` for an unknown rank.
pub(super) type Dims = Option<Vec<Option<usize>>>;

/// Type and shape, either possibly unknown.
pub(super) fn fact(dtype: Option<DType>, shape: Dims) -> Fact {
    Fact { dtype, shape, value: None }
}

/// A fully known shape as dimensions.
pub(super) fn known(shape: &[usize]) -> Dims {
    Some(shape.iter().map(|&d| Some(d)).collect())
}

/// Type of input `i`.
pub(super) fn dtype(facts: &[Fact], i: usize) -> Option<DType> {
    facts.get(i)?.dtype
}

/// Dimensions of input `i`, when its rank is known.
pub(super) fn dims(facts: &[Fact], i: usize) -> Option<&[Option<usize>]> {
    facts.get(i)?.shape.as_deref()
}

/// Shape of input `i`, when known whole.
pub(super) fn full(facts: &[Fact], i: usize) -> Option<Shape> {
    facts.get(i)?.full_shape()
}

/// Elements of input `i`, when it is a constant of integers.
pub(super) fn ints(facts: &[Fact], i: usize) -> Option<&[i32]> {
    facts.get(i)?.ints()
}

/// The element of input `i`, when it is one constant integer.
pub(super) fn int(facts: &[Fact], i: usize) -> Option<i32> {
    match ints(facts, i)? {
        &[x] => Some(x),
        _ => None,
    }
}

/// A possibly negative axis as an index.
pub(super) fn axis(axis: i64, rank: usize) -> Result<usize, OpError> {
    let r = rank as i64;
    if (-r..r).contains(&axis) {
        Ok(if axis < 0 { axis + r } else { axis } as usize)
    } else {
        Err(OpError::input("axis", format!("{axis} is not in [{}, {r})", -r)))
    }
}

/// Sizes given by a constant vector; its length alone tells the rank.
pub(super) fn shape_from(facts: &[Fact], i: usize) -> Dims {
    if let Some(sizes) = ints(facts, i) {
        return Some(sizes.iter().map(|&d| usize::try_from(d).ok()).collect());
    }
    match dims(facts, i) {
        Some([Some(rank)]) => Some(vec![None; *rank]),
        _ => None,
    }
}

/// An attribute that is one of a few words.
pub(super) fn choice<T: Copy>(
    b: &Build<'_>,
    name: &'static str,
    default: &str,
    options: &[(&str, T)],
    expected: &'static str,
) -> Result<T, OpError> {
    let got = b.attrs.str_or(name, default)?;
    options
        .iter()
        .find(|(word, _)| word.eq_ignore_ascii_case(got))
        .map(|&(_, value)| value)
        .ok_or_else(|| unsupported(name, got, expected))
}

/// The error for an attribute value that the op does not take.
pub(super) fn unsupported(name: &'static str, got: impl ToString, expected: &'static str) -> OpError {
    AttrError::Unsupported { name, got: got.to_string(), expected }.into()
}

/// An integer attribute of at least `min`, as a number of things.
pub(super) fn count(
    b: &Build<'_>,
    name: &'static str,
    default: i64,
    min: i64,
    expected: &'static str,
) -> Result<usize, OpError> {
    let got = b.attrs.int_or(name, default)?;
    usize::try_from(got).ok().filter(|_| got >= min).ok_or_else(|| unsupported(name, got, expected))
}
