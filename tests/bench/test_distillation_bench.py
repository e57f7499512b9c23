from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import distillation as bench  # conftest.py puts scripts/bench on the path
import distillation_arms as arms
import distillation_run as run
import distillation_steps as steps
import distillation_table as tables
import numpy as np
import pytest

from detkd.data.records import DataSpec, DetectionSet, ImageRecord
from detkd.io import read_json, write_json


def test_arms_are_read() -> None:
    found = arms.parse_arms(["control,binary", "soft=binary", "a:binary+distill.alpha=0.3+~distill.terms.l1"])
    assert found == [
        arms.Arm("control", "control"),
        arms.Arm("binary", "binary"),
        arms.Arm("soft", "binary"),
        arms.Arm("a", "binary", ("distill.alpha=0.3", "~distill.terms.l1")),
    ]
    assert [arm.plain for arm in found] == [True, False, False, False]
    one, two = arms.parse_arms(["x:binary+distill.calibrate={head: 0.3, features: 0.1}++trainer.box=1,ultralytics"])
    assert one.words == ("distill.calibrate={head: 0.3, features: 0.1}", "+trainer.box=1")
    assert two.label == "ultralytics"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (["nothing"], "no recipe 'nothing'"),
        (["a/b:binary"], "can't be part of a file name"),
        (["a:binary+word"], "is no override"),
        (["binary", "binary+distill.alpha=0.1"], "binary is there twice"),
        (["control:binary"], "the name of a control"),
    ],
)
def test_bad_arms_are_refused(text: list[str], said: str) -> None:
    with pytest.raises(ValueError, match="--arms") as info:
        arms.parse_arms(text)
    assert said in str(info.value)


def test_command_line() -> None:
    given = bench.parse(["--plan", "funnel1", "--seeds", "3,4", "5"])
    assert given.sets == ["toy"]
    assert given.seeds == [3, 4, 5]
    told = [arm.label for arm in given.arms]
    assert told == ["control", *(method for method in arms.METHODS if method not in {"localization", "exposure"})]
    elsewhere = {arm.recipe for _, methods, _ in arms.PLANS.values() for arm in arms.parse_arms(methods)}
    assert {"control", "control_time", *arms.METHODS} == elsewhere, "a method that no plan measures"
    given = bench.parse([])
    assert (given.sets, given.seeds) == (["toy"], [0])
    with pytest.raises(SystemExit):
        bench.parse(["--arms", "nothing"])


def preset(*distilled: str) -> arms.Preset:
    return arms.Preset(
        data=("data=toy_demo",), student=arms.HALF, teacher="demo", words=("imgsz=64", "epochs=10"), distilled=distilled
    )


def test_words_of_an_arm() -> None:
    """The arm's own words win, and a word that a recipe has no key for is left out of it."""
    mine = preset("distill.region.fraction=0.05", "teacher.imgsz=128", "cache=views", "cache.views=4")
    control = arms.arm_words(mine, arms.Arm("control", "control"), teacher=None, seed=2, more=["distill.alpha=0.1"])
    assert not [word for word in control if word.startswith("distill.")]
    config = arms.resolve_config(control)
    assert config["distill"]["terms"] == {}
    assert (config["seed"], config["cache"]["views"], config["epochs"]) == (2, 4, 10)
    own = arms.Arm("a", "binary", ("epochs=3", "distill.region.fraction=0.2"))
    config = arms.resolve_config(arms.arm_words(mine, own, teacher="x.pt", seed=0, more=["epochs=5", "imgsz=96"]))
    assert (config["epochs"], config["imgsz"], config["teacher"]["path"]) == (3, 96, "x.pt")
    assert config["distill"]["region"]["fraction"] == 0.2
    config = arms.resolve_config(arms.arm_words(mine, arms.Arm("u", "ultralytics"), teacher=None, seed=0))
    assert config["teacher"]["imgsz"] is None
    assert "fraction" not in config["distill"]["region"]


