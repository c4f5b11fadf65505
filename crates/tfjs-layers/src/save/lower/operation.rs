//! Operations of Keras 3 and functions of TensorFlow, as layers that compute the same.

mod arrange;

use serde_json::{Value, json};
use tfjs_graph::{Constant, Fact};
use tfjs_kernels::{DType, Tensor};

use super::{Outcome, Source, activation, activation::dims, pieces};
use crate::{
    layers::{Args, NAMED, operation_constant, operation_name},
    save::{
        Result,
        draft::flat_input,
        fragment::{Fragment, From},
    },
    topology::{Arg, TensorRef},
};

/// Layers for one operation; `None` when there are none.
type Row = fn(&mut Work<'_>) -> Result<Option<Vec<From>>>;

const ROWS: &[(&[&str], Row)] = &[
    (&["add", "radd"], |w| w.sum(1.0, 1.0)),
    (&["subtract"], |w| w.sum(1.0, -1.0)),
    (&["reversed_subtract"], |w| w.sum(-1.0, 1.0)),
    (&["multiply", "rmul"], product),
    (&["divide", "true_divide"], quotient),
    (&["squared_difference"], |w| {
        let Some([difference]) = one(w.sum(1.0, -1.0)?) else { return Ok(None) };
        w.give(|f| f.product(&[difference, difference]))
    }),
    (&["maximum"], |w| extreme(w, "Maximum")),
    (&["minimum"], |w| extreme(w, "Minimum")),
    (&["clip"], clip),
    (&["power"], power),
    (&["add_n"], |w| joined(w, "Add", json!({}))),
    (&["bias_add"], bias_add),
    (&["negative"], |w| w.unary(|f, x| f.rescale(x, -1.0, 0.0))),
    (&["square"], |w| w.unary(|f, x| f.product(&[x, x]))),
    (&["abs", "absolute", "fabs"], |w| {
        w.unary(|f, x| {
            let above = f.relu(x, None);
            let below = f.rescale(x, -1.0, 0.0);
            let below = f.relu(below, None);
            f.sum(&[above, below])
        })
    }),
    (&["deg2rad"], |w| w.unary(|f, x| f.rescale(x, std::f64::consts::PI / 180.0, 0.0))),
    (&["rad2deg"], |w| w.unary(|f, x| f.rescale(x, 180.0 / std::f64::consts::PI, 0.0))),
    (&["zeros_like"], |w| filled(w, 0.0)),
    (&["ones_like"], |w| filled(w, 1.0)),
    (&["full_like"], |w| match w.args.float(1, &["fill_value"]) {
        Ok(Some(value)) => filled(w, value as f32),
        _ => Ok(None),
    }),
    (&["identity", "copy", "stop_gradient", "cast", "linear"], unchanged),
    (&["exp", "exponential"], |w| w.function("exponential")),
    (&["re_lu"], |w| w.function("relu")),
    (&["swish"], |w| w.function("silu")),
    (
        &[
            "relu",
            "relu6",
            "sigmoid",
            "tanh",
            "softplus",
            "softsign",
            "silu",
            "elu",
            "selu",
            "gelu",
            "celu",
            "glu",
            "mish",
            "leaky_relu",
            "log_sigmoid",
            "hard_sigmoid",
            "hard_silu",
            "hard_tanh",
            "hard_shrink",
            "soft_shrink",
            "tanh_shrink",
            "sparse_plus",
            "sparse_sigmoid",
            "threshold",
        ],
        |w| w.function(&w.name.clone()),
    ),
    (&["softmax", "log_softmax"], softmax),
    (&["reshape", "expand_dims", "squeeze"], arrange::reshape),
    (&["transpose", "swapaxes", "moveaxis", "linalg_transpose"], arrange::transpose),
    (&["concatenate"], arrange::concatenate),
    (&["stack"], arrange::stack),
    (&["split", "array_split"], arrange::split),
    (&["unstack"], arrange::unstack),
    (&["get_item"], arrange::get_item),
    (&["take", "gather"], arrange::take),
    (&["flip"], arrange::flip),
    (&["roll"], arrange::roll),
    (&["repeat"], arrange::repeat),
    (&["tile"], arrange::tile),
    (&["cumsum"], arrange::cumsum),
    (&["pad"], arrange::pad),
    (&["sum"], |w| reduce(w, Reduction::Sum)),
    (&["mean"], |w| reduce(w, Reduction::Mean)),
    (&["max", "amax"], |w| reduce(w, Reduction::Max)),
    (&["min", "amin"], |w| reduce(w, Reduction::Min)),
    (&["max_pool"], |w| pool(w, ["MaxPooling1D", "MaxPooling2D"])),
    (&["average_pool"], |w| pool(w, ["AveragePooling1D", "AveragePooling2D"])),
    (&["matmul"], matmul),
];

/// An operation or a function: layers for it, if there are any.
pub(super) fn lower(source: &mut Source<'_>) -> Result<Outcome> {
    let none = |why: &str| Ok(Outcome::Unsupported(why.to_owned()));
    if source.masked {
        return none("TensorFlow.js has no layer for this operation, and hands its mask on");
    }
    let [call] = source.layer.calls.as_slice() else {
        return none("TensorFlow.js has no layer for this operation");
    };
    let name = operation_name(source.layer);
    let row = ROWS.iter().find(|(names, _)| names.contains(&name.as_str()));
    // What stands there in Keras 2 is about the layer, not the function.
    let nothing = serde_json::Map::new();
    let config = if source.class.ends_with("OpLambda") { &nothing } else { &source.layer.config };
    let mut work = Work {
        name,
        source,
        args: Args::new(&call.args, &call.kwargs, config),
        tensors: (0..).map_while(|k| flat_input(call, k)).collect(),
        f: Fragment::default(),
    };
    let given = match row {
        Some((_, row)) => row(&mut work)?,
        None => None,
    };
    match given {
        Some(outputs) => Ok(Outcome::Replace(work.f.give(&outputs))),
        None => none("TensorFlow.js has no layer for this operation"),
    }
}

/// An operation at work.
struct Work<'s> {
    name: String,
    source: &'s Source<'s>,
    args: Args<'s, TensorRef>,
    /// Its inputs.
    tensors: Vec<&'s TensorRef>,
    f: Fragment,
}

