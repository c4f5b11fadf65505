//! Attention: of one head without projections here, of several heads in `multi_head`, with what follows it in `decoder`.

mod decoder;
mod multi_head;

use tfjs_graph::{Fact, Port, builder::attr};
use tfjs_kernels::{DType, Tensor};

use super::activation::{boolean, softmax_over};
use super::core::last_dim;
use super::regularization::{dropout, seed};
use crate::{
    Call, Config, Dialect, Emit, Initializer, Layer, LayerDef, LayersError, Scope, Sym, WeightId, emit::Dim,
    topology::Arg,
};

type Result<T> = std::result::Result<T, LayersError>;

pub(super) const LAYERS: &[LayerDef] = &[
    LayerDef::new("Attention", |c| {
        let score = match (c.one_of("score_mode", &["dot", "concat"], "dot")?, c.bool_or("use_scale", false)?)
        {
            ("dot", scaled) => Score::Dot { scaled },
            (_, scaled) => Score::Concat { scaled },
        };
        attention(c, score)
    }),
    LayerDef::new("AdditiveAttention", |c| {
        attention(c, Score::Additive { scaled: c.bool_or("use_scale", true)? })
    }),
    LayerDef::new("MultiHeadAttention", multi_head::new),
    LayerDef::new("CachedMultiHeadAttention", multi_head::new),
    LayerDef::new("TransformerDecoder", decoder::new),
    LayerDef::new("GroupedQueryAttention", multi_head::new_grouped),
    LayerDef::new("GroupQueryAttention", multi_head::new_grouped),
];

/// Refuses layers of a library beside Keras that share their names with TF.js's own.
///
/// # Errors
/// When the file is not TF.js's.
pub(super) fn only_tfjs(c: &Config<'_>, class: &str) -> Result<()> {
    if c.dialect == Dialect::Tfjs {
        return Ok(());
    }
    Err(LayersError::UnknownClass {
        class: class.to_owned(),
        hint: "; only TensorFlow.js's own is known here: export the model as a SavedModel and convert that"
            .to_owned(),
    })
}

fn attention(c: &Config<'_>, score: Score) -> Result<Box<dyn Layer>> {
    Ok(Box::new(Attention {
        score,
        causal: c.bool_or("causal", false)?,
        dropout: c.f32_or("dropout", 0.0)?,
        seed: seed(c),
        scale: None,
        concat: None,
    }))
}

/// How a query and a key are compared.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Score {
    /// q · k, times `scale`
    Dot { scaled: bool },
    /// `concat_score_weight` · Σ tanh(`scale` · (q + k))
    Concat { scaled: bool },
    /// Σ `scale` · tanh(q + k)
    Additive { scaled: bool },
}

/// Inputs are query, value and (if it is not the value) key; masks those of query and value.
///
/// scale: a scalar, for additive scores `[width]`; concat_score_weight: a scalar.
#[derive(Debug)]
struct Attention {
    score: Score,
    causal: bool,
    /// Share of the weights that training drops.
    dropout: f32,
    seed: Option<i64>,
    scale: Option<WeightId>,
    concat: Option<WeightId>,
}

impl Attention {
    fn scores(&self, g: &mut Emit, query: Port, key: Port) -> Result<Port> {
        let scale = self.scale.map(|id| g.weight(id));
        if let Score::Dot { scaled } = self.score {
            let scores = batch_matmul(g, query, key, true)?;
            return match scale {
                Some(scale) if scaled => g.mul(scores, scale),
                _ => Ok(scores),
            };
        }
        let rank = g.rank(query)?;
        let query = g.expand_dims(query, rank - 1)?;
        let key = g.expand_dims(key, g.rank(key)?.saturating_sub(2))?;
        let mut sum = g.add(query, key)?;
        if let (Score::Concat { .. }, Some(scale)) = (self.score, scale) {
            sum = g.mul(sum, scale)?;
        }
        let mut bent = g.unary("Tanh", sum)?;
        if let (Score::Additive { .. }, Some(scale)) = (self.score, scale) {
            bent = g.mul(bent, scale)?;
        }
        let last = g.axis(bent, -1)?;
        let scores = g.reduce("Sum", bent, &[last], false)?;
        match self.concat {
            Some(weight) => {
                let weight = g.weight(weight);
                g.mul(scores, weight)
            }
            None => Ok(scores),
        }
    }
}

impl Layer for Attention {
    fn build(&mut self, scope: &mut Scope<'_>, inputs: &[Fact]) -> Result<()> {
        let one = Initializer::ones;
        match self.score {
            Score::Dot { scaled } | Score::Concat { scaled } => {
                self.scale = scaled.then(|| scope.weight("scale", &[], one()));
            }
            Score::Additive { scaled } => {
                if scaled {
                    let width = last_dim(inputs.get(1..).unwrap_or_default())?;
                    self.scale = Some(scope.weight("scale", &[width], Initializer::named("glorot_uniform")));
                }
            }
        }
        if matches!(self.score, Score::Concat { .. }) {
            self.concat = Some(scope.weight("concat_score_weight", &[], one()));
        }
        Ok(())
    }

