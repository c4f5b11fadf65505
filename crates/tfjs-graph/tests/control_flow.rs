//! V1 control flow on frames, with ops of the test's own, so that nothing else is tested.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use smallvec::smallvec;
use tfjs_format::ModelJson;
use tfjs_graph::{
    Cx, GraphError, GraphModel, ModelOptions, Op, OpError, Registry, Tensor,
    op::{Inputs, Values},
};

/// An op on integers.
struct Ints(Arc<dyn Fn(&[i32]) -> Tensor + Send + Sync>);

impl std::fmt::Debug for Ints {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Ints")
    }
}

impl Op for Ints {
    fn eval(&self, _cx: &mut Cx<'_>, inputs: Inputs) -> Result<Values, OpError> {
        let x: Vec<i32> =
            (0..inputs.len()).map(|i| inputs.scalar::<i32>(i, "x")).collect::<Result<_, _>>()?;
        Ok(smallvec![(self.0)(&x).into()])
    }
}

fn registry() -> Registry {
    let mut r = Registry::default();
    let mut add = |name: &str, f: fn(&[i32]) -> Tensor| {
        r.register(name, move |_| Ok(Box::new(Ints(Arc::new(f)))));
    };
    add("TestAdd", |x| Tensor::scalar(x[0] + x[1]));
    add("TestMul", |x| Tensor::scalar(x[0] * x[1]));
    add("Identity", |x| Tensor::scalar(x[0]));
    add("TestLess", |x| Tensor::scalar(x[0] < x[1]));
    r
}

/// A model from lines `name op input,^control,… attrs…`, `in` standing for an int32 placeholder.
fn model(lines: &str, outputs: &[&str]) -> GraphModel {
    let mut nodes = Vec::new();
    for line in lines.lines().map(str::trim).filter(|l| !l.is_empty()) {
        let mut words = line.split_whitespace();
        let (name, op) = (words.next().unwrap(), words.next().unwrap());
        let inputs: Vec<&str> =
            words.next().map_or(Vec::new(), |w| if w == "-" { vec![] } else { w.split(',').collect() });
        let mut attr = serde_json::Map::new();
        match op {
            "Placeholder" => {
                attr.insert("dtype".into(), serde_json::json!({"type": "DT_INT32"}));
                attr.insert("shape".into(), serde_json::json!({"shape": {}}));
            }
            "Enter" => {
                attr.insert(
                    "frame_name".into(),
                    serde_json::json!({"s": tfjs_base64(words.next().unwrap())}),
                );
                attr.insert("is_constant".into(), serde_json::json!({"b": words.next() == Some("const")}));
            }
            "Const" => {
                let v: i32 = words.next().unwrap().parse().unwrap();
                let t = serde_json::json!({"dtype": "DT_INT32", "tensorShape": {}, "intVal": [v]});
                attr.insert("value".into(), serde_json::json!({"tensor": t}));
                attr.insert("dtype".into(), serde_json::json!({"type": "DT_INT32"}));
            }
            _ => {}
        }
        nodes.push(serde_json::json!({"name": name, "op": op, "input": inputs, "attr": attr}));
    }
    let outputs: serde_json::Map<_, _> =
        outputs.iter().map(|o| ((*o).to_owned(), serde_json::json!({"name": o}))).collect();
    let json = serde_json::json!({
        "format": "graph-model",
        "signature": {"outputs": outputs},
        "modelTopology": {"node": nodes, "versions": {"producer": 2129}},
        "weightsManifest": [],
    });
    let json = ModelJson::parse(json.to_string().as_bytes()).unwrap();
    let options = ModelOptions { registry: registry(), ..ModelOptions::default() };
    GraphModel::from_json(&json, &|_| None, options).unwrap()
}

/// Base64 of a short ASCII text, for bytes fields.
fn tfjs_base64(text: &str) -> String {
    const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::new();
    for chunk in text.as_bytes().chunks(3) {
        let n = chunk.iter().fold(0u32, |n, &b| n << 8 | u32::from(b)) << (8 * (3 - chunk.len()));
        for i in 0..4 {
            let c = ALPHABET[(n >> (18 - 6 * i)) as usize & 63];
            out.push(if i <= chunk.len() { c as char } else { '=' });
        }
    }
    out
}

fn int(m: &GraphModel, inputs: &[(&str, i32)], output: &str) -> Result<i32, GraphError> {
    let inputs = inputs.iter().map(|&(n, v)| (n, Tensor::scalar(v)));
    Ok(m.run(inputs)?[output].data::<i32>().unwrap()[0])
}

