"""Converters of the ONNX nodes that slide a window: convolutions and pooling, 1-d to 3-d."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import nn

from workbench.models.onnx_nodes import LARGEST, Arithmetic, Node, Operation, filled

pad = nn.functional.pad


class Padded(nn.Module):
    """A layer whose input is padded first; sides: as torch's `pad` takes them."""

    def __init__(self, layer: nn.Module, sides: list[int], value: float = 0.0) -> None:
        super().__init__()
        self.layer, self.sides, self.value = layer, sides, value

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`(N, C, ...)` -> `(N, C, ...)`."""
        return self.layer(pad(x, self.sides, value=self.value))


def window(node: Node) -> tuple[dict[str, Any], np.ndarray, np.ndarray]:
    """Size, stride and dilation, as torch's layers name them, and the padding.

    That is what stands before and after, `(2, n)`, and what ceil mode adds to it, `(2, n)`.
    """
    sizes, auto = np.array(node.spatial()), node.take("auto_pad", b"NOTSET")
    n, ceil, numbers = len(sizes), node.take("ceil_mode", 0), [*sizes * 0 + 1]
    size, stride, dilation = (
        np.array(node.take(k, numbers)) for k in ("kernel_shape", "strides", "dilations")
    )
    pads = np.reshape(node.take("pads", [0] * 2 * n), (2, n))
    more, reach = np.zeros_like(pads), (size - 1) * dilation + 1
    if not len(size) == len(stride) == len(dilation) == n:
        raise ValueError(f"expected kernel_shape, strides and dilations of {n} numbers")
    if pads.min() < 0 or pads.max() > LARGEST or (pads.any() and auto != b"NOTSET"):
        raise ValueError(f"pads={pads.ravel()} with auto_pad={auto!r} are not supported")
    if auto in (b"SAME_UPPER", b"SAME_LOWER"):
        total = np.maximum((-(-sizes // stride) - 1) * stride + reach - sizes, 0)
        ends = [total // 2, total - total // 2]
        pads = np.stack(ends if auto == b"SAME_UPPER" else ends[::-1])
    elif ceil and auto == b"VALID":  # onnxruntime and ONNX's own text differ
        raise ValueError("ceil_mode=1 with auto_pad='VALID' is not supported")
    elif ceil:
        steps = -(-(sizes + pads.sum(0) - reach) // stride)
        steps -= steps * stride >= sizes + pads[0]  # no window starts past the image
        more[1] = np.maximum(steps * stride + reach - sizes - pads.sum(0), 0)
    options = {"kernel_size": size, "stride": stride, "dilation": dilation}
    return {name: tuple(map(int, value)) for name, value in options.items()}, pads, more


def sides(pads: np.ndarray) -> list[int]:
    """The padding `(2, n)` as torch's `pad` takes it: the last dimension first."""
    return pads.T[::-1].ravel().tolist()


def conv(node: Node) -> nn.Module:
    """A convolution, or a transposed one, whose padding takes rows off the result instead."""
    weight, bias, *_ = node.constants
    node.unread.setdefault("kernel_shape", weight.shape[2:])
    back, auto = node.op == "ConvTranspose", node.unread.get("auto_pad", b"NOTSET")
    if back and auto not in (b"NOTSET", b"VALID"):
        raise ValueError(f"auto_pad={auto!r} is not supported")
    (options, pads, _), groups = window(node), node.take("group", 1)
    if back:
        options["output_padding"] = tuple(node.take("output_padding", 0 * pads[0]))
    even = bool((pads[0] == pads[1]).all())
    options |= {"padding": tuple(pads[0].tolist()) if even else 0, "groups": groups}
    channels = [weight.shape[1] * groups, len(weight)]
    # On the meta device torch draws no initial weights: its global generator is not ours.
    layer = getattr(nn, f"{node.op}{len(pads[0])}d")(
        *channels[:: -1 if back else 1], **options, bias=bias is not None, device="meta"
    )
    layer = filled(layer, weight=weight, bias=bias)
    if even:
        return layer
    if back:
        return nn.Sequential(layer, Operation("Pad", pad=sides(-pads)))
    return Padded(layer, sides(pads))


def pool(node: Node) -> nn.Module:
    """The largest value of each window, or the mean of those that are not mere padding."""
    node.take("storage_order")  # of MaxPool's second output, which is not read
    mean, counted = node.op == "AveragePool", bool(node.take("count_include_pad", 0))
    options, pads, more = window(node)
    if mean and max(options.pop("dilation")) > 1:
        raise ValueError("dilations of a mean are not supported")
    kind = getattr(nn, f"{'Avg' if mean else 'Max'}Pool{len(pads[0])}d")
    even = (pads[0] == pads[1]).all() and not more.any()
    if even and (2 * pads[0] <= options["kernel_size"]).all():
        options |= {"count_include_pad": counted} if mean else {}
        return kind(**options, padding=tuple(pads[0].tolist()))
    layer = kind(**options)
    ones = torch.ones((1, 1, *node.spatial()))
    share = layer(pad(pad(ones, sides(pads), value=float(counted and mean)), sides(more)))
    if not bool(share.all()):
        raise ValueError("a window lies in the padding alone")
    padded = Padded(layer, sides(pads + more), 0.0 if mean else -math.inf)
    if bool((share == 1).all()):
        return padded
    return nn.Sequential(padded, Arithmetic("Div", [None, share[0]]))


def global_pool(node: Node) -> nn.Module:
    """The mean or the largest value of each channel."""
    kind = "Avg" if node.op == "GlobalAveragePool" else "Max"
    return getattr(nn, f"Adaptive{kind}Pool{len(node.spatial())}d")(1)
