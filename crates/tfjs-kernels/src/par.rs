//! Threads: the only place that knows them.
//!
//! Work is cut into chunks that depend on shapes alone, and results of chunks are combined in their order, so that the
//! bits of a result do not depend on how many threads there are.

use std::{
    any::Any,
    cell::{Cell, RefCell, UnsafeCell},
    hint,
    marker::PhantomData,
    ops::Range,
    panic::{self, AssertUnwindSafe},
    sync::{
        Arc, Condvar, Mutex, Once, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
};

use rayon::iter::{IntoParallelIterator, ParallelIterator};

use crate::{
    KernelError, Result,
    simd::{self, Isa},
};

/// Elements of an elementwise kernel per chunk: 64 KiB of floats, which is about 10 µs of streaming and thus a few
/// times what it costs to hand a chunk to another thread.
pub(crate) const GRAIN: usize = 16 * 1024;

/// Floating-point operations per chunk of a compute-bound kernel, about 20 µs.
pub(crate) const GRAIN_FLOPS: usize = 2 * 1024 * 1024;

/// Bytes of stack per thread. A thread that waits runs other chunks on top of its own, and the frames of kernels
/// that are not optimised are large: 2 MiB, the default, are not enough.
const STACK: usize = 16 * 1024 * 1024;

/// How often a helper looks for work before it goes to sleep: about 100 µs, longer than the nodes of a model that run on
/// one thread. Waking a sleeper takes about 50 µs, a helper that looks has a chunk within 1 µs.
const LOOKS: usize = 4000;

thread_local! {
    /// Work started on this thread stays on it.
    static SERIAL: Cell<bool> = const { Cell::new(false) };
    /// Who shares the work started on this thread; the global pool if nobody.
    static TEAM: RefCell<Option<Arc<Team>>> = const { RefCell::new(None) };
}

/// A set of threads that kernels run on.
#[derive(Clone, Debug)]
pub struct Threads(Option<Arc<rayon::ThreadPool>>);

impl Threads {
    /// `n` threads, the calling one among them. With one, no thread is started.
    ///
    /// # Errors
    /// [`KernelError::Argument`] when `n` is zero or the threads cannot be started.
    pub fn new(n: usize) -> Result<Threads> {
        let expected = "a positive number of threads that the system can start";
        let wrong = || KernelError::Argument { what: "the number of threads", got: n.to_string(), expected };
        match n {
            0 => Err(wrong()),
            1 => Ok(Threads(None)),
            n => rayon::ThreadPoolBuilder::new()
                .num_threads(n - 1)
                .stack_size(STACK)
                .thread_name(|i| format!("tfjs-{i}"))
                .build()
                .map(|pool| Threads(Some(Arc::new(pool))))
                .map_err(|_| wrong()),
        }
    }

    /// Number of threads.
    pub fn count(&self) -> usize {
        1 + self.0.as_ref().map_or(0, |pool| pool.current_num_threads())
    }

    /// Runs `f`; kernels called from it share their work among these threads, which stay awake until it returns.
    pub fn run<R>(&self, f: impl FnOnce() -> R) -> R {
        match &self.0 {
            None => serially(f),
            Some(pool) => Team::of(Some(pool.clone()), self.count() - 1).run(f),
        }
    }

    /// Runs `f` with threads that stay awake between the kernels that it calls: those of the [`Threads`] whose `run` this
    /// is called from, otherwise those of rayon's global pool.
    pub fn awake<R>(f: impl FnOnce() -> R) -> R {
        if SERIAL.get() || TEAM.with_borrow(Option::is_some) {
            return f();
        }
        match threads() {
            1 => f(),
            n => Team::of(None, n - 1).run(f),
        }
    }
}

fn serially<R>(f: impl FnOnce() -> R) -> R {
    struct Restore(bool);
    impl Drop for Restore {
        fn drop(&mut self) {
            SERIAL.set(self.0);
        }
    }
    let _restore = Restore(SERIAL.replace(true));
    f()
}

/// Number of threads that would share work started here.
pub(crate) fn threads() -> usize {
    if SERIAL.get() {
        return 1;
    }
    if let Some(helpers) = TEAM.with_borrow(|team| team.as_ref().map(|t| t.helpers)) {
        return 1 + helpers;
    }
    static POOL: Once = Once::new();
    // A program that has set up the global pool itself keeps its own.
    POOL.call_once(|| drop(rayon::ThreadPoolBuilder::new().stack_size(STACK).build_global()));
    rayon::current_num_threads()
}

/// Threads of a pool that look for chunks of work in a tight loop, from the first work that is shared until the team
/// is dismissed. Work is put before them by one thread, the one that runs the team.
struct Team {
    /// `None` is the global pool.
    pool: Option<Arc<rayon::ThreadPool>>,
    helpers: usize,
    called: AtomicBool,
    dismissed: AtomicBool,
    /// Number of jobs so far.
    epoch: Line<AtomicUsize>,
    /// How many helpers may look at the job, and [`OPEN`].
    gate: Line<AtomicUsize>,
    /// For each thread the chunks of its part that nobody does yet, see [`chunks`].
    parts: Box<[Line<AtomicU64>]>,
    job: UnsafeCell<Job>,
    panicked: Mutex<Option<Box<dyn Any + Send>>>,
    sleepers: AtomicUsize,
    bed: Mutex<()>,
    bell: Condvar,
}

/// Has a cache line of its own.
#[derive(Default)]
#[repr(align(128))]
struct Line<T>(T);

/// Set in [`Team::gate`] while there is a job.
const OPEN: usize = 1 << (usize::BITS - 1);

/// `f` is to be called with the number of every chunk.
#[derive(Clone, Copy)]
struct Job {
    f: *const (dyn Fn(usize) + Sync),
    isa: Option<Isa>,
}

/// Chunks `from..to` in one word.
fn chunks(from: u32, to: u32) -> u64 {
    u64::from(from) << 32 | u64::from(to)
}

// SAFETY: `job` is written only while the gate is closed and nobody is behind it, and read only behind the open gate; `f`
// is `Sync`, and outlives the time that the gate is open.
unsafe impl Send for Team {}
// SAFETY: as above.
unsafe impl Sync for Team {}

impl Team {
    fn of(pool: Option<Arc<rayon::ThreadPool>>, helpers: usize) -> Arc<Team> {
        let nothing: &'static (dyn Fn(usize) + Sync) = &|_| ();
        Arc::new(Team {
            pool,
            helpers,
            called: AtomicBool::new(false),
            dismissed: AtomicBool::new(false),
            epoch: Line::default(),
            gate: Line::default(),
            parts: (0..=helpers).map(|_| Line::default()).collect(),
            job: UnsafeCell::new(Job { f: nothing, isa: None }),
            panicked: Mutex::default(),
            sleepers: AtomicUsize::new(0),
            bed: Mutex::default(),
            bell: Condvar::new(),
        })
    }

    /// Runs `f`, whose shared work this team does; dismisses the team.
    fn run<R>(self: Arc<Team>, f: impl FnOnce() -> R) -> R {
        struct Restore(Arc<Team>, Option<Arc<Team>>, bool);
        impl Drop for Restore {
            fn drop(&mut self) {
                TEAM.set(self.1.take());
                SERIAL.set(self.2);
                self.0.dismissed.store(true, Ordering::SeqCst);
                self.0.ring();
            }
        }
        let _restore = Restore(self.clone(), TEAM.replace(Some(self)), SERIAL.replace(false));
        f()
    }

    /// Each thread gets the chunks of one part of the whole, always the same thread the same part: rows of an image
    /// that one core wrote are then read by that core, and lie in its caches. Who has finished helps the others.
    fn share(self: &Arc<Team>, n: u32, f: &(dyn Fn(usize) + Sync)) {
        if !self.called.swap(true, Ordering::Relaxed) {
            self.call();
        }
        // SAFETY: only the lifetime changes; nobody looks at the job after `Close` is dropped, below.
        let f: &'static (dyn Fn(usize) + Sync) = unsafe { std::mem::transmute(f) };
        let job = Job { f, isa: simd::current_override() };
        // SAFETY: the gate is closed, and all who were behind it have gone: `Close` waited for them.
        unsafe { *self.job.get() = job };
        let count = self.parts.len() as u64;
        let cut = |part: usize| (u64::from(n) * part as u64 / count) as u32;
        for (i, part) in self.parts.iter().enumerate() {
            part.0.store(chunks(cut(i), cut(i + 1)), Ordering::Relaxed);
        }
        self.gate.0.fetch_or(OPEN, Ordering::Release);
        self.epoch.0.fetch_add(1, Ordering::SeqCst);
        self.ring();
        {
            struct Close<'a>(&'a Team);
            impl Drop for Close<'_> {
                fn drop(&mut self) {
                    self.0.gate.0.fetch_and(!OPEN, Ordering::AcqRel);
                    let mut looks = 0;
                    while self.0.gate.0.load(Ordering::Acquire) != 0 {
                        looks += 1;
                        // Somebody else may have the helper's processor.
                        if looks < LOOKS { hint::spin_loop() } else { std::thread::yield_now() }
                    }
                }
            }
            let _close = Close(self);
            serially(|| self.work(&job, 0));
        }
        let panicked = self.panicked.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(panicked) = panicked {
            panic::resume_unwind(panicked);
        }
    }

    /// Does chunks of the job until all are taken, those of part `own` first.
    fn work(&self, job: &Job, own: usize) {
        // SAFETY: the job is open, so `share` has not returned.
        let f = unsafe { &*job.f };
        while let Some(i) = self.take(own, |from, to| (from, chunks(from + 1, to))) {
            f(i as usize);
        }
        for other in (own + 1..self.parts.len()).chain(0..own) {
            // From the end, which its owner comes to last.
            while let Some(i) = self.take(other, |from, to| (to - 1, chunks(from, to - 1))) {
                f(i as usize);
            }
        }
    }

    /// Takes a chunk of a part as `f` says, which gives the chunk and what is left; `None` when none is left.
    #[inline(always)]
    fn take(&self, part: usize, f: impl Fn(u32, u32) -> (u32, u64)) -> Option<u32> {
        let left = &self.parts[part].0;
        let mut now = left.load(Ordering::Relaxed);
        loop {
            let (from, to) = ((now >> 32) as u32, now as u32);
            if from >= to {
                return None;
            }
            let (chunk, rest) = f(from, to);
            match left.compare_exchange_weak(now, rest, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return Some(chunk),
                Err(other) => now = other,
            }
        }
    }

    /// Asks the pool for helpers. They come when they have time, and are not waited for.
    fn call(self: &Arc<Team>) {
        for part in 1..=self.helpers {
            let team = self.clone();
            match &self.pool {
                Some(pool) => pool.spawn(move || team.help(part)),
                None => rayon::spawn(move || team.help(part)),
            }
        }
    }

    /// What the helper does whose chunks are those of part `own`.
    fn help(&self, own: usize) {
        let (mut seen, mut looks) = (0, 0);
        while !self.dismissed.load(Ordering::Acquire) {
            let epoch = self.epoch.0.load(Ordering::Acquire);
            if epoch != seen {
                (seen, looks) = (epoch, 0);
                if self.gate.0.fetch_add(1, Ordering::AcqRel) & OPEN != 0 {
                    // SAFETY: behind the open gate.
                    let job = unsafe { *self.job.get() };
                    let work = || serially(|| simd::with_override(job.isa, || self.work(&job, own)));
                    if let Err(panicked) = panic::catch_unwind(AssertUnwindSafe(work)) {
                        *self.panicked.lock().unwrap_or_else(PoisonError::into_inner) = Some(panicked);
                    }
                }
                self.gate.0.fetch_sub(1, Ordering::Release);
            } else if looks < LOOKS {
                looks += 1;
                hint::spin_loop();
            } else {
                self.sleep(seen);
                looks = 0;
            }
        }
    }

    /// Returns when there is another job than `seen`, or the team is dismissed.
    fn sleep(&self, seen: usize) {
        let mut bed = self.bed.lock().unwrap_or_else(PoisonError::into_inner);
        self.sleepers.fetch_add(1, Ordering::SeqCst);
        while self.epoch.0.load(Ordering::SeqCst) == seen && !self.dismissed.load(Ordering::SeqCst) {
            bed = self.bell.wait(bed).unwrap_or_else(PoisonError::into_inner);
        }
        self.sleepers.fetch_sub(1, Ordering::SeqCst);
    }

    /// Wakes those who sleep.
    fn ring(&self) {
        if self.sleepers.load(Ordering::SeqCst) > 0 {
            let _bed = self.bed.lock().unwrap_or_else(PoisonError::into_inner);
            self.bell.notify_all();
        }
    }
}

