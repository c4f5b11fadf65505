//! Models made in code: predictions, summaries, files. Summaries are what tf_keras 2.19 prints.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use tfjs_format::io::MemorySink;
use tfjs_kernels::Tensor;
use tfjs_layers::{
    LayersModel, LayersOptions, PredictOptions, SaveOptions,
    build::{BatchNormalization, Concatenate, Dense, Functional, Sequential},
};

fn sequential() -> LayersModel {
    Sequential::new()
        .name("seq")
        .add(Dense::new(4).activation("relu").name("d1").input_shape([8]))
        .add(BatchNormalization::new().name("bn"))
        .add(Dense::new(2).name("out"))
        .build(7)
        .unwrap()
}

fn functional() -> LayersModel {
    let mut f = Functional::new("m");
    let (a, b) = (f.input("a", [4]), f.input("b", [4]));
    let first = f.call(Dense::new(3).name("d"), [a]);
    let second = f.call_again(first, [b]);
    let c = f.call(Concatenate::new().name("c"), [first, second]);
    let o = f.call(Dense::new(1).trainable(false).name("o"), [c]);
    f.build([a, b], [o], 1).unwrap()
}

fn ramp(rows: usize, columns: usize) -> Tensor {
    let data = (0..rows * columns).map(|i| (i as f32 * 0.37).sin()).collect::<Vec<f32>>();
    Tensor::new([rows, columns], data).unwrap()
}

#[test]
fn a_summary_of_a_sequential_model_is_the_one_of_keras() {
    let expected = "\
Model: \"seq\"
_________________________________________________________________
 Layer (type)                Output Shape              Param #   
=================================================================
 d1 (Dense)                  (None, 4)                 36        
                                                                 
 bn (BatchNormalization)     (None, 4)                 16        
                                                                 
 out (Dense)                 (None, 2)                 10        
                                                                 
=================================================================
Total params: 62 (248.00 Byte)
Trainable params: 54 (216.00 Byte)
Non-trainable params: 8 (32.00 Byte)
_________________________________________________________________
";
    assert_eq!(sequential().summary(), expected);
}

#[test]
fn a_summary_of_a_graph_of_layers_says_what_is_connected() {
    let expected = "\
Model: \"m\"
__________________________________________________________________________________________________
 Layer (type)                Output Shape                 Param #   Connected to                  
==================================================================================================
 a (InputLayer)              [(None, 4)]                  0         []                            
                                                                                                  
 b (InputLayer)              [(None, 4)]                  0         []                            
                                                                                                  
 d (Dense)                   (None, 3)                    15        ['a[0][0]',                   
                                                                     'b[0][0]']                   
                                                                                                  
 c (Concatenate)             (None, 6)                    0         ['d[0][0]',                   
                                                                     'd[1][0]']                   
                                                                                                  
 o (Dense)                   (None, 1)                    7         ['c[0][0]']                   
                                                                                                  
==================================================================================================
Total params: 22 (88.00 Byte)
Trainable params: 15 (60.00 Byte)
Non-trainable params: 7 (28.00 Byte)
__________________________________________________________________________________________________
";
    assert_eq!(functional().summary(), expected);
}

#[test]
fn predictions_in_batches_are_those_of_one_batch() {
    let model = sequential();
    let x = ramp(70, 8);
    let whole = model.predict_with(x.clone(), PredictOptions { batch_size: 70, progress: None }).unwrap();
    let mut steps = Vec::new();
    let mut tell = |done, all| steps.push((done, all));
    let cut = model.predict_with(x, PredictOptions { batch_size: 32, progress: Some(&mut tell) }).unwrap();
    assert_eq!(steps, [(32, 70), (64, 70), (70, 70)]);
    assert_eq!(cut[0].dims(), [70, 2]);
    let close = |(a, b): (&f32, &f32)| (a - b).abs() < 1e-6;
    assert!(cut[0].data::<f32>().unwrap().iter().zip(whole[0].data::<f32>().unwrap()).all(close));
}

#[test]
fn inputs_of_different_lengths_are_refused() {
    let error = functional().predict([ramp(2, 4), ramp(3, 4)]).unwrap_err();
    assert!(error.to_string().contains("same number of samples"), "{error}");
}

#[test]
fn a_model_made_in_code_comes_back_from_its_files() {
    for model in [sequential(), functional()] {
        let mut sink = MemorySink::default();
        let report = model.save_to(&mut sink, &SaveOptions::default()).unwrap();
        assert!(report.warnings.is_empty());
        let again = LayersModel::load(&sink.into_model().unwrap(), &LayersOptions::default()).unwrap();
        let inputs = || {
            model
                .input_names()
                .iter()
                .map(|_| ramp(3, if model.name() == "m" { 4 } else { 8 }))
                .collect::<Vec<_>>()
        };
        assert_eq!(again.predict(inputs()).unwrap(), model.predict(inputs()).unwrap());
    }
}

#[test]
fn weights_are_found_by_layer_and_can_be_changed() {
    let mut model = sequential();
    assert_eq!(model.layer_weights("d1").unwrap(), [("d1/kernel", &[8, 4][..]), ("d1/bias", &[4][..])]);
    assert_eq!(model.layer("bn").unwrap().config.class_name, "BatchNormalization");
    let before = model.predict(ramp(1, 8)).unwrap();
    model.set_weight("out/bias", Tensor::vector(vec![10f32, 10.0])).unwrap();
    let after = model.predict(ramp(1, 8)).unwrap();
    let moved = after[0]
        .data::<f32>()
        .unwrap()
        .iter()
        .zip(before[0].data::<f32>().unwrap())
        .all(|(a, b)| a - b > 9.9);
    assert!(moved);
    assert!(model.layer("none").is_err());
}
