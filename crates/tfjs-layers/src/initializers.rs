use serde_json::{Map, Value};
use tfjs_kernels::{
    DType, Shape, Tensor,
    random::{Distribution, Philox, Precision, floats},
};

use crate::{Config, Dialect, LayersError, config::plain_name};

/// How a weight starts.
#[derive(Clone, Debug, PartialEq)]
pub struct Initializer {
    /// Keras class, such as `GlorotUniform`.
    pub class_name: String,
    /// Its options.
    pub config: Map<String, Value>,
}

type Result<T> = std::result::Result<T, LayersError>;

/// What an initializer fills a tensor with.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Zeros,
    Ones,
    Constant,
    Identity,
    RandomUniform,
    RandomNormal,
    TruncatedNormal,
    Orthogonal,
    /// Numbers whose variance is a scale over the number of inputs or outputs.
    Scaled(f64, Fan, Spread),
    VarianceScaling,
    /// A kernel of the discrete Fourier transform.
    Stft,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Fan {
    In,
    Out,
    Average,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Spread {
    Truncated,
    Normal,
    Uniform,
}

/// Names in lower case without underscores: files have `GlorotUniform`, `glorot_uniform` and `glorotUniform`.
const KINDS: &[(&str, Kind)] = &[
    ("zeros", Kind::Zeros),
    ("zero", Kind::Zeros),
    ("ones", Kind::Ones),
    ("one", Kind::Ones),
    ("constant", Kind::Constant),
    ("identity", Kind::Identity),
    ("eye", Kind::Identity),
    ("randomuniform", Kind::RandomUniform),
    ("uniform", Kind::RandomUniform),
    ("randomnormal", Kind::RandomNormal),
    ("normal", Kind::RandomNormal),
    ("truncatednormal", Kind::TruncatedNormal),
    ("orthogonal", Kind::Orthogonal),
    ("variancescaling", Kind::VarianceScaling),
    ("glorotuniform", Kind::Scaled(1.0, Fan::Average, Spread::Uniform)),
    ("glorotnormal", Kind::Scaled(1.0, Fan::Average, Spread::Truncated)),
    ("heuniform", Kind::Scaled(2.0, Fan::In, Spread::Uniform)),
    ("henormal", Kind::Scaled(2.0, Fan::In, Spread::Truncated)),
    ("lecununiform", Kind::Scaled(1.0, Fan::In, Spread::Uniform)),
    ("lecunnormal", Kind::Scaled(1.0, Fan::In, Spread::Truncated)),
    ("stft", Kind::Stft),
];

impl Initializer {
    /// From a name (`glorot_uniform`, `GlorotUniform`) or an object `{class_name, config}`.
    ///
    /// # Errors
    /// When it is neither.
    pub fn parse(value: &Value) -> Result<Initializer> {
        let (class_name, config) = match value {
            Value::String(name) => (name.clone(), Map::new()),
            Value::Object(o) => match (o.get("class_name"), o.get("config")) {
                (Some(Value::String(name)), Some(Value::Object(config))) => (name.clone(), config.clone()),
                (Some(Value::String(name)), _) => (name.clone(), Map::new()),
                _ => (String::new(), Map::new()),
            },
            _ => (String::new(), Map::new()),
        };
        if class_name.is_empty() {
            return Err(LayersError::Config {
                key: "initializer".to_owned(),
                value: value.to_string(),
                expected: "a name or an object with `class_name` and `config`".to_owned(),
            });
        }
        Ok(Initializer { class_name, config })
    }

    /// All zeros.
    pub fn zeros() -> Initializer {
        Initializer::named("zeros")
    }

    /// All ones.
    pub fn ones() -> Initializer {
        Initializer::named("ones")
    }

    /// By name, with its default options.
    pub fn named(name: &str) -> Initializer {
        Initializer { class_name: name.to_owned(), config: Map::new() }
    }

    fn kind(&self) -> Result<Kind> {
        let wanted = plain_name(&self.class_name);
        // TensorFlow 1 has `VarianceScalingV2` and the like.
        let wanted = wanted.strip_suffix("v2").or_else(|| wanted.strip_suffix("v1")).unwrap_or(&wanted);
        KINDS.iter().find(|(name, _)| *name == wanted).map(|(_, kind)| *kind).ok_or_else(|| {
            LayersError::UnknownClass {
                class: self.class_name.clone(),
                hint: "; it is no initializer of Keras".to_owned(),
            }
        })
    }

    /// A tensor of this shape as Keras fills it. `seed` chooses the random numbers, unless the initializer has a seed of its
    /// own; the distribution is Keras's, the numbers are not.
    ///
    /// # Errors
    /// When the initializer is not known, an option is wrong, or the shape does not fit it.
    pub fn tensor(&self, shape: &[usize], dtype: DType, seed: u64) -> Result<Tensor> {
        if self.class_name == "UnitForgetBias" {
            return self.unit_forget_bias(shape, dtype, seed);
        }
        let c = Config::new(&self.config, Dialect::default());
        let seed = c.opt_int("seed").ok().flatten().map_or(seed, |s| s as u64);
        let filled = |value: f64| -> Result<Tensor> {
            let len = Shape::from(shape).checked_len()?;
            Ok(match dtype {
                DType::Int32 => Tensor::new(shape, vec![value as i32; len])?,
                DType::Bool => Tensor::new(shape, vec![value != 0.0; len])?,
                _ => Tensor::new(shape, vec![value as f32; len])?,
            })
        };
        let draw = |spread, mean: f64, deviation: f64| sample(shape, spread, mean, deviation, seed);
        match self.kind()? {
            Kind::Zeros => filled(0.0),
            Kind::Ones => filled(1.0),
            Kind::Constant => match c.opt_floats("value")?.as_deref() {
                None => filled(0.0),
                Some(&[value]) => filled(value),
                Some(values) => {
                    Ok(Tensor::new(shape, values.iter().map(|&v| v as f32).collect::<Vec<f32>>())?)
                }
            },
            Kind::Identity => {
                let &[rows, columns] = shape else {
                    return Err(LayersError::Inputs(format!(
                        "`Identity` initializes matrices, not {shape:?}"
                    )));
                };
                let gain = c.f32_or("gain", 1.0)?;
                let mut data = vec![0f32; Shape::from(shape).checked_len()?];
                (0..rows.min(columns)).for_each(|i| data[i * columns + i] = gain);
                Ok(Tensor::new(shape, data)?)
            }
            Kind::RandomUniform => {
                let (low, high) = (c.f64_or("minval", -0.05)?, c.f64_or("maxval", 0.05)?);
                draw(Spread::Uniform, f64::midpoint(low, high), (high - low) / 2.0)
            }
            Kind::RandomNormal => draw(Spread::Normal, c.f64_or("mean", 0.0)?, c.f64_or("stddev", 0.05)?),
            Kind::TruncatedNormal => {
                draw(Spread::Truncated, c.f64_or("mean", 0.0)?, c.f64_or("stddev", 0.05)?)
            }
            Kind::Orthogonal => orthogonal(shape, c.f64_or("gain", 1.0)?, seed),
            Kind::Scaled(scale, fan, spread) => {
                let (mean, deviation) = self.scaled(shape, scale, fan, spread)?;
                draw(spread, mean, deviation)
            }
            Kind::VarianceScaling => {
                let fan = match c.one_of("mode", &["fan_in", "fan_out", "fan_avg"], "fan_in")? {
                    "fan_in" => Fan::In,
                    "fan_out" => Fan::Out,
                    _ => Fan::Average,
                };
                let words = ["truncated_normal", "normal", "untruncated_normal", "uniform"];
                let spread = match c.one_of("distribution", &words, "truncated_normal")? {
                    "uniform" => Spread::Uniform,
                    "untruncated_normal" => Spread::Normal,
                    _ => Spread::Truncated,
                };
                let (mean, deviation) = self.scaled(shape, c.f64_or("scale", 1.0)?, fan, spread)?;
                draw(spread, mean, deviation)
            }
            Kind::Stft => stft(&c, shape),
        }
    }

    /// Mean and half width (uniform) or deviation (normal).
    /// Biases of the four gates of an LSTM: 1 for the forget gate, the others as `bias_initializer` says.
    fn unit_forget_bias(&self, shape: &[usize], dtype: DType, seed: u64) -> Result<Tensor> {
        let inner = self.config.get("bias_initializer").unwrap_or(&Value::Null);
        let inner = Initializer::parse(inner)?.tensor(shape, dtype, seed)?;
        let mut data = inner.data::<f32>()?.to_vec();
        let units = data.len() / 4;
        data.iter_mut().skip(units).take(units).for_each(|b| *b = 1.0);
        Ok(Tensor::new(shape, data)?)
    }

    fn scaled(&self, shape: &[usize], scale: f64, fan: Fan, spread: Spread) -> Result<(f64, f64)> {
        let (fan_in, fan_out) = self.fans(shape)?;
        let fan = match fan {
            Fan::In => fan_in,
            Fan::Out => fan_out,
            Fan::Average => f64::midpoint(fan_in, fan_out),
        };
        let variance = scale / fan.max(1.0);
        Ok((
            0.0,
            match spread {
                Spread::Uniform => (3.0 * variance).sqrt(),
                Spread::Normal => variance.sqrt(),
                // Cutting a normal distribution off at two deviations narrows it by this factor.
                Spread::Truncated => variance.sqrt() / 0.879_625_661_034_239_8,
            },
        ))
    }

    fn fans(&self, shape: &[usize]) -> Result<(f64, f64)> {
        let c = Config::new(&self.config, Dialect::default());
        if let (Some(inputs), Some(outputs)) = (c.opt_ints("input_axes")?, c.opt_ints("output_axes")?) {
            let product = |axes: &[i64]| -> f64 {
                let place = |a: &i64| usize::try_from(if *a < 0 { a + shape.len() as i64 } else { *a }).ok();
                axes.iter().filter_map(place).filter_map(|a| shape.get(a)).map(|&d| d as f64).product()
            };
            return Ok((product(&inputs), product(&outputs)));
        }
        Ok(match shape {
            [] => (1.0, 1.0),
            &[n] => (n as f64, n as f64),
            [rest @ .., inputs, outputs] => {
                let field: f64 = rest.iter().map(|&d| d as f64).product();
                (field * *inputs as f64, field * *outputs as f64)
            }
        })
    }
}

fn sample(shape: &[usize], spread: Spread, mean: f64, deviation: f64, seed: u64) -> Result<Tensor> {
    let distribution = match spread {
        Spread::Uniform => Distribution::Uniform,
        Spread::Normal => Distribution::Normal,
        Spread::Truncated => Distribution::TruncatedNormal,
    };
    let drawn =
        floats(Philox::stateless(seed as i64, 0), Shape::from(shape), distribution, Precision::Single)?;
    let unit = |u: f32| if spread == Spread::Uniform { 2.0 * f64::from(u) - 1.0 } else { f64::from(u) };
    let data =
        drawn.data::<f32>()?.iter().map(|&u| (mean + deviation * unit(u)) as f32).collect::<Vec<f32>>();
    Ok(Tensor::new(shape, data)?)
}

/// Rows or columns that are orthogonal and of length `gain`: the first factor of a matrix of normal numbers, by Gram-Schmidt,
/// twice over each column so that rounding does not add up.
fn orthogonal(shape: &[usize], gain: f64, seed: u64) -> Result<Tensor> {
    let Some((&columns, rest)) = shape.split_last().filter(|(_, rest)| !rest.is_empty()) else {
        return Err(LayersError::Inputs(format!("`Orthogonal` needs at least two axes, not {shape:?}")));
    };
    let rows: usize = rest.iter().product();
    let (long, short) = (rows.max(columns), rows.min(columns));
    let drawn = floats(
        Philox::stateless(seed as i64, 0),
        Shape::from([short, long]),
        Distribution::Normal,
        Precision::Single,
    )?;
    let mut q: Vec<f64> = drawn.data::<f32>()?.iter().map(|&v| f64::from(v)).collect();
    for i in 0..short {
        let (done, open) = q.split_at_mut(i * long);
        let own = &mut open[..long];
        for _ in 0..2 {
            for other in done.chunks_exact(long.max(1)) {
                let dot: f64 = own.iter().zip(other).map(|(a, b)| a * b).sum();
                own.iter_mut().zip(other).for_each(|(a, b)| *a -= dot * b);
            }
        }
        let norm = own.iter().map(|a| a * a).sum::<f64>().sqrt();
        own.iter_mut().for_each(|a| *a /= norm);
    }
    let at = |row: usize, column: usize| {
        if rows < columns { q[row * long + column] } else { q[column * long + row] }
    };
    let data =
        (0..rows).flat_map(|r| (0..columns).map(move |c| (r, c))).map(|(r, c)| (gain * at(r, c)) as f32);
    Ok(Tensor::new(shape, data.collect::<Vec<f32>>())?)
}

/// `[frame, 1, frequencies]`: real or imaginary part of e^(−2πi·t·f/length), in a window.
fn stft(c: &Config<'_>, shape: &[usize]) -> Result<Tensor> {
    let &[frame, channels, frequencies] = shape else {
        return Err(LayersError::Inputs(format!("`STFT` initializes kernels of three axes, not {shape:?}")));
    };
    let real = c.one_of("side", &["real", "imag"], "real")? == "real";
    let periodic = c.bool_or("periodic", false)?;
    let length = 2.0 * (frequencies.max(1) - 1) as f64;
    let span = if periodic { frame as f64 } else { (frame.max(2) - 1) as f64 };
    let turn = |t: usize| std::f64::consts::TAU * t as f64 / span;
    let window: Option<Vec<f64>> = match c.opt_str("window")? {
        None if c.has("window") => None,
        None | Some("hann") => Some((0..frame).map(|t| 0.5 - 0.5 * turn(t).cos()).collect()),
        Some("hamming") => Some((0..frame).map(|t| 0.54 - 0.46 * turn(t).cos()).collect()),
        Some("blackman") => {
            Some((0..frame).map(|t| 0.42 - 0.5 * turn(t).cos() + 0.08 * (2.0 * turn(t)).cos()).collect())
        }
        Some("boxcar" | "rectangular" | "ones") => Some(vec![1.0; frame]),
        Some(_) => return Err(c.wrong("window", "hann, hamming, blackman or boxcar")),
    };
    let scaling = match (c.opt_str("scaling")?, &window) {
        (Some("spectrum"), Some(w)) => w.iter().map(|x| x.abs()).sum(),
        (Some("density"), Some(w)) => w.iter().map(|x| x * x).sum::<f64>().sqrt(),
        (None, Some(w)) if !c.has("scaling") => w.iter().map(|x| x * x).sum::<f64>().sqrt(),
        _ => 1.0,
    };
    let mut data = Vec::with_capacity(Shape::from(shape).checked_len()?);
    for t in 0..frame {
        let weight = window.as_ref().map_or(1.0, |w| w[t]) / scaling;
        for _ in 0..channels {
            data.extend((0..frequencies).map(|f| {
                let angle = -std::f64::consts::TAU * t as f64 * f as f64 / length;
                ((if real { angle.cos() } else { angle.sin() }) * weight) as f32
            }));
        }
    }
    Ok(Tensor::new(shape, data)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(name: &str, config: Value, shape: &[usize]) -> Vec<f32> {
        let config = config.as_object().cloned().unwrap_or_default();
        let initializer = Initializer { class_name: name.to_owned(), config };
        initializer.tensor(shape, DType::Float32, 5).unwrap().data::<f32>().unwrap().to_vec()
    }

    fn deviation(x: &[f32]) -> f32 {
        let mean = x.iter().sum::<f32>() / x.len() as f32;
        (x.iter().map(|v| (v - mean).powi(2)).sum::<f32>() / x.len() as f32).sqrt()
    }

    #[test]
    fn scaled_initializers_have_the_spread_of_keras() {
        // Deviations that Keras 3.15 gives for kernels of [3, 3, 16, 64], and bounds of the uniform ones.
        let shape = [3, 3, 16, 64];
        for (name, expected) in [("GlorotNormal", 0.0527), ("HeNormal", 0.1179), ("lecun_normal", 0.0833)] {
            let x = values(name, Value::Null, &shape);
            assert!((deviation(&x) - expected).abs() < 0.02 * expected, "{name}: {}", deviation(&x));
        }
        for (name, bound) in
            [("glorotUniform", 0.091_287), ("HeUniform", 0.204_124), ("LecunUniform", 0.144_338)]
        {
            let top = values(name, Value::Null, &shape).iter().fold(0f32, |m, v| m.max(v.abs()));
            assert!(top <= bound * 1.000_01 && top > 0.99 * bound, "{name}: {top}");
        }
    }

    #[test]
    fn every_random_initializer_has_the_moments_and_bounds_of_keras() {
        // Keras 3.15, kernels of [300, 500]: mean, deviation, and where the distribution ends.
        use serde_json::json;
        let wide = f32::INFINITY;
        let scaled = |scale: f64, mode: &str, distribution: &str| json!({"scale": scale, "mode": mode, "distribution": distribution});
        for (name, config, mean, spread, end) in [
            ("RandomNormal", json!({"mean": 0.5, "stddev": 0.2}), 0.5, 0.2, wide),
            ("TruncatedNormal", json!({"mean": -0.25, "stddev": 0.1}), -0.25, 0.087_98, 0.2),
            ("RandomUniform", json!({"minval": -1, "maxval": 3}), 1.0, 1.1547, 2.0),
            ("VarianceScaling", scaled(2.0, "fan_out", "uniform"), 0.0, 0.063_25, 0.109_545),
            ("VarianceScaling", scaled(2.0, "fan_avg", "untruncated_normal"), 0.0, 0.070_71, wide),
            ("VarianceScaling", scaled(0.5, "fan_in", "truncated_normal"), 0.0, 0.040_82, 0.092_83),
            ("LecunNormal", Value::Null, 0.0, 0.057_74, 0.131_28),
            ("HeNormal", Value::Null, 0.0, 0.081_65, 0.185_65),
            ("GlorotNormal", Value::Null, 0.0, 0.05, 0.113_69),
        ] {
            let x = values(name, config, &[300, 500]);
            let got = x.iter().sum::<f32>() / x.len() as f32;
            assert!((got - mean).abs() < 0.01 * spread, "{name}: {got}");
            assert!((deviation(&x) - spread).abs() < 0.01 * spread, "{name}: {}", deviation(&x));
            assert!(x.iter().all(|v| (v - mean).abs() <= end * 1.000_1), "{name}");
        }
    }

    #[test]
    fn orthogonal_rows_have_the_length_of_the_gain() {
        let x = values("Orthogonal", serde_json::json!({"gain": 2.0}), &[4, 7]);
        for i in 0..4 {
            for j in 0..4 {
                let dot: f32 = (0..7).map(|k| x[i * 7 + k] * x[j * 7 + k]).sum();
                assert!((dot - if i == j { 4.0 } else { 0.0 }).abs() < 1e-5);
            }
        }
    }

    #[test]
    fn a_seed_gives_the_same_numbers_again() {
        let seeded = serde_json::json!({"seed": 3, "minval": -1, "maxval": 2});
        let x = values("RandomUniform", seeded.clone(), &[50]);
        assert_eq!(x, values("random_uniform", seeded, &[50]));
        assert!(x.iter().all(|v| (-1.0..2.0).contains(v)));
        assert_ne!(x, values("RandomUniform", serde_json::json!({"minval": -1, "maxval": 2}), &[50]));
    }
}

#[cfg(test)]
mod unit_forget_bias {
    use serde_json::json;
    use tfjs_kernels::DType;

    use super::Initializer;

    #[test]
    fn the_forget_gate_of_an_lstm_starts_open() {
        let mut initializer = Initializer::named("UnitForgetBias");
        initializer.config.insert("bias_initializer".to_owned(), json!("zeros"));
        let bias = initializer.tensor(&[8], DType::Float32, 1).unwrap();
        assert_eq!(bias.data::<f32>().unwrap(), [0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0]);
    }
}
