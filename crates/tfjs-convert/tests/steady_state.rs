//! After its first runs a model allocates no large buffer, whatever the number of threads, and its results stay the same.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]
#![allow(unsafe_code, reason = "an allocator that counts")]

use std::{
    alloc::{GlobalAlloc, Layout, System},
    path::Path,
    sync::atomic::{AtomicUsize, Ordering},
};

use tfjs_convert::{ConvertOptions, convert};
use tfjs_graph::{DType, GraphModel, Tensor, TensorInfo};
use tfjs_kernels::Threads;

/// Counts large allocations.
struct Counting;

static LARGE: AtomicUsize = AtomicUsize::new(0);
/// What counts as large, in bytes: more than the sums of a reduction over these models' channels, which are kept in double
/// precision until they are results.
const BYTES: usize = 16 * 1024;

fn count(bytes: usize) {
    if bytes >= BYTES {
        LARGE.fetch_add(1, Ordering::Relaxed);
    }
}

// SAFETY: all is left to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: the caller's promise.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size);
        // SAFETY: the caller's promise.
        unsafe { System.realloc(pointer, layout, size) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(pointer, layout) };
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn open(name: &str, directory: &Path) -> GraphModel {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/models").join(name);
    let output = directory.join(name);
    let options = ConvertOptions {
        input: source.join("saved_model").to_string_lossy().into_owned(),
        output: output.clone(),
        ..ConvertOptions::default()
    };
    convert(&options, &mut |_| {}).unwrap();
    GraphModel::open(&output).unwrap()
}

fn input(info: &TensorInfo, batch: usize) -> Tensor {
    let dims = info.shape.as_deref().unwrap_or_default();
    let shape: Vec<usize> =
        dims.iter().enumerate().map(|(i, d)| d.unwrap_or(if i == 0 { batch } else { 8 })).collect();
    let n: usize = shape.iter().product();
    match info.dtype {
        Some(DType::Int32) => Tensor::new(shape, (0..n as i32).map(|i| i % 5).collect::<Vec<i32>>()).unwrap(),
        _ => Tensor::new(shape, (0..n).map(|i| (i % 17) as f32 / 17.0).collect::<Vec<f32>>()).unwrap(),
    }
}

#[test]
fn nothing_large_is_allocated_once_a_model_has_settled() {
    let directory = tempfile::tempdir().unwrap();
    for (name, batch) in [("mobile_net", 1), ("mobile_net", 3), ("digits_cnn", 16), ("transformer", 2)] {
        let model = open(name, directory.path());
        let inputs: Vec<(String, Tensor)> =
            model.inputs().iter().map(|info| (info.key.clone(), input(info, batch))).collect();
        let run = || model.run(inputs.iter().map(|(name, tensor)| (name, tensor.clone()))).unwrap();
        for threads in [1, 2] {
            Threads::new(threads).unwrap().run(|| {
                let first = run();
                // Working memory of threads grows to what is needed within some runs: who works on what is chance.
                let settles = (0..50).any(|_| {
                    let before = LARGE.load(Ordering::Relaxed);
                    for _ in 0..5 {
                        let again = run();
                        for (a, b) in first.iter().zip(again.iter()) {
                            assert_eq!(a, b, "{name}: results change");
                        }
                    }
                    LARGE.load(Ordering::Relaxed) == before
                });
                assert!(settles, "{name}, batch {batch}, {threads} threads: every run allocates");
            });
        }
        let memory = model.memory().unwrap();
        let bound = memory.minimal + memory.minimal * 3 / 10;
        assert!(memory.used <= bound, "{name}: {memory:?}");
    }
}
