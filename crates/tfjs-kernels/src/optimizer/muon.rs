use super::Rule;
use super::{Gradient, Prepare, length, sum_squares, update};
use crate::{
    Result, Tensor, TensorOf,
    matmul::{Orientation, matmul},
};

/// One step of Muon (Jordan et al. 2024): the momentum of a matrix, made nearly orthogonal.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Muon {
    /// Step size.
    pub learning_rate: f32,
    /// Share of the momentum that stays.
    pub momentum: f32,
    /// Looks one step ahead.
    pub nesterov: bool,
    /// Newton-Schulz steps.
    pub steps: usize,
    /// Coefficients of the Newton-Schulz polynomial.
    pub coefficients: [f32; 3],
    /// The step's root mean square; `None` leaves it.
    pub rms_rate: Option<f32>,
}

/// Updates `weight: [rows, columns]` and its momentum.
///
/// # Errors
/// [`crate::KernelError`] when lengths do not fit.
pub fn muon(
    step: Muon,
    prepare: Prepare,
    weight: &mut [f32],
    gradient: &[f32],
    momentum: &mut [f32],
    [rows, columns]: [usize; 2],
) -> Result<()> {
    let n = weight.len();
    if rows.checked_mul(columns) != Some(n) || gradient.len() != n || momentum.len() != n {
        return Err(length("the length of the gradient", gradient.len(), "the weight's"));
    }
    if n == 0 {
        return Ok(());
    }
    for (m, &g) in momentum.iter_mut().zip(gradient) {
        *m += prepare.gradient(g) + *m * (step.momentum - 1.0);
    }
    let mut x: Vec<f32> = momentum.to_vec();
    if step.nesterov {
        for (x, &g) in x.iter_mut().zip(gradient) {
            *x = prepare.gradient(g) + step.momentum * *x;
        }
    }
    let norm = sum_squares(&x, Prepare::default()).sqrt() as f32 + 1e-7;
    x.iter_mut().for_each(|x| *x /= norm);
    // The product of the shorter side with itself is the smaller one: a tall matrix is treated as its transpose.
    let tall = rows > columns;
    let [a, b, c] = step.coefficients;
    let (plain, turned) = (Orientation::transposed(false), Orientation::transposed(true));
    let mut x = Tensor::new([rows, columns], x)?;
    for _ in 0..step.steps {
        let gram = if tall { matmul(&x, &x, turned, plain)? } else { matmul(&x, &x, plain, turned)? };
        let square = matmul(&gram, &gram, plain, plain)?;
        let mixed = combine(b, &gram, c, square)?;
        // The Gram matrix and its polynomial are symmetric.
        let moved = if tall { matmul(&x, &mixed, plain, plain)? } else { matmul(&mixed, &x, plain, plain)? };
        x = combine(a, &x, 1.0, moved)?;
    }
    let rate = step.rms_rate.map_or(1.0, |rate| (rows.max(columns) as f32).sqrt() * rate);
    let decayed = Prepare { scale: step.learning_rate * rate, decay: prepare.decay, ..Prepare::default() };
    update(&Rule::Sgd { learning_rate: 1.0 }, decayed, weight, Gradient::Dense(x.data()?), &mut [])
}

/// `p·x + q·y`
fn combine(p: f32, x: &Tensor, q: f32, y: Tensor) -> Result<Tensor> {
    let mut y: TensorOf<f32> = y.into_typed("the product")?;
    let x = x.data::<f32>()?;
    y.data_mut().iter_mut().zip(x).for_each(|(y, &x)| *y = p * x + q * *y);
    Ok(y.into())
}
