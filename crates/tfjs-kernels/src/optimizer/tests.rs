use super::{
    Adafactor, Factors, Gradient, Lamb, Muon, Prepare, RowSums, Rule, Second, adafactor, all_finite, lamb,
    muon, sum_squares, update,
};
use crate::{
    KernelError, Threads,
    simd::Isa,
    testing::{assert_close, noise},
};

/// Every rule, with numbers that tell its parts apart.
fn rules() -> Vec<Rule> {
    let rms = |momentum, centered, outside| Rule::RmsProp {
        learning_rate: 0.1,
        rho: 0.75,
        one_minus_rho: 0.25,
        momentum,
        epsilon: 0.5,
        centered,
        outside,
    };
    let adam = |amsgrad| Rule::Adam {
        alpha: 0.1,
        one_minus_beta_1: 0.25,
        one_minus_beta_2: 0.125,
        epsilon: 0.01,
        amsgrad,
    };
    let nadam = |lazy_weights| Rule::Nadam {
        learning_rate: 0.1,
        momentum: 0.75,
        gradient: 0.5,
        correction: 0.25,
        one_minus_beta_1: 0.25,
        one_minus_beta_2: 0.125,
        epsilon: 0.01,
        lazy_weights,
    };
    let ftrl = |power| Rule::Ftrl { learning_rate: 0.1, power, l1: 0.25, l2: 0.5, shrinkage: 0.125 };
    let adadelta =
        |stale| Rule::Adadelta { learning_rate: 0.5, rho: 0.75, one_minus_rho: 0.25, epsilon: 0.01, stale };
    let mut rules = vec![
        Rule::Sgd { learning_rate: 0.1 },
        adam(false),
        adam(true),
        Rule::Adamax { alpha: 0.1, one_minus_beta_1: 0.25, beta_2: 0.75, epsilon: 0.01 },
        nadam(false),
        nadam(true),
        ftrl(0.5),
        ftrl(0.25),
        adadelta(false),
        adadelta(true),
        Rule::Lion { learning_rate: 0.1, beta_1: 0.75, beta_2: 0.5 },
        Rule::ScheduleFree {
            learning_rate: 0.1,
            beta_1: 0.75,
            one_minus_beta_2: 0.25,
            correction: 0.5,
            epsilon: 0.01,
            weight: 0.25,
        },
        Rule::Average { keep: 0.75 },
        Rule::Add,
    ];
    for on in [false, true] {
        rules.push(Rule::Momentum { learning_rate: 0.1, momentum: 0.75, nesterov: on });
        rules.push(Rule::Velocity { learning_rate: 0.1, momentum: 0.75, nesterov: on });
        rules.push(Rule::Adagrad { learning_rate: 0.1, epsilon: 0.25, outside: on });
        for centered in [false, true] {
            rules.push(rms(Some(0.5), centered, on));
            rules.push(rms(None, centered, on));
        }
    }
    rules
}

