"""Whether a model has a gradient."""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary

import torch

from workbench.models.classifier import Classifier

# Asked once a model that has one, since each attack of a list asks it. Where it is lost later,
# an attack raises; where there is none, it is asked again, as the model may be mended.
DIFFERENTIABLE: WeakKeyDictionary[Classifier, Any] = WeakKeyDictionary()


def has_gradient(model: Classifier) -> bool:
    """Whether the logits depend on the image in a way that autograd can follow.

    Raises:
        ValueError: weights made in inference mode, which none can be taken through.
    """
    if any(p.is_inference() for p in model.parameters()):
        raise ValueError(
            "model: its weights were made in torch.inference_mode(), and have no gradients for "
            "ever; load or wrap it before"
        )
    if DIFFERENTIABLE.get(model) is model.body:
        return True
    with torch.inference_mode(False), torch.enable_grad():
        x = torch.full((1, *model.input_shape), 0.5, device=model.device, dtype=torch.float32)
        x.requires_grad_()
        logits, gradient = model(x), None
        if logits.requires_grad:
            (gradient,) = torch.autograd.grad(logits.sum(), x, allow_unused=True)
    if gradient is not None:
        DIFFERENTIABLE[model] = model.body
    return gradient is not None
