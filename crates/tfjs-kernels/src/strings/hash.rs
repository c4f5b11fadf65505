//! `StringToHashBucketFast` (FarmHash's `Fingerprint64`) and `StringToHashBucketStrong` (SipHash-2-4).
use crate::{KernelError, Result, Tensor};

const K0: u64 = 0xc3a5_c85c_97cb_3127;
const K1: u64 = 0xb492_b66f_be98_f273;
const K2: u64 = 0x9ae1_6a3b_2f90_404f;

fn word(s: &[u8], at: usize) -> u64 {
    s[at..].first_chunk().map_or(0, |b| u64::from_le_bytes(*b))
}

fn half(s: &[u8], at: usize) -> u64 {
    s[at..].first_chunk().map_or(0, |b| u32::from_le_bytes(*b).into())
}

fn shift_mix(v: u64) -> u64 {
    v ^ (v >> 47)
}

fn mix(u: u64, v: u64, mul: u64) -> u64 {
    let a = shift_mix((u ^ v).wrapping_mul(mul));
    shift_mix((v ^ a).wrapping_mul(mul)).wrapping_mul(mul)
}

/// FarmHash's portable 64-bit fingerprint (the `farmhashna` variant).
pub fn fingerprint64(s: &[u8]) -> u64 {
    let len = s.len();
    let mul = K2.wrapping_add(len as u64 * 2);
    match len {
        0 => K2,
        1..=3 => {
            let (a, b, c) = (u64::from(s[0]), u64::from(s[len >> 1]), u64::from(s[len - 1]));
            let (y, z) = (a + (b << 8), len as u64 + (c << 2));
            shift_mix(y.wrapping_mul(K2) ^ z.wrapping_mul(K0)).wrapping_mul(K2)
        }
        4..=7 => mix(len as u64 + (half(s, 0) << 3), half(s, len - 4), mul),
        8..=16 => {
            let a = word(s, 0).wrapping_add(K2);
            let b = word(s, len - 8);
            let c = b.rotate_right(37).wrapping_mul(mul).wrapping_add(a);
            let d = a.rotate_right(25).wrapping_add(b).wrapping_mul(mul);
            mix(c, d, mul)
        }
        17..=32 => {
            let (y, z) = middle(s, K1, mul);
            mix(y, z, mul)
        }
        33..=64 => {
            let (y, z) = middle(s, K2, mul);
            let a = word(s, 0).wrapping_mul(K2);
            let z = mix(y, z, mul);
            let e = word(s, 16).wrapping_mul(mul);
            let f = word(s, 24);
            let g = y.wrapping_add(word(s, len - 32)).wrapping_mul(mul);
            let h = z.wrapping_add(word(s, len - 24)).wrapping_mul(mul);
            mix(
                e.wrapping_add(f).rotate_right(43).wrapping_add(g.rotate_right(30)).wrapping_add(h),
                e.wrapping_add(f.wrapping_add(a).rotate_right(18)).wrapping_add(g),
                mul,
            )
        }
        _ => long(s),
    }
}

/// The two words that strings of 17 to 64 bytes start from.
fn middle(s: &[u8], first: u64, mul: u64) -> (u64, u64) {
    let a = word(s, 0).wrapping_mul(first);
    let b = word(s, 8);
    let c = word(s, s.len() - 8).wrapping_mul(mul);
    let d = word(s, s.len() - 16).wrapping_mul(K2);
    (
        a.wrapping_add(b).rotate_right(43).wrapping_add(c.rotate_right(30)).wrapping_add(d),
        a.wrapping_add(b.wrapping_add(K2).rotate_right(18)).wrapping_add(c),
    )
}

/// State of the loop over blocks of 64 bytes.
struct Long {
    x: u64,
    y: u64,
    z: u64,
    v: (u64, u64),
    w: (u64, u64),
}

impl Long {
    /// One block; the last one has another multiplier and weighs two words by `nine`.
    fn block(&mut self, s: &[u8], mul: u64, nine: u64) {
        let Long { x, y, z, v, w } = self;
        *x = x.wrapping_add(*y).wrapping_add(v.0).wrapping_add(word(s, 8)).rotate_right(37).wrapping_mul(mul);
        *y = y.wrapping_add(v.1).wrapping_add(word(s, 48)).rotate_right(42).wrapping_mul(mul);
        *x ^= w.1.wrapping_mul(nine);
        *y = y.wrapping_add(v.0.wrapping_mul(nine)).wrapping_add(word(s, 40));
        *z = z.wrapping_add(w.0).rotate_right(33).wrapping_mul(mul);
        *v = weak(s, v.1.wrapping_mul(mul), x.wrapping_add(w.0));
        *w = weak(&s[32..], z.wrapping_add(w.1), y.wrapping_add(word(s, 16)));
        std::mem::swap(z, x);
    }
}

