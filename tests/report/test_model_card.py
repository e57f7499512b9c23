from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from detkd.evaluation.coco import evaluate_detections
from detkd.evaluation.metrics import METRIC_NAMES
from detkd.report.card_facts import config_text, limits, shorten
from detkd.report.model_card import CARD_FILE, card_for, model_card, read_run, training_run, write_card
from tests.evaluation.worlds import make_detections, make_gt

EXPORT: dict[str, Any] = {
    "path": "/home/me/private/runs/export/last.onnx", "format": "onnx", "head": "one2many+nms", "imgsz": 192,
    "size_mb": 1.234, "raw_max_difference": 1.5e-6, "raw_tolerance": 0.001, "ap_before": 31.25, "ap_after": 31.2,
    "ap_difference": -0.05, "ap_tolerance": 0.5, "images": 64, "latency_before_ms": 5.2, "latency_ms": 2.1,
    "device": "CPU, 2 threads",
}  # fmt: skip
CONFIG: dict[str, Any] = {
    "teacher": {"path": "/home/me/private/big_teacher.pt", "imgsz": None, "class_map": {}},
    "student": {"path": "yolo26.yaml", "scale": {"depth": 0.5, "width": 0.125, "max_channels": 1024}},
    "data": {"name": "yard_cams", "path": "/home/me/private/yard", "format": "coco"},
    "distill": {"alpha": 0.2, "terms": {"cls": {"weight": 1.0, "loss": {"_target_": "detkd.losses.binary.BinaryLogits"}}}},
    "epochs": 24, "imgsz": 192, "seed": 0, "out": "/home/me/private/out", "trust": False, "pictures": 8,
}  # fmt: skip
COST = {"params": 1_234_567, "gflops": 1.5, "size_mb": 3.0, "latency_ms": 5.2, "head": "one2many+nms"}


@pytest.fixture(scope="module")
def metrics() -> dict[str, Any]:
    gt = make_gt(0, absent=True)
    found = make_detections(gt, 0)
    settings = {"imgsz": 192, "conf": 0.001, "weights_sha256": hashlib.sha256(b"").hexdigest()}
    return evaluate_detections(gt, found, settings=settings).to_dict()


def comparison(metrics: dict[str, Any]) -> dict[str, Any]:
    rows = [
        {"key": key, "metric": key, "class": None, "slice": None, "values": {"before": 20.0, "after": metrics[key]},
         "intervals": {"before": [18.0, 22.0], "after": [25.0, 35.0]}, "delta": metrics[key] and metrics[key] - 20.0,
         "delta_interval": [1.0, 12.0], "verdict": "improved", "smallest_visible": 3.2}
        for key in METRIC_NAMES
    ]  # fmt: skip
    rows += [
        {"key": f"AP/{name}", "metric": "AP", "class": name, "slice": None, "values": {"before": 1.0, "after": part["AP"]},
         "intervals": {"after": None}, "delta": -2.0, "delta_interval": [-4.0, -1.0],
         "verdict": "regressed" if name == "car" else "not judged"}
        for name, part in metrics["per_class"].items()
    ]  # fmt: skip
    sides = [
        {"role": role, "name": name, "cost": COST, "runs": [{}], "metrics": {"AP": 20.0 + n}}
        for n, (role, name) in enumerate([("before", "control"), ("after", "distilled"), ("teacher", "teacher")])
    ]
    return {
        "schema": 2, "kind": "comparison", "entries": sides, "rows": rows, "statistics": {"level": 0.9},
        "verdict": {"sentence": "distilled is better than control by 5.00 AP.", "seeds": "One seed each."},
        "control_verdict": None, "notes": [{"level": "differs", "text": "conf differs"}, {"level": "info", "text": "quiet"}],
    }  # fmt: skip


@pytest.fixture
def run_folder(tmp_path: Path, metrics: dict[str, Any]) -> Path:
    folder = tmp_path / "runs" / "distill"
    (folder / "weights").mkdir(parents=True)
    (folder / "weights" / "last.pt").touch()
    files = {
        "run": {"verb": "distill", "status": "done", "started": "2026-11-20T10:00:00+00:00", "seed": 0,
                "finished": "2026-11-21T10:00:00+00:00",
                "command": ["detkd", "distill", "teacher=/home/me/private/big_teacher.pt", "data=yard cams"],
                "environment": {"python": "3.11.7", "system": "Linux x86_64", "cpu": "Some CPU", "commit": "abc123",
                                "versions": {"detkd": "0.1.0", "torch": "2.9", "openvino": None}}},
        "outcome": {"initial_hash": "1111", "batch_hash": "2222", "epochs": 24, "seconds": 61.2, "threads": 2, "amp": False},
        "metrics": {"metrics": metrics, "cost": COST, "weights": "/home/me/private/last.pt", "split": "test"},
        "compare": comparison(metrics),
        "skipped": {"data": "yard_cams", "skipped": 3, "notes": ["training labels were made worse on purpose: missing 0.2"],
                    "splits": {"train": {"images": 300, "objects": 900}}},
    }  # fmt: skip
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    (folder / "config.yaml").write_text(yaml.safe_dump(CONFIG, sort_keys=False))
    return folder


