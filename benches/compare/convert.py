#!/usr/bin/env python3
"""Times `tfjs convert` and the Python `tensorflowjs_converter` side by side.

    convert.py TFJS TENSORFLOWJS_CONVERTER NAME=MODEL... [--rounds N] [--json FILE]

A MODEL is a SavedModel's folder or a Keras `.h5` file. Each round runs both programs on every model in turn, in a new process under GNU `/usr/bin/time -v`, so that
both see the same load of the machine. The table gives medians of the wall time and of the peak resident
memory, and what the Python tool takes as a multiple of ours. Only the standard library is needed.
"""

import argparse
import json
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def measure(command, environment):
    """(wall seconds, peak resident MiB) of one run."""
    result = subprocess.run(["/usr/bin/time", "-v", *command], capture_output=True, text=True, env=environment)
    report = result.stderr
    if result.returncode != 0:
        sys.exit(f"{' '.join(command)}: exit status {result.returncode}\n{report[-2000:]}")
    clock = re.search(r"Elapsed \(wall clock\) time.*?: ([\d:.]+)\n", report).group(1)
    seconds = 0.0
    for part in clock.split(":"):
        seconds = seconds * 60 + float(part)
    peak = int(re.search(r"Maximum resident set size \(kbytes\): (\d+)", report).group(1))
    return seconds, peak / 1024


def wall(command, environment):
    """Wall seconds by our own clock: GNU time counts in hundredths, too coarse for a fast program."""
    start = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True, env=environment)
    return time.perf_counter() - start


def size(folder):
    return sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())


def cpu():
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor()


def version(command):
    result = subprocess.run([*command, "--version"], capture_output=True, text=True)
    return " ".join(result.stdout.split())


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tfjs")
    parser.add_argument("reference")
    parser.add_argument("models", nargs="+", metavar="NAME=MODEL")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", help="write every measurement to this file")
    options = parser.parse_args()
    environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""}
    models = [m.split("=", 1) for m in options.models]
    runs = {name: {"ours": [], "reference": []} for name, _ in models}
    with tempfile.TemporaryDirectory() as work:
        for round in range(options.rounds):
            for name, path in models:
                for who in ("ours", "reference") if round % 2 == 0 else ("reference", "ours"):
                    out = Path(work) / f"{name}-{who}"
                    shutil.rmtree(out, ignore_errors=True)
                    program = [options.tfjs, "convert"] if who == "ours" else [options.reference]
                    command = [*program, f"--input_format={'keras' if path.endswith('.h5') else 'tf_saved_model'}", path, str(out)]
                    seconds, peak = measure(command, environment)
                    if seconds < 2:
                        shutil.rmtree(out)
                        seconds = wall(command, environment)
                    runs[name][who].append({"seconds": seconds, "peak_mib": peak, "bytes": size(out)})
                    print(f"round {round + 1}: {name} {who} {seconds:.3f} s {peak:.1f} MiB", file=sys.stderr)
    if options.json:
        Path(options.json).write_text(json.dumps(runs, indent=1) + "\n")

    print(f"{cpu()}, {os.cpu_count()} cores; {version([options.tfjs])}; {version([options.reference])}; "
          f"median of {options.rounds} rounds\n")  # fmt: skip
    print("| model | weights | ours | Python | ratio | ours, peak | Python, peak | ratio |")
    print("|---|--:|--:|--:|--:|--:|--:|--:|")
    for name, _ in models:
        middle = lambda who, what: statistics.median(r[what] for r in runs[name][who])
        a, b = middle("ours", "seconds"), middle("reference", "seconds")
        m, n = middle("ours", "peak_mib"), middle("reference", "peak_mib")
        weights = middle("ours", "bytes") / 2**20
        print(f"| {name} | {weights:.1f} MiB | {a:.3f} s | {b:.1f} s | {b / a:.0f}× | {m:.0f} MiB | {n:.0f} MiB | {n / m:.1f}× |")


if __name__ == "__main__":
    main()
