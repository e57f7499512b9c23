from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from detkd.errors import ConfigError, DataError
from detkd.evaluation import report
from detkd.evaluation.compare import ONE_RUN_NOTE, Comparison, Entry, compare
from detkd.evaluation.fail_if import FailIf, check_fail_if, parse_fail_if
from detkd.evaluation.metrics import METRIC_NAMES, ClassMetrics, Metrics

SETTINGS = {"conf": 0.001, "iou": 0.7, "imgsz": 640, "max_det": 300, "head": "one2one (NMS-free)", "nms": None}
NAMES = ("car", "=SUM(A1)|x", "a<b [y] $z", "none")


def metrics(ap: float, per_class: tuple[float, ...], **protocol: Any) -> Metrics:
    numbers: dict[str, Any] = dict.fromkeys(METRIC_NAMES, ap)
    numbers |= {"AP50": ap + 20, "AP_large": None}
    classes = {
        name: ClassMetrics(value, value + 10, value, value, 4, 2)
        for name, value in zip(NAMES[:3], per_class, strict=True)
    }
    classes[NAMES[3]] = ClassMetrics(None, None, None, None, 0, 0)
    base = {
        "gt": "gt.json",
        "gt_sha256": "abc123",
        "detections_sha256": f"of {ap}",
        "engine": "pycocotools",
        "engine_version": "2",
        "settings": SETTINGS,
        "warnings": [],
        "objects_by_area": {"small": 5, "medium": 4, "large": 0},
    }
    return Metrics(**numbers, per_class=classes, images=6, objects=12, detections=50, protocol={**base, **protocol})


def entry(role: str, ap: float, per_class: tuple[float, ...], cost: dict[str, Any] | None = None, **p: Any) -> Entry:
    return Entry(f"the {role}", role, metrics(ap, per_class, **p), cost, f"runs/{role}")


def three() -> Comparison:
    cost = {"params": 1_300_000, "gflops": 2.1, "size_mb": 2.8, "latency_ms": 12.0, "head": "one2one (NMS-free)"}
    before = entry("control", 20.0, (30.0, 10.0, 20.0), cost)
    after = entry("student", 23.0, (36.0, 8.0, 20.0), cost)
    return compare(before, after, entry("teacher", 30.0, (42.0, 10.05, 15.0), {**cost, "params": 58_000_000}))


def test_arithmetic_by_hand() -> None:
    """Overall 20 -> 23 under a teacher of 30: +3, 30 %. car 30 -> 36 of 42: 50 %. Others: no gap to close."""
    rows = three()
    ap = rows.row("AP")
    assert (ap.before, ap.after, ap.delta, ap.teacher, ap.gap_closed) == (20.0, 23.0, 3.0, 30.0, pytest.approx(0.3))
    assert rows.row("AP50").before == 40.0
    assert rows.row("AP/car").gap_closed == pytest.approx(0.5)
    assert rows.row("AP50/car").delta == pytest.approx(6.0)
    worse = rows.row(f"AP/{NAMES[1]}")
    assert (worse.delta, worse.gap_closed) == (-2.0, None)  # a gap of 0.05 is none
    ahead = rows.row(f"AP/{NAMES[2]}")
    assert (ahead.delta, ahead.gap_closed) == (0.0, None)  # the teacher is behind
    nothing = rows.row("AP_large")
    assert (nothing.before, nothing.delta, nothing.gap_closed) == (None, None, None)
    assert rows.row("AP/none").delta is None
    assert [row.key for row in rows.rows[:12]] == list(METRIC_NAMES)
    assert len(rows.rows) == 12 + 4 * 4
    assert (ap.objects, rows.row("AP_small").objects, rows.row("AP/car").objects) == (12, 5, 4)
    with pytest.raises(KeyError):
        rows.row("AP/van")


