"""`detkd cache`: what its actions print, refuse and remove. Building itself is tested beside `detkd.tasks.caches`."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from detkd.caching.catalog import find_caches
from detkd.caching.store import CacheWriter, create_cache
from detkd.config import compose
from detkd.errors import ConfigError, DataError
from detkd.progress import out
from detkd.tasks import caches, common, pool
from detkd.tasks.cache import cache, size_text

BUILD = ["build", "teacher=t.pt", "student=s.pt", "data=d"]


def run(*words: str) -> Any:
    return cache(compose("cache", words))


def make(folder: Path, *, expected: int = 3, stored: int = 3) -> Path:
    facts = {"teacher": "big.pt", "config": {"epochs": 3}}
    create_cache(folder, kind="views", fingerprint={"of": folder.name}, layout={"k": 4}, expected=expected, facts=facts)
    with CacheWriter(folder) as writer:
        for image in range(stored):
            writer.add(image, 0, bytes(100))
        writer.finish()
    return folder


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(out, "width", 200)


def test_info_lists_caches(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make(tmp_path / "runs/cache/views-a-1")
    make(tmp_path / "runs/cache/views-b-2", stored=1)
    result = run("info")
    text = capsys.readouterr().out
    assert {folder.name for folder in result.folders} == {"views-a-1", "views-b-2"}
    for part in ("views-a-1", "views-b-2", "1 of 3", "2 caches, "):
        assert part in text
    assert "big.pt" not in text


def test_info_of_one_cache_shows_its_facts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make(tmp_path / "mine")
    assert run("info", str(folder)).folders == (folder,)
    text = capsys.readouterr().out
    assert "teacher: big.pt" in text
    assert "config" not in text


def test_info_names_damage(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make(tmp_path / "runs/cache/views-a-1")
    (shard,) = (folder / "shards").iterdir()
    shard.write_bytes(shard.read_bytes()[:50])
    (entry,) = run("info").facts
    text = capsys.readouterr().out
    assert "damaged" in text
    assert f"views-a-1: {entry['broken']}" in text
    assert shard.name in entry["broken"]


def test_info_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make(tmp_path / "runs/cache/views-a-1")
    result = run("info", "json=true")
    (entry,) = json.loads(capsys.readouterr().out)
    assert entry == json.loads(json.dumps(result.facts[0]))
    assert (entry["records"], entry["expected"], entry["complete"], entry["broken"]) == (3, 3, True, None)
    assert entry["facts"]["teacher"] == "big.pt"
    assert entry["bytes"] > 300


def test_info_without_caches(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("info").folders == ()
    assert "none yet; detkd cache build makes one" in capsys.readouterr().out
    assert run("info", "json=true").facts == ()
    assert json.loads(capsys.readouterr().out) == []
    with pytest.raises(ConfigError, match="path: no such folder, got nowhere"):
        run("info", "nowhere")


def test_verify_compares_checksums_and_asks_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[Path, int]] = []

    def recheck(folder: Path, count: int) -> list[str]:
        asked.append((folder, count))
        return []

    monkeypatch.setattr(caches, "recheck", recheck)
    folder = make(tmp_path / "mine")
    assert run("verify", str(folder)).folders == (folder,)
    assert asked == [(folder, 4)]
    assert "3 records are as they were written, 3 of them asked again" in capsys.readouterr().out
    run("verify", str(folder), "checks=0")
    assert len(asked) == 1
    monkeypatch.setattr(caches, "recheck", lambda folder, count: ["image 1, view 0: scores differ by 2"])
    with pytest.raises(DataError, match=r"image 1, view 0: scores differ by 2\npath: .*does not hold what its teacher"):
        run("verify", str(folder))


def test_verify_names_damage_before_it_asks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(caches, "recheck", lambda folder, count: pytest.fail("asked about a damaged cache"))
    folder = make(tmp_path / "mine")
    (shard,) = (folder / "shards").iterdir()
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)
    with pytest.raises(DataError, match=rf"{shard.name}.*\n?.*path: .*is damaged; remove it"):
        run("verify", str(folder))
    with pytest.raises(ConfigError, match="path: missing; name the folder of a cache"):
        run("verify")
    with pytest.raises(ConfigError, match="checks: must be 0 or more"):
        run("verify", str(folder), "checks=-1")
    with pytest.raises(DataError, match="no cache in"):
        run("verify", str(tmp_path))


def test_prune_removes_what_it_was_told_to(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole, half = make(tmp_path / "runs/cache/views-a-1"), make(tmp_path / "runs/cache/views-b-2", stored=1)
    (tmp_path / "runs/cache/notes").mkdir()
    assert run("prune", "unfinished=true", "dry_run=true").folders == ()
    assert "would remove" in capsys.readouterr().out
    assert half.is_dir()
    (gone,) = run("prune", "unfinished=true").folders
    assert gone.name == half.name
    assert not half.exists()
    assert "removed" in capsys.readouterr().out
    run("prune", "older_days=1")
    assert "nothing to remove" in capsys.readouterr().out
    assert whole.is_dir()
    run("prune", "max_gb=0")
    assert find_caches(tmp_path / "runs/cache") == []
    assert (tmp_path / "runs/cache/notes").is_dir()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["prune"], "prune: say what to remove: unfinished=true, older_days=30 or max_gb=10"),
        (["prune", "older_days=-1"], "older_days: must be a number of 0 or more, got -1"),
        (["prune", "max_gb=lots"], "max_gb: must be a number of 0 or more, got 'lots'"),
        (["info", "unfinished=true"], "unfinished: is for detkd cache prune, not for info"),
        ([*BUILD, "path=runs/x"], "path: is for detkd cache info and verify and prune, not for build"),
        ([*BUILD, "cache=none"], "cache: none stores nothing; use cache=views"),
        ([*BUILD, "cache=null"], "cache: none stores nothing; use cache=views"),
        ([*BUILD, "cache.build=false"], r"cache\.build: false forbids"),
    ],
)
def test_refusals(words: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        run(*words)


def test_build_prepares_the_cache_of_the_training(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    seen: list[tuple[dict[str, Any], Any]] = []
    facts = {"folder": "f", "kind": "views", "records": 1200, "bytes": 8_400_000, "bytes_per_record": 7000.0}

    def prepare(config: dict[str, Any], spec: Any) -> Any:
        seen.append((config, spec))
        return SimpleNamespace(folder=tmp_path / "f", facts={**facts, "build_seconds": 61.4})

    monkeypatch.setattr(caches, "prepare", prepare)
    monkeypatch.setattr(common, "get_data", lambda node: ("data", node["path"]))
    monkeypatch.setattr(pool, "with_unlabelled", lambda spec, config: (spec, config["unlabelled"]["path"]))
    result = run(*BUILD, "unlabelled=pseudo", "cache.views=3")
    ((config, spec),) = seen
    assert (config["cache"]["kind"], config["cache"]["views"], config["teacher"]["path"]) == ("views", 3, "t.pt")
    assert spec == (("data", "d"), "pseudo")
    assert (result.folders, result.facts[0]["records"]) == ((tmp_path / "f",), 1200)
    assert "1,200 records, 8.4 MB, 7,000 bytes each, built in 61 s" in capsys.readouterr().out


def test_packaged_teacher_can_be_cached(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []

    def prepare(config: dict[str, Any], spec: Any) -> Any:
        seen.append(config["teacher"]["path"])
        raise DataError("stop here")

    monkeypatch.setattr(caches, "prepare", prepare)
    monkeypatch.setattr(common, "get_data", lambda node: None)
    monkeypatch.setattr(pool, "with_unlabelled", lambda spec, config: spec)
    with pytest.raises(DataError, match="stop here"):
        run("build", "teacher=demo", "student=s.pt", "data=d")
    assert Path(seen[0]).is_file()
    assert Path(seen[0]).name == "demo_teacher.pt"


def test_sizes_for_people() -> None:
    assert [size_text(size) for size in (0, 999, 1000, 8_400_000, 12_345_678_901)] == [
        "0 B", "999 B", "1.0 kB", "8.4 MB", "12.3 GB",
    ]  # fmt: skip
