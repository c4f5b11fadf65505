//! A folder of folders of pictures: each folder is a class.

use std::{
    fs,
    path::{Path, PathBuf},
};

use tfjs_kernels::{DType, Tensor};
use tfjs_layers::{Batch, Dataset, LayersError, LayersModel};

use crate::{
    CliError,
    image::{self, Normalise},
    random::Order,
};

/// Extensions of pictures that are read.
const EXTENSIONS: [&str; 6] = ["jpg", "jpeg", "png", "gif", "bmp", "webp"];

/// Pictures with their classes, read when they are needed.
#[derive(Clone, Debug)]
pub(crate) struct Folder {
    /// Names of the classes, in order.
    pub(crate) classes: Vec<String>,
    /// Whether labels are rows with a one, instead of numbers.
    pub(crate) one_hot: bool,
    files: Vec<(PathBuf, usize)>,
    dtype: Option<DType>,
    /// The input's shape.
    shape: Vec<Option<usize>>,
    normalise: Normalise,
}

impl Folder {
    pub(crate) fn open(path: &Path, normalise: Normalise, model: &LayersModel) -> Result<Folder, CliError> {
        let wrong = |problem: String| CliError::Images { path: path.to_owned(), problem };
        let facts = model.network().input_facts()?;
        let [input] = facts.as_slice() else {
            return Err(wrong(format!(
                "pictures are for models with one input, this one has {}",
                facts.len()
            )));
        };
        let mut classes = Vec::new();
        let mut files = Vec::new();
        for folder in entries(path)?.into_iter().filter(|p| p.is_dir()) {
            let mut found = Vec::new();
            pictures(&folder, &mut found)?;
            if found.is_empty() {
                return Err(CliError::Images {
                    path: folder,
                    problem: format!("no pictures are in it; {} are read", EXTENSIONS.join(", ")),
                });
            }
            files.extend(found.into_iter().map(|file| (file, classes.len())));
            classes.push(folder.file_name().unwrap_or_default().to_string_lossy().into_owned());
        }
        if classes.is_empty() {
            return Err(wrong("no folders are in it; one with pictures is expected per class".to_owned()));
        }
        let shape = input.shape.clone().unwrap_or_default();
        let this = Folder { classes, one_hot: false, files, dtype: input.dtype, shape, normalise };
        this.check()?;
        Ok(this)
    }

    /// Whether all files are pictures, and of one size where the model does not give one.
    fn check(&self) -> Result<(), CliError> {
        let mut first: Option<(&Path, (u32, u32))> = None;
        let sized = self.shape.len() == 4 && self.shape.iter().skip(1).filter(|d| d.is_some()).count() == 3;
        for (file, _) in &self.files {
            let size = image::size(file).map_err(|source| CliError::Image { path: file.clone(), source })?;
            match first {
                None => first = Some((file, size)),
                Some((other, expected)) if !sized && size != expected => {
                    return Err(CliError::Images {
                        path: file.clone(),
                        problem: format!(
                            "it has {}×{} pixels, {} has {}×{}, and the model takes any size: make them alike",
                            size.0,
                            size.1,
                            other.display(),
                            expected.0,
                            expected.1
                        ),
                    });
                }
                Some(_) => {}
            }
        }
        // One picture tells whether pictures fit at all.
        self.files.first().map_or(Ok(()), |(file, _)| self.picture(file).map(drop))
    }

    pub(crate) fn samples(&self) -> usize {
        self.files.len()
    }

    /// Takes a part of the pictures away, at random.
    pub(crate) fn split(mut self, part: f64, seed: i32) -> Result<(Folder, Folder), CliError> {
        let mut order = Order::new(seed, 0);
        order.shuffle(&mut self.files);
        let train = (self.files.len() as f64 * (1.0 - part)).floor() as usize;
        if train == 0 || train == self.files.len() {
            return Err(CliError::Value {
                flag: "--validation-split",
                given: part.to_string(),
                expected: "a part that leaves pictures to train with and to validate with",
            });
        }
        let rest = self.files.split_off(train);
        Ok((self.clone(), Folder { files: rest, ..self }))
    }

