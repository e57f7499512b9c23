from __future__ import annotations

import numpy as np
import pytest

from detkd.diagnosis.duplicates import duplicates
from detkd.diagnosis.working_point import working_point
from tests.diagnosis.scenes import BOX, ODD, random_run, scene, shifted

FAR = [400.0, 300.0, 50.0, 50.0]


def of(run, threshold):
    return duplicates(run.truth, run.detections, run.matches, threshold)


def overlap(a, b):
    width = max(0.0, min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1]))
    return width * height / (a[2] * a[3] + b[2] * b[3] - width * height)


def test_by_hand():
    """Three boxes on one cat, one on the other, one below the threshold, one beside, one of another class."""
    run = scene(
        [(0, "cat", BOX), (0, "cat", FAR)],
        [
            (0, "cat", BOX, 0.9),
            (0, "cat", shifted(2), 0.8),
            (0, "cat", shifted(4), 0.7),
            (0, "cat", FAR, 0.9),
            (0, "cat", shifted(6), 0.2),
            (0, "cat", shifted(60), 0.9),
            (0, "dog", BOX, 0.9),
        ],
    )
    assert of(run, 0.5) == {"threshold": 0.5, "per_object": 1.0, "count": 2}
    assert of(run, 0.1)["count"] == 3


def test_two_objects_close_together_are_no_duplicates():
    run = scene([(0, "cat", BOX), (0, "cat", shifted(5))], [(0, "cat", BOX, 0.9), (0, "cat", shifted(2), 0.8)])
    assert of(run, 0.5) == {"threshold": 0.5, "per_object": 0.0, "count": 0}


def test_boxes_on_a_crowd_are_no_duplicates():
    run = scene(
        [(0, "cat", BOX, True), (0, "cat", FAR)], [(0, "cat", BOX, s) for s in (0.9, 0.8)] + [(0, "cat", FAR, 0.9)]
    )
    assert of(run, 0.5)["count"] == 0


@pytest.mark.parametrize("seed", range(8))
def test_equals_a_plain_loop_over_boxes(seed):
    run = random_run(seed, crowd=0.1, noise=0.1)
    threshold = working_point(run.matches)["threshold"]
    truth, found, matches = run.truth, run.detections, run.matches
    count = hits = 0
    for n, row in enumerate(matches.detection):
        if found.scores[row] < threshold:
            continue
        hits += matches.outcome[0, 0, n] == 1
        mine = (truth.image == found.image[row]) & (truth.label == found.label[row]) & ~truth.crowd
        best = max((overlap(found.boxes_xywh[row], box) for box in truth.boxes_xywh[mine]), default=0.0)
        count += matches.outcome[0, 0, n] == 0 and best >= 0.5
    assert of(run, threshold) == {"threshold": threshold, "per_object": count / hits, "count": count}


def test_taking_the_duplicates_away_leaves_none():
    run = random_run(1, noise=0.05)
    point = working_point(run.matches)
    before = of(run, point["threshold"])
    assert before["count"] > 0
    kept = np.sort(run.matches.detection[run.matches.outcome[0, 0] == 1])
    assert len(kept) >= point["hits"]
    cleaned = scene(
        [
            (int(i), run.truth.names[k], b.tolist())
            for i, k, b in zip(run.truth.image, run.truth.label, run.truth.boxes_xywh, strict=True)
        ],
        [
            (
                int(run.detections.image[r]),
                run.truth.names[run.detections.label[r]],
                run.detections.boxes_xywh[r].tolist(),
                float(run.detections.scores[r]),
            )
            for r in kept
        ],
        names=run.truth.names,
        images=len(run.truth.images),
    )
    assert of(cleaned, point["threshold"]) == {**before, "per_object": 0.0, "count": 0}


def test_without_a_threshold_or_hits():
    assert of(ODD["no detections"], None) == {"threshold": None, "per_object": None, "count": 0}
    assert of(ODD["only false alarms"], 0.1) == {"threshold": 0.1, "per_object": None, "count": 0}
