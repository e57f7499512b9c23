"""Initial weights that are cut out of a larger model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import detkd.environment

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from ultralytics.nn.modules.block import C3, Attention, C2f, PSABlock
from ultralytics.nn.modules.conv import Conv

from detkd.config import compose
from detkd.data.records import DataSpec, DetectionSet, ImageRecord
from detkd.errors import ModelError
from detkd.models.channels import CHOICES, Copy, FixedSpace, JointSpace, Segment, Space, choose, moments
from detkd.models.following import Walk, follow
from detkd.models.slicing import SliceReport, keep_logits, score, slice_weights
from detkd.models.weights import build_detector, load_detector, state_hash
from detkd.tasks.train import make_plan
from tests.inference.tiny import save

NAMES = ("person", "car")
WIDE = {"depth": 0.33, "width": 0.25, "max_channels": 256}
NARROW = {"depth": 0.33, "width": 0.125, "max_channels": 256}
FAMILIES = ("yolo26.yaml", "yolo11.yaml", "yolov8.yaml", "yolov5.yaml")


def build(scale: dict[str, float], *, names: tuple[str, ...] = NAMES, yaml: str = "yolo26.yaml", seed: int = 0) -> Any:
    """Return a detector whose normalisation looks trained: no two channels alike."""
    model = build_detector(yaml, names, key="student", scale=scale, seed=seed).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for bn in norms(model):
            bn.weight.copy_(0.5 + torch.rand(bn.num_features, generator=generator))
            bn.bias.copy_(0.3 * torch.randn(bn.num_features, generator=generator))
            bn.running_mean.copy_(0.1 * torch.randn(bn.num_features, generator=generator))
            bn.running_var.copy_(0.5 + torch.rand(bn.num_features, generator=generator))
    return model


def norms(model: nn.Module) -> list[Any]:
    """Return all batch normalisations."""
    return [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]


def answers(model: Any) -> list[Tensor]:
    """Return the raw outputs of all branches and the maps that the head reads."""
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        raw = model(images)[1]
    branches = [raw[name] for name in ("one2many", "one2one")] if "one2many" in raw else [raw]
    return [*(part[name] for part in branches for name in ("boxes", "scores")), *branches[0]["feats"]]


def cut(narrow: Any, wide: Any, *, names: tuple[str, ...] = NAMES, **options: Any) -> SliceReport:
    """Slice between models of the same classes."""
    return slice_weights(narrow, wide, names=(names, names), **options)


def plan(wide: Any, narrow: Any, by: str = "even") -> list[Copy]:
    """Return the copies between two models of the same classes."""
    return follow(wide, narrow, FixedSpace(2, 2, {0: 0, 1: 1}), by, "student")


def kill(copies: list[Copy]) -> None:
    """Make the larger model's channels that are left out 0 wherever they are made."""
    with torch.no_grad():
        for copy in copies:
            start = 0
            for space in copy.outs:
                if copy.wide_bn is not None:
                    dead = torch.ones(space.wide, dtype=torch.bool)
                    dead[space.pairs()[0]] = False
                    rows = start + dead.nonzero()[:, 0]
                    copy.wide_bn.weight[rows] = 0
                    copy.wide_bn.bias[rows] = 0
                start += space.wide


@pytest.mark.parametrize("yaml", FAMILIES)
def test_the_same_size_gives_the_same_model(yaml: str) -> None:
    wide, narrow = build(NARROW, yaml=yaml), build(NARROW, yaml=yaml, seed=1)
    report = cut(narrow, wide)
    assert (report.random, report.names, report.classes) == (0, (), NAMES)
    assert state_hash(narrow) == state_hash(wide)
    for left, right in zip(answers(narrow), answers(wide), strict=True):
        assert torch.equal(left, right)


@pytest.mark.parametrize(("yaml", "by"), [("yolo26.yaml", "gamma"), *((yaml, "power") for yaml in FAMILIES)])
def test_dead_channels_are_the_ones_left_out_and_nothing_is_lost(yaml: str, by: str) -> None:
    wide, narrow = build(WIDE, yaml=yaml), build(NARROW, yaml=yaml, seed=1)
    kill(plan(wide, narrow))
    report = cut(narrow, wide, by=by)
    assert report.random == 0
    ours, theirs = answers(narrow), answers(wide)
    levels = len(wide.model[-1].f)
    for left, right in zip(ours[:-levels], theirs[:-levels], strict=True):
        assert right.abs().max() > 0.1
        torch.testing.assert_close(left, right, rtol=1e-3, atol=1e-4)
    for left, right in zip(ours[-levels:], theirs[-levels:], strict=True):
        alive = right.abs().amax((0, 2, 3)) > 0
        torch.testing.assert_close(left, right[:, alive], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("by", "rescale"), [*((by, True) for by in CHOICES), ("power", False)])
