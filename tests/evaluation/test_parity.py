"""No input on which evaluators have been seen to differ changes a number here, whatever the engine.

Inputs pycocotools can read are compared with pycocotools itself, untouched by our code. The others are refused with one
clear error, or mean the same as a set that it can read.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from detkd.errors import DataError
from detkd.evaluation.coco import evaluate_detections
from detkd.evaluation.engine import Params, available_engines, run
from detkd.evaluation.results import load_detections
from detkd.evaluation.truth import load_truth
from tests.evaluation.worlds import (
    CATEGORY_IDS,
    NAMES,
    evaluator,
    make_detections,
    make_gt,
    reference,
    twelve,
)

Records = list[dict[str, Any]]
ENGINES = pytest.mark.parametrize("engine", available_engines())
NAN, INF = float("nan"), float("inf")


def world(seed: int) -> tuple[dict[str, Any], Records]:
    """Crowd shares of 0, 5, 10 and 50 %, ties from one or two decimals, or hardly any."""
    gt = make_gt(seed, images=4 + seed % 9, crowd=(0.0, 0.05, 0.1, 0.5)[seed % 4], absent=seed % 3 == 0)
    return gt, make_detections(gt, seed + 10_000, decimals=(1, 2, 5)[seed % 3])


@pytest.mark.parametrize("start", range(0, 200, 20))
def test_random_sets(start: int) -> None:
    for seed in range(start, start + 20):
        gt, found = world(seed)
        stats, per_class = reference(gt, found)
        truth = load_truth(gt)
        checked = load_detections(found, truth)
        for engine in available_engines():
            metrics = evaluate_detections(truth, checked, engine=engine)
            np.testing.assert_allclose(twelve(metrics), stats, rtol=0, atol=1e-12, err_msg=f"{seed} {engine}")
            for value, category in zip(per_class, sorted(CATEGORY_IDS), strict=True):
                ours = metrics.per_class[NAMES[CATEGORY_IDS.index(category)]].AP
                assert (ours is None) == (value == -1)
                assert ours is None or ours / 100 == pytest.approx(value, abs=1e-12)


def with_crowd(gt: dict[str, Any], share: float) -> dict[str, Any]:
    rng = np.random.default_rng(1)
    return {**gt, "annotations": [{**a, "iscrowd": int(rng.random() < share)} for a in gt["annotations"]]}


def with_ids(gt: dict[str, Any], image: Any, found: Records) -> tuple[dict[str, Any], Records]:
    renamed = {
        **gt,
        "images": [{**i, "id": image(i["id"])} for i in gt["images"]],
        "annotations": [{**a, "image_id": image(a["image_id"])} for a in gt["annotations"]],
    }
    return renamed, [{**d, "image_id": image(d["image_id"])} for d in found]


def one_image(boxes: list[list[float]], **fields: list[Any]) -> dict[str, Any]:
    return {
        "images": [{"id": 2}],
        "categories": [{"id": 4, "name": "car"}],
        "annotations": [
            {"id": n + 1, "image_id": 2, "category_id": 4, "bbox": b, "area": b[2] * b[3], "iscrowd": 0}
            | {key: values[n] for key, values in fields.items()}
            for n, b in enumerate(boxes)
        ],
    }


def readable() -> dict[str, tuple[dict[str, Any], Records]]:
    """Inputs that pycocotools reads as they are."""
    gt = make_gt(5, images=10, empty=0.3)
    found = make_detections(gt, 6)
    labelled = {a["image_id"] for a in gt["annotations"]}
    half = sorted(labelled)[::2]
    sides = [[0.0, 0.0, side, side] for side in (32.0, 96.0, 1e5, 1e6)]
    answers = [{"image_id": 2, "category_id": 4, "bbox": b, "score": 0.9 - 0.1 * n} for n, b in enumerate(sides)]
    many = [
        {"image_id": 2, "category_id": 4, "bbox": [float(n), 0.0, 32.0, 32.0], "score": (n % 97) / 100}
        for n in range(400)
    ]
    zero = {3: 0, 18: 18, 1: 1, 90: 90}
    category_zero = {
        **gt,
        "categories": [{**c, "id": zero[c["id"]]} for c in gt["categories"]],
        "annotations": [{**a, "category_id": zero[a["category_id"]]} for a in gt["annotations"]],
    }
    limits = [1024.0, 9216.0, 1024.0000001, 9215.9999999]
    return {
        "10 % crowd": (with_crowd(gt, 0.1), found),
        "50 % crowd": (with_crowd(gt, 0.5), found),
        "all crowd": (with_crowd(gt, 1.0), found),
        "equal scores": (gt, [{**d, "score": 0.5} for d in found]),
        "every detection twice": (gt, [d for d in found for _ in range(2)]),
        "one detection": (gt, found[:1]),
        "images without objects": (
            gt,
            [*found, *({**d, "image_id": i["id"]} for i in gt["images"] for d in found[:1])],
        ),
        "images without detections": (gt, [d for d in found if d["image_id"] in half]),
        "class without objects": (
            {**gt, "annotations": [a for a in gt["annotations"] if a["category_id"] != 3]},
            found,
        ),
        "class without detections": (gt, [d for d in found if d["category_id"] != 3]),
        "no objects": ({**gt, "annotations": []}, found),
        "areas on the limits": (one_image(sides), answers),
        "areas around the limits": (one_image(sides, area=limits), answers),
        "areas 0 and huge": (one_image(sides, area=[0.0, 0.0, 1e10, 1.0000001e10]), answers),
        "boxes outside the image": (gt, [{**d, "bbox": [-50.0, 600.0, 30.0, 30.0]} for d in found]),
        "scores outside 0..1": (gt, [{**d, "score": d["score"] * 8 - 4} for d in found]),
        "category id 0": (category_zero, [{**d, "category_id": zero[d["category_id"]]} for d in found]),
        "huge image ids": with_ids(gt, lambda i: i + 10**12, found),
        "400 of one class in an image": (one_image(sides), many),
        "ignore without iscrowd": ({**gt, "annotations": [{**a, "ignore": 1} for a in gt["annotations"]]}, found),
        "segmentations": (gt, [{**d, "segmentation": [], "area": 3.0} for d in found]),
    }


@ENGINES
@pytest.mark.parametrize("case", readable())
def test_readable(case: str, engine: str) -> None:
    gt, found = readable()[case]
    stats, _ = reference(gt, found)
    np.testing.assert_allclose(twelve(evaluate_detections(gt, found, engine=engine)), stats, rtol=0, atol=1e-12)


def same_meaning() -> dict[str, tuple[dict[str, Any], Records, dict[str, Any], Records]]:
    """Inputs on which pycocotools fails or goes wrong, each with one that means the same."""
    gt = make_gt(1)
    found = make_detections(gt, 2, decimals=9)  # no ties, because other ids change the order of images
    plain = {**gt, "annotations": [{**a, "area": a["bbox"][2] * a["bbox"][3]} for a in gt["annotations"]]}

    def without(key: str, base: dict[str, Any]) -> dict[str, Any]:
        return {**base, "annotations": [{k: v for k, v in a.items() if k != key} for a in base["annotations"]]}

    def numbered(factor: int) -> dict[str, Any]:
        return {**gt, "annotations": [{**a, "id": n * factor} for n, a in enumerate(gt["annotations"])]}

    return {
        "annotation ids from 0": (numbered(1), found, gt, found),
        "equal annotation ids": (numbered(0), found, gt, found),
        "no annotation ids": (without("id", gt), found, gt, found),
        "string image ids": (*with_ids(gt, lambda i: f"frame-{i}", found), gt, found),
        "negative image ids": (*with_ids(gt, lambda i: -i, found), gt, found),
        "no area": (without("area", gt), found, plain, found),
        "no iscrowd": (without("iscrowd", with_crowd(gt, 0.0)), found, with_crowd(gt, 0.0), found),
        "ids as text": (
            gt,
            [{**d, "image_id": str(d["image_id"]), "category_id": str(d["category_id"])} for d in found],
            gt,
            found,
        ),
    }


@ENGINES
@pytest.mark.parametrize("case", same_meaning())
def test_same_meaning(case: str, engine: str) -> None:
    gt, found, other_gt, other_found = same_meaning()[case]
    stats, _ = reference(other_gt, other_found)
    np.testing.assert_allclose(twelve(evaluate_detections(gt, found, engine=engine)), stats, rtol=0, atol=1e-12)


BAD_DETECTIONS: dict[str, dict[str, Any]] = {
    "NaN score": {"score": NAN},
    "no score": {"score": None},
    "NaN in a box": {"bbox": [1.0, NAN, 3.0, 4.0]},
    "infinity in a box": {"bbox": [1.0, 2.0, INF, 4.0]},
    "negative width": {"bbox": [1.0, 2.0, -0.1, 4.0]},
    "negative height": {"bbox": [1.0, 2.0, 3.0, -4.0]},
    "unknown image": {"image_id": 123_456},
    "unknown category": {"category_id": 44},
}


@ENGINES
@pytest.mark.parametrize("case", BAD_DETECTIONS)
def test_bad_detection_is_refused_or_left_out(case: str, engine: str) -> None:
    gt = make_gt(4)
    found = make_detections(gt, 5)
    bad = {**found[3], **BAD_DETECTIONS[case]}
    if case == "no score":
        del bad["score"]
    spoilt = [*found[:3], bad, *found[3:]]
    with pytest.raises(DataError, match="record 3: "):
        evaluate_detections(gt, spoilt, engine=engine)
    stats, _ = reference(gt, found)
    metrics = evaluate_detections(gt, spoilt, engine=engine, on_bad="skip")
    np.testing.assert_allclose(twelve(metrics), stats, rtol=0, atol=1e-12)


@ENGINES
def test_flat_boxes_count_as_in_pycocotools(engine: str) -> None:
    """Without crowd regions, on which such a box is 0 / 0 to pycocotools."""
    gt = make_gt(4, crowd=0.0)
    found = make_detections(gt, 5)
    for number, box in enumerate(([5.0, 5.0, 0.0, 9.0], [5.0, 5.0, 9.0, 0.0], [0.0, 0.0, 0.0, 0.0])):
        found.insert(7 * number, {**found[9 * number], "bbox": box})
    stats, _ = reference(gt, found)
    metrics = evaluate_detections(gt, found, engine=engine)
    np.testing.assert_allclose(twelve(metrics), stats, rtol=0, atol=1e-12)


@ENGINES
@pytest.mark.parametrize("box", [[5.0, 5.0, 0.0, 9.0], [5.0, 5.0, 9.0, -1.0], [NAN, 5.0, 9.0, 9.0]])
def test_bad_label_is_refused_or_left_out(box: list[float], engine: str) -> None:
    gt = make_gt(4)
    found = make_detections(gt, 5)
    spoilt = {**gt, "annotations": [*gt["annotations"], {**gt["annotations"][0], "bbox": box}]}
    with pytest.raises(DataError, match=rf"annotations\[{len(gt['annotations'])}\]: bbox has"):
        evaluate_detections(spoilt, found, engine=engine)
    stats, _ = reference(gt, found)
    metrics = evaluate_detections(spoilt, found, engine=engine, on_bad="skip")
    np.testing.assert_allclose(twelve(metrics), stats, rtol=0, atol=1e-12)


def test_duplicate_images_and_bare_arrays_are_refused() -> None:
    gt = make_gt(4)
    found = make_detections(gt, 5)
    with pytest.raises(DataError, match=r"images\[12\]: duplicate image id"):
        evaluate_detections({**gt, "images": [*gt["images"], gt["images"][0]]}, found)
    rows = np.asarray([[d["image_id"], *d["bbox"], d["score"], d["category_id"]] for d in found])
    with pytest.raises(DataError, match="record 0: not a record"):
        evaluate_detections(gt, rows)  # type: ignore[arg-type]


SETTINGS: dict[str, tuple[Params, dict[str, Any]]] = {
    "own area ranges": (
        Params(area_ranges=(("all", 0.0, 1e10), ("tiny", 0.0, 200.0), ("rest", 200.0, 1e10))),
        {"areaRng": [[0, 1e10], [0, 200], [200, 1e10]], "areaRngLbl": ["all", "tiny", "rest"]},
    ),
    "11 recall thresholds": (
        Params(recall_thresholds=tuple(np.linspace(0, 1, 11).tolist())),
        {"recThrs": np.linspace(0, 1, 11)},
    ),
    "float32 IoU thresholds": (
        Params(iou_thresholds=tuple(np.linspace(0.5, 0.95, 10, dtype=np.float32).tolist())),
        {"iouThrs": np.linspace(0.5, 0.95, 10, dtype=np.float32).astype(np.float64)},
    ),
}


@ENGINES
@pytest.mark.parametrize("case", SETTINGS)
def test_other_settings(case: str, engine: str) -> None:
    params, theirs = SETTINGS[case]
    for seed in range(4):
        gt, found = world(seed)
        # Classes in the order of ids, as pycocotools lists them.
        gt = {**gt, "categories": sorted(gt["categories"], key=lambda c: c["id"])}
        truth = load_truth(gt)
        ours = run(truth, load_detections(found, truth), params, engine=engine)
        expected = evaluator(gt, found, **theirs).eval
        for name in ("precision", "recall"):
            np.testing.assert_allclose(getattr(ours, name), expected[name], rtol=0, atol=1e-12)


@ENGINES
def test_some_images_some_classes_and_no_classes(engine: str) -> None:
    """pycocotools' `imgIds`, `catIds` and `useCats=0` are a smaller set or one of a single class here."""
    gt = make_gt(7)
    found = make_detections(gt, 8, decimals=9)
    images = [i["id"] for i in gt["images"]][::2]
    parts = {
        "imgIds": (lambda r: r["image_id"] in images, {"imgIds": images}),
        "catIds": (lambda r: r["category_id"] in (3, 90), {"catIds": [3, 90]}),
        "useCats": (lambda r: True, {"useCats": 0}),
    }
    for case, (keep, theirs) in parts.items():
        one = {"category_id": 1} if case == "useCats" else {}
        part = {
            "images": [i for i in gt["images"] if case != "imgIds" or i["id"] in images],
            "categories": [c for c in gt["categories"] if case == "imgIds" or keep({"category_id": c["id"]})],
            "annotations": [{**a, **one} for a in gt["annotations"] if keep(a)],
        }
        metrics = evaluate_detections(part, [{**d, **one} for d in found if keep(d)], engine=engine)
        precision = evaluator(gt, found, **theirs).eval["precision"][..., 0, -1]
        assert metrics.AP == pytest.approx(100 * precision[precision > -1].mean(), abs=1e-10)
