//! Callbacks: decisions against Keras's (`fixtures/make/callbacks.py`), files, and trainings that are taken up again.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::{fs, path::Path};

use serde_json::{Value, json};
use tfjs_kernels::Tensor;
use tfjs_layers::{
    BackupAndRestore, Callback, CsvLogger, EarlyStopping, FitOptions, History, LambdaCallback, LayersError,
    LayersModel, LayersOptions, LearningRateScheduler, Mode, ModelCheckpoint, Optimizer, ReduceLrOnPlateau,
    SaveFreq, StoredWeights, TensorBoard, TerminateOnNan, UpdateFreq, Validation,
    build::{BatchNormalization, Dense, Dropout, Sequential, layer},
};

/// One weight of which nothing is learnt, in the rules of a version of Keras.
fn line(keras: &str) -> LayersModel {
    let version = if keras == "3" { "3.15.0" } else { "2.19.0" };
    let dense = json!({"class_name": "Dense", "config": {"name": "dense", "units": 1, "batch_input_shape": [null, 1],
        "kernel_initializer": {"class_name": "Zeros", "config": {}}}});
    let topology = json!({"keras_version": version, "model_config": {"class_name": "Sequential", "config": {
        "name": "line", "layers": [dense]}}});
    let options = LayersOptions { strict: false, ..LayersOptions::default() };
    let mut model = LayersModel::new(&topology, &StoredWeights::ByName(Vec::new()), &options).unwrap();
    model.compile(Optimizer::sgd(0.1), "mse", ["accuracy"]).unwrap();
    model
}

fn zeros() -> (Tensor, Tensor) {
    (Tensor::new([1, 1], vec![0f32]).unwrap(), Tensor::new([1, 1], vec![0f32]).unwrap())
}

/// Trains as long as the callback lets, with a made-up curve; each epoch's weight is its number.
fn follow(
    model: &mut LayersModel,
    callback: Box<dyn Callback>,
    name: &str,
    curve: &[f64],
) -> (History, Vec<f64>) {
    let mut rates = Vec::new();
    let made_up = LambdaCallback::new().on_epoch_end(|cx, epoch, logs| {
        let kernel = Tensor::new([1, 1], vec![epoch as f32 + 1.0])?;
        cx.model.set_weights(vec![kernel, Tensor::vector(vec![0f32])])?;
        logs.set(name, curve[epoch]);
        Ok(())
    });
    let noted = LambdaCallback::new().on_epoch_end(|cx, _, _| {
        rates.push(cx.model.optimizer()?.learning_rate());
        Ok(())
    });
    let (x, y) = zeros();
    let callbacks: Vec<Box<dyn Callback + '_>> = vec![Box::new(made_up), callback, Box::new(noted)];
    let options = FitOptions { epochs: curve.len(), callbacks, ..FitOptions::default() };
    let history = model.fit(x, y, options).unwrap();
    (history, rates)
}

#[test]
fn decisions_are_those_of_keras() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/training/callbacks.json");
    let fixture: Value = serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
    let cases = fixture["cases"].as_array().unwrap();
    assert_eq!(cases.len(), 192);
    for case in cases {
        let curve = fixture["curves"][case["curve"].as_str().unwrap()].as_array().unwrap();
        let curve: Vec<f64> = curve.iter().map(|v| v.as_f64().unwrap_or(f64::NAN)).collect();
        let options = &case["options"];
        let number = |key: &str, default: f64| options[key].as_f64().unwrap_or(default);
        let count = |key: &str, default: u64| options[key].as_u64().unwrap_or(default) as usize;
        let monitor = options["monitor"].as_str().unwrap_or("val_loss");
        let mode = if options["mode"] == "max" { Mode::Max } else { Mode::Auto };
        let callback: Box<dyn Callback> = if case["callback"] == "EarlyStopping" {
            let stop = EarlyStopping::new(monitor)
                .patience(count("patience", 0))
                .min_delta(number("min_delta", 0.0))
                .restore_best_weights(options["restore_best_weights"] == true)
                .start_from_epoch(count("start_from_epoch", 0))
                .mode(mode);
            match options["baseline"].as_f64() {
                Some(baseline) => Box::new(stop.baseline(baseline)),
                None => Box::new(stop),
            }
        } else {
            Box::new(
                ReduceLrOnPlateau::new(monitor)
                    .factor(number("factor", 0.1))
                    .patience(count("patience", 10))
                    .cooldown(count("cooldown", 0))
                    .min_lr(number("min_lr", 0.0))
                    .min_delta(number("min_delta", 1e-4))
                    .mode(mode),
            )
        };
        let mut model = line(case["keras"].as_str().unwrap());
        let (history, rates) = follow(&mut model, callback, monitor, &curve);
        assert_eq!(history.epochs.len() as u64, case["epochs"].as_u64().unwrap(), "{case}");
        let weight = model.get_weights().unwrap()[0].data::<f32>().unwrap()[0];
        assert_eq!(f64::from(weight), case["weight"].as_f64().unwrap(), "{case}");
        let expected: Vec<f64> =
            case["rates"].as_array().unwrap().iter().map(|r| r.as_f64().unwrap()).collect();
        assert_eq!(rates, expected, "{case}");
    }
}

