use super::{Job, SLOTS, Second, Update};
use crate::{
    Result,
    simd::{MAX_LANES, Simd},
};

/// One optimizer's arithmetic, with this step's numbers. `w` is the weight, `g` its gradient; slots stand in the order in
/// which they are named.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum Rule {
    /// `w -= learning_rate·g`
    Sgd {
        /// Step size.
        learning_rate: f32,
    },
    /// `m = momentum·m − learning_rate·g; w += m`, or with Nesterov `w += momentum·m − learning_rate·g`. Slot `m`.
    Momentum {
        /// Step size.
        learning_rate: f32,
        /// Share of `m` that stays.
        momentum: f32,
        /// Looks one step ahead.
        nesterov: bool,
    },
    /// `a = momentum·a + g; w -= learning_rate·a`, or with Nesterov `w -= learning_rate·(g + momentum·a)`: as TF.js keeps
    /// it. Slot `a`.
    Velocity {
        /// Step size.
        learning_rate: f32,
        /// Share of `a` that stays.
        momentum: f32,
        /// Looks one step ahead.
        nesterov: bool,
    },
    /// `a += g²; w -= learning_rate·g / √(a + epsilon)`. Slot `a`.
    Adagrad {
        /// Step size.
        learning_rate: f32,
        /// Keeps the divisor from zero.
        epsilon: f32,
        /// Divides by `√a + epsilon` instead.
        outside: bool,
    },
    /// `a = rho·a + (1−rho)·g²; d = √(u + epsilon)·g / √(a + epsilon); u = rho·u + (1−rho)·d²; w -= learning_rate·d`.
    /// Slots `a`, `u`.
    Adadelta {
        /// Step size.
        learning_rate: f32,
        /// Share that stays.
        rho: f32,
        /// What comes in.
        one_minus_rho: f32,
        /// Keeps the divisor from zero.
        epsilon: f32,
        /// Divides by the `a` of the step before, as TF.js does.
        stale: bool,
    },
    /// `m += (g−m)·one_minus_beta_1; v += (g²−v)·one_minus_beta_2; w -= alpha·m / (√v + epsilon)`, with `amsgrad` the
    /// largest `v` so far. Slots `m`, `v` and with `amsgrad` `vhat`.
    Adam {
        /// Step size with the correction of both moments.
        alpha: f32,
        /// Speed of `m`.
        one_minus_beta_1: f32,
        /// Speed of `v`.
        one_minus_beta_2: f32,
        /// Keeps the divisor from zero.
        epsilon: f32,
        /// Divides by the largest `v` so far.
        amsgrad: bool,
    },
    /// `m += (g−m)·one_minus_beta_1; u = max(beta_2·u, |g|); w -= alpha·m / (u + epsilon)`. Slots `m`, `u`.
    Adamax {
        /// Step size with the correction of the first moment.
        alpha: f32,
        /// Speed of `m`.
        one_minus_beta_1: f32,
        /// Share of `u` that stays.
        beta_2: f32,
        /// Keeps the divisor from zero.
        epsilon: f32,
    },
    /// Adam with `m` one step ahead: `w -= learning_rate·(momentum·m + gradient·g) / (√(v·correction) + epsilon)`.
    /// Slots `m`, `v`.
    Nadam {
        /// Step size.
        learning_rate: f32,
        /// Weight of `m`.
        momentum: f32,
        /// Weight of `g`.
        gradient: f32,
        /// Correction of `v`.
        correction: f32,
        /// Speed of `m`.
        one_minus_beta_1: f32,
        /// Speed of `v`.
        one_minus_beta_2: f32,
        /// Keeps the divisor from zero.
        epsilon: f32,
        /// Rows without gradient keep their weights while their slots go on.
        lazy_weights: bool,
    },
    /// `v = rho·v + (1−rho)·g²; p = momentum·p + learning_rate·g / √(v + epsilon); w -= p`; `centered` subtracts the square
    /// of `a = rho·a + (1−rho)·g` from `v`. Slots `v`, with momentum `p`, centered `a`.
    RmsProp {
        /// Step size.
        learning_rate: f32,
        /// Share that stays.
        rho: f32,
        /// What comes in.
        one_minus_rho: f32,
        /// Share of `p` that stays; `None` for no slot.
        momentum: Option<f32>,
        /// Keeps the divisor from zero.
        epsilon: f32,
        /// Divides by the deviation instead of the root mean square.
        centered: bool,
        /// Adds `epsilon` to the root and not under it; rows without gradient keep their weights.
        outside: bool,
    },
    /// Follow the regularized leader (McMahan et al. 2013). Slots `accumulator`, `linear`.
    Ftrl {
        /// Step size.
        learning_rate: f32,
        /// Minus the power of the learning rate: ½ is a root.
        power: f32,
        /// L1.
        l1: f32,
        /// L2, with beta's share.
        l2: f32,
        /// Twice the shrinkage.
        shrinkage: f32,
    },
    /// `w -= learning_rate·sign(beta_1·m + (1−beta_1)·g); m = beta_2·m + (1−beta_2)·g`. Slot `m`.
    Lion {
        /// Step size.
        learning_rate: f32,
        /// Share of `m` in the step.
        beta_1: f32,
        /// Share of `m` that stays.
        beta_2: f32,
    },
    /// Schedule-free AdamW (Defazio et al. 2024). Slots `z`, `v`.
    ScheduleFree {
        /// Step size.
        learning_rate: f32,
        /// Share of the average in the weight.
        beta_1: f32,
        /// Speed of `v`.
        one_minus_beta_2: f32,
        /// Correction of `v`.
        correction: f32,
        /// Keeps the divisor from zero.
        epsilon: f32,
        /// Share of this step in the average.
        weight: f32,
    },
    /// `w = keep·w + (1−keep)·g`: a moving average of what is given as the gradient.
    Average {
        /// Share that stays.
        keep: f32,
    },
    /// `w += g`
    Add,
}