/// Calls `f` with every item, on the threads that kernels would use here; in no particular order.
pub fn parallel_for_each<T: Send>(items: &mut [T], f: impl Fn(&mut T) + Sync + Send) {
    for_each_chunk(items, 1, |_, item| item.iter_mut().for_each(&f));
}

/// Calls `f` with every number below `n`, in no particular order.
pub(crate) fn for_each(n: usize, f: impl Fn(usize) + Sync + Send) {
    share(n, &f);
}

/// Not generic, so that rayon's machinery is compiled once and not for every kernel.
fn share(n: usize, f: &(dyn Fn(usize) + Sync)) {
    if n <= 1 || threads() <= 1 {
        (0..n).for_each(f);
    } else if let Some(team) = TEAM.with_borrow(Option::clone) {
        match u32::try_from(n) {
            Ok(n) => team.share(n, f),
            Err(_) => (0..n).for_each(f),
        }
    } else {
        let isa = simd::current_override();
        (0..n).into_par_iter().for_each(|i| simd::with_override(isa, || f(i)));
    }
}

/// Calls `f` with consecutive ranges of `chunk` numbers (the last may be shorter) that cover `0..n`.
pub(crate) fn for_each_range(n: usize, chunk: usize, f: impl Fn(Range<usize>) + Sync + Send) {
    let chunk = chunk.max(1);
    for_each(n.div_ceil(chunk), |i| f(i * chunk..n.min((i + 1) * chunk)));
}

