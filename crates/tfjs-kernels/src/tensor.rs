use std::{fmt, ops::Deref, sync::Arc};

use bytes::Bytes;
use ndarray::{Array, ArrayViewD, Dimension, IxDyn};
use num_complex::Complex32;
use smallvec::SmallVec;
use tfjs_format::DType;

use crate::{
    KernelError, Result,
    buffer::{self, Buffer},
    pool,
};

/// Dimensions of a tensor, outermost first. Up to six need no allocation.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub struct Shape(SmallVec<[usize; 6]>);

impl Shape {
    /// Number of elements; 1 for a scalar.
    ///
    /// # Errors
    /// [`KernelError::TooLarge`] when the number (times 16 bytes) does not fit the address space.
    pub fn checked_len(&self) -> Result<usize> {
        // A zero anywhere makes the tensor empty, whatever the other dimensions multiply to.
        if self.0.contains(&0) {
            return Ok(0);
        }
        self.0
            .iter()
            .try_fold(1usize, |n, &d| n.checked_mul(d))
            .filter(|&n| n <= isize::MAX as usize / 16)
            .ok_or_else(|| KernelError::TooLarge { shape: self.to_string() })
    }

    /// Number of elements of a tensor that exists.
    pub fn elements(&self) -> usize {
        self.0.iter().product()
    }

    /// Row-major strides in elements.
    pub fn strides(&self) -> SmallVec<[usize; 6]> {
        let mut strides: SmallVec<[usize; 6]> = SmallVec::from_elem(1, self.0.len());
        for i in (0..self.0.len().saturating_sub(1)).rev() {
            strides[i] = strides[i + 1] * self.0[i + 1];
        }
        strides
    }

    /// Adds an innermost dimension.
    pub fn push(&mut self, dim: usize) {
        self.0.push(dim);
    }
}

impl Deref for Shape {
    type Target = [usize];
    fn deref(&self) -> &[usize] {
        &self.0
    }
}

impl std::ops::DerefMut for Shape {
    fn deref_mut(&mut self) -> &mut [usize] {
        &mut self.0
    }
}

impl FromIterator<usize> for Shape {
    fn from_iter<I: IntoIterator<Item = usize>>(iter: I) -> Shape {
        Shape(iter.into_iter().collect())
    }
}

impl From<&[usize]> for Shape {
    fn from(dims: &[usize]) -> Shape {
        Shape(SmallVec::from_slice(dims))
    }
}

impl<const N: usize> From<[usize; N]> for Shape {
    fn from(dims: [usize; N]) -> Shape {
        Shape(SmallVec::from_slice(&dims))
    }
}

impl From<Vec<usize>> for Shape {
    fn from(dims: Vec<usize>) -> Shape {
        Shape(SmallVec::from_vec(dims))
    }
}

impl fmt::Debug for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0[..], f)
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0[..], f)
    }
}

/// A byte string: one element of a `string` tensor. Cloning shares the bytes.
#[derive(Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TfString(pub Bytes);

impl Deref for TfString {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl From<&str> for TfString {
    fn from(s: &str) -> TfString {
        TfString(Bytes::copy_from_slice(s.as_bytes()))
    }
}

impl From<Vec<u8>> for TfString {
    fn from(s: Vec<u8>) -> TfString {
        TfString(Bytes::from(s))
    }
}

impl From<String> for TfString {
    fn from(s: String) -> TfString {
        TfString(Bytes::from(s))
    }
}

impl fmt::Debug for TfString {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&String::from_utf8_lossy(&self.0), f)
    }
}

/// A type that tensors hold: `f32`, `i32`, `bool`, [`TfString`] or `Complex32`.
pub trait Element: Clone + Default + PartialEq + fmt::Debug + Send + Sync + 'static {
    /// The element type's name at run time.
    const DTYPE: DType;
    /// Wraps a typed array.
    fn wrap(array: TensorOf<Self>) -> Tensor;
    /// The typed array inside, if it is of this type.
    fn unwrap_ref(tensor: &Tensor) -> Option<&TensorOf<Self>>;
    /// The typed array inside, by value, or the tensor back.
    fn unwrap(tensor: Tensor) -> Result<TensorOf<Self>, Tensor>;
    /// Overwrites elements with a value that shows when it is used, if the type has one.
    #[doc(hidden)]
    fn poison(_elements: &mut [Self]) {}
}

/// Row-major array of one element type, contiguous from offset 0. Cloning shares the data.
#[derive(Clone)]
pub struct TensorOf<T> {
    data: Arc<Buffer<T>>,
    /// Of as many elements as the data.
    shape: Shape,
}

