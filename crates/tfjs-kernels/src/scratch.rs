//! Working memory: aligned, and kept by each thread for the next call.

use std::{
    cell::RefCell,
    ops::{Deref, DerefMut},
};

/// One cache line.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([f32; 16]);

/// Floats that start at a cache line, so that no vector load of a packed operand crosses one.
#[derive(Clone, Default)]
pub(crate) struct Aligned {
    lines: Vec<Line>,
    len: usize,
}

impl Aligned {
    pub(crate) fn zeroed(len: usize) -> Aligned {
        Aligned { lines: vec![Line([0.0; 16]); len.div_ceil(16)], len }
    }

    pub(crate) fn as_slice(&self) -> &[f32] {
        // SAFETY: a line is sixteen floats without padding, and `len` of them are inside `lines`.
        unsafe { std::slice::from_raw_parts(self.lines.as_ptr().cast(), self.len) }
    }

    pub(crate) fn as_mut_slice(&mut self) -> &mut [f32] {
        // SAFETY: as above.
        unsafe { std::slice::from_raw_parts_mut(self.lines.as_mut_ptr().cast(), self.len) }
    }

    fn resize(&mut self, len: usize) {
        let lines = len.div_ceil(16);
        if self.lines.len() < lines {
            self.lines.resize(lines, Line([0.0; 16]));
        }
        self.len = len;
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
