"""Training by a recipe: seeded, resumable, the same result to the bit on one machine."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn import functional as F

import workbench
from workbench import checks, data
from workbench.data import ImageDataset
from workbench.models import architectures, checkpoints
from workbench.models.adversarial import pgd
from workbench.models.classifier import Classifier, classifier_of
from workbench.models.measuring import measure
from workbench.models.model_card import ModelCard
from workbench.models.recipes import Recipe, recipe
from workbench.steps import Step, work

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, eq=False)
class TrainingResult:
    """A model on its way or done, with one row of `history` an epoch."""

    model: Classifier
    history: list[dict[str, float]] = field(default_factory=list)
    path: Path | None = None

    def summary(self) -> dict[str, Any]:
        """The last epoch, and the card's accuracies once they are measured."""
        card = self.model.card
        measured = {"accuracy": card.accuracy, "robust_accuracy": card.robust_accuracy}
        return {**(self.history[-1] if self.history else {}), **measured}

    def frame(self) -> pd.DataFrame:
        """One row an epoch: epoch, loss, accuracy (on the training batches as seen)."""
        import pandas as pd

        return pd.DataFrame(self.history)


@work
def train(
    name: str, output: Path | str | None = None, *, epochs: int | None = None, resume: bool = True
) -> Iterator[Step[TrainingResult]]:
    """Train the model called `name` by its recipe and write it to `output`.

    `output` defaults to the data folder, where `models.load(name)` finds it. After each
    epoch the state is saved beside it, so that an interrupted training goes on from
    there to the same weights; `resume=False` starts over.

    Raises:
        ValueError: no such recipe.
        FileNotFoundError: the data set is not there and cannot be downloaded.
    """
    plan = recipe(name)
    if epochs is not None:
        plan = Recipe(**{**plan.model_dump(), "epochs": epochs})
    path = Path(output) if output is not None else data.folder() / "models" / f"{name}.safetensors"
    training, test = data.load(plan.dataset, "train"), data.load(plan.dataset, "test")
    kept = path.with_suffix(".unfinished")
    step = Step[TrainingResult](0, 1)
    for step in fit.steps(plan, training, name=name, keep=kept, resume=resume):
        yield step
    assert step.value is not None, "a recipe has at least one epoch"
    model, history = step.value.model, step.value.history
    yield Step(step.done, step.total, "measuring accuracy", step.value)
    measured = measure(model, test, eps=plan.test_eps)
    model.card = model.card.model_copy(update={**measured, "data_sha256": test.sha256()})
    checkpoints.save(model, path)
    kept.unlink(missing_ok=True)
    yield Step(step.total, step.total, "done", TrainingResult(model, history, path))


@work
def fit(
    plan: Recipe,
    training: ImageDataset,
    *,
    name: str = "my model",
    keep: Path | None = None,
    resume: bool = True,
    device: str | None = None,
) -> Iterator[Step[TrainingResult]]:
    """Train a fresh model on `training` by `plan`: one Step a batch.

    With `keep`, the state after each epoch is written there and, with `resume`, read
    back if it is of the same plan and images. device: a GPU where there is one, when None;
    only on the CPU is the result the same to the bit.

    Raises:
        ValueError: no images, or images without a label.
    """
    learnable(training)
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    model = fresh(plan, training, name).to(device)
    optimiser = torch.optim.AdamW(model.parameters(), plan.lr, weight_decay=plan.weight_decay)
    per_epoch = math.ceil(len(training) / plan.batch_size)
    total = per_epoch * plan.epochs
    history: list[dict[str, float]] = []
    mark = {"plan": plan.model_dump_json(), "data": training.sha256() if keep else ""}
    mark |= {"classes": json.dumps(training.classes), "version": workbench.__version__}
    if keep is not None and resume and keep.exists():
        history = load_state(keep, mark, model, optimiser)
    for epoch in range(len(history), plan.epochs):
        # One generator an epoch, so that a resumed training draws what it would have drawn.
        generator = torch.Generator().manual_seed(plan.seed * 100_003 + epoch)
        order = torch.randperm(len(training), generator=generator)
        sums = torch.zeros(2, dtype=torch.float32)
        for i, chosen in enumerate(order.split(plan.batch_size)):
            step = epoch * per_epoch + i
            x, y = augment(training.images[chosen], plan, generator), training.labels[chosen]
            x, y = x.to(device), y.to(device)
            x = attacked(model, x, y, plan, step / total, generator)
            model.train()
            loss, right = update(
                model, optimiser, x, y, learning_rate(plan, step / total), generator
            )
            model.eval()
            sums += torch.tensor([loss * len(y), right], dtype=torch.float32)
            message = f"epoch {epoch + 1}/{plan.epochs}, loss {loss:.3f}"
            yield Step(step + 1, total, message, TrainingResult(model, history))
        loss, accuracy = (sums / len(training)).tolist()
        if epoch + 1 == plan.epochs:
            model.conclude(training)
        history = [*history, {"epoch": epoch + 1, "loss": loss, "accuracy": accuracy}]
        if keep is not None:
            save_state(keep, mark, model, optimiser, history)
        yield Step(step + 1, total, f"epoch {epoch + 1} done", TrainingResult(model, history))