def test_every_way_fills_the_whole_model_and_repeats_itself(by: str, rescale: bool) -> None:
    wide = build(WIDE)
    first, second, other = build(NARROW, seed=1), build(NARROW, seed=2), build(NARROW, seed=1)
    assert cut(first, wide, by=by, rescale=rescale).random == 0
    cut(second, wide, by=by, rescale=rescale)
    assert state_hash(first) == state_hash(second) != state_hash(other)
    assert all(torch.isfinite(part).all() for part in answers(first))


def test_the_larger_model_is_left_alone() -> None:
    wide = build(WIDE)
    before = state_hash(wide)
    cut(build(NARROW, seed=1), wide)
    assert state_hash(wide) == before


def test_blocks_are_matched_from_the_first_and_the_rest_is_dropped() -> None:
    wide = build({**NARROW, "depth": 1.0}, yaml="yolov8.yaml")
    narrow = build(NARROW, yaml="yolov8.yaml", seed=1)
    with torch.no_grad():
        for big, small in zip(wide.model, narrow.model, strict=True):
            if isinstance(big, C2f):
                assert len(big.m) > len(small.m)
                big.cv2.conv.weight[:, (2 + len(small.m)) * big.c :] = 0
    assert cut(narrow, wide).random == 0
    for left, right in zip(answers(narrow), answers(wide), strict=True):
        torch.testing.assert_close(left, right, rtol=1e-3, atol=1e-4)


def test_dropped_residual_blocks_of_a_chain_pass_their_input_on() -> None:
    wide, narrow = (build({**NARROW, "depth": depth}, yaml="yolov5.yaml") for depth in (1.0, 0.33))
    with torch.no_grad():
        for big, small in zip(wide.model, narrow.model, strict=True):
            if isinstance(big, C3):
                for block in big.m[len(small.m) :]:
                    assert block.add == small.m[0].add
                    nn.init.zeros_(block.cv2.bn.weight)
                    nn.init.zeros_(block.cv2.bn.bias)
    cut(narrow, wide)
    images = torch.rand(1, 3, 64, 64)
    for big, small in list(zip(wide.model, narrow.model, strict=True))[:9]:  # the neck's blocks are not residual
        left, right = (small(images), big(images))
        torch.testing.assert_close(left, right, rtol=1e-3, atol=1e-4)
        images = right


def test_a_deeper_student_keeps_random_numbers_for_the_blocks_it_has_more() -> None:
    wide, narrow = build(NARROW, yaml="yolov8.yaml"), build({**NARROW, "depth": 1.0}, yaml="yolov8.yaml", seed=1)
    before = {name: tensor.clone() for name, tensor in narrow.state_dict().items()}
    report = cut(narrow, wide)
    extra = [name for name in report.names if ".m." in name]
    assert extra
    assert all(torch.equal(narrow.state_dict()[name], before[name]) for name in extra)
    layer = narrow.model[2]
    known = 3 * layer.c
    assert torch.equal(layer.cv2.conv.weight[:, :known], wide.model[2].cv2.conv.weight)
    assert torch.equal(layer.cv2.conv.weight[:, known:], before["model.2.cv2.conv.weight"][:, known:])
    assert 0 < report.random < report.sliced


def test_blocks_of_another_kind_stay_random_and_what_reads_them_is_sliced_in_part() -> None:
    wide, narrow = build(NARROW, yaml="yolo11.yaml"), build(NARROW, yaml="yolo26.yaml", seed=1)
    before = {name: tensor.clone() for name, tensor in narrow.state_dict().items()}
    report = cut(narrow, wide)  # the same layers, but the last block has attention and boxes are plain numbers
    assert any(name.startswith("model.22.m.0.") for name in report.names)
    assert not any(name.startswith("model.2.") for name in report.names)
    last = "model.23.cv2.0.2.weight"
    assert last in report.names
    assert torch.equal(narrow.state_dict()[last], before[last])
    head, source = narrow.model[-1], wide.model[-1]
    assert torch.equal(head.one2one_cv3[0][2].weight, source.cv3[0][2].weight)


