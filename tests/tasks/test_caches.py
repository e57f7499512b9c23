"""Training from stored answers: the same as live where all is stored, refused where anything is not what it was."""

from __future__ import annotations

import json
import shutil
from copy import copy
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from detkd import api
from detkd.caching.store import CacheReader
from detkd.config import compose
from detkd.errors import ConfigError, DataError
from detkd.tasks.cache_kinds import open_kind
from detkd.tasks.caches import prepare, recheck
from detkd.tasks.common import get_data
from detkd.tasks.train import make_plan
from detkd.training.loader import make_set, moved, resized, training_arguments, view_plan
from detkd.training.plan import TrainPlan
from detkd.training.views import phases_of, seen_batches
from tests.inference.tiny import save, tiny_model

pytestmark = pytest.mark.slow  # trains


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the samples, so that a test may edit an image."""
    folder = tmp_path_factory.mktemp("data") / "samples"
    shutil.copytree(Path(__file__).resolve().parents[2] / "data" / "samples", folder)
    return folder


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tiny_model(seed=3), tmp_path_factory.mktemp("teacher") / "teacher.pt")


ALL = ["cache=views", "cache.k=all", "cache.classes=all", "cache.precision=float32"]


def words(samples: Path, teacher: Path, *more: str) -> list[str]:
    return [
        f"teacher={teacher}", "student=yolo26n_half", f"data={samples}", "epochs=2", "imgsz=64", "batch=4", "augment=none",
        "device=cpu", "threads=1", "pictures=0", "trainer.val=false", "trainer.optimizer=AdamW", "trainer.lr0=0.002",
        "distill.region.fraction=0.1", *more,
    ]  # fmt: skip


def distil(samples: Path, teacher: Path, *more: str) -> Any:
    return api.distill(compose("distill", words(samples, teacher, *more)))


def curve(folder: Path) -> list[dict[str, float]]:
    lines = (folder / "train" / "results.csv").read_text().splitlines()
    names = lines[0].split(",")
    return [dict(zip(names, map(float, line.split(",")), strict=True)) for line in lines[1:]]


def test_all_stored_in_float32_trains_as_the_live_teacher_does(samples: Path, teacher: Path, tmp_path: Path) -> None:
    more = ["trainer.close_mosaic=0"]  # closing views have numbers, and so random numbers, of their own
    live = distil(samples, teacher, *more, f"out={tmp_path / 'live'}")
    kept = distil(samples, teacher, *more, f"out={tmp_path / 'kept'}", *ALL, "cache.views=2", "cache.check=0")
    for one, other in zip(curve(live.folder), curve(kept.folder), strict=True):
        for name, value in one.items():
            if name.startswith("train/"):
                assert other[name] == pytest.approx(value, rel=1e-6, abs=1e-6), name
    assert kept.outcome["batch_hash"] == live.outcome["batch_hash"]
    assert kept.metrics.AP == pytest.approx(live.metrics.AP, abs=1e-6)
    facts = json.loads((kept.folder / "cache.json").read_text())
    assert facts["records"] == 2 * 8  # 8 training images
    assert "cache (views" in (kept.folder / "compare.html").read_text()


def test_a_second_run_reads_what_the_first_one_stored(
    samples: Path, teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More epochs than views, and a control that sees the same views."""
    more = ["cache=views", "cache.views=1", "cache.k=24", "cache.check=2", "trainer.mosaic=0.0", "control=true"]
    first = distil(samples, teacher, *more, "epochs=3", f"out={tmp_path / 'a'}")
    facts = json.loads((first.folder / "cache.json").read_text())
    assert facts["records"] == 8
    shards = {p: p.stat().st_mtime_ns for p in Path(facts["folder"]).rglob("*.safetensors")}
    again = distil(samples, teacher, *more, "epochs=3", "seed=1", f"out={tmp_path / 'b'}")
    assert json.loads((again.folder / "cache.json").read_text())["folder"] == facts["folder"]
    assert {p: p.stat().st_mtime_ns for p in Path(facts["folder"]).rglob("*.safetensors")} == shards
    assert first.control.outcome["batch_hash"] == first.outcome["batch_hash"]
    assert again.outcome["batch_hash"] != first.outcome["batch_hash"]  # another seed: another order