def learnable(training: ImageDataset) -> None:
    """Check that there are images, each with a label; see `fit`."""
    checks.positive("training: number of images", len(training))
    unlabelled = int((training.labels < 0).sum())
    if unlabelled:
        raise ValueError(
            f"training: {unlabelled} of {len(training)} images have no label to learn; leave them "
            "out: training[training.labels >= 0]"
        )


def fresh(plan: Recipe, training: ImageDataset, name: str) -> Classifier:
    """A newly initialised model in float32; torch's generator and default stay as they were."""
    default = torch.get_default_dtype()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(plan.seed)
        torch.set_default_dtype(torch.float32)
        try:
            body = architectures.build(
                plan.architecture, training.shape, len(training.classes), **plan.options
            )
        finally:
            torch.set_default_dtype(default)
    card = ModelCard(
        name=name,
        dataset=plan.dataset,
        classes=training.classes,
        named=training.named,
        input_shape=training.shape,
        architecture=plan.architecture,
        options=plan.options,
        training=plan.model_dump(exclude={"options", "dataset", "architecture", "seed"}),
        seed=plan.seed,
        parameters=sum(p.numel() for p in body.parameters()),
        licence="MIT",
    )
    channels = tuple(range(training.images.ndim))
    keep = (0, *channels[2:])
    mean, std = training.images.mean(keep), training.images.std(keep)
    model = classifier_of(body, card, tuple(mean.tolist()), tuple(std.tolist()))
    model.prepare(training)
    return model


def update(
    model: Classifier,
    optimiser: torch.optim.Optimizer,
    x: torch.Tensor,
    y: torch.Tensor,
    lr: float,
    generator: torch.Generator,
) -> tuple[float, float]:
    """One optimiser step; the mean loss and the number of images that were right."""
    for group in optimiser.param_groups:
        group["lr"] = lr
    with torch.enable_grad():
        loss, logits = model.objective(x, y, generator)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
    optimiser.step()
    return float(loss.detach()), float((logits.detach().argmax(1) == y).sum())


def learning_rate(plan: Recipe, progress: float) -> float:
    """One cycle: up in a straight line for a fifth of the training, then down to zero."""
    peak = 0.2
    return plan.lr * (progress / peak if progress < peak else (1 - progress) / (1 - peak))


