#!/usr/bin/env python3
"""Makes the seven models that infer.py compares runtimes on.

    models.py TFJS DIR

Runs under a Python with tensorflow 2.19, tf_keras 2.19 and tf2onnx 1.17 (`pip install tensorflow-cpu==2.19.0 tf_keras==2.19.0
tf2onnx==1.17.0 "onnx<1.23"`). For each model DIR/NAME gets saved_model, graph (by `tfjs convert`), m.onnx, m.tflite, and an input
and its output by TensorFlow, x.npy and y.npy. Weights are random, of a size that keeps values within bounds.
"""

import os
import subprocess
import sys
from pathlib import Path

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
os.environ["TF_USE_LEGACY_KERAS"] = "1"
import numpy as np
import tensorflow as tf
import tf_keras as keras

layers, nets = keras.layers, keras.applications


def transformer():
    """Four encoder layers on 128 vectors of 256."""
    x = inputs = layers.Input((128, 256))
    for _ in range(4):
        x = layers.LayerNormalization()(x + layers.MultiHeadAttention(4, 64)(x, x))
        y = layers.Dense(1024)(x)
        # GELU; spelled out, as tf2onnx has no Erfc.
        y = 0.5 * y * (1.0 + tf.math.erf(y * 0.7071067811865476))
        x = layers.LayerNormalization()(x + layers.Dense(256)(y))
    x = layers.GlobalAveragePooling1D()(x)
    return keras.Model(inputs, layers.Dense(10, activation="softmax")(x))


def lstm():
    """Two layers of 256 over 100 steps of 64."""
    return keras.Sequential(
        [
            layers.Input((100, 64)),
            layers.LSTM(256, return_sequences=True),
            layers.LSTM(256),
            layers.Dense(10, activation="softmax"),
        ]
    )


MODELS = {
    "mobilenet_v1": lambda: nets.MobileNet(weights=None),
    "mobilenet_v2": lambda: nets.MobileNetV2(weights=None),
    "resnet50": lambda: nets.ResNet50(weights=None),
    "efficientnet_b0": lambda: nets.EfficientNetB0(weights=None),
    "inception_v3": lambda: nets.InceptionV3(weights=None),
    "transformer": transformer,
    "lstm": lstm,
}


def weight(random, variable):
    name, shape = variable.name, tuple(variable.shape)
    if "variance" in name:
        return random.uniform(0.5, 1.5, shape)
    if "gamma" in name:
        return random.uniform(0.8, 1.2, shape)
    if "beta" in name or "bias" in name or "moving_mean" in name:
        return random.normal(0, 0.05, shape)
    taps = shape[0] * shape[1] if "depthwise" in name else np.prod(shape[:-1]) if len(shape) > 1 else 1
    return random.normal(0, (1.5 / max(taps, 1)) ** 0.5, shape)


def make(tfjs, directory, name, seed):
    directory.mkdir(parents=True, exist_ok=True)
    keras.utils.set_random_seed(seed)
    model, random = MODELS[name](), np.random.default_rng(seed)
    model.set_weights([weight(random, v).astype("float32") for v in model.weights])
    shape = list(model.inputs[0].shape[1:])

    def save(batch, where):
        serve = tf.function(
            lambda x: {"output": model(x, training=False)},
            input_signature=[tf.TensorSpec([batch, *shape], tf.float32, name="input")],
        )
        module = tf.Module()
        module.model, module.serve = model, serve
        tf.saved_model.save(module, str(where), signatures=serve)

    saved, fixed = directory / "saved_model", directory / "saved_model_one"
    save(None, saved)
    # LiteRT fuses the loop of an LSTM only when the batch is fixed.
    save(1, fixed)
    (directory / "m.tflite").write_bytes(tf.lite.TFLiteConverter.from_saved_model(str(fixed)).convert())
    x = np.random.default_rng(7).uniform(-1, 1, [1, *shape]).astype("float32")
    np.save(directory / "x.npy", x)
    np.save(directory / "y.npy", model(x, training=False).numpy())
    onnx = ["--saved-model", saved, "--output", directory / "m.onnx", "--opset", "17"]
    subprocess.run([sys.executable, "-m", "tf2onnx.convert", *onnx], check=True, capture_output=True)
    convert = ["convert", "--output_format=tfjs_graph_model", saved, directory / "graph"]
    subprocess.run([tfjs, *convert], check=True, capture_output=True)


if __name__ == "__main__":
    tfjs, out = os.path.abspath(sys.argv[1]), Path(sys.argv[2])
    for seed, name in enumerate(MODELS):
        if not (out / name / "graph" / "model.json").exists():
            print(name, flush=True)
            make(tfjs, out / name, name, seed)
            keras.backend.clear_session()