/// What an operation works on.
enum Operand {
    Tensor(From, Fact),
    Constant(Tensor),
}

fn one(outputs: Option<Vec<From>>) -> Option<[From; 1]> {
    outputs?.try_into().ok()
}

fn is_float(fact: &Fact) -> bool {
    fact.dtype == Some(DType::Float32)
}

impl Work<'_> {
    fn give(&mut self, f: impl FnOnce(&mut Fragment) -> From) -> Result<Option<Vec<From>>> {
        Ok(Some(vec![f(&mut self.f)]))
    }

    fn operand(&self, arg: &Arg<TensorRef>) -> Option<Operand> {
        match arg {
            Arg::Tensor(t) => {
                let k = self.tensors.iter().position(|u| *u == t)?;
                Some(Operand::Tensor(From::Input(k), self.source.inputs.get(k)?.clone()))
            }
            Arg::Value(v) => operation_constant(v, Some(DType::Float32)).map(Operand::Constant),
            _ => None,
        }
    }

    /// The input, and its shape without the batch.
    fn input(&self) -> Option<(From, Fact, pieces::Dims)> {
        match self.operand(&self.args.get(0, Args::<TensorRef>::FIRST)?)? {
            Operand::Tensor(x, fact) => {
                let dims = dims(Some(&fact))?;
                Some((x, fact, dims))
            }
            Operand::Constant(_) => None,
        }
    }

    /// The input, if it is of floats.
    fn float_input(&self) -> Option<(From, pieces::Dims)> {
        self.input().filter(|(_, fact, _)| is_float(fact)).map(|(x, _, dims)| (x, dims))
    }

    fn output(&self) -> Option<&Fact> {
        self.source.outputs.first()
    }

    fn pair(&self) -> Option<(Operand, Operand)> {
        let x = self.args.get(0, &["x1", "x", "a", "value"])?;
        let y = self.args.get(1, &["x2", "y", "b", "bias"])?;
        Some((self.operand(&x)?, self.operand(&y)?))
    }

    fn unary(&mut self, f: impl FnOnce(&mut Fragment, From) -> From) -> Result<Option<Vec<From>>> {
        let Some((x, _)) = self.float_input() else { return Ok(None) };
        self.give(|fragment| f(fragment, x))
    }

    /// An activation with the options that are given.
    fn function(&mut self, name: &str) -> Result<Option<Vec<From>>> {
        let Some((x, dims)) = self.float_input() else { return Ok(None) };
        let keys = [
            "negative_slope",
            "alpha",
            "approximate",
            "axis",
            "threshold",
            "default_value",
            "b",
            "max_value",
        ];
        let mut config = serde_json::Map::new();
        for key in keys {
            match self.args.get(NAMED, &[key]) {
                Some(Arg::Value(v)) => config.insert(key.to_owned(), v),
                Some(_) => return Ok(None),
                None => None,
            };
        }
        let value = match config.is_empty() {
            true => name.into(),
            false => json!({"class_name": name, "config": config}),
        };
        let out = activation::emit(&mut self.f, x, &value, self.source.dialect, Some(&dims));
        Ok(out.map(|y| if y == x { vec![self.f.function(x, "linear")] } else { vec![y] }))
    }

    /// x · scale + offset, element by element, where the result has the shape of x.
    fn affine(
        &mut self,
        x: From,
        fact: &Fact,
        scale: Option<&Tensor>,
        offset: Option<&Tensor>,
    ) -> Result<Option<From>> {
        let Some(dims) = dims(Some(fact)).filter(|_| is_float(fact)) else { return Ok(None) };
        let number = |t: Option<&Tensor>, default: f64| match t {
            None => Some(default),
            Some(t) if t.len() == 1 && t.dims().len() <= dims.len() + 1 => {
                t.data::<f32>().ok().map(|v| f64::from(v[0]))
            }
            Some(_) => None,
        };
        if let (Some(scale), Some(offset)) = (number(scale, 1.0), number(offset, 0.0)) {
            return Ok(Some(self.f.rescale(x, scale, offset)));
        }
        let all: Vec<&Tensor> = scale.iter().chain(&offset).copied().collect();
        // Along the last axis only, or along all of them at once.
        let along_last = all.iter().all(|t| t.dims().iter().rev().skip(1).all(|&d| d == 1));
        let axes = if along_last && (1..=3).contains(&dims.len()) { dims.len() - 1 } else { 0 };
        let Some(sizes) = dims[axes..].iter().copied().collect::<Option<Vec<usize>>>() else {
            return Ok(None);
        };
        let Some(size) = sizes.iter().try_fold(1usize, |n, &d| n.checked_mul(d)) else { return Ok(None) };
        let spread = |t: Option<&Tensor>| -> Result<Option<Option<Constant>>> {
            let Some(t) = t else { return Ok(Some(None)) };
            match broadcast(t, &sizes, dims.len() + 1) {
                Some(values) => Ok(Some(Some(pieces::constant(&[size], values)?))),
                None => Ok(None),
            }
        };
        let (Some(scale), Some(offset)) = (spread(scale)?, spread(offset)?) else { return Ok(None) };
        if axes > 0 || dims.len() == 1 {
            return self.f.affine(x, scale, offset, size).map(Some);
        }
        let Some(flat) = self.f.reshape(x, &[Some(size)]) else { return Ok(None) };
        let y = self.f.affine(flat, scale, offset, size)?;
        Ok(self.f.reshape(y, &dims))
    }

    /// a · x + b · y, where a and b are 1 or −1.
    fn sum(&mut self, a: f64, b: f64) -> Result<Option<Vec<From>>> {
        let y = match self.pair() {
            Some((Operand::Tensor(x, fact), Operand::Constant(c)))
            | Some((Operand::Constant(c), Operand::Tensor(x, fact))) => {
                let tensor_first = matches!(self.pair(), Some((Operand::Tensor(..), _)));
                let (of_x, of_c) = if tensor_first { (a, b) } else { (b, a) };
                if !self.keeps_shape(&fact) {
                    return Ok(None);
                }
                let sign = Tensor::scalar(of_x as f32);
                let offset = mapped(&c, |v| v * of_c as f32)?;
                self.affine(x, &fact, (of_x != 1.0).then_some(&sign), Some(&offset))?
            }
            Some((Operand::Tensor(x, of_x), Operand::Tensor(y, of_y))) if alike(&of_x, &of_y) => {
                let x = if a == 1.0 { x } else { self.f.rescale(x, a, 0.0) };
                let y = if b == 1.0 { y } else { self.f.rescale(y, b, 0.0) };
                Some(self.f.sum(&[x, y]))
            }
            _ => None,
        };
        Ok(y.map(|y| vec![y]))
    }

    /// Whether the result has the shape of an input.
    fn keeps_shape(&self, fact: &Fact) -> bool {
        fact.shape.is_some() && self.output().is_some_and(|o| o.shape == fact.shape && is_float(o))
    }

    /// A constant in the shape of an input: TF.js has no constants in models.
    fn filled(&mut self, like: From, fact: &Fact, value: &Tensor) -> Result<Option<From>> {
        // Bounded, so that nothing times it is nothing.
        let bounded = self.f.function(like, "hard_sigmoid");
        let zero = Tensor::scalar(0.0f32);
        self.affine(bounded, fact, Some(&zero), Some(value))
    }

    /// An axis of the input, without the batch; `None` for the batch.
    fn axis_behind_batch(&self, rank: usize, axis: i64) -> Option<usize> {
        let axis = if axis < 0 { axis + rank as i64 } else { axis };
        usize::try_from(axis).ok()?.checked_sub(1).filter(|&a| a + 1 < rank)
    }

    /// Elements of an axis: those of the numbers given, in their order.
    fn pick(&mut self, x: From, fact: &Fact, axis: usize, picked: &[usize]) -> Result<Option<From>> {
        let Some(dims) = dims(Some(fact)) else { return Ok(None) };
        let Some(size) = dims[axis] else { return Ok(None) };
        let (Some(&first), Some(&last)) = (picked.first(), picked.last()) else { return Ok(None) };
        if picked.iter().enumerate().all(|(i, &p)| p == first + i) {
            if picked.len() == size {
                return Ok(Some(x));
            }
            let crop = json!({"cropping": [[0, 0], [first, size - 1 - last]]});
            let cut = self.f.on_axis(x, &dims, axis, "Cropping2D", crop, Some(picked.len()));
            return Ok(cut.map(|(y, _)| y));
        }
        if !is_float(fact) || picked.len().saturating_mul(size) > LARGEST_MATRIX {
            return Ok(None);
        }
        let mut matrix = vec![0.0; picked.len() * size];
        picked.iter().enumerate().for_each(|(i, &p)| matrix[i * size + p] = 1.0);
        self.f.along_axis(x, dims.len(), axis, &matrix, picked.len()).map(Some)
    }

    /// The value in the shape of an output.
    fn shaped(&mut self, x: From, output: usize) -> Option<From> {
        let dims = dims(self.source.outputs.get(output))?;
        self.f.reshape(x, &dims)
    }
}

