use serde_json::Value;
use tfjs_graph::{Fact, Port};

use super::super::{
    activation::{boolean, masked_softmax, softmax_over},
    regularization::{activity_regularizer, dropout, penalise, seed},
};
use super::{both, causal_mask, flag, window_mask};
use crate::{
    Call, Config, Dialect, Emit, Layer, LayersError, Regularizer, Scope, Sym, WeightId, WeightInit,
    einsum::einsum, emit::Dim, layers::core::built,
};

type Result<T> = std::result::Result<T, LayersError>;

/// MultiHeadAttention of Keras 2 and 3. TF.js's `CachedMultiHeadAttention` is the same without its cache.
pub(super) fn new(c: &Config<'_>) -> Result<Box<dyn Layer>> {
    c.known(&["query_shape", "key_shape", "value_shape", "flash_attention"]);
    let (heads, key_dim) = (c.usize("num_heads")?, c.usize("key_dim")?);
    let wrong = || c.wrong("output_shape", "sizes");
    let output_shape = match c.opt_ints("output_shape")? {
        Some(sizes) if !sizes.is_empty() => {
            let sizes: std::result::Result<_, _> = sizes.into_iter().map(usize::try_from).collect();
            Some(sizes.map_err(|_| wrong())?)
        }
        _ => None,
    };
    Ok(Box::new(MultiHead {
        heads,
        value_heads: heads,
        key_dim,
        value_dim: c.opt_usize("value_dim")?.filter(|&d| d > 0).unwrap_or(key_dim),
        use_bias: c.bool_or("use_bias", true)?,
        use_gate: c.bool_or("use_gate", false)?,
        output_shape,
        axes: c.opt_ints("attention_axes")?.filter(|a| !a.is_empty()),
        window: c.opt_usize("sliding_window")?,
        dropout: c.f32_or("dropout", 0.0)?,
        seed: seed(c),
        regularizer: activity_regularizer(c).filter(|_| c.dialect == Dialect::Keras3),
        kernel_initializer: c.initializer("kernel", "glorot_uniform")?,
        bias_initializer: c.initializer("bias", "zeros")?,
        grouped: false,
        parts: None,
    }))
}

/// GroupedQueryAttention: several heads of queries share a head of keys and values.
pub(super) fn new_grouped(c: &Config<'_>) -> Result<Box<dyn Layer>> {
    c.known(&["flash_attention"]);
    let (heads, value_heads) = (c.usize("num_query_heads")?, c.usize("num_key_value_heads")?);
    if value_heads == 0 || heads % value_heads != 0 {
        return Err(c.wrong("num_key_value_heads", format!("a divisor of `num_query_heads`, {heads}")));
    }
    let dim = c.usize("head_dim")?;
    Ok(Box::new(MultiHead {
        heads,
        value_heads,
        key_dim: dim,
        value_dim: dim,
        use_bias: c.bool_or("use_bias", true)?,
        use_gate: c.bool_or("use_gate", false)?,
        output_shape: None,
        axes: None,
        window: c.opt_usize("sliding_window")?,
        dropout: c.f32_or("dropout", 0.0)?,
        seed: seed(c),
        regularizer: activity_regularizer(c).filter(|_| c.dialect == Dialect::Keras3),
        kernel_initializer: c.initializer("kernel", "glorot_uniform")?,
        bias_initializer: c.initializer("bias", "zeros")?,
        grouped: true,
        parts: None,
    }))
}

/// `output(softmax(query(q)·key(k)ᵀ / √key_dim) · value(v))` for each head.
///
/// query: kernel `[in, heads, key_dim]`, bias `[heads, key_dim]`; key and value alike; gate as query;
/// attention_output: kernel `[heads, value_dim, out…]`, bias `[out…]`.
#[derive(Debug)]
pub(super) struct MultiHead {
    heads: usize,
    /// Of keys and values.
    value_heads: usize,
    key_dim: usize,
    value_dim: usize,
    use_bias: bool,
    use_gate: bool,
    output_shape: Option<Vec<usize>>,
    axes: Option<Vec<i64>>,
    window: Option<usize>,
    /// Share of the attention weights that training drops.
    dropout: f32,
    seed: Option<i64>,
    /// The penalty on what each projection gives, in Keras 3.
    regularizer: Option<Regularizer>,
    kernel_initializer: WeightInit,
    bias_initializer: WeightInit,
    grouped: bool,
    parts: Option<Parts>,
}

