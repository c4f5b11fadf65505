use std::{collections::HashMap, fmt::Write};

use tfjs_graph::Outputs;
use tfjs_kernels::Tensor;

use crate::{
    CliError,
    args::RunArgs,
    files::{self, Together},
    load, npy, show,
};

/// `tfjs run`
pub(crate) fn run(args: &RunArgs) -> Result<String, CliError> {
    let labels = args.labels.as_deref().map(files::lines).transpose()?;
    let outputs = load::on_threads(&args.model, || {
        let model = load::model(&args.model)?;
        let inputs = load::inputs(&args.model, &model)?;
        Ok(if args.outputs.is_empty() {
            model.run(inputs)?
        } else {
            let names: Vec<&str> = args.outputs.iter().map(String::as_str).collect();
            model.run_for(inputs, &names)?
        })
    })?;
    match &args.output_dir {
        Some(directory) => {
            let mut files = Together::in_directory(directory)?;
            for (tensor, file) in with_file_names(&outputs)? {
                files.write(&file, |out| npy::write(tensor, out))?;
            }
            files.finish()?;
            Ok(String::new())
        }
        None => Ok(outputs
            .iter()
            .map(|(name, tensor)| describe(name, tensor, labels.as_deref(), args.top))
            .collect::<Vec<_>>()
            .join("\n")),
    }
}

/// Longest name of a file without its extension: file systems take 255 bytes.
const MAX_NAME: usize = 200;

/// Each output with its file: its name, with every character outside `[A-Za-z0-9_.-]` replaced by `_`. A name that no file
/// can have is cut, and ends with the number of the output.
fn with_file_names(outputs: &Outputs) -> Result<Vec<(&Tensor, String)>, CliError> {
    let mut taken: HashMap<String, &str> = HashMap::new();
    let mut files = Vec::with_capacity(outputs.len());
    for (index, (name, tensor)) in outputs.iter().enumerate() {
        let mut file = sanitized(name);
        if file.len() > MAX_NAME {
            file.truncate(MAX_NAME);
            file += &format!("-{index}");
        }
        file += ".npy";
        match taken.insert(file.clone(), name) {
            // The same output asked for twice.
            Some(first) if first == name => {}
            Some(first) => {
                return Err(CliError::SameFile { first: first.to_owned(), second: name.to_owned(), file });
            }
            None => files.push((tensor, file)),
        }
    }
    Ok(files)
}

fn sanitized(name: &str) -> String {
    name.chars().map(|c| if c.is_ascii_alphanumeric() || "_.-".contains(c) { c } else { '_' }).collect()
}

fn describe(name: &str, tensor: &Tensor, labels: Option<&[String]>, top: usize) -> String {
    let mut text = format!("{name}: {}\n", show::kind(tensor));
    let classes = labels.and_then(|labels| Some((labels, scores(tensor, labels.len())?)));
    match classes {
        Some((labels, scores)) => {
            for (row, scores) in scores.iter().enumerate() {
                if tensor.rank() > 1 && tensor.dims()[0] > 1 {
                    let _ = writeln!(text, "  [{row}]");
                }
                text += &ranking(scores, labels, top);
            }
        }
        None => {
            for line in show::values(tensor).lines() {
                let _ = writeln!(text, "  {line}");
            }
        }
    }
    text
}

/// Rows of scores, if the tensor has one score per label.
fn scores(tensor: &Tensor, labels: usize) -> Option<Vec<&[f32]>> {
    let data = tensor.data::<f32>().ok()?;
    let one_row_each = tensor.rank() <= 2 && tensor.dims().last() == Some(&labels);
    (one_row_each && labels > 0).then(|| data.chunks(labels).collect())
}

/// The greatest scores with their labels; probabilities as percentages with a bar.
fn ranking(scores: &[f32], labels: &[String], top: usize) -> String {
    let probabilities =
        scores.iter().all(|p| (0.0..=1.0).contains(p)) && (scores.iter().sum::<f32>() - 1.0).abs() < 1e-3;
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]));
    let rows: Vec<Vec<String>> = order
        .into_iter()
        .take(top)
        .map(|i| {
            let score = scores[i];
            let shown = if probabilities {
                format!("{:.2} %", score * 100.0)
            } else {
                show::Number(score).to_string()
            };
            let bar =
                if probabilities { "█".repeat((score * 40.0).round() as usize) } else { String::new() };
            vec![labels[i].clone(), shown, bar]
        })
        .collect();
    show::table(&["", ">", ""], &rows)
}

#[cfg(test)]
mod tests {
    use tfjs_kernels::Tensor;

    use super::{describe, sanitized};

    #[test]
    fn file_names_hold_only_harmless_characters() {
        assert_eq!(sanitized("scope/dense:0"), "scope_dense_0");
        assert_eq!(sanitized("häh.a-b_1"), "h_h.a-b_1");
    }

    #[test]
    fn classes_are_ranked_by_their_score() {
        let labels: Vec<String> = ["cat", "dog", "bird"].map(str::to_owned).to_vec();
        let probabilities = Tensor::new([1, 3], vec![0.25f32, 0.7, 0.05]).unwrap();
        let text = describe("p", &probabilities, Some(&labels), 2);
        assert_eq!(
            text,
            format!(
                "p: float32[1, 3]\n  dog  70.00 %  {}\n  cat  25.00 %  {}\n",
                "█".repeat(28),
                "█".repeat(10)
            )
        );
        let logits = Tensor::new([2, 3], vec![1f32, 2.0, -3.5, 4.0, 0.0, 0.0]).unwrap();
        let text = describe("l", &logits, Some(&labels), 1);
        assert_eq!(text, "l: float32[2, 3]\n  [0]\n  dog  2\n  [1]\n  cat  4\n");
    }

    #[test]
    fn other_tensors_are_printed() {
        let text = describe("x", &Tensor::new([2, 2], vec![1, 2, 3, 4]).unwrap(), None, 5);
        assert_eq!(text, "x: int32[2, 2]\n  [[1, 2],\n   [3, 4]]\n");
    }
}
