//! What one step takes.

use std::collections::BTreeMap;

use serde_json::Value;
use tfjs_format::proto::DataType;
use tfjs_kernels::{DType, Tensor, cast};

use crate::{Dialect, LayersError, LayersModel};

type Result<T> = std::result::Result<T, LayersError>;

/// Samples with their labels.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    /// One tensor per input of the model, `[samples, …]`.
    pub x: Vec<Tensor>,
    /// Labels, one tensor per output that has a loss or metrics, in the outputs' order; or one per output.
    pub y: Vec<Option<Tensor>>,
    /// How much each sample counts, per output: `[samples]`, or `[samples, steps]` for values over time. One alone
    /// counts for all outputs.
    pub sample_weight: Vec<Option<Tensor>>,
}

/// How much the samples of each class count.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ClassWeight(pub BTreeMap<i64, f32>);

impl ClassWeight {
    /// From Keras's form: `{"0": 0.4, "1": 3.0}`.
    ///
    /// # Errors
    /// When a key is no class or a value no number.
    pub fn from_config(value: &Value) -> Result<ClassWeight> {
        let wrong = || {
            LayersError::Training(format!(
                "`class_weight` is {value}; an object of classes and numbers is expected, such as {{\"0\": 0.5, \"1\": 2.0}}"
            ))
        };
        let map = value.as_object().ok_or_else(wrong)?;
        let pair = |(k, v): (&String, &Value)| Some((k.trim().parse::<i64>().ok()?, v.as_f64()? as f32));
        let pairs = map.iter().map(|p| pair(p).ok_or_else(wrong)).collect::<Result<_>>()?;
        Ok(ClassWeight(pairs))
    }

    /// The weight of each sample, by its label.
    fn of(&self, y: &Tensor) -> Result<Vec<f32>> {
        let refuse = |problem: String| Err(LayersError::Training(problem));
        let dims = y.dims();
        let width = match dims {
            [_] => 1,
            [_, width] => *width,
            _ => {
                return refuse(format!(
                    "`class_weight` needs labels of one class per sample, they have shape {dims:?}; give `sample_weight` instead"
                ));
            }
        };
        let values = cast::cast(y.clone(), DataType::DtFloat, true)?;
        let values = values.data::<f32>()?;
        let class = |row: &[f32]| match row {
            [one] => *one as i64,
            // The first of the largest, as ArgMax has it.
            _ => {
                row.iter()
                    .enumerate()
                    .rev()
                    .fold(
                        (0, f32::NEG_INFINITY),
                        |best, (i, &v)| {
                            if v >= best.1 { (i as i64, v) } else { best }
                        },
                    )
                    .0
            }
        };
        // Classes without a weight count once, as in Keras.
        Ok(values.chunks(width.max(1)).map(|row| self.0.get(&class(row)).copied().unwrap_or(1.0)).collect())
    }
}

impl Batch {
    /// Samples and labels of a model with one input and one output.
    pub fn new(x: Tensor, y: Tensor) -> Batch {
        Batch { x: vec![x], y: vec![Some(y)], sample_weight: Vec::new() }
    }

    /// The same, with a weight for each sample.
    #[must_use]
    pub fn weighted(self, weight: Tensor) -> Batch {
        Batch { sample_weight: vec![Some(weight)], ..self }
    }

    /// Number of samples.
    pub fn samples(&self) -> usize {
        self.x.first().and_then(|t| t.dims().first().copied()).unwrap_or(0)
    }

    /// Weighs samples by the class of their label, besides the weights that they have.
    ///
    /// # Errors
    /// When there are several outputs, or labels that are not classes.
    pub fn weighted_by_class(mut self, weights: &ClassWeight) -> Result<Batch> {
        let [Some(y)] = self.y.as_slice() else {
            return Err(LayersError::Training("`class_weight` is for models with one output".to_owned()));
        };
        let mut values = weights.of(y)?;
        if let Some(Some(given)) = self.sample_weight.first() {
            let given = cast::cast(given.clone(), DataType::DtFloat, true)?;
            if given.len() != values.len() {
                let problem = format!(
                    "`sample_weight` has shape {}, with `class_weight` it must be [{}]",
                    given.shape(),
                    values.len()
                );
                return Err(LayersError::Training(problem));
            }
            values.iter_mut().zip(given.data::<f32>()?).for_each(|(v, g)| *v *= g);
        }
        self.sample_weight = vec![Some(Tensor::vector(values))];
        Ok(self)
    }

