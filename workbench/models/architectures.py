"""Architectures small enough to read in class. Each maps images to logits.

`build(name, input_shape, n_classes, **options)` makes one by name. To add one, write
a function with those first two arguments and enter it in `ARCHITECTURES`.
"""

from __future__ import annotations

import inspect
import math
import pkgutil
from collections import OrderedDict
from collections.abc import Callable, Sequence

import torch
from torch import nn
from torch.nn import functional as F

from workbench import checks

Shape = tuple[int, int, int]


def mlp(input_shape: Shape, n_classes: int, *, hidden: Sequence[int] = (256, 256)) -> nn.Module:
    """A fully-connected ReLU network."""
    layers: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten())
    width = math.prod(input_shape)
    for i, units in enumerate(hidden, 1):
        layers[f"fc{i}"] = nn.Linear(width, units)
        layers[f"relu{i}"] = nn.ReLU()
        width = units
    layers[f"fc{len(hidden) + 1}"] = nn.Linear(width, n_classes)
    return nn.Sequential(layers)


def cnn(
    input_shape: Shape, n_classes: int, *, channels: Sequence[int] = (16, 32), hidden: int = 100
) -> nn.Module:
    """Two strided 4x4 convolutions, then two linear layers; no pooling, only ReLUs."""
    c, h, w = input_shape
    first, second = channels
    return nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(c, first, 4, stride=2, padding=1),
            relu1=nn.ReLU(),
            conv2=nn.Conv2d(first, second, 4, stride=2, padding=1),
            relu2=nn.ReLU(),
            flatten=nn.Flatten(),
            fc1=nn.Linear(second * (h // 4) * (w // 4), hidden),
            relu3=nn.ReLU(),
            fc2=nn.Linear(hidden, n_classes),
        )
    )


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions added to a shortcut (He et al., 2016)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.relu2 = nn.ReLU()
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`(N, inputs, H, W)` to `(N, outputs, H / stride, W / stride)`."""
        out = self.relu1(self.bn1(self.conv1(x)))
        return self.relu2(self.bn2(self.conv2(out)) + self.shortcut(x))


def resnet(input_shape: Shape, n_classes: int, *, depth: int = 8, width: int = 16) -> nn.Module:
    """A CIFAR-style residual network (He et al., 2016) of `depth` = 6n + 2 layers.

    Raises:
        ValueError: `depth` is not 8, 14, 20, ...
    """
    if depth < 8 or (depth - 2) % 6:
        raise ValueError(f"depth: expected 6n + 2 (8, 14, 20, ...), got {depth}")
    layers: OrderedDict[str, nn.Module] = OrderedDict(
        conv=nn.Conv2d(input_shape[0], width, 3, padding=1, bias=False),
        bn=nn.BatchNorm2d(width),
        relu=nn.ReLU(),
    )
    inputs = width
    for stage in range(3):
        outputs = width * 2**stage
        for block in range((depth - 2) // 6):
            stride = 2 if stage > 0 and block == 0 else 1
            layers[f"stage{stage + 1}_block{block + 1}"] = ResidualBlock(inputs, outputs, stride)
            inputs = outputs
    layers["pool"] = nn.AdaptiveAvgPool2d(1)
    layers["flatten"] = nn.Flatten()
    layers["fc"] = nn.Linear(inputs, n_classes)
    return nn.Sequential(layers)


class Attention(nn.Module):
    """Multi-head self-attention (Vaswani et al., 2017) over `(N, tokens, width)`."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Mix the tokens; the shape stays."""
        n, tokens, width = x.shape
        q, k, v = self.qkv(x).view(n, tokens, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v)
        return self.out(mixed.transpose(1, 2).reshape(n, tokens, width))


class TransformerBlock(nn.Module):
    """Attention and a two-layer perceptron, each normalised first and added."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, 2 * width)
        self.gelu = nn.GELU()
        self.fc2 = nn.Linear(2 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`(N, tokens, width)`; the shape stays."""
        x = x + self.attention(self.norm1(x))
        return x + self.fc2(self.gelu(self.fc1(self.norm2(x))))


class VisionTransformer(nn.Module):
    """A tiny vision transformer, of patches as tokens (Dosovitskiy et al., 2021).

    The mean token is classified.

    Raises:
        ValueError: `patch` does not divide the image, or `heads` the width.
    """

    def __init__(
        self,
        input_shape: Shape,
        n_classes: int,
        *,
        patch: int = 4,
        width: int = 64,
        depth: int = 4,
        heads: int = 4,
    ) -> None:
        super().__init__()
        c, h, w = input_shape
        if h % patch or w % patch:
            raise ValueError(f"patch: expected a divisor of {h}x{w}, got {patch}")
        if width % heads:
            raise ValueError(f"heads: expected a divisor of the width {width}, got {heads}")
        tokens = (h // patch) * (w // patch)
        self.patches = nn.Conv2d(c, width, patch, stride=patch)
        self.position = nn.Parameter(torch.zeros(1, tokens, width))
        self.blocks = nn.Sequential(*(TransformerBlock(width, heads) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.fc = nn.Linear(width, n_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Images to logits."""
        tokens = self.patches(x).flatten(2).transpose(1, 2) + self.position
        return self.fc(self.norm(self.blocks(tokens)).mean(1))


vit = VisionTransformer

# A name in place of a function is imported when it is first built.
ARCHITECTURES: dict[str, Callable[..., nn.Module] | str] = {
    "mlp": mlp,
    "cnn": cnn,
    "resnet": resnet,
    "vit": vit,
    "prototypes": "workbench.prototypes.networks:PrototypeNetwork",
    "prob-prototypes": "workbench.prototypes.probabilistic:ProbPrototypeNetwork",
    "cells": "workbench.search.cells:build",
}


def build(name: str, input_shape: Shape, n_classes: int, **options: object) -> nn.Module:
    """The architecture called `name`, freshly initialised.

    Raises:
        ValueError: an unknown name or option.
    """
    checks.known("architecture", name, ARCHITECTURES)
    make = ARCHITECTURES[name]
    make = pkgutil.resolve_name(make) if isinstance(make, str) else make
    known = list(inspect.signature(make).parameters)[2:]
    for option in options:
        checks.known(f"option of {name}", option, known)
    return make(tuple(input_shape), n_classes, **options)
