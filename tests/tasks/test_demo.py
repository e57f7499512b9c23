from __future__ import annotations

import json
from pathlib import Path

import pytest

from detkd import api
from detkd.config import compose
from detkd.models.weights import load_detector

pytestmark = pytest.mark.slow  # trains


def test_the_demo_writes_its_table_for_scripts_and_can_be_run_again(tmp_path: Path) -> None:
    words = ["epochs=1", "data.images={train: 16, val: 4, test: 6}", "imgsz=96", "pictures=2", "threads=1"]
    result = api.demo(compose("demo", words))
    folder = tmp_path / "runs" / "demo"
    assert result.folder == folder
    summary = json.loads((folder / "summary.json").read_text())
    for name in ("teacher", "control", "distilled"):
        entry = summary[name]
        assert {"AP", "AP50", "AP75", "params", "gflops", "latency_ms", "weights", "per_class"} <= entry.keys()
        assert Path(entry["weights"]).is_file()
        assert entry["params"] > 0
        assert entry["latency_ms"] > 0
    assert summary["gain"] == pytest.approx(summary["distilled"]["AP"] - summary["control"]["AP"])
    matched = summary["matched"]
    for key in ("initial_hash", "batch_hash", "epochs"):
        assert matched[key]["control"] == matched[key]["distilled"], key
    assert summary["control"]["params"] == summary["distilled"]["params"] < summary["teacher"]["params"]
    assert Path(summary["export"]["path"]).suffix == ".onnx"
    assert len(list((folder / "pictures").glob("*.jpg"))) == 2
    # A second run in the same folder starts from nothing and takes over no result of the first.
    again = api.demo(compose("demo", [*words, "seed=1"]))
    assert again.summary["seed"] == 1
    assert again.summary["matched"]["batch_hash"]["control"] != matched["batch_hash"]["control"]


def test_the_packaged_teacher_is_small_and_knows_the_toy_classes(repo: Path) -> None:
    path = repo / "detkd" / "assets" / "demo_teacher.pt"
    assert path.stat().st_size < 6e6
    model = load_detector(path, key="teacher")
    assert list(model.names.values()) == ["person", "car", "truck", "bicycle"]
    assert sum(p.numel() for p in model.parameters()) > 2e6