def test_class_rows_go_by_name() -> None:
    theirs, ours = ("person", "traffic light", "car", "dog"), ("red car", "Traffic_Light", "car")
    wide, narrow = build(NARROW, names=theirs), build(NARROW, names=ours, seed=1)
    before = narrow.model[-1].cv3[0][2].weight.clone()
    report = slice_weights(narrow, wide, names=(theirs, ours))
    assert report.classes == ("Traffic_Light", "car")
    for tower in ("cv3", "one2one_cv3"):
        left, right = (getattr(model.model[-1], tower)[0][2] for model in (narrow, wide))
        assert torch.equal(left.weight[1:], right.weight[[1, 2]])
        assert torch.equal(left.bias[1:], right.bias[[1, 2]])
    assert torch.equal(narrow.model[-1].cv3[0][2].weight[:1], before[:1])
    assert len(report.names) == 3 * 2 * 2  # levels, branches, weight and bias
    assert report.random == sum(narrow.get_parameter(name)[:1].numel() for name in report.names)
    assert str(report).endswith("the rest is random (12 tensors); class rows: Traffic_Light, car")


def test_no_known_class_leaves_all_class_rows_random() -> None:
    wide, narrow = build(NARROW), build(NARROW, names=("cell",), seed=1)
    before = narrow.model[-1].cv3[1][2].bias.clone()
    report = slice_weights(narrow, wide, names=(NAMES, ("cell",)))
    assert report.classes == ()
    assert torch.equal(narrow.model[-1].cv3[1][2].bias, before)
    assert "class rows: none" in str(report)


def test_more_classes_than_channels_of_the_larger_model() -> None:
    ours = tuple(f"class {i}" for i in range(70))  # 70 channels in the class towers, 32 in the larger model's
    wide, narrow = build(WIDE), build(NARROW, names=ours, seed=1)
    report = slice_weights(narrow, wide, names=(NAMES, ours))
    conv = narrow.model[-1].cv3[0][0][1]
    assert conv.conv.out_channels == 70
    assert any(name.startswith("model.23.cv3.0.0.1.") for name in report.names)
    assert all(torch.isfinite(part).all() for part in answers(narrow))


def test_models_of_another_family_are_refused() -> None:
    with pytest.raises(ModelError, match=r"model\.slice: the larger model is not of the student's family"):
        cut(build(NARROW), build(NARROW, yaml="yolov8.yaml"), key="model")
    with pytest.raises(ModelError, match=r"student\.slice_by: no such way .* got 'luck'; use one of power, gamma"):
        cut(build(NARROW), build(WIDE), by="luck")


@pytest.mark.parametrize(("verb", "key", "more"), [("train", "model", []), ("distill", "student", ["teacher=demo"])])
def test_the_configuration_reaches_the_plan(verb: str, key: str, more: list[str], tmp_path: Path) -> None:
    config = compose(verb, [f"{key}=yolo26n_half", f"{key}.slice=runs/a b", f"{key}.slice_by=even", "data=toy", *more])
    record = ImageRecord(1, tmp_path, 9, 9, np.zeros((0, 4)), np.zeros(0, int), np.zeros(0, bool), np.zeros(0))
    sets = {split: DetectionSet(split, NAMES, (1, 2), (record,)) for split in ("train", "val")}
    made = make_plan(config, config[key], DataSpec("toy", NAMES, sets), tmp_path)
    assert (made.slice_from, made.slice_by) == ("runs/a b", "even")


def test_build_detector_slices_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = save(build(WIDE, names=("person", "dog")), tmp_path / "wide.pt")
    options: dict[str, Any] = {"key": "student", "scale": NARROW, "slice_from": str(path)}
    first = build_detector("yolo26.yaml", NAMES, **options)
    said = capsys.readouterr().err
    assert said.startswith("student: initial weights from wide.pt: 99.9 % of ")
    assert said.endswith("class rows: person\n")
    torch.rand(3)
    assert state_hash(build_detector("yolo26.yaml", NAMES, **options)) == state_hash(first)
    assert state_hash(build_detector("yolo26.yaml", NAMES, **options, seed=1)) != state_hash(first)  # the car's rows
    assert state_hash(build_detector("yolo26.yaml", NAMES, **options, slice_by="first")) != state_hash(first)
    with pytest.raises(ModelError, match=r"student\.slice: .*wide\.pt has trained weights already"):
        build_detector(path, NAMES, key="student", slice_from=path)
    with pytest.raises(ModelError, match=r"student\.slice: no such file nothing\.pt"):
        build_detector("yolo26.yaml", NAMES, key="student", slice_from="nothing.pt")


