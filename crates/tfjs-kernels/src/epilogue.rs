//! What follows a product: bias, residual, activation. Applied while the result is still in registers or cache.

use smallvec::SmallVec;

use crate::{
    KernelError, Result, Shape, Tensor, par,
    simd::{self, Isa, Kernel, Simd},
    vecmath::{self, MapRect, Rect, Unary},
};

/// A function applied to every element of a result.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[non_exhaustive]
pub enum Activation {
    /// `x`
    #[default]
    None,
    /// `max(x, 0)`
    Relu,
    /// `min(max(x, 0), 6)`
    Relu6,
    /// `x` if `x >= 0`, else `e^x - 1`
    Elu,
    /// `1.0507… x` if `x >= 0`, else `1.7580… (e^x - 1)`
    Selu,
    /// `x` if `x >= 0`, else `alpha x`
    LeakyRelu(f32),
    /// `1 / (1 + e^-x)`
    Sigmoid,
    /// `min(max(x + 3, 0), 6) / 6`
    HardSigmoid,
    /// `x min(max(x + 3, 0), 6) / 6`
    HardSwish,
    /// `tanh x`
    Tanh,
    /// `x / (1 + e^-x)`
    Swish,
    /// `x Φ(x)` with the normal distribution function, that is `x (1 + erf(x / √2)) / 2`
    Gelu,
    /// `x (1 + tanh(√(2/π) (x + 0.044715 x³))) / 2`
    GeluTanh,
    /// `log(1 + e^x)`
    Softplus,
}

impl Activation {
    /// The range that clamping to is the whole function, if it is that.
    pub(crate) fn range(self) -> Option<(f32, f32)> {
        match self {
            Activation::None => Some((f32::NEG_INFINITY, f32::INFINITY)),
            Activation::Relu => Some((0.0, f32::INFINITY)),
            Activation::Relu6 => Some((0.0, 6.0)),
            _ => None,
        }
    }

    /// Applies the function to every element; reuses the buffer when nobody else holds it.
    ///
    /// # Errors
    /// [`KernelError::DType`] unless the tensor is `float32`.
    pub fn apply(self, x: Tensor) -> Result<Tensor> {
        let mut x = x.into_typed::<f32>("the input of the activation")?;
        if self != Activation::None {
            let isa = Isa::current();
            par::for_each_chunk(x.data_mut(), par::GRAIN, |_, x| {
                simd::dispatch_on(isa, Activate { activation: self, x });
            });
        }
        Ok(Tensor::F32(x))
    }
}

/// The functions, each with a loop and thus a function of its own in the binary, where its constants stay in registers.
macro_rules! functions {
    ($(|$s:ident, $x:ident| $name:ident => $value:expr;)*) => {
        $(
            #[derive(Clone, Copy)]
            struct $name;
            impl Unary for $name {
                #[inline(always)]
                fn eval<S: Simd>(self, $s: S, $x: S::F32) -> S::F32 {
                    $value
                }
            }
        )*

        #[inline(always)]
        fn activate<S: Simd>(s: S, activation: Activation, rect: Rect) {
            match activation {
                Activation::None => {}
                Activation::LeakyRelu(alpha) => s.vectorize(MapRect { op: Leaky(alpha), rect }),
                $(Activation::$name => s.vectorize(MapRect { op: $name, rect }),)*
            }
        }
    };
}

functions! {
    |s, x| Relu => s.max(s.zero(), x);
    |s, x| Relu6 => s.min(s.splat(6.0), s.max(s.zero(), x));
    |s, x| Elu => s.select(s.lt(x, s.zero()), vecmath::expm1(s, x), x);
    |s, x| Selu => {
        let negative = s.mul(s.splat(1.758_099_3), vecmath::expm1(s, x));
        s.select(s.lt(x, s.zero()), negative, s.mul(s.splat(1.050_701), x))
    };
    |s, x| Sigmoid => vecmath::sigmoid(s, x);
    |s, x| HardSigmoid => hard_sigmoid(s, x);
    |s, x| HardSwish => s.mul(x, hard_sigmoid(s, x));
    |s, x| Tanh => vecmath::tanh(s, x);
    |s, x| Swish => vecmath::swish(s, x);
    |s, x| Gelu => vecmath::gelu(s, x);
    |s, x| GeluTanh => vecmath::gelu_tanh(s, x);
    |s, x| Softplus => vecmath::softplus(s, x);
}

