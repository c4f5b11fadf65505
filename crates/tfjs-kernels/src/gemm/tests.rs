use super::{KC, Lhs, Matrix, PackedRhs, Target, gemm};
use crate::{
    Threads,
    epilogue::{Activation, Finish, Rows},
    simd::{Isa, Simd},
    testing::{assert_close, noise},
};

/// A matrix that hides that its rows lie in memory.
struct Hidden<'a>(Matrix<'a>);

impl Lhs for Hidden<'_> {
    fn rows(&self) -> usize {
        self.0.rows
    }
    fn direct(&self) -> Option<(&[f32], usize)> {
        None
    }
    #[inline(always)]
    fn pack<S: Simd>(
        &self,
        s: S,
        rows: std::ops::Range<usize>,
        cols: std::ops::Range<usize>,
        dst: &mut [f32],
        stride: usize,
    ) {
        self.0.pack(s, rows, cols, dst, stride);
    }
}

fn reference(m: usize, k: usize, n: usize, a: &[f32], b: &[f32]) -> Vec<f64> {
    let mut c = vec![0.0; m * n];
    for i in 0..m {
        for l in 0..k {
            for j in 0..n {
                c[i * n + j] += f64::from(a[i * k + l]) * f64::from(b[l * n + j]);
            }
        }
    }
    c
}

const SHAPES: &[(usize, usize, usize)] = &[
    (1, 1, 1),
    (1, 0, 3),
    (1, 300, 40),
    (2, 7, 33),
    (3, KC + 1, 17),
    (5, 3 * KC, 64),
    (13, 27, 31),
    (14, 64, 32),
    (15, 65, 48),
    (29, 10, 95),
    (49, 130, 100),
    (230, 33, 20),
    (57, 512, 33),
    (450, 9, 130),
];

#[test]
fn products_of_all_edge_shapes_match_double_precision() {
    for &(m, k, n) in SHAPES {
        let (a, b) = (noise(m * k, 1), noise(k * n, 2));
        let want = reference(m, k, n, &a, &b);
        let transpose = |x: &[f32], rows: usize, cols: usize| -> Vec<f32> {
            (0..rows * cols).map(|i| x[(i % rows) * cols + i / rows]).collect()
        };
        let (at, bt) = (transpose(&a, m, k), transpose(&b, k, n));
        let target = Target { start: 0, stride: n };
        for isa in Isa::available() {
            let rhs = PackedRhs::new(isa, k, n, &b, (n, 1));
            let rhs_t = PackedRhs::new(isa, k, n, &bt, (1, k));
            let lhs = Matrix { data: &a, rows: m, strides: (k, 1) };
            let lhs_t = Matrix { data: &at, rows: m, strides: (1, m) };
            let tolerance = 1e-6 * (k as f64).sqrt().max(1.0);
            let mut c = vec![f32::NAN; m * n];
            gemm(&lhs, &rhs, &mut c, target, &Finish::default());
            assert_close(&c, &want, tolerance, &format!("{isa} {m}x{k}x{n}"));
            let mut d = vec![f32::NAN; m * n];
            gemm(&lhs_t, &rhs_t, &mut d, target, &Finish::default());
            assert_eq!(c, d, "{isa} {m}x{k}x{n}: transposed operands give the same bits");
            gemm(&Hidden(lhs), &rhs, &mut d, target, &Finish::default());
            assert_eq!(c, d, "{isa} {m}x{k}x{n}: gathered rows give the same bits");
        }
    }
}

#[test]
fn the_number_of_threads_does_not_change_a_bit() {
    let (two, one) = (Threads::new(2).unwrap(), Threads::new(1).unwrap());
    for (m, k, n) in [(300, 300, 300), (49, 600, 500), (1, 2000, 1000)] {
        let (a, b) = (noise(m * k, 1), noise(k * n, 2));
        for isa in Isa::available() {
            let product = || {
                let rhs = PackedRhs::new(isa, k, n, &b, (n, 1));
                let mut c = vec![f32::NAN; m * n];
                let lhs = Matrix { data: &a, rows: m, strides: (k, 1) };
                gemm(&lhs, &rhs, &mut c, Target { start: 0, stride: n }, &Finish::default());
                c
            };
            assert_eq!(one.run(product), two.run(product), "{isa} {m}x{k}x{n}");
        }
    }
}