#[test]
fn keras_3_wants_to_be_told_what_is_better_of_an_unknown_value() {
    let (x, y) = zeros();
    let fit = |keras: &str, mode| {
        let adds = LambdaCallback::new().on_epoch_end(|_, _, logs| {
            logs.set("score", 1.0);
            Ok(())
        });
        let stop = EarlyStopping::new("score").mode(mode);
        let callbacks: Vec<Box<dyn Callback>> = vec![Box::new(adds), Box::new(stop)];
        let options = FitOptions { callbacks, ..FitOptions::default() };
        line(keras).fit(x.clone(), y.clone(), options)
    };
    let message = fit("3", Mode::Auto).unwrap_err().to_string();
    assert!(message.contains("EarlyStopping watches `score`"), "{message}");
    fit("3", Mode::Min).unwrap();
    fit("2", Mode::Auto).unwrap();
}

/// Something to learn, with dropout, moving averages and an optimizer with state.
fn net() -> LayersModel {
    let mut model = Sequential::new()
        .add(Dense::new(8).activation("tanh").input_shape([3]))
        .add(BatchNormalization::new())
        .add(Dropout::new(0.4))
        .add(Dense::new(2).activation("softmax"))
        .build(5)
        .unwrap();
    model
        .compile(Optimizer::adam(0.01).ema(0.9, None), "sparse_categorical_crossentropy", ["accuracy"])
        .unwrap();
    model.set_seed(11).unwrap();
    model
}

fn samples(n: usize) -> (Tensor, Tensor) {
    let x: Vec<f32> = (0..n * 3).map(|i| ((i * 37 % 101) as f32 / 50.0) - 1.0).collect();
    let y: Vec<i32> = x.chunks(3).map(|r| i32::from(r[0] * r[1] > r[2] * 0.2)).collect();
    (Tensor::new([n, 3], x).unwrap(), Tensor::vector(y))
}

fn bits(model: &LayersModel) -> Vec<Vec<u32>> {
    let bits = |t: Tensor| t.data::<f32>().unwrap().iter().map(|v| v.to_bits()).collect();
    model.get_weights().unwrap().into_iter().map(bits).collect()
}

#[test]
fn a_training_that_was_killed_ends_with_the_same_bits() {
    let dir = tempfile::tempdir().unwrap();
    let (x, y) = samples(70);
    let run = |name: &str, kill: Option<usize>, steps: Option<usize>| {
        let backup = dir.path().join(name).join("backup");
        let table = dir.path().join(name).join("history.csv");
        fs::create_dir_all(table.parent().unwrap()).unwrap();
        let mut model = net();
        let killer = LambdaCallback::new().on_batch_end(move |cx, batch| match kill {
            Some(epoch) if batch == 1 && cx.history.epochs.len() == epoch => {
                Err(LayersError::Training("killed".to_owned()))
            }
            _ => Ok(()),
        });
        let stop = EarlyStopping::new("val_loss").patience(2).restore_best_weights(true);
        let plateau = ReduceLrOnPlateau::new("loss").patience(1).factor(0.5);
        let options = FitOptions {
            epochs: 8,
            batch_size: 16,
            steps_per_epoch: steps,
            validation: Validation::Split(0.2),
            callbacks: vec![
                Box::new(BackupAndRestore::new(&backup)),
                Box::new(plateau),
                Box::new(stop),
                Box::new(CsvLogger::new(&table)),
                Box::new(killer),
            ],
            ..FitOptions::default()
        };
        let result = model.fit(x.clone(), y.clone(), options).map(|h| (h, bits(&model)));
        (result, fs::read_to_string(&table).unwrap(), backup)
    };
    for steps in [None, Some(3)] {
        let name = format!("whole {steps:?}");
        let (whole, whole_table, _) = run(&name, None, steps);
        let (whole, weights) = whole.unwrap();
        assert!(whole.epochs.len() > 3, "{whole:?}");
        for epoch in [1, 2, 3] {
            let name = format!("killed {steps:?} {epoch}");
            let (killed, _, backup) = run(&name, Some(epoch), steps);
            assert!(killed.unwrap_err().to_string().contains("killed"));
            assert!(backup.join("model.json").exists());
            let (resumed, table, _) = run(&name, None, steps);
            let (resumed, resumed_weights) = resumed.unwrap();
            assert_eq!(resumed, whole);
            assert_eq!(resumed_weights, weights);
            assert_eq!(table, whole_table);
            assert!(!backup.exists(), "the backup is removed at the end");
        }
    }
}