@pytest.mark.parametrize("by", CHOICES)
def test_choosing(by: str) -> None:
    scores = torch.tensor([1.0, 5.0, 2.0, 5.0, 0.0, 3.0])
    expected = {"first": [0, 1, 2], "even": [0, 2, 4]}.get(by, [1, 3, 5])
    assert choose(scores, 3, by).tolist() == expected
    assert choose(scores, 9, by).tolist() == list(range(6))
    assert choose(torch.zeros(4), 2, by).tolist() == ([0, 2] if by == "even" else [0, 1])


def test_whole_heads_go_first_and_queries_follow_keys() -> None:
    values = Space(6, 2, "power", heads=(3, 1))
    keys = Space(6, 1, "power", heads=(3, 1), like=values)
    values.add(torch.tensor([1.0, 1, 9, 0, 4, 4]))  # the second head has most
    keys.add(torch.tensor([9.0, 9, 1, 2, 9, 9]))
    assert [part.tolist() for part in values.pairs()] == [[2, 3], [0, 1]]
    joint = JointSpace(keys, values)
    # A head is 2 queries, 2 keys, 2 values: the second starts at 6.
    assert [part.tolist() for part in joint.pairs()] == [[7, 9, 10, 11], [0, 1, 2, 3]]


@pytest.mark.parametrize("act", [nn.SiLU(), nn.Identity(), nn.ReLU()])
def test_moments_of_an_activation(act: nn.Module) -> None:
    bn = nn.BatchNorm2d(3)
    with torch.no_grad():
        bn.weight.copy_(torch.tensor([1.0, -0.5, 0.0]))
        bn.bias.copy_(torch.tensor([0.2, -1.0, 0.7]))
    noise = torch.randn(400_000, generator=torch.Generator().manual_seed(0)).double()
    values = act(bn.bias.double()[:, None] + bn.weight.double()[:, None] * noise).detach()
    mean, var = moments(bn, act)
    torch.testing.assert_close(mean, values.mean(1), rtol=0.01, atol=5e-3)
    torch.testing.assert_close(var, values.var(1), rtol=0.02, atol=5e-3)


def test_what_is_left_out_is_replaced_by_its_mean() -> None:
    wide, narrow = Conv(3, 1, 1), Conv(2, 1, 1)
    space = FixedSpace(3, 2, {0: 0, 1: 1})
    with torch.no_grad():
        wide.conv.weight.copy_(torch.tensor([2.0, 1.0, 3.0])[None, :, None, None])
        wide.bn.running_mean.fill_(10.0)
        wide.bn.running_var.fill_(7.0)
    flow = [Segment(space, torch.tensor([5.0, 6.0, 2.0]).double(), torch.tensor([1.0, 5.0, 3.0]).double())]
    copy = Copy(wide.conv, narrow.conv, wide.bn, narrow.bn, flow, [FixedSpace(1, 1, {0: 0})])
    torch.testing.assert_close(copy.shares(), torch.tensor([[4.0, 5.0, 27.0]]).double() / 36)
    copy.run(rescale=True)
    # Variance of the output: 4 x 1 + 1 x 5 + 9 x 3 = 36, of which 9 are kept: twice the weights. Mean lost: 3 x 2.
    assert narrow.conv.weight.flatten().tolist() == pytest.approx([4.0, 2.0])
    assert narrow.bn.running_mean.item() == pytest.approx((10 - 6) * 2)
    assert narrow.bn.running_var.item() == pytest.approx(7)
    copy.run(rescale=False)
    assert narrow.conv.weight.flatten().tolist() == [2.0, 1.0]
    assert narrow.bn.running_mean.item() == 10


def test_a_bias_takes_the_mean_of_what_is_left_out() -> None:
    wide, narrow = nn.Conv2d(2, 1, 1), nn.Conv2d(1, 1, 1)
    with torch.no_grad():
        wide.weight.copy_(torch.tensor([3.0, 4.0])[None, :, None, None])
        wide.bias.fill_(1.0)
    flow = [Segment(FixedSpace(2, 1, {0: 0}), torch.tensor([2.0, 5.0]).double(), torch.ones(2).double())]
    Copy(wide, narrow, None, None, flow, [FixedSpace(1, 1, {0: 0})]).run(rescale=True)
    # Mean 1 + 3 x 2 + 4 x 5 = 27 and variance 9 + 16 = 25 are kept: weight 3 x 5/3 = 5, bias 27 - 5 x 2.
    assert narrow.weight.item() == pytest.approx(5.0)
    assert narrow.bias.item() == pytest.approx(17.0)