def tables(card: str) -> list[list[str]]:
    blocks = re.findall(r"(?:^\|.*\|$\n?)+", card, flags=re.M)
    return [block.strip().splitlines() for block in blocks]


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


def check_markdown(card: str) -> None:
    for block in tables(card):
        widths = {len(cells(line)) for line in block}
        assert len(widths) == 1, block
        assert set(block[1]) <= set("|-: "), block
    assert card.count("```") % 2 == 0
    assert "\n\n\n" not in card
    head = yaml.safe_load(card.split("---")[1])
    assert head["license"] == "agpl-3.0"
    assert head["pipeline_tag"] == "object-detection"


def test_card_of_a_distilled_student(run_folder: Path, metrics: dict[str, Any]) -> None:
    card = card_for(
        run_folder, EXPORT, {"model": {"path": "runs/distill"}, "format": "onnx", "data": None, "nms": False}
    )
    check_markdown(card)
    assert "\n# distill\n" in card
    for text in (
        "which learned from labels and from the teacher big\\_teacher.pt",
        "trained on yard\\_cams",
        "| network | yolo26.yaml, scaled: depth 0.5, width 0.125, max\\_channels 1024, from random weights |",
        "| parameters | 1,234,567 |",
        "| made | 2026-11-21 |",
        'YOLO("last.onnx", task="detect")',
        "train 300 images, 900 objects.",
        "3 records were left out as unusable.",
        "- training labels were made worse on purpose: missing 0.2",
        "Teacher: big\\_teacher.pt, AP 22.00.",
        "COCO AP x 100 on the test split: 12 images",
        "**distilled is better than control by 5.00 AP.**",
        "One seed each.",
        "conf differs",
        "90% intervals",
        "detkd distill teacher=.../big_teacher.pt 'data=yard cams'",
        "detkd export model=runs/distill format=onnx nms=false",
        "Commit abc123 of detkd.",
        "- initial weights: `1111`",
        f"- labels of the evaluation, SHA-256: `{metrics['protocol']['gt_sha256']}`",
        "AGPL-3.0",
        "video surveillance",
    ):
        assert text in card, text
    assert "/home/me" not in card
    assert "quiet" not in card
    results = next(block for block in tables(card) if block[0].startswith("| number"))
    assert cells(results[0]) == ["number", "points", "control", "difference", "verdict"]
    delta = metrics["AP"] - 20
    assert cells(results[2]) == [
        "AP", f"{metrics['AP']:.2f} (25.0 to 35.0)", "20.00", f"{delta:+.2f} (+1.0 to +12.0)", "improved"
    ]  # fmt: skip
    assert len(results) == 2 + 12
    classes = next(block for block in tables(card) if block[0].startswith("| class"))
    assert [cells(line)[0] for line in classes[2:]] == list(metrics["per_class"])
    assert cells(classes[2])[4:] == ["-2.00 (-4.0 to -1.0)", "regressed"]
    settings = yaml.safe_load(re.search(r"```yaml\n(.*?)```", card, flags=re.S)[1])  # type: ignore[index]
    assert settings["distill"]["terms"]["cls"]["weight"] == 1.0
    assert settings["teacher"] == {"path": ".../big_teacher.pt"}
    assert not {"out", "trust", "pictures"} & settings.keys()


def export_config(weights: Path) -> dict[str, Any]:
    return {"model": {"path": str(weights)}, "format": "onnx"}


def test_card_of_a_checkpoint_that_was_not_evaluated(run_folder: Path, metrics: dict[str, Any]) -> None:
    best = run_folder / "weights" / "best.pt"
    best.write_bytes(b"other weights")
    said = "This checkpoint, best.pt, was not evaluated: the numbers of its run are those of another one."
    card = card_for(run_folder, EXPORT, export_config(best))
    check_markdown(card)
    assert said in card
    assert "Not known: no evaluation of these weights was at hand." in card
    assert "which learned from labels and from the teacher big\\_teacher.pt" in card
    assert "| parameters | 1,234,567 |" in card
    for text in (
        "better than control",
        "COCO AP x 100",
        "AP 22.00",
        "One seed each",
        "Cost of the original",
        "SHA-256",
    ):
        assert text not in card, text
    assert not any(block[0].startswith(("| number", "| class |", "| detector")) for block in tables(card))
    assert f"{metrics['AP']:.2f}" not in card

    for same in (run_folder, run_folder / "weights" / "last.pt"):
        card = card_for(run_folder, EXPORT, export_config(same))
        assert "was not evaluated" not in card
        assert "better than control" in card
    best.write_bytes(b"")  # the best epoch was the last
    assert "better than control" in card_for(run_folder, EXPORT, export_config(best))


