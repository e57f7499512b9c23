"""Distances between predicted class distributions, from logits, 0 at a perfect match."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["bernoulli_excess", "nonnegative", "softmax_kl", "widen", "with_rest"]


def widen(x: Tensor) -> Tensor:
    """Return half-precision tensors as float32; float32 and float64 stay as they are."""
    return x if x.dtype == torch.float64 else x.float()


def nonnegative(x: Tensor) -> Tensor:
    """Lift the rounding of a quantity that can't be negative up to 0, leaving its gradient untouched."""
    return x + (x.clamp(min=0) - x).detach()


def bernoulli_excess(student: Tensor, teacher: Tensor, *, temperature: float = 1.0) -> Tensor:
    """Binary cross-entropy with a soft target, minus the target's entropy.

    That is KL(Bernoulli(teacher) || Bernoulli(student)), element by element. Plain cross-entropy has the same gradient
    but a floor, the target's entropy, that hides convergence.

    Args:
        student: Logits, any shape and float dtype.
        teacher: Logits of the same shape; treated as constant.
        temperature: Divides both logits; > 0. The result is multiplied by its square, so the gradient with respect to a
            student logit is `temperature * (sigmoid(student / temperature) - sigmoid(teacher / temperature))`.

    Returns:
        Same shape, >= 0, exactly 0 where the logits are equal; float32 (float64 for float64 input).

    Example:
        >>> float(bernoulli_excess(torch.tensor(3.0), torch.tensor(3.0)))
        0.0
    """
    z_s, z_t = widen(student) / temperature, widen(teacher).detach() / temperature
    # Both log-probabilities of each side come from logsigmoid: 1 - sigmoid(z) would lose everything for large z.
    yes = z_t.sigmoid() * (functional.logsigmoid(z_t) - functional.logsigmoid(z_s))
    no = (-z_t).sigmoid() * (functional.logsigmoid(-z_t) - functional.logsigmoid(-z_s))
    return nonnegative(yes + no) * temperature**2


def softmax_kl(student: Tensor, teacher: Tensor, *, temperature: float = 1.0) -> Tensor:
    """KL divergence between softmaxes over the last axis, `temperature^2 * KL(teacher || student)`.

    Args:
        student: Logits, (..., C), any float dtype.
        teacher: Logits of the same shape; treated as constant.
        temperature: Divides both logits; > 0.

    Returns:
        Shape (...), >= 0, exactly 0 where the logits are equal; float32 (float64 for float64 input).

    References:
        Hinton et al., Distilling the Knowledge in a Neural Network, 2015, section 2. arXiv:1503.02531
    """
    log_s = functional.log_softmax(widen(student) / temperature, dim=-1)
    log_t = functional.log_softmax(widen(teacher).detach() / temperature, dim=-1)
    return nonnegative((log_t.exp() * (log_t - log_s)).sum(-1)) * temperature**2


def with_rest(logits: Tensor) -> Tensor:
    """Give a single class its opposite: (..., 1) becomes (..., 2) with a constant logit 0; more classes stay.

    A softmax over one class is always 1 and teaches nothing. The softmax of [z, 0] is [sigmoid(z), 1 - sigmoid(z)].
    """
    return torch.cat((logits, torch.zeros_like(logits)), dim=-1) if logits.shape[-1] == 1 else logits
