//! `--x`, `--y` and their kin: an array per input and output.

use tfjs_kernels::Tensor;
use tfjs_layers::{Batch, LayersModel};

use crate::{CliError, files, inputs::InputArg, npy};

/// Samples, labels and weights of samples, in the model's order.
pub(super) fn read(
    model: &LayersModel,
    flags: [&'static str; 3],
    [x, y, weights]: [&[InputArg]; 3],
) -> Result<Batch, CliError> {
    let (inputs, outputs) = (model.input_names(), model.output_names());
    let mut samples = Vec::with_capacity(inputs.len());
    for (name, tensor) in inputs.iter().zip(by_name("input", &inputs, x)?) {
        samples.push(tensor.ok_or_else(|| CliError::NotGiven {
            what: "input",
            name: name.clone(),
            flag: flags[0],
        })?);
    }
    let y = by_name("output", &outputs, y)?;
    let sample_weight = match weights {
        // One array counts for all outputs.
        [one] if one.name.is_none() => vec![Some(array(one)?)],
        [] => Vec::new(),
        all => by_name("output", &outputs, all)?,
    };
    Ok(Batch { x: samples, y, sample_weight })
}

/// Arrays by the names that they are for.
fn by_name(what: &'static str, names: &[String], args: &[InputArg]) -> Result<Vec<Option<Tensor>>, CliError> {
    let mut found = vec![None; names.len()];
    for arg in args {
        let at =
            match (&arg.name, names) {
                (Some(name), _) => names.iter().position(|n| n == name).ok_or_else(|| {
                    CliError::NoSuchName { what, name: name.clone(), known: names.to_vec() }
                })?,
                (None, [_]) => 0,
                (None, _) => {
                    return Err(CliError::UnnamedInput { path: arg.path.clone(), known: names.to_vec() });
                }
            };
        if found[at].is_some() {
            return Err(CliError::Twice { what, name: names[at].clone() });
        }
        found[at] = Some(array(arg)?);
    }
    Ok(found)
}

fn array(arg: &InputArg) -> Result<Tensor, CliError> {
    npy::read(&files::read(&arg.path)?).map_err(|source| CliError::Array { path: arg.path.clone(), source })
}
