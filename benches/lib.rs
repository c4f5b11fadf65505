//! Criterion benchmarks; see the files in this folder.
