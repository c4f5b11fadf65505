use std::{fmt, sync::Arc};

use tfjs_format::proto::DataType;
use tfjs_kernels::Tensor;

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

impl fmt::Debug for Constant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}{:?}", self.data_type, self.shape)
    }
}
