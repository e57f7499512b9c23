from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from detkd.errors import ConfigError, DataError
from detkd.evaluation.metrics import METRIC_NAMES
from detkd.evaluation.side import make_run
from detkd.evaluation.truth import load_truth
from detkd.report.comparison import SCHEMA, Comparison, compare
from detkd.report.files import csv_text
from tests.evaluation.worlds import make_detections
from tests.report.conftest import KNOWN, QUICK, run_of, side_of, world

NAMES = ("car", "=SUM(A1)|x", "a<b [y] $z", "toothbrush")


def renamed(gt: dict[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    return {**gt, "categories": [{**c, "name": n} for c, n in zip(gt["categories"], names, strict=True)]}


def test_rows_hold_what_the_sides_say(better: Comparison) -> None:
    assert [row.key for row in better.rows[:12]] == list(METRIC_NAMES)
    assert better.row("AP50/car").before == better.before.number("AP50/car")
    for row in better.rows:
        values = [row.before, row.after]
        if None in values:
            assert row.delta is None
            continue
        assert row.delta == pytest.approx(row.after - row.before)  # type: ignore[operator]
        contrast = row.contrast
        if contrast.low is not None:
            assert contrast.low <= contrast.delta <= contrast.high  # type: ignore[operator]
        if row.gap_closed is not None:
            assert row.gap_closed == pytest.approx(row.delta / (row.teacher - row.before))  # type: ignore[operator]
    ap = better.row("AP")
    assert ap.objects == better.before.runs[0].metrics.objects
    assert better.row("AP/toothbrush").before is None
    cameras = [row for row in better.rows if row.slice and row.slice.field == "camera" and row.metric == "AP"]
    assert {row.slice.value for row in cameras if row.slice} == {"gate", "yard"}
    assert sum(row.images for row in cameras) == ap.images == 60
    assert sum(row.objects for row in cameras) == ap.objects
    with pytest.raises(KeyError):
        better.row("AP/van")


def test_verdicts(better: Comparison) -> None:
    assert better.verdict["word"] == "improved"
    assert better.verdict["sentence"].startswith("new ")
    assert "old" in better.verdict["sentence"]
    assert better.control_verdict is not None
    assert "plain" in better.control_verdict["sentence"]
    assert "test set" in better.verdict["seeds"]
    turned = compare(replace(better.after, name="a"), replace(better.before, name="b"), settings=QUICK, progress=False)
    assert turned.verdict["word"] == "regressed"
    assert turned.control_verdict is None
    assert turned.row("AP").delta == pytest.approx(-better.row("AP").delta)  # type: ignore[operator]


def test_nothing_gained_is_said_so(gt: dict[str, Any]) -> None:
    same = [run_of(gt, seed, 0.1) for seed in (7, 8)]
    result = compare(side_of("a", "before", same[0]), side_of("b", "after", same[1]), settings=QUICK, progress=False)
    assert result.verdict["word"] == "no visible difference"
    assert "smallest visible" in result.verdict["sentence"]


def test_other_ground_truth_is_refused(gt: dict[str, Any]) -> None:
    before = side_of("old", "before", run_of(gt, 1, 0.1))
    other = world(50)
    with pytest.raises(
        DataError,
        match=r"ground truth differs, before 'old' was evaluated on .* \(60 images, .*after 'new' .*50 images",
    ):
        compare(before, side_of("new", "after", run_of(other, 1, 0.1)), settings=QUICK, progress=False)
    classes = renamed(gt, ("a", "b", "c", "d"))
    with pytest.raises(DataError, match=r"class names differ, before 'old' has \['car'.*'new' has \['a', 'b'"):
        compare(before, side_of("new", "after", run_of(classes, 1, 0.1)), settings=QUICK, progress=False)
    with pytest.raises(ConfigError, match="every side needs a name of its own, got old, old"):
        compare(before, side_of("old", "after", run_of(gt, 2, 0.1)), settings=QUICK, progress=False)


def notes(gt: dict[str, Any], settings: dict[str, Any], role: str = "after") -> dict[str, list[str]]:
    before = side_of("old", "before", run_of(gt, 1, 0.1))
    after = side_of("new", "after", run_of(gt, 2, 0.1, settings if role == "after" else KNOWN))
    teacher = side_of("big", "teacher", run_of(gt, 3, 0.1, settings)) if role == "teacher" else None
    found: dict[str, list[str]] = {"differs": [], "warning": [], "info": []}
    for note in compare(before, after, teacher=teacher, settings=QUICK, progress=False).notes:
        found[note.level].append(note.text)
    return found


def test_notes(gt: dict[str, Any]) -> None:
    assert notes(gt, KNOWN)["differs"] == []
    other = {**KNOWN, "conf": 0.25, "head": "one2many+nms"}
    del other["max_det"]
    assert notes(gt, other)["differs"] == [
        "conf differs: old 0.001, new 0.25",
        "max_det differs: old 300, new not given",
        "head differs: old one2one (NMS-free), new one2many+nms",
    ]
    blind = make_run(load_truth(gt), make_detections(gt, 9, decimals=4), source="x.json")
    before = side_of("old", "before", run_of(gt, 1, 0.1))
    said = compare(before, side_of("new", "after", blind), settings=QUICK, progress=False)
    assert "new: how its detections were made is not known (no settings with them)" in [n.text for n in said.notes]
    higher = notes(gt, {**KNOWN, "imgsz": 960}, role="teacher")
    assert higher["differs"] == []
    assert "imgsz differs: old 640, big 960" in higher["info"]
    twice = compare(before, replace(before, name="new"), settings=QUICK, progress=False)
    assert "identical detections" in next(n.text for n in twice.notes if n.level == "differs")


def test_two_that_find_nothing_can_not_be_compared(gt: dict[str, Any]) -> None:
    truth = load_truth(gt)
    box = {"bbox": [0.0, 0.0, 1.0, 1.0], "category_id": int(gt["categories"][0]["id"])}
    lost = [
        make_run(truth, [{**box, "image_id": gt["images"][0]["id"], "score": s}], source=f"{s}.json")
        for s in (0.1, 0.2)
    ]
    sides = [side_of("old", "before", lost[0]), side_of("new", "after", lost[1])]
    good = side_of("big", "teacher", run_of(gt, 3, 0.1))
    said = [note.text for note in compare(*sides, teacher=good, settings=QUICK, progress=False).notes]
    (text,) = [text for text in said if "next to nothing" in text]
    assert "(AP old 0.00, new 0.00)" in text
    better = compare(sides[0], side_of("new", "after", run_of(gt, 3, 0.1)), settings=QUICK, progress=False)
    assert not any("next to nothing" in note.text for note in better.notes)


def test_a_cut_ranking_is_said_in_red(gt: dict[str, Any]) -> None:
    """The same detector with its low scores cut off is no worse detector."""
    found = [*make_detections(gt, 1, decimals=4), {**make_detections(gt, 1, decimals=4)[0], "score": 0.001}]
    low = make_run(load_truth(gt), found, source="low.json", settings=KNOWN)
    cut = make_run(load_truth(gt), [d for d in found if d["score"] >= 0.25], source="cut.json", settings=KNOWN)
    sides = side_of("all", "before", low), side_of("cut", "after", cut)
    result = compare(*sides, settings=QUICK, progress=False)
    (note,) = [note.text for note in result.notes if note.level == "differs"]
    assert note.startswith("lowest score differs: all 0.0001, cut 0.25")


def test_several_seeds(gt: dict[str, Any]) -> None:
    """The mean of the seeds is compared, and the sentence about one run each is gone."""
    old = [run_of(gt, seed, 0.2, train=seed) for seed in (1, 2, 3)]
    new = [run_of(gt, seed + 10, 0.06, train=seed) for seed in (1, 2, 3)]
    result = compare(side_of("old", "before", *old), side_of("new", "after", *new), settings=QUICK, progress=False)
    means = [sum(run.metrics.AP or 0.0 for run in runs) / 3 for runs in (old, new)]
    assert (result.row("AP").before, result.row("AP").after) == (pytest.approx(means[0]), pytest.approx(means[1]))
    one = compare(side_of("old", "before", old[0]), side_of("new", "after", new[0]), settings=QUICK, progress=False)
    assert one.verdict["seeds"] != result.verdict["seeds"]
    assert [entry["seed"] for entry in result.to_dict()["entries"][0]["runs"]] == [1, 2, 3]
    again = compare(
        side_of("old", "before", *old), side_of("new", "after", old[0], old[0]), settings=QUICK, progress=False
    )
    assert any("its 2 runs have identical detections" in note.text for note in again.notes)


def test_files(better: Comparison, tmp_path: Path) -> None:
    paths = better.write(tmp_path / "out")
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        f"compare.{s}" for s in ("csv", "html", "json", "md", "png")
    ]
    data = json.loads(paths["json"].read_text())
    assert data == better.to_dict()
    assert (data["schema"], data["kind"], [e["role"] for e in data["entries"]]) == (
        SCHEMA, "comparison", ["before", "after", "control", "teacher"],
    )  # fmt: skip
    first = data["rows"][0]
    assert first["delta_interval"] == [better.row("AP").contrast.low, better.row("AP").contrast.high]
    assert set(first["vs_control"]) == {"delta", "interval", "p", "verdict"}
    assert set(data["diagnosis"]["entries"]) == {"old", "new", "plain", "big"}
    lines = list(csv.DictReader(paths["csv"].read_text().splitlines()))
    assert len(lines) == len(better.rows)
    assert lines[0]["difference"] == f"{better.row('AP').delta:.4f}"
    assert {line["before"] for line in lines if line["class"] == "toothbrush"} == {""}
    page = paths["md"].read_text()
    assert page.startswith("# old → new: improved")
    assert "| big | 58.00 M |" in page
    assert "Against the control" in page
    assert paths["png"].read_bytes().startswith(b"\x89PNG")
    assert paths["html"].read_text().startswith("<!doctype html>")


def test_hostile_names_stay_text(gt: dict[str, Any], tmp_path: Path) -> None:
    odd = renamed(gt, NAMES)
    sides = [side_of(f"<b>{r}|*</b>", r, run_of(odd, n, 0.1)) for n, r in enumerate(("before", "after"))]
    paths = compare(*sides, settings=QUICK, progress=False).write(tmp_path)
    page = paths["md"].read_text()
    assert "=SUM(A1)\\|x" in page
    assert "a&lt;b \\[y\\] $z" in page
    rows = page.split("## Per class")[1].split("##")[0].replace("\\|", "").strip().splitlines()[2:]
    assert {row.count("|") for row in rows} == {rows[0].count("|")}
    assert "'=SUM(A1)|x" in paths["csv"].read_text()
    assert "<b>before" not in paths["html"].read_text()


def test_csv_runs_no_formula() -> None:
    assert [csv_text(t) for t in ("=1", "+1", "-1", "@a", "car", "")] == ["'=1", "'+1", "'-1", "'@a", "car", ""]


def test_unwritable_folder_is_named(better: Comparison, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"out: can't write .*compare\.html .*; choose a writable folder with out="):
        better.write(tmp_path / "file" / "out")


def test_terminal_view(better: Comparison) -> None:
    console = Console(width=150, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    with console.file:
        console.print(better)
    shown = console.export_text()
    for cell in ("AP small", "camera=gate", "58.00 M", "not judged", "95% interval", "Against the control", "test set"):
        assert cell in shown
    assert better.verdict["sentence"] in " ".join(shown.split())
