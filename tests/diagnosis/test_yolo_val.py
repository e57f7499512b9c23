from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace

import detkd.environment

import numpy as np
import pytest
import torch
from ultralytics.engine.validator import BaseValidator
from ultralytics.utils.metrics import ap_per_class, box_iou

from detkd.diagnosis.yolo_val import MOST_DETECTIONS, reconcile
from detkd.evaluation.side import Run, make_run
from detkd.evaluation.truth import load_truth
from tests.diagnosis.scenes import BOX, ODD, random_run, scene, shifted
from tests.evaluation.worlds import make_detections, make_gt

CROWD, LIMIT, AREA, END = range(4)


def theirs(run: Run, most: int = MOST_DETECTIONS) -> tuple[float, float]:
    """AP and AP50 by Ultralytics' own functions, as `yolo val` calls them, on labels without crowd regions."""
    truth, found = run.truth, run.detections
    validator = SimpleNamespace(iouv=torch.linspace(0.5, 0.95, 10))
    hits, scores, classes, labelled = [], [], [], []
    for image in range(len(truth.images)):
        objects = np.flatnonzero((truth.image == image) & ~truth.crowd)
        best = np.flatnonzero(found.image == image)
        best = best[np.argsort(-found.scores[best], kind="stable")][:most]
        labelled.append(truth.label[objects])
        correct = np.zeros((len(best), 10), dtype=bool)
        if len(best) and len(objects):
            overlap = box_iou(corners(truth.boxes_xywh[objects]), corners(found.boxes_xywh[best]))
            predicted, true = torch.from_numpy(found.label[best]), torch.from_numpy(truth.label[objects])
            correct = BaseValidator.match_predictions(validator, predicted, true, overlap).numpy()
        hits.append(correct)
        scores.append(found.scores[best])
        classes.append(found.label[best])
    # They sort without keeping the order of equal scores: ranks keep it.
    order = np.argsort(-np.concatenate(scores), kind="stable")
    ranks = np.empty(len(order))
    ranks[order] = np.arange(len(order), 0, -1)
    ap = ap_per_class(np.concatenate(hits), ranks, np.concatenate(classes), np.concatenate(labelled))[5]
    return 100 * float(ap.mean()), 100 * float(ap[:, 0].mean())


def corners(boxes: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)).float()


def check(run: Run) -> dict:
    """The answer, after checking that it is theirs and that the parts add up to it."""
    result = reconcile(run)
    assert (result["AP"], result["AP50"]) == pytest.approx(theirs(run), abs=0.01)
    for key in ("AP", "AP50"):
        assert run.metrics.number(key) + sum(p[key] for p in result["parts"]) == pytest.approx(result[key], abs=1e-9)
    return result


@pytest.mark.parametrize("seed", range(24))
def test_equals_ultralytics_and_the_parts_add_up(seed):
    crowd = (0.0, 0.05, 0.5)[seed % 3]
    result = check(random_run(seed, images=40, crowd=crowd, decimals=(2, 8)[seed % 2], noise=(0.05, 0.2)[seed % 2]))
    parts = result["parts"]
    assert parts[LIMIT]["AP"] == 0
    assert parts[CROWD]["AP50"] <= 0 if crowd else parts[CROWD]["AP50"] == 0
    assert parts[AREA]["AP50"] != 0


def test_crowds_are_all_the_crowd_part_is():
    """The part is what the removal of the crowd regions does to COCO's own number."""
    gt = make_gt(5, 40, crowd=0.4)
    found = make_detections(gt, 5)
    run = make_run(load_truth(gt), found)
    without = {**gt, "annotations": [a for a in gt["annotations"] if not a["iscrowd"]]}
    other = make_run(load_truth(without), found)
    part = reconcile(run)["parts"][CROWD]
    assert part["AP"] == pytest.approx(other.metrics.AP - run.metrics.AP, abs=1e-9)
    assert part["AP50"] == pytest.approx(other.metrics.AP50 - run.metrics.AP50, abs=1e-9)
    assert reconcile(other)["parts"][CROWD]["AP"] == 0


def test_one_perfect_detection_by_hand():
    """COCO: 100. The area below 101 ones is 1; that it is 0 at recall 1 costs half of 1/100."""
    result = check(scene([(0, "cat", BOX)], [(0, "cat", BOX, 0.9)]))
    assert result["AP"] == pytest.approx(99.5)
    assert [p["AP"] for p in result["parts"]] == pytest.approx([0, 0, 0, -0.5])


