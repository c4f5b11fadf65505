//! Loops that the element-wise families share: everything here knows chunks, threads and vector units, nothing
//! knows ops.
use crate::{
    Element, Result, TensorOf, par, pool,
    simd::{self, Isa, Kernel, Simd},
};

/// Overwrites `x` with `f` of slices of it; copies first when the data is shared.
pub(crate) fn overwrite<T: Element + Copy>(
    mut x: TensorOf<T>,
    f: impl Fn(&mut [T]) + Sync + Send,
) -> TensorOf<T> {
    par::for_each_chunk(x.data_mut(), par::GRAIN, |_, chunk| f(chunk));
    x
}

/// `f` of every element, overwriting `x` where possible.
pub(crate) fn map_same<T: Element + Copy>(x: TensorOf<T>, f: impl Fn(T) -> T + Sync + Send) -> TensorOf<T> {
    let isa = Isa::current();
    overwrite(x, |data| simd::dispatch_on(isa, Each { data, f: &f }))
}

/// `f` of every element, as another type.
pub(crate) fn map<T: Element + Copy, O: Element + Copy>(
    x: &TensorOf<T>,
    f: impl Fn(T) -> O + Sync + Send,
) -> Result<TensorOf<O>> {
    let isa = Isa::current();
    let data = x.data();
    let mut out = pool::elements(data.len());
    par::for_each_chunk(&mut out, par::GRAIN, |start, out| {
        simd::dispatch_on(isa, EachTo { data: &data[start..][..out.len()], out, f: &f });
    });
    TensorOf::from_buffer(x.shape(), out)
}

/// One chunk of [`map_same`].
struct Each<'a, T, F> {
    data: &'a mut [T],
    f: &'a F,
}

impl<T: Copy, F: Fn(T) -> T> Kernel for Each<'_, T, F> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        for v in self.data {
            *v = (self.f)(*v);
        }
    }
}

/// One chunk of [`map`].
struct EachTo<'a, T, O, F> {
    data: &'a [T],
    out: &'a mut [O],
    f: &'a F,
}

impl<T: Copy, O, F: Fn(T) -> O> Kernel for EachTo<'_, T, O, F> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        for (o, &v) in self.out.iter_mut().zip(self.data) {
            *o = (self.f)(v);
        }
    }
}
