"""Which channels of a larger network a smaller one keeps, and how their weights are copied."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

__all__ = ["CHOICES", "Copy", "FixedSpace", "Flow", "JointSpace", "Segment", "Space", "choose", "moments"]

CHOICES = ("power", "gamma", "norm", "even", "first")

_NODES, _MASSES = (torch.from_numpy(values) for values in np.polynomial.hermite_e.hermegauss(33))

Pairs = tuple[Tensor, Tensor]


def choose(scores: Tensor, count: int, by: str) -> Tensor:
    """Return the `count` positions to keep of as many as `scores` has, ascending.

    Args:
        scores: Importance (C,); ties go to the lower position.
        count: How many to keep; all where there are fewer.
        by: `first` and `even` (evenly spaced) don't look at the scores.
    """
    total = len(scores)
    if count >= total:
        return torch.arange(total)
    if by == "first":
        return torch.arange(count)
    if by == "even":
        return torch.arange(count) * total // count
    return torch.sort(torch.sort(scores, descending=True, stable=True).indices[:count]).values


class Space:
    """A set of channels that stay in one order wherever they flow: through sums, pooling and depthwise layers.

    Attributes:
        wide: Number of channels in the larger network; 0 where it has no such channels.
        narrow: Number of channels in the smaller network; 0 where they are left out.
        followed: Whether the channels of one correspond to those of the other.
        scores: Importance of the larger network's channels (wide,), summed over the layers that were asked.
    """

    def __init__(self, wide: int, narrow: int, by: str, *, heads: tuple[int, int] = (1, 1), like: Space | None = None):
        self.wide, self.narrow, self.by = wide, narrow, by
        self.heads, self.like = heads, like
        self.followed = wide > 0 and narrow > 0
        self.produced = False
        self.scores = torch.zeros(wide, dtype=torch.float64)

    def add(self, scores: Tensor) -> None:
        """Count further importance (wide,)."""
        self.scores = self.scores + scores.double()

    def kept_heads(self) -> Tensor:
        """Attention heads of the larger network that are kept, in order; those of `like` where it is given."""
        if self.like is not None:
            return self.like.kept_heads()
        return choose(self.scores.view(self.heads[0], -1).sum(1), self.heads[1], self.by)

    def within(self, head: int) -> Tensor:
        """Return the channels kept in one head, counted from its first."""
        return choose(self.scores.view(self.heads[0], -1)[head], self.narrow // self.heads[1], self.by)

    def pairs(self) -> Pairs:
        """Return the corresponding positions in the larger and in the smaller network."""
        if not self.followed:
            return torch.arange(0), torch.arange(0)
        size, small = self.wide // self.heads[0], self.narrow // self.heads[1]
        heads = [int(head) for head in self.kept_heads()]
        kept = [self.within(head) for head in heads]
        return (
            torch.cat([head * size + part for head, part in zip(heads, kept, strict=True)]),
            torch.cat([place * small + torch.arange(len(part)) for place, part in enumerate(kept)]),
        )


class FixedSpace(Space):
    """Channels with a meaning of their own, such as classes: what corresponds is known.

    Args:
        wide: Number of channels in the larger network.
        narrow: Number of channels in the smaller network.
        places: Position in the larger network to each position in the smaller that has one.
    """

    def __init__(self, wide: int, narrow: int, places: dict[int, int]):
        super().__init__(wide, narrow, "first")
        self.places = dict(sorted(places.items()))

    def pairs(self) -> Pairs:
        """Return the given correspondence."""
        return torch.tensor(list(self.places.values()), dtype=torch.long), torch.tensor(
            list(self.places), dtype=torch.long
        )


class JointSpace(Space):
    """Queries, keys and values of an attention layer, which one convolution makes head by head.

    A query is multiplied with the key of the same number: both keep the same channels, of the heads whose values stay.

    Attributes:
        keys: Channels of the keys, and of the queries.
        values: Channels of the values.
        products: Mean square of query times key of each channel in the larger network.
    """

    def __init__(self, keys: Space, values: Space):
        super().__init__(2 * keys.wide + values.wide, 2 * keys.narrow + values.narrow, values.by)
        self.keys, self.values = keys, values
        self.products = torch.ones(keys.wide, dtype=torch.float64)

    def split(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the queries', the keys' and the values' part of something per channel of the larger network."""
        heads = self.keys.heads[0]
        key, value = self.keys.wide // heads, self.values.wide // heads
        query, keys, values = rows.view(heads, -1).split((key, key, value), dim=1)
        return query.flatten(), keys.flatten(), values.flatten()

    def add(self, scores: Tensor) -> None:
        """Count further importance of queries, keys and values."""
        query, key, value = self.split(scores)
        self.keys.add(query + key)
        self.values.add(value)

    def pairs(self) -> Pairs:
        """Return the corresponding rows of the convolution."""
        heads, small = self.keys.heads
        key, value = self.keys.wide // heads, self.values.wide // heads
        narrow_key, narrow_value = self.keys.narrow // small, self.values.narrow // small
        left, right = [], []
        for place, head in enumerate(int(head) for head in self.values.kept_heads()):
            start, target = head * (2 * key + value), place * (2 * narrow_key + narrow_value)
            for part, offset, narrow_offset in (
                (self.keys.within(head), 0, 0),
                (self.keys.within(head), key, narrow_key),
                (self.values.within(head), 2 * key, 2 * narrow_key),
            ):
                left.append(start + offset + part)
                right.append(target + narrow_offset + torch.arange(len(part)))
        return torch.cat(left), torch.cat(right)


