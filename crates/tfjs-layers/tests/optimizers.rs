//! Optimizers against Keras: `fixtures/training/optimizers.json` has the weights to which fixed gradients led with tf_keras
//! 2.19 and Keras 3.15, and the optimizers' variables on the way. `fixtures/make/optimizers.py` makes it.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::{fs, path::Path};

use serde_json::{Value, json};
use tfjs_graph::Constant;
use tfjs_kernels::Tensor;
use tfjs_layers::{
    Dialect, StoredWeight,
    optimizers::{Adam, Grad, Optimizer, RmsProp, Schedule, Sgd, StateNames},
};

const STEPS: u64 = 12;
const HALF: u64 = 7;
const NAMES: [&str; 5] = ["table/embeddings", "dense/kernel", "dense/bias", "stack/kernel", "idle/bias"];
const SHAPES: [&[usize]; 5] = [&[6, 2], &[3, 2], &[3], &[2, 3, 2], &[2]];
const ROWS: [&[i32]; 4] = [&[1, 3, 1], &[0, 0, 5], &[2], &[3, 4, 3, 3]];

fn fixture() -> Value {
    read("optimizers.json")
}

fn read(file: &str) -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/training").join(file);
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

/// Numbers between -1 and 1, the same as the script's.
fn noise(n: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..n)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            ((state >> 40) as f64 / f64::from(1 << 23) - 1.0) as f32
        })
        .collect()
}

fn weights() -> Vec<Tensor> {
    let one = |(i, shape): (usize, &&[usize])| {
        Tensor::new(*shape, noise(shape.iter().product(), 100 + i as u64)).unwrap()
    };
    SHAPES.iter().enumerate().map(one).collect()
}

fn gradients(step: u64, sparse: bool, factor: f32) -> Vec<Option<Grad>> {
    let scaled = |n: usize, seed: u64| noise(n, seed).iter().map(|g| g * factor).collect::<Vec<f32>>();
    let one = |(i, shape): (usize, &&[usize])| {
        let seed = 1000 + 10 * step + i as u64;
        let rows = ROWS[(step % 4) as usize];
        if i == 0 && sparse {
            let values = Tensor::new([rows.len(), shape[1]], scaled(rows.len() * shape[1], seed)).unwrap();
            return Some(Grad::Sparse { indices: Tensor::vector(rows.to_vec()), values });
        }
        let values = Tensor::new(*shape, scaled(shape.iter().product(), seed)).unwrap();
        (i < 4).then_some(Grad::Dense(values))
    };
    SHAPES.iter().enumerate().map(one).collect()
}

fn dialect(case: &Value) -> Dialect {
    if case["id"].as_str().unwrap().starts_with("keras2") { Dialect::Keras2 } else { Dialect::Keras3 }
}

fn made(config: &Value, dialect: Dialect) -> Optimizer {
    let mut optimizer = Optimizer::from_config(config, dialect).unwrap();
    let shapes: Vec<(&str, &[usize])> = NAMES.into_iter().zip(SHAPES).collect();
    optimizer.build(&shapes).unwrap();
    optimizer
}

fn steps(optimizer: &mut Optimizer, weights: &mut [Tensor], case: &Value, range: std::ops::Range<u64>) {
    let sparse = case["sparse"].as_bool().unwrap();
    for step in range {
        let mut grads = gradients(step, sparse, optimizer.loss_scale());
        if case["overflow"] == true && (step == 2 || step == 9) {
            grads[1] = Some(Grad::Dense(Tensor::new(SHAPES[1], vec![f32::INFINITY; 6]).unwrap()));
        }
        optimizer.apply(weights, &grads).unwrap();
    }
}

/// Differences to what Keras has; relative above one.
fn worst(got: &[f32], want: &Value) -> f64 {
    let want: Vec<f64> = want.as_array().unwrap().iter().map(|v| tfjs_layers::number(v).unwrap()).collect();
    assert_eq!(got.len(), want.len());
    let difference = |(g, w): (&f32, &f64)| (f64::from(*g) - w).abs() / w.abs().max(1.0);
    let worst = got.iter().zip(&want).map(difference);
    worst.fold(0.0, |a, b| if b.is_nan() { f64::INFINITY } else { a.max(b) })
}