impl Rule {
    /// How many slots the rule keeps for a weight.
    pub fn slots(&self) -> usize {
        match self {
            Rule::Sgd { .. } | Rule::Average { .. } | Rule::Add => 0,
            Rule::Momentum { .. } | Rule::Velocity { .. } | Rule::Adagrad { .. } | Rule::Lion { .. } => 1,
            Rule::Adam { amsgrad, .. } => 2 + usize::from(*amsgrad),
            Rule::RmsProp { momentum, centered, .. } => {
                1 + usize::from(momentum.is_some()) + usize::from(*centered)
            }
            _ => 2,
        }
    }

    /// Whether a gradient of zero changes nothing, so that rows without one need no visit.
    pub fn rests(&self) -> bool {
        matches!(self, Rule::Sgd { .. } | Rule::Adagrad { .. } | Rule::Add)
    }

    /// What the rule takes besides the gradient.
    pub fn second(&self) -> Second {
        if matches!(self, Rule::Adamax { .. }) { Second::Magnitudes } else { Second::Squares }
    }

    pub(super) fn run(&self, job: Job<'_, '_>) -> Result<()> {
        match *self {
            Rule::Sgd { learning_rate } => job.run(Sgd(learning_rate)),
            Rule::Momentum { learning_rate: lr, momentum: mu, nesterov } => match nesterov {
                true => job.run(Momentum::<true> { lr, mu }),
                false => job.run(Momentum::<false> { lr, mu }),
            },
            Rule::Velocity { learning_rate: lr, momentum: mu, nesterov } => match nesterov {
                true => job.run(Velocity::<true> { lr, mu }),
                false => job.run(Velocity::<false> { lr, mu }),
            },
            Rule::Adagrad { learning_rate: lr, epsilon, outside } => match outside {
                true => job.run(Adagrad::<true> { lr, epsilon }),
                false => job.run(Adagrad::<false> { lr, epsilon }),
            },
            Rule::Adadelta { learning_rate: lr, rho, one_minus_rho, epsilon, stale } => {
                job.run(Adadelta { lr, rho, one_minus_rho, epsilon, stale })
            }
            Rule::Adam { alpha, one_minus_beta_1: b1, one_minus_beta_2: b2, epsilon, amsgrad } => {
                match amsgrad {
                    true => job.run(Adam::<true> { alpha, b1, b2, epsilon }),
                    false => job.run(Adam::<false> { alpha, b1, b2, epsilon }),
                }
            }
            Rule::Adamax { alpha, one_minus_beta_1: b1, beta_2, epsilon } => {
                job.run(Adamax { alpha, b1, beta_2, epsilon })
            }
            Rule::Nadam { .. } => match Nadam::new(self) {
                (rule, true) => job.run(Lazy(rule)),
                (rule, false) => job.run(rule),
            },
            Rule::RmsProp { learning_rate, rho, one_minus_rho, momentum, epsilon, centered, outside } => {
                let own = Rms { lr: learning_rate, rho, one_minus_rho, mu: momentum.unwrap_or(0.0), epsilon };
                match (momentum.is_some(), centered, outside) {
                    (false, false, false) => job.run(RmsProp::<false, false, false>(own)),
                    (false, true, false) => job.run(RmsProp::<false, true, false>(own)),
                    (true, false, false) => job.run(RmsProp::<true, false, false>(own)),
                    (true, true, false) => job.run(RmsProp::<true, true, false>(own)),
                    (false, false, true) => job.run(Lazy(RmsProp::<false, false, true>(own))),
                    (false, true, true) => job.run(Lazy(RmsProp::<false, true, true>(own))),
                    (true, false, true) => job.run(Lazy(RmsProp::<true, false, true>(own))),
                    (true, true, true) => job.run(Lazy(RmsProp::<true, true, true>(own))),
                }
            }
            Rule::Ftrl { learning_rate, power, l1, l2, shrinkage } => {
                let own = Ftrl { lr: learning_rate, power, l1, l2, shrinkage };
                if power == 0.5 { job.run(FtrlRoot(own)) } else { job.run(own) }
            }
            Rule::Lion { learning_rate: lr, beta_1, beta_2 } => job.run(Lion { lr, beta_1, beta_2 }),
            Rule::ScheduleFree { learning_rate, beta_1, one_minus_beta_2, correction, epsilon, weight } => {
                job.run(ScheduleFree {
                    lr: learning_rate,
                    beta_1,
                    b2: one_minus_beta_2,
                    correction,
                    epsilon,
                    weight,
                })
            }
            Rule::Average { keep } => job.run(Average(keep)),
            Rule::Add => job.run(Add),
        }
    }
}