@dataclass(frozen=True)
class Segment:
    """Channels of one space at one place of the network.

    Attributes:
        space: The channels.
        mean: What they are on average in the larger network (wide,).
        var: Their variance (wide,).
    """

    space: Space
    mean: Tensor
    var: Tensor

    @classmethod
    def unknown(cls, space: Space) -> Segment:
        """Return channels of which nothing is known: mean 0, variance 1."""
        return cls(space, torch.zeros(space.wide).double(), torch.ones(space.wide).double())


Flow = list[Segment]


def moments(bn: nn.BatchNorm2d, act: nn.Module) -> tuple[Tensor, Tensor]:
    """Return mean and variance of each channel after normalisation and activation.

    The input of the activation is taken as normal with mean beta and standard deviation |gamma|, as batch normalisation
    makes it; the integrals are sums over 33 Gauss-Hermite nodes. No data is needed.

    Returns:
        Mean (C,) and variance (C,), float64.
    """
    gamma, beta = bn.weight.detach().double().cpu(), bn.bias.detach().double().cpu()
    values = act(beta[:, None] + gamma[:, None] * _NODES)
    masses = _MASSES / _MASSES.sum()
    mean = values @ masses
    return mean, ((values - mean[:, None]) ** 2) @ masses


@dataclass
class Copy:
    """Weights of one convolution of the larger network to be copied into one of the smaller.

    Attributes:
        wide: The larger network's convolution.
        narrow: The smaller network's.
        wide_bn: The larger network's normalisation, or None.
        narrow_bn: The smaller network's, or None.
        ins: What flows in.
        outs: What flows out; of a depthwise convolution the same channels.
        covered: Of each tensor that was written to, by its id: which numbers.
    """

    wide: nn.Conv2d
    narrow: nn.Conv2d
    wide_bn: nn.BatchNorm2d | None
    narrow_bn: nn.BatchNorm2d | None
    ins: Flow
    outs: Sequence[Space]
    covered: dict[int, Tensor] = field(default_factory=dict)

    @property
    def depthwise(self) -> bool:
        """Whether each channel is filtered on its own."""
        return self.wide.groups > 1

    def shares(self) -> Tensor:
        """Return each input's part of the variance of each output (out, in), 0 where an output does not vary.

        For independent inputs the variance of output o is the sum over inputs c of |w_oc|^2 var_c.
        """
        power = self._weight().square().sum(2) * torch.cat([part.var for part in self.ins])
        return power / power.sum(1, keepdim=True).clamp_min(1e-30)

    def run(self, rescale: bool) -> None:
        """Copy the weights.

        Args:
            rescale: Replace inputs that were left out by what they are on average, and multiply the weights of the
                others by the square root of (variance of the output with all inputs / with the inputs kept). Where
                nothing is left out, or what is left out is always 0, this changes nothing.
        """
        wide_in, narrow_in = _positions([part.space for part in self.ins])
        wide_out, narrow_out = _positions(self.outs)
        ratio, lost, kept = self._change(wide_in) if rescale else (torch.ones(self.wide.out_channels), 0.0, 0.0)
        if self.depthwise:
            self._fill(self.narrow, "weight", self.wide.weight[wide_out], (narrow_out,))
        else:
            block = self.wide.weight[wide_out][:, wide_in].double() * ratio[wide_out, None, None, None]
            self._fill(self.narrow, "weight", block, (narrow_out[:, None], narrow_in[None]))
        if self.wide.bias is not None:
            bias = self.wide.bias.double() + lost + (1 - ratio) * kept
            self._fill(self.narrow, "bias", bias[wide_out], (narrow_out,))
        if self.wide_bn is not None and isinstance(self.wide_bn.running_mean, Tensor):
            mean = (self.wide_bn.running_mean.double() - lost) * ratio
            self._fill(self.narrow_bn, "running_mean", mean[wide_out], (narrow_out,))
            for name in ("running_var", "weight", "bias"):
                self._fill(self.narrow_bn, name, getattr(self.wide_bn, name)[wide_out], (narrow_out,))

    def _change(self, wide_in: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the factor of each output's weights, and the mean of what it loses and of what it keeps."""
        weight = self._weight()
        none = torch.zeros(len(weight), dtype=torch.float64)
        if self.depthwise or len(wide_in) == weight.shape[1]:
            return torch.ones_like(none), none, none
        means = weight.sum(2) * torch.cat([part.mean for part in self.ins])
        share = self.shares()[:, wide_in].sum(1)
        ratio = torch.where(share > 0, share.clamp_min(1e-12).rsqrt(), torch.ones_like(none))
        kept = means[:, wide_in].sum(1)
        return ratio, means.sum(1) - kept, kept

    def _fill(self, module: nn.Module | None, name: str, values: Tensor, index: tuple[Tensor, ...]) -> None:
        target = getattr(module, name, None)
        if not isinstance(target, Tensor):
            return
        with torch.no_grad():
            target[index] = values.to(target)
        mask = torch.zeros(target.shape, dtype=torch.bool)
        mask[index] = True
        self.covered[id(target)] = mask

    def _weight(self) -> Tensor:
        return self.wide.weight.detach().double().cpu().flatten(2)


def _positions(spaces: Sequence[Space]) -> Pairs:
    """Return the corresponding positions of spaces that lie one after the other."""
    left, right, wide, narrow = [torch.arange(0)], [torch.arange(0)], 0, 0
    for space in spaces:
        ours, theirs = space.pairs()
        left.append(wide + ours)
        right.append(narrow + theirs)
        wide, narrow = wide + space.wide, narrow + space.narrow
    return torch.cat(left), torch.cat(right)
