//! The list of what works cannot lie: the registry and TF.js's op list are compared (and `docs/ops.md`, in
//! `tfjs-convert`, which knows what a conversion lowers).

use std::collections::BTreeMap;

use tfjs_graph::{builtin, gradients, ops};

#[test]
fn every_op_of_tfjs_is_there_or_left_out_with_a_reason() {
    let missing: Vec<&str> = ops::tfjs_ops()
        .map(|(_, op)| op)
        .filter(|op| builtin(op).is_none() && !ops::LEFT_OUT.iter().any(|(o, _)| o == op))
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
fn backends_of_tfjs_are_known_op_by_op() {
    use ops::{Backend, Obstacle};
    let obstacle = |op, complex| Backend::Wasm.obstacle(op, complex);
    assert_eq!(obstacle("Conv2D", false), None);
    assert_eq!(obstacle("Erfc", false), Some(Obstacle::NotListed));
    assert_eq!(obstacle("EnsureShape", false), Some(Obstacle::NoCode));
    assert_eq!(obstacle("FFT", true), Some(Obstacle::Kernels(vec!["FFT"])));
    assert_eq!(obstacle("Mul", true), Some(Obstacle::Complex(vec![])));
    assert_eq!(Backend::Cpu.obstacle("TopKV2", true), Some(Obstacle::Complex(vec!["TopK"])));
    // Every op that has code is known to run on some backend.
    let nowhere = ops::tfjs_ops()
        .map(|(_, op)| op)
        .filter(|op| Backend::ALL.iter().all(|b| b.obstacle(op, false).is_some()));
    let nowhere: Vec<&str> = nowhere.filter(|op| !op.starts_with("SimpleML")).collect();
    assert_eq!(nowhere, ["BitwiseAnd", "EnsureShape"]);
    assert_eq!(ops::tfjs_version(), "4.22.0");
}