/// One element in double precision, from the formulas of the rules' documentation.
fn expected(rule: Rule, w: f64, g: f64, s: &mut [f64]) -> f64 {
    let d = f64::from;
    match rule {
        Rule::Sgd { learning_rate } => w - d(learning_rate) * g,
        Rule::Momentum { learning_rate, momentum, nesterov } => {
            s[0] = d(momentum) * s[0] - d(learning_rate) * g;
            w + if nesterov { d(momentum) * s[0] - d(learning_rate) * g } else { s[0] }
        }
        Rule::Velocity { learning_rate, momentum, nesterov } => {
            s[0] = d(momentum) * s[0] + g;
            w - d(learning_rate) * if nesterov { g + d(momentum) * s[0] } else { s[0] }
        }
        Rule::Adagrad { learning_rate, epsilon, outside } => {
            s[0] += g * g;
            let divisor = if outside { s[0].sqrt() + d(epsilon) } else { (s[0] + d(epsilon)).sqrt() };
            w - d(learning_rate) * g / divisor
        }
        Rule::Adadelta { learning_rate, rho, one_minus_rho, epsilon, stale } => {
            let old = s[0];
            s[0] = d(rho) * s[0] + d(one_minus_rho) * g * g;
            let step = (s[1] + d(epsilon)).sqrt() * g / (if stale { old } else { s[0] } + d(epsilon)).sqrt();
            s[1] = d(rho) * s[1] + d(one_minus_rho) * step * step;
            w - d(learning_rate) * step
        }
        Rule::Adam { alpha, one_minus_beta_1, one_minus_beta_2, epsilon, amsgrad } => {
            s[0] += (g - s[0]) * d(one_minus_beta_1);
            s[1] += (g * g - s[1]) * d(one_minus_beta_2);
            if amsgrad {
                s[2] = s[2].max(s[1]);
            }
            w - d(alpha) * s[0] / (s[if amsgrad { 2 } else { 1 }].sqrt() + d(epsilon))
        }
        Rule::Adamax { alpha, one_minus_beta_1, beta_2, epsilon } => {
            s[0] += (g - s[0]) * d(one_minus_beta_1);
            s[1] = (d(beta_2) * s[1]).max(g.abs());
            w - d(alpha) * s[0] / (s[1] + d(epsilon))
        }
        Rule::Nadam {
            learning_rate,
            momentum,
            gradient,
            correction,
            one_minus_beta_1,
            one_minus_beta_2,
            epsilon,
            ..
        } => {
            s[0] += (g - s[0]) * d(one_minus_beta_1);
            s[1] += (g * g - s[1]) * d(one_minus_beta_2);
            let ahead = d(momentum) * s[0] + d(gradient) * g;
            w - d(learning_rate) * ahead / ((s[1] / d(correction)).sqrt() + d(epsilon))
        }
        Rule::RmsProp { learning_rate, rho, one_minus_rho, momentum, epsilon, centered, outside } => {
            s[0] = d(rho) * s[0] + d(one_minus_rho) * g * g;
            let mut divisor = s[0];
            if centered {
                let k = 1 + usize::from(momentum.is_some());
                s[k] = d(rho) * s[k] + d(one_minus_rho) * g;
                divisor -= s[k] * s[k];
            }
            let divisor = if outside { divisor.sqrt() + d(epsilon) } else { (divisor + d(epsilon)).sqrt() };
            let step = d(learning_rate) * g / divisor;
            match momentum {
                Some(momentum) => {
                    s[1] = d(momentum) * s[1] + step;
                    w - s[1]
                }
                None => w - step,
            }
        }
        Rule::Ftrl { learning_rate, power, l1, l2, shrinkage } => {
            let (old, new) = (s[0].powf(d(power)), (s[0] + g * g).powf(d(power)));
            s[1] += g + d(shrinkage) * w - (new - old) / d(learning_rate) * w;
            s[0] += g * g;
            (s[1].clamp(-d(l1), d(l1)) - s[1]) / (new / d(learning_rate) + 2.0 * d(l2))
        }
        Rule::Lion { learning_rate, beta_1, beta_2 } => {
            let x = d(beta_1) * s[0] + (1.0 - d(beta_1)) * g;
            s[0] = d(beta_2) * s[0] + (1.0 - d(beta_2)) * g;
            w - d(learning_rate) * if x == 0.0 { 0.0 } else { x.signum() }
        }
        Rule::ScheduleFree { learning_rate, beta_1, one_minus_beta_2, correction, epsilon, weight } => {
            s[1] += (g * g - s[1]) * d(one_minus_beta_2);
            s[0] -= d(learning_rate) * g / ((s[1] / d(correction)).sqrt() + d(epsilon));
            let x = (w - (1.0 - d(beta_1)) * s[0]) / d(beta_1);
            let x = (1.0 - d(weight)) * x + d(weight) * s[0];
            (1.0 - d(beta_1)) * s[0] + d(beta_1) * x
        }
        Rule::Average { keep } => d(keep) * w + (1.0 - d(keep)) * g,
        Rule::Add => w + g,
    }
}

/// Whether rows without gradient keep their weights while their slots go on.
fn keeps_weights(rule: &Rule) -> bool {
    matches!(rule, Rule::Nadam { lazy_weights: true, .. } | Rule::RmsProp { outside: true, .. })
}

/// Slots as they might be after some steps: not negative, and variances above the squares of means.
fn slots(rule: &Rule, n: usize) -> Vec<Vec<f32>> {
    let one =
        |k: usize| noise(n, 50 + k as u64).iter().map(|x| (x.abs() + 0.1) / (1 << (2 * k)) as f32).collect();
    (0..rule.slots()).map(one).collect()
}

fn run(rule: &Rule, prepare: Prepare, gradient: Gradient<'_>, w: &mut [f32], slots: &mut [Vec<f32>]) {
    let mut slots: Vec<&mut [f32]> = slots.iter_mut().map(Vec::as_mut_slice).collect();
    update(rule, prepare, w, gradient, &mut slots).unwrap();
}

const PREPARE: Prepare = Prepare { unscale: 0.5, clip: 0.375, scale: 0.75, decay: 0.125 };

fn prepared(g: f32) -> f64 {
    (f64::from(g) * 0.5).clamp(-0.375, 0.375) * 0.75
}

