//! V1 control flow: `Switch`, `Merge`, `Enter`, `Exit`, `NextIteration` on frames.
//!
//! The rules are TensorFlow's: every value carries whether it is alive; a node runs when all its inputs have
//! arrived in the same iteration of the same frame and passes on death if one of them is dead; `Merge` runs on its
//! first living input. Unlike TF.js, which asks whether output 0 of a node is there, a control input is satisfied by
//! the node itself, so loops whose body waits on a `Switch` do not hang.

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    sync::Arc,
};

use smallvec::SmallVec;

use crate::{
    Cx, Flow, GraphError, Value, exec,
    op::Values,
    plan::{Operand, Plan, Step},
};

/// Who waits for whom, by step and slot.
#[derive(Debug)]
pub(crate) struct FlowPlan {
    /// Per slot: the steps and inputs it goes to.
    consumers: Vec<Vec<(u32, u32)>>,
    /// Per step: the steps that wait for it.
    followers: Vec<Vec<u32>>,
    /// Per step: inputs that arrive from slots.
    arriving: Vec<u32>,
    /// Per step: whether it is the `Merge` at the head of a loop, which gets one input per iteration.
    loop_merge: Vec<bool>,
    /// Number of `Enter`s per frame name.
    enters: HashMap<String, usize>,
    /// Number of `Exit`s per frame name.
    exits: HashMap<String, usize>,
}

impl FlowPlan {
    /// Analyses steps, and adds `Enter`s where a value is used inside a loop without one (which TF.js allows).
    pub(crate) fn new(steps: &mut Vec<Step>, slots: usize) -> FlowPlan {
        let exits = add_missing_enters(steps, slots);
        let slots =
            steps.iter().map(|s| s.first_output + s.outputs).max().unwrap_or(0).max(slots as u32) as usize;
        let mut consumers = vec![Vec::new(); slots];
        let mut followers = vec![Vec::new(); steps.len()];
        let mut arriving = vec![0; steps.len()];
        let mut producer_is_next = vec![false; slots];
        let mut enters: HashMap<String, usize> = HashMap::new();
        for step in steps.iter() {
            match step.op.flow() {
                Some(Flow::NextIteration) => producer_is_next[step.first_output as usize] = true,
                Some(Flow::Enter { frame, .. }) => *enters.entry(frame).or_default() += 1,
                _ => {}
            }
        }
        for (i, step) in steps.iter().enumerate() {
            for (k, operand) in step.inputs.iter().enumerate() {
                if let Operand::Slot(s) = operand {
                    consumers[*s as usize].push((i as u32, k as u32));
                    arriving[i] += 1;
                }
            }
            for &c in &step.controls {
                followers[c as usize].push(i as u32);
            }
        }
        let loop_merge = steps
            .iter()
            .map(|s| {
                s.op.flow() == Some(Flow::Merge)
                    && s.inputs.iter().any(|o| matches!(o, Operand::Slot(s) if producer_is_next[*s as usize]))
            })
            .collect();
        FlowPlan { consumers, followers, arriving, loop_merge, enters, exits }
    }
}

/// The frames a value lives in, outermost first.
type Path = Vec<String>;

/// Returns the number of `Exit`s per frame name.
fn add_missing_enters(steps: &mut Vec<Step>, slots: usize) -> HashMap<String, usize> {
    let mut exits: HashMap<String, usize> = HashMap::new();
    let mut slot_path: Vec<Path> = vec![Vec::new(); slots];
    let mut step_path: Vec<Path> = vec![Vec::new(); steps.len()];
    // Steps are in topological order but for back edges, which never decide a frame.
    for (i, step) in steps.iter().enumerate() {
        let mut path = Path::new();
        let from_slots = step.inputs.iter().filter_map(|o| match o {
            Operand::Slot(s) | Operand::Take(s) => Some(&slot_path[*s as usize]),
            Operand::Const(_) => None,
        });
        for p in from_slots.chain(step.controls.iter().map(|&c| &step_path[c as usize])) {
            if p.len() > path.len() {
                path.clone_from(p);
            }
        }
        let mut out = path.clone();
        match step.op.flow() {
            Some(Flow::Enter { frame, .. }) => out.push(frame),
            Some(Flow::Exit) => {
                *exits.entry(out.pop().unwrap_or_default()).or_default() += 1;
            }
            _ => {}
        }
        for s in step.first_output..step.first_output + step.outputs {
            slot_path[s as usize].clone_from(&out);
        }
        // Those who wait for an `Enter` wait inside its frame.
        step_path[i] = if matches!(step.op.flow(), Some(Flow::Enter { .. })) { out } else { path };
    }
    let mut made: HashMap<(u32, Path), u32> = HashMap::new();
    let mut added: Vec<Step> = Vec::new();
    let mut next_slot = slots as u32;
    for (i, step) in steps.iter_mut().enumerate() {
        let inner = match step.op.flow() {
            Some(Flow::Enter { .. }) => &step_path[i][..step_path[i].len() - 1],
            _ => &step_path[i][..],
        };
        for operand in &mut step.inputs {
            let Operand::Slot(s) = *operand else { continue };
            let have = &slot_path[s as usize];
            if have.len() >= inner.len() || !inner.starts_with(have) {
                continue;
            }
            let mut slot = s;
            for depth in have.len()..inner.len() {
                let path = inner[..=depth].to_vec();
                slot = *made.entry((s, path)).or_insert_with(|| {
                    let op = crate::ops::control::enter(inner[depth].clone(), true);
                    added.push(Step {
                        name: format!("{}/enter", step.name).into(),
                        op_name: "Enter".into(),
                        op: Arc::new(op),
                        inputs: SmallVec::from_slice(&[Operand::Slot(slot)]),
                        first_output: next_slot,
                        outputs: 1,
                        release: SmallVec::new(),
                        controls: SmallVec::new(),
                    });
                    next_slot += 1;
                    next_slot - 1
                });
            }
            *operand = Operand::Slot(slot);
        }
    }
    steps.extend(added);
    exits
}