    fn call(&self, g: &mut Emit, call: &Call) -> Result<Vec<Sym>> {
        let (query, value) = (call.input(0)?.port, call.input(1)?.port);
        let key = call.inputs.get(2).map_or(value, |s| s.port);
        let scores = self.scores(g, query, key)?;
        let mut mask = None;
        if let Some(value_mask) = call.mask(1) {
            let value_mask = boolean(g, value_mask, 0.0)?;
            let axis = g.rank(value_mask)?.saturating_sub(1);
            mask = Some(g.expand_dims(value_mask, axis)?);
        }
        if self.causal || flag(call, "use_causal_mask") {
            let rank = g.rank(scores)?;
            let (queries, keys) = (g.dim(scores, rank - 2)?, g.dim(scores, rank - 1)?);
            let causal = causal_mask(g, queries, keys)?;
            mask = Some(both(g, mask, causal)?);
        }
        let mut masked = scores;
        if let Some(mask) = mask {
            let far = g.offset(scores, -1e9)?;
            masked = g.select(mask, scores, far)?;
        }
        let last = g.axis(masked, -1)?;
        let mut weights = softmax_over(g, masked, &[last])?;
        if call.training(g) && self.dropout > 0.0 {
            let dims = g.dims(weights)?;
            weights = dropout(g, weights, self.dropout, &dims, self.seed)?;
        }
        let mut y = batch_matmul(g, weights, value, false)?;
        let query_mask = call.mask(0);
        if let Some(query_mask) = query_mask {
            let query_mask = boolean(g, query_mask, 0.0)?;
            let axis = g.rank(query_mask)?;
            let query_mask = g.expand_dims(query_mask, axis)?;
            let zero = g.scalar(0.0);
            y = g.select(query_mask, y, zero)?;
        }
        let mut outputs = vec![Sym::masked(y, query_mask)];
        if flag(call, "return_attention_scores") {
            outputs.push(weights.into());
        }
        Ok(outputs)
    }
}

/// Whether a keyword argument is true.
fn flag(call: &Call, name: &str) -> bool {
    matches!(call.kwarg(name), Some(Arg::Value(v)) if v.as_bool() == Some(true) || v.as_i64() == Some(1))
}

fn both(g: &mut Emit, a: Option<Port>, b: Port) -> Result<Port> {
    match a {
        Some(a) => g.op("LogicalAnd", &[a, b], &[]),
        None => Ok(b),
    }
}

/// Products of the last two axes; `transpose` swaps those of `b`.
fn batch_matmul(g: &mut Emit, a: Port, b: Port, transpose: bool) -> Result<Port> {
    g.op("BatchMatMulV2", &[a, b], &[("adj_x", attr::bool(false)), ("adj_y", attr::bool(transpose))])
}

/// `[1, queries, keys]`: true where the key does not come after the query.
pub(super) fn causal_mask(g: &mut Emit, queries: Dim, keys: Dim) -> Result<Port> {
    mask_by_place(
        g,
        queries,
        keys,
        |row, column| column <= row,
        |g, rows, columns| g.op("GreaterEqual", &[rows, columns], &[]),
    )
}

/// `[1, queries, keys]`: true where the places are less than `window` apart.
fn window_mask(g: &mut Emit, queries: Dim, keys: Dim, window: usize) -> Result<Port> {
    mask_by_place(
        g,
        queries,
        keys,
        |row, column| row.abs_diff(column) < window,
        |g, rows, columns| {
            let distance = g.sub(rows, columns)?;
            let distance = g.unary("Abs", distance)?;
            let window = g.int(window as i32);
            g.op("Less", &[distance, window], &[])
        },
    )
}

/// Lengths up to which masks are written as constants.
const LARGEST_CONSTANT: usize = 1 << 16;

fn mask_by_place(
    g: &mut Emit,
    queries: Dim,
    keys: Dim,
    known: impl Fn(usize, usize) -> bool,
    computed: impl FnOnce(&mut Emit, Port, Port) -> Result<Port>,
) -> Result<Port> {
    if let (Dim::Known(rows), Dim::Known(columns)) = (queries, keys)
        && rows.saturating_mul(columns) <= LARGEST_CONSTANT
    {
        let data =
            (0..rows).flat_map(|r| (0..columns).map(move |c| (r, c))).map(|(r, c)| known(r, c)).collect();
        return Ok(g.constant(Tensor::new([1, rows, columns], data)?));
    }
    let mut places = |dim: Dim, axis: usize| -> Result<Port> {
        let (start, end, step) = (g.int(0), g.dim_value(dim)?, g.int(1));
        let range = g.op("Range", &[start, end, step], &[("Tidx", attr::dtype(DType::Int32))])?;
        let length = match dim {
            Dim::Known(n) => Some(n),
            Dim::Of(..) => None,
        };
        g.set_shape(range, &[length]);
        let range = g.expand_dims(range, axis)?;
        g.expand_dims(range, 0)
    };
    let (rows, columns) = (places(queries, 1)?, places(keys, 0)?);
    computed(g, rows, columns)
}