#[test]
fn every_rule_agrees_with_its_formula_on_every_instruction_set() {
    for isa in Isa::available() {
        for rule in rules() {
            for n in [1, 5, 16, 67] {
                let (mut w, g) = (noise(n, 1), noise(n, 2));
                let mut own = slots(&rule, n);
                let mut wide: Vec<Vec<f64>> =
                    (0..n).map(|i| own.iter().map(|s| f64::from(s[i])).collect()).collect();
                let want: Vec<f64> = (0..n)
                    .map(|i| expected(rule, f64::from(w[i]) * 0.875, prepared(g[i]), &mut wide[i]))
                    .collect();
                isa.scope(|| run(&rule, PREPARE, Gradient::Dense(&g), &mut w, &mut own)).unwrap();
                let what = format!("{isa}, {n}: {rule:?}");
                // A few roundings; Ftrl subtracts powers that are nearly equal.
                assert_close(&w, &want, 3e-6, &what);
                for (k, slot) in own.iter().enumerate() {
                    let want: Vec<f64> = wide.iter().map(|s| s[k]).collect();
                    assert_close(slot, &want, 3e-6, &format!("slot {k}, {what}"));
                }
            }
        }
    }
}

#[test]
fn rows_without_gradient_get_none_of_it() {
    let (count, width) = (9, 5);
    let rows = [0, 3, 4, 8];
    let values = noise(rows.len() * width, 3);
    for isa in Isa::available() {
        for rule in rules() {
            for lazy in [false, true] {
                let mut w = noise(count * width, 1);
                let mut own = slots(&rule, w.len());
                let mut dense = vec![0.0; w.len()];
                RowSums::spread(&rows, &values, &mut dense);
                let (mut w2, mut own2) = (w.clone(), own.clone());
                let (before, own_before) = (w.clone(), own.clone());
                isa.scope(|| {
                    let sparse = Gradient::Rows { rows: &rows, values: &values, second: None, lazy };
                    run(&rule, Prepare::default(), sparse, &mut w, &mut own);
                    run(&rule, Prepare::default(), Gradient::Dense(&dense), &mut w2, &mut own2);
                })
                .unwrap();
                for row in 0..count {
                    let r = row * width..(row + 1) * width;
                    let idle = !rows.contains(&row);
                    let w_want = if idle && (lazy || keeps_weights(&rule)) { &before } else { &w2 };
                    assert_eq!(w[r.clone()], w_want[r.clone()], "{isa} {rule:?} row {row}");
                    for k in 0..own.len() {
                        let want = if idle && lazy { &own_before[k] } else { &own2[k] };
                        assert_eq!(own[k][r.clone()], want[r.clone()], "{isa} {rule:?} row {row}");
                    }
                }
            }
        }
    }
}

#[test]
fn threads_do_not_change_bits() {
    let n = 100_003;
    let g = noise(n, 2);
    let rows: Vec<usize> = (0..n / 7).filter(|r| r % 3 != 1).collect();
    let values = noise(rows.len() * 7, 3);
    let all = |threads: usize| {
        Threads::new(threads).unwrap().run(|| {
            let mut out = Vec::new();
            for rule in rules() {
                let mut w = noise(n, 1);
                let mut own = slots(&rule, n);
                run(&rule, PREPARE, Gradient::Dense(&g), &mut w, &mut own);
                let w7 = &mut w[..n / 7 * 7];
                own.iter_mut().for_each(|s| s.truncate(n / 7 * 7));
                for lazy in [false, true] {
                    let sparse = Gradient::Rows { rows: &rows, values: &values, second: None, lazy };
                    run(&rule, Prepare::default(), sparse, w7, &mut own);
                }
                out.push((w, own));
            }
            (out, sum_squares(&g, PREPARE).to_bits())
        })
    };
    assert!(all(1) == all(2), "bits differ");
}

#[test]
fn norms_are_those_of_double_precision_on_every_instruction_set() {
    for isa in Isa::available() {
        for n in [0, 1, 15, 1024, 1025, 70_001] {
            let x = noise(n, 9);
            let want: f64 = x.iter().map(|&v| (prepared(v) / 0.75).powi(2)).sum();
            let got = isa.scope(|| sum_squares(&x, PREPARE)).unwrap();
            assert!((got - want).abs() <= 1e-6 * want, "{isa} {n}: {got} {want}");
            assert!(isa.scope(|| all_finite(&x)).unwrap());
        }
        let mut x = noise(40_000, 9);
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            x[39_998] = bad;
            assert!(!isa.scope(|| all_finite(&x)).unwrap());
        }
    }
}

#[test]
fn a_gradient_that_is_not_a_number_is_not_clipped_away() {
    for isa in Isa::available() {
        let mut w = [1.0f32; 3];
        isa.scope(|| {
            let g = [f32::NAN, f32::INFINITY, -1.0];
            run(&Rule::Sgd { learning_rate: 1.0 }, PREPARE, Gradient::Dense(&g), &mut w, &mut []);
        })
        .unwrap();
        assert!(w[0].is_nan() && w[1] == 0.875 - 0.28125 && w[2] == 0.875 + 0.28125, "{isa}: {w:?}");
    }
}

