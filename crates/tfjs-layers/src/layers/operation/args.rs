use serde_json::{Map, Value};
use tfjs_graph::Port;
use tfjs_kernels::{DType, Tensor};

use super::Result;
use crate::{
    Emit, LayersError, Sym,
    config::{dtype_of, number},
    topology::Arg,
};

/// The arguments of an operation, by position or name: those of the call, then those it was made with.
pub(crate) struct Args<'a, T = Sym> {
    positional: &'a [Arg<T>],
    named: &'a [(String, Arg<T>)],
    config: &'a Map<String, Value>,
}

/// Stands for "only by name".
pub(crate) const NAMED: usize = usize::MAX;

impl<'a, T: Clone + PartialEq> Args<'a, T> {
    /// What the first argument is called.
    pub(crate) const FIRST: &'static [&'static str] =
        &["x", "x1", "input", "inputs", "a", "array", "tensor", "features", "logits", "value", "images"];

    pub(crate) fn new(
        positional: &'a [Arg<T>],
        named: &'a [(String, Arg<T>)],
        config: &'a Map<String, Value>,
    ) -> Args<'a, T> {
        Args { positional, named, config }
    }

    /// An argument that is not null: at a position, or by the first name that is given.
    pub(crate) fn get(&self, position: usize, names: &[&str]) -> Option<Arg<T>> {
        let not_null = |a: &Arg<T>| *a != Arg::Value(Value::Null);
        if let Some(arg) = self.positional.get(position) {
            return Some(arg.clone()).filter(not_null);
        }
        names.iter().find_map(|name| {
            let named = self.named.iter().find(|(k, _)| k == name).map(|(_, a)| a.clone());
            named.filter(not_null).or_else(|| {
                let value = self.config.get(*name).filter(|v| !v.is_null())?;
                Some(Arg::Value(value.clone()))
            })
        })
    }

    /// Whether an argument is given as nothing.
    pub(super) fn is_null(&self, position: usize, name: &str) -> bool {
        let null = |a: &Arg<T>| *a == Arg::Value(Value::Null);
        self.positional.get(position).is_some_and(null)
            || self.named.iter().any(|(k, a)| k == name && null(a))
            || self.config.get(name).is_some_and(Value::is_null)
    }

    fn need(&self, position: usize, names: &[&str]) -> Result<Arg<T>> {
        self.get(position, names).ok_or_else(|| wrong(names, "it is missing"))
    }

    pub(crate) fn int(&self, position: usize, names: &[&str]) -> Result<Option<i64>> {
        match self.get(position, names) {
            None => Ok(None),
            Some(Arg::Value(v)) => integer(&v).map(Some).ok_or_else(|| wrong(names, "it is not an integer")),
            Some(_) => Err(wrong(names, "it is not constant")),
        }
    }

    pub(crate) fn ints(&self, position: usize, names: &[&str]) -> Result<Option<Vec<i64>>> {
        let list = |v: &Value| match plain(v) {
            Value::Array(items) => items.iter().map(integer).collect::<Option<Vec<_>>>(),
            other => integer(other).map(|n| vec![n]),
        };
        match self.get(position, names) {
            None => Ok(None),
            Some(Arg::Value(v)) => {
                list(&v).map(Some).ok_or_else(|| wrong(names, "it is not a list of integers"))
            }
            Some(_) => Err(wrong(names, "it is not constant")),
        }
    }

    pub(crate) fn float(&self, position: usize, names: &[&str]) -> Result<Option<f64>> {
        match self.get(position, names) {
            None => Ok(None),
            Some(Arg::Value(v)) => number(&v).map(Some).ok_or_else(|| wrong(names, "it is not a number")),
            Some(_) => Err(wrong(names, "it is not constant")),
        }
    }

    pub(crate) fn bool(&self, position: usize, names: &[&str], default: bool) -> Result<bool> {
        match self.get(position, names) {
            None => Ok(default),
            Some(Arg::Value(Value::Bool(b))) => Ok(b),
            Some(Arg::Value(v)) => {
                integer(&v).map(|n| n != 0).ok_or_else(|| wrong(names, "it is not true or false"))
            }
            Some(_) => Err(wrong(names, "it is not constant")),
        }
    }

    pub(crate) fn text(&self, position: usize, names: &[&str]) -> Result<Option<String>> {
        match self.get(position, names) {
            None => Ok(None),
            Some(Arg::Value(Value::String(s))) => Ok(Some(s)),
            Some(_) => Err(wrong(names, "it is not a string")),
        }
    }

    /// A type of numbers.
    pub(crate) fn dtype(&self, position: usize) -> Result<Option<DType>> {
        match self.get(position, &["dtype"]) {
            None => Ok(None),
            Some(Arg::Value(v)) => {
                dtype_of(&v).map(Some).ok_or_else(|| wrong(&["dtype"], "it is no type known here"))
            }
            Some(_) => Err(wrong(&["dtype"], "it is no type")),
        }
    }

    /// `axis`: as it is given.
    pub(crate) fn axis(&self) -> Result<Option<i64>> {
        self.int(NAMED, &["axis", "dim"])
    }
}

