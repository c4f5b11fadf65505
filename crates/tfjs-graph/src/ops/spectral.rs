//! Fourier transforms.
use tfjs_kernels::{DType, spectral};

use super::infer::{dims, fact, ints};
use crate::{
    Op, OpError,
    op::{Inputs, OpDef, one, same, simple},
};

pub(super) const OPS: &[OpDef] = &[
    OpDef::new("BatchFFT", 1..=1, |_| complex(1, false)),
    OpDef::new("BatchIFFT", 1..=1, |_| complex(1, true)),
    OpDef::new("FFT", 1..=1, |_| complex(1, false)),
    OpDef::new("FFT2D", 1..=1, |_| complex(2, false)),
    OpDef::new("FFT3D", 1..=1, |_| complex(3, false)),
    OpDef::new("IFFT", 1..=1, |_| complex(1, true)),
    OpDef::new("IFFT2D", 1..=1, |_| complex(2, true)),
    OpDef::new("IFFT3D", 1..=1, |_| complex(3, true)),
    OpDef::new("IRFFT", 2..=2, |_| real(1, true)),
    OpDef::new("IRFFT2D", 2..=2, |_| real(2, true)),
    OpDef::new("IRFFT3D", 2..=2, |_| real(3, true)),
    OpDef::new("RFFT", 2..=2, |_| real(1, false)),
    OpDef::new("RFFT2D", 2..=2, |_| real(2, false)),
    OpDef::new("RFFT3D", 2..=2, |_| real(3, false)),
];

fn complex(axes: usize, inverse: bool) -> Result<Box<dyn Op>, OpError> {
    simple(move |x| one(spectral::fft(x.tensor(0)?, axes, inverse)), same)
}

fn real(axes: usize, inverse: bool) -> Result<Box<dyn Op>, OpError> {
    simple(
        move |x| {
            let lengths = lengths(x, axes)?;
            let input = x.tensor(0)?;
            one(if inverse { spectral::irfft(input, &lengths) } else { spectral::rfft(input, &lengths) })
        },
        move |facts| {
            let dtype = if inverse { DType::Float32 } else { DType::Complex64 };
            let Some(mut shape) = dims(facts, 0).map(<[_]>::to_vec) else {
                return Ok(vec![fact(Some(dtype), None)]);
            };
            let Some(first) = shape.len().checked_sub(axes) else {
                return Err(OpError::input("input", format!("it has fewer than {axes} dimensions")));
            };
            let lengths = ints(facts, 1).filter(|l| l.len() == axes);
            for i in 0..axes {
                let n = lengths.and_then(|l| usize::try_from(l[i]).ok());
                let half = !inverse && i + 1 == axes;
                shape[first + i] = if half { n.map(|n| if n == 0 { 0 } else { n / 2 + 1 }) } else { n };
            }
            Ok(vec![fact(Some(dtype), Some(shape))])
        },
    )
}

fn lengths(x: &Inputs, axes: usize) -> Result<Vec<usize>, OpError> {
    let list = x.elements::<i32>(1, "fft_length")?;
    if list.len() != axes {
        return Err(OpError::input("fft_length", format!("expected {axes} lengths, got {}", list.len())));
    }
    list.iter()
        .map(|&n| usize::try_from(n).map_err(|_| OpError::input("fft_length", format!("{n} is negative"))))
        .collect()
}
