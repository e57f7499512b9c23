"""`detkd compare` and `detkd evaluate` on results files and on run folders made by hand: nothing is trained or run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from detkd import cli
from detkd.config import compose
from detkd.errors import ConfigError, DetkdError
from detkd.report.comparison import Comparison
from detkd.report.leaderboard import Leaderboard
from detkd.tasks.compare import compare_models
from detkd.tasks.entries import label
from detkd.tasks.evaluate import evaluate
from tests.evaluation.worlds import make_detections
from tests.report.conftest import KNOWN, run_of, world

FEW = ["report.resamples=100", "report.permutations=100", "report.frames=0", "report.objects=0"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Labels and three results files, from worse to better."""
    gt = world(30)
    (tmp_path / "gt.json").write_text(json.dumps(gt))
    for seed, (name, noise) in enumerate({"poor": 0.25, "fair": 0.1, "good": 0.03}.items()):
        (tmp_path / f"{name}.json").write_text(json.dumps(make_detections(gt, seed, noise=noise, decimals=4)))
    return tmp_path


def fake_run(folder: Path, name: str, seed: int, noise: float = 0.1, **settings: Any) -> Path:
    """A run folder as `detkd train` leaves it."""
    gt = world(30)
    found = make_detections(gt, seed, noise=noise, decimals=4)
    run = folder / name
    run.mkdir(parents=True)
    metrics = run_of(gt, seed, noise, {**KNOWN, **settings}).metrics.to_dict()
    (run / "metrics.json").write_text(json.dumps({"metrics": metrics, "cost": {"params": 5}, "weights": "w.pt"}))
    (run / "detections.json").write_text(json.dumps(found))
    (run / "ground_truth.json").write_text(json.dumps(gt))
    (run / "config.yaml").write_text(yaml.safe_dump({"seed": seed}))
    return run


def compare(folder: Path, *words: str) -> Any:
    return compare_models(compose("compare", [*words, *FEW, f"out={folder / 'out'}"]))


def test_results_files(folder: Path) -> None:
    gt = f"gt={folder / 'gt.json'}"
    result = compare(folder, f"before={folder / 'poor.json'}", f"after={folder / 'good.json'}", gt)
    comparison = result.comparison
    assert isinstance(comparison, Comparison)
    assert comparison.verdict["word"] == "improved"
    assert (comparison.before.name, comparison.after.name) == ("poor", "good")
    written = {path.name for path in result.folder.iterdir()}
    assert {f"compare.{kind}" for kind in ("html", "json", "md", "csv", "png")} <= written
    assert json.loads((result.folder / "run.json").read_text())["verdict"] == "improved"


def test_run_folders_bring_labels_cost_seed_and_settings(folder: Path) -> None:
    before, after = fake_run(folder, "a", 1, 0.2), fake_run(folder, "b", 2, 0.05, conf=0.25)
    comparison = compare(folder, f"before={before}", f"after={after}").comparison
    assert isinstance(comparison, Comparison)
    assert comparison.before.cost == {"params": 5}
    assert [side.runs[0].seed for side in comparison.sides] == [1, 2]
    assert "conf differs: a 0.001, b 0.25" in [note.text for note in comparison.notes if note.level == "differs"]


def test_other_settings_than_the_run_folders_need_the_images(folder: Path) -> None:
    runs = [f"before={fake_run(folder, 'a', 1)}", f"after={fake_run(folder, 'b', 2)}"]
    with pytest.raises(ConfigError, match=r"before: .*a were made with other imgsz \(640, now 320\); give data="):
        compare(folder, *runs, "imgsz=320")
    with pytest.raises(ConfigError, match=r"other nms \(one2one \(NMS-free\), now nms=true\)"):
        compare(folder, *runs, "nms=true")


def test_several_seeds_and_equal_names(folder: Path) -> None:
    seeds = {role: [fake_run(folder, f"{role}/net-s{n}", n + add, noise) for n in (1, 2)]
             for role, add, noise in (("old", 0, 0.2), ("new", 10, 0.05))}  # fmt: skip
    words = [f"{key}=[{','.join(map(str, seeds[role]))}]" for key, role in (("before", "old"), ("after", "new"))]
    comparison = compare(folder, *words).comparison
    assert isinstance(comparison, Comparison)
    assert [side.name for side in comparison.sides] == ["net x 2 (before)", "net x 2 (after)"]
    assert comparison.study.seeds["net x 2 (after)"] == (11, 12)


