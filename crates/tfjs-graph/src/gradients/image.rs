//! Resizing and cropping of images.
use super::{Row, row};

pub(super) const RULES: &[Row] = &[
    row("CropAndResize", |c| {
        let (image, boxes, box_index, dy) = (c.x(0), c.x(1), c.x(2), c.dy()?);
        if c.wants(1) {
            return c.refuse("the boxes have no gradient");
        }
        let shape = c.shape(image)?;
        let g = c.op_with("CropAndResizeGradImage", &[dy, boxes, box_index, shape], &["method"])?;
        c.set(0, g)
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