impl Args<'_> {
    /// A tensor; constants become one.
    pub(super) fn tensor(&self, g: &mut Emit, position: usize, names: &[&str]) -> Result<Port> {
        let arg = self.need(position, names)?;
        port(g, &arg, None, names)
    }

    /// The first argument.
    pub(super) fn x(&self, g: &mut Emit) -> Result<Port> {
        self.tensor(g, 0, Self::FIRST)
    }

    /// The first argument as float32.
    pub(super) fn float_x(&self, g: &mut Emit) -> Result<Port> {
        let x = self.x(g)?;
        g.cast(x, DType::Float32)
    }

    /// A tensor, if it is given; constants take the type of another value.
    pub(super) fn opt_tensor(
        &self,
        g: &mut Emit,
        position: usize,
        names: &[&str],
        like: DType,
    ) -> Result<Option<Port>> {
        self.get(position, names).map(|arg| port(g, &arg, Some(like), names)).transpose()
    }

    /// A list of tensors.
    pub(super) fn tensors(&self, g: &mut Emit, names: &[&str]) -> Result<Vec<Port>> {
        let items = match self.need(0, names)? {
            Arg::List(items) => items,
            Arg::Value(Value::Array(items)) => items.into_iter().map(Arg::Value).collect(),
            _ if self.positional.len() > 1 => self.positional.to_vec(),
            one => vec![one],
        };
        let like = items.iter().find_map(|a| match a {
            Arg::Tensor(s) => g.fact(s.port).dtype,
            _ => None,
        });
        items.iter().map(|a| port(g, a, like, names)).collect()
    }

    /// Two tensors of a common type.
    pub(super) fn pair(&self, g: &mut Emit) -> Result<(Port, Port)> {
        let names_a = &["x1", "x", "a", "y_true"];
        let names_b = &["x2", "y", "b"];
        self.pair_of(g, (0, names_a), (1, names_b))
    }

    pub(super) fn pair_of(
        &self,
        g: &mut Emit,
        a: (usize, &[&str]),
        b: (usize, &[&str]),
    ) -> Result<(Port, Port)> {
        let (x, y) = (self.need(a.0, a.1)?, self.need(b.0, b.1)?);
        pair(g, &x, &y, a.1)
    }

    /// `axis` as an index into the axes of `x`; `default` if it is not given.
    pub(super) fn axis_of(&self, g: &Emit, x: Port, default: i64) -> Result<usize> {
        g.axis(x, self.axis()?.unwrap_or(default))
    }

    /// `axis` or `axes` as indices; `None` if not given.
    pub(super) fn axes_of(&self, g: &Emit, x: Port) -> Result<Option<Vec<usize>>> {
        let axes = self.ints(NAMED, &["axis", "axes"])?;
        axes.map(|axes| axes.into_iter().map(|a| g.axis(x, a)).collect()).transpose()
    }

    /// Refuses an argument that is given and not one of the values that change nothing.
    pub(super) fn refuse(&self, name: &str, harmless: &[Value]) -> Result<()> {
        match self.get(NAMED, &[name]) {
            Some(Arg::Value(v)) if harmless.contains(&v) => Ok(()),
            None => Ok(()),
            Some(_) => Err(wrong(&[name], "there is no form of it in a graph")),
        }
    }
}

pub(super) fn wrong(names: &[&str], problem: &str) -> LayersError {
    let argument = names.first().copied().unwrap_or_default().to_owned();
    LayersError::Argument { argument, problem: problem.to_owned() }
}

/// Arrays are wrapped: `{class_name: "__numpy__", config: {value, dtype}}`.
fn plain(value: &Value) -> &Value {
    value.pointer("/config/value").or_else(|| value.pointer("/config/items")).unwrap_or(value)
}

fn integer(value: &Value) -> Option<i64> {
    let x = number(plain(value))?;
    (x.fract() == 0.0 && x.abs() < 2f64.powi(53)).then_some(x as i64)
}

