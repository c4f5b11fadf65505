//! Dropout and noise. They do nothing at inference, except where a call of a Keras 2 model says `training=True` (dropout
//! for estimates of uncertainty): there the file's own word wins over `predict`, and a graph with random ops is written.

use serde_json::Value;
use tfjs_graph::{Port, builder::attr};
use tfjs_kernels::DType;

use super::core::Identity;
use crate::{Call, Config, Dialect, Emit, Layer, LayerDef, LayersError, Sym, emit::Dim, topology::Arg};

type Result<T> = std::result::Result<T, LayersError>;

pub(super) const LAYERS: &[LayerDef] = &[
    LayerDef::new("ActivityRegularization", |c| {
        c.known(&["l1", "l2"]);
        Ok(Box::new(Identity))
    }),
    LayerDef::new("Dropout", |c| noise(c, Kind::Dropout, Shared::Given)),
    LayerDef::new("SpatialDropout1D", |c| noise(c, Kind::Dropout, Shared::Spatial)),
    LayerDef::new("SpatialDropout2D", |c| noise(c, Kind::Dropout, Shared::Spatial)),
    LayerDef::new("SpatialDropout3D", |c| noise(c, Kind::Dropout, Shared::Spatial)),
    LayerDef::new("AlphaDropout", |c| noise(c, Kind::Alpha, Shared::Given)),
    LayerDef::new("GaussianDropout", |c| noise(c, Kind::GaussianDropout, Shared::Given)),
    LayerDef::new("GaussianNoise", |c| noise(c, Kind::GaussianNoise, Shared::Given)),
];

#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Dropout,
    Alpha,
    GaussianDropout,
    GaussianNoise,
}

/// Along which axes a drawn number is shared.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Shared {
    /// Those of size 1 in `noise_shape`.
    Given,
    /// All but batch and channels.
    Spatial,
}

fn noise(c: &Config<'_>, kind: Kind, shared: Shared) -> Result<Box<dyn Layer>> {
    let key = if kind == Kind::GaussianNoise { "stddev" } else { "rate" };
    let mut shape = None;
    if shared == Shared::Given
        && matches!(kind, Kind::Dropout | Kind::Alpha)
        && let Some(value) = c.get("noise_shape")
    {
        let list = value.as_array().ok_or_else(|| c.wrong("noise_shape", "a list of sizes"))?;
        shape = Some(list.iter().map(|d| d.as_u64().and_then(|d| usize::try_from(d).ok())).collect());
    }
    let channels_last = shared != Shared::Spatial || c.channels_last()?;
    let rate = c.opt_f64(key)?.ok_or_else(|| c.wrong(key, "a number"))?;
    let seed = c.opt_int("seed").ok().flatten().unwrap_or(0);
    Ok(Box::new(Noise { kind, shared, rate: rate as f32, shape, channels_last, seed }))
}

#[derive(Debug)]
struct Noise {
    kind: Kind,
    shared: Shared,
    rate: f32,
    shape: Option<Vec<Option<usize>>>,
    channels_last: bool,
    seed: i64,
}

impl Layer for Noise {
    fn call(&self, g: &mut Emit, call: &Call) -> Result<Vec<Sym>> {
        let x = call.input(0)?.port;
        let asked = call.kwarg("training") == Some(&Arg::Value(Value::Bool(true)));
        let active = asked && matches!(g.dialect, Dialect::Keras1 | Dialect::Keras2);
        let y = if active && self.rate > 0.0 { self.emit(g, x)? } else { x };
        Ok(vec![Sym::masked(y, call.mask(0))])
    }
}

impl Noise {
    fn emit(&self, g: &mut Emit, x: Port) -> Result<Port> {
        let keep = 1.0 - self.rate;
        match self.kind {
            Kind::GaussianNoise => {
                let noise = self.draw(g, x, "RandomStandardNormal")?;
                let noise = g.scale(noise, self.rate)?;
                g.add(x, noise)
            }
            Kind::GaussianDropout => {
                let noise = self.draw(g, x, "RandomStandardNormal")?;
                let noise = g.scale(noise, (self.rate / keep).sqrt())?;
                let factor = g.offset(noise, 1.0)?;
                g.mul(x, factor)
            }
            Kind::Dropout => {
                let kept = self.kept(g, x)?;
                let scaled = g.scale(x, 1.0 / keep)?;
                g.mul(scaled, kept)
            }
            Kind::Alpha => {
                // −scale · alpha of SELU: what dropped elements are set to.
                let low = -1.673_263_2_f32 * 1.050_701;
                let a = ((1.0 - self.rate) * (1.0 + self.rate * low * low)).powf(-0.5);
                let b = -a * low * self.rate;
                let kept = self.kept(g, x)?;
                let value = g.mul(x, kept)?;
                let one = g.scalar(1.0);
                let dropped = g.sub(one, kept)?;
                let dropped = g.scale(dropped, low)?;
                let mixed = g.add(value, dropped)?;
                let scaled = g.scale(mixed, a)?;
                g.offset(scaled, b)
            }
        }
    }

    /// 1 where an element is kept, else 0.
    fn kept(&self, g: &mut Emit, x: Port) -> Result<Port> {
        let uniform = self.draw(g, x, "RandomUniform")?;
        let rate = g.scalar(self.rate);
        let kept = g.op("GreaterEqual", &[uniform, rate], &[])?;
        g.cast(kept, DType::Float32)
    }

    fn draw(&self, g: &mut Emit, x: Port, op: &str) -> Result<Port> {
        let mut dims = g.dims(x)?;
        let rank = dims.len();
        for (axis, dim) in dims.iter_mut().enumerate() {
            let is_channel = axis == if self.channels_last { rank - 1 } else { 1 };
            match (&self.shape, self.shared) {
                (_, Shared::Spatial) if axis > 0 && !is_channel => *dim = Dim::Known(1),
                (Some(shape), Shared::Given) => {
                    if let Some(Some(size)) = shape.get(axis) {
                        *dim = Dim::Known(*size);
                    }
                }
                _ => {}
            }
        }
        let shape = g.shape_value(&dims)?;
        let attrs =
            [("dtype", attr::dtype(DType::Float32)), ("seed", attr::int(self.seed)), ("seed2", attr::int(0))];
        g.op(op, &[shape], &attrs)
    }
}
