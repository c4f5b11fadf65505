//! Random numbers as TensorFlow draws them: Philox 4×32, ten rounds (Salmon et al. 2011), and the way its CPU
//! kernels cut the stream into groups. The same seeds give the same numbers.
use crate::{Element, KernelError, Result, Shape, Tensor, TensorOf, creation::scalar};

/// Blocks by which a call advances the stream, per output drawn.
const RESERVED_PER_OUTPUT: u128 = 256;

/// A Philox stream: a key, and a counter of 128-bit blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Philox {
    key: [u32; 2],
    counter: u128,
}

impl Philox {
    /// The stream of an op with `seed` and `seed2` attributes; both 0 ask for a seed from the operating system.
    pub fn seeded(seed: i64, seed2: i64) -> Philox {
        if seed == 0 && seed2 == 0 {
            return Philox::new(rand::random(), rand::random());
        }
        Philox::new(seed as u64, seed2 as u64)
    }

    fn new(key: u64, high: u64) -> Philox {
        Philox { key: [key as u32, (key >> 32) as u32], counter: u128::from(high) << 64 }
    }

    /// The stream of a stateless op with the two-element seed `[seed0, seed1]`.
    pub fn stateless(seed0: i64, seed1: i64) -> Philox {
        // TensorFlow scrambles the seed by one block under a fixed key.
        let counter = u128::from(seed0 as u64) | u128::from(seed1 as u64) << 64;
        let mix = block([0x3ec8_f720, 0x0246_1e29], counter);
        let high = u64::from(mix[2]) | u64::from(mix[3]) << 32;
        Philox { key: [mix[0], mix[1]], counter: u128::from(high) << 64 }
    }

    /// Takes the part of the stream for `outputs` numbers, leaving the rest to later calls.
    pub fn reserve(&mut self, outputs: usize) -> Philox {
        let part = *self;
        self.skip(outputs as u128 * RESERVED_PER_OUTPUT);
        part
    }

    /// Takes the part of the stream for a shuffle of `rows`, leaving the rest to later calls.
    pub fn reserve_shuffle(&mut self, rows: usize) -> Philox {
        let part = *self;
        self.skip(rows.div_ceil(4) as u128);
        part
    }

    fn skip(&mut self, blocks: u128) {
        self.counter = self.counter.wrapping_add(blocks);
    }

    fn at(&self, blocks: u128) -> [u32; 4] {
        block(self.key, self.counter.wrapping_add(blocks))
    }

    fn singles(self) -> Singles {
        Singles { stream: self, block: [0; 4], used: 4 }
    }
}

/// Block number `counter` of the stream with `key`.
fn block(key: [u32; 2], counter: u128) -> [u32; 4] {
    let [mut k0, mut k1] = key;
    let mut c = [counter as u32, (counter >> 32) as u32, (counter >> 64) as u32, (counter >> 96) as u32];
    for round in 0..10 {
        if round > 0 {
            k0 = k0.wrapping_add(0x9E37_79B9);
            k1 = k1.wrapping_add(0xBB67_AE85);
        }
        let a = u64::from(c[0]) * 0xD251_1F53;
        let b = u64::from(c[2]) * 0xCD9E_8D57;
        c = [(b >> 32) as u32 ^ c[1] ^ k0, b as u32, (a >> 32) as u32 ^ c[3] ^ k1, a as u32];
    }
    c
}

/// One number after the other.
struct Singles {
    stream: Philox,
    block: [u32; 4],
    used: usize,
}

impl Singles {
    fn next(&mut self) -> u32 {
        if self.used == 4 {
            self.block = self.stream.at(0);
            self.stream.skip(1);
            self.used = 0;
        }
        self.used += 1;
        self.block[self.used - 1]
    }

    fn next_f64(&mut self) -> f64 {
        let (high, low) = (self.next(), self.next());
        unit_f64(high, low)
    }
}

/// TensorFlow's element type of a random float tensor, which decides how many bits make a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Precision {
    /// `half`
    Half,
    /// `bfloat16`
    Bfloat16,
    /// `float`
    Single,
    /// `double`, rounded to the run-time type
    Double,
}

/// A distribution of floats.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Distribution {
    /// Uniform on `[0, 1)`.
    Uniform,
    /// Normal with mean 0 and variance 1.
    Normal,
    /// Normal, redrawn while further than 2 from 0.
    TruncatedNormal,
}

