//! Training on data of files, as people ask for it.

use std::path::Path;

use serde_json::{Map, Value};
use tfjs_format::io::DirectorySink;
use tfjs_layers::{
    BackupAndRestore, Callback, ClassWeight, Compile, Dataset, EarlyStopping, FitOptions, History,
    LayersModel, ModelCheckpoint, Optimizer, TensorBoard, TerminateOnNan, Validation,
};

use super::{choice, open, progress::Progress, save};
use crate::{
    CliError,
    args::{DataArgs, TrainArgs},
    curves,
    data::Data,
    files::Together,
    interrupt::Cancel,
    show,
};

/// Epochs without a better value before training ends, if nothing is said.
const PATIENCE: usize = 3;

pub(super) fn run(args: &TrainArgs) -> Result<String, CliError> {
    let Some(out) = args.out() else { return Err(CliError::NoData { missing: "give OUT" }) };
    let monitor = args.early_stopping.as_deref().map(early_stopping).transpose()?;
    let weights = args.class_weight.as_deref().map(class_weight).transpose()?;
    let mut model = open(&args.model)?;
    for layer in &args.freeze {
        model.set_trainable(layer, false)?;
    }
    let mut data = Data::read(&args.data, &model)?;
    let mut validation = validation(args, &model)?;
    let notes = compile(
        &mut model,
        &mut data,
        &args.data,
        &args.model,
        (args.optimizer.as_deref(), args.learning_rate),
    )?;
    if let (Data::Images(train), Some(part)) = (&data, args.validation_split) {
        let (first, rest) = train.clone().split(part, args.seed)?;
        (data, validation) = (Data::Images(first), Some(Data::Images(rest)));
    }
    if let (Data::Images(train), Some(Data::Images(other))) = (&data, &mut validation) {
        if train.classes != other.classes {
            return Err(CliError::Images {
                path: args.validation_images.clone().unwrap_or_default(),
                problem: format!(
                    "its classes are {}, those to train with {}",
                    other.classes.join(", "),
                    train.classes.join(", ")
                ),
            });
        }
        other.one_hot = train.one_hot;
    }
    let validated = validation.is_some() || args.validation_split.is_some();
    if let Some((name, _)) = monitor.as_ref().filter(|(name, _)| name.starts_with("val_") && !validated) {
        return Err(CliError::Value {
            flag: "--early-stopping",
            given: name.clone(),
            expected: "a value of training, or data to validate with: --validation-split and others",
        });
    }
    model.set_seed(args.seed)?;
    probe(out)?;
    if !args.data.json {
        for note in notes {
            eprintln!("{note}");
        }
    }
    let classes = if let Data::Images(folder) = &data { Some(folder.classes.clone()) } else { None };
    let cancel = Cancel::new();
    let mut rest = validation.map(|v| v.batches(args.data.batch_size));
    let options = FitOptions {
        epochs: args.epochs.get(),
        batch_size: args.data.batch_size.get(),
        shuffle: args.shuffles(),
        validation: match (&mut rest, args.validation_split) {
            (Some(dataset), _) => Validation::Dataset(dataset.as_mut()),
            (None, Some(part)) => Validation::Split(part),
            (None, None) => Validation::None,
        },
        class_weight: weights,
        callbacks: callbacks(args, monitor, validated),
        cancel: Some(cancel.0.clone()),
        ..FitOptions::default()
    };
    let history = match data {
        Data::Arrays(batch) => model.fit_data(batch, options)?,
        Data::Images(folder) => {
            let shuffle = args.shuffles().then_some(args.seed);
            let mut pictures = folder.in_batches(args.data.batch_size.get(), shuffle);
            model.fit_dataset(&mut pictures as &mut dyn Dataset, options)?
        }
    };
    let cancelled = cancel.pressed();
    drop(cancel);
    finish(args, out, &model, &history, classes.as_deref(), cancelled)
}

