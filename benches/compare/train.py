#!/usr/bin/env python3
"""Times training steps of `tfjs`, tf_keras and TensorFlow.js in Node side by side.

    train.py TFJS [--node-modules DIR] [--threads 2] [--rounds 3] [--seconds 4] [--json FILE]

Runs under a Python with tensorflow and tf_keras. Makes four models with tf_keras: a small convolutional net on 8x8 digits
(batch 32), MobileNetV2 0.35 on 96x96 pictures (batch 16), two LSTM layers over 50 steps (batch 16) and an MLP
784-512-512-10 (batch 128), all compiled with SGD and the mean squared error. Each round lets every program train every
model in turn, in a new process: `tfjs bench --train`, tf_keras' compiled `train_on_batch`, and `trainOnBatch` of
@tensorflow/tfjs on its "cpu" backend (from DIR, `npm install @tensorflow/tfjs@4.22.0`). The table gives the median over
rounds of each round's median step, and the ratios.
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

BATCH = {"digits": 32, "mobilenet_v2": 16, "lstm": 16, "mlp": 128}

KERAS = """
import os, sys, time
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
import numpy as np, tensorflow as tf, tf_keras
path, batch, threads, seconds = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])
tf.config.threading.set_intra_op_parallelism_threads(threads)
tf.config.threading.set_inter_op_parallelism_threads(threads)
model = tf_keras.models.load_model(path, compile=False)
model.compile(tf_keras.optimizers.SGD(), "mse")
random = np.random.default_rng(0)
x = random.random((batch, *model.input_shape[1:]), "float32")
y = random.random((batch, *model.output_shape[1:]), "float32")
for _ in range(5):
    model.train_on_batch(x, y)
times, start = [], time.perf_counter()
while time.perf_counter() - start < seconds:
    begin = time.perf_counter()
    model.train_on_batch(x, y)
    times.append(time.perf_counter() - begin)
print("median", sorted(times)[len(times) // 2] * 1e3)
"""

NODE = """
const [, , modules, directory, batch, seconds] = process.argv;
const fs = require('fs'), path = require('path');
const tf = require(path.join(modules, '@tensorflow/tfjs'));
(async () => {
  await tf.setBackend('cpu');
  const json = JSON.parse(fs.readFileSync(path.join(directory, 'model.json')));
  const specs = json.weightsManifest.flatMap(g => g.weights);
  const data = Buffer.concat(json.weightsManifest.flatMap(g => g.paths).map(p => fs.readFileSync(path.join(directory, p))));
  const weightData = data.buffer.slice(data.byteOffset, data.byteOffset + data.byteLength);
  const model = await tf.loadLayersModel({load: async () => ({modelTopology: json.modelTopology, weightSpecs: specs, weightData})});
  model.compile({optimizer: tf.train.sgd(0.01), loss: 'meanSquaredError'});
  const x = tf.randomUniform([+batch, ...model.inputs[0].shape.slice(1)]);
  const y = tf.randomUniform([+batch, ...model.outputs[0].shape.slice(1)]);
  await model.trainOnBatch(x, y);
  const times = [], start = performance.now();
  do {
    const begin = performance.now();
    await model.trainOnBatch(x, y);
    times.push(performance.now() - begin);
  } while (performance.now() - start < seconds * 1e3);
  times.sort((a, b) => a - b);
  console.log('median', times[Math.floor(times.length / 2)]);
})();
"""


def make_models(folder):
    import tf_keras

    layers = tf_keras.layers
    sequential = tf_keras.Sequential
    digits = [
        layers.Input((8, 8, 1)),
        layers.Rescaling(1 / 255),
        layers.Conv2D(16, 3, padding="same", use_bias=False),
        layers.BatchNormalization(),
        layers.ReLU(),
        layers.Conv2D(24, 3, padding="same", activation="relu"),
        layers.MaxPooling2D(),
        layers.DepthwiseConv2D(3, padding="same"),
        layers.BatchNormalization(),
        layers.ReLU(6.0),
        layers.Flatten(),
        layers.Dropout(0.3),
        layers.Dense(10, activation="softmax"),
    ]
    lstm = [layers.Input((50, 64)), layers.LSTM(128, return_sequences=True), layers.LSTM(128), layers.Dense(10, activation="softmax")]
    mlp = [layers.Input((784,)), layers.Dense(512, "relu"), layers.Dense(512, "relu"), layers.Dense(10, "softmax")]
    net = tf_keras.applications.MobileNetV2((96, 96, 3), alpha=0.35, weights=None, classes=10)
    for name, model in {"digits": sequential(digits), "mobilenet_v2": net, "lstm": sequential(lstm), "mlp": sequential(mlp)}.items():
        model.save(folder / f"{name}.h5", include_optimizer=False)


def median_of(command):
    result = subprocess.run(command, capture_output=True, text=True)
    lines = [line for line in result.stdout.splitlines() if line.startswith("median ")]
    if result.returncode or not lines:
        sys.exit(f"{' '.join(map(str, command[:3]))}: {result.stderr[-2000:]}")
    return float(lines[0].split()[1])


def cpu():
    try:
        names = [line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")]
        return f"{names[0]}, {len(names)} threads"
    except (OSError, IndexError):
        return platform.processor()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tfjs")
    parser.add_argument("--node-modules")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4)
    parser.add_argument("--json")
    args = parser.parse_args()
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        make_models(folder)
        (folder / "node.js").write_text(NODE)
        times = {name: {} for name in BATCH}
        for name in BATCH if args.node_modules else ():
            subprocess.run([args.tfjs, "convert", folder / f"{name}.h5", folder / name], check=True, capture_output=True)
        for _ in range(args.rounds):
            for name, batch in BATCH.items():
                model = folder / f"{name}.h5"
                seconds = str(args.seconds)
                ours = [args.tfjs, "bench", model, "--train", str(batch), "--threads", str(args.threads), "--seconds", seconds, "--json"]
                ran = subprocess.run(ours, capture_output=True, text=True)
                if ran.returncode:
                    sys.exit(ran.stderr)
                results = {"tfjs": json.loads(ran.stdout)["median_ms"]}
                results["tf_keras"] = median_of([sys.executable, "-c", KERAS, model, str(batch), str(args.threads), seconds])
                if args.node_modules:
                    node = ["node", folder / "node.js", Path(args.node_modules).resolve(), folder / name, str(batch), seconds]
                    results["tfjs_node"] = median_of(node)
                for program, value in results.items():
                    times[name].setdefault(program, []).append(value)
    print(f"{cpu()}; {args.threads} threads, {args.rounds} rounds; milliseconds per step\n")
    print("| model | batch | tfjs | tf_keras | × | TF.js in Node (cpu) | × |\n|---|--:|--:|--:|--:|--:|--:|")
    for name, programs in times.items():
        middle = {program: statistics.median(values) for program, values in programs.items()}
        ours = middle["tfjs"]
        node = middle.get("tfjs_node")
        last = f"{node:.1f} | {node / ours:.0f}" if node else "- | -"
        print(f"| {name} | {BATCH[name]} | {ours:.2f} | {middle['tf_keras']:.2f} | {middle['tf_keras'] / ours:.2f} | {last} |")
    if args.json:
        Path(args.json).write_text(json.dumps(times, indent=1))


if __name__ == "__main__":
    main()