/// Calls `f` with every piece of `chunk` elements of `data` (the last may be shorter) and the piece's first index.
pub(crate) fn for_each_chunk<T: Send>(
    data: &mut [T],
    chunk: usize,
    f: impl Fn(usize, &mut [T]) + Sync + Send,
) {
    let out = Disjoint::new(data);
    for_each_range(out.len, chunk, |range| {
        let start = range.start;
        // SAFETY: the ranges do not overlap, and each is taken once.
        f(start, unsafe { out.slice(range) });
    });
}

/// As [`for_each_chunk`] over two slices whose chunks correspond.
///
/// # Panics
/// When the slices do not have the same number of chunks.
pub(crate) fn for_each_chunk2<T: Send, U: Send>(
    a: (&mut [T], usize),
    b: (&mut [U], usize),
    f: impl Fn(usize, &mut [T], &mut [U]) + Sync + Send,
) {
    let (ca, cb) = (a.1.max(1), b.1.max(1));
    let (a, b) = (Disjoint::new(a.0), Disjoint::new(b.0));
    let n = a.len.div_ceil(ca);
    assert_eq!(n, b.len.div_ceil(cb));
    for_each(n, |i| {
        // SAFETY: ranges of different `i` do not overlap.
        let (x, y) =
            unsafe { (a.slice(i * ca..a.len.min((i + 1) * ca)), b.slice(i * cb..b.len.min((i + 1) * cb))) };
        f(i, x, y);
    });
}