#[test]
fn rows_that_occur_twice_are_added_up() {
    let mut sums = RowSums::default();
    let values = [1.0f32, 2.0, 4.0, 8.0, -16.0, 32.0];
    sums.collect(&[3, 1, 3], &values, 4, Prepare::default(), Some(Second::Squares)).unwrap();
    assert_eq!(sums.rows, [1, 3]);
    assert_eq!(sums.values, [4.0, 8.0, -15.0, 34.0]);
    assert_eq!(sums.second(), Some(&[16.0f32, 64.0, 257.0, 1028.0][..]));
    sums.collect(&[3, 1, 3], &values, 4, Prepare::default(), Some(Second::Magnitudes)).unwrap();
    assert_eq!(sums.second(), Some(&[4.0f32, 8.0, 17.0, 34.0][..]));
    sums.collect(
        &[2, 0],
        &values[..4],
        4,
        Prepare { clip: 3.0, ..Prepare::default() },
        Some(Second::Squares),
    )
    .unwrap();
    assert_eq!(
        (&sums.rows[..], &sums.values[..], sums.second()),
        (&[0, 2][..], &[3.0f32, 3.0, 1.0, 2.0][..], None)
    );
    for index in [-1, 4] {
        let wrong = sums.collect(&[index], &values[..2], 4, Prepare::default(), None);
        assert!(matches!(wrong, Err(KernelError::Range { .. })));
    }
}

#[test]
fn lengths_that_do_not_fit_are_refused() {
    let rule = Rule::Lion { learning_rate: 0.1, beta_1: 0.9, beta_2: 0.9 };
    let (mut w, mut slot) = (vec![0.0; 6], vec![0.0; 6]);
    let mut refused = |gradient: Gradient<'_>| {
        assert!(
            update(&rule, Prepare::default(), &mut w, gradient, &mut [&mut slot]).is_err(),
            "{gradient:?}"
        );
    };
    refused(Gradient::Dense(&[0.0; 5]));
    let values = [0.0; 4];
    for rows in [&[0usize, 3][..], &[1, 0], &[1, 1], &[0, 1, 2]] {
        refused(Gradient::Rows { rows, values: &values, second: None, lazy: true });
    }
    refused(Gradient::Rows { rows: &[0, 1], values: &values, second: Some(&values[..2]), lazy: false });
    assert!(update(&rule, Prepare::default(), &mut [0.0; 2], Gradient::Dense(&[0.0; 2]), &mut []).is_err());
}

#[test]
fn whole_weight_optimizers_have_the_same_bits_on_any_number_of_threads_and_agree_between_instruction_sets() {
    let (rows, columns) = (150, 301);
    let n = rows * columns;
    let g = noise(n, 2);
    let all = |isa: Isa, threads: usize| {
        isa.scope(|| {
            Threads::new(threads).unwrap().run(|| {
                let mut w = noise(n, 1);
                let (mut r, mut c, mut v) = (vec![0.1; rows], vec![0.1; columns], vec![0.0; n]);
                let step = Adafactor {
                    learning_rate: 0.1,
                    beta_2: 0.5,
                    epsilon_1: 1e-30,
                    epsilon_2: 1e-3,
                    clip_threshold: 1.0,
                };
                let factors = Factors { r: &mut r, c: &mut c, rows, columns };
                adafactor(step, PREPARE, &mut w, (&g, None), &mut v, Some(factors)).unwrap();
                let step = Lamb {
                    learning_rate: 0.1,
                    one_minus_beta_1: 0.1,
                    one_minus_beta_2: 0.01,
                    correction_1: 0.1,
                    correction_2: 0.01,
                    epsilon: 1e-6,
                };
                let mut m = vec![0.0; n];
                lamb(step, PREPARE, &mut w, Gradient::Dense(&g), &mut m, &mut v).unwrap();
                let step = Muon {
                    learning_rate: 0.1,
                    momentum: 0.9,
                    nesterov: true,
                    steps: 2,
                    coefficients: [3.4445, -4.775, 2.0315],
                    rms_rate: Some(0.2),
                };
                muon(step, PREPARE, &mut w, &g, &mut m, [rows, columns]).unwrap();
                w
            })
        })
        .unwrap()
    };
    let scalar: Vec<f64> = all(Isa::Scalar, 1).into_iter().map(f64::from).collect();
    for isa in Isa::available() {
        let one = all(isa, 1);
        assert!(one == all(isa, 2), "{isa}: bits differ");
        assert_close(&one, &scalar, 1e-5, isa.name());
    }
}