#[test]
fn backups_of_other_models_and_seeds_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (x, y) = samples(20);
    let fit = |model: &mut LayersModel| {
        let backup = BackupAndRestore { delete_checkpoint: false, ..BackupAndRestore::new(dir.path()) };
        let options = FitOptions { epochs: 2, callbacks: vec![Box::new(backup)], ..FitOptions::default() };
        model.fit(x.clone(), y.clone(), options)
    };
    let mut model = net();
    let first = fit(&mut model).unwrap();
    // Nothing is left to be done.
    let mut again = net();
    assert_eq!(fit(&mut again).unwrap(), first);
    assert_eq!(bits(&again), bits(&model));
    let mut other = net();
    other.set_seed(12).unwrap();
    assert!(fit(&mut other).unwrap_err().to_string().contains("seed 11, this one 12"));
    let mut other = Sequential::new().add(Dense::new(2).input_shape([3])).build(1).unwrap();
    other.compile(Optimizer::sgd(0.1), "mse", [""; 0]).unwrap();
    other.set_seed(11).unwrap();
    assert!(fit(&mut other).is_err());
}

#[test]
fn moving_averages_are_the_weights_at_the_end() {
    let (x, y) = samples(20);
    let mut model = net();
    let mut before = Vec::new();
    let note = LambdaCallback::new().on_epoch_end(|cx, _, _| {
        before = bits(cx.model);
        Ok(())
    });
    model.fit(x, y, FitOptions { callbacks: vec![Box::new(note)], ..FitOptions::default() }).unwrap();
    assert_ne!(before, bits(&model));
}

#[test]
fn models_are_saved_under_their_epoch_and_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let (x, y) = samples(40);
    let path = dir.path().join("models/{epoch:02d}-{val_loss:.2f}");
    let checkpoint = ModelCheckpoint::new(path.to_str().unwrap());
    let every = dir.path().join("b{epoch}-{batch}");
    let every = ModelCheckpoint::new(every.to_str().unwrap()).save_freq(SaveFreq::Batches(3));
    let mut model = net();
    let options = FitOptions {
        epochs: 2,
        batch_size: 8,
        validation: Validation::Split(0.25),
        callbacks: vec![Box::new(checkpoint), Box::new(every.weights_only())],
        ..FitOptions::default()
    };
    let history = model.fit(x, y, options).unwrap();
    for (epoch, loss) in history.get("val_loss").iter().enumerate() {
        let saved = dir.path().join(format!("models/{:02}-{loss:.2}", epoch + 1));
        let mut saved = LayersModel::open(&saved).unwrap();
        assert!(saved.restore_training().unwrap());
        assert_eq!(saved.steps(), 4 * (epoch as u64 + 1));
    }
    // Four batches an epoch: after the third, and two of the second.
    for name in ["b1-3", "b2-2"] {
        let mut other = net();
        other.load_weights(dir.path().join(name)).unwrap();
        assert_eq!(other.steps(), if name == "b1-3" { 3 } else { 6 });
    }
    let mut fails = Vec::new();
    for template in ["{epoch", "{nothing}"] {
        let checkpoint = ModelCheckpoint::new(dir.path().join(template).to_str().unwrap());
        let (x, y) = samples(8);
        let options = FitOptions { callbacks: vec![Box::new(checkpoint)], ..FitOptions::default() };
        fails.push(net().fit(x, y, options).unwrap_err().to_string());
    }
    assert!(fails[0].contains("a `}` is missing") && fails[1].contains("not measured"), "{fails:?}");
}

#[test]
fn only_better_models_replace_the_best() {
    let curve = [0.5, 0.4, 0.45, 0.3, 0.6];
    let mut saved = Vec::new();
    let checkpoint = ModelCheckpoint::new("best").save_best_only(true);
    let made_up = LambdaCallback::new().on_epoch_end(|_, epoch, logs| {
        logs.set("val_loss", curve[epoch]);
        Ok(())
    });
    let checkpoint = checkpoint.saving_with(|model, _| {
        saved.push(model.steps());
        Ok(())
    });
    let (x, y) = zeros();
    let callbacks: Vec<Box<dyn Callback + '_>> = vec![Box::new(made_up), Box::new(checkpoint)];
    line("2").fit(x, y, FitOptions { epochs: 5, callbacks, ..FitOptions::default() }).unwrap();
    assert_eq!(saved, [1, 2, 4]);
}

