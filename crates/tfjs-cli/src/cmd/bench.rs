use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use serde::Serialize;
use tfjs_graph::{
    DType, TensorInfo,
    op::{NodeTime, Profile},
};
use tfjs_kernels::{Isa, Limits, Tensor, Threads};
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
    /// Opening the model.
    load_s: f64,
    /// The first run: the graph is made ready and its weights are packed.
    first_run_s: f64,
    memory: Memory,
    #[serde(skip_serializing_if = "Option::is_none")]
    profile: Option<Costs>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    limits: Vec<Limit>,
}

/// Bytes.
#[derive(Debug, Serialize)]
struct Memory {
    /// Results of nodes: the most that is alive at the same time.
    #[serde(skip_serializing_if = "Option::is_none")]
    activations_minimal: Option<usize>,
    /// What their memory takes.
    #[serde(skip_serializing_if = "Option::is_none")]
    activations: Option<usize>,
    /// Most memory that the process had in use, if the system tells.
    #[serde(skip_serializing_if = "Option::is_none")]
    peak_resident: Option<usize>,
}

/// What the machine can do.
#[derive(Debug, Serialize)]
struct Limit {
    isa: &'static str,
    threads: usize,
    gflops: f64,
    read_gb_s: f64,
    copy_gb_s: f64,
}

/// Where the time goes, costliest first.
#[derive(Debug, Serialize)]
struct Costs {
    nodes: Vec<Cost>,
    ops: Vec<Cost>,
    /// All nodes together, per run.
    total: Cost,
    /// What this machine can do at most on as many threads.
    limit: Limit,
}

#[derive(Clone, Debug, Serialize)]
struct Cost {
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    op: String,
    calls: f64,
    /// Per run.
    ms: f64,
    percent: f64,
    /// Arithmetic of products and convolutions; left out for other ops.
    #[serde(skip_serializing_if = "Option::is_none")]
    gflops: Option<f64>,
    /// Part of what the machine can do, in percent.
    #[serde(skip_serializing_if = "Option::is_none")]
    percent_of_peak: Option<f64>,
    /// Inputs and outputs, which may come from caches.
    gb_s: f64,
    /// Billions of operations and bytes per run.
    gflop: f64,
    gbyte: f64,
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
        let load_s = start.elapsed().as_secs_f64();
        return measure_turns(args, start, load_s, &mut |profile| {
            match profile {
                Some(profile) => model.train_on_batch_profiled(&batch, profile)?,
                None => model.train_on_batch(&batch)?,
            };
            Ok(())
        });
    }
    let model = load::model(&args.model)?;
    let load_s = start.elapsed().as_secs_f64();
    let inputs = load::inputs(&args.model, &model)?;
    let inputs = with_made_up(inputs, &model)?;
    let turn = &mut |profile: Option<&mut Profile>| {
        let inputs = inputs.iter().map(|(name, tensor)| (name, tensor.clone()));
        match profile {
            Some(profile) => model.run_profiled(inputs, profile)?,
            None => model.run(inputs)?,
        };
        Ok(())
    };
    let mut report = measure_turns(args, start, load_s, turn)?;
    if let Some(memory) = model.memory() {
        report.memory.activations_minimal = Some(memory.minimal);
        report.memory.activations = Some(memory.used);
    }
    Ok(report)
}

fn measure_turns(
    args: &BenchArgs,
    start: Instant,
    load_s: f64,
    turn: &mut Turn<'_>,
) -> Result<Report, CliError> {
    let first = Instant::now();
    turn(None)?;
    let (first_run_s, load_and_first_s) = (first.elapsed().as_secs_f64(), start.elapsed().as_secs_f64());
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
    // Before anything else takes memory.
    let peak_resident = peak_resident();
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
        load_s,
        first_run_s,
        memory: Memory { activations_minimal: None, activations: None, peak_resident },
        profile,
        limits: if args.limits { limits()? } else { Vec::new() },
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

/// The most memory that this process had in use, in bytes, where the system tells.
fn peak_resident() -> Option<usize> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<usize>().ok()?.checked_mul(1024)
}

fn limit(isa: Isa) -> Limit {
    let limits = Limits::measure(isa);
    Limit {
        isa: isa.name(),
        threads: limits.threads,
        gflops: limits.flops / 1e9,
        read_gb_s: limits.read / 1e9,
        copy_gb_s: limits.copied / 1e9,
    }
}

