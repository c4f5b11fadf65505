//! The list of what works cannot lie: the registry, TF.js's op list and `docs/ops.md` are compared.

use std::{collections::BTreeMap, fmt::Write};

use tfjs_graph::{
    builtin,
    gradients::{self, Differentiable, differentiable},
    ops,
};

/// Ops of TF.js's list that this runtime leaves out, and why.
const LEFT_OUT: &[(&str, &str)] = &[
    ("SimpleMLCreateModelResource", "decision forests need their own library"),
    ("SimpleMLLoadModelFromPathWithHandle", "decision forests need their own library"),
    ("SimpleMLInferenceOpWithHandle", "decision forests need their own library"),
];

#[test]
fn every_op_of_tfjs_is_there_or_left_out_with_a_reason() {
    let missing: Vec<&str> = ops::tfjs_ops()
        .map(|(_, op)| op)
        .filter(|op| builtin(op).is_none() && !LEFT_OUT.iter().any(|(o, _)| o == op))
        .collect();
    assert!(missing.is_empty(), "not in the registry: {missing:?}");
}

#[test]
fn no_op_is_in_two_families() {
    let mut family: BTreeMap<&str, &str> = BTreeMap::new();
    for (name, defs) in ops::families() {
        for def in defs {
            let before = family.insert(def.name, name);
            assert_eq!(before, None, "{} is in {name} too", def.name);
        }
    }
}

#[test]
fn every_rule_of_differentiation_is_for_an_op_that_there_is() {
    let unknown: Vec<&str> = gradients::rules().filter(|op| builtin(op).is_none()).collect();
    assert!(unknown.is_empty(), "not in the registry: {unknown:?}");
}

#[test]
fn the_page_of_ops_is_what_the_registry_says() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/ops.md");
    let page = page();
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(path, &page).unwrap();
    }
    let written = std::fs::read_to_string(path).unwrap_or_default();
    assert!(written == page, "docs/ops.md is not up to date: run this test with UPDATE_DOCS=1");
}

fn page() -> String {
    let tfjs: BTreeMap<&str, &str> = ops::tfjs_ops().map(|(list, op)| (op, list)).collect();
    let mut families: Vec<_> = ops::families().collect();
    families.sort_by_key(|(name, _)| *name);
    let count: usize = families.iter().map(|(_, defs)| defs.len()).sum();
    let both = tfjs.keys().filter(|op| builtin(op).is_some()).count();
    let mut text = format!(
        "# Ops\n\nGenerated from the registry by `UPDATE_DOCS=1 cargo test -p tfjs-graph --test op_list`.\n\n\
         {count} ops run natively. {both} of the {} that TF.js's converter accepts are among them; ops marked with a\n\
         dash in the third run here but not in TF.js: a conversion lowers them where it can and reports them otherwise. The last\n\
         column says what differentiation does: there is a rule, the gradient is zero, or it is refused.\n",
        tfjs.len()
    );
    for (name, defs) in families {
        let _ = write!(text, "\n## {name}\n\n| op | inputs | in TF.js | gradient |\n|---|---|---|---|\n");
        let mut defs: Vec<_> = defs.iter().collect();
        defs.sort_by_key(|d| d.name);
        for d in defs {
            let (min, max) = (d.arity.start(), d.arity.end());
            let inputs = match *max {
                usize::MAX => format!("{min} or more"),
                _ if min == max => min.to_string(),
                _ => format!("{min} to {max}"),
            };
            let _ = writeln!(
                text,
                "| `{}` | {inputs} | {} | {} |",
                d.name,
                if tfjs.contains_key(d.name) { "yes" } else { "–" },
                match differentiable(d.name) {
                    Differentiable::Yes => "yes",
                    Differentiable::Zero => "zero",
                    Differentiable::No => "–",
                }
            );
        }
    }
    let _ = write!(text, "\n## Left out\n\n| op of TF.js | why |\n|---|---|\n");
    for (op, why) in LEFT_OUT {
        let _ = writeln!(text, "| `{op}` | {why} |");
    }
    text
}
