use super::{
    Conv2dSpec, ConvSpec, DepthwiseFilter, PackedFilter, TransposedFilter, conv2d, conv2d_transpose, conv3d,
    depthwise_conv2d, dilation2d,
};
use crate::{
    Activation, DataFormat, Epilogue, KernelError, Padding, Tensor, Threads,
    geometry::{Geometry, channels_first, channels_last},
    simd::Isa,
    testing::{assert_close, noise},
};

fn tensor(shape: &[usize], seed: u64) -> Tensor {
    Tensor::new(shape, noise(shape.iter().product(), seed)).unwrap()
}

fn spec(strides: [usize; 2], dilations: [usize; 2], padding: Padding) -> Conv2dSpec {
    Conv2dSpec { strides, dilations, padding, data_format: DataFormat::ChannelsLast }
}

/// Calls `f(output row, input cell, window position)` for every pair that a convolution multiplies.
fn pairs(g: &Geometry, mut f: impl FnMut(usize, usize, usize)) {
    let [d, h, w] = g.axes;
    for b in 0..g.batch {
        for (od, oh, ow) in cells(d.output, h.output, w.output) {
            for (kd, kh, kw) in cells(d.window, h.window, w.window) {
                let at = |a: crate::geometry::Axis, o: usize, k: usize| {
                    (o * a.stride + k * a.dilation).checked_sub(a.before).filter(|&i| i < a.input)
                };
                if let (Some(id), Some(ih), Some(iw)) = (at(d, od, kd), at(h, oh, kh), at(w, ow, kw)) {
                    f(
                        ((b * d.output + od) * h.output + oh) * w.output + ow,
                        ((b * d.input + id) * h.input + ih) * w.input + iw,
                        (kd * h.window + kh) * w.window + kw,
                    );
                }
            }
        }
    }
}

fn cells(d: usize, h: usize, w: usize) -> impl Iterator<Item = (usize, usize, usize)> {
    (0..d * h * w).map(move |i| (i / w / h, i / w % h, i % w))
}

fn reference(x: &Tensor, f: &Tensor, g: &Geometry, groups: usize) -> Vec<f64> {
    let (xs, fs) = (x.data::<f32>().unwrap(), f.data::<f32>().unwrap());
    let [ci, co] = *f.dims().last_chunk::<2>().unwrap();
    let mut out = vec![0.0; g.output_rows() * co];
    pairs(g, |row, cell, tap| {
        for o in 0..co {
            let first = o / (co / groups) * ci;
            for c in 0..ci {
                out[row * co + o] +=
                    f64::from(xs[cell * g.channels + first + c]) * f64::from(fs[(tap * ci + c) * co + o]);
            }
        }
    });
    out
}

fn specs() -> Vec<Conv2dSpec> {
    let mut specs = Vec::new();
    for padding in [Padding::Same, Padding::Valid, Padding::Explicit([[2, 0], [1, 3]])] {
        for strides in [[1, 1], [2, 1], [2, 2], [2, 3]] {
            for dilations in [[1, 1], [2, 1], [1, 2]] {
                specs.push(spec(strides, dilations, padding));
            }
        }
    }
    specs
}

#[test]
fn conv2d_matches_double_precision_for_all_paddings_strides_and_dilations() {
    for ([kh, kw], ci, co) in [([1, 1], 5, 17), ([3, 3], 3, 40), ([2, 5], 19, 33), ([3, 1], 130, 3)] {
        let x = tensor(&[2, 9, 11, ci], 1);
        let f = tensor(&[kh, kw, ci, co], 2);
        for spec in specs() {
            let Ok(g) = spec.geometry(x.dims(), [kh, kw]) else { continue };
            let want = reference(&x, &f, &g, 1);
            for isa in Isa::available() {
                let got = isa
                    .scope(|| {
                        conv2d(&x, &PackedFilter::new(&f, 1).unwrap(), &spec, &Epilogue::default()).unwrap()
                    })
                    .unwrap();
                assert_eq!(got.dims(), &super::output_shape(x.dims(), f.dims(), &spec).unwrap()[..]);
                assert_close(got.data().unwrap(), &want, 2e-5, &format!("{isa} {spec:?}"));
            }
        }
    }
}