/// Most elements of a matrix that picks elements of an axis.
const LARGEST_MATRIX: usize = 1 << 20;

/// Two inputs that TF.js's merging layers broadcast as NumPy does: of one rank.
fn alike(x: &Fact, y: &Fact) -> bool {
    is_float(x) && is_float(y) && x.rank().is_some() && x.rank() == y.rank()
}

fn mapped(t: &Tensor, f: impl Fn(f32) -> f32) -> Result<Tensor> {
    Ok(Tensor::new(t.dims(), t.data::<f32>()?.iter().map(|&v| f(v)).collect::<Vec<f32>>())?)
}

/// The values of a constant along the last axes of a value of rank `rank`; `None` when it has more of them.
fn broadcast(t: &Tensor, sizes: &[usize], rank: usize) -> Option<Vec<f32>> {
    let values = t.data::<f32>().ok()?;
    if t.dims().len() > rank {
        return None;
    }
    let skipped = t.dims().len().saturating_sub(sizes.len());
    let (outer, inner) = t.dims().split_at(skipped);
    let offset = sizes.len() - inner.len();
    let fits = inner.iter().zip(&sizes[offset..]).all(|(&d, &s)| d == s || d == 1);
    if outer.iter().any(|&d| d != 1) || !fits {
        return None;
    }
    let size = sizes.iter().product();
    let mut out = Vec::with_capacity(size);
    for flat in 0..size {
        let (mut rest, mut at, mut stride) = (flat, 0, 1);
        for axis in (0..sizes.len()).rev() {
            let index = rest % sizes[axis];
            rest /= sizes[axis];
            if let Some(&d) = axis.checked_sub(offset).and_then(|i| inner.get(i)) {
                at += if d == 1 { 0 } else { index * stride };
                stride *= d;
            }
        }
        out.push(values[at]);
    }
    Some(out)
}

