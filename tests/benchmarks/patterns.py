"""Mining beside the bare forward passes, and the VNN-COMP 2021 mnist_fc properties, in one run.

`python tests/benchmarks/patterns.py` prints tables and asserts nothing. It needs MNIST and the
VNN-COMP networks in the data folder. `--limit` is the seconds a property may take, `--count` how
many of the 30 are asked, `--images` how many are mined. Backends that are not installed are left
out; Marabou works on one core, in one query for each other class.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import statistics
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import torch

from workbench import data, models, patterns
from workbench.data import ImageDataset
from workbench.models import Classifier
from workbench.proofs import Property, prove, read_vnnlib
from workbench.steps import run

FOLDER = Path(os.environ.get("WORKBENCH_DATA", ".")).expanduser() / "vnncomp2021_mnistfc"
OPTIONAL = {"marabou": "maraboupy"}
DELTA = 0.99


def main() -> None:
    """Print the tables."""
    options = argparse.ArgumentParser()
    options.add_argument("--limit", type=float, default=60.0)
    options.add_argument("--count", type=int, default=30)
    options.add_argument("--images", type=int, default=60_000)
    options.add_argument("--backends", nargs="+", default=["branching", "milp", "marabou"])
    given = options.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))
    images = data.load("mnist", "train", limit=given.images)
    mining(network("256x4"), images)
    missing = [b for b in given.backends if not importlib.util.find_spec(OPTIONAL.get(b, "torch"))]
    if missing:
        print(f"not installed: {', '.join(missing)}")
    names = [b for b in given.backends if b not in missing]
    if names:
        table(network("256x2"), images, names, given.limit, given.count)


def network(size: str) -> Classifier:
    """One of the networks of the competition."""
    return models.load(f"onnx:{FOLDER}/mnist-net_{size}.onnx", input_shape=(1, 28, 28))


def mining(model: Classifier, images: ImageDataset) -> None:
    """Time beside the bare model in its best batch size; memory of `record`."""
    recorded, peak = peak_memory(lambda: run(patterns.record.steps(model, images), progress=False))
    kept = sum(layer.bits.nbytes for layer in recorded.layers.values()) / 2**20
    print(f"record: {peak:.0f} MiB above the images at its peak, {kept:.1f} MiB of bits kept")

    def bare(size: int) -> None:
        with torch.no_grad():
            for x, _ in images.batches(size):
                model(x)

    best = min((500, 1000, 2000), key=lambda size: seconds(lambda: bare(size)))
    ours, forward = [], []
    for _ in range(7):  # in turn, so that other work on the machine slows both
        forward.append(seconds(lambda: bare(best)))
        ours.append(seconds(lambda: run(patterns.mine.steps(model, images, DELTA), progress=False)))
    pairs = zip(ours, forward, strict=True)
    ratio = statistics.median(mined / plain for mined, plain in pairs)
    print(f"mine, {len(images):,} images, 256x4: {min(ours):.2f} s, {ratio:.2f} x bare")


def table(
    model: Classifier, images: ImageDataset, backends: list[str], limit: float, count: int
) -> None:
    """Each property by each backend, and by branching inside the pattern of its class."""
    mined = patterns.mine(model, images, DELTA)
    order = [f"prop_{i}_{eps}" for i in range(15) for eps in ("0.03", "0.05")][:count]
    found: dict[str, list[tuple[str, float]]] = {}
    for name in order:
        prop = read_vnnlib(FOLDER / f"{name}.vnnlib", model)
        asked: dict[str, tuple[str, Property]] = {b: (b, prop) for b in backends}
        if "branching" in backends:
            label = int((~prop.unsafe_logits(torch.eye(10))).nonzero())
            asked["branching, pattern"] = ("branching", prop.inside(mined.of(label)))
        line = []
        for column, (backend, question) in asked.items():
            begun = time.perf_counter()
            answer = prove(model, question, backend=backend, time_limit=limit)
            taken = time.perf_counter() - begun
            found.setdefault(column, []).append((answer.verdict, taken))
            line.append(f"{column} {answer.verdict} {taken:.1f} s")
        print(f"{name}: {'; '.join(line)}", flush=True)
    print(f"\n{len(order)} properties, 256x2, {limit:g} s each, {torch.get_num_threads()} threads")
    print(f"{'':20}{'proved':>10}{'refuted':>10}{'open':>10}{'seconds':>10}")
    for column, answers in found.items():
        verdicts = Counter(verdict for verdict, _ in answers)
        counts = [verdicts[v] for v in ("proved", "refuted", "open")]
        total = sum(taken for _, taken in answers)
        print(f"{column:20}{''.join(f'{n:10}' for n in counts)}{total:10.1f}")
    if "branching" in found:
        inside, whole = found["branching, pattern"], found["branching"]
        pairs = list(zip(whole, inside, strict=True))
        more = sum(w[0] != "proved" and i[0] == "proved" for w, i in pairs)
        both = [(w[1], i[1]) for w, i in pairs if "open" not in (w[0], i[0])]
        sooner = sum(w for w, _ in both) / max(1e-9, sum(i for _, i in both))
        print(f"inside the pattern (delta {DELTA}): {more} more proved", end="")
        print(f"; {sooner:.1f} x as fast on the {len(both)} that both decide")


def seconds(work: Callable[[], object]) -> float:
    """How long `work` takes."""
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def peak_memory(work: Callable[[], Any]) -> tuple[Any, float]:
    """What `work` gives, and the most memory that the process took above before, in MiB."""
    process, done = psutil.Process(), threading.Event()
    before = highest = process.memory_info().rss

    def watch() -> None:
        nonlocal highest
        while not done.wait(0.002):
            highest = max(highest, process.memory_info().rss)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        result = work()
    finally:
        done.set()
        watcher.join()
    return result, (highest - before) / 2**20


if __name__ == "__main__":
    main()
