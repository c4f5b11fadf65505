//! Threads: the only place that knows them.
//!
//! Work is cut into chunks that depend on shapes alone, and results of chunks are combined in their order, so that the
//! bits of a result do not depend on how many threads there are.

use std::{cell::Cell, marker::PhantomData, ops::Range, sync::Once};

use rayon::iter::{IntoParallelIterator, ParallelIterator};

use crate::{KernelError, Result, simd};

/// Elements of an elementwise kernel per chunk: 64 KiB of floats, which is about 10 µs of streaming and thus a few
/// times what it costs to hand a chunk to another thread.
pub(crate) const GRAIN: usize = 16 * 1024;

/// Floating-point operations per chunk of a compute-bound kernel, about 20 µs.
pub(crate) const GRAIN_FLOPS: usize = 2 * 1024 * 1024;

/// Bytes of stack per thread. A thread that waits runs other chunks on top of its own, and the frames of kernels
/// that are not optimised are large: 2 MiB, the default, are not enough.
const STACK: usize = 16 * 1024 * 1024;

thread_local! {
    static SERIAL: Cell<bool> = const { Cell::new(false) };
}

/// A set of threads that kernels run on.
#[derive(Debug)]
pub struct Threads(Option<rayon::ThreadPool>);

impl Threads {
    /// A pool of `n` threads. With one, kernels run on the calling thread and no thread is started.
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
                .num_threads(n)
                .stack_size(STACK)
                .thread_name(|i| format!("tfjs-{i}"))
                .build()
                .map(|pool| Threads(Some(pool)))
                .map_err(|_| wrong()),
        }
    }

    /// Number of threads.
    pub fn count(&self) -> usize {
        self.0.as_ref().map_or(1, rayon::ThreadPool::current_num_threads)
    }

    /// Runs `f`; kernels called from it share their work among these threads.
    pub fn run<R: Send>(&self, f: impl FnOnce() -> R + Send) -> R {
        match &self.0 {
            None => serially(true, f),
            Some(pool) => {
                let isa = simd::current_override();
                pool.install(|| serially(false, || simd::with_override(isa, f)))
            }
        }
    }
}

fn serially<R>(serial: bool, f: impl FnOnce() -> R) -> R {
    struct Restore(bool);
    impl Drop for Restore {
        fn drop(&mut self) {
            SERIAL.set(self.0);
        }
    }
    let _restore = Restore(SERIAL.replace(serial));
    f()
}

/// Number of threads that would share work started here.
pub(crate) fn threads() -> usize {
    if SERIAL.get() {
        return 1;
    }
    static POOL: Once = Once::new();
    // A program that has set up the global pool itself keeps its own.
    POOL.call_once(|| drop(rayon::ThreadPoolBuilder::new().stack_size(STACK).build_global()));
    rayon::current_num_threads()
}

/// Calls `f` with every number below `n`, in no particular order.
pub(crate) fn for_each(n: usize, f: impl Fn(usize) + Sync + Send) {
    share(n, &f);
}

/// Not generic, so that rayon's machinery is compiled once and not for every kernel.
fn share(n: usize, f: &(dyn Fn(usize) + Sync)) {
    if n <= 1 || threads() <= 1 {
        (0..n).for_each(f);
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
    use super::{Threads, for_each_chunk, for_each_chunk2, map_ranges, reduce, threads};
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
    fn zero_threads_are_refused() {
        assert!(Threads::new(0).is_err());
    }
}