#[derive(Clone, Copy, Debug)]
struct Projection {
    kernel: WeightId,
    bias: Option<WeightId>,
}

#[derive(Clone, Copy, Debug)]
struct Parts {
    query: Projection,
    key: Projection,
    gate: Option<Projection>,
    value: Projection,
    output: Projection,
}

/// Letters for axes.
fn letters(count: usize) -> String {
    ('a'..='z').chain('A'..='Z').take(count).collect()
}

impl MultiHead {
    /// The attention inside another layer, whose heads share the width of the input: [`MultiHead::set_width`] says it.
    pub(super) fn square(c: &Config<'_>) -> Result<MultiHead> {
        let heads = c.usize("num_heads")?;
        if heads == 0 {
            return Err(c.wrong("num_heads", "a number of heads"));
        }
        Ok(MultiHead {
            heads,
            value_heads: heads,
            key_dim: 0,
            value_dim: 0,
            use_bias: true,
            use_gate: false,
            output_shape: None,
            axes: None,
            window: None,
            dropout: c.f32_or("dropout", 0.0)?,
            seed: seed(c),
            regularizer: None,
            kernel_initializer: c.initializer("kernel", "glorot_uniform")?,
            bias_initializer: c.initializer("bias", "zeros")?,
            grouped: false,
            parts: None,
        })
    }

    /// The width that the heads share.
    pub(super) fn set_width(&mut self, width: usize) -> Result<()> {
        self.key_dim = width / self.heads;
        self.value_dim = self.key_dim;
        if self.key_dim == 0 {
            return Err(LayersError::Inputs(format!(
                "a width of {width} does not do for {} heads",
                self.heads
            )));
        }
        Ok(())
    }

    fn declare(&mut self, scope: &mut Scope<'_>, query: &Fact, value: &Fact, key: &Fact) -> Result<()> {
        let width = |fact: &Fact, what: &str| {
            let last = fact.shape.as_ref().and_then(|s| s.last().copied().flatten());
            last.ok_or_else(|| {
                LayersError::Inputs(format!("the width of the {what} must be known, it is {fact}"))
            })
        };
        let (q, k, v) = (width(query, "query")?, width(key, "key")?, width(value, "value")?);
        let output = self.output_shape.clone().unwrap_or_else(|| vec![q]);
        let mut project = |object: &str, name: &str, kernel: &[usize], outputs: usize, inner: usize| {
            let mut kernel_initializer = self.kernel_initializer.clone();
            if scope.dialect == Dialect::Keras3 {
                let axes = |range: std::ops::Range<usize>| range.map(Value::from).collect::<Value>();
                let config = &mut kernel_initializer.initializer.config;
                config.insert("input_axes".to_owned(), axes(0..inner));
                config.insert("output_axes".to_owned(), axes(inner..kernel.len()));
            }
            let bias = self.use_bias.then(|| self.bias_initializer.clone());
            scope.enter(object, name, name, |s| {
                let kernel_id = s.weight("kernel", kernel, kernel_initializer);
                let bias = bias.map(|i| s.weight("bias", &kernel[kernel.len() - outputs..], i));
                Ok(Projection { kernel: kernel_id, bias })
            })
        };
        let (n, m) = (self.heads, self.value_heads);
        let query = project("query_dense", "query", &[q, n, self.key_dim], 2, 1)?;
        let key = project("key_dense", "key", &[k, m, self.key_dim], 2, 1)?;
        let gate = match self.use_gate {
            true => Some(project("gate_dense", "gate", &[q, n, self.value_dim], 2, 1)?),
            false => None,
        };
        let value = project("value_dense", "value", &[v, m, self.value_dim], 2, 1)?;
        let shape: Vec<usize> = [n, self.value_dim].into_iter().chain(output.iter().copied()).collect();
        let output = project("output_dense", "attention_output", &shape, output.len(), 2)?;
        self.parts = Some(Parts { query, key, gate, value, output });
        Ok(())
    }

