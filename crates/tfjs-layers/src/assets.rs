use std::{collections::HashMap, fmt, sync::Arc};

use serde_json::Value;

use crate::{LayersError, ModelConfig, Params, weights::snake_case};

type Read = dyn Fn(&str) -> Result<Option<Vec<u8>>, LayersError> + Send + Sync;

/// Files that belong to a model, such as vocabularies, by path: `layers/string_lookup/vocabulary.txt`. They are read when
/// a layer asks for them.
#[derive(Clone, Default)]
pub struct Assets(Option<Arc<Read>>);

impl Assets {
    /// Files read by a function, which returns `None` when there is no such path.
    pub fn new(
        read: impl Fn(&str) -> Result<Option<Vec<u8>>, LayersError> + Send + Sync + 'static,
    ) -> Assets {
        Assets(Some(Arc::new(read)))
    }

    /// The contents of a file; `None` when there is none.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn read(&self, path: &str) -> Result<Option<Vec<u8>>, LayersError> {
        match &self.0 {
            Some(read) => read(path),
            None => Ok(None),
        }
    }
}

impl fmt::Debug for Assets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "Assets(…)" } else { "Assets(none)" })
    }
}

/// Deepest nesting of models that is followed.
const MAX_DEPTH: usize = 32;

/// Puts vocabularies that lie beside a model into its config.
///
/// # Errors
/// When a file is damaged.
pub(crate) fn inline(model: &mut Value, assets: &Assets) -> Result<(), LayersError> {
    if assets.0.is_some() {
        let model = if model.get("model_config").is_some() { &mut model["model_config"] } else { model };
        inline_model(model, ["", ""], assets, 0)?;
    }
    Ok(())
}

/// `folders` are those of the model by numbers of layers, as `.keras` archives have them, and by names, as SavedModels do.
fn inline_model(
    model: &mut Value,
    folders: [&str; 2],
    assets: &Assets,
    depth: usize,
) -> Result<(), LayersError> {
    let layers = model.pointer_mut("/config/layers").and_then(Value::as_array_mut);
    let Some(layers) = layers.filter(|_| depth < MAX_DEPTH) else { return Ok(()) };
    let mut counts: HashMap<String, usize> = HashMap::new();
    for layer in layers {
        let Some(class) = layer.get("class_name").and_then(Value::as_str) else { continue };
        // Keras numbers the folders of layers by class.
        let class = snake_case(class);
        let n = counts.entry(class.clone()).or_default();
        let number = if *n == 0 { String::new() } else { format!("_{n}") };
        *n += 1;
        let name = layer.pointer("/config/name").and_then(Value::as_str).unwrap_or_default();
        let numbered = format!("{}layers/{class}{number}/", folders[0]);
        let named = format!("{}layers/{name}/", folders[1]);
        inline_layer(layer, &class, [&numbered, &named], assets, depth + 1)?;
    }
    Ok(())
}

/// One layer, and what it holds.
fn inline_layer(
    layer: &mut Value,
    class: &str,
    folders: [&str; 2],
    assets: &Assets,
    depth: usize,
) -> Result<(), LayersError> {
    inline_model(layer, folders, assets, depth)?;
    if let Some(inner) = layer.pointer_mut("/config/layer").filter(|_| depth < MAX_DEPTH) {
        let class = inner.get("class_name").and_then(Value::as_str).map(snake_case).unwrap_or_default();
        let [numbered, named] = folders.map(|folder| format!("{folder}layer/"));
        inline_layer(inner, &class, [&numbered, &named], assets, depth + 1)?;
    }
    let numbers = match class {
        "string_lookup" | "text_vectorization" => false,
        "integer_lookup" => true,
        _ => return Ok(()),
    };
    if layer.pointer("/config/vocabulary").is_some_and(Value::is_array) {
        return Ok(());
    }
    for folder in folders {
        let path = format!("{folder}vocabulary.txt");
        if let (Some(bytes), Some(config)) = (assets.read(&path)?, layer["config"].as_object_mut()) {
            config.insert("vocabulary".to_owned(), vocabulary(&path, &bytes, numbers)?);
            break;
        }
    }
    Ok(())
}

/// One token in each line.
fn vocabulary(path: &str, bytes: &[u8], numbers: bool) -> Result<Value, LayersError> {
    let damaged = |source: Box<dyn std::error::Error + Send + Sync>| LayersError::Asset {
        path: path.to_owned(),
        source,
    };
    let text = std::str::from_utf8(bytes).map_err(|e| damaged(e.into()))?;
    let mut lines: Vec<&str> = text.split('\n').collect();
    while lines.len() > 1 && lines.last().is_some_and(|l| l.is_empty()) {
        lines.pop();
    }
    let token = |line: &str| {
        Ok(if numbers {
            Value::from(line.trim().parse::<i64>().map_err(|e| damaged(e.into()))?)
        } else {
            Value::from(line.strip_suffix('\r').unwrap_or(line))
        })
    };
    lines.into_iter().map(token).collect()
}

/// Puts the weights of adapted lookups into their configs: Keras takes a vocabulary in a config only along with them.
///
/// # Errors
/// When a weight cannot be read.
pub(crate) fn inline_idf(model: &mut ModelConfig, params: &Params) -> Result<(), LayersError> {
    for weight in &params.weights {
        let (Some(value), true) = (&weight.value, weight.object == "idf_weights") else { continue };
        let unread = |source| LayersError::WeightValue { weight: weight.keras.clone(), source };
        let values = value.tensor().map_err(unread)?;
        let Some((name, outer)) = weight.layer.split_last() else { continue };
        let mut place = Some(&mut *model);
        for name in outer {
            let layer = place.and_then(|m| m.layers.iter_mut().find(|l| l.name == *name));
            place = layer.and_then(|l| l.model.as_deref_mut());
        }
        let Some(layer) = place.and_then(|m| m.layers.iter_mut().find(|l| l.name == *name)) else { continue };
        let Some(words) = layer.config.get("vocabulary").and_then(Value::as_array).map(Vec::len) else {
            continue;
        };
        let given = layer.config.get("idf_weights").is_some_and(|v| !v.is_null());
        if !given {
            let list: Value = values.data::<f32>()?.iter().take(words).map(|&w| Value::from(w)).collect();
            layer.config.insert("idf_weights".to_owned(), list);
        }
    }
    Ok(())
}
