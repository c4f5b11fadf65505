//! What the tests of several kernels need.

/// Numbers between -1 and 1 that look random and are the same on every run.
pub(crate) fn noise(n: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..n)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            ((state >> 40) as f32) / (1u64 << 23) as f32 - 1.0
        })
        .collect()
}

/// Fails unless every element is within `tolerance`, relative for magnitudes above one, absolute below.
#[track_caller]
pub(crate) fn assert_close(got: &[f32], want: &[f64], tolerance: f64, what: &str) {
    assert_eq!(got.len(), want.len(), "{what}: number of elements");
    for (i, (&g, &w)) in got.iter().zip(want).enumerate() {
        let same = (g.is_nan() && w.is_nan()) || f64::from(g) == w;
        assert!(
            same || (f64::from(g) - w).abs() <= tolerance * w.abs().max(1.0),
            "{what}: element {i} is {g}, expected {w}"
        );
    }
}
