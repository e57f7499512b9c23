"""What every recipe in conf/distill must do; a new one is covered the day its file exists."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path

import hydra.utils
import pytest
import torch
import yaml

from detkd.losses.base import TowerChannels
from detkd.losses.mgd import MaskedGeneration
from detkd.losses.recipe import Recipe
from detkd.types import Towers
from tests.losses.views import ANCHORS, BOTH, leaves, make_assignment, make_view, pick

CONF = Path(__file__).parents[2] / "conf" / "distill"
FILES = sorted(CONF.glob("*.yaml"))
KEYS = {"terms", "region", "alpha", "lambda", "calibrate", "assignment", "schedule", "heads"}
NATIVE = {"one2many": 0.8, "one2one": 0.2}
FIELDS = {"logits": "logits", "distances": "boxes", "dist": "dist"}
"""Tensors of a head, and what losses that read them say they use."""


def build(path: Path) -> Recipe:
    parts = hydra.utils.instantiate(yaml.safe_load(path.read_text()), _convert_="all")
    assert set(parts) == KEYS
    recipe = Recipe.from_parts(**{"kd_weight" if key == "lambda" else key: value for key, value in parts.items()})
    torch.manual_seed(0)
    recipe.setup((4, 4, 4), (4, 4, 4))
    widths = {branch: TowerChannels((4, 4, 4), (4, 4, 4)) for branch in BOTH}
    recipe.setup_towers(widths, widths)
    return recipe


def call(recipe: Recipe, student, teacher, assignments, progress: float = 0.5):
    """Run a recipe that may draw random numbers, always with the same ones."""
    torch.manual_seed(1)
    return recipe(student, teacher, assignments, progress, NATIVE)


def read(recipe):
    """What the losses read of the student."""
    return frozenset().union(*(loss.uses for loss in recipe.terms.values()))


def learnt(recipe: Recipe, student) -> list[tuple[torch.Tensor, ...]]:
    """What a recipe should give a gradient: all that its terms compare, in groups of which some tensor must have one.

    Terms on maps of the neck or inside the heads move these maps, whatever else they read, and terms on distributions
    move these; the others move the answers. A region may leave out the cells of a whole level.
    """
    uses = [loss.uses for loss in recipe.terms.values() if not loss.uses & {"feats", "towers"}]
    moved = frozenset().union(*(one & {"dist"} or one for one in uses))
    found = [(getattr(head, n),) for head in student.heads.values() for n, use in FIELDS.items() if use in moved]
    found += [(x,) for x in student.feats] if "feats" in read(recipe) else []
    towers = student.towers.values() if "towers" in read(recipe) else ()
    return [*found, *(tuple(maps for tower in part for maps in tower) for part in towers)]


@pytest.fixture(params=FILES, ids=lambda path: path.stem)
def recipe(request) -> Recipe:
    return build(request.param)


def views(images: int = 2, classes: int = 5, dtype: torch.dtype = torch.float32):
    options = {"images": images, "classes": classes, "dtype": dtype, "bins": 4, "feats": True, "towers": True}
    return make_view(1, grad=True, **options), make_view(2, grad=True, **options)


def wide(view):
    """The same numbers in float32, without a graph."""
    heads = {n: h._replace(**{k: x.detach().float() for k, x in h._asdict().items() if x is not None}) for n, h in view.heads.items()}  # fmt: skip
    towers = {n: Towers(*(tuple(x.detach().float() for x in maps) for maps in part)) for n, part in view.towers.items()}
    feats = tuple(x.detach().float() for x in view.feats)
    return view._replace(heads=heads, strides=view.strides.float(), feats=feats, towers=towers)


def labels(images: int = 2, classes: int = 5, share: float = 0.2):
    return {branch: make_assignment(3, images=images, classes=classes, share=share) for branch in BOTH}


def test_the_default_files_exist():
    assert {"none", "binary", "classic"} <= {path.stem for path in FILES}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_key_is_explained(path):
    unexplained = [line for line in path.read_text().splitlines() if "#" not in line]
    assert unexplained == []


def test_files_of_an_earlier_version_still_work():
    """Without the two youngest keys a recipe is neither calibrated nor assigned by the teacher."""
    parts = hydra.utils.instantiate(yaml.safe_load((CONF / "binary.yaml").read_text()), _convert_="all")
    older = {k: v for k, v in parts.items() if k not in {"calibrate", "assignment"}}
    recipe = Recipe.from_parts(**{"kd_weight" if key == "lambda" else key: value for key, value in older.items()})
    assert recipe.balance is None
    assert recipe.assignment == "student"
    assert recipe.factors.tolist() == [1.0, 1.0, 1.0]


@pytest.mark.parametrize("classes", [1, 5])
@pytest.mark.parametrize("images", [1, 3])
@pytest.mark.parametrize("share", [0.0, 0.2])
def test_scalar_finite_nonnegative_and_backward(recipe, images, classes, share):
    student, teacher = views(images, classes)
    total, items = call(recipe, student, teacher, labels(images, classes, share))
    assert total.shape == ()
    assert total.isfinite()
    assert total >= 0
    assert tuple(items) == recipe.columns(BOTH if len(recipe.terms) else ())
    assert all(value.isfinite() and value >= 0 and not value.requires_grad for value in items.values())
    if not len(recipe.terms):
        assert total == 0
        return
    assert total > 0
    total.backward()
    for group in learnt(recipe, student):
        moved = [x.grad for x in group if x.grad is not None]
        assert all(gradient.isfinite().all() for gradient in moved)
        assert any(gradient.abs().sum() > 0 for gradient in moved)
    assert all(x.grad is None for x in leaves(teacher))


def test_zero_when_equal(recipe):
    _, teacher = views()
    total, items = call(recipe, teacher, teacher, labels())
    if not any(True for _ in recipe.parameters()):  # layers of a loss start anywhere
        for value in (total, *items.values()):
            torch.testing.assert_close(value, torch.zeros(()), rtol=0, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_finite_and_close(recipe, dtype):
    student, teacher = views(dtype=dtype)
    total, items = call(recipe, student, teacher, labels())
    assert total.dtype == torch.float32
    _, expected = call(recipe, wide(student), wide(teacher), labels())
    for name, value in items.items():
        torch.testing.assert_close(value, expected[name], rtol=1e-2, atol=1e-4)
    if total.requires_grad:
        total.backward()
        moved = [x.grad for group in learnt(recipe, student) for x in group if x.grad is not None]
        assert moved
        assert all(gradient.isfinite().all() for gradient in moved)


def test_autocast_changes_nothing(recipe):
    student, teacher = views()
    plain, _ = call(recipe, student, teacher, labels())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed, _ = call(recipe, student, teacher, labels())
    torch.testing.assert_close(mixed, plain)


def test_order_of_anchors_and_batch_size(recipe):
    student, teacher = views()
    total, _ = call(recipe, student, teacher, labels())
    order, twice = torch.randperm(ANCHORS), torch.tensor([0, 1, 0, 1])
    if not read(recipe) & {"feats", "towers"}:  # the cells of a map have their order
        moved = {branch: type(label)(*(x[:, order] for x in label[:3])) for branch, label in labels().items()}
        again, _ = call(recipe, pick(student, anchors=order), pick(teacher, anchors=order), moved)
        torch.testing.assert_close(again, total)
    if any(isinstance(loss, MaskedGeneration) for loss in recipe.terms.values()):
        return  # twice the images, other holes
    doubled = {branch: type(label)(*(x[twice] for x in label[:3])) for branch, label in labels().items()}
    again, _ = call(recipe, pick(student, images=twice), pick(teacher, images=twice), doubled)
    torch.testing.assert_close(again, total)


def test_pickle_copy_and_state(recipe):
    student, teacher = views()
    total, _ = call(recipe, student, teacher, labels(), 0.3)
    for twin in (copy.deepcopy(recipe), pickle.loads(pickle.dumps(recipe))):
        assert twin is not recipe
        torch.testing.assert_close(call(twin, student, teacher, labels(), 0.3)[0], total, rtol=0, atol=0)
        twin.load_state_dict(recipe.state_dict(), strict=True)
        assert twin.state_dict().keys() == recipe.state_dict().keys()
