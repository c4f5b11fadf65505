//! Models made in code.
//!
//! ```
//! use tfjs_layers::build::{Dense, Sequential};
//! let model = Sequential::new()
//!     .add(Dense::new(32).activation("relu").input_shape([4]))
//!     .add(Dense::new(3).activation("softmax"))
//!     .build(7)?;
//! let scores = model.predict(tfjs_kernels::Tensor::new([2, 4], vec![0.5f32; 8])?)?.remove(0);
//! assert_eq!(scores.dims(), [2, 3]);
//! # Ok::<(), tfjs_layers::LayersError>(())
//! ```
//!
//! Every class of Keras can be used by its name, with the options that Keras has:
//!
//! ```
//! use tfjs_layers::build::{Functional, layer};
//! let mut f = Functional::new("model");
//! let image = f.input("image", [8, 8, 3]);
//! let x = f.call(layer("Conv2D").set("filters", 4).set("kernel_size", 3).activation("relu"), [image]);
//! let y = f.call(layer("GlobalAveragePooling2D"), [x]);
//! let model = f.build([image], [y], 7)?;
//! assert_eq!(model.output_names(), ["global_average_pooling2d"]);
//! # Ok::<(), tfjs_layers::LayersError>(())
//! ```

use std::collections::HashMap;

use serde_json::{Map, Value, json};
use tfjs_graph::Constant;

use crate::{
    LayerConfig, LayersError, LayersModel, LayersOptions, StoredWeights, WeightId, weights::snake_case,
};

type Result<T> = std::result::Result<T, LayersError>;

/// A layer to be: its class and options.
#[derive(Clone, Debug)]
pub struct LayerSpec {
    class: String,
    config: Map<String, Value>,
}

/// A layer of any class.
pub fn layer(class: &str) -> LayerSpec {
    LayerSpec { class: class.to_owned(), config: Map::new() }
}

impl LayerSpec {
    /// Sets an option, by Keras's name for it.
    #[must_use]
    pub fn set(mut self, option: &str, value: impl Into<Value>) -> LayerSpec {
        self.config.insert(option.to_owned(), value.into());
        self
    }

    /// Names the layer; otherwise it is named after its class.
    #[must_use]
    pub fn name(self, name: &str) -> LayerSpec {
        self.set("name", name)
    }

    /// What is applied to the result: `relu`, `softmax`, …
    #[must_use]
    pub fn activation(self, name: &str) -> LayerSpec {
        self.set("activation", name)
    }

    /// The shape of one sample, which the first layer of a [`Sequential`] needs.
    #[must_use]
    pub fn input_shape<const N: usize>(self, shape: [usize; N]) -> LayerSpec {
        let mut dims = vec![Value::Null];
        dims.extend(shape.map(Value::from));
        self.set("batch_input_shape", dims)
    }

    /// The layer in a model, named unlike those that are there.
    pub(crate) fn into_config(self, taken: &[&str]) -> LayerConfig {
        let mut names = Names::default();
        let (mut name, mut config) = names.named(self.config.clone(), &self.class);
        while taken.contains(&name.as_str()) && !self.config.contains_key("name") {
            (name, config) = names.named(self.config.clone(), &self.class);
        }
        LayerConfig::new(&self.class, config)
    }

    /// Whether training changes its weights.
    #[must_use]
    pub fn trainable(self, trainable: bool) -> LayerSpec {
        self.set("trainable", trainable)
    }
}

