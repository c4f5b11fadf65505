//! Writing the nodes of layers. [`Emit`] is a [`Builder`] that knows the model's weights and dialect, with the compositions
//! that several layers need.

use std::{cell::RefCell, collections::HashMap};

use tfjs_format::proto::attr_value::Value;
use tfjs_graph::{
    Fact, Graph, Port,
    builder::{Builder, attr},
};
use tfjs_kernels::{DType, Tensor};

use self::tables::Tables;
use crate::{Dialect, LayersError, Params, WeightId};

mod tables;
pub(crate) mod training;

type Result<T> = std::result::Result<T, LayersError>;

/// Largest constant that a layer computes while it is written, in elements.
const LARGEST_TABLE: usize = 1 << 26;

/// The number of elements of a constant that a layer computes while it is written.
///
/// # Errors
/// When it is too large to be meant.
pub fn table_size(sizes: &[usize]) -> Result<usize> {
    let size = sizes.iter().try_fold(1usize, |n, &s| n.checked_mul(s)).filter(|&n| n <= LARGEST_TABLE);
    size.ok_or_else(|| LayersError::Inputs(format!("a constant of {sizes:?} elements is too large")))
}

/// Writes a graph for a model's layers.
#[derive(Debug)]
pub struct Emit {
    builder: Builder,
    params: Params,
    weights: HashMap<WeightId, Port>,
    initializer: Tables,
    /// States kept from run to run, if they are to be kept.
    states: Option<Vec<KeptState>>,
    /// Present when weights are inputs of the graph.
    fed: Option<training::Fed>,
    /// The graph is run by this runtime and never written to a file.
    for_running: bool,
    /// How many loops are around what is being written.
    loops: usize,
    /// Whose rules apply.
    pub dialect: Dialect,
}

/// A finished graph.
#[derive(Debug)]
pub struct Emitted {
    /// What runs for each prediction. Its last outputs are the states.
    pub graph: Graph,
    /// What runs once before, and fills the hash tables, if there are any.
    pub initializer: Option<Graph>,
    /// States that a run takes and gives: inputs and outputs of these names.
    pub states: Vec<StateInfo>,
}

/// A value that lives on from run to run.
#[derive(Clone, Debug, PartialEq)]
pub struct StateInfo {
    /// Name of the input and the output.
    pub name: String,
    /// Dimensions. It is float32 and starts with zeros.
    pub shape: Vec<usize>,
}

#[derive(Debug)]
struct KeptState {
    info: StateInfo,
    port: Port,
}

/// A dimension of a shape to be made.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Dim {
    /// Known now.
    Known(usize),
    /// That of an axis of a value.
    Of(Port, usize),
}

impl Emit {
    /// A new graph.
    pub fn new(params: Params, dialect: Dialect) -> Emit {
        Emit {
            builder: Builder::default(),
            params,
            weights: HashMap::new(),
            initializer: Tables::default(),
            states: None,
            fed: None,
            for_running: false,
            loops: 0,
            dialect,
        }
    }

    /// The same, with states that are inputs and outputs; otherwise every run starts from zeros.
    #[must_use]
    pub fn keeping_states(self) -> Emit {
        Emit { states: Some(Vec::new()), ..self }
    }

    /// The same, for a graph that this runtime runs and that is never written to a file: layers may use ops that
    /// TensorFlow does not have.
    #[must_use]
    pub fn for_running(self) -> Emit {
        Emit { for_running: true, ..self }
    }

    /// Whether the graph is for this runtime alone. A graph with fed weights always is.
    pub fn is_for_running(&self) -> bool {
        self.for_running || self.fed.is_some()
    }

    /// The graph.
    pub fn finish(mut self) -> Emitted {
        let mut states = Vec::new();
        for state in self.states.take().unwrap_or_default() {
            self.builder.output(&state.info.name, state.port);
            states.push(state.info);
        }
        Emitted { graph: self.builder.finish(), initializer: self.initializer.finish(), states }
    }

