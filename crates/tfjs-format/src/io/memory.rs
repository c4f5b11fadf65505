//! Models in memory.
use std::collections::BTreeMap;
use std::io::{Cursor, Read};

use bytes::Bytes;

use super::{ModelSink, ModelSource, ModelText, check_path};
use crate::FormatError;

/// A model in memory: what a sink collected, or what a program put together.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct MemoryModel {
    /// The `model.json`.
    pub model_json: Bytes,
    /// Weight files by their path in the manifest.
    pub files: BTreeMap<String, Bytes>,
}

impl ModelSource for MemoryModel {
    fn name(&self) -> String {
        "model in memory".to_owned()
    }

    fn model(&self) -> Result<ModelText, FormatError> {
        Ok(ModelText::Json(self.model_json.clone()))
    }

    fn shard(&self, path: &str) -> Result<Bytes, FormatError> {
        self.files.get(path).cloned().ok_or_else(|| FormatError::NotFound { path: self.shard_name(path) })
    }

    fn stream(&self, path: &str) -> Result<Box<dyn Read + Send>, FormatError> {
        Ok(Box::new(Cursor::new(self.shard(path)?)))
    }

    fn shard_name(&self, path: &str) -> String {
        format!("{path} (in memory)")
    }
}

/// Collects a model in memory.
#[derive(Debug, Default)]
pub struct MemorySink {
    files: BTreeMap<String, Vec<u8>>,
    current: Option<(String, Vec<u8>)>,
    model: Option<MemoryModel>,
}

impl MemorySink {
    /// The model, once it is finished.
    pub fn into_model(self) -> Option<MemoryModel> {
        self.model
    }

    fn end(&mut self) {
        self.files.extend(self.current.take());
    }
}

impl ModelSink for MemorySink {
    fn begin(&mut self, path: &str) -> Result<(), FormatError> {
        check_path(path)?;
        self.end();
        self.current = Some((path.to_owned(), Vec::new()));
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), FormatError> {
        let (_, file) = self.current.as_mut().ok_or(FormatError::NoShardBegun)?;
        file.extend_from_slice(bytes);
        Ok(())
    }

    fn finish(&mut self, model_json: &str) -> Result<(), FormatError> {
        self.end();
        let files = std::mem::take(&mut self.files);
        self.model = Some(MemoryModel {
            model_json: Bytes::from(model_json.to_owned()),
            files: files.into_iter().map(|(path, bytes)| (path, Bytes::from(bytes))).collect(),
        });
        Ok(())
    }
}
