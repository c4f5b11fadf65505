//! Working memory: aligned, and kept by each thread for the next call.

use std::{
    cell::RefCell,
    ops::{Deref, DerefMut},
};

use crate::buffer::Memory;

/// Floats that start at a cache line, so that no vector load of a packed operand crosses one.
#[derive(Default)]
pub(crate) struct Aligned {
    memory: Option<Memory>,
    len: usize,
}

impl Aligned {
    pub(crate) fn zeroed(len: usize) -> Aligned {
        Aligned { memory: Some(Memory::zeroed(bytes(len))), len }
    }

    pub(crate) fn as_slice(&self) -> &[f32] {
        match &self.memory {
            // SAFETY: it is initialised, aligned, of at least `len` floats, and this value's alone.
            Some(m) => unsafe { std::slice::from_raw_parts(m.start().as_ptr().cast(), self.len) },
            None => &[],
        }
    }

    pub(crate) fn as_mut_slice(&mut self) -> &mut [f32] {
        match &mut self.memory {
            // SAFETY: as above, and borrowed by nobody else.
            Some(m) => unsafe { std::slice::from_raw_parts_mut(m.start().as_ptr().cast(), self.len) },
            None => &mut [],
        }
    }

    /// Makes it `len` floats of unspecified value.
    fn resize(&mut self, len: usize) {
        if self.memory.as_ref().is_none_or(|m| m.bytes() < bytes(len)) {
            // The smaller one goes first, so that both are never there.
            self.memory = None;
            self.memory = Some(Memory::zeroed(bytes(len)));
        }
        self.len = len;
    }
}

/// Bytes of so many floats.
fn bytes(len: usize) -> usize {
    // More than the address space is refused where the memory is made.
    len.saturating_mul(size_of::<f32>())
}

impl Clone for Aligned {
    fn clone(&self) -> Aligned {
        let mut copy = Aligned::zeroed(self.len);
        copy.as_mut_slice().copy_from_slice(self.as_slice());
        copy
    }
}

impl std::fmt::Debug for Aligned {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} floats", self.len)
    }
}

thread_local! {
    static FREE: RefCell<Vec<Aligned>> = const { RefCell::new(Vec::new()) };
}

/// Working memory of a task; goes back to the thread when dropped.
pub(crate) struct Scratch(Aligned);

/// `len` floats of unspecified value. Vectorised code uses this and not [`with`]: what runs in a closure that something
/// else calls is not compiled for the vector unit.
#[inline(always)]
pub(crate) fn take(len: usize) -> Scratch {
    fn fetch(len: usize) -> Aligned {
        let mut buffer = FREE.with_borrow_mut(Vec::pop).unwrap_or_default();
        buffer.resize(len);
        if cfg!(debug_assertions) {
            // An element that a kernel forgets to write shows in its result.
            buffer.as_mut_slice().fill(f32::NAN);
        }
        buffer
    }
    Scratch(fetch(len))
}

impl Deref for Scratch {
    type Target = [f32];
    fn deref(&self) -> &[f32] {
        self.0.as_slice()
    }
}

impl DerefMut for Scratch {
    fn deref_mut(&mut self) -> &mut [f32] {
        self.0.as_mut_slice()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let buffer = std::mem::take(&mut self.0);
        FREE.with_borrow_mut(|free| free.push(buffer));
    }
}

/// Calls `f` with `len` floats of unspecified value, which this thread keeps for the next call.
pub(crate) fn with<R>(len: usize, f: impl FnOnce(&mut [f32]) -> R) -> R {
    f(&mut take(len))
}
