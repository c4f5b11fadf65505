//! Products, transposition, bands and diagonals of matrices.
use tfjs_kernels::{
    Activation, DType, Epilogue, Tensor,
    einsum::Equation,
    linalg::{self, Align},
    matmul::{Orientation, PackedB, matmul, matmul_packed},
    unary::{self, UnaryOp},
};

use super::{
    activation,
    arithmetic::broadcast,
    infer::{Dims, choice, dims, dtype, fact, int, ints, unsupported},
};
use crate::{
    Cx, Fact, Op, OpError,
    op::{ANY, Build, Inputs, OpDef, Values, one, same, simple},
};

pub(super) const OPS: &[OpDef] = &[
    OpDef::new("BatchMatMul", 2..=2, |b| product(b, "adj_x", "adj_y", Kind::Equal)),
    OpDef::new("BatchMatMulV2", 2..=2, |b| product(b, "adj_x", "adj_y", Kind::Broadcast)),
    OpDef::new("BatchMatMulV3", 2..=2, |b| product(b, "adj_x", "adj_y", Kind::Broadcast)),
    OpDef::new("BatchMatrixBandPart", 3..=3, |_| band_part()),
    OpDef::new("BatchMatrixDiag", 1..=1, |_| diag_v1()),
    OpDef::new("BatchMatrixDiagPart", 1..=1, |_| diag_part_v1()),
    OpDef::new("BatchMatrixSetDiag", 2..=2, |_| set_diag_v1()),
    OpDef::new("ConjugateTranspose", 2..=2, |_| transpose(true)),
    OpDef::new("Diag", 1..=1, |_| simple(|x| one(linalg::diag(x.tensor(0)?)), diag_facts)),
    OpDef::new("DiagPart", 1..=1, |_| simple(|x| one(linalg::diag_part(x.tensor(0)?)), diag_part_facts)),
    OpDef::new("Einsum", 1..=ANY, einsum),
    OpDef::new("MatMul", 2..=2, |b| product(b, "transpose_a", "transpose_b", Kind::Matrices)),
    OpDef::new("MatrixBandPart", 3..=3, |_| band_part()),
    OpDef::new("MatrixDiag", 1..=1, |_| diag_v1()),
    OpDef::new("MatrixDiagPart", 1..=1, |_| diag_part_v1()),
    OpDef::new("MatrixDiagPartV2", 3..=3, |_| diag_part(Align::LEFT)),
    OpDef::new("MatrixDiagPartV3", 3..=3, |b| diag_part(align(b)?)),
    OpDef::new("MatrixDiagV2", 5..=5, |_| diag(Align::LEFT)),
    OpDef::new("MatrixDiagV3", 5..=5, |b| diag(align(b)?)),
    OpDef::new("MatrixSetDiag", 2..=2, |_| set_diag_v1()),
    OpDef::new("MatrixSetDiagV2", 3..=3, |_| set_diag(Align::LEFT)),
    OpDef::new("MatrixSetDiagV3", 3..=3, |b| set_diag(align(b)?)),
    OpDef::new("Transpose", 2..=2, |_| transpose(false)),
    OpDef::new("_FusedMatMul", 2..=ANY, fused_product),
];

/// What an op asks of the leading dimensions.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    /// There are none.
    Matrices,
    /// They are the same.
    Equal,
    /// They broadcast.
    Broadcast,
}

/// A product of matrices, and what is done to it.
#[derive(Debug, Clone)]
pub(super) struct Product {
    kind: Kind,
    a: Orientation,
    pub(super) b: Orientation,
    /// Names of the fused ops that take an input each, in order.
    args: Vec<Arg>,
    activation: Activation,
}

/// What an additional input of a fused product is.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Arg {
    Bias,
    Residual,
    Prelu,
}

fn product(b: &Build<'_>, a_attr: &str, b_attr: &str, kind: Kind) -> Result<Box<dyn Op>, OpError> {
    let orient = |name| -> Result<Orientation, OpError> {
        let yes = b.attrs.bool_or(name, false)?;
        Ok(if kind == Kind::Matrices { Orientation::transposed(yes) } else { Orientation::adjoint(yes) })
    };
    Ok(Box::new(Product {
        kind,
        a: orient(a_attr)?,
        b: orient(b_attr)?,
        args: Vec::new(),
        activation: Activation::None,
    }))
}

fn fused_product(b: &Build<'_>) -> Result<Box<dyn Op>, OpError> {
    Ok(Box::new(with_epilogue(b)?))
}

