from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from detkd.errors import ConfigError, DataError
from detkd.evaluation.coco import evaluate_detections
from detkd.evaluation.results import load_detections
from detkd.evaluation.suspicions import find_suspicions
from detkd.evaluation.truth import load_truth
from tests.evaluation.worlds import make_detections, make_gt

NAN, INF = float("nan"), float("inf")


def small_gt() -> dict[str, Any]:
    return {
        "images": [
            {"id": 5, "file_name": "night/000007.jpg", "width": 100, "height": 80},
            {"id": 7, "file_name": "day/cam_b.jpg", "width": 100, "height": 80},
        ],
        "categories": [{"id": 3, "name": "car"}, {"id": 8, "name": "truck"}],
        "annotations": [
            {"image_id": 5, "category_id": 3, "bbox": [10, 10, 30, 20]},
            {"image_id": 7, "category_id": 8, "bbox": [5, 5, 60, 40]},
        ],
    }


def perfect(**changes: Any) -> list[dict[str, Any]]:
    found = [
        {"image_id": 5, "category_id": 3, "bbox": [10, 10, 30, 20], "score": 0.9},
        {"image_id": 7, "category_id": 8, "bbox": [5, 5, 60, 40], "score": 0.8},
    ]
    found[1].update(changes)
    return found