macro_rules! classes {
    ($($(#[$doc:meta])* $class:ident($($argument:ident),*);)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug)]
        pub struct $class;

        impl $class {
            /// The layer with what it cannot do without.
            #[expect(clippy::new_ret_no_self, reason = "reads as in Keras; all classes share one description")]
            pub fn new($($argument: impl Into<Value>),*) -> LayerSpec {
                layer(stringify!($class))$(.set(stringify!($argument), $argument))*
            }
        }
    )*};
}

classes! {
    /// `activation(x · kernel + bias)`.
    Dense(units);
    /// A function alone.
    Activation(activation);
    /// Drops values while training.
    Dropout(rate);
    /// All axes as one.
    Flatten();
    /// The same elements in another shape.
    Reshape(target_shape);
    /// A vector for each integer.
    Embedding(input_dim, output_dim);
    /// Convolution along one axis.
    Conv1D(filters, kernel_size);
    /// Convolution along two axes.
    Conv2D(filters, kernel_size);
    /// Convolution of each channel by itself.
    DepthwiseConv2D(kernel_size);
    /// Depthwise, then pointwise convolution.
    SeparableConv2D(filters, kernel_size);
    /// Convolution backwards.
    Conv2DTranspose(filters, kernel_size);
    /// Largest value of each window.
    MaxPooling2D(pool_size);
    /// Mean of each window.
    AveragePooling2D(pool_size);
    /// Mean over both axes.
    GlobalAveragePooling2D();
    /// Mean over steps.
    GlobalAveragePooling1D();
    /// Normalises each channel by statistics of batches.
    BatchNormalization();
    /// Normalises each sample.
    LayerNormalization();
    /// Long short-term memory.
    LSTM(units);
    /// Gated recurrent unit.
    GRU(units);
    /// Fully connected recurrent layer.
    SimpleRNN(units);
    /// Sum of inputs.
    Add();
    /// Inputs side by side.
    Concatenate();
}

/// A model of layers one after the other.
#[derive(Clone, Debug, Default)]
pub struct Sequential {
    name: Option<String>,
    layers: Vec<LayerSpec>,
}

impl Sequential {
    /// A model without layers.
    pub fn new() -> Sequential {
        Sequential::default()
    }

    /// Names the model.
    #[must_use]
    pub fn name(mut self, name: &str) -> Sequential {
        self.name = Some(name.to_owned());
        self
    }

    /// Appends a layer.
    #[must_use]
    #[expect(clippy::should_implement_trait, reason = "Keras's word for it")]
    pub fn add(mut self, layer: LayerSpec) -> Sequential {
        self.layers.push(layer);
        self
    }

    /// The model, its weights drawn from their initializers.
    ///
    /// # Errors
    /// When a class is not known, an option is wrong, or shapes do not fit.
    pub fn build(self, seed: u64) -> Result<LayersModel> {
        let mut names = Names::default();
        let layers: Vec<Value> = self
            .layers
            .into_iter()
            .map(|l| {
                let (_, config) = names.named(l.config, &l.class);
                json!({"class_name": l.class, "config": config})
            })
            .collect();
        let name = self.name.unwrap_or_else(|| "sequential".to_owned());
        made(json!({"class_name": "Sequential", "config": {"name": name, "layers": layers}}), seed)
    }
}

/// A model of layers that call each other.
#[derive(Clone, Debug)]
pub struct Functional {
    name: String,
    names: Names,
    layers: Vec<(LayerSpec, String, Vec<Value>)>,
}

/// What a layer gives, while a [`Functional`] is put together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Output {
    layer: usize,
    call: usize,
    tensor: usize,
}

impl Output {
    /// Another output of the same call: states of recurrent layers, for example.
    #[must_use]
    pub fn output(self, tensor: usize) -> Output {
        Output { tensor, ..self }
    }
}

impl Functional {
    /// A model without layers.
    pub fn new(name: &str) -> Functional {
        Functional { name: name.to_owned(), names: Names::default(), layers: Vec::new() }
    }

    /// An input with the shape of one sample.
    pub fn input<const N: usize>(&mut self, name: &str, shape: [usize; N]) -> Output {
        let spec = layer("InputLayer").name(name).set("dtype", "float32").input_shape(shape);
        let layer = self.push(spec);
        Output { layer, call: 0, tensor: 0 }
    }