#[test]
fn a_product_writes_only_its_columns() {
    let (m, k, n) = (20, 10, 9);
    let (a, b) = (noise(m * k, 1), noise(k * n, 2));
    let want = reference(m, k, n, &a, &b);
    for isa in Isa::available() {
        let rhs = PackedRhs::new(isa, k, n, &b, (n, 1));
        let mut c = vec![7.0; m * 20];
        let lhs = Matrix { data: &a, rows: m, strides: (k, 1) };
        gemm(&lhs, &rhs, &mut c, Target { start: 5, stride: 20 }, &Finish::default());
        for (i, row) in c.chunks(20).enumerate() {
            assert!(row[..5].iter().chain(&row[5 + n..]).all(|&x| x == 7.0));
            assert_close(&row[5..5 + n], &want[i * n..][..n], 1e-5, "a block of columns");
        }
    }
}

#[test]
fn epilogues_are_applied_in_order_to_every_tile() {
    let (m, k, n) = (31, KC + 20, 53);
    let (a, b) = (noise(m * k, 1), noise(k * n, 2));
    let (bias, residual, slopes) = (noise(n, 3), noise(m * n, 4), noise(4 * n, 5));
    let product = reference(m, k, n, &a, &b);
    let activations = [
        (Activation::None, (|x| x) as fn(f64) -> f64),
        (Activation::Relu, |x| x.max(0.0)),
        (Activation::Relu6, |x| x.clamp(0.0, 6.0)),
        (Activation::Sigmoid, |x| 1.0 / (1.0 + (-x).exp())),
    ];
    for isa in Isa::available() {
        let rhs = PackedRhs::new(isa, k, n, &b, (n, 1));
        let lhs = Matrix { data: &a, rows: m, strides: (k, 1) };
        for (activation, f) in activations {
            for with in 0..8 {
                let rows = |data, period| Rows { data, period, start: 0, stride: n };
                let finish = Finish {
                    bias: (with & 1 != 0).then_some(&bias[..]),
                    first: None,
                    residual: (with & 2 != 0).then_some(rows(&residual[..], m)),
                    prelu: (with & 4 != 0).then_some(rows(&slopes[..], 4)),
                    activation,
                };
                let want: Vec<f64> = (0..m * n)
                    .map(|i| {
                        let mut y = product[i];
                        if with & 1 != 0 {
                            y += f64::from(bias[i % n]);
                        }
                        if with & 2 != 0 {
                            y += f64::from(residual[i]);
                        }
                        if with & 4 != 0 && y < 0.0 {
                            y *= f64::from(slopes[(i / n % 4) * n + i % n]);
                        }
                        f(y)
                    })
                    .collect();
                let mut c = vec![f32::NAN; m * n];
                gemm(&lhs, &rhs, &mut c, Target { start: 0, stride: n }, &finish);
                assert_close(&c, &want, 2e-5, &format!("{isa} {activation:?} {with}"));
            }
        }
    }
}

#[test]
fn not_a_number_and_infinity_reach_the_result() {
    for isa in Isa::available() {
        let rhs = PackedRhs::new(isa, 2, 3, &[1.0, f32::INFINITY, 0.0, 1.0, 1.0, 0.0], (3, 1));
        let lhs = Matrix { data: &[1.0, 2.0, f32::NAN, 0.0, 0.0, 1.0, -1.0, -1.0], rows: 4, strides: (2, 1) };
        let mut c = vec![0.0; 12];
        let relu = Finish { activation: Activation::Relu, ..Finish::default() };
        gemm(&lhs, &rhs, &mut c, Target { start: 0, stride: 3 }, &relu);
        let text: Vec<String> = c.iter().map(|x| x.to_string()).collect();
        assert_eq!(
            text,
            ["3", "inf", "0", "NaN", "NaN", "NaN", "1", "NaN", "0", "0", "0", "0"],
            "{isa}: 0 times infinity is NaN, and relu keeps NaN"
        );
    }
}
