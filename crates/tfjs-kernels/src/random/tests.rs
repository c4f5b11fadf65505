//! Expected values are what TensorFlow 2.19 draws for the same seeds.
#![allow(clippy::excessive_precision, clippy::approx_constant)] // as TensorFlow prints them
use super::*;

fn draw(stream: Philox, n: usize, d: Distribution, p: Precision) -> Vec<f32> {
    floats(stream, Shape::from([n]), d, p).unwrap().data::<f32>().unwrap().to_vec()
}

#[track_caller]
fn close(got: &[f32], want: &[f32]) {
    // Logarithm and sine differ by an ULP between libraries.
    assert!(
        got.len() == want.len() && got.iter().zip(want).all(|(g, w)| (g - w).abs() <= 2e-6),
        "{got:?}, not {want:?}"
    );
}

#[test]
fn seeded_floats_are_those_of_tensorflow_call_after_call() {
    let check = |d, first: &[f32], second: &[f32]| {
        let mut stream = Philox::seeded(87_654_321, 42);
        close(&draw(stream.reserve(first.len()), first.len(), d, Precision::Single), first);
        close(&draw(stream.reserve(first.len()), first.len(), d, Precision::Single), second);
    };
    check(
        Distribution::Uniform,
        &[0.95227146, 0.67740774, 0.79531825, 0.75578177, 0.4759556, 0.6310148],
        &[0.15116918, 0.9988142, 0.43071377, 0.9249908, 0.4177097, 0.9479431],
    );
    check(
        Distribution::Normal,
        &[-0.28077507, -0.1377521, -0.6763296, 0.024580413, -0.89358455, -0.82847327],
        &[-0.014482642, 1.9438368, -0.5893153, 1.15643, -0.42452306, 1.2512863],
    );
    check(
        Distribution::TruncatedNormal,
        &[
            -0.28077507,
            -0.1377521,
            -0.6763296,
            0.024580413,
            -0.46845472,
            -0.0024663184,
            -0.9745911,
            0.6638492,
            0.4368011,
            -0.7038976,
        ],
        &[
            -0.48115006,
            -0.591412,
            0.46688887,
            1.8181931,
            -1.0811663,
            -0.360087,
            1.6283922,
            0.5718798,
            0.18512358,
            0.27806583,
        ],
    );
}

#[test]
fn uniform_floats_are_bit_exact() {
    let got = draw(Philox::seeded(87_654_321, 42), 6, Distribution::Uniform, Precision::Single);
    assert_eq!(got, [0.95227146, 0.67740774, 0.79531825, 0.75578177, 0.4759556, 0.6310148]);
}

#[test]
fn other_precisions_are_those_of_tensorflow() {
    let stream = Philox::seeded(7, 9);
    let run = |d, p| draw(stream, 5, d, p);
    close(
        &run(Distribution::Uniform, Precision::Double),
        &[0.2907596, 0.7111111, 0.60058, 0.8417688, 0.92039675],
    );
    close(
        &run(Distribution::Normal, Precision::Double),
        &[-1.525099, -0.38024962, -0.84654593, 0.550526, 0.3121609],
    );
    close(
        &run(Distribution::TruncatedNormal, Precision::Double),
        &[-1.525099, -0.38024962, 0.4185934, 1.1712391, -0.20094486],
    );
    close(
        &run(Distribution::Uniform, Precision::Half),
        &[0.7373047, 0.75390625, 0.17773438, 0.68847656, 0.99316406],
    );
    close(
        &run(Distribution::Uniform, Precision::Bfloat16),
        &[0.8984375, 0.03125, 0.421875, 0.5078125, 0.9453125],
    );
}

