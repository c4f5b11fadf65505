//! Memory of results: that of one run serves the next.
//!
//! Fresh memory costs more than it looks: the system clears every page and maps it at its first touch, which takes
//! longer than many a kernel. So the first run of a plan is watched: which results of what size there are, and when
//! each is made and dropped. From that a place for each is found in one block of memory, as low as possible, and later
//! runs put results there. Whatever happens otherwise (other sizes, more iterations of a loop) is served from what is free
//! in the block, or else by the allocator: places are advice, and [`Arena`] checks each.

use std::{
    cell::RefCell,
    fmt,
    ptr::NonNull,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

use crate::{
    Element,
    buffer::{ALIGN, Arena, Buffer, Memory, Part, is_plain},
};

/// Results shorter than this, in bytes, are left to the allocator, which is good at them.
const SMALLEST: usize = 4096;
/// Runs that are watched at most per layout: those whose sizes depend on data never settle.
const TRIES: u32 = 4;
/// Results of a run for which places are sought at most; finding them takes quadratic time.
const PLACED: usize = 4096;
/// Blocks kept for runs beside one another at most.
const IDLE: usize = 8;

/// The memory of a model's results: what one run needs, times the number of runs that went on at the same time.
/// Cloning shares it.
#[derive(Clone, Debug, Default)]
pub struct BufferPool(Arc<Mutex<Kept>>);

/// What lies ready for the next run.
#[derive(Debug, Default)]
struct Kept {
    /// Blocks that results are placed in.
    idle: Vec<Memory>,
    /// Memory of results that outlived their run, oldest first.
    spare: Vec<Memory>,
    /// Most bytes of such results that a run makes.
    outliving: usize,
    /// Runs that go on, and how many did at most.
    running: usize,
    at_once: usize,
}

/// Where the results of one plan's runs are placed; found by the first run.
#[derive(Debug, Default)]
pub struct MemoryLayout(Mutex<Learned>);

#[derive(Debug, Default)]
struct Learned {
    places: Option<Arc<Places>>,
    tries: u32,
    used: MemoryUse,
}

/// Memory of the results of a run, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct MemoryUse {
    /// The most that is alive at the same time: no layout needs less.
    pub minimal: usize,
    /// What the layout needs.
    pub used: usize,
    /// Results that outlive the run, which are not in the layout.
    pub outliving: usize,
}

/// One place per result, in the order in which they are made.
#[derive(Debug)]
struct Places {
    places: Vec<Place>,
    used: MemoryUse,
}

#[derive(Clone, Copy, Debug)]
struct Place {
    bytes: usize,
    /// `None` for results that outlive the run.
    at: Option<usize>,
}

/// What is noted of a run that is watched.
#[derive(Debug, Default)]
struct Trace {
    events: Vec<Event>,
    clock: u32,
}

#[derive(Clone, Copy, Debug)]
struct Event {
    bytes: usize,
    made: u32,
    dropped: Option<u32>,
    outlives: bool,
}

/// A part of the pool's memory; given back when dropped.
#[derive(Debug)]
pub(crate) struct Lease {
    source: Source,
    note: Option<(Arc<Mutex<Trace>>, usize)>,
}

#[derive(Debug)]
enum Source {
    Part(Part),
    /// Memory of its own, and who takes it back.
    Own(Option<Memory>, Weak<Mutex<Kept>>),
}

/// A run that goes on in this thread.
struct Session {
    kept: Weak<Mutex<Kept>>,
    arena: Option<Arc<Arena>>,
    places: Option<Arc<Places>>,
    trace: Option<Arc<Mutex<Trace>>>,
    /// Number of the next result.
    next: usize,
    /// Results for which there was no place.
    missed: usize,
}