    pub(crate) fn in_batches(self, size: usize, shuffle: Option<i32>) -> Pictures {
        Pictures { order: (0..self.files.len()).collect(), folder: self, size, shuffle, at: 0 }
    }

    fn picture(&self, file: &Path) -> Result<Tensor, CliError> {
        let failed = |source| CliError::Image { path: file.to_owned(), source };
        let bytes = crate::files::read(file)?;
        image::read(bytes, self.dtype, Some(&self.shape), &self.normalise).map_err(failed)
    }

    fn batch(&self, which: &[usize]) -> Result<Batch, CliError> {
        let mut data: Vec<f32> = Vec::new();
        let mut dims = Vec::new();
        let mut labels = Vec::with_capacity(which.len());
        for &i in which {
            let (file, class) = &self.files[i];
            let picture = self.picture(file)?;
            dims = picture.dims().to_vec();
            match &picture {
                Tensor::I32(t) => data.extend(t.data().iter().map(|v| *v as f32)),
                other => data.extend(other.data::<f32>().map_err(LayersError::from)?),
            }
            labels.push(*class);
        }
        if let Some(first) = dims.first_mut() {
            *first = which.len();
        }
        let x = Tensor::new(dims, data).map_err(LayersError::from)?;
        let n = self.classes.len();
        let y = if self.one_hot {
            let rows = labels.iter().flat_map(|&l| (0..n).map(move |c| if c == l { 1f32 } else { 0.0 }));
            Tensor::new([labels.len(), n], rows.collect::<Vec<f32>>()).map_err(LayersError::from)?
        } else {
            Tensor::vector(labels.iter().map(|&l| i32::try_from(l).unwrap_or(i32::MAX)).collect::<Vec<_>>())
        };
        Ok(Batch::new(x, y))
    }
}

/// Batches of pictures.
#[derive(Debug)]
pub(crate) struct Pictures {
    folder: Folder,
    size: usize,
    /// Another order in every epoch, by this seed.
    shuffle: Option<i32>,
    order: Vec<usize>,
    at: usize,
}

impl Dataset for Pictures {
    fn start(&mut self, epoch: usize) -> Result<(), LayersError> {
        self.at = 0;
        self.order = (0..self.folder.samples()).collect();
        if let Some(seed) = self.shuffle {
            Order::new(seed, epoch as u64 + 1).shuffle(&mut self.order);
        }
        Ok(())
    }

    fn next_batch(&mut self) -> Result<Option<Batch>, LayersError> {
        let end = self.at.saturating_add(self.size).min(self.order.len());
        let which = &self.order[self.at.min(end)..end];
        if which.is_empty() {
            return Ok(None);
        }
        self.at = end;
        self.folder.batch(which).map(Some).map_err(|e| LayersError::Callback(Box::new(e)))
    }

    fn batches(&self) -> Option<usize> {
        Some(self.folder.samples().div_ceil(self.size))
    }
}

/// What a folder holds, in the order of names.
fn entries(path: &Path) -> Result<Vec<PathBuf>, CliError> {
    let failed = |source| CliError::File { action: "read", path: path.to_owned(), source };
    let mut found = Vec::new();
    for entry in fs::read_dir(path).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        if !entry.file_name().to_string_lossy().starts_with('.') {
            found.push(entry.path());
        }
    }
    found.sort();
    Ok(found)
}

/// The pictures below a folder.
fn pictures(folder: &Path, found: &mut Vec<PathBuf>) -> Result<(), CliError> {
    for path in entries(folder)? {
        if path.is_dir() {
            pictures(&path, found)?;
        } else if path
            .extension()
            .is_some_and(|e| EXTENSIONS.contains(&e.to_string_lossy().to_lowercase().as_str()))
        {
            found.push(path);
        }
    }
    Ok(())
}