#[derive(Clone, Copy)]
struct Leaky(f32);

impl Unary for Leaky {
    #[inline(always)]
    fn eval<S: Simd>(self, s: S, x: S::F32) -> S::F32 {
        s.select(s.lt(x, s.zero()), s.mul(x, s.splat(self.0)), x)
    }
}

/// [`activate`] for one chunk.
struct Activate<'a> {
    activation: Activation,
    x: &'a mut [f32],
}

impl Kernel for Activate<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        activate(s, self.activation, rect_of(self.x));
    }
}

/// One row.
#[inline(always)]
fn rect_of(x: &mut [f32]) -> Rect {
    Rect { at: x.as_mut_ptr(), stride: x.len(), m: 1, n: x.len() }
}

#[inline(always)]
fn hard_sigmoid<S: Simd>(s: S, x: S::F32) -> S::F32 {
    let y = s.min(s.splat(6.0), s.max(s.zero(), s.add(x, s.splat(3.0))));
    s.mul(y, s.splat(1.0 / 6.0))
}

/// What follows a convolution or matrix product, in this order: add `bias`, add `residual`, then PReLU if there is a
/// `prelu`, then `activation`.
///
/// Each tensor is `float32` and broadcasts to the result by NumPy's rules; converted models really hold biases that are
/// whole feature maps.
#[derive(Clone, Debug, Default)]
pub struct Epilogue {
    /// Added first.
    pub bias: Option<Tensor>,
    /// Added next.
    pub residual: Option<Tensor>,
    /// Slopes for negative values.
    pub prelu: Option<Tensor>,
    /// Applied last.
    pub activation: Activation,
}

impl Epilogue {
    /// Only a bias.
    pub fn bias(bias: Tensor) -> Epilogue {
        Epilogue { bias: Some(bias), ..Epilogue::default() }
    }

    /// Only an activation.
    pub fn activation(activation: Activation) -> Epilogue {
        Epilogue { activation, ..Epilogue::default() }
    }

    /// Whether it changes nothing.
    pub fn is_empty(&self) -> bool {
        self.bias.is_none()
            && self.residual.is_none()
            && self.prelu.is_none()
            && self.activation == Activation::None
    }

    /// Applies everything to a finished result.
    ///
    /// # Errors
    /// Those of a convolution with this epilogue.
    pub fn apply(&self, x: Tensor) -> Result<Tensor> {
        if self.is_empty() {
            return Ok(x);
        }
        let mut x = x.into_typed::<f32>("the input of the epilogue")?;
        let shape = x.shape();
        let n = shape.last().copied().unwrap_or(1);
        if !x.is_empty() {
            let operands = self.operands(&shape)?;
            operands.finish(n).apply_all(x.data_mut(), n);
        }
        Ok(Tensor::F32(x))
    }

    /// The same for a result of `D` spatial dimensions whose channels come second: vectors become `[channels, 1, ..]`,
    /// as `BiasAdd` means them.
    pub(crate) fn with_channels_first<const D: usize>(&self) -> Result<Epilogue> {
        let per_channel = |t: &Option<Tensor>| match t {
            Some(t) if t.rank() == 1 => {
                let shape: Shape = [t.len()].into_iter().chain([1; D]).collect();
                t.clone().reshape(shape).map(Some)
            }
            other => Ok(other.clone()),
        };
        Ok(Epilogue {
            bias: per_channel(&self.bias)?,
            residual: self.residual.clone(),
            prelu: per_channel(&self.prelu)?,
            activation: self.activation,
        })
    }

    /// Lays the tensors out for a result of `shape`, whose last dimension is the columns of the product.
    pub(crate) fn operands(&self, shape: &Shape) -> Result<Operands> {
        let operand = |t: &Option<Tensor>, what| t.as_ref().map(|t| Operand::new(t, shape, what)).transpose();
        Ok(Operands {
            bias: operand(&self.bias, "the bias")?,
            residual: operand(&self.residual, "the residual")?,
            prelu: operand(&self.prelu, "the slopes of PReLU")?,
            activation: self.activation,
        })
    }
}

