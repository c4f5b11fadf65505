//! `FakeQuantWithMinMaxArgs`, `…Vars`, `…VarsPerChannel`: rounding to the values that a quantized tensor holds.
use crate::{KernelError, Result, Tensor, TensorOf};

/// The grid that `min` and `max` are moved to so that zero lies on it.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Grid {
    min: f32,
    max: f32,
    scale: f32,
    inv_scale: f32,
    zero: f32,
}

impl Grid {
    fn new(min: f32, max: f32, bits: u32, narrow: bool) -> Grid {
        let quant_min = if narrow { 1.0 } else { 0.0 };
        let quant_max = ((1u32 << bits) - 1) as f32;
        let scale = (max - min) / (quant_max - quant_min);
        let from_min = quant_min - min / scale;
        let zero_point = if from_min < quant_min {
            quant_min
        } else if from_min > quant_max {
            quant_max
        } else {
            // Half away from zero, as `std::round`.
            from_min.round()
        };
        let (min, max) = ((quant_min - zero_point) * scale, (quant_max - zero_point) * scale);
        let inv_scale = 1.0 / scale;
        Grid { min, max, scale, inv_scale, zero: (-min * inv_scale + 0.5).floor() }
    }

    fn round(&self, x: f32) -> f32 {
        let clamped = if x < self.min {
            self.min
        } else if x > self.max {
            self.max
        } else {
            x
        };
        ((clamped - self.min) * self.inv_scale - self.zero + 0.5).floor() * self.scale
    }
}

fn check(bits: u32) -> Result<()> {
    if !(2..=16).contains(&bits) {
        return Err(KernelError::Argument { what: "num_bits", got: bits.to_string(), expected: "2 to 16" });
    }
    Ok(())
}

/// Rounds to the `2^bits` values between `min` and `max`, moved so that zero is one of them; `narrow` leaves
/// the lowest out.
///
/// # Errors
/// [`KernelError`] when the input is not `float32` or `bits` is not in 2 to 16.
pub fn fake_quant(input: Tensor, min: f32, max: f32, bits: u32, narrow: bool) -> Result<Tensor> {
    check(bits)?;
    let mut t: TensorOf<f32> = input.into_typed("inputs")?;
    if min == 0.0 && max == 0.0 {
        t.data_mut().fill(0.0);
        return Ok(Tensor::F32(t));
    }
    let grid = Grid::new(min, max, bits, narrow);
    t.data_mut().iter_mut().for_each(|x| *x = grid.round(*x));
    Ok(Tensor::F32(t))
}

/// [`fake_quant`] with a range per entry of the last dimension: `min: [d]`, `max: [d]`.
///
/// # Errors
/// [`KernelError`] when types or shapes do not fit or `bits` is not in 2 to 16.
pub fn fake_quant_per_channel(
    input: Tensor,
    min: &Tensor,
    max: &Tensor,
    bits: u32,
    narrow: bool,
) -> Result<Tensor> {
    check(bits)?;
    let mut t: TensorOf<f32> = input.into_typed("inputs")?;
    let grids = grids(t.dims(), min, max, bits, narrow)?;
    let channels = grids.len();
    if channels > 0 {
        for row in t.data_mut().chunks_exact_mut(channels) {
            for (x, grid) in row.iter_mut().zip(&grids) {
                *x = grid.map_or(0.0, |g| g.round(*x));
            }
        }
    }
    Ok(Tensor::F32(t))
}

/// The range of each entry of the last dimension, as it is quantized; `None` for the point at zero.
pub(crate) fn nudged(
    x: &Tensor,
    min: &Tensor,
    max: &Tensor,
    bits: u32,
    narrow: bool,
) -> Result<Vec<Option<(f32, f32)>>> {
    check(bits)?;
    let grids = grids(x.dims(), min, max, bits, narrow)?;
    Ok(grids.into_iter().map(|g| g.map(|g| (g.min, g.max))).collect())
}

fn grids(dims: &[usize], min: &Tensor, max: &Tensor, bits: u32, narrow: bool) -> Result<Vec<Option<Grid>>> {
    let (min, max) = (min.typed::<f32>("min")?, max.typed::<f32>("max")?);
    match dims.last() {
        Some(&d) if min.dims() == [d] && max.dims() == [d] => {}
        _ => {
            return Err(KernelError::Shapes {
                left: min.shape(),
                right: dims.into(),
                why: "do not go together: there is one range per entry of the last dimension",
            });
        }
    }
    let ends = min.data().iter().zip(max.data());
    Ok(ends
        .map(|(&min, &max)| (min != 0.0 || max != 0.0).then(|| Grid::new(min, max, bits, narrow)))
        .collect())
}

#[cfg(test)]
mod tests {
    use super::{fake_quant, fake_quant_per_channel};
    use crate::Tensor;

    // Values from TensorFlow 2.19.
    #[test]
    fn values_land_on_the_nudged_grid() {
        let x = Tensor::vector(vec![1.0f32, -3.0, 0.1]);
        let t = fake_quant(x, -1.0, 1.0, 8, false).unwrap();
        assert_eq!(t.data::<f32>().unwrap(), [1.0039216, -0.9960785, 0.10196079]);
        let x = Tensor::new([2, 3], vec![0.1f32, -1.0, 3.0, 5.0, 0.33, 2.0]).unwrap();
        let (min, max) = (Tensor::vector(vec![-1.0f32, -0.5, 0.0]), Tensor::vector(vec![1.0f32, 0.7, 6.0]));
        let t = fake_quant_per_channel(x, &min, &max, 4, true).unwrap();
        let want = [0.14285715, -0.51428574, 3.0, 1.0, 0.34285715, 2.142857];
        assert_eq!(t.data::<f32>().unwrap(), want);
    }
}
