"""Networks that people bring: transformers' image models with random weights, CIFAR's ResNet-20."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

KINDS = {
    "resnet50": ("ResNetConfig", "ResNetForImageClassification", {}),
    "vit": ("ViTConfig", "ViTForImageClassification", {}),
    "convnext": ("ConvNextConfig", "ConvNextForImageClassification", {}),
    "swin": ("SwinConfig", "SwinForImageClassification", {}),
    "mobilenet": ("MobileNetV2Config", "MobileNetV2ForImageClassification", {}),
}


def transformers_net(name: str, **options: Any) -> nn.Module:
    """One of transformers' classifiers of 224x224 images and 1,000 classes, from seed 0."""
    import transformers

    config, kind, own = KINDS[name]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        settings = {"num_labels": 1000, **own, **options}
        return getattr(transformers, kind)(getattr(transformers, config)(**settings)).eval()


class Block(nn.Module):
    """Two convolutions beside a shortcut that drops every second pixel and adds empty channels."""

    def __init__(self, taken: int, made: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(taken, made, 3, made // taken, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(made)
        self.conv2 = nn.Conv2d(made, made, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(made)
        self.relu = nn.ReLU()  # used twice, as in most published networks
        self.taken, self.made = taken, made

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`(N, taken, H, W)` -> `(N, made, H, W)`, or half the size."""
        y = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        if self.taken != self.made:
            pad = (self.made - self.taken) // 2
            x = nn.functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, pad, pad))
        return self.relu(y + x)


class ResNet20(nn.Module):
    """The CIFAR-10 network of He et al. (2016), its names as in the published weights."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = nn.Sequential(*(Block(16, 16) for _ in range(3)))
        self.layer2 = nn.Sequential(Block(16, 32), Block(32, 32), Block(32, 32))
        self.layer3 = nn.Sequential(Block(32, 64), Block(64, 64), Block(64, 64))
        self.linear = nn.Linear(64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`(N, 3, 32, 32)` -> `(N, 10)`."""
        x = torch.relu(self.bn1(self.conv1(x)))
        return self.linear(self.layer3(self.layer2(self.layer1(x))).mean((2, 3)))


def resnet20() -> nn.Module:
    """The network, untrained, from seed 0."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return ResNet20().eval()