def settled(samples: Path, teacher: Path, path: Path, *more: str) -> dict[str, Any]:
    kept = ["cache=views", "cache.views=1", "cache.k=24", "cache.check=0", f"cache.path={path}"]
    return compose("distill", words(samples, teacher, *kept, *more))


def opened(config: dict[str, Any]) -> Any:
    return prepare(config, get_data(config["data"]))


@pytest.mark.parametrize(
    ("more", "field"),
    [
        (["cache.k=32"], "stored.k"),
        (["imgsz=96"], "student.imgsz"),
        (["trainer.fliplr=0.0"], "augmentation.fliplr"),
        (["cache.seed=1"], "augmentation.seed"),
        (["teacher.class_map={person: car, car: person}"], "teacher.class_map"),
    ],
)
def test_another_setting_is_refused_by_name(
    samples: Path, teacher: Path, tmp_path: Path, more: list[str], field: str
) -> None:
    opened(settled(samples, teacher, tmp_path / "cache"))
    with pytest.raises(ConfigError, match=field):
        opened(settled(samples, teacher, tmp_path / "cache", *more))


def test_another_teacher_file_or_an_edited_image_is_refused(samples: Path, tmp_path: Path) -> None:
    data = tmp_path / "samples"
    shutil.copytree(samples, data)
    path = save(tiny_model(seed=3), tmp_path / "teacher.pt")
    config = settled(data, path, tmp_path / "cache")
    opened(config)
    save(tiny_model(seed=4), path)
    with pytest.raises(ConfigError, match=r"teacher\.weights"):
        opened(config)
    save(tiny_model(seed=3), path)
    other = settled(data, path, tmp_path / "other")
    opened(other)
    trained = {r.path for r in get_data(config["data"]).splits["train"].records}
    image = next(p for p in sorted((data / "images").rglob("*.jpg")) if p.resolve() in {t.resolve() for t in trained})
    pixels = cv2.imread(str(image))
    pixels[:8, :8] = 255 - pixels[:8, :8]
    cv2.imwrite(str(image), pixels)
    with pytest.raises(ConfigError, match=r"data\.images"):
        opened(other)


def test_stored_answers_that_are_not_the_teachers_are_found(samples: Path, teacher: Path, tmp_path: Path) -> None:
    config = settled(samples, teacher, tmp_path / "cache", "cache.precision=float16")
    folder = opened(config).folder
    assert recheck(folder, 3) == []
    reader = CacheReader(folder)
    work = open_kind("views", config, get_data(config["data"]))
    work.teacher.model.load_state_dict(  # type: ignore[attr-defined]
        {k: v + 0.05 if v.is_floating_point() else v for k, v in work.teacher.model.state_dict().items()}  # type: ignore[attr-defined]
    )
    problems = list(work.check(reader, 3, "cpu"))
    assert problems
    assert "logit differs" in problems[0] or "best anchors" in problems[0]


def batches_of(plan: TrainPlan, keys: list[tuple[int, int]]) -> dict[tuple[int, int], torch.Tensor]:
    phases = phases_of(plan, 2)
    found = {}
    for batch in seen_batches(plan, keys, phases, stride=32, device=torch.device("cpu")):
        found |= {tuple(record): image for record, image in zip(batch["record"], batch["img"], strict=True)}
    return found


def test_a_view_looks_alike_at_any_batch_size_and_in_training(samples: Path, teacher: Path, tmp_path: Path) -> None:
    def plan(batch: int) -> TrainPlan:
        config = compose("distill", words(samples, teacher, f"batch={batch}", "trainer.close_mosaic=1"))
        return make_plan(
            config, config["student"], get_data(config["data"]), tmp_path, views=2, augment_seed=0,
            distillation=None,
        )  # fmt: skip

    keys = [(i, v) for v in (0, 2) for i in range(8)]
    first, second = batches_of(plan(4), keys), batches_of(plan(3), keys[::-1])
    assert first.keys() == second.keys() == set(keys)
    assert all(torch.equal(first[key], second[key]) for key in keys)
    assert not torch.equal(first[0, 0], first[0, 2])
    order = view_plan(plan(4), 2)
    assert [order.view(epoch) for epoch in range(2)] == [0, 2]
    dataset = make_set(plan(4), copy(training_arguments(plan(4))), stride=32, training=True, batch=4)
    seen = resized(moved(dataset.collate_fn([dataset[0, 5]]), torch.device("cpu")), plan(4))
    assert torch.equal(seen["img"][0], first[5, 0])