fn number_of(tensor: &Tensor) -> Vec<f32> {
    match tensor {
        Tensor::I32(t) => t.data().iter().map(|&x| x as f32).collect(),
        other => other.data::<f32>().unwrap().to_vec(),
    }
}

fn stored(case: &Value) -> Vec<StoredWeight> {
    let one = |entry: &Value| {
        let name = entry[0].as_str().unwrap().to_owned();
        let shape: Vec<usize> =
            entry[1].as_array().unwrap().iter().map(|d| d.as_u64().unwrap() as usize).collect();
        let data: Vec<f64> =
            entry[2].as_array().unwrap().iter().map(|v| tfjs_layers::number(v).unwrap()).collect();
        let count =
            shape.is_empty() && ["iter", "iteration", "step_counter"].iter().any(|n| name.ends_with(n));
        let value = if count {
            Tensor::scalar(data[0] as i32)
        } else {
            Tensor::new(shape, data.iter().map(|&x| x as f32).collect::<Vec<f32>>()).unwrap()
        };
        StoredWeight { name, value: Constant::new(value.dtype().to_proto(), value) }
    };
    case["state"].as_array().unwrap().iter().map(one).collect()
}

/// Rounding of single precision over twelve steps; where a root of little divides, it shows more.
fn tolerance(id: &str) -> f64 {
    match id {
        _ if id.contains("muon") => 2e-5,
        _ => 3e-6,
    }
}

#[test]
fn every_optimizer_follows_kerass_trajectory() {
    let mut failures = Vec::new();
    let fixture = fixture();
    for case in fixture["cases"].as_array().unwrap() {
        let id = case["id"].as_str().unwrap();
        let mut optimizer = made(&case["config"], dialect(case));
        let mut values = weights();
        steps(&mut optimizer, &mut values, case, 0..HALF);
        let mut off: Vec<String> = Vec::new();
        let ours = optimizer.state(StateNames::Variables).unwrap();
        let theirs = case["state"].as_array().unwrap();
        if ours.len() != theirs.len() {
            off.push(format!("{} variables, Keras has {}", ours.len(), theirs.len()));
        }
        for (own, entry) in ours.iter().zip(theirs) {
            // Files of models have names within the optimizer's scope; Keras 3's Adafactor cannot save into `.h5` at all.
            let name = entry[0].as_str().unwrap();
            let counted = name.strip_prefix("variable_").is_some();
            if !own.name.ends_with(name) && !counted && !id.contains("keras3_adafactor") {
                off.push(format!("`{}` is `{name}` in Keras", own.name));
            }
            let tensor = own.value.tensor().unwrap();
            let difference = worst(&number_of(&tensor), &entry[2]);
            // Keras 2 writes a momentum that it never reads.
            let idle = dialect(case) == Dialect::Keras2
                && own.name.starts_with("SGD/m/")
                && optimizer.config()["config"]["momentum"] == 0.0;
            if difference > tolerance(id) && !idle {
                off.push(format!("state `{}` (`{}`) differs by {difference:.1e}", own.name, entry[0]));
            }
        }
        steps(&mut optimizer, &mut values, case, HALF..STEPS);
        for (i, value) in values.iter().enumerate() {
            let difference = worst(value.data::<f32>().unwrap(), &case["final"][i]);
            if difference > tolerance(id) {
                off.push(format!("`{}` differs by {difference:.1e}", NAMES[i]));
            }
        }
        if !case["averaged"].is_null() {
            optimizer.finalize(&mut values).unwrap();
            for (i, value) in values.iter().enumerate().take(4) {
                let difference = worst(value.data::<f32>().unwrap(), &case["averaged"][i]);
                if difference > tolerance(id) {
                    off.push(format!("average of `{}` differs by {difference:.1e}", NAMES[i]));
                }
            }
        }
        if !off.is_empty() {
            failures.push(format!("{id}:\n    {}", off.join("\n    ")));
        }
    }
    assert!(failures.is_empty(), "{} cases\n{}", failures.len(), failures.join("\n"));
}

