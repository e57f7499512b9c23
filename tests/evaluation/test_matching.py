from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from pycocotools import mask

from detkd.errors import ShapeError
from detkd.evaluation import matching
from detkd.evaluation.engine import COCO_PARAMS, Params
from detkd.evaluation.inputs import Detections, GroundTruth
from detkd.evaluation.matching import Matches, match, union
from detkd.evaluation.results import load_detections
from detkd.evaluation.truth import load_truth
from tests.evaluation.worlds import evaluator, make_detections, make_gt


def plain_json(truth: GroundTruth, detections: Detections) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The checked columns as pycocotools reads them; object ids are row + 1, and `loadRes` numbers detections so too."""
    labels = {
        "images": [{"id": i} for i in range(len(truth.images))],
        "categories": [{"id": k, "name": name} for k, name in enumerate(truth.names)],
        "annotations": [
            {
                "id": n + 1,
                "image_id": int(i),
                "category_id": int(k),
                "bbox": b.tolist(),
                "area": float(a),
                "iscrowd": int(c),
            }
            for n, (i, k, b, a, c) in enumerate(
                zip(truth.image, truth.label, truth.boxes_xywh, truth.areas, truth.crowd, strict=True)
            )
        ],
    }
    columns = (detections.image, detections.label, detections.boxes_xywh, detections.scores)
    found = [
        {"image_id": int(i), "category_id": int(k), "bbox": b.tolist(), "score": float(s)}
        for i, k, b, s in zip(*columns, strict=True)
    ]
    return labels, found


def assert_equals_pycocotools(truth: GroundTruth, detections: Detections, params: Params = COCO_PARAMS) -> Matches:
    """Compare every flag, target, rank and the order with pycocotools' `evalImgs`."""
    run = evaluator(
        *plain_json(truth, detections),
        iouThrs=np.asarray(params.iou_thresholds),
        areaRng=[[low, high] for _, low, high in params.area_ranges],
        areaRngLbl=[name for name, _, _ in params.area_ranges],
        maxDets=list(params.max_detections),
    )
    ours = match(truth, detections, params)
    areas, images = len(params.area_ranges), len(truth.images)
    counts = np.zeros((areas, len(truth)), dtype=bool)
    for k in range(len(truth.names)):
        mine = slice(ours.offsets[k], ours.offsets[k + 1])
        for area in range(areas):
            first = (k * areas + area) * images
            each = [one for one in run.evalImgs[first : first + images] if one is not None]
            if not each:
                assert ours.offsets[k] == ours.offsets[k + 1]
                continue
            order = np.argsort(-np.concatenate([one["dtScores"] for one in each]), kind="mergesort")

            def joined(values: list[Any], order: np.ndarray = order) -> np.ndarray:
                return np.concatenate([np.asarray(v) for v in values], axis=-1)[..., order]

            hits, ignored = joined([one["dtMatches"] for one in each]), joined([one["dtIgnore"] for one in each])
            np.testing.assert_array_equal(ours.outcome[area, :, mine], np.where(ignored, -1, (hits > 0).astype(int)))
            for one in each:
                counts[area, np.asarray(one["gtIds"], dtype=int) - 1] = ~np.asarray(one["gtIgnore"], dtype=bool)
            if area == 0:
                np.testing.assert_array_equal(ours.target[:, mine], hits - 1)
                np.testing.assert_array_equal(ours.detection[mine], joined([one["dtIds"] for one in each]) - 1)
                np.testing.assert_array_equal(ours.score[mine], joined([one["dtScores"] for one in each]))
                np.testing.assert_array_equal(ours.rank[mine], joined([range(len(one["dtIds"])) for one in each]))
                np.testing.assert_array_equal(
                    ours.image[mine], joined([[one["image_id"]] * len(one["dtIds"]) for one in each])
                )
    assert ours.offsets[-1] == len(ours) == len(ours.score)
    np.testing.assert_array_equal(ours.object_row, np.flatnonzero(~truth.crowd))
    np.testing.assert_array_equal(ours.object_image, truth.image[ours.object_row])
    np.testing.assert_array_equal(ours.object_label, truth.label[ours.object_row])
    np.testing.assert_array_equal(ours.object_counts, counts[:, ours.object_row])
    return ours