macro_rules! rules {
    ($([$($g:tt)*] $t:ty, $slots:expr, $me:ident |$s:ident, $w:ident, $gr:ident, $q:ident, $slot:ident| $body:block)*) => { $(
        impl<$($g)*> Update for $t {
            const SLOTS: usize = $slots;
            #[inline(always)]
            #[allow(unused_variables, reason = "not every rule needs all of them")]
            fn step<S: Simd>(self, $s: S, $w: S::F32, $gr: S::F32, $q: S::F32, $slot: &mut [S::F32; SLOTS]) -> S::F32 {
                let $me = self;
                $body
            }
        }
    )* };
}

#[derive(Clone, Copy)]
struct Sgd(f32);
#[derive(Clone, Copy)]
struct Momentum<const NESTEROV: bool> {
    lr: f32,
    mu: f32,
}
#[derive(Clone, Copy)]
struct Velocity<const NESTEROV: bool> {
    lr: f32,
    mu: f32,
}
#[derive(Clone, Copy)]
struct Adagrad<const OUTSIDE: bool> {
    lr: f32,
    epsilon: f32,
}
#[derive(Clone, Copy)]
struct Adadelta {
    lr: f32,
    rho: f32,
    one_minus_rho: f32,
    epsilon: f32,
    stale: bool,
}
#[derive(Clone, Copy)]
struct Adam<const AMSGRAD: bool> {
    alpha: f32,
    b1: f32,
    b2: f32,
    epsilon: f32,
}
#[derive(Clone, Copy)]
struct Rms {
    lr: f32,
    rho: f32,
    one_minus_rho: f32,
    mu: f32,
    epsilon: f32,
}
#[derive(Clone, Copy)]
struct RmsProp<const MOMENTUM: bool, const CENTERED: bool, const OUTSIDE: bool>(Rms);
#[derive(Clone, Copy)]
struct Lion {
    lr: f32,
    beta_1: f32,
    beta_2: f32,
}
#[derive(Clone, Copy)]
struct ScheduleFree {
    lr: f32,
    beta_1: f32,
    b2: f32,
    correction: f32,
    epsilon: f32,
    weight: f32,
}
#[derive(Clone, Copy)]
struct Average(f32);
#[derive(Clone, Copy)]
struct Add;

