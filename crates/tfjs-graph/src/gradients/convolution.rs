//! Convolutions and pooling.
use super::{GradCx, Result, Row, row};
use crate::{Port, builder::attr};

pub(super) const RULES: &[Row] = &[
    row("AvgPool", |c| average(c, "AvgPoolGrad")),
    row("AvgPool3D", |c| average(c, "AvgPool3DGrad")),
    row("Conv2D", |c| convolution(c, "Conv2DBackpropInput", "Conv2DBackpropFilter", &CONV)),
    row("Conv2DBackpropFilter", |c| of_filter(c, "Conv2DBackpropInput", "Conv2D")),
    row("Conv2DBackpropInput", |c| transposed(c, "Conv2DBackpropFilter", "Conv2D", &CONV)),
    row("Conv3D", |c| convolution(c, "Conv3DBackpropInputV2", "Conv3DBackpropFilterV2", &CONV)),
    row("Conv3DBackpropFilterV2", |c| of_filter(c, "Conv3DBackpropInputV2", "Conv3D")),
    row("Conv3DBackpropInputV2", |c| transposed(c, "Conv3DBackpropFilterV2", "Conv3D", &CONV)),
    row("DepthwiseConv2dNative", depthwise),
    row("DepthwiseConv2d", depthwise),
    row("DepthwiseConv2dNativeBackpropFilter", |c| {
        of_filter(c, "DepthwiseConv2dNativeBackpropInput", "DepthwiseConv2dNative")
    }),
    row("DepthwiseConv2dNativeBackpropInput", |c| {
        transposed(c, "DepthwiseConv2dNativeBackpropFilter", "DepthwiseConv2dNative", &CONV)
    }),
    row("Dilation2D", |c| {
        let (x, filter, dy) = (c.x(0), c.x(1), c.dy()?);
        let names = ["strides", "rates", "padding"];
        for (i, op) in ["Dilation2DBackpropInput", "Dilation2DBackpropFilter"].into_iter().enumerate() {
            if c.wants(i) {
                let g = c.op_with(op, &[x, filter, dy], &names)?;
                c.set(i, g)?;
            }
        }
        Ok(())
    }),
    row("MaxPool", |c| largest(c, "MaxPoolGrad", &POOL)),
    row("MaxPool3D", |c| largest(c, "MaxPool3DGrad", &POOL)),
    row("MaxPoolV2", |c| {
        let (x, y, dy) = (c.x(0), c.y(0), c.dy()?);
        let (Some(window), Some(strides)) = (c.ints_of(1), c.ints_of(2)) else {
            return c.refuse("window and strides are not constant");
        };
        let attrs = c.copied(&["padding", "data_format", "explicit_paddings"]);
        let mut attrs: Vec<_> = attrs.iter().map(|(n, v)| (n.as_str(), v.clone())).collect();
        attrs.push(("ksize", attr::ints(window.into_iter().map(i64::from))));
        attrs.push(("strides", attr::ints(strides.into_iter().map(i64::from))));
        let g = c.op("MaxPoolGrad", &[x, y, dy], &attrs)?;
        c.set(0, g)
    }),
    row("MaxPoolWithArgmax", |c| largest(c, "MaxPoolGrad", &["ksize", "strides", "padding"])),
];

const CONV: [&str; 5] = ["strides", "dilations", "padding", "data_format", "explicit_paddings"];
const POOL: [&str; 5] = ["ksize", "strides", "padding", "data_format", "explicit_paddings"];

fn convolution(c: &mut GradCx<'_>, input: &str, filter: &str, names: &[&str]) -> Result<()> {
    let (x, w, dy) = (c.x(0), c.x(1), c.dy()?);
    if c.wants(0) {
        let sizes = c.shape(x)?;
        let g = c.op_with(input, &[sizes, w, dy], names)?;
        c.set(0, g)?;
    }
    if c.wants(1) {
        let sizes = c.shape(w)?;
        let g = c.op_with(filter, &[x, sizes, dy], names)?;
        c.set(1, g)?;
    }
    Ok(())
}

fn depthwise(c: &mut GradCx<'_>) -> Result<()> {
    let prefix = "DepthwiseConv2dNativeBackprop";
    convolution(c, &format!("{prefix}Input"), &format!("{prefix}Filter"), &CONV)
}

/// Of a transposed convolution: its image is what the convolution made.
fn transposed(c: &mut GradCx<'_>, filter: &str, forward: &str, names: &[&str]) -> Result<()> {
    let (w, image, dy) = (c.x(1), c.x(2), c.dy()?);
    if c.wants(1) {
        let sizes = c.shape(w)?;
        let g = c.op_with(filter, &[dy, sizes, image], names)?;
        c.set(1, g)?;
    }
    if c.wants(2) {
        let g = c.op_with(forward, &[dy, w], names)?;
        c.set(2, g)?;
    }
    Ok(())
}

/// Of the gradient by a filter, which is linear in the image and in the gradient of what the convolution made.
fn of_filter(c: &mut GradCx<'_>, input: &str, forward: &str) -> Result<()> {
    let (x, image, dy) = (c.x(0), c.x(2), c.dy()?);
    if c.wants(0) {
        let sizes = c.shape(x)?;
        let g = c.op_with(input, &[sizes, dy, image], &CONV)?;
        c.set(0, g)?;
    }
    if c.wants(2) {
        let g = c.op_with(forward, &[x, dy], &CONV)?;
        c.set(2, g)?;
    }
    Ok(())
}

fn average(c: &mut GradCx<'_>, op: &str) -> Result<()> {
    let (x, dy) = (c.x(0), c.dy()?);
    let sizes = c.shape(x)?;
    let g = c.op_with(op, &[sizes, dy], &POOL)?;
    c.set(0, g)
}

fn largest(c: &mut GradCx<'_>, op: &str, names: &[&str]) -> Result<()> {
    let (x, y, dy): (Port, Port, Port) = (c.x(0), c.y(0), c.dy()?);
    let g = c.op_with(op, &[x, y, dy], names)?;
    c.set(0, g)
}
