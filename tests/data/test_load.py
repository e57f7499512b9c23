from __future__ import annotations

import io
import json
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from detkd.data.coco import from_coco, to_coco
from detkd.data.load import load_data, summary_table, write_report
from detkd.errors import DataError
from tests.data.sets import coco, coco_content, draw, snapshot, voc, write_coco, write_yolo, yolo

MAKERS: dict[str, Callable[[Path], Path]] = {"coco": coco, "yolo": yolo, "voc": voc}


class Bomb:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch exploded",)


@pytest.mark.parametrize("kind", MAKERS)
def test_formats_are_recognised_and_survive_the_way_through_coco(tmp_path: Path, kind: str) -> None:
    spec = load_data(MAKERS[kind](tmp_path))
    assert list(spec.splits) == ["train", "val"]
    assert spec.skipped == ()
    for name, dataset in spec.splits.items():
        assert dataset.names == spec.names
        assert all(r.path.is_absolute() for r in dataset.records)
        again = from_coco(to_coco(dataset), split=name)
        assert [r.classes.tolist() for r in again.records] == [r.classes.tolist() for r in dataset.records]
        assert [r.crowd.tolist() for r in again.records] == [r.crowd.tolist() for r in dataset.records]


@pytest.mark.parametrize("kind", MAKERS)
@pytest.mark.parametrize("damage", [False, True])
def test_nothing_is_written_and_no_cache_is_opened(tmp_path: Path, kind: str, damage: bool) -> None:
    """Watches every file the interpreter opens, in a process of its own."""
    root = tmp_path / "user's data"
    source = MAKERS[kind](root)
    for folder in (root, *[path for path in root.rglob("*") if path.is_dir()]):
        (folder / "labels.cache").write_bytes(pickle.dumps(Bomb()))
        (folder / "train.cache").write_bytes(pickle.dumps(Bomb()))
    if damage:
        image = next(root.rglob("a.jpg"), root / "images/1.jpg")
        image.write_bytes(image.read_bytes()[:-40])  # what Ultralytics would "repair" in place
    for path in sorted(root.rglob("*"), reverse=True):
        path.chmod(0o555 if path.is_dir() else 0o444)
    root.chmod(0o555)
    before = snapshot(root)
    script = (
        "import json, os, sys\n"
        "seen = []\n"
        "flags = os.O_WRONLY | os.O_RDWR | os.O_CREAT\n"
        "def hook(event, args):\n"
        "    if event == 'open' and isinstance(args[0], (str, bytes)):\n"
        "        seen.append((os.fsdecode(args[0]), bool((args[2] or 0) & flags)))\n"
        "    elif event in ('os.remove', 'os.rename', 'os.mkdir', 'os.chmod', 'os.truncate', 'os.utime'):\n"
        "        seen.append((str(args[0]), True))\n"
        "from detkd.data.load import load_data\n"
        "sys.addaudithook(hook)\n"
        "spec = load_data({'path': sys.argv[1], 'verify': 'full', 'on_bad': 'skip'})\n"
        "print(json.dumps([seen, len(spec.skipped)]))\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(source)], capture_output=True, text=True, check=True)
    seen, skipped = json.loads(done.stdout)
    inside = [(name, written) for name, written in seen if name.startswith(str(root))]
    assert any(name.endswith(".jpg") for name, _ in inside), "the hook sees the images being read"
    assert not [name for name, written in inside if written or name.endswith(".cache")]
    assert skipped == int(damage)
    assert snapshot(root) == before
    assert not (tmp_path / "exploded").exists()
    for path in (root, *root.rglob("*")):  # so that pytest can clean up
        path.chmod(0o755)


def test_errors_count_the_rest_and_skip_reports_it(tmp_path: Path) -> None:
    lines = "0 0.5 0.5 0.5 0.5\n0 0.5\n0 0.5\n9 0.5 0.5 0.5 0.5\n"
    file = write_yolo(tmp_path / "set", {"train/a": lines, "val/b": ""})
    (tmp_path / "set/images/val/c\nd.jpg").touch()
    with pytest.raises(DataError) as caught:
        load_data(file)
    text = str(caught.value)
    assert text.startswith(f"data: {tmp_path}/set/labels/train/a.txt:2: has 2 numbers")
    assert "(label-line), and 3 more problems (label-line 1, unknown-class 1, empty-file 1); repair" in text
    assert text.endswith("set data.on_bad=skip to leave them out")
    spec = load_data({"path": file, "on_bad": "skip"})
    report = write_report(spec, tmp_path / "run")
    content = json.loads(report.read_text())
    assert report == tmp_path / "run/skipped.json"
    assert (content["skipped"], content["problems"]) == (4, {"label-line": 2, "unknown-class": 1, "empty-file": 1})
    assert content["items"][0] == {
        "split": "train", "where": f"{tmp_path}/set/labels/train/a.txt:2", "problem": "label-line",
        "detail": "has 2 numbers, needs 5 (class x y width height) or a polygon (class and 3 or more x y)",
    }  # fmt: skip
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["skipped.json"]


def test_report_into_a_folder_that_cant_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"^out: can't write .*skipped\.json"):
        write_report(load_data(coco(tmp_path / "set")), tmp_path / "file")


def test_nothing_left(tmp_path: Path) -> None:
    root = write_coco(tmp_path, train=coco_content(1))
    (root / "images/1.jpg").write_bytes(b"")
    with pytest.raises(DataError, match=r"data\.train: no usable image is left of 1; .*empty-file"):
        load_data(root, on_bad="skip")


