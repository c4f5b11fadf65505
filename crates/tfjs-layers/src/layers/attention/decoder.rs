use serde_json::{Value, json};
use tfjs_graph::{Fact, Port};

use super::super::{
    activation::boolean,
    core::{built, last_dim},
    regularization::{dropout, seed},
};
use super::{both, flag, multi_head::MultiHead};
use crate::{
    Activation, Call, Config, Emit, Layer, LayersError, Scope, Sym, WeightId, WeightInit,
    topology::{Arg, LayerConfig},
};

type Result<T> = std::result::Result<T, LayersError>;

/// TF.js's `TransformerDecoder`. KerasNLP's class of this name computes something else: it hides what comes later unless
/// it is told not to, and has a second normalization.
pub(super) fn new(c: &Config<'_>) -> Result<Box<dyn Layer>> {
    super::only_tfjs(c, "TransformerDecoder")?;
    c.known(&["decoder_sequence_shape", "encoder_sequence_shape"]);
    let norm = json!({"class_name": "LayerNormalization",
        "config": {"name": "self_attention_layer_norm", "epsilon": c.f64_or("layer_norm_epsilon", 1e-5)?}});
    Ok(Box::new(TransformerDecoder {
        attention: MultiHead::square(c)?,
        norm: c.make(&LayerConfig::nested(&norm, c.dialect)?)?,
        units: c.usize("intermediate_dim")?,
        activation: c.activation("activation", "relu")?,
        kernel_initializer: c.initializer("kernel", "glorot_uniform")?,
        bias_initializer: c.initializer("bias", "zeros")?,
        dropout: c.f32_or("dropout", 0.0)?,
        seed: seed(c),
        norm_first: c.bool_or("normalize_first", false)?,
        dense: None,
    }))
}

/// `x + attention(x)`, then `x + dense(dense(x))`, each normalised before or after, by one and the same normalization.
///
/// self_attention: as `MultiHeadAttention` with heads of `width / num_heads`; self_attention_layer_norm: gamma, beta
/// `[width]`; feedforward_intermediate_dense: kernel `[width, intermediate_dim]`, bias; feedforward_output_dense: kernel
/// `[intermediate_dim, width]`, bias.
#[derive(Debug)]
struct TransformerDecoder {
    attention: MultiHead,
    norm: Box<dyn Layer>,
    /// Width between the dense layers.
    units: usize,
    activation: Activation,
    kernel_initializer: WeightInit,
    bias_initializer: WeightInit,
    /// Share of the attention weights and of both results that training drops.
    dropout: f32,
    seed: Option<i64>,
    norm_first: bool,
    /// Kernel and bias of both dense layers.
    dense: Option<[(WeightId, WeightId); 2]>,
}

impl TransformerDecoder {
    fn norm(&self, g: &mut Emit, call: &Call, x: Port) -> Result<Port> {
        single(&self.norm.call(g, &call.inner([x.into()]))?)
    }

    fn drop(&self, g: &mut Emit, call: &Call, x: Port) -> Result<Port> {
        if !call.training(g) {
            return Ok(x);
        }
        let dims = g.dims(x)?;
        dropout(g, x, self.dropout, &dims, self.seed)
    }

    /// What may be attended to, besides the order of the steps.
    fn mask(g: &mut Emit, call: &Call) -> Result<Option<Port>> {
        let mut mask = None;
        if let Some(padding) = call.tensor_kwarg("decoder_padding_mask") {
            let padding = boolean(g, padding.port, 0.0)?;
            mask = Some(g.expand_dims(padding, 1)?);
        }
        if let Some(given) = call.tensor_kwarg("decoder_attention_mask") {
            let given = boolean(g, given.port, 0.0)?;
            mask = Some(both(g, mask, given)?);
        }
        Ok(mask)
    }
}

impl Layer for TransformerDecoder {
    fn build(&mut self, scope: &mut Scope<'_>, inputs: &[Fact]) -> Result<()> {
        let width = last_dim(inputs)?;
        self.attention.set_width(width)?;
        scope.enter("self_attention_layer", "self_attention", "self_attention", |s| {
            self.attention.build(s, inputs)
        })?;
        let name = "self_attention_layer_norm";
        scope.enter(name, name, name, |s| self.norm.build(s, inputs))?;
        let mut dense = |name: &str, shape: [usize; 2]| {
            let (kernel, bias) = (self.kernel_initializer.clone(), self.bias_initializer.clone());
            scope.enter(name, name, name, |s| {
                Ok((s.weight("kernel", &shape, kernel), s.weight("bias", &shape[1..], bias)))
            })
        };
        let between = dense("feedforward_intermediate_dense", [width, self.units])?;
        self.dense = Some([between, dense("feedforward_output_dense", [self.units, width])?]);
        Ok(())
    }

    fn call(&self, g: &mut Emit, call: &Call) -> Result<Vec<Sym>> {
        for name in ["encoder_sequence", "self_attention_cache", "cross_attention_cache"] {
            if call.kwarg(name).is_some() {
                return Err(LayersError::Inputs(format!("TensorFlow.js has no `{name}` in a model")));
            }
        }
        let [between, last] = built(self.dense)?;
        let x = call.one()?.port;
        let mut to_attention = call.inner([Sym::from(x)]);
        if let Some(mask) = Self::mask(g, call)? {
            to_attention.kwargs.push(("attention_mask".to_owned(), Arg::Tensor(mask.into())));
        }
        if flag(call, "use_causal_mask") {
            to_attention.kwargs.push(("use_causal_mask".to_owned(), Arg::Value(Value::Bool(true))));
        }
        if self.norm_first {
            let normal: Sym = self.norm(g, call, x)?.into();
            (to_attention.inputs, to_attention.args) = (vec![normal], vec![Arg::Tensor(normal)]);
        }
        let y = single(&self.attention.call(g, &to_attention)?)?;
        let y = self.drop(g, call, y)?;
        let mut x = g.add(y, x)?;
        if !self.norm_first {
            x = self.norm(g, call, x)?;
        }
        let mut y = x;
        if self.norm_first {
            y = self.norm(g, call, y)?;
        }
        for (i, (kernel, bias)) in [between, last].into_iter().enumerate() {
            let (kernel, bias) = (g.weight(kernel), g.weight(bias));
            y = g.matmul(y, kernel)?;
            y = g.bias_add(y, bias)?;
            if i == 0 {
                y = self.activation.emit(g, y)?;
            }
        }
        let y = self.drop(g, call, y)?;
        let mut x = g.add(y, x)?;
        if !self.norm_first {
            x = self.norm(g, call, x)?;
        }
        // TF.js's layer knows no masks but those it is given as arguments.
        Ok(vec![x.into()])
    }
}

fn single(outputs: &[Sym]) -> Result<Port> {
    let first =
        outputs.first().ok_or_else(|| LayersError::Inputs("a layer inside gives nothing".to_owned()))?;
    Ok(first.port)
}
