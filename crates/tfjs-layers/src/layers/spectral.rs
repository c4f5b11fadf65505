//! Spectrograms.

use tfjs_graph::{Fact, Port, builder::attr};
use tfjs_kernels::{DType, Tensor};

use super::{
    core::built,
    spatial::{self, times},
};
use crate::emit::table_size;
use crate::{Call, Config, Emit, Initializer, Layer, LayerDef, LayersError, Scope, Sym, WeightId, emit::Dim};

type Result<T> = std::result::Result<T, LayersError>;

pub(super) const LAYERS: &[LayerDef] =
    &[LayerDef::new("STFTSpectrogram", stft), LayerDef::new("MelSpectrogram", mel)];

/// What an STFT is turned into.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Mode {
    Log,
    Magnitude,
    Power,
    Real,
    Imaginary,
    Angle,
    Both,
}

const MODES: &[(&str, Mode)] = &[
    ("log", Mode::Log),
    ("magnitude", Mode::Magnitude),
    ("psd", Mode::Power),
    ("real", Mode::Real),
    ("imag", Mode::Imaginary),
    ("angle", Mode::Angle),
    ("stft", Mode::Both),
];

fn stft(c: &Config<'_>) -> Result<Box<dyn Layer>> {
    // These only decide how the kernels start.
    c.known(&["window", "periodic", "scaling"]);
    let words: Vec<&'static str> = MODES.iter().map(|m| m.0).collect();
    let word = c.one_of("mode", &words, "log")?;
    let frame_length = c.usize_or("frame_length", 256)?;
    let frame_step = c.opt_usize("frame_step")?.unwrap_or(frame_length / 2);
    let fft_length = match c.opt_usize("fft_length")? {
        Some(n) => Some(n),
        None => frame_length.checked_next_power_of_two(),
    };
    let fft_length = fft_length.ok_or_else(|| c.wrong("frame_length", "a smaller size"))?;
    if frame_length == 0 || frame_step == 0 {
        return Err(c.wrong("frame_length", "frames of at least 1 value, at least 1 apart"));
    }
    Ok(Box::new(Stft {
        mode: MODES.iter().find(|m| m.0 == word).map_or(Mode::Log, |m| m.1),
        frame_length,
        frame_step,
        frequencies: fft_length / 2 + 1,
        same: c.one_of("padding", &["valid", "same"], "valid")? == "same",
        expand_dims: c.bool_or("expand_dims", false)?,
        channels_last: c.channels_last()?,
        kernels: None,
    }))
}

/// Short-time Fourier transform, as convolutions with kernels that may be trained.
///
/// real_kernel (but for mode `imag`), imag_kernel (but for mode `real`): `[frame_length, 1, fft_length / 2 + 1]`.
#[derive(Debug)]
struct Stft {
    mode: Mode,
    frame_length: usize,
    frame_step: usize,
    frequencies: usize,
    same: bool,
    expand_dims: bool,
    channels_last: bool,
    kernels: Option<(Option<WeightId>, Option<WeightId>)>,
}

/// Keras's smallest number that counts.
const EPSILON: f32 = 1e-7;

impl Layer for Stft {
    fn build(&mut self, scope: &mut Scope<'_>, _inputs: &[Fact]) -> Result<()> {
        let shape = [self.frame_length, 1, self.frequencies];
        let mut kernel = |name: &str| scope.weight(name, &shape, Initializer::named("stft"));
        let real = (self.mode != Mode::Imaginary).then(|| kernel("real_kernel"));
        let imaginary = (self.mode != Mode::Real).then(|| kernel("imag_kernel"));
        self.kernels = Some((real, imaginary));
        Ok(())
    }

