//! Data sets that are read in a thread of their own: order, errors, and the end of either side.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use tfjs_kernels::Tensor;
use tfjs_layers::{
    Batch, Callback, Dataset, EarlyStopping, FitOptions, LambdaCallback, LayersError, LayersModel, Loss,
    Metric, ModelCheckpoint, Optimizer, ReduceLrOnPlateau, Stream, Validation,
    build::{Dense, Sequential},
};

fn model() -> LayersModel {
    let mut model = Sequential::new().add(Dense::new(1).input_shape([1])).build(1).unwrap();
    model.compile(Optimizer::sgd(0.0), Loss::MeanSquaredError, [Metric::MeanAbsoluteError]).unwrap();
    model
}

/// A batch whose loss is about the square of its number.
fn batch(i: usize) -> Batch {
    Batch::new(Tensor::new([1, 1], vec![0f32]).unwrap(), Tensor::new([1, 1], vec![i as f32]).unwrap())
}

fn fit(dataset: &mut dyn Dataset, options: FitOptions<'_>) -> Result<usize, String> {
    let history = model().fit_dataset(dataset, options).map_err(|e| e.to_string())?;
    Ok(history.epochs.len())
}

#[test]
fn batches_come_in_the_order_of_the_iterator_epoch_by_epoch() {
    let started = Mutex::new(Vec::new());
    let mut data = Stream::new(|epoch| {
        started.lock().unwrap().push(epoch);
        (0..5).map(move |i| Ok::<_, LayersError>(batch(10 * epoch + i)))
    });
    let mut losses = Vec::new();
    let mut before = 0.0;
    let note = LambdaCallback::new().on_batch_end(|cx, i| {
        // The loss so far is the mean of those of the batches.
        let sum = cx.loss() * (i + 1) as f64;
        losses.push((sum - if i == 0 { 0.0 } else { before }).sqrt().round() as usize);
        before = sum;
        Ok(())
    });
    let options = FitOptions { epochs: 2, callbacks: vec![Box::new(note)], ..FitOptions::default() };
    assert_eq!(fit(&mut data, options), Ok(2));
    assert_eq!(losses, [0, 1, 2, 3, 4, 10, 11, 12, 13, 14]);
    assert_eq!(*started.lock().unwrap(), [0, 1]);
}

#[test]
fn an_error_of_the_iterator_ends_training_with_that_error() {
    for fail_at in [0, 3] {
        let mut data = Stream::new(|_| {
            (0..5).map(move |i| {
                if i == fail_at {
                    Err(LayersError::Training("the disk is gone".to_owned()))
                } else {
                    Ok(batch(i))
                }
            })
        });
        let steps = AtomicUsize::new(0);
        let count = LambdaCallback::new().on_batch_end(|_, _| {
            steps.fetch_add(1, Ordering::Relaxed);
            Ok(())
        });
        let options = FitOptions { callbacks: vec![Box::new(count)], ..FitOptions::default() };
        assert_eq!(fit(&mut data, options), Err("the disk is gone".to_owned()));
        // What came before it was trained.
        assert_eq!(steps.load(Ordering::Relaxed), fail_at);
    }
}

#[test]
fn a_panic_of_the_iterator_is_an_error() {
    let mut data = Stream::new(|_| {
        (0..5).map(|i| {
            assert_ne!(i, 2, "picture {i} is torn");
            Ok::<_, LayersError>(batch(i))
        })
    });
    let error = fit(&mut data, FitOptions::default()).unwrap_err();
    assert!(error.contains("the data set panicked") && error.contains("picture 2 is torn"), "{error}");
    let mut data = Stream::new(|epoch| {
        assert_eq!(epoch, 0);
        (0..2).map(|i| Ok::<_, LayersError>(batch(i)))
    });
    let error = fit(&mut data, FitOptions { epochs: 2, ..FitOptions::default() }).unwrap_err();
    assert!(error.contains("the data set panicked"), "{error}");
}

