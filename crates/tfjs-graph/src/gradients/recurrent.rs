//! Recurrent layers over whole sequences: the run forward is told to keep what the run back needs.
use super::{GradCx, Result, Row, row};
use crate::builder::attr;

pub(super) const RULES: &[Row] = &[
    row("_SequenceGRU", |c| sequence(c, "_SequenceGRUGrad")),
    row("_SequenceLSTM", |c| sequence(c, "_SequenceLSTMGrad")),
    row("_SequenceRNN", |c| sequence(c, "_SequenceRNNGrad")),
];

fn sequence(c: &mut GradCx<'_>, op: &str) -> Result<()> {
    for i in 3..c.outputs() {
        if c.dy_of(i)?.is_some() {
            return c.refuse("what it keeps for its gradient has none itself");
        }
    }
    let flag = |name: &'static str| c.attrs().bool_or(name, false);
    let (bias, states, mask) = (flag("bias")?, flag("states")?, flag("mask")?);
    let id = c.id;
    c.b.graph_mut().node_mut(id).attrs.set("save", attr::bool(true));
    c.b.infer_again(id)?;
    let mut inputs = vec![c.x(1), c.y(3), c.y(4), c.y(5)];
    let names = [
        "activation",
        "recurrent_activation",
        "reset_after",
        "time_major",
        "go_backwards",
        "return_sequences",
        "zero_output_for_mask",
        "mask",
    ];
    let copied = c.copied(&names);
    let mut attrs: Vec<_> = copied.iter().map(|(n, v)| (n.as_str(), v.clone())).collect();
    for (i, name) in ["dy", "dh", "dc"].into_iter().enumerate() {
        if let Some(dy) = c.dy_of(i)? {
            inputs.push(dy);
            attrs.push((name, attr::bool(true)));
        }
    }
    if mask {
        inputs.push(c.x(c.inputs() - 1));
    }
    attrs.push(("weights", attr::bool(c.wants(1) || (bias && c.wants(2)))));
    let out = c.b.op_n(op, &inputs, &attrs, 5)?;
    c.set(0, out[0])?;
    c.set(1, out[1])?;
    let mut next = 2;
    if bias {
        c.set(next, out[2])?;
        next += 1;
    }
    if states {
        c.set(next, out[3])?;
        if op == "_SequenceLSTMGrad" {
            c.set(next + 1, out[4])?;
        }
    }
    Ok(())
}
