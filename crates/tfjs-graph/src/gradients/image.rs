//! Images: resizing, cropping, patches, colours, projections.
use tfjs_kernels::{DType, Tensor};

use super::{GradCx, Result, Row, compose::compose, row};
use crate::{Port, builder::attr};

pub(super) const RULES: &[Row] = &[
    row("CropAndResize", |c| {
        let (image, boxes, box_index, dy) = (c.x(0), c.x(1), c.x(2), c.dy()?);
        if c.wants(0) {
            let shape = c.shape(image)?;
            let g = c.op_with("CropAndResizeGradImage", &[dy, boxes, box_index, shape], &["method"])?;
            c.set(0, g)?;
        }
        if c.wants(1) {
            let g = c.op("CropAndResizeGradBoxes", &[dy, image, boxes, box_index], &[])?;
            c.set(1, g)?;
        }
        Ok(())
    }),
    row("ExtractImagePatches", patches),
    row("ImageProjectiveTransformV2", project),
    row("ImageProjectiveTransformV3", project),
    row("RGBToHSV", |c| {
        let x = c.x(0);
        let [red, green, blue] = channels(c, x)?;
        // Which channel is the largest and which the smallest; of equal ones as TensorFlow has it.
        let both = |c: &mut GradCx<'_>, one: (&str, Port, Port), two: (&str, Port, Port)| {
            let (one, two) = (c.bin(one.0, one.1, one.2)?, c.bin(two.0, two.1, two.2)?);
            let both = c.bin("LogicalAnd", one, two)?;
            c.cast(both, DType::Float32)
        };
        let (over, least, under, most) = ("Greater", "GreaterEqual", "Less", "LessEqual");
        let large = [
            both(c, (least, red, blue), (least, red, green))?,
            both(c, (over, green, red), (least, green, blue))?,
            both(c, (over, blue, red), (over, blue, green))?,
        ];
        let small = [
            both(c, (under, red, blue), (under, red, green))?,
            both(c, (most, green, red), (under, green, blue))?,
            both(c, (most, blue, red), (most, blue, green))?,
        ];
        compose(c, |c, x| {
            let parts = channels(c, x[0])?;
            let picked = |c: &mut GradCx<'_>, of: [Port; 3], masks: [Port; 3]| {
                let mut all = Vec::with_capacity(3);
                for (part, mask) in of.into_iter().zip(masks) {
                    all.push(c.mul(part, mask)?);
                }
                c.op("AddN", &all, &[])
            };
            let (value, least) = (picked(c, parts, large)?, picked(c, parts, small)?);
            let range = c.sub(value, least)?;
            let saturation = c.bin("DivNoNan", range, value)?;
            let [red, green, blue] = parts;
            let steps = [c.sub(green, blue)?, c.sub(blue, red)?, c.sub(red, green)?];
            let step = picked(c, steps, large)?;
            let hue = c.bin("DivNoNan", step, range)?;
            let hue = c.scale(hue, 1.0 / 6.0)?;
            c.op("Pack", &[hue, saturation, value], &[("axis", attr::int(-1))])
        })
    }),
    row("ResizeBicubic", |c| {
        let (x, dy) = (c.x(0), c.dy()?);
        let g = c.op_with("ResizeBicubicGrad", &[dy, x], &SAMPLING)?;
        c.set(0, g)
    }),
    row("ResizeBilinear", |c| {
        let (x, dy) = (c.x(0), c.dy()?);
        let g = c.op_with("ResizeBilinearGrad", &[dy, x], &SAMPLING)?;
        c.set(0, g)
    }),
    row("ResizeNearestNeighbor", |c| {
        let (x, dy) = (c.x(0), c.dy()?);
        let shape = c.shape(x)?;
        let (begin, two) = (c.ints(&[1]), c.ints(&[2]));
        let size = match c.fact(x).full_shape() {
            Some(s) if s.len() == 4 => c.ints(&[s[1] as i32, s[2] as i32]),
            _ => c.op("Slice", &[shape, begin, two], &[])?,
        };
        let g = c.op_with("ResizeNearestNeighborGrad", &[dy, size], &SAMPLING)?;
        c.set(0, g)
    }),
];

const SAMPLING: [&str; 2] = ["align_corners", "half_pixel_centers"];

/// The three colours.
fn channels(c: &mut GradCx<'_>, x: Port) -> Result<[Port; 3]> {
    let parts = c.b.op_n("Unpack", &[x], &[("num", attr::int(3)), ("axis", attr::int(-1))], 3)?;
    Ok([parts[0], parts[1], parts[2]])
}