const COUNT: &str = "
    n Placeholder
    start Const - 0
    one Const - 1
    e Enter start outer
    limit Enter n outer const
    m Merge e,next
    less TestLess m,limit
    go LoopCond less
    s Switch m,go
    body Identity s:1
    step Enter one outer const
    plus TestAdd body,step
    next NextIteration plus
    x Exit s";

#[test]
fn a_loop_counts_to_its_limit_and_a_loop_of_no_iterations_gives_its_start() {
    let m = model(COUNT, &["x"]);
    assert_eq!(int(&m, &[("n", 1000)], "x").unwrap(), 1000);
    assert_eq!(int(&m, &[("n", 0)], "x").unwrap(), 0);
}

#[test]
fn a_control_input_on_a_switch_is_satisfied_on_either_branch() {
    // TF.js asks for output 0 of the switch and hangs here.
    let waiting = COUNT.replace("plus TestAdd body,step", "w Const ^s 1\n plus TestAdd body,w,^s");
    assert_eq!(int(&model(&waiting, &["x"]), &[("n", 7)], "x").unwrap(), 7);
}

#[test]
fn values_used_inside_a_loop_without_an_enter_are_the_same_in_every_iteration() {
    let bare = COUNT.replace("limit Enter n outer const", "").replace("m,limit", "m,n");
    assert_eq!(int(&model(&bare, &["x"]), &[("n", 5)], "x").unwrap(), 5);
}

#[test]
fn a_branch_gives_the_value_of_the_side_taken_even_if_both_are_constants() {
    let m = model(
        "x Placeholder
         ten Const - 10
         p TestLess x,ten
         s Switch x,p
         no Identity s
         yes Identity s:1
         small Const ^yes 1
         large Const ^no 2
         y Merge large,small",
        &["y", "y:1"],
    );
    assert_eq!(int(&m, &[("x", 3)], "y").unwrap(), 1);
    assert_eq!(int(&m, &[("x", 30)], "y").unwrap(), 2);
    assert_eq!(int(&m, &[("x", 3)], "y:1").unwrap(), 1);
}

/// sum over i < n of i·i, by adding i to a sum i times in an inner loop.
const NESTED: &str = "
    n Placeholder
    zero Const - 0
    e_i Enter zero outer
    e_sum Enter zero outer
    limit Enter n outer const
    m_i Merge e_i,next_i
    m_sum Merge e_sum,next_sum
    less TestLess m_i,limit
    go LoopCond less
    s_i Switch m_i,go
    s_sum Switch m_sum,go
    i Identity s_i:1
    sum Identity s_sum:1
    j0 Const ^i 0
    e_j Enter j0 inner
    e_acc Enter sum inner
    e_lim Enter i inner const
    m_j Merge e_j,next_j
    m_acc Merge e_acc,next_acc
    less_j TestLess m_j,e_lim
    go_j LoopCond less_j
    s_j Switch m_j,go_j
    s_acc Switch m_acc,go_j
    j Identity s_j:1
    acc Identity s_acc:1
    one_j Const ^j 1
    j1 TestAdd j,one_j
    acc1 TestAdd acc,e_lim
    next_j NextIteration j1
    next_acc NextIteration acc1
    x_acc Exit s_acc
    one_i Const ^i 1
    i1 TestAdd i,one_i
    next_i NextIteration i1
    next_sum NextIteration x_acc
    x_sum Exit s_sum";

#[test]
fn loops_nest() {
    let m = model(NESTED, &["x_sum"]);
    let expected: i32 = (0..20).map(|i| i * i).sum();
    assert_eq!(int(&m, &[("n", 20)], "x_sum").unwrap(), expected);
}

#[test]
fn a_loop_on_a_branch_that_is_not_taken_does_not_run_and_tells_the_merge() {
    let lines = format!(
        "x Placeholder
         ten Const - 10
         p TestLess x,ten
         sx Switch x,p
         {}
         other TestMul sx,ten
         y Merge x_sum,other",
        NESTED.replace("n Placeholder", "n Identity sx:1").replace("zero Const - 0", "zero Const ^n 0")
    );
    let m = model(&lines, &["y"]);
    assert_eq!(int(&m, &[("x", 4)], "y").unwrap(), 14);
    assert_eq!(int(&m, &[("x", 40)], "y").unwrap(), 400);
}

#[test]
fn an_output_on_the_branch_not_taken_is_an_error() {
    let m = model(
        "x Placeholder
         ten Const - 10
         p TestLess x,ten
         s Switch x,p
         y TestAdd s,ten",
        &["y"],
    );
    assert_eq!(int(&m, &[("x", 30)], "y").unwrap(), 40);
    assert!(matches!(int(&m, &[("x", 3)], "y"), Err(GraphError::DeadOutput { .. })));
}