/// Maps consecutive ranges of `chunk` numbers that cover `0..n`; results come in the order of the ranges.
pub(crate) fn map_ranges<R: Send>(
    n: usize,
    chunk: usize,
    f: impl Fn(Range<usize>) -> R + Sync + Send,
) -> Vec<R> {
    let chunk = chunk.max(1);
    let mut results: Vec<Option<R>> = Vec::new();
    results.resize_with(n.div_ceil(chunk), || None);
    for_each_chunk(&mut results, 1, |i, slot| slot[0] = Some(f(i * chunk..n.min((i + 1) * chunk))));
    results.into_iter().flatten().collect()
}

/// Maps fixed blocks of `0..n` and folds the results from left to right, starting with `init`.
pub(crate) fn reduce<R: Send>(
    n: usize,
    block: usize,
    init: R,
    map: impl Fn(Range<usize>) -> R + Sync + Send,
    fold: impl FnMut(R, R) -> R,
) -> R {
    map_ranges(n, block, map).into_iter().fold(init, fold)
}

/// Calls `f(step, items)` for every step in order, with ranges that cover the `n` items of a step; steps do not overlap.
///
/// For steps of microseconds: threads keep their items from step to step, whose data stay in their caches, and wait for
/// each other by looking, not by sleeping. A thread that does not come, or comes late, is not waited for: the first
/// one does its items meanwhile. Results must not depend on how items are cut; a range has at least `least` of them.
pub(crate) fn in_step(n: usize, least: usize, steps: usize, f: impl Fn(usize, Range<usize>) + Sync + Send) {
    let parts = threads().min(n / least.max(1)).max(1);
    let range = |part: usize| part * n / parts..(part + 1) * n / parts;
    if parts == 1 {
        (0..steps).for_each(|step| f(step, 0..n));
        return;
    }
    let run = Steps { over: AtomicBool::new(false), parts: (0..parts).map(|_| Part::default()).collect() };
    let came = AtomicUsize::new(0);
    // The first who comes leads, so that nobody waits for one who is still to come.
    for_each(parts, |_| match came.fetch_add(1, Ordering::Relaxed) {
        0 => run.lead(steps, |step, part| f(step, range(part))),
        part => run.help(part, steps, |step| f(step, range(part))),
    });
}

