"""Initial weights for a smaller detector, cut out of a larger trained one of the same family.

The larger network's channels are followed from layer to layer: what a convolution keeps of its outputs is what every
layer that reads them keeps of its inputs, through concatenations, splits, sums and attention heads. Layers that differ
in depth are matched from the first on.

References:
    Xu et al., "Initializing Models with Larger Ones", ICLR 2024 (selection by position, evenly spaced).
    Liu et al., "Learning Efficient Convolutional Networks through Network Slimming", ICCV 2017 (importance |gamma|).
    Li et al., "Pruning Filters for Efficient ConvNets", ICLR 2017 (importance by the norm of a filter).

Differs from the paper: selection does not go layer by layer but by sets of channels that belong together; what is left
out is replaced by its mean, and the rest scaled to the same variance.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from detkd.errors import ModelError
from detkd.models.channels import CHOICES, Copy, FixedSpace, JointSpace
from detkd.models.classmap import plain_name
from detkd.models.following import follow

__all__ = ["SliceReport", "keep_logits", "score", "slice_weights"]


@dataclass(frozen=True)
class SliceReport:
    """What came of it.

    Attributes:
        sliced: Number of weights and statistics that come from the larger model.
        random: Number of those that stay random.
        names: Tensors that stay random, wholly or in part.
        classes: Classes of the data whose rows come from the larger model.
    """

    sliced: int
    random: int
    names: tuple[str, ...]
    classes: tuple[str, ...]

    def __str__(self) -> str:
        part = 100 * self.sliced / max(self.sliced + self.random, 1)
        text = f"{part:.1f} % of {self.sliced + self.random:,} weights are cut out"
        if self.random:
            text += f", the rest is random ({len(self.names)} tensors)"
        more = f" and {len(self.classes) - 5} more" if len(self.classes) > 5 else ""
        return f"{text}; class rows: {', '.join(self.classes[:5]) or 'none'}{more}"


def slice_weights(
    narrow: nn.Module,
    wide: nn.Module,
    *,
    names: tuple[Sequence[str], Sequence[str]],
    by: str = "power",
    rescale: bool = True,
    key: str = "student",
) -> SliceReport:
    """Fill a detector with weights cut out of a larger one; changes `narrow`, deterministically.

    A channel's importance (`by`):
        power: the mean part it has in the variance of the outputs of the layers that read it,
            sum_o |w_oc|^2 var_c / sum_c' |w_oc'|^2 var_c', with var_c the variance that batch normalisation and
            activation give it.
        gamma: |gamma| of the batch normalisation that makes it.
        norm: the 1-norm of the filter that makes it.
        even: none; evenly spaced channels.
        first: none; the first ones.

    Args:
        narrow: Detector to fill, on the CPU, with the initial weights of what can't be cut out.
        wide: The larger one, with trained weights.
        names: Classes of the larger and of the smaller one; rows of classes that share a name (without regard to case,
            spaces, dashes and underscores) are copied.
        by: How channels are chosen.
        rescale: Make up for inputs that are left out, see `Copy.run`.
        key: Config key for messages.

    Raises:
        ModelError: If they are not of one family, or `by` is unknown.
    """
    if by not in CHOICES:
        raise ModelError(f"{key}.slice_by: no such way to choose channels, got {by!r}; use one of {', '.join(CHOICES)}")
    ours = {plain_name(name): place for place, name in reversed(list(enumerate(names[0])))}
    places = {place: ours[plain_name(name)] for place, name in enumerate(names[1]) if plain_name(name) in ours}
    copies = follow(wide, narrow, FixedSpace(len(names[0]), len(names[1]), places), by, key)
    if not copies:
        raise ModelError(
            f"{key}.slice: no layer of the larger model corresponds to one of the student; choose the same family"
        )
    for copy in copies:
        score(copy, by)
    for copy in copies:
        copy.run(rescale)
        if rescale:
            keep_logits(copy)
    return _report(narrow, copies, tuple(names[1][place] for place in sorted(places)))


def score(copy: Copy, by: str) -> None:
    """Add the importance that a convolution gives the channels it reads or makes."""
    if by == "power" and not copy.depthwise:
        shares = copy.shares()
        if isinstance(copy.outs[0], FixedSpace) and len(rows := copy.outs[0].pairs()[0]):
            shares = shares[rows]
        widths = [part.space.wide for part in copy.ins]
        for part, values in zip(copy.ins, shares.mean(0).split(widths), strict=True):
            part.space.add(values)
        if isinstance(copy.outs[0], JointSpace):
            copy.outs[0].keys.add(copy.outs[0].products)
    elif by in {"gamma", "norm"}:
        values = copy.wide.weight.detach().double().abs().flatten(1).sum(1)
        if by == "gamma" and copy.wide_bn is not None:
            values = copy.wide_bn.weight.detach().double().abs()
        for space, part in zip(copy.outs, values.split([space.wide for space in copy.outs]), strict=True):
            space.add(part)


def keep_logits(copy: Copy) -> None:
    """Multiply queries so that products of query and key vary as they did, whatever the number of channels.

    Attention divides the products by the square root of the number of key channels of a head.
    """
    joint, norm = copy.outs[0], copy.narrow_bn
    if not isinstance(joint, JointSpace) or norm is None:
        return
    heads, small = joint.keys.heads
    key, narrow_key = joint.keys.wide // heads, joint.keys.narrow // small
    if key == narrow_key:
        return
    step = joint.narrow // small
    for place, head in enumerate(int(head) for head in joint.values.kept_heads()):
        products = joint.products.view(heads, -1)[head]
        kept = float(products[joint.keys.within(head)].sum() / products.sum().clamp_min(1e-30))
        rows = slice(place * step, place * step + narrow_key)
        with torch.no_grad():
            for tensor in (norm.weight, norm.bias):
                tensor[rows] *= (narrow_key / key / max(kept, 1e-12)) ** 0.5


def _report(narrow: nn.Module, copies: Sequence[Copy], classes: tuple[str, ...]) -> SliceReport:
    """Count what was copied."""
    masks = {place: mask for copy in copies for place, mask in copy.covered.items()}
    left, sliced, random = [], 0, 0
    for name, tensor in [*narrow.named_parameters(), *narrow.named_buffers()]:
        if name.endswith("num_batches_tracked") or ".dfl." in name:
            continue
        count = int(masks[id(tensor)].sum()) if id(tensor) in masks else 0
        sliced, random = sliced + count, random + tensor.numel() - count
        if count < tensor.numel():
            left.append(name)
    return SliceReport(sliced, random, tuple(left), classes)