def test_half_of_the_objects_by_hand():
    """Recall ends at 0.5. COCO: 51 of 101 values are 1. Area: 50.5 of 100. End: the value at 0.5 is 0, so 49.5."""
    result = check(scene([(0, "cat", BOX), (0, "cat", [300.0, 200.0, 50.0, 50.0])], [(0, "cat", BOX, 0.9)]))
    assert result["AP"] == pytest.approx(49.5)
    assert [p["AP"] for p in result["parts"]] == pytest.approx([0, 0, 50.5 - 5100 / 101, -1.0])


def test_lines_by_hand():
    """Two hits around a false alarm: (recall, precision) is (1/2, 1), (1/2, 2/3), (1, 2/3).

    COCO: 51 values of 1 and 50 of 2/3. Lines: 1 below recall 0.5 and 2/3 from there on; the end takes half of 2/300.
    """
    far = [300.0, 200.0, 50.0, 50.0]
    found = [(0, "cat", BOX, 0.9), (0, "cat", [500.0, 10.0, 20.0, 20.0], 0.8), (0, "cat", far, 0.7)]
    run = scene([(0, "cat", BOX), (0, "cat", far)], found)
    coco = (51 + 50 * 2 / 3) / 101
    lines = (49.5 + 50.5 * 2 / 3) / 100
    assert run.metrics.AP == pytest.approx(100 * coco)
    parts = check(run)["parts"]
    assert parts[AREA]["AP"] == pytest.approx(100 * (lines - coco))
    assert parts[END]["AP"] == pytest.approx(-1 / 3)


def crowded(*, detections: int, classes: int, objects: int = 4) -> Run:
    """One image with many false alarms above the hits."""
    names = [f"c{k}" for k in range(classes)]
    labels = [(0, names[n % classes], [40.0 * n, 10.0, 30.0, 30.0]) for n in range(objects)]
    noise = [(0, names[n % classes], [5.0, 200.0, 9.0, 9.0], 0.9 - n * 1e-4) for n in range(detections)]
    hits = [(0, name, box, 0.5 - n * 1e-3) for n, (_, name, box) in enumerate(labels)]
    return scene(labels, noise + hits, names=names)


def test_limit_over_all_classes():
    few = check(crowded(detections=270, classes=4))
    assert few["parts"][LIMIT]["AP"] == 0
    assert few["AP"] > 0
    cut = check(crowded(detections=320, classes=4))
    assert cut["parts"][LIMIT]["AP"] < 0
    assert cut["AP"] == 0


def test_more_than_100_of_a_class_count_there():
    result = check(crowded(detections=150, classes=1))
    assert result["parts"][LIMIT]["AP"] > 0
    assert result["parts"][LIMIT]["name"] == "300 detections per image"


def test_their_limit_grows_with_the_fullest_image():
    run = crowded(detections=10, classes=4, objects=350)
    result = reconcile(run)
    assert result["parts"][LIMIT]["name"] == "350 detections per image"
    assert (result["AP"], result["AP50"]) == pytest.approx(theirs(run, 350), abs=0.01)
    assert result["AP50"] > theirs(run, 300)[1] + 1


@pytest.mark.parametrize("name", ODD)
def test_odd_runs(name):
    result = reconcile(ODD[name])
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    if ODD[name].metrics.AP is None:
        assert result["AP"] is None
        assert all(part["AP"] is None for part in result["parts"])
    elif len(ODD[name].detections):
        check(ODD[name])
    else:
        assert result["AP"] == 0


def with_settings(run: Run, **settings: object) -> str:
    protocol = {**run.metrics.protocol, "settings": settings}
    return " ".join(reconcile(replace(run, metrics=replace(run.metrics, protocol=protocol)))["remarks"])


def test_remarks():
    low = scene([(0, "cat", BOX)], [(0, "cat", BOX, 0.9), (0, "cat", shifted(20), 0.002)])
    high = scene([(0, "cat", BOX)], [(0, "cat", BOX, 0.9), (0, "cat", shifted(20), 0.25)])
    assert "The lowest score is 0.25" in " ".join(reconcile(high)["remarks"])
    assert "The lowest score" not in " ".join(reconcile(low)["remarks"])
    assert "not known of these detections" in with_settings(low)
    assert "made on squares" in with_settings(low, letterbox="square")
    assert "max_det=100; yolo val keeps 300" in with_settings(low, max_det=100)
    assert "max_det" not in with_settings(low, max_det=300)
    assert "faster-coco-eval" not in with_settings(low)
    coco = scene([(0, "person", BOX)], [], names=["person", "toothbrush", *map(str, range(78))])
    assert "faster-coco-eval" in " ".join(reconcile(coco)["remarks"])
