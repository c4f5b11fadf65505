//! Memory of tensors.

use std::{
    alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error},
    any::TypeId,
    ops::{Deref, DerefMut},
    ptr::NonNull,
    sync::{Arc, Mutex, PoisonError},
};

use bytemuck::AnyBitPattern;
use bytes::Bytes;
use memmap2::MmapMut;
use num_complex::Complex32;

use crate::pool::Lease;

/// Every block starts at a cache line, so that no vector load from a row of whole lines crosses one.
pub(crate) const ALIGN: usize = 64;

/// The elements of a tensor: somebody's vector, a block that is lent by a pool, or bytes of a file.
pub(crate) struct Buffer<T>(Repr<T>);

enum Repr<T> {
    Vec(Vec<T>),
    Block(Block<T>),
    Shared(Shared<T>),
}

/// Initialised elements inside what the lease holds; nobody else holds that part of it.
struct Block<T> {
    start: NonNull<T>,
    len: usize,
    lease: Lease,
}

/// Elements inside bytes that others may read too; they are never written.
struct Shared<T> {
    start: NonNull<T>,
    len: usize,
    _owner: Bytes,
}

// SAFETY: read only, and `Bytes` is `Send` and `Sync`.
unsafe impl<T: Sync> Send for Shared<T> {}
// SAFETY: as above.
unsafe impl<T: Sync> Sync for Shared<T> {}

// SAFETY: a block owns its elements as a vector does; the lease is `Send` and `Sync` by itself.
unsafe impl<T: Send> Send for Block<T> {}
// SAFETY: as above.
unsafe impl<T: Sync> Sync for Block<T> {}

/// Whether any initialised bytes (for `bool`: zeros) are values of the type, which needs no dropping.
pub(crate) fn is_plain<T: 'static>() -> bool {
    let id = TypeId::of::<T>();
    id == TypeId::of::<f32>()
        || id == TypeId::of::<i32>()
        || id == TypeId::of::<Complex32>()
        || id == TypeId::of::<bool>()
}

impl<T: 'static> Buffer<T> {
    /// `len` elements of unspecified value in a lease of at least their size.
    ///
    /// # Panics
    /// When the type is not plain or the lease is too small.
    pub(crate) fn lent(lease: Lease, len: usize) -> Buffer<T> {
        let (start, bytes) = lease.memory();
        assert!(is_plain::<T>() && align_of::<T>() <= ALIGN && len <= bytes / size_of::<T>());
        if TypeId::of::<T>() == TypeId::of::<bool>() {
            // SAFETY: inside the lease. Bytes of numbers that were here before are no booleans.
            unsafe { start.as_ptr().write_bytes(0, len) };
        }
        // The lease starts at a multiple of `ALIGN`, its bytes are initialised (`Memory`), and any are plain elements.
        Buffer(Repr::Block(Block { start: start.cast(), len, lease }))
    }
}

impl<T: AnyBitPattern> Buffer<T> {
    /// The bytes as elements, without a copy; `None` when they do not start where such elements can, or are no whole
    /// number of them.
    pub(crate) fn shared(bytes: &Bytes) -> Option<Buffer<T>> {
        let elements: &[T] = bytemuck::try_cast_slice(bytes).ok()?;
        let (start, len) = (NonNull::from(elements).cast(), elements.len());
        // The elements lie where the bytes do, for as long as a clone of them lives.
        Some(Buffer(Repr::Shared(Shared { start, len, _owner: bytes.clone() })))
    }
}

impl<T: Clone> Buffer<T> {
    pub(crate) fn into_vec(self) -> Vec<T> {
        match self.0 {
            Repr::Vec(v) => v,
            Repr::Block(_) | Repr::Shared(_) => self.to_vec(),
        }
    }
}

impl<T> Buffer<T> {
    /// The lease, if the elements are in one.
    pub(crate) fn lease(&self) -> Option<&Lease> {
        match &self.0 {
            Repr::Vec(_) | Repr::Shared(_) => None,
            Repr::Block(b) => Some(&b.lease),
        }
    }

    /// Whether the elements belong to somebody else too.
    pub(crate) fn is_shared(&self) -> bool {
        matches!(self.0, Repr::Shared(_))
    }
}

impl<T> From<Vec<T>> for Buffer<T> {
    fn from(v: Vec<T>) -> Buffer<T> {
        Buffer(Repr::Vec(v))
    }
}

impl<T> Default for Buffer<T> {
    fn default() -> Buffer<T> {
        Buffer(Repr::Vec(Vec::new()))
    }
}

impl<T> Deref for Buffer<T> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        match &self.0 {
            Repr::Vec(v) => v,
            // SAFETY: see `Block`.
            Repr::Block(b) => unsafe { std::slice::from_raw_parts(b.start.as_ptr(), b.len) },
            // SAFETY: see `Shared`.
            Repr::Shared(b) => unsafe { std::slice::from_raw_parts(b.start.as_ptr(), b.len) },
        }
    }
}