def test_every_preset_and_plan_composes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DETKD_ASSETS", "somewhere")
    for name in arms.PRESETS:
        for recipe in ("control", "ultralytics"):
            words = arms.arm_words(arms.PRESETS[name], arms.Arm(recipe, recipe), teacher=None, seed=0)
            assert arms.resolve_config(words)["control"] is False
    for sets, methods, _ in arms.PLANS.values():
        assert set(sets) <= set(arms.PRESETS)
        arms.parse_arms(methods)
    monkeypatch.delenv("DETKD_ASSETS")
    with pytest.raises(ValueError, match="DETKD_ASSETS"):
        arms.with_assets(["data=ASSETS/x"])


def dataset(split: str, ids: list[int]) -> DetectionSet:
    none = np.zeros(0)
    records = tuple(
        ImageRecord(i, Path(f"/{split}{i}.jpg"), 64, 48, none.reshape(0, 4), none.astype(int), none.astype(bool), none)
        for i in ids
    )
    return DetectionSet(split, ("car",), (3,), records)


def test_val_and_test_are_pooled() -> None:
    spec = DataSpec("x", ("car",), {name: dataset(name, ids) for name, ids in (("val", [1, 2]), ("test", [1, 5, 9]))})
    both = run.pooled(spec)
    assert both.split == "val+test"
    assert [record.image_id for record in both.records] == [1, 2, 3, 4, 5]
    assert [record.path.name for record in both.records][2] == "test1.jpg"
    assert [record.meta["split"] for record in both.records] == ["val"] * 2 + ["test"] * 3
    assert both.category_ids == (3,)
    alone = DataSpec("x", ("car",), {"val": dataset("val", [4])})
    assert run.pooled(alone) is alone.splits["val"]


def test_weights_of_80_percent_of_the_epochs_are_kept() -> None:
    for epochs in range(3, 120):
        period = run.late_period(epochs)
        if period is None:
            assert epochs < 5
            continue
        kept = [epoch for epoch in range(epochs) if epoch % period == 0]
        assert period in kept
        assert abs((period + 1) / epochs - 0.8) <= 0.5 / epochs + 1e-9
    assert [run.late_period(n) for n in (1, 2, 10, 15)] == [None, None, 7, 11]


def write_record(folder: Path, label: str, seed: int, **more: Any) -> dict[str, Any]:
    """Leave what a finished run leaves."""
    record = {
        "set": "toy", "arm": label, "recipe": label, "seed": seed, "arm_words": [], "time_of": None,
        "initial_hash": "i", "batch_hash": "b", "labels_hash": "l", "steps": 20, "epochs": 10, "fingerprint": label,
        "train_seconds": 60.0, "seconds": 90.0, "threads": 1, "alarms": [], "teacher": None,
        "pooled": {"AP": 10.0, "AP50": 20.0, "images": 4, "split": "val+test"}, "nms_free": None,
        "late": {"AP50": 19.5}, "peak_memory": {"process": 1.0}, "config": {"epochs": 10},
        "environment": {"cpu": "x", "commit": "c", "versions": {"torch": "2", "ultralytics": "8"}}, **more,
    }  # fmt: skip
    write_json(folder / f"{label}-s{seed}" / "record.json", record)
    write_json(folder / f"{label}-s{seed}" / "run.json", {"status": "done"})
    return record


class Fake(bench.Queue):
    """Asks for runs without looking at data or weights."""

    def job(self, name: str, arm: arms.Arm, seed: int) -> dict[str, Any] | None:
        if self.words(name, arm, seed) is None:
            return None
        return {
            "set": name, "label": arm.label, "recipe": arm.recipe, "plain": arm.plain, "arm_words": list(arm.words),
            "initial_hash": "i", "fingerprint": arm.label, "config": {"epochs": self.asked, "seed": seed},
        }  # fmt: skip

    asked = 10


