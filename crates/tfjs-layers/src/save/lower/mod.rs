//! Layers and options that TF.js lacks or computes wrongly, as layers that it has.

mod activation;
mod attention;
mod core;
mod normalization;
mod operation;
mod pieces;
mod recurrent;
mod spatial;

use serde_json::{Map, Value};
use tfjs_graph::{Constant, Fact};

use super::{
    Result,
    fragment::{Fragment, From, Part},
};
use crate::{Dialect, topology::LayerConfig};

/// A layer to be written.
pub(super) struct Source<'a> {
    pub(super) layer: &'a LayerConfig,
    pub(super) class: &'a str,
    /// Its configuration in TF.js's words; a row may change it.
    pub(super) config: Map<String, Value>,
    pub(super) dialect: Dialect,
    /// Whether a mask comes with its first input.
    pub(super) masked: bool,
    /// What is known of the inputs of the first call.
    pub(super) inputs: Vec<Fact>,
    /// What is known of the outputs of the first call.
    pub(super) outputs: &'a [Fact],
    /// Names within the layer.
    pub(super) weights: Vec<(String, Constant)>,
}

/// What is to be written for a layer.
pub(super) enum Outcome {
    /// The layer itself.
    Keep,
    /// Other layers.
    Replace(Fragment),
    /// The layer itself, though TF.js cannot run it.
    Unsupported(String),
}

