//! `--input NAME=FILE`: arrays and pictures as tensors.

use std::{io::Cursor, path::PathBuf};

use tfjs_graph::{GraphModel, TensorInfo};
use tfjs_kernels::Tensor;

use crate::{
    CliError, files,
    image::{self, Normalise},
    npy,
};

/// An `--input` as typed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct InputArg {
    /// Signature key, node or tensor name.
    pub(crate) name: Option<String>,
    pub(crate) path: PathBuf,
}

impl InputArg {
    /// Splits at the first `=`: names hold none, paths may.
    pub(crate) fn parse(text: &str) -> Result<InputArg, String> {
        let (name, path) = match text.split_once('=') {
            Some(("", _)) => return Err("the name before `=` is empty".to_owned()),
            Some((name, path)) => (Some(name.to_owned()), path),
            None => (None, text),
        };
        if path.is_empty() {
            return Err("expected NAME=FILE".to_owned());
        }
        Ok(InputArg { name, path: path.into() })
    }
}

/// The tensors of all inputs.
///
/// # Errors
/// When a file cannot be read, or it is not clear which input it is for.
pub(crate) fn load(
    args: &[InputArg],
    model: &GraphModel,
    normalise: &Normalise,
) -> Result<Vec<(String, Tensor)>, CliError> {
    let mut tensors = Vec::with_capacity(args.len());
    for arg in args {
        let bytes = files::read(&arg.path)?;
        let array_error = |source| CliError::Array { path: arg.path.clone(), source };
        if npy::is_npy(&bytes) {
            tensors.push((name(arg, model)?, npy::read(&bytes).map_err(array_error)?));
        } else if bytes.starts_with(b"PK") {
            let arrays = npy::read_zip(Cursor::new(bytes)).map_err(array_error)?;
            match &arg.name {
                None => tensors.extend(arrays),
                Some(name) => tensors.push((name.clone(), pick(arg, name, arrays)?)),
            }
        } else {
            let name = name(arg, model)?;
            let info = info(model, &name);
            let shape = info.and_then(|i| i.shape.as_deref());
            let tensor =
                image::read(bytes, info.and_then(|i| i.dtype), shape, normalise).map_err(|source| {
                    CliError::Picture { input: name.clone(), path: arg.path.clone(), source }
                })?;
            tensors.push((name, tensor));
        }
    }
    Ok(tensors)
}

/// The input that a file is for: the one named, or the model's only one.
fn name(arg: &InputArg, model: &GraphModel) -> Result<String, CliError> {
    match (&arg.name, model.inputs()) {
        (Some(name), _) => Ok(name.clone()),
        (None, [only]) => Ok(only.key.clone()),
        (None, all) => Err(CliError::UnnamedInput {
            path: arg.path.clone(),
            known: all.iter().map(|i| i.key.clone()).collect(),
        }),
    }
}

fn pick(arg: &InputArg, name: &str, mut arrays: Vec<(String, Tensor)>) -> Result<Tensor, CliError> {
    let bare = name.strip_suffix(":0").unwrap_or(name);
    let at = arrays.iter().position(|(n, _)| n == name || n == bare).or((arrays.len() == 1).then_some(0));
    match at {
        Some(at) => Ok(arrays.swap_remove(at).1),
        None => Err(CliError::NoSuchArray {
            path: arg.path.clone(),
            input: name.to_owned(),
            found: arrays.into_iter().map(|(n, _)| n).collect(),
        }),
    }
}

fn info<'m>(model: &'m GraphModel, name: &str) -> Option<&'m TensorInfo> {
    let bare = name.strip_suffix(":0").unwrap_or(name);
    model
        .inputs()
        .iter()
        .find(|i| i.key == name || i.name == name || i.name.strip_suffix(":0").unwrap_or(&i.name) == bare)
}

#[cfg(test)]
mod tests {
    use super::InputArg;

    #[test]
    fn a_name_ends_at_the_first_equals_sign() {
        let parsed = InputArg::parse("scope/in:0=dir/a=b.npy").unwrap();
        assert_eq!(parsed.name.as_deref(), Some("scope/in:0"));
        assert_eq!(parsed.path.to_str(), Some("dir/a=b.npy"));
        assert_eq!(InputArg::parse("cat.jpg").unwrap().name, None);
        assert!(InputArg::parse("x=").is_err());
        assert!(InputArg::parse("=x").is_err());
    }
}
