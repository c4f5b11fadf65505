#![allow(clippy::excessive_precision, clippy::approx_constant, reason = "numbers as TensorFlow printed them")]

use super::{
    CropMethod, FillMode, Interpolation, Sampling, adjust_contrast, crop_and_resize, extract_image_patches,
    hsv_to_rgb, project, resize_area, resize_bicubic, resize_bilinear, resize_nearest, rgb_to_hsv,
};
use crate::Tensor;

// Expected values are TensorFlow 2.19's.
fn image() -> Tensor {
    Tensor::new([1, 3, 2, 2], (0..12).map(|i| (i as f32).powf(1.5)).collect::<Vec<f32>>()).unwrap()
}

fn near(got: &Tensor, want: &[f32]) {
    let got = got.data::<f32>().unwrap();
    assert_eq!(got.len(), want.len());
    for (g, w) in got.iter().zip(want) {
        // A few roundings of values near 30.
        assert!((g - w).abs() <= 1e-5 + 4e-7 * w.abs(), "{got:?} {want:?}");
    }
}

const CORNERS: Sampling = Sampling { align_corners: true, half_pixel_centers: false };
const CENTERS: Sampling = Sampling { align_corners: false, half_pixel_centers: true };

#[test]
fn bilinear_agrees_with_tensorflow() {
    let size = [2, 3];
    let t = resize_bilinear(image(), &size, Sampling::default()).unwrap();
    near(
        &t,
        &[
            0.0, 1.0, 1.885618, 3.7974353, 2.828427, 5.1961527, 15.313708, 19.09017, 20.544476, 24.697767,
            23.159859, 27.501564,
        ],
    );
    let t = resize_bilinear(image(), &size, CORNERS).unwrap();
    near(
        &t,
        &[
            0.0, 1.0, 1.4142135, 3.0980763, 2.828427, 5.1961527, 22.627417, 27.0, 27.125095, 31.741436,
            31.622776, 36.482872,
        ],
    );
    let t = resize_bilinear(image(), &size, CENTERS).unwrap();
    near(
        &t,
        &[
            2.0, 3.545085, 3.8977776, 6.036132, 5.795555, 8.527179, 18.970562, 23.045086, 23.180939,
            27.51865, 27.391317, 31.992218,
        ],
    );
}

#[test]
fn bicubic_agrees_with_tensorflow() {
    let size = [2, 3];
    let t = resize_bicubic(&image(), &size, Sampling::default()).unwrap();
    near(
        &t,
        &[
            0.0, 1.0, 1.9389938, 3.8766215, 3.1426966, 5.6623917, 16.063707, 20.044577, 21.691166, 26.012955,
            25.184622, 29.718046,
        ],
    );
    let t = resize_bicubic(&image(), &size, CENTERS).unwrap();
    near(
        &t,
        &[
            0.96652055, 2.2729204, 2.9540732, 4.9585466, 4.941625, 7.6441717, 19.457054, 23.6181, 24.34853,
            28.793167, 29.240002, 33.968227,
        ],
    );
}

#[test]
fn nearest_and_area_agree_with_tensorflow() {
    let t = resize_nearest(image(), &[2, 3], CORNERS).unwrap();
    near(
        &t,
        &[
            0.0, 1.0, 2.828427, 5.1961527, 2.828427, 5.1961527, 22.627417, 27.0, 31.622776, 36.482872,
            31.622776, 36.482872,
        ],
    );
    let t = resize_area(&image(), &[2, 3], false).unwrap();
    near(
        &t,
        &[
            2.6666667, 4.3934464, 4.7256327, 7.0154843, 6.7845974, 9.637521, 17.751612, 21.72678, 21.866222,
            26.111057, 25.98083, 30.49533,
        ],
    );
}

#[test]
fn crops_are_extrapolated_outside_the_image() {
    let boxes = Tensor::new([2, 4], vec![0.0f32, 0.0, 1.0, 1.0, 0.2, 0.1, 1.3, 0.9]).unwrap();
    let index = Tensor::vector(vec![0, 0]);
    let t = crop_and_resize(&image(), &boxes, &index, &[2, 2], CropMethod::Bilinear, -1.0).unwrap();
    near(
        &t,
        &[
            0.0, 1.0, 2.828427, 5.1961527, 22.627417, 27.0, 31.622776, 36.482872, 3.6375833, 5.617502,
            7.1382484, 9.980429, -1.0, -1.0, -1.0, -1.0,
        ],
    );
    assert!(
        crop_and_resize(&image(), &boxes, &Tensor::vector(vec![0, 1]), &[2, 2], CropMethod::Bilinear, 0.0)
            .is_err()
    );
}

#[test]
fn projections_fill_as_tensorflow_does() {
    let t = Tensor::new([1, 8], vec![1.1f32, 0.1, -0.5, 0.05, 0.9, 0.2, 0.01, -0.02]).unwrap();
    let run = |mode| project(&image(), &t, Some(&[3, 3]), Interpolation::Bilinear, mode, 7.0).unwrap();
    near(
        &run(FillMode::Constant),
        &[
            4.3, 5.018034, 4.2292948, 6.474923, 6.7730546, 7.705002, 8.651884, 10.620527, 15.361885,
            19.171778, 9.216421, 10.022557, 16.848526, 19.604164, 27.43278, 31.665981, 8.292156, 8.547205,
        ],
    );
    near(
        &run(FillMode::Wrap),
        &[
            5.2021294, 7.8609743, 4.2292948, 6.474923, 2.3529413, 3.9942176, 16.769491, 20.719763, 15.361885,
            19.171778, 10.925484, 14.344273, 2.828427, 5.1961527, 2.3327236, 4.4607449, 0.0, 1.0,
        ],
    );
    near(
        &run(FillMode::Reflect),
        &[
            1.6, 3.036068, 4.2292948, 6.474923, 6.3191657, 9.115007, 9.791113, 13.117443, 15.361885,
            19.171778, 18.082108, 22.112782, 22.627417, 27.0, 30.046268, 34.820927, 31.622776, 36.482872,
        ],
    );
}

#[test]
fn colours_convert_both_ways() {
    let rgb =
        Tensor::new([4, 3], vec![0.1f32, 0.5, 0.3, 0.9, 0.2, 0.4, 0.5, 0.5, 0.5, 0.2, 0.3, 0.8]).unwrap();
    let hsv = rgb_to_hsv(rgb).unwrap();
    near(&hsv, &[0.4166667, 0.8, 0.5, 0.952381, 0.7777778, 0.9, 0.0, 0.0, 0.5, 0.6388889, 0.75, 0.8]);
    near(&hsv_to_rgb(hsv).unwrap(), &[0.1, 0.5, 0.3, 0.9, 0.2, 0.4, 0.5, 0.5, 0.5, 0.2, 0.3, 0.8]);
    let pair = Tensor::new([1, 2, 3], vec![0.1f32, 0.5, 0.3, 0.9, 0.2, 0.4]).unwrap();
    near(&adjust_contrast(pair, 1.7).unwrap(), &[-0.18, 0.605, 0.265, 1.18, 0.095, 0.435]);
}

#[test]
fn patches_are_padded_with_zeros() {
    let x = Tensor::new([1, 4, 4, 1], (0..16).collect::<Vec<i32>>()).unwrap();
    let t = extract_image_patches(&x, [2, 2], [2, 2], [2, 2], true).unwrap();
    assert_eq!(t.data::<i32>().unwrap(), [0, 2, 8, 10, 2, 0, 10, 0, 8, 10, 0, 0, 10, 0, 0, 0]);
}
