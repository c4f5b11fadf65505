//! Normalizations.

use serde_json::{Value, json};
use tfjs_graph::{Constant, Fact};

use super::{Outcome, Source, activation::dims, pieces};
use crate::{
    Dialect,
    config::number,
    layers::without_virtual_batch,
    save::{
        Result,
        fragment::{Fragment, From},
    },
};

fn unknown_shape() -> Outcome {
    Outcome::Unsupported(
        "TensorFlow.js lacks it, and its input shape is not known well enough for an equivalent".into(),
    )
}

/// The only axis of a layer, from 0 with the batch.
fn axis(source: &Source<'_>, rank: usize) -> Option<usize> {
    let axis = match source.config.get("axis") {
        Some(Value::Array(items)) if items.len() == 1 => number(&items[0])?,
        Some(Value::Array(_)) => return None,
        other => other.and_then(number).unwrap_or(-1.0),
    };
    let axis = if axis < 0.0 { axis + rank as f64 } else { axis };
    Some(axis as usize).filter(|&a| a < rank)
}

/// Virtual batches are for training only; what is left of them are axes and weights with one dimension more.
fn without_ghosts(source: &mut Source<'_>) {
    let axes: Option<Vec<i64>> = match source.config.get("axis") {
        Some(Value::Array(items)) => items.iter().map(Value::as_i64).collect(),
        Some(axis) => axis.as_i64().map(|axis| vec![axis]),
        None => None,
    };
    let axes = without_virtual_batch(&axes.unwrap_or_else(|| vec![-1]));
    source.config.insert("axis".to_owned(), json!(axes));
    for (_, weight) in &mut source.weights {
        let mut shape = weight.shape().to_vec();
        match axes[..] {
            [_] => shape = vec![weight.len()],
            _ if shape.len() > 1 => _ = shape.remove(1),
            _ => {}
        }
        *weight = pieces::reshaped(weight, shape);
    }
}

/// BatchNormalization: TF.js takes two to four axes, and computes right along the last of them.
pub(super) fn batch(source: &mut Source<'_>) -> Result<Outcome> {
    if source.config.get("virtual_batch_size").is_some_and(|size| !size.is_null()) {
        without_ghosts(source);
    }
    for key in [
        "renorm",
        "renorm_clipping",
        "renorm_momentum",
        "synchronized",
        "fused",
        "virtual_batch_size",
        "adjustment",
    ] {
        source.config.remove(key);
    }
    // Statistics of renormalization say nothing about inference.
    source.weights.retain(|(name, _)| !name.contains("renorm") && name != "moving_stddev");
    let Some(shape) = dims(source.inputs.first()) else { return Ok(Outcome::Keep) };
    let rank = shape.len() + 1;
    let Some(axis) = axis(source, rank) else {
        return Ok(Outcome::Unsupported("TensorFlow.js normalises along one axis only".into()));
    };
    if axis == rank - 1 && (2..=4).contains(&rank) {
        source.config.insert(
            "axis".to_owned(),
            if source.config.get("axis").is_some_and(Value::is_array) { axis.into() } else { json!(-1) },
        );
        return Ok(Outcome::Keep);
    }
    if axis == 0 {
        return Ok(Outcome::Unsupported("TensorFlow.js cannot normalise along the batch".into()));
    }
    let mut f = Fragment::default();
    let mut order: Vec<usize> = (1..rank).collect();
    order.swap(axis - 1, rank - 2);
    let mut x = f.permute(From::Input(0), &order);
    let turned: Vec<_> = order.iter().map(|&i| shape[i - 1]).collect();
    if rank > 4 {
        let Some(y) = f.reshape(x, &[None, turned[rank - 2]]) else { return Ok(unknown_shape()) };
        x = y;
    }
    source.config.insert("axis".to_owned(), (-1).into());
    x = f.add_source(source, x);
    if rank > 4 {
        let Some(y) = f.reshape(x, &turned) else { return Ok(unknown_shape()) };
        x = y;
    }
    x = f.permute(x, &order);
    Ok(Outcome::Replace(f.give(&[x])))
}

/// LayerNormalization: TF.js takes two to four axes, and has no root mean square.
pub(super) fn layer(source: &mut Source<'_>) -> Result<Outcome> {
    let rms = source.config.get("rms_scaling").and_then(Value::as_bool).unwrap_or(false);
    let rank = source.inputs.first().and_then(Fact::rank);
    let Some(shape) = dims(source.inputs.first()) else { return Ok(Outcome::Keep) };
    let last = rank.and_then(|r| Some(axis(source, r)? == r - 1)).unwrap_or(false);
    if rms {
        return Ok(Outcome::Unsupported("TensorFlow.js has no `rms_scaling`".into()));
    }
    source.config.remove("rms_scaling");
    if shape.len() <= 3 {
        return Ok(Outcome::Keep);
    }
    if !last {
        return Ok(Outcome::Unsupported("TensorFlow.js normalises inputs of at most four axes".into()));
    }
    let mut f = Fragment::default();
    let Some(x) = f.reshape(From::Input(0), &[None, shape[shape.len() - 1]]) else {
        return Ok(unknown_shape());
    };
    source.config.insert("axis".to_owned(), (-1).into());
    let x = f.add_source(source, x);
    let Some(x) = f.reshape(x, &shape) else { return Ok(unknown_shape()) };
    Ok(Outcome::Replace(f.give(&[x])))
}

