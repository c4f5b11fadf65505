//! The converter as a table of passes.

use std::{fmt::Write as _, fs, path::Path, sync::Arc};

use tfjs_graph::{Graph, GraphError, Node, Registry, passes as graph_passes};
use tracing::debug;

use crate::{
    ConvertError, ConvertOptions, Warning,
    model::{Model, retain_reachable},
    passes::{
        case, debug_ops, defaults, effects, freeze, inline, layout, list_elements, lower, ops_check, outputs,
        tables,
    },
};

type Pass = fn(&mut Model, &ConvertOptions) -> Result<usize, ConvertError>;

/// All passes, in order. Each says how many rewrites it made.
pub(crate) const PIPELINE: &[(&str, Pass)] = &[
    ("inline functions", |m, _| inline::run(&mut m.graph)),
    ("split table initialisers", |m, _| tables::run(m)),
    ("freeze variables", freeze_variables),
    ("strip debug ops", strip_debug_ops),
    ("drop idle control edges", drop_idle_controls),
    ("prune", prune),
    ("lower cases", |m, _| Ok(graphs(m).map(case::lower).sum())),
    ("lower ops", |m, _| Ok(everywhere(m, &mut lower::lower))),
    ("check ops before optimization", |m, o| check_ops(m, o, "before")),
    ("fill in default attributes", |m, _| Ok(everywhere(m, &mut defaults::fill))),
    ("fold constants", fold_constants),
    ("decide branches", |m, _| Ok(everywhere(m, &mut graph_passes::resolve_branches))),
    ("simplify", |m, _| Ok(everywhere(m, &mut graph_passes::simplify))),
    ("merge equal nodes", |m, _| Ok(everywhere(m, &mut |g| graph_passes::dedup(g, &Registry::default())))),
    ("fold batch norms", |m, _| Ok(everywhere(m, &mut graph_passes::fold_batch_norms))),
    ("normalise bias adds", |m, _| Ok(everywhere(m, &mut graph_passes::normalize_bias_adds))),
    ("channels last", |m, _| Ok(everywhere(m, &mut layout::to_channels_last))),
    ("recognise prelu", |m, _| Ok(everywhere(m, &mut graph_passes::recognize_prelu))),
    ("fuse activations", |m, _| {
        Ok(everywhere(m, &mut |g| graph_passes::fuse_activations(g, graph_passes::FuseTarget::Tfjs)))
    }),
    ("fuse prelu", |m, _| Ok(everywhere(m, &mut graph_passes::fuse_prelu))),
    ("fold constants again", fold_constants),
    ("simplify again", |m, _| Ok(everywhere(m, &mut graph_passes::simplify))),
    ("prune again", prune),
    ("keep list elements", |m, _| Ok(list_elements::keep(&mut m.graph))),
    ("fill in default attributes again", |m, _| Ok(everywhere(m, &mut defaults::fill))),
    ("separate outputs", |m, _| Ok(outputs::separate(&mut m.graph))),
    ("check ops after optimization", |m, o| check_ops(m, o, "after")),
];

