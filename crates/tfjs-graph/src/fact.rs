use std::fmt;

use tfjs_kernels::{DType, Shape, Tensor};

/// What is known about a value before it is computed. Shape inference, folding and validation speak it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Fact {
    /// Element type.
    pub dtype: Option<DType>,
    /// Dimensions; `None` for an unknown rank, `Some(None)` inside for an unknown dimension.
    pub shape: Option<Vec<Option<usize>>>,
    /// The value itself, when it is constant.
    pub value: Option<Tensor>,
}

impl Fact {
    /// Nothing known.
    pub fn unknown() -> Fact {
        Fact::default()
    }

    /// Type and (partly known) shape.
    pub fn new(dtype: DType, shape: impl Into<Option<Vec<Option<usize>>>>) -> Fact {
        Fact { dtype: Some(dtype), shape: shape.into(), value: None }
    }

    /// Type and a fully known shape.
    pub fn of(dtype: DType, shape: &[usize]) -> Fact {
        Fact { dtype: Some(dtype), shape: Some(shape.iter().map(|&d| Some(d)).collect()), value: None }
    }

    /// A constant.
    pub fn constant(value: Tensor) -> Fact {
        Fact { value: Some(value.clone()), ..Fact::of(value.dtype(), value.dims()) }
    }

    /// The shape, when every dimension is known.
    pub fn full_shape(&self) -> Option<Shape> {
        self.shape.as_ref()?.iter().copied().collect()
    }

    /// The number of dimensions, when known.
    pub fn rank(&self) -> Option<usize> {
        self.shape.as_ref().map(Vec::len)
    }

    /// The same type and shape, without a value.
    #[must_use]
    pub fn without_value(&self) -> Fact {
        Fact { dtype: self.dtype, shape: self.shape.clone(), value: None }
    }

    /// The constant's elements as integers, for shapes, axes and permutations.
    pub fn ints(&self) -> Option<&[i32]> {
        self.value.as_ref()?.data::<i32>().ok()
    }
}

impl fmt::Display for Fact {
    /// `float32[1, ?, 3]`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.dtype {
            Some(d) => write!(f, "{d}")?,
            None => write!(f, "?")?,
        }
        match &self.shape {
            None => write!(f, "[…]"),
            Some(s) => {
                write!(f, "[")?;
                for (i, d) in s.iter().enumerate() {
                    let comma = if i == 0 { "" } else { ", " };
                    match d {
                        Some(d) => write!(f, "{comma}{d}")?,
                        None => write!(f, "{comma}?")?,
                    }
                }
                write!(f, "]")
            }
        }
    }
}