def test_objects_of_any_teacher_train_both_heads(samples: Path, teacher: Path, tmp_path: Path) -> None:
    more = ["cache=instances", "cache.conf=0.0001", "cache.scales=[1.0,1.5]", "cache.flip=true", "control=true"]
    result = distil(samples, teacher, *more, f"out={tmp_path / 'objects'}")
    last = curve(result.folder)[-1]
    assert last["train/kd_cls"] > 0
    assert last["train/kd_giou_o2o"] > 0
    assert result.control.outcome["batch_hash"] == result.outcome["batch_hash"]
    facts = json.loads((result.folder / "cache.json").read_text())
    assert facts["kind"] == "instances"
    assert facts["records"] == 8
    assert recheck(facts["folder"], 2) == []


def test_a_results_file_can_be_the_teacher(samples: Path, teacher: Path, tmp_path: Path) -> None:
    spec = get_data(compose("train", ["model=yolo26n.yaml", f"data={samples}"])["data"])
    train = spec.splits["train"]
    rows = [
        {"image_id": r.image_id, "category_id": train.category_ids[int(c)], "score": 0.9,
         "bbox": [float(b[0]), float(b[1]), float(b[2] - b[0]), float(b[3] - b[1])]}
        for r in train.records for b, c in zip(r.boxes_xyxy, r.classes, strict=True)
    ]  # fmt: skip
    answers = tmp_path / "answers.json"
    answers.write_text(json.dumps(rows))
    with pytest.raises(ConfigError, match="holds answers, not a network"):
        distil(samples, answers, f"out={tmp_path / 'x'}")
    result = distil(samples, answers, "cache=instances", "control=true", f"out={tmp_path / 'listed'}")
    assert result.teacher is None
    assert curve(result.folder)[-1]["train/kd_cls"] > 0
    assert result.comparison is not None


def test_hidden_labels_are_taught_by_the_teacher_alone(samples: Path, teacher: Path, tmp_path: Path) -> None:
    result = distil(samples, teacher, "data.labelled=0.5", "control=true", f"out={tmp_path / 'few'}")
    assert result.control.outcome["steps"] == result.outcome["steps"]
    assert result.control.outcome["batch_hash"] != result.outcome["batch_hash"]
    assert "4 labelled images alone" in (result.folder / "compare.html").read_text()
    words_ = ["model=yolo26n_half", f"data={samples}", "data.labelled=0.5", "epochs=1", "imgsz=64", "batch=4",
              "device=cpu", "threads=1", "pictures=0", "augment=none", f"out={tmp_path / 'plain'}"]  # fmt: skip
    assert api.train(compose("train", words_)).outcome["steps"] == 1


def test_a_folder_of_pictures_is_a_pool_for_soft_labels(samples: Path, teacher: Path, tmp_path: Path) -> None:
    pool = tmp_path / "pool"
    pool.mkdir()
    rng = np.random.default_rng(0)
    for i in range(4):
        cv2.imwrite(str(pool / f"{i}.jpg"), rng.integers(0, 255, (48, 64, 3), dtype=np.uint8))
    more = [f"unlabelled={pool}", "unlabelled.labels=soft", "unlabelled.share=0.25", "control=true"]
    result = distil(samples, teacher, *more, f"out={tmp_path / 'run'}")
    # Three labelled images and one of the pool in each batch of four: three batches hold all eight.
    assert result.outcome["steps"] == result.control.outcome["steps"] == 2 * 3
    with pytest.raises(ConfigError, match=r"holds no annotations\.json"):
        distil(samples, teacher, f"unlabelled={pool}", f"out={tmp_path / 'hard'}")
    test = [
        r.path
        for r in get_data(compose("train", ["model=yolo26n.yaml", f"data={samples}"])["data"]).splits["val"].records
    ]
    shutil.copy(test[0], pool / "copy.jpg")
    with pytest.raises(DataError, match="in the val split too"):
        distil(samples, teacher, *more, f"out={tmp_path / 'leak'}")


def test_storing_fewer_anchors_than_the_recipe_looks_at_is_refused(
    samples: Path, teacher: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"cache\.k: stores 4 anchors, .* looks at 8 of 84; use cache\.k=8"):
        opened(settled(samples, teacher, tmp_path / "cache", "cache.k=4"))
