//! Images, `[batch, height, width, channels]`.
use tfjs_kernels::{
    DType,
    image::{self, CropMethod, FillMode, Interpolation, Sampling},
};

use super::infer::{choice, dims, dtype, fact, ints, unsupported};
use crate::{
    Fact, Op, OpError,
    op::{Build, OpDef, one, same, simple},
};

type Result<T> = std::result::Result<T, OpError>;
type Boxed = Result<Box<dyn Op>>;

pub(super) const OPS: &[OpDef] = &[
    OpDef::new("AdjustContrastv2", 2..=2, |_| {
        simple(
            |x| {
                let factor = x.scalar::<f32>(1, "contrast_factor")?;
                one(image::adjust_contrast(x.take(0)?, factor))
            },
            same,
        )
    }),
    OpDef::new("AdjustHue", 2..=2, |_| {
        simple(
            |x| {
                let delta = x.scalar::<f32>(1, "delta")?;
                one(image::adjust_hue(x.take(0)?, delta))
            },
            same,
        )
    }),
    OpDef::new("AdjustSaturation", 2..=2, |_| {
        simple(
            |x| {
                let factor = x.scalar::<f32>(1, "scale")?;
                one(image::adjust_saturation(x.take(0)?, factor))
            },
            same,
        )
    }),
    OpDef::new("CropAndResize", 4..=4, |b| {
        let options = [("bilinear", CropMethod::Bilinear), ("nearest", CropMethod::Nearest)];
        let method = choice(b, "method", "bilinear", &options, "bilinear and nearest")?;
        let fill = b.attrs.float_or("extrapolation_value", 0.0)?;
        simple(
            move |x| {
                let size = x.elements(3, "crop_size")?;
                one(image::crop_and_resize(x.tensor(0)?, x.tensor(1)?, x.tensor(2)?, size, method, fill))
            },
            |f| {
                let count = dims(f, 1).or(dims(f, 2)).and_then(|d| *d.first()?);
                Ok(vec![resized(f, 3, count, Some(DType::Float32))])
            },
        )
    }),
    OpDef::new("ExtractImagePatches", 1..=1, patches),
    OpDef::new("HSVToRGB", 1..=1, |_| simple(|x| one(image::hsv_to_rgb(x.take(0)?)), same)),
    OpDef::new("ImageProjectiveTransformV2", 3..=3, project),
    OpDef::new("ImageProjectiveTransformV3", 4..=4, project),
    OpDef::new("RGBToHSV", 1..=1, |_| simple(|x| one(image::rgb_to_hsv(x.take(0)?)), same)),
    OpDef::new("ResizeArea", 2..=2, |b| {
        let corners = b.attrs.bool_or("align_corners", false)?;
        simple(
            move |x| one(image::resize_area(x.tensor(0)?, x.elements(1, "size")?, corners)),
            |f| Ok(vec![resized(f, 1, batch(f), Some(DType::Float32))]),
        )
    }),
    OpDef::new("ResizeBicubic", 2..=2, |b| {
        let sampling = sampling(b)?;
        simple(
            move |x| one(image::resize_bicubic(x.tensor(0)?, x.elements(1, "size")?, sampling)),
            |f| Ok(vec![resized(f, 1, batch(f), Some(DType::Float32))]),
        )
    }),
    OpDef::new("ResizeBilinear", 2..=2, |b| {
        let sampling = sampling(b)?;
        simple(
            move |x| {
                let images = x.take(0)?;
                one(image::resize_bilinear(images, x.elements(1, "size")?, sampling))
            },
            |f| Ok(vec![resized(f, 1, batch(f), Some(DType::Float32))]),
        )
    }),
    OpDef::new("ResizeNearestNeighbor", 2..=2, |b| {
        let sampling = sampling(b)?;
        simple(
            move |x| {
                let images = x.take(0)?;
                one(image::resize_nearest(images, x.elements(1, "size")?, sampling))
            },
            |f| Ok(vec![resized(f, 1, batch(f), dtype(f, 0))]),
        )
    }),
];

fn sampling(b: &Build<'_>) -> Result<Sampling> {
    let align_corners = b.attrs.bool_or("align_corners", false)?;
    let half_pixel_centers = b.attrs.bool_or("half_pixel_centers", false)?;
    if align_corners && half_pixel_centers {
        return Err(unsupported("half_pixel_centers", "true", "false where align_corners is true"));
    }
    Ok(Sampling { align_corners, half_pixel_centers })
}

fn batch(f: &[Fact]) -> Option<usize> {
    *dims(f, 0)?.first()?
}

/// Images like input 0 with the size that input `size` gives.
fn resized(f: &[Fact], size: usize, batch: Option<usize>, dtype: Option<DType>) -> Fact {
    let [height, width] = match ints(f, size) {
        Some(&[h, w]) => [usize::try_from(h).ok(), usize::try_from(w).ok()],
        _ => [None; 2],
    };
    let channels = dims(f, 0).and_then(|d| *d.get(3)?);
    fact(dtype, Some(vec![batch, height, width, channels]))
}

fn project(b: &Build<'_>) -> Boxed {
    let options = [("NEAREST", Interpolation::Nearest), ("BILINEAR", Interpolation::Bilinear)];
    let interpolation = choice(b, "interpolation", "", &options, "NEAREST and BILINEAR")?;
    let options = [
        ("CONSTANT", FillMode::Constant),
        ("REFLECT", FillMode::Reflect),
        ("WRAP", FillMode::Wrap),
        ("NEAREST", FillMode::Nearest),
    ];
    let mode = choice(b, "fill_mode", "CONSTANT", &options, "CONSTANT, REFLECT, WRAP and NEAREST")?;
    simple(
        move |x| {
            let size = x.elements(2, "output_shape")?;
            // Version 2 fills with zeros.
            let fill = if x.len() > 3 { x.scalar(3, "fill_value")? } else { 0.0 };
            one(image::project(x.tensor(0)?, x.tensor(1)?, Some(size), interpolation, mode, fill))
        },
        |f| Ok(vec![resized(f, 2, batch(f), dtype(f, 0))]),
    )
}

fn patches(b: &Build<'_>) -> Boxed {
    let pair = |name: &'static str| match b.attrs.ints(name)?[..] {
        [1, h, w, 1] if h > 0 && w > 0 => Ok([h as usize, w as usize]),
        ref other => Err(unsupported(name, format!("{other:?}"), "[1, height, width, 1]")),
    };
    let (sizes, strides, rates) = (pair("ksizes")?, pair("strides")?, pair("rates")?);
    let same_size = choice(b, "padding", "", &[("SAME", true), ("VALID", false)], "SAME and VALID")?;
    simple(
        move |x| one(image::extract_image_patches(x.tensor(0)?, sizes, strides, rates, same_size)),
        move |f| {
            let depth = dims(f, 0).and_then(|d| (*d.get(3)?)?.checked_mul(sizes[0])?.checked_mul(sizes[1]));
            Ok(vec![fact(dtype(f, 0), Some(vec![batch(f), None, None, depth]))])
        },
    )
}