    fn call(&self, g: &mut Emit, call: &Call) -> Result<Vec<Sym>> {
        let mut x = call.one()?.port;
        spatial::expect_rank(g, x, 3)?;
        // Every channel becomes a sequence of its own.
        if self.channels_last {
            x = g.transpose(x, &[0, 2, 1])?;
        }
        let channels = Dim::Known(g.known_dim(x, 1, "number of channels")?);
        let batch = g.dim(x, 0)?;
        let length = g.dim(x, 2)?;
        let one = Some(Dim::Known(1));
        let x = spatial::reshape(g, x, &[None, one, Some(length), one])?;
        let (real, imaginary) = built(self.kernels)?;
        let transform = |g: &mut Emit, kernel: Option<WeightId>| {
            kernel.map(|kernel| self.convolve(g, x, kernel)).transpose()
        };
        let (real, imaginary) = (transform(g, real)?, transform(g, imaginary)?);
        // [batch · channels, 1, steps, frequencies]
        let y = match (real, imaginary) {
            (Some(real), Some(imaginary)) => self.combine(g, real, imaginary)?,
            (Some(one), None) | (None, Some(one)) => one,
            (None, None) => return Err(LayersError::Inputs("the layer has no kernels".to_owned())),
        };
        let frequencies = Dim::Known(g.known_dim(y, 3, "number of frequencies")?);
        let steps = g.dim(y, 2)?;
        let y = g.reshape(y, &[batch, channels, steps, frequencies])?;
        Ok(vec![self.arrange(g, y)?.into()])
    }
}

impl Stft {
    fn convolve(&self, g: &mut Emit, x: Port, kernel: WeightId) -> Result<Port> {
        let kernel = g.weight(kernel);
        let kernel = g.expand_dims(kernel, 0)?;
        let attrs = [
            ("strides", attr::ints([1, 1, self.frame_step as i64, 1])),
            ("padding", attr::text(if self.same { "SAME" } else { "VALID" })),
            ("dilations", attr::ints([1; 4])),
            ("data_format", attr::text("NHWC")),
        ];
        g.op("Conv2D", &[x, kernel], &attrs)
    }

    fn combine(&self, g: &mut Emit, real: Port, imaginary: Port) -> Result<Port> {
        match self.mode {
            Mode::Angle => return g.op("Atan2", &[imaginary, real], &[]),
            Mode::Both => return g.concat(&[real, imaginary], 3),
            _ => {}
        }
        let (real, imaginary) = (g.unary("Square", real)?, g.unary("Square", imaginary)?);
        let power = g.add(real, imaginary)?;
        if self.mode == Mode::Power {
            // All frequencies but the first and the last stand for two.
            let last = self.frequencies - 1;
            let twice = (0..=last).map(|i| if i == 0 || i == last { 1.0 } else { 2.0 });
            let twice = g.floats(&twice.collect::<Vec<f32>>());
            return g.mul(power, twice);
        }
        let least = g.scalar(EPSILON);
        let power = g.op("Maximum", &[power, least], &[])?;
        let magnitude = g.unary("Sqrt", power)?;
        if self.mode == Mode::Magnitude {
            return Ok(magnitude);
        }
        let least = g.scalar(EPSILON);
        let magnitude = g.op("Maximum", &[magnitude, least], &[])?;
        g.unary("Log", magnitude)
    }

    /// `[batch, channels, steps, frequencies]` in the order that was asked for.
    fn arrange(&self, g: &mut Emit, y: Port) -> Result<Port> {
        match (self.channels_last, self.expand_dims) {
            (false, true) => return Ok(y),
            (true, true) => return g.transpose(y, &[0, 2, 3, 1]),
            _ => {}
        }
        let dims = g.dims(y)?;
        let (channels, frequencies) =
            (g.known_dim(y, 1, "number of channels")?, g.known_dim(y, 3, "number of frequencies")?);
        let all = Dim::Known(times(channels, frequencies)?);
        if self.channels_last {
            let y = g.transpose(y, &[0, 2, 1, 3])?;
            return g.reshape(y, &[dims[0], dims[2], all]);
        }
        let y = g.transpose(y, &[0, 1, 3, 2])?;
        g.reshape(y, &[dims[0], all, dims[2]])
    }
}