/// A product of matrices and what its attributes say is done to it.
pub(super) fn with_epilogue(b: &Build<'_>) -> Result<Product, OpError> {
    let orient = |name| Ok::<_, OpError>(Orientation::transposed(b.attrs.bool_or(name, false)?));
    let mut p = Product {
        kind: Kind::Matrices,
        a: orient("transpose_a")?,
        b: orient("transpose_b")?,
        args: Vec::new(),
        activation: Activation::None,
    };
    for name in b.attrs.strings("fused_ops")? {
        let name = String::from_utf8_lossy(name);
        let expected = "BiasAdd, then Add, then Prelu or an activation";
        let refuse = || unsupported("fused_ops", &name, expected);
        // The order in which an epilogue applies them.
        let done = p.activation != Activation::None || p.args.contains(&Arg::Prelu);
        match &*name {
            "BiasAdd" if !done && p.args.is_empty() => p.args.push(Arg::Bias),
            "Add" | "AddV2" if !done && !p.args.contains(&Arg::Residual) => p.args.push(Arg::Residual),
            "Prelu" if !done => p.args.push(Arg::Prelu),
            _ if done => return Err(refuse()),
            "LeakyRelu" => p.activation = Activation::LeakyRelu(b.attrs.float_or("leakyrelu_alpha", 0.2)?),
            "GeluApproximate" => p.activation = Activation::GeluTanh,
            "GeluExact" => p.activation = Activation::Gelu,
            "Swish" | "_FusedSwish" => p.activation = Activation::Swish,
            other => p.activation = activation::by_name(other.as_bytes()).ok_or_else(refuse)?,
        }
    }
    if b.facts.len() != 2 + p.args.len() {
        return Err(OpError::Arity { got: b.facts.len(), expected: (2 + p.args.len()).to_string() });
    }
    Ok(p)
}

impl Product {
    /// Which input is added to the product, besides a bias.
    pub(super) fn residual_input(&self) -> Option<usize> {
        self.args.iter().position(|&a| a == Arg::Residual).map(|i| 2 + i)
    }

    /// The epilogue, from inputs 2 on.
    pub(super) fn epilogue(&self, x: &mut Inputs) -> Result<Epilogue, OpError> {
        let mut e = Epilogue::activation(self.activation);
        for (i, arg) in self.args.iter().enumerate() {
            let t = Some(x.take(2 + i)?);
            match arg {
                Arg::Bias => e.bias = t,
                Arg::Residual => e.residual = t,
                Arg::Prelu => e.prelu = t,
            }
        }
        Ok(e)
    }

    fn check(&self, a: Option<usize>, b: Option<usize>) -> Result<(), OpError> {
        let wrong = |what, rank: Option<usize>| match (self.kind, rank) {
            (Kind::Matrices, Some(r)) if r != 2 => {
                Err(OpError::input(what, format!("expected a matrix, got {r} dimensions")))
            }
            (_, Some(r)) if r < 2 => {
                Err(OpError::input(what, format!("expected at least two dimensions, got {r}")))
            }
            _ => Ok(()),
        };
        wrong("a", a)?;
        wrong("b", b)
    }

    fn check_batch(&self, a: &[usize], b: &[usize]) -> Result<(), OpError> {
        self.check(Some(a.len()), Some(b.len()))?;
        if self.kind == Kind::Equal && a[..a.len() - 2] != b[..b.len() - 2] {
            return Err(OpError::input("y", "its leading dimensions differ from those of x"));
        }
        Ok(())
    }
}

impl Op for Product {
    fn eval(&self, _cx: &mut Cx<'_>, mut x: Inputs) -> Result<Values, OpError> {
        self.check_batch(x.tensor(0)?.dims(), x.tensor(1)?.dims())?;
        let (a, b) = (x.take(0)?, x.take(1)?);
        let y = matmul(&a, &b, self.a, self.b)?;
        let epilogue = self.epilogue(&mut x)?;
        one(if epilogue.is_empty() { Ok(y) } else { epilogue.apply(y) })
    }

