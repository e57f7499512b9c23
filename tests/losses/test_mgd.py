from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from detkd.errors import ConfigError, PairError, ShapeError
from detkd.losses.mgd import MaskedGeneration, mgd, visible_cells
from tests.losses.maps import feats, make_maps_view, random_map
from tests.losses.views import make_assignment, make_context


def ready(channels_s=(4, 4, 4), channels_t=(4, 4, 4), **options) -> MaskedGeneration:
    loss = MaskedGeneration(**options)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        loss.setup(channels_s, channels_t)
    return loss


def test_by_hand():
    """(1, 2) against (3, 2): squares 4 and 0, mean 2. Standardised, (3, 2) is (1, -1): squares 0 and 9, mean 4.5."""
    student, teacher = torch.tensor([[[[1.0, 2.0]]]]), torch.tensor([[[[3.0, 2.0]]]])
    torch.testing.assert_close(mgd(student, teacher, standardised=False), torch.tensor(2.0))
    torch.testing.assert_close(mgd(student, teacher), torch.tensor(4.5), rtol=1e-4, atol=0)


def test_slow_reference():
    student, teacher = random_map(1, 2, 3, 4, 5), random_map(2, 2, 3, 4, 5) * 5 + 2
    gaps = [(x - y) ** 2 for x, y in zip(student.flatten().tolist(), teacher.flatten().tolist(), strict=True)]
    torch.testing.assert_close(mgd(student, teacher, standardised=False).item(), sum(gaps) / len(gaps))
    assert mgd(teacher, teacher, standardised=False) == 0
    torch.testing.assert_close(mgd(student, teacher * 7 + 1), mgd(student, teacher), rtol=1e-4, atol=0)


def test_gradcheck():
    student, teacher = random_map(1, 2, 2, 2, 3).requires_grad_(), random_map(2, 2, 2, 2, 3)
    assert torch.autograd.gradcheck(lambda x: mgd(x, teacher), student)


@pytest.mark.parametrize("ratio", [0.0, 0.65, 0.9])
def test_share_of_hidden_cells(ratio):
    maps = torch.zeros(4, 3, 60, 50)
    mask = visible_cells(maps, ratio)
    assert mask.shape == (4, 1, 60, 50)
    assert set(mask.unique().tolist()) <= {0.0, 1.0}
    assert mask.mean().item() == pytest.approx(1 - ratio, abs=0.02)


def test_holes_are_drawn_anew_and_repeat_with_the_seed():
    loss, student, teacher = ready(), make_maps_view(1, (4, 4, 4)), make_maps_view(2, (4, 4, 4))
    context = make_context(student)
    torch.manual_seed(5)
    first, second = loss(student, teacher, context), loss(student, teacher, context)
    assert first != second
    torch.manual_seed(5)
    again, twin = loss(student, teacher, context), copy.deepcopy(loss)
    assert again == first
    assert twin(student, teacher, context) == second


def test_hidden_cells_get_no_gradient_and_the_value_is_that_of_the_generated_maps():
    loss, student, teacher = ready(), make_maps_view(1, (4, 4, 4), grad=True), make_maps_view(2, (4, 4, 4))
    torch.manual_seed(3)
    value = loss(student, teacher, make_context(student))
    value.backward()
    torch.manual_seed(3)
    masks = [visible_cells(maps, 0.65) for maps in feats(student)]
    parts = [
        mgd(block(maps * mask), target)
        for block, maps, mask, target in zip(loss.generators, feats(student), masks, feats(teacher), strict=True)
    ]
    torch.testing.assert_close(value, torch.stack(parts).mean())
    for maps, mask in zip(feats(student), masks, strict=True):
        gradient = maps.grad.abs().sum(1, keepdim=True)
        assert (gradient[mask == 0] == 0).all()
        assert (gradient[mask == 1] > 0).all()


def test_it_learns_to_generate():
    """The block alone can bring the loss down, so it has something to do."""
    loss, student = ready(ratio=0.0), make_maps_view(1, (4, 4, 4))
    teacher = student._replace(feats=tuple(torch.tanh(maps.flip(1)) for maps in feats(student)))
    optimizer = torch.optim.Adam(loss.parameters(), lr=0.02)
    values = []
    for _ in range(60):
        optimizer.zero_grad()
        value = loss(student, teacher, make_context(student))
        value.backward()
        optimizer.step()
        values.append(value.item())
    assert values[-1] < 0.5 * values[0]


def test_layers_and_gradients():
    loss = ready((4, 6, 8), (8, 6, 12))
    assert [type(layer) for layer in loss.adapters] == [nn.Conv2d, nn.Identity, nn.Conv2d]
    assert all(layer.bias is not None for layer in loss.adapters if isinstance(layer, nn.Conv2d))
    student = make_maps_view(1, (4, 6, 8), grad=True)
    teacher = make_maps_view(2, (8, 6, 12), ratio=2, grad=True)
    loss(student, teacher, make_context(student)).backward()
    assert all(x.grad.abs().sum() > 0 for x in (*feats(student), *loss.parameters()))
    assert all(x.grad is None for x in feats(teacher))


def test_labels_and_region_do_not_matter():
    loss = ready()
    student, teacher = make_maps_view(1, (4, 4, 4), classes=1), make_maps_view(2, (4, 4, 4), classes=1)
    values = []
    for context in (
        make_context(student),
        make_context(student, region=torch.zeros(2, 64), assignment=make_assignment(1, classes=1)),
    ):
        torch.manual_seed(2)
        values.append(loss(student, teacher, context))
    assert values[0] == values[1]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype):
    loss = ready()
    student, teacher = make_maps_view(1, (4, 4, 4), grad=True, dtype=dtype), make_maps_view(2, (4, 4, 4), dtype=dtype)
    torch.manual_seed(1)
    value = loss(student, teacher, make_context(student))
    assert value.dtype == torch.float32
    wide = [view._replace(feats=tuple(maps.detach().float() for maps in feats(view))) for view in (student, teacher)]
    torch.manual_seed(1)
    torch.testing.assert_close(value, loss(*wide, make_context(student)), rtol=1e-2, atol=0)
    value.backward()
    assert all(maps.grad.isfinite().all() for maps in feats(student))


def test_errors():
    with pytest.raises(ConfigError, match=r"ratio: must be in \[0, 0.99\], got 1; 0.65 hides"):
        MaskedGeneration(ratio=1)
    with pytest.raises(ConfigError, match=r"adapter: unknown choice"):
        MaskedGeneration(adapter="maybe")
    with pytest.raises(ShapeError, match=r"feats: student has shape"):
        mgd(torch.zeros(1, 2, 3, 3), torch.zeros(1, 3, 3, 3))
    with pytest.raises(PairError, match="teacher: has 2 feature maps"):
        ready((4, 4, 4), (4, 4))
