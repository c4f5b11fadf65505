//! One step of a cell, recognised from its arithmetic.
//!
//! Gates are sums of columns: of products of the input or of the state with a matrix, of biases, of the input itself. They
//! are cut out of wider sums by `Split` and slices, which only moves columns, so it does not matter how an exporter cuts.

use std::cell::Cell;

use super::{Loop, Role, follow, int, ints};
use crate::{Node, NodeId, Port};

/// A weight.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Key {
    /// A variable of the loop that does not change.
    Arg(usize),
    /// A constant of the body.
    Const(NodeId),
}

/// What some columns are added to a sum of.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Term {
    /// The input of the step times a matrix of so many rows.
    FromItem { kernel: Key, depth: usize },
    /// A state times a matrix.
    FromState { state: usize, kernel: Key },
    /// A vector, or a row of a matrix.
    Bias { key: Key, row: Option<usize> },
    /// The input of the step.
    Item,
}

/// Columns of a term, from `first` on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Part {
    pub(super) term: Term,
    pub(super) first: usize,
}

#[derive(Clone, Debug)]
struct Sum {
    parts: Vec<Part>,
    width: usize,
}

/// A cell.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) op: &'static str,
    pub(super) activation: &'static str,
    pub(super) recurrent_activation: &'static str,
    pub(super) reset_after: Option<bool>,
    /// The hidden state and that of an LSTM's cell, as variables of the loop.
    pub(super) h: usize,
    pub(super) c: Option<usize>,
    /// With a mask, the output of the step before.
    pub(super) last: Option<usize>,
    /// Gates times units.
    pub(super) width: usize,
    /// What of the gates does not depend on states.
    pub(super) base: Vec<Part>,
    /// The recurrent kernel: whole, or parts side by side.
    pub(super) recurrent: Vec<Key>,
    /// The recurrent bias of a GRU.
    pub(super) bias: Option<(Key, Option<usize>)>,
}

/// The cell whose step the body of a loop is.
pub(super) fn find(of: &Loop<'_>) -> Option<Found> {
    let states: Vec<usize> = (0..of.roles.len()).filter(|&i| of.roles[i] == Role::State).collect();
    let step = Step { of, fuel: Cell::new(FUEL) };
    let cell = |h: usize, rest: &[usize]| match *rest {
        [] => step.gru(h).or_else(|| step.simple(h)),
        [c] => step.lstm(h, c),
        _ => None,
    };
    let mut found = None;
    // One may be the output of the step before, which is carried through steps that do not count.
    let lasts = states.iter().copied().map(Some).filter(|_| of.mask.is_some());
    for last in [None].into_iter().chain(lasts) {
        for &h in states.iter().filter(|&&h| Some(h) != last) {
            let rest: Vec<usize> =
                states.iter().copied().filter(|&i| i != h && Some(i) != last).take(2).collect();
            let carried =
                last.is_none_or(|l| of.stepped(l) == of.stepped(h) && of.is_zero(of.node.inputs[l]));
            if found.is_none() && states.len() <= 3 && carried {
                found = cell(h, &rest).map(|found| Found { last, ..found });
            }
        }
    }
    let found = found?;
    let items = found.base.iter().filter(|p| p.term == Term::Item).count();
    let products = found.base.iter().filter(|p| matches!(p.term, Term::FromItem { .. })).count();
    (found.width > 0 && (items == 1) != (products > 0) && items <= 1).then_some(found)
}

/// Whether outputs of steps that do not count are zeros (otherwise they are those of the step before), if a value of the
/// body is the output of a step.
pub(super) fn zeroes_masked(of: &Loop<'_>, found: &Found, value: Port) -> Option<bool> {
    let new = of.stepped(found.h)?;
    if of.mask.is_none() {
        return (value == new).then_some(false);
    }
    let carried = found.last.is_some_and(|l| of.result(l) == value);
    // The state, where it is zero before the first step that counts.
    let state = of.result(found.h) == value && of.is_zero(of.node.inputs[found.h]);
    if carried || state {
        return Some(false);
    }
    let [shown, hidden] = of.chosen(value)?;
    let hidden = of.body.node(hidden.node);
    let small = hidden.value.as_ref().filter(|v| v.len() <= 4096).and_then(|v| v.tensor().ok());
    let zeros = small.is_some_and(|t| t.data::<f32>().is_ok_and(|d| d.iter().all(|&x| x == 0.0)));
    (shown == new && (zeros || hidden.op == "ZerosLike")).then_some(true)
}

