//! Data to train and evaluate with: arrays, tables, folders of pictures.

mod arrays;
mod images;
mod table;

use std::{num::NonZeroUsize, path::Path};

use tfjs_kernels::Tensor;
use tfjs_layers::{Arrays, Batch, Dataset, LayersModel};

pub(crate) use self::images::Folder;
use crate::{CliError, args::DataArgs, inputs::InputArg};

/// Samples with their labels.
pub(crate) enum Data {
    /// In memory.
    Arrays(Batch),
    /// Pictures, read when they are needed.
    Images(Folder),
}

/// What labels look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LabelKind {
    /// Whole numbers, one for each sample or step.
    Classes,
    /// Zeros and a one.
    OneHot,
    /// Zeros and ones.
    Binary,
    /// Any numbers.
    Numbers,
}

impl Data {
    /// What the arguments name.
    ///
    /// # Errors
    /// When nothing is named, a file cannot be read, or does not fit the model.
    pub(crate) fn read(args: &DataArgs, model: &LayersModel) -> Result<Data, CliError> {
        if let Some(path) = &args.csv {
            let label = args.label.as_deref().unwrap_or_default();
            return Ok(Data::Arrays(table::read(path, label, model)?));
        }
        if let Some(path) = &args.images {
            return Ok(Data::Images(Folder::open(path, args.normalise.clone(), model)?));
        }
        if args.x.is_empty() {
            return Err(CliError::NoData { missing: "give samples with --x, --csv or --images" });
        }
        if args.y.is_empty() && model.output_names().len() == 1 {
            return Err(CliError::NoData { missing: "give labels with --y" });
        }
        Ok(Data::Arrays(arrays::read(
            model,
            ["--x", "--y", "--sample-weight"],
            [&args.x, &args.y, &args.sample_weight],
        )?))
    }

    /// Other samples for validation.
    ///
    /// # Errors
    /// As [`Data::read`].
    pub(crate) fn validation(
        x: &[InputArg],
        y: &[InputArg],
        model: &LayersModel,
    ) -> Result<Option<Data>, CliError> {
        if x.is_empty() {
            return Ok(None);
        }
        let flags = ["--validation-x", "--validation-y", "--sample-weight"];
        Ok(Some(Data::Arrays(arrays::read(model, flags, [x, y, &[]])?)))
    }

    /// A table for validation, with the columns of the first.
    ///
    /// # Errors
    /// As [`Data::read`].
    pub(crate) fn table(path: &Path, args: &DataArgs, model: &LayersModel) -> Result<Data, CliError> {
        Ok(Data::Arrays(table::read(path, args.label.as_deref().unwrap_or_default(), model)?))
    }

    /// Pictures for validation, of the same classes.
    ///
    /// # Errors
    /// As [`Data::read`].
    pub(crate) fn pictures(path: &Path, args: &DataArgs, model: &LayersModel) -> Result<Data, CliError> {
        Ok(Data::Images(Folder::open(path, args.normalise.clone(), model)?))
    }

    /// What the labels of the first output look like.
    pub(crate) fn labels(&self, output: usize) -> Option<(LabelKind, Vec<usize>)> {
        match self {
            Data::Images(folder) => Some((LabelKind::Classes, vec![folder.samples()])),
            Data::Arrays(batch) => {
                let y = batch.y.get(output)?.as_ref()?;
                Some((kind(y), y.dims().to_vec()))
            }
        }
    }

    /// Number of samples.
    pub(crate) fn samples(&self) -> usize {
        match self {
            Data::Arrays(batch) => batch.samples(),
            Data::Images(folder) => folder.samples(),
        }
    }

    /// The data batch by batch, in their own order.
    pub(crate) fn batches(self, size: NonZeroUsize) -> Box<dyn Dataset> {
        match self {
            Data::Arrays(batch) => Box::new(Arrays::new(batch, size.get())),
            Data::Images(folder) => Box::new(folder.in_batches(size.get(), None)),
        }
    }
}

fn kind(y: &Tensor) -> LabelKind {
    let rows = y.dims().last().copied().unwrap_or(1).max(1);
    let (whole, binary, one) = match y {
        Tensor::F32(t) => {
            let d = t.data();
            (
                d.iter().all(|v| v.fract() == 0.0 && *v >= 0.0),
                d.iter().all(|v| *v == 0.0 || *v == 1.0),
                d.chunks(rows).all(|r| r.iter().sum::<f32>() == 1.0),
            )
        }
        Tensor::I32(t) => {
            let d = t.data();
            (
                d.iter().all(|v| *v >= 0),
                d.iter().all(|v| *v == 0 || *v == 1),
                d.chunks(rows).all(|r| r.iter().map(|v| i64::from(*v)).sum::<i64>() == 1),
            )
        }
        Tensor::Bool(t) => (true, true, t.data().chunks(rows).all(|r| r.iter().filter(|v| **v).count() == 1)),
        _ => (false, false, false),
    };
    match (whole, binary, one) {
        (_, true, true) if rows > 1 => LabelKind::OneHot,
        (_, true, _) => LabelKind::Binary,
        (true, ..) => LabelKind::Classes,
        _ => LabelKind::Numbers,
    }
}
