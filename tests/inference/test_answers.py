from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from detkd.caching.objects import SoftObjects
from detkd.data.records import ImageRecord
from detkd.errors import ConfigError, DataError, ModelError, PairError
from detkd.inference.answers import Answerer, TeacherSpec
from detkd.inference.detector import Detector
from detkd.inference.fusion import fuse, overlaps
from detkd.models.classmap import partial_class_map
from tests.inference.tiny import NAMES, picture, save, tiny_model

SIZES = ((90, 120), (64, 200), (131, 77), (96, 96), (40, 60))


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A YOLOv8 that finds many small objects, others in each image: its activations are scaled to what it sees."""
    model = tiny_model("yolov8n.yaml")
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None
    seen = torch.from_numpy(np.stack([picture(96, 96, seed) for seed in range(8)]))
    with torch.no_grad():
        model.train()(seen.permute(0, 3, 1, 2) / 255)
    for branch in model.model[-1].cv2:
        branch[-1].bias.data = (torch.arange(16) * -0.7).repeat(4)
    return save(model.eval(), tmp_path_factory.mktemp("weights") / "small.pt")


@pytest.fixture
def images(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / "images" / f"{number:04}.png" for number in range(11, 11 + len(SIZES))]
    paths[0].parent.mkdir()
    for seed, (path, (height, width)) in enumerate(zip(paths, SIZES, strict=True)):
        cv2.imwrite(str(path), picture(height, width, seed))
    return paths


def record(path: Path, image_id: int, size: tuple[int, int]) -> ImageRecord:
    none = np.zeros(0)
    return ImageRecord(image_id, path, *size, np.zeros((0, 4)), none.astype(int), none.astype(bool), none)


def one_teacher(path: Path, names: tuple[str, ...] = NAMES, **settings: Any) -> Answerer:
    class_map = settings.pop("class_map", {})
    return Answerer.load(
        [TeacherSpec(str(path), class_map=class_map)], names, **{"imgsz": 96, "conf": 0.14, **settings}
    )


def assert_alike(ours: SoftObjects, theirs: SoftObjects, atol: float) -> None:
    assert len(ours) == len(theirs) > 0
    for name in ("quality", "probs", "boxes_xyxy"):
        scale = 100 if name == "boxes_xyxy" else 1
        np.testing.assert_allclose(getattr(ours, name), getattr(theirs, name), atol=atol * scale)


@pytest.mark.parametrize("family", ["26", "v8"])
def test_objects_are_the_detections_with_their_whole_vectors(
    weights: dict[str, Path], images: list[Path], family: str
) -> None:
    detector = Detector.load(weights[family], imgsz=96, conf=0.14, multi_label=False)
    answers = list(one_teacher(weights[family], batch=2, max_objects=300).answer(images))
    assert len(answers) == len(images)
    for found, objects, path in zip(detector.detect(images), answers, images, strict=True):
        place = overlaps(objects.boxes_xyxy, found.boxes_xyxy)
        # Boxes of two classes at one place are one object here; each object is one of the detections.
        np.testing.assert_allclose(place.max(1), 1, atol=1e-4)
        assert (place.max(0) >= 0.89).all()
        rows = place.argmax(1)
        np.testing.assert_allclose(objects.quality, found.scores[rows], atol=1e-5)
        np.testing.assert_allclose(objects.quality, objects.probs.max(1))
        assert (np.diff(objects.quality) <= 0).all()
        pixels, _ = detector.prepare([cv2.imread(str(path))])
        scores = detector.raw(pixels)[0, 4:].T.numpy()
        nearest = np.abs(scores[:, None] - objects.probs[None]).max(2).min(0)
        assert (nearest < 1e-5).mean() > 0.5  # the others were merged of several anchors


def test_the_nms_free_head_tells_one_class_per_row(weights: dict[str, Path], images: list[Path]) -> None:
    detector = Detector.load(weights["26"], imgsz=96, nms=False)
    pixels, _ = detector.prepare([cv2.imread(str(path)) for path in images[:2]])
    rows, dense = detector.raw(pixels), detector.dense(pixels)
    assert dense.shape == (2, 4 + len(NAMES), rows.shape[1])
    np.testing.assert_allclose(dense[:, 4:].sum(1), rows[..., 4], atol=1e-6)
    assert dense[:, 4:].argmax(1).tolist() == rows[..., 5].long().tolist()
    np.testing.assert_allclose(dense[:, 2], rows[..., 2] - rows[..., 0], atol=1e-4)


def test_batches_and_other_images_change_nothing(teacher: Path, images: list[Path]) -> None:
    settings: dict[str, Any] = {"flip": True, "scales": (1.0, 0.67), "max_objects": 20}
    one = list(one_teacher(teacher, batch=1, **settings).answer(images))
    four = list(one_teacher(teacher, batch=4, **settings).answer(images))
    alone = list(one_teacher(teacher, batch=4, **settings).answer(images[2:3]))
    for a, b in zip([*one, one[2]], [*four, *alone], strict=True):
        assert_alike(a, b, atol=1e-4)


def test_a_mirrored_image_gives_mirrored_objects(teacher: Path, tmp_path: Path) -> None:
    """With flip both images are seen both ways. 96 x 96 pixels need no padding, so nothing is rounded."""
    image = picture(96, 96)
    for name, shown in (("a.png", image), ("b.png", image[:, ::-1])):
        cv2.imwrite(str(tmp_path / name), shown)
    answerer = one_teacher(teacher, flip=True)
    assert answerer.looks == 2
    plain, mirrored = answerer.answer([tmp_path / "a.png", tmp_path / "b.png"])
    back = mirrored.boxes_xyxy.copy()
    back[:, [0, 2]] = 96 - back[:, [2, 0]]
    assert_alike(plain, SoftObjects(back, mirrored.probs, mirrored.quality), atol=1e-3)
    once = next(one_teacher(teacher).answer([tmp_path / "a.png"]))
    assert len(once) > 0
    assert plain.quality.mean() < once.quality.mean()  # few of these random boxes are seen both ways


def test_scales_are_rounded_to_sizes_the_network_takes(teacher: Path, images: list[Path]) -> None:
    answerer = one_teacher(teacher, scales=(1.0, 0.95, 1.3, 0.11), max_objects=300)
    assert answerer.describe()["teachers"][0]["imgsz"] == [96, 128, 32]
    assert answerer.looks == 3
    looks = [next(one_teacher(teacher, imgsz=size, max_objects=300).answer(images[:1])) for size in (96, 128, 32)]
    expected = fuse(looks, size=(120, 90), iou=0.55)
    assert_alike(next(answerer.answer(images[:1])), expected, atol=1e-4)


def test_each_teacher_has_its_own_size_or_that_of_all(weights: dict[str, Path], teacher: Path) -> None:
    specs = [TeacherSpec(str(teacher)), TeacherSpec(str(weights["26"]), imgsz=160)]
    sides = [t["imgsz"] for t in Answerer.load(specs, NAMES, imgsz=64).describe()["teachers"]]
    assert sides == [[64], [160]]
    assert Answerer.load(specs, NAMES).describe()["teachers"][0]["imgsz"] == [640]


def test_classes_of_the_data_are_found_whatever_else_a_teacher_knows(teacher: Path, images: list[Path]) -> None:
    everything = one_teacher(teacher, max_objects=300).answer(images)
    some = one_teacher(teacher, ("bus", "Bicycle", "car"), max_objects=300)
    assert some.notes() == [f"{teacher} does not know bus: it never finds that"]
    for objects, full in zip(some.answer(images), everything, strict=True):
        assert len(objects) > 0
        assert (objects.probs[:, 0] == 0).all()
        best = full.probs[:, [3, 1]].max(0)
        np.testing.assert_allclose(objects.probs[:, 1:].max(0), best, atol=1e-3)


def test_renamed_classes_count_with_the_most_certain(teacher: Path, images: list[Path]) -> None:
    joined = one_teacher(teacher, ("vehicle",), class_map={"car": "vehicle", "truck": "vehicle"})
    single = one_teacher(teacher, ("car", "truck"))
    for one, two in zip(joined.answer(images), single.answer(images), strict=True):
        np.testing.assert_allclose(one.probs.max(), two.probs.max(), atol=1e-5)
    assert joined.fingerprint()["teachers"][0]["class_map"] == {"vehicle": ["car", "truck"]}


def test_a_teacher_without_any_class_of_the_data_is_refused(teacher: Path) -> None:
    with pytest.raises(
        PairError,
        match=r"^teacher\.class_map: .*small\.pt knows no class of the data; "
        r"teacher: person, car, truck, bicycle; data: cat, dog; .*class_map=\{person: cat\}",
    ):
        one_teacher(teacher, ("cat", "dog"))
    with pytest.raises(PairError, match=r"no class 'van'; the teacher has: person, car"):
        one_teacher(teacher, ("car",), class_map={"van": "car"})


def test_partial_map_is_the_full_one_where_all_is_known() -> None:
    arguments = (["car", "van", "truck"], ["truck", "car"], {"van": "car"})
    assert partial_class_map(*arguments) == ((2,), (0, 1))
    assert partial_class_map(["car"], ["bus", "car"]) == ((), (0,))


def test_several_teachers_are_fused_with_their_weights(
    weights: dict[str, Path], teacher: Path, images: list[Path]
) -> None:
    specs = [TeacherSpec(str(teacher), weight=3), TeacherSpec(str(weights["26"]), class_map={"car": "bus"})]
    names = ("car", "bus", "truck")
    both = Answerer.load(specs, names, imgsz=96, conf=0.14, flip=True, max_objects=300)
    assert both.looks == 4
    looks = [Answerer.load([spec], names, imgsz=96, conf=0.14, max_objects=300) for spec in specs]
    for found, path in zip(both.answer(images), images, strict=True):
        assert len(found) > 0
        assert found.quality.max() <= 1
        assert found.probs[:, 1].max() <= next(looks[1].answer([path])).probs[:, 1].max() + 0.1


def test_the_best_objects_are_kept(teacher: Path, images: list[Path]) -> None:
    many, few = (next(one_teacher(teacher, max_objects=n).answer(images)) for n in (300, 5))
    assert len(many) > len(few) == 5
    np.testing.assert_array_equal(few.boxes_xyxy, many.boxes_xyxy[:5])


def test_the_fingerprint_names_what_answers_depend_on(weights: dict[str, Path], teacher: Path, tmp_path: Path) -> None:
    base = one_teacher(teacher).fingerprint()
    assert json.loads(json.dumps(base)) == base
    copy = shutil.copy(teacher, tmp_path / "copy.pt")
    assert one_teacher(copy).fingerprint() == base
    changes: list[dict[str, Any]] = [
        {"imgsz": 128}, {"scales": (1.0, 1.5)}, {"flip": True}, {"conf": 0.2}, {"iou": 0.6}, {"wbf_iou": 0.6},
        {"max_objects": 50}, {"names": ("car", "person")}, {"class_map": {"truck": "car"}},
    ]  # fmt: skip
    for change in changes:
        assert one_teacher(teacher, **change).fingerprint() != base, change
    assert one_teacher(weights["26"]).fingerprint()["teachers"][0]["weights"] != base["teachers"][0]["weights"]
    assert one_teacher(teacher, batch=3).fingerprint() == base


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"conf": 1.5}, r"^conf: must be at least 0 and below 1, got 1\.5"),
        ({"wbf_iou": -0.1}, r"^wbf_iou: "),
        ({"scales": ()}, r"^scales: need factors .* got \[\]; use scales=\[1\.0\]"),
        ({"scales": (1.0, 0.0)}, r"^scales: "),
        ({"max_objects": 0}, r"^max_objects: must be at least 1, got 0"),
        ({"batch": 0}, r"^batch: must be at least 1, got 0"),
        ({"imgsz": 100}, r"^imgsz: must be a multiple of 32"),
    ],
)
def test_arguments_are_checked(teacher: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        one_teacher(teacher, **change)


def test_teachers_are_checked(teacher: Path) -> None:
    with pytest.raises(ConfigError, match=r"^teachers: at least one is needed"):
        Answerer.load([], NAMES)
    with pytest.raises(ConfigError, match=r"^teachers: weight of .* must be above 0, got 0"):
        Answerer.load([TeacherSpec(str(teacher), weight=0)], NAMES)
    with pytest.raises(ModelError, match=r"no such file nowhere\.pt"):
        Answerer.load([TeacherSpec("nowhere.pt")], NAMES)


def test_an_image_that_cannot_be_read_is_named(teacher: Path, images: list[Path]) -> None:
    images[3].write_bytes(b"no image")
    stream = one_teacher(teacher, batch=2).answer(images)
    assert len([next(stream), next(stream)]) == 2
    with pytest.raises(DataError, match=r"0014\.png: not an image"):
        list(stream)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_an_exported_file_answers_like_its_checkpoint(teacher: Path, images: list[Path]) -> None:
    from detkd.exporting.convert import convert

    settings: dict[str, Any] = {"nms": None, "half": False, "max_det": 300, "calibration": None}
    file = convert(teacher, Path.cwd(), name="out", format="onnx", imgsz=96, **settings)
    for ours, theirs in zip(
        one_teacher(file, flip=True).answer(images), one_teacher(teacher, flip=True).answer(images), strict=True
    ):
        assert_alike(ours, theirs, atol=1e-3)
    with pytest.raises(ConfigError, match=r"^scales: .*only its own input size of 96 pixels, got scale 0\.5"):
        one_teacher(file, scales=(0.5,))


@pytest.mark.parametrize("name", ["yolo26n", "yolov8n"])
def test_real_teachers_find_the_labelled_cars(assets: Path, name: str) -> None:
    folder = assets / "data/sg_traffic_cctv"
    content = json.loads((folder / "annotations/val.json").read_text())
    entry = next(e for e in content["images"] if sum(a["image_id"] == e["id"] for a in content["annotations"]) > 4)
    boxes = np.array([a["bbox"] for a in content["annotations"] if a["image_id"] == entry["id"]])
    boxes[:, 2:] += boxes[:, :2]
    spec = TeacherSpec(str(assets / "weights" / f"{name}.pt"))
    path = next((folder / "images").rglob(Path(entry["file_name"]).name))
    answerer = Answerer.load([spec], ["car", "bus", "truck"], imgsz=640, flip=True, scales=(1.0, 1.5))
    found = next(answerer.answer([path]))
    assert (overlaps(boxes, found.boxes_xyxy[found.quality > 0.2]).max(1) > 0.4).mean() > 0.5


def detections(*rows: tuple[Any, int, list[float], float], **extra: Any) -> list[dict[str, Any]]:
    return [{"image_id": i, "category_id": c, "bbox": b, "score": s, **extra} for i, c, b, s in rows]


Write = Callable[[Any], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def call(content: Any) -> Path:
        path = tmp_path / "results.json"
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return path

    return call


def listed(path: Path, names: tuple[str, ...] = ("car", "bus"), **settings: Any) -> Answerer:
    class_map = settings.pop("class_map", {})
    return Answerer.load([TeacherSpec(str(path), class_map=class_map)], names, **settings)


def test_boxes_of_a_list_at_one_place_are_one_vector(write: Write) -> None:
    """Ids 3 and 6 are those of the data; nothing is opened, so there need not be an image."""
    rows = detections(
        (7, 3, [10, 10, 30, 20], 0.6), (7, 6, [10, 10, 30, 20], 0.3), (7, 6, [60, 10, 50, 20], 0.5),
        (9, 3, [0, 0, 5, 5], 0.9), (7, 3, [60, 50, 5, 5], 0.01), (7, 1, [70, 50, 5, 5], 0.8),
    )  # fmt: skip
    answerer = listed(write(rows), category_ids=(3, 6))
    items = [record(Path("a.jpg"), 7, (100, 80)), record(Path("b.jpg"), 8, (100, 80))]
    found, nothing = answerer.answer(items)
    np.testing.assert_allclose(found.probs, [[0.6, 0.3], [0, 0.5]], atol=1e-6)
    np.testing.assert_allclose(found.boxes_xyxy, [[10, 10, 40, 30], [60, 10, 100, 30]])
    np.testing.assert_allclose(found.quality, [0.6, 0.5], atol=1e-6)
    assert len(nothing) == 0
    assert nothing.probs.shape == (0, 2)
    # Class 1 is none of the data; it can be named by its number.
    renamed = next(listed(write(rows), category_ids=(3, 6), class_map={"1": "bus"}).answer(items))
    assert renamed.probs[:, 1].max() == pytest.approx(0.8)


@pytest.mark.parametrize("ids", [lambda n: 11 + n, lambda n: f"{11 + n:04}", lambda n: f"images/{11 + n:04}.png"])
def test_images_of_a_list_are_found_by_id_or_file_name(write: Write, images: list[Path], ids: Any) -> None:
    rows = detections(*((ids(n), 1, [5, 5, 20, 20], 0.5 + n / 10) for n in range(4)))
    answerer = listed(write(rows))
    best = [answer.quality.max(initial=0) for answer in answerer.answer(images)]
    np.testing.assert_allclose(best, [0.5, 0.6, 0.7, 0.8, 0], atol=1e-6)


def test_file_names_count_more_than_ids(write: Write, images: list[Path]) -> None:
    """As Ultralytics writes: the id is the number in the name, which may be the id of another image."""
    rows = [
        *detections((12, 1, [5, 5, 20, 20], 0.9), file_name="0012.png"),
        *detections((1, 1, [5, 5, 20, 20], 0.2), file_name="0011.png"),
    ]
    items = [record(path, 11 + n, (60, 60)) for n, path in zip((1, 0), images[:2], strict=True)]
    best = [answer.quality.max() for answer in listed(write(rows)).answer(items)]
    np.testing.assert_allclose(best, [0.2, 0.9], atol=1e-6)


def test_a_whole_coco_file_has_its_own_classes_and_images(write: Write, images: list[Path]) -> None:
    content = {
        "images": [{"id": 70, "file_name": "images/0012.png"}, {"id": 71, "file_name": "0011.png"}],
        "categories": [{"id": 1, "name": "Bus"}, {"id": 2, "name": "van"}],
        "annotations": detections((70, 1, [5, 5, 20, 20], 0.9), (71, 2, [5, 5, 20, 20], 0.4)),
    }
    first, second = listed(write(content), class_map={"van": "car"}).answer(images[:2])
    np.testing.assert_allclose(first.probs, [[0.4, 0]], atol=1e-6)
    np.testing.assert_allclose(second.probs, [[0, 0.9]], atol=1e-6)
    with pytest.raises(PairError, match=r"knows no class of the data; teacher: Bus, van; data: cat"):
        listed(write(content), ("cat",))


def test_a_list_and_a_network_are_fused(teacher: Path, images: list[Path], write: Write) -> None:
    network = one_teacher(teacher, ("car",))
    seen = next(network.answer(images))
    x1, y1, x2, y2 = seen.boxes_xyxy[0].tolist()
    path = write(detections((11, 1, [x1, y1, x2 - x1, y2 - y1], 0.9)))
    both = Answerer.load([TeacherSpec(str(teacher)), TeacherSpec(str(path))], ["car"], imgsz=96, conf=0.14)
    fused = next(both.answer(images))
    assert fused.quality.max() == pytest.approx((seen.quality[0] + 0.9) / 2, abs=0.1)
    assert fused.quality.min() < seen.quality.min()


def test_a_list_about_other_images_is_noticed(write: Write, images: list[Path]) -> None:
    answerer = listed(write(detections((500, 1, [0, 0, 5, 5], 0.5), (501, 1, [0, 0, 5, 5], 0.5))))
    with pytest.raises(DataError, match=r"none of the 5 images; its images are like 500, .* like 0011\.png; give a"):
        answerer.check_images(images)
    with pytest.raises(DataError, match=r"asked about like 3 \(0011\.png\)"):
        answerer.check_images([record(images[0], 3, (5, 5))])
    answerer.check_images([record(images[0], 3, (5, 5)), record(images[0], 501, (5, 5))])
    answerer.check_images([])


def test_an_empty_list_means_nothing_was_found(write: Write, images: list[Path]) -> None:
    assert [len(found) for found in listed(write([])).answer(images)] == [0] * 5


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[{]", r"results\.json: .*JSON"),
        ('"text"', r"no list of detections"),
        ({"images": [], "categories": []}, r"no list of annotations"),
        ([3], r"record 0: not a record, got '3'"),
        ([{"image_id": 1, "category_id": 1, "bbox": [0, 0, 1, 1]}], r"record 0: no score; give COCO results"),
        (detections((1, 1, [0, 0, 1], 0.5)), r"record 0: bbox must be four numbers"),
        (detections((1, 1, [0, 0, 1, 1], 1.5)), r"record 0: score must be 0 to 1, got 1\.5"),
        (detections((1, 1, [0, 0, 1, 1], 0.5), ([2], 1, [0, 0, 1, 1], 0.5)), r"record 1: image_id .*got \[2\]"),
    ],
)
def test_bad_result_files_are_refused(write: Write, content: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        listed(write(content))
