//! `If`, `Case`, `While` and calls: ops that run functions of the library.

use smallvec::SmallVec;
use tfjs_kernels::{DType, Tensor};

use crate::{
    Cx, Effect, Fact, Graph, Op, OpError, Port, Value,
    op::{Build, FunctionPlan, Inputs, Values},
};

type Built = Result<Box<dyn Op>, OpError>;

fn effect(functions: &[&FunctionPlan]) -> Effect {
    if functions.iter().all(|f| f.plan.is_pure()) { Effect::Pure } else { Effect::Stateful }
}

/// TensorFlow's rule for conditions that are not booleans: numbers are true unless zero, strings unless empty, and
/// anything but a scalar is true when it has elements.
fn truth(value: &Value) -> Result<bool, OpError> {
    let Value::Tensor(t) = value else {
        return Err(OpError::Kind { index: 0, got: value.kind(), expected: "a tensor" });
    };
    if t.rank() > 0 {
        return Ok(!t.is_empty());
    }
    Ok(match t {
        Tensor::Bool(t) => t.data() == [true],
        Tensor::I32(t) => t.data() != [0],
        Tensor::F32(t) => t.data() != [0.0],
        Tensor::Str(t) => t.data().first().is_some_and(|s| !s.is_empty()),
        Tensor::C64(_) => return Err(OpError::input("cond", "a complex number is neither true nor false")),
    })
}

/// What all branches agree on.
fn common(plans: &[&FunctionPlan]) -> Vec<Fact> {
    let n = plans.first().map_or(0, |p| p.plan.facts().len());
    (0..n)
        .map(|i| {
            let facts = plans.iter().map(|p| p.plan.facts().get(i).cloned().unwrap_or_default());
            facts.map(|f| f.without_value()).reduce(|a, b| widen(&a, &b)).unwrap_or_default()
        })
        .collect()
}

/// The fact that covers both.
fn widen(a: &Fact, b: &Fact) -> Fact {
    let shape = match (&a.shape, &b.shape) {
        (Some(x), Some(y)) if x.len() == y.len() => {
            Some(x.iter().zip(y).map(|(&p, &q)| if p == q { p } else { None }).collect())
        }
        _ => None,
    };
    Fact { dtype: a.dtype.filter(|_| a.dtype == b.dtype), shape, value: None }
}

#[derive(Debug)]
struct Branches {
    branches: Vec<FunctionPlan>,
    /// `If` picks by truth (branch 0 is "then"), `Case` by index.
    by_truth: bool,
    /// Declared types of the outputs, where they are tensors.
    types: Vec<Option<DType>>,
}

fn types(b: &Build<'_>) -> Result<Vec<Option<DType>>, OpError> {
    Ok(b.attrs.data_types("Tout")?.into_iter().map(DType::from_proto).collect())
}

pub(super) fn conditional(b: &Build<'_>) -> Built {
    let args = &b.facts[1..];
    let branches = [b.attrs.func("then_branch")?, b.attrs.func("else_branch")?]
        .iter()
        .map(|name| b.function_named(name, args))
        .collect::<Result<_, _>>()?;
    Ok(Box::new(Branches { branches, by_truth: true, types: types(b)? }))
}

pub(super) fn case(b: &Build<'_>) -> Built {
    let args = &b.facts[1..];
    let branches: Vec<_> = b
        .attrs
        .funcs("branches")?
        .iter()
        .map(|name| b.function_named(name, args))
        .collect::<Result<_, _>>()?;
    if branches.is_empty() {
        return Err(OpError::input("branches", "there are none"));
    }
    Ok(Box::new(Branches { branches, by_truth: false, types: types(b)? }))
}

impl Op for Branches {
    fn eval(&self, cx: &mut Cx<'_>, inputs: Inputs) -> Result<Values, OpError> {
        let pick = if self.by_truth {
            usize::from(!truth(inputs.value(0)?)?)
        } else {
            let i = inputs.scalar::<i32>(0, "branch_index")?;
            // Out of range means the last branch.
            usize::try_from(i).unwrap_or(usize::MAX).min(self.branches.len() - 1)
        };
        let outputs = cx.call(&self.branches[pick], inputs.0.into_iter().skip(1).collect())?;
        for (i, (value, declared)) in outputs.iter().zip(&self.types).enumerate() {
            if let (Value::Tensor(t), Some(declared)) = (value, declared)
                && t.dtype() != *declared
            {
                let name = &self.branches[pick].name;
                let problem =
                    format!("output {i} of branch `{name}` is {}, the node declares {declared}", t.dtype());
                return Err(OpError::input("Tout", problem));
            }
        }
        Ok(outputs)
    }