def augment(x: torch.Tensor, plan: Recipe, generator: torch.Generator) -> torch.Tensor:
    """Shifted (edges filled with zeros) and mirrored images, as the plan says."""
    if plan.flip:
        mirrored = torch.rand(len(x), generator=generator, dtype=torch.float32) < 0.5
        x = torch.where(mirrored[:, None, None, None], x.flip(3), x)
    if plan.shift:
        s, (n, _, h, w) = plan.shift, x.shape
        padded = F.pad(x, (s, s, s, s))
        dy, dx = torch.randint(0, 2 * s + 1, (2, n), generator=generator)
        rows = (dy[:, None] + torch.arange(h))[:, None, :, None]
        columns = (dx[:, None] + torch.arange(w))[:, None, None, :]
        images = torch.arange(n)[:, None, None, None]
        channels = torch.arange(x.shape[1])[None, :, None, None]
        x = padded[images, channels, rows, columns]
    if plan.elastic:
        x = elastic(x, plan.elastic, generator)
    return x


def elastic(x: torch.Tensor, alpha: float, generator: torch.Generator) -> torch.Tensor:
    """Images `(N, C, H, W)` bent by smooth random displacements (Simard et al. 2003).

    Displacements drawn from [-1, 1], smoothed with a Gaussian of a seventh of the side
    (4 pixels of 28), times `alpha` pixels.
    """
    n, _, h, w = x.shape
    field = 2 * torch.rand(n, 2, h, w, generator=generator, dtype=torch.float32) - 1
    for axis, size in ((2, h), (3, w)):
        at = torch.arange(size, dtype=torch.float32)
        kernel = torch.exp(-((at[:, None] - at) ** 2) / (2 * (size / 7) ** 2))
        kernel /= kernel[size // 2].sum()  # what falls outside is zero
        field = (field.movedim(axis, -1) @ kernel).movedim(-1, axis)
    same = torch.eye(2, 3, dtype=torch.float32).expand(n, 2, 3)
    whole = F.affine_grid(same, [n, 1, h, w], align_corners=False)
    shift = field.permute(0, 2, 3, 1) * alpha * 2 / torch.tensor([w, h])
    return F.grid_sample(x, whole + shift, align_corners=False)


def attacked(
    model: nn.Module,
    x: torch.Tensor,
    y: torch.Tensor,
    plan: Recipe,
    progress: float,
    generator: torch.Generator,
) -> torch.Tensor:
    """The images that the model is trained on: as they are, or attacked in eval mode."""
    if plan.adversarial == "no":
        return x
    eps = plan.eps * min(1.0, progress / plan.warmup if plan.warmup else 1.0)
    steps, alpha = (
        (1, 1.25 * eps)
        if plan.adversarial == "fast"
        else (plan.attack_steps, 2.5 * eps / plan.attack_steps)
    )
    return pgd(model, x, y, eps=eps, alpha=alpha, steps=steps, generator=generator)


def save_state(
    path: Path,
    mark: dict[str, str],
    model: nn.Module,
    optimiser: torch.optim.Optimizer,
    history: list[dict[str, float]],
) -> None:
    """Write weights, optimiser and history, so that training can go on from here."""
    tensors = {f"model.{k}": t for k, t in model.state_dict().items()}
    for i, state in optimiser.state_dict()["state"].items():
        tensors |= {f"optimiser.{i}.{k}": t for k, t in state.items()}
    checkpoints.write_tensors(path, tensors, {**mark, "history": json.dumps(history)})


def load_state(
    path: Path, mark: dict[str, str], model: nn.Module, optimiser: torch.optim.Optimizer
) -> list[dict[str, float]]:
    """Take up what `save_state` wrote; an empty history if it is of another plan.

    Raises:
        ValueError: the file is damaged.
    """
    metadata, _ = checkpoints.read_header(path)
    if {k: metadata.get(k) for k in mark} != mark:
        return []
    tensors = checkpoints.read_tensors(path)
    prefix = "model."
    model.load_state_dict({k[len(prefix) :]: t for k, t in tensors.items() if k.startswith(prefix)})
    state: dict[int, dict[str, torch.Tensor]] = {}
    for key, tensor in tensors.items():
        if key.startswith("optimiser."):
            _, i, entry = key.split(".")
            state.setdefault(int(i), {})[entry] = tensor
    optimiser.load_state_dict({**optimiser.state_dict(), "state": state})
    return json.loads(metadata["history"])