#[test]
fn seeded_integers_are_those_of_tensorflow() {
    let (low, high) = (Tensor::scalar(-5), Tensor::scalar(1000));
    for (wide, first, second) in [
        (false, [607, 5, 289, 390, 697], [226, 572, 787, 732, 858]),
        (true, [602, 594, 343, 782, 254], [425, 595, 562, 465, 366]),
    ] {
        let mut stream = Philox::seeded(7, 0);
        for want in [first, second] {
            // The narrow draw was of six numbers.
            let n = if wide { 5 } else { 6 };
            let y = integers(stream.reserve(n), Shape::from([5]), &low, &high, wide).unwrap();
            assert_eq!(y.data::<i32>().unwrap(), want);
        }
    }
    assert!(integers(Philox::seeded(7, 0), Shape::from([1]), &high, &low, false).is_err());
}

#[test]
fn classes_are_those_of_tensorflow() {
    let logits = Tensor::new([2, 4], vec![0.1f32, 1.0, 2.0, -1.0, 3.0, 0.0, 0.0, 0.0]).unwrap();
    let mut stream = Philox::seeded(3, 4);
    let mut run =
        || multinomial(stream.reserve(2 * 2 * 8), &logits, 7).unwrap().data::<i32>().unwrap().to_vec();
    assert_eq!(run(), [2, 2, 1, 2, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0]);
    assert_eq!(run(), [0, 0, 1, 1, 3, 1, 2, 0, 0, 1, 0, 0, 0, 0]);
    let y = multinomial(Philox::stateless(1, -2), &logits, 7).unwrap();
    assert_eq!(y.data::<i32>().unwrap(), [3, 2, 2, 2, 0, 0, 2, 0, 1, 0, 2, 0, 0, 0]);
}

#[test]
fn shuffled_rows_are_those_of_tensorflow() {
    let mut stream = Philox::seeded(3, 4);
    let mut run = |x: &Tensor| shuffle(stream.reserve_shuffle(8), x).unwrap().data::<i32>().unwrap().to_vec();
    let x = Tensor::vector((0..8).collect::<Vec<i32>>());
    assert_eq!(run(&x), [1, 4, 7, 2, 3, 6, 0, 5]);
    assert_eq!(run(&x), [1, 3, 7, 5, 6, 4, 2, 0]);
    let x = Tensor::new([4, 2], (0..8).collect::<Vec<i32>>()).unwrap();
    assert_eq!(shuffle(Philox::seeded(3, 4), &x).unwrap().data::<i32>().unwrap(), [2, 3, 4, 5, 6, 7, 0, 1]);
}

#[test]
fn stateless_numbers_are_those_of_tensorflow() {
    let stream = Philox::stateless(1, -2);
    let run = |d| draw(stream, 6, d, Precision::Single);
    assert_eq!(
        run(Distribution::Uniform),
        [0.7476804, 0.75662565, 0.84331036, 0.24518633, 0.7087741, 0.95187664]
    );
    close(
        &run(Distribution::Normal),
        &[-0.7619396, 0.031738095, 0.5835484, 0.017654888, -0.24707565, 0.79207987],
    );
    close(
        &run(Distribution::TruncatedNormal),
        &[-0.7619396, 0.031738095, 0.5835484, 0.017654888, -0.9447313, -0.020635841],
    );
    let y = integers(stream, Shape::from([6]), &Tensor::scalar(0), &Tensor::scalar(100), false).unwrap();
    assert_eq!(y.data::<i32>().unwrap(), [18, 0, 64, 72, 24, 20]);
    let y = full_integers(Philox::stateless(1, 2), Shape::from([6]), false).unwrap();
    assert_eq!(
        y.data::<i32>().unwrap(),
        [1105988140, 1738052849, -335576002, 370444179, 10670227, -246211131]
    );
    let y = full_integers(stream, Shape::from([3]), true).unwrap();
    assert_eq!(y.data::<i32>().unwrap(), [341816318, -655625832, 1994045724]);
}

#[test]
fn unseeded_streams_differ() {
    assert_ne!(Philox::seeded(0, 0), Philox::seeded(0, 0));
}