/// The tensors of an [`Epilogue`] as rows of the result.
pub(crate) struct Operands {
    bias: Option<Operand>,
    residual: Option<Operand>,
    prelu: Option<Operand>,
    activation: Activation,
}

/// A broadcast tensor, materialised as far as is needed to be whole rows that repeat.
struct Operand {
    data: Tensor,
    period: usize,
}

impl Operand {
    fn new(t: &Tensor, shape: &Shape, what: &'static str) -> Result<Operand> {
        let typed = t.typed::<f32>(what)?;
        let n = shape.last().copied().unwrap_or(1);
        let dims = typed.dims();
        let fail = || KernelError::Shapes {
            left: typed.shape(),
            right: shape.clone(),
            why: "do not go together: the first is to be broadcast to the second",
        };
        if dims.len() > shape.len() && dims[..dims.len() - shape.len()].iter().any(|&d| d != 1) {
            return Err(fail());
        }
        let own: SmallVec<[usize; 6]> = {
            let skip = dims.len().saturating_sub(shape.len());
            let dims = &dims[skip..];
            std::iter::repeat_n(1, shape.len() - dims.len()).chain(dims.iter().copied()).collect()
        };
        if own.iter().zip(shape.iter()).any(|(&d, &s)| d != s && d != 1) {
            return Err(fail());
        }
        // The leading dimensions of size one repeat whole blocks of rows; from the first real one on all is needed.
        let lead = own.iter().take_while(|&&d| d == 1).count().min(shape.len().saturating_sub(1));
        let period: usize = shape[lead..].iter().rev().skip(1).product();
        if own[lead..] == shape[lead..] {
            return Ok(Operand { data: t.clone(), period });
        }
        let whole: Shape = shape[lead..].into();
        let len = whole.checked_len()?;
        let mut out = Vec::with_capacity(len);
        let strides = Shape::from(&own[lead..]).strides();
        let src = typed.data();
        for i in 0..len / n.max(1) {
            let (mut rest, mut at) = (i, 0);
            for d in (0..whole.len().saturating_sub(1)).rev() {
                if own[lead + d] != 1 {
                    at += (rest % whole[d]) * strides[d];
                }
                rest /= whole[d];
            }
            if own.last() == shape.last() {
                out.extend_from_slice(&src[at..][..n]);
            } else {
                out.extend(std::iter::repeat_n(src[at], n));
            }
        }
        Ok(Operand { data: Tensor::new([len], out)?, period })
    }

    fn rows(&self, n: usize) -> Option<Rows<'_>> {
        let data = self.data.data::<f32>().ok()?;
        Some(Rows { data, period: self.period, start: 0, stride: n })
    }
}

impl Operands {
    /// For a result with `n` columns.
    pub(crate) fn finish(&self, n: usize) -> Finish<'_> {
        let bias = self.bias.as_ref().and_then(|b| b.rows(n));
        let residual = self.residual.as_ref().and_then(|r| r.rows(n));
        // A bias that differs from row to row takes the place of the residual when that is free.
        let (bias, first, residual) = match (bias, residual) {
            (Some(b), r) if b.period == 1 => (Some(b.data), None, r),
            (Some(b), None) => (None, None, Some(b)),
            (b, r) => (None, b, r),
        };
        Finish {
            bias,
            first,
            residual,
            prelu: self.prelu.as_ref().and_then(|p| p.rows(n)),
            activation: self.activation,
        }
    }
}

/// Rows of numbers that repeat: element `(r, c)` is `data[start + (r % period) * stride + c]`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rows<'a> {
    pub(crate) data: &'a [f32],
    pub(crate) period: usize,
    pub(crate) start: usize,
    pub(crate) stride: usize,
}

impl<'a> Rows<'a> {
    /// Row `row` from column `col` on.
    #[inline(always)]
    fn row(&self, row: usize, col: usize) -> &'a [f32] {
        &self.data[self.start + (row % self.period) * self.stride + col..]
    }

    /// The elements of a tile and the distance of its rows, unless the rows start over within it.
    #[inline(always)]
    pub(crate) fn tile(&self, row: usize, m: usize, col: usize, n: usize) -> Option<(&'a [f32], usize)> {
        let first = row % self.period;
        if first + m > self.period {
            return None;
        }
        let at = self.start + first * self.stride + col;
        Some((&self.data[at..at + (m - 1) * self.stride + n], self.stride))
    }
}