def test_summary(tmp_path: Path) -> None:
    content = coco_content(3)
    content["annotations"][0].update(iscrowd=1)
    content["annotations"].pop()
    content["annotations"][1]["bbox"] = [0, 0, 0, 0]
    root = write_coco(tmp_path, train=content, val=coco_content(2, 11))
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(summary_table(load_data(root, on_bad="skip")))
    rows = [
        [cell.strip() for cell in line.strip("│ ").split("│")]
        for line in console.export_text().splitlines()
        if "│" in line
    ]
    assert rows == [
        ["images", "3", "2"],
        ["backgrounds", "2", "0"],
        ["boxes", "0", "2"],
        ["crowd", "1", "0"],
        ["skipped", "1", "0"],
        ["car", "0", "2"],
        ["truck", "0", "0"],
    ]


def test_many_classes_are_cut_off_in_the_table(tmp_path: Path) -> None:
    names = {number: f"n{number}" for number in range(30)}
    spec = load_data(write_yolo(tmp_path, {"train/a": "29 0.5 0.5 0.5 0.5", "val/b": ""}, names=names))
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(summary_table(spec))
    text = console.export_text()
    assert "n29" in text
    assert "10 rarer classes" in text
    assert "n25" not in text


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ({"path": "none.yaml"}, r"data\.path: no such file or folder, got .*none\.yaml"),
        ({"path": "here/none", "format": "coco"}, r"data\.path: no such file or folder"),
        ({"path": "here"}, r"data\.path: no labels recognised in .*here; expected annotations/\*\.json"),
        ({"path": "here/a.txt"}, r"data\.path: can't tell the format of"),
        ({}, r"data\.path: must be a data YAML, COCO JSON or folder, got nothing"),
        ({"path": 5}, r"data\.path: must be"),
        (5, r"data: must be a path or a mapping, got a int"),
        ({"path": "here", "fromat": "coco"}, r"data\.fromat: no such key; did you mean data\.format\?"),
        ({"path": "here", "format": "coca"}, r"data\.format: must be one of auto, coco.*did you mean coco\?"),
        ({"path": "here", "on_bad": "stop"}, r"data\.on_bad: must be error or skip, got 'stop'"),
        ({"path": "here", "verify": 3}, r"data\.verify: must be header or full, got 3"),
        ({"path": "here", "leakage": "x"}, r"data\.leakage: must be one of warn, error, off"),
        ({"path": "here", "train": 5}, r"data\.train: must be a folder"),
        ({"path": "here", "images": 5}, r"data\.images: must be the folder"),
        ({"path": "here", "annotations": 5}, r"data\.annotations: must be a mapping"),
        ({"path": "here", "train": "x.json"}, r"data\.train: no such file, got x\.json; looked for .*here/x\.json"),
        ({"path": "here", "names": []}, r"data\.names: there are no classes"),
        ({"path": "here", "format": "toy"}, r"data\.folder: the toy set isn't drawn in .*here"),
        (
            {"path": "coco8.yaml", "format": "ultralytics"},
            r"data\.path: coco8\.yaml is found or downloaded through Ultralytics",
        ),
    ],
)
def test_keys_are_checked(tmp_path: Path, source: Any, words: str) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "here/a.txt").touch()
    with pytest.raises(DataError, match=words) as caught:
        load_data(source)
    assert "\n" not in str(caught.value)


def test_a_resolver_finds_what_ultralytics_knows(tmp_path: Path) -> None:
    file = yolo(tmp_path / "somewhere")
    asked: list[str] = []

    def resolver(name: str) -> Path:
        asked.append(name)
        return file

    source = {"name": "mini", "format": "ultralytics", "path": "mini.yaml"}
    spec = load_data(source, resolver=resolver)
    assert (asked, spec.name, len(spec.splits["train"])) == (["mini.yaml"], "mini", 2)
    content = {
        "path": file.parent,
        "names": {0: "car", 1: "truck"},
        "nc": 2,
        "train": str(file.parent / "images/train"),
        "test": None,
    }
    assert len(load_data(source, resolver=lambda name: content).splits["train"]) == 2


def test_a_yaml_may_hold_our_keys(tmp_path: Path) -> None:
    coco(tmp_path / "set")
    (tmp_path / "mine.yaml").write_text("format: coco\npath: set\ntrain: val.json\nnames: [truck, car]\n")
    os.chdir("/")
    spec = load_data({"path": str(tmp_path / "mine.yaml"), "format": "auto", "leakage": "off", "name": None})
    assert (spec.name, spec.names, len(spec.splits["train"])) == ("mine", ("truck", "car"), 2)


def test_spaces_unicode_and_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write_yolo(tmp_path / "Überwachung [1]=a", {"train/ein bild ä": "0 0.5 0.5 0.5 0.5", "val/二": ""})
    assert len(load_data(str(file)).splits["train"].records[0].classes) == 1
    monkeypatch.setenv("HOME", str(tmp_path))
    assert load_data("~/Überwachung [1]=a").name == "Überwachung [1]=a"


def test_a_file_name_that_is_no_utf8(tmp_path: Path) -> None:
    file = write_yolo(tmp_path, {"train/a": "", "val/b": ""})
    name = os.fsencode(tmp_path / "images/train") + b"/caf\xe9.jpg"
    Path(os.fsdecode(name)).touch()
    with pytest.raises(DataError, match="empty-file") as caught:
        load_data(file)
    str(caught.value).encode("utf-8")
    write_report(load_data(file, on_bad="skip"), tmp_path / "run")


def test_verify_full_decodes(tmp_path: Path) -> None:
    root = coco(tmp_path)
    path = draw(root / "images/1.png")
    content = coco_content(3)
    content["images"][0]["file_name"] = "1.png"
    (root / "annotations/train.json").write_text(json.dumps(content))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)
    assert load_data(root).skipped == ()
    with pytest.raises(DataError, match=r"image 1 \(1\.png\): .*can't be decoded .*\(broken-image\)"):
        load_data({"path": root, "verify": "full"})