impl<T: Clone> DerefMut for Buffer<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        if self.is_shared() {
            self.0 = Repr::Vec(self.to_vec());
        }
        match &mut self.0 {
            Repr::Vec(v) => v,
            // SAFETY: see `Block`; the borrow is unique as that of the buffer is.
            Repr::Block(b) => unsafe { std::slice::from_raw_parts_mut(b.start.as_ptr(), b.len) },
            Repr::Shared(_) => &mut [],
        }
    }
}

/// Initialised memory that starts at a multiple of [`ALIGN`].
#[derive(Debug)]
pub(crate) struct Memory {
    source: Source,
    start: NonNull<u8>,
    bytes: usize,
}

#[derive(Debug)]
enum Source {
    Allocator(NonNull<u8>, Layout),
    /// Mapped from the system; held until dropped.
    System {
        _map: MmapMut,
    },
}

/// Memory from this size on comes from the system in huge pages, where it has them: making them ready takes a fraction
/// of the time that small ones take, and so does finding them again.
const HUGE: usize = 4 << 20;

// SAFETY: it is owned memory; who writes where is decided by those who hand out parts of it.
unsafe impl Send for Memory {}
// SAFETY: as above; it gives out a pointer only.
unsafe impl Sync for Memory {}

impl Memory {
    /// Zeros. The system gives large ones out untouched: a page costs nothing until it is used.
    ///
    /// # Panics
    /// When the size is beyond the address space; aborts when there is no memory, as vectors do.
    pub(crate) fn zeroed(bytes: usize) -> Memory {
        if bytes >= HUGE
            && let Some(memory) = Memory::huge(bytes)
        {
            return memory;
        }
        // With the allocator's own alignment zeros come from `calloc`; with a larger one they would be written.
        let size = bytes.checked_add(ALIGN);
        let layout = size.and_then(|size| Layout::from_size_align(size, 16).ok());
        let Some(layout) = layout else { panic!("capacity overflow") };
        // SAFETY: the size is not zero.
        let Some(base) = NonNull::new(unsafe { alloc_zeroed(layout) }) else { handle_alloc_error(layout) };
        let shift = base.as_ptr().align_offset(ALIGN);
        // SAFETY: less than `ALIGN`, by which the allocation is larger.
        let start = unsafe { base.add(shift) };
        Memory { source: Source::Allocator(base, layout), start, bytes }
    }

    fn huge(bytes: usize) -> Option<Memory> {
        /// What is asked to be huge starts and ends at multiples of it.
        const PAGE: usize = 2 << 20;
        let mut map = MmapMut::map_anon(bytes.checked_add(PAGE)?).ok()?;
        #[cfg(target_os = "linux")]
        // Advice: without huge pages all works as well.
        drop(map.advise(memmap2::Advice::HugePage));
        let shift = map.as_ptr().align_offset(PAGE);
        let start = NonNull::from(map.get_mut(shift..)?).cast();
        Some(Memory { source: Source::System { _map: map }, start, bytes })
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) fn start(&self) -> NonNull<u8> {
        self.start
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        if let Source::Allocator(base, layout) = self.source {
            // SAFETY: allocated in `zeroed` with this layout.
            unsafe { dealloc(base.as_ptr(), layout) };
        }
    }
}

/// `bytes` zeros, all from one mapping that nobody writes.
pub(crate) fn untouched(bytes: usize) -> Bytes {
    static ZEROS: Mutex<Bytes> = Mutex::new(Bytes::new());
    let mut zeros = ZEROS.lock().unwrap_or_else(PoisonError::into_inner);
    if zeros.len() < bytes {
        // As a mapping it costs address space only; without one it is memory like any other.
        *zeros = match MmapMut::map_anon(bytes.next_power_of_two()) {
            Ok(map) => Bytes::from_owner(map),
            Err(_) => Bytes::from(vec![0; bytes]),
        };
    }
    zeros.slice(..bytes)
}

/// Memory of which parts are lent; it sees to it that they do not overlap.
#[derive(Debug)]
pub(crate) struct Arena {
    memory: Memory,
    lent: Mutex<Parts>,
}

#[derive(Debug, Default)]
struct Parts {
    /// Start and end of what is lent, in order of address.
    lent: Vec<(usize, usize)>,
    /// The furthest end that was ever lent.
    high: usize,
}

/// A part of an arena, given back when dropped.
#[derive(Debug)]
pub(crate) struct Part {
    arena: Arc<Arena>,
    start: usize,
    bytes: usize,
}

impl Arena {
    pub(crate) fn new(memory: Memory) -> Arc<Arena> {
        Arc::new(Arena { memory, lent: Mutex::default() })
    }

    pub(crate) fn bytes(&self) -> usize {
        self.memory.bytes()
    }

    /// The furthest end of a part that was ever lent.
    pub(crate) fn high(&self) -> usize {
        self.parts().high
    }