fn weak(s: &[u8], a: u64, b: u64) -> (u64, u64) {
    let (w, x, y, z) = (word(s, 0), word(s, 8), word(s, 16), word(s, 24));
    let a = a.wrapping_add(w);
    let b = b.wrapping_add(a).wrapping_add(z).rotate_right(21);
    let sum = a.wrapping_add(x).wrapping_add(y);
    (sum.wrapping_add(z), b.wrapping_add(sum.rotate_right(44)).wrapping_add(a))
}

fn long(s: &[u8]) -> u64 {
    const SEED: u64 = 81;
    let y = SEED.wrapping_mul(K1).wrapping_add(113);
    let mut l = Long {
        x: SEED.wrapping_mul(K2).wrapping_add(word(s, 0)),
        y,
        z: shift_mix(y.wrapping_mul(K2).wrapping_add(113)).wrapping_mul(K2),
        v: (0, 0),
        w: (0, 0),
    };
    let tail = (s.len() - 1) & 63;
    for block in s[..s.len() - 1 - tail].chunks_exact(64) {
        l.block(block, K1, 1);
    }
    let mul = K1.wrapping_add((l.z & 0xff) << 1);
    l.w.0 = l.w.0.wrapping_add(tail as u64);
    l.v.0 = l.v.0.wrapping_add(l.w.0);
    l.w.0 = l.w.0.wrapping_add(l.v.0);
    l.block(&s[s.len() - 64..], mul, 9);
    mix(
        mix(l.v.0, l.w.0, mul).wrapping_add(shift_mix(l.y).wrapping_mul(K0)).wrapping_add(l.z),
        mix(l.v.1, l.w.1, mul).wrapping_add(l.x),
        mul,
    )
}

/// SipHash-2-4 with a 128-bit key.
fn siphash(key: [u64; 2], s: &[u8]) -> u64 {
    let mut v = [
        key[0] ^ 0x736f_6d65_7073_6575,
        key[1] ^ 0x646f_7261_6e64_6f6d,
        key[0] ^ 0x6c79_6765_6e65_7261,
        key[1] ^ 0x7465_6462_7974_6573,
    ];
    let blocks = s.chunks_exact(8);
    let mut last = [0; 8];
    last[..blocks.remainder().len()].copy_from_slice(blocks.remainder());
    last[7] = s.len() as u8;
    for m in blocks.chain([&last[..]]).map(|b| word(b, 0)) {
        v[3] ^= m;
        sip_rounds(&mut v, 2);
        v[0] ^= m;
    }
    v[2] ^= 0xff;
    sip_rounds(&mut v, 4);
    v[0] ^ v[1] ^ v[2] ^ v[3]
}

fn sip_rounds(v: &mut [u64; 4], rounds: usize) {
    for _ in 0..rounds {
        v[0] = v[0].wrapping_add(v[1]);
        v[2] = v[2].wrapping_add(v[3]);
        v[1] = v[1].rotate_left(13) ^ v[0];
        v[3] = v[3].rotate_left(16) ^ v[2];
        v[0] = v[0].rotate_left(32);
        v[2] = v[2].wrapping_add(v[1]);
        v[0] = v[0].wrapping_add(v[3]);
        v[1] = v[1].rotate_left(17) ^ v[2];
        v[3] = v[3].rotate_left(21) ^ v[0];
        v[2] = v[2].rotate_left(32);
    }
}

fn buckets(input: &Tensor, buckets: i32, hash: impl Fn(&[u8]) -> u64) -> Result<Tensor> {
    let n = u64::try_from(buckets).ok().filter(|&n| n > 0).ok_or_else(|| KernelError::Argument {
        what: "num_buckets",
        got: buckets.to_string(),
        expected: "at least 1",
    })?;
    let input = input.typed::<crate::TfString>("input")?;
    // Below n, which is an i32.
    Tensor::new(input.shape(), input.data().iter().map(|s| (hash(s) % n) as i32).collect::<Vec<_>>())
}

/// FarmHash's way to join two fingerprints.
fn fingerprint_cat(a: u64, b: u64) -> u64 {
    const MUL: u64 = 0xc6a4_a793_5bd1_e995;
    let mut result = a ^ MUL;
    result ^= shift_mix(b.wrapping_mul(MUL)).wrapping_mul(MUL);
    result = result.wrapping_mul(MUL);
    result = shift_mix(result).wrapping_mul(MUL);
    shift_mix(result)
}

