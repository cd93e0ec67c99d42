"""The bench on networks of the size that people have: first frame, next image, memory.

Run it with `python tests/benchmarks/sizes.py [NAME ...]`; it prints a table and asserts nothing. It
needs transformers; the ResNet-20 also its weights in `nets` of the data folder. Each network is
looked at in a process of its own. "own" is what a frame takes beside the model's passes.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from workbench import data, models
from workbench.models import Classifier

sys.path.insert(0, str(Path(__file__).parent.parent))

from foreign_nets import resnet20, transformers_net

NETS = ("resnet50", "vit", "convnext", "swin", "mobilenet", "resnet20")
CHANGES = 5  # of the image, timed
LIMIT = 300.0  # seconds that a frame may take
ROW = "{:<12}{:>9}{:>9}{:>9}{:>9}{:>9}{:>9}{:>9}{:>11}{:>8}".format


def main(names: list[str]) -> None:
    """Print the table, or one row of it where this is a process for one network."""
    if names[:1] == ["--one"]:
        print(row(names[1]), flush=True)
        return
    load = os.getloadavg()[0]
    print(f"{os.cpu_count()} cores, {load:.1f} processes waiting at the start; seconds\n")
    print(ROW("", "bare", "first", "own", "passes", "next", "own", "passes", "next/bare", "GB"))
    for name in names or NETS:
        quiet = {**os.environ, "TQDM_DISABLE": "1", "PYTHONWARNINGS": "ignore"}
        subprocess.run([sys.executable, __file__, "--one", name], check=True, env=quiet)


def row(name: str) -> str:
    """One network: the bare pass, the first frame, the next image, and the peak memory."""
    from workbench.widgets import Bench

    model, photos = network(name), photographs(32 if name == "resnet20" else 224)
    with torch.no_grad():
        model(photos.images[:1])
        bare = min(timed(lambda: model(photos.images[:1])) for _ in range(5))
    spent = Passes(model)
    start = time.perf_counter()
    bench = Bench(photos, model, auto=False)
    bench._repr_mimebundle_()
    first, of_it, passes = time.perf_counter() - start, *spent.taken()
    following = [following_frame(bench, 1 + i, spent) for i in range(CHANGES)]
    then, own, asked = sorted(following)[CHANGES // 2]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    shown = [f"{v:.2f}" for v in (bare, first, first - of_it)] + [str(passes)]
    shown += [f"{then:.2f}", f"{own:.2f}", str(asked), f"{then / bare:.1f}", f"{peak:.2f}"]
    return ROW(name, *shown)


class Passes:
    """How often a model was asked since one last looked, and the time some thread asked it."""

    def __init__(self, model: Classifier) -> None:
        self.seconds, self.count, self.inside, self.since = 0.0, 0, 0, 0.0
        lock, forward = threading.Lock(), model.body.forward

        def counted(*given: object, **more: object) -> object:
            with lock:
                self.since = self.since if self.inside else time.perf_counter()
                self.inside, self.count = self.inside + 1, self.count + 1
            try:
                return forward(*given, **more)
            finally:
                with lock:
                    self.inside -= 1
                    self.seconds += 0 if self.inside else time.perf_counter() - self.since

        model.body.forward = counted  # type: ignore[method-assign]

    def taken(self) -> tuple[float, int]:
        """Seconds and passes; counting starts anew."""
        found = self.seconds, self.count
        self.seconds, self.count = 0.0, 0
        return found


def following_frame(bench: object, index: int, spent: Passes) -> tuple[float, float, int]:
    """Seconds to the quick frames of another image, those of them beside passes, and the passes."""
    start = time.perf_counter()
    bench.selection.index = index  # type: ignore[attr-defined]
    for panel in bench.panels.values():  # type: ignore[attr-defined]
        assert panel.wait(LIMIT), "a panel does not follow"
    seconds = time.perf_counter() - start
    inside, passes = spent.taken()
    return seconds, seconds - inside, passes


def timed(call: Callable[[], object]) -> float:
    """Seconds that a call takes."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def network(name: str) -> Classifier:
    """A network by name, as a person would wrap it."""
    module: nn.Module
    if name == "resnet20":
        module, side, classes = resnet20(), 32, 10
        path = data.folder() / "nets" / "resnet20-12fca82f.th"
        weights = str(path) if path.is_file() else None
    else:
        module, side, classes, weights = transformers_net(name), 224, 1000, None
    return models.wrap(
        module, input_shape=(3, side, side), classes=classes, weights=weights, name=name
    )


def photographs(side: int) -> data.ImageDataset:
    """The pictures that come with scikit-image, without labels."""
    import skimage

    folder = Path(skimage.__file__).parent / "data"
    names = ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg", "horse.png", "moon.png")
    pictures = [picture(folder / name, side) for name in names]
    return data.ImageDataset(
        torch.stack(pictures), torch.full((len(pictures),), -1), (), "photographs"
    )


def picture(path: Path, side: int) -> torch.Tensor:
    """The picture in a file, `(3, side, side)`."""
    import numpy as np
    from PIL import Image

    with Image.open(path) as file:
        pixels = np.asarray(file.convert("RGB").resize((side, side)))
    return torch.from_numpy(pixels.transpose(2, 0, 1).astype(np.float32) / 255)


if __name__ == "__main__":
    main(sys.argv[1:])