/// Floats of `shape` from a stream.
///
/// # Errors
/// [`KernelError::TooLarge`] when the shape does not fit in memory.
pub fn floats(
    stream: Philox,
    shape: Shape,
    distribution: Distribution,
    precision: Precision,
) -> Result<Tensor> {
    let n = shape.checked_len()?;
    let mut out = Vec::with_capacity(n);
    let mut group = 0u128;
    while out.len() < n {
        let room = n - out.len();
        match distribution {
            Distribution::Uniform => {
                let b = stream.at(group);
                match precision {
                    Precision::Single => out.extend(b.map(unit_f32).into_iter().take(room)),
                    Precision::Half => out.extend(b.map(|x| unit_short(x, 10)).into_iter().take(room)),
                    Precision::Bfloat16 => out.extend(b.map(|x| unit_short(x, 7)).into_iter().take(room)),
                    Precision::Double => {
                        let pair = [unit_f64(b[0], b[1]) as f32, unit_f64(b[2], b[3]) as f32];
                        out.extend(pair.into_iter().take(room));
                    }
                }
            }
            Distribution::Normal => {
                let b = stream.at(group);
                if precision == Precision::Double {
                    let (x, y) = box_muller_f64(b);
                    out.extend([x as f32, y as f32].into_iter().take(room));
                } else {
                    let ((a, b), (c, d)) = (box_muller(b[0], b[1]), box_muller(b[2], b[3]));
                    out.extend([a, b, c, d].map(|v| narrow(v, precision)).into_iter().take(room));
                }
            }
            Distribution::TruncatedNormal => {
                // Every group has its own region of the stream, as it may need any number of blocks.
                let size = if precision == Precision::Double { 2 } else { 4 };
                let mut region = stream;
                region.skip(group * (size as u128 * RESERVED_PER_OUTPUT / 4)); // in blocks of four
                let mut singles = region.singles();
                let mut found = 0;
                while found < size {
                    let pair = if precision == Precision::Double {
                        let b = [singles.next(), singles.next(), singles.next(), singles.next()];
                        let (x, y) = box_muller_f64(b);
                        [x, y]
                    } else {
                        let (x, y) = box_muller(singles.next(), singles.next());
                        [f64::from(x), f64::from(y)]
                    };
                    for v in pair.into_iter().filter(|v| v.abs() < 2.0) {
                        if found < size && out.len() < n {
                            out.push(narrow(v as f32, precision));
                        }
                        found += 1;
                    }
                }
            }
        }
        group += 1;
    }
    Tensor::new(shape, out)
}

fn narrow(v: f32, precision: Precision) -> f32 {
    match precision {
        Precision::Half => half::f16::from_f32(v).to_f32(),
        Precision::Bfloat16 => half::bf16::from_f32(v).to_f32(),
        _ => v,
    }
}

/// Integers of `shape`, uniform on `[min, max)`. `wide`: TensorFlow's type is 64 bits wide.
///
/// # Errors
/// [`KernelError`] when the range is empty or the shape does not fit in memory.
pub fn integers(stream: Philox, shape: Shape, min: &Tensor, max: &Tensor, wide: bool) -> Result<Tensor> {
    let (min, max) = (scalar::<i32>(min, "minval")?, scalar::<i32>(max, "maxval")?);
    let n = shape.checked_len()?;
    if n > 0 && min >= max {
        return Err(KernelError::Range {
            what: "minval",
            got: min.into(),
            min: i32::MIN.into(),
            max: max.into(),
        });
    }
    let span = max.wrapping_sub(min) as u32;
    let mut out = Vec::with_capacity(n);
    for group in 0u128.. {
        if out.len() >= n {
            break;
        }
        let room = n - out.len();
        let b = stream.at(group);
        if wide {
            let pair = [0, 2].map(|i| u64::from(b[i]) | u64::from(b[i + 1]) << 32);
            out.extend(pair.map(|x| min.wrapping_add((x % u64::from(span)) as i32)).into_iter().take(room));
        } else {
            out.extend(b.map(|x| min.wrapping_add((x % span) as i32)).into_iter().take(room));
        }
    }
    Tensor::new(shape, out)
}

