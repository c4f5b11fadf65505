//! How loss and metrics went, as a table and a picture.

use std::{
    fmt::Write,
    io,
    path::{Path, PathBuf},
};

use tfjs_layers::History;

use crate::{CliError, files::Together};

/// Size of one plot and of what surrounds it.
const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 260.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 20.0;
const TOP: f64 = 36.0;
const BOTTOM: f64 = 44.0;
/// Training and validation, in colours that the colour-blind tell apart.
const COLOURS: [&str; 2] = ["#0072b2", "#d55e00"];

/// Where table and picture go: into the model's directory, or beside its file.
pub(crate) fn directory(out: &Path) -> PathBuf {
    if is_file(out) { out.parent().unwrap_or(Path::new("")).to_owned() } else { out.to_owned() }
}

/// Whether a model is written as one file.
pub(crate) fn is_file(out: &Path) -> bool {
    matches!(out.extension().and_then(|e| e.to_str()), Some("h5" | "hdf5" | "keras"))
}

/// Writes `history.csv` and `history.svg`.
///
/// # Errors
/// When they cannot be written.
pub(crate) fn write(history: &History, directory: &Path) -> Result<(), CliError> {
    let directory = if directory.as_os_str().is_empty() { Path::new(".") } else { directory };
    let mut files = Together::in_directory(directory)?;
    files.write("history.csv", |out| {
        let mut table = csv::Writer::from_writer(out);
        let names = history.names();
        table.write_record(std::iter::once("epoch").chain(names.iter().copied()))?;
        for (epoch, logs) in history.epochs.iter().zip(&history.logs) {
            let value = |name: &&str| logs.get(name).map_or_else(String::new, |v| v.to_string());
            table.write_record(std::iter::once((epoch + 1).to_string()).chain(names.iter().map(value)))?;
        }
        table.flush()
    })?;
    files.write("history.svg", |out| io::Write::write_all(out, picture(history).as_bytes()))?;
    files.finish()
}

/// A plot for each value, with its curves in training and validation.
fn picture(history: &History) -> String {
    let names: Vec<&str> = history.names().into_iter().filter(|n| !n.starts_with("val_")).collect();
    let height = HEIGHT * names.len().max(1) as f64;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" height=\"{height}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
    );
    for (i, name) in names.iter().enumerate() {
        plot(&mut svg, history, name, HEIGHT * i as f64);
    }
    svg + "</svg>\n"
}

