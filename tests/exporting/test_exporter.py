from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from detkd.data.records import DetectionSet
from detkd.errors import ConfigError, DataError, ModelError
from detkd.exporting import exporter
from detkd.exporting.convert import CalibrationImages
from detkd.exporting.exporter import export_model, export_table, sample
from detkd.exporting.parity import dense_difference, ranked_difference
from detkd.inference.detector import Detector
from detkd.models.cost import measure
from tests.inference.tiny import NAMES, picture


def tree(folder: Path) -> set[str]:
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize(
    ("family", "format", "nms", "name"),
    [
        ("26", "onnx", None, "tiny26.onnx"),
        ("26", "onnx", False, "tiny26_nmsfree.onnx"),
        ("v8", "onnx", None, "tiny8.onnx"),
        pytest.param("26", "openvino", None, "tiny26_openvino_model", marks=pytest.mark.slow),
        pytest.param("26", "openvino", False, "tiny26_nmsfree_openvino_model", marks=pytest.mark.slow),
    ],
)
def test_an_exported_file_is_the_same_detector(
    weights: dict[str, Path],
    dataset: DetectionSet,
    tmp_path: Path,
    family: str,
    format: str,
    nms: bool | None,
    name: str,
) -> None:
    beside = tree(weights[family].parent)
    result = export_model(weights[family], format=format, imgsz=96, nms=nms, out=tmp_path / "out", check=dataset)
    assert result.path == tmp_path / "out" / name
    assert result.raw_max_difference < 1e-4
    assert result.ap_difference == pytest.approx(0, abs=0.3)
    assert result.images == 10
    assert result.size_mb > 0.1
    assert result.latency_ms > 0
    assert tree(weights[family].parent) == beside
    assert [p.name for p in (tmp_path / "out").iterdir()] == [name]
    # The file alone says everything that is needed to use it.
    exported, original = (
        Detector.load(result.path, conf=0.14),
        Detector.load(weights[family], imgsz=96, nms=nms, conf=0.14),
    )
    assert exported.names == NAMES
    assert exported.imgsz == 96
    assert exported.head == original.head
    images = [picture(70, 100, seed) for seed in range(3)]
    for ours, theirs in zip(exported.detect(images), original.detect(images), strict=True):
        assert len(ours) == len(theirs) > 0
        np.testing.assert_allclose(ours.scores, theirs.scores, atol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("nms", [None, False])
def test_int8_is_calibrated_on_the_images_given(
    weights: dict[str, Path], dataset: DetectionSet, tmp_path: Path, nms: bool | None
) -> None:
    before = {p: p.stat().st_mtime_ns for p in dataset.records[0].path.parent.iterdir()}
    result = export_model(
        weights["26"],
        format="openvino_int8",
        imgsz=96,
        nms=nms,
        out=tmp_path,
        calibration=dataset,
        check=dataset,
        tolerance_ap=100.0,
    )
    assert result.path.name.endswith("_int8_openvino_model")
    assert "u8" in next(result.path.glob("*.xml")).read_text() or "i8" in next(result.path.glob("*.xml")).read_text()
    assert result.raw_tolerance is None
    assert 0 < result.raw_max_difference < 1.01
    assert result.ap_difference is not None
    assert {p: p.stat().st_mtime_ns for p in dataset.records[0].path.parent.iterdir()} == before
    assert Detector.load(result.path).names == NAMES


@pytest.mark.slow
def test_half_precision_weights_take_half_the_space(weights: dict[str, Path], tmp_path: Path) -> None:
    full = export_model(weights["26"], format="openvino", imgsz=64, out=tmp_path)
    half = export_model(weights["26"], format="openvino", imgsz=64, out=tmp_path, half=True)
    assert half.path.name == "tiny26_fp16_openvino_model"
    sizes = [next(result.path.glob("*.bin")).stat().st_size for result in (half, full)]
    assert sizes[0] == pytest.approx(0.5 * sizes[1], rel=0.05)
    assert full.raw_max_difference < half.raw_max_difference < half.raw_tolerance == 0.05


def fake(monkeypatch: pytest.MonkeyPatch, source: Path) -> None:
    """Skip the conversion, which is tested above, and hand back an earlier result."""
    import shutil

    def convert(_: Path, folder: Path, *, name: str, **__: Any) -> Path:
        return Path(shutil.copyfile(source, folder / f"{name}.onnx"))

    monkeypatch.setattr(exporter, "convert", convert)


@pytest.fixture(scope="session")
def onnx_file(weights: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_model(weights["26"], format="onnx", imgsz=64, out=tmp_path_factory.mktemp("onnx")).path


def test_a_worse_file_is_set_aside(
    weights: dict[str, Path], onnx_file: Path, dataset: DetectionSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake(monkeypatch, onnx_file)
    (tmp_path / "tiny26.onnx").write_text("an earlier, good file")
    points = iter([50.0, 48.0])
    with pytest.raises(
        ModelError, match=r"^tolerance\.ap: .*AP 48\.00 .*original 50\.00 on 10 images, it may lose 0\.5"
    ) as caught:
        export_model(
            weights["26"], format="onnx", imgsz=64, out=tmp_path, check=dataset, evaluate=lambda *_: next(points)
        )
    assert "tiny26.onnx.rejected" in str(caught.value)
    assert tree(tmp_path) == {"tiny26.onnx", "tiny26.onnx.rejected"}
    assert (tmp_path / "tiny26.onnx").read_text() == "an earlier, good file"
    points = iter([50.0, 48.0])
    allowed = export_model(
        weights["26"],
        format="onnx",
        imgsz=64,
        out=tmp_path,
        check=dataset,
        tolerance_ap=3,
        evaluate=lambda *_: next(points),
    )
    assert allowed.ap_difference == -2
    assert Detector.load(allowed.path).names == NAMES


def test_another_network_is_noticed(weights: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.inference.tiny import save, tiny_model

    other = save(tiny_model(seed=1), tmp_path / "other.pt")
    wrong = export_model(other, format="onnx", imgsz=64, out=tmp_path).path
    fake(monkeypatch, wrong)
    with pytest.raises(ModelError, match=r"^tolerance\.raw: .*differ by 0\.\d+, they must be at most 0\.001"):
        export_model(weights["26"], format="onnx", imgsz=64, out=tmp_path / "out")
    assert tree(tmp_path / "out") == {"tiny26.onnx.rejected"}


def test_the_result_can_be_shown_and_stored(
    weights: dict[str, Path], onnx_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import json

    from rich.console import Console

    fake(monkeypatch, onnx_file)
    result = export_model(weights["26"], format="onnx", imgsz=64, out=tmp_path)
    assert json.loads(json.dumps(result.to_dict()))["path"] == str(tmp_path / "tiny26.onnx")
    assert result.ap_before is None
    console = Console(record=True, width=120, file=open(os.devnull, "w"))  # noqa: SIM115
    console.print(export_table(result))
    console.file.close()
    assert "raw outputs" in console.export_text()


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (
            {"format": "tflite"},
            ConfigError,
            r"^format: unknown, got 'tflite'; choose one of onnx, openvino, openvino_int8",
        ),
        ({"format": "openvino_int8"}, ConfigError, r"^data: openvino_int8 is calibrated on training images"),
        ({"images": 0}, ConfigError, r"^images: must be at least 1"),
        ({"imgsz": 100}, ConfigError, r"^imgsz: must be a multiple of 32"),
        ({"weights": "nowhere.pt"}, ModelError, r"^model: no such file nowhere\.pt"),
        ({"family": "v8", "nms": False}, ModelError, r"^nms: .*no NMS-free head"),
    ],
)
def test_what_can_t_be_exported(
    weights: dict[str, Path], tmp_path: Path, change: dict[str, Any], error: type[Exception], message: str
) -> None:
    path = change.pop("weights", weights[change.pop("family", "26")])
    with pytest.raises(error, match=message):
        export_model(path, **{"format": "onnx", "imgsz": 64, "out": tmp_path / "out", **change})
    assert not (tmp_path / "out").exists()


def test_int8_has_no_half(weights: dict[str, Path], dataset: DetectionSet, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^half: int8 files have their own precision"):
        export_model(weights["26"], format="openvino_int8", out=tmp_path, calibration=dataset, half=True)


def test_exported_files_can_t_be_exported(onnx_file: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"^model: .*tiny26\.onnx is an exported file already"):
        export_model(onnx_file, format="openvino", out=tmp_path)


def test_an_unwritable_folder_is_noticed_first(weights: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"^out: can't write to .*choose a writable folder"):
        export_model(weights["26"], format="onnx", imgsz=64, out=tmp_path / "file" / "out")


def test_exporter_failures_are_one_line(
    weights: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CI", raising=False)

    def fail(*_: Any, **__: Any) -> None:
        assert os.environ["CI"] == "true"  # switches off the usage statistics of the OpenVINO tools
        raise RuntimeError("unsupported op\nand much more")

    monkeypatch.setattr("torch.onnx.export", fail)
    with pytest.raises(ModelError, match=r"^format: export to onnx failed \(unsupported op\); try another format$"):
        export_model(weights["26"], format="onnx", imgsz=64, out=tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []
    assert "CI" not in os.environ


def test_settings_an_exported_file_can_t_have(onnx_file: Path) -> None:
    with pytest.raises(ModelError, match=r"^nms: .*exported with the head that needs NMS, got nms=false"):
        Detector.load(onnx_file, nms=False)
    with pytest.raises(ModelError, match=r"^half: an exported file has its own precision"):
        Detector.load(onnx_file, half=True)
    assert Detector.load(onnx_file, nms=True, imgsz=640).imgsz == 64


def test_broken_exported_files(onnx_file: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut.onnx"
    cut.write_bytes(onnx_file.read_bytes()[:1000])
    with pytest.raises(ModelError, match=r"^model: .*cut\.onnx is no ONNX file that can be loaded"):
        Detector.load(cut)
    folder = tmp_path / "x_openvino_model"
    folder.mkdir()
    with pytest.raises(ModelError, match=r"^model: .*holds no OpenVINO model"):
        Detector.load(folder)
    (folder / "x.xml").write_text("<net/>")
    with pytest.raises(ModelError, match=r"^model: .*no class names in its metadata"):
        Detector.load(folder)
    (folder / "metadata.yaml").write_text("names: {0: a}\nimgsz: [64, 64]\nstride: 32\n")
    with pytest.raises(ModelError, match=r"^model: .*can't be loaded by OpenVINO"):
        Detector.load(folder)
    (folder / "metadata.yaml").write_text("names: {0: a}\ntask: segment\n")
    with pytest.raises(ModelError, match=r"^model: .*is a model for segment, not a detector"):
        Detector.load(folder)
    (folder / "metadata.yaml").write_text("names: {0: a}\nargs: {nms: true}\n")
    with pytest.raises(ModelError, match=r"^model: .*NMS built in"):
        Detector.load(folder)


def test_differences_of_all_anchors_by_hand() -> None:
    """A box side off by 6.4 of 64 pixels is 0.1; a score off by 0.2 is 0.2; the larger counts."""
    reference = torch.rand(6, 10)
    moved, scored = reference.clone(), reference.clone()
    moved[2, 3] += 6.4
    scored[5, 7] -= 0.2
    assert dense_difference(reference, moved, 64) == pytest.approx(0.1, abs=1e-5)
    assert dense_difference(reference, scored, 64) == pytest.approx(0.2, abs=1e-5)
    assert dense_difference(reference, reference[:, :5], 64) == float("inf")
    scored[0, 0] = float("nan")
    assert dense_difference(reference, scored, 64) == float("inf")


def ranked() -> Tensor:
    scores = torch.linspace(0.9, 0.1, 20)
    boxes = torch.arange(80, dtype=torch.float32).reshape(20, 4)
    return torch.cat([boxes, scores[:, None], torch.arange(20)[:, None] % 3.0], 1)


def test_differences_of_ranked_detections() -> None:
    reference = ranked()
    assert ranked_difference(reference, reference, 64) == 0
    equal = reference.clone()
    equal[4:6, 4] = equal[4, 4]
    swapped = equal.clone()
    swapped[[4, 5]] = swapped[[5, 4]]
    assert ranked_difference(equal, swapped, 64) == 0
    moved = reference.clone()
    moved[3, 0] += 1.28
    assert ranked_difference(reference, moved, 64) == pytest.approx(0.02, abs=1e-5)
    other_class = reference.clone()
    other_class[:, 5] += 3
    assert ranked_difference(reference, other_class, 64) == 1
    cut_off = reference.clone()
    cut_off[-1, :4] += 50  # the last rank may be another of the detections just below the limit
    assert ranked_difference(reference, cut_off, 64) == 0


def test_samples_are_spread_and_repeatable(dataset: DetectionSet) -> None:
    assert [r.image_id for r in sample(dataset, 5).records] == [1, 3, 5, 7, 9]
    assert sample(dataset, 10) is dataset


def test_calibration_sees_what_the_detector_sees(weights: dict[str, Path], dataset: DetectionSet) -> None:
    detector = Detector.load(weights["26"], imgsz=64)
    paths = [record.path for record in dataset.records[:3]]
    images = CalibrationImages(paths, detector.shape)
    assert len(images) == 3
    from detkd.inference.images import read_image

    expected, _ = detector.prepare([read_image(path) for path in paths])
    found = torch.cat([item["img"] for item in images])
    assert found.dtype == torch.uint8
    torch.testing.assert_close(found.float() / 255, expected)


def test_cost_of_a_checkpoint(weights: dict[str, Path]) -> None:
    detector = Detector.load(weights["26"], imgsz=64)
    cost = measure(detector, runs=5, warmup=1)
    network: Any = detector.network
    assert cost.params == sum(p.numel() for p in network.parameters())
    from ultralytics.nn.tasks import DetectionModel

    both_heads = torch.load(weights["26"], weights_only=False)["model"]
    assert isinstance(both_heads, DetectionModel)
    assert 0 < cost.params < sum(p.numel() for p in both_heads.parameters())
    assert cost.gflops is not None
    larger = measure(Detector.load(weights["26"], imgsz=128), runs=1, warmup=0)
    assert larger.gflops == pytest.approx(4 * cost.gflops, rel=0.1)
    assert cost.runs == 5
    assert 0 < cost.latency_ms <= cost.latency_p95_ms
    assert cost.device.startswith("CPU, ")
    assert cost.to_dict()["head"] == "one2many+nms"
    assert cost.size_mb == pytest.approx(weights["26"].stat().st_size / 1e6, abs=1e-3)
    # Counting must leave the network as it was.
    assert not [name for name, _ in network.named_buffers() if "total" in name]


def test_cost_of_an_exported_file(onnx_file: Path) -> None:
    cost = measure(Detector.load(onnx_file), picture(60, 80), runs=3, warmup=0)
    assert cost.params is cost.gflops is None
    assert cost.runtime == "ONNX Runtime"
    assert cost.latency_ms > 0


def test_a_full_disk_leaves_the_earlier_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device", "somewhere else")

    (tmp_path / "made.onnx").write_text("new")
    (tmp_path / "out").mkdir()
    target = tmp_path / "out" / "a.onnx"
    target.write_text("old")
    monkeypatch.setattr(exporter.shutil, "copyfile", full)
    with pytest.raises(DataError, match=r"^out: can't write .*a\.onnx \(No space left on device\); make room"):
        exporter._install(tmp_path / "made.onnx", target)
    assert target.read_text() == "old"
    assert tree(tmp_path / "out") == {"a.onnx"}
