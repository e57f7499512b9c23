"""From pictures nobody labelled to a student: the set that `detkd pseudolabel` forms, trained on in each way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from detkd import api
from detkd.config import compose
from detkd.data.toy import draw_toy
from detkd.errors import ConfigError

pytestmark = pytest.mark.slow  # trains

SAMPLES = Path(__file__).resolve().parents[2] / "data" / "samples"
TRAINING = [
    f"data={SAMPLES}", "epochs=1", "imgsz=64", "batch=4", "augment=none", "device=cpu", "threads=1", "pictures=0",
    "trainer.val=false",
]  # fmt: skip


@pytest.fixture(scope="module")
def pseudo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("footage")
    drawn = draw_toy(folder / "drawn", images={"train": 6, "val": 1, "test": 1}, size=320, difficulty="easy", seed=9)
    config = compose("pseudolabel", [
        "teacher=demo", f"data={SAMPLES}", f"source={Path(drawn) / 'images'}", "imgsz=192", "device=cpu",
        "thresholds={person: 0.1, car: 0.1, truck: 0.1, bicycle: 0.1}", f"out={folder / 'pseudo'}",
    ])  # fmt: skip
    result = api.pseudolabel(config)
    assert sum(result.boxes.values()) > 0
    assert (result.folder / "review.html").is_file()
    return result.folder


def losses(folder: Path) -> dict[str, float]:
    names, values = (line.split(",") for line in (folder / "train" / "results.csv").read_text().splitlines()[:2])
    return dict(zip(names, map(float, values), strict=True))


def test_hard_labels_need_no_teacher(pseudo: Path, tmp_path: Path) -> None:
    words = ["model=yolo26n_half", *TRAINING, f"unlabelled={pseudo}", f"out={tmp_path / 'hard'}"]
    result = api.train(compose("train", [*words, "unlabelled.labels=hard"]))
    assert result.outcome["steps"] == 4  # 8 labelled images, 8 drawn ones
    with pytest.raises(ConfigError, match=r"unlabelled\.labels: .* no labels and this run has no teacher"):
        api.train(compose("train", [*words[:-1], "unlabelled.labels=soft", f"out={tmp_path / 'soft'}"]))


@pytest.mark.parametrize("labels", ["hard", "soft", "both"])
def test_a_student_learns_from_footage_beside_its_control(pseudo: Path, tmp_path: Path, labels: str) -> None:
    words = [
        "teacher=demo", "student=yolo26n_half", *TRAINING, f"unlabelled={pseudo}", f"unlabelled.labels={labels}",
        "control=true", f"out={tmp_path / labels}",
    ]  # fmt: skip
    result: Any = api.distill(compose("distill", words))
    assert result.outcome["steps"] == result.control.outcome["steps"] == 4
    assert losses(result.folder)["train/kd"] > 0
    assert result.gain is not None
    assert "8 labelled images alone, the student from 16 images" in (result.folder / "compare.html").read_text()