fn product(w: &mut Work<'_>) -> Result<Option<Vec<From>>> {
    let y = match w.pair() {
        Some((Operand::Tensor(x, fact), Operand::Constant(c)))
        | Some((Operand::Constant(c), Operand::Tensor(x, fact)))
            if w.keeps_shape(&fact) =>
        {
            w.affine(x, &fact, Some(&c), None)?
        }
        Some((Operand::Tensor(x, of_x), Operand::Tensor(y, of_y))) if alike(&of_x, &of_y) => {
            Some(w.f.product(&[x, y]))
        }
        _ => None,
    };
    Ok(y.map(|y| vec![y]))
}

/// By a constant, whose inverse is finite.
fn quotient(w: &mut Work<'_>) -> Result<Option<Vec<From>>> {
    let Some((Operand::Tensor(x, fact), Operand::Constant(c))) = w.pair() else { return Ok(None) };
    let inverse = mapped(&c, |v| 1.0 / v)?;
    if !w.keeps_shape(&fact) || !inverse.data::<f32>()?.iter().all(|v| v.is_normal()) {
        return Ok(None);
    }
    Ok(w.affine(x, &fact, Some(&inverse), None)?.map(|y| vec![y]))
}

fn extreme(w: &mut Work<'_>, class: &str) -> Result<Option<Vec<From>>> {
    let (x, y) = match w.pair() {
        Some((Operand::Tensor(x, fact), Operand::Constant(c)))
        | Some((Operand::Constant(c), Operand::Tensor(x, fact)))
            if w.keeps_shape(&fact) =>
        {
            match w.bound(x, &fact, class, &c)? {
                Some(y) => return Ok(Some(vec![y])),
                None => return Ok(None),
            }
        }
        Some((Operand::Tensor(x, of_x), Operand::Tensor(y, of_y))) if alike(&of_x, &of_y) => (x, y),
        _ => return Ok(None),
    };
    w.give(|f| f.add("merge", class, json!({}), &[x, y]))
}

