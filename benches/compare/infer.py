#!/usr/bin/env python3
"""Times `tfjs`, ONNX Runtime, OpenVINO and LiteRT (and TensorFlow.js on its WASM backend) side by side.

    infer.py TFJS MODELS [--node-modules DIR] [--models a,b] [--threads 1,2] [--rounds 3] [--seconds 2] [--json FILE]

MODELS is a folder made by models.py. Runs under a Python with numpy, onnxruntime 1.31, openvino 2026.4 and ai-edge-litert 2.3;
DIR has @tensorflow/tfjs and @tensorflow/tfjs-backend-wasm 4.22. Each round lets every runtime run every model in turn, in a new
process; an output that is not TensorFlow's is an error. The table gives the median over rounds of each round's median
in milliseconds, and the fastest other runtime's over ours.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

MODELS = "mobilenet_v1,mobilenet_v2,resnet50,efficientnet_b0,inception_v3,transformer,lstm"

PYTHON = """
import json, sys, time
import numpy as np
runtime, directory, threads, seconds = sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4])
x, want = np.load(directory + "/x.npy"), np.load(directory + "/y.npy")
if runtime == "ort":
    import onnxruntime
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    start = time.perf_counter()
    session = onnxruntime.InferenceSession(directory + "/m.onnx", options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    run = lambda: session.run(None, {name: x})[0]
elif runtime == "openvino":
    import openvino
    start = time.perf_counter()
    core = openvino.Core()
    model = core.read_model(directory + "/saved_model")
    model.reshape(list(x.shape))
    hints = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    request = core.compile_model(model, "CPU", hints).create_infer_request()
    run = lambda: list(request.infer([x]).values())[0]
else:
    from ai_edge_litert.interpreter import Interpreter
    start = time.perf_counter()
    model = Interpreter(directory + "/m.tflite", num_threads=threads)
    model.allocate_tensors()
    at, out = model.get_input_details()[0]["index"], model.get_output_details()[0]["index"]
    def run():
        model.set_tensor(at, x)
        model.invoke()
        return model.get_tensor(out)
got = run()
first = time.perf_counter() - start
assert np.abs(got - want).max() <= 1e-4 * np.abs(want).max(), "wrong output"
for _ in range(3):
    run()
times, start = [], time.perf_counter()
while time.perf_counter() - start < seconds:
    begin = time.perf_counter()
    run()
    times.append(time.perf_counter() - begin)
print(json.dumps({"median": sorted(times)[len(times) // 2] * 1e3, "first": first}))
"""

NODE = """
const [, , modules, directory, threads, seconds] = process.argv;
const fs = require('fs'), path = require('path');
const tf = require(path.join(modules, '@tensorflow/tfjs'));
const wasm = require(path.join(modules, '@tensorflow/tfjs-backend-wasm'));
const npy = (file) => {
  const b = fs.readFileSync(file), n = b.readUInt16LE(8), head = b.toString('latin1', 10, 10 + n);
  const shape = /'shape': \\(([^)]*)\\)/.exec(head)[1].split(',').filter(s => s.trim()).map(Number);
  return {shape, data: new Float32Array(b.buffer.slice(b.byteOffset + 10 + n, b.byteOffset + b.length))};
};
(async () => {
  wasm.setThreadsCount(+threads);
  await tf.setBackend('wasm');
  const start = performance.now();
  const json = JSON.parse(fs.readFileSync(path.join(directory, 'graph/model.json')));
  const specs = json.weightsManifest.flatMap(g => g.weights);
  const data = Buffer.concat(json.weightsManifest.flatMap(g => g.paths).map(p => fs.readFileSync(path.join(directory, 'graph', p))));
  const weightData = data.buffer.slice(data.byteOffset, data.byteOffset + data.byteLength);
  const artifacts = {modelTopology: json.modelTopology, weightSpecs: specs, weightData, signature: json.signature};
  const model = await tf.loadGraphModel({load: async () => artifacts});
  const x = npy(path.join(directory, 'x.npy')), want = npy(path.join(directory, 'y.npy'));
  const input = tf.tensor(x.data, x.shape);
  const run = async () => {
    let y = await model.executeAsync(input);
    if (Array.isArray(y)) y = y[0];
    const got = await y.data();
    y.dispose();
    return got;
  };
  const got = await run(), first = (performance.now() - start) / 1e3;
  const scale = Math.max(...want.data.map(Math.abs));
  if (!got.every((v, i) => Math.abs(v - want.data[i]) <= 1e-4 * scale)) throw new Error('wrong output');
  for (let i = 0; i < 2; i++) await run();
  const times = [], from = performance.now();
  while (times.length < 3 || performance.now() - from < seconds * 1e3) {
    const begin = performance.now();
    await run();
    times.push(performance.now() - begin);
  }
  times.sort((a, b) => a - b);
  console.log(JSON.stringify({median: times[times.length >> 1], first}));
})().catch(e => { console.error(e.message); process.exit(1); });
"""


def last_line(command, **options):
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, timeout=600, **options)
    if done.returncode:
        raise RuntimeError((done.stderr.strip().splitlines() or ["no message"])[-1])
    return json.loads(done.stdout.strip().splitlines()[-1])


def check(tfjs, directory):
    """Our output beside TensorFlow's."""
    import numpy as np

    with tempfile.TemporaryDirectory() as out:
        run = [tfjs, "run", directory / "graph", "--input", f"input={directory / 'x.npy'}", "--output-dir", out]
        subprocess.run([str(c) for c in run], check=True, capture_output=True)
        got, want = np.load(next(Path(out).glob("*.npy"))), np.load(directory / "y.npy")
    if np.abs(got - want).max() > 1e-4 * np.abs(want).max():
        raise SystemExit(f"{directory.name}: the output is wrong by {np.abs(got - want).max():e}")


def time_one(args, runtime, directory, threads):
    """Milliseconds per run, and seconds from the start to the first result."""
    if runtime == "tfjs":
        graph, x = directory / "graph", f"input={directory / 'x.npy'}"
        bench = ["bench", graph, "--input", x, "--threads", threads, "--seconds", args.seconds, "--json"]
        line = last_line([args.tfjs, *bench])
        return line["median_ms"], line["load_and_first_s"]
    if runtime == "wasm":
        line = last_line(["node", "-e", NODE, "--", args.node_modules, directory, threads, args.seconds])
    else:
        environment = dict(os.environ, OMP_NUM_THREADS=str(threads))
        line = last_line([sys.executable, "-c", PYTHON, runtime, directory, threads, args.seconds], env=environment)
    return line["median"], line["first"]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tfjs", type=os.path.abspath)
    parser.add_argument("models", type=Path)
    parser.add_argument("--node-modules", type=os.path.abspath)
    parser.add_argument("--models", dest="only", default=MODELS)
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--json")
    args = parser.parse_args()
    runtimes = ["tfjs", "ort", "openvino", "litert"] + (["wasm"] if args.node_modules else [])
    print(platform.processor() or platform.machine(), "median ms of", args.rounds, "rounds")
    print("| model | threads | " + " | ".join(runtimes) + " | fastest other / tfjs | first result, tfjs | fastest other |")
    print("|---|--:|" + "--:|" * (len(runtimes) + 3))
    rows = []
    for name in args.only.split(","):
        directory = args.models / name
        check(args.tfjs, directory)
        for threads in map(int, args.threads.split(",")):
            results = {runtime: [] for runtime in runtimes}
            for _ in range(args.rounds):
                for runtime in runtimes:
                    results[runtime].append(time_one(args, runtime, directory, threads))
            time = {r: statistics.median(t for t, _ in v) for r, v in results.items()}
            first = {r: statistics.median(f for _, f in v) for r, v in results.items()}
            others = [r for r in runtimes if r != "tfjs"]
            ratio = min(time[r] for r in others) / time["tfjs"]
            cells = [f"{time[r]:.2f}" for r in runtimes]
            firsts = [f"{first['tfjs']:.3f} s", f"{min(first[r] for r in others):.3f} s"]
            print(f"| {name} | {threads} | " + " | ".join(cells) + f" | {ratio:.2f} | " + " | ".join(firsts) + " |", flush=True)
            rows.append({"model": name, "threads": threads, "median_ms": time, "first_s": first, "ratio": ratio})
    if args.json:
        Path(args.json).write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
