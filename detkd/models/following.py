"""Follow the channels of a larger and a smaller network of one family through their layers, both at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import detkd.environment

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
from detkd.models.channels import Copy, FixedSpace, Flow, JointSpace, Segment, Space, moments

__all__ = ["Walk", "follow"]


def follow(wide: Any, narrow: Any, classes: FixedSpace, by: str, key: str) -> list[Copy]:
    """Follow the channels through two detectors at once.

    Args:
        wide: The larger detector.
        narrow: The smaller one.
        classes: Which class rows of their heads correspond.
        by: How channels are chosen.
        key: Config key for messages.

    Returns:
        The convolutions that can be copied, in the order in which they are read.

    Raises:
        ModelError: If the layers don't correspond.
    """
    big_plan, small_plan = ([(type(layer), layer.f) for layer in model.model] for model in (wide, narrow))
    if big_plan != small_plan:
        same = [a == b for a, b in zip(big_plan, small_plan, strict=False)]
        place = same.index(False) if False in same else len(same)
        raise ModelError(
            f"{key}.slice: the larger model is not of the student's family (they differ at layer {place}); choose "
            "weights of the same one, e.g. yolo26n.pt for a smaller yolo26"
        )
    walk = Walk(by)
    channels = [next(m for m in model.modules() if isinstance(m, nn.Conv2d)).in_channels for model in (wide, narrow)]
    flows: list[Flow] = []
    now: Flow = [Segment.unknown(walk.space(*channels))]
    for big, small in zip(wide.model, narrow.model, strict=True):
        sources = [big.f] if isinstance(big.f, int) else list(big.f)
        inputs = [now if f == -1 else flows[f] for f in sources]
        if isinstance(big, Detect):
            _detect(walk, big, small, inputs, classes)
            break
        joined = [part for flow in inputs for part in flow]
        now = joined if isinstance(big, Concat) else walk.step(big, small, joined)
        flows.append(now)
    return walk.copies


class Walk:
    """Two networks, layer by layer.

    Attributes:
        by: How channels are chosen.
        copies: The convolutions to copy, in the order in which they are read.
    """

    def __init__(self, by: str) -> None:
        self.by = by
        self.copies: list[Copy] = []

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
            widths = sum(part.space.wide for part in flow), sum(part.space.narrow for part in flow)
            outs = [self.space(_width(wide, widths[0]), _width(narrow, widths[1]))]
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
        widths = (sum(part.space.wide for part in flow), sum(part.space.narrow for part in flow))
        fits = widths == (wide.in_channels, narrow.in_channels)
        if not (same and fits and (dense or depthwise) and any(part.space.followed for part in flow)):
            for space in outs:
                space.followed &= space.produced
            return False
        wide_bn, narrow_bn = norms or (None, None)
        self.copies.append(Copy(wide, narrow, wide_bn, narrow_bn, flow, outs))
        for space in outs:
            space.produced = True
        return True


def _conv(walk: Walk, wide: Any, narrow: Any, flow: Flow, outs: Sequence[Space] | None = None) -> Flow:
    """Convolution, normalisation, activation."""
    if outs is None:
        depthwise = wide.conv.groups == wide.conv.in_channels == wide.conv.out_channels > 1
        made = [walk.space(wide.conv.out_channels, narrow.conv.out_channels)]
        outs = [part.space for part in flow] if depthwise else made
    if not walk.conv((wide.conv, narrow.conv), (wide.bn, narrow.bn), flow, outs):
        return walk.lost(wide, narrow, flow, outs)
    mean, var = moments(wide.bn, wide.act)
    widths = [space.wide for space in outs]
    return [Segment(*parts) for parts in zip(outs, mean.split(widths), var.split(widths), strict=True)]


def _plain(walk: Walk, wide: Any, narrow: Any, flow: Flow, outs: Sequence[Space] | None = None) -> Flow:
    """A convolution with bias and nothing else."""
    outs = outs or [walk.space(wide.out_channels, narrow.out_channels)]
    walk.conv((wide, narrow), None, flow, outs)
    return [Segment.unknown(space) for space in outs]


def _chain(walk: Walk, wide: Any, narrow: Any, flow: Flow, outs: Sequence[Space] | None = None) -> Flow:
    """Modules one after the other; what only one of the networks has at the end is passed over."""
    common = min(len(wide), len(narrow))
    for place in range(common):
        flow = walk.step(wide[place], narrow[place], flow, outs if place == common - 1 else None)
    if not all(getattr(block, "add", False) for block in narrow[common:]):
        return walk.lost(wide, narrow, flow, None)
    return flow


def _bottleneck(walk: Walk, wide: Any, narrow: Any, flow: Flow, outs: Sequence[Space] | None = None) -> Flow:
    """Two convolutions, added to the input where the widths allow."""
    inside = walk.step(wide.cv1, narrow.cv1, flow)
    if wide.add and narrow.add:
        return _sum(flow, walk.step(wide.cv2, narrow.cv2, inside, [part.space for part in flow]))
    return walk.step(wide.cv2, narrow.cv2, inside, outs)


def _sum(left: Flow, right: Flow) -> Flow:
    """Channels added one to one, taken as independent."""
    return [Segment(a.space, a.mean + b.mean, a.var + b.var) for a, b in zip(left, right, strict=True)]


def _c3(walk: Walk, wide: Any, narrow: Any, flow: Flow, outs: Sequence[Space] | None = None) -> Flow:
    """Two paths, one of them through blocks."""
    deep = walk.step(wide.m, narrow.m, walk.step(wide.cv1, narrow.cv1, flow))
    return walk.step(wide.cv3, narrow.cv3, [*deep, *walk.step(wide.cv2, narrow.cv2, flow)], outs)


def _c2f(walk: Walk, wide: Any, narrow: Any, flow: Flow, outs: Sequence[Space] | None = None) -> Flow:
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
    walk = Walk("first")
    same = [Segment(Space(part.space.wide, part.space.wide, "first"), part.mean, part.var) for part in flow]
    return [Segment(Space(part.space.wide, 0, "first"), part.mean, part.var) for part in walk.step(wide, wide, same)]


def _pool(walk: Walk, wide: Any, narrow: Any, flow: Flow, outs: Sequence[Space] | None = None) -> Flow:
    """The same channels pooled several times; taken as if pooling left mean and variance alone."""
    inside = walk.step(wide.cv1, narrow.cv1, flow)
    times = [len(m.m) if isinstance(m, SPP) else getattr(m, "n", 3) for m in (wide, narrow)]
    if times[0] != times[1]:
        return walk.lost(wide, narrow, flow, outs)
    if getattr(wide, "add", False) and getattr(narrow, "add", False):
        return _sum(flow, walk.step(wide.cv2, narrow.cv2, inside * (times[0] + 1), [part.space for part in flow]))
    return walk.step(wide.cv2, narrow.cv2, inside * (times[0] + 1), outs)


def _c2psa(walk: Walk, wide: Any, narrow: Any, flow: Flow, outs: Sequence[Space] | None = None) -> Flow:
    """Two halves, one of them through attention."""
    halves = [walk.space(wide.c, narrow.c), walk.space(wide.c, narrow.c)]
    first, second = walk.step(wide.cv1, narrow.cv1, flow, halves)
    return walk.step(wide.cv2, narrow.cv2, [first, *walk.step(wide.m, narrow.m, [second])], outs)


def _psa(walk: Walk, wide: Any, narrow: Any, flow: Flow, outs: Sequence[Space] | None = None) -> Flow:
    """Attention and two convolutions, each added to its input."""
    for big, small in ((wide.attn, narrow.attn), (wide.ffn, narrow.ffn)):
        if wide.add and narrow.add:
            flow = _sum(flow, walk.step(big, small, flow, [part.space for part in flow]))
        else:
            flow = walk.step(big, small, flow)
    return flow


def _attention(walk: Walk, wide: Any, narrow: Any, flow: Flow, outs: Sequence[Space] | None = None) -> Flow:
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
    query, key, _ = joint.split(made.var + made.mean.square())
    joint.products = query * key
    v = [Segment(values, joint.split(made.mean)[2], joint.split(made.var)[2])]
    return walk.step(wide.proj, narrow.proj, _sum(v, walk.step(wide.pe, narrow.pe, v, [values])), outs)


def _detect(walk: Walk, wide: Any, narrow: Any, inputs: Sequence[Flow], classes: FixedSpace) -> None:
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


def _width(module: nn.Module, default: int) -> int:
    """Return the number of channels that come out of a module, as far as its last convolution tells."""
    convs = {name: m for name, m in module.named_modules() if isinstance(m, nn.Conv2d)}
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