impl<T: Element> TensorOf<T> {
    /// A tensor of `shape` over `data` in row-major order.
    ///
    /// # Errors
    /// [`KernelError::Length`] when the two do not agree.
    pub fn new(shape: impl Into<Shape>, data: Vec<T>) -> Result<TensorOf<T>> {
        TensorOf::from_buffer(shape, data.into())
    }

    /// As [`TensorOf::new`], over what the pool gave.
    pub(crate) fn from_buffer(shape: impl Into<Shape>, data: Buffer<T>) -> Result<TensorOf<T>> {
        let shape = shape.into();
        let len = data.len();
        if shape.checked_len()? != len {
            return Err(KernelError::Length { got: len, shape });
        }
        Ok(TensorOf { data: Arc::new(data), shape })
    }

    /// A tensor of `shape` over bytes in this machine's order, such as those of a mapped file: without a copy when they are
    /// aligned.
    ///
    /// # Errors
    /// [`KernelError::Length`] when the two do not agree.
    pub fn from_bytes(shape: impl Into<Shape>, bytes: &Bytes) -> Result<TensorOf<T>>
    where
        T: bytemuck::AnyBitPattern,
    {
        let copied = || -> Vec<T> {
            bytes.chunks_exact(size_of::<T>().max(1)).map(bytemuck::pod_read_unaligned).collect()
        };
        let data = Buffer::shared(bytes).unwrap_or_else(|| copied().into());
        TensorOf::from_buffer(shape, data)
    }

    /// A tensor of `shape` filled with one value.
    ///
    /// # Errors
    /// [`KernelError::TooLarge`] when the shape does not fit in memory.
    pub fn full(shape: impl Into<Shape>, value: T) -> Result<TensorOf<T>> {
        let shape = shape.into();
        let mut data = pool::elements(shape.checked_len()?);
        data.fill(value);
        TensorOf::from_buffer(shape, data)
    }

    /// A tensor without dimensions.
    pub fn scalar(value: T) -> TensorOf<T> {
        TensorOf { data: Arc::new(vec![value].into()), shape: Shape::default() }
    }

    /// The dimensions, outermost first.
    pub fn dims(&self) -> &[usize] {
        &self.shape
    }

    /// The dimensions, as a value.
    pub fn shape(&self) -> Shape {
        self.shape.clone()
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.data.len()
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.data.is_empty()
    }

    /// All elements in row-major order.
    pub fn data(&self) -> &[T] {
        &self.data
    }

    /// Whether nobody else holds the data, so that it can be overwritten without a copy.
    pub fn is_unique(&self) -> bool {
        Arc::strong_count(&self.data) == 1 && !self.data.is_shared()
    }

    /// All elements, to be overwritten; copies first when the data is shared.
    pub fn data_mut(&mut self) -> &mut [T] {
        if !self.is_unique() {
            let mut copy = pool::elements(self.len());
            copy.clone_from_slice(&self.data);
            self.data = Arc::new(copy);
        }
        // It is unique now, and nothing hands out weak references.
        Arc::get_mut(&mut self.data).map_or(&mut [], |data| &mut data[..])
    }

    /// The elements in row-major order; moves them out if it can.
    pub fn into_vec(self) -> Vec<T> {
        match Arc::try_unwrap(self.data) {
            Ok(data) => data.into_vec(),
            Err(shared) => shared.to_vec(),
        }
    }

    /// The same elements under another shape.
    ///
    /// # Errors
    /// [`KernelError::Length`] when the number of elements differs.
    pub fn reshape(self, shape: impl Into<Shape>) -> Result<TensorOf<T>> {
        let shape = shape.into();
        let len = self.len();
        if shape.checked_len()? != len {
            return Err(KernelError::Length { got: len, shape });
        }
        Ok(TensorOf { data: self.data, shape })
    }

    /// The same, in memory that is not the running pool's block.
    pub(crate) fn outliving(self) -> TensorOf<T> {
        match pool::outliving(&self.data) {
            Some(data) => TensorOf { data: Arc::new(data), shape: self.shape },
            None => self,
        }
    }

    /// An ndarray view.
    pub fn view(&self) -> ArrayViewD<'_, T> {
        let empty = || ArrayViewD::from_shape(IxDyn(&[0]), &[]);
        // The shape has as many elements as the data, so that there is always the first.
        match ArrayViewD::from_shape(IxDyn(&self.shape), &self.data).or_else(|_| empty()) {
            Ok(view) => view,
            Err(_) => unreachable!("an empty view is always possible"),
        }
    }
}

