"""Class distillation as in image classification: a softmax over classes with a temperature."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from detkd.losses.base import DistillLoss
from detkd.losses.checks import check_number, check_same_shape
from detkd.losses.errors import ErrorOptions
from detkd.losses.regions import batch_mass, teacher_quality
from detkd.ops.divergence import softmax_kl, widen, with_rest
from detkd.types import Context, View

__all__ = ["ClassicLogits", "classic_logits"]


def classic_logits(
    student: Tensor,
    teacher: Tensor,
    region: Tensor,
    *,
    temperature: float = 2.0,
    score_weight: bool = False,
    factors: Tensor | None = None,
) -> Tensor:
    """Match which class it is, given that it is something.

    With region weight u and temperature T, the mean over the region:
    `sum u T^2 KL(softmax(z_t / T) || softmax(z_s / T)) / max(1, sum u)`, sums over images and anchors. With
    `score_weight`, u is multiplied by the teacher's score in both sums. A single class z is compared as the pair
    [z, 0]; its softmax alone would be 1 whatever z is.

    A softmax drops what all classes have in common: unlike the binary form, this can't teach that there is nothing.

    Args:
        student: Raw class logits, (B, A, C), any float dtype.
        teacher: Raw class logits of the same shape; treated as constant.
        region: Weight of each anchor, (B, A); 0 leaves it out.
        temperature: Softens both softmaxes; > 0.
        score_weight: Whether an anchor counts as much as the teacher's best class scores there.
        factors: Further weight of each anchor, (B, A), that the divisor leaves out; None for 1.

    Returns:
        Scalar, 0 at a perfect match.

    Raises:
        ShapeError: If student and teacher differ in shape.

    References:
        Hinton et al., Distilling the Knowledge in a Neural Network, 2015, section 2. arXiv:1503.02531
        Differs from the paper: the mean is over the anchors of a region, not over images.
    """
    check_same_shape("logits", student, teacher)
    index = region.nonzero(as_tuple=True)
    z_s, z_t = widen(student[index]), widen(teacher.detach()[index])  # (M, C)
    weights = region[index] * teacher_quality(z_t) if score_weight else region[index]  # (M,)
    mass = batch_mass(weights)
    if factors is not None:
        weights = weights * factors[index]
    divergence = softmax_kl(with_rest(z_s), with_rest(z_t), temperature=temperature)
    return (divergence * weights).sum() / mass


class ClassicLogits(DistillLoss):
    """Match the softmax over classes anchor by anchor; see `classic_logits`.

    Args:
        temperature: Softens both softmaxes; > 0. The textbook has more than 1.
        score_weight: Whether an anchor counts as much as the teacher's best class scores there.
        w_fp: Weight where the teacher sees an object that the labels don't have; >= 0, 1 changes nothing.
        w_fn: Weight where it misses one that they have; likewise.
        threshold: Score above which the teacher sees an object; see `error_weights`.
    """

    uses: ClassVar[frozenset[str]] = frozenset({"logits"})

    def __init__(
        self,
        temperature: float = 2.0,
        score_weight: bool = False,
        w_fp: float = 1.0,
        w_fn: float = 1.0,
        threshold: float = 0.25,
    ) -> None:
        super().__init__()
        self.temperature = check_number("temperature", temperature, above=0.0, hint="2 is usual, 1 is plain KL")
        self.score_weight = score_weight
        self.errors = ErrorOptions(w_fp, w_fn, threshold).checked()

    def forward(self, student: View, teacher: View, context: Context) -> Tensor:
        """Return the loss over the region of the context."""
        head_t = teacher.head(context.branch)
        return classic_logits(
            student.head(context.branch).logits,
            head_t.logits,
            context.region,
            temperature=self.temperature,
            score_weight=self.score_weight,
            factors=self.errors.factors(head_t, context.assignment),
        )