@pytest.fixture
def queue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a function that makes a queue whose processes only write records, and the list of those processes."""
    started: list[str] = []

    def process(command: list[str], check: bool) -> SimpleNamespace:
        folder = Path(command[-1])
        job = read_json(folder / "job.json")
        started.append(folder.name)
        if job["label"] == "pkd":
            return SimpleNamespace(returncode=1)
        seconds = 90.0 if job["label"] == "binary" else 60.0
        seed, config = job["config"]["seed"], job["config"]
        write_record(folder.parent, job["label"], seed, config=config, recipe=job["recipe"], train_seconds=seconds)
        return SimpleNamespace(returncode=0)

    monkeypatch.setattr(bench.subprocess, "run", process)

    def make(*labels: str, seeds: tuple[int, ...] = (0,), **more: Any) -> Fake:
        made = Fake(["toy"], arms.parse_arms(labels), seeds, folder=tmp_path / "runs", results=tmp_path / "res", **more)
        return made

    make.started = started  # type: ignore[attr-defined]
    return make


def test_finished_runs_are_read(queue: Any, tmp_path: Path) -> None:
    assert queue("control", "binary", seeds=(0, 1)).run()
    assert queue.started == ["control-s0", "binary-s0", "control-s1", "binary-s1"]
    assert sorted(path.name for path in (tmp_path / "res").iterdir())[0] == "toy-binary-s0.json"
    again = queue("control", "binary", "mgd", seeds=(0, 1))
    assert again.run()
    assert queue.started[4:] == ["mgd-s0", "mgd-s1"]
    assert again.estimate() == "nothing to train: all runs are finished"


def test_the_hours_are_told_before_anything_is_trained(
    queue: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two seeds of a control (30 minutes), of binary (60) and of a control of the time of binary (60): 5 hours."""
    import distillation_steps

    probed = []

    def seconds(job: dict[str, Any]) -> float:
        probed.append(job["label"])
        return {"control": 1800.0, "binary": 3600.0}[job["label"]]

    monkeypatch.setattr(distillation_steps, "probe_seconds", seconds)
    told = queue("control", "binary", "control_time", seeds=(0, 1)).estimate()
    assert told.startswith("6 runs to train, about 5.0 hours (one after the other")
    assert probed == ["control", "binary"], "a method is measured once, not for each seed"
    assert queue("control").run()  # a finished one says how long the next takes: 90 seconds
    assert queue("control", seeds=(0, 1)).estimate().startswith("1 runs to train, about 0.0 hours")
    assert probed == ["control", "binary"]


def test_other_settings_are_not_mixed(queue: Any) -> None:
    """A control with other settings stops the bench; another method is only named, unless it is to be repeated."""
    assert queue("control", "binary").run()
    later = queue("binary")
    later.asked = 12
    with pytest.raises(SystemExit, match=r"control seed 0: finished with other settings \(epochs\)"):
        later.run()
    assert len(queue.started) == 2
    later = queue("control", "binary", redo=True)
    later.asked = 12
    assert later.run()
    assert queue.started[2:] == ["control-s0", "binary-s0"]


def test_new_keys_that_are_off_do_not_count() -> None:
    old = {"config": {"epochs": 3, "teacher": {"imgsz": 64}}, "initial_hash": "i"}
    job = {"config": {"epochs": 3, "teacher": {"imgsz": 64, "half": None}}, "initial_hash": "i", "plain": False}
    assert bench.changed(old, job) == []
    job["config"]["data"] = {"use_test": True}
    old["config"]["data"] = {}
    assert bench.changed(old, job) == []
    job["config"]["data"] = {"use_test": False}
    assert bench.changed(old, job) == ["data.use_test"]
    job["config"]["data"] = {}
    job["config"]["teacher"] = {"imgsz": 96, "half": True}
    assert bench.changed(old, job) == ["teacher.half", "teacher.imgsz"]
    assert bench.changed(old, {**job, "plain": True}) == []
    job["config"]["cache"] = {"kind": "views", "views": 4, "seed": 0}
    assert bench.changed(old, {**job, "plain": True}) == ["views"]
    assert bench.changed(old, {**job, "plain": True, "initial_hash": "j"}) == ["views", "the initial weights"]


