//! How Keras brings labels, predictions and weights to the same rank: always by a last axis of size 1.

use tfjs_graph::Port;

use crate::{Dialect, Emit, LayersError};

type Result<T> = std::result::Result<T, LayersError>;

fn last_is_one(g: &Emit, x: Port) -> Result<bool> {
    Ok(g.shape(x)?.last() == Some(&Some(1)))
}

fn squeeze_last(g: &mut Emit, x: Port) -> Result<Port> {
    let last = g.rank(x)?.saturating_sub(1);
    g.squeeze(x, &[last])
}

fn expand_last(g: &mut Emit, x: Port) -> Result<Port> {
    let rank = g.rank(x)?;
    g.expand_dims(x, rank)
}

/// Labels and predictions of the same rank, if their ranks differ by an axis of size 1.
pub(crate) fn match_labels(g: &mut Emit, y_true: Port, y_pred: Port) -> Result<(Port, Port)> {
    if g.dialect == Dialect::Keras3 {
        return match_either(g, y_true, y_pred);
    }
    let (t, p) = (g.rank(y_true)?, g.rank(y_pred)?);
    if p == t + 1 && last_is_one(g, y_pred)? {
        return Ok((y_true, squeeze_last(g, y_pred)?));
    }
    if t == p + 1 && last_is_one(g, y_true)? {
        return Ok((squeeze_last(g, y_true)?, y_pred));
    }
    Ok((y_true, y_pred))
}

/// Keras 3: the larger one loses its last axis, but vectors become columns.
pub(crate) fn match_either(g: &mut Emit, a: Port, b: Port) -> Result<(Port, Port)> {
    let (rank_a, rank_b) = (g.rank(a)?, g.rank(b)?);
    if rank_a == rank_b + 1 && last_is_one(g, a)? {
        return if rank_b == 1 { Ok((a, expand_last(g, b)?)) } else { Ok((squeeze_last(g, a)?, b)) };
    }
    if rank_b == rank_a + 1 && last_is_one(g, b)? {
        return if rank_a == 1 { Ok((expand_last(g, a)?, b)) } else { Ok((a, squeeze_last(g, b)?)) };
    }
    Ok((a, b))
}

/// Values and weights that multiply.
pub(crate) fn match_weights(g: &mut Emit, values: Port, weights: Port) -> Result<(Port, Port)> {
    if g.dialect == Dialect::Keras3 {
        return match_either(g, values, weights);
    }
    let (v, w) = (g.rank(values)?, g.rank(weights)?);
    let weights = match w {
        0 => weights,
        w if w == v + 1 => squeeze_last(g, weights)?,
        w if v == w + 1 => expand_last(g, weights)?,
        _ => weights,
    };
    Ok((values, weights))
}

/// Keras 2: labels and weights that are vectors become columns where the predictions are a matrix.
pub(crate) fn as_column(g: &mut Emit, x: Port, y_pred: Port) -> Result<Port> {
    if g.dialect != Dialect::Keras3 && g.rank(x)? == 1 && g.rank(y_pred)? == 2 {
        return expand_last(g, x);
    }
    Ok(x)
}