    fn parts(&self) -> std::sync::MutexGuard<'_, Parts> {
        self.lent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The part of `bytes` from `start` on, if it is inside and free.
    pub(crate) fn lend_at(self: &Arc<Arena>, start: usize, bytes: usize) -> Option<Part> {
        let end = start.checked_add(bytes).filter(|&end| end <= self.bytes())?;
        let mut parts = self.parts();
        let i = parts.lent.partition_point(|&(_, e)| e <= start);
        if parts.lent.get(i).is_some_and(|&(s, _)| s < end) {
            return None;
        }
        Some(self.lend_gap(&mut parts, i, start, bytes))
    }

    /// A free part of `bytes`: the lowest, so that few pages are touched.
    pub(crate) fn lend(self: &Arc<Arena>, bytes: usize) -> Option<Part> {
        let mut parts = self.parts();
        let mut free_from = 0;
        let mut i = 0;
        while let Some(&(start, end)) = parts.lent.get(i) {
            if start - free_from >= bytes {
                break;
            }
            free_from = end;
            i += 1;
        }
        if self.bytes() - free_from < bytes {
            return None;
        }
        Some(self.lend_gap(&mut parts, i, free_from, bytes))
    }

    fn lend_gap(self: &Arc<Arena>, parts: &mut Parts, i: usize, start: usize, bytes: usize) -> Part {
        // Starts and ends are multiples of the alignment, so that every part is aligned.
        debug_assert!(start.is_multiple_of(ALIGN) && bytes.is_multiple_of(ALIGN));
        parts.lent.insert(i, (start, start + bytes));
        parts.high = parts.high.max(start + bytes);
        Part { arena: self.clone(), start, bytes }
    }

    /// The memory, once nothing of it is lent any more.
    pub(crate) fn into_memory(self: Arc<Arena>) -> Option<Memory> {
        Arc::into_inner(self).map(|arena| arena.memory)
    }
}

impl Part {
    pub(crate) fn start(&self) -> NonNull<u8> {
        // SAFETY: inside the arena's memory, which was checked when the part was lent.
        unsafe { self.arena.memory.start().add(self.start) }
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        let mut parts = self.arena.parts();
        let i = parts.lent.partition_point(|&(s, _)| s < self.start);
        parts.lent.remove(i);
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::{ALIGN, Arena, Buffer, Memory};

    #[test]
    fn parts_of_an_arena_never_overlap() {
        let arena = Arena::new(Memory::zeroed(ALIGN * 8));
        let a = arena.lend(ALIGN * 2).unwrap();
        let b = arena.lend(ALIGN * 3).unwrap();
        assert!(arena.lend(ALIGN * 4).is_none(), "three lines are left");
        assert!(arena.lend_at(ALIGN * 4, ALIGN).is_none(), "taken");
        assert!(arena.lend_at(ALIGN * 7, ALIGN * 2).is_none(), "beyond the end");
        assert_eq!(b.start().as_ptr() as usize - a.start().as_ptr() as usize, ALIGN * 2);
        drop(a);
        let c = arena.lend_at(ALIGN, ALIGN).unwrap();
        let d = arena.lend(ALIGN).unwrap();
        assert_eq!(c.start().as_ptr() as usize - d.start().as_ptr() as usize, ALIGN, "the lowest gap");
        assert_eq!(arena.high(), ALIGN * 5);
        assert!(arena.clone().into_memory().is_none(), "parts are out");
        drop((b, c, d));
        assert!(arena.lend(ALIGN * 8).is_some(), "all is free again");
        assert!(arena.into_memory().is_some());
    }

    #[test]
    fn bytes_are_elements_where_they_are_aligned_and_are_never_written() {
        let bytes = Bytes::from_owner([1.0f32, 2.0, 3.0].map(f32::to_ne_bytes).concat());
        let shift = bytes.as_ptr().align_offset(4);
        let aligned = bytes.slice(shift..shift + 8);
        let mut buffer = Buffer::<f32>::shared(&aligned).unwrap();
        assert_eq!(buffer.as_ptr().cast(), aligned.as_ptr());
        let before = buffer.to_vec();
        buffer.fill(5.0);
        assert_eq!(buffer[..], [5.0, 5.0]);
        assert_eq!(Buffer::<f32>::shared(&aligned).unwrap()[..], before[..]);
        assert!(Buffer::<f32>::shared(&bytes.slice(shift + 1..shift + 5)).is_none(), "not aligned");
        assert!(Buffer::<f32>::shared(&bytes.slice(shift..shift + 3)).is_none(), "no whole number");
    }

    #[test]
    fn memory_is_aligned_and_zero() {
        for bytes in [0, 1, 64, 5000, 1 << 20, 5 << 20] {
            let memory = Memory::zeroed(bytes);
            assert!((memory.start().as_ptr() as usize).is_multiple_of(ALIGN));
            let arena = Arena::new(memory);
            assert_eq!(arena.bytes(), bytes);
        }
    }
}