/// Writes everything, unless there is nothing worth it.
fn finish(
    args: &TrainArgs,
    out: &Path,
    model: &LayersModel,
    history: &History,
    classes: Option<&[String]>,
    cancelled: bool,
) -> Result<String, CliError> {
    let why = history.stopped.clone().filter(|_| !cancelled);
    if let Some(why) = why.clone().filter(|_| model.first_bad_layer().is_some()) {
        return Err(CliError::NotFinite { why });
    }
    save(model, out)?;
    let directory = curves::directory(out);
    if !history.epochs.is_empty() {
        curves::write(history, &directory)?;
    }
    if let Some(classes) = classes {
        let directory = if directory.as_os_str().is_empty() { Path::new(".") } else { &directory };
        let mut files = Together::in_directory(directory)?;
        files.write("labels.txt", |to| classes.iter().try_for_each(|c| writeln!(to, "{c}")))?;
        files.finish()?;
    }
    if cancelled {
        let epochs = history.epochs.len();
        return Err(CliError::Interrupted { epochs, of: args.epochs.get(), out: out.to_owned() });
    }
    if args.data.json {
        return Ok(String::new());
    }
    let ended = why.map(|why| format!("ended early: {why}\n")).unwrap_or_default();
    Ok(format!("{ended}saved {}\n", out.display()))
}

/// Says what to train for: as the arguments say, as the model's file says, or as its last layer and the labels suggest.
/// Gives what is worth telling.
pub(crate) fn compile(
    model: &mut LayersModel,
    data: &mut Data,
    args: &DataArgs,
    path: &str,
    (optimizer, rate): (Option<&str>, Option<f64>),
) -> Result<Vec<String>, CliError> {
    let asked = args.loss.is_some() || args.metrics.is_some() || optimizer.is_some();
    let restore = |source| CliError::Restore { model: path.to_owned(), source };
    let mut notes = Vec::new();
    let loss = if !asked && model.restore_training().map_err(restore)? {
        notes
            .push("going on with the optimizer, loss and metrics that the model was trained with".to_owned());
        model.training_config.as_ref().map(|c| c["loss"].clone()).unwrap_or_default()
    } else {
        let (mut compile, reasons) = match (&args.loss, &args.metrics) {
            (Some(_), Some(_)) => (Compile::default(), Vec::new()),
            _ => choice::objective(model, data)?,
        };
        if args.loss.is_none() {
            notes.extend(reasons);
        }
        if let Some(loss) = &args.loss {
            compile.loss = choice::value("--loss", loss)?;
        }
        if let Some(metrics) = &args.metrics {
            compile.metrics = choice::metrics(metrics)?;
        }
        let loss = compile.loss.clone();
        let optimizer = match optimizer {
            Some(text) => choice::optimizer(text, model.dialect())?,
            None => {
                notes.push("optimizer adam".to_owned());
                Optimizer::from_config(&"adam".into(), model.dialect())?
            }
        };
        model.compile_with(optimizer, compile)?;
        loss
    };
    if let Some(rate) = rate {
        model.optimizer_mut()?.set_learning_rate(rate)?;
    }
    if let Data::Images(folder) = data {
        let shape = model.compiled()?.outputs().first().and_then(|o| o.shape.clone()).unwrap_or_default();
        let (classes, width) = (folder.classes.len(), shape.last().copied().flatten());
        let fits = match width {
            Some(1) => classes == 2,
            Some(width) => classes == width,
            None => true,
        };
        if !fits {
            return Err(CliError::Images {
                path: args.images.clone().unwrap_or_default(),
                problem: format!(
                    "it has {} ({}), the model's output {} has room for {}",
                    show::count(classes, "folder"),
                    folder.classes.join(", "),
                    show::shape(&shape),
                    width.map_or(0, |w| w.max(2))
                ),
            });
        }
        folder.one_hot = width != Some(1) && choice::takes_rows(&loss, model.dialect());
    }
    Ok(notes)
}

