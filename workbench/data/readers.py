"""Readers of the idx (MNIST) and CIFAR-10 binary formats, plain or gzipped."""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path

import numpy as np

CIFAR_RECORD = 1 + 3 * 32 * 32


def read_bytes(path: Path) -> bytes:
    """A whole file, unzipped where it is gzipped.

    Raises:
        ValueError: a gzip stream that is cut short or corrupt.
    """
    content = path.read_bytes()
    if not content.startswith(b"\x1f\x8b"):
        return content
    try:
        return gzip.decompress(content)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(
            f"{path} is truncated or corrupt ({error}); delete it and fetch it again"
        ) from None


def read_idx(path: Path) -> np.ndarray:
    """An idx file of unsigned bytes: `(N, H, W)` images or `(N,)` labels, uint8.

    Raises:
        ValueError: not an idx file of unsigned bytes, or not as long as its header says.
    """
    content = read_bytes(path)
    magic = content[:4]
    if magic not in (b"\x00\x00\x08\x01", b"\x00\x00\x08\x03"):
        raise ValueError(f"{path} is not an idx file of unsigned bytes (starts {magic.hex(' ')})")
    start = 4 + 4 * magic[3]
    if len(content) < start:
        raise ValueError(f"{path} is truncated: its header is cut short; fetch it again")
    sizes = np.frombuffer(content[4:start], dtype=">u4").tolist()
    wanted = start + math.prod(sizes)
    if len(content) != wanted:
        what = "truncated" if len(content) < wanted else "too long"
        raise ValueError(
            f"{path} is {what}: its header promises {wanted} bytes, it has {len(content)}; "
            "delete it and fetch it again"
        )
    return np.frombuffer(content, dtype=np.uint8, offset=start).reshape(sizes)


def read_cifar10(path: Path, limit: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """A CIFAR-10 binary batch: images `(N, 3, 32, 32)` uint8 and labels `(N,)` int64.

    Raises:
        ValueError: not a whole number of records, or a label above 9.
    """
    content = read_bytes(path)
    if not content or len(content) % CIFAR_RECORD:
        raise ValueError(
            f"{path} is truncated: {len(content)} bytes are not a whole number of "
            f"{CIFAR_RECORD}-byte records; delete it and fetch it again"
        )
    records = np.frombuffer(content, dtype=np.uint8).reshape(-1, CIFAR_RECORD)[:limit]
    if records[:, 0].max() > 9:
        raise ValueError(f"{path} is not a CIFAR-10 batch: label {records[:, 0].max()} above 9")
    return records[:, 1:].reshape(-1, 3, 32, 32), records[:, 0].astype(np.int64)