#[test]
fn training_goes_on_from_kerass_state() {
    let mut failures = Vec::new();
    for case in fixture()["cases"].as_array().unwrap() {
        let id = case["id"].as_str().unwrap();
        let mut first = made(&case["config"], dialect(case));
        let mut values = weights();
        steps(&mut first, &mut values, case, 0..HALF);
        // From here on another optimizer, made from our configuration, goes on with Keras's variables.
        let mut second = made(&first.config(), dialect(case));
        second.set_state(&stored(case)).unwrap();
        steps(&mut second, &mut values, case, HALF..STEPS);
        for (i, value) in values.iter().enumerate() {
            let difference = worst(value.data::<f32>().unwrap(), &case["final"][i]);
            if difference > tolerance(id) {
                failures.push(format!("{id}: `{}` differs by {difference:.1e}", NAMES[i]));
            }
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn a_restart_from_our_own_state_changes_no_bit() {
    for case in fixture()["cases"].as_array().unwrap() {
        let mut whole = made(&case["config"], dialect(case));
        let mut values = weights();
        steps(&mut whole, &mut values, case, 0..STEPS);
        for names in [StateNames::Variables, StateNames::Paths] {
            let mut first = made(&case["config"], dialect(case));
            let mut parts = weights();
            steps(&mut first, &mut parts, case, 0..HALF);
            let mut state = first.state(names).unwrap();
            if names == StateNames::Paths {
                // The order in which text sorts.
                state.sort_by(|a, b| a.name.cmp(&b.name));
            }
            let mut second = made(&case["config"], dialect(case));
            second.set_state(&state).unwrap();
            steps(&mut second, &mut parts, case, HALF..STEPS);
            assert_eq!(values, parts, "{}", case["id"]);
        }
    }
}

#[test]
fn schedules_give_kerass_rates() {
    for case in fixture()["schedules"].as_array().unwrap() {
        let schedule = Schedule::from_config(&case["config"]).unwrap();
        assert_eq!(Schedule::from_config(&schedule.config(Dialect::Keras3)).unwrap(), schedule);
        let rates: Vec<f32> =
            case["steps"].as_array().unwrap().iter().map(|s| schedule.at(s.as_u64().unwrap())).collect();
        let worst = worst(&rates, &case["rates"]);
        assert!(worst < 2e-7, "{}: {worst:.1e}", case["id"]);
    }
}

#[test]
fn configurations_come_back_as_keras_wrote_them() {
    for case in fixture()["cases"].as_array().unwrap() {
        let written = Optimizer::from_config(&case["config"], dialect(case)).unwrap().config();
        // The fixture leaves out what is null.
        fn compare(path: &str, ours: &Value, theirs: &Value) {
            match (ours, theirs) {
                (Value::Object(ours), Value::Object(theirs)) => {
                    for (key, theirs) in theirs {
                        compare(&format!("{path}.{key}"), &ours[key], theirs);
                    }
                    for (key, value) in ours {
                        assert!(theirs.contains_key(key) || value.is_null(), "{path}.{key} is not Keras's");
                    }
                }
                (Value::Number(a), Value::Number(b)) => assert_eq!(a.as_f64(), b.as_f64(), "{path}"),
                _ => assert_eq!(ours, theirs, "{path}"),
            }
        }
        compare(case["id"].as_str().unwrap(), &written, &case["config"]);
    }
}

fn error(value: Value, dialect: Dialect) -> String {
    Optimizer::from_config(&value, dialect).unwrap_err().to_string()
}

#[test]
fn names_are_understood_in_every_spelling() {
    for (name, dialect, class, module) in [
        ("adam", Dialect::Keras2, "Adam", json!("keras.optimizers")),
        ("RMSprop", Dialect::Keras3, "RMSprop", json!("keras.optimizers")),
        ("Custom>Adam", Dialect::Keras2, "Adam", json!("keras.optimizers")),
        ("keras.optimizers.legacy.SGD", Dialect::Keras2, "SGD", json!("keras.optimizers.legacy")),
        ("nadam", Dialect::Keras1, "Nadam", json!("keras.optimizers.legacy")),
        ("RMSProp", Dialect::Tfjs, "RMSProp", Value::Null),
    ] {
        let config = Optimizer::from_config(&json!(name), dialect).unwrap().config();
        assert_eq!((&config["class_name"], &config["module"]), (&json!(class), &module), "{name}");
    }
    // Keras 2 takes a configuration that does not say so for an old one.
    let old = json!({"class_name": "Adam", "config": {"lr": 0.01, "decay": 0.1}});
    let old = Optimizer::from_config(&old, Dialect::Keras2).unwrap().config();
    assert_eq!(old["module"], "keras.optimizers.legacy");
    assert_eq!((&old["config"]["learning_rate"], &old["config"]["decay"]), (&json!(0.01), &json!(0.1)));
    let tfjs = json!({"class_name": "Momentum", "config": {"learning_rate": 0.1, "momentum": 0.8, "use_nesterov": true}});
    let tfjs = Optimizer::from_config(&tfjs, Dialect::Tfjs).unwrap().config();
    assert_eq!(tfjs["config"], json!({"momentum": 0.8, "useNesterov": true, "learningRate": 0.1}));
}

#[test]
fn what_is_not_known_is_an_error_that_names_what_is() {
    let typo = json!({"class_name": "SGD", "config": {"learning_rate": 0.1, "momentun": 0.9, "is_legacy_optimizer": false}});
    let message = error(typo, Dialect::Keras2);
    assert!(
        message.contains("`momentun`") && message.contains("learning_rate, momentum, nesterov"),
        "{message}"
    );
    let message = error(json!("adamant"), Dialect::Keras3);
    assert!(message.contains("`adamant` is not known") && message.contains("Lamb, Muon"), "{message}");
    let schedule = json!({"class_name": "Sine", "config": {}});
    let message = error(json!({"class_name": "SGD", "config": {"learning_rate": schedule}}), Dialect::Keras3);
    assert!(message.contains("CosineDecayRestarts"), "{message}");
    let message = error(json!({"class_name": "Adam", "config": {"beta_1": 1.5}}), Dialect::Keras3);
    assert_eq!(message, "`beta_1` is 1.5, expected a number from 0 to 1");
    let message =
        error(json!({"class_name": "Adam", "config": {"clipnorm": 1.0, "clipvalue": 1.0}}), Dialect::Keras3);
    assert!(message.contains("`clipvalue` is 1.0, expected nothing"), "{message}");
}

#[test]
fn optimizers_made_in_code_are_those_of_configurations() {
    let made = Optimizer::from(Adam { amsgrad: true, learning_rate: 0.01.into(), ..Adam::default() })
        .clipnorm(0.5)
        .weight_decay(0.1)
        .exclude_from_weight_decay(&["bias$"])
        .unwrap();
    let config = made.config();
    assert_eq!(Optimizer::from_config(&config, Dialect::Keras3).unwrap().config(), config);
    assert_eq!(config["config"]["amsgrad"], true);
    assert_eq!(config["config"]["clipnorm"], 0.5);
    // Weight decay alone moves a weight whose gradient is zero, unless it is excluded.
    let mut made = made;
    made.build(&[("dense/kernel", [2]), ("dense/bias", [2])]).unwrap();
    let mut weights = [Tensor::vector(vec![1.0f32, 2.0]), Tensor::vector(vec![1.0f32, 2.0])];
    let zero = || Some(Grad::Dense(Tensor::vector(vec![0.0f32; 2])));
    made.apply(&mut weights, &[zero(), zero()]).unwrap();
    assert_eq!(weights[0].data::<f32>().unwrap(), [0.999, 1.998]);
    assert_eq!(weights[1].data::<f32>().unwrap(), [1.0, 2.0]);
}

#[test]
fn a_schedule_decides_about_the_learning_rate() {
    let mut fixed = Optimizer::sgd(0.1);
    fixed.set_learning_rate(0.05).unwrap();
    assert!((fixed.learning_rate() - 0.05).abs() < 1e-8);
    let schedule = Schedule::PiecewiseConstantDecay { boundaries: vec![0.0], values: vec![0.5, 0.25] };
    let mut scheduled = Optimizer::from(Sgd { learning_rate: schedule.into(), ..Sgd::default() });
    assert!(scheduled.set_learning_rate(0.1).unwrap_err().to_string().contains("schedule decides"));
    scheduled.build(&[("w", [1])]).unwrap();
    assert_eq!(scheduled.learning_rate(), 0.5);
    let mut w = [Tensor::vector(vec![1.0f32])];
    scheduled.apply(&mut w, &[Some(Grad::Dense(Tensor::vector(vec![1.0f32])))]).unwrap();
    assert_eq!((w[0].data::<f32>().unwrap(), scheduled.learning_rate()), (&[0.5f32][..], 0.25));
}

#[test]
fn weights_that_nobody_else_holds_are_updated_in_place() {
    let mut optimizer = Optimizer::sgd(1.0);
    optimizer.build(&[("w", [3])]).unwrap();
    let mut weights = [Tensor::vector(vec![1.0f32; 3])];
    let before = weights[0].data::<f32>().unwrap().as_ptr();
    let held = weights[0].clone();
    let gradient = || [Some(Grad::Dense(Tensor::vector(vec![1.0f32; 3])))];
    optimizer.apply(&mut weights, &gradient()).unwrap();
    assert_eq!(held.data::<f32>().unwrap(), [1.0; 3], "who holds a weight keeps its value");
    let own = weights[0].data::<f32>().unwrap().as_ptr();
    assert_ne!(own, before);
    optimizer.apply(&mut weights, &gradient()).unwrap();
    assert_eq!(weights[0].data::<f32>().unwrap().as_ptr(), own);
}

#[test]
fn gradients_and_states_that_do_not_fit_are_refused() {
    let mut optimizer = Optimizer::adam(0.1);
    let mut weights = [Tensor::zeros(tfjs_kernels::DType::Float32, [4, 2]).unwrap()];
    let dense = |shape: [usize; 2]| Grad::Dense(Tensor::zeros(tfjs_kernels::DType::Float32, shape).unwrap());
    let sparse = |index: i32, width: usize| Grad::Sparse {
        indices: Tensor::vector(vec![index]),
        values: Tensor::zeros(tfjs_kernels::DType::Float32, [1, width]).unwrap(),
    };
    assert!(optimizer.apply(&mut weights, &[None]).is_err(), "not built");
    optimizer.build(&[("w", [4, 2])]).unwrap();
    for wrong in [dense([2, 4]), sparse(4, 2), sparse(-1, 2), sparse(0, 3)] {
        assert!(optimizer.apply(&mut weights, &[Some(wrong)]).is_err());
    }
    assert!(
        optimizer.apply(&mut weights, &[None]).unwrap_err().to_string().contains("no weight has a gradient")
    );
    assert!(optimizer.set_state(&[]).unwrap_err().to_string().contains("0 variables, Adam needs 4"));
    let mut state = optimizer.state(StateNames::Paths).unwrap();
    state.swap(1, 2);
    state[2].name = "optimizer/vars/2".to_owned();
    state[1].name = "optimizer/vars/1".to_owned();
    assert!(optimizer.set_state(&state).is_err(), "shapes differ");
    assert_eq!(optimizer.iterations(), 0);
}

#[test]
fn an_optimizer_of_keras_becomes_one_of_tfjs() {
    let mut optimizer = Optimizer::from(Sgd { momentum: 0.9, learning_rate: 0.5.into(), ..Sgd::default() });
    optimizer.build(&[("dense/kernel", [2])]).unwrap();
    let mut weights = [Tensor::vector(vec![1.0f32, 1.0])];
    let gradient = || [Some(Grad::Dense(Tensor::vector(vec![2.0f32, -4.0])))];
    optimizer.apply(&mut weights, &gradient()).unwrap();
    let mut tfjs = optimizer.clone().for_dialect(Dialect::Tfjs).unwrap();
    assert_eq!(tfjs.config()["class_name"], "Momentum");
    let state = tfjs.state(StateNames::Variables).unwrap();
    let names: Vec<&str> = state.iter().map(|w| w.name.as_str()).collect();
    assert_eq!(names, ["iter", "dense/kernel/momentum"]);
    // TF.js adds gradients up, Keras what they did.
    assert_eq!(state[1].value.tensor().unwrap().data::<f32>().unwrap(), [2.0, -4.0]);
    let mut other = weights.clone();
    optimizer.apply(&mut weights, &gradient()).unwrap();
    tfjs.apply(&mut other, &gradient()).unwrap();
    assert_eq!(weights, other);
    let rms = Optimizer::from(RmsProp::default()).for_dialect(Dialect::Tfjs).unwrap();
    assert_eq!(rms.config()["class_name"], "RMSProp");
    assert_eq!(rms.config()["config"]["decay"], 0.9);
    assert!(Optimizer::lion(0.1).for_dialect(Dialect::Tfjs).is_err());
    assert!(Optimizer::adam(0.1).clipnorm(1.0).for_dialect(Dialect::Tfjs).is_err());
}

#[test]
fn optimizers_of_tfjs_follow_its_trajectories() {
    let number = |step: usize, i: usize| ((step * 7 + i * 3) % 11) as f32 / 8.0 - 0.625;
    let shapes: [&[usize]; 2] = [&[2, 2], &[2]];
    let fill = |shape: &[usize], step: usize| {
        Tensor::new(shape, (0..shape.iter().product()).map(|i| number(step, i)).collect::<Vec<f32>>())
            .unwrap()
    };
    for case in read("optimizers_tfjs.json").as_array().unwrap() {
        let make = || {
            let mut made = Optimizer::from_config(&case["config"], Dialect::Tfjs).unwrap();
            made.build(&[("dense/kernel", shapes[0]), ("dense/bias", shapes[1])]).unwrap();
            made
        };
        let mut optimizer = make();
        assert_eq!(optimizer.config(), case["config"]);
        let mut weights = shapes.map(|shape| fill(shape, 5));
        for step in 0..6 {
            let gradient = |i: usize| Some(Grad::Dense(fill(shapes[i], step + 2 * i)));
            optimizer.apply(&mut weights, &[gradient(0), gradient(1)]).unwrap();
            if step == 2 && !case["state"].is_null() {
                let state = optimizer.state(StateNames::Variables).unwrap();
                let theirs = case["state"].as_array().unwrap();
                assert_eq!(state.len(), theirs.len());
                for (own, entry) in state.iter().zip(theirs) {
                    assert_eq!(own.name, entry[0].as_str().unwrap());
                    let worst = worst(&number_of(&own.value.tensor().unwrap()), &entry[2]);
                    assert!(worst < 1e-6, "{}: `{}` {worst:.1e}", case["config"], own.name);
                }
                // TF.js's own variables serve as well.
                optimizer = make();
                optimizer.set_state(&stored(case)).unwrap();
            }
        }
        for (weight, theirs) in weights.iter().zip(case["final"].as_array().unwrap()) {
            let worst = worst(weight.data::<f32>().unwrap(), theirs);
            assert!(worst < 2e-6, "{}: {worst:.1e}", case["config"]);
        }
    }
}
