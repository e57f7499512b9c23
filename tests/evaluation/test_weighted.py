from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from detkd.errors import ConfigError, ShapeError
from detkd.evaluation.coco import evaluate_detections
from detkd.evaluation.engine import Params, run
from detkd.evaluation.inputs import GroundTruth
from detkd.evaluation.matching import Matches, match
from detkd.evaluation.metrics import CLASS_NAMES, METRIC_NAMES, Metrics
from detkd.evaluation.results import load_detections
from detkd.evaluation.truth import load_truth
from detkd.evaluation.weighted import WeightedScorer, overall
from tests.evaluation.worlds import make_detections, make_gt

Records = list[dict[str, Any]]


def matched(gt: dict[str, Any], found: Records) -> tuple[GroundTruth, Matches]:
    truth = load_truth(gt)
    return truth, match(truth, load_detections(found, truth))


def rebuilt(gt: dict[str, Any], found: list[Records], weights: np.ndarray) -> tuple[dict[str, Any], Records]:
    """A real data set in which image i, sorted by id, is there sum(weights[:, i]) times under new ids.

    The copies stand side by side; weights[d, i] of them have the answers of detector d.
    """
    labels: dict[str, Any] = {"images": [], "categories": gt["categories"], "annotations": []}
    answers: Records = []
    for i, image in enumerate(sorted(record["id"] for record in gt["images"])):
        for d, times in enumerate(weights[:, i].tolist()):
            for _ in range(times):
                new = {"image_id": len(labels["images"]) + 1}
                labels["images"].append({"id": new["image_id"]})
                mine = [a for a in gt["annotations"] if a["image_id"] == image]
                labels["annotations"] += [
                    {**a, **new, "id": len(labels["annotations"]) + n} for n, a in enumerate(mine, 1)
                ]
                answers += [{**r, **new} for r in found[d] if r["image_id"] == image]
    return labels, answers


def assert_equal(ours: dict[str, np.ndarray], draw: int, theirs: Metrics, points: float) -> None:
    """Compare the 12 numbers and those of each class, in points."""
    for name in METRIC_NAMES:
        value, expected = overall(ours[name])[draw], theirs.number(name)
        assert np.isnan(value) == (expected is None), name
        assert expected is None or value == pytest.approx(expected, abs=points, rel=0), name
    for k, label in enumerate(theirs.names):
        for name in CLASS_NAMES:
            value, expected = ours[name][draw, k], theirs.number(f"{name}/{label}")
            assert np.isnan(value) == (expected is None), (name, label)
            assert expected is None or value == pytest.approx(expected, abs=points, rel=0), (name, label)


@pytest.mark.parametrize("seed", range(12))
def test_all_ones_is_the_set_itself(seed: int) -> None:
    gt = make_gt(seed, images=30, crowd=(0.0, 0.1, 0.5)[seed % 3], absent=seed % 2 == 0)
    found = make_detections(gt, seed + 1000, noise=0.05, decimals=(1, 2, 5)[seed % 3])
    _, matches = matched(gt, found)
    ours = WeightedScorer(matches).score(np.ones((1, 30), dtype=int))
    assert set(ours) == set(METRIC_NAMES)
    assert_equal(ours, 0, evaluate_detections(gt, found, engine="pycocotools"), 1e-11)


@pytest.mark.parametrize("seed", range(6))
def test_resamples_equal_rebuilt_sets(seed: int) -> None:
    """Distinct scores: one part in 10^12, in everything pycocotools says about the set with copies."""
    gt = make_gt(seed, images=25, crowd=0.1)
    found = make_detections(gt, seed + 50, noise=0.05, decimals=12)
    rng = np.random.default_rng(seed)
    weights = rng.multinomial(25, [1 / 25] * 25, size=4)
    weights[3, :20] = 0
    _, matches = matched(gt, found)
    ours = WeightedScorer(matches).score(weights)
    for draw, row in enumerate(weights):
        theirs = evaluate_detections(*rebuilt(gt, [found], row[None]), engine="pycocotools")
        assert theirs.images == 25 or draw == 3
        assert_equal(ours, draw, theirs, 1e-10)


def test_resamples_with_ties() -> None:
    """Equal scores in one image are ranked copy by copy in a rebuilt set: one part in 10^5 at most, and some."""
    gt = make_gt(1, images=400)
    found = [r for seed in range(6) for r in make_detections(gt, seed, noise=0.05 + 0.02 * seed, decimals=4)]
    weights = np.random.default_rng(0).multinomial(400, [1 / 400] * 400, size=1)
    _, matches = matched(gt, found)
    ours = WeightedScorer(matches).score(weights)
    theirs = evaluate_detections(*rebuilt(gt, [found], weights))
    differences = [abs(overall(ours[name])[0] - getattr(theirs, name)) for name in METRIC_NAMES]
    assert 1e-9 < max(differences) <= 1e-3