    /// A value that an earlier run, or an earlier call of the layer, left under this name in the current scope; zeros at
    /// first.
    ///
    /// # Errors
    /// When it is too large.
    pub fn state(&mut self, name: &str, shape: &[usize]) -> Result<Port> {
        let name = format!("{}/{name}", self.builder.scope());
        // Inside a loop there is nothing to keep a value in.
        if let Some(states) = self.states.as_mut().filter(|_| self.loops == 0) {
            if let Some(state) = states.iter().find(|s| s.info.name == name) {
                return Ok(state.port);
            }
            let dims: Vec<Option<usize>> = shape.iter().map(|&d| Some(d)).collect();
            let port = self.builder.placeholder(&name, DType::Float32, &dims);
            states.push(KeptState { info: StateInfo { name, shape: shape.to_vec() }, port });
            return Ok(port);
        }
        let dims: Vec<Dim> = shape.iter().map(|&d| Dim::Known(d)).collect();
        self.zeros(&dims)
    }

    /// Leaves a value for the next run, where states are kept.
    pub fn set_state(&mut self, name: &str, value: Port) {
        let name = format!("{}/{name}", self.builder.scope());
        let states = self.states.iter_mut().flatten();
        if let Some(state) = states.into_iter().find(|s| s.info.name == name) {
            state.port = value;
        }
    }

    /// A hash table from keys to values, filled before the first run. To be read with `LookupTableFindV2`.
    ///
    /// # Errors
    /// When there is not one value for each key.
    pub fn table(&mut self, keys: Tensor, values: Tensor) -> Result<Port> {
        if keys.dims() != values.dims() || keys.rank() != 1 {
            let problem = format!("a table of {} keys and {} values", keys.shape(), values.shape());
            return Err(LayersError::Inputs(problem));
        }
        let attrs = [
            ("key_dtype", attr::dtype(keys.dtype())),
            ("value_dtype", attr::dtype(values.dtype())),
            ("container", attr::text("")),
            ("shared_name", attr::text("")),
            ("use_node_name_sharing", attr::bool(true)),
        ];
        let handle = self.op(tables::TABLE, &[], &attrs)?;
        let name = self.builder.graph().node(handle.node).name.clone();
        self.initializer.add(&name, &attrs, keys, values);
        Ok(handle)
    }

    /// Takes over the initializer of a graph that is written into this one: tables keep their names.
    pub(crate) fn initialize_with(&mut self, graph: &Graph) -> Result<()> {
        Ok(self.initializer.adopt(graph)?)
    }

    /// The weights known from now on: those before, and more.
    pub(crate) fn set_params(&mut self, params: &Params) {
        if params.weights.len() != self.params.weights.len() {
            self.params = params.clone();
        }
    }

    /// The builder underneath.
    pub fn builder(&mut self) -> &mut Builder {
        &mut self.builder
    }

    /// Adds an op with one output. See [`Builder::op`].
    ///
    /// # Errors
    /// When the inputs are known never to fit.
    pub fn op(&mut self, op: &str, inputs: &[Port], attrs: &[(&str, Value)]) -> Result<Port> {
        Ok(self.builder.op(op, inputs, attrs)?)
    }

    /// Adds an op with several outputs.
    ///
    /// # Errors
    /// When the inputs are known never to fit.
    pub fn op_n(
        &mut self,
        op: &str,
        inputs: &[Port],
        attrs: &[(&str, Value)],
        count: usize,
    ) -> Result<Vec<Port>> {
        Ok(self.builder.op_n(op, inputs, attrs, count)?)
    }

    /// Whether the value of a weight is known: weights of fine-tuning may be absent.
    pub fn has_value(&self, id: WeightId) -> bool {
        self.params.weights.get(id.0).is_some_and(|w| w.value.is_some())
    }

    /// A weight of the model: its value, or an input where weights are fed.
    pub fn weight(&mut self, id: WeightId) -> Port {
        if let Some(&port) = self.weights.get(&id) {
            return port;
        }
        let weight = self.params.weights[id.0].clone();
        let port = match self.fed_weight(id, &weight) {
            Some(port) => port,
            None => self.constant_weight(&weight),
        };
        self.weights.insert(id, port);
        port
    }