struct Step<'a> {
    of: &'a Loop<'a>,
    /// How many more nodes of sums may be looked at.
    fuel: Cell<u32>,
}

/// Several times what a cell has: a graph of sums of sums of the same would never end.
const FUEL: u32 = 600;
/// Wider matrices are no weights.
const WIDEST: usize = 1 << 28;

/// Both orders of two values.
fn orders([a, b]: [Port; 2]) -> [[Port; 2]; 2] {
    [[a, b], [b, a]]
}

impl<'a> Step<'a> {
    fn node(&self, port: Port) -> (&'a Node, Port) {
        let port = follow(self.of.body, port);
        (self.of.body.node(port.node), port)
    }

    /// The operands of an op of two.
    fn pair(&self, port: Port, ops: &[&str]) -> Option<[Port; 2]> {
        let (node, _) = self.node(port);
        match node.inputs[..] {
            [a, b] if ops.contains(&node.op.as_str()) => {
                Some([follow(self.of.body, a), follow(self.of.body, b)])
            }
            _ => None,
        }
    }

    fn product(&self, port: Port) -> Option<[Port; 2]> {
        self.pair(port, &["Mul"])
    }

    fn addition(&self, port: Port) -> Option<[Port; 2]> {
        self.pair(port, &["Add", "AddV2"])
    }

    /// The function of a gate, and what it is a function of.
    fn gate(&self, port: Port) -> Option<(&'static str, Port)> {
        let (node, _) = self.node(port);
        let word = match node.op.as_str() {
            "Sigmoid" => "sigmoid",
            "Tanh" => "tanh",
            "Relu" => "relu",
            _ => return None,
        };
        Some((word, follow(self.of.body, *node.inputs.first()?)))
    }

    fn lstm(&self, h: usize, c: usize) -> Option<Found> {
        let (new_h, new_c) = (self.of.stepped(h)?, self.of.stepped(c)?);
        for [o, shown] in orders(self.product(new_h)?) {
            let (Some((recurrent, o)), Some((act, of))) = (self.gate(o), self.gate(shown)) else { continue };
            if of != new_c {
                continue;
            }
            for [kept, new] in orders(self.addition(new_c)?) {
                let (Some(kept), Some(new)) = (self.product(kept), self.product(new)) else { continue };
                let forget = orders(kept).into_iter().find_map(|[f, old]| {
                    let (word, f) = self.gate(f)?;
                    (self.of.arg(old) == Some(c) && word == recurrent).then_some(f)
                });
                let Some(f) = forget else { continue };
                let found = orders(new).into_iter().find_map(|[i, candidate]| {
                    let ((word, i), (act_too, candidate)) = (self.gate(i)?, self.gate(candidate)?);
                    if word != recurrent || act_too != act {
                        return None;
                    }
                    let (base, kernel, units) = self.gates(h, &[i, f, candidate, o])?;
                    Some(Found {
                        op: "_SequenceLSTM",
                        activation: act,
                        recurrent_activation: recurrent,
                        reset_after: None,
                        h,
                        c: Some(c),
                        last: None,
                        width: 4 * units,
                        base,
                        recurrent: vec![kernel],
                        bias: None,
                    })
                });
                if found.is_some() {
                    return found;
                }
            }
        }
        None
    }

    fn simple(&self, h: usize) -> Option<Found> {
        let (activation, sum) = self.gate(self.of.stepped(h)?)?;
        let (base, kernel, width) = self.gates(h, &[sum])?;
        Some(Found {
            op: "_SequenceRNN",
            activation,
            recurrent_activation: "sigmoid",
            reset_after: None,
            h,
            c: None,
            last: None,
            width,
            base,
            recurrent: vec![kernel],
            bias: None,
        })
    }