/// How far a part is in [`in_step`], on cache lines of its own.
#[derive(Default)]
#[repr(align(128))]
struct Part {
    /// Steps that somebody has taken on.
    taken: AtomicUsize,
    /// Steps that are done.
    done: AtomicUsize,
}

/// Who has done what in [`in_step`].
struct Steps {
    /// There will be no more steps.
    over: AtomicBool,
    parts: Vec<Part>,
}

impl Steps {
    /// Whether this step of a part is now the caller's.
    fn take(&self, part: usize, step: usize) -> bool {
        let taken = &self.parts[part].taken;
        taken.compare_exchange(step, step + 1, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    /// How many steps are done whole.
    fn whole(&self) -> usize {
        self.parts.iter().map(|p| p.done.load(Ordering::Acquire)).min().unwrap_or(0)
    }

    fn lead(&self, steps: usize, f: impl Fn(usize, usize)) {
        struct Over<'a>(&'a AtomicBool);
        impl Drop for Over<'_> {
            fn drop(&mut self) {
                self.0.store(true, Ordering::Release);
            }
        }
        // Also when a step panics nobody may wait for the next.
        let _over = Over(&self.over);
        for step in 0..steps {
            f(step, 0);
            self.parts[0].done.store(step + 1, Ordering::Release);
            for (i, part) in self.parts.iter().enumerate().skip(1) {
                if self.take(i, step) {
                    f(step, i);
                    part.done.store(step + 1, Ordering::Release);
                } else {
                    wait(|| part.done.load(Ordering::Acquire) > step);
                }
            }
        }
    }