    fn infer(&self, _inputs: &[Fact]) -> Result<Vec<Fact>, OpError> {
        Ok(common(&self.branches.iter().collect::<Vec<_>>()))
    }

    fn effect(&self) -> Effect {
        effect(&self.branches.iter().collect::<Vec<_>>())
    }
}

#[derive(Debug)]
struct While {
    cond: FunctionPlan,
    body: FunctionPlan,
}

pub(super) fn while_loop(b: &Build<'_>) -> Built {
    let (cond, body) = (b.attrs.func("cond")?, b.attrs.func("body")?);
    let invariant: Vec<bool> = match b.library.get(body) {
        Some(f) => (0..b.facts.len()).map(|i| passes_through(&f.graph, i)).collect(),
        None => vec![false; b.facts.len()],
    };
    // Values that the body hands on unchanged keep all that is known of them, so that weights captured by a loop
    // are packed once. Of the others only the type is sure, and the shape if the body keeps it.
    let mut args: Vec<Fact> = b
        .facts
        .iter()
        .zip(&invariant)
        .map(|(f, &same)| if same { f.clone() } else { f.without_value() })
        .collect();
    for _ in 0..4 {
        let plan = b.function_named(body, &args)?;
        let after: Vec<Fact> = args
            .iter()
            .enumerate()
            .map(|(i, f)| {
                if invariant[i] {
                    f.clone()
                } else {
                    widen(f, &plan.plan.facts().get(i).cloned().unwrap_or_default())
                }
            })
            .collect();
        if after == args {
            return Ok(Box::new(While { cond: b.function_named(cond, &args)?, body: plan }));
        }
        args = after;
    }
    for (f, _) in args.iter_mut().zip(&invariant).filter(|(_, same)| !**same) {
        f.shape = None;
    }
    Ok(Box::new(While { cond: b.function_named(cond, &args)?, body: b.function_named(body, &args)? }))
}

/// Whether output `i` of a function is its argument `i`.
fn passes_through(g: &Graph, i: usize) -> bool {
    let (Some(arg), Some(ret)) = (g.inputs.get(i), g.outputs.get(i)) else { return false };
    let mut port: Port = ret.port;
    while g.node(port.node).op == "Identity" && !g.node(port.node).inputs.is_empty() {
        port = g.node(port.node).inputs[0];
    }
    port == arg.port
}

impl Op for While {
    fn eval(&self, cx: &mut Cx<'_>, inputs: Inputs) -> Result<Values, OpError> {
        let mut vars: Values = inputs.0.into_iter().collect();
        loop {
            let answer = cx.call(&self.cond, vars.clone())?;
            match answer.first() {
                Some(v) if truth(v)? => vars = cx.call(&self.body, vars)?,
                Some(_) => return Ok(vars),
                None => return Err(OpError::input("cond", "the function has no output")),
            }
        }
    }

    fn infer(&self, inputs: &[Fact]) -> Result<Vec<Fact>, OpError> {
        let after = self.body.plan.facts();
        Ok(inputs
            .iter()
            .enumerate()
            .map(|(i, f)| widen(f, &after.get(i).cloned().unwrap_or_default()))
            .collect())
    }

    fn effect(&self) -> Effect {
        effect(&[&self.cond, &self.body])
    }
}

#[derive(Debug)]
struct Call(FunctionPlan);

pub(super) fn call(b: &Build<'_>) -> Built {
    Ok(Box::new(Call(b.function_named(b.attrs.func("f")?, b.facts)?)))
}

impl Op for Call {
    fn eval(&self, cx: &mut Cx<'_>, inputs: Inputs) -> Result<Values, OpError> {
        cx.call(&self.0, inputs.0.into_iter().collect::<SmallVec<_>>())
    }

    fn infer(&self, _inputs: &[Fact]) -> Result<Vec<Fact>, OpError> {
        Ok(common(&[&self.0]))
    }

    fn effect(&self) -> Effect {
        effect(&[&self.0])
    }
}
