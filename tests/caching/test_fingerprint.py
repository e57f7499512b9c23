from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from detkd.caching import fingerprint as module
from detkd.caching.fingerprint import (
    check_fingerprint,
    differences,
    digest,
    file_digest,
    image_digests,
    list_digest,
    plain,
)
from detkd.errors import ConfigError, DataError

BASE: dict[str, Any] = {
    "teacher": {"weights": "abc", "imgsz": [640, 640]},
    "names": ["car", "bus"],
    "views": 4,
    "flip": True,
}


def test_digest_ignores_order_and_spelling_of_numbers() -> None:
    other = {
        "flip": np.bool_(True),
        "views": 4.0,
        "names": ("car", "bus"),
        "teacher": {"imgsz": (np.int64(640), 640), "weights": "abc"},
    }
    assert digest(other) == digest(BASE)
    assert re.fullmatch("[0-9a-f]{16}", digest(BASE))
    assert differences(BASE, other) == []


@pytest.mark.parametrize(
    "change",
    [{"views": 5}, {"flip": 1}, {"flip": "true"}, {"names": ["bus", "car"]}, {"more": None}, {"views": 4.5}],
)
def test_digest_sees_every_change(change: dict[str, Any]) -> None:
    assert digest({**BASE, **change}) != digest(BASE)
    assert len(differences(BASE, {**BASE, **change})) >= 1


def test_digests_do_not_change_between_versions() -> None:
    """Worked out once: a new digest would orphan every cache there is."""
    assert digest({}) == "01e7b720ff566d53"
    assert list_digest(["a", "b"]) != list_digest(["ab"])
    assert list_digest(["a", "b"]) != list_digest(["b", "a"])


def test_differences_name_fields_in_the_order_asked_for() -> None:
    wanted = {
        "views": 8,
        "teacher": {"weights": "abd", "imgsz": [640, 320], "half": True},
        "names": ["car"],
    }
    assert differences(BASE, wanted) == [
        ("views", 4, 8),
        ("teacher.weights", "abc", "abd"),
        ("teacher.imgsz.1", 640, 320),
        ("teacher.half", "(absent)", True),
        ("names", ["car", "bus"], ["car"]),
        ("flip", True, "(absent)"),
    ]


def test_the_refusal_names_field_values_rest_and_fix() -> None:
    check_fingerprint(BASE, dict(reversed(BASE.items())), folder=Path("runs/c"))
    wanted = {
        **BASE,
        "teacher": {"weights": "x" * 500, "imgsz": [640, 640]},
        "views": 5,
        "names": ["car"],
        "a": 1,
        "b": 2,
    }
    with pytest.raises(ConfigError) as caught:
        check_fingerprint(BASE, wanted, folder=Path("runs/c"))
    text = str(caught.value)
    assert text.startswith(
        'cache.path: the cache in runs/c was built for something else, its teacher.weights is "abc", '
    )
    assert '"xxx' in text
    assert "(4 more differ: names, views, a, ...)" in text
    assert text.endswith("choose another cache.path, or delete that folder to build it anew")
    assert "\n" not in text
    assert len(text) < 350


def test_long_lists_are_shortened() -> None:
    with pytest.raises(ConfigError, match=r'its names is 80 values \["0".*\.\.\., got 79 values \["0"'):
        check_fingerprint(
            {"names": [str(n) for n in range(80)]}, {"names": [str(n) for n in range(79)]}, folder=Path("c")
        )


def test_plain_gives_json() -> None:
    value = {"a": (1, 2.0, np.float32(0.5)), 3: Path("x") / "y", "n": None, "t": np.True_}
    assert plain(value) == {"a": [1, 2, 0.5], "3": "x/y", "n": None, "t": True}
    assert json.loads(json.dumps(plain(value))) == plain(value)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), object(), b"bytes", {1, 2}])
def test_what_json_can_not_hold_is_refused(value: Any) -> None:
    with pytest.raises(ConfigError, match="a fingerprint holds JSON values only, got"):
        digest({"a": value})