/// A value that may be dead.
type Token = Option<Value>;

#[derive(Default)]
struct Pending {
    values: SmallVec<[Option<Token>; 4]>,
    arrived: u32,
    controls: u32,
    dead: bool,
    /// A `Merge` that has run already.
    fired: bool,
}

struct Frame {
    name: String,
    parent: Option<(usize, u64)>,
    depth: usize,
    enters_seen: usize,
    exits_seen: usize,
    iterations: HashMap<u64, HashMap<u32, Pending>>,
    last_iteration: u64,
    /// Values that every iteration sees, by the `Enter` that brought them.
    invariants: Vec<(u32, Token)>,
    /// `Exit`s that were dead in every iteration so far.
    dead_exits: BTreeSet<u32>,
}

struct Ready {
    frame: usize,
    iteration: u64,
    step: u32,
    pending: Pending,
}

struct Run<'p> {
    plan: &'p Plan,
    flow: &'p FlowPlan,
    frames: Vec<Frame>,
    children: HashMap<(usize, u64, String), usize>,
    queue: VecDeque<Ready>,
    /// Root-frame values of the fetched slots.
    fetched: HashMap<u32, Token>,
}

pub(crate) fn run(
    plan: &Plan,
    flow: &FlowPlan,
    cx: &mut Cx<'_>,
    feeds: Values,
) -> Result<Vec<Option<Value>>, GraphError> {
    let fetched = plan
        .fetches
        .iter()
        .filter_map(|f| match f {
            Operand::Slot(s) | Operand::Take(s) => Some((*s, None)),
            Operand::Const(_) => None,
        })
        .collect();
    let mut run =
        Run { plan, flow, frames: Vec::new(), children: HashMap::new(), queue: VecDeque::new(), fetched };
    run.frames.push(Frame::new(String::new(), None, 0));
    for (&slot, value) in plan.feeds.iter().zip(feeds) {
        run.deliver(0, 0, slot, Some(value));
    }
    for (i, step) in plan.steps.iter().enumerate() {
        if flow.arriving[i] == 0 && step.controls.is_empty() {
            let pending =
                Pending { values: SmallVec::from_elem(None, step.inputs.len()), ..Pending::default() };
            run.queue.push_back(Ready { frame: 0, iteration: 0, step: i as u32, pending });
        }
    }
    loop {
        while let Some(ready) = run.queue.pop_front() {
            run.fire(cx, ready)?;
        }
        // Nothing moves any more: loops that were never entered alive tell those who wait for them.
        if !run.release_dead_exits() {
            break;
        }
    }
    let Run { mut fetched, .. } = run;
    let mut outputs = Vec::with_capacity(plan.fetches.len());
    for (i, f) in plan.fetches.iter().enumerate() {
        outputs.push(match f {
            Operand::Const(c) => Some(plan.constants[*c as usize].clone()),
            Operand::Slot(s) | Operand::Take(s) => {
                let again = plan.fetches[i + 1..].contains(f);
                if again { fetched.get(s).cloned().flatten() } else { fetched.remove(s).flatten() }
            }
        });
    }
    Ok(outputs)
}

