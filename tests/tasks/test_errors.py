"""What a user sees when something is wrong: one line that names the key and the fix, exit code 2, no traceback."""

from __future__ import annotations

import hashlib
import json
import pickle
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from detkd.cli import main
from tests.inference.tiny import save, tiny_model

Case = Callable[[Path], tuple[list[str], str]]
TRAIN = [
    "train",
    "model=yolo26n.yaml",
    "epochs=1",
    "imgsz=64",
    "batch=4",
    "device=cpu",
    "pictures=0",
    "trainer.val=false",
]


@pytest.fixture
def samples(tmp_path: Path, repo: Path) -> Path:
    return Path(shutil.copytree(repo / "data" / "samples", tmp_path / "samples"))


def missing_data(_: Path) -> tuple[list[str], str]:
    return [*TRAIN, "data=no/such/data.yaml"], r"data.*no/such/data\.yaml"


def no_classes(samples: Path) -> tuple[list[str], str]:
    (samples / "toy.yaml").write_text("path: .\ntrain: train.txt\nval: val.txt\nnames: []\n")
    return [*TRAIN, f"data={samples / 'toy.yaml'}"], r"names|class"


def teacher_without_detect_head(samples: Path) -> tuple[list[str], str]:
    from ultralytics.nn.tasks import SegmentationModel

    path = save(SegmentationModel("yolo26n-seg.yaml", nc=4, verbose=False), samples.parent / "seg.pt")
    words = [
        "distill",
        f"teacher={path}",
        "student=yolo26n.yaml",
        f"data={samples}",
        "imgsz=64",
        "epochs=1",
        "device=cpu",
    ]
    return words, r"teacher: .*not in a Detect head"


def class_mismatch(samples: Path) -> tuple[list[str], str]:
    path = save(tiny_model(names=("cat", "dog")), samples.parent / "pets.pt")
    words = [
        "distill",
        f"teacher={path}",
        "student=yolo26n.yaml",
        f"data={samples}",
        "imgsz=64",
        "epochs=1",
        "device=cpu",
    ]
    return words, r"teacher\.class_map: the teacher knows no class .*teacher: cat, dog; data: person"


def corrupt_image(samples: Path) -> tuple[list[str], str]:
    image = next((samples / "images").iterdir())
    image.write_bytes(image.read_bytes()[:200])
    return [*TRAIN, f"data={samples}"], rf"{image.name}.*data\.on_bad=skip"


def truncated_label(samples: Path) -> tuple[list[str], str]:
    label = sorted((samples / "labels").iterdir())[0]
    label.write_text("0 0.5 0.5 0.2\n")
    return [*TRAIN, f"data={samples / 'toy.yaml'}"], rf"{label.name}.*data\.on_bad=skip"


def nan_in_results(samples: Path) -> tuple[list[str], str]:
    truth = samples / "annotations" / "val.json"
    record = json.loads(truth.read_text())["images"][0]["id"]
    file = samples.parent / "results.json"
    file.write_text(f'[{{"image_id": {record}, "category_id": 1, "bbox": [1, 1, 5, 5], "score": NaN}}]')
    return ["evaluate", f"detections={file}", f"gt={truth}"], r"results\.json.*score"


def unwritable_folder(samples: Path) -> tuple[list[str], str]:
    (samples.parent / "file").write_text("")
    return [*TRAIN, f"data={samples}", f"out={samples.parent / 'file' / 'run'}"], r"out: can't write"


def typo_in_a_key(samples: Path) -> tuple[list[str], str]:
    return [*TRAIN, f"data={samples}", "epcohs=3"], r"epcohs.*epochs"


def typo_in_a_trainer_key(samples: Path) -> tuple[list[str], str]:
    return [*TRAIN, f"data={samples}", "trainer.lr_0=0.1"], r"trainer\.lr_0: .*did you mean trainer\.lr0"


def bad_device(samples: Path) -> tuple[list[str], str]:
    return [*TRAIN[:-3], f"data={samples}", "device=7"], r"device: .*device=cpu"


def weights_that_cannot_be_downloaded(samples: Path) -> tuple[list[str], str]:
    return ["evaluate", "model=yolo26x", f"data={samples}", "device=cpu"], r"model: yolo26x\.pt .*check the network"


def malicious_checkpoint(samples: Path) -> tuple[list[str], str]:
    import os

    class Payload:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.system, (f"touch {samples.parent / 'executed'}",)

    path = samples.parent / "evil.pt"
    path.write_bytes(pickle.dumps({"model": Payload()}))
    return ["evaluate", f"model={path}", f"data={samples}", "device=cpu"], r"model: .*evil\.pt"


CASES: list[Case] = [
    missing_data, no_classes, teacher_without_detect_head, class_mismatch, corrupt_image, truncated_label, nan_in_results,
    unwritable_folder, typo_in_a_key, typo_in_a_trainer_key, bad_device, weights_that_cannot_be_downloaded,
    malicious_checkpoint,
]  # fmt: skip


def contents(folder: Path) -> dict[str, str]:
    files = (p for p in sorted(folder.rglob("*")) if p.is_file())
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_one_line_with_key_and_fix(
    case: Case, samples: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    words, expected = case(samples)
    before = contents(samples)
    assert main(words) == 2
    text = capfd.readouterr().err
    assert "Traceback" not in text
    message = [line for line in text.splitlines() if line.startswith("detkd ")]
    assert len(message) == 1, text
    assert re.search(expected, message[0]), message[0]
    assert contents(samples) == before, "the user's folder was changed"
    assert not (tmp_path / "executed").exists()


def test_a_malicious_label_cache_is_not_opened(samples: Path, tmp_path: Path) -> None:
    import os

    class Payload:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.system, (f"touch {tmp_path / 'executed'}",)

    for name in ("labels.cache", "images.cache", "train.cache"):
        (samples / name).write_bytes(pickle.dumps(Payload()))
    before = contents(samples)
    assert main([*TRAIN, f"data={samples / 'toy.yaml'}", f"out={tmp_path / 'run'}", "augment=none", "threads=1"]) == 0
    assert not (tmp_path / "executed").exists()
    assert contents(samples) == before
    assert (tmp_path / "run" / "weights" / "last.pt").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("trust", [False, True])
def test_trust_is_what_decides_whether_a_checkpoint_may_run_code(samples: Path, tmp_path: Path, trust: bool) -> None:
    """The same file in the same command: refused by default, executed (it touches a file) with `trust=true`."""
    import subprocess
    import sys

    words, _ = malicious_checkpoint(samples)
    command = [sys.executable, "-m", "detkd", *words, *(["trust=true"] if trust else [])]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    assert (tmp_path / "executed").exists() is trust