/// Integers of `shape` over the whole range of 32 bits. `wide`: the low halves of 64-bit numbers.
///
/// # Errors
/// [`KernelError::TooLarge`] when the shape does not fit in memory.
pub fn full_integers(stream: Philox, shape: Shape, wide: bool) -> Result<Tensor> {
    let n = shape.checked_len()?;
    let at = |i: usize| {
        if wide { stream.at(i as u128 / 2)[i % 2 * 2] } else { stream.at(i as u128 / 4)[i % 4] }
    };
    Tensor::new(shape, (0..n).map(|i| at(i) as i32).collect::<Vec<_>>())
}

/// `samples` class numbers per row of unnormalised log-probabilities `logits: [rows, classes]`.
/// Reserve `rows * ceil(samples / 4) * 8` outputs for it: each takes two numbers.
///
/// # Errors
/// [`KernelError`] when `logits` is not a float32 matrix, or there are no classes.
pub fn multinomial(stream: Philox, logits: &Tensor, samples: usize) -> Result<Tensor> {
    let x = logits.typed::<f32>("the logits")?;
    let &[rows, classes] = x.dims() else {
        return Err(KernelError::Rank { what: "the logits", got: x.shape(), expected: "2 dimensions" });
    };
    if classes == 0 {
        return Err(KernelError::Rank { what: "the logits", got: x.shape(), expected: "at least one class" });
    }
    let shape = Shape::from([rows, samples]);
    let mut out = Vec::with_capacity(shape.checked_len()?);
    let mut singles = stream.singles();
    for row in x.data().chunks(classes) {
        let top = row.iter().copied().filter(|v| v.is_finite()).fold(f32::MIN, f32::max);
        let mut total = 0.0;
        let cumulative: Vec<f64> = row
            .iter()
            .map(|&v| {
                if v.is_finite() {
                    total += (f64::from(v) - f64::from(top)).exp();
                }
                total
            })
            .collect();
        for _ in 0..samples {
            let target = singles.next_f64() * total;
            out.push(cumulative.partition_point(|&c| c <= target) as i32);
        }
    }
    Tensor::new(shape, out)
}

/// The rows of `x` in random order.
///
/// # Errors
/// Never for tensors that exist.
pub fn shuffle(stream: Philox, x: &Tensor) -> Result<Tensor> {
    let Some(&n) = x.dims().first() else { return Ok(x.clone()) };
    let mut singles = stream.singles();
    let mut order: Vec<usize> = (0..n).collect();
    for i in 0..n.saturating_sub(1) {
        let j = i + singles.next() as usize % (n - i);
        order.swap(i, j);
    }
    fn rows<T: Element>(x: &TensorOf<T>, order: &[usize]) -> Result<Tensor> {
        let row = x.len().checked_div(order.len()).unwrap_or(0);
        let data = order.iter().flat_map(|&i| x.data()[i * row..][..row].iter().cloned()).collect();
        Tensor::new(x.shape(), data)
    }
    crate::match_tensor!(x, t => rows(t, &order))
}

/// `[0, 1)` from the 23 low bits.
fn unit_f32(x: u32) -> f32 {
    f32::from_bits(127 << 23 | (x & 0x7f_ffff)) - 1.0
}

/// `[0, 1)` from the low `bits`, as the mantissa of a short float.
fn unit_short(x: u32, bits: u32) -> f32 {
    f32::from_bits(127 << 23 | (x & ((1 << bits) - 1)) << (23 - bits)) - 1.0
}

/// `[0, 1)` from 52 bits.
fn unit_f64(high: u32, low: u32) -> f64 {
    f64::from_bits(1023 << 52 | u64::from(high & 0xf_ffff) << 32 | u64::from(low)) - 1.0
}

/// Two independent normal numbers from two uniform ones.
fn box_muller(x0: u32, x1: u32) -> (f32, f32) {
    let u = unit_f32(x0).max(1e-7);
    let angle = (2.0 * std::f64::consts::PI * f64::from(unit_f32(x1))) as f32;
    let r = (-2.0 * u.ln()).sqrt();
    (angle.sin() * r, angle.cos() * r)
}

fn box_muller_f64(b: [u32; 4]) -> (f64, f64) {
    let u = unit_f64(b[0], b[1]).max(1e-7);
    let angle = 2.0 * std::f64::consts::PI * unit_f64(b[2], b[3]);
    let r = (-2.0 * u.ln()).sqrt();
    (angle.sin() * r, angle.cos() * r)
}

#[cfg(test)]
mod tests;
