use std::{fmt, sync::Arc};

use tfjs_format::{
    DType, FormatError, Payload, TensorBytes,
    proto::{DataType, TensorProto},
    runtime_tensor, tensor_shape,
};
use tfjs_kernels::{KernelError, Tensor, TensorOf, TfString};

/// Why a deferred constant could not be read.
pub type LoadError = Box<dyn std::error::Error + Send + Sync>;

type Load = dyn Fn() -> Result<Tensor, LoadError> + Send + Sync;

/// The value of a `Const` node: at hand, or read when it is needed.
///
/// A converter keeps the weights of a model deferred, so that only those in work are in memory: a value read
/// from a checkpoint, or one computed from other constants (a filter scaled by a batch norm).
#[derive(Clone)]
pub struct Constant {
    data_type: DataType,
    shape: Arc<[usize]>,
    source: Source,
}

#[derive(Clone)]
enum Source {
    Ready(Tensor),
    Deferred(Arc<Load>),
}

impl Constant {
    /// A value at hand. `data_type` is the type in the file, which may be wider than the tensor's.
    pub fn new(data_type: DataType, tensor: Tensor) -> Constant {
        Constant { data_type, shape: tensor.dims().into(), source: Source::Ready(tensor) }
    }

    /// A value that `load` reads each time it is asked for; it must give a tensor of `shape`.
    pub fn deferred(
        data_type: DataType,
        shape: impl Into<Arc<[usize]>>,
        load: impl Fn() -> Result<Tensor, LoadError> + Send + Sync + 'static,
    ) -> Constant {
        Constant { data_type, shape: shape.into(), source: Source::Deferred(Arc::new(load)) }
    }

    /// The value of a tensor message; it is decoded when it is needed.
    ///
    /// # Errors
    /// When the shape or the type of the message is malformed.
    pub fn from_proto(proto: &TensorProto) -> Result<Constant, FormatError> {
        let data_type = DataType::try_from(proto.dtype).unwrap_or(DataType::DtInvalid);
        let shape = tensor_shape(proto)?;
        let proto = proto.clone(); // shares the payload
        Ok(Constant::deferred(data_type, shape, move || Ok(tensor_from_bytes(&runtime_tensor(&proto)?.0)?)))
    }

    /// A constant computed from this one when it is needed, of the same type.
    #[must_use]
    pub fn map(
        &self,
        shape: impl Into<Arc<[usize]>>,
        f: impl Fn(Tensor) -> Result<Tensor, LoadError> + Send + Sync + 'static,
    ) -> Constant {
        let inner = self.clone();
        Constant::deferred(self.data_type, shape, move || f(inner.tensor()?))
    }

    /// The type in the file.
    pub fn data_type(&self) -> DataType {
        self.data_type
    }

    /// The dimensions.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether the value is in memory already.
    pub fn is_ready(&self) -> bool {
        matches!(self.source, Source::Ready(_))
    }

    /// The value.
    ///
    /// # Errors
    /// What reading or computing it failed with.
    pub fn tensor(&self) -> Result<Tensor, LoadError> {
        match &self.source {
            Source::Ready(t) => Ok(t.clone()),
            Source::Deferred(load) => load(),
        }
    }
}

/// A tensor from its form on disk.
///
/// # Errors
/// [`KernelError::Length`] when the bytes do not fill the shape.
pub fn tensor_from_bytes(bytes: &TensorBytes) -> Result<Tensor, KernelError> {
    let shape = &bytes.shape[..];
    // Files are little-endian; on such machines their bytes are the elements, and mapped weights need no copy.
    if cfg!(target_endian = "little")
        && let Payload::Plain(data) = &bytes.data
    {
        match bytes.dtype {
            DType::Float32 => return Ok(TensorOf::<f32>::from_bytes(shape, data)?.into()),
            DType::Int32 => return Ok(TensorOf::<i32>::from_bytes(shape, data)?.into()),
            _ => {}
        }
    }
    // The types were checked against the payload when it was read; a mismatch shows as a wrong length.
    match (bytes.dtype, &bytes.data) {
        (DType::Float32, _) => Tensor::new(shape, bytes.f32s().unwrap_or_default().into_owned()),
        (DType::Int32, _) => Tensor::new(shape, bytes.i32s().unwrap_or_default().into_owned()),
        (DType::Bool, _) => Tensor::new(shape, bytes.bools().unwrap_or_default()),
        (DType::Complex64, _) => {
            let pairs = bytes.complex().unwrap_or_default();
            Tensor::new(shape, pairs.iter().map(|&[re, im]| num_complex::Complex32::new(re, im)).collect())
        }
        (DType::String, Payload::Strings(items)) => {
            Tensor::new(shape, items.iter().cloned().map(TfString).collect())
        }
        (DType::String, Payload::Plain(_)) => Tensor::new(shape, Vec::<TfString>::new()),
    }
}

impl fmt::Debug for Constant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}{:?}", self.data_type, self.shape)
    }
}