def test_card_of_a_checkpoint_of_an_older_run(run_folder: Path, metrics: dict[str, Any]) -> None:
    protocol = {**metrics["protocol"], "settings": {"imgsz": 192}}
    record = {
        "metrics": {**metrics, "protocol": protocol},
        "cost": COST,
        "weights": "C:\\runs\\last.pt",
        "split": "test",
    }
    (run_folder / "metrics.json").write_text(json.dumps(record))
    for name in ("best.pt", "last.pt"):
        (run_folder / "weights" / name).write_bytes(b"any")
        card = card_for(run_folder, EXPORT, export_config(run_folder / "weights" / name))
        assert ("was not evaluated" in card) == (name == "best.pt")
        assert ("better than control" in card) == (name == "last.pt")
    (run_folder / "metrics.json").write_text(json.dumps({**record, "weights": None}))
    assert "was not evaluated" not in card_for(run_folder, EXPORT, export_config(run_folder / "weights" / "best.pt"))


POINT = {"threshold": 0.4383, "precision": 0.438, "recall": 0.336, "f1": 0.38, "false_per_image": 2.5}
USED = (
    "Best used from a score of 0.4383, where F1 is highest on the test images: precision 0.44, recall 0.34, F1 0.38, "
    "2.50 false alarms per image."
)


def with_diagnosis(file: Path, **diagnosis: Any) -> None:
    content = json.loads(file.read_text())
    content["diagnosis"] = diagnosis
    file.write_text(json.dumps(content))


def confidences(card: str) -> list[str]:
    return re.findall(r"conf=([\d.]+)", card.partition("## Training")[0])


def test_card_recommends_the_measured_working_point(run_folder: Path) -> None:
    off = {"working_point": POINT, "calibration": {"ece": 0.117, "shift": 0.116}}
    other = {"working_point": {**POINT, "threshold": 0.1}, "calibration": {"ece": 0.01, "shift": 0.0}}
    with_diagnosis(run_folder / "compare.json", entries={"control": other, "distilled": off})
    with_diagnosis(run_folder / "metrics.json", **other)
    card = card_for(run_folder, EXPORT)
    check_markdown(card)
    assert USED in card
    assert confidences(card) == ["0.4383"] * 2
    said = "off by 12 % on average (mean calibration error, mostly too high)"
    assert said in card.partition("## Limits")[2]

    (run_folder / "compare.json").unlink()
    card = card_for(run_folder, EXPORT)
    assert confidences(card) == ["0.1"] * 2
    assert "calibration" not in card
    with_diagnosis(run_folder / "metrics.json", working_point=POINT, calibration={"ece": 0.06, "shift": -0.05})
    card = card_for(run_folder, EXPORT)
    assert USED in card
    assert "off by 6 % on average (mean calibration error, mostly too low)" in card

    best = run_folder / "weights" / "best.pt"
    best.write_bytes(b"other weights")
    card = card_for(run_folder, EXPORT, export_config(best))
    assert "Best used" not in card
    assert "calibration" not in card
    assert confidences(card) == ["0.25"] * 2


def test_card_says_where_no_working_point_was_measured(run_folder: Path) -> None:
    for card in (card_for(run_folder, EXPORT), card_for(None, EXPORT)):
        check_markdown(card)
        assert confidences(card) == ["0.25"] * 2
        assert "The score 0.25 below is only a default, the best threshold was not measured" in card
    nothing = {"threshold": None, "precision": None, "recall": 0.0, "f1": 0.0, "false_per_image": 0.0}
    with_diagnosis(run_folder / "metrics.json", working_point=nothing, calibration={"ece": None, "shift": None})
    card = card_for(run_folder, EXPORT)
    assert "it found no object of the test images" in card
    assert confidences(card) == ["0.25"] * 2


def test_card_without_comparison_shows_plain_numbers(run_folder: Path, metrics: dict[str, Any]) -> None:
    (run_folder / "compare.json").unlink()
    card = card_for(run_folder, EXPORT)
    check_markdown(card)
    results = next(block for block in tables(card) if block[0].startswith("| number"))
    assert cells(results[2]) == ["AP", f"{metrics['AP']:.2f}"]
    assert "In brackets" not in card
    assert "detkd export" not in card


