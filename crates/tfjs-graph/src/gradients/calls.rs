//! `If` and calls: the gradient is a function that computes the forward values again.
use tfjs_format::proto::attr_value::Value;

use super::{GradCx, Result, Row, gradients_of, row};
use crate::{
    Effect, Fact, Port,
    builder::{Builder, function_attr},
};

pub(super) const RULES: &[Row] = &[
    row("Case", case),
    row("If", conditional),
    row("PartitionedCall", call),
    row("StatefulPartitionedCall", call),
    row("StatelessCase", case),
    row("StatelessIf", conditional),
];

fn conditional(c: &mut GradCx<'_>) -> Result<()> {
    let names = [c.attrs().func("then_branch")?.to_owned(), c.attrs().func("else_branch")?.to_owned()];
    branches(c, "StatelessIf", &names, |gradients| {
        vec![("then_branch", function_attr(&gradients[0])), ("else_branch", function_attr(&gradients[1]))]
    })
}

fn case(c: &mut GradCx<'_>) -> Result<()> {
    let names: Vec<String> = c.attrs().funcs("branches")?.into_iter().map(str::to_owned).collect();
    branches(c, "StatelessCase", &names, |gradients| vec![("branches", Builder::function_list(gradients))])
}

fn branches(
    c: &mut GradCx<'_>,
    op: &str,
    names: &[String],
    attrs: impl FnOnce(&[String]) -> Vec<(&'static str, Value)>,
) -> Result<()> {
    let condition = c.x(0);
    let args: Vec<Port> = (1..c.inputs()).map(|i| c.x(i)).collect();
    let wanted: Vec<usize> = (0..args.len()).filter(|&i| c.wants(i + 1)).collect();
    let (indices, dys) = upstream(c)?;
    let mut gradients = Vec::with_capacity(names.len());
    let mut facts = Vec::new();
    for function in names {
        let (gradient, outputs) = backward(c, function, &args, &wanted, &indices, &dys)?;
        gradients.push(gradient);
        facts = outputs;
    }
    let mut attrs = attrs(&gradients);
    attrs.push((
        "Tin",
        Builder::types(&args.iter().chain(&dys).map(|&p| c.fact(p).clone()).collect::<Vec<_>>()),
    ));
    attrs.push(("Tout", Builder::types(&facts)));
    let inputs: Vec<Port> = [condition].into_iter().chain(args).chain(dys).collect();
    let node = c.b.add(op, &inputs, &attrs)?;
    finish(c, node, facts, wanted.iter().map(|i| i + 1))
}

fn call(c: &mut GradCx<'_>) -> Result<()> {
    let args: Vec<Port> = (0..c.inputs()).map(|i| c.x(i)).collect();
    let wanted: Vec<usize> = (0..args.len()).filter(|&i| c.wants(i)).collect();
    let (indices, dys) = upstream(c)?;
    let function = c.attrs().func("f")?.to_owned();
    let (gradient, facts) = backward(c, &function, &args, &wanted, &indices, &dys)?;
    let attrs = [("f", function_attr(&gradient)), ("Tout", Builder::types(&facts))];
    let inputs: Vec<Port> = args.into_iter().chain(dys).collect();
    let node = c.b.add("PartitionedCall", &inputs, &attrs)?;
    finish(c, node, facts, wanted.into_iter())
}

/// Outputs that have a gradient, and those.
fn upstream(c: &mut GradCx<'_>) -> Result<(Vec<usize>, Vec<Port>)> {
    let mut found = (Vec::new(), Vec::new());
    for i in 0..c.outputs() {
        if let Some(dy) = c.dy_of(i)? {
            found.0.push(i);
            found.1.push(dy);
        }
    }
    Ok(found)
}

fn finish(
    c: &mut GradCx<'_>,
    node: crate::NodeId,
    facts: Vec<Fact>,
    inputs: impl Iterator<Item = usize>,
) -> Result<()> {
    c.b.set_facts(node, facts);
    for (j, i) in inputs.enumerate() {
        c.set(i, Port { node, index: j as u32 })?;
    }
    Ok(())
}

/// A function from the arguments and the gradients of some outputs to the gradients of the wanted arguments.
fn backward(
    c: &mut GradCx<'_>,
    function: &str,
    args: &[Port],
    wanted: &[usize],
    indices: &[usize],
    dys: &[Port],
) -> Result<(String, Vec<Fact>)> {
    let facts: Vec<Fact> = args.iter().map(|&p| c.fact(p).without_value()).collect();
    let mut body = c.b.body(Some(function), &facts)?;
    let ids = body.graph().ids();
    if let Some(&id) = ids.iter().find(|&&id| body.effect(id) != Effect::Pure) {
        let op = body.graph().node(id).op.clone();
        return c.refuse(format!("function `{function}` has a {op}, which cannot be computed twice"));
    }
    let inputs: Vec<Port> = body.graph().inputs.iter().map(|e| e.port).collect();
    let results: Vec<Port> = body.graph().outputs.iter().map(|e| e.port).collect();
    if inputs.len() != args.len() || indices.iter().any(|&i| i >= results.len()) {
        return c.refuse(format!(
            "function `{function}` has {} arguments and {} results",
            inputs.len(),
            results.len()
        ));
    }
    let mut ys = Vec::with_capacity(dys.len());
    for (&i, &dy) in indices.iter().zip(dys) {
        let fact = c.fact(dy).without_value();
        ys.push((results[i], Some(body.argument(&fact))));
    }
    body.graph_mut().outputs.clear();
    let wrt: Vec<Port> = wanted.iter().map(|&i| inputs[i]).collect();
    let mut outputs = Vec::with_capacity(wrt.len());
    for (gradient, &x) in gradients_of(&mut body, &ys, &wrt)?.into_iter().zip(&wrt) {
        let g = match gradient {
            Some(gradient) => gradient.dense(&mut body)?,
            None => body.op("ZerosLike", &[x], &[])?,
        };
        body.refine(g, x);
        body.result(g);
        outputs.push(body.fact(g).without_value());
    }
    Ok((c.b.add_function("gradient", body), outputs))
}