    /// Gates that lie side by side in one kernel: what of them does not depend on the state, the kernel, and the units.
    fn gates(&self, h: usize, gates: &[Port]) -> Option<(Vec<Part>, Key, usize)> {
        let mut first: Option<(Vec<Part>, Key, usize)> = None;
        for (i, &gate) in gates.iter().enumerate() {
            let sum = self.sum(gate)?;
            let (kernel, column, rest) = recurrent(&sum, h)?;
            let units = sum.width;
            let (base, key, u) = first.get_or_insert_with(|| (rest.clone(), kernel, units));
            let same = *key == kernel && *u == units && column == i * units;
            if !same || !is_moved(base, &rest, i * units) {
                return None;
            }
        }
        let (base, kernel, units) = first?;
        let width = gates.len().checked_mul(units)?;
        let whole = self.shape(kernel)? == [units, width];
        (whole && self.is_whole(&base, width)).then_some((base, kernel, units))
    }

    /// Whether parts start at the first of `width` columns, and have that many.
    fn is_whole(&self, parts: &[Part], width: usize) -> bool {
        parts.iter().all(|part| {
            let columns = match part.term {
                Term::FromItem { kernel: key, .. } | Term::Bias { key, .. } => {
                    self.shape(key).and_then(|s| s.last().copied())
                }
                Term::Item => self.input_width(),
                Term::FromState { .. } => None,
            };
            part.first == 0 && columns == Some(width)
        })
    }

    fn gru(&self, h: usize) -> Option<Found> {
        for [kept, new] in orders(self.addition(self.of.stepped(h)?)?) {
            let (Some(kept), Some(new)) = (self.product(kept), self.product(new)) else { continue };
            let update = orders(kept).into_iter().find(|[_, old]| self.of.arg(*old) == Some(h));
            let Some([update, _]) = update else { continue };
            let candidate = orders(new).into_iter().find(|[rest, _]| self.is_rest(*rest, update));
            let Some([_, candidate]) = candidate else { continue };
            let ((recurrent, z), (act, sum)) = (self.gate(update)?, self.gate(candidate)?);
            for [x, product] in orders(self.addition(sum)?) {
                let found = self
                    .reset_after(h, recurrent, z, x, product)
                    .or_else(|| self.reset_before(h, recurrent, z, x, product));
                if let Some(found) = found {
                    return Some(Found { activation: act, recurrent_activation: recurrent, ..found });
                }
            }
        }
        None
    }

    /// Whether a value is `1 - of`.
    fn is_rest(&self, port: Port, of: Port) -> bool {
        let one = |port: Port| {
            let value = self.node(port).0.value.as_ref().filter(|v| v.len() == 1);
            let tensor = value.and_then(|v| v.tensor().ok());
            tensor.is_some_and(|t| t.data::<f32>().is_ok_and(|d| d == [1.0]))
        };
        self.pair(port, &["Sub"]).is_some_and(|[a, b]| one(a) && b == of)
    }

    /// `x + r · product`
    fn reset_after(&self, h: usize, word: &str, z: Port, x: Port, product: Port) -> Option<Found> {
        orders(self.product(product)?).into_iter().find_map(|[r, product]| {
            let (reset, r) = self.gate(r)?;
            let (x, product) = (self.sum(x)?, self.sum(product)?);
            let units = product.width;
            let (kernel, column, extra) = recurrent(&product, h)?;
            if reset != word || column != 2 * units || x.width != units {
                return None;
            }
            let back = |parts: &[Part]| -> Option<Vec<Part>> {
                let moved = |p: &Part| Some(Part { first: p.first.checked_sub(2 * units)?, ..*p });
                parts.iter().map(moved).collect()
            };
            let (base, extra) = (back(&x.parts)?, back(&extra)?);
            let both = [&base[..], &extra[..]].concat();
            for (i, gate) in [z, r].into_iter().enumerate() {
                let sum = self.sum(gate)?;
                let (other, column, rest) = recurrent(&sum, h)?;
                let fits = other == kernel && column == i * units && sum.width == units;
                if !fits || !is_moved(&both, &rest, i * units) {
                    return None;
                }
            }
            let width = 3 * units;
            let bias = match extra[..] {
                [] => None,
                [Part { term: Term::Bias { key, row }, .. }] => Some((key, row)),
                _ => return None,
            };
            let whole = self.shape(kernel)? == [units, width];
            (whole && self.is_whole(&both, width)).then_some(Found {
                op: "_SequenceGRU",
                activation: "",
                recurrent_activation: "",
                reset_after: Some(true),
                h,
                c: None,
                last: None,
                width,
                base,
                recurrent: vec![kernel],
                bias,
            })
        })
    }

