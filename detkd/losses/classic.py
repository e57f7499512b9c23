"""Class distillation as in image classification: a softmax over classes with a temperature."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from detkd.losses.base import DistillLoss
from detkd.losses.checks import check_number, check_same_shape
from detkd.losses.regions import batch_mass, teacher_quality
from detkd.ops.divergence import softmax_kl, widen, with_rest
from detkd.types import Context, View

__all__ = ["ClassicLogits", "classic_logits"]


def classic_logits(student: Tensor, teacher: Tensor, region: Tensor, *, temperature: float = 2.0) -> Tensor:
    """Match which class it is, given that it is something.

    With teacher score q = max over classes of the teacher's sigmoid, region weight u and temperature T:
    `sum u q T^2 KL(softmax(z_t / T) || softmax(z_s / T)) / max(1, sum u q)`, sums over images and anchors. A single
    class z is compared as the pair [z, 0]; its softmax alone would be 1 whatever z is.

    A softmax drops what all classes have in common: unlike the binary form, this can't teach that there is nothing.

    Args:
        student: Raw class logits, (B, A, C), any float dtype.
        teacher: Raw class logits of the same shape; treated as constant.
        region: Weight of each anchor, (B, A); 0 leaves it out.
        temperature: Softens both softmaxes; > 0.

    Returns:
        Scalar, 0 at a perfect match.

    Raises:
        ShapeError: If student and teacher differ in shape.

    References:
        Hinton et al., Distilling the Knowledge in a Neural Network, 2015, section 2. arXiv:1503.02531
        Differs from the paper: anchors are weighted by the teacher's score.
    """
    check_same_shape("logits", student, teacher)
    index = region.nonzero(as_tuple=True)
    z_s, z_t = widen(student[index]), widen(teacher.detach()[index])  # (M, C)
    weights = region[index] * teacher_quality(z_t)  # (M,)
    divergence = softmax_kl(with_rest(z_s), with_rest(z_t), temperature=temperature)
    return (divergence * weights).sum() / batch_mass(weights)


class ClassicLogits(DistillLoss):
    """Match the softmax over classes anchor by anchor; see `classic_logits`.

    Args:
        temperature: Softens both softmaxes; > 0.
    """

    uses: ClassVar[frozenset[str]] = frozenset({"logits"})

    def __init__(self, temperature: float = 2.0) -> None:
        super().__init__()
        self.temperature = check_number("temperature", temperature, above=0.0, hint="2 is usual, 1 is plain KL")

    def forward(self, student: View, teacher: View, context: Context) -> Tensor:
        """Return the loss over the region of the context."""
        return classic_logits(
            student.head(context.branch).logits,
            teacher.head(context.branch).logits,
            context.region,
            temperature=self.temperature,
        )