fn mel(c: &Config<'_>) -> Result<Box<dyn Layer>> {
    let fft_length = c.usize_or("fft_length", 2048)?;
    let sampling_rate = c.f64_or("sampling_rate", 16000.0)?;
    let max_freq = c.opt_f64("max_freq")?.filter(|&f| f != 0.0).unwrap_or((sampling_rate / 2.0).trunc());
    let layer = Mel {
        fft_length,
        stride: c.usize_or("sequence_stride", 512)?,
        sequence_length: c.opt_usize("sequence_length")?.filter(|&n| n > 0).unwrap_or(fft_length),
        window: window(c)?,
        sampling_rate: sampling_rate as f32,
        bins: c.usize_or("num_mel_bins", 128)?,
        frequencies: [c.f32_or("min_freq", 20.0)?, max_freq as f32],
        decibels: c.bool_or("power_to_db", true)?,
        top_db: c.f32_or("top_db", 80.0)?,
        exponent: c.f32_or("mag_exp", 2.0)?,
        min_power: c.f32_or("min_power", 1e-10)?,
        ref_power: c.f32_or("ref_power", 1.0)?,
    };
    if layer.stride == 0
        || fft_length == 0
        || fft_length < layer.sequence_length
        || fft_length.max(layer.stride) > 1 << 24
    {
        return Err(c.wrong(
            "fft_length",
            "a size of at least `sequence_length` and at most 2^24, and steps of at least 1",
        ));
    }
    if let Window::Given(list) = &layer.window
        && list.len() != layer.sequence_length
    {
        return Err(c.wrong("window", "a name, or as many numbers as `sequence_length`"));
    }
    Ok(Box::new(layer))
}

/// By what the values of a frame are multiplied.
#[derive(Clone, Debug)]
enum Window {
    None,
    /// `a − (1 − a) · cos(2πi / period)`
    Cosine(f32),
    Given(Vec<f32>),
}

fn window(c: &Config<'_>) -> Result<Window> {
    if !c.has("window") {
        return Ok(Window::Cosine(0.5));
    }
    match c.get("window") {
        None => Ok(Window::None),
        Some(serde_json::Value::String(_)) => Ok(match c.one_of("window", &["hann", "hamming"], "hann")? {
            "hamming" => Window::Cosine(0.54),
            _ => Window::Cosine(0.5),
        }),
        Some(_) => Ok(Window::Given(
            c.opt_floats("window")?.unwrap_or_default().into_iter().map(|x| x as f32).collect(),
        )),
    }
}

/// Spectrogram of sequences on the mel scale: `[…, steps]` becomes `[…, bins, frames]`.
#[derive(Debug)]
struct Mel {
    fft_length: usize,
    stride: usize,
    sequence_length: usize,
    window: Window,
    sampling_rate: f32,
    bins: usize,
    frequencies: [f32; 2],
    decibels: bool,
    top_db: f32,
    exponent: f32,
    min_power: f32,
    ref_power: f32,
}

impl Layer for Mel {
    fn call(&self, g: &mut Emit, call: &Call) -> Result<Vec<Sym>> {
        let x = call.one()?.port;
        let x = g.cast(x, DType::Float32)?;
        let rank = g.rank(x)?;
        if rank == 0 {
            return Err(LayersError::Inputs("it takes sequences".to_owned()));
        }
        let mut frames = self.frames(g, x, rank)?;
        if let Some(window) = self.padded_window() {
            let window = g.floats(&window);
            frames = g.mul(frames, window)?;
        }
        let length = g.ints(&[self.fft_length as i32]);
        let spectrum = g.op("RFFT", &[frames, length], &[])?;
        let mut spectrum = g.unary("ComplexAbs", spectrum)?;
        let mut shape = g.shape(frames)?;
        if let Some(last) = shape.last_mut() {
            *last = Some(self.fft_length / 2 + 1);
        }
        g.set_shape(spectrum, &shape);
        if self.exponent != 1.0 {
            let exponent = g.scalar(self.exponent);
            spectrum = g.op("Pow", &[spectrum, exponent], &[])?;
        }
        let matrix = self.matrix()?;
        let matrix = g.constant(matrix);
        let mut y = g.matmul(spectrum, matrix)?;
        if self.decibels {
            y = self.in_decibels(g, y)?;
        }
        let order: Vec<usize> = (0..rank - 1).chain([rank, rank - 1]).collect();
        Ok(vec![g.transpose(y, &order)?.into()])
    }
}

