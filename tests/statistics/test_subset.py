from __future__ import annotations

import numpy as np
import pytest

from detkd.evaluation.inputs import Detections
from detkd.evaluation.matching import Matches, match
from detkd.evaluation.metrics import CLASS_NAMES, METRIC_NAMES
from detkd.evaluation.results import load_detections
from detkd.evaluation.truth import load_truth
from detkd.evaluation.weighted import WeightedScorer
from detkd.statistics.subset import restrict_classes, restrict_images
from tests.evaluation.worlds import make_detections, make_gt


@pytest.fixture(scope="module")
def matches() -> Matches:
    gt = make_gt(3, 30)
    truth = load_truth(gt)
    return match(truth, load_detections(make_detections(gt, 4), truth))


def test_images_alone_score_as_the_whole_with_the_others_left_out(matches: Matches) -> None:
    rng = np.random.default_rng(0)
    mask = rng.random(30) < 0.4
    weights = rng.integers(0, 4, (5, 30))
    part = restrict_images(matches, mask)
    assert part.images == mask.sum()
    assert len(part) == int(mask[matches.image].sum())
    want = WeightedScorer(matches).score(weights * mask)
    got = WeightedScorer(part).score(weights[:, mask])
    for metric in METRIC_NAMES:
        assert got[metric] == pytest.approx(want[metric], abs=1e-9, nan_ok=True)


def test_images_alone_are_matched_as_a_set_of_their_own() -> None:
    gt = make_gt(5, 20)
    found = make_detections(gt, 6)
    truth = load_truth(gt)
    mask = np.arange(20) % 3 == 0
    part = restrict_images(match(truth, load_detections(found, truth)), mask)
    ids = {record["id"] for record, keep in zip(truth.images, mask, strict=True) if keep}
    smaller = load_truth(
        {
            **gt,
            "images": [r for r in gt["images"] if r["id"] in ids],
            "annotations": [a for a in gt["annotations"] if a["image_id"] in ids],
        }
    )
    columns: Detections = load_detections([one for one in found if one["image_id"] in ids], smaller)
    alone = match(smaller, columns)
    assert np.array_equal(part.offsets, alone.offsets)
    assert np.array_equal(part.image, alone.image)
    assert np.array_equal(part.outcome, alone.outcome)
    assert np.array_equal(part.object_image, alone.object_image)


@pytest.mark.parametrize("classes", [[0], [1, 3], [0, 1, 2, 3]])
def test_classes_alone_score_as_they_do_among_all(matches: Matches, classes: list[int]) -> None:
    weights = np.random.default_rng(1).integers(0, 3, (4, 30))
    part = restrict_classes(matches, classes)
    assert part.names == tuple(matches.names[k] for k in classes)
    want, got = (WeightedScorer(m).score(weights, CLASS_NAMES) for m in (matches, part))
    for metric in CLASS_NAMES:
        assert got[metric] == pytest.approx(want[metric][:, classes], abs=1e-9, nan_ok=True)