    /// Adds a layer and calls it.
    pub fn call(&mut self, layer: LayerSpec, inputs: impl IntoIterator<Item = Output>) -> Output {
        let layer = self.push(layer);
        self.call_at(layer, inputs)
    }

    /// Calls the layer once more that gave `of`: both calls share its weights.
    pub fn call_again(&mut self, of: Output, inputs: impl IntoIterator<Item = Output>) -> Output {
        self.call_at(of.layer, inputs)
    }

    fn push(&mut self, mut layer: LayerSpec) -> usize {
        let (name, config) = self.names.named(layer.config, &layer.class);
        layer.config = config;
        self.layers.push((layer, name, Vec::new()));
        self.layers.len() - 1
    }

    fn call_at(&mut self, layer: usize, inputs: impl IntoIterator<Item = Output>) -> Output {
        let call: Vec<Value> =
            inputs.into_iter().map(|i| json!([self.layers[i.layer].1, i.call, i.tensor, {}])).collect();
        let calls = &mut self.layers[layer].2;
        calls.push(call.into());
        Output { layer, call: calls.len() - 1, tensor: 0 }
    }

    /// The model, its weights drawn from their initializers.
    ///
    /// # Errors
    /// When a class is not known, an option is wrong, or shapes do not fit.
    pub fn build(
        self,
        inputs: impl IntoIterator<Item = Output>,
        outputs: impl IntoIterator<Item = Output>,
        seed: u64,
    ) -> Result<LayersModel> {
        let end = |o: Output| json!([self.layers[o.layer].1, o.call, o.tensor]);
        let inputs: Vec<Value> = inputs.into_iter().map(end).collect();
        let outputs: Vec<Value> = outputs.into_iter().map(end).collect();
        let layers: Vec<Value> = self
            .layers
            .iter()
            .map(|(l, name, calls)| {
                json!({"class_name": l.class, "config": l.config, "name": name, "inbound_nodes": calls})
            })
            .collect();
        let config =
            json!({"name": self.name, "layers": layers, "input_layers": inputs, "output_layers": outputs});
        made(json!({"class_name": "Functional", "config": config}), seed)
    }
}

/// Names after classes: `dense`, `dense_1`, …
#[derive(Clone, Debug, Default)]
struct Names(HashMap<String, usize>);

impl Names {
    fn named(&mut self, mut config: Map<String, Value>, class: &str) -> (String, Map<String, Value>) {
        if let Some(name) = config.get("name").and_then(Value::as_str) {
            return (name.to_owned(), config);
        }
        let base = snake_case(class);
        let count = self.0.entry(base.clone()).or_default();
        let name = if *count == 0 { base } else { format!("{base}_{count}") };
        *count += 1;
        config.insert("name".to_owned(), name.clone().into());
        (name, config)
    }
}

/// The version whose rules models made here follow. TF.js computes as that one does.
const VERSION: &str = "2.15.0";

fn made(model: Value, seed: u64) -> Result<LayersModel> {
    let topology = json!({"keras_version": VERSION, "model_config": model});
    let options = LayersOptions { strict: false, ..LayersOptions::default() };
    let mut model = LayersModel::new(&topology, &StoredWeights::ByName(Vec::new()), &options)?;
    model.initialize(seed)?;
    Ok(model)
}

impl LayersModel {
    /// Draws the weights that have no value yet from their initializers.
    ///
    /// # Errors
    /// When an initializer is not known.
    pub fn initialize(&mut self, seed: u64) -> Result<()> {
        for i in 0..self.params.weights.len() {
            let weight = &self.params.weights[i];
            if weight.value.is_some() {
                continue;
            }
            // Weights of one model start differently, whatever the seed.
            let seed = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(i as u64);
            let value = weight.initializer.tensor(&weight.shape, weight.dtype, seed)?;
            self.params.set(WeightId(i), Constant::new(value.dtype().to_proto(), value));
        }
        self.forget_compiled();
        Ok(())
    }
}
