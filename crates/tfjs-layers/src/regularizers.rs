use serde_json::{Map, Value};
use tfjs_graph::{Port, builder::attr};
use tfjs_kernels::Tensor;

use crate::{
    Config, Dialect, Emit, LayersError, Params, WeightId,
    config::{class_and_options, plain_name},
    emit::table_size,
};

/// A penalty on a weight or on what a layer gives. It is read when training asks for it: a model predicts whatever the file
/// names here.
#[derive(Clone, Debug, PartialEq)]
pub struct Regularizer {
    /// Keras class, such as `L2`, or an alias, such as `l2`.
    pub class_name: String,
    /// Its options.
    pub config: Map<String, Value>,
    /// Whose defaults apply.
    pub dialect: Dialect,
}

type Result<T> = std::result::Result<T, LayersError>;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    /// `l1 · Σ|w| + l2 · Σw²`
    Sums { l1: f32, l2: f32 },
    /// Mean magnitude of the products of different rows (or columns) of length 1, times `factor`.
    Orthogonal { factor: f32, rows: bool },
}

impl Regularizer {
    /// From a name or an object `{class_name, config}`; `None` for null.
    pub fn parse(value: &Value, dialect: Dialect) -> Option<Regularizer> {
        let (class_name, config) = class_and_options(value)?;
        Some(Regularizer { class_name, config, dialect })
    }

    fn kind(&self) -> Result<Kind> {
        let c = Config::new(&self.config, self.dialect);
        let factor = |key: &str, default: f32| -> Result<f32> {
            let value = match key {
                // Both have been called `l`.
                "l1" | "l2" if c.has("l") => c.f32_or("l", default)?,
                _ => c.f32_or(key, default)?,
            };
            if value.is_finite() && value >= 0.0 { Ok(value) } else { Err(c.wrong(key, "at least 0")) }
        };
        Ok(match plain_name(&self.class_name).as_str() {
            "l1" => Kind::Sums { l1: factor("l1", 0.01)?, l2: 0.0 },
            "l2" => Kind::Sums { l1: 0.0, l2: factor("l2", 0.01)? },
            "l1l2" => {
                // The word alone means 0.01 in Keras 2, the class with an option left out 0 there.
                let word = self.class_name == "l1_l2" && self.config.is_empty();
                let both = self.dialect == Dialect::Tfjs || word && self.dialect != Dialect::Keras3;
                let default = if both { 0.01 } else { 0.0 };
                Kind::Sums { l1: factor("l1", default)?, l2: factor("l2", default)? }
            }
            "orthogonalregularizer" => Kind::Orthogonal {
                factor: factor("factor", 0.01)?,
                rows: c.one_of("mode", &["rows", "columns"], "rows")? == "rows",
            },
            _ => {
                return Err(LayersError::UnknownClass {
                    class: self.class_name.clone(),
                    hint: "; it is no regularizer of Keras, and training needs it".to_owned(),
                });
            }
        })
    }

    /// The penalty, a scalar.
    ///
    /// # Errors
    /// When the regularizer is not known, an option is wrong, or the value does not fit it.
    pub fn loss(&self, g: &mut Emit, value: Port) -> Result<Port> {
        match self.kind()? {
            Kind::Sums { l1, l2 } => {
                let axes: Vec<usize> = (0..g.rank(value)?).collect();
                let mut penalty = None;
                for (factor, op) in [(l1, "Abs"), (l2, "Square")].into_iter().filter(|(f, _)| *f > 0.0) {
                    let terms = g.unary(op, value)?;
                    let sum = g.reduce("Sum", terms, &axes, false)?;
                    let term = g.scale(sum, factor)?;
                    penalty = Some(match penalty {
                        None => term,
                        Some(other) => g.add(other, term)?,
                    });
                }
                Ok(penalty.unwrap_or_else(|| g.scalar(0.0)))
            }
            Kind::Orthogonal { factor, rows } => self.orthogonal(g, value, factor, rows),
        }
    }

