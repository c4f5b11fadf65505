use std::{collections::HashMap, fmt, sync::Arc, sync::LazyLock};

use crate::{
    Attrs, Op, OpError,
    op::{Build, OpDef},
    ops,
};

type Custom = dyn Fn(&Build<'_>) -> Result<Box<dyn Op>, OpError> + Send + Sync;

/// The ops that plans are made of: TensorFlow's, and those a user registers.
#[derive(Clone, Default)]
pub struct Registry {
    custom: HashMap<String, Arc<Custom>>,
}

static BUILTIN: LazyLock<HashMap<&'static str, &'static OpDef>> =
    LazyLock::new(|| ops::families().flat_map(|(_, defs)| defs).map(|d| (d.name, d)).collect());

impl Registry {
    /// Adds an op of the user's own, which wins over a built-in one of the same name.
    ///
    /// `build` sees the node's attributes and makes the op that runs.
    pub fn register(
        &mut self,
        name: impl Into<String>,
        build: impl Fn(&Build<'_>) -> Result<Box<dyn Op>, OpError> + Send + Sync + 'static,
    ) {
        self.custom.insert(name.into(), Arc::new(build));
    }

    /// Whether an op of this name can run.
    pub fn contains(&self, op: &str) -> bool {
        self.custom.contains_key(op) || BUILTIN.contains_key(op)
    }

    /// Makes the op of a node; `None` when there is none of its name.
    pub(crate) fn build(&self, build: &Build<'_>) -> Option<Result<Box<dyn Op>, OpError>> {
        let node = build.node;
        if let Some(custom) = self.custom.get(&node.op) {
            return Some(custom(build));
        }
        let def = BUILTIN.get(node.op.as_str())?;
        if !def.arity.contains(&node.inputs.len()) {
            let (min, max) = (*def.arity.start(), *def.arity.end());
            let expected = match max {
                _ if min == max => min.to_string(),
                usize::MAX => format!("at least {min}"),
                _ => format!("{min} to {max}"),
            };
            return Some(Err(OpError::Arity { got: node.inputs.len(), expected }));
        }
        Some((def.build)(build))
    }
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registry").field("custom", &self.custom.keys()).finish_non_exhaustive()
    }
}

/// The built-in row of an op.
pub fn builtin(op: &str) -> Option<&'static OpDef> {
    BUILTIN.get(op).copied()
}

/// Output arguments of every TensorFlow op that has others than one `output`; see `fixtures/make/op_outputs.py`.
static OUTPUTS: LazyLock<HashMap<&'static str, Vec<(&'static str, Option<&'static str>)>>> =
    LazyLock::new(|| {
        include_str!("ops/outputs.txt")
            .lines()
            .filter_map(|line| {
                let mut words = line.split(' ');
                let op = words.next()?;
                Some((
                    op,
                    words.map(|w| w.split_once('*').map_or((w, None), |(n, c)| (n, Some(c)))).collect(),
                ))
            })
            .collect()
    });

/// Names and lengths of a node's output arguments, as function bodies spell them.
pub fn output_args(op: &str, attrs: &Attrs) -> Vec<(&'static str, usize)> {
    // Ops that only TF.js knows, with one output each, fall under the default too.
    let Some(args) = OUTPUTS.get(op) else { return vec![("output", 1)] };
    args.iter()
        .map(|&(name, count)| {
            let n = count.map_or(Some(1), |a| attrs.count_of(a).or_else(|| attrs.data_types_len(a)));
            (name, n.unwrap_or(1))
        })
        .collect()
}
