//! Categories as vectors.

use tfjs_graph::{Port, builder::attr};
use tfjs_kernels::{DType, Tensor};

use crate::{Call, Config, Emit, Layer, LayersError, Sym};

type Result<T> = std::result::Result<T, LayersError>;

/// What becomes of category indices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// The index itself.
    Int,
    /// A vector per element, with one 1.
    OneHot,
    /// A vector per sample, with a 1 for every category in it.
    MultiHot,
    /// A vector per sample with numbers of occurrences.
    Count,
    /// The same, weighted.
    TfIdf,
}

impl Mode {
    /// `output_mode`, also under its older names.
    ///
    /// # Errors
    /// When it is another word.
    pub(super) fn of(c: &Config<'_>, default: &'static str) -> Result<Mode> {
        let words = ["int", "one_hot", "multi_hot", "binary", "count", "tf_idf", "tf-idf"];
        Ok(match c.one_of("output_mode", &words, default)? {
            "one_hot" => Mode::OneHot,
            "multi_hot" | "binary" => Mode::MultiHot,
            "count" => Mode::Count,
            "tf_idf" | "tf-idf" => Mode::TfIdf,
            _ => Mode::Int,
        })
    }
}

/// Encodes int32 category indices. Indices outside of `[0, depth)` give no entry. With `TfIdf` these are counts.
///
/// # Errors
/// When the rank does not fit.
pub(super) fn encode(
    g: &mut Emit,
    x: Port,
    mode: Mode,
    depth: usize,
    dtype: DType,
    weights: Option<Port>,
) -> Result<Port> {
    if mode == Mode::Int {
        return g.cast(x, dtype);
    }
    let mut x = x;
    if g.rank(x)? == 0 {
        x = g.expand_dims(x, 0)?;
    }
    let shape = g.shape(x)?;
    let rank = shape.len();
    if mode == Mode::OneHot {
        if rank > 1 && shape[rank - 1] == Some(1) {
            x = g.squeeze(x, &[rank - 1])?;
        }
        return one_hot(g, x, depth, dtype);
    }
    let last = [&shape[..rank - 1], &[Some(depth)]].concat();
    if rank > 2 {
        let hot = one_hot(g, x, depth, dtype)?;
        // Keras sums over axis 1, whatever the rank.
        return g.reduce(if mode == Mode::MultiHot { "Max" } else { "Sum" }, hot, &[1], false);
    }
    let size = g.int(
        i32::try_from(depth).map_err(|_| LayersError::Inputs(format!("{depth} categories are too many")))?,
    );
    let weights = match weights {
        Some(weights) => weights,
        None => g.constant(Tensor::zeros(dtype, [0])?),
    };
    let binary = [("binary_output", attr::bool(mode == Mode::MultiHot))];
    let counts = g.op("DenseBincount", &[x, size, weights], &binary)?;
    g.set_shape(counts, &last);
    Ok(counts)
}

fn one_hot(g: &mut Emit, x: Port, depth: usize, dtype: DType) -> Result<Port> {
    let depth = g.int(depth as i32);
    let (on, off) = match dtype {
        DType::Int32 => (g.int(1), g.int(0)),
        _ => (g.scalar(1.0), g.scalar(0.0)),
    };
    g.op("OneHot", &[x, depth, on, off], &[("axis", attr::int(-1))])
}

/// Category indices as vectors.
#[derive(Debug)]
struct CategoryEncoding {
    depth: usize,
    mode: Mode,
}

pub(super) fn category_encoding(c: &Config<'_>) -> Result<Box<dyn Layer>> {
    c.known(&["sparse"]);
    // The oldest files call it so.
    let depth = match c.opt_usize("num_tokens")? {
        Some(depth) => depth,
        None => c.usize("max_tokens")?,
    };
    Ok(Box::new(CategoryEncoding { depth, mode: Mode::of(c, "multi_hot")? }))
}

impl Layer for CategoryEncoding {
    fn call(&self, g: &mut Emit, call: &Call) -> Result<Vec<Sym>> {
        let x = g.cast(call.input(0)?.port, DType::Int32)?;
        let given = call.tensor_kwarg("count_weights").or(call.inputs.get(1).copied());
        let weights = match given {
            Some(sym) => {
                let weights = g.cast(sym.port, DType::Float32)?;
                if g.rank(weights)? == 0 { Some(g.expand_dims(weights, 0)?) } else { Some(weights) }
            }
            None => None,
        };
        if self.mode == Mode::TfIdf {
            return Err(LayersError::Inputs("`tf_idf` needs weights, which this layer does not have".into()));
        }
        Ok(vec![encode(g, x, self.mode, self.depth, DType::Float32, weights)?.into()])
    }
}
