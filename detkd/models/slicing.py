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

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from ultralytics.nn.modules.block import (
    C2PSA,
    C3,
    SPP,
    SPPF,
    Attention,
    Bottleneck,
    C2f,
    C2fPSA,
    C3k,
    C3k2,
    C3x,
    PSABlock,
)
from ultralytics.nn.modules.conv import Concat, Conv, DWConv
from ultralytics.nn.modules.head import Detect

from detkd.errors import ModelError
from detkd.models.channels import Copy, FixedSpace, Flow, JointSpace, Segment, Space, check_choice, moments
from detkd.models.classmap import plain_name

__all__ = ["SliceReport", "slice_weights"]


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
            sum_o |w_oc|^2 var_c / sum_c' |w_oc'|^2 var_c', with var_c the variance that batch normalisation and activation give it.
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
    walk = _Walk(check_choice(by, f"{key}.slice_by"))
    ours = {plain_name(name): place for place, name in reversed(list(enumerate(names[0])))}
    places = {place: ours[plain_name(name)] for place, name in enumerate(names[1]) if plain_name(name) in ours}
    _layers(walk, wide, narrow, FixedSpace(len(names[0]), len(names[1]), places), key)
    if not walk.copies:
        raise ModelError(
            f"{key}.slice: no layer of the larger model corresponds to one of the student; choose the same family"
        )
    for copy in walk.copies:
        copy.run(rescale)
    for finish in walk.after:
        finish(rescale)
    return _report(narrow, walk.copies, tuple(names[1][place] for place in sorted(places)))


def _layers(walk: _Walk, wide: Any, narrow: Any, classes: FixedSpace, key: str) -> None:
    """Follow the channels through both networks at once.

    Raises:
        ModelError: If the layers don't correspond.
    """
    shape = [[(type(layer), layer.f) for layer in model.model] for model in (wide, narrow)]
    if shape[0] != shape[1]:
        place = next(
            (i for i, pair in enumerate(zip(*shape, strict=False)) if pair[0] != pair[1]), min(map(len, shape))
        )
        raise ModelError(
            f"{key}.slice: the larger model is not of the student's family (they differ at layer {place}); choose "
            "weights of the same one, e.g. yolo26n.pt for a smaller yolo26"
        )
    channels = [next(m for m in model.modules() if isinstance(m, nn.Conv2d)).in_channels for model in (wide, narrow)]
    flows: list[Flow] = []
    now: Flow = [Segment.unknown(walk.space(*channels))]
    for big, small in zip(wide.model, narrow.model, strict=True):
        sources = [big.f] if isinstance(big.f, int) else list(big.f)
        inputs = [now if f == -1 else flows[f] for f in sources]
        if isinstance(big, Detect):
            _detect(walk, big, small, inputs, classes)
            return
        now = (
            [part for flow in inputs for part in flow] if isinstance(big, Concat) else walk.step(big, small, inputs[0])
        )
        flows.append(now)


