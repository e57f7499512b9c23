from __future__ import annotations

import pytest
import torch
from torch import nn

from detkd.errors import PairError, ShapeError
from detkd.losses.adapters import adapt, build_adapters, levels, match_maps, standardise


def test_match_maps_averages_blocks():
    """A 2 x 4 map of 1..8 shrinks by 2 to (1 + 2 + 5 + 6) / 4 = 3.5 and (3 + 4 + 7 + 8) / 4 = 5.5."""
    teacher = torch.arange(1.0, 9.0, requires_grad=True).reshape(1, 1, 2, 4)
    shrunk = match_maps(torch.zeros(1, 3, 1, 2), teacher)
    torch.testing.assert_close(shrunk, torch.tensor([[[[3.5, 5.5]]]]))
    assert not shrunk.requires_grad
    assert match_maps(torch.zeros(1, 3, 2, 4), teacher.half()).dtype == torch.float32


@pytest.mark.parametrize("shape", [(1, 2), (2, 8), (3, 6), (2, 5)])
def test_maps_that_do_not_fit_are_refused(shape):
    with pytest.raises(PairError, match=r"teacher\.imgsz: the teacher's feature map has .* and the student's \(2, 4\)"):
        match_maps(torch.zeros(1, 1, 2, 4), torch.zeros(1, 1, *shape))


def test_standardise():
    """(1, 3) has mean 2 and variance 1, so it becomes (-1, 1) but for the 1e-5 under the root; constants become 0."""
    maps = torch.tensor([[[[1.0, 3.0]], [[5.0, 5.0]]]], dtype=torch.float64)
    expected = torch.tensor([[[[-1.0, 1.0]], [[0.0, 0.0]]]], dtype=torch.float64)
    torch.testing.assert_close(standardise(maps), expected, rtol=1e-5, atol=0)
    maps = torch.randn(3, 2, 4, 5, dtype=torch.float64) * 7 + 3
    torch.testing.assert_close(standardise(maps.repeat(2, 1, 1, 1))[:3], standardise(maps))
    torch.testing.assert_close(standardise(maps).mean((0, 2, 3)), torch.zeros(2, dtype=torch.float64))
    torch.testing.assert_close(
        standardise(maps).square().mean((0, 2, 3)), torch.ones(2, dtype=torch.float64), rtol=1e-5, atol=0
    )


def test_adapters_are_built_where_asked():
    needed = build_adapters((4, 8), (4, 16), when="needed")
    assert isinstance(needed[0], nn.Identity)
    assert (needed[1].in_channels, needed[1].out_channels, needed[1].bias) == (8, 16, None)
    always = build_adapters((4, 8), (4, 16), bias=True)
    assert all(isinstance(layer, nn.Conv2d) and layer.bias is not None for layer in always)
    with pytest.raises(PairError, match=r"teacher: has 2 feature maps with \(4, 8\) channels, the student 3 with"):
        build_adapters((4, 8, 16), (4, 8))


def test_adapt_ignores_autocast_and_half_inputs():
    layer, maps = nn.Conv2d(3, 2, 1), torch.randn(1, 3, 4, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        adapted = adapt(layer, maps)
    assert adapted.dtype == torch.float32
    assert torch.equal(adapted, layer(maps))
    assert adapt(layer, maps.half()).dtype == adapt(nn.Identity(), maps.half()).dtype == torch.float32
    assert adapt(nn.Identity(), maps.double()).dtype == torch.float64


def test_levels_refuse_what_does_not_fit():
    maps = (torch.zeros(1, 4, 2, 2),)
    with pytest.raises(ShapeError, match=r"feats: 1 student maps and 1 teacher maps for 0 adapters; .* call setup"):
        list(levels(nn.ModuleList(), maps, maps))
    with pytest.raises(ShapeError, match="feats: 0 student maps"):
        list(levels(build_adapters((4,), (4,)), None, maps))
    with pytest.raises(ShapeError, match=r"feats: student has shape \(1, 4, 2, 2\), teacher \(1, 3, 2, 2\)"):
        list(levels(build_adapters((4,), (4,)), maps, (torch.zeros(1, 3, 2, 2),)))