thread_local! {
    static CURRENT: RefCell<Option<Session>> = const { RefCell::new(None) };
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl BufferPool {
    /// An empty pool.
    pub fn new() -> BufferPool {
        BufferPool::default()
    }

    /// Calls `f`; kernels that it calls on this thread take their results' memory from here. `expected` is a guess at how
    /// many bytes the first run of a layout needs at a time; zero if there is none.
    ///
    /// # Errors
    /// Those of `f`.
    pub fn run<R, E>(
        &self,
        layout: &MemoryLayout,
        expected: usize,
        f: impl FnOnce() -> Result<R, E>,
    ) -> Result<R, E> {
        let places = lock(&layout.0).places.clone();
        let trace = if places.is_none() { Some(Arc::default()) } else { None };
        let wanted = places.as_ref().map_or(expected, |p| p.used.used);
        let session = Session {
            kept: Arc::downgrade(&self.0),
            arena: self.begin(wanted.next_multiple_of(ALIGN)),
            places,
            trace: trace.clone(),
            next: 0,
            missed: 0,
        };
        let scope = Scope { pool: self, outer: CURRENT.replace(Some(session)), done: false };
        let result = f();
        let session = scope.end();
        let arena = session.and_then(|s| {
            if s.missed > 0 && s.places.is_some() {
                layout.forget();
            }
            s.arena
        });
        if let (true, Some(trace)) = (result.is_ok(), trace) {
            let places = lock(&trace).places();
            self.learn(layout, places, arena.as_ref().map_or(0, |a| a.high()));
            let wanted = lock(&layout.0).places.as_ref().map_or(0, |p| p.used.used);
            self.end(arena, wanted);
        } else {
            self.end(arena, 0);
        }
        result
    }

    /// Memory held for later, in bytes.
    pub fn bytes(&self) -> usize {
        let kept = lock(&self.0);
        kept.idle.iter().chain(&kept.spare).map(Memory::bytes).sum()
    }

    /// Gives all held memory back to the system.
    pub fn clear(&self) {
        let mut kept = lock(&self.0);
        kept.idle.clear();
        kept.spare.clear();
    }

    /// A block of at least `bytes` for a run.
    fn begin(&self, bytes: usize) -> Option<Arc<Arena>> {
        let mut kept = lock(&self.0);
        kept.running += 1;
        kept.at_once = kept.at_once.max(kept.running).min(IDLE);
        if bytes == 0 {
            return None;
        }
        let fits = kept.idle.iter().enumerate().filter(|(_, m)| m.bytes() >= bytes);
        let memory = match fits.min_by_key(|(_, m)| m.bytes()).map(|(i, _)| i) {
            Some(i) => kept.idle.swap_remove(i),
            None => {
                // A larger one takes the place of one that is too small.
                kept.idle.pop();
                drop(kept);
                Memory::zeroed(bytes)
            }
        };
        Some(Arena::new(memory))
    }

    /// Takes the block of a run back. What is still lent of it keeps it alive, and then it is not used again.
    fn end(&self, arena: Option<Arc<Arena>>, wanted: usize) {
        let mut memory = arena.and_then(Arena::into_memory).filter(|m| m.bytes() >= wanted);
        if memory.is_none() && wanted > 0 {
            memory = Some(Memory::zeroed(wanted));
        }
        let mut kept = lock(&self.0);
        kept.running = kept.running.saturating_sub(1);
        if kept.idle.len() < kept.at_once {
            kept.idle.extend(memory);
        }
    }

    fn learn(&self, layout: &MemoryLayout, mut places: Places, touched: usize) {
        let outliving = places.used.outliving;
        let mut learned = lock(&layout.0);
        learned.tries += 1;
        learned.used = MemoryUse { used: places.used.used.max(touched), ..places.used };
        places.used.used = places.used.used.next_multiple_of(ALIGN);
        learned.places = Some(Arc::new(places));
        drop(learned);
        let mut kept = lock(&self.0);
        kept.outliving = kept.outliving.max(outliving);
    }
}

impl MemoryLayout {
    /// What runs need; `None` before the first one.
    pub fn memory(&self) -> Option<MemoryUse> {
        let learned = lock(&self.0);
        learned.places.is_some().then_some(learned.used)
    }

    /// Has the next run watched, unless runs never settle.
    fn forget(&self) {
        let mut learned = lock(&self.0);
        if learned.tries < TRIES {
            learned.places = None;
        }
    }
}

/// Puts back the session that was before, also when a kernel panics.
struct Scope<'p> {
    pool: &'p BufferPool,
    outer: Option<Session>,
    done: bool,
}