rules! {
    [] Sgd, 0, me |s, w, g, q, slot| { s.fnma(s.splat(me.0), g, w) }
    [const NESTEROV: bool] Momentum<NESTEROV>, 1, me |s, w, g, q, slot| {
        let (mu, step) = (s.splat(me.mu), s.mul(g, s.splat(me.lr)));
        slot[0] = s.sub(s.mul(slot[0], mu), step);
        if NESTEROV { s.add(w, s.sub(s.mul(slot[0], mu), step)) } else { s.add(w, slot[0]) }
    }
    [const NESTEROV: bool] Velocity<NESTEROV>, 1, me |s, w, g, q, slot| {
        let mu = s.splat(me.mu);
        slot[0] = s.fma(slot[0], mu, g);
        let ahead = if NESTEROV { s.fma(slot[0], mu, g) } else { slot[0] };
        s.fnma(s.splat(me.lr), ahead, w)
    }
    [const OUTSIDE: bool] Adagrad<OUTSIDE>, 1, me |s, w, g, q, slot| {
        let epsilon = s.splat(me.epsilon);
        slot[0] = s.add(slot[0], q);
        let divisor = match OUTSIDE {
            true => s.add(s.sqrt(slot[0]), epsilon),
            false => s.sqrt(s.add(slot[0], epsilon)),
        };
        s.sub(w, s.div(s.mul(s.splat(me.lr), g), divisor))
    }
    [] Adadelta, 2, me |s, w, g, q, slot| {
        let (rho, share, epsilon) = (s.splat(me.rho), s.splat(me.one_minus_rho), s.splat(me.epsilon));
        let old = slot[0];
        slot[0] = s.fma(rho, old, s.mul(share, q));
        let divisor = s.sqrt(s.add(if me.stale { old } else { slot[0] }, epsilon));
        let ratio = s.div(s.sqrt(s.add(slot[1], epsilon)), divisor);
        // The squares of steps that fall on one row are added up where those of gradients are.
        slot[1] = s.fma(rho, slot[1], s.mul(share, s.mul(s.mul(ratio, ratio), q)));
        s.fnma(s.splat(me.lr), s.mul(ratio, g), w)
    }
    [const AMSGRAD: bool] Adam<AMSGRAD>, 2 + AMSGRAD as usize, me |s, w, g, q, slot| {
        slot[0] = s.fma(s.sub(g, slot[0]), s.splat(me.b1), slot[0]);
        slot[1] = s.fma(s.sub(q, slot[1]), s.splat(me.b2), slot[1]);
        let mut v = slot[1];
        if AMSGRAD {
            slot[2] = s.max_nan(slot[2], v);
            v = slot[2];
        }
        s.sub(w, s.div(s.mul(slot[0], s.splat(me.alpha)), s.add(s.sqrt(v), s.splat(me.epsilon))))
    }
    [const MOMENTUM: bool, const CENTERED: bool, const OUTSIDE: bool] RmsProp<MOMENTUM, CENTERED, OUTSIDE>,
    1 + MOMENTUM as usize + CENTERED as usize, me |s, w, g, q, slot| {
        let Rms { lr, rho, one_minus_rho, mu, epsilon } = me.0;
        let (rho, share, epsilon) = (s.splat(rho), s.splat(one_minus_rho), s.splat(epsilon));
        slot[0] = s.fma(rho, slot[0], s.mul(share, q));
        let mut divisor = slot[0];
        if CENTERED {
            let k = 1 + MOMENTUM as usize;
            slot[k] = s.fma(rho, slot[k], s.mul(share, g));
            divisor = s.sub(divisor, s.mul(slot[k], slot[k]));
        }
        divisor = if OUTSIDE { s.add(s.sqrt(divisor), epsilon) } else { s.sqrt(s.add(divisor, epsilon)) };
        let step = s.div(s.mul(s.splat(lr), g), divisor);
        if MOMENTUM {
            slot[1] = s.fma(s.splat(mu), slot[1], step);
            s.sub(w, slot[1])
        } else {
            s.sub(w, step)
        }
    }
    [] Lion, 1, me |s, w, g, q, slot| {
        let mix = |beta: f32, m| s.add(s.mul(m, s.splat(beta)), s.mul(g, s.splat(1.0 - beta)));
        let x = mix(me.beta_1, slot[0]);
        slot[0] = mix(me.beta_2, slot[0]);
        let (zero, one) = (s.zero(), s.splat(1.0));
        let sign = s.select(s.gt(x, zero), one, s.select(s.lt(x, zero), s.splat(-1.0), x));
        s.fnma(s.splat(me.lr), sign, w)
    }
    [] ScheduleFree, 2, me |s, w, g, q, slot| {
        slot[1] = s.fma(s.sub(q, slot[1]), s.splat(me.b2), slot[1]);
        let divisor = s.add(s.sqrt(s.div(slot[1], s.splat(me.correction))), s.splat(me.epsilon));
        slot[0] = s.sub(slot[0], s.div(s.mul(s.splat(me.lr), g), divisor));
        let (beta, rest) = (s.splat(me.beta_1), s.splat(1.0 - me.beta_1));
        // Keras means the `z` of the step before, but reads this one's.
        let x = s.div(s.sub(w, s.mul(rest, slot[0])), beta);
        let x = s.add(s.mul(s.splat(1.0 - me.weight), x), s.mul(s.splat(me.weight), slot[0]));
        s.add(s.mul(rest, slot[0]), s.mul(beta, x))
    }
    [] Average, 0, me |s, w, g, q, slot| {
        s.add(s.mul(s.splat(me.0), w), s.mul(s.splat(1.0 - me.0), g))
    }
    [] Add, 0, me |s, w, g, q, slot| { s.add(w, g) }
}