fn validation(args: &TrainArgs, model: &LayersModel) -> Result<Option<Data>, CliError> {
    if let Some(path) = &args.validation_csv {
        return Ok(Some(Data::table(path, &args.data, model)?));
    }
    if let Some(path) = &args.validation_images {
        return Ok(Some(Data::pictures(path, &args.data, model)?));
    }
    Data::validation(&args.validation_x, &args.validation_y, model)
}

fn callbacks(args: &TrainArgs, monitor: Option<(String, usize)>, validated: bool) -> Vec<Box<dyn Callback>> {
    let mut callbacks: Vec<Box<dyn Callback>> =
        vec![Box::new(Progress::new(args.data.json)), Box::new(TerminateOnNan)];
    if let Some((name, patience)) = monitor {
        callbacks.push(Box::new(EarlyStopping::new(name).patience(patience).restore_best_weights(true)));
    }
    if let Some(directory) = &args.tensorboard {
        callbacks.push(Box::new(TensorBoard::new(directory)));
    }
    if let Some(directory) = &args.checkpoint {
        let backup = directory.join("backup");
        if args.resume && !backup.join("model.json").exists() {
            eprintln!("there is nothing to go on with in {}; training begins", directory.display());
        }
        // Braces are placeholders there.
        let best = directory.join("best").to_string_lossy().replace('{', "{{").replace('}', "}}");
        let watched = if validated { "val_loss" } else { "loss" };
        callbacks.push(Box::new(ModelCheckpoint::new(best).monitor(watched).save_best_only(true)));
        callbacks.push(Box::new(BackupAndRestore {
            restore: args.resume,
            delete_checkpoint: false,
            ..BackupAndRestore::new(backup)
        }));
    }
    callbacks
}

/// `MONITOR[:PATIENCE]`
fn early_stopping(text: &str) -> Result<(String, usize), CliError> {
    let wrong = || CliError::Value {
        flag: "--early-stopping",
        given: text.to_owned(),
        expected: "the name of a value and a number of epochs, such as val_loss:5",
    };
    let (name, patience) = match text.rsplit_once(':') {
        Some((name, patience)) => (name, patience.parse().map_err(|_| wrong())?),
        None => (text, PATIENCE),
    };
    if name.is_empty() { Err(wrong()) } else { Ok((name.to_owned(), patience)) }
}

/// `0=0.5,1=2`, or JSON.
fn class_weight(text: &str) -> Result<ClassWeight, CliError> {
    let wrong = || CliError::Value {
        flag: "--class-weight",
        given: text.to_owned(),
        expected: "classes and numbers, such as 0=0.5,1=2",
    };
    if text.trim_start().starts_with(['{', '@']) {
        return Ok(ClassWeight::from_config(&choice::value("--class-weight", text)?)?);
    }
    let mut weights = Map::new();
    for pair in text.split(',') {
        let (class, weight) = pair.split_once('=').ok_or_else(wrong)?;
        let class: u32 = class.trim().parse().map_err(|_| wrong())?;
        let weight: f64 = weight.trim().parse().map_err(|_| wrong())?;
        if !weight.is_finite() || weight < 0.0 || weights.insert(class.to_string(), weight.into()).is_some() {
            return Err(wrong());
        }
    }
    Ok(ClassWeight::from_config(&Value::Object(weights))?)
}

/// Whether a model can be written there: better known before hours of training than after.
fn probe(out: &Path) -> Result<(), CliError> {
    if curves::is_file(out) {
        let parent = out.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let failed = |source| CliError::File { action: "write", path: out.to_owned(), source };
        std::fs::create_dir_all(parent).map_err(failed)?;
        tempfile::Builder::new().prefix(".tfjs-").tempfile_in(parent).map(drop).map_err(failed)
    } else {
        DirectorySink::create(out)?;
        Ok(())
    }
}