class _Walk:
    """Two networks, layer by layer.

    Attributes:
        copies: The convolutions to copy.
        after: What is to be done once they are copied.
    """

    def __init__(self, by: str) -> None:
        self.by = by
        self.copies: list[Copy] = []
        self.after: list[Callable[[bool], None]] = []

    def space(self, wide: int, narrow: int) -> Space:
        """Return channels of their own."""
        return Space(wide, narrow, self.by)

    def step(self, wide: nn.Module, narrow: nn.Module, flow: Flow, outs: Sequence[Space] | None = None) -> Flow:
        """Follow the channels through one module; modules that are not known end them.

        Args:
            wide: The larger network's module.
            narrow: The smaller network's.
            flow: What flows in.
            outs: The channels that flow out where that is settled already, by a sum they take part in.
        """
        if isinstance(wide, nn.Upsample | nn.Identity | nn.MaxPool2d) and type(wide) is type(narrow):
            return flow
        rule = _RULES.get(type(wide))
        if rule is None or type(wide) is not type(narrow) or not any(part.space.followed for part in flow):
            return self.lost(wide, narrow, flow, outs)
        return rule(self, wide, narrow, flow, outs)

    def lost(self, wide: nn.Module, narrow: nn.Module, flow: Flow, outs: Sequence[Space] | None) -> Flow:
        """Return what flows out of modules whose channels don't correspond: numbers of channels, no more."""
        if outs is None:
            space = self.space(
                _width(wide, sum(p.space.wide for p in flow)), _width(narrow, sum(p.space.narrow for p in flow))
            )
            outs = [space]
        for space in outs:
            space.followed &= space.produced
        return [Segment.unknown(space) for space in outs]

    def conv(
        self,
        pair: tuple[nn.Conv2d, nn.Conv2d],
        norms: tuple[nn.BatchNorm2d, nn.BatchNorm2d] | None,
        flow: Flow,
        outs: Sequence[Space],
    ) -> bool:
        """Plan the copy of a convolution; return whether it corresponds."""
        wide, narrow = pair
        same = all(getattr(wide, name) == getattr(narrow, name) for name in ("kernel_size", "stride", "dilation"))
        dense = all(conv.groups == 1 for conv in pair)
        depthwise = wide.groups > 1 and all(conv.groups == conv.in_channels == conv.out_channels for conv in pair)
        fits = wide.in_channels == sum(part.space.wide for part in flow) and narrow.in_channels == sum(
            part.space.narrow for part in flow
        )
        followed = any(part.space.followed for part in flow)
        if not (same and fits and followed and (dense or depthwise)):
            for space in outs:
                space.followed &= space.produced
            return False
        copy = Copy(wide, narrow, *(norms or (None, None)), flow, outs)
        self.copies.append(copy)
        self.score(copy)
        for space in outs:
            space.produced = True
        return True

    def score(self, copy: Copy) -> None:
        """Add the importance that a convolution gives its channels."""
        if self.by == "power" and not copy.depthwise:
            shares = copy.shares()
            if isinstance(copy.outs[0], FixedSpace) and len(rows := copy.outs[0].pairs()[0]):
                shares = shares[rows]
            shares = shares.mean(0)
            for part, values in zip(copy.ins, shares.split([part.space.wide for part in copy.ins]), strict=True):
                part.space.add(values)
        elif self.by in {"gamma", "norm"}:
            weight = copy.wide.weight.detach().double().abs().flatten(1).sum(1)
            values = (
                weight if self.by == "norm" or copy.wide_bn is None else copy.wide_bn.weight.detach().double().abs()
            )
            for space, part in zip(copy.outs, values.split([space.wide for space in copy.outs]), strict=True):
                space.add(part)


def _conv(walk: _Walk, wide: Any, narrow: Any, flow: Flow, outs: Sequence[Space] | None = None) -> Flow:
    """Convolution, normalisation, activation."""
    if outs is None:
        depthwise = wide.conv.groups == wide.conv.in_channels == wide.conv.out_channels > 1
        outs = (
            [part.space for part in flow]
            if depthwise
            else [walk.space(wide.conv.out_channels, narrow.conv.out_channels)]
        )
    if not walk.conv((wide.conv, narrow.conv), (wide.bn, narrow.bn), flow, outs):
        return walk.lost(wide, narrow, flow, outs)
    mean, var = moments(wide.bn, wide.act)
    widths = [space.wide for space in outs]
    return [Segment(*parts) for parts in zip(outs, mean.split(widths), var.split(widths), strict=True)]


def _plain(walk: _Walk, wide: Any, narrow: Any, flow: Flow, outs: Sequence[Space] | None = None) -> Flow:
    """A convolution with bias and nothing else."""
    outs = outs or [walk.space(wide.out_channels, narrow.out_channels)]
    walk.conv((wide, narrow), None, flow, outs)
    return [Segment.unknown(space) for space in outs]


def _chain(walk: _Walk, wide: Any, narrow: Any, flow: Flow, outs: Sequence[Space] | None = None) -> Flow:
    """Modules one after the other; what only one of the networks has at the end is passed over."""
    common = min(len(wide), len(narrow))
    for place in range(common):
        flow = walk.step(wide[place], narrow[place], flow, outs if place == common - 1 else None)
    if not all(getattr(block, "add", False) for block in narrow[common:]):
        return walk.lost(wide, narrow, flow, None)
    return flow


def _bottleneck(walk: _Walk, wide: Any, narrow: Any, flow: Flow, outs: Sequence[Space] | None = None) -> Flow:
    """Two convolutions, added to the input where the widths allow."""
    inside = walk.step(wide.cv1, narrow.cv1, flow)
    if wide.add and narrow.add:
        return _sum(flow, walk.step(wide.cv2, narrow.cv2, inside, [part.space for part in flow]))
    return walk.step(wide.cv2, narrow.cv2, inside, outs)