#[derive(Clone, Copy)]
struct Adamax {
    alpha: f32,
    b1: f32,
    beta_2: f32,
    epsilon: f32,
}

impl Update for Adamax {
    const SLOTS: usize = 2;
    const SECOND: Second = Second::Magnitudes;
    #[inline(always)]
    fn step<S: Simd>(self, s: S, w: S::F32, g: S::F32, q: S::F32, slots: &mut [S::F32; SLOTS]) -> S::F32 {
        slots[0] = s.fma(s.sub(g, slots[0]), s.splat(self.b1), slots[0]);
        slots[1] = s.max_nan(s.mul(s.splat(self.beta_2), slots[1]), q);
        s.sub(w, s.div(s.mul(s.splat(self.alpha), slots[0]), s.add(slots[1], s.splat(self.epsilon))))
    }
}

#[derive(Clone, Copy)]
struct Nadam {
    lr: f32,
    momentum: f32,
    gradient: f32,
    correction: f32,
    b1: f32,
    b2: f32,
    epsilon: f32,
}

impl Nadam {
    fn new(rule: &Rule) -> (Nadam, bool) {
        match *rule {
            Rule::Nadam {
                learning_rate: lr,
                momentum,
                gradient,
                correction,
                one_minus_beta_1: b1,
                one_minus_beta_2: b2,
                epsilon,
                lazy_weights,
            } => (Nadam { lr, momentum, gradient, correction, b1, b2, epsilon }, lazy_weights),
            _ => unreachable!("called for this rule alone"),
        }
    }
}

