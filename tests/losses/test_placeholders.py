"""Losses that would learn what a cache puts where it has no answer."""

from __future__ import annotations

from typing import ClassVar

import pytest
import torch

from detkd.losses.base import DistillLoss, Region
from detkd.losses.binary import BinaryLogits
from detkd.losses.boxes import BoxIoU, BoxL1
from detkd.losses.placeholders import unstored_readers
from detkd.losses.recipe import Recipe
from detkd.losses.regions import Everywhere
from detkd.losses.terms import Term


class Squared(DistillLoss):
    """Mean squared difference of the logits, with what the test makes of each anchor's share."""

    uses: ClassVar[frozenset[str]] = frozenset({"logits"})

    def __init__(self, where: str) -> None:
        super().__init__()
        self.where = where

    def forward(self, student, teacher, context):
        gap = (student.head(context.branch).logits - teacher.head(context.branch).logits).square().mean(-1)
        if self.where == "region":
            return (gap * context.region).sum() / context.region.sum().clamp(min=1)
        if self.where == "labels":
            return (gap * context.assignment.foreground).sum()
        return gap.mean()


class Noisy(Squared):
    def forward(self, student, teacher, context):
        return super().forward(student, teacher, context) * torch.rand(())


class Fixed(Squared):
    """Can't cope with made-up answers."""

    def forward(self, student, teacher, context):
        raise RuntimeError("80 classes, please")


class Number(Squared):
    def forward(self, student, teacher, context):
        return 1.0


class Backwards(Region):
    def forward(self, student, teacher, context):
        return 1 - context.region / 2


@pytest.mark.parametrize("region", [None, Everywhere(), Backwards()], ids=["top", "everywhere", "own"])
def test_only_losses_that_leave_the_region_are_named(region):
    losses = {
        "cls": BinaryLogits(), "giou": BoxIoU(guard=True), "l1": BoxL1(), "good": Squared("region"),
        "noisy": Noisy("region"), "all": Squared("all"), "labels": Squared("labels"), "fixed": Fixed("all"), "number": Number("all"),
    }  # fmt: skip
    recipe = Recipe([Term(name, loss) for name, loss in losses.items()], region=region)
    assert unstored_readers(recipe) == ["all", "labels"]


def test_random_numbers_and_the_recipe_stay_as_they_are():
    recipe = Recipe([Term("all", Noisy("all"))])
    before = torch.get_rng_state()
    assert unstored_readers(recipe) == ["all"]
    assert torch.equal(torch.get_rng_state(), before)


def test_other_outputs_are_not_tried():
    class Maps(Squared):
        uses: ClassVar[frozenset[str]] = frozenset({"feats"})

    assert unstored_readers(Recipe([Term("maps", Maps("all"))])) == []
