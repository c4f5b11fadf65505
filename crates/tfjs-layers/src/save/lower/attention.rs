//! Attention: projections, products and softmax, head by head.

use serde_json::{Value, json};
use tfjs_graph::Constant;

use super::{Outcome, Source, pieces};
use crate::save::{
    Result,
    fragment::{Fragment, From},
};

fn no(why: &str) -> Result<Outcome> {
    Ok(Outcome::Unsupported(why.to_owned()))
}

/// What masks or asks for more outputs.
fn special(source: &Source<'_>) -> bool {
    let calls = &source.layer.calls;
    let on = |key: &str| {
        calls.iter().flat_map(|c| &c.kwargs).any(|(k, a)| {
            k == key && !matches!(a, crate::topology::Arg::Value(Value::Null | Value::Bool(false)))
        })
    };
    source.masked
        || [
            "attention_mask",
            "query_mask",
            "value_mask",
            "key_mask",
            "mask",
            "use_causal_mask",
            "return_attention_scores",
        ]
        .iter()
        .any(|k| on(k))
        || ["causal", "use_gate"]
            .iter()
            .any(|k| source.config.get(*k).and_then(Value::as_bool).unwrap_or(false))
        || source.config.get("sliding_window").is_some_and(|v| !v.is_null())
}

/// Query, value and key among the inputs.
fn roles(source: &Source<'_>) -> Option<[From; 3]> {
    let call = source.layer.calls.first()?;
    let positional = call.args.iter().flat_map(crate::topology::Arg::tensors).count();
    let named: Vec<&str> = super::super::draft::TENSOR_ARGUMENTS
        .iter()
        .filter(|key| call.kwargs.iter().any(|(k, a)| k == *key && !a.tensors().is_empty()))
        .copied()
        .collect();
    let place = |role: &str, at: usize| match named.iter().position(|k| *k == role) {
        Some(i) => Some(From::Input(positional + i)),
        None => (at < positional).then_some(From::Input(at)),
    };
    let value = place("value", 1)?;
    Some([place("query", 0)?, value, place("key", 2).unwrap_or(value)])
}

/// MultiHeadAttention, GroupedQueryAttention.
pub(super) fn multi_head(source: &mut Source<'_>) -> Result<Outcome> {
    if special(source) {
        return no("TensorFlow.js has no attention, and a mask leaves no equivalent");
    }
    if source.inputs.iter().any(|f| f.rank() != Some(3)) {
        return no("TensorFlow.js has no attention over several axes");
    }
    let Some([query, value, key]) = roles(source) else { return no("its inputs are not clear") };
    let find = |part: &str, name: &str| {
        let end = format!("{part}/{name}");
        source.weights.iter().find(|(n, _)| n.ends_with(&end)).map(|(_, w)| w.clone())
    };
    let (Some(q), Some(k), Some(v), Some(o)) = (
        find("query", "kernel"),
        find("key", "kernel"),
        find("value", "kernel"),
        find("attention_output", "kernel"),
    ) else {
        return no("its weights are not those of attention");
    };
    if [&q, &k, &v].iter().any(|w| w.shape().len() != 3) || o.shape().len() != 3 || k.shape()[1] == 0 {
        return no("its output has several axes");
    }
    let (heads, groups) = (q.shape()[1], k.shape()[1]);
    let scale = 1.0 / (q.shape()[2] as f32).sqrt();
    let mut f = Fragment::default();
    let project = |f: &mut Fragment,
                   x: From,
                   kernel: &Constant,
                   bias: Option<Constant>,
                   head: usize,
                   scale: f32|
     -> Result<From> {
        let (n, h, d) = (kernel.shape()[0], kernel.shape()[1], kernel.shape()[2]);
        let cut = pieces::map(kernel, vec![n, d], move |w, _| {
            (0..n * d).map(|i| w[(i / d * h + head) * d + i % d] * scale).collect()
        });
        let mut weights = vec![("kernel".to_owned(), cut)];
        if let Some(bias) = bias {
            weights.push((
                "bias".to_owned(),
                pieces::map(&bias, vec![d], move |b, _| {
                    b[head * d..(head + 1) * d].iter().map(|x| x * scale).collect()
                }),
            ));
        }
        let config = json!({"units": d, "activation": "linear", "use_bias": weights.len() > 1});
        Ok(f.add_with("project", "Dense", config, weights, &[x]))
    };
    let mut results = Vec::new();
    for head in 0..heads {
        let group = head * groups / heads;
        let a = project(&mut f, query, &q, find("query", "bias"), head, scale)?;
        let b = project(&mut f, key, &k, find("key", "bias"), group, 1.0)?;
        let c = project(&mut f, value, &v, find("value", "bias"), group, 1.0)?;
        let scores = f.add("scores", "Dot", json!({"axes": [2, 2], "normalize": false}), &[a, b]);
        let scores = f.function(scores, "softmax");
        results.push(f.add("values", "Dot", json!({"axes": [2, 1], "normalize": false}), &[scores, c]));
    }
    let joined = match results.as_slice() {
        &[one] => one,
        many => f.add("heads", "Concatenate", json!({"axis": 2}), many),
    };
    let (rows, units) = (o.shape()[0] * o.shape()[1], o.shape()[2]);
    let mut weights = vec![("kernel".to_owned(), pieces::reshaped(&o, vec![rows, units]))];
    weights.extend(find("attention_output", "bias").map(|b| ("bias".to_owned(), b)));
    let config = json!({"units": units, "activation": "linear", "use_bias": weights.len() > 1});
    let out = f.add_with("output", "Dense", config, weights, &[joined]);
    Ok(Outcome::Replace(f.give(&[out])))
}

/// Attention with products as scores.
pub(super) fn dot_product(source: &mut Source<'_>) -> Result<Outcome> {
    if special(source) {
        return no("TensorFlow.js has no attention, and a mask leaves no equivalent");
    }
    if source.text("score_mode").unwrap_or("dot") != "dot"
        || source.inputs.iter().any(|f| f.rank() != Some(3))
    {
        return no("TensorFlow.js has no such scores");
    }
    let Some([query, value, key]) = roles(source) else { return no("its inputs are not clear") };
    let scale = match source.weight("scale") {
        Some(scale) => {
            let read = |source| crate::LayersError::WeightValue { weight: "scale".to_owned(), source };
            scale.tensor().map_err(read)?.data::<f32>()?.first().copied()
        }
        None => None,
    };
    let mut f = Fragment::default();
    let mut scores = f.add("scores", "Dot", json!({"axes": [2, 2], "normalize": false}), &[query, key]);
    if let Some(scale) = scale {
        scores = f.rescale(scores, f64::from(scale), 0.0);
    }
    let scores = f.function(scores, "softmax");
    let out = f.add("values", "Dot", json!({"axes": [2, 1], "normalize": false}), &[scores, value]);
    Ok(Outcome::Replace(f.give(&[out])))
}
