use std::{collections::HashMap, time::Instant};

use smallvec::SmallVec;
use tfjs_kernels::DType;

use crate::{
    Cx, GraphError, Op, OpError, Resources, Value,
    op::{FunctionPlan, Inputs, Values},
    plan::{Operand, Plan, Step},
    work::{self, Work},
};

/// Deepest nesting of calls at run time.
const MAX_DEPTH: usize = 256;

/// Runs a plan: `feeds` in the plan's order, outputs in the order they were asked for. An output is `None` when
/// it lies on a branch that was not taken.
pub(crate) fn run(plan: &Plan, cx: &mut Cx<'_>, feeds: Values) -> Result<Vec<Option<Value>>, GraphError> {
    if let Some(flow) = &plan.flow {
        return crate::flow::run(plan, flow, cx, feeds);
    }
    let mut slots: Vec<Option<Value>> = Vec::new();
    slots.resize(plan.slots, None);
    for (&slot, value) in plan.feeds.iter().zip(feeds) {
        slots[slot as usize] = Some(value);
    }
    for step in &plan.steps {
        let inputs = step.inputs.iter().map(|o| read(plan, &mut slots, *o)).collect::<Option<_>>();
        let Some(inputs) = inputs else {
            // Straight-line plans compute every slot before it is read.
            return Err(GraphError::DeadOutput { name: step.name.to_string() });
        };
        let values = eval(step, cx, inputs)?;
        for (i, value) in values.into_iter().take(step.outputs as usize).enumerate() {
            slots[step.first_output as usize + i] = Some(value);
        }
        for &s in &step.release {
            slots[s as usize] = None;
        }
    }
    Ok(plan.fetches.iter().map(|f| read(plan, &mut slots, *f)).collect())
}

fn read(plan: &Plan, slots: &mut [Option<Value>], operand: Operand) -> Option<Value> {
    match operand {
        Operand::Slot(s) => slots[s as usize].clone(),
        Operand::Take(s) => slots[s as usize].take(),
        Operand::Const(c) => Some(plan.constants[c as usize].clone()),
    }
}

/// Runs an op by itself, for folding: without tables, state or functions around it.
pub(crate) fn eval_alone(op: &dyn Op, node: &str, inputs: Inputs) -> Result<Values, OpError> {
    let (resources, mut state) = (Resources::default(), HashMap::new());
    op.eval(&mut Cx { node, resources: &resources, state: &mut state, depth: 0, profile: None }, inputs)
}

/// Runs one step, timing it when asked to, and puts its name around an error.
pub(crate) fn eval(step: &Step, cx: &mut Cx<'_>, inputs: SmallVec<[Value; 4]>) -> Result<Values, GraphError> {
    // The message is needed only on failure, but the inputs are gone by then: keep their shapes cheaply.
    let kinds: SmallVec<[Brief; 4]> = inputs.iter().map(Brief::of).collect();
    let mut inner = Cx {
        node: &step.name,
        resources: cx.resources,
        state: &mut *cx.state,
        depth: cx.depth,
        profile: cx.profile.as_deref_mut(),
    };
    let start = inner.profile.is_some().then(Instant::now);
    let result = step.op.eval(&mut inner, Inputs(inputs));
    if let (Some(profile), Some(start)) = (inner.profile, start) {
        let time = start.elapsed();
        profile.record(&step.name, &step.op_name, time, work(&step.op_name, &kinds, result.as_deref()));
    }
    let values = result.map_err(|source| run_error(step, &kinds, source))?;
    if values.len() < step.outputs as usize {
        let problem = format!("the op made {} outputs, {} are used", values.len(), step.outputs);
        return Err(run_error(step, &kinds, OpError::input("outputs", problem)));
    }
    Ok(values)
}

fn run_error(step: &Step, kinds: &[Brief], source: OpError) -> GraphError {
    let inputs = kinds.iter().map(Brief::describe).collect::<Vec<_>>().join(", ");
    GraphError::Run { node: step.name.to_string(), op: step.op_name.clone(), inputs, source }
}

fn work(op: &str, inputs: &[Brief], outputs: Result<&[Value], &OpError>) -> Work {
    let outputs: SmallVec<[Brief; 4]> = outputs.unwrap_or_default().iter().map(Brief::of).collect();
    fn shapes(briefs: &[Brief]) -> Vec<&[usize]> {
        briefs.iter().map(|b| if let Brief::Tensor(_, shape) = b { &shape[..] } else { &[] }).collect()
    }
    let bytes = inputs.iter().chain(&outputs).map(|brief| match brief {
        Brief::Tensor(DType::Bool, shape) => shape.elements() as u64,
        Brief::Tensor(DType::Complex64, shape) => 8 * shape.elements() as u64,
        Brief::Tensor(_, shape) => 4 * shape.elements() as u64,
        Brief::Other(_) => 0,
    });
    Work { bytes: bytes.sum(), flops: work::flops(op, &shapes(inputs), &shapes(&outputs)) }
}

/// Type and shape of a value, for messages.
enum Brief {
    Tensor(tfjs_kernels::DType, tfjs_kernels::Shape),
    Other(&'static str),
}

impl Brief {
    fn of(value: &Value) -> Brief {
        match value {
            Value::Tensor(t) => Brief::Tensor(t.dtype(), t.shape()),
            other => Brief::Other(other.kind()),
        }
    }

    fn describe(&self) -> String {
        match self {
            Brief::Tensor(d, s) => format!("{d}{s}"),
            Brief::Other(kind) => (*kind).to_owned(),
        }
    }
}

/// Runs a function from within an op.
pub(crate) fn call(cx: &mut Cx<'_>, function: &FunctionPlan, args: Values) -> Result<Values, GraphError> {
    if cx.depth >= MAX_DEPTH {
        return Err(GraphError::RecursiveFunction { name: function.name.clone() });
    }
    cx.depth += 1;
    let result = run(&function.plan, cx, args);
    cx.depth -= 1;
    result?
        .into_iter()
        .map(|v| v.ok_or_else(|| GraphError::DeadOutput { name: function.name.clone() }))
        .collect()
}