#[test]
fn winograd_matches_double_precision() {
    let bias_relu =
        |n| Epilogue { bias: Some(tensor(&[n], 3)), activation: Activation::Relu, ..Epilogue::default() };
    let plus_swish = |shape: &[usize]| Epilogue {
        residual: Some(tensor(shape, 4)),
        activation: Activation::Swish,
        ..Epilogue::default()
    };
    // Sizes that tiles of 4×4 and of 2×2 fill and do not fill; channels over one block of sums; many blocks of tiles.
    for (batch, [h, w], ci, co) in
        [(1, [16, 12], 32, 48), (2, [9, 15], 48, 32), (1, [8, 7], 64, 80), (5, [12, 11], 288, 32)]
    {
        let (x, f) = (tensor(&[batch, h, w, ci], 1), tensor(&[3, 3, ci, co], 2));
        for padding in [Padding::Same, Padding::Valid, Padding::Explicit([[2, 0], [1, 3]])] {
            let spec = spec([1, 1], [1, 1], padding);
            let sums = reference(&x, &f, &spec.geometry(x.dims(), [3, 3]).unwrap(), 1);
            let shape = super::output_shape(x.dims(), f.dims(), &spec).unwrap();
            for epilogue in [Epilogue::default(), bias_relu(co), plus_swish(&shape)] {
                let add = |t: &Option<Tensor>, i: usize| {
                    t.as_ref().map_or(0.0, |t| f64::from(t.data::<f32>().unwrap()[i % t.len()]))
                };
                let want: Vec<f64> = sums
                    .iter()
                    .enumerate()
                    .map(|(i, w)| w + add(&epilogue.bias, i) + add(&epilogue.residual, i))
                    .map(|y| match epilogue.activation {
                        Activation::Relu => y.max(0.0),
                        Activation::Swish => y / (1.0 + (-y).exp()),
                        _ => y,
                    })
                    .collect();
                for isa in Isa::available() {
                    let run = || {
                        let filter = PackedFilter::for_image(&f, 1, &spec, [h, w]).unwrap();
                        assert_eq!(filter.is_transformed(), isa != Isa::Scalar);
                        conv2d(&x, &filter, &spec, &epilogue).unwrap()
                    };
                    let got = isa.scope(run).unwrap();
                    assert_eq!(got.dims(), &shape[..]);
                    // Sums have a standard deviation of up to 17.
                    assert_close(got.data().unwrap(), &want, 2e-4, &format!("{isa} {h}x{w} {padding:?}"));
                    let two = Threads::new(2).unwrap().run(|| isa.scope(run).unwrap());
                    assert_eq!(got, two, "bits on two threads");
                }
            }
        }
    }
}

