//! Buffers of results that are no longer needed, for the next results.
//!
//! Fresh memory costs more than it looks: the system clears every page and maps it at its first touch, which takes
//! longer than many a kernel.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use crate::{Tensor, match_tensor};

/// Buffers shorter than this are left to the allocator, which is good at them.
const SMALLEST: usize = 1024;
/// A buffer may serve results down to this fraction of its capacity.
const SLACK: usize = 2;

/// Keeps the buffers of results for later results. Cloning shares the buffers.
#[derive(Clone, Debug, Default)]
pub struct BufferPool(Arc<Mutex<Free>>);

/// Free buffers by capacity.
#[derive(Debug, Default)]
struct Free {
    buffers: BTreeMap<usize, Vec<Vec<f32>>>,
    bytes: usize,
}

thread_local! {
    static CURRENT: RefCell<Option<BufferPool>> = const { RefCell::new(None) };
}

impl BufferPool {
    /// An empty pool.
    pub fn new() -> BufferPool {
        BufferPool::default()
    }

    /// Runs `f`; kernels that it calls on this thread take their results' buffers from here.
    pub fn scope<R>(&self, f: impl FnOnce() -> R) -> R {
        struct Restore(Option<BufferPool>);
        impl Drop for Restore {
            fn drop(&mut self) {
                CURRENT.set(self.0.take());
            }
        }
        let _restore = Restore(CURRENT.replace(Some(self.clone())));
        f()
    }

    /// Takes back the buffer of a tensor that is no longer needed, unless somebody else still holds it.
    pub fn recycle(&self, tensor: Tensor) {
        if tensor.len() < SMALLEST || !match_tensor!(&tensor, t => t.is_unique()) {
            return;
        }
        if let Tensor::F32(t) = tensor {
            let buffer = t.into_vec();
            let mut free = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            free.bytes += buffer.capacity() * size_of::<f32>();
            free.buffers.entry(buffer.capacity()).or_default().push(buffer);
        }
    }

    /// Memory held for later, in bytes.
    pub fn bytes(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).bytes
    }

    /// Gives all held memory back to the system.
    pub fn clear(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Free::default();
    }

    fn take(&self, len: usize) -> Option<Vec<f32>> {
        let mut free = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (&capacity, list) = free.buffers.range_mut(len..=len.saturating_mul(SLACK)).next()?;
        let buffer = list.pop()?;
        if list.is_empty() {
            free.buffers.remove(&capacity);
        }
        free.bytes -= capacity * size_of::<f32>();
        Some(buffer)
    }
}

/// `len` numbers of unspecified value, from the pool in scope if it has a buffer of about this size. The caller writes
/// every element.
pub(crate) fn buffer(len: usize) -> Vec<f32> {
    let recycled = if len < SMALLEST {
        None
    } else {
        CURRENT.with_borrow(|pool| pool.as_ref().and_then(|pool| pool.take(len)))
    };
    let mut buffer = match recycled {
        Some(mut buffer) => {
            buffer.resize(len, 0.0);
            buffer
        }
        None => vec![0.0; len],
    };
    if cfg!(debug_assertions) {
        // An element that a kernel forgets to write shows in its result.
        buffer.fill(f32::NAN);
    }
    buffer
}

#[cfg(test)]
mod tests {
    use super::{BufferPool, buffer};
    use crate::Tensor;

    #[test]
    fn a_recycled_buffer_serves_the_next_result() {
        let pool = BufferPool::new();
        let t = Tensor::new([5000], vec![1.0f32; 5000]).unwrap();
        let at = t.data::<f32>().unwrap().as_ptr();
        let shared = t.clone();
        pool.recycle(t);
        assert_eq!(pool.bytes(), 0, "a tensor that is still held is not taken");
        pool.recycle(shared);
        assert_eq!(pool.bytes(), 20_000);
        pool.scope(|| {
            let small = buffer(2000);
            assert_ne!(small.as_ptr(), at, "too small a use of a large buffer");
            let reused = buffer(4000);
            assert_eq!((reused.as_ptr(), reused.len()), (at, 4000));
        });
        assert_eq!(pool.bytes(), 0);
        pool.recycle(Tensor::new([2000], vec![1.0f32; 2000]).unwrap());
        pool.clear();
        assert_eq!(pool.bytes(), 0);
    }
}