impl Mel {
    /// Frames of the sequences, mirrored at both ends: `[…, frames, fft_length]`.
    fn frames(&self, g: &mut Emit, x: Port, rank: usize) -> Result<Port> {
        let around = self.fft_length / 2;
        let mut pads = vec![0i32; 2 * rank];
        pads[2 * rank - 2] = around as i32;
        pads[2 * rank - 1] = around as i32;
        let pads = g.constant(Tensor::new([rank, 2], pads)?);
        let padded = g.op("MirrorPad", &[x, pads], &[("mode", attr::text("REFLECT"))])?;
        let indices = match g.dim(x, rank - 1)? {
            Dim::Known(n) => {
                let count = n.saturating_add(2 * around).saturating_sub(self.fft_length) / self.stride + 1;
                let all = table_size(&[count, self.fft_length])?;
                let index = |i: usize| (i / self.fft_length * self.stride + i % self.fft_length) as i32;
                let indices: Vec<i32> = (0..all).map(index).collect();
                g.constant(Tensor::new([count, self.fft_length], indices)?)
            }
            dim => {
                let n = g.dim_value(dim)?;
                let more = g.int((2 * around) as i32 - self.fft_length as i32 + self.stride as i32);
                let n = g.add(n, more)?;
                let stride = g.int(self.stride as i32);
                let count = g.op("FloorDiv", &[n, stride], &[])?;
                let (zero, one) = (g.int(0), g.int(1));
                let starts = g.op("Range", &[zero, count, one], &[])?;
                let starts = g.mul(starts, stride)?;
                g.set_shape(starts, &[None]);
                let starts = g.expand_dims(starts, 1)?;
                let steps: Vec<i32> = (0..self.fft_length as i32).collect();
                let steps = g.ints(&steps);
                g.add(starts, steps)?
            }
        };
        let axis = g.int(rank as i32 - 1);
        g.op("GatherV2", &[padded, indices, axis], &[("batch_dims", attr::int(0))])
    }

    /// The window in the middle of a frame.
    fn padded_window(&self) -> Option<Vec<f32>> {
        let n = self.sequence_length;
        let values: Vec<f32> = match &self.window {
            Window::None => return None,
            Window::Cosine(a) => {
                // TensorFlow makes only windows of even length periodic.
                let period = if n.is_multiple_of(2) { n } else { n - 1 };
                let cosine = |i: usize| (2.0 * std::f64::consts::PI * i as f64 / period as f64).cos();
                let value = |i| f64::from(*a) - (1.0 - f64::from(*a)) * cosine(i);
                (0..n).map(|i| if n == 1 { 1.0 } else { value(i) as f32 }).collect()
            }
            Window::Given(list) => list.clone(),
        };
        let before = (self.fft_length - n) / 2;
        let mut padded = vec![0.0; self.fft_length];
        padded.iter_mut().skip(before).zip(values).for_each(|(p, v)| *p = v);
        Some(padded)
    }

    /// How much each frequency adds to each bin: triangles on the mel scale, `[frequencies, bins]`.
    fn matrix(&self) -> Result<Tensor> {
        let mel = |f: f32| 1127.0f32 * (1.0 + f / 700.0).ln();
        let count = self.fft_length / 2 + 1;
        let [low, high] = self.frequencies.map(mel);
        let edge = |i: usize| low + (high - low) * i as f32 / (self.bins + 1) as f32;
        let mut matrix = vec![0f32; table_size(&[count, self.bins])?];
        for (k, row) in matrix.chunks_exact_mut(self.bins.max(1)).enumerate().skip(1) {
            let at = mel(self.sampling_rate / 2.0 * k as f32 / (count - 1).max(1) as f32);
            for (b, weight) in row.iter_mut().enumerate() {
                let (lower, centre, upper) = (edge(b), edge(b + 1), edge(b + 2));
                *weight = ((at - lower) / (centre - lower)).min((upper - at) / (upper - centre)).max(0.0);
            }
        }
        Ok(Tensor::new([count, self.bins], matrix)?)
    }

    /// `10 · log₁₀(power / reference)`, at most so far below the largest value.
    fn in_decibels(&self, g: &mut Emit, power: Port) -> Result<Port> {
        let least = g.scalar(self.min_power);
        let power = g.op("Maximum", &[power, least], &[])?;
        let log = g.unary("Log", power)?;
        let decibels = g.scale(log, 10.0 / std::f32::consts::LN_10)?;
        let reference = 10.0 * self.ref_power.abs().max(self.min_power).log10();
        let y = if reference == 0.0 { decibels } else { g.offset(decibels, -reference)? };
        let rank = g.rank(y)?;
        let most = g.reduce("Max", y, &(0..rank).collect::<Vec<_>>(), false)?;
        let floor = g.offset(most, -self.top_db)?;
        g.op("Maximum", &[y, floor], &[])
    }
}