def test_other_ground_truth_is_refused() -> None:
    before = entry("before", 20.0, (1.0, 2.0, 3.0))
    after = entry("after", 20.0, (1.0, 2.0, 3.0), gt="other.json", gt_sha256="def456")
    with pytest.raises(
        DataError,
        match=r"ground truth differs, before .* on gt\.json \(6 images, 12 objects, abc123\), .*other\.json .*def456",
    ):
        compare(before, after)
    unknown = entry("after", 20.0, (1.0, 2.0, 3.0), gt_sha256=None)
    with pytest.raises(DataError, match="ground truth differs"):
        compare(unknown, unknown)
    with pytest.raises(DataError, match=r"ground truth differs.*teacher 'the teacher'"):
        compare(before, entry("after", 2.0, (1.0, 2.0, 3.0)), replace(after, name="the teacher", role="teacher"))


def test_other_classes_are_refused() -> None:
    before = entry("before", 20.0, (1.0, 2.0, 3.0))
    fewer = {name: before.metrics.per_class[name] for name in NAMES[:2]}
    after = replace(before, role="after", metrics=replace(before.metrics, per_class=fewer))
    with pytest.raises(DataError, match=r"class names differ, before .*'none'\], after 'the before' has \['car'"):
        compare(before, after)


def notes(first: Entry, second: Entry, teacher: Entry | None = None) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {"differs": [], "warning": [], "info": []}
    for note in compare(first, second, teacher).notes:
        found[note.level].append(note.text)
    return found


def test_notes() -> None:
    before = entry("before", 20.0, (1.0, 2.0, 3.0))
    alike = notes(before, entry("after", 21.0, (1.0, 2.0, 3.0)))
    assert alike == {"differs": [], "warning": [], "info": [ONE_RUN_NOTE]}
    other = {**SETTINGS, "conf": 0.25, "head": "one2many+nms"}
    del other["max_det"]
    found = notes(before, entry("after", 21.0, (1.0, 2.0, 3.0), settings=other, engine="hotcoco", warnings=["odd"]))
    assert found["differs"] == [
        "conf differs: the before 0.001, the after 0.25",
        "max_det differs: the before 300, the after not given",
        "head differs: the before one2one (NMS-free), the after one2many+nms",
    ]
    assert found["warning"] == ["the after: odd"]
    assert "engine differs: the before pycocotools 2, the after hotcoco 2" in found["info"][0]
    blind = notes(before, entry("after", 21.0, (1.0, 2.0, 3.0), settings={}))
    assert blind["warning"] == ["the after: how its detections were made is not known (no settings with them)"]
    teacher = entry("teacher", 30.0, (1.0, 2.0, 3.0), settings={**SETTINGS, "imgsz": 960})
    higher = notes(before, entry("after", 21.0, (1.0, 2.0, 3.0)), teacher)
    assert higher["differs"] == []
    assert higher["info"][0] == "imgsz differs: the before 640, the teacher 960"
    assert "identical detections" in notes(before, replace(before, role="after"))["differs"][0]


def test_files(tmp_path: Path) -> None:
    comparison = three()
    paths = comparison.write(tmp_path / "out")
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        f"compare.{s}" for s in ("csv", "json", "md", "png")
    ]
    data = json.loads(paths["json"].read_text())
    assert data == comparison.to_dict()
    assert data["schema"] == 1
    assert data["rows"][0]["gap_closed"] == pytest.approx(0.3)
    assert Metrics.from_dict(data["after"]["metrics"]) == comparison.after.metrics
    lines = list(csv.DictReader(paths["csv"].read_text().splitlines()))
    assert lines[0]["difference"] == "3.0000"
    assert {line["class"] for line in lines} == {"", "car", "'=SUM(A1)|x", "a<b [y] $z", "none"}
    assert [line["before"] for line in lines if line["metric"] == "AP_large"] == [""]
    page = paths["md"].read_text()
    assert "AP 20.00 → 23.00 (**+3.00** points), 30% of the teacher's lead." in page
    assert "| =SUM(A1)\\|x | AP | 4 | 10.00 | 8.00 | -2.00 | 10.05 | - |" in page
    assert "a&lt;b \\[y\\] $z" in page
    assert "| the teacher | 58.00 M |" in page
    assert "one run each" in page
    columns = {
        line.replace("\\|", "").count("|") for line in page.splitlines() if line.startswith("| =") or "car" in line
    }
    assert columns == {9}
    assert paths["png"].read_bytes().startswith(b"\x89PNG")
    assert paths["png"].stat().st_size > 20_000