    /// `x + (r · h)·R`
    fn reset_before(&self, h: usize, word: &str, z: Port, x: Port, product: Port) -> Option<Found> {
        let (kept, kernel) = self.matrix_product(product)?;
        let [r, _] = orders(self.product(kept)?).into_iter().find(|[_, old]| self.of.arg(*old) == Some(h))?;
        let (reset, r) = self.gate(r)?;
        let x = self.sum(x)?;
        let units = x.width;
        let (candidate, first, columns) = self.weight(kernel)?;
        if reset != word || columns != units {
            return None;
        }
        let moved = |p: &Part| Some(Part { first: p.first.checked_sub(2 * units)?, ..*p });
        let base: Vec<Part> = x.parts.iter().map(moved).collect::<Option<_>>()?;
        let mut gates = None;
        for (i, gate) in [z, r].into_iter().enumerate() {
            let sum = self.sum(gate)?;
            let (key, column, rest) = recurrent(&sum, h)?;
            let fits = *gates.get_or_insert(key) == key && column == i * units && sum.width == units;
            if !fits || !is_moved(&base, &rest, i * units) {
                return None;
            }
        }
        let (gates, width) = (gates?, 3 * units);
        let recurrent = if gates == candidate {
            (self.shape(gates)? == [units, width] && first == 2 * units).then(|| vec![gates])?
        } else {
            let apart = self.shape(gates)? == [units, 2 * units] && self.shape(candidate)? == [units, units];
            (apart && first == 0).then(|| vec![gates, candidate])?
        };
        self.is_whole(&base, width).then_some(Found {
            op: "_SequenceGRU",
            activation: "",
            recurrent_activation: "",
            reset_after: Some(false),
            h,
            c: None,
            last: None,
            width,
            base,
            recurrent,
            bias: None,
        })
    }

    fn shape(&self, key: Key) -> Option<Vec<usize>> {
        let shape = match key {
            Key::Arg(i) => self.of.fact(self.of.node.inputs[i])?.full_shape()?.to_vec(),
            Key::Const(id) => self.of.body.node(id).value.as_ref()?.shape().to_vec(),
        };
        shape.iter().all(|&d| d <= WIDEST).then_some(shape)
    }

    /// The last dimension of the inputs: known, or what the body takes it for (should it be another, the op refuses it).
    fn input_width(&self) -> Option<usize> {
        let known = self.of.fact(self.of.x)?.shape.as_ref()?.last().copied()?;
        let taken = || {
            let element = *self.of.body.node(self.of.item).inputs.get(2)?;
            usize::try_from(*ints(self.of.body, element)?.get(1)?).ok()
        };
        known.or_else(taken).filter(|&d| d <= WIDEST)
    }

    fn key(&self, port: Port) -> Option<Key> {
        if let Some(i) = self.of.arg(port) {
            return (self.of.roles[i] == Role::Same).then_some(Key::Arg(i));
        }
        let (node, port) = self.node(port);
        node.value.is_some().then_some(Key::Const(port.node))
    }

    /// Columns of a matrix: which, from where, how many.
    fn weight(&self, port: Port) -> Option<(Key, usize, usize)> {
        if let Some(key) = self.key(port) {
            return match self.shape(key)?[..] {
                [_, width] => Some((key, 0, width)),
                _ => None,
            };
        }
        let (node, _) = self.node(port);
        let key = self.key(*node.inputs.first()?)?;
        let [_, width] = self.shape(key)?[..] else { return None };
        let (first, width) = self.columns(node, width)?;
        Some((key, first, width))
    }