    /// `x` with `inner` of its last axes contracted with the first of the kernel.
    fn project(&self, g: &mut Emit, x: Port, part: Projection, inner: usize) -> Result<Port> {
        let kernel = g.weight(part.kernel);
        let (rank, kernel_rank) = (g.rank(x)?, g.rank(kernel)?);
        let names = letters(rank + kernel_rank);
        let equation = format!(
            "{},{}->{}{}",
            &names[..rank],
            &names[rank - inner..rank - inner + kernel_rank],
            &names[..rank - inner],
            &names[rank..rank - inner + kernel_rank],
        );
        let mut y = einsum(g, &equation, &[x, kernel])?;
        if let Some(bias) = part.bias {
            let bias = g.weight(bias);
            y = g.add(y, bias)?;
        }
        if let Some(regularizer) = &self.regularizer {
            penalise(g, regularizer, y)?;
        }
        Ok(y)
    }

    /// Keys or values with each head repeated for the queries that share it.
    fn repeat(&self, g: &mut Emit, x: Port, width: usize) -> Result<Port> {
        let times = self.heads / self.value_heads.max(1);
        if times == 1 {
            return Ok(x);
        }
        let dims = g.dims(x)?;
        let wide = g.expand_dims(x, 3)?;
        let multiples = g.ints(&[1, 1, 1, times as i32, 1]);
        let wide = g.op("Tile", &[wide, multiples], &[])?;
        let front: Vec<Dim> = dims.into_iter().take(2).collect();
        let all: Vec<Dim> = front.into_iter().chain([Dim::Known(self.heads), Dim::Known(width)]).collect();
        g.reshape(wide, &all)
    }

    /// What may be attended to, of the rank of attention scores.
    fn mask(
        &self,
        g: &mut Emit,
        call: &Call,
        q: Sym,
        v: Sym,
        k: Sym,
        attention_axes: usize,
    ) -> Result<Option<Port>> {
        let own = |name: &str, s: Sym| call.tensor_kwarg(name).map(|t| t.port).or(s.mask);
        // Keras 3 overrides an argument `query_mask` by the mask that came with the query.
        let explicit = g.dialect != Dialect::Keras3 || self.grouped;
        let query_mask = if explicit { own("query_mask", q) } else { q.mask };
        let mut mask = None;
        for (given, axis) in [(query_mask, 2), (own("value_mask", v), 1), (own("key_mask", k), 1)] {
            if let Some(given) = given {
                let given = boolean(g, given, 0.0)?;
                let given = g.expand_dims(given, axis)?;
                mask = Some(both(g, mask, given)?);
            }
        }
        let lengths = [g.dim(q.port, 1)?, g.dim(v.port, 1)?];
        if flag(call, "use_causal_mask") {
            let causal = causal_mask(g, lengths[0], lengths[1])?;
            mask = Some(both(g, mask, causal)?);
        }
        if let Some(window) = self.window {
            let near = window_mask(g, lengths[0], lengths[1], window)?;
            mask = Some(both(g, mask, near)?);
        }
        if let Some(given) = call.tensor_kwarg("attention_mask") {
            let given = boolean(g, given.port, 0.0)?;
            mask = Some(both(g, mask, given)?);
        }
        // Axes of heads and others come before those of queries and keys.
        let Some(mut mask) = mask else { return Ok(None) };
        let scores_rank = g.rank(q.port)? + attention_axes;
        while g.rank(mask)? < scores_rank {
            let axis = g.rank(mask)?.saturating_sub(2 * attention_axes);
            mask = g.expand_dims(mask, axis)?;
        }
        Ok(Some(mask))
    }

    fn arguments(call: &Call) -> Result<(Sym, Sym, Sym)> {
        let query = call.inputs.first().copied().or_else(|| call.tensor_kwarg("query"));
        let query = query.ok_or_else(|| LayersError::Inputs("there is no query".to_owned()))?;
        let value = call.inputs.get(1).copied().or_else(|| call.tensor_kwarg("value")).unwrap_or(query);
        let key = call.inputs.get(2).copied().or_else(|| call.tensor_kwarg("key")).unwrap_or(value);
        Ok((query, value, key))
    }
}