def test_narrower_heads_of_attention_keep_the_size_of_their_products() -> None:
    wide, narrow = Attention(16, num_heads=1), Attention(8, num_heads=1)
    assert (wide.key_dim, narrow.key_dim) == (8, 4)
    walk = Walk("first")
    walk.step(wide, narrow, [Segment.unknown(Space(16, 8, "first"))])
    for copy in walk.copies:
        copy.run(rescale=True)
        keep_logits(copy)
    # Half of equal products is left, and each is divided by sqrt(4) in place of sqrt(8): nothing else to make up for.
    assert narrow.qkv.bn.weight.detach().tolist() == pytest.approx([1.0] * 16)
    walk.copies[0].outs[0].products[4:] = 0  # type: ignore[attr-defined]
    keep_logits(walk.copies[0])
    # Nothing is left out that counts: only the divisor has changed.
    assert narrow.qkv.bn.weight.detach().tolist() == pytest.approx([0.5**0.5] * 4 + [1.0] * 12)


def test_dead_heads_of_attention_are_the_ones_left_out() -> None:
    torch.manual_seed(0)
    wide, narrow = PSABlock(32, num_heads=4), PSABlock(16, num_heads=2)
    for bn in norms(wide):
        nn.init.uniform_(bn.weight, 0.5, 1.5)
        nn.init.normal_(bn.bias)
    pairs = {}
    for by in ("even", "power"):  # the first says which channels are to die, the second has to find them
        walk = Walk(by)
        start = FixedSpace(32, 16, {place: 2 * place for place in range(16)})
        walk.step(wide.eval(), narrow.eval(), [Segment.unknown(start)])
        if by == "even":
            kill(walk.copies)
        for copy in walk.copies:
            score(copy, by)
        pairs[by] = [walk.copies[0].outs[0].pairs()[0].tolist(), walk.copies[0].outs[0].values.kept_heads().tolist()]
    for copy in walk.copies:
        copy.run(rescale=False)  # the unknown input has no variance of 0 where it is dead
        keep_logits(copy)
    assert pairs["even"] == pairs["power"]
    assert pairs["power"][1] == [0, 2]
    images = torch.zeros(1, 32, 3, 3)
    images[:, ::2] = torch.randn(1, 16, 3, 3)
    torch.testing.assert_close(narrow(images[:, ::2]), wide(images)[:, ::2], rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_half_a_trained_nano_sees_what_the_nano_sees(assets: Path) -> None:
    import cv2

    folder = assets / "data" / "sg_traffic_cctv"
    described = json.loads((folder / "annotations" / "val.json").read_text())["images"][:96:12]
    pictures = [cv2.imread(str(folder / "images" / Path(image["file_name"]).name)) for image in described]
    batch = [torch.from_numpy(cv2.resize(image, (224, 224))[..., ::-1].copy()) for image in pictures]
    images = torch.stack(batch).permute(0, 3, 1, 2).float() / 255
    weights = assets / "weights" / "yolo26n.pt"
    half = {"depth": 0.5, "width": 0.125, "max_channels": 1024}
    names = ("car", "motorcycle", "bus", "truck")
    sliced = build_detector("yolo26.yaml", names, key="student", scale=half, slice_from=weights)
    random = build_detector("yolo26.yaml", names, key="student", scale=half)
    target = neck(load_detector(weights, key="teacher"), images)
    for ours, chance, theirs in zip(neck(sliced, images), neck(random, images), target, strict=True):
        assert explained(ours, theirs) > explained(chance, theirs) + 0.1


def neck(model: Any, images: Tensor) -> list[Tensor]:
    """Return the maps that the head reads."""
    found: list[Tensor] = []
    handle = model.model[-1].register_forward_pre_hook(lambda _, inputs: found.extend(inputs[0]))
    with torch.no_grad():
        model.eval()(images)
    handle.remove()
    return found


def explained(left: Tensor, right: Tensor) -> float:
    """Return the part of the variance of `right` that a linear map of `left` explains on images it was not fitted to."""
    x, y = (part.permute(0, 2, 3, 1).flatten(0, 2).double() for part in (left, right))
    x = torch.cat([(x - x.mean(0)) / x.std(0).clamp_min(1e-12), torch.ones(len(x), 1).double()], 1)
    half = len(x) // 2
    square = x[:half].T @ x[:half] + 1e-2 * half * torch.eye(x.shape[1]).double()
    error = x[half:] @ torch.linalg.solve(square, x[:half].T @ y[:half]) - y[half:]
    return 1 - float(error.square().sum() / (y[half:] - y[half:].mean(0)).square().sum())