impl<T: PartialEq> PartialEq for TensorOf<T> {
    fn eq(&self, other: &TensorOf<T>) -> bool {
        self.shape == other.shape && self.data[..] == other.data[..]
    }
}

impl<T: Element> fmt::Debug for TensorOf<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.view(), f)
    }
}

/// A tensor of any of the five element types.
#[derive(Clone, Debug, PartialEq)]
pub enum Tensor {
    /// `float32`
    F32(TensorOf<f32>),
    /// `int32`
    I32(TensorOf<i32>),
    /// `bool`
    Bool(TensorOf<bool>),
    /// `string`
    Str(TensorOf<TfString>),
    /// `complex64`
    C64(TensorOf<Complex32>),
}

/// Runs the same expression on the typed array inside a tensor, whatever its type.
#[macro_export]
macro_rules! match_tensor {
    ($tensor:expr, $t:ident => $body:expr) => {
        match $tensor {
            $crate::Tensor::F32($t) => $body,
            $crate::Tensor::I32($t) => $body,
            $crate::Tensor::Bool($t) => $body,
            $crate::Tensor::Str($t) => $body,
            $crate::Tensor::C64($t) => $body,
        }
    };
}

impl Tensor {
    /// A tensor of `shape` over `data` in row-major order.
    ///
    /// # Errors
    /// [`KernelError::Length`] when the two do not agree.
    pub fn new<T: Element>(shape: impl Into<Shape>, data: Vec<T>) -> Result<Tensor> {
        TensorOf::new(shape, data).map(T::wrap)
    }

    /// As [`Tensor::new`], over what the pool gave.
    pub(crate) fn from_buffer<T: Element>(shape: impl Into<Shape>, data: Buffer<T>) -> Result<Tensor> {
        TensorOf::from_buffer(shape, data).map(T::wrap)
    }

    /// A `float32` tensor that stands for its shape: zeros in memory that is never touched, and so takes none where the
    /// system gives memory out on use.
    ///
    /// # Errors
    /// [`KernelError::TooLarge`] when the shape does not fit in memory.
    pub fn blank(shape: impl Into<Shape>) -> Result<Tensor> {
        let shape = shape.into();
        let bytes = buffer::untouched(shape.checked_len()? * size_of::<f32>());
        Ok(TensorOf::<f32>::from_bytes(shape, &bytes)?.into())
    }

    /// The same tensor in memory that outlives the run of a [`crate::BufferPool`] that it is a result of: copied if it lies
    /// in what later runs overwrite.
    #[must_use]
    pub fn outliving(self) -> Tensor {
        match self {
            Tensor::F32(t) => Tensor::F32(t.outliving()),
            Tensor::I32(t) => Tensor::I32(t.outliving()),
            Tensor::Bool(t) => Tensor::Bool(t.outliving()),
            Tensor::Str(t) => Tensor::Str(t),
            Tensor::C64(t) => Tensor::C64(t.outliving()),
        }
    }

    /// A tensor without dimensions.
    pub fn scalar<T: Element>(value: T) -> Tensor {
        T::wrap(TensorOf::scalar(value))
    }

    /// A vector.
    pub fn vector<T: Element>(data: Vec<T>) -> Tensor {
        let shape = Shape::from([data.len()]);
        T::wrap(TensorOf { data: Arc::new(data.into()), shape })
    }

    /// A tensor of default values: zeros, `false`, empty strings.
    ///
    /// # Errors
    /// [`KernelError::TooLarge`] when the shape does not fit in memory.
    pub fn zeros(dtype: DType, shape: impl Into<Shape>) -> Result<Tensor> {
        let shape = shape.into();
        Ok(match dtype {
            DType::Float32 => Tensor::F32(TensorOf::full(shape, 0.0)?),
            DType::Int32 => Tensor::I32(TensorOf::full(shape, 0)?),
            DType::Bool => Tensor::Bool(TensorOf::full(shape, false)?),
            DType::String => Tensor::Str(TensorOf::full(shape, TfString::default())?),
            DType::Complex64 => Tensor::C64(TensorOf::full(shape, Complex32::default())?),
        })
    }

    /// The element type.
    pub fn dtype(&self) -> DType {
        match self {
            Tensor::F32(_) => DType::Float32,
            Tensor::I32(_) => DType::Int32,
            Tensor::Bool(_) => DType::Bool,
            Tensor::Str(_) => DType::String,
            Tensor::C64(_) => DType::Complex64,
        }
    }

