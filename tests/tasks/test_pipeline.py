"""The verbs one after another on the samples, through the same functions the command line calls."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import detkd
from detkd import api
from detkd.config import compose
from detkd.errors import ConfigError, PairError
from tests.inference.tiny import save, tiny_model

pytestmark = pytest.mark.slow  # trains


@pytest.fixture(scope="module")
def samples() -> Path:
    return Path(__file__).resolve().parents[2] / "data" / "samples"


@pytest.fixture(scope="module")
def distilled(tmp_path_factory: pytest.TempPathFactory, samples: Path) -> Any:
    folder = tmp_path_factory.mktemp("run")
    teacher = save(tiny_model(seed=3), folder / "teacher.pt")
    words = [
        f"teacher={teacher}", "student=yolo26n_half", f"data={samples}", "epochs=2", "imgsz=64", "batch=4", "augment=none",
        "device=cpu", "threads=1", "pictures=2", "trainer.val=false", "control=true", f"out={folder / 'run'}",
    ]  # fmt: skip
    return api.distill(compose("distill", words))


def test_a_distillation_leaves_everything_a_reader_needs(distilled: Any) -> None:
    folder: Path = distilled.folder
    record = json.loads((folder / "run.json").read_text())
    assert record["status"] == "done"
    assert record["seed"] == 0
    assert record["environment"]["versions"]["ultralytics"]
    for name in ("config.yaml", "metrics.json", "detections.json", "teacher_metrics.json", "compare.md", "compare.csv",
                 "compare.png", "compare.json", "compare.html", "ground_truth.json", "live.json", "weights/last.pt", "train/results.csv", "control/metrics.json"):  # fmt: skip
        assert (folder / name).is_file(), name
    assert len(list((folder / "pictures").glob("*.jpg"))) == 2
    assert not [p for p in folder.rglob(".*") if p.is_file()], "a temporary file was left"


def test_the_page_at_the_end_says_what_the_run_says(distilled: Any) -> None:
    report = json.loads((distilled.folder / "compare.json").read_text())
    assert [entry["role"] for entry in report["entries"]] == ["before", "after", "teacher"]
    (row,) = [row for row in report["rows"] if row["key"] == "AP"]
    assert row["delta"] == pytest.approx(distilled.gain)
    assert report["verdict"]["sentence"] in (distilled.folder / "compare.html").read_text()


def test_a_control_of_other_epochs_is_refused_before_the_student_trains(
    distilled: Any, samples: Path, tmp_path: Path
) -> None:
    words = [
        f"teacher={distilled.folder.parent / 'teacher.pt'}", "student=yolo26n_half", f"data={samples}", "epochs=3",
        "imgsz=64", "batch=4", "augment=none", "device=cpu", "threads=1", f"control={distilled.folder / 'control'}",
        f"out={tmp_path / 'run'}",
    ]  # fmt: skip
    with pytest.raises(PairError, match="was trained for 2 epochs, this run is to have 3"):
        api.distill(compose("distill", words))
    assert not (tmp_path / "run" / "weights").exists()


def test_control_and_student_are_matched(distilled: Any) -> None:
    for key in ("initial_hash", "batch_hash", "epochs", "threads"):
        assert distilled.outcome[key] == distilled.control.outcome[key], key
    assert distilled.gain == pytest.approx(distilled.metrics.AP - distilled.control.metrics.AP)


def test_weights_and_their_results_file_evaluate_alike(distilled: Any, samples: Path, tmp_path: Path) -> None:
    folder = distilled.folder
    again = detkd.evaluate(model=folder, data=samples, device="cpu", out=tmp_path / "a")
    assert again.metrics.AP == pytest.approx(distilled.metrics.AP, abs=1e-9)
    truth = samples / "annotations" / "val.json"
    file = detkd.evaluate(detections=folder / "detections.json", gt=truth, out=tmp_path / "b")
    assert file.metrics.AP == pytest.approx(distilled.metrics.AP, abs=1e-9)
    assert file.metrics.detections == distilled.metrics.detections


def test_run_folders_compare_without_running_anything(distilled: Any, tmp_path: Path) -> None:
    folder = distilled.folder
    result = detkd.compare(before=folder / "control", after=folder, out=tmp_path / "c", fail_if="AP<-100")
    assert result.comparison.row("AP").delta == pytest.approx(distilled.gain)
    assert result.failed  # a handful of images excludes nothing
    assert not detkd.compare(before=folder / "control", after=folder, out=tmp_path / "d").failed


def test_predict_shows_several_models_side_by_side(distilled: Any, samples: Path, tmp_path: Path) -> None:
    models = [str(distilled.folder / "control"), str(distilled.folder)]
    result = detkd.predict(model=models, source=samples / "images", out=tmp_path / "p", conf=0.001, device="cpu")
    assert result.images == 12
    assert len(result.objects) == 2
    assert len(list((tmp_path / "p").glob("*.jpg"))) == 12


def test_export_is_checked_against_the_weights(distilled: Any, samples: Path, tmp_path: Path) -> None:
    result = detkd.export(model=distilled.folder, format="onnx", data=samples, out=tmp_path / "e", device="cpu")
    assert result.path.suffix == ".onnx"
    assert result.raw_max_difference < 1e-3
    metrics = detkd.evaluate(model=result.path, data=samples, device="cpu", out=tmp_path / "f").metrics
    assert metrics.AP == pytest.approx(distilled.metrics.AP, abs=0.5)


def test_both_heads_of_a_student_can_be_reported(distilled: Any, samples: Path, tmp_path: Path) -> None:
    free = detkd.evaluate(model=distilled.folder, data=samples, device="cpu", nms=False, out=tmp_path / "g")
    assert free.cost["head"] == "one2one (NMS-free)"
    assert free.metrics.protocol["settings"]["head"] != distilled.metrics.protocol["settings"]["head"]


def test_best_may_not_be_chosen_on_the_split_that_is_reported(samples: Path, tmp_path: Path) -> None:
    words = [
        "model=yolo26n.yaml",
        f"data={samples}",
        "checkpoint=best",
        "epochs=1",
        "imgsz=64",
        f"out={tmp_path / 'h'}",
    ]
    with pytest.raises(ConfigError, match="checkpoint: best was chosen on val"):
        api.train(compose("train", words))


def test_every_mistake_in_a_recipe_is_told_before_any_work(samples: Path, tmp_path: Path) -> None:
    words = [
        "teacher=yolo26x", "student=yolo26n.yaml", f"data={samples}", f"out={tmp_path / 'i'}",
        "distill.terms.cls.loss.temperature=0", "distill.terms.giou.loss.kind=diou",
    ]  # fmt: skip
    with pytest.raises(ConfigError) as caught:
        api.distill(compose("distill", words))
    assert "temperature" in str(caught.value)