def checked(gt: dict[str, Any], found: list[dict[str, Any]]) -> tuple[GroundTruth, Detections]:
    truth = load_truth(gt)
    return truth, load_detections(found, truth)


def crowded(seed: int, objects: int = 30, found: int = 260) -> tuple[GroundTruth, Detections]:
    """Three images full of boxes on a coarse grid: equal IoUs, duplicates, areas on the limits, > 100 of a class."""
    rng = np.random.default_rng(seed)
    count, images = 3 * objects, 3
    sides = np.array([16.0, 32.0, 48.0, 96.0, 112.0])
    place, size = rng.integers(0, 12, (count, 2)) * 16.0, rng.choice(sides, (count, 2))
    boxes = np.column_stack([place, size])
    truth = GroundTruth(
        "grid",
        ("a", "b"),
        (1, 2),
        tuple({"id": i} for i in range(images)),
        np.sort(rng.integers(0, images, count)),
        rng.integers(0, 2, count),
        boxes,
        np.where(rng.random(count) < 0.5, size.prod(axis=1), rng.choice(sides, count) ** 2),
        rng.random(count) < 0.15,
    )
    at = rng.integers(0, images, images * found)
    near = boxes[rng.integers(0, count, len(at))] + rng.choice([0.0, 0.0, 4.0, 8.0], (len(at), 4))
    scores = np.round(rng.random(len(at)), 1)
    return truth, Detections("grid", at, (rng.random(len(at)) < 0.2).astype(np.int64), near, scores)


@pytest.mark.parametrize("seed", range(24))
def test_equals_pycocotools(seed: int) -> None:
    gt = make_gt(seed, crowd=(0.0, 0.1, 0.5)[seed % 3])
    found = make_detections(gt, seed + 1000, noise=0.05, decimals=(1, 2, 5)[seed % 3])
    ours = assert_equals_pycocotools(*checked(gt, found))
    assert (ours.outcome == 1).any()
    assert len(ours) == len(found)


@pytest.mark.parametrize("seed", range(6))
def test_crowded_images_equal_pycocotools(seed: int) -> None:
    truth, detections = crowded(seed)
    ours = assert_equals_pycocotools(truth, detections)
    assert len(ours) < len(detections)
    assert ours.rank.max() == 99
    assert {-1, 0, 1} == set(np.unique(ours.outcome).tolist())


def test_other_settings_equal_pycocotools() -> None:
    """Exact overlap, any overlap, own size ranges and limits."""
    params = Params(
        iou_thresholds=(0.0, 0.3, 1.0),
        area_ranges=(("all", 0.0, 1e10), ("tiny", 0.0, 256.0)),
        max_detections=(1, 20),
    )
    ours = assert_equals_pycocotools(*crowded(9), params)
    assert (ours.outcome[0] == 1).any(axis=1).all()
    assert ours.rank.max() == 19


def test_full_overlap_may_miss_a_hair() -> None:
    """pycocotools asks for an IoU of 1 - 1e-10 where 1 is the threshold; here it is 1 - 5e-11 and 1 - 2e-10."""
    gt = {
        "images": [{"id": i} for i in (1, 2)],
        "categories": [{"id": 1, "name": "car"}],
        "annotations": [{"image_id": i, "category_id": 1, "bbox": [0, 0, 1000, 1000]} for i in (1, 2)],
    }
    found = [
        {"image_id": i, "category_id": 1, "bbox": [0, 0, 1000, 1000 - less], "score": 0.5}
        for i, less in ((1, 5e-8), (2, 2e-7))
    ]
    ours = assert_equals_pycocotools(*checked(gt, found), Params(iou_thresholds=(1.0,)))
    assert ours.outcome[0, 0].tolist() == [1, 0]


def test_blocks_of_groups_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    truth, detections = crowded(3)
    whole = match(truth, detections)
    monkeypatch.setattr(matching, "_PAIRS", 1)
    parts = match(truth, detections)
    np.testing.assert_array_equal(whole.outcome, parts.outcome)
    np.testing.assert_array_equal(whole.target, parts.target)