#[test]
fn pictures_match_double_precision() {
    // Widths that strips of outputs fill and do not fill; one and two vectors, and an odd one.
    for ([h, w], window, co, stride) in [([9, 29], 3, 32, 2), ([8, 33], 5, 48, 2), ([7, 17], 3, 16, 1)] {
        let (x, f) = (tensor(&[2, h, w, 3], 1), tensor(&[window, window, 3, co], 2));
        for padding in [Padding::Same, Padding::Valid, Padding::Explicit([[2, 0], [1, 3]])] {
            let spec = spec([stride; 2], [1, 1], padding);
            let sums = reference(&x, &f, &spec.geometry(x.dims(), [window; 2]).unwrap(), 1);
            let shape = super::output_shape(x.dims(), f.dims(), &spec).unwrap();
            let (bias, residual) = (tensor(&[co], 3), tensor(&shape, 4));
            for activation in [Activation::Relu6, Activation::Swish] {
                let swish = activation == Activation::Swish;
                let epilogue = Epilogue {
                    bias: Some(bias.clone()),
                    residual: swish.then(|| residual.clone()),
                    activation,
                    ..Epilogue::default()
                };
                let (bias, residual) = (bias.data::<f32>().unwrap(), residual.data::<f32>().unwrap());
                let finish = |(i, sum): (usize, &f64)| {
                    let y = sum + f64::from(bias[i % co]);
                    let gated = y + f64::from(residual[i]);
                    if swish { gated / (1.0 + (-gated).exp()) } else { y.clamp(0.0, 6.0) }
                };
                let want: Vec<f64> = sums.iter().enumerate().map(finish).collect();
                for isa in Isa::available() {
                    let run = || conv2d(&x, &PackedFilter::new(&f, 1).unwrap(), &spec, &epilogue).unwrap();
                    let got = isa.scope(run).unwrap();
                    assert_close(got.data().unwrap(), &want, 2e-5, &format!("{isa} {h}x{w} {padding:?}"));
                    let two = Threads::new(2).unwrap().run(|| isa.scope(run).unwrap());
                    assert_eq!(got, two, "bits on two threads");
                }
            }
        }
    }
}

#[test]
fn filters_that_winograd_cannot_or_should_not_do_are_not_transformed() {
    let one = spec([1, 1], [1, 1], Padding::Same);
    let image = [28, 28];
    let packed = |dims: &[usize], groups, spec: &Conv2dSpec, image| {
        PackedFilter::for_image(&tensor(dims, 1), groups, spec, image).unwrap()
    };
    let usual = [3, 3, 64, 64];
    assert_eq!(packed(&usual, 1, &one, image).is_transformed(), Isa::current() != Isa::Scalar);
    assert!(!packed(&usual, 2, &one, image).is_transformed());
    assert!(!packed(&usual, 1, &spec([2, 2], [1, 1], Padding::Same), image).is_transformed());
    assert!(!packed(&usual, 1, &spec([1, 1], [2, 2], Padding::Same), image).is_transformed());
    assert!(!packed(&usual, 1, &one, [3, 3]).is_transformed());
    assert!(!packed(&usual, 1, &one, [0, 0]).is_transformed());
    assert!(!packed(&[3, 3, 8, 64], 1, &one, image).is_transformed());
    assert!(!packed(&[3, 3, 64, 70], 1, &one, image).is_transformed());
    assert!(!packed(&[5, 5, 64, 64], 1, &one, image).is_transformed());
    if Isa::current() != Isa::Scalar {
        let filter = packed(&usual, 1, &one, image);
        let strided = spec([2, 2], [1, 1], Padding::Same);
        let x = tensor(&[1, 28, 28, 64], 1);
        assert!(matches!(
            conv2d(&x, &filter, &strided, &Epilogue::default()),
            Err(KernelError::Argument { .. })
        ));
        // Images of other sizes are slower, not wrong.
        let x = tensor(&[1, 2, 2, 64], 1);
        let direct = PackedFilter::new(&tensor(&usual, 1), 1).unwrap();
        let want = conv2d(&x, &direct, &one, &Epilogue::default()).unwrap();
        let want: Vec<f64> = want.data::<f32>().unwrap().iter().map(|&x| f64::from(x)).collect();
        let got = conv2d(&x, &filter, &one, &Epilogue::default()).unwrap();
        assert_close(got.data().unwrap(), &want, 2e-5, "a small image");
    }
}

#[test]
fn grouped_convolutions_match_double_precision() {
    for (groups, ci, co, window) in [(2, 3, 10, 3), (4, 17, 20, 1), (3, 1, 3, 2)] {
        let x = tensor(&[2, 5, 6, ci * groups], 1);
        let f = tensor(&[window, window, ci, co / groups * groups], 2);
        let spec = spec([1, 1], [1, 1], Padding::Same);
        let want = reference(&x, &f, &spec.geometry(x.dims(), [window; 2]).unwrap(), groups);
        let bias = tensor(&[co / groups * groups], 3);
        let b = bias.data::<f32>().unwrap();
        let want: Vec<f64> =
            want.iter().enumerate().map(|(i, w)| (w + f64::from(b[i % b.len()])).max(0.0)).collect();
        let epilogue =
            Epilogue { bias: Some(bias.clone()), activation: Activation::Relu, ..Epilogue::default() };
        for isa in Isa::available() {
            let got = isa
                .scope(|| conv2d(&x, &PackedFilter::new(&f, groups).unwrap(), &spec, &epilogue).unwrap())
                .unwrap();
            assert_close(got.data().unwrap(), &want, 2e-5, &format!("{isa} {groups} groups"));
        }
    }
}