def test_unwritable_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"out: can't write .*compare\.csv .*; choose a writable folder with out="):
        three().write(tmp_path / "file" / "out")


def test_csv_runs_no_formula() -> None:
    assert [report.csv_text(t) for t in ("=1", "+1", "-1", "@a", "car", "")] == ["'=1", "'+1", "'-1", "'@a", "car", ""]


def test_png_without_teacher_and_with_many_classes(tmp_path: Path) -> None:
    from matplotlib.image import imread

    comparison = three()
    shapes = []
    for count in (1, 60):
        per_class = {f"类 $c{n}_": ClassMetrics(10.0, 20.0, 5.0, 9.0, 3, 2) for n in range(count)}
        sides = [
            replace(e, metrics=replace(e.metrics, per_class=per_class)) for e in (comparison.before, comparison.after)
        ]
        png = compare(*sides).write(tmp_path)["png"]
        shapes.append(imread(png).shape)
    assert shapes[1][0] > shapes[0][0]
    assert shapes[1][0] < 2200


def test_terminal_view() -> None:
    console = Console(width=150, record=True, file=open("out.txt", "w"))  # noqa: SIM115
    with console.file:
        console.print(three())
    shown = console.export_text()
    for cell in ("+3.00", "30%", "AP small", "=SUM(A1)|x AP50", "a<b [y] $z AP", "58.00 M", "n/a", "one run each"):
        assert cell in shown


@pytest.mark.parametrize(
    ("expression", "parsed"),
    [
        ("AP<-0.5", FailIf("AP", "<", -0.5)),
        (" AP50 <= -1 ", FailIf("AP50", "<=", -1.0)),
        ("AR_small>2e0", FailIf("AR_small", ">", 2.0)),
        ("AP/traffic light>=.5", FailIf("AP/traffic light", ">=", 0.5)),
        ("AP50/a<b<=+1", FailIf("AP50/a<b", "<=", 1.0)),
    ],
)
def test_fail_if_grammar(expression: str, parsed: FailIf) -> None:
    assert parse_fail_if(expression) == parsed


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("AP", "fail_if: must be METRIC OP POINTS with OP one of < <= > >=, got 'AP'; write fail_if='AP<-0.5'"),
        ("", "must be METRIC OP POINTS"),
        ("AP==1", "must be METRIC OP POINTS"),
        ("<1", "must be METRIC OP POINTS"),
        ("AP<half", "the limit must be a number of points, got 'half'"),
        ("AP<nan", "the limit must be a number of points, got 'nan'"),
        ("AP<-0.5%", "the limit must be a number of points"),
        ("mAP<-0.5", "unknown metric, got 'mAP'; did you mean AP.* Known: AP, AP50, AP75, AP_small, .*AP/CLASS"),
        ("ap50<0", r"unknown metric, got 'ap50'; did you mean AP50\?"),
        ("AP_small/car<0", "unknown metric, got 'AP_small/car'"),
    ],
)
def test_fail_if_errors(expression: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_fail_if(expression)


def test_fail_if_checks_the_difference() -> None:
    comparison = three()
    assert check_fail_if(comparison, "AP<-0.5") == (
        False,
        "fail_if AP<-0.5: passed, AP after - before is +3.00 points",
    )
    verdict = check_fail_if(comparison, f"AP/{NAMES[1]}<=-2")
    assert verdict
    assert verdict.failed
    assert verdict.message == "fail_if AP/=SUM(A1)|x<=-2: failed, AP/=SUM(A1)|x after - before is -2.00 points"
    assert not check_fail_if(comparison, f"AP/{NAMES[1]}<-2")
    assert check_fail_if(comparison, "AP>=3")
    with pytest.raises(ConfigError, match=r"unknown metric, got 'AP/cat'; did you mean AP/car\?"):
        check_fail_if(comparison, "AP/cat<0")
    with pytest.raises(ConfigError, match=r"AP_large is n/a on this set"):
        check_fail_if(comparison, "AP_large<0")
