//! Parts of networks that are one op here and many in TensorFlow. These ops are this runtime's own: passes put them in the
//! place of what was exported when a plan is made. No file holds them.
//!
//! * `_Attention`: `q`, `k`, `v`, then with `mask` what is added to the scores. `q_order` and so on say where batch, head,
//!   row and column stand among the dimensions.
//! * `_Dense`: `x`, a matrix of weights, then what `fused_ops` asks for. The last `contracted` dimensions of `x` are
//!   multiplied and `output_dims` take their place.
//! * `_LayerNorm`: `x`, then with `scale` and `offset` these. The last `dims` dimensions are normalised over.
use tfjs_kernels::{
    DType, Epilogue, Tensor,
    attention::{self, Attention, Order},
    binary::{BinaryOp, binary},
    linalg,
    matmul::{Orientation, PackedB, matmul, matmul_packed},
    normalize,
};

use super::{
    arithmetic::broadcast,
    infer::{dims, dtype, fact},
    matrices::{self, Product},
};
use crate::{
    Cx, Fact, Op, OpError,
    op::{ANY, Build, Inputs, OpDef, Values, one, same, simple},
};

type Result<T> = std::result::Result<T, OpError>;
type Boxed = Result<Box<dyn Op>>;

pub(super) const OPS: &[OpDef] = &[
    OpDef::new("_Attention", 3..=4, attend),
    OpDef::new("_Dense", 2..=ANY, dense),
    OpDef::new("_LayerNorm", 1..=3, layer_norm),
];

fn layer_norm(b: &Build<'_>) -> Boxed {
    let dims = b.attrs.count("dims")?;
    let epsilon = b.attrs.float_or("epsilon", 1e-3)?;
    let (scale, offset) = (b.attrs.bool_or("scale", false)?, b.attrs.bool_or("offset", false)?);
    arity(b, 1 + usize::from(scale) + usize::from(offset))?;
    simple(
        move |x| {
            let values = x.take(0)?;
            let scale_at = if scale { Some(x.tensor(1)?) } else { None };
            let offset_at = if offset { Some(x.tensor(1 + usize::from(scale))?) } else { None };
            one(normalize::layer_norm(values, dims, scale_at, offset_at, epsilon))
        },
        same,
    )
}

fn arity(b: &Build<'_>, expected: usize) -> Result<()> {
    if b.facts.len() == expected {
        return Ok(());
    }
    Err(OpError::Arity { got: b.facts.len(), expected: expected.to_string() })
}

fn attend(b: &Build<'_>) -> Boxed {
    let order = |name: &str| -> Result<Order> {
        let places: Option<Vec<usize>> =
            b.attrs.ints(name)?.iter().map(|&p| usize::try_from(p).ok()).collect();
        let places = places.and_then(|p| <[usize; 4]>::try_from(p).ok());
        Ok(Order::new(places.ok_or_else(|| OpError::input("order", "expected four places"))?)?)
    };
    let how = Attention {
        q: order("q_order")?,
        k: order("k_order")?,
        v: order("v_order")?,
        out: order("order")?,
        scale: b.attrs.float_or("scale", 1.0)?,
    };
    let mask = b.attrs.bool_or("mask", false)?;
    arity(b, 3 + usize::from(mask))?;
    simple(
        move |x| {
            let mask = if mask { Some(x.take(3)?) } else { None };
            let (q, k, v) = (x.tensor(0)?, x.tensor(1)?, x.tensor(2)?);
            let float = |t: &Tensor| t.dtype() == DType::Float32;
            if attention::fits(q, k, v, mask.as_ref(), &how) && [q, k, v].into_iter().all(float) {
                return one(attention::attention(q, k, v, mask.as_ref(), &how));
            }
            one(step_by_step([q, k, v].map(Clone::clone), mask, &how))
        },
        move |facts| {
            let (Some(q), Some(k), Some(v)) = (dims(facts, 0), dims(facts, 1), dims(facts, 2)) else {
                return Ok(vec![fact(dtype(facts, 0), None)]);
            };
            if [q, k, v].iter().any(|d| d.len() != 4) {
                return Err(OpError::input("q", "expected four dimensions"));
            }
            let at = |i: usize| [q[how.q.places()[i]], k[how.k.places()[i]], v[how.v.places()[i]]];
            // Ones may broadcast, also to a mask.
            let shared = |i: usize| match at(i) {
                sizes if mask || sizes.contains(&None) => sizes.into_iter().flatten().find(|&d| d != 1),
                sizes => sizes.into_iter().flatten().max(),
            };
            let sizes = [shared(0), shared(1), at(2)[0], at(3)[2]];
            let mut shape = vec![None; 4];
            for (place, size) in how.out.places().into_iter().zip(sizes) {
                shape[place] = size;
            }
            Ok(vec![fact(dtype(facts, 0), Some(shape))])
        },
    )
}

