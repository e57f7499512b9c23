from __future__ import annotations

from pathlib import Path

import detkd.environment

import pytest
import torch
from ultralytics.nn.tasks import DetectionModel

from detkd import api
from detkd.config import compose
from tests.inference.tiny import NAMES, save


@pytest.mark.slow
def test_a_random_yolo26x_teaches_yolo26n_for_two_steps(tmp_path: Path, repo: Path) -> None:
    torch.manual_seed(0)
    teacher = DetectionModel("yolo26x.yaml", nc=4, verbose=False)
    teacher.names = dict(enumerate(NAMES))
    path = save(teacher.eval(), tmp_path / "x.pt")
    words = [
        f"teacher={path}", "student=yolo26n.yaml", f"data={repo / 'data' / 'samples'}", "epochs=1", "imgsz=64", "batch=4",
        "augment=none", "device=cpu", "pictures=0", "trainer.val=false", f"out={tmp_path / 'run'}",
    ]  # fmt: skip
    result = api.distill(compose("distill", words))
    assert result is not None
    assert result.outcome["epochs"] == 1
    rows = (tmp_path / "run" / "train" / "results.csv").read_text().splitlines()
    values = dict(zip(rows[0].split(","), map(float, rows[1].split(",")), strict=True))
    assert values["train/kd"] > 0
    assert values["train/kd_cls"] > 0
    assert values["train/kd_cls_o2o"] > 0


def test_the_cost_of_the_large_recipe_is_told_without_data_or_weights(capsys: pytest.CaptureFixture[str]) -> None:
    assert api.distill(compose("distill", ["experiment=coco_26n_26x", "dry_run=true"])) is None
    text = " ".join(capsys.readouterr().out.split())
    # 118,287 images x 80 epochs; 3 student forwards and one teacher forward per image.
    assert "9,462,960 images in all" in text
    assert "times the operations of a plain one" in text
