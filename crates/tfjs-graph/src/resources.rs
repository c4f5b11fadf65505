use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use crate::{Value, value::Table};

/// What outlives a run: hash tables, and values that the initialiser graph hands to the inference graph.
///
/// Shared by all sessions of a model.
#[derive(Debug, Default)]
pub struct Resources {
    tables: Mutex<HashMap<String, Arc<Table>>>,
    captured: Mutex<HashMap<i64, Value>>,
}

impl Resources {
    /// The table of a name, made by `init` when it does not exist yet.
    pub fn table(&self, name: &str, init: impl FnOnce() -> Table) -> Arc<Table> {
        let mut tables = self.tables.lock().unwrap_or_else(PoisonError::into_inner);
        tables.entry(name.to_owned()).or_insert_with(|| Arc::new(init())).clone()
    }

    /// Keeps an output of the initialiser under its resource id.
    pub fn capture(&self, resource_id: i64, value: Value) {
        self.captured.lock().unwrap_or_else(PoisonError::into_inner).insert(resource_id, value);
    }

    /// What the initialiser left under a resource id.
    pub fn captured(&self, resource_id: i64) -> Option<Value> {
        self.captured.lock().unwrap_or_else(PoisonError::into_inner).get(&resource_id).cloned()
    }
}
