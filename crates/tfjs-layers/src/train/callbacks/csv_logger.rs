//! [`CsvLogger`].

use std::{
    fs::{File, OpenOptions},
    io::{Seek, SeekFrom, Write},
    path::PathBuf,
};

use serde_json::json;

use super::{Callback, CallbackState, Context, Logs, Result, path::python_float};
use crate::{Dialect, LayersError};

/// Writes loss and metrics of each epoch into a table, as Keras does: a column per value in alphabetical order, `NA` for
/// what was not measured. A training that is taken up again goes on with its table.
#[derive(Debug)]
pub struct CsvLogger {
    path: PathBuf,
    separator: char,
    append: bool,
    file: Option<File>,
    header: bool,
    keys: Option<Vec<String>>,
    bytes: u64,
}

impl CsvLogger {
    /// A new file with commas.
    pub fn new(path: impl Into<PathBuf>) -> CsvLogger {
        CsvLogger {
            path: path.into(),
            separator: ',',
            append: false,
            file: None,
            header: true,
            keys: None,
            bytes: 0,
        }
    }

    setters! {
        /// Stands between columns.
        separator: char,
        /// Whether rows are added to a file that is there.
        append: bool,
    }

    fn failed(&self, source: std::io::Error) -> LayersError {
        LayersError::File { action: "write", path: self.path.clone(), source }
    }

    fn write(&mut self, fields: &[String]) -> Result<()> {
        let quoted = |field: &String| {
            let plain = !field.contains([self.separator, '"', '\r', '\n']);
            if plain { field.clone() } else { format!("\"{}\"", field.replace('"', "\"\"")) }
        };
        let row = fields.iter().map(quoted).collect::<Vec<_>>().join(&self.separator.to_string()) + "\r\n";
        let Some(file) = &mut self.file else { return Ok(()) };
        let written = file.write_all(row.as_bytes()).and_then(|()| file.flush());
        written.map_err(|e| self.failed(e))?;
        self.bytes += row.len() as u64;
        Ok(())
    }
}

impl Callback for CsvLogger {
    fn train_begin(&mut self, cx: &mut Context<'_>) -> Result<()> {
        let append = self.append || cx.initial_epoch.is_some();
        let mut options = OpenOptions::new();
        options.create(true).write(true).truncate(!append);
        let opened = options.open(&self.path).and_then(|mut file| Ok((file.seek(SeekFrom::End(0))?, file)));
        let (bytes, file) = opened.map_err(|e| self.failed(e))?;
        (self.bytes, self.file, self.header, self.keys) = (bytes, Some(file), bytes == 0, None);
        Ok(())
    }

    fn epoch_end(&mut self, _cx: &mut Context<'_>, epoch: usize, logs: &mut Logs) -> Result<()> {
        let keys = match self.keys.take() {
            Some(keys) => keys,
            None => {
                let mut keys: Vec<String> = logs.iter().map(|(name, _)| name.to_owned()).collect();
                keys.sort();
                // The first epoch may be one without validation.
                if !keys.iter().any(|k| k.starts_with("val_")) {
                    let validated: Vec<String> = keys.iter().map(|k| format!("val_{k}")).collect();
                    keys.extend(validated);
                }
                if std::mem::take(&mut self.header) {
                    let header: Vec<String> =
                        std::iter::once("epoch".to_owned()).chain(keys.iter().cloned()).collect();
                    self.write(&header)?;
                }
                keys
            }
        };
        let value = |key: &String| logs.get(key).map_or_else(|| "NA".to_owned(), python_float);
        let row: Vec<String> = std::iter::once(epoch.to_string()).chain(keys.iter().map(value)).collect();
        self.keys = Some(keys);
        self.write(&row)
    }

    fn train_end(&mut self, _cx: &mut Context<'_>) -> Result<()> {
        self.file = None;
        Ok(())
    }

    fn state(&self) -> CallbackState {
        CallbackState { values: json!({"bytes": self.bytes, "keys": self.keys}), tensors: Vec::new() }
    }

    fn set_state(&mut self, state: CallbackState) -> Result<()> {
        // Rows of epochs that were not backed up are written again.
        let Some(bytes) = state.values["bytes"].as_u64().filter(|b| *b <= self.bytes) else { return Ok(()) };
        if let Some(file) = &mut self.file {
            let cut = file.set_len(bytes).and_then(|()| file.seek(SeekFrom::End(0)));
            cut.map_err(|e| self.failed(e))?;
        }
        let keys = state.values["keys"].as_array();
        self.keys = keys.map(|k| k.iter().filter_map(|k| k.as_str().map(str::to_owned)).collect());
        (self.bytes, self.header) = (bytes, bytes == 0);
        Ok(())
    }

    fn adds(&self, _dialect: Dialect) -> Option<Vec<&'static str>> {
        Some(Vec::new())
    }
}
