//! Tables: a row per sample, a column of labels.

use std::path::Path;

use csv::StringRecord;
use tfjs_kernels::Tensor;
use tfjs_layers::{Batch, LayersModel};

use crate::CliError;

/// All rows; values as the model's input takes them.
pub(super) fn read(path: &Path, label: &str, model: &LayersModel) -> Result<Batch, CliError> {
    let failed = |source: csv::Error| CliError::Csv { path: path.to_owned(), source };
    let mut reader =
        csv::ReaderBuilder::new().trim(csv::Trim::All).flexible(true).from_path(path).map_err(failed)?;
    let header = reader.headers().map_err(failed)?.clone();
    let wrong = |found: String| CliError::Table { path: path.to_owned(), found };
    let columns: Vec<&str> = header.iter().collect();
    let Some(at) = columns.iter().position(|c| *c == label) else {
        return Err(wrong(format!("no column `{label}`; its columns are {}", columns.join(", "))));
    };
    let (mut x, mut y) = (Vec::new(), Vec::new());
    for record in reader.records() {
        let record = record.map_err(failed)?;
        if record.len() != columns.len() {
            return Err(CliError::TableLine {
                path: path.to_owned(),
                line: line(&record),
                problem: format!("{} values, the header names {} columns", record.len(), columns.len()),
            });
        }
        for (i, name) in columns.iter().enumerate() {
            let value = number(&record, i, name, path)?;
            if i == at { y.push(value) } else { x.push(value) }
        }
    }
    if y.is_empty() {
        return Err(wrong("no rows".to_owned()));
    }
    let features = columns.len() - 1;
    let inputs = model.input_names();
    let [_] = inputs.as_slice() else {
        return Err(wrong(format!(
            "a sample per row, and the model has {} inputs ({}); give arrays with --x instead",
            inputs.len(),
            inputs.join(", ")
        )));
    };
    let facts = model.network().input_facts()?;
    let declared = facts.first().and_then(|f| f.shape.clone()).unwrap_or_default();
    let sample: Option<Vec<usize>> = declared.iter().skip(1).copied().collect();
    let mut dims = vec![y.len()];
    match sample {
        Some(sample) if sample.iter().product::<usize>() == features => dims.extend(sample),
        Some(sample) => {
            return Err(wrong(format!(
                "{features} columns besides `{label}`, the model takes {} ({sample:?})",
                sample.iter().product::<usize>()
            )));
        }
        None => dims.push(features),
    }
    let x = Tensor::new(dims, x).map_err(tfjs_layers::LayersError::from)?;
    // Classes are whole numbers.
    let whole = y.iter().all(|v| v.fract() == 0.0 && v.abs() < 1e9);
    let y = if whole {
        Tensor::vector(y.iter().map(|v| *v as i32).collect::<Vec<_>>())
    } else {
        Tensor::vector(y)
    };
    Ok(Batch::new(x, y))
}

fn number(record: &StringRecord, i: usize, name: &str, path: &Path) -> Result<f32, CliError> {
    let text = record.get(i).unwrap_or_default();
    let value = text.parse::<f32>().ok().filter(|v| v.is_finite());
    value.ok_or_else(|| CliError::TableLine {
        path: path.to_owned(),
        line: line(record),
        problem: match text {
            "" => format!("column `{name}` has no value"),
            _ => format!("column `{name}` is `{text}`, which is no number"),
        },
    })
}

fn line(record: &StringRecord) -> u64 {
    record.position().map_or(0, csv::Position::line)
}