impl Update for Nadam {
    const SLOTS: usize = 2;
    #[inline(always)]
    fn step<S: Simd>(self, s: S, w: S::F32, g: S::F32, q: S::F32, slots: &mut [S::F32; SLOTS]) -> S::F32 {
        slots[0] = s.fma(s.sub(g, slots[0]), s.splat(self.b1), slots[0]);
        slots[1] = s.fma(s.sub(q, slots[1]), s.splat(self.b2), slots[1]);
        let m = s.fma(s.splat(self.momentum), slots[0], s.mul(s.splat(self.gradient), g));
        let divisor = s.add(s.sqrt(s.div(slots[1], s.splat(self.correction))), s.splat(self.epsilon));
        s.sub(w, s.div(s.mul(m, s.splat(self.lr)), divisor))
    }
}

/// A rule whose weights stay where there is no gradient, while its slots go on.
#[derive(Clone, Copy)]
struct Lazy<U>(U);

impl<U: Update> Update for Lazy<U> {
    const SLOTS: usize = U::SLOTS;
    const SECOND: Second = U::SECOND;
    #[inline(always)]
    fn step<S: Simd>(self, s: S, w: S::F32, g: S::F32, q: S::F32, slots: &mut [S::F32; SLOTS]) -> S::F32 {
        self.0.step(s, w, g, q, slots)
    }
    #[inline(always)]
    fn idle<S: Simd>(self, s: S, w: S::F32, slots: &mut [S::F32; SLOTS]) -> S::F32 {
        self.0.idle(s, w, slots);
        w
    }
}

#[derive(Clone, Copy)]
struct Ftrl {
    lr: f32,
    power: f32,
    l1: f32,
    l2: f32,
    shrinkage: f32,
}

impl Ftrl {
    #[inline(always)]
    fn step<S: Simd>(
        self,
        s: S,
        (w, g, q): (S::F32, S::F32, S::F32),
        slots: &mut [S::F32; SLOTS],
        power: impl Fn(S::F32) -> S::F32,
    ) -> S::F32 {
        let lr = s.splat(self.lr);
        let accumulated = s.add(slots[0], q);
        let (new, old) = (power(accumulated), power(slots[0]));
        let shrunk = s.fma(s.splat(self.shrinkage), w, g);
        slots[1] = s.add(slots[1], s.sub(shrunk, s.mul(s.div(s.sub(new, old), lr), w)));
        slots[0] = accumulated;
        let quadratic = s.add(s.div(new, lr), s.splat(2.0 * self.l2));
        let clipped = s.max(s.splat(-self.l1), s.min(s.splat(self.l1), slots[1]));
        s.div(s.sub(clipped, slots[1]), quadratic)
    }
}

impl Update for Ftrl {
    const SLOTS: usize = 2;
    #[inline(always)]
    fn step<S: Simd>(self, s: S, w: S::F32, g: S::F32, q: S::F32, slots: &mut [S::F32; SLOTS]) -> S::F32 {
        let power = |x| {
            let mut lanes: [f32; MAX_LANES] = s.to_array(x);
            lanes[..S::LANES].iter_mut().for_each(|x| *x = x.powf(self.power));
            s.load(&lanes)
        };
        Ftrl::step(self, s, (w, g, q), slots, power)
    }
}

/// The usual power.
#[derive(Clone, Copy)]
struct FtrlRoot(Ftrl);

impl Update for FtrlRoot {
    const SLOTS: usize = 2;
    #[inline(always)]
    fn step<S: Simd>(self, s: S, w: S::F32, g: S::F32, q: S::F32, slots: &mut [S::F32; SLOTS]) -> S::F32 {
        Ftrl::step(self.0, s, (w, g, q), slots, |x| s.sqrt(x))
    }
}
