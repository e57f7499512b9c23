"""Class distillation for heads that score each class with its own sigmoid. The default."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from detkd.losses.base import DistillLoss
from detkd.losses.checks import check_number, check_same_shape
from detkd.losses.errors import ErrorOptions
from detkd.losses.regions import batch_mass, teacher_quality
from detkd.ops.divergence import bernoulli_excess, widen
from detkd.types import Context, View

__all__ = ["BinaryLogits", "binary_logits"]


def binary_logits(
    student: Tensor,
    teacher: Tensor,
    region: Tensor,
    *,
    gamma: float = 1.0,
    temperature: float = 1.0,
    detach_gap: bool = True,
    factors: Tensor | None = None,
) -> Tensor:
    """Match the probability of each class, hardest where the two disagree.

    With probabilities p, teacher score q = max over classes of the teacher's p, and region weight u:
    `sum u |p_s - p_t|^gamma * (BCE(z_s, p_t) - H(p_t)) / max(1, sum u q)`, sums over images, anchors and classes.

    Args:
        student: Raw class logits, (B, A, C), any float dtype.
        teacher: Raw class logits of the same shape; treated as constant.
        region: Weight of each anchor, (B, A); 0 leaves it out.
        gamma: Exponent of the disagreement; >= 0, 0 turns the factor off. The factor ignores the temperature, so that
            background, where both are near 0, stays quiet.
        temperature: Softens the compared probabilities; > 0.
        detach_gap: Whether the disagreement is a constant factor.
        factors: Further weight of each anchor, (B, A), that the divisor leaves out; None for 1.

    Returns:
        Scalar, 0 at a perfect match.

    Raises:
        ShapeError: If student and teacher differ in shape.

    References:
        Yang et al., Bridging Cross-task Protocol Inconsistency for Distillation in Dense Object Detection, ICCV 2023.
        arXiv:2308.14286. Differs from the paper: the target's entropy is subtracted, the factor is a constant by
        default, anchors come from a region, and the divisor is the teacher's score mass instead of the positives.
    """
    check_same_shape("logits", student, teacher)
    index = region.nonzero(as_tuple=True)
    z_s, z_t, weights = widen(student[index]), widen(teacher.detach()[index]), region[index]  # (M, C), (M, C), (M,)
    gap = (z_s.sigmoid() - z_t.sigmoid()).abs()
    gap = gap.detach() if detach_gap else gap.clamp(min=1e-12)  # the slope of a power below 1 is infinite at 0
    excess = bernoulli_excess(z_s, z_t, temperature=temperature)
    mass = batch_mass(weights * teacher_quality(z_t))
    if factors is not None:
        weights = weights * factors[index]
    return ((gap**gamma * excess).sum(-1) * weights).sum() / mass


class BinaryLogits(DistillLoss):
    """Match the probability of each class anchor by anchor; see `binary_logits`.

    Args:
        gamma: Exponent of the disagreement factor; >= 0.
        temperature: Softens both sides; > 0. Keep 1: above it, the mass of background takes over.
        detach_gap: Whether the disagreement is a constant factor.
        w_fp: Weight where the teacher sees an object that the labels don't have; >= 0, 1 changes nothing.
        w_fn: Weight where it misses one that they have; likewise.
        threshold: Score above which the teacher sees an object; see `error_weights`.
    """

    uses: ClassVar[frozenset[str]] = frozenset({"logits"})

    def __init__(
        self,
        gamma: float = 1.0,
        temperature: float = 1.0,
        detach_gap: bool = True,
        w_fp: float = 1.0,
        w_fn: float = 1.0,
        threshold: float = 0.25,
    ) -> None:
        super().__init__()
        self.gamma = check_number("gamma", gamma, low=0.0, hint="1 is the usual choice, 0 turns the factor off")
        self.temperature = check_number(
            "temperature", temperature, above=0.0, hint="1 keeps the probabilities as they are"
        )
        self.detach_gap = detach_gap
        self.errors = ErrorOptions(w_fp, w_fn, threshold).checked()

    def doubts(self) -> list[str]:
        """Return what is doubtful about arguments that are allowed: a temperature above 1."""
        if self.temperature <= 1:
            return []
        return [
            f"temperature: {self.temperature:g} with sigmoid scores turns distillation into background regression (at "
            "2 a typical background logit pulls 100 times harder than at 1); keep 1 unless the region holds "
            "foreground only"
        ]

    def forward(self, student: View, teacher: View, context: Context) -> Tensor:
        """Return the loss over the region of the context."""
        head_t = teacher.head(context.branch)
        return binary_logits(
            student.head(context.branch).logits,
            head_t.logits,
            context.region,
            gamma=self.gamma,
            temperature=self.temperature,
            detach_gap=self.detach_gap,
            factors=self.errors.factors(head_t, context.assignment),
        )
