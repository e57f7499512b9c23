from __future__ import annotations

import os
import pickle
from pathlib import Path

import pytest
import torch

from detkd.errors import ModelError
from detkd.models.weights import build_detector, checkpoint_imgsz, load_detector, model_names, resolve, state_hash
from tests.inference.tiny import save, tiny_model

HALF = {"depth": 0.33, "width": 0.125, "max_channels": 256}


def test_same_seed_same_weights_whatever_ran_before() -> None:
    torch.rand(7)
    first = build_detector("yolo26n.yaml", ["a", "b"], key="student", scale=HALF, seed=3)
    torch.rand(11)
    second = build_detector("yolo26n.yaml", ["a", "b"], key="student", scale=HALF, seed=3)
    assert state_hash(first) == state_hash(second)
    assert state_hash(first) != state_hash(
        build_detector("yolo26n.yaml", ["a", "b"], key="student", scale=HALF, seed=4)
    )


def test_building_does_not_disturb_the_random_state() -> None:
    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    build_detector("yolo26n.yaml", ["a"], key="student", scale=HALF)
    assert torch.equal(torch.rand(1), expected)


def test_checkpoint_gives_its_weights_to_a_student_with_other_classes(tmp_path: Path) -> None:
    path = save(tiny_model(names=("person", "car", "truck", "bicycle")), tmp_path / "w.pt")
    student = build_detector(path, ["car", "dog"], key="student")
    assert model_names(student) == ("car", "dog")
    source = load_detector(path, key="student")
    torch.testing.assert_close(student.model[0].conv.weight, source.model[0].conv.weight)
    assert student.model[-1].nc == 2


def test_image_size_of_a_checkpoint(tmp_path: Path) -> None:
    model = tiny_model()
    torch.save({"model": model, "ema": None, "train_args": {"imgsz": 224}}, tmp_path / "w.pt")
    assert checkpoint_imgsz(tmp_path / "w.pt") == 224


def test_missing_and_unreadable_files_name_the_key(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"teacher: no such file nothing\.pt"):
        resolve("nothing.pt", key="teacher")
    with pytest.raises(ModelError, match=r"student: no model YAML nothing\.yaml"):
        resolve("nothing.yaml", key="student")
    with pytest.raises(ModelError, match=r"teacher: yolo26x\.pt is not here and can't be downloaded; check"):
        resolve("yolo26x", key="teacher")
    broken = tmp_path / "broken.pt"
    broken.write_bytes(b"no checkpoint")
    with pytest.raises(ModelError, match=r"model: .*broken\.pt"):
        load_detector(broken, key="model")
    with pytest.raises(ModelError, match=r"model: no weights in the folder"):
        resolve(tmp_path, key="model")


def test_only_detectors_are_accepted(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="ends in Segment26, not in a Detect head"):
        build_detector("yolo26n-seg.yaml", ["a"], key="student")


class Payload:
    """Touches a file when unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("wrapped", [True, False])
def test_a_malicious_checkpoint_is_not_executed(tmp_path: Path, wrapped: bool) -> None:
    proof, path = tmp_path / "executed", tmp_path / "evil.pt"
    if wrapped:
        torch.save({"model": Payload(proof)}, path)
    else:
        path.write_bytes(pickle.dumps(Payload(proof)))
    with pytest.raises(ModelError, match=r"teacher: .*evil\.pt"):
        load_detector(path, key="teacher")
    assert not proof.exists()


def test_scale_needs_a_description_without_weights(tmp_path: Path) -> None:
    path = save(tiny_model(), tmp_path / "w.pt")
    with pytest.raises(ModelError, match=r"student\.scale: .* has trained weights of fixed width"):
        build_detector(path, ["a"], key="student", scale=HALF)
