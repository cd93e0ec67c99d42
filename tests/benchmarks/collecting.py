"""What it costs that an attack's results can be looked at: PGD-20 on 4,000 and 40,000 images.

Beside it, in turn, the same search without any result. Run: python tests/benchmarks/collecting.py
"""

from __future__ import annotations

import statistics
import time

import torch

from workbench import attacks, data, models
from workbench.attacks import Problem, Untargeted

ROUNDS = 3
ATTACK = attacks.PGD(eps=0.1, n_steps=20)


def bare(model: models.Classifier, x: torch.Tensor, y: torch.Tensor) -> None:
    """The search alone, batch by batch."""
    generator = torch.Generator().manual_seed(0)
    budgets = ATTACK.budgets(len(x), None, x.device)
    for part in torch.arange(len(x)).split(models.batch_size(model.input_shape)):
        problem = Problem(
            model,
            x[part],
            Untargeted(y[part]),
            budgets[part],
            generator,
            norm="Linf",
            smallest=False,
        )
        everyone = torch.arange(len(problem))
        problem.offer(problem.x, problem.logits(problem.x, everyone), everyone)
        for _ in ATTACK.search(problem):
            pass


def seconds(work, *inputs) -> float:
    """The processor time that it takes: other work on the machine does not count."""
    begun = time.process_time()
    work(*inputs)
    return time.process_time() - begun


def whole(model: models.Classifier, x: torch.Tensor, y: torch.Tensor) -> None:
    """The attack with its results, as anybody calls it."""
    for _ in ATTACK.steps(model, x, y):
        pass


def main() -> None:
    """Print seconds and ratios."""
    torch.set_num_threads(1)
    model, digits = models.load("digits/cnn"), data.load("digits", "train")
    times = {}
    for n in (4_000, 40_000):
        rows = torch.arange(n) % len(digits)
        inputs = model, digits.images[rows], digits.labels[rows]
        rounds = ROUNDS if n == 4_000 else 1
        pairs = [(seconds(whole, *inputs), seconds(bare, *inputs)) for _ in range(rounds)]
        ours, alone = (statistics.median(column) for column in zip(*pairs, strict=True))
        times[n] = ours
        print(f"{n:6,} images: {ours:6.2f} s, search alone {alone:6.2f} s: {ours / alone:.3f}")
    print(f"ten times the images: {times[40_000] / times[4_000]:.2f} times the time")


if __name__ == "__main__":
    main()