def _sum(left: Flow, right: Flow) -> Flow:
    """Channels added one to one, taken as independent."""
    return [Segment(a.space, a.mean + b.mean, a.var + b.var) for a, b in zip(left, right, strict=True)]


def _c3(walk: _Walk, wide: Any, narrow: Any, flow: Flow, outs: Sequence[Space] | None = None) -> Flow:
    """Two paths, one of them through blocks."""
    deep = walk.step(wide.m, narrow.m, walk.step(wide.cv1, narrow.cv1, flow))
    return walk.step(wide.cv3, narrow.cv3, [*deep, *walk.step(wide.cv2, narrow.cv2, flow)], outs)


def _c2f(walk: _Walk, wide: Any, narrow: Any, flow: Flow, outs: Sequence[Space] | None = None) -> Flow:
    """Two halves; the second goes through blocks, and what comes out of each of them is read too."""
    halves = [walk.space(wide.c, narrow.c), walk.space(wide.c, narrow.c)]
    parts = walk.step(wide.cv1, narrow.cv1, flow, halves)
    last = parts[-1:]
    for place in range(max(len(wide.m), len(narrow.m))):
        if place >= len(wide.m):
            parts = [*parts, Segment.unknown(walk.space(0, narrow.c))]
        elif place >= len(narrow.m):
            last = _alone(wide.m[place], last)
            parts = [*parts, *last]
        else:
            last = walk.step(wide.m[place], narrow.m[place], last)
            parts = [*parts, *last]
    return walk.step(wide.cv2, narrow.cv2, parts, outs)


def _alone(wide: nn.Module, flow: Flow) -> Flow:
    """Return what flows out of a module that only the larger network has."""
    walk = _Walk("first")
    same = [Segment(Space(part.space.wide, part.space.wide, "first"), part.mean, part.var) for part in flow]
    return [Segment(Space(part.space.wide, 0, "first"), part.mean, part.var) for part in walk.step(wide, wide, same)]


def _pool(walk: _Walk, wide: Any, narrow: Any, flow: Flow, outs: Sequence[Space] | None = None) -> Flow:
    """The same channels pooled several times; taken as if pooling left mean and variance alone."""
    inside = walk.step(wide.cv1, narrow.cv1, flow)
    times = [len(m.m) if isinstance(m, SPP) else getattr(m, "n", 3) for m in (wide, narrow)]
    if times[0] != times[1]:
        return walk.lost(wide, narrow, flow, outs)
    if getattr(wide, "add", False) and getattr(narrow, "add", False):
        return _sum(flow, walk.step(wide.cv2, narrow.cv2, inside * (times[0] + 1), [part.space for part in flow]))
    return walk.step(wide.cv2, narrow.cv2, inside * (times[0] + 1), outs)


def _c2psa(walk: _Walk, wide: Any, narrow: Any, flow: Flow, outs: Sequence[Space] | None = None) -> Flow:
    """Two halves, one of them through attention."""
    halves = [walk.space(wide.c, narrow.c), walk.space(wide.c, narrow.c)]
    first, second = walk.step(wide.cv1, narrow.cv1, flow, halves)
    return walk.step(wide.cv2, narrow.cv2, [first, *walk.step(wide.m, narrow.m, [second])], outs)


def _psa(walk: _Walk, wide: Any, narrow: Any, flow: Flow, outs: Sequence[Space] | None = None) -> Flow:
    """Attention and two convolutions, each added to its input."""
    for big, small in ((wide.attn, narrow.attn), (wide.ffn, narrow.ffn)):
        if wide.add and narrow.add:
            flow = _sum(flow, walk.step(big, small, flow, [part.space for part in flow]))
        else:
            flow = walk.step(big, small, flow)
    return flow