@pytest.mark.parametrize("objects", [1, 2, 3, 7, 10, 20, 25, 29, 50, 57, 100, 150, 200, 300])
def test_recall_on_the_thresholds(objects: int) -> None:
    """Precision falls step by step, so one recall threshold more or less is seen: 7 of 100 do not reach 0.07."""
    gt = {
        "images": [{"id": i} for i in range(objects)],
        "categories": [{"id": 1, "name": "car"}],
        "annotations": [{"image_id": i, "category_id": 1, "bbox": [0, 0, 50, 50]} for i in range(objects)],
    }
    hits = [{"image_id": i, "category_id": 1, "bbox": [0, 0, 50, 50]} for i in range(objects)]
    found = [r for hit in hits for r in (hit, {**hit, "bbox": [200, 200, 50, 50]})]
    found = [{**r, "score": 1 - n / (3 * objects)} for n, r in enumerate(found)]
    weights = np.ones((3, objects), dtype=int)
    weights[1] = 2
    weights[2, ::2] = 3
    _, matches = matched(gt, found)
    ours = WeightedScorer(matches).score(weights, ("AP", "AP50"))
    for draw, row in enumerate(weights):
        theirs = evaluate_detections(*rebuilt(gt, [found], row[None]), engine="pycocotools")
        assert ours["AP50"][draw, 0] == pytest.approx(theirs.AP50, abs=1e-10, rel=0)
        assert ours["AP"][draw, 0] == pytest.approx(theirs.AP, abs=1e-10, rel=0)


def test_one_detection_by_hand() -> None:
    """pycocotools' guard against 0/0 is felt at one detection: precision is 1 / (1 + 2^-52)."""
    gt = {
        "images": [{"id": 1}, {"id": 2}],
        "categories": [{"id": 1, "name": "car"}],
        "annotations": [{"image_id": i, "category_id": 1, "bbox": [0, 0, 50, 50]} for i in (1, 2)],
    }
    found = [{"image_id": 1, "category_id": 1, "bbox": [0, 0, 50, 50], "score": 0.5}]
    _, matches = matched(gt, found)
    ours = WeightedScorer(matches).score(np.array([[1, 0], [1, 1], [3, 1], [0, 1], [0, 0]]))
    share = 1 / (1 + 2**-52)
    np.testing.assert_allclose(ours["AP"][:, 0], [100 * share, 100 * share * 51 / 101, 100 * 76 / 101, 0, np.nan])
    np.testing.assert_allclose(ours["AR1"][:, 0], [100, 50, 75, 0, np.nan])
    assert np.isnan(ours["AP_large"]).all()


def test_a_mask_is_the_set_of_these_images() -> None:
    gt = make_gt(3, images=30, absent=True)
    found = make_detections(gt, 4, noise=0.05, decimals=12)
    mask = np.arange(30) % 3 == 0
    _, matches = matched(gt, found)
    scorer = WeightedScorer(matches)
    ours = scorer.score(mask[None])
    keep = {i for i, kept in zip(sorted(i["id"] for i in gt["images"]), mask, strict=True) if kept}
    part = {
        **gt,
        **{key: [r for r in gt[key] if r.get("image_id", r["id"]) in keep] for key in ("images", "annotations")},
    }
    assert_equal(ours, 0, evaluate_detections(part, [r for r in found if r["image_id"] in keep]), 1e-10)
    twice = scorer.score(2 * mask[None])
    for name in METRIC_NAMES:
        np.testing.assert_array_equal(np.isnan(twice[name]), np.isnan(ours[name]))
        np.testing.assert_array_equal(scorer.score(mask[None], (name,))[name], ours[name])


@pytest.mark.parametrize("decimals", [1, 12])
def test_a_mixed_detector_equals_the_mixed_set(decimals: int) -> None:
    """Every image answered by one of two detectors, with ties too: equal scores are ranked by image in both."""
    gt = make_gt(5, images=25, crowd=0.1)
    found = [make_detections(gt, seed, noise=noise, decimals=decimals) for seed, noise in ((6, 0.05), (7, 0.1))]
    truth = load_truth(gt)
    both = WeightedScorer(*(match(truth, load_detections(one, truth)) for one in found))
    swaps = np.random.default_rng(0).random((4, 25)) < 0.5
    weights = np.stack([swaps, ~swaps], axis=1)
    weights[0] = [[True] * 25, [False] * 25]
    ours = both.score(weights)
    for draw, row in enumerate(weights):
        theirs = evaluate_detections(*rebuilt(gt, found, row.astype(int)), engine="pycocotools")
        assert_equal(ours, draw, theirs, 1e-10)
    alone = WeightedScorer(match(truth, load_detections(found[0], truth))).score(np.ones((1, 25), dtype=int))
    for name in METRIC_NAMES:
        np.testing.assert_allclose(ours[name][0], alone[name][0], rtol=0, atol=1e-11)


def test_both_detectors_on_the_same_images() -> None:
    """Weights add up: each image is there three times, once answered by one and twice by the other."""
    gt = make_gt(5, images=12)
    found = [make_detections(gt, seed, decimals=12) for seed in (6, 7)]
    truth = load_truth(gt)
    both = WeightedScorer(*(match(truth, load_detections(one, truth)) for one in found))
    weights = np.stack([np.ones(12, dtype=int), np.full(12, 2)])
    assert_equal(both.score(weights[None]), 0, evaluate_detections(*rebuilt(gt, found, weights)), 1e-10)


