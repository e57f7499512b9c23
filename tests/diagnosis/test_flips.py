from __future__ import annotations

import json
from collections import Counter
from math import comb

import numpy as np
import pytest

from detkd.diagnosis.flips import find_flips, mcnemar
from detkd.diagnosis.working_point import at_threshold, working_point
from detkd.errors import ShapeError
from detkd.evaluation.side import Run, make_run
from detkd.evaluation.truth import load_truth
from tests.diagnosis.scenes import BOX, ODD, scene, shifted
from tests.evaluation.worlds import make_detections, make_gt

SMALL, LARGE = [400.0, 300.0, 20.0, 20.0], [10.0, 10.0, 100.0, 100.0]


def pair(seed: int = 0, images: int = 60, crowd: float = 0.1) -> tuple[Run, Run]:
    gt = make_gt(seed, images, crowd=crowd)
    truth = load_truth(gt)
    before = make_run(truth, make_detections(gt, seed, noise=0.2))
    return before, make_run(truth, make_detections(gt, seed + 1, noise=0.1))


def test_mcnemar_is_the_binomial_test():
    for one, other in [(0, 0), (3, 3), (1, 0), (0, 5), (7, 2), (40, 61), (2, 300)]:
        n = one + other
        expected = min(1.0, 2 * sum(comb(n, k) for k in range(min(one, other) + 1)) / 2**n)
        assert mcnemar(one, other) == mcnemar(other, one) == pytest.approx(expected, rel=1e-12)
    assert mcnemar(20_000, 20_000) == 1.0
    assert 0 < mcnemar(10_000, 10_500) < 0.001
    assert mcnemar(0, 3_000) == 0.0 or mcnemar(0, 3_000) < 1e-300


def test_by_hand():
    objects = [(0, "cat", LARGE), (1, "cat", LARGE), (2, "dog", SMALL), (3, "dog", LARGE), (4, "cat", LARGE)]
    objects.append((5, "cat", LARGE, True))
    before = [(0, "cat", LARGE, 0.9), (1, "cat", LARGE, 0.7), (2, "dog", SMALL, 0.3), (5, "cat", LARGE, 0.9)]
    before.append((3, "cat", LARGE, 0.95))  # of another class: finds nothing
    after = [(0, "cat", LARGE, 0.5), (1, "cat", shifted(60), 0.6), (2, "dog", SMALL, 0.45), (3, "dog", LARGE, 0.41)]
    first, second = scene(objects, before, images=6), scene(objects, after, images=6)
    result = find_flips(first, second, (0.5, 0.4))
    assert {key: result[key] for key in ("both", "only_before", "only_after", "neither")} == {
        "both": 1, "only_before": 1, "only_after": 2, "neither": 1,
    }  # fmt: skip
    assert result["iou"] == 0.5
    assert result["thresholds"] == {"before": 0.5, "after": 0.4}
    assert result["p"] == 1.0
    assert result["by_class"] == [
        {"name": "cat", "both": 1, "only_before": 1, "only_after": 0, "neither": 1},
        {"name": "dog", "both": 0, "only_before": 0, "only_after": 2, "neither": 0},
    ]
    assert result["by_size"] == [
        {"name": "small", "both": 0, "only_before": 0, "only_after": 1, "neither": 0},
        {"name": "large", "both": 1, "only_before": 1, "only_after": 1, "neither": 1},
    ]
    assert result["items"] == [
        # Nothing on it before is clearer than something just below the threshold.
        {
            "kind": "gained",
            "truth": 3,
            "image": 3,
            "class": "dog",
            "size": "large",
            "score_before": None,
            "score_after": 0.41,
        },
        {
            "kind": "gained",
            "truth": 2,
            "image": 2,
            "class": "dog",
            "size": "small",
            "score_before": 0.3,
            "score_after": 0.45,
        },
        # The box after is too far off: IoU 0.25.
        {
            "kind": "lost",
            "truth": 1,
            "image": 1,
            "class": "cat",
            "size": "large",
            "score_before": 0.7,
            "score_after": None,
        },
    ]


@pytest.mark.parametrize("seed", range(6))
def test_counts_are_those_of_the_working_points(seed):
    before, after = pair(seed)
    low, high = (working_point(run.matches)["threshold"] for run in (before, after))
    result = find_flips(before, after, (low, high))
    assert result["both"] + result["only_before"] == at_threshold(before.matches, low)["hits"]
    assert result["both"] + result["only_after"] == at_threshold(after.matches, high)["hits"]
    total = [result[key] for key in ("both", "only_before", "only_after", "neither")]
    assert sum(total) == before.metrics.objects
    for rows in (result["by_class"], result["by_size"]):
        assert [sum(row[k] for row in rows) for k in ("both", "only_before", "only_after", "neither")] == total
    for row in result["by_class"]:
        objects = before.metrics.per_class[row["name"]].objects
        assert sum(value for key, value in row.items() if key != "name") == objects > 0
    kinds = Counter(item["kind"] for item in result["items"])
    assert (kinds["gained"], kinds["lost"]) == (result["only_after"], result["only_before"])
    assert json.loads(json.dumps(result, allow_nan=False)) == result