    fn orthogonal(&self, g: &mut Emit, value: Port, factor: f32, rows: bool) -> Result<Port> {
        let &[Some(height), Some(width)] = &g.shape(value)?[..] else {
            return Err(LayersError::Inputs(format!(
                "`OrthogonalRegularizer` is for matrices of known shape, not {}",
                g.fact(value)
            )));
        };
        let size = if rows { height } else { width };
        let squares = g.unary("Square", value)?;
        let sums = g.reduce("Sum", squares, &[usize::from(rows)], true)?;
        let least = g.scalar(if self.dialect == Dialect::Keras3 { 1e-14 } else { 1e-12 });
        let sums = g.op("Maximum", &[sums, least], &[])?;
        let inverse = g.unary("Rsqrt", sums)?;
        let unit = g.mul(value, inverse)?;
        let sides = [("transpose_a", attr::bool(!rows)), ("transpose_b", attr::bool(rows))];
        let products = g.op("MatMul", &[unit, unit], &sides)?;
        let mut others = vec![1f32; table_size(&[size, size])?];
        (0..size).for_each(|i| others[i * size + i] = 0.0);
        let others = g.constant(Tensor::new([size, size], others)?);
        let products = g.mul(products, others)?;
        let magnitudes = g.unary("Abs", products)?;
        let sum = g.reduce("Sum", magnitudes, &[0, 1], false)?;
        let sum = g.scale(sum, factor * 0.5)?;
        // As in Keras, one row alone gives 0/0.
        let pairs = g.scalar((size as f64 * (size as f64 - 1.0) / 2.0) as f32);
        g.div(sum, pairs)
    }
}

/// Adds the penalties of a model's weights to the loss, once for each weight, however often its layer is called. To be called
/// after the model, so that weights which layers replace in a step count with their new values.
///
/// # Errors
/// Those of [`Regularizer::loss`].
pub(crate) fn weight_losses(g: &mut Emit, params: &Params) -> Result<()> {
    for (i, weight) in params.weights.iter().enumerate() {
        let Some(regularizer) = &weight.regularizer else { continue };
        // Keras 3 leaves out what is not trained; Keras 2 counts it all the same.
        if g.dialect == Dialect::Keras3 && (weight.frozen || !weight.trainable) {
            continue;
        }
        let value = g.weight(WeightId(i));
        let located = |e: LayersError| {
            let layer = weight.layer.last().cloned().unwrap_or_default();
            e.in_layer(&layer, &weight.keras)
        };
        let penalty = regularizer.loss(g, value).map_err(located)?;
        g.add_loss(penalty);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn kind(value: Value, dialect: Dialect) -> Kind {
        Regularizer::parse(&value, dialect).unwrap().kind().unwrap()
    }

    #[test]
    fn names_and_missing_options_mean_what_they_mean_in_each_dialect() {
        let sums = |l1, l2| Kind::Sums { l1, l2 };
        assert_eq!(kind(json!("l2"), Dialect::Keras2), sums(0.0, 0.01));
        assert_eq!(kind(json!("L1"), Dialect::Keras3), sums(0.01, 0.0));
        assert_eq!(kind(json!("l1_l2"), Dialect::Keras2), sums(0.01, 0.01));
        let partial = json!({"class_name": "L1L2", "config": {"l2": 0.5}});
        assert_eq!(kind(partial.clone(), Dialect::Keras2), sums(0.0, 0.5));
        assert_eq!(kind(partial.clone(), Dialect::Keras3), sums(0.0, 0.5));
        assert_eq!(kind(partial, Dialect::Tfjs), sums(0.01, 0.5));
        let old = json!({"class_name": "L2", "config": {"l": 0.25}});
        assert_eq!(kind(old, Dialect::Keras2), sums(0.0, 0.25));
        let array = json!({"class_name": "L1", "config": {"l1": {"class_name": "__numpy__", "config": {"value": 0.5, "dtype": "float32"}}}});
        assert_eq!(kind(array, Dialect::Keras3), sums(0.5, 0.0));
    }

    #[test]
    fn what_is_no_regularizer_is_named_when_it_is_used() {
        let own = json!({"class_name": "MyPackage>Smooth", "config": {}});
        let error = Regularizer::parse(&own, Dialect::Keras2).unwrap().kind().unwrap_err().to_string();
        assert!(error.contains("MyPackage>Smooth"), "{error}");
        let negative = json!({"class_name": "L2", "config": {"l2": -1}});
        assert!(Regularizer::parse(&negative, Dialect::Keras2).unwrap().kind().is_err());
        assert!(Regularizer::parse(&Value::Null, Dialect::Keras2).is_none());
    }
}
