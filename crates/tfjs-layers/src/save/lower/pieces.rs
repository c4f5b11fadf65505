//! Pieces that several rows are made of.

use serde_json::{Value, json};
use tfjs_format::proto::DataType;
use tfjs_graph::{Constant, LoadError};
use tfjs_kernels::Tensor;

use crate::save::fragment::{Fragment, From};

/// A shape without the batch.
pub(super) type Dims = Vec<Option<usize>>;

/// A float weight made here.
pub(super) fn constant(shape: &[usize], values: Vec<f32>) -> Result<Constant, crate::LayersError> {
    Ok(Constant::new(DataType::DtFloat, Tensor::new(shape, values)?))
}

/// A float weight computed from the values of another when it is written.
pub(super) fn map(
    from: &Constant,
    shape: Vec<usize>,
    f: impl Fn(&[f32], &[usize]) -> Vec<f32> + Send + Sync + 'static,
) -> Constant {
    let target = shape.clone();
    from.map(shape, move |t| {
        let values = f(t.data::<f32>()?, t.dims());
        Tensor::new(&target[..], values).map_err(LoadError::from)
    })
}

/// The same values in another shape.
pub(super) fn reshaped(from: &Constant, shape: Vec<usize>) -> Constant {
    map(from, shape, |v, _| v.to_vec())
}

/// The product of dimensions, if all are known.
pub(super) fn product(dims: &[Option<usize>]) -> Option<usize> {
    dims.iter().try_fold(1usize, |n, d| n.checked_mul((*d)?))
}

impl Fragment {
    /// x · scale + offset
    pub(super) fn rescale(&mut self, x: From, scale: f64, offset: f64) -> From {
        self.add("rescaling", "Rescaling", json!({"scale": scale, "offset": offset}), &[x])
    }

    /// A function of TF.js.
    pub(super) fn function(&mut self, x: From, name: &str) -> From {
        self.add(name, "Activation", json!({"activation": name}), &[x])
    }

    pub(super) fn sum(&mut self, inputs: &[From]) -> From {
        self.add("add", "Add", json!({}), inputs)
    }

    pub(super) fn product(&mut self, inputs: &[From]) -> From {
        self.add("multiply", "Multiply", json!({}), inputs)
    }

    /// max(x, 0), at most `max`.
    pub(super) fn relu(&mut self, x: From, max: Option<f64>) -> From {
        self.add("relu", "ReLU", json!({"max_value": max}), &[x])
    }

    /// The same elements in another shape, of which TF.js must know all dimensions but one.
    pub(super) fn reshape(&mut self, x: From, dims: &[Option<usize>]) -> Option<From> {
        if dims.iter().filter(|d| d.is_none()).count() > 1 {
            return None;
        }
        let target: Vec<Value> = dims.iter().map(|d| d.map_or(json!(-1), |d| json!(d))).collect();
        Some(self.add("reshape", "Reshape", json!({"target_shape": target}), &[x]))
    }

    /// Axes in another order, counted from 1; the batch stays.
    pub(super) fn permute(&mut self, x: From, order: &[usize]) -> From {
        if order.iter().enumerate().all(|(i, &o)| o == i + 1) {
            return x;
        }
        self.add("permute", "Permute", json!({"dims": order}), &[x])
    }

    /// x · scale + offset, with vectors along the last axis of 1 to 3 axes after the batch.
    pub(super) fn affine(
        &mut self,
        x: From,
        scale: Option<Constant>,
        offset: Option<Constant>,
        size: usize,
    ) -> Result<From, crate::LayersError> {
        let mut weights = Vec::new();
        let config =
            json!({"axis": -1, "epsilon": 0.0, "scale": scale.is_some(), "center": offset.is_some()});
        weights.extend(scale.map(|w| ("gamma".to_owned(), w)));
        weights.extend(offset.map(|w| ("beta".to_owned(), w)));
        weights.push(("moving_mean".to_owned(), constant(&[size], vec![0.0; size])?));
        weights.push(("moving_variance".to_owned(), constant(&[size], vec![1.0; size])?));
        Ok(self.add_with("scale", "BatchNormalization", config, weights, &[x]))
    }

    /// `matrix` · x along an axis (from 0, without the batch): `matrix` is `[to, from]`, row by row.
    pub(super) fn along_axis(
        &mut self,
        x: From,
        rank: usize,
        axis: usize,
        matrix: &[f32],
        to: usize,
    ) -> Result<From, crate::LayersError> {
        let from = matrix.len() / to.max(1);
        let kernel: Vec<f32> = (0..from).flat_map(|i| (0..to).map(move |o| matrix[o * from + i])).collect();
        let mut order: Vec<usize> = (1..=rank).collect();
        order.swap(axis, rank - 1);
        let x = self.permute(x, &order);
        let weights = vec![("kernel".to_owned(), constant(&[from, to], kernel)?)];
        let config = json!({"units": to, "use_bias": false, "activation": "linear", "trainable": false});
        let x = self.add_with("axis", "Dense", config, weights, &[x]);
        Ok(self.permute(x, &order))
    }

    /// Applies `class`, which works on the first two of three axes, to one axis of any shape.
    pub(super) fn on_axis(
        &mut self,
        x: From,
        dims: &[Option<usize>],
        axis: usize,
        class: &str,
        config: Value,
        to: Option<usize>,
    ) -> Option<(From, Dims)> {
        let (before, after) = (product(&dims[..axis]), product(&dims[axis + 1..]));
        let x = self.reshape(x, &[before, dims[axis], after])?;
        let x = self.add("axis", class, config, &[x]);
        let mut out = dims.to_vec();
        out[axis] = to;
        Some((self.reshape(x, &out)?, out))
    }

    /// Part of the last axis.
    pub(super) fn slice_last(
        &mut self,
        x: From,
        dims: &[Option<usize>],
        from: usize,
        to: usize,
    ) -> Option<From> {
        let (last, rest) = dims.split_last()?;
        let size = (*last)?;
        let x = self.reshape(x, &[product(rest).or(None), Some(size), Some(1)])?;
        let crop = json!({"cropping": [[0, 0], [from, size.checked_sub(to)?]]});
        let x = self.add("slice", "Cropping2D", crop, &[x]);
        let mut out = rest.to_vec();
        out.push(Some(to - from));
        self.reshape(x, &out)
    }
}