#[test]
fn conv3d_matches_double_precision() {
    let x = tensor(&[2, 4, 5, 6, 7], 1);
    let f = tensor(&[2, 3, 2, 7, 18], 2);
    for padding in [Padding::Same, Padding::Valid, Padding::Explicit([[1, 0], [0, 1], [1, 1]])] {
        for (strides, dilations) in [([1, 1, 1], [1, 1, 1]), ([1, 2, 2], [1, 1, 1]), ([1, 1, 1], [2, 1, 2])] {
            let spec = ConvSpec { strides, dilations, padding, data_format: DataFormat::ChannelsLast };
            let want = reference(&x, &f, &spec.geometry(x.dims(), [2, 3, 2]).unwrap(), 1);
            for isa in Isa::available() {
                let got = isa
                    .scope(|| {
                        conv3d(&x, &PackedFilter::new(&f, 1).unwrap(), &spec, &Epilogue::default()).unwrap()
                    })
                    .unwrap();
                assert_close(got.data().unwrap(), &want, 2e-5, &format!("{isa} {spec:?}"));
            }
        }
    }
}

#[test]
fn depthwise_matches_double_precision() {
    for ([kh, kw], c, multiplier) in [([3, 3], 37, 1), ([5, 5], 16, 1), ([3, 2], 5, 3), ([1, 1], 1, 1)] {
        let x = tensor(&[2, 13, 21, c], 1);
        let f = tensor(&[kh, kw, c, multiplier], 2);
        let bias = tensor(&[c * multiplier], 3);
        let (xs, fs, b) = (x.data::<f32>().unwrap(), f.data::<f32>().unwrap(), bias.data::<f32>().unwrap());
        for spec in specs() {
            let Ok(g) = spec.geometry(x.dims(), [kh, kw]) else { continue };
            let co = c * multiplier;
            let mut want = vec![0.0; g.output_rows() * co];
            pairs(&g, |row, cell, tap| {
                for o in 0..co {
                    want[row * co + o] +=
                        f64::from(xs[cell * c + o / multiplier]) * f64::from(fs[tap * co + o]);
                }
            });
            for (activation, f64_activation) in [
                (Activation::None, (|x| x) as fn(f64) -> f64),
                (Activation::Relu6, |x: f64| x.clamp(0.0, 6.0)),
                (Activation::Swish, |x: f64| x / (1.0 + (-x).exp())),
            ] {
                let want: Vec<f64> =
                    want.iter().enumerate().map(|(i, w)| f64_activation(w + f64::from(b[i % co]))).collect();
                let epilogue = Epilogue { bias: Some(bias.clone()), activation, ..Epilogue::default() };
                for isa in Isa::available() {
                    let got = isa
                        .scope(|| {
                            depthwise_conv2d(&x, &DepthwiseFilter::new(&f).unwrap(), &spec, &epilogue)
                                .unwrap()
                        })
                        .unwrap();
                    assert_close(got.data().unwrap(), &want, 2e-5, &format!("{isa} {spec:?} {activation:?}"));
                }
            }
        }
    }
}