impl Scope<'_> {
    fn end(mut self) -> Option<Session> {
        self.done = true;
        CURRENT.replace(self.outer.take())
    }
}

impl Drop for Scope<'_> {
    fn drop(&mut self) {
        if !self.done {
            let session = CURRENT.replace(self.outer.take());
            self.pool.end(session.and_then(|s| s.arena), 0);
        }
    }
}

impl Session {
    fn take(&mut self, bytes: usize) -> Lease {
        let index = self.next;
        self.next += 1;
        let place = self.places.as_ref().and_then(|p| p.places.get(index)).filter(|p| p.bytes == bytes);
        let lent = match (&self.arena, place) {
            (_, Some(Place { at: None, .. })) | (None, _) => None,
            (Some(arena), Some(Place { at: Some(at), .. })) => {
                arena.lend_at(*at, bytes).or_else(|| arena.lend(bytes))
            }
            (Some(arena), None) => arena.lend(bytes),
        };
        let source = match lent {
            Some(part) => Source::Part(part),
            None => {
                if place.is_none_or(|p| p.at.is_some()) {
                    self.missed += 1;
                }
                Source::own(bytes, self.kept.clone())
            }
        };
        let note = self.trace.as_ref().map(|trace| (trace.clone(), lock(trace).make(bytes)));
        Lease { source, note }
    }
}

impl Source {
    fn own(bytes: usize, kept: Weak<Mutex<Kept>>) -> Source {
        let spare = kept.upgrade().and_then(|kept| lock(&kept).take_spare(bytes));
        Source::Own(Some(spare.unwrap_or_else(|| Memory::zeroed(bytes))), kept)
    }
}

impl Kept {
    fn take_spare(&mut self, bytes: usize) -> Option<Memory> {
        // A little larger will do; much larger ones are for others.
        let fits = |m: &Memory| m.bytes() >= bytes && m.bytes() - bytes <= bytes / 8;
        let best = self.spare.iter().enumerate().filter(|(_, m)| fits(m)).min_by_key(|(_, m)| m.bytes());
        best.map(|(i, _)| i).map(|i| self.spare.remove(i))
    }

    fn keep_spare(&mut self, memory: Memory) {
        let limit = self.outliving.saturating_mul(self.at_once);
        self.spare.push(memory);
        let mut held: usize = self.spare.iter().map(Memory::bytes).sum();
        while held > limit && !self.spare.is_empty() {
            held -= self.spare.remove(0).bytes();
        }
    }
}

impl Lease {
    /// Start and size of the memory: aligned and initialised, and this lease's alone.
    pub(crate) fn memory(&self) -> (NonNull<u8>, usize) {
        match &self.source {
            Source::Part(part) => (part.start(), part.bytes()),
            Source::Own(Some(memory), _) => (memory.start(), memory.bytes()),
            // Taken out only when dropped.
            Source::Own(None, _) => (NonNull::dangling(), 0),
        }
    }

    /// Whether the memory is part of a run's block, and so must not outlive the run. That it does is noted.
    pub(crate) fn is_part(&self) -> bool {
        let part = matches!(self.source, Source::Part(_));
        if let (true, Some((trace, index))) = (part, &self.note) {
            lock(trace).events[*index].outlives = true;
        }
        part
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some((trace, index)) = self.note.take() {
            lock(&trace).end(index);
        }
        if let Source::Own(memory, kept) = &mut self.source
            && let (Some(memory), Some(kept)) = (memory.take(), kept.upgrade())
        {
            lock(&kept).keep_spare(memory);
        }
    }
}

impl Trace {
    fn make(&mut self, bytes: usize) -> usize {
        self.clock += 1;
        self.events.push(Event { bytes, made: self.clock, dropped: None, outlives: false });
        self.events.len() - 1
    }

    fn end(&mut self, index: usize) {
        self.clock += 1;
        self.events[index].dropped = Some(self.clock);
    }