impl Work<'_> {
    /// The larger or the smaller of a value and a constant.
    fn bound(&mut self, x: From, fact: &Fact, class: &str, bound: &Tensor) -> Result<Option<From>> {
        if class == "Maximum" && bound.data::<f32>()?.iter().all(|&v| v == 0.0) {
            return Ok(Some(self.f.relu(x, None)));
        }
        let Some(bound) = self.filled(x, fact, bound)? else { return Ok(None) };
        Ok(Some(self.f.add("merge", class, json!({}), &[x, bound])))
    }
}

fn clip(w: &mut Work<'_>) -> Result<Option<Vec<From>>> {
    let Some((mut x, fact, _)) = w.input().filter(|(_, fact, _)| w.keeps_shape(fact)) else {
        return Ok(None);
    };
    let bounds = [
        ("Maximum", 1, ["x_min", "clip_value_min", "a_min"]),
        ("Minimum", 2, ["x_max", "clip_value_max", "a_max"]),
    ];
    for (class, position, names) in bounds {
        let Some(arg) = w.args.get(position, &names) else { continue };
        let Some(Operand::Constant(bound)) = w.operand(&arg) else { return Ok(None) };
        match w.bound(x, &fact, class, &bound)? {
            Some(y) => x = y,
            None => return Ok(None),
        }
    }
    Ok(matches!(x, From::Part(..)).then(|| vec![x]))
}