fn plot(svg: &mut String, history: &History, name: &str, y0: f64) {
    let curves = [history.get(name), history.get(&format!("val_{name}"))];
    let finite = || curves.iter().flatten().copied().filter(|v| v.is_finite());
    let (low, high) = finite().fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), v| (l.min(v), h.max(v)));
    let (low, high) = if low > high { (0.0, 1.0) } else { (low, high) };
    let (low, high, step) = ticks(low, high);
    let first = history.epochs.first().map_or(1.0, |e| *e as f64 + 1.0);
    let last = history.epochs.last().map_or(1.0, |e| *e as f64 + 1.0).max(first + 1.0);
    let (right, bottom) = (WIDTH - RIGHT, y0 + HEIGHT - BOTTOM);
    let top = y0 + TOP;
    let x = |epoch: f64| LEFT + (epoch - first) / (last - first) * (right - LEFT);
    let y = |value: f64| bottom - (value - low) / (high - low) * (bottom - top);
    let escaped = name.replace('&', "&amp;").replace('<', "&lt;");
    // Text cannot fail to be written to text.
    let _ = writeln!(
        svg,
        "<text x=\"{LEFT}\" y=\"{}\" font-size=\"14\" font-weight=\"bold\">{escaped}</text>",
        top - 12.0
    );
    for k in 0..=((high - low) / step).round() as usize {
        let value = low + step * k as f64;
        let at = y(value);
        let _ = writeln!(
            svg,
            "<line x1=\"{LEFT}\" y1=\"{at:.1}\" x2=\"{right}\" y2=\"{at:.1}\" stroke=\"#ddd\"/>\
             <text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            LEFT - 8.0,
            at + 4.0,
            short(value)
        );
    }
    let between = ((last - first) / 10.0).ceil().max(1.0);
    let mut epoch = first;
    while epoch <= last {
        let at = x(epoch);
        let _ = writeln!(
            svg,
            "<line x1=\"{at:.1}\" y1=\"{bottom}\" x2=\"{at:.1}\" y2=\"{}\" stroke=\"#888\"/>\
             <text x=\"{at:.1}\" y=\"{}\" text-anchor=\"middle\">{epoch}</text>",
            bottom + 5.0,
            bottom + 19.0
        );
        epoch += between;
    }
    let _ = writeln!(
        svg,
        "<path d=\"M{LEFT} {top}V{bottom}H{right}\" fill=\"none\" stroke=\"#888\"/>\
         <text x=\"{}\" y=\"{}\" text-anchor=\"middle\">epoch</text>",
        (LEFT + right) / 2.0,
        bottom + 36.0
    );
    let mut legend = right;
    for ((curve, colour), label) in curves.iter().zip(COLOURS).zip(["training", "validation"]).rev() {
        if !curve.iter().any(|v| v.is_finite()) {
            continue;
        }
        let mut path = String::new();
        let mut command = 'M';
        let mut points = String::new();
        for (&value, &epoch) in curve.iter().zip(&history.epochs) {
            if !value.is_finite() {
                // Values that were not measured in every epoch are joined; those that are no numbers are a gap.
                continue;
            }
            let (px, py) = (x(epoch as f64 + 1.0), y(value));
            let _ = write!(path, "{command}{px:.1} {py:.1}");
            let _ = write!(points, "<circle cx=\"{px:.1}\" cy=\"{py:.1}\" r=\"2\" fill=\"{colour}\"/>");
            command = 'L';
        }
        let _ = writeln!(
            svg,
            "<path d=\"{path}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.5\"/>{points}"
        );
        legend -= 90.0;
        let _ = writeln!(
            svg,
            "<line x1=\"{legend}\" y1=\"{0}\" x2=\"{1}\" y2=\"{0}\" stroke=\"{colour}\" stroke-width=\"2\"/>\
             <text x=\"{2}\" y=\"{3}\">{label}</text>",
            top - 16.0,
            legend + 18.0,
            legend + 23.0,
            top - 12.0
        );
    }
}

/// Round ends of an axis, and the distance of its ticks.
fn ticks(low: f64, high: f64) -> (f64, f64, f64) {
    let span = if high > low { high - low } else { low.abs().max(1.0) * 0.1 };
    let rough = span / 4.0;
    let power = 10f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].into_iter().map(|m| m * power).find(|s| *s >= rough).unwrap_or(power);
    let (low, high) = ((low / step).floor() * step, (high / step).ceil() * step);
    if high > low { (low, high, step) } else { (low, low + step, step) }
}

/// A tick's number with as many digits as it needs.
fn short(value: f64) -> String {
    let text = format!("{value:.6}");
    let text = text.trim_end_matches('0').trim_end_matches('.');
    if (text == "0" || text == "-0") && value.abs() > 1e-12 || text.len() > 9 {
        return format!("{value:.1e}");
    }
    if text == "-0" { "0".to_owned() } else { text.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::{short, ticks};

    #[test]
    fn axes_end_at_round_numbers() {
        assert_eq!(ticks(0.13, 0.87), (0.0, 1.0, 0.2));
        assert_eq!(ticks(3.0, 3.0), (3.0, 3.1, 0.1));
        let (low, high, _) = ticks(1e-9, 3e-9);
        assert!(low <= 1e-9 && high >= 3e-9);
        assert_eq!(short(0.2 * 3.0), "0.6");
        assert_eq!(short(2e-9), "2.0e-9");
    }
}