    fn help(&self, part: usize, steps: usize, f: impl Fn(usize)) {
        let mut next = 0;
        loop {
            wait(|| self.whole() >= next || self.over.load(Ordering::Acquire));
            next = self.whole();
            if next == steps || self.over.load(Ordering::Acquire) {
                return;
            }
            if self.take(part, next) {
                let _done = Announce(&self.parts[part].done, next + 1);
                f(next);
            }
            next += 1;
        }
    }
}

/// Sets a number at the end of its scope, however that ends.
struct Announce<'a>(&'a AtomicUsize, usize);

impl Drop for Announce<'_> {
    fn drop(&mut self) {
        self.0.store(self.1, Ordering::Release);
    }
}

/// Looks until something is true; the others are expected within microseconds.
fn wait(ready: impl Fn() -> bool) {
    let mut looks = 0u32;
    while !ready() {
        looks += 1;
        if looks.is_multiple_of(4096) {
            // There may be fewer processors than threads.
            std::thread::yield_now();
        } else {
            hint::spin_loop();
        }
    }
}

/// A slice that several threads write, each its own part.
pub(crate) struct Disjoint<'a, T> {
    data: *mut T,
    len: usize,
    life: PhantomData<&'a mut [T]>,
}

// SAFETY: access is only through `slice` and `ptr`, whose callers promise that parts do not overlap.
unsafe impl<T: Send> Send for Disjoint<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for Disjoint<'_, T> {}

impl<'a, T> Disjoint<'a, T> {
    pub(crate) fn new(data: &'a mut [T]) -> Disjoint<'a, T> {
        Disjoint { data: data.as_mut_ptr(), len: data.len(), life: PhantomData }
    }

    /// One part of the slice.
    ///
    /// # Safety
    /// No other part in use overlaps it.
    ///
    /// # Panics
    /// When the range is not inside the slice.
    #[allow(clippy::mut_from_ref)]
    pub(crate) unsafe fn slice(&self, range: Range<usize>) -> &'a mut [T] {
        assert!(range.start <= range.end && range.end <= self.len);
        // SAFETY: inside the slice, and not aliased by the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.data.add(range.start), range.end - range.start) }
    }