/// Two arguments as tensors of a common type: constants take that of the other, if they fit it.
pub(super) fn pair(g: &mut Emit, a: &Arg<Sym>, b: &Arg<Sym>, names: &[&str]) -> Result<(Port, Port)> {
    let known = |arg: &Arg<Sym>, g: &Emit| match arg {
        Arg::Tensor(s) => g.fact(s.port).dtype,
        _ => None,
    };
    let (like_b, like_a) = (known(a, g), known(b, g));
    let (a, b) = (port(g, a, like_a, names)?, port(g, b, like_b, names)?);
    let common = common(g.dtype(a), g.dtype(b));
    Ok((g.cast(a, common)?, g.cast(b, common)?))
}

/// The type that holds values of both.
pub(super) fn common(a: DType, b: DType) -> DType {
    let order = [DType::Complex64, DType::Float32, DType::Int32, DType::Bool];
    order.into_iter().find(|t| *t == a || *t == b).unwrap_or(a)
}

/// An argument as a value of the graph.
pub(super) fn port(g: &mut Emit, arg: &Arg<Sym>, like: Option<DType>, names: &[&str]) -> Result<Port> {
    match arg {
        Arg::Tensor(s) => Ok(s.port),
        Arg::Value(v) => {
            constant(v, like).map(|t| g.constant(t)).ok_or_else(|| wrong(names, "it is no tensor"))
        }
        // Tensors and constants side by side are stacked.
        Arg::List(items) => {
            let first = items.iter().find_map(|a| match a {
                Arg::Tensor(s) => g.fact(s.port).dtype,
                _ => None,
            });
            let parts: Vec<Port> =
                items.iter().map(|a| port(g, a, first.or(like), names)).collect::<Result<_>>()?;
            g.op("Pack", &parts, &[("axis", tfjs_graph::builder::attr::int(0))])
        }
        Arg::Dict(_) => Err(wrong(names, "it is a dictionary")),
    }
}

/// JSON as a tensor. Integers take the type `like`; fractions make integers floats.
pub(crate) fn constant(value: &Value, like: Option<DType>) -> Option<Tensor> {
    let declared = value.pointer("/config/dtype").and_then(dtype_of);
    let value = plain(value);
    let mut shape = Vec::new();
    let mut inner = value;
    while let Value::Array(items) = inner {
        shape.push(items.len());
        inner = items.first().unwrap_or(&Value::Null);
    }
    let mut flat = Vec::new();
    flatten(value, &shape, &mut flat)?;
    if flat.iter().any(|v| v.is_string() && number(v).is_none()) {
        let texts: Option<Vec<_>> = flat
            .iter()
            .map(|v| Some(tfjs_kernels::TfString(v.as_str()?.as_bytes().to_vec().into())))
            .collect();
        return Tensor::new(shape, texts?).ok();
    }
    if flat.iter().all(|v| v.is_boolean()) && !flat.is_empty() {
        let bools: Vec<bool> = flat.iter().map(|v| v.as_bool() == Some(true)).collect();
        return match like.filter(|t| *t != DType::Bool) {
            Some(DType::Float32) => {
                Tensor::new(shape, bools.into_iter().map(f32::from).collect::<Vec<f32>>()).ok()
            }
            Some(DType::Int32) => {
                Tensor::new(shape, bools.into_iter().map(i32::from).collect::<Vec<i32>>()).ok()
            }
            _ => Tensor::new(shape, bools).ok(),
        };
    }
    let numbers: Vec<f64> = flat.iter().map(|v| number(v)).collect::<Option<_>>()?;
    let written_as_float = flat.iter().any(|v| v.is_f64() || v.is_string());
    let dtype = declared.or(match like {
        Some(DType::Int32 | DType::Bool) | None if written_as_float => Some(DType::Float32),
        Some(DType::Bool) | None => Some(DType::Int32),
        other => other,
    });
    match dtype? {
        DType::Int32 => Tensor::new(shape, numbers.into_iter().map(|x| x as i32).collect::<Vec<i32>>()).ok(),
        DType::Bool => Tensor::new(shape, numbers.into_iter().map(|x| x != 0.0).collect::<Vec<bool>>()).ok(),
        _ => Tensor::new(shape, numbers.into_iter().map(|x| x as f32).collect::<Vec<f32>>()).ok(),
    }
}

fn flatten<'v>(value: &'v Value, shape: &[usize], out: &mut Vec<&'v Value>) -> Option<()> {
    match (value, shape) {
        (Value::Array(items), [n, rest @ ..]) if items.len() == *n => {
            items.iter().try_for_each(|v| flatten(v, rest, out))
        }
        (Value::Array(_), _) | (_, [_, ..]) => None,
        (leaf, []) => {
            out.push(leaf);
            Some(())
        }
    }
}