def test_other_settings() -> None:
    params = Params(
        iou_thresholds=(0.3, 0.5, 0.75),
        recall_thresholds=(*np.linspace(0, 1, 11).tolist(), 1.5),
        area_ranges=(("all", 0.0, 1e10), ("tiny", 0.0, 2000.0)),
        max_detections=(1, 20),
    )
    gt = make_gt(8, images=20)
    truth = load_truth(gt)
    detections = load_detections(make_detections(gt, 9), truth)
    arrays = run(truth, detections, params, engine="pycocotools")
    scorer = WeightedScorer(match(truth, detections, params))
    ones = np.ones((1, 20), dtype=int)
    ours = scorer.score(ones, ("AP", "AP30", "AP_tiny", "AR1", "AR20", "AR_tiny"))
    expected = {
        "AP": arrays.precision[..., 0, -1].mean(axis=(0, 1)),
        "AP30": arrays.precision[0, ..., 0, -1].mean(axis=0),
        "AP_tiny": arrays.precision[..., 1, -1].mean(axis=(0, 1)),
        "AR1": arrays.recall[..., 0, 0].mean(axis=0),
        "AR20": arrays.recall[..., 0, 1].mean(axis=0),
        "AR_tiny": arrays.recall[..., 1, 1].mean(axis=0),
    }
    for name, values in expected.items():
        np.testing.assert_allclose(ours[name][0], 100 * values, rtol=0, atol=1e-10)
    with pytest.raises(
        ConfigError, match="metrics: unknown, got 'AR100'; choose from AP, AP30, AP50, AP75, AP_tiny, AR1"
    ):
        scorer.score(ones, ("AR100",))


def test_nothing_found_and_nothing_there() -> None:
    gt = make_gt(1, absent=True)
    _, matches = matched(gt, [])
    ours = WeightedScorer(matches).score(np.ones((2, 12), dtype=int))
    assert overall(ours["AP"]).tolist() == overall(ours["AR100"]).tolist() == [0.0, 0.0]
    assert np.isnan(ours["AP"][:, 3]).all()
    _, nowhere = matched({**gt, "annotations": []}, make_detections(gt, 2))
    assert np.isnan(overall(WeightedScorer(nowhere).score(np.ones((1, 12), dtype=int))["AP"])).all()
    assert WeightedScorer(matches).score(np.ones((0, 12), dtype=int))["AP50"].shape == (0, 4)


def test_large_weights_do_not_overflow() -> None:
    """One hit behind three false alarms in an image that counts 2^30 times."""
    gt = {
        "images": [{"id": 1}, {"id": 2}],
        "categories": [{"id": 1, "name": "car"}],
        "annotations": [{"image_id": 1, "category_id": 1, "bbox": [0, 0, 50, 50]}],
    }
    found = [{"image_id": i, "category_id": 1, "bbox": [0, 0, 50, 50], "score": 0.5 * i} for i in (1, 2, 2, 2)]
    _, matches = matched(gt, found)
    ours = WeightedScorer(matches).score(np.array([[1, 2**30]]))
    assert ours["AP"][0, 0] == pytest.approx(100 / (3 * 2**30 + 1), rel=1e-12)


def test_many_draws_equal_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    gt = make_gt(2, images=20)
    _, matches = matched(gt, make_detections(gt, 3))
    weights = np.random.default_rng(0).integers(0, 4, (40, 20))
    scorer = WeightedScorer(matches)
    whole = scorer.score(weights)
    monkeypatch.setattr("detkd.evaluation.weighted._BLOCK", 1)
    parts = scorer.score(weights)
    for name in METRIC_NAMES:
        np.testing.assert_allclose(parts[name], whole[name], rtol=0, atol=1e-11)


def test_wrong_weights() -> None:
    gt = make_gt(1)
    _, matches = matched(gt, make_detections(gt, 2))
    scorer = WeightedScorer(matches)
    for weights in (np.ones(12, dtype=int), np.ones((1, 11), dtype=int), np.ones((1, 1, 12), dtype=int)):
        with pytest.raises(ShapeError, match=r"weights: must be \('B', 12\), got"):
            scorer.score(weights)
    for weights in (np.ones((1, 12)), -np.ones((1, 12), dtype=int)):
        with pytest.raises(ShapeError, match="weights: must be whole numbers >= 0"):
            scorer.score(weights)
    with pytest.raises(ShapeError, match=r"weights: must be \('B', 2, 12\), got \(1, 12\)"):
        WeightedScorer(matches, matches).score(np.ones((1, 12), dtype=int))
    with pytest.raises(ConfigError, match="metrics: unknown, got 'mAP'"):
        scorer.score(np.ones((1, 12), dtype=int), ("mAP",))


def test_overall_is_the_mean_over_what_exists() -> None:
    values = np.array([[1.0, np.nan, 3.0], [np.nan] * 3])
    np.testing.assert_array_equal(overall(values), [2.0, np.nan])