    /// Finds a place for every result: the largest first, each as low as it can be beside those that are alive at the
    /// same time.
    fn places(&self) -> Places {
        let inside = |e: &Event| !e.outlives && e.dropped.is_some();
        let mut places: Vec<Place> = self.events.iter().map(|e| Place { bytes: e.bytes, at: None }).collect();
        let mut order: Vec<usize> = (0..self.events.len()).filter(|&i| inside(&self.events[i])).collect();
        order.sort_by_key(|&i| (std::cmp::Reverse(self.events[i].bytes), i));
        let minimal = self.minimal();
        let mut used = 0;
        let mut placed: Vec<usize> = Vec::new();
        let mut beside: Vec<(usize, usize)> = Vec::new();
        for (n, &i) in order.iter().enumerate() {
            if n >= PLACED {
                // Any place, which is then not free, has it look for one.
                places[i].at = Some(0);
                continue;
            }
            let e = &self.events[i];
            let end = e.dropped.unwrap_or(u32::MAX);
            beside.clear();
            beside.extend(placed.iter().filter_map(|&j| {
                let other = &self.events[j];
                let together = other.made < end && e.made < other.dropped.unwrap_or(u32::MAX);
                let at = places[j].at.filter(|_| together)?;
                Some((at, at + other.bytes))
            }));
            beside.sort_unstable();
            let mut at = 0;
            for &(start, end) in &beside {
                if start >= at + e.bytes {
                    break;
                }
                at = at.max(end);
            }
            places[i].at = Some(at);
            used = used.max(at + e.bytes);
            placed.push(i);
        }
        if order.len() > PLACED {
            used += used / 4;
        }
        let outliving = self.events.iter().filter(|e| !inside(e)).map(|e| e.bytes).sum();
        Places { places, used: MemoryUse { minimal, used, outliving } }
    }

    /// The most bytes alive at the same time among those that do not outlive the run.
    fn minimal(&self) -> usize {
        let mut changes: Vec<(u32, usize, bool)> = Vec::new();
        for e in self.events.iter().filter(|e| !e.outlives) {
            let Some(dropped) = e.dropped else { continue };
            changes.push((e.made, e.bytes, true));
            changes.push((dropped, e.bytes, false));
        }
        changes.sort_unstable();
        let (mut alive, mut most) = (0usize, 0);
        for (_, bytes, made) in changes {
            alive = if made { alive + bytes } else { alive - bytes };
            most = most.max(alive);
        }
        most
    }
}

/// `len` numbers of unspecified value, from the pool in scope. The caller writes every element.
pub(crate) fn buffer(len: usize) -> Buffer<f32> {
    elements(len)
}

/// `len` elements of unspecified value, from the pool in scope. The caller writes every element.
///
/// # Panics
/// When the size is beyond the address space, as with vectors.
pub(crate) fn elements<T: Element>(len: usize) -> Buffer<T> {
    let bytes = len.checked_mul(size_of::<T>()).and_then(|b| b.checked_next_multiple_of(ALIGN));
    let mut buffer = match bytes {
        Some(bytes) if bytes >= SMALLEST && is_plain::<T>() => Buffer::lent(lease(bytes), len),
        _ => vec![T::default(); len].into(),
    };
    if cfg!(debug_assertions) {
        // An element that a kernel forgets to write shows in its result.
        T::poison(&mut buffer);
    }
    buffer
}

/// `len` default elements (zeros), from the pool in scope.
pub(crate) fn zeros<T: Element>(len: usize) -> Buffer<T> {
    let mut buffer = elements(len);
    buffer.fill(T::default());
    buffer
}

fn lease(bytes: usize) -> Lease {
    CURRENT.with_borrow_mut(|session| match session {
        Some(session) => session.take(bytes),
        None => Lease { source: Source::Own(Some(Memory::zeroed(bytes)), Weak::new()), note: None },
    })
}

/// `len` numbers in memory of their own, which no pool takes back.
pub(crate) fn lasting(memory: Memory, len: usize) -> Buffer<f32> {
    Buffer::lent(Lease { source: Source::Own(Some(memory), Weak::new()), note: None }, len)
}