/// The limits of every instruction set, on one thread and on all.
fn limits() -> Result<Vec<Limit>, CliError> {
    let all = std::thread::available_parallelism().map_or(1, |n| n.get());
    let mut found = Vec::new();
    for threads in [1, all] {
        let threads = Threads::new(threads).map_err(CliError::Threads)?;
        found.extend(Isa::available().map(|isa| threads.run(|| limit(isa))));
        if all == 1 {
            break;
        }
    }
    Ok(found)
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
    let limit = limit(Isa::current());
    let whole: f64 = profile.nodes.values().map(|n| n.total.as_secs_f64()).sum();
    let cost = |name, n: &NodeTime| {
        let seconds = n.total.as_secs_f64().max(f64::MIN_POSITIVE);
        let gflops = (n.flops > 0).then(|| n.flops as f64 / seconds / 1e9);
        Cost {
            name,
            op: n.op.clone(),
            calls: n.calls as f64 / runs,
            ms: n.total.as_secs_f64() * 1e3 / runs,
            percent: n.total.as_secs_f64() * 100.0 / whole.max(f64::MIN_POSITIVE),
            gflops,
            percent_of_peak: gflops.map(|g| g * 100.0 / limit.gflops),
            gb_s: n.bytes as f64 / seconds / 1e9,
            gflop: n.flops as f64 / 1e9 / runs,
            gbyte: n.bytes as f64 / 1e9 / runs,
        }
    };
    let add = |sum: &mut NodeTime, n: &NodeTime| {
        sum.calls += n.calls;
        sum.total += n.total;
        sum.flops = sum.flops.saturating_add(n.flops);
        sum.bytes = sum.bytes.saturating_add(n.bytes);
    };
    let mut by_op: HashMap<&str, NodeTime> = HashMap::new();
    let mut all = NodeTime::default();
    for node in profile.nodes.values() {
        let fresh = || NodeTime { op: node.op.clone(), ..NodeTime::default() };
        add(by_op.entry(&node.op).or_insert_with(fresh), node);
        add(&mut all, node);
    }
    let nodes = profile.nodes.iter().map(|(name, n)| cost(Some(name.clone()), n)).collect();
    let ops = by_op.values().map(|n| cost(None, n)).collect();
    let total = cost(None, &all);
    Costs { nodes: costliest(nodes), ops: costliest(ops), total, limit }
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
        (
            "load and first result",
            format!(
                "{:.3} s ({:.3} s to open, {:.3} s the first run)",
                report.load_and_first_s, report.load_s, report.first_run_s
            ),
        ),
    ];
    let megabytes = |bytes: usize| format!("{:.2} MB", bytes as f64 / 1e6);
    let memory = &report.memory;
    let activations = memory.activations.zip(memory.activations_minimal).map(|(used, minimal)| {
        let ratio = used as f64 / minimal.max(1) as f64;
        ("activations", format!("{}, {ratio:.2} of the least ({})", megabytes(used), megabytes(minimal)))
    });
    let resident = memory.peak_resident.map(|bytes| ("peak of the process", megabytes(bytes)));
    let rows = rows.into_iter().chain(activations).chain(resident);
    let rows: Vec<Vec<String>> = rows.map(|(what, value)| vec![what.to_owned(), value]).collect();
    text += &show::table(&["", ""], &rows);
    if let Some(profile) = &report.profile {
        text += &profile_as_text(profile);
    }
    if !report.limits.is_empty() {
        text += "\nthis machine at most\n";
        let row = |l: &Limit| {
            let [flops, read, copied] = [l.gflops, l.read_gb_s, l.copy_gb_s].map(|x| format!("{x:.1}"));
            vec![l.isa.to_owned(), l.threads.to_string(), flops, read, copied]
        };
        let rows: Vec<_> = report.limits.iter().map(row).collect();
        text += &show::table(&["", ">threads", ">GFLOP/s", ">GB/s read", ">GB/s copied"], &rows);
    }
    text
}

fn profile_as_text(profile: &Costs) -> String {
    let ms = |value: f64| format!("{value:.3} ms");
    let rates = |c: &Cost| {
        let (gflops, peak) = match (c.gflops, c.percent_of_peak) {
            (Some(gflops), Some(peak)) => (format!("{gflops:.1}"), format!("{peak:.0} %")),
            _ => (String::new(), String::new()),
        };
        [gflops, peak, format!("{:.1}", c.gb_s)]
    };
    let mut text = "\ncostliest ops, per run\n".to_owned();
    let row = |c: &Cost| {
        let [gflops, peak, bytes] = rates(c);
        let (calls, percent) = (format!("{:.0}", c.calls), format!("{:.1} %", c.percent));
        vec![c.op.clone(), calls, ms(c.ms), percent, gflops, peak, bytes]
    };
    let header = ["op", ">calls", ">time", ">", ">GFLOP/s", ">of peak", ">GB/s"];
    let all = Cost { op: "all".to_owned(), ..profile.total.clone() };
    let rows: Vec<_> = profile.ops.iter().chain([&all]).map(row).collect();
    text += &show::table(&header, &rows);
    text += "\ncostliest nodes, per run\n";
    let row = |c: &Cost| {
        let [gflops, peak, bytes] = rates(c);
        let name = c.name.clone().unwrap_or_default();
        vec![c.op.clone(), ms(c.ms), format!("{:.1} %", c.percent), gflops, peak, bytes, name]
    };
    let header = ["op", ">time", ">", ">GFLOP/s", ">of peak", ">GB/s", "node"];
    text += &show::table(&header, &profile.nodes.iter().map(row).collect::<Vec<_>>());
    let (limit, total) = (&profile.limit, &profile.total);
    text += &format!(
        "\n{:.3} GFLOP and {:.1} MB of inputs and outputs per run; this machine at most ({}, {}): {:.1} GFLOP/s, {:.1} GB/s read, \
         {:.1} GB/s copied\n",
        total.gflop,
        total.gbyte * 1e3,
        limit.isa,
        show::count(limit.threads, "thread"),
        limit.gflops,
        limit.read_gb_s,
        limit.copy_gb_s,
    );
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
