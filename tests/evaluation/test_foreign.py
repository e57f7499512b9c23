"""Results files of other tools, in their own formats."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from detkd.diagnosis.yolo_val import reconcile
from detkd.errors import DataError
from detkd.evaluation.coco import evaluate_detections
from detkd.evaluation.metrics import Metrics
from detkd.evaluation.side import make_run
from detkd.evaluation.truth import load_truth
from tests.evaluation.worlds import make_detections, make_gt

Records = list[dict[str, Any]]
GT = make_gt(11, 40)
FOUND = make_detections(GT, 11, decimals=9)
COCO_80 = [k for k in range(1, 91) if k not in (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)]


@pytest.fixture(scope="module")
def expected() -> Metrics:
    return evaluate_detections(GT, FOUND)


def written(path: Path, found: Any) -> Path:
    path.write_text(json.dumps(found), encoding="utf-8")
    return path


def warnings_of(metrics: Metrics) -> str:
    return " | ".join(metrics.protocol["warnings"])


def file_of(gt: dict[str, Any]) -> dict[int, str]:
    return {image["id"]: image["file_name"] for image in gt["images"]}


def ultralytics(found: Records, gt: dict[str, Any]) -> Records:
    """As `save_json` writes them: class index + 1, the stem of the file as a number if it is one, its base name."""
    index = {record["id"]: k for k, record in enumerate(gt["categories"])}
    names = {image: Path(name) for image, name in file_of(gt).items()}
    return [
        {
            "image_id": int(names[d["image_id"]].stem)
            if names[d["image_id"]].stem.isnumeric()
            else names[d["image_id"]].stem,
            "file_name": names[d["image_id"]].name,
            "category_id": index[d["category_id"]] + 1,
            "bbox": d["bbox"],
            "score": d["score"],
        }
        for d in found
    ]


def named_by_text(gt: dict[str, Any]) -> dict[str, Any]:
    gt = copy.deepcopy(gt)
    for image in gt["images"]:
        image["file_name"] = f"yard {image['id']}.b.png"
    return gt


def renumbered(gt: dict[str, Any]) -> dict[str, Any]:
    """The same set with ids from 1 that have nothing to do with the numbers in the file names."""
    gt = copy.deepcopy(gt)
    new = {image["id"]: n for n, image in enumerate(gt["images"], start=1)}
    for image in gt["images"]:
        image["id"] = new[image["id"]]
    for annotation in gt["annotations"]:
        annotation["image_id"] = new[annotation["image_id"]]
    return gt


def test_ultralytics(tmp_path: Path, expected: Metrics) -> None:
    for gt in (GT, named_by_text(GT)):
        found = ultralytics(FOUND, gt)
        metrics = evaluate_detections(gt, written(tmp_path / "predictions.json", found))
        assert metrics.protocol["reading"] == {"image_id": "file name", "category_id": "class index + 1"}
        assert (metrics.AP, metrics.AP50) == (expected.AP, expected.AP50)
        assert metrics.per_class == expected.per_class
    found = ultralytics(FOUND, GT)
    metrics = evaluate_detections(renumbered(GT), written(tmp_path / "predictions.json", found))
    assert metrics.AP == pytest.approx(expected.AP, abs=1e-9)


def mmdetection(found: Records) -> Records:
    return [{**d, "segmentation": {"size": [480, 640], "counts": "abc"}} for d in found]


def after_load_res(found: Records) -> Records:
    """As pycocotools' `loadRes` leaves them, the form torchvision's references and many notebooks save."""
    return [
        {**d, "id": n, "area": d["bbox"][2] * d["bbox"][3], "iscrowd": 0, "ignore": 0, "segmentation": [[0.0] * 8]}
        for n, d in enumerate(found)
    ]


def detectron2(found: Records) -> Records:
    return [{**d, "keypoints": [1.0, 2.0, 0.5], "dataset": "val"} for d in found]


def text_ids(found: Records) -> Records:
    return [{**d, "image_id": str(d["image_id"]), "category_id": str(d["category_id"])} for d in found]


def padded_ids(found: Records) -> Records:
    return [{**d, "image_id": f"{d['image_id']:08d}"} for d in found]


def paths(found: Records) -> Records:
    return [{**d, "image_id": f"C:\\photos\\{d['image_id']:08d}.jpg"} for d in found]


def by_image(found: Records) -> Records:
    """Image after image, the last one first; the order within an image stays."""
    return sorted(found, key=lambda d: -d["image_id"])


@pytest.mark.parametrize(
    "tool", [mmdetection, after_load_res, detectron2, text_ids, padded_ids, paths, by_image], ids=lambda f: f.__name__
)
def test_other_tools(tmp_path: Path, expected: Metrics, tool: Callable[[Records], Records]) -> None:
    metrics = evaluate_detections(GT, written(tmp_path / "results.json", tool(FOUND)))
    assert metrics.AP == expected.AP
    assert metrics.per_class == expected.per_class
    assert warnings_of(metrics) == ""


def test_whole_percent_as_scores() -> None:
    metrics = evaluate_detections(GT, [{**d, "score": round(100 * d["score"])} for d in FOUND])
    shares = evaluate_detections(GT, [{**d, "score": round(100 * d["score"]) / 100} for d in FOUND])
    assert metrics.per_class == shares.per_class
    assert "scores run from" in warnings_of(metrics)


def test_coco_dictionary_with_annotations(expected: Metrics) -> None:
    assert evaluate_detections(GT, {"images": [], "annotations": FOUND}).AP == expected.AP


BOXES: dict[str, Callable[[float, float, float, float], list[float]]] = {
    "corners [x1, y1, x2, y2]": lambda x, y, w, h: [x, y, x + w, y + h],
    "[centre x, centre y, width, height]": lambda x, y, w, h: [x + w / 2, y + h / 2, w, h],
    "[y, x, height, width]": lambda x, y, w, h: [y, x, h, w],
    "corners [y1, x1, y2, x2]": lambda x, y, w, h: [y, x, y + h, x + w],
}


@pytest.mark.parametrize("layout", BOXES)
def test_other_layouts_of_boxes(layout: str) -> None:
    gt = {**GT, "images": [{"id": image["id"]} for image in GT["images"]]}  # no sizes to compare with
    found = [{**d, "bbox": BOXES[layout](*(abs(v) for v in d["bbox"]))} for d in FOUND]
    text = warnings_of(evaluate_detections(gt, found))
    assert f"would if they were {layout}; write [x, y, width, height] in pixels" in text
    assert "look like" not in text


def test_corners_with_image_sizes_are_said_once() -> None:
    found = [{**d, "bbox": BOXES["corners [x1, y1, x2, y2]"](*(abs(v) for v in d["bbox"]))} for d in FOUND]
    text = warnings_of(evaluate_detections(GT, found))
    assert text.count("corners") == 1
    assert "reach out of their image" in text


def test_yolo_boxes() -> None:
    """Centre, width and height as shares of the image, as YOLO label files have them."""
    found = []
    for d in FOUND:
        x, y, w, h = d["bbox"]
        found.append({**d, "bbox": [(x + w / 2) / 640, (y + h / 2) / 480, w / 640, h / 480]})
    assert "look normalised to 0..1" in warnings_of(evaluate_detections(GT, found))


def coco_like(ids: list[int], seed: int = 5) -> tuple[dict[str, Any], Records]:
    """A set with 80 classes under these ids, and good detections."""
    rng = random.Random(seed)
    gt = make_gt(seed, 60)
    gt["categories"] = [{"id": key, "name": f"{(7 * n) % 80:02d}"} for n, key in enumerate(ids)]
    for annotation in gt["annotations"]:
        annotation["category_id"] = rng.choice(ids)
    return gt, [{**d, "score": 0.9} for d in gt["annotations"] if not d["iscrowd"]]


def renamed(found: Records, change: Callable[[int], int]) -> Records:
    return [{**d, "category_id": change(d["category_id"]), "score": 0.2 + 1e-3 * n} for n, d in enumerate(found)]


def test_indices_with_unknown_ids_are_refused_with_a_hint() -> None:
    gt, found = coco_like(COCO_80)
    with pytest.raises(DataError, match=r"unknown category_id .* these look like class indices from 0"):
        evaluate_detections(gt, renamed(found, COCO_80.index))
    with pytest.raises(DataError, match=r"unknown category_id .* these look like class indices \+ 1"):
        evaluate_detections(gt, renamed(found, lambda key: COCO_80.index(key) + 1))


@pytest.mark.parametrize(
    ("ids", "change", "hint"),
    [
        (COCO_80, lambda key: COCO_80.index(key), "class indices counted from 0"),
        (list(range(1, 81)), lambda key: key - 1, "class indices counted from 0"),
        (list(range(80)), lambda key: key + 1, "class index + 1"),
        (list(range(1, 81)), lambda key: COCO_80[key - 1], "COCO's own, 1 to 90"),
        (list(range(80)), lambda key: COCO_80[key], "COCO's own, 1 to 90"),
    ],
)
def test_ids_that_happen_to_be_known(ids: list[int], change: Callable[[int], int], hint: str) -> None:
    """Only detections of classes whose wrong id is another class's id are there, so nothing is unknown."""
    gt, found = coco_like(ids)
    assert "category ids" not in warnings_of(evaluate_detections(gt, renamed(found, lambda key: key)))
    found = [d for d in renamed(found, change) if d["category_id"] in ids]
    text = warnings_of(evaluate_detections(gt, found))
    assert hint in text
    assert text.count("category ids") >= 1
    assert text.count("write the ground truth's category ids") == 1