/// What the passes did.
pub(crate) struct Report {
    /// How many rewrites each made.
    pub(crate) passes: Vec<(&'static str, usize)>,
    /// Nodes before optimisation.
    pub(crate) nodes_before: usize,
}

/// Runs all passes.
pub(crate) fn run(
    model: &mut Model,
    options: &ConvertOptions,
    step: &mut dyn FnMut(&str),
) -> Result<Report, ConvertError> {
    run_watched(model, options, step, &mut |_, _| {})
}

/// As [`run`]; `watch` sees the model after each pass.
pub(crate) fn run_watched(
    model: &mut Model,
    options: &ConvertOptions,
    step: &mut dyn FnMut(&str),
    watch: &mut dyn FnMut(&str, &Model),
) -> Result<Report, ConvertError> {
    let mut passes = Vec::new();
    let mut nodes_before = 0;
    if let Some(dir) = &options.dump {
        dump(dir, 0, "imported", model)?;
    }
    for (i, &(name, pass)) in PIPELINE.iter().enumerate() {
        step(name);
        let count = pass(model, options)?;
        debug!(pass = name, rewrites = count, nodes = model.graph.len());
        passes.push((name, count));
        watch(name, model);
        if name == "prune" {
            nodes_before = node_count(&model.graph);
        }
        if let Some(dir) = &options.dump {
            dump(dir, i + 1, name, model)?;
        }
    }
    Ok(Report { passes, nodes_before })
}

/// Nodes of a graph and of its functions.
pub(crate) fn node_count(graph: &Graph) -> usize {
    graph.len() + graph.library.values().map(|f| f.graph.len() - f.graph.inputs.len()).sum::<usize>()
}

fn graphs(model: &mut Model) -> impl Iterator<Item = &mut Graph> {
    std::iter::once(&mut model.graph).chain(&mut model.initializer)
}

/// Applies a pass to the graph, the functions and the initializer.
fn everywhere(model: &mut Model, pass: &mut dyn FnMut(&mut Graph) -> usize) -> usize {
    graphs(model).map(|g| graph_passes::everywhere(g, pass)).sum()
}

fn freeze_variables(model: &mut Model, _: &ConvertOptions) -> Result<usize, ConvertError> {
    let (variables, ledger) = (model.variables.clone(), model.ledger.clone());
    graphs(model).map(|g| freeze::run(g, &variables, &ledger)).sum()
}

fn strip_debug_ops(model: &mut Model, options: &ConvertOptions) -> Result<usize, ConvertError> {
    Ok(if options.strip_debug_ops { everywhere(model, &mut debug_ops::strip) } else { 0 })
}

fn drop_idle_controls(model: &mut Model, _: &ConvertOptions) -> Result<usize, ConvertError> {
    let library = model.graph.library.clone();
    let mut count = effects::drop_idle_controls(&mut model.graph, &library)?;
    for function in model.graph.library.values_mut() {
        count += effects::drop_idle_controls(&mut Arc::make_mut(function).graph, &library)?;
    }
    Ok(count)
}

fn prune(model: &mut Model, _: &ConvertOptions) -> Result<usize, ConvertError> {
    let mut count = 0;
    for graph in graphs(model) {
        count += graph_passes::prune(graph);
        for function in graph.library.values_mut() {
            count += retain_reachable(&mut Arc::make_mut(function).graph);
        }
    }
    Ok(count)
}

fn fold_constants(model: &mut Model, _: &ConvertOptions) -> Result<usize, ConvertError> {
    let registry = Registry::default();
    let mut failed: Option<GraphError> = None;
    let count = everywhere(model, &mut |graph| match graph_passes::fold_constants(graph, &registry) {
        Ok(count) => count,
        Err(error) => {
            failed.get_or_insert(error);
            0
        }
    });
    failed.map_or(Ok(count), |error| Err(error.into()))
}

fn check_ops(model: &mut Model, options: &ConvertOptions, when: &'static str) -> Result<usize, ConvertError> {
    let ops: Vec<_> = graphs(model).flat_map(|g| ops_check::unsupported(g)).collect();
    let count = ops.len();
    if count > 0 && !options.skip_op_check {
        return Err(ConvertError::UnsupportedOps { when, ops });
    }
    if when == "after" {
        model.warnings.extend(ops.into_iter().map(|u| Warning::UnsupportedOp { node: u.node, op: u.op }));
    }
    Ok(0)
}

/// Writes the model as text, one node per line.
fn dump(dir: &Path, number: usize, pass: &str, model: &Model) -> Result<(), ConvertError> {
    let path = dir.join(format!("{number:02}-{}.txt", pass.replace(' ', "-")));
    let mut text = String::new();
    print(&mut text, &model.graph);
    for (name, function) in &model.graph.library {
        let _ = writeln!(text, "\nfunction {name}");
        print(&mut text, &function.graph);
    }
    if let Some(initializer) = &model.initializer {
        text.push_str("\ninitializer\n");
        print(&mut text, initializer);
    }
    let wrap = |source| ConvertError::Io { path: path.clone(), source };
    fs::create_dir_all(dir).map_err(wrap)?;
    fs::write(&path, text).map_err(wrap)
}

fn print(text: &mut String, graph: &Graph) {
    for endpoint in &graph.inputs {
        let _ = writeln!(text, "input {} = {}", endpoint.key, graph.port_name(endpoint.port));
    }
    for (_, node) in graph.iter() {
        let _ = writeln!(text, "{}", line(graph, node));
    }
    for endpoint in &graph.outputs {
        let _ = writeln!(text, "output {} = {}", endpoint.key, graph.port_name(endpoint.port));
    }
    for target in &graph.targets {
        let _ = writeln!(text, "run {}", graph.node(*target).name);
    }
}

fn line(graph: &Graph, node: &Node) -> String {
    let inputs = node.inputs.iter().map(|p| graph.port_name(*p));
    let controls = node.controls.iter().map(|c| format!("^{}", graph.node(*c).name));
    let inputs = inputs.chain(controls).collect::<Vec<_>>().join(", ");
    let value = node.value.as_ref().map(|v| format!(" {v:?}")).unwrap_or_default();
    let functions: String = inline::referenced(node).into_iter().map(|f| format!(" {f}")).collect();
    format!("{} = {}({inputs}){value}{functions}", node.name, node.op)
}