def test_card_of_official_weights_says_what_is_not_known() -> None:
    card = card_for(None, {**EXPORT, "ap_before": None, "ap_after": None, "ap_difference": None, "images": 0})
    check_markdown(card)
    assert "\n# last\n" in card
    assert "Not known: the file was made from weights without a run folder" in card
    assert "Not known: no evaluation of these weights was at hand." in card
    assert "AP of the exported file was not measured" in card
    assert "knowledge-distillation" not in card
    assert "None" not in card
    assert "detkd export model=WEIGHTS" in card


def test_damaged_and_old_files_shorten_the_card(run_folder: Path) -> None:
    (run_folder / "compare.json").write_text('{"schema": 1}')
    (run_folder / "metrics.json").write_text("{")
    (run_folder / "config.yaml").write_text("[1, 2")
    known = read_run(run_folder)
    assert known["comparison"] is known["metrics"] is known["config"] is None
    check_markdown(card_for(run_folder, EXPORT))
    (run_folder / "run.json").unlink()
    check_markdown(card_for(run_folder, EXPORT))


def test_names_can_not_break_the_page(metrics: dict[str, Any]) -> None:
    bad = "a|b`c\n# <script>"
    known = {"metrics": {"metrics": {**metrics, "per_class": {bad: next(iter(metrics["per_class"].values()))}}}}
    card = model_card(bad, {**EXPORT, "device": bad}, known)
    check_markdown(card)
    assert "<script>" not in card
    assert not re.search(r"^# &lt;", card, flags=re.M)


def test_limits_name_what_is_weak_and_what_was_not_tested(metrics: dict[str, Any]) -> None:
    part = {"AP": 40.0, "AP50": 50.0, "AP75": 1.0, "AR100": 1.0, "objects": 100, "images": 50}
    classes = {
        "car": part,
        "cat": {**part, "AP": 10.0},
        "dog": {**part, "objects": 9},
        "bus": {**part, "AP": None, "objects": 0},
    }
    weak = {**metrics, "AP": 30.0, "AP_small": 5.0, "images": 120, "objects": 209, "per_class": classes}
    full = comparison(metrics)
    text = " ".join(limits(weak, full, {**EXPORT, "format": "openvino_int8"}))
    for words in (
        "small (120 images, 209 objects). Differences in AP below about 3.2 points",
        "one training with one seed",
        "Fewer than 10 test objects, so hardly judged: dog.",
        "Not tested at all, the test set has no such objects: bus.",
        "less than half of the overall AP: cat (AP 10.0).",
        "AP 5.0 against 30.0 overall",
        "Visibly worse than control in: AP/car.",
        "checked on 64 images",
        "8 bit integers",
    ):
        assert words in text, words
    several = {**full, "entries": [{**entry, "runs": [{}] * 3} for entry in full["entries"]]}
    assert "one seed" not in " ".join(limits(weak, several, EXPORT))
    large = {**weak, "images": 5000, "AP_small": 20.0, "per_class": {"car": part}}
    assert len(limits(large, None, EXPORT)) == 3  # one seed, other places, the check of the export


def test_private_paths_are_shortened() -> None:
    assert shorten("/home/me/a/b.pt") == ".../b.pt"
    assert shorten("teacher=/home/me/b.pt") == "teacher=.../b.pt"
    assert shorten("[/x/y.pt,~/z/w.pt]") == "[.../y.pt,.../w.pt]"
    assert shorten("C:\\Users\\me\\t.pt") == ".../t.pt"
    assert shorten({"a": ["/x/y", 3, None]}) == {"a": [".../y", 3, None]}
    for same in ("runs/distill", "yolo26n", "data/my set", "1/2", "detkd.losses.binary.BinaryLogits", "a and/or b"):
        assert shorten(same) == same


def test_config_text_keeps_zero_and_false() -> None:
    text = config_text({"epochs": 3, "trainer": {"mosaic": 0.0, "nbs": None, "cos_lr": False}, "a": {}, "out": "x"})
    assert yaml.safe_load(text) == {"epochs": 3, "trainer": {"mosaic": 0.0, "cos_lr": False}}


def test_run_of_weights_and_writing(run_folder: Path, tmp_path: Path) -> None:
    assert training_run(run_folder / "weights" / "last.pt") == run_folder
    assert training_run(run_folder) == run_folder
    alone = tmp_path / "official.pt"
    alone.touch()
    assert training_run(alone) is None
    assert training_run("yolo26n.pt") is None
    file = write_card("# x\n", tmp_path / "export")
    assert (file.name, file.read_text()) == (CARD_FILE, "# x\n")