def test_leaderboard(folder: Path) -> None:
    gt = f"gt={folder / 'gt.json'}"
    files = ",".join(str(folder / f"{name}.json") for name in ("poor", "fair", "good"))
    board = compare(folder, f"runs=[{files}]", gt, f"reference={folder / 'fair.json'}").comparison
    assert isinstance(board, Leaderboard)
    assert [side.name for side in board.sides] == ["good", "fair", "poor"]
    assert board.reference.name == "fair"
    named = f"runs={{first: {folder / 'poor.json'}, second: [{folder / 'fair.json'},{folder / 'good.json'}]}}"
    board = compare(folder, named, gt).comparison
    assert isinstance(board, Leaderboard)
    assert {side.name: len(side.runs) for side in board.sides} == {"first": 1, "second": 2}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["before=poor.json", "after=good.json"], "gt: missing, needed to compare .*poor.json, .*good.json; name"),
        (["runs=[poor.json,good.json]", "before=poor.json"], "runs: gives all entries of a leaderboard, so leave out"),
        (["runs=[poor.json,good.json]", "fail_if=AP<0"], "fail_if: compares before and after, not runs="),
        (["runs=[poor.json]", "gt=gt.json"], "runs: a leaderboard needs two detectors or more, got 1"),
        (
            ["runs=poor.json", "gt=gt.json"],
            "runs: must be a list, names with values or the folder of a sweep, got poor.json",
        ),
        (
            ["before=poor.json", "after=good.json", "gt=gt.json", "report.resamples=5"],
            "report.resamples: must be a whole number of 100",
        ),
        (
            ["before=poor.json", "after=good.json", "gt=gt.json", "report.margin=-1"],
            "report.margin: must be a number above 0",
        ),
        (
            ["before=poor.json", "after=good.json", "gt=gt.json", "report.level=95"],
            "report.level: must be a number between 0.5 and 1",
        ),
        (["before=poor.json", "after=good.json", "gt=gt.json", "report.slices=[weather]"], "weather"),
        (["before=poor.json", "after=good.json", "gt=gt.json", "report.group_by=video"], "group_by.*video"),
        (["before=poor.json", "after=w.pt", "gt=gt.json"], r"after: .*w\.pt"),
        (["before=poor.json", "after=good.json", "gt=gt.json", "split=val"], "split: val of what"),
        (
            ["before=poor.json", "after=good.json", "gt=gt.json", "fail_if=AP/cap<0"],
            "unknown metric.*did you mean AP/car",
        ),
        (["before=poor.json", "after=good.json", "gt=gt.json", "report.margin=abc"], "report.margin: must be a number"),
        (["before=poor.json", "after=good.json", "gt=gt.json", "report.objects=-5"], "report.objects: must be a whole"),
        (["before=poor.json", "after=good.json", "gt=gt.json", "report.loggers=[xyz]"], "report.loggers: must be some"),
        (["before=[]", "after=good.json", "gt=gt.json"], "before: empty; name weights"),
    ],
)
def test_mistakes(folder: Path, words: list[str], message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    with pytest.raises(DetkdError, match=message):
        compare_models(compose("compare", [*FEW, *words, "out=out"]))


def test_run_folders_on_other_labels(folder: Path) -> None:
    """Ids are often just 1, 2, 3: the same ids with other file names are other images."""
    runs = [f"before={fake_run(folder, 'a', 1)}", f"after={fake_run(folder, 'b', 2)}"]
    gt = world(30)
    gt["annotations"] = gt["annotations"][1:]
    (folder / "mended.json").write_text(json.dumps(gt))
    comparison = compare(folder, *runs, f"gt={folder / 'mended.json'}").comparison
    assert isinstance(comparison, Comparison)
    assert any("other labels of these images" in note.text for note in comparison.notes)
    for image in gt["images"]:
        image["file_name"] = f"other/{image['file_name'].rpartition('/')[2]}x.jpg"
    (folder / "other.json").write_text(json.dumps(gt))
    with pytest.raises(ConfigError, match="were made with other images or labels"):
        compare(folder, *runs, f"gt={folder / 'other.json'}")


def test_an_evaluation_can_be_compared_afterwards(folder: Path) -> None:
    for name in ("poor", "good"):
        words = [f"detections={folder / name}.json", f"gt={folder / 'gt.json'}", f"out={folder / 'runs' / name}", *FEW]
        evaluate(compose("evaluate", words))
    comparison = compare(folder, f"before={folder / 'runs/poor'}", f"after={folder / 'runs/good'}").comparison
    assert isinstance(comparison, Comparison)
    assert comparison.verdict["word"] == "improved"


def test_gate_sets_the_exit_status(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    words = ["compare", "gt=gt.json", *FEW, "before=good.json", "after=poor.json"]
    assert cli.main([*words, "fail_if=AP<-0.5", "out=a"]) == cli.CONDITION_MET
    assert cli.main([*words, "fail_if=AP<-99", "out=b"]) == 0


def test_evaluation_of_a_results_file_has_intervals_slices_and_a_diagnosis(folder: Path) -> None:
    words = [f"detections={folder / 'good.json'}", f"gt={folder / 'gt.json'}", f"out={folder / 'e'}", *FEW]
    result = evaluate(compose("evaluate", words))
    record = json.loads((folder / "e" / "metrics.json").read_text())
    low, high = record["intervals"]["AP"]
    assert low < result.metrics.AP < high
    assert {(part["field"], part["value"]) for part in record["slices"]} >= {("camera", "gate"), ("camera", "yard")}
    assert record["diagnosis"]["working_point"]["f1"] > 0
    assert record["diagnosis"]["yolo_val"]["parts"]
    assert record["statistics"]["resamples"] == 100


def test_labels() -> None:
    assert label([Path("runs/x/weights/last.pt")], "before") == "x"
    assert label([Path("a/results.json")], "before") == "results"
    assert label([Path("runs/student-s0"), Path("runs/student-s1")], "after") == "student x 2"
    assert label([Path("runs/seeds/0"), Path("runs/seeds/1")], "after") == "seeds x 2"
    assert label([Path("glass1.json"), Path("glass2.json")], "after") == "glass x 2"
    assert label([Path("runs/lr0.01")], "after") == "lr0.01"
