//! What was typed after `tfjs train` and `tfjs evaluate`.

use std::{num::NonZeroUsize, path::PathBuf};

use clap::Args as ClapArgs;

use crate::{image::Normalise, inputs::InputArg};

/// Samples with their labels: arrays, a table, or folders of pictures.
#[derive(Debug, ClapArgs)]
pub(crate) struct DataArgs {
    /// Samples: a .npy array; NAME= may be left out if the model has one input
    #[arg(long, value_name = "NAME=FILE", value_parser = InputArg::parse, conflicts_with_all = ["csv", "images"])]
    pub(crate) x: Vec<InputArg>,
    /// Labels: a .npy array; NAME= may be left out if the model has one output
    #[arg(long, value_name = "NAME=FILE", value_parser = InputArg::parse, requires = "x")]
    pub(crate) y: Vec<InputArg>,
    /// How much each sample counts: a .npy array
    #[arg(long, value_name = "NAME=FILE", value_parser = InputArg::parse, requires = "x")]
    pub(crate) sample_weight: Vec<InputArg>,
    /// A table of numbers with a header: a row per sample
    #[arg(long, value_name = "FILE", requires = "label", conflicts_with = "images")]
    pub(crate) csv: Option<PathBuf>,
    /// The table's column of labels; all others are values of the sample
    #[arg(long, value_name = "COLUMN", requires = "csv")]
    pub(crate) label: Option<String>,
    /// Pictures: a folder per class, named after it
    #[arg(long, value_name = "DIR")]
    pub(crate) images: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) normalise: Normalise,
    /// Samples per batch
    #[arg(long, value_name = "N", default_value = "32")]
    pub(crate) batch_size: NonZeroUsize,
    /// What is made small: a name, JSON as Keras writes it, or @FILE with JSON
    #[arg(long, value_name = "NAME|JSON|@FILE")]
    pub(crate) loss: Option<String>,
    /// What is measured: names with commas between them, JSON as Keras writes it, or @FILE with JSON
    #[arg(long, value_name = "NAME,..|JSON|@FILE")]
    pub(crate) metrics: Option<String>,
    /// Threads to use [default: one per processor]
    #[arg(long, value_name = "N")]
    pub(crate) threads: Option<NonZeroUsize>,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct TrainArgs {
    /// The model: a Keras file, or a layers model of TensorFlow.js
    pub(crate) model: String,
    /// Where the trained model goes: a directory for TensorFlow.js, or a .keras or .h5 file
    #[arg(value_name = "OUT", conflicts_with = "out_option", required_unless_present_any = ["out_option", "config"])]
    out: Option<PathBuf>,
    /// Same as OUT
    #[arg(long = "out", value_name = "OUT")]
    out_option: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) data: DataArgs,
    /// How to train, step by step: optimizer, loss and metrics as Keras serialises them, and an .npz of batches
    #[arg(long, value_name = "FILE", conflicts_with_all = ["x", "csv", "images", "loss", "metrics", "optimizer"])]
    pub(crate) config: Option<PathBuf>,
    /// Part of the data to validate with, taken from their end (pictures: at random)
    #[arg(long, value_name = "F", value_parser = part, conflicts_with_all = ["validation_x", "validation_images", "validation_csv"])]
    pub(crate) validation_split: Option<f64>,
    /// Samples to validate with
    #[arg(long, value_name = "NAME=FILE", value_parser = InputArg::parse, requires_all = ["x", "validation_y"])]
    pub(crate) validation_x: Vec<InputArg>,
    /// Their labels
    #[arg(long, value_name = "NAME=FILE", value_parser = InputArg::parse, requires = "validation_x")]
    pub(crate) validation_y: Vec<InputArg>,
    /// A table to validate with
    #[arg(long, value_name = "FILE", requires = "csv")]
    pub(crate) validation_csv: Option<PathBuf>,
    /// Pictures to validate with
    #[arg(long, value_name = "DIR", requires = "images")]
    pub(crate) validation_images: Option<PathBuf>,
    /// How often all samples are seen
    #[arg(long, value_name = "N", default_value = "10")]
    pub(crate) epochs: NonZeroUsize,
    /// How weights are changed: a name, JSON as Keras writes it, or @FILE with JSON
    #[arg(long, value_name = "NAME|JSON|@FILE")]
    pub(crate) optimizer: Option<String>,
    /// Step size of the optimizer
    #[arg(long, value_name = "F", value_parser = rate)]
    pub(crate) learning_rate: Option<f64>,
    /// How much samples of each class count: 0=0.5,1=2
    #[arg(long, value_name = "CLASS=F,..")]
    pub(crate) class_weight: Option<String>,
    /// See samples in another order in every epoch, as is done anyway
    #[arg(long, overrides_with = "no_shuffle")]
    shuffle: bool,
    /// See samples in their own order
    #[arg(long)]
    no_shuffle: bool,
    /// What the order of samples, dropouts and noise follow from
    #[arg(long, value_name = "N", default_value_t = 0, allow_negative_numbers = true)]
    pub(crate) seed: i32,
    /// End when this has not become better for so many epochs (3), and keep the best weights
    #[arg(long, value_name = "MONITOR[:PATIENCE]")]
    pub(crate) early_stopping: Option<String>,
    /// Back training up into DIR after each epoch, and keep the best model so far in DIR/best
    #[arg(long, value_name = "DIR")]
    pub(crate) checkpoint: Option<PathBuf>,
    /// Go on with the training that was backed up
    #[arg(long, requires = "checkpoint")]
    pub(crate) resume: bool,
    /// Write events for TensorBoard
    #[arg(long, value_name = "DIR")]
    pub(crate) tensorboard: Option<PathBuf>,
    /// Leave the weights of a layer as they are; may be repeated
    #[arg(long, value_name = "LAYER", value_delimiter = ',')]
    pub(crate) freeze: Vec<String>,
}

impl TrainArgs {
    /// Where the trained model goes.
    pub(crate) fn out(&self) -> Option<&std::path::Path> {
        self.out.as_deref().or(self.out_option.as_deref())
    }

    pub(crate) fn shuffles(&self) -> bool {
        self.shuffle || !self.no_shuffle
    }
}

#[derive(Debug, ClapArgs)]
pub(crate) struct EvaluateArgs {
    /// The model: a Keras file, or a layers model of TensorFlow.js
    pub(crate) model: String,
    #[command(flatten)]
    pub(crate) data: DataArgs,
}

fn part(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(f) if f > 0.0 && f < 1.0 => Ok(f),
        _ => Err("expected a number between 0 and 1".to_owned()),
    }
}

fn rate(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(f) if f.is_finite() && f >= 0.0 => Ok(f),
        _ => Err("expected a number that is not negative".to_owned()),
    }
}