/// Small whole powers.
fn power(w: &mut Work<'_>) -> Result<Option<Vec<From>>> {
    let Some((Operand::Tensor(x, fact), Operand::Constant(n))) = w.pair() else { return Ok(None) };
    let &[n] = n.data::<f32>()? else { return Ok(None) };
    if !w.keeps_shape(&fact) || n.fract() != 0.0 || !(2.0..=16.0).contains(&n) {
        return Ok(None);
    }
    let factors = vec![x; n as usize];
    w.give(|f| f.product(&factors))
}

/// A layer over all inputs, which are floats of one rank.
fn joined(w: &mut Work<'_>, class: &str, config: Value) -> Result<Option<Vec<From>>> {
    let inputs: Vec<From> = (0..w.tensors.len()).map(From::Input).collect();
    let first = w.source.inputs.first().cloned().unwrap_or_default();
    if w.source.inputs.len() < 2 || !w.source.inputs.iter().all(|f| alike(&first, f)) {
        return Ok(None);
    }
    w.give(|f| f.add("merge", class, config, &inputs))
}

fn bias_add(w: &mut Work<'_>) -> Result<Option<Vec<From>>> {
    let first = w.args.text(NAMED, &["data_format"]).is_ok_and(|f| f.is_some_and(|f| f.starts_with("NC")));
    if first { Ok(None) } else { w.sum(1.0, 1.0) }
}

fn unchanged(w: &mut Work<'_>) -> Result<Option<Vec<From>>> {
    let Some((x, fact, _)) = w.input() else { return Ok(None) };
    let to = w.output().and_then(|o| o.dtype);
    match (fact.dtype, to) {
        (from, to) if from == to => w.give(|f| f.function(x, "linear")),
        (Some(DType::Int32), Some(DType::Float32)) => w.give(|f| f.rescale(x, 1.0, 0.0)),
        _ => Ok(None),
    }
}

fn softmax(w: &mut Work<'_>) -> Result<Option<Vec<From>>> {
    let Some((x, dims)) = w.float_input() else { return Ok(None) };
    let axis = match (w.args.get(1, &["axis"]), w.args.ints(1, &["axis"])) {
        (Some(_), Ok(Some(axes))) if axes.len() == 1 => axes[0],
        // Without an axis Keras 3 takes all of them.
        (None, _) if w.source.layer.class_name == "TFOpLambda" => -1,
        _ => return Ok(None),
    };
    let Some(axis) = w.axis_behind_batch(dims.len() + 1, axis) else { return Ok(None) };
    let name = w.name.clone();
    let mut order: Vec<usize> = (1..=dims.len()).collect();
    order.swap(axis, dims.len() - 1);
    w.give(|f| {
        let x = f.permute(x, &order);
        let y = f.function(x, &name);
        f.permute(y, &order)
    })
}

fn filled(w: &mut Work<'_>, value: f32) -> Result<Option<Vec<From>>> {
    let Some((x, fact, _)) = w.input().filter(|(_, fact, _)| w.keeps_shape(fact)) else { return Ok(None) };
    Ok(w.filled(x, &fact, &Tensor::scalar(value))?.map(|y| vec![y]))
}

/// Windows of one or two axes, channels last.
fn pool(w: &mut Work<'_>, classes: [&str; 2]) -> Result<Option<Vec<From>>> {
    let Some((x, dims)) = w.float_input() else { return Ok(None) };
    let first = w
        .args
        .text(NAMED, &["data_format"])
        .is_ok_and(|f| f.is_some_and(|f| f.starts_with("NC") || f == "channels_first"));
    let spatial = dims.len().wrapping_sub(1);
    let Some(class) = classes.get(spatial.wrapping_sub(1)).filter(|_| !first) else { return Ok(None) };
    let sizes = |position: usize, names: &[&str]| -> Option<Vec<i64>> {
        let list = w.args.ints(position, names).ok()??;
        match list.len() {
            1 => Some(vec![list[0]; spatial]),
            n if n == spatial => Some(list),
            n if n == spatial + 2 => Some(list[1..=spatial].to_vec()),
            _ => None,
        }
    };
    let Some(pool) = sizes(1, &["pool_size", "ksize"]) else { return Ok(None) };
    let strides = sizes(2, &["strides"]).unwrap_or_else(|| pool.clone());
    let Ok(padding) = w.args.text(3, &["padding"]) else { return Ok(None) };
    let padding = padding.unwrap_or_else(|| "valid".to_owned()).to_lowercase();
    let config =
        json!({"pool_size": pool, "strides": strides, "padding": padding, "data_format": "channels_last"});
    w.give(|f| f.add("pool", class, config, &[x]))
}