def test_overlap_has_the_bits_of_pycocotools() -> None:
    rng = np.random.default_rng(0)
    found, labelled = (np.column_stack([rng.uniform(-20, 60, (300, 2)), rng.uniform(0.1, 70, (300, 2))]) for _ in "ab")
    for crowd in (0, 1):
        theirs = mask.iou(found, labelled, [crowd] * 300)
        index, row = np.indices(theirs.shape)
        ours = matching._overlap(found[index.ravel()], labelled[row.ravel()], np.full(theirs.size, bool(crowd)))
        np.testing.assert_array_equal(ours, theirs.ravel())


def test_rules_by_hand() -> None:
    """One image, one class, IoU 0.5; a crowd region and two equal objects side by side.

    The best detection overlaps both objects alike and takes the later one, the next the other, the third finds both
    taken and is a false alarm. Two lie in the crowd region and don't count. The last is far away and large.
    """
    gt = {
        "images": [{"id": 1}],
        "categories": [{"id": 1, "name": "car"}],
        "annotations": [
            {"image_id": 1, "category_id": 1, "bbox": [0, 0, 10, 30]},
            {"image_id": 1, "category_id": 1, "bbox": [200, 200, 100, 100], "iscrowd": 1},
            {"image_id": 1, "category_id": 1, "bbox": [0, 0, 10, 30]},
        ],
    }
    boxes = [[0, 0, 10, 30]] * 3 + [[210, 210, 20, 20]] * 2 + [[500, 0, 100, 100]]
    found = [{"image_id": 1, "category_id": 1, "bbox": b, "score": 0.9 - 0.1 * n} for n, b in enumerate(boxes)]
    ours = match(*checked(gt, found))
    assert ours.outcome[0, 0].tolist() == [1, 1, 0, -1, -1, 0]
    assert ours.target[0].tolist() == [2, 0, -1, 1, 1, -1]
    # Nothing counts among large objects but the last, which is a false alarm there only.
    assert ours.outcome[3, 0].tolist() == [-1, -1, -1, -1, -1, 0]
    assert ours.outcome[1, 0].tolist() == [1, 1, 0, -1, -1, -1]
    assert ours.object_row.tolist() == [0, 2]
    assert ours.object_counts.tolist() == [[True, True], [True, True], [False, False], [False, False]]


def test_without_detections_or_objects() -> None:
    gt = make_gt(1)
    nothing = match(*checked(gt, []))
    assert len(nothing) == 0
    assert nothing.outcome.shape == (4, 10, 0)
    assert nothing.offsets.tolist() == [0] * 5
    assert len(nothing.object_row) == sum(not a["iscrowd"] for a in gt["annotations"])
    found = make_detections(gt, 2)
    alone = match(*checked({**gt, "annotations": []}, found))
    assert len(alone) == len(found)
    assert (alone.outcome[0] == 0).all()
    assert (alone.target == -1).all()


def test_union_ranks_by_score_image_detector() -> None:
    gt = make_gt(2)
    truth = load_truth(gt)
    one, two = (match(truth, load_detections(make_detections(gt, seed, decimals=1), truth)) for seed in (3, 4))
    both = union(one, two)
    count = len(truth.images)
    assert (both.images, len(both), len(both.object_row)) == (2 * count, len(one) + len(two), 2 * len(one.object_row))
    for k in range(4):
        mine = slice(both.offsets[k], both.offsets[k + 1])
        owner, image = np.divmod(both.image[mine], count)
        keys = list(zip(-both.score[mine], image, owner, both.rank[mine], strict=True))
        assert keys == sorted(keys)
        for d, single in enumerate((one, two)):
            theirs = slice(single.offsets[k], single.offsets[k + 1])
            np.testing.assert_array_equal(both.outcome[:, :, mine][:, :, owner == d], single.outcome[:, :, theirs])
            np.testing.assert_array_equal(both.detection[mine][owner == d], single.detection[theirs])


def test_union_needs_one_truth() -> None:
    gt = make_gt(2)
    truth = load_truth(gt)
    one = match(truth, load_detections(make_detections(gt, 3), truth))
    with pytest.raises(ShapeError, match="match all of them to one truth"):
        union(one, replace(one, object_label=one.object_label[::-1]))
    with pytest.raises(ShapeError, match="match all of them to one truth"):
        union(one, replace(one, images=one.images + 1))