#[test]
fn transposed_convolution_is_the_adjoint_of_convolution() {
    // Σ conv(x)·y = Σ x·transpose(y) would be one number; the matrix of the convolution gives every element.
    for (co, ci) in [(3, 5), (17, 33)] {
        let f = tensor(&[3, 2, co, ci], 2);
        for spec in specs() {
            let result = [2, 9, 11, co];
            let Ok(g) = spec.geometry(&result, [3, 2]) else { continue };
            let y = tensor(&[2, g.axes[1].output, g.axes[2].output, ci], 1);
            let (ys, fs) = (y.data::<f32>().unwrap(), f.data::<f32>().unwrap());
            let mut want = vec![0.0; result.iter().product()];
            pairs(&g, |row, cell, tap| {
                for o in 0..co {
                    for c in 0..ci {
                        want[cell * co + o] +=
                            f64::from(ys[row * ci + c]) * f64::from(fs[(tap * co + o) * ci + c]);
                    }
                }
            });
            for isa in Isa::available() {
                let got = isa
                    .scope(|| {
                        let f = TransposedFilter::new(&f).unwrap();
                        conv2d_transpose(&y, &f, [9, 11], &spec, &Epilogue::default()).unwrap()
                    })
                    .unwrap();
                assert_close(got.data().unwrap(), &want, 5e-5, &format!("{isa} {spec:?}"));
            }
        }
    }
}

#[test]
fn channels_first_gives_the_transposed_result() {
    let x = tensor(&[2, 6, 7, 5], 1);
    let f = tensor(&[3, 3, 5, 4], 2);
    let bias = tensor(&[4], 3);
    let last = spec([1, 2], [1, 1], Padding::Same);
    let first = Conv2dSpec { data_format: DataFormat::ChannelsFirst, ..last };
    let filter = PackedFilter::new(&f, 1).unwrap();
    let epilogue = Epilogue { bias: Some(bias), activation: Activation::Relu, ..Epilogue::default() };
    let want = conv2d(&x, &filter, &last, &epilogue).unwrap();
    let got = conv2d(&channels_first(&x).unwrap(), &filter, &first, &epilogue).unwrap();
    assert_eq!(got.dims(), [2, 4, 6, 4]);
    assert_eq!(channels_last(&got).unwrap(), want);
}

#[test]
fn a_bias_may_have_any_shape_that_broadcasts() {
    let x = tensor(&[2, 3, 4, 5], 1);
    let f = tensor(&[1, 1, 5, 6], 2);
    let filter = PackedFilter::new(&f, 1).unwrap();
    let spec = Conv2dSpec::default();
    let plain = conv2d(&x, &filter, &spec, &Epilogue::default()).unwrap();
    let shapes: [&[usize]; 8] =
        [&[], &[1], &[6], &[4, 1], &[3, 1, 6], &[3, 4, 6], &[2, 1, 4, 1], &[2, 3, 4, 6]];
    for shape in shapes {
        let bias = tensor(shape, 3);
        let want = plain.view::<f32>().unwrap().to_owned() + bias.view::<f32>().unwrap();
        for residual in [None, Some(tensor(&[3, 4, 6], 4))] {
            let want = match &residual {
                Some(r) => &want + &r.view::<f32>().unwrap(),
                None => want.clone(),
            };
            let epilogue = Epilogue { bias: Some(bias.clone()), residual, ..Epilogue::default() };
            let got = conv2d(&x, &filter, &spec, &epilogue).unwrap();
            let want: Vec<f64> = want.iter().map(|&x| f64::from(x)).collect();
            assert_close(got.data().unwrap(), &want, 1e-6, &format!("bias {shape:?}"));
        }
    }
    let wrong = Epilogue::bias(tensor(&[5], 1));
    assert!(matches!(conv2d(&x, &filter, &spec, &wrong), Err(KernelError::Shapes { .. })));
}