    /// The batch as the step's graph takes it: inputs of the model's types, labels with at least two axes, numbers of
    /// samples that agree.
    pub(super) fn prepared(&self, model: &LayersModel) -> Result<Batch> {
        let (names, facts) = (model.input_names(), model.network().input_facts()?);
        if self.x.len() != names.len() {
            return Err(LayersError::Training(format!(
                "the model takes {} inputs ({}), {} were given",
                names.len(),
                names.join(", "),
                self.x.len()
            )));
        }
        let mut x = Vec::with_capacity(self.x.len());
        for ((tensor, fact), name) in self.x.iter().zip(&facts).zip(&names) {
            let mut tensor =
                as_type(tensor, fact.dtype.unwrap_or(DType::Float32), &format!("input `{name}`"))?;
            let rank = fact.rank().unwrap_or(tensor.rank());
            // Keras gives vectors a second axis where the model wants one.
            if tensor.rank() == 1 && rank == 2 {
                let n = tensor.len();
                tensor = tensor.reshape([n, 1])?;
            }
            let fits = fact.shape.as_ref().is_none_or(|dims| {
                dims.len() == tensor.rank()
                    && dims.iter().zip(tensor.dims()).all(|(d, n)| d.is_none_or(|d| d == *n))
            });
            if !fits {
                return Err(LayersError::Training(format!(
                    "input `{name}` has shape {}, the model expects {fact}",
                    tensor.shape()
                )));
            }
            x.push(tensor);
        }
        let samples = x.first().and_then(|t| t.dims().first().copied()).unwrap_or(0);
        if samples == 0 {
            return Err(LayersError::Training("the batch holds no samples".to_owned()));
        }
        let labels: Vec<Option<Tensor>> = self
            .y
            .iter()
            .map(|y| y.as_ref().map(|y| label(y, model.dialect)).transpose())
            .collect::<Result<_>>()?;
        let outputs = model.output_names();
        let weights = match &self.sample_weight[..] {
            [one] if outputs.len() > 1 => vec![one.clone(); outputs.len()],
            some => some.to_vec(),
        };
        let weights: Vec<Option<Tensor>> = weights
            .iter()
            .map(|w| w.as_ref().map(|w| as_type(w, DType::Float32, "`sample_weight`")).transpose())
            .collect::<Result<_>>()?;
        let all = x.iter().map(|t| ("an input", t));
        let all = all.chain(labels.iter().flatten().map(|t| ("a label", t)));
        for (what, t) in all.chain(weights.iter().flatten().map(|t| ("`sample_weight`", t))) {
            if t.dims().first() != Some(&samples) {
                return Err(LayersError::Training(format!(
                    "all inputs, labels and weights need the same number of samples: the first input has {samples}, {what} has shape {}",
                    t.shape()
                )));
            }
        }
        Ok(Batch { x, y: labels, sample_weight: weights })
    }
}

/// Labels of rank 1 get a second axis in Keras 2; Keras 3 lets losses and metrics do it.
fn label(y: &Tensor, dialect: Dialect) -> Result<Tensor> {
    if y.rank() == 1 && dialect != Dialect::Keras3 {
        return Ok(y.clone().reshape([y.len(), 1])?);
    }
    Ok(y.clone())
}

fn as_type(tensor: &Tensor, dtype: DType, what: &str) -> Result<Tensor> {
    if tensor.dtype() == dtype {
        return Ok(tensor.clone());
    }
    let text = |d: DType| d == DType::String;
    if text(tensor.dtype()) || text(dtype) {
        return Err(LayersError::Training(format!("{what} holds {}, {dtype} is expected", tensor.dtype())));
    }
    Ok(cast::cast(tensor.clone(), dtype.to_proto(), true)?)
}
