//! What a rule writes its nodes with.

use tfjs_format::proto::attr_value::Value;
use tfjs_kernels::{DType, Tensor};

use super::{Gradient, Result};
use crate::{
    Attrs, Fact, GraphError, Node, NodeId, Port,
    builder::{Builder, attr},
};

/// A node whose gradient is written.
pub(crate) struct GradCx<'a> {
    pub(crate) b: &'a mut Builder,
    pub(super) id: NodeId,
    node: Node,
    grads: Vec<Option<Gradient>>,
    wanted: Vec<bool>,
    found: Vec<Option<Gradient>>,
}

impl<'a> GradCx<'a> {
    pub(super) fn new(
        b: &'a mut Builder,
        id: NodeId,
        node: Node,
        grads: Vec<Option<Gradient>>,
        wanted: Vec<bool>,
    ) -> GradCx<'a> {
        let found = vec![None; node.inputs.len()];
        GradCx { b, id, node, grads, wanted, found }
    }

    /// Gradients of inputs that were found and are wanted.
    pub(super) fn finish(self) -> impl Iterator<Item = (Port, Gradient)> {
        let GradCx { b, node, wanted, found, .. } = self;
        for (&port, gradient) in node.inputs.iter().zip(&found) {
            if let Some(Gradient::Dense(g)) = *gradient {
                b.refine(g, port);
            }
        }
        node.inputs
            .into_iter()
            .zip(found)
            .zip(wanted)
            .filter(|(_, wanted)| *wanted)
            .filter_map(|((port, gradient), _)| Some((port, gradient?)))
    }

    /// The node.
    pub(crate) fn node(&self) -> &Node {
        &self.node
    }

    /// Its attributes.
    pub(crate) fn attrs(&self) -> &Attrs {
        &self.node.attrs
    }

    /// Number of inputs.
    pub(crate) fn inputs(&self) -> usize {
        self.node.inputs.len()
    }

    /// Number of outputs that are known.
    pub(crate) fn outputs(&self) -> usize {
        self.grads.len()
    }

    /// A number of outputs, from an attribute.
    pub(crate) fn count(&self, name: &'static str) -> Result<usize> {
        let count = self.attrs().int_or(name, 0)?;
        match usize::try_from(count).ok().filter(|&n| n > 0 && n <= 1 << 20) {
            Some(count) => Ok(count),
            None => self.refuse(format!("attribute `{name}` is {count}")),
        }
    }

    /// Input `i`.
    pub(crate) fn x(&self, i: usize) -> Port {
        self.node.inputs[i]
    }

    /// Output `i`.
    pub(crate) fn y(&self, i: usize) -> Port {
        Port { node: self.id, index: i as u32 }
    }

    /// Whether the gradient of input `i` is wanted.
    pub(crate) fn wants(&self, i: usize) -> bool {
        self.wanted.get(i).copied().unwrap_or(false)
    }

    /// The gradient of output 0; zeros if there is none.
    pub(crate) fn dy(&mut self) -> Result<Port> {
        self.dy_or_zeros(0)
    }

    /// The gradient of output `i`, if it has one.
    pub(crate) fn dy_of(&mut self, i: usize) -> Result<Option<Port>> {
        match self.grads.get(i).copied().flatten() {
            Some(g) => Ok(Some(g.dense(self.b)?)),
            None => Ok(None),
        }
    }

    /// The gradient of output `i`, zeros if it has none.
    pub(crate) fn dy_or_zeros(&mut self, i: usize) -> Result<Port> {
        match self.dy_of(i)? {
            Some(g) => Ok(g),
            None => self.un("ZerosLike", self.y(i)),
        }
    }

    /// The gradient of output 0 as it came.
    pub(crate) fn raw_dy(&self) -> Option<Gradient> {
        self.grads.first().copied().flatten()
    }

    /// Sets the gradient of input `i`.
    pub(crate) fn set(&mut self, i: usize, gradient: Port) -> Result<()> {
        self.set_any(i, Gradient::Dense(gradient))
    }

    /// Sets the gradient of input `i`.
    pub(crate) fn set_any(&mut self, i: usize, gradient: Gradient) -> Result<()> {
        self.found[i] = Some(gradient);
        Ok(())
    }

    /// Sets the gradient of input `i` to what it is before the input was broadcast to the output's shape.
    pub(crate) fn set_reduced(&mut self, i: usize, gradient: Port) -> Result<()> {
        if !self.wants(i) {
            return Ok(());
        }
        let g = self.sum_to(gradient, self.x(i))?;
        self.set(i, g)
    }

    /// The error of a use that the rule does not cover.
    pub(crate) fn refuse<T>(&self, problem: impl Into<String>) -> Result<T> {
        Err(GraphError::Gradient {
            node: self.node.name.clone(),
            op: self.node.op.clone(),
            problem: problem.into(),
        })
    }

    // Nodes.

    pub(crate) fn op(&mut self, op: &str, inputs: &[Port], attrs: &[(&str, Value)]) -> Result<Port> {
        self.b.op(op, inputs, attrs)
    }

    /// An op with these of the node's own attributes.
    pub(crate) fn op_with(&mut self, op: &str, inputs: &[Port], names: &[&str]) -> Result<Port> {
        let attrs = self.copied(names);
        let attrs: Vec<(&str, Value)> = attrs.iter().map(|(n, v)| (n.as_str(), v.clone())).collect();
        self.b.op(op, inputs, &attrs)
    }

    /// Those of the node's attributes that it has.
    pub(crate) fn copied(&self, names: &[&str]) -> Vec<(String, Value)> {
        names.iter().filter_map(|n| Some(((*n).to_owned(), self.attrs().get(n)?.clone()))).collect()
    }

    pub(crate) fn un(&mut self, op: &str, a: Port) -> Result<Port> {
        self.op(op, &[a], &[])
    }

    pub(crate) fn bin(&mut self, op: &str, a: Port, b: Port) -> Result<Port> {
        self.op(op, &[a, b], &[])
    }

    pub(crate) fn add(&mut self, a: Port, b: Port) -> Result<Port> {
        self.bin("AddV2", a, b)
    }

    pub(crate) fn sub(&mut self, a: Port, b: Port) -> Result<Port> {
        self.bin("Sub", a, b)
    }

    pub(crate) fn mul(&mut self, a: Port, b: Port) -> Result<Port> {
        self.bin("Mul", a, b)
    }

    pub(crate) fn div(&mut self, a: Port, b: Port) -> Result<Port> {
        self.bin("RealDiv", a, b)
    }

    pub(crate) fn neg(&mut self, a: Port) -> Result<Port> {
        self.un("Neg", a)
    }

    /// A number of the type of `like`.
    pub(crate) fn number(&mut self, value: f32, like: Port) -> Port {
        let value = match self.fact(like).dtype {
            Some(DType::Complex64) => Tensor::scalar(num_complex::Complex32::new(value, 0.0)),
            _ => Tensor::scalar(value),
        };
        self.b.constant(value)
    }

    /// `a · factor`.
    pub(crate) fn scale(&mut self, a: Port, factor: f32) -> Result<Port> {
        let factor = self.number(factor, a);
        self.mul(a, factor)
    }

    /// `a + number`.
    pub(crate) fn plus(&mut self, a: Port, number: f32) -> Result<Port> {
        let number = self.number(number, a);
        self.add(a, number)
    }

    /// `number - a`.
    pub(crate) fn minus(&mut self, number: f32, a: Port) -> Result<Port> {
        let number = self.number(number, a);
        self.sub(number, a)
    }

    /// The conjugate of complex numbers, others as they are.
    pub(crate) fn conj(&mut self, a: Port) -> Result<Port> {
        if self.fact(a).dtype == Some(DType::Complex64) { self.un("Conj", a) } else { Ok(a) }
    }

    /// `a` where `condition` holds, else zero.
    pub(crate) fn only_where(&mut self, condition: Port, a: Port) -> Result<Port> {
        let zero = self.number(0.0, a);
        self.op("SelectV2", &[condition, a, zero], &[])
    }

    /// `a` where `condition` does not hold, else zero.
    pub(crate) fn unless(&mut self, condition: Port, a: Port) -> Result<Port> {
        let zero = self.number(0.0, a);
        self.op("SelectV2", &[condition, zero, a], &[])
    }

    pub(crate) fn int(&mut self, value: i32) -> Port {
        self.b.constant(Tensor::scalar(value))
    }

    pub(crate) fn ints(&mut self, values: &[i32]) -> Port {
        self.b.constant(Tensor::vector(values.to_vec()))
    }

    /// Integers as floats, or the like.
    pub(crate) fn cast(&mut self, a: Port, to: DType) -> Result<Port> {
        let from = self.fact(a).dtype;
        if from == Some(to) {
            return Ok(a);
        }
        self.op("Cast", &[a], &[("DstT", attr::dtype(to))])
    }

    // Shapes.

    pub(crate) fn fact(&self, port: Port) -> &Fact {
        self.b.fact(port)
    }

    /// The dimensions of a value, if its rank is known.
    pub(crate) fn dims(&self, port: Port) -> Option<Vec<Option<usize>>> {
        self.fact(port).shape.clone()
    }

    /// The rank of a value, which must be known.
    pub(crate) fn rank(&self, port: Port) -> Result<usize> {
        match self.fact(port).rank() {
            Some(rank) => Ok(rank),
            None => self.refuse("the number of dimensions of an input is not known"),
        }
    }

    /// The shape of a value, as an int32 vector.
    pub(crate) fn shape(&mut self, port: Port) -> Result<Port> {
        if let Some(shape) = self.fact(port).full_shape() {
            let dims: Vec<i32> = shape.iter().map(|&d| d as i32).collect();
            return Ok(self.ints(&dims));
        }
        self.un("Shape", port)
    }

    /// `a` under the shape of `like`, which has as many elements.
    pub(crate) fn reshape_like(&mut self, a: Port, like: Port) -> Result<Port> {
        if self.same_shape(a, like) {
            return Ok(a);
        }
        let shape = match self.dims(like) {
            // One unknown dimension follows from the others.
            Some(dims) if dims.iter().filter(|d| d.is_none()).count() <= 1 && !dims.contains(&Some(0)) => {
                let dims: Vec<i32> = dims.iter().map(|d| d.map_or(-1, |d| d as i32)).collect();
                self.ints(&dims)
            }
            _ => self.shape(like)?,
        };
        let out = self.op("Reshape", &[a, shape], &[])?;
        self.b.refine(out, like);
        Ok(out)
    }

    /// Whether two values are known to have the same shape.
    pub(crate) fn same_shape(&self, a: Port, b: Port) -> bool {
        a == b
            || matches!((self.fact(a).full_shape(), self.fact(b).full_shape()), (Some(x), Some(y)) if x == y)
    }

    /// `a` repeated to the shape of `like`.
    pub(crate) fn broadcast_like(&mut self, a: Port, like: Port) -> Result<Port> {
        if self.same_shape(a, like) {
            return Ok(a);
        }
        let shape = self.shape(like)?;
        let out = self.op("BroadcastTo", &[a, shape], &[])?;
        self.b.refine(out, like);
        Ok(out)
    }

    /// `g`, of a shape that `x` broadcasts to, summed to the shape of `x`.
    pub(crate) fn sum_to(&mut self, g: Port, x: Port) -> Result<Port> {
        let (gs, xs) = (self.dims(g), self.dims(x));
        if let (Some(gs), Some(xs)) = (&gs, &xs)
            && let Some(lead) = gs.len().checked_sub(xs.len())
        {
            let mut axes: Vec<i32> = (0..lead as i32).collect();
            let mut known = true;
            for (i, pair) in xs.iter().zip(&gs[lead..]).enumerate() {
                match pair {
                    (Some(1), Some(1)) | (None, Some(1)) => {}
                    (Some(1), _) => axes.push((lead + i) as i32),
                    (Some(_), _) => {}
                    (None, _) => known = false,
                }
            }
            if known {
                if axes.is_empty() {
                    return Ok(g);
                }
                let kept = lead == 0;
                let axes = self.ints(&axes);
                let sum = self.op("Sum", &[g, axes], &[("keep_dims", attr::bool(kept))])?;
                return if kept { Ok(sum) } else { self.reshape_like(sum, x) };
            }
        }
        let (shape, large) = (self.un("Shape", x)?, self.un("Shape", g)?);
        let axes = self.op("BroadcastGradientArgs", &[shape, large], &[])?;
        let sum = self.op("Sum", &[g, axes], &[("keep_dims", attr::bool(false))])?;
        let out = self.op("Reshape", &[sum, shape], &[])?;
        self.b.refine(out, x);
        Ok(out)
    }

    /// Number of elements of `x`, as a float.
    pub(crate) fn size(&mut self, x: Port) -> Result<Port> {
        if let Some(shape) = self.fact(x).full_shape() {
            return Ok(self.b.constant(Tensor::scalar(shape.elements() as f32)));
        }
        let size = self.un("Size", x)?;
        self.cast(size, DType::Float32)
    }

    /// Element `i` of an int32 vector.
    pub(crate) fn element(&mut self, vector: Port, i: i32) -> Result<Port> {
        if let Some(ints) = self.fact(vector).ints()
            && let Some(&value) = usize::try_from(i).ok().and_then(|i| ints.get(i))
        {
            return Ok(self.int(value));
        }
        let (i, axis) = (self.int(i), self.int(0));
        self.op("GatherV2", &[vector, i, axis], &[])
    }

    /// Dimension `i` of a value, an int32 scalar.
    pub(crate) fn dim(&mut self, x: Port, i: usize) -> Result<Port> {
        if let Some(Some(Some(d))) = self.dims(x).map(|d| d.get(i).copied().flatten()).map(Some) {
            return Ok(self.int(d as i32));
        }
        let shape = self.un("Shape", x)?;
        self.element(shape, i as i32)
    }

    /// Axes transposed by a constant permutation.
    pub(crate) fn transpose(&mut self, a: Port, perm: &[i32]) -> Result<Port> {
        let perm = self.ints(perm);
        self.op("Transpose", &[a, perm], &[])
    }

    /// The constant integers of input `i`.
    pub(crate) fn ints_of(&self, i: usize) -> Option<Vec<i32>> {
        self.fact(self.x(i)).ints().map(<[i32]>::to_vec)
    }

    /// `chain(f)`: the gradient of input 0 is that of the output times the conjugate of `f`.
    pub(crate) fn chain(&mut self, f: impl FnOnce(&mut Self, Port, Port) -> Result<Port>) -> Result<()> {
        let factor = f(self, self.x(0), self.y(0))?;
        let (factor, dy) = (self.conj(factor)?, self.dy()?);
        let g = self.mul(dy, factor)?;
        self.set(0, g)
    }
}
