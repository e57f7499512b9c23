"""The real sets in DETKD_ASSETS, and the presets."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from PIL import Image

from detkd.data.coco import from_coco, to_coco
from detkd.data.load import load_data
from detkd.data.source import parse_source

CONF = Path(__file__).parents[2] / "conf" / "data"
PRESETS = ("path", "coco", "coco128", "coco8", "voc", "visdrone", "toy")


@pytest.mark.parametrize(
    ("name", "images", "boxes", "crowd"),
    [
        ("sg_traffic_cctv", (507, 184, 192), (1929, 803, 1078), (0, 0, 0)),
        ("bccd", (204, 87, 72), (2776, 1137, 945), (0, 0, 0)),
        ("coco_mini", (178, 128, 49), (1391, 898, 375), (11, 5, 5)),
    ],
)
def test_counts(
    assets: Path, name: str, images: tuple[int, ...], boxes: tuple[int, ...], crowd: tuple[int, ...]
) -> None:
    spec = load_data({"path": str(assets / "data" / name), "leakage": "error"})
    sets = spec.splits.values()
    assert list(spec.splits) == ["train", "val", "test"]
    assert tuple(len(part) for part in sets) == images
    assert tuple(sum(int((~r.crowd).sum()) for r in part.records) for part in sets) == boxes
    assert tuple(sum(int(r.crowd.sum()) for r in part.records) for part in sets) == crowd
    assert spec.skipped == ()
    again = from_coco(to_coco(spec.splits["val"]), split="val", verify=None)
    assert [r.meta for r in again.records] == [r.meta for r in spec.splits["val"].records]


def test_ids_fields_and_splitting_by_camera(assets: Path) -> None:
    file = assets / "data/sg_traffic_cctv/annotations/train.json"
    spec = load_data({"path": str(file), "split": {"by": "camera"}})
    train = spec.splits["train"]
    assert (train.names, train.category_ids) == (("car", "motorcycle", "bus", "truck"), (3, 4, 6, 8))
    assert sum(len(part) for part in spec.splits.values()) == 507
    cameras = [{r.meta["camera"] for r in part.records} for part in spec.splits.values()]
    assert sum(map(len, cameras)) == len(set.union(*cameras)) == 14
    assert len(load_data({"path": str(file), "split": {"by": "time"}}).splits["test"]) == pytest.approx(76, abs=3)


def test_a_yolo_export_of_a_real_set_agrees(assets: Path, tmp_path: Path) -> None:
    """Boxes written as label lines and read again are the same to a hundredth of a pixel."""
    dataset = load_data(assets / "data/sg_traffic_cctv", splits=["test"]).splits["test"]
    (tmp_path / "images").symlink_to(dataset.records[0].path.parent)
    (tmp_path / "labels").mkdir()
    for r in dataset.records:
        x1, y1, x2, y2 = (r.boxes_xyxy / [r.width, r.height, r.width, r.height]).T
        rows = zip(r.classes, (x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1, strict=True)
        (tmp_path / "labels" / f"{r.path.stem}.txt").write_text("\n".join(" ".join(map(str, row)) for row in rows))
    (tmp_path / "test.txt").write_text("\n".join(f"./images/{r.path.name}" for r in dataset.records))
    (tmp_path / "data.yaml").write_text(yaml.safe_dump({"names": list(dataset.names), "test": "test.txt"}))
    again = load_data(tmp_path).splits["test"]
    by_name = {r.path.name: r for r in again.records}
    for r in dataset.records:
        assert by_name[r.path.name].boxes_xyxy == pytest.approx(r.boxes_xyxy, abs=0.01)
        with Image.open(r.path) as image:
            assert image.size == (r.width, r.height)


@pytest.mark.parametrize("name", PRESETS)
def test_presets(name: str) -> None:
    text = (CONF / f"{name}.yaml").read_text(encoding="utf-8")
    node = yaml.safe_load(text)
    assert all("#" in line for line in text.splitlines()), "every key says what it is"
    for key in ("train_images", "use_test"):  # for estimates and reports, not for loading
        node.pop(key, None)
    if name == "path":
        assert node["path"] == "???"
        node["path"] = "somewhere"
    source = parse_source(node)
    assert source.name == (node["name"] or "somewhere")
    if source.format == "ultralytics":
        assert source.path == Path(node["path"])
