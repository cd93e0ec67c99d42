"""Training on data that somebody has changed."""

from __future__ import annotations

import math
from typing import ClassVar

from pydantic import Field, field_validator

from workbench.data import ImageDataset, curation
from workbench.models import Classifier, Recipe, Run
from workbench.treatments.base import Training


class Curated(Training):
    """Learn from a curation of the images, drawn with the seed of the training.

    Several are done one after the other, and all before any other treatment sees a batch. The
    normalisation stays that of the images as they were.
    """

    title: ClassVar[str] = "Training on changed data"

    curation: str = Field("LabelNoise(share=0.2)", description="what is done to the data: a call")

    @field_validator("curation")
    @classmethod
    def _spelled(cls, code: str) -> str:
        return curation(code).code()  # one spelling, so that a name has one file

    def unfit(self, subject: Classifier | Recipe, data: ImageDataset | None = None) -> str:
        """The curation has to fit the data."""
        return "" if data is None else curation(self.curation).unfit(data)

    def uses(self) -> tuple[type, ...]:
        """The curation."""
        return (type(curation(self.curation)),)

    def prepare(self, run: Run) -> None:
        """Put the curation in the place of the data, once, before the first step."""
        run.data = curation(self.curation)(run.data, seed=run.plan.seed)
        run.total = math.ceil(len(run.data) / run.plan.batch_size) * run.plan.epochs