/// An [`Epilogue`] ready to be applied to rows of a result.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Finish<'a> {
    /// The same for all rows.
    pub(crate) bias: Option<&'a [f32]>,
    /// A bias that differs from row to row.
    pub(crate) first: Option<Rows<'a>>,
    pub(crate) residual: Option<Rows<'a>>,
    pub(crate) prelu: Option<Rows<'a>>,
    pub(crate) activation: Activation,
}

impl<'a> Finish<'a> {
    /// Whether nothing but clamping is left.
    pub(crate) fn is_clamp(&self) -> bool {
        self.bias.is_none()
            && self.first.is_none()
            && self.residual.is_none()
            && self.prelu.is_none()
            && self.activation.range().is_some()
    }

    /// The part for columns `start..start + n`.
    pub(crate) fn columns(&self, start: usize, n: usize) -> Finish<'a> {
        let shift = |r: Option<Rows<'a>>| r.map(|r| Rows { start: r.start + start, ..r });
        Finish {
            bias: self.bias.map(|b| &b[start..start + n]),
            first: shift(self.first),
            residual: shift(self.residual),
            prelu: shift(self.prelu),
            activation: self.activation,
        }
    }

    /// # Panics
    /// When an operand does not cover `m` rows of `n` columns.
    pub(crate) fn check(&self, m: usize, n: usize) {
        assert!(self.bias.is_none_or(|b| b.len() >= n));
        for rows in [self.first, self.residual, self.prelu].into_iter().flatten() {
            assert!(rows.period > 0);
            assert!(rows.data.len() >= rows.start + (rows.period.min(m) - 1) * rows.stride + n);
        }
    }

    /// Applies everything to columns `col..` of row `row` of the result, which are in `x`.
    #[inline(always)]
    pub(crate) fn apply<S: Simd>(&self, s: S, row: usize, col: usize, x: &mut [f32]) {
        // SAFETY: the row is `x`.
        unsafe { self.apply_rect(s, row, col, rect_of(x)) };
    }

    /// Applies everything to a rectangle whose first element is column `col` of row `row` of the result.
    ///
    /// # Safety
    /// The contract of [`Rect`].
    #[inline(always)]
    pub(crate) unsafe fn apply_rect<S: Simd>(&self, s: S, row: usize, col: usize, rect: Rect) {
        let Finish { bias, first, residual, prelu, activation } = *self;
        if bias.is_some() || first.is_some() || residual.is_some() || prelu.is_some() {
            for i in 0..rect.m {
                // SAFETY: the caller's promise.
                let x =
                    unsafe { std::slice::from_raw_parts_mut(rect.at.wrapping_add(i * rect.stride), rect.n) };
                self.combine(s, row + i, col, x);
            }
        }
        activate(s, activation, rect);
    }

    /// All but the activation, for one row.
    #[inline(always)]
    fn combine<S: Simd>(&self, s: S, row: usize, col: usize, x: &mut [f32]) {
        let n = x.len();
        let bias = self.bias.map(|b| &b[col..][..n]);
        let first = self.first.map(|r| &r.row(row, col)[..n]);
        let residual = self.residual.map(|r| &r.row(row, col)[..n]);
        let prelu = self.prelu.map(|r| &r.row(row, col)[..n]);
        for at in (0..n).step_by(S::LANES) {
            let x = &mut x[at..n.min(at + S::LANES)];
            let mut y = s.load_part(x);
            for add in [bias, first, residual].into_iter().flatten() {
                y = s.add(y, s.load_part(&add[at..]));
            }
            if let Some(slopes) = prelu {
                y = s.select(s.lt(y, s.zero()), s.mul(y, s.load_part(&slopes[at..])), y);
            }
            s.store_part(x, y);
        }
    }

    /// Applies everything to a result with rows of `n` columns.
    pub(crate) fn apply_all(&self, x: &mut [f32], n: usize) {
        if n == 0 || x.is_empty() {
            return;
        }
        self.check(x.len() / n, n);
        let isa = Isa::current();
        let rows = (par::GRAIN / n).max(1);
        par::for_each_chunk(x, rows * n, |start, x| {
            simd::dispatch_on(isa, ApplyRows { finish: self, first: start / n, n, x });
        });
    }
}