def test_alphabetical_classes() -> None:
    gt, found = coco_like(list(range(1, 81)))
    names = [record["name"] for record in gt["categories"]]
    found = renamed(found, lambda key: 1 + sorted(names).index(names[key - 1]))
    text = warnings_of(evaluate_detections(gt, found))
    assert "would if category ids were numbers of the class names in alphabetical order" in text


def test_a_poor_detector_is_not_accused() -> None:
    """Classes at random and boxes a bit off: bad, but no other reading is better."""
    gt, found = coco_like(COCO_80)
    rng = random.Random(0)
    found = renamed(found, lambda _: rng.choice(COCO_80))
    for d in found:
        d["bbox"] = [d["bbox"][0] + 0.3 * d["bbox"][2], *d["bbox"][1:]]
    assert "would if" not in warnings_of(evaluate_detections(gt, found))


@pytest.fixture(scope="module")
def yolo_val(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path, str], tuple[Path, float, float]]:
    """Run `yolo val` with save_json on the photos: its file, and the AP and AP50 it prints."""

    def run(assets: Path, name: str) -> tuple[Path, float, float]:
        import detkd.environment

        from ultralytics import YOLO

        assert not detkd.environment.trusted()
        root = tmp_path_factory.mktemp(name)
        gt = json.loads((assets / "data/coco_mini/annotations/test.json").read_text())
        index = {record["id"]: k for k, record in enumerate(gt["categories"])}
        lines: dict[int, list[str]] = {image["id"]: [] for image in gt["images"]}
        sizes = {image["id"]: (image["width"], image["height"]) for image in gt["images"]}
        for a in gt["annotations"]:
            if not a["iscrowd"]:
                x, y, w, h = a["bbox"]
                width, height = sizes[a["image_id"]]
                shares = ((x + w / 2) / width, (y + h / 2) / height, w / width, h / height)
                lines[a["image_id"]].append(" ".join([str(index[a["category_id"]]), *(f"{v:.8f}" for v in shares)]))
        for folder in ("images", "labels"):
            (root / folder).mkdir()
        for image in gt["images"]:
            (root / "images" / image["file_name"]).symlink_to(assets / "data/coco_mini/images" / image["file_name"])
            (root / "labels" / image["file_name"]).with_suffix(".txt").write_text("\n".join(lines[image["id"]]))
        names = {k: record["name"] for k, record in enumerate(gt["categories"])}
        (root / "data.yaml").write_text(
            json.dumps({"path": str(root), "train": "images", "val": "images", "names": names})
        )
        box = YOLO(assets / f"weights/{name}.pt").val(
            data=str(root / "data.yaml"), imgsz=320, batch=1, device="cpu", workers=0, save_json=True, plots=False,
            rect=False, project=str(root), name="val", verbose=False,
        ).box  # fmt: skip
        return root / "val" / "predictions.json", 100 * box.map, 100 * box.map50

    return run


