from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from detkd.evaluation.records import read_records
from detkd.io import write_json_list


@pytest.mark.parametrize("items", [[], [{"a": 1.5}], [{"a": n, "name": "ä],[{"} for n in range(5000)]])
def test_a_list_written_piece_by_piece_is_json(tmp_path: Path, items: list[Any]) -> None:
    path = write_json_list(tmp_path / "out" / "list.json", iter(items))
    assert json.loads(path.read_text(encoding="utf-8")) == items
    assert [one for block in read_records(path) for one in block] == items


def test_a_list_is_complete_or_absent(tmp_path: Path) -> None:
    def broken() -> Any:
        yield {"a": 1}
        raise RuntimeError("no more")

    path = tmp_path / "list.json"
    path.write_text("[]")
    with pytest.raises(RuntimeError, match="no more"):
        write_json_list(path, broken())
    with pytest.raises(ValueError, match="JSON"):
        write_json_list(path, [{"a": float("nan")}])
    assert path.read_text() == "[]"
    assert list(tmp_path.iterdir()) == [path]