    /// A vector: a weight, or a row of one.
    fn vector(&self, port: Port) -> Option<(Key, Option<usize>, usize)> {
        if let Some(key) = self.key(port) {
            return match self.shape(key)?[..] {
                [width] => Some((key, None, width)),
                _ => None,
            };
        }
        let (node, port) = self.node(port);
        let (source, row) = match node.op.as_str() {
            "Unpack" if node.attrs.int_or("axis", 0).ok()? == 0 => (node, port.index as usize),
            "Squeeze" => {
                let (split, part) = self.node(*node.inputs.first()?);
                let axes = ["squeeze_dims", "axis"].iter().find_map(|a| node.attrs.ints(a).ok());
                let first = axes.is_none_or(|a| a.is_empty() || a == [0]);
                let [axis, of] = split.inputs[..] else { return None };
                let rows = split.op == "Split" && int(self.of.body, axis)? == 0;
                let count = usize::try_from(split.attrs.int("num_split").ok()?).ok()?;
                let [n, width] = self.shape(self.key(of)?)?[..] else { return None };
                if !(rows && first && count == n && width != 1) {
                    return None;
                }
                return Some((self.key(of)?, Some(part.index as usize), width));
            }
            _ => return None,
        };
        let key = self.key(*source.inputs.first()?)?;
        match self.shape(key)?[..] {
            [n, width] if row < n => Some((key, Some(row), width)),
            _ => None,
        }
    }

    /// The columns that a slice takes of a matrix with so many.
    fn columns(&self, node: &Node, width: usize) -> Option<(usize, usize)> {
        let limit = i64::try_from(width).ok()?;
        let list = |i: usize| -> Option<[i64; 2]> {
            match ints(self.of.body, *node.inputs.get(i)?)?[..] {
                [a, b] => Some([a.into(), b.into()]),
                _ => None,
            }
        };
        let (first, end) = match node.op.as_str() {
            "StridedSlice" => {
                let (begin, end) = (list(1)?, list(2)?);
                let mask = |name| node.attrs.int_or(name, 0).ok();
                let none =
                    ["ellipsis_mask", "new_axis_mask", "shrink_axis_mask"].iter().all(|m| mask(m) == Some(0));
                let (from, to) = (mask("begin_mask")?, mask("end_mask")?);
                if !none || list(3)? != [1, 1] || (from & 1 == 0 && begin[0] != 0) || to & 1 == 0 {
                    return None;
                }
                let absolute = |x: i64| if x < 0 { x + limit } else { x };
                let first = if from & 2 == 0 { absolute(begin[1]) } else { 0 };
                (first, if to & 2 == 0 { absolute(end[1]).min(limit) } else { limit })
            }
            "Slice" => {
                let ([row, first], [rows, size]) = (list(1)?, list(2)?);
                if row != 0 || rows != -1 {
                    return None;
                }
                (first, if size == -1 { limit } else { first.checked_add(size)? })
            }
            _ => return None,
        };
        let range = 0 <= first && first < end && end <= limit;
        range.then_some((usize::try_from(first).ok()?, usize::try_from(end - first).ok()?))
    }

    /// The operands of a product of matrices as they are.
    fn matrix_product(&self, port: Port) -> Option<(Port, Port)> {
        let (node, _) = self.node(port);
        let plain = |name| node.attrs.bool_or(name, false) == Ok(false);
        match node.inputs[..] {
            [a, b, ..]
                if matches!(node.op.as_str(), "MatMul" | "_FusedMatMul")
                    && plain("transpose_a")
                    && plain("transpose_b") =>
            {
                Some((follow(self.of.body, a), follow(self.of.body, b)))
            }
            _ => None,
        }
    }