/// Patches of numbered pixels say which pixel each element of a patch is.
fn patches(c: &mut GradCx<'_>) -> Result<()> {
    let (x, y, dy) = (c.x(0), c.y(0), c.dy()?);
    let (batch, height, width, depth) = (c.dim(x, 0)?, c.dim(x, 1)?, c.dim(x, 2)?, c.dim(x, 3)?);
    let pixels = c.mul(height, width)?;
    // From one up: zero is the padding. Floats count to 2^24 without a gap, which is more pixels than an image has here.
    let (one, minus) = (c.int(1), c.int(-1));
    let end = c.add(pixels, one)?;
    let numbers = c.op("Range", &[one, end, one], &[])?;
    let numbers = c.cast(numbers, DType::Float32)?;
    let join = |c: &mut GradCx<'_>, dims: &[Port]| c.op("Pack", dims, &[("axis", attr::int(0))]);
    let shape = join(c, &[one, height, width, one])?;
    let numbers = c.op("Reshape", &[numbers, shape], &[])?;
    let places = c.op_with("ExtractImagePatches", &[numbers], &["ksizes", "strides", "rates", "padding"])?;
    let places = c.cast(places, DType::Int32)?;
    let flat = c.ints(&[-1]);
    let places = c.op("Reshape", &[places, flat], &[])?;
    let ids = c.sub(places, one)?;
    let target = join(c, &[batch, minus, depth])?;
    // Images without pixels or patches: their sizes do not follow from the number of elements.
    if c.fact(y).full_shape().is_some_and(|s| s.elements() == 0) {
        let g = c.un("ZerosLike", x)?;
        return c.set(0, g);
    }
    let rows = c.op("Reshape", &[dy, target], &[])?;
    let rows = c.transpose(rows, &[1, 0, 2])?;
    let sums = c.op("UnsortedSegmentSum", &[rows, ids, pixels], &[])?;
    let sums = c.transpose(sums, &[1, 0, 2])?;
    let whole = match c.fact(x).full_shape() {
        Some(_) => c.shape(x)?,
        None => join(c, &[batch, height, width, depth])?,
    };
    let g = c.op("Reshape", &[sums, whole], &[])?;
    c.set(0, g)
}

/// As in TensorFlow, the gradient is projected back: the adjoint of moves by whole pixels, near it for others.
fn project(c: &mut GradCx<'_>) -> Result<()> {
    let (x, transforms, dy) = (c.x(0), c.x(1), c.dy()?);
    if c.wants(1) {
        return c.refuse("the transforms have no gradient");
    }
    let p = c.b.op_n("Unpack", &[transforms], &[("num", attr::int(8)), ("axis", attr::int(1))], 8)?;
    let minor = |c: &mut GradCx<'_>, a: usize, b: usize, d: usize, e: usize| {
        let (left, right) = (c.mul(p[a], p[b])?, c.mul(p[d], p[e])?);
        c.sub(left, right)
    };
    // The inverse of [p0 p1 p2; p3 p4 p5; p6 p7 1], scaled so that its last element is one.
    let less = |c: &mut GradCx<'_>, single: usize, a: usize, b: usize| {
        let product = c.mul(p[a], p[b])?;
        c.sub(p[single], product)
    };
    let inverse = [
        less(c, 4, 5, 7)?,
        {
            let g = less(c, 1, 2, 7)?;
            c.neg(g)?
        },
        minor(c, 1, 5, 2, 4)?,
        {
            let g = less(c, 3, 5, 6)?;
            c.neg(g)?
        },
        less(c, 0, 2, 6)?,
        minor(c, 2, 3, 0, 5)?,
        minor(c, 3, 7, 4, 6)?,
        minor(c, 1, 6, 0, 7)?,
    ];
    let last = minor(c, 0, 4, 1, 3)?;
    let rows = c.op("Pack", &inverse, &[("axis", attr::int(1))])?;
    let minus = c.int(-1);
    let last = c.op("ExpandDims", &[last, minus], &[])?;
    let back = c.div(rows, last)?;
    let size = match c.fact(x).full_shape() {
        Some(s) if s.len() == 4 => c.ints(&[s[1] as i32, s[2] as i32]),
        _ => {
            let (shape, begin, two) = (c.shape(x)?, c.ints(&[1]), c.ints(&[2]));
            c.op("Slice", &[shape, begin, two], &[])?
        }
    };
    let zero = c.b.constant(Tensor::scalar(0f32));
    let inputs = [dy, back, size, zero];
    let g = c.op_with("ImageProjectiveTransformV3", &inputs, &["interpolation", "fill_mode"])?;
    c.set(0, g)
}