def without(key: str) -> list[dict[str, Any]]:
    found = perfect()
    del found[1][key]
    return found


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (without("score"), "record 1: no score; every detection needs image_id, category_id, bbox, score"),
        (without("image_id"), "record 1: no image_id;"),
        (without("bbox"), "record 1: no bbox;"),
        (perfect(score=NAN), r"record 1: score is nan; find out where the detector breaks"),
        (perfect(score=-INF), r"record 1: score is -inf;"),
        (perfect(score=None), r"record 1: score must be a number, got None; write the detector's confidence"),
        (perfect(score="0.5"), r"record 1: score must be a number, got '0.5'"),
        (perfect(score=True), r"record 1: score must be a number, got True"),
        (perfect(bbox=[1, 2, NAN, 4]), r"record 1: bbox has NaN or infinity, got \[1, 2, nan, 4\]"),
        (perfect(bbox=[1, INF, 3, 4]), r"record 1: bbox has NaN or infinity"),
        (perfect(bbox=[1, 2, 3, -4]), r"record 1: bbox has no area, got \[1, 2, 3, -4\]; boxes are \[left, top, width"),
        (perfect(bbox=[1, 2, 3]), r"record 1: bbox must be four numbers, got \[1, 2, 3\]"),
        (perfect(bbox=["1", 2, 3, 4]), r"record 1: bbox must be four numbers"),
        (perfect(bbox=None), r"record 1: bbox must be four numbers, got None"),
        (
            perfect(image_id=99),
            r"record 1: unknown image_id 99, not in gt; use the ground truth's image ids, or its file",
        ),
        (perfect(category_id=44), r"record 1: unknown category_id 44; gt has 3 car, 8 truck"),
        (perfect(image_id=[1]), r"record 1: unusable ids or numbers"),
        ([perfect()[0], 7], r"record 1: not a record, got 7; every detection is an object with image_id"),
        ({"images": []}, r"detections must be a list of records with image_id, category_id, bbox, score"),
    ],
)
def test_bad_detections(found: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        evaluate_detections(small_gt(), found)


@pytest.mark.parametrize("box", [[1, 2, 0, 4], [1.0, 2.0, 3.0, 0.0]])
def test_flat_boxes_are_false_alarms(box: list[float]) -> None:
    """Tools that clip boxes at the image's edge and round them write some; one must not cost the whole file."""
    found = [*perfect(), {**perfect()[0], "bbox": box, "score": 0.01}]
    metrics = evaluate_detections(small_gt(), found)
    assert metrics.detections == 3
    assert metrics.AP == pytest.approx(evaluate_detections(small_gt(), perfect()).AP)
    (warning,) = [text for text in metrics.protocol["warnings"] if "no width" in text]
    assert warning.startswith("detections: 1 boxes have no width or no height, first record 2;")
    top = [{**perfect()[0], "bbox": box, "score": 1.0}, *perfect()]
    assert evaluate_detections(small_gt(), top).AP < metrics.AP  # type: ignore[operator]


def test_results_of_another_set_are_refused_even_when_bad_records_are_skipped() -> None:
    found = [{**one, "image_id": 1000 + one["image_id"]} for one in perfect()]
    for on_bad in ("error", "skip"):
        with pytest.raises(DataError, match=r"none of its 2 images is in gt \(unknown image_id 10\d\d\); give"):
            evaluate_detections(small_gt(), found, on_bad=on_bad)  # type: ignore[arg-type]


def test_errors_name_file_and_choice(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    path.write_text(json.dumps(perfect(score=NAN)))
    with pytest.raises(DataError, match=rf"^{re.escape(str(path))}: record 1: .*on_bad=skip$"):
        evaluate_detections(small_gt(), path)
    with pytest.raises(DataError, match=r"no\.json: no such file"):
        evaluate_detections(small_gt(), tmp_path / "no.json")
    with pytest.raises(ConfigError, match=r"on_bad: must be error or skip, got 'drop'"):
        evaluate_detections(small_gt(), [], on_bad="drop")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("categories", "hint"),
    [((0, 1), "class indices from 0"), ((1, 2), r"class indices \+ 1")],
)
def test_class_indices_get_a_hint(categories: tuple[int, int], hint: str) -> None:
    found = [{**d, "category_id": c} for d, c in zip(perfect(), categories, strict=True)]
    with pytest.raises(DataError, match=f"unknown category_id .* these look like {hint}, write the category ids"):
        evaluate_detections(small_gt(), found)


def changed_gt(**changes: Any) -> dict[str, Any]:
    return {**small_gt(), **changes}


def changed_annotation(**changes: Any) -> dict[str, Any]:
    gt = small_gt()
    gt["annotations"][1].update(changes)
    return gt


@pytest.mark.parametrize(
    ("gt", "message"),
    [
        ([], "gt: COCO ground truth needs `images`, `annotations` and `categories`"),
        (changed_gt(categories=[]), r"gt: the class list \(`categories`\) is empty; name at least one class"),
        (changed_gt(categories=[{"name": "car"}]), r"gt: categories\[0\]: no id"),
        (
            changed_gt(categories=[{"id": 3, "name": "car"}, {"id": 3, "name": "truck"}]),
            "gt: categories: id 3 is there twice; make class ids unique",
        ),
        (
            changed_gt(categories=[{"id": 3, "name": "car"}, {"id": 8, "name": "car"}]),
            "gt: categories: name 'car' is there twice",
        ),
        (changed_gt(images=[]), "gt: no images"),
        (changed_gt(images=[{"id": 5}, {"id": 5}]), r"gt: images\[1\]: duplicate image id 5, first in images\[0\]"),
        (changed_gt(images=[{"file_name": "a.jpg"}]), r"gt: images\[0\]: no usable id"),
        (changed_gt(annotations={}), None),
        (changed_gt(annotations={"a": 1}), "gt: `annotations` must be a list, got dict"),
        (changed_annotation(image_id=6), r"gt: annotations\[1\]: unknown image_id 6; add the image or remove"),
        (changed_annotation(category_id=1), r"gt: annotations\[1\]: unknown category_id 1; known ids: 3, 8"),
        (changed_annotation(bbox=[1, 2, 0, 3]), r"gt: annotations\[1\]: bbox has no area"),
        (changed_annotation(bbox=[1, NAN, 2, 3]), r"gt: annotations\[1\]: bbox has NaN or infinity"),
        (changed_annotation(area=NAN), r"gt: annotations\[1\]: area must be a number >= 0, got nan; remove the field"),
        (changed_gt(annotations=[3]), r"gt: annotations\[0\]: not a record, got 3"),
        (changed_gt(annotations=[{"image_id": 5, "category_id": 3}]), r"gt: annotations\[0\]: no bbox"),
    ],
)
def test_bad_ground_truth(gt: Any, message: str | None) -> None:
    if message is None:
        assert evaluate_detections(gt, perfect()).AP is None
        return
    with pytest.raises(DataError, match=message):
        evaluate_detections(gt, perfect())


def test_skip_leaves_out_and_says_so() -> None:
    bad = [*perfect(score=NAN), perfect(image_id=99)[1], perfect(category_id=44)[1], perfect(bbox=[1, 2, -1, 4])[1]]
    gt = changed_annotation(bbox=[1, 2, 0, 3])
    metrics = evaluate_detections(gt, [*bad, perfect(score=NAN)[1]], on_bad="skip")
    assert metrics.detections == 1
    assert metrics.objects == 1
    assert metrics.per_class["car"].AP == pytest.approx(100.0)
    warnings = metrics.protocol["warnings"]
    assert "gt: left out 1 record with an empty box (first: annotations[1])" in warnings
    assert "detections: left out 2 records with a non-finite score (first: record 1)" in warnings
    assert "detections: left out 1 record with an unknown image_id (first: record 2)" in warnings
    assert "detections: left out 1 record with an unknown category_id (first: record 3)" in warnings


def test_long_streams_keep_record_numbers() -> None:
    found = [perfect()[0]] * 70_000 + [perfect(score=NAN)[1]]
    with pytest.raises(DataError, match="record 70000: score is nan"):
        evaluate_detections(small_gt(), iter(found))


def readings(found: list[dict[str, Any]], gt: dict[str, Any] | None = None) -> tuple[dict[str, str], float | None]:
    metrics = evaluate_detections(gt or small_gt(), found)
    return metrics.protocol["reading"], metrics.AP


def test_ids_as_text() -> None:
    found = [{**d, "image_id": str(d["image_id"]), "category_id": str(d["category_id"])} for d in perfect()]
    assert readings(found) == ({"image_id": "id", "category_id": "id"}, pytest.approx(100.0))


def test_ultralytics_file() -> None:
    """`save_json`: the number 7 in the first file's name is the id of the second image, so the file name decides."""
    found = [
        {"image_id": 7, "file_name": "000007.jpg", "category_id": 1, "bbox": [10, 10, 30, 20], "score": 0.9},
        {"image_id": "cam_b", "file_name": "cam_b.jpg", "category_id": 2, "bbox": [5, 5, 60, 40], "score": 0.8},
    ]
    expected = {"image_id": "file name", "category_id": "class index + 1"}
    assert readings(found) == (expected, pytest.approx(100.0))
    older = [{k: v for k, v in d.items() if k != "file_name"} for d in found]  # before file names were written
    assert readings(older) == (expected, pytest.approx(100.0))


def test_ultralytics_coco_ids_stay_ids() -> None:
    found = [{**d, "file_name": name} for d, name in zip(perfect(), ("000007.jpg", "cam_b.jpg"), strict=True)]
    assert readings(found) == ({"image_id": "file name", "category_id": "id"}, pytest.approx(100.0))


def test_ambiguous_categories_go_where_the_labels_are() -> None:
    """Ids 2 and 1 are known, but as index + 1 they are the classes labelled in the image."""
    gt = small_gt()
    gt["categories"] = [{"id": 2, "name": "car"}, {"id": 1, "name": "truck"}]
    for annotation, category in zip(gt["annotations"], (2, 1), strict=True):
        annotation["category_id"] = category
    found = [
        {**d, "category_id": c, "file_name": n}
        for d, c, n in zip(perfect(), (1, 2), ("000007.jpg", "cam_b.jpg"), strict=True)
    ]
    assert readings(found, gt) == ({"image_id": "file name", "category_id": "class index + 1"}, pytest.approx(100.0))
    plain = [{k: v for k, v in d.items() if k != "file_name"} for d in found]
    metrics = evaluate_detections(gt, plain)
    assert metrics.AP == 0.0
    assert any("category ids fit the labels better as class index + 1" in w for w in metrics.protocol["warnings"])


def test_file_name_of_two_images_is_no_file_name() -> None:
    gt = small_gt()
    gt["images"][1]["file_name"] = "day/000007.jpg"
    found = [{**perfect()[0], "image_id": "000007"}]
    with pytest.raises(DataError, match="unknown image_id '000007'"):
        evaluate_detections(gt, found)
    assert (
        readings([{**perfect()[0], "image_id": "night/000007"[:5] + "/000007.jpg"}], gt)[0]["image_id"] == "file name"
    )


def warnings_of(found: list[dict[str, Any]], gt: dict[str, Any] | None = None) -> str:
    truth = load_truth(gt or make_gt(1))
    return " | ".join(find_suspicions(truth, load_detections(found, truth)))


def test_good_input_raises_no_suspicion() -> None:
    assert warnings_of(make_detections(make_gt(1), 2)) == ""


def test_suspicions() -> None:
    gt = make_gt(1)
    found = make_detections(gt, 2)
    tiny = [{**d, "bbox": [v / 640 for v in d["bbox"]]} for d in found]
    assert "look normalised to 0..1" in warnings_of(tiny)
    corners = [{**d, "bbox": [x, y, x + w, y + h]} for d in found for x, y, w, h in [map(abs, d["bbox"])]]
    assert "they look like corners" in warnings_of(corners)
    assert "all scores are 0.5" in warnings_of([{**d, "score": 0.5} for d in found])
    assert "scores run from -0.5 to 2" in warnings_of(
        [{**d, "score": s} for d, s in zip(found, np.linspace(-0.5, 2, len(found)).tolist(), strict=True)]
    )
    assert "the lowest score is 0.3; AP counts low scores too" in warnings_of(
        [{**d, "score": s} for d, s in zip(found, np.linspace(0.3, 1, len(found)).tolist(), strict=True)]
    )
    said = "in 1 cases more than 100 detections of one class in an image score 0.05 or more (most: 101)"
    assert said in warnings_of([found[0]] * 101)
    assert "more than 100" not in warnings_of([*[found[0]] * 100, *[{**found[0], "score": 0.01}] * 50])
    assert "no detections at all" in warnings_of([])


def test_hash_knows_what_counts() -> None:
    gt = make_gt(4)
    same = copy.deepcopy(gt)
    for n, annotation in enumerate(same["annotations"]):
        annotation["id"] = 1000 - n
        annotation["bbox"] = [v + 1e-9 for v in annotation["bbox"]]
        annotation["segmentation"] = []
    same["annotations"].reverse()
    same["images"].reverse()
    assert load_truth(gt).sha256 == load_truth(same).sha256
    for change in ("box", "class name", "crowd", "image"):
        other = copy.deepcopy(gt)
        if change == "box":
            other["annotations"][0]["bbox"][0] += 0.1
        elif change == "class name":
            other["categories"][0]["name"] = "van"
        elif change == "crowd":
            other["annotations"][0]["iscrowd"] = 1 - other["annotations"][0]["iscrowd"]
        else:
            other["images"].append({"id": 99999})
        assert load_truth(other).sha256 != load_truth(gt).sha256, change