/// The same elements in memory that may outlive the run.
pub(crate) fn outliving<T: Element>(buffer: &Buffer<T>) -> Option<Buffer<T>> {
    if !buffer.lease()?.is_part() {
        return None;
    }
    let bytes = size_of_val(&buffer[..]).next_multiple_of(ALIGN);
    let kept = CURRENT.with_borrow(|s| s.as_ref().map(|s| s.kept.clone())).unwrap_or_default();
    let mut copy = Buffer::lent(Lease { source: Source::own(bytes, kept), note: None }, buffer.len());
    copy.clone_from_slice(buffer);
    Some(copy)
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("next", &self.next).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::{BufferPool, MemoryLayout, buffer};
    use crate::{Tensor, TensorOf};

    /// A chain in which each result is made beside the one before; the last outlives it. `sizes` in floats.
    fn chain(sizes: &[usize]) -> Result<Tensor, Infallible> {
        let mut last = buffer(1);
        for &n in sizes {
            let mut next = buffer(n);
            next.fill(last.first().map_or(0.0, |x| if x.is_nan() { 0.0 } else { *x }) + 1.0);
            last = next;
        }
        Ok(TensorOf::from_buffer([last.len()], last).unwrap().outliving().into())
    }

    #[test]
    fn the_second_run_is_placed_in_the_least_memory() {
        let (pool, layout) = (BufferPool::new(), MemoryLayout::default());
        let sizes = [4096, 16384, 2048, 8192, 1024];
        for expected in [0, 1 << 20] {
            for _ in 0..4 {
                let out = pool.run(&layout, expected, || chain(&sizes)).unwrap();
                assert_eq!(out.data::<f32>().unwrap(), vec![5.0; 1024]);
            }
            let memory = layout.memory().unwrap();
            assert_eq!(memory.minimal, (4096 + 16384) * 4);
            assert_eq!(memory.used, memory.minimal);
            assert_eq!(memory.outliving, 4096);
            assert_eq!(pool.bytes(), memory.used + memory.outliving, "block and the result's memory");
        }
        pool.clear();
        assert_eq!(pool.bytes(), 0);
    }

    #[test]
    fn results_that_are_kept_are_left_alone() {
        let (pool, layout) = (BufferPool::new(), MemoryLayout::default());
        let outs: Vec<Tensor> =
            (0..5).map(|i| pool.run(&layout, 1 << 20, || chain(&[4096, 2000 + i])).unwrap()).collect();
        for (i, out) in outs.iter().enumerate() {
            assert_eq!(out.data::<f32>().unwrap(), vec![2.0; 2000 + i]);
        }
    }

    #[test]
    fn runs_that_differ_from_the_first_are_served_too_and_memory_stays_bounded() {
        let (pool, layout) = (BufferPool::new(), MemoryLayout::default());
        for i in 0..200 {
            let sizes: Vec<usize> = (0..1 + i % 7).map(|k| 1024 + (i * 37 + k * 501) % 5000).collect();
            let out = pool.run(&layout, 0, || chain(&sizes)).unwrap();
            assert_eq!(out.data::<f32>().unwrap()[0], sizes.len() as f32);
        }
        assert!(pool.bytes() <= 4 * 3 * 6024 * 4, "{}", pool.bytes());
    }

    #[test]
    fn runs_at_the_same_time_do_not_share_memory() {
        let (pool, layout) = (BufferPool::new(), MemoryLayout::default());
        std::thread::scope(|s| {
            for t in 0..4usize {
                let (pool, layout) = (&pool, &layout);
                s.spawn(move || {
                    for i in 0..50 {
                        let sizes = [5000, 3000 + t, 7000, 1024 + i];
                        let out = pool.run(layout, 0, || chain(&sizes)).unwrap();
                        assert_eq!(out.data::<f32>().unwrap(), vec![4.0; 1024 + i]);
                    }
                });
            }
        });
    }

    #[test]
    fn a_failed_run_teaches_nothing_and_loses_nothing() {
        let (pool, layout) = (BufferPool::new(), MemoryLayout::default());
        let failed: Result<(), ()> = pool.run(&layout, 1 << 16, || {
            let _made = buffer(5000);
            Err(())
        });
        assert!(failed.is_err() && layout.memory().is_none());
        let panicked = std::panic::catch_unwind(|| {
            pool.run(&layout, 1 << 16, || -> Result<(), ()> { panic!("a kernel") })
        });
        assert!(panicked.is_err());
        assert!(pool.run(&layout, 1 << 16, || chain(&[2000])).is_ok());
    }
}