def pictures(folder: Path, count: int = 5) -> list[Path]:
    paths = [folder / f"{number}.jpg" for number in range(count)]
    for path in paths:
        path.write_bytes(path.name.encode() * 10)
    return paths


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that are really read; files may be remembered right after they were written."""
    names: list[str] = []

    def counted(path: str | Path) -> str:
        names.append(Path(path).name)
        return file_digest(path)

    monkeypatch.setattr(module, "file_digest", counted)
    monkeypatch.setattr(module, "_SETTLED_NS", 0)
    return names


def test_unchanged_images_are_not_read_again(tmp_path: Path, reads: list[str]) -> None:
    paths, memo = pictures(tmp_path), tmp_path / "cache" / "images.json"
    first = image_digests(paths, memo)
    assert sorted(reads) == [path.name for path in paths]
    assert first == [file_digest(path) for path in paths]
    assert len(set(first)) == 5
    reads.clear()
    assert image_digests([str(path) for path in reversed(paths)], memo) == first[::-1]
    assert reads == []


def test_an_edited_image_has_another_digest(tmp_path: Path, reads: list[str]) -> None:
    paths, memo = pictures(tmp_path), tmp_path / "images.json"
    first = image_digests(paths, memo)
    reads.clear()
    state = paths[2].stat()
    paths[2].write_bytes(b"X" * state.st_size)
    os.utime(paths[2], ns=(state.st_atime_ns, state.st_mtime_ns))  # as some editors do
    second = image_digests(paths, memo)
    assert reads == ["2.jpg"]
    assert [a == b for a, b in zip(first, second, strict=True)] == [True, True, False, True, True]
    assert list_digest(first) != list_digest(second)


def test_a_file_that_has_just_changed_is_not_remembered(tmp_path: Path) -> None:
    memo = tmp_path / "images.json"
    image_digests(pictures(tmp_path), memo)
    assert not memo.exists()


def test_several_lists_share_one_memo(tmp_path: Path, reads: list[str]) -> None:
    paths, memo = pictures(tmp_path), tmp_path / "images.json"
    image_digests(paths[:3], memo)
    image_digests([*paths[2:], paths[4]], memo)
    assert sorted(reads) == [path.name for path in paths]
    image_digests(paths, memo)
    assert len(reads) == 5


@pytest.mark.parametrize("content", ["", "[1, 2]", '{"%s": [1]}', '{"%s": "x"}', '{"%s": [1, 2, 3, 4]}'])
def test_a_damaged_memo_is_no_harm(tmp_path: Path, reads: list[str], content: str) -> None:
    (path,) = pictures(tmp_path, 1)
    memo = tmp_path / "images.json"
    memo.write_text(content.replace("%s", str(path)))
    assert image_digests([path], memo) == [file_digest(path)]
    assert image_digests([path], memo) == [file_digest(path)]
    assert reads == ["0.jpg"]


def test_a_memo_that_can_not_be_written_is_no_harm(tmp_path: Path, reads: list[str]) -> None:
    (path,) = pictures(tmp_path, 1)
    assert image_digests([path], path / "not" / "a" / "folder.json") == [file_digest(path)]


def test_a_missing_image_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.jpg: can't be read .No such file.*; check the path"):
        image_digests([*pictures(tmp_path), tmp_path / "none.jpg"], tmp_path / "images.json")
    with pytest.raises(DataError, match=r"can't be read .Is a directory.; check the file"):
        file_digest(tmp_path)


def test_many_images_have_a_progress_bar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[tuple[str, int]] = []

    def track(rows: Any, label: str, total: int) -> Any:
        shown.append((label, total))
        return rows

    monkeypatch.setattr(module, "track", track)
    paths = pictures(tmp_path)
    image_digests(paths, tmp_path / "m.json")
    assert shown == []
    monkeypatch.setattr(module, "_BAR_FROM", 4)
    assert image_digests(paths, tmp_path / "m.json") == [file_digest(path) for path in paths]
    assert shown == [("digests of the images", 5)]