type Row = fn(&mut Source<'_>) -> Result<Outcome>;

fn keep(_source: &mut Source<'_>) -> Result<Outcome> {
    Ok(Outcome::Keep)
}

/// What becomes of each class. Classes that are not here TF.js has no equivalent for.
pub(super) const ROWS: &[(&[&str], Row)] = &[
    (&["InputLayer"], core::input),
    (&["Dropout", "SpatialDropout1D", "GaussianNoise", "GaussianDropout", "AlphaDropout"], keep),
    (
        &[
            "Masking",
            "Reshape",
            "Permute",
            "RepeatVector",
            "PReLU",
            "ThresholdedReLU",
            "ZeroPadding2D",
            "Cropping2D",
        ],
        keep,
    ),
    (&["Dense", "Embedding"], core::plain_weights),
    (&["Activation"], activation::activation),
    (&["ReLU", "LeakyReLU", "ELU", "Softmax"], activation::function_layer),
    (&["Flatten"], core::flatten),
    (&["Identity", "ActivityRegularization"], core::identity),
    (&["SpatialDropout2D", "SpatialDropout3D"], core::spatial_dropout),
    (&["Add", "Multiply", "Average", "Maximum", "Minimum"], core::merge),
    (&["Subtract"], core::subtract),
    (&["Concatenate"], core::concatenate),
    (&["Dot"], core::dot),
    (&["EinsumDense"], core::einsum_dense),
    (&["Rescaling"], core::rescaling),
    (&["CategoryEncoding"], core::category_encoding),
    (&["Conv1D", "Conv2D", "Conv3D"], spatial::conv),
    (&["Conv2DTranspose", "Conv3DTranspose"], spatial::transpose),
    (&["DepthwiseConv2D"], spatial::depthwise),
    (&["SeparableConv2D"], spatial::separable),
    (&["SeparableConv1D", "DepthwiseConv1D", "Conv1DTranspose"], spatial::one_dimensional),
    (
        &["ZeroPadding1D", "ZeroPadding3D", "Cropping1D", "Cropping3D", "UpSampling1D", "UpSampling3D"],
        spatial::axis_by_axis,
    ),
    (&["UpSampling2D"], spatial::up_sampling),
    (&["Resizing"], spatial::resizing),
    (&["CenterCrop"], spatial::center_crop),
    (
        &[
            "MaxPooling1D",
            "MaxPooling2D",
            "MaxPooling3D",
            "AveragePooling1D",
            "AveragePooling2D",
            "AveragePooling3D",
        ],
        spatial::pooling,
    ),
    (
        &[
            "GlobalMaxPooling1D",
            "GlobalMaxPooling2D",
            "GlobalMaxPooling3D",
            "GlobalAveragePooling1D",
            "GlobalAveragePooling2D",
            "GlobalAveragePooling3D",
        ],
        spatial::global_pooling,
    ),
    (
        &[
            "AdaptiveAveragePooling1D",
            "AdaptiveAveragePooling2D",
            "AdaptiveAveragePooling3D",
            "AdaptiveMaxPooling1D",
            "AdaptiveMaxPooling2D",
            "AdaptiveMaxPooling3D",
        ],
        spatial::adaptive_pooling,
    ),
    (&["BatchNormalization"], normalization::batch),
    (&["LayerNormalization"], normalization::layer),
    (&["RMSNormalization"], normalization::root_mean_square),
    (&["UnitNormalization"], normalization::unit),
    (&["GroupNormalization"], normalization::group),
    (&["Normalization"], normalization::features),
    (&["SimpleRNN", "LSTM", "GRU"], recurrent::layer),
    (&["RNN"], recurrent::rnn),
    (&["ConvLSTM1D", "ConvLSTM2D"], recurrent::conv_lstm),
    (&["Bidirectional"], recurrent::bidirectional),
    (&["TimeDistributed"], recurrent::time_distributed),
    (&["MultiHeadAttention", "GroupedQueryAttention", "GroupQueryAttention"], attention::multi_head),
    (&["Attention"], attention::dot_product),
    (&["TFOpLambda", "SlicingOpLambda"], operation::lower),
    (&["RandomCrop"], core::random_crop),
    // Augmentation of images, which changes nothing when a model predicts.
    (
        &[
            "AugMix",
            "CutMix",
            "MixUp",
            "RandAugment",
            "RandomBrightness",
            "RandomColorDegeneration",
            "RandomColorJitter",
            "RandomContrast",
            "RandomElasticTransform",
            "RandomErasing",
            "RandomFlip",
            "RandomGaussianBlur",
            "RandomGrayscale",
            "RandomHeight",
            "RandomHue",
            "RandomInvert",
            "RandomPerspective",
            "RandomPosterization",
            "RandomRotation",
            "RandomSaturation",
            "RandomSharpness",
            "RandomShear",
            "RandomTranslation",
            "RandomWidth",
            "RandomZoom",
        ],
        core::identity,
    ),
];

/// Classes whose option `activation` is a function applied to their result.
const ACTIVATED: &[&str] = &[
    "Dense",
    "EinsumDense",
    "Conv1D",
    "Conv2D",
    "Conv3D",
    "Conv1DTranspose",
    "Conv2DTranspose",
    "Conv3DTranspose",
    "DepthwiseConv1D",
    "DepthwiseConv2D",
    "SeparableConv1D",
    "SeparableConv2D",
];

pub(super) fn lower(source: &mut Source<'_>) -> Result<Outcome> {
    if ACTIVATED.contains(&source.class)
        && let Some(outcome) = activation::split(source)?
    {
        return Ok(outcome);
    }
    lower_class(source)
}

fn lower_class(source: &mut Source<'_>) -> Result<Outcome> {
    if source.weights.iter().any(|(name, _)| name.contains("lora_kernel") || name.contains("lora_embeddings"))
    {
        return Ok(Outcome::Unsupported("TensorFlow.js has no matrices of low rank beside a kernel".into()));
    }
    if crate::layers::is_operation(source.layer, source.dialect) {
        return operation::lower(source);
    }
    let row = ROWS.iter().find(|(classes, _)| classes.contains(&source.class));
    match row {
        Some((_, row)) => row(source),
        None => Ok(Outcome::Unsupported("TensorFlow.js has no such layer, nor an equivalent of it".into())),
    }
}

impl<'a> Source<'a> {
    fn copy(&self) -> Source<'a> {
        Source {
            layer: self.layer,
            class: self.class,
            config: self.config.clone(),
            dialect: self.dialect,
            masked: self.masked,
            inputs: self.inputs.clone(),
            outputs: self.outputs,
            weights: self.weights.clone(),
        }
    }

    fn weight(&self, name: &str) -> Option<&Constant> {
        self.weights.iter().find(|(n, _)| n == name).map(|(_, w)| w)
    }

    /// Replaces a weight by what is computed from it.
    fn change(&mut self, name: &str, f: impl FnOnce(&Constant) -> Constant) {
        if let Some((_, weight)) = self.weights.iter_mut().find(|(n, _)| n == name) {
            *weight = f(weight);
        }
    }

    fn text(&self, key: &str) -> Option<&str> {
        self.config.get(key).and_then(Value::as_str)
    }

    fn usize(&self, key: &str) -> Option<usize> {
        self.config.get(key).and_then(crate::number).filter(|n| *n >= 0.0).map(|n| n as usize)
    }

    fn channels_last(&self) -> bool {
        self.text("data_format") != Some("channels_first")
    }

    fn has_kwarg(&self, name: &str) -> bool {
        let given = |a: &crate::topology::Arg<_>| !matches!(a, crate::topology::Arg::Value(Value::Null));
        self.layer.calls.iter().flat_map(|c| &c.kwargs).any(|(k, a)| k == name && given(a))
    }
}

impl Fragment {
    /// The layer itself, as its configuration and weights are now.
    fn add_source(&mut self, source: &Source<'_>, input: From) -> From {
        self.parts.push(Part {
            suffix: "core".to_owned(),
            class: source.class.to_owned(),
            config: source.config.clone(),
            weights: source.weights.clone(),
            inputs: vec![input],
        });
        From::Part(self.parts.len() - 1, 0)
    }
}