/// x / √(mean(x²) + ε): of x and −x together the mean is zero, and the variance is that of the squares.
fn normalised(f: &mut Fragment, x: From, shape: &[Option<usize>], epsilon: f64) -> Option<From> {
    let n = shape.last().copied().flatten()?;
    let minus = f.rescale(x, -1.0, 0.0);
    let both = f.add("both", "Concatenate", json!({"axis": shape.len()}), &[x, minus]);
    let config = json!({"axis": -1, "epsilon": epsilon, "center": false, "scale": false});
    let y = f.add("normal", "LayerNormalization", config, &[both]);
    let mut wide = shape.to_vec();
    *wide.last_mut()? = Some(2 * n);
    f.slice_last(y, &wide, 0, n)
}

/// RMSNormalization.
pub(super) fn root_mean_square(source: &mut Source<'_>) -> Result<Outcome> {
    let Some(shape) = dims(source.inputs.first()) else { return Ok(unknown_shape()) };
    if axis(source, shape.len() + 1) != Some(shape.len()) || shape.len() > 3 {
        return Ok(Outcome::Unsupported("TensorFlow.js has no normalisation by the root mean square".into()));
    }
    let epsilon = source.config.get("epsilon").and_then(number).unwrap_or(1e-6);
    let mut f = Fragment::default();
    let Some(mut x) = normalised(&mut f, From::Input(0), &shape, epsilon) else { return Ok(unknown_shape()) };
    let scale = source.weight("scale").or_else(|| source.weight("gamma")).cloned();
    if let (Some(scale), Some(n)) = (scale, shape.last().copied().flatten()) {
        x = f.affine(x, Some(scale), None, n)?;
    }
    Ok(Outcome::Replace(f.give(&[x])))
}

/// UnitNormalization: x / max(|x|, 1e-6), as (x / |x|) · min(|x| / 1e-6, 1); |x| is the product of x and x / |x|.
/// Keras 3 has 1e-12 there.
pub(super) fn unit(source: &mut Source<'_>) -> Result<Outcome> {
    let Some(shape) = dims(source.inputs.first()) else { return Ok(unknown_shape()) };
    let Some(n) = shape.last().copied().flatten() else { return Ok(unknown_shape()) };
    if axis(source, shape.len() + 1) != Some(shape.len()) || shape.len() > 3 {
        return Ok(Outcome::Unsupported("TensorFlow.js has no such normalisation".into()));
    }
    let mut f = Fragment::default();
    let Some(x) = normalised(&mut f, From::Input(0), &shape, 1e-30) else { return Ok(unknown_shape()) };
    let x = f.rescale(x, 1.0 / (n as f64).sqrt(), 0.0);
    let parts = f.product(&[From::Input(0), x]);
    let least = if source.dialect == Dialect::Keras3 { 1e12 } else { 1e6 };
    let weights = vec![("kernel".to_owned(), pieces::constant(&[n, 1], vec![least; n])?)];
    let config = json!({"units": 1, "use_bias": false, "activation": "linear", "trainable": false});
    let norm = f.add_with("norm", "Dense", config, weights, &[parts]);
    let norm = f.relu(norm, Some(1.0));
    let x = f.product(&[x, norm]);
    Ok(Outcome::Replace(f.give(&[x])))
}

