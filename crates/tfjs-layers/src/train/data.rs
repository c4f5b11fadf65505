//! Where batches come from.

use tfjs_kernels::Tensor;
use tfjs_kernels::{Element, TensorOf, random};

use super::Batch;
use crate::LayersError;

type Result<T> = std::result::Result<T, LayersError>;

/// Batches, epoch by epoch: data in memory ([`Arrays`]), or anything that makes them while training goes on. It runs in a
/// thread of its own, a few batches ahead.
pub trait Dataset: Send {
    /// Begins an epoch. With [`FitOptions::steps_per_epoch`](crate::FitOptions), the number is that of the pass over the
    /// data.
    ///
    /// # Errors
    /// When the data cannot be read.
    fn start(&mut self, epoch: usize) -> Result<()>;

    /// The next batch; `None` at the end of the epoch.
    ///
    /// # Errors
    /// When the data cannot be read.
    fn next_batch(&mut self) -> Result<Option<Batch>>;

    /// Batches per epoch, if that is known.
    fn batches(&self) -> Option<usize> {
        None
    }
}

/// A data set from a function that starts an iterator over the batches of an epoch.
///
/// ```
/// use tfjs_layers::{Batch, LayersError, Stream};
/// let batches = |_epoch| (0..3).map(|_| Ok::<_, LayersError>(Batch::default()));
/// let dataset = Stream::new(batches);
/// ```
#[derive(Debug)]
pub struct Stream<F, I> {
    begin: F,
    current: Option<I>,
}

impl<F: FnMut(usize) -> I + Send, I: Iterator<Item = Result<Batch>> + Send> Stream<F, I> {
    /// From a function of the epoch's number.
    pub fn new(begin: F) -> Stream<F, I> {
        Stream { begin, current: None }
    }
}

impl<F: FnMut(usize) -> I + Send, I: Iterator<Item = Result<Batch>> + Send> Dataset for Stream<F, I> {
    fn start(&mut self, epoch: usize) -> Result<()> {
        self.current = Some((self.begin)(epoch));
        Ok(())
    }

    fn next_batch(&mut self) -> Result<Option<Batch>> {
        self.current.as_mut().and_then(Iterator::next).transpose()
    }
}

/// Data in memory.
#[derive(Clone, Debug, Default)]
pub struct Arrays {
    /// All samples; `sample_weight` as long as they.
    pub data: Batch,
    /// Samples per batch.
    pub batch_size: usize,
    /// Another order in every epoch, by this seed.
    pub shuffle: Option<i32>,
    order: Vec<i32>,
    at: usize,
}

impl Arrays {
    /// Data in their own order.
    pub fn new(data: Batch, batch_size: usize) -> Arrays {
        Arrays { data, batch_size: batch_size.max(1), ..Arrays::default() }
    }

    /// Data in another order in every epoch. The order follows from the seed and the number of the epoch.
    #[must_use]
    pub fn shuffled(self, seed: i32) -> Arrays {
        Arrays { shuffle: Some(seed), ..self }
    }

    /// The first `samples` and the rest, as `validation_split` parts them: before they are shuffled.
    pub(crate) fn split(data: &Batch, samples: usize) -> Result<(Batch, Batch)> {
        let total = data.samples();
        Ok((part(data, 0, samples)?, part(data, samples, total)?))
    }
}

impl Dataset for Arrays {
    fn start(&mut self, epoch: usize) -> Result<()> {
        let samples = self.data.samples();
        let tensors = self
            .data
            .x
            .iter()
            .chain(self.data.y.iter().flatten())
            .chain(self.data.sample_weight.iter().flatten());
        for t in tensors {
            if t.dims().first() != Some(&samples) {
                return Err(LayersError::Training(format!(
                    "all inputs, labels and weights need the same number of samples: the first input has {samples}, another has shape {}",
                    t.shape()
                )));
            }
        }
        self.at = 0;
        self.order.clear();
        if let Some(seed) = self.shuffle {
            let indices = Tensor::vector((0..samples as i32).collect::<Vec<i32>>());
            let stream = random::Philox::stateless(i64::from(seed), epoch as i64 + 1);
            self.order = random::shuffle(stream, &indices)?.data::<i32>()?.to_vec();
        }
        Ok(())
    }

    fn next_batch(&mut self) -> Result<Option<Batch>> {
        let (begin, end) = (self.at, self.at.saturating_add(self.batch_size).min(self.data.samples()));
        if begin >= end {
            return Ok(None);
        }
        self.at = end;
        if self.order.is_empty() {
            part(&self.data, begin, end)
        } else {
            pick(&self.data, &self.order[begin..end])
        }
        .map(Some)
    }

    fn batches(&self) -> Option<usize> {
        Some(self.data.samples().div_ceil(self.batch_size))
    }
}

/// Every tensor of a batch changed.
fn map(batch: &Batch, f: impl Fn(&Tensor) -> Result<Tensor>) -> Result<Batch> {
    let optional = |t: &Option<Tensor>| t.as_ref().map(&f).transpose();
    Ok(Batch {
        x: batch.x.iter().map(&f).collect::<Result<_>>()?,
        y: batch.y.iter().map(optional).collect::<Result<_>>()?,
        sample_weight: batch.sample_weight.iter().map(optional).collect::<Result<_>>()?,
    })
}

fn part(batch: &Batch, begin: usize, end: usize) -> Result<Batch> {
    map(batch, |t| crate::predict::rows(t, begin, end))
}

/// Samples by their numbers.
fn pick(batch: &Batch, order: &[i32]) -> Result<Batch> {
    fn gather<T: Element>(t: &TensorOf<T>, order: &[i32]) -> Result<Tensor> {
        let mut dims = t.dims().to_vec();
        let row: usize = dims.iter().skip(1).product();
        let mut data = Vec::with_capacity(order.len() * row);
        for &i in order {
            let begin = i as usize * row;
            data.extend_from_slice(&t.data()[begin..begin + row]);
        }
        if let Some(first) = dims.first_mut() {
            *first = order.len();
        }
        Ok(Tensor::new(&dims[..], data)?)
    }
    map(batch, |t| match t {
        Tensor::F32(t) => gather(t, order),
        Tensor::I32(t) => gather(t, order),
        Tensor::Bool(t) => gather(t, order),
        Tensor::Str(t) => gather(t, order),
        Tensor::C64(t) => gather(t, order),
    })
}
