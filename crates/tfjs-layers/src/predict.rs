//! Predictions for inputs longer than one batch.

use tfjs_graph::Outputs;
use tfjs_kernels::{Element, Tensor, TensorOf};
use tracing::debug;

use crate::{LayersError, LayersModel};

type Result<T> = std::result::Result<T, LayersError>;

/// How long inputs are cut into batches.
pub struct PredictOptions<'p> {
    /// Samples per batch, 32 as in Keras.
    pub batch_size: usize,
    /// Told after each batch how many samples are done, of how many.
    pub progress: Option<&'p mut dyn FnMut(usize, usize)>,
}

impl Default for PredictOptions<'_> {
    fn default() -> Self {
        PredictOptions { batch_size: 32, progress: None }
    }
}

impl std::fmt::Debug for PredictOptions<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PredictOptions").field("batch_size", &self.batch_size).finish_non_exhaustive()
    }
}

/// The inputs of a model, in order.
#[derive(Clone, Debug)]
pub struct Inputs(Vec<Tensor>);

impl Inputs {
    pub(crate) fn into_vec(self) -> Vec<Tensor> {
        self.0
    }
}

impl From<Tensor> for Inputs {
    fn from(tensor: Tensor) -> Inputs {
        Inputs(vec![tensor])
    }
}

impl From<Vec<Tensor>> for Inputs {
    fn from(tensors: Vec<Tensor>) -> Inputs {
        Inputs(tensors)
    }
}

impl<const N: usize> From<[Tensor; N]> for Inputs {
    fn from(tensors: [Tensor; N]) -> Inputs {
        Inputs(tensors.into())
    }
}

impl LayersModel {
    /// Predictions for any number of samples, in batches of 32: one tensor or several as inputs, one tensor per output.
    ///
    /// ```no_run
    /// use tfjs_layers::LayersModel;
    /// # let images = tfjs_kernels::Tensor::zeros(tfjs_kernels::DType::Float32, [100, 28, 28, 1]).unwrap();
    /// let model = LayersModel::open("mnist")?;
    /// let scores = model.predict(images)?.remove(0);
    /// # Ok::<(), tfjs_layers::LayersError>(())
    /// ```
    ///
    /// # Errors
    /// When inputs are missing, do not fit, or have different numbers of samples.
    pub fn predict(&self, inputs: impl Into<Inputs>) -> Result<Vec<Tensor>> {
        self.predict_with(inputs, PredictOptions::default())
    }

    /// As [`LayersModel::predict`], with another size of batches, or to be told how far it is.
    ///
    /// # Errors
    /// As [`LayersModel::predict`].
    pub fn predict_with(
        &self,
        inputs: impl Into<Inputs>,
        mut options: PredictOptions<'_>,
    ) -> Result<Vec<Tensor>> {
        let Inputs(inputs) = inputs.into();
        let names = self.input_names();
        if inputs.len() != names.len() {
            let (wanted, given) = (names.len(), inputs.len());
            return Err(LayersError::Inputs(format!(
                "the model takes {wanted} inputs ({}), {given} were given",
                names.join(", ")
            )));
        }
        let samples = inputs.first().and_then(|t| t.dims().first().copied()).unwrap_or(0);
        let same = inputs.iter().all(|t| t.dims().first() == Some(&samples));
        if !same {
            let shapes: Vec<String> = inputs.iter().map(|t| format!("{:?}", t.dims())).collect();
            return Err(LayersError::Inputs(format!(
                "all inputs need the same number of samples, they have shapes {}",
                shapes.join(", ")
            )));
        }
        let batch = options.batch_size.max(1);
        let mut parts: Vec<Vec<Tensor>> = Vec::new();
        let mut begin = 0usize;
        loop {
            let end = begin.saturating_add(batch).min(samples);
            let feeds: Result<Vec<(&String, Tensor)>> = names
                .iter()
                .zip(&inputs)
                .map(|(name, t)| {
                    Ok((name, if begin == 0 && end == samples { t.clone() } else { rows(t, begin, end)? }))
                })
                .collect();
            let outputs: Outputs = self.run(feeds?)?;
            parts.push(outputs.into_tensors());
            if let Some(progress) = options.progress.as_mut() {
                progress(end, samples);
            }
            begin = end;
            if begin >= samples {
                break;
            }
        }
        debug!(samples, batches = parts.len(), "predicted");
        if parts.len() == 1 {
            return Ok(parts.remove(0));
        }
        let outputs = parts.first().map_or(0, Vec::len);
        (0..outputs).map(|k| joined(&parts.iter().map(|p| &p[k]).collect::<Vec<_>>())).collect()
    }
}

/// Rows `begin..end` of a tensor.
pub(crate) fn rows(tensor: &Tensor, begin: usize, end: usize) -> Result<Tensor> {
    let mut shape = tensor.dims().to_vec();
    let row: usize = shape.iter().skip(1).product();
    if let Some(first) = shape.first_mut() {
        *first = end - begin;
    }
    let range = begin * row..end * row;
    Ok(match tensor {
        Tensor::F32(t) => Tensor::new(&shape[..], t.data()[range].to_vec())?,
        Tensor::I32(t) => Tensor::new(&shape[..], t.data()[range].to_vec())?,
        Tensor::Bool(t) => Tensor::new(&shape[..], t.data()[range].to_vec())?,
        Tensor::Str(t) => Tensor::new(&shape[..], t.data()[range].to_vec())?,
        Tensor::C64(t) => Tensor::new(&shape[..], t.data()[range].to_vec())?,
    })
}

/// Tensors one after the other along their first axis.
fn joined(parts: &[&Tensor]) -> Result<Tensor> {
    fn data<T: Element>(parts: &[&Tensor], pick: impl Fn(&Tensor) -> Option<&TensorOf<T>>) -> Vec<T> {
        parts.iter().filter_map(|t| pick(t)).flat_map(|t| t.data().to_vec()).collect()
    }
    let mut shape = parts.first().map(|t| t.dims().to_vec()).unwrap_or_default();
    let alike =
        parts.iter().all(|t| t.dims().get(1..) == shape.get(1..) && t.rank() == shape.len() && t.rank() > 0);
    if !alike {
        return Err(LayersError::Inputs(
            "an output differs in shape from batch to batch; predict all samples as one batch".to_owned(),
        ));
    }
    shape[0] = parts.iter().map(|t| t.dims()[0]).sum();
    macro_rules! join {
        ($variant:ident) => {
            Tensor::new(
                &shape[..],
                data(parts, |t| if let Tensor::$variant(t) = t { Some(t) } else { None }),
            )?
        };
    }
    Ok(match parts[0] {
        Tensor::F32(_) => join!(F32),
        Tensor::I32(_) => join!(I32),
        Tensor::Bool(_) => join!(Bool),
        Tensor::Str(_) => join!(Str),
        Tensor::C64(_) => join!(C64),
    })
}
