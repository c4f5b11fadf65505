use std::{
    fmt::Write,
    io::{self, IsTerminal},
    time::Duration,
};

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;
use tfjs_convert::{Progress, Summary};

use crate::{CliError, converter::ConvertArgs, show};

/// The version of the Python tool whose flags and formats these are.
const COMPATIBLE_WITH: &str = "4.22.0";

/// `tfjs convert`
pub(crate) fn run(args: &ConvertArgs) -> Result<String, CliError> {
    if args.show_version {
        return Ok(versions());
    }
    if args.quantization_bytes.is_some() {
        eprintln!(
            "Warning: --quantization_bytes will be deprecated in a future release\n\
             Please consider using --quantize_uint8, --quantize_uint16, --quantize_float16."
        );
    }
    let options = args.options()?;
    let mut bar = Bar::new();
    let summary = tfjs_convert::convert(&options, &mut |progress| bar.update(progress))?;
    bar.finish();
    for warning in &summary.warnings {
        eprintln!("warning: {warning}");
    }
    if args.json { as_json(&summary) } else { Ok(as_text(&summary)) }
}

/// In the form of the Python tool, which scripts parse.
fn versions() -> String {
    format!(
        "\ntensorflowjs {COMPATIBLE_WITH}\n\nDependency versions:\n  keras none\n  tensorflow none\n  tfjs {}\n",
        env!("CARGO_PKG_VERSION")
    )
}

/// A bar on a terminal, nothing elsewhere.
struct Bar(Option<ProgressBar>);

impl Bar {
    fn new() -> Bar {
        Bar(io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new_spinner();
            bar.enable_steady_tick(Duration::from_millis(100));
            bar
        }))
    }

    fn update(&mut self, progress: Progress<'_>) {
        let Some(bar) = &self.0 else { return };
        match progress {
            Progress::Step(step) => bar.set_message(step.to_owned()),
            Progress::Weights { done, total } => {
                if bar.length() != Some(total) {
                    bar.set_length(total);
                    let style = ProgressStyle::with_template("{msg} {bar:40} {bytes}/{total_bytes} {eta}");
                    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
                }
                bar.set_position(done);
            }
        }
    }

    fn finish(&self) {
        if let Some(bar) = &self.0 {
            bar.finish_and_clear();
        }
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.finish();
    }
}

fn as_text(summary: &Summary) -> String {
    let Summary { model, nodes_before, nodes_after, weights, shards, weight_bytes, elapsed, .. } = summary;
    let mut text = format!("{} written in {:.2} s\n", model.display(), elapsed.as_secs_f64());
    if *nodes_after > 0 {
        let _ = writeln!(text, "  nodes    {nodes_after} (from {nodes_before})");
    }
    if summary.layers > 0 {
        let _ = writeln!(text, "  layers   {}", summary.layers);
    }
    let size = show::bytes(*weight_bytes);
    let files = show::count(*shards, "file");
    let _ = writeln!(text, "  weights  {weights}, {size} in {files}");
    for (what, names) in [("inputs ", &summary.inputs), ("outputs", &summary.outputs)] {
        if !names.is_empty() {
            let _ = writeln!(text, "  {what}  {}", names.join(", "));
        }
    }
    text
}

fn as_json(summary: &Summary) -> Result<String, CliError> {
    let passes: Vec<_> =
        summary.passes.iter().map(|(name, rewrites)| json!({"name": name, "rewrites": rewrites})).collect();
    let value = json!({
        "model": summary.model.to_string_lossy(),
        "nodes_before": summary.nodes_before,
        "nodes_after": summary.nodes_after,
        "layers": summary.layers,
        "weights": summary.weights,
        "shards": summary.shards,
        "weight_bytes": summary.weight_bytes,
        "seconds": summary.elapsed.as_secs_f64(),
        "inputs": summary.inputs,
        "outputs": summary.outputs,
        "passes": passes,
        "warnings": summary.warnings.iter().map(ToString::to_string).collect::<Vec<_>>(),
    });
    show::json(&value)
}