struct ApplyRows<'a> {
    finish: &'a Finish<'a>,
    first: usize,
    n: usize,
    x: &'a mut [f32],
}

impl Kernel for ApplyRows<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        for (i, row) in self.x.chunks_mut(self.n).enumerate() {
            self.finish.apply(s, self.first + i, 0, row);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Activation, Epilogue};
    use crate::{Tensor, simd::Isa, testing::assert_close};

    #[test]
    fn a_bias_per_channel_is_not_spread_over_the_image() {
        for batch in [1, 2] {
            let bias = Epilogue::bias(Tensor::vector(vec![1.0f32, 2.0]));
            let operands = bias.operands(&[batch, 3, 3, 2].into()).unwrap();
            let finish = operands.finish(2);
            assert_eq!(finish.bias, Some(&[1.0, 2.0][..]));
            assert!(finish.first.is_none() && finish.residual.is_none());
        }
    }

    #[test]
    fn activations_match_tensorflow() {
        let x = [-3.0f32, -0.5, 0.0, 0.75, 2.0, 8.0];
        // tf.nn.* of TensorFlow 2.19.
        let cases: &[(Activation, [f64; 6])] = &[
            (Activation::None, [-3.0, -0.5, 0.0, 0.75, 2.0, 8.0]),
            (Activation::Relu, [0.0, 0.0, 0.0, 0.75, 2.0, 8.0]),
            (Activation::Relu6, [0.0, 0.0, 0.0, 0.75, 2.0, 6.0]),
            (Activation::Elu, [-0.9502129554748535, -0.39346933364868164, 0.0, 0.75, 2.0, 8.0]),
            (
                Activation::Selu,
                [
                    -1.6705687046051025,
                    -0.6917581558227539,
                    0.0,
                    0.7880257368087769,
                    2.1014020442962646,
                    8.405608177185059,
                ],
            ),
            (Activation::LeakyRelu(0.2), [-0.6000000238418579, -0.10000000149011612, 0.0, 0.75, 2.0, 8.0]),
            (
                Activation::Sigmoid,
                [
                    0.04742587357759476,
                    0.3775406777858734,
                    0.5,
                    0.6791787147521973,
                    0.8807970881462097,
                    0.9996646642684937,
                ],
            ),
            (
                Activation::Tanh,
                [-0.9950547218322754, -0.46211716532707214, 0.0, 0.6351490020751953, 0.9640275835990906, 1.0],
            ),
            (
                Activation::Swish,
                [
                    -0.14227762818336487,
                    -0.1887703388929367,
                    0.0,
                    0.509384036064148,
                    1.7615941762924194,
                    7.997317314147949,
                ],
            ),
            (
                Activation::Gelu,
                [
                    -0.0040496960282325745,
                    -0.1542687714099884,
                    0.0,
                    0.5800294876098633,
                    1.9544997215270996,
                    8.0,
                ],
            ),
            (
                Activation::GeluTanh,
                [
                    -0.0036375224590301514,
                    -0.1542859971523285,
                    0.0,
                    0.5799605846405029,
                    1.9545977115631104,
                    8.0,
                ],
            ),
            (
                Activation::Softplus,
                [
                    0.04858735203742981,
                    0.4740769863128662,
                    0.6931471824645996,
                    1.136871099472046,
                    2.1269280910491943,
                    8.000335693359375,
                ],
            ),
            (Activation::HardSwish, [0.0, -0.2083333283662796, 0.0, 0.46875, 1.6666666269302368, 8.0]),
            (Activation::HardSigmoid, [0.0, 0.4166666567325592, 0.5, 0.625, 0.8333333134651184, 1.0]),
        ];
        for isa in Isa::available() {
            for (activation, want) in cases {
                let got = isa.scope(|| activation.apply(Tensor::vector(x.to_vec())).unwrap()).unwrap();
                assert_close(got.data().unwrap(), want, 5e-7, &format!("{isa} {activation:?}"));
                let bad = isa.scope(|| activation.apply(Tensor::vector(vec![f32::NAN])).unwrap()).unwrap();
                assert!(bad.data::<f32>().unwrap()[0].is_nan(), "{isa} {activation:?} keeps NaN");
            }
        }
    }
}