#[test]
fn dilation2d_matches_tensorflow() {
    // tf.nn.dilation2d of TensorFlow 2.19 on these inputs.
    let x = Tensor::new([1, 3, 3, 1], vec![1., 2., 3., 4., 9., 6., 7., 8., 5.]).unwrap();
    let f = Tensor::new([2, 2, 1], vec![0.5, -1., 2., 0.]).unwrap();
    let got = dilation2d(&x, &f, &spec([1, 1], [1, 1], Padding::Same)).unwrap();
    assert_eq!(got.data::<f32>().unwrap(), [9.0, 11.0, 8.0, 9.0, 10.0, 7.0, 7.5, 8.5, 5.5]);
    let got = dilation2d(&x, &f, &spec([2, 2], [1, 1], Padding::Valid)).unwrap();
    assert_eq!(got.data::<f32>().unwrap(), [9.0]);
}

#[test]
fn empty_batches_and_images_give_empty_results() {
    let f = tensor(&[4, 4, 3, 5], 1);
    let filter = PackedFilter::new(&f, 1).unwrap();
    let same = spec([1, 1], [1, 1], Padding::Same);
    let none = Epilogue::default();
    let shape =
        |x: &[usize], s: &Conv2dSpec| conv2d(&tensor(x, 1), &filter, s, &none).unwrap().dims().to_vec();
    assert_eq!(shape(&[0, 6, 6, 3], &same), [0, 6, 6, 5]);
    assert_eq!(shape(&[1, 0, 6, 3], &same), [1, 0, 6, 5]);
    assert_eq!(shape(&[1, 3, 6, 3], &spec([1, 1], [1, 1], Padding::Valid)), [1, 0, 3, 5]);
    let nothing = PackedFilter::new(&tensor(&[2, 1, 0, 2], 1), 1).unwrap();
    let y = conv2d(
        &tensor(&[1, 2, 2, 0], 1),
        &nothing,
        &same,
        &Epilogue::bias(Tensor::vector(vec![1.0f32, 2.0])),
    );
    assert_eq!(y.unwrap().data::<f32>().unwrap(), [1., 2., 1., 2., 1., 2., 1., 2.]);
}

#[test]
fn wrong_inputs_are_refused_with_what_was_expected() {
    let f = tensor(&[3, 3, 3, 5], 1);
    let filter = PackedFilter::new(&f, 1).unwrap();
    let same = spec([1, 1], [1, 1], Padding::Same);
    let none = Epilogue::default();
    let error = conv2d(&tensor(&[1, 6, 6, 4], 1), &filter, &same, &none).unwrap_err();
    assert_eq!(error.to_string(), "the filter expects 3 channels, the image has 4");
    assert!(matches!(conv2d(&tensor(&[6, 6, 3], 1), &filter, &same, &none), Err(KernelError::Rank { .. })));
    assert!(matches!(PackedFilter::<2>::new(&tensor(&[3, 3, 3], 1), 1), Err(KernelError::Rank { .. })));
    assert!(matches!(PackedFilter::<2>::new(&f, 2), Err(KernelError::Argument { .. })));
    let ints = Tensor::new([1, 6, 6, 3], vec![0i32; 108]).unwrap();
    assert!(matches!(conv2d(&ints, &filter, &same, &none), Err(KernelError::DType { .. })));
    let huge = spec([1, 1], [1, 1], Padding::Explicit([[1 << 30, 0], [1 << 30, 0]]));
    assert!(matches!(
        conv2d(&tensor(&[1, 6, 6, 3], 1), &filter, &huge, &none),
        Err(KernelError::TooLarge { .. })
    ));
}

#[test]
fn the_number_of_threads_does_not_change_a_bit() {
    let (one, two) = (Threads::new(1).unwrap(), Threads::new(2).unwrap());
    let x = tensor(&[1, 40, 40, 32], 1);
    let filter = PackedFilter::new(&tensor(&[3, 3, 32, 64], 2), 1).unwrap();
    let depthwise = DepthwiseFilter::new(&tensor(&[3, 3, 32, 1], 3)).unwrap();
    let same = spec([1, 1], [1, 1], Padding::Same);
    let none = Epilogue::default();
    let all = || {
        (conv2d(&x, &filter, &same, &none).unwrap(), depthwise_conv2d(&x, &depthwise, &same, &none).unwrap())
    };
    assert_eq!(one.run(all), two.run(all));
}