#[test]
fn reading_ends_a_few_batches_after_training_does() {
    let read = AtomicUsize::new(0);
    let mut endless = Stream::new(|_| {
        (0..).map(|i| {
            read.fetch_add(1, Ordering::Relaxed);
            Ok::<_, LayersError>(batch(i))
        })
    });
    let cancel = Arc::new(AtomicBool::new(false));
    let asks = Arc::clone(&cancel);
    let after_three = LambdaCallback::new().on_batch_end(move |_, i| {
        asks.store(i == 2, Ordering::Relaxed);
        Ok(())
    });
    let options =
        FitOptions { callbacks: vec![Box::new(after_three)], cancel: Some(cancel), ..FitOptions::default() };
    assert_eq!(fit(&mut endless, options), Ok(0));
    // Three were trained, two wait, one is being handed over.
    assert!((3..=6).contains(&read.load(Ordering::Relaxed)), "{read:?}");
    // A callback that fails ends it too.
    let fails = LambdaCallback::new()
        .on_batch_end(|_, _| Err(LayersError::Training("the callback is not content".to_owned())));
    let options = FitOptions { callbacks: vec![Box::new(fails)], ..FitOptions::default() };
    assert_eq!(fit(&mut endless, options), Err("the callback is not content".to_owned()));
}

#[test]
fn steps_per_epoch_go_on_in_the_data_and_begin_anew_at_their_end() {
    let passes = Mutex::new(Vec::new());
    let mut data = Stream::new(|pass| {
        passes.lock().unwrap().push(pass);
        (0..3).map(|i| Ok::<_, LayersError>(batch(i)))
    });
    let options = FitOptions { epochs: 3, steps_per_epoch: Some(2), ..FitOptions::default() };
    assert_eq!(fit(&mut data, options), Ok(3));
    assert_eq!(*passes.lock().unwrap(), [0, 1]);
    // Without any batch there is an error, not a wait.
    let mut empty = Stream::new(|_| (0..0).map(|i| Ok::<_, LayersError>(batch(i))));
    let options = FitOptions { steps_per_epoch: Some(2), ..FitOptions::default() };
    assert_eq!(fit(&mut empty, options), Err("the data hold no batches".to_owned()));
}

#[test]
fn a_value_that_nobody_measures_is_an_error_before_the_first_step() {
    let watching: [(&str, Box<dyn Callback>); 4] = [
        ("val_los", Box::new(EarlyStopping::new("val_los"))),
        ("val_loss", Box::new(ReduceLrOnPlateau::new("val_loss"))),
        ("val_loss", Box::new(ModelCheckpoint::new("nowhere").save_best_only(true))),
        ("acc", Box::new(EarlyStopping::new("acc"))),
    ];
    for (i, (name, callback)) in watching.into_iter().enumerate() {
        let read = AtomicUsize::new(0);
        let mut data = Stream::new(|_| {
            read.fetch_add(1, Ordering::Relaxed);
            (0..3).map(|i| Ok::<_, LayersError>(batch(i)))
        });
        let validation = if i == 0 { Validation::Data(batch(1)) } else { Validation::None };
        let options = FitOptions { callbacks: vec![callback], validation, ..FitOptions::default() };
        let error = fit(&mut data, options).unwrap_err();
        let known = match i {
            0 => "loss, mean_absolute_error, val_loss, val_mean_absolute_error",
            1 => "loss, mean_absolute_error, lr",
            _ => "loss, mean_absolute_error",
        };
        assert_eq!(error, format!("nothing called `{name}` is measured; there are {known}"));
        assert_eq!(read.load(Ordering::Relaxed), 0);
    }
    // What another callback may add is not known beforehand.
    let adds = LambdaCallback::new().on_epoch_end(|_, _, logs| {
        logs.set("score", 1.0);
        Ok(())
    });
    let callbacks: Vec<Box<dyn Callback>> = vec![Box::new(adds), Box::new(EarlyStopping::new("score"))];
    let mut data = Stream::new(|_| (0..3).map(|i| Ok::<_, LayersError>(batch(i))));
    assert_eq!(fit(&mut data, FitOptions { callbacks, ..FitOptions::default() }), Ok(1));
}