def best_scores(image: np.ndarray, scores: np.ndarray, images: int) -> np.ndarray:
    best = np.zeros(images)
    np.maximum.at(best, image, scores)
    return best


@pytest.mark.parametrize("name", ["yolo26n", "yolov8n"])
def test_yolo_val_on_real_photos(
    assets: Path, yolo_val: Callable[[Path, str], tuple[Path, float, float]], name: str
) -> None:
    """`save_json` gives the AP of our own inference, and what `yolo val` prints is explained part by part."""
    from detkd.data.load import load_data
    from detkd.inference.detector import Detector
    from detkd.inference.results import detect_set

    path, AP, AP50 = yolo_val(assets, name)
    truth = load_truth(assets / "data/coco_mini/annotations/test.json")
    theirs = make_run(truth, path)
    assert theirs.detections.reading == {"image_id": "file name", "category_id": "class index + 1"}

    reconciled = reconcile(theirs)
    # The file has boxes clipped to the image and rounded, `yolo val` matched them before: some hits at high IoU differ.
    assert reconciled["AP50"] == pytest.approx(AP50, abs=0.05)
    assert reconciled["AP"] == pytest.approx(AP, abs=0.15)
    assert theirs.metrics.AP - AP > 3 * abs(reconciled["AP"] - AP)

    photos = load_data({"format": "coco", "path": str(assets / "data/coco_mini")}, splits=["test"]).splits["test"]
    detector = Detector.load(assets / f"weights/{name}.pt", device="cpu", imgsz=320, conf=0.001, iou=0.7, max_det=300)
    ours = make_run(truth, detect_set(detector, photos))
    # Ultralytics rounds the shorter side of a resized photo up, we round it to the nearest: with 333 x 500 pixels and
    # the like a row is another one, with most others every box is the same.
    assert ours.metrics.AP == pytest.approx(theirs.metrics.AP, abs=1.0)
    assert ours.metrics.AP50 == pytest.approx(theirs.metrics.AP50, abs=1.0)
    best = [best_scores(run.detections.image, run.detections.scores, len(truth.images)) for run in (ours, theirs)]
    assert np.mean(np.abs(best[0] - best[1]) < 1e-3) > 0.7
    assert len(ours.detections) == pytest.approx(len(theirs.detections), rel=0.01)
