"""`ModelCard`: what a model is, how it was made, and how well it does."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from workbench.params import Parameters


class ModelCard(Parameters):
    """The facts of one model; travels in the header of its weights file.

    Counts are kept rather than rates, so that a card can be checked to the last image.
    """

    name: str
    dataset: str = ""
    classes: tuple[str, ...]
    named: bool = True  # False where the classes are mere numbers that stand for names
    input_shape: tuple[int, int, int]
    architecture: str
    options: dict[str, Any] = Field(default_factory=dict)
    training: dict[str, Any] = Field(default_factory=dict)
    seed: int | None = None
    parameters: int = 0
    bits: dict[str, int] = Field(default_factory=dict)  # of a number in a weight; 32 where unsaid
    codebooks: dict[str, int] = Field(default_factory=dict)  # words kept beside a weight's codes
    test_correct: int | None = None
    test_total: int | None = None
    robust_correct: int | None = None
    robust_total: int | None = None
    eps: float | None = None
    attack: str = ""
    data_sha256: str = ""
    licence: str = ""

    @property
    def accuracy(self) -> float | None:
        """Share of the test images that the model gets right, or None if not measured."""
        return rate(self.test_correct, self.test_total)

    @property
    def robust_accuracy(self) -> float | None:
        """Share still right under `attack` at `eps`, or None if not measured."""
        return rate(self.robust_correct, self.robust_total)

    def summary(self) -> dict[str, Any]:
        """The card as one flat row for tables and reports."""
        return {
            "name": self.name,
            "dataset": self.dataset,
            "architecture": self.architecture,
            "parameters": self.parameters,
            "accuracy": self.accuracy,
            "robust_accuracy": self.robust_accuracy,
            "eps": self.eps,
            "attack": self.attack,
            "licence": self.licence,
        }


def rate(correct: int | None, total: int | None) -> float | None:
    """A share, or None where nothing was counted."""
    return correct / total if correct is not None and total else None