def test_items_say_what_the_detections_say():
    before, after = pair(2)
    low, high = 0.6, 0.5
    items = find_flips(before, after, (low, high))["items"]
    assert len({item["truth"] for item in items}) == len(items) > 20
    for item in items:
        gained = item["kind"] == "gained"
        row = item["truth"]
        assert item["image"] == before.truth.image[row]
        assert item["class"] == before.truth.names[before.truth.label[row]]
        assert not before.truth.crowd[row]
        finder, misser = (after, before) if gained else (before, after)
        found, missed = (item["score_after"], item["score_before"])[:: 1 if gained else -1]
        hit = (finder.matches.target[0] == row) & (finder.matches.outcome[0, 0] == 1)
        assert finder.matches.score[hit].tolist() == [found]
        assert found >= (high if gained else low)
        near = [
            score
            for score, box, label, image in zip(
                misser.detections.scores, misser.detections.boxes_xywh, misser.detections.label, misser.detections.image,
                strict=True,
            )
            if label == before.truth.label[row] and image == item["image"] and overlap(box, before.truth.boxes_xywh[row]) >= 0.5
        ]  # fmt: skip
        assert missed == (max(near) if near else None)


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    width = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    height = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    inside = max(width, 0.0) * max(height, 0.0)
    return inside / (a[2] * a[3] + b[2] * b[3] - inside)


def test_few_items_are_spread_and_the_clearest():
    """All detections are there before, only dogs after: cats and one small dog are lost."""
    objects = [(n, "cat", LARGE) for n in range(8)] + [(n, "dog", LARGE) for n in range(8)] + [(8, "dog", SMALL)]
    found = [(image, name, box, 0.5 + 0.01 * n) for n, (image, name, box) in enumerate(objects)]
    before, after = scene(objects, found, images=9), scene(objects, [], images=9)
    items = find_flips(before, after, (0.5, 0.4), limit=6)["items"]
    assert all(item["kind"] == "lost" and item["score_after"] is None for item in items)
    # In the first round the clearest of each class and size, in the next the second of those that have more.
    assert [(item["class"], item["size"]) for item in items] == [
        ("dog", "small"), ("dog", "large"), ("cat", "large"), ("dog", "large"), ("cat", "large"), ("dog", "large"),
    ]  # fmt: skip
    assert [round(item["score_before"], 2) for item in items] == [0.66, 0.65, 0.57, 0.64, 0.56, 0.63]


def test_halves_of_the_list_go_to_gains_and_losses():
    before, after = pair(4)
    everything = find_flips(before, after, (0.5, 0.5))
    assert min(everything["only_before"], everything["only_after"]) > 10
    items = find_flips(before, after, (0.5, 0.5), limit=21)["items"]
    assert Counter(item["kind"] for item in items) == {"gained": 11, "lost": 10}
    assert [item for item in everything["items"] if item["kind"] == "gained"][:11] == items[:11]
    same = find_flips(before, before, (0.5, 0.9), limit=21)["items"]
    assert Counter(item["kind"] for item in same) == {"lost": 21}


def test_a_side_without_a_threshold_finds_nothing():
    before, after = pair(1)
    result = find_flips(before, after, (None, 0.5))
    assert result["both"] == result["only_before"] == 0
    assert result["only_after"] == at_threshold(after.matches, 0.5)["hits"]
    assert result["thresholds"] == {"before": None, "after": 0.5}


@pytest.mark.parametrize("name", ODD)
def test_odd_runs(name):
    run = ODD[name]
    threshold = working_point(run.matches)["threshold"]
    result = find_flips(run, run, (threshold, threshold))
    assert result["items"] == []
    assert result["both"] + result["neither"] == len(run.matches.object_row)
    assert result["p"] == 1.0
    swapped = find_flips(run, run, (threshold, None))
    assert swapped["only_before"] == result["both"] == len(swapped["items"])


def test_other_labels_are_refused():
    a = scene([(0, "cat", BOX)], [])
    b = scene([(0, "cat", BOX, True), (0, "cat", BOX)], [])
    with pytest.raises(ShapeError, match="flips: the detectors were matched to different labels"):
        find_flips(a, b, (0.5, 0.5))