    /// The dimensions, outermost first.
    pub fn dims(&self) -> &[usize] {
        match_tensor!(self, t => t.dims())
    }

    /// The dimensions, as a value.
    pub fn shape(&self) -> Shape {
        Shape::from(self.dims())
    }

    /// Number of dimensions.
    pub fn rank(&self) -> usize {
        self.dims().len()
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        match_tensor!(self, t => t.len())
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The same elements under another shape.
    ///
    /// # Errors
    /// [`KernelError::Length`] when the number of elements differs.
    pub fn reshape(self, shape: impl Into<Shape>) -> Result<Tensor> {
        let shape = shape.into();
        Ok(match self {
            Tensor::F32(t) => Tensor::F32(t.reshape(shape)?),
            Tensor::I32(t) => Tensor::I32(t.reshape(shape)?),
            Tensor::Bool(t) => Tensor::Bool(t.reshape(shape)?),
            Tensor::Str(t) => Tensor::Str(t.reshape(shape)?),
            Tensor::C64(t) => Tensor::C64(t.reshape(shape)?),
        })
    }

    /// The typed array inside.
    ///
    /// # Errors
    /// [`KernelError::DType`] when it has another type; `what` names the operand in the message.
    pub fn typed<T: Element>(&self, what: &'static str) -> Result<&TensorOf<T>> {
        T::unwrap_ref(self).ok_or(KernelError::DType { what, got: self.dtype(), expected: T::DTYPE.name() })
    }

    /// The typed array inside, by value: a kernel that gets the only owner may overwrite it.
    ///
    /// # Errors
    /// [`KernelError::DType`] when it has another type; `what` names the operand in the message.
    pub fn into_typed<T: Element>(self, what: &'static str) -> Result<TensorOf<T>> {
        T::unwrap(self).map_err(|t| KernelError::DType { what, got: t.dtype(), expected: T::DTYPE.name() })
    }

    /// An ndarray view.
    ///
    /// # Errors
    /// [`KernelError::DType`] when the tensor has another type.
    pub fn view<T: Element>(&self) -> Result<ArrayViewD<'_, T>> {
        Ok(self.typed::<T>("the tensor")?.view())
    }

    /// All elements in row-major order.
    ///
    /// # Errors
    /// [`KernelError::DType`] when the tensor has another type.
    pub fn data<T: Element>(&self) -> Result<&[T]> {
        Ok(self.typed::<T>("the tensor")?.data())
    }
}

impl<T: Element, D: Dimension> From<Array<T, D>> for Tensor {
    /// Takes the array's buffer; copies only when it is not in row-major order.
    fn from(array: Array<T, D>) -> Tensor {
        let array = array.into_dyn();
        // An offset or other strides (a slice, a transpose) mean that the buffer is not the elements in order.
        let array = if array.is_standard_layout() { array } else { array.as_standard_layout().into_owned() };
        let (shape, len) = (Shape::from(array.shape()), array.len());
        let (data, offset) = array.into_raw_vec_and_offset();
        let whole = offset.unwrap_or(0) == 0 && data.len() == len;
        let data = if whole { data } else { data[offset.unwrap_or(0)..][..len].to_vec() };
        T::wrap(TensorOf { data: Arc::new(data.into()), shape })
    }
}

macro_rules! element {
    ($($t:ty, $variant:ident, $dtype:ident $(, $poison:expr)?;)*) => { $(
        impl Element for $t {
            const DTYPE: DType = DType::$dtype;
            fn wrap(array: TensorOf<$t>) -> Tensor {
                Tensor::$variant(array)
            }
            fn unwrap_ref(tensor: &Tensor) -> Option<&TensorOf<$t>> {
                match tensor { Tensor::$variant(t) => Some(t), _ => None }
            }
            fn unwrap(tensor: Tensor) -> Result<TensorOf<$t>, Tensor> {
                match tensor { Tensor::$variant(t) => Ok(t), other => Err(other) }
            }
            $(fn poison(elements: &mut [$t]) {
                elements.fill($poison);
            })?
        }
        impl From<TensorOf<$t>> for Tensor {
            fn from(array: TensorOf<$t>) -> Tensor {
                Tensor::$variant(array)
            }
        }
    )* };
}
element! { f32, F32, Float32, f32::NAN; i32, I32, Int32; bool, Bool, Bool; TfString, Str, String; Complex32, C64, Complex64; }