#[derive(Clone, Copy, PartialEq)]
enum Reduction {
    Sum,
    Mean,
    Max,
    Min,
}

/// Over axes behind the batch: global pooling, with the others as channels.
fn reduce(w: &mut Work<'_>, how: Reduction) -> Result<Option<Vec<From>>> {
    let Some((x, from)) = w.float_input() else { return Ok(None) };
    let Ok(Some(axes)) = w.args.ints(1, &["axis", "axes"]) else { return Ok(None) };
    let rank = from.len() + 1;
    let axes: Option<Vec<usize>> = axes.into_iter().map(|a| w.axis_behind_batch(rank, a)).collect();
    let Some(axes) = axes.filter(|a| !a.is_empty()) else { return Ok(None) };
    if ["initial", "where", "dtype"].iter().any(|key| w.args.get(NAMED, &[key]).is_some()) {
        return Ok(None);
    }
    let rest: Vec<usize> = (0..from.len()).filter(|a| !axes.contains(a)).collect();
    let order: Vec<usize> = axes.iter().chain(&rest).map(|a| a + 1).collect();
    let of = |list: &[usize]| -> pieces::Dims { list.iter().map(|&a| from[a]).collect() };
    let (count, others) = (pieces::product(&of(&axes)), pieces::product(&of(&rest)));
    let x = w.f.permute(x, &order);
    let Some(x) = w.f.reshape(x, &[count, others]) else { return Ok(None) };
    let y = match (how, count) {
        (Reduction::Mean, _) => w.f.add("mean", "GlobalAveragePooling1D", json!({}), &[x]),
        (Reduction::Sum, Some(count)) => {
            let mean = w.f.add("mean", "GlobalAveragePooling1D", json!({}), &[x]);
            w.f.rescale(mean, count as f64, 0.0)
        }
        (Reduction::Max, _) => w.f.add("max", "GlobalMaxPooling1D", json!({}), &[x]),
        (Reduction::Min, _) => {
            let x = w.f.rescale(x, -1.0, 0.0);
            let y = w.f.add("max", "GlobalMaxPooling1D", json!({}), &[x]);
            w.f.rescale(y, -1.0, 0.0)
        }
        (Reduction::Sum, None) => return Ok(None),
    };
    Ok(w.shaped(y, 0).map(|y| vec![y]))
}

/// With a constant matrix, or of matrices of each sample.
fn matmul(w: &mut Work<'_>) -> Result<Option<Vec<From>>> {
    let flag = |names: &[&str]| w.args.bool(NAMED, names, false).unwrap_or(true);
    let (tx, ty) = (flag(&["transpose_a", "adjoint_a"]), flag(&["transpose_b", "adjoint_b"]));
    match w.pair() {
        Some((Operand::Tensor(x, fact), Operand::Constant(matrix))) if !tx && !ty && is_float(&fact) => {
            let &[from, to] = matrix.dims() else { return Ok(None) };
            if fact.rank().is_none_or(|r| r < 2) {
                return Ok(None);
            }
            let kernel = pieces::constant(&[from, to], matrix.data::<f32>()?.to_vec())?;
            let config = json!({"units": to, "use_bias": false, "activation": "linear", "trainable": false});
            let weights = vec![("kernel".to_owned(), kernel)];
            w.give(|f| f.add_with("matrix", "Dense", config, weights, &[x]))
        }
        Some((Operand::Tensor(x, of_x), Operand::Tensor(y, of_y)))
            if alike(&of_x, &of_y) && of_x.rank() == Some(3) =>
        {
            let axes = [if tx { 1 } else { 2 }, if ty { 2 } else { 1 }];
            w.give(|f| f.add("product", "Dot", json!({"axes": axes, "normalize": false}), &[x, y]))
        }
        _ => Ok(None),
    }
}
