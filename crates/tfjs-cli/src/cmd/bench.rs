use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use serde::Serialize;
use tfjs_graph::{DType, TensorInfo, op::Profile};
use tfjs_kernels::Tensor;
use tfjs_layers::{Batch, LayersModel, Optimizer};

use crate::{CliError, args::BenchArgs, load, random, show};

/// How many nodes and ops a profile lists.
const LISTED: usize = 20;

/// What was measured.
#[derive(Debug, Serialize)]
struct Report {
    model: String,
    threads: Option<usize>,
    warmup: usize,
    runs: usize,
    median_ms: f64,
    min_ms: f64,
    p90_ms: f64,
    mean_ms: f64,
    /// From opening the model to its first result.
    load_and_first_s: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    profile: Option<Costs>,
}

/// Where the time goes, costliest first.
#[derive(Debug, Serialize)]
struct Costs {
    nodes: Vec<Cost>,
    ops: Vec<Cost>,
}

#[derive(Debug, Serialize)]
struct Cost {
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    op: String,
    calls: f64,
    /// Per run.
    ms: f64,
    percent: f64,
}

/// `tfjs bench`
pub(crate) fn run(args: &BenchArgs) -> Result<String, CliError> {
    let report = load::on_threads(&args.model, || measure(args))?;
    if args.json { show::json(&report) } else { Ok(as_text(&report)) }
}

/// What is measured: a run, or a step of training.
type Turn<'t> = dyn FnMut(Option<&mut Profile>) -> Result<(), CliError> + 't;

fn measure(args: &BenchArgs) -> Result<Report, CliError> {
    let start = Instant::now();
    if let Some(samples) = args.train {
        let mut model = load::layers(&args.model.model, &load::options(&args.model))?;
        let batch = made_up_batch(&mut model, args, samples.get())?;
        return measure_turns(args, start, &mut |profile| {
            match profile {
                Some(profile) => model.train_on_batch_profiled(&batch, profile)?,
                None => model.train_on_batch(&batch)?,
            };
            Ok(())
        });
    }
    let model = load::model(&args.model)?;
    let inputs = load::inputs(&args.model, &model)?;
    let inputs = with_made_up(inputs, &model)?;
    measure_turns(args, start, &mut |profile| {
        let inputs = inputs.iter().map(|(name, tensor)| (name, tensor.clone()));
        match profile {
            Some(profile) => model.run_profiled(inputs, profile)?,
            None => model.run(inputs)?,
        };
        Ok(())
    })
}

fn measure_turns(args: &BenchArgs, start: Instant, turn: &mut Turn<'_>) -> Result<Report, CliError> {
    turn(None)?;
    let load_and_first_s = start.elapsed().as_secs_f64();
    for _ in 0..args.warmup {
        turn(None)?;
    }
    let mut times = Vec::new();
    let enough = Duration::from_secs_f64(args.seconds);
    let measuring = Instant::now();
    loop {
        let start = Instant::now();
        turn(None)?;
        times.push(start.elapsed().as_secs_f64() * 1e3);
        let done = match args.runs {
            Some(runs) => times.len() >= runs.get(),
            None => measuring.elapsed() >= enough,
        };
        if done {
            break;
        }
    }
    let profile = if args.profile {
        let mut profile = Profile::default();
        let runs = times.len().min(50);
        for _ in 0..runs {
            turn(Some(&mut profile))?;
        }
        Some(costs(&profile, runs))
    } else {
        None
    };
    times.sort_by(f64::total_cmp);
    Ok(Report {
        model: args.model.model.clone(),
        threads: args.model.threads.map(|n| n.get()),
        warmup: args.warmup,
        runs: times.len(),
        median_ms: median(&times),
        min_ms: times[0],
        p90_ms: quantile(&times, 0.9),
        mean_ms: times.iter().sum::<f64>() / times.len() as f64,
        load_and_first_s,
        profile,
    })
}

/// Samples and labels of the shapes that the model takes and gives; the model compiled for them.
fn made_up_batch(model: &mut LayersModel, args: &BenchArgs, samples: usize) -> Result<Batch, CliError> {
    let optimizer = Optimizer::from_config(&args.optimizer.as_str().into(), model.dialect())?;
    model.compile(optimizer, args.loss.as_str(), [""; 0])?;
    let mut x = Vec::new();
    for (seed, info) in (0..).zip(model.compiled()?.inputs()) {
        x.push(random::tensor(info, samples, seed)?);
    }
    let names = model.input_names();
    let outputs = model.run(names.iter().zip(x.iter().cloned()))?;
    let mut y = Vec::new();
    for (seed, (_, output)) in (100..).zip(outputs.iter()) {
        // Losses of classes take their numbers, one for each row of the output.
        let (dtype, rank) = match args.loss.starts_with("sparse") {
            true => (DType::Int32, output.rank() - 1),
            false => (DType::Float32, output.rank()),
        };
        let shape = Some(output.dims()[..rank].iter().map(|&d| Some(d)).collect());
        let info = TensorInfo { key: "labels".to_owned(), name: String::new(), dtype: Some(dtype), shape };
        y.push(Some(random::tensor(&info, samples, seed)?));
    }
    Ok(Batch { x, y, sample_weight: Vec::new() })
}

