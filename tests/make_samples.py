"""How the samples in workbench/data/samples were made: python tests/make_samples.py."""

from pathlib import Path

import numpy as np

from workbench import data
from workbench.data.samples import FOLDER, SPLITS

SEED = 2026


def choose(labels: np.ndarray, n: int) -> np.ndarray:
    """Row numbers of `n` images, as many of each class, ascending.

    Raw bits of PCG64 rank them: numpy promises these never to change.
    """
    rank = np.random.PCG64(SEED).random_raw(len(labels))
    each = n // len(set(labels.tolist()))
    rows = [np.flatnonzero(labels == k) for k in sorted(set(labels.tolist()))]
    return np.sort(np.concatenate([r[np.argsort(rank[r])[:each]] for r in rows]))


def write(name: str, whole: dict[str, data.ImageDataset]) -> Path:
    """Write the sample `name` of a whole data set, by split; how the files here were made."""
    arrays = {}
    for split, images in whole.items():
        rows = choose(images.labels.numpy(), SPLITS[split])
        pixels = (images.images[rows, 0] * 255).round().numpy()
        arrays[f"{split}_images"] = pixels.astype(np.uint8)
        arrays[f"{split}_labels"] = images.labels[rows].numpy().astype(np.uint8)
    path = FOLDER / f"{name}.npz"
    path.parent.mkdir(exist_ok=True)
    np.savez_compressed(path, **arrays)
    return path


if __name__ == "__main__":
    for name in data.available():
        if whole := data.info(name).sample_of:
            print(write(name, {split: data.load(whole, split) for split in SPLITS}))
