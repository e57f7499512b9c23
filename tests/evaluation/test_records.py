from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from detkd.errors import DataError
from detkd.evaluation.records import read_records
from detkd.evaluation.results import load_detections
from detkd.evaluation.truth import load_truth
from tests.evaluation.worlds import make_detections, make_gt

TRICKY: list[Any] = [
    {"text": "},{ ]", "n": 1},
    {"polygons": [{"a": 1}, {"b": [{}, {}]}, {"c": 2}], "n": 2},
    {"inner": {"deep": {"x": "]"}}, "n": 3},
    {"quote": '"},{"', "n": 4},
    {"name": "Straße \\", "n": 5},
    {},
    7,
    {"n": 8},
]


def read(path: Path, piece: int) -> list[Any]:
    return [record for block in read_records(path, piece) for record in block]


@pytest.mark.parametrize("piece", [1, 2, 7, 64, 1 << 19])
@pytest.mark.parametrize("indent", [None, 2])
def test_every_cut_reads_the_same(tmp_path: Path, piece: int, indent: int | None) -> None:
    path = tmp_path / "r.json"
    path.write_text("\n " + json.dumps(TRICKY * 3, indent=indent, ensure_ascii=False) + "\n", encoding="utf-8")
    assert read(path, piece) == TRICKY * 3


def test_a_long_list_comes_in_pieces(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    path.write_text(json.dumps([{"n": n, "list": [{"a": 1}, {"b": 2}]} for n in range(1000)]))
    blocks = list(read_records(path, 2000))
    assert [record["n"] for block in blocks for record in block] == list(range(1000))
    assert len(blocks) > 10


@pytest.mark.parametrize("content", ["[]", "[ ]\n", "[\n\n]"])
def test_empty_list(tmp_path: Path, content: str) -> None:
    path = tmp_path / "r.json"
    path.write_text(content)
    assert read(path, 1) == []


def test_anything_else_is_returned_whole(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    path.write_text('{"annotations": []}')
    assert read_records(path) == {"annotations": []}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'[{"a": 1},\n {"a": 2}', r"r\.json: not valid JSON \(line 2"),
        (b'[{"a": 1},\n {"a": 2}\n {"a": 3}]', r"r\.json: not valid JSON \(line 3"),
        (b'[{"a": 1}], {"a": 2}]', r"r\.json: not valid JSON \(line 1"),
        (b'[{"a": "\xff"}]', r"r\.json: can't be read"),
        (b"", r"r\.json: not valid JSON"),
        (None, r"r\.json: no such file"),
    ],
)
@pytest.mark.parametrize("piece", [4, 1 << 19])
def test_broken_files(tmp_path: Path, content: bytes | None, message: str, piece: int) -> None:
    path = tmp_path / "r.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=message):
        read(path, piece)


def test_a_closer_look_gives_the_same_columns() -> None:
    """Records of plain numbers are read a block at a time; numpy numbers and tuples one by one."""
    gt = make_gt(1)
    truth, found = load_truth(gt), make_detections(gt, 2)
    plain = load_detections(found, truth)
    other = load_detections([{**d, "score": np.float64(d["score"]), "bbox": tuple(d["bbox"])} for d in found], truth)
    for name in ("image", "label", "boxes_xywh", "scores"):
        np.testing.assert_array_equal(getattr(plain, name), getattr(other, name))
    assert plain.sha256 == other.sha256
