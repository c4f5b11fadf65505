use super::{Isa, Kernel, MAX_LANES, Simd, dispatch_on};

const X: [f32; MAX_LANES] = [
    0.0,
    -0.0,
    1.5,
    -1.5,
    2.5,
    -2.5,
    0.49999997,
    1e-40,
    f32::NAN,
    f32::INFINITY,
    f32::NEG_INFINITY,
    3.0,
    -7.25,
    1e30,
    8388609.0,
    -0.75,
];
const Y: [f32; MAX_LANES] = [
    -0.0,
    0.0,
    1.5,
    2.0,
    f32::NAN,
    -3.0,
    7.0,
    1e-41,
    1.0,
    1.0,
    f32::NEG_INFINITY,
    -3.0,
    0.5,
    1e30,
    2.0,
    0.25,
];

/// Applies one operation to all of `X` and `Y`, a vector at a time.
struct Binary(usize);
impl Kernel for Binary {
    type Output = Vec<u32>;
    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> Vec<u32> {
        let mut out = [0.0; MAX_LANES];
        for at in (0..MAX_LANES).step_by(S::LANES) {
            let (x, y) = (s.load(&X[at..]), s.load(&Y[at..]));
            let one = s.splat(1.0);
            let (xi, yi) = (s.to_bits(x), s.to_bits(y));
            let truth = |m: S::Mask| s.select(m, one, s.zero());
            let r = match self.0 {
                0 => s.add(x, y),
                1 => s.sub(x, y),
                2 => s.mul(x, y),
                3 => s.div(x, y),
                4 => s.min(x, y),
                5 => s.max(x, y),
                6 => s.floor(x),
                7 => s.ceil(x),
                8 => s.trunc(x),
                9 => s.round_even(x),
                10 => truth(s.lt(x, y)),
                11 => truth(s.le(x, y)),
                12 => truth(s.eq(x, y)),
                13 => truth(s.mask_not(s.mask_or(s.lt(x, y), s.mask_and(s.eq(x, y), s.le(x, y))))),
                14 => s.from_bits(s.mul_i32(s.add_i32(xi, yi), s.sub_i32(xi, yi))),
                15 => {
                    s.from_bits(s.max_i32(s.min_i32(xi, yi), s.xor_i32(xi, s.or_i32(xi, s.and_i32(xi, yi)))))
                }
                16 => s.from_bits(s.shl_i32::<3>(xi)),
                17 => s.from_bits(s.shr_i32::<3>(xi)),
                18 => truth(s.lt_i32(xi, yi)),
                19 => truth(s.eq_i32(xi, yi)),
                20 => s.to_f32(s.to_i32(s.select(s.lt(s.abs(x), s.splat(1e9)), x, one))),
                21 => s.max_nan(x, y),
                22 => s.min_nan(x, y),
                23 => s.with_sign_of(s.abs(x), y),
                24 => s.neg(x),
                25 => s.sqrt(s.abs(x)),
                26 => s.splat(f32::from(u8::from(s.any(s.is_nan(s.mul(x, s.zero())))))),
                _ => s.from_bits(s.select_i32(s.lt(x, y), xi, yi)),
            };
            s.store(&mut out[at..], r);
        }
        // NaN payloads and signs are no part of the contract.
        out.iter().map(|x| if x.is_nan() { f32::NAN.to_bits() } else { x.to_bits() }).collect()
    }
}

#[test]
fn every_unit_agrees_with_portable_code_bit_for_bit() {
    for isa in Isa::available() {
        for op in 0..28 {
            // `any` is over a whole vector, whose length differs.
            if op != 26 {
                assert_eq!(
                    dispatch_on(isa, Binary(op)),
                    dispatch_on(Isa::Scalar, Binary(op)),
                    "{isa}: operation {op}"
                );
            }
        }
    }
}

struct Parts;
impl Kernel for Parts {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let src: Vec<f32> = (1..=S::LANES).map(|i| i as f32).collect();
        for n in 0..=S::LANES {
            // An exact allocation, so that a read or write beyond it shows under a sanitizer.
            let head = src[..n].to_vec();
            let v = s.load_part(&head);
            let lanes = s.to_array(v);
            for (i, &lane) in lanes[..S::LANES].iter().enumerate() {
                assert_eq!(lane, if i < n { (i + 1) as f32 } else { 0.0 });
            }
            let mut out = vec![-1.0; n];
            s.store_part(&mut out, v);
            assert_eq!(out, head);
            let mut whole = vec![-1.0; S::LANES];
            s.store_part(&mut whole[..n], s.splat(5.0));
            assert!(whole.iter().enumerate().all(|(i, &x)| x == if i < n { 5.0 } else { -1.0 }));
        }
        let v = s.load(&src);
        let n = S::LANES as f32;
        assert_eq!(s.reduce_add(v), n * (n + 1.0) / 2.0);
        assert_eq!((s.reduce_max(v), s.reduce_min(v)), (n, 1.0));
        assert_eq!(s.reduce_max(s.neg(v)), -1.0);
        assert!(s.reduce_max(s.splat(f32::NAN)).is_nan());
        assert_eq!(s.to_array(s.fma(v, v, v))[1], 6.0);
        assert_eq!(s.to_array(s.fnma(v, v, v))[1], -2.0);
        assert_eq!(s.to_array(s.exp2_i32(s.splat_i32(-126)))[0], f32::MIN_POSITIVE);
    }
}

#[test]
fn partial_loads_and_stores_touch_only_their_lanes() {
    for isa in Isa::available() {
        dispatch_on(isa, Parts);
    }
}

#[test]
fn an_instruction_set_is_chosen_by_name_and_scope() {
    assert_eq!("SCALAR".parse::<Isa>(), Ok(Isa::Scalar));
    assert!("mmx".parse::<Isa>().is_err());
    assert_eq!(Isa::Scalar.scope(Isa::current), Ok(Isa::Scalar));
    assert!(Isa::best().is_available());
}