    fn infer(&self, facts: &[Fact]) -> Result<Vec<Fact>, OpError> {
        let (a, b) = (dims(facts, 0), dims(facts, 1));
        self.check(a.map(<[_]>::len), b.map(<[_]>::len))?;
        let shape: Dims = match (a, b) {
            (Some(a), Some(b)) => {
                let ((al, am), (bl, bm)) = (a.split_at(a.len() - 2), b.split_at(b.len() - 2));
                let oriented = |m: &[Option<usize>], o| {
                    if o == Orientation::Plain { (m[0], m[1]) } else { (m[1], m[0]) }
                };
                let ((m, k), (k2, n)) = (oriented(am, self.a), oriented(bm, self.b));
                if let (Some(k), Some(k2)) = (k, k2)
                    && k != k2
                {
                    return Err(OpError::input("b", format!("it has {k2} rows for {k} columns")));
                }
                broadcast(Some(al), Some(bl))?.map(|mut lead| {
                    lead.extend([m, n]);
                    lead
                })
            }
            _ => None,
        };
        Ok(vec![fact(dtype(facts, 0).or(dtype(facts, 1)), shape)])
    }

    /// Packs a constant right operand.
    fn specialize(&self, facts: &[Fact]) -> Result<Option<Box<dyn Op>>, OpError> {
        let Some(b @ Tensor::F32(_)) = facts.get(1).and_then(|f| f.value.as_ref()) else { return Ok(None) };
        if b.rank() != 2 || (self.a != Orientation::Plain && self.kind != Kind::Matrices) {
            return Ok(None);
        }
        // One tall product of all leading dimensions, unless the op forbids them.
        if self.kind == Kind::Equal && dims(facts, 0).is_none_or(|d| d.len() != 2) {
            return Ok(None);
        }
        let packed = PackedB::new(b, self.b != Orientation::Plain)?;
        Ok(Some(Box::new(PackedProduct { product: self.clone(), b: packed, b_dims: b.dims().to_vec() })))
    }
}

/// A product whose right operand is packed.
#[derive(Debug)]
struct PackedProduct {
    product: Product,
    b: PackedB,
    b_dims: Vec<usize>,
}

impl Op for PackedProduct {
    fn eval(&self, _cx: &mut Cx<'_>, mut x: Inputs) -> Result<Values, OpError> {
        let a = x.take(0)?;
        self.product.check_batch(a.dims(), &self.b_dims)?;
        let epilogue = self.product.epilogue(&mut x)?;
        one(matmul_packed(&a, &self.b, self.product.a != Orientation::Plain, &epilogue))
    }

    fn infer(&self, inputs: &[Fact]) -> Result<Vec<Fact>, OpError> {
        self.product.infer(inputs)
    }

    fn holds(&self, index: usize) -> bool {
        index == 1
    }
}

fn transpose(conjugate: bool) -> Result<Box<dyn Op>, OpError> {
    simple(
        move |x| {
            let perm = linalg::permutation(x.tensor(1)?)?;
            let y = linalg::transpose(x.take(0)?, &perm)?;
            one(if conjugate && y.dtype() == DType::Complex64 {
                unary::unary(UnaryOp::Conj, y)
            } else {
                Ok(y)
            })
        },
        |facts| {
            let shape = match (dims(facts, 0), ints(facts, 1)) {
                (Some(d), Some(perm)) => {
                    if perm.len() != d.len() {
                        return Err(OpError::input(
                            "perm",
                            format!("it has {} elements for {} dimensions", perm.len(), d.len()),
                        ));
                    }
                    Some(
                        perm.iter()
                            .map(|&p| Ok(d[super::infer::axis(p.into(), d.len())?]))
                            .collect::<Result<Vec<_>, OpError>>()?,
                    )
                }
                (Some(d), None) => Some(vec![None; d.len()]),
                (None, Some(perm)) => Some(vec![None; perm.len()]),
                (None, None) => None,
            };
            Ok(vec![fact(dtype(facts, 0), shape)])
        },
    )
}

fn einsum(b: &Build<'_>) -> Result<Box<dyn Op>, OpError> {
    let equation = Equation::parse(b.attrs.str_or("equation", "")?, b.facts.len())?;
    let for_shapes = equation.clone();
    simple(
        move |x| {
            let n = x.len();
            one(equation.run(x.take_tensors(0..n)?))
        },
        move |facts| {
            let shapes: Option<Vec<_>> = facts.iter().map(|f| f.shape.as_deref()).collect();
            let shape = shapes.map(|s| for_shapes.shape(&s)).transpose()?;
            Ok(vec![fact(dtype(facts, 0), shape)])
        },
    )
}

fn band_part() -> Result<Box<dyn Op>, OpError> {
    simple(
        |x| {
            let (lower, upper) = (x.scalar::<i32>(1, "num_lower")?, x.scalar::<i32>(2, "num_upper")?);
            one(linalg::matrix_band_part(x.take(0)?, lower.into(), upper.into()))
        },
        same,
    )
}