    /// The value of a weight, if it is known yet.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn weight_value(&self, id: WeightId) -> Result<Option<Tensor>> {
        let weight = self.params.get(id);
        let unread = |source| LayersError::WeightValue { weight: weight.keras.clone(), source };
        weight.value.as_ref().map(|value| value.tensor().map_err(unread)).transpose()
    }

    /// A constant.
    pub fn constant(&mut self, value: Tensor) -> Port {
        self.builder.constant(value)
    }

    /// A float scalar.
    pub fn scalar(&mut self, value: f32) -> Port {
        self.constant(Tensor::scalar(value))
    }

    /// An int32 scalar.
    pub fn int(&mut self, value: i32) -> Port {
        self.constant(Tensor::scalar(value))
    }

    /// An int32 vector.
    pub fn ints(&mut self, values: &[i32]) -> Port {
        self.constant(Tensor::vector(values.to_vec()))
    }

    /// A float vector.
    pub fn floats(&mut self, values: &[f32]) -> Port {
        self.constant(Tensor::vector(values.to_vec()))
    }

    /// What is known of a value.
    pub fn fact(&self, port: Port) -> &Fact {
        self.builder.fact(port)
    }

    /// The shape of a value, whose rank must be known.
    ///
    /// # Errors
    /// When the rank is not known.
    pub fn shape(&self, port: Port) -> Result<Vec<Option<usize>>> {
        self.fact(port)
            .shape
            .clone()
            .ok_or_else(|| LayersError::Inputs("the rank of an input is not known".into()))
    }

    /// The rank of a value.
    ///
    /// # Errors
    /// When it is not known.
    pub fn rank(&self, port: Port) -> Result<usize> {
        Ok(self.shape(port)?.len())
    }

    /// The type of a value; float32 if it is not known.
    pub fn dtype(&self, port: Port) -> DType {
        self.fact(port).dtype.unwrap_or(DType::Float32)
    }

    /// A dimension that must be known; `what` says which in the message.
    ///
    /// # Errors
    /// When it is not known.
    pub fn known_dim(&self, port: Port, axis: usize, what: &str) -> Result<usize> {
        let shape = self.shape(port)?;
        shape.get(axis).copied().flatten().ok_or_else(|| {
            LayersError::Inputs(format!("the {what} (axis {axis} of {}) must be known", self.fact(port)))
        })
    }

    /// An axis counted from the front; negative ones count from the end.
    ///
    /// # Errors
    /// When there is no such axis.
    pub fn axis(&self, port: Port, axis: i64) -> Result<usize> {
        let rank = self.rank(port)?;
        let positive = if axis < 0 { axis + rank as i64 } else { axis };
        usize::try_from(positive)
            .ok()
            .filter(|&a| a < rank)
            .ok_or_else(|| LayersError::Inputs(format!("axis {axis} does not exist in {}", self.fact(port))))
    }

    /// States what inference could not know of a shape.
    pub fn set_shape(&mut self, port: Port, shape: &[Option<usize>]) {
        self.builder.set_shape(port, shape);
    }

    /// Names of nodes written by `f` start with `name`.
    pub fn scoped<T>(&mut self, name: &str, f: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        let outer = self.builder.scope().to_owned();
        let scope = if outer.is_empty() { name.to_owned() } else { format!("{outer}/{name}") };
        self.builder.set_scope(scope);
        let result = f(self);
        self.builder.set_scope(outer);
        result
    }

    /// A loop; see [`Builder::while_loop`]. `cond` and `body` write into the loop's own functions: they may use weights and
    /// make constants, but no values from outside that are not among `vars`.
    ///
    /// # Errors
    /// Those of `cond` and `body`.
    pub fn while_loop(
        &mut self,
        vars: &[Port],
        cond: impl FnOnce(&mut Self, &[Port]) -> Result<Port>,
        body: impl FnOnce(&mut Self, &[Port]) -> Result<Vec<Port>>,
    ) -> Result<Vec<Port>> {
        let mut builder = std::mem::take(&mut self.builder);
        let this = RefCell::new(&mut *self);
        let result = builder.while_loop(
            vars,
            |b, args| this.borrow_mut().within(b, |g| cond(g, args)),
            |b, args| this.borrow_mut().within(b, |g| body(g, args)),
        );
        self.builder = builder;
        result
    }

    fn within<T>(&mut self, builder: &mut Builder, f: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        self.builder = std::mem::take(builder);
        let outside = std::mem::take(&mut self.weights);
        self.loops += 1;
        let result = f(self);
        self.loops -= 1;
        self.weights = outside;
        *builder = std::mem::take(&mut self.builder);
        result
    }

    /// `op(a)`
    ///
    /// # Errors
    /// When the input is known never to fit.
    pub fn unary(&mut self, op: &str, a: Port) -> Result<Port> {
        self.op(op, &[a], &[])
    }

    /// `a + b`
    ///
    /// # Errors
    /// When the shapes cannot be broadcast.
    pub fn add(&mut self, a: Port, b: Port) -> Result<Port> {
        self.op("AddV2", &[a, b], &[])
    }

    /// `a - b`
    ///
    /// # Errors
    /// When the shapes cannot be broadcast.
    pub fn sub(&mut self, a: Port, b: Port) -> Result<Port> {
        self.op("Sub", &[a, b], &[])
    }

    /// `a · b`, element by element.
    ///
    /// # Errors
    /// When the shapes cannot be broadcast.
    pub fn mul(&mut self, a: Port, b: Port) -> Result<Port> {
        self.op("Mul", &[a, b], &[])
    }

    /// `a / b`
    ///
    /// # Errors
    /// When the shapes cannot be broadcast.
    pub fn div(&mut self, a: Port, b: Port) -> Result<Port> {
        self.op("RealDiv", &[a, b], &[])
    }

    /// `a · factor`
    ///
    /// # Errors
    /// When `a` is not float.
    pub fn scale(&mut self, a: Port, factor: f32) -> Result<Port> {
        let factor = self.scalar(factor);
        self.mul(a, factor)
    }

    /// `a + offset`
    ///
    /// # Errors
    /// When `a` is not float.
    pub fn offset(&mut self, a: Port, offset: f32) -> Result<Port> {
        let offset = self.scalar(offset);
        self.add(a, offset)
    }

    /// A value of another type.
    ///
    /// # Errors
    /// When there is no such conversion.
    pub fn cast(&mut self, a: Port, dtype: DType) -> Result<Port> {
        if self.fact(a).dtype == Some(dtype) {
            return Ok(a);
        }
        self.op("Cast", &[a], &[("DstT", attr::dtype(dtype)), ("Truncate", attr::bool(false))])
    }

    /// A reduction (`Sum`, `Mean`, `Max`, `Min`, `Prod`, `All`, `Any`) over axes.
    ///
    /// # Errors
    /// When an axis does not exist.
    pub fn reduce(&mut self, op: &str, a: Port, axes: &[usize], keep_dims: bool) -> Result<Port> {
        let axes: Vec<i32> = axes.iter().map(|&x| x as i32).collect();
        let axes = self.ints(&axes);
        self.op(op, &[a, axes], &[("keep_dims", attr::bool(keep_dims))])
    }

    /// Axes in another order.
    ///
    /// # Errors
    /// When `order` is not a permutation.
    pub fn transpose(&mut self, a: Port, order: &[usize]) -> Result<Port> {
        if order.iter().enumerate().all(|(i, &o)| i == o) {
            return Ok(a);
        }
        let order: Vec<i32> = order.iter().map(|&x| x as i32).collect();
        let order = self.ints(&order);
        self.op("Transpose", &[a, order], &[])
    }

    /// The dimension of a value along an axis, if it is known, else where to find it.
    ///
    /// # Errors
    /// When the rank is not known.
    pub fn dim(&self, port: Port, axis: usize) -> Result<Dim> {
        Ok(self.shape(port)?.get(axis).copied().flatten().map_or(Dim::Of(port, axis), Dim::Known))
    }

    /// All dimensions of a value.
    ///
    /// # Errors
    /// When the rank is not known.
    pub fn dims(&self, port: Port) -> Result<Vec<Dim>> {
        (0..self.rank(port)?).map(|axis| self.dim(port, axis)).collect()
    }

    /// A scalar with the size of a dimension.
    ///
    /// # Errors
    /// When the graph cannot be written.
    pub fn dim_value(&mut self, dim: Dim) -> Result<Port> {
        match dim {
            Dim::Known(n) => Ok(self.int(n as i32)),
            Dim::Of(port, axis) => {
                let shape = self.op("Shape", &[port], &[("out_type", attr::dtype(DType::Int32))])?;
                let (begin, end) = (self.ints(&[axis as i32]), self.ints(&[axis as i32 + 1]));
                let one = self.ints(&[1]);
                let masks = ["begin_mask", "end_mask", "ellipsis_mask", "new_axis_mask"];
                let mut attrs: Vec<(&str, Value)> = masks.iter().map(|m| (*m, attr::int(0))).collect();
                attrs.push(("shrink_axis_mask", attr::int(1)));
                self.op("StridedSlice", &[shape, begin, end, one], &attrs)
            }
        }
    }

    /// A vector of dimensions: a constant if all are known.
    ///
    /// # Errors
    /// When the graph cannot be written.
    pub fn shape_value(&mut self, dims: &[Dim]) -> Result<Port> {
        let known: Option<Vec<i32>> = dims
            .iter()
            .map(|d| match d {
                Dim::Known(n) => Some(*n as i32),
                Dim::Of(..) => None,
            })
            .collect();
        if let Some(known) = known {
            return Ok(self.ints(&known));
        }
        let parts: Vec<Port> = dims.iter().map(|&d| self.dim_value(d)).collect::<Result<_>>()?;
        self.op("Pack", &parts, &[("axis", attr::int(0))])
    }

    /// The same elements under another shape. One dimension that is not known costs nothing; with several, the graph
    /// computes them.
    ///
    /// # Errors
    /// When the numbers of elements are known to differ.
    pub fn reshape(&mut self, a: Port, dims: &[Dim]) -> Result<Port> {
        let unknown = dims.iter().filter(|d| matches!(d, Dim::Of(..))).count();
        let shape = if unknown == 1 {
            let sizes: Vec<i32> = dims
                .iter()
                .map(|d| match d {
                    Dim::Known(n) => *n as i32,
                    Dim::Of(..) => -1,
                })
                .collect();
            self.ints(&sizes)
        } else {
            self.shape_value(dims)?
        };
        let out = self.op("Reshape", &[a, shape], &[])?;
        let known: Vec<Option<usize>> = dims
            .iter()
            .map(|d| match d {
                Dim::Known(n) => Some(*n),
                Dim::Of(..) => None,
            })
            .collect();
        self.set_shape(out, &known);
        Ok(out)
    }

    /// The first `count` axes as one.
    ///
    /// # Errors
    /// When there are not as many axes.
    pub fn join_leading(&mut self, a: Port, count: usize) -> Result<Port> {
        if count == 1 {
            return Ok(a);
        }
        let shape = self.shape(a)?;
        let dims = self.dims(a)?;
        let (Some(leading), Some(rest)) = (shape.get(..count), dims.get(count..)) else {
            return Err(LayersError::Inputs(format!(
                "{count} axes are needed, the input is {}",
                self.fact(a)
            )));
        };
        let first = leading.iter().try_fold(1usize, |n, d| n.checked_mul((*d)?));
        let mut out_shape = vec![first];
        out_shape.extend(&shape[count..]);
        let target = if rest.iter().all(|d| matches!(d, Dim::Known(_))) {
            let sizes: Vec<i32> = out_shape.iter().map(|d| d.map_or(-1, |n| n as i32)).collect();
            self.ints(&sizes)
        } else {
            let mut parts = vec![self.int(-1)];
            for &dim in rest {
                parts.push(self.dim_value(dim)?);
            }
            self.op("Pack", &parts, &[("axis", attr::int(0))])?
        };
        let out = self.op("Reshape", &[a, target], &[])?;
        self.set_shape(out, &out_shape);
        Ok(out)
    }

    /// The first axis as several of these sizes.
    ///
    /// # Errors
    /// When the numbers of elements are known to differ.
    pub fn split_leading(&mut self, a: Port, leading: &[Dim]) -> Result<Port> {
        if leading.len() == 1 {
            return Ok(a);
        }
        let dims: Vec<Dim> = leading.iter().copied().chain(self.dims(a)?.into_iter().skip(1)).collect();
        self.reshape(a, &dims)
    }

    /// Float zeros.
    ///
    /// # Errors
    /// When they are too many.
    pub fn zeros(&mut self, dims: &[Dim]) -> Result<Port> {
        let known: Vec<Option<usize>> = dims
            .iter()
            .map(|d| match d {
                Dim::Known(n) => Some(*n),
                Dim::Of(..) => None,
            })
            .collect();
        let shape = self.shape_value(dims)?;
        let zero = self.scalar(0.0);
        let out = self.op("Fill", &[shape, zero], &[])?;
        self.set_shape(out, &known);
        Ok(out)
    }

    /// A new axis of size 1.
    ///
    /// # Errors
    /// When the rank is too small.
    pub fn expand_dims(&mut self, a: Port, axis: usize) -> Result<Port> {
        let axis = self.int(axis as i32);
        self.op("ExpandDims", &[a, axis], &[])
    }

    /// Axes of size 1 taken away.
    ///
    /// # Errors
    /// When they have another size.
    pub fn squeeze(&mut self, a: Port, axes: &[usize]) -> Result<Port> {
        let axes = attr::ints(axes.iter().map(|&x| x as i64));
        self.op("Squeeze", &[a], &[("squeeze_dims", axes)])
    }

    /// Values joined along an axis.
    ///
    /// # Errors
    /// When other dimensions differ.
    pub fn concat(&mut self, parts: &[Port], axis: usize) -> Result<Port> {
        if let [one] = parts {
            return Ok(*one);
        }
        let mut inputs = parts.to_vec();
        inputs.push(self.int(axis as i32));
        self.op("ConcatV2", &inputs, &[])
    }

    /// `count` equal parts along an axis.
    ///
    /// # Errors
    /// When the dimension does not divide.
    pub fn split(&mut self, a: Port, axis: usize, count: usize) -> Result<Vec<Port>> {
        let axis = self.int(axis as i32);
        self.op_n("Split", &[axis, a], &[("num_split", attr::int(count as i64))], count)
    }

    /// Part of a value: `sizes` of −1 reach to the end.
    ///
    /// # Errors
    /// When it does not lie inside.
    pub fn slice(&mut self, a: Port, begin: &[i32], sizes: &[i32]) -> Result<Port> {
        let (begin, sizes) = (self.ints(begin), self.ints(sizes));
        self.op("Slice", &[a, begin, sizes], &[])
    }

    /// Padding with a constant: (before, after) per axis.
    ///
    /// # Errors
    /// When there are not as many pairs as axes.
    pub fn pad(&mut self, a: Port, pads: &[(usize, usize)], value: f32) -> Result<Port> {
        if pads.iter().all(|&p| p == (0, 0)) {
            return Ok(a);
        }
        let flat: Vec<i32> = pads.iter().flat_map(|&(x, y)| [x as i32, y as i32]).collect();
        let pads = self.constant(Tensor::new([flat.len() / 2, 2], flat)?);
        if value == 0.0 {
            return self.op("Pad", &[a, pads], &[]);
        }
        let value = self.scalar(value);
        self.op("PadV2", &[a, pads, value], &[])
    }

    /// Adds a vector along the last axis.
    ///
    /// # Errors
    /// When lengths differ.
    pub fn bias_add(&mut self, a: Port, bias: Port) -> Result<Port> {
        self.op("BiasAdd", &[a, bias], &[("data_format", attr::text("NHWC"))])
    }

    /// Product of the last axis of `a` with the matrix `b`: `[…, k] · [k, n]`.
    ///
    /// # Errors
    /// When the inner dimensions differ.
    pub fn matmul(&mut self, a: Port, b: Port) -> Result<Port> {
        let no = || attr::bool(false);
        let shape = self.shape(a)?;
        if shape.len() == 2 {
            return self.op("MatMul", &[a, b], &[("transpose_a", no()), ("transpose_b", no())]);
        }
        let k = self.known_dim(b, 0, "rows of the kernel")?;
        let n = self.known_dim(b, 1, "columns of the kernel")?;
        let mut dims = self.dims(a)?;
        let rows = self.constant(Tensor::vector(vec![-1, k as i32]));
        let flat = self.op("Reshape", &[a, rows], &[])?;
        let product = self.op("MatMul", &[flat, b], &[("transpose_a", no()), ("transpose_b", no())])?;
        if let Some(last) = dims.last_mut() {
            *last = Dim::Known(n);
        }
        self.reshape(product, &dims)
    }

    /// `x` where `condition` holds, else `y`; broadcast.
    ///
    /// # Errors
    /// When the shapes cannot be broadcast.
    pub fn select(&mut self, condition: Port, x: Port, y: Port) -> Result<Port> {
        self.op("SelectV2", &[condition, x, y], &[])
    }
}