impl Layer for MultiHead {
    fn build(&mut self, scope: &mut Scope<'_>, inputs: &[Fact]) -> Result<()> {
        let query = inputs.first().cloned().unwrap_or_default();
        let value = inputs.get(1).cloned().unwrap_or_else(|| query.clone());
        let key = inputs.get(2).cloned().unwrap_or_else(|| value.clone());
        self.declare(scope, &query, &value, &key)
    }

    fn build_for(&mut self, scope: &mut Scope<'_>, g: &Emit, call: &Call) -> Result<()> {
        let (query, value, key) = MultiHead::arguments(call)?;
        self.declare(scope, g.fact(query.port), g.fact(value.port), g.fact(key.port))
    }

    fn call(&self, g: &mut Emit, call: &Call) -> Result<Vec<Sym>> {
        let parts = built(self.parts)?;
        let (q, v, k) = MultiHead::arguments(call)?;
        // Axes of the projected query: batch axes and attention axes, then heads and width.
        let rank = g.rank(q.port)? + 1;
        if rank > 20 {
            return Err(LayersError::Inputs(format!("the rank of the query is {}", rank - 1)));
        }
        let attention: Vec<usize> = match &self.axes {
            None => (1..rank.saturating_sub(2)).collect(),
            Some(axes) => axes.iter().map(|&a| g.axis(q.port, a)).collect::<Result<_>>()?,
        };
        let mask = self.mask(g, call, q, v, k, attention.len())?;
        let gate = match parts.gate {
            Some(part) => {
                let gate = self.project(g, q.port, part, 1)?;
                Some(g.unary("Sigmoid", gate)?)
            }
            None => None,
        };
        let query = self.project(g, q.port, parts.query, 1)?;
        let key = self.project(g, k.port, parts.key, 1)?;
        let key = self.repeat(g, key, self.key_dim)?;
        let value = self.project(g, v.port, parts.value, 1)?;
        let value = self.repeat(g, value, self.value_dim)?;
        let query = g.scale(query, 1.0 / (self.key_dim as f32).sqrt())?;
        let (compare, combine) = equations(rank, &attention);
        let scores = einsum(g, &compare, &[key, query])?;
        let scores_rank = g.rank(scores)?;
        let axes: Vec<usize> = (scores_rank - attention.len()..scores_rank).collect();
        let wants_scores = flag(call, "return_attention_scores");
        // Keras 3 has another arithmetic for masks where it can use one fused op.
        let fused = g.dialect == Dialect::Keras3 && self.dropout <= 0.0 && !wants_scores && rank == 4;
        let weights = match mask {
            None => softmax_over(g, scores, &axes)?,
            Some(mask) if fused => {
                let low = g.scalar(-0.7 * f32::MAX);
                let scores = g.select(mask, scores, low)?;
                softmax_over(g, scores, &axes)?
            }
            Some(mask) => masked_softmax(g, scores, mask, &axes)?,
        };
        let mut kept = weights;
        if call.training(g) && self.dropout > 0.0 {
            let dims = g.dims(weights)?;
            kept = dropout(g, weights, self.dropout, &dims, self.seed)?;
        }
        let mut y = einsum(g, &combine, &[kept, value])?;
        if let Some(gate) = gate {
            y = g.mul(y, gate)?;
        }
        let y = self.project(g, y, parts.output, 2)?;
        let mut outputs = vec![Sym::masked(y, q.mask)];
        if wants_scores {
            outputs.push(weights.into());
        }
        Ok(outputs)
    }
}

/// Equations for scores (`key,query->scores`) and for what is attended to (`scores,value->output`).
fn equations(rank: usize, attention: &[usize]) -> (String, String) {
    let names: Vec<char> = letters(2 * rank).chars().collect();
    let target: String = names[..rank].iter().collect();
    let source: String =
        (0..rank).map(|i| if attention.contains(&i) { names[rank + i] } else { names[i] }).collect();
    let batch = (0..rank - 1).filter(|i| !attention.contains(i)).map(|i| names[i]);
    let queries = attention.iter().map(|&i| names[i]);
    let keys = attention.iter().map(|&i| names[rank + i]);
    let scores: String = batch.chain(queries).chain(keys).collect();
    (format!("{source},{target}->{scores}"), format!("{scores},{source}->{target}"))
}