/// As the ops that attention stands for, for shapes that broadcast.
fn step_by_step(
    [q, k, v]: [Tensor; 3],
    mask: Option<Tensor>,
    how: &Attention,
) -> std::result::Result<Tensor, tfjs_kernels::KernelError> {
    let heads_first = |t: Tensor, order: Order| linalg::transpose(t, &order.places());
    let (q, k, v) = (heads_first(q, how.q)?, heads_first(k, how.k)?, heads_first(v, how.v)?);
    let mut scores = matmul(&q, &k, Orientation::Plain, Orientation::Transposed)?;
    if how.scale != 1.0 {
        scores = binary(BinaryOp::Mul, scores, Tensor::scalar(how.scale))?;
    }
    if let Some(mask) = mask {
        scores = binary(BinaryOp::Add, scores, mask)?;
    }
    let y = matmul(&normalize::softmax(scores)?, &v, Orientation::Plain, Orientation::Plain)?;
    let mut back = [0; 4];
    for (i, place) in how.out.places().into_iter().enumerate() {
        back[place] = i;
    }
    linalg::transpose(y, &back)
}

/// A product with weights along the last dimensions.
#[derive(Debug, Clone)]
struct Dense {
    product: Product,
    contracted: usize,
    output: Vec<usize>,
    /// The weights, if they are constant.
    packed: Option<PackedB>,
}

fn dense(b: &Build<'_>) -> Boxed {
    let output: Option<Vec<usize>> =
        b.attrs.ints("output_dims")?.iter().map(|&d| usize::try_from(d).ok()).collect();
    Ok(Box::new(Dense {
        product: matrices::with_epilogue(b)?,
        contracted: b.attrs.count("contracted")?,
        output: output.ok_or_else(|| OpError::input("output_dims", "a size is negative"))?,
        packed: None,
    }))
}

impl Dense {
    fn check(&self, rank: usize) -> Result<usize> {
        rank.checked_sub(self.contracted)
            .ok_or_else(|| OpError::input("x", format!("expected at least {} dimensions", self.contracted)))
    }
}

impl Op for Dense {
    fn eval(&self, _cx: &mut Cx<'_>, mut x: Inputs) -> Result<Values> {
        let a = x.take(0)?;
        let lead = self.check(a.rank())?;
        let fresh = match &self.packed {
            Some(_) => None,
            None => Some(PackedB::new(x.tensor(1)?, self.product.b != Orientation::Plain)?),
        };
        let Some(b) = self.packed.as_ref().or(fresh.as_ref()) else {
            return Err(OpError::input("weights", "they are missing"));
        };
        let mut epilogue = self.product.epilogue(&mut x)?;
        let dims = a.dims().to_vec();
        let k: usize = dims[lead..].iter().product();
        let columns = b.cols();
        if columns != self.output.iter().product::<usize>() {
            return Err(OpError::input("weights", "they have not as many columns as the result"));
        }
        let with = |last: &[usize]| -> Vec<usize> { dims[..lead].iter().chain(last).copied().collect() };
        let shape = with(&self.output);
        // What is added may be larger than the product; then it is added afterwards.
        let late = match epilogue.residual.take() {
            Some(r) if r.dims() == shape => {
                epilogue.residual = Some(r.reshape(&with(&[columns])[..])?);
                None
            }
            other => other,
        };
        let after = Epilogue { bias: None, ..epilogue.clone() };
        if late.is_some() {
            epilogue = Epilogue { bias: epilogue.bias, ..Epilogue::default() };
        }
        let a = if lead == 0 { a.reshape([1, k])? } else { a.reshape(&with(&[k])[..])? };
        let y = matmul_packed(&a, b, false, &epilogue)?.reshape(&shape[..]);
        one(match late {
            None => y,
            Some(late) => after.apply(binary(BinaryOp::Add, y?, late)?),
        })
    }

    fn infer(&self, facts: &[Fact]) -> Result<Vec<Fact>> {
        let shape = match dims(facts, 0) {
            Some(d) => {
                let lead = self.check(d.len())?;
                Some(d[..lead].iter().copied().chain(self.output.iter().map(|&d| Some(d))).collect())
            }
            None => None,
        };
        let shape = match self.product.residual_input() {
            Some(i) => broadcast(shape.as_deref(), dims(facts, i))?,
            None => shape,
        };
        Ok(vec![fact(Some(DType::Float32), shape)])
    }

    /// Packs constant weights.
    fn specialize(&self, facts: &[Fact]) -> Result<Option<Box<dyn Op>>> {
        let Some(b @ Tensor::F32(_)) = facts.get(1).and_then(|f| f.value.as_ref()) else { return Ok(None) };
        let packed = Some(PackedB::new(b, self.product.b != Orientation::Plain)?);
        Ok(Some(Box::new(Dense { packed, ..self.clone() })))
    }
}