fn align(b: &Build<'_>) -> Result<Align, OpError> {
    let names = ["RIGHT_LEFT", "LEFT_RIGHT", "LEFT_LEFT", "RIGHT_RIGHT"];
    let options = names.map(|n| (n, Align::from_name(n).unwrap_or(Align::LEFT)));
    choice(b, "align", "RIGHT_LEFT", &options, "RIGHT_LEFT, LEFT_RIGHT, LEFT_LEFT and RIGHT_RIGHT")
}

/// Lowest and highest diagonal: one number for both, or two.
fn diagonals(x: &Inputs, index: usize) -> Result<(i64, i64), OpError> {
    match x.elements::<i32>(index, "k")? {
        &[k] => Ok((k.into(), k.into())),
        &[lower, upper] => Ok((lower.into(), upper.into())),
        other => Err(OpError::input("k", format!("expected one or two diagonals, got {}", other.len()))),
    }
}

fn zero(like: &Tensor) -> Result<Tensor, OpError> {
    Ok(Tensor::zeros(like.dtype(), [0usize; 0])?)
}

fn diag(align: Align) -> Result<Box<dyn Op>, OpError> {
    simple(
        move |x| {
            let (rows, cols) = (x.scalar::<i32>(2, "num_rows")?, x.scalar::<i32>(3, "num_cols")?);
            let k = diagonals(x, 1)?;
            one(linalg::matrix_diag(x.tensor(0)?, k, rows.into(), cols.into(), x.tensor(4)?, align))
        },
        |facts| {
            let size = |i| int(facts, i).and_then(|n| usize::try_from(n).ok());
            let several = ints(facts, 1).map(|k| k.len() == 2 && k[0] != k[1]);
            let shape = match (dims(facts, 0), several) {
                (Some(d), Some(several)) => {
                    let lead =
                        d.get(..d.len().saturating_sub(if several { 2 } else { 1 })).unwrap_or_default();
                    Some(lead.iter().copied().chain([size(2), size(3)]).collect())
                }
                _ => None,
            };
            Ok(vec![fact(dtype(facts, 0), shape)])
        },
    )
}

fn diag_v1() -> Result<Box<dyn Op>, OpError> {
    simple(
        |x| {
            let d = x.tensor(0)?;
            one(linalg::matrix_diag(d, (0, 0), -1, -1, &zero(d)?, Align::LEFT))
        },
        |facts| {
            let shape = dims(facts, 0).map(|d| d.iter().copied().chain(d.last().copied()).collect());
            Ok(vec![fact(dtype(facts, 0), shape)])
        },
    )
}

fn diag_part(align: Align) -> Result<Box<dyn Op>, OpError> {
    simple(
        move |x| {
            let k = diagonals(x, 1)?;
            one(linalg::matrix_diag_part(x.tensor(0)?, k, x.tensor(2)?, align))
        },
        |facts| Ok(vec![fact(dtype(facts, 0), None)]),
    )
}

fn diag_part_v1() -> Result<Box<dyn Op>, OpError> {
    simple(
        |x| {
            let m = x.tensor(0)?;
            one(linalg::matrix_diag_part(m, (0, 0), &zero(m)?, Align::LEFT))
        },
        |facts| {
            let shape = dims(facts, 0).and_then(|d| match d {
                [lead @ .., r, c] => {
                    let n = r.zip(*c).map(|(r, c)| r.min(c));
                    Some(lead.iter().copied().chain([n]).collect())
                }
                _ => None,
            });
            Ok(vec![fact(dtype(facts, 0), shape)])
        },
    )
}

fn set_diag(align: Align) -> Result<Box<dyn Op>, OpError> {
    simple(
        move |x| {
            let (k, m) = (diagonals(x, 2)?, x.take(0)?);
            one(linalg::matrix_set_diag(m, x.tensor(1)?, k, align))
        },
        same,
    )
}

fn set_diag_v1() -> Result<Box<dyn Op>, OpError> {
    simple(
        |x| {
            let m = x.take(0)?;
            one(linalg::matrix_set_diag(m, x.tensor(1)?, (0, 0), Align::LEFT))
        },
        same,
    )
}

fn diag_facts(facts: &[Fact]) -> Result<Vec<Fact>, OpError> {
    Ok(vec![fact(dtype(facts, 0), dims(facts, 0).map(|d| [d, d].concat()))])
}

fn diag_part_facts(facts: &[Fact]) -> Result<Vec<Fact>, OpError> {
    Ok(vec![fact(dtype(facts, 0), dims(facts, 0).map(|d| d[..d.len() / 2].to_vec()))])
}