#[test]
fn the_learning_rate_follows_its_schedule_and_is_in_the_history() {
    let (x, y) = zeros();
    for (keras, name) in [("2", "lr"), ("3", "learning_rate")] {
        let halving = LearningRateScheduler::new(|epoch, rate| if epoch == 0 { rate } else { rate * 0.5 });
        let options = FitOptions { epochs: 3, callbacks: vec![Box::new(halving)], ..FitOptions::default() };
        let history = line(keras).fit(x.clone(), y.clone(), options).unwrap();
        assert_eq!(history.get(name), [0.1f32, 0.05, 0.025].map(f64::from), "{history:?}");
    }
}

#[test]
fn a_loss_that_is_no_number_ends_training_and_names_the_layer() {
    let mut model = Sequential::new()
        .add(Dense::new(4).activation("exponential").name("explodes").input_shape([1]))
        .add(Dense::new(1).name("after"))
        .build(3)
        .unwrap();
    model.compile(Optimizer::sgd(0.1), "mse", [""; 0]).unwrap();
    let x = Tensor::new([4, 1], vec![1.0, 1e30f32, -1e30, 1.0]).unwrap();
    let options =
        FitOptions { epochs: 5, callbacks: vec![Box::new(TerminateOnNan)], ..FitOptions::default() };
    let history = model.fit(x.clone(), x, options).unwrap();
    assert_eq!(history.epochs, [0]);
    let why = history.stopped.unwrap();
    assert!(why.contains("batch 0") && why.contains("`explodes`"), "{why}");
}

#[test]
fn tables_are_those_of_keras() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log.csv");
    let (x, y) = zeros();
    let run = |append, separator, initial_epoch| {
        let logger = CsvLogger::new(&path).append(append).separator(separator);
        let options = FitOptions {
            epochs: initial_epoch + 2,
            initial_epoch,
            validation: Validation::Data(tfjs_layers::Batch::new(x.clone(), y.clone())),
            validation_freq: 2,
            callbacks: vec![Box::new(logger)],
            ..FitOptions::default()
        };
        line("2").fit(x.clone(), y.clone(), options).unwrap();
        fs::read_to_string(&path).unwrap()
    };
    let head = "epoch,accuracy,loss,val_accuracy,val_loss\r\n";
    let first = format!("{head}0,1.0,0.0,NA,NA\r\n1,1.0,0.0,1.0,0.0\r\n");
    assert_eq!(run(false, ',', 0), first);
    assert_eq!(run(true, ',', 2), format!("{first}2,1.0,0.0,NA,NA\r\n3,1.0,0.0,1.0,0.0\r\n"));
    assert!(run(false, ';', 0).starts_with("epoch;accuracy;loss;"));
}

#[test]
fn event_files_stand_where_keras_puts_them() {
    let dir = tempfile::tempdir().unwrap();
    let (x, y) = samples(40);
    let board = TensorBoard::new(dir.path()).update_freq(UpdateFreq::Batches(2));
    let options = FitOptions {
        epochs: 2,
        batch_size: 8,
        validation: Validation::Split(0.2),
        callbacks: vec![Box::new(board)],
        ..FitOptions::default()
    };
    net().fit(x, y, options).unwrap();
    for (run, tags) in [
        ("train", &["epoch_loss", "epoch_accuracy", "batch_loss", "batch_accuracy"][..]),
        ("validation", &["epoch_loss", "evaluation_accuracy_vs_iterations"]),
    ] {
        let files: Vec<_> = fs::read_dir(dir.path().join(run)).unwrap().map(|e| e.unwrap().path()).collect();
        assert_eq!(files.len(), 1);
        let bytes = fs::read(&files[0]).unwrap();
        for tag in tags {
            assert!(bytes.windows(tag.len()).any(|w| w == tag.as_bytes()), "{run}: {tag}");
        }
    }
}

#[test]
fn labels_out_of_range_are_told_before_the_first_step() {
    let mut model = Sequential::new()
        .add(Dense::new(3).activation("softmax").input_shape([2]))
        .add(layer("ReLU"))
        .build(1)
        .unwrap();
    model.compile(Optimizer::sgd(0.1), "sparse_categorical_crossentropy", [""; 0]).unwrap();
    let x = Tensor::new([40, 2], vec![0.5f32; 80]).unwrap();
    let mut labels = vec![0i32; 40];
    labels[39] = 3;
    let options = FitOptions { batch_size: 8, shuffle: false, ..FitOptions::default() };
    let message = model.fit(x, Tensor::vector(labels), options).unwrap_err().to_string();
    assert!(message.contains('3'), "{message}");
    assert_eq!(model.steps(), 0);
}
