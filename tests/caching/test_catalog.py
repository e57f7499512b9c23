from __future__ import annotations

import json
import os
import time
from dataclasses import replace
from pathlib import Path

import pytest

from detkd.caching.catalog import CacheInfo, find_caches, prune, remove, touch_used
from detkd.caching.fingerprint import digest
from detkd.caching.store import CacheWriter, create_cache
from detkd.errors import DataError

DAY = 86400.0


def make(folder: Path, *, records: int = 3, expected: int = 3, teacher: str = "a") -> Path:
    create_cache(
        folder, kind="views", fingerprint={"teacher": teacher}, layout={}, expected=expected, facts={"note": teacher}
    )
    with CacheWriter(folder) as writer:
        for image in range(records):
            writer.add(image, 0, b"x" * 1000)
        writer.finish()
    return folder


def entry(
    name: str, *, days: float = 0.0, size: int = 100, complete: bool = True, broken: str | None = None
) -> CacheInfo:
    used = time.time() - days * DAY
    return CacheInfo(Path(name), "views", f"digest-{name}", 1, 1, complete, size, "", used, broken)


def names(chosen: list[CacheInfo]) -> list[str]:
    return [info.folder.name for info in chosen]


def test_caches_are_listed_with_what_they_hold(tmp_path: Path) -> None:
    assert find_caches(tmp_path / "nowhere") == []
    make(tmp_path / "done")
    make(tmp_path / "begun", records=1, teacher="b")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("no cache")
    begun, done = find_caches(tmp_path)
    assert (done.kind, done.records, done.expected, done.complete, done.broken) == ("views", 3, 3, True, None)
    assert (begun.records, begun.expected, begun.complete, begun.broken) == (1, 3, False, None)
    assert done.digest == digest({"teacher": "a"})
    assert done.facts == {"note": "a"}
    assert done.created.endswith("+00:00")
    assert done.bytes == sum(file.stat().st_size for file in (tmp_path / "done").rglob("*") if file.is_file())
    assert find_caches(tmp_path / "done") == [done]


def test_damaged_caches_are_listed_with_the_reason(tmp_path: Path) -> None:
    make(tmp_path / "cut")
    (shard,) = (tmp_path / "cut" / "shards").glob("*.safetensors")
    shard.write_bytes(shard.read_bytes()[:-1])
    make(tmp_path / "unreadable")
    (tmp_path / "unreadable" / "cache.json").write_text("{")
    cut, unreadable = find_caches(tmp_path)
    assert cut.broken is not None
    assert f"{shard.name}: the shard is cut short or damaged" in cut.broken
    assert unreadable.broken is not None
    assert "not valid JSON" in unreadable.broken
    assert (unreadable.kind, unreadable.complete) == ("", False)


def test_use_is_noted(tmp_path: Path) -> None:
    folder = make(tmp_path / "cache")
    old = time.time() - 5 * DAY
    os.utime(folder / "cache.json", (old, old))
    assert abs(find_caches(folder)[0].last_used - old) < 1
    touch_used(folder)
    (info,) = find_caches(folder)
    assert info.last_used > old + 4 * DAY
    assert info.broken is None
    touch_used(folder / "cache.json" / "no-folder")  # a folder that can't be written is no error


def test_prune_chooses_unfinished_and_damaged_ones() -> None:
    caches = [entry("good"), entry("begun", complete=False), entry("damaged", broken="cut")]
    assert names(prune(caches, unfinished=True)) == ["begun", "damaged"]
    assert prune(caches) == []


def test_prune_chooses_what_nobody_used() -> None:
    caches = [entry("new", days=1), entry("old", days=31), entry("older", days=90)]
    assert names(prune(caches, older_days=30)) == ["old", "older"]
    assert names(prune(caches, older_days=30, keep={"digest-old"})) == ["older"]


def test_prune_makes_the_rest_fit() -> None:
    caches = [entry("a", days=1), entry("b", days=3), entry("c", days=2), entry("d", days=40)]
    assert names(prune(caches, max_bytes=400)) == []
    assert names(prune(caches, max_bytes=399)) == ["d"]
    assert names(prune(caches, max_bytes=200)) == ["d", "b"]
    assert names(prune(caches, max_bytes=200, older_days=30)) == ["d", "b"]
    # What is kept takes its share of the room.
    assert names(prune(caches, max_bytes=200, keep=["digest-b"])) == ["d", "c"]
    assert names(prune(caches, max_bytes=0)) == ["d", "b", "c", "a"]


def test_a_cache_is_removed_with_all_that_is_its(tmp_path: Path) -> None:
    folder = make(tmp_path / "cache")
    touch_used(folder)
    (folder / "images.json").write_text("{}")
    (folder / ".cache-left.json").write_text("{")
    (folder / "shards" / ".r03-00000-left.safetensors").write_text("")
    (info,) = find_caches(folder)
    remove(info)
    assert list(tmp_path.iterdir()) == []


def test_other_files_in_a_cache_folder_survive(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make(tmp_path / "holiday")
    (folder / "picture.jpg").write_bytes(b"x")
    (folder / "shards" / "weights.safetensors").write_bytes(b"x")
    remove(find_caches(folder)[0])
    assert sorted(path.name for path in folder.rglob("*")) == ["picture.jpg", "shards", "weights.safetensors"]
    assert "holds other files and stays" in capsys.readouterr().err
    assert find_caches(tmp_path) == []


@pytest.mark.parametrize("content", [None, "{}", "[]", "{", '{"format": "other", "schema": 1}'])
def test_a_folder_that_is_no_cache_is_left_alone(tmp_path: Path, content: str | None) -> None:
    folder = make(tmp_path / "cache")
    (info,) = find_caches(folder)
    if content is None:
        (folder / "cache.json").unlink()
    else:
        (folder / "cache.json").write_text(content)
    before = sorted(folder.rglob("*"))
    with pytest.raises(DataError, match=r"path: .*cache holds no cache of ours and was left alone; delete it by hand"):
        remove(info)
    assert sorted(folder.rglob("*")) == before


def test_a_cache_of_another_version_can_be_removed(tmp_path: Path) -> None:
    folder = make(tmp_path / "cache")
    content = json.loads((folder / "cache.json").read_text())
    (folder / "cache.json").write_text(json.dumps({**content, "schema": 99}))
    (info,) = find_caches(tmp_path)
    assert info.broken is not None
    assert names(prune([info], unfinished=True)) == ["cache"]
    remove(info)
    assert not folder.exists()


def test_a_cache_that_is_being_built_is_left(tmp_path: Path) -> None:
    folder = make(tmp_path / "cache", records=1)
    (info,) = find_caches(folder)
    with CacheWriter(folder, rank=1, world_size=2) as writer:
        with pytest.raises(DataError, match="is being built and was left alone; try again when that is done"):
            remove(info)
        writer.add(1, 0, b"")
    assert find_caches(folder)[0].records == 2
    remove(info)
    assert not folder.exists()


def test_an_interrupted_removal_is_still_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make(tmp_path / "cache")
    (info,) = find_caches(folder)
    unlink = Path.unlink

    def stop(self: Path, missing_ok: bool = False) -> None:
        if self.name == "cache.json":
            raise KeyboardInterrupt
        unlink(self, missing_ok=missing_ok)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", stop)
        with pytest.raises(KeyboardInterrupt):
            remove(info)
    (left,) = find_caches(tmp_path)
    assert left.broken is not None
    assert "the shard is missing" in left.broken
    remove(replace(left))
    assert list(tmp_path.iterdir()) == []
