//! Embedding and ReversibleEmbedding: rows of a table, by id; PositionEmbedding: by place.

use serde_json::Value;
use tfjs_graph::{Fact, Port, builder::attr};
use tfjs_kernels::DType;

use super::core::{Kernel, KernelIds, built, constant, last_dim};
use super::quantized;
use crate::{
    Call, Config, Emit, Initializer, Layer, LayerDef, LayersError, Scope, Sym, WeightId, emit::Dim,
    topology::Arg,
};

type Result<T> = std::result::Result<T, LayersError>;

pub(super) const LAYERS: &[LayerDef] = &[
    LayerDef::new("Embedding", |c| Ok(Box::new(Embedding::new(c)?))),
    LayerDef::new("ReversibleEmbedding", |c| {
        c.known(&["reverse_dtype"]);
        Ok(Box::new(ReversibleEmbedding {
            table: Embedding::new(c)?,
            tied: c.bool_or("tie_weights", true)?,
            soft_cap: c.opt_f64("logit_soft_cap")?.map(|x| x as f32),
            reverse: None,
        }))
    }),
    LayerDef::new("PositionEmbedding", |c| {
        super::attention::only_tfjs(c, "PositionEmbedding")?;
        Ok(Box::new(PositionEmbedding {
            length: c.usize("sequence_length")?,
            initializer: match c.get("initializer") {
                Some(value) => Initializer::parse(value)?,
                None => Initializer::named("glorot_uniform"),
            },
            table: None,
        }))
    }),
];

/// embeddings: `[input_dim, output_dim]`; quantized also embeddings_scale: `[input_dim]`.
#[derive(Debug)]
struct Embedding {
    shape: [usize; 2],
    table: Kernel,
    mask_zero: bool,
    weights: Option<(KernelIds, Option<WeightId>)>,
}

impl Embedding {
    fn new(c: &Config<'_>) -> Result<Embedding> {
        // How lookups are done, and what shape ids have, follows from the input.
        c.known(&["input_length", "sparse", "use_one_hot_matmul"]);
        Ok(Embedding {
            shape: [c.usize("input_dim")?, c.usize("output_dim")?],
            table: Kernel::new(c, "embeddings", "uniform")?,
            mask_zero: c.bool_or("mask_zero", false)?,
            weights: None,
        })
    }

    fn lookup(&self, g: &mut Emit, ids: Port) -> Result<Port> {
        let (table, scale) = built(self.weights)?;
        // Ids given as floats are truncated.
        let ids = g.cast(ids, DType::Int32)?;
        let table = self.table.emit(g, table)?;
        let rows = gather(g, table, ids)?;
        let Some(scale) = scale else { return Ok(rows) };
        let scale = g.weight(scale);
        let scale = gather(g, scale, ids)?;
        let scale = g.expand_dims(scale, g.rank(scale)?)?;
        let rows = g.cast(rows, DType::Float32)?;
        g.div(rows, scale)
    }

    fn mask(&self, g: &mut Emit, ids: Port) -> Result<Option<Port>> {
        if !self.mask_zero {
            return Ok(None);
        }
        let zero = constant(g, 0.0, g.dtype(ids));
        Ok(Some(g.op("NotEqual", &[ids, zero], &[])?))
    }
}

/// Rows of a table.
fn gather(g: &mut Emit, table: Port, ids: Port) -> Result<Port> {
    let axis = g.int(0);
    g.op("GatherV2", &[table, ids, axis], &[("batch_dims", attr::int(0))])
}

impl Layer for Embedding {
    fn build(&mut self, scope: &mut Scope<'_>, _inputs: &[Fact]) -> Result<()> {
        let mut table = self.table.declare(scope, &self.shape);
        let rows = self.shape[0];
        let scale = self.table.int8.then(|| scope.state("embeddings_scale", &[rows], Initializer::ones()));
        self.table.declare_lora(scope, &self.shape, &mut table);
        self.weights = Some((table, scale));
        Ok(())
    }

    fn call(&self, g: &mut Emit, call: &Call) -> Result<Vec<Sym>> {
        let ids = call.one()?.port;
        let y = self.lookup(g, ids)?;
        let mask = self.mask(g, ids)?;
        Ok(vec![Sym::masked(y, mask)])
    }
}