/// The inputs given, and made-up ones for the others.
fn with_made_up(
    mut inputs: Vec<(String, Tensor)>,
    model: &tfjs_graph::GraphModel,
) -> Result<Vec<(String, Tensor)>, CliError> {
    let bare = |name: &str| name.strip_suffix(":0").unwrap_or(name).to_owned();
    for (seed, info) in (0..).zip(model.inputs()) {
        let given = inputs.iter().any(|(name, _)| *name == info.key || bare(name) == bare(&info.name));
        if !given {
            inputs.push((info.key.clone(), random::tensor(info, 1, seed)?));
        }
    }
    Ok(inputs)
}

/// Of at least one sorted number.
fn median(sorted: &[f64]) -> f64 {
    let half = sorted.len() / 2;
    if sorted.len() % 2 == 1 { sorted[half] } else { (sorted[half - 1] + sorted[half]) / 2.0 }
}

/// The smallest number that at least the part `p` of all does not exceed.
fn quantile(sorted: &[f64], p: f64) -> f64 {
    let rank = (sorted.len() as f64 * p).ceil() as usize;
    sorted[rank.clamp(1, sorted.len()) - 1]
}

fn costs(profile: &Profile, runs: usize) -> Costs {
    let runs = runs.max(1) as f64;
    let whole: f64 = profile.nodes.values().map(|n| n.total.as_secs_f64()).sum();
    let cost = |name, op: &str, calls: u64, total: Duration| Cost {
        name,
        op: op.to_owned(),
        calls: calls as f64 / runs,
        ms: total.as_secs_f64() * 1e3 / runs,
        percent: total.as_secs_f64() * 100.0 / whole.max(f64::MIN_POSITIVE),
    };
    let mut by_op: HashMap<&str, (u64, Duration)> = HashMap::new();
    for node in profile.nodes.values() {
        let sum = by_op.entry(&node.op).or_default();
        sum.0 += node.calls;
        sum.1 += node.total;
    }
    let nodes = profile.nodes.iter().map(|(name, n)| cost(Some(name.clone()), &n.op, n.calls, n.total));
    let ops = by_op.into_iter().map(|(op, (calls, total))| cost(None, op, calls, total));
    Costs { nodes: costliest(nodes.collect()), ops: costliest(ops.collect()) }
}

fn costliest(mut costs: Vec<Cost>) -> Vec<Cost> {
    costs.sort_by(|a, b| b.ms.total_cmp(&a.ms).then_with(|| (&a.op, &a.name).cmp(&(&b.op, &b.name))));
    costs.truncate(LISTED);
    costs
}

fn as_text(report: &Report) -> String {
    let threads = report.threads.map_or_else(String::new, |n| format!(", {}", show::count(n, "thread")));
    let mut text = format!("{}{threads}\n", report.model);
    let ms = |value: f64| format!("{value:.3} ms");
    let rows = [
        ("median", ms(report.median_ms)),
        ("min", ms(report.min_ms)),
        ("90 %", ms(report.p90_ms)),
        ("runs", format!("{} after {} to warm up", report.runs, report.warmup)),
        ("load and first result", format!("{:.3} s", report.load_and_first_s)),
    ];
    let rows: Vec<Vec<String>> = rows.into_iter().map(|(what, value)| vec![what.to_owned(), value]).collect();
    text += &show::table(&["", ""], &rows);
    if let Some(profile) = &report.profile {
        text += "\ncostliest ops, per run\n";
        let row =
            |c: &Cost| vec![c.op.clone(), format!("{:.0}", c.calls), ms(c.ms), format!("{:.1} %", c.percent)];
        text +=
            &show::table(&["op", ">calls", ">time", ">"], &profile.ops.iter().map(row).collect::<Vec<_>>());
        text += "\ncostliest nodes, per run\n";
        let row = |c: &Cost| {
            let name = c.name.clone().unwrap_or_default();
            vec![c.op.clone(), ms(c.ms), format!("{:.1} %", c.percent), name]
        };
        text +=
            &show::table(&["op", ">time", ">", "node"], &profile.nodes.iter().map(row).collect::<Vec<_>>());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::{median, quantile};

    #[test]
    fn medians_and_quantiles_are_those_of_the_textbook() {
        assert_eq!(median(&[1.0, 2.0, 9.0]), 2.0);
        assert_eq!(median(&[1.0, 2.0, 4.0, 9.0]), 3.0);
        assert_eq!(quantile(&[5.0], 0.9), 5.0);
        let ten: Vec<f64> = (1..=10).map(f64::from).collect();
        assert_eq!(quantile(&ten, 0.9), 9.0);
    }
}
