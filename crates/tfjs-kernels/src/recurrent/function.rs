use crate::{simd::Simd, vecmath};

/// A function of gates, whose slope follows from its value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gate {
    /// `x`
    Linear,
    /// `max(x, 0)`
    Relu,
    /// `tanh x`
    Tanh,
    /// `1 / (1 + e^-x)`
    Sigmoid,
    /// `x / 6 + 1/2`, kept between 0 and 1: that of Keras 3.
    HardSigmoid,
    /// `x / 5 + 1/2`, kept between 0 and 1: that of Keras 2 and TF.js.
    HardSigmoidFifth,
}

/// A function as a type, so that loops are compiled for it.
pub(super) trait Function: Copy + Send + Sync {
    /// Must be `#[inline(always)]`.
    fn value<S: Simd>(self, s: S, x: S::F32) -> S::F32;
    /// The slope where the value is `y`. Must be `#[inline(always)]`.
    fn slope<S: Simd>(self, s: S, y: S::F32) -> S::F32;
}

#[derive(Clone, Copy)]
pub(super) struct Tanh;

impl Function for Tanh {
    #[inline(always)]
    fn value<S: Simd>(self, s: S, x: S::F32) -> S::F32 {
        vecmath::tanh(s, x)
    }

    #[inline(always)]
    fn slope<S: Simd>(self, s: S, y: S::F32) -> S::F32 {
        s.fnma(y, y, s.splat(1.0))
    }
}

#[derive(Clone, Copy)]
pub(super) struct Sigmoid;

impl Function for Sigmoid {
    #[inline(always)]
    fn value<S: Simd>(self, s: S, x: S::F32) -> S::F32 {
        vecmath::sigmoid(s, x)
    }

    #[inline(always)]
    fn slope<S: Simd>(self, s: S, y: S::F32) -> S::F32 {
        s.mul(y, s.sub(s.splat(1.0), y))
    }
}

/// Any of them, chosen vector by vector.
impl Function for Gate {
    #[inline(always)]
    fn value<S: Simd>(self, s: S, x: S::F32) -> S::F32 {
        // The order of operands keeps NaN.
        let hard = |y: S::F32| s.min(s.splat(1.0), s.max(s.zero(), y));
        match self {
            Gate::Linear => x,
            Gate::Relu => s.max(s.zero(), x),
            Gate::Tanh => vecmath::tanh(s, x),
            Gate::Sigmoid => vecmath::sigmoid(s, x),
            Gate::HardSigmoid => hard(s.mul(s.add(x, s.splat(3.0)), s.splat(1.0 / 6.0))),
            Gate::HardSigmoidFifth => hard(s.add(s.mul(x, s.splat(0.2)), s.splat(0.5))),
        }
    }

    #[inline(always)]
    fn slope<S: Simd>(self, s: S, y: S::F32) -> S::F32 {
        let one = s.splat(1.0);
        let inside = |slope: f32| {
            let mask = s.mask_and(s.gt(y, s.zero()), s.lt(y, one));
            s.select(mask, s.splat(slope), s.zero())
        };
        match self {
            Gate::Linear => one,
            Gate::Relu => s.select(s.gt(y, s.zero()), one, s.zero()),
            Gate::Tanh => Tanh.slope(s, y),
            Gate::Sigmoid => Sigmoid.slope(s, y),
            Gate::HardSigmoid => inside(1.0 / 6.0),
            Gate::HardSigmoidFifth => inside(0.2),
        }
    }
}