def _attention(walk: _Walk, wide: Any, narrow: Any, flow: Flow, outs: Sequence[Space] | None = None) -> Flow:
    """Queries, keys and values of several heads; whole heads are left out before a head is made narrower."""
    heads = (wide.num_heads, narrow.num_heads)
    sizes = [(m.num_heads * m.key_dim, m.num_heads * m.head_dim) for m in (wide, narrow)]
    values = Space(sizes[0][1], sizes[1][1], walk.by, heads=heads)
    keys = Space(sizes[0][0], sizes[1][0], walk.by, heads=heads, like=values)
    joint = JointSpace(keys, values)
    (made,) = walk.step(wide.qkv, narrow.qkv, flow, [joint])
    if not joint.produced:
        return walk.lost(wide, narrow, flow, outs)
    values.produced = True
    q, k, _ = joint.split(made.var + made.mean.square())
    if walk.by == "power":
        keys.add(q * k)
    v = [Segment(values, joint.split(made.mean)[2], joint.split(made.var)[2])]
    out = walk.step(wide.proj, narrow.proj, _sum(v, walk.step(wide.pe, narrow.pe, v, [values])), outs)
    walk.after.append(lambda rescale: _keep_logits(wide, narrow, joint, q * k) if rescale else None)
    return out


def _keep_logits(wide: Any, narrow: Any, joint: JointSpace, power: torch.Tensor) -> None:
    """Multiply the queries so that products of query and key vary as they did, whatever the number of channels."""
    if wide.key_dim == narrow.key_dim:
        return
    heads, small = joint.keys.heads
    step = 2 * narrow.key_dim + narrow.head_dim
    for place, head in enumerate(int(head) for head in joint.values.kept_heads()):
        part = power.view(heads, -1)[head]
        kept = float(part[joint.keys.within(head)].sum() / part.sum().clamp_min(1e-30))
        factor = wide.scale / narrow.scale / max(kept, 1e-12) ** 0.5
        rows = slice(place * step, place * step + narrow.key_dim)
        with torch.no_grad():
            narrow.qkv.bn.weight[rows] *= factor
            narrow.qkv.bn.bias[rows] *= factor


def _detect(walk: _Walk, wide: Any, narrow: Any, inputs: Sequence[Flow], classes: FixedSpace) -> None:
    """The head: towers for boxes and classes at each level, in one or two branches."""
    coordinates = range(4 * narrow.reg_max) if wide.reg_max == narrow.reg_max else ()
    boxes = FixedSpace(4 * wide.reg_max, 4 * narrow.reg_max, {place: place for place in coordinates})
    for name, last in (("cv2", boxes), ("cv3", classes), ("one2one_cv2", boxes), ("one2one_cv3", classes)):
        source = getattr(wide, name, None) or getattr(wide, name.removeprefix("one2one_"), None)
        target = getattr(narrow, name, None)
        if source is None or target is None:
            continue
        for flow, big, small in zip(inputs, source, target, strict=True):
            walk.step(big, small, flow, [last])


def _report(narrow: nn.Module, copies: Sequence[Copy], classes: tuple[str, ...]) -> SliceReport:
    """Count what was copied."""
    masks = {}
    for copy in copies:
        for name, mask in copy.covered.items():
            part, tensor = (copy.narrow_bn, name[3:]) if name.startswith("bn.") else (copy.narrow, name)
            masks[id(getattr(part, tensor))] = mask
    left, sliced, random = [], 0, 0
    for name, tensor in [*narrow.named_parameters(), *narrow.named_buffers()]:
        if name.endswith("num_batches_tracked") or ".dfl." in name:
            continue
        count = int(masks[id(tensor)].sum()) if id(tensor) in masks else 0
        sliced, random = sliced + count, random + tensor.numel() - count
        if count < tensor.numel():
            left.append(name)
    return SliceReport(sliced, random, tuple(left), classes)


def _width(module: nn.Module, default: int) -> int:
    """Return the number of channels that come out of a module, as far as its last convolution tells."""
    convs: Mapping[str, nn.Conv2d] = {name: m for name, m in module.named_modules() if isinstance(m, nn.Conv2d)}
    last = [m for name, m in convs.items() if name.split(".")[0] in {"cv2", "cv3", "cv4", "conv"}]
    return last[-1].out_channels if last else default


_RULES: dict[type[nn.Module], Callable[..., Flow]] = {
    Conv: _conv,
    DWConv: _conv,
    nn.Conv2d: _plain,
    nn.Sequential: _chain,
    Bottleneck: _bottleneck,
    C3: _c3,
    C3x: _c3,
    C3k: _c3,
    C2f: _c2f,
    C3k2: _c2f,
    C2fPSA: _c2f,
    C2PSA: _c2psa,
    PSABlock: _psa,
    Attention: _attention,
    SPP: _pool,
    SPPF: _pool,
}