impl Frame {
    fn new(name: String, parent: Option<(usize, u64)>, depth: usize) -> Frame {
        Frame {
            name,
            parent,
            depth,
            enters_seen: 0,
            exits_seen: 0,
            iterations: HashMap::from([(0, HashMap::new())]),
            last_iteration: 0,
            invariants: Vec::new(),
            dead_exits: BTreeSet::new(),
        }
    }
}

impl Run<'_> {
    /// Hands a value to everyone who reads its slot in one iteration.
    fn deliver(&mut self, frame: usize, iteration: u64, slot: u32, token: Token) {
        if frame == 0
            && let Some(kept) = self.fetched.get_mut(&slot)
        {
            kept.clone_from(&token);
        }
        let flow = self.flow;
        for &(step, input) in &flow.consumers[slot as usize] {
            let token = token.clone();
            self.arrive(frame, iteration, step, |p| {
                p.dead |= token.is_none();
                p.values[input as usize] = Some(token);
                p.arrived += 1;
            });
        }
    }

    /// Tells everyone who waits for a step that it has run, or is dead.
    fn deliver_controls(&mut self, frame: usize, iteration: u64, step: u32, dead: bool) {
        let flow = self.flow;
        for &follower in &flow.followers[step as usize] {
            self.arrive(frame, iteration, follower, |p| {
                p.dead |= dead;
                p.controls += 1;
            });
        }
    }

    fn arrive(&mut self, frame: usize, iteration: u64, step: u32, note: impl FnOnce(&mut Pending)) {
        let def = &self.plan.steps[step as usize];
        let states = self.frames[frame].iterations.entry(iteration).or_default();
        let pending = states.entry(step).or_insert_with(|| Pending {
            values: SmallVec::from_elem(None, def.inputs.len()),
            ..Pending::default()
        });
        note(pending);
        let all_here = pending.arrived == self.flow.arriving[step as usize]
            && pending.controls as usize == def.controls.len();
        if def.op.flow() == Some(Flow::Merge) {
            let is_loop = self.flow.loop_merge[step as usize];
            // Constants are alive from the start.
            let alive = pending.values.iter().any(|v| matches!(v, Some(Some(_))))
                || def.inputs.iter().any(|o| matches!(o, Operand::Const(_)));
            let controls_here = pending.controls as usize == def.controls.len();
            if !pending.fired && controls_here && (alive || all_here || is_loop) {
                pending.fired = true;
                let values = std::mem::take(&mut pending.values);
                pending.values = SmallVec::from_elem(None, def.inputs.len());
                let taken = Pending { values, dead: !alive, ..Pending::default() };
                self.queue.push_back(Ready { frame, iteration, step, pending: taken });
            }
            if all_here {
                states.remove(&step);
            }
        } else if all_here && let Some(pending) = states.remove(&step) {
            self.queue.push_back(Ready { frame, iteration, step, pending });
        }
    }

    fn fire(&mut self, cx: &mut Cx<'_>, ready: Ready) -> Result<(), GraphError> {
        let Ready { frame, iteration, step: index, pending } = ready;
        let plan = self.plan;
        let step = &plan.steps[index as usize];
        let dead = pending.dead;
        let value = |k: usize| match step.inputs[k] {
            Operand::Const(c) => Some(plan.constants[c as usize].clone()),
            Operand::Slot(_) | Operand::Take(_) => pending.values.get(k).cloned().flatten().flatten(),
        };
        let slot = step.first_output;
        match step.op.flow() {
            Some(Flow::Switch) => {
                let taken =
                    match (dead, value(1).as_ref().and_then(Value::as_tensor).map(|t| t.data::<bool>())) {
                        (false, Some(Ok([p]))) => Some(u32::from(*p)),
                        (true, _) => None,
                        _ => {
                            let problem = "expected one boolean".to_owned();
                            return Err(GraphError::Run {
                                node: step.name.to_string(),
                                op: step.op_name.clone(),
                                inputs: String::new(),
                                source: crate::OpError::Input { what: "pred", problem },
                            });
                        }
                    };
                for k in 0..step.outputs {
                    let token = if taken == Some(k) { value(0) } else { None };
                    self.deliver(frame, iteration, slot + k, token);
                }
                self.deliver_controls(frame, iteration, index, dead);
            }
            Some(Flow::Merge) => {
                let alive = (0..step.inputs.len()).find_map(|k| Some((k, value(k)?)));
                let dead = dead || alive.is_none();
                let (k, first) = alive.map_or((0, None), |(k, v)| (k, Some(v)));
                if step.outputs > 0 {
                    self.deliver(frame, iteration, slot, first.filter(|_| !dead));
                }
                if step.outputs > 1 {
                    let index = Value::Tensor(tfjs_kernels::Tensor::scalar(k as i32));
                    self.deliver(frame, iteration, slot + 1, (!dead).then_some(index));
                }
                self.deliver_controls(frame, iteration, index, dead);
            }
            Some(Flow::Enter { frame: name, constant }) => {
                self.enter(frame, iteration, index, name, constant, value(0).filter(|_| !dead));
            }
            Some(Flow::Exit) => {
                let Some((parent, at)) = self.frames[frame].parent else { return Ok(()) };
                if dead {
                    self.frames[frame].dead_exits.insert(index);
                } else {
                    let exits = self.flow.exits.get(&self.frames[frame].name).copied();
                    let f = &mut self.frames[frame];
                    f.dead_exits.remove(&index);
                    f.exits_seen += 1;
                    if Some(f.exits_seen) == exits {
                        // No further iteration begins: a loop inside a loop must not hold on to every round's values.
                        f.invariants = Vec::new();
                    }
                    if step.outputs > 0 {
                        self.deliver(parent, at, slot, value(0));
                    }
                    self.deliver_controls(parent, at, index, false);
                }
            }
            Some(Flow::NextIteration) => {
                if !dead {
                    let next = iteration + 1;
                    self.start_iteration(frame, next);
                    if step.outputs > 0 {
                        self.deliver(frame, next, slot, value(0));
                    }
                    self.deliver_controls(frame, next, index, false);
                }
            }
            None if dead => {
                for k in 0..step.outputs {
                    self.deliver(frame, iteration, slot + k, None);
                }
                self.deliver_controls(frame, iteration, index, true);
            }
            None => {
                let inputs = (0..step.inputs.len()).filter_map(value).collect();
                drop(pending);
                let values = exec::eval(step, cx, inputs)?;
                for (k, v) in values.into_iter().take(step.outputs as usize).enumerate() {
                    self.deliver(frame, iteration, slot + k as u32, Some(v));
                }
                self.deliver_controls(frame, iteration, index, false);
            }
        }
        Ok(())
    }

    fn enter(&mut self, frame: usize, iteration: u64, step: u32, name: String, constant: bool, token: Token) {
        let key = (frame, iteration, name);
        let child = match self.children.get(&key) {
            Some(&c) => c,
            None => {
                let depth = self.frames[frame].depth + 1;
                self.frames.push(Frame::new(key.2.clone(), Some((frame, iteration)), depth));
                self.children.insert(key, self.frames.len() - 1);
                self.frames.len() - 1
            }
        };
        self.frames[child].enters_seen += 1;
        if constant {
            self.frames[child].invariants.push((step, token.clone()));
            for i in 0..=self.frames[child].last_iteration {
                self.deliver_entered(child, i, step, token.clone());
            }
        } else {
            self.deliver_entered(child, 0, step, token);
        }
    }

    fn deliver_entered(&mut self, frame: usize, iteration: u64, step: u32, token: Token) {
        let dead = token.is_none();
        let def = &self.plan.steps[step as usize];
        if def.outputs > 0 {
            self.deliver(frame, iteration, def.first_output, token);
        }
        self.deliver_controls(frame, iteration, step, dead);
    }

    fn start_iteration(&mut self, frame: usize, iteration: u64) {
        let f = &mut self.frames[frame];
        if iteration <= f.last_iteration {
            return;
        }
        f.last_iteration = iteration;
        f.iterations.insert(iteration, HashMap::new());
        // Iterations in which nothing waits are forgotten; should something still run there, they come back.
        f.iterations.retain(|&i, waiting| i + 1 >= iteration || !waiting.is_empty());
        for (step, token) in f.invariants.clone() {
            self.deliver_entered(frame, iteration, step, token);
        }
    }

    /// Passes on the death of `Exit`s of the innermost frames that are over; whether there were any.
    fn release_dead_exits(&mut self) -> bool {
        let over = |f: &Frame| {
            !f.dead_exits.is_empty() && f.enters_seen >= self.flow.enters.get(&f.name).copied().unwrap_or(0)
        };
        let Some(depth) = self.frames.iter().filter(|f| over(f)).map(|f| f.depth).max() else { return false };
        let frames: Vec<usize> = (0..self.frames.len())
            .filter(|&i| self.frames[i].depth == depth && over(&self.frames[i]))
            .collect();
        for frame in frames {
            let exits = std::mem::take(&mut self.frames[frame].dead_exits);
            let Some((parent, at)) = self.frames[frame].parent else { continue };
            for step in exits {
                let def = &self.plan.steps[step as usize];
                if def.outputs > 0 {
                    self.deliver(parent, at, def.first_output, None);
                }
                self.deliver_controls(parent, at, step, true);
            }
        }
        true
    }
}