def test_an_interrupted_run_with_other_settings_starts_anew(queue: Any, tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "toy" / "control-s0"
    for epochs, left in ((10, True), (12, False)):
        write_json(folder / "job.json", {"config": {"epochs": epochs, "seed": 0}, "plain": True})
        (folder / "resume.pt").touch()
        assert queue("control").run()
        assert (folder / "resume.pt").exists() is left
        (folder / "record.json").unlink()


def test_failures_are_told(queue: Any) -> None:
    made = queue("control", "pkd", "binary")
    assert not made.run()
    assert queue.started == ["control-s0", "pkd-s0", "binary-s0"]
    assert made.failed == ["toy pkd seed 0: the training ended with code 1"]


def test_equal_time_follows_the_method(queue: Any) -> None:
    """It waits for both and has as many epochs as fit into the method's time."""
    alone = queue("control_time")
    assert not alone.run()
    assert "binary and control have to be finished first" in alone.failed[0]
    made = queue("control_time", "control", "binary")
    assert made.run()
    assert queue.started == ["control-s0", "binary-s0", "control_time-s0"]
    assert made.epochs("toy", 0) == 15


def test_two_processes_share_the_work(queue: Any, tmp_path: Path) -> None:
    made = queue("control", "binary")
    with bench.claimed(made.place("toy", "control", 0)) as mine:
        assert mine
        with bench.claimed(made.place("toy", "control", 0)) as again:
            assert not again
        assert made.run()
        assert queue.started == ["binary-s0"]
        assert made.busy("toy", 0)
    assert not made.busy("toy", 0)
    with bench.training_lock(made.place("toy", "control", 0)):  # of a training whose caller was killed
        assert made.run()
        assert queue.started == ["binary-s0"]
    assert made.run()
    assert queue.started == ["binary-s0", "control-s0"]


def test_an_interrupted_training_goes_on(tmp_path: Path) -> None:
    write_json(tmp_path / "job.json", {"label": "a"})
    assert run.ready(tmp_path, {"seed": 0}) is False
    assert run.ready(tmp_path, {"seed": 0}) is False  # stopped before its first epoch was saved
    assert read_json(tmp_path / "job.json") == {"label": "a"}
    (tmp_path / "resume.pt").touch()
    assert run.ready(tmp_path, {"seed": 0}) is True


def write_answers(folder: Path, label: str, seed: int, right: int) -> None:
    """Leave labels of four images with two cars each, and detections that find so many of them, and one that is none."""
    boxes = [[10.0, 10, 20, 20], [60.0, 60, 30, 30]]
    truth = {
        "images": [{"id": i, "width": 128, "height": 128, "file_name": f"{i}.jpg"} for i in range(1, 5)],
        "annotations": [
            {"id": 2 * i + b, "image_id": i, "category_id": 1, "bbox": boxes[b], "area": 400, "iscrowd": 0}
            for i in range(1, 5)
            for b in range(2)
        ],
        "categories": [{"id": 1, "name": "car"}],
    }
    found = [
        {"image_id": a["image_id"], "category_id": 1, "bbox": a["bbox"], "score": 0.9 - 0.01 * n}
        for n, a in enumerate(truth["annotations"][:right])  # type: ignore[index, arg-type]
    ]
    found.append({"image_id": 1, "category_id": 1, "bbox": [100, 5, 9, 9], "score": 0.5 if right < 8 else 0.95})
    place = folder / f"{label}-s{seed}" / "pooled"
    write_json(place / "ground_truth.json", truth)
    write_json(place / "detections.json", found)


@pytest.fixture
def compared(tmp_path: Path) -> Path:
    """Two methods and a control, two seeds each, compared; returns the folder of the records."""
    runs, results = tmp_path / "runs", tmp_path / "res"
    for seed in (0, 1):
        for label, right in (("control", 4), ("binary", 8), ("ultralytics", 5 + seed)):
            record = write_record(runs / "toy", label, seed)
            write_answers(runs / "toy", label, seed, right)
            config = {"epochs": 10, "imgsz": 64, "batch": 8, "student": {"path": "s.pt"}, "teacher": {"path": "t.pt"}}
            write_json(results / f"toy-{label}-s{seed}.json", {**record, "config": config})
    write_json(results / "steps.json", {"toy": {"binary": {"ratio": 0.95}}})
    tables.compare_all(runs, results, ["toy"])
    return results


def test_differences_are_paired_over_seeds_and_images(compared: Path) -> None:
    found = read_json(compared / "summary.json")["toy"]
    gain = found["binary"]["over_control"]
    assert gain["seeds"] == 2
    assert gain["images"] == 4
    assert gain["gain50"]["low"] < gain["gain50"]["mean"] < gain["gain50"]["high"]
    assert gain["gain50"]["mean"] > 30
    assert found["binary"]["over_ultralytics"]["gain50"]["mean"] < gain["gain50"]["mean"]
    assert "over_control" not in found["control"]
    assert found["control"]["false_alarms"] == {
        "recall": 0.5, "per_image": 0.0, "runs": found["control"]["false_alarms"]["runs"]
    }  # fmt: skip
    assert found["binary"]["false_alarms"]["per_image"] == 0.25  # its false alarm has the highest score


def test_methods_are_compared_with_other_controls_too(compared: Path) -> None:
    runs = compared.parent / "runs"
    for seed in (0, 1):
        record = write_record(runs / "toy", "plain14", seed, recipe="control", arm_words=["epochs=14"], steps=1400)
        write_answers(runs / "toy", "plain14", seed, 6)
        shown = read_json(compared / "toy-control-s0.json")["config"]
        write_json(compared / f"toy-plain14-s{seed}.json", {**record, "config": shown})
    tables.compare_all(runs, compared, ["toy"])
    found = read_json(compared / "summary.json")["toy"]
    assert found["binary"]["over_plain14"]["seeds"] == 2
    assert 0 < found["binary"]["over_plain14"]["gain50"]["mean"] < found["binary"]["over_control"]["gain50"]["mean"]
    assert found["plain14"]["over_control"]["gain50"]["mean"] > 0
    assert "over_plain14" not in found["control"]
    (line,) = [line for line in tables.markdown(compared).splitlines() if line.startswith("- AP50 over plain14: ")]
    assert "binary +" in line
    assert "ultralytics" in line
    assert "control" not in line


def test_comparisons_are_not_repeated(compared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = read_json(compared / "summary.json")
    monkeypatch.setattr(tables, "contrast", lambda *args: pytest.fail("compared again"))
    tables.compare_all(compared.parent / "runs", compared, ["toy"])
    assert read_json(compared / "summary.json") == before


def test_runs_that_do_not_match_are_left_out(compared: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = compared.parent / "runs"
    write_record(runs / "toy", "binary", 1, batch_hash="other")
    tables.compare_all(runs, compared, ["toy"])
    assert read_json(compared / "summary.json")["toy"]["binary"]["over_control"]["seeds"] == 1
    assert "batch_hash is other, the control's b" in capsys.readouterr().err.replace("\n", " ")


def test_what_has_to_match() -> None:
    same = {
        "initial_hash": "i",
        "batch_hash": "b",
        "labels_hash": "l",
        "steps": 10,
        "recipe": "binary",
        "arm_words": [],
    }
    assert tables.mismatch(same, same) is None
    assert tables.mismatch(same, {**same, "steps": 20}) == "steps is 20, the control's 10"
    assert tables.mismatch(same, {**same, "steps": 20, "recipe": "control_time"}) is None
    assert tables.mismatch(same, {**same, "steps": 20, "arm_words": ["epochs=20"]}) is None
    assert "initial_hash" in str(tables.mismatch(same, {**same, "initial_hash": "j"}))


def test_a_control_without_the_hidden_labels_sees_other_batches() -> None:
    """Students see the same as each other; the labelled images are those of the control."""
    facts = {"initial_hash": "i", "batch_hash": "b", "labels_hash": "l", "steps": 10, "arm_words": []}
    student = {**facts, "recipe": "binary", "config": {"data": {"labelled": 0.1}}}
    control = {**student, "recipe": "control", "batch_hash": "c"}
    assert tables.mismatch(control, student) is None
    assert tables.mismatch(control, {**student, "labels_hash": "m"}) == "labels_hash is m, the control's l"
    assert "batch_hash" in str(tables.mismatch(student, {**student, "batch_hash": "d"}))
    everything = {"data": {"labelled": None}}
    assert "batch_hash" in str(tables.mismatch({**control, "config": everything}, {**student, "config": everything}))


def test_the_page_says_when_most_labels_were_hidden(compared: Path) -> None:
    assert "Labels of" not in tables.markdown(compared)
    for file in compared.glob("toy-*.json"):
        record = read_json(file)
        write_json(file, {**record, "config": {**record["config"], "data": {"labelled": 0.1}}})
    assert "Labels of 10% of the training images" in tables.markdown(compared)


def test_footage_makes_other_batches_and_the_page_says_so(compared: Path) -> None:
    """A control sees no footage; a run without a recipe that learns from a teacher's boxes is no control."""
    facts = {"initial_hash": "i", "batch_hash": "b", "labels_hash": "l", "steps": 10, "arm_words": []}
    student = {**facts, "recipe": "binary", "config": {"unlabelled": {"path": "p", "labels": "both"}}}
    control, hard = {**student, "recipe": "control", "batch_hash": "c"}, {**student, "recipe": "none"}
    assert tables.mismatch(control, student) is None
    assert tables.mismatch(control, hard) is None
    assert not tables.is_control(hard)
    assert tables.is_control({**facts, "recipe": "none", "config": {}})
    for file in compared.glob("toy-*.json"):
        record = read_json(file)
        write_json(file, {**record, "config": {**record["config"], "unlabelled": {"path": "p", "labels": "both"}}})
    assert "students alone see those of `unlabelled` too (`both`)" in tables.markdown(compared)


def test_a_teacher_is_shown_at_each_size_it_was_asked_at() -> None:
    def one(arm: str, imgsz: int, ap: float) -> dict[str, Any]:
        teacher = {"imgsz": imgsz, "AP": ap, "AP50": 2 * ap}
        return {"arm": arm, "teacher": teacher, "config": {"teacher": {"path": "t"}}}

    told = tables.teachers_of([one("ultralytics", 160, 4.0), one("binary", 320, 15.0), one("combined", 320, 15.0)])
    assert told == ("Teacher `t` at 320 pixels AP 15.0, AP50 30.0; at 160 pixels AP 4.0, AP50 8.0 (for `ultralytics`).")


def test_table_and_object_from_the_committed_files_alone(compared: Path, capsys: pytest.CaptureFixture[str],
                                                        monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    monkeypatch.setattr(sys, "argv", ["distillation.py", "--table", "--json", "--results", str(compared)])
    assert bench.main() == 0
    said = json.loads(capsys.readouterr().out)
    assert set(said["toy"]) == {"binary", "ultralytics"}
    row = said["toy"]["binary"]
    assert set(row) == {"gain", "gain50", "seeds", "step_ratio"}
    assert set(row["gain"]) == {"mean", "low", "high"}
    assert (row["seeds"], row["step_ratio"]) == (2, 0.95)
    monkeypatch.setattr(sys, "argv", ["distillation.py", "--table", "--results", str(compared)])
    assert bench.main() == 0
    page = (compared / "distillation.md").read_text(encoding="utf-8")
    lines = [line for line in page.splitlines() if line.startswith("| ")]
    assert len(lines) == 4
    assert lines[1].startswith("| control | 2 | 10.0 | 20.0 |")
    assert lines[3].startswith("| binary |")
    assert lines[3].endswith("| 0.95 | - |")
    assert len({line.count("|") for line in lines}) == 1
    assert "its AP50 rises +0.5 points in the last fifth" in page


def test_nothing_is_stored_yet(tmp_path: Path) -> None:
    assert tables.summarise(tmp_path) == {}
    assert "No runs are stored yet." in tables.markdown(tmp_path)


def test_paths_of_this_machine_are_not_published(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DETKD_ASSETS", "/big/disk")
    content = {"path": "/big/disk/weights/x.pt", "own": f"{arms.REPO}/runs/t", "n": 1.5}
    assert run.without_paths(content) == {"path": "$DETKD_ASSETS/weights/x.pt", "own": "./runs/t", "n": 1.5}


def test_steps_are_timed_in_turns() -> None:
    order: list[str] = []
    found = steps.clock({name: lambda name=name: order.append(name) for name in "ab"}, 4)
    assert [len(values) for values in found.values()] == [4, 4]
    assert order == list("ba" + "ab" + "ba") + list("abba" * 2)
    assert steps.ratio([2.0, 9.0, 4.0], [1.0, 3.0, 2.0]) == 2.0


@pytest.mark.slow
def test_a_small_matched_run(repo: Path, tmp_path: Path) -> None:
    """Control, a cached method and a live one from one initial file; a second call trains nothing."""
    arguments = [
        "--set", "toy", "--arms", "control,binary,cwd", "--epochs", "1", "--threads", "1", "--no-estimate",
        "--runs", "runs", "--results", "res", "--override", "imgsz=64", "data.images={train: 16, val: 4, test: 6}",
        f"data.path={tmp_path / 'toy'}", "cache.views=1", f"cache.path={tmp_path / 'cache'}", "workers=0",
    ]  # fmt: skip
    command = [sys.executable, str(Path(bench.__file__))]
    environment = {**os.environ, "COLUMNS": "200"}
    first = subprocess.run([*command, *arguments], cwd=tmp_path, capture_output=True, text=True, env=environment)
    assert first.returncode == 0, first.stdout + first.stderr
    records = [read_json(tmp_path / "res" / f"toy-{name}-s0.json") for name in ("control", "binary", "cwd")]
    for key in ("initial_hash", "batch_hash", "labels_hash", "steps", "shown"):
        assert len({record[key] for record in records}) == 1
    control, cached, live = records
    assert control["teacher"] is None
    assert cached["teacher"] == live["teacher"]
    assert cached["cache"]["kind"] == "views"
    assert live["cache"] is None
    assert control["pooled"]["images"] == 10
    assert control["test"]["images"] == 6
    assert control["nms_free"]["AP"] is not None
    assert control["peak_memory"]["process"] > 0.1
    assert str(tmp_path / "res") not in json.dumps(records)
    again = subprocess.run([*command, *arguments], cwd=tmp_path, capture_output=True, text=True, env=environment)
    assert again.returncode == 0, again.stderr
    assert "toy control seed 0: finished" in again.stderr
    assert "of training" not in again.stderr
    table = subprocess.run([*command, "--table", "--json", "--results", "res"], cwd=tmp_path, capture_output=True,
                           text=True, check=True)  # fmt: skip
    assert set(json.loads(table.stdout)["toy"]) == {"binary", "cwd"}


def test_help_names_everything(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        bench.parse(["--help"])
    said = capsys.readouterr().out
    for word in ("--set", "--arms", "--seeds", "--plan", "--steps", "--table", "--json", "--redo"):
        assert word in said
    assert isinstance(bench.parse([]), argparse.Namespace)