/// Crosses of dense columns `[batch, features]`, hashed into buckets: in each row every combination of one feature of
/// each column, the last column changing fastest. Returns `[batch, combinations]`. Integers stand for themselves.
///
/// # Errors
/// [`KernelError::Argument`] when columns are not matrices of strings or int32 with as many rows, or there are no buckets.
pub fn cross_hashed(columns: &[&Tensor], num_buckets: i32, key: u64) -> Result<Tensor> {
    let wrong = |got: String| KernelError::Argument {
        what: "inputs",
        got,
        expected: "matrices of strings or int32 with as many rows, and at least one bucket",
    };
    let buckets = u64::try_from(num_buckets).ok().filter(|&n| n > 0);
    let buckets = buckets.ok_or_else(|| wrong(format!("{num_buckets} buckets")))?;
    let mut rows = None;
    let mut combinations = 1usize;
    let mut features: Vec<(usize, Vec<u64>)> = Vec::with_capacity(columns.len());
    for column in columns {
        let shape = || wrong(format!("{} of shape {}", column.dtype(), column.shape()));
        let &[batch, width] = column.dims() else { return Err(shape()) };
        if *rows.get_or_insert(batch) != batch {
            return Err(shape());
        }
        combinations = combinations.checked_mul(width).ok_or_else(shape)?;
        let prints = match column {
            Tensor::Str(t) => t.data().iter().map(|s| fingerprint64(s)).collect(),
            Tensor::I32(t) => t.data().iter().map(|&n| i64::from(n) as u64).collect(),
            _ => return Err(shape()),
        };
        features.push((width, prints));
    }
    let rows = rows.unwrap_or(0);
    let mut out = Vec::with_capacity(rows.saturating_mul(combinations));
    for row in 0..rows {
        for combination in 0..combinations {
            let mut rest = combination;
            let mut picks: Vec<u64> = Vec::with_capacity(features.len());
            for (width, prints) in features.iter().rev() {
                picks.push(prints[row * width + rest % width]);
                rest /= width;
            }
            let hash = picks.iter().rev().fold(key, |hash, &print| fingerprint_cat(hash, print));
            out.push((hash % buckets) as i32);
        }
    }
    Tensor::new([rows, combinations], out)
}

/// [`fingerprint64`] of every string, modulo the number of buckets.
///
/// # Errors
/// [`KernelError`] when the input is not strings or the number is not positive.
pub fn hash_bucket_fast(input: &Tensor, num_buckets: i32) -> Result<Tensor> {
    buckets(input, num_buckets, fingerprint64)
}

/// Keyed SipHash of every string, modulo the number of buckets.
///
/// # Errors
/// [`KernelError`] when the input is not strings or the number is not positive.
pub fn hash_bucket_strong(input: &Tensor, num_buckets: i32, key: [u64; 2]) -> Result<Tensor> {
    buckets(input, num_buckets, |s| siphash(key, s))
}

#[cfg(test)]
mod tests {
    use super::{hash_bucket_fast, hash_bucket_strong};
    use crate::{Tensor, TfString};

    // Values from TensorFlow 2.19.
    #[test]
    fn fast_hash_agrees_with_tensorflow_for_every_length_class() {
        let long = [("a", 20), ("b", 50), ("c", 64), ("d", 65), ("xyz", 50)].map(|(s, n)| s.repeat(n));
        let short = ["", "a", "hello", "hello world!"].map(String::from);
        let input = Tensor::vector(short.into_iter().chain(long).map(TfString::from).collect::<Vec<_>>());
        let want = [
            1699943623, 493484721, 441440317, 271557025, 1325441579, 1654515353, 1276964707, 959280663,
            1854160860,
        ];
        assert_eq!(hash_bucket_fast(&input, i32::MAX).unwrap().data::<i32>().unwrap(), want);
    }

    #[test]
    fn strong_hash_agrees_with_tensorflow() {
        let input = ["", "a", "hello", "hello world!", &"b".repeat(50)].map(TfString::from);
        let got = hash_bucket_strong(&Tensor::vector(input.to_vec()), i32::MAX, [123, 456]).unwrap();
        assert_eq!(got.data::<i32>().unwrap(), [935507912, 1028093064, 1621747169, 1344264465, 1557584502]);
    }

    #[test]
    fn no_buckets_is_an_error() {
        assert!(hash_bucket_fast(&Tensor::vector(vec![TfString::from("a")]), 0).is_err());
    }
}
