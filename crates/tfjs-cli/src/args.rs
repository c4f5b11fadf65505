//! What was typed.

mod train;

use std::{num::NonZeroUsize, path::PathBuf};

use clap::{ArgAction, Args as ClapArgs, Parser, Subcommand};

pub(crate) use self::train::{DataArgs, EvaluateArgs, TrainArgs};
use crate::{converter::ConvertArgs, image::Normalise, inputs::InputArg, inspect::Target};

/// Convert TensorFlow models to TensorFlow.js and run them.
#[derive(Debug, Parser)]
#[command(name = "tfjs", version, infer_long_args = true, arg_required_else_help = true)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(crate) command: Command,
    /// Tell on stderr what is done; twice for more
    #[arg(long, global = true, action = ArgAction::Count)]
    pub(crate) verbose: u8,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Convert a TensorFlow model to TensorFlow.js, with the flags of tensorflowjs_converter
    #[command(args_override_self = true)]
    Convert(Box<ConvertArgs>),
    /// Run a model and show or store its outputs
    Run(Box<RunArgs>),
    /// Measure how fast a model runs
    Bench(Box<BenchArgs>),
    /// Train a model of layers
    Train(Box<TrainArgs>),
    /// Measure loss and metrics of a model of layers
    Evaluate(Box<EvaluateArgs>),
    /// Tell what is in a model of any format
    Inspect(InspectArgs),
}

/// The model and what it is fed.
#[derive(Debug, ClapArgs)]
pub(crate) struct ModelArgs {
    /// `model.json`, its directory, a model of TensorFlow.js before 1.0, or an http(s) address
    #[arg(value_name = "MODEL_JSON")]
    pub(crate) model: String,
    /// Value of an input: a .npy or .npz array or a picture. NAME is a signature key, node or tensor name, and may be
    /// left out if the model has one input only
    #[arg(long = "input", short, value_name = "NAME=FILE", value_parser = InputArg::parse)]
    pub(crate) inputs: Vec<InputArg>,
    /// Threads to use [default: one per processor]
    #[arg(long, value_name = "N")]
    pub(crate) threads: Option<NonZeroUsize>,
    #[command(flatten)]
    pub(crate) normalise: Normalise,
    /// Run every node as it stands in the file, without folding and fusing
    #[arg(long)]
    pub(crate) no_optimize: bool,
    /// HTTP header sent with every request; may be repeated
    #[arg(long = "header", value_name = "NAME:VALUE", value_parser = header)]
    pub(crate) headers: Vec<(String, String)>,
    /// Stands before every weight path in place of the model's directory
    #[arg(long, value_name = "PREFIX")]
    pub(crate) weight_path_prefix: Option<String>,
    /// The address is that of a TF-Hub model, not of its model.json
    #[arg(long)]
    pub(crate) from_tf_hub: bool,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct RunArgs {
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    /// Compute this instead of the signature's outputs: an output, any node, or `node:1`; may be repeated
    #[arg(long = "output", short, value_name = "NODE")]
    pub(crate) outputs: Vec<String>,
    /// Write every output to DIR/NAME.npy instead of showing it
    #[arg(long, value_name = "DIR")]
    pub(crate) output_dir: Option<PathBuf>,
    /// Class names, one per line: show the likeliest classes
    #[arg(long, value_name = "FILE")]
    pub(crate) labels: Option<PathBuf>,
    /// How many classes to show
    #[arg(long, value_name = "K", default_value_t = 5)]
    pub(crate) top: usize,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct BenchArgs {
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    /// Runs before measuring starts
    #[arg(long, value_name = "N", default_value_t = 3)]
    pub(crate) warmup: usize,
    /// Measure for this long
    #[arg(long, value_name = "S", default_value = "3", value_parser = seconds, conflicts_with = "runs")]
    pub(crate) seconds: f64,
    /// Measure this many runs
    #[arg(long, value_name = "N")]
    pub(crate) runs: Option<NonZeroUsize>,
    /// List the costliest ops and nodes, with their arithmetic and traffic per second
    #[arg(long)]
    pub(crate) profile: bool,
    /// Measure what this machine can do at most, with each of its vector instruction sets, on one thread and on all
    #[arg(long)]
    pub(crate) limits: bool,
    /// Measure steps of training on made-up batches of so many samples; for models of layers
    #[arg(long, value_name = "SAMPLES")]
    pub(crate) train: Option<NonZeroUsize>,
    /// What the steps train with
    #[arg(long, value_name = "NAME", default_value = "sgd", requires = "train")]
    pub(crate) optimizer: String,
    /// What the steps train for
    #[arg(long, value_name = "NAME", default_value = "mse", requires = "train")]
    pub(crate) loss: String,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct InspectArgs {
    /// SavedModel, frozen graph, TF-Hub module, session bundle, Keras file, TensorFlow.js model or its address
    pub(crate) path: String,
    /// Also say which nodes cannot run there, and what a conversion does about them; may be given several times
    #[arg(long, value_enum)]
    pub(crate) target: Vec<Target>,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

fn seconds(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        // A day is more than anyone means.
        Ok(s) if (0.0..=86_400.0).contains(&s) => Ok(s),
        _ => Err("expected a number of seconds".to_owned()),
    }
}
fn header(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once(':').ok_or("expected NAME:VALUE")?;
    Ok((name.trim().to_owned(), value.trim().to_owned()))
}