/// An embedding that also turns vectors back into logits of ids, by the same table or one of its own.
///
/// embeddings: `[input_dim, output_dim]`; not tied also reverse_embeddings: `[output_dim, input_dim]`.
#[derive(Debug)]
struct ReversibleEmbedding {
    table: Embedding,
    tied: bool,
    soft_cap: Option<f32>,
    reverse: Option<(WeightId, Option<WeightId>)>,
}

impl ReversibleEmbedding {
    fn logits(&self, g: &mut Emit, x: Port) -> Result<Port> {
        let (table, scale) = built(self.table.weights)?;
        let (kernel, scale) = match self.reverse {
            Some((kernel, scale)) => (g.weight(kernel), scale),
            None => {
                let table = self.table.table.emit(g, table)?;
                (g.transpose(table, &[1, 0])?, scale)
            }
        };
        let mut y = match scale {
            Some(scale) => {
                let scale = g.weight(scale);
                quantized::matmul(g, x, kernel, scale)?
            }
            None => g.matmul(x, kernel)?,
        };
        if let Some(cap) = self.soft_cap {
            let scaled = g.scale(y, 1.0 / cap)?;
            let bent = g.unary("Tanh", scaled)?;
            y = g.scale(bent, cap)?;
        }
        Ok(y)
    }
}

impl Layer for ReversibleEmbedding {
    fn build(&mut self, scope: &mut Scope<'_>, inputs: &[Fact]) -> Result<()> {
        self.table.build(scope, inputs)?;
        if !self.tied {
            let [rows, width] = self.table.shape;
            let shape = [width, rows];
            let initializer = self.table.table.init.initializer.clone();
            self.reverse = Some(if self.table.table.int8 {
                let kernel = scope.declare("reverse_embeddings", &shape, DType::Int32, initializer, false);
                (kernel, Some(scope.state("reverse_embeddings_scale", &[rows], Initializer::ones())))
            } else {
                (scope.weight("reverse_embeddings", &shape, initializer), None)
            });
        }
        Ok(())
    }

    fn call(&self, g: &mut Emit, call: &Call) -> Result<Vec<Sym>> {
        let flag = call.kwarg("reverse").or_else(|| call.args.get(1));
        if flag == Some(&Arg::Value(Value::Bool(true))) {
            let x = call.input(0)?.port;
            return Ok(vec![self.logits(g, x)?.into()]);
        }
        self.table.call(g, call)
    }
}

/// TF.js's `PositionEmbedding`: for each step of a sequence the row of its place, whatever the step holds. Masks are dropped.
///
/// embeddings: `[sequence_length, width]`.
#[derive(Debug)]
struct PositionEmbedding {
    length: usize,
    initializer: Initializer,
    table: Option<WeightId>,
}

impl Layer for PositionEmbedding {
    fn build(&mut self, scope: &mut Scope<'_>, inputs: &[Fact]) -> Result<()> {
        let width = last_dim(inputs)?;
        self.table = Some(scope.weight("embeddings", &[self.length, width], self.initializer.clone()));
        Ok(())
    }

    fn call(&self, g: &mut Emit, call: &Call) -> Result<Vec<Sym>> {
        let x = call.one()?.port;
        let table = built(self.table)?;
        let first = match call.kwarg("start_index") {
            None => 0,
            Some(Arg::Value(first)) => first.as_i64().and_then(|i| i32::try_from(i).ok()).unwrap_or(-1),
            Some(_) => -1,
        };
        let dims = g.dims(x)?;
        let [.., steps, width] = dims.as_slice() else {
            return Err(LayersError::Inputs("it takes sequences of vectors".to_owned()));
        };
        let known = match steps {
            Dim::Known(n) => *n,
            Dim::Of(..) => 0,
        };
        // Longer ones that are not known before are refused by the op.
        let places = usize::try_from(first).ok().and_then(|first| first.checked_add(known));
        if places.is_none_or(|end| end > self.length) {
            return Err(LayersError::Inputs(format!(
                "{known} steps from place {first} on do not lie within {} places",
                self.length
            )));
        }
        let table = g.weight(table);
        let (begin, sizes) = (g.ints(&[first, 0]), g.shape_value(&[*steps, *width])?);
        let rows = g.op("Slice", &[table, begin, sizes], &[])?;
        let shape = g.shape_value(&dims)?;
        let y = g.op("BroadcastTo", &[rows, shape], &[])?;
        let known = g.shape(x)?;
        g.set_shape(y, &known);
        Ok(vec![y.into()])
    }
}