    /// A value as a sum of columns.
    fn sum(&self, port: Port) -> Option<Sum> {
        self.fuel.set(self.fuel.get().checked_sub(1)?);
        let (node, port) = self.node(port);
        let plus_vector = |mut sum: Sum, vector: Port| {
            let (key, row, width) = self.vector(vector)?;
            sum.parts.push(Part { term: Term::Bias { key, row }, first: 0 });
            (width == sum.width).then_some(sum)
        };
        match node.op.as_str() {
            "TensorListGetItem" if port.node == self.of.item => {
                Some(Sum { parts: vec![Part { term: Term::Item, first: 0 }], width: self.input_width()? })
            }
            "MatMul" | "_FusedMatMul" => {
                let (a, b) = self.matrix_product(port)?;
                let (kernel, first, width) = self.weight(b)?;
                let (node_of_a, _) = self.node(a);
                let term = if std::ptr::eq(node_of_a, self.of.body.node(self.of.item)) {
                    let depth = *self.shape(kernel)?.first()?;
                    Term::FromItem { kernel, depth }
                } else {
                    let state = self.of.arg(a).filter(|&i| self.of.roles[i] == Role::State)?;
                    Term::FromState { state, kernel }
                };
                let sum = Sum { parts: vec![Part { term, first }], width };
                if node.op == "MatMul" {
                    return Some(sum);
                }
                let bias = node.attrs.strings("fused_ops").ok()? == [b"BiasAdd"];
                plus_vector(sum, *node.inputs.get(2).filter(|_| bias)?)
            }
            "BiasAdd" => {
                let &[a, bias] = &node.inputs[..] else { return None };
                plus_vector(self.sum(a)?, bias)
            }
            "Add" | "AddV2" => {
                let &[a, b] = &node.inputs[..] else { return None };
                match (self.sum(a), self.sum(b)) {
                    (Some(a), Some(b)) if a.width == b.width => {
                        Some(Sum { parts: [a.parts, b.parts].concat(), width: a.width })
                    }
                    (Some(sum), None) => plus_vector(sum, b),
                    (None, Some(sum)) => plus_vector(sum, a),
                    _ => None,
                }
            }
            "Split" => {
                let &[axis, of] = &node.inputs[..] else { return None };
                let count = usize::try_from(node.attrs.int("num_split").ok()?).ok().filter(|&n| n > 0)?;
                let last = matches!(int(self.of.body, axis)?, 1 | -1);
                let sum = self.sum(of).filter(|s| last && s.width % count == 0)?;
                let width = sum.width / count;
                (port.index < count as u32).then(|| moved(sum, port.index as usize * width, width))
            }
            "SplitV" => {
                let &[of, sizes, axis] = &node.inputs[..] else { return None };
                let sum = self.sum(of).filter(|_| matches!(int(self.of.body, axis), Some(1 | -1)))?;
                let (first, width) = piece(&ints(self.of.body, sizes)?, port.index, sum.width)?;
                Some(moved(sum, first, width))
            }
            "StridedSlice" | "Slice" => {
                let sum = self.sum(*node.inputs.first()?)?;
                let (first, width) = self.columns(node, sum.width)?;
                Some(moved(sum, first, width))
            }
            _ => None,
        }
    }
}

/// Where piece `index` of `width` columns starts and how wide it is; one size may be left open by -1.
fn piece(sizes: &[i32], index: u32, width: usize) -> Option<(usize, usize)> {
    let known = |s: &i32| usize::try_from(*s).ok();
    let taken = sizes.iter().filter_map(known).try_fold(0usize, usize::checked_add)?;
    let rest = width.checked_sub(taken)?;
    let open = sizes.iter().filter(|&&s| s == -1).count();
    if open > 1 || sizes.iter().any(|&s| s < -1) || (open == 0 && rest > 0) {
        return None;
    }
    let size = |s: &i32| known(s).unwrap_or(rest);
    let (before, this) = sizes.split_at_checked(index as usize)?;
    Some((before.iter().map(size).sum(), size(this.first()?)))
}

/// Some columns of a sum.
fn moved(sum: Sum, by: usize, width: usize) -> Sum {
    let parts = sum.parts.into_iter().map(|p| Part { first: p.first + by, ..p }).collect();
    Sum { parts, width }
}

/// The one product of the state in a sum (kernel and column), and the rest.
fn recurrent(sum: &Sum, h: usize) -> Option<(Key, usize, Vec<Part>)> {
    let of_state = |p: &&Part| matches!(p.term, Term::FromState { .. });
    let mut products = sum.parts.iter().filter(of_state);
    let (Some(product), None) = (products.next(), products.next()) else { return None };
    let Term::FromState { state, kernel } = product.term else { return None };
    let rest = sum.parts.iter().filter(|p| !of_state(p)).copied().collect();
    (state == h).then_some((kernel, product.first, rest))
}

/// Whether parts are others, moved to the right. No part occurs twice.
fn is_moved(base: &[Part], parts: &[Part], by: usize) -> bool {
    let once = |p: &Part| base.iter().filter(|q| *q == p).count() == 1;
    let there = |p: &Part| parts.contains(&Part { first: p.first + by, ..*p });
    base.len() == parts.len() && base.iter().all(|p| once(p) && there(p))
}