/// GroupNormalization: each group as one row of a LayerNormalization, then a scale per channel.
pub(super) fn group(source: &mut Source<'_>) -> Result<Outcome> {
    let Some(shape) = dims(source.inputs.first()) else { return Ok(unknown_shape()) };
    let rank = shape.len() + 1;
    let Some(axis) = axis(source, rank).filter(|&a| a > 0) else { return Ok(unknown_shape()) };
    let Some(channels) = shape[axis - 1] else { return Ok(unknown_shape()) };
    let groups = source.config.get("groups").and_then(number).unwrap_or(32.0);
    let groups = if groups < 0.0 { channels } else { groups as usize };
    if groups == 0 || channels % groups != 0 {
        return Ok(unknown_shape());
    }
    let each = channels / groups;
    let epsilon = source.config.get("epsilon").and_then(number).unwrap_or(1e-3);
    let mut f = Fragment::default();
    let mut order: Vec<usize> = (1..rank).filter(|&i| i != axis).collect();
    order.push(axis);
    let turned: Vec<_> = order.iter().map(|&i| shape[i - 1]).collect();
    let places = pieces::product(&turned[..rank - 2]);
    let written = (|| {
        let x = f.permute(From::Input(0), &order);
        let x = f.reshape(x, &[places, Some(groups), Some(each)])?;
        let x = f.permute(x, &[2, 1, 3]);
        let x = f.reshape(x, &[Some(groups), places.map(|p| p * each)])?;
        let config = json!({"axis": -1, "epsilon": epsilon, "center": false, "scale": false});
        let x = f.add("normal", "LayerNormalization", config, &[x]);
        let x = f.reshape(x, &[Some(groups), places, Some(each)])?;
        let x = f.permute(x, &[2, 1, 3]);
        f.reshape(x, &[places, Some(channels)])
    })();
    // LayerNormalization must know the length of its rows.
    let (Some(mut x), Some(_)) = (written, places) else { return Ok(unknown_shape()) };
    let (scale, offset) = (source.weight("gamma").cloned(), source.weight("beta").cloned());
    if scale.is_some() || offset.is_some() {
        x = f.affine(x, scale, offset, channels)?;
    }
    let Some(x) = f.reshape(x, &turned) else { return Ok(unknown_shape()) };
    let mut back = vec![0; rank - 1];
    order.iter().enumerate().for_each(|(i, &o)| back[o - 1] = i + 1);
    let x = f.permute(x, &back);
    Ok(Outcome::Replace(f.give(&[x])))
}

/// Normalization: (x − mean) / max(√variance, 1e-7), or its inverse.
pub(super) fn features(source: &mut Source<'_>) -> Result<Outcome> {
    let Some(shape) = dims(source.inputs.first()) else { return Ok(unknown_shape()) };
    let given = |key: &str| -> Option<Vec<f32>> {
        fn flat(value: &Value, out: &mut Vec<f32>) -> Option<()> {
            match value {
                Value::Array(items) => items.iter().try_for_each(|v| flat(v, out)),
                other => {
                    out.push(number(other)? as f32);
                    Some(())
                }
            }
        }
        let mut out = Vec::new();
        flat(source.config.get(key).filter(|v| !v.is_null())?, &mut out)?;
        Some(out)
    };
    let stored = |key: &str| -> Result<Option<Constant>> {
        Ok(match (source.weight(key), given(key)) {
            (Some(w), _) => Some(w.clone()),
            (None, Some(v)) => Some(pieces::constant(&[v.len()], v)?),
            (None, None) => None,
        })
    };
    let (Some(mean), Some(variance)) = (stored("mean")?, stored("variance")?) else {
        return Ok(Outcome::Unsupported("its mean and variance are not known".into()));
    };
    let invert = source.config.get("invert").and_then(Value::as_bool).unwrap_or(false);
    let last = shape.last().copied().flatten();
    // Along the last axis a batch norm does it; everything else as one row.
    let direct = Some(mean.len()) == last
        && (1..=3).contains(&shape.len())
        && axis(source, shape.len() + 1) == Some(shape.len());
    let size = if direct { last } else { pieces::product(&shape) };
    let Some(size) = size else { return Ok(unknown_shape()) };
    let spread = |c: &Constant| -> Option<Constant> {
        let (n, to) = (c.len(), shape.clone());
        if n == 1 || n == size {
            return Some(pieces::map(
                c,
                vec![size],
                move |v, _| if n == 1 { vec![v[0]; size] } else { v.to_vec() },
            ));
        }
        // One value per index along one axis.
        let axis = axis(source, to.len() + 1)?;
        let dims: Vec<usize> = to.iter().copied().collect::<Option<_>>()?;
        if axis == 0 || dims.get(axis - 1) != Some(&n) {
            return None;
        }
        let after: usize = dims[axis..].iter().product();
        Some(pieces::map(c, vec![size], move |v, _| (0..size).map(|i| v[i / after % n]).collect()))
    };
    let (Some(mean), Some(variance)) = (spread(&mean), spread(&variance)) else { return Ok(unknown_shape()) };
    let deviation = pieces::map(&variance, vec![size], |v, _| v.iter().map(|x| x.sqrt().max(1e-7)).collect());
    let mut f = Fragment::default();
    let mut x = From::Input(0);
    if !direct && shape.len() != 1 {
        let Some(y) = f.reshape(x, &[Some(size)]) else { return Ok(unknown_shape()) };
        x = y;
    }
    x = if invert {
        f.affine(x, Some(deviation), Some(mean), size)?
    } else {
        let minus = pieces::map(&mean, vec![size], |v, _| v.iter().map(|x| -x).collect());
        let x = f.affine(x, None, Some(minus), size)?;
        let scale = pieces::map(&deviation, vec![size], |v, _| v.iter().map(|x| 1.0 / x).collect());
        f.affine(x, Some(scale), None, size)?
    };
    if !direct && shape.len() != 1 {
        let Some(y) = f.reshape(x, &shape) else { return Ok(unknown_shape()) };
        x = y;
    }
    Ok(Outcome::Replace(f.give(&[x])))
}