    /// Length of the whole slice.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// The slice's start, for kernels that write rows of a matrix side by side.
    pub(crate) fn ptr(&self) -> *mut T {
        self.data
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::{Threads, for_each_chunk, for_each_chunk2, in_step, map_ranges, reduce, threads};
    use crate::simd::Isa;

    #[test]
    fn chunks_cover_everything_once_on_any_number_of_threads() {
        for n in [1, 2, 3] {
            let pool = Threads::new(n).unwrap();
            assert_eq!(pool.count(), n);
            for len in [0usize, 1, 7, 64, 1000] {
                let mut data = vec![0u32; len];
                pool.run(|| {
                    assert_eq!(threads(), n);
                    for_each_chunk(&mut data, 7, |start, part| {
                        for (i, x) in part.iter_mut().enumerate() {
                            *x += (start + i) as u32 + 1;
                        }
                    });
                });
                assert!(data.iter().enumerate().all(|(i, &x)| x == i as u32 + 1));
                let mut sums = vec![0u32; len.div_ceil(7)];
                pool.run(|| {
                    for_each_chunk2((&mut data, 7), (&mut sums, 1), |_, part, sum| {
                        sum[0] = part.iter().sum()
                    });
                });
                assert_eq!(sums.iter().sum::<u32>(), (len * (len + 1) / 2) as u32);
            }
        }
    }

    #[test]
    fn a_reduction_has_the_same_bits_on_any_number_of_threads() {
        let x: Vec<f32> = (0..10_000).map(|i| ((i * 37) % 1001) as f32 * 1.1e-3).collect();
        let sum = || reduce(x.len(), 64, 0.0, |r| x[r].iter().sum::<f32>(), |a, b| a + b).to_bits();
        let one = Threads::new(1).unwrap().run(sum);
        assert_eq!(one, Threads::new(2).unwrap().run(sum));
        assert_eq!(one, Threads::new(5).unwrap().run(sum));
    }

    #[test]
    fn helper_threads_inherit_the_instruction_set() {
        let isas =
            Isa::Scalar.scope(|| Threads::new(3).unwrap().run(|| map_ranges(100, 1, |_| Isa::current())));
        assert!(isas.unwrap().iter().all(|&isa| isa == Isa::Scalar));
    }

    #[test]
    fn a_panic_in_any_chunk_reaches_the_caller_and_leaves_the_threads_usable() {
        let pool = Threads::new(3).unwrap();
        for bad in [0, 17, 99] {
            let work = || pool.run(|| super::for_each(100, |i| assert!(i != bad, "chunk {i}")));
            let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
            let message = *result.unwrap_err().downcast::<String>().unwrap();
            assert_eq!(message, format!("chunk {bad}"));
        }
        assert_eq!(pool.run(|| map_ranges(100, 1, |r| r.start).into_iter().sum::<usize>()), 4950);
    }

    #[test]
    fn work_that_is_shared_within_shared_work_is_done_once() {
        let sum = || {
            map_ranges(8, 1, |i| map_ranges(50, 3, |j| i.start * j.sum::<usize>()).into_iter().sum::<usize>())
                .into_iter()
                .sum::<usize>()
        };
        let want = 28 * 1225;
        assert_eq!(Threads::new(3).unwrap().run(sum), want);
        assert_eq!(Threads::awake(sum), want);
        // Within a team, the threads of another one.
        assert_eq!(Threads::new(2).unwrap().run(|| Threads::new(3).unwrap().run(sum)), want);
    }

    #[test]
    fn helpers_that_fell_asleep_wake_up_for_the_next_work() {
        Threads::new(3).unwrap().run(|| {
            for _ in 0..20 {
                assert_eq!(map_ranges(64, 1, |r| r.start).into_iter().sum::<usize>(), 2016);
                std::thread::sleep(std::time::Duration::from_millis(2));
            }
        });
    }

    #[test]
    fn many_callers_share_one_set_of_threads() {
        let pool = Threads::new(2).unwrap();
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for n in 1..200usize {
                        let sum: usize = pool.run(|| map_ranges(n, 1, |r| r.start)).into_iter().sum();
                        assert_eq!(sum, n * (n - 1) / 2);
                    }
                });
            }
        });
    }

    #[test]
    fn every_item_of_a_step_is_done_once_and_before_the_next_step() {
        for threads in [1, 2, 3] {
            for (n, least) in [(0, 1), (1, 1), (7, 1), (7, 3), (16, 8)] {
                let counts: Vec<AtomicUsize> = (0..n).map(|_| AtomicUsize::new(0)).collect();
                Threads::new(threads).unwrap().run(|| {
                    in_step(n, least, 500, |step, items| {
                        assert!(
                            counts.iter().all(|c| (step..=step + 1).contains(&c.load(Ordering::Relaxed)))
                        );
                        for count in &counts[items] {
                            assert_eq!(count.fetch_add(1, Ordering::Relaxed), step);
                        }
                    });
                });
                assert!(counts.iter().all(|c| c.load(Ordering::Relaxed) == 500));
            }
        }
    }

    #[test]
    fn a_panic_in_a_step_ends_them() {
        for at in [0, 15] {
            let ended = std::panic::catch_unwind(|| {
                Threads::new(2).unwrap().run(|| {
                    in_step(16, 8, 100, |step, items| assert!(step != 50 || !items.contains(&at)));
                });
            });
            assert!(ended.is_err());
        }
    }

    #[test]
    fn zero_threads_are_refused() {
        assert!(Threads::new(0).is_err());
    }
}
