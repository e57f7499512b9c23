from __future__ import annotations

import json
import mmap
import multiprocessing
import pickle
import re
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from detkd.caching import manifest as manifest_module
from detkd.caching import reader as reader_module
from detkd.caching import writer as writer_module
from detkd.caching.shards import open_shard, shard_files, write_shard
from detkd.caching.store import (
    CacheReader,
    CacheWriter,
    check_space,
    create_cache,
    read_manifest,
    verify_checksums,
)
from detkd.errors import ConfigError, DataError

FINGERPRINT = {"teacher": {"weights": "abc", "imgsz": (640, 640)}, "names": ["car", "bus"]}
LAYOUT = {"k": 128, "precision": "int8"}
KEYS = [(image, view) for image in range(10) for view in range(3)]


def payload(image: int, view: int) -> bytes:
    return np.random.default_rng([image, view]).bytes(100 + 7 * image + view)


def begin(folder: Path, expected: int = len(KEYS), **changes: Any) -> Any:
    given = {"kind": "views", "fingerprint": FINGERPRINT, "layout": LAYOUT, "facts": {"note": "ü"}, **changes}
    return create_cache(folder, expected=expected, **given)


def built(folder: Path, keys: list[tuple[int, int]] = KEYS, *, shard_bytes: int = 1000) -> Path:
    begin(folder, len(keys))
    with CacheWriter(folder, shard_bytes=shard_bytes) as writer:
        for key in writer.missing(keys):
            writer.add(*key, payload(*key))
        assert writer.finish().complete
    return folder


def test_records_come_back_as_they_were_written(tmp_path: Path) -> None:
    folder = built(tmp_path / "cache")
    reader = CacheReader(folder)
    assert len(shard_files(folder)) == 4
    assert len(reader) == len(KEYS)
    assert reader.keys().tolist() == [list(key) for key in KEYS]
    for key in reversed(KEYS):
        assert bytes(reader.read(*key)) == payload(*key)
    assert reader.read(3, 1).readonly
    assert reader.nbytes == sum(path.stat().st_size for path in shard_files(folder))
    assert (9, 2) in reader
    for absent in ((10, 0), (0, 3), (-1, 0), (0, 1 << 40), (1, 2, 3), 5):
        assert absent not in reader
    assert verify_checksums(folder) == []


def test_keys_may_be_numpy_numbers_up_to_the_limit(tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    top = (1 << 31) - 1
    begin(folder, 2)
    with CacheWriter(folder) as writer:
        writer.add(np.int32(top), np.int64(top), b"last")  # type: ignore[arg-type]
        writer.add(0, top, memoryview(b"first"))  # type: ignore[arg-type]
        writer.finish()
    reader = CacheReader(folder)
    assert reader.read(np.int32(top), np.int32(top)) == b"last"  # type: ignore[arg-type]
    assert reader.keys().tolist() == [[0, top], [top, top]]


@pytest.mark.parametrize("key", [(-1, 0), (0, -1), (1 << 31, 0)])
def test_impossible_keys_are_refused(tmp_path: Path, key: tuple[int, int]) -> None:
    begin(tmp_path)
    with CacheWriter(tmp_path) as writer, pytest.raises(ValueError, match="image and view must be in"):
        writer.add(*key, b"")


def test_empty_and_oversized_records(tmp_path: Path) -> None:
    begin(tmp_path, 4)
    with CacheWriter(tmp_path, shard_bytes=10) as writer:
        for view, size in enumerate((0, 0, 5000, 0)):
            writer.add(0, view, bytes(size))
        writer.finish()
    reader = CacheReader(tmp_path)
    assert [len(reader.read(0, view)) for view in range(4)] == [0, 0, 5000, 0]
    assert verify_checksums(tmp_path) == []


def test_a_shard_has_the_agreed_tensors(tmp_path: Path) -> None:
    from safetensors.numpy import load_file

    folder = built(tmp_path)
    tensors = load_file(shard_files(folder)[0])
    assert {name: str(part.dtype) for name, part in tensors.items()} == {
        "data": "uint8", "offsets": "int64", "keys": "int32", "crc": "uint32",
    }  # fmt: skip
    start, stop = tensors["offsets"][1:3]
    assert tensors["keys"][1].tolist() == [0, 1]
    assert tensors["data"][start:stop].tobytes() == payload(0, 1)


def test_the_same_records_give_the_same_files(tmp_path: Path) -> None:
    one, two = built(tmp_path / "one"), built(tmp_path / "two")
    assert [path.read_bytes() for path in shard_files(one)] == [path.read_bytes() for path in shard_files(two)]
    assert read_manifest(one).shards == read_manifest(two).shards


def test_the_description_says_what_was_stored(tmp_path: Path) -> None:
    folder = built(tmp_path)
    content = json.loads((folder / "cache.json").read_text(encoding="utf-8"))
    assert content["format"] == "detkd-cache"
    assert content["fingerprint"] == {"teacher": {"weights": "abc", "imgsz": [640, 640]}, "names": ["car", "bus"]}
    assert content["facts"] == {"note": "ü"}
    assert content["complete"] is True
    assert sorted(content["shards"]) == [path.name for path in shard_files(folder)]
    assert content["seconds"] > 0


def test_the_first_of_two_records_under_a_key_counts(tmp_path: Path) -> None:
    begin(tmp_path, 2)
    with CacheWriter(tmp_path, shard_bytes=1) as writer:
        for key, content in (((0, 0), b"first"), ((0, 0), b"second"), ((1, 0), b"third")):
            writer.add(*key, content)
        assert writer.finish().complete
    reader = CacheReader(tmp_path)
    assert [bytes(reader.read(image, 0)) for image in (0, 1)] == [b"first", b"third"]
    assert verify_checksums(tmp_path) == []


def test_what_was_added_is_kept_when_the_block_is_left_early(tmp_path: Path) -> None:
    begin(tmp_path)

    def interrupted() -> None:
        with CacheWriter(tmp_path) as writer:
            writer.add(0, 0, payload(0, 0))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    with CacheWriter(tmp_path) as writer:
        writer.add(0, 1, payload(0, 1))
        assert writer.missing(KEYS) == KEYS[2:]
    with CacheWriter(tmp_path) as writer:
        assert writer.missing([(0, 2), (0, 1), (9, 9)]) == [(0, 2), (9, 9)]
        assert writer.missing([]) == []


def test_a_slow_teachers_work_is_written_after_a_while(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer_module, "_FLUSH_SECONDS", 0.0)
    begin(tmp_path)
    with CacheWriter(tmp_path) as writer:
        writer.add(0, 0, b"x")
        assert len(shard_files(tmp_path)) == 1


def test_a_writer_is_used_inside_its_block(tmp_path: Path) -> None:
    begin(tmp_path)
    writer = CacheWriter(tmp_path)
    with pytest.raises(RuntimeError, match="inside its `with` block"):
        writer.add(0, 0, b"")
    with pytest.raises(ValueError, match=r"rank must be in \[0, 2\), got 2"):
        CacheWriter(tmp_path, rank=2, world_size=2)
    with pytest.raises(DataError, match=r"no cache in .*nowhere"), CacheWriter(tmp_path / "nowhere"):
        pass
    assert not (tmp_path / "nowhere").exists()


def test_too_many_records_are_refused(tmp_path: Path) -> None:
    begin(tmp_path, 1)
    with CacheWriter(tmp_path) as writer:
        writer.add(0, 0, b"")
        writer.add(0, 1, b"")
        with pytest.raises(DataError, match="holds 2 records, expected 1; delete that folder"):
            writer.finish()


def test_nothing_to_store_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="at least one record must be stored, got 0"):
        begin(tmp_path / "cache", 0)


def test_a_cache_is_opened_again_for_the_same_settings(tmp_path: Path) -> None:
    first = begin(tmp_path)
    again = begin(tmp_path, facts={"note": "other"})
    assert again == first
    built(tmp_path)
    assert begin(tmp_path).complete


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"kind": "instances"}, 'its kind is "views", got "instances"'),
        ({"fingerprint": {**FINGERPRINT, "names": ["car", "van"]}}, 'its names.1 is "bus", got "van"'),
        ({"layout": {**LAYOUT, "k": 64}}, "its layout.k is 128, got 64"),
        ({"expected": 31}, "its expected is 30, got 31"),
    ],
)
def test_a_cache_for_other_settings_is_refused(tmp_path: Path, changes: dict[str, Any], field: str) -> None:
    begin(tmp_path)
    before = (tmp_path / "cache.json").read_bytes()
    with pytest.raises(ConfigError, match=re.escape(field)):
        begin(tmp_path, **changes)
    assert (tmp_path / "cache.json").read_bytes() == before


def test_an_unfinished_cache_is_read_only_on_request(tmp_path: Path) -> None:
    begin(tmp_path)
    with CacheWriter(tmp_path) as writer:
        writer.add(4, 1, payload(4, 1))
        assert not writer.finish().complete
    with pytest.raises(DataError, match=r"is not finished; run `detkd cache build`"):
        CacheReader(tmp_path)
    reader = CacheReader(tmp_path, partial=True)
    assert reader.keys().tolist() == [[4, 1]]
    assert verify_checksums(tmp_path)[0].endswith("not finished, 1 of 30 records; run `detkd cache build` again")


def test_no_cache_and_other_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no cache in .*; build one with `detkd cache build`"):
        CacheReader(tmp_path)
    file = tmp_path / "cache.json"
    file.write_text("{}")
    with pytest.raises(DataError, match=r"cache\.json: not the description of a teacher cache"):
        CacheReader(tmp_path)
    file.write_text('{"format": "detkd-cache", "schema": 99}')
    with pytest.raises(DataError, match=r"another version of detkd .schema 99, this one reads 1.; build"):
        begin(tmp_path)
    file.write_text('{"format": "detkd-cache", "schema": 1}')
    with pytest.raises(DataError, match="complete, created, expected"):
        CacheReader(tmp_path)
    file.write_text('{"format": ')
    with pytest.raises(DataError, match="not valid JSON"):
        verify_checksums(tmp_path)


def test_an_unknown_record_is_named(tmp_path: Path) -> None:
    reader = CacheReader(built(tmp_path))
    with pytest.raises(DataError, match=r"no record for image 3, view 7 in .*; it was built for other data or fewer"):
        reader.read(3, 7)


def test_a_pickled_reader_opens_the_files_when_it_is_used(tmp_path: Path) -> None:
    folder = built(tmp_path / "cache")
    packed = pickle.dumps(CacheReader(folder))
    assert pickle.loads(packed).read(2, 2) == payload(2, 2)
    folder.rename(tmp_path / "away")
    reader = pickle.loads(packed)  # as inside a checkpoint: no error while nobody reads
    assert reader.manifest.complete
    with pytest.raises(DataError, match="no cache in"):
        reader.read(2, 2)


def read_all(reader: CacheReader, order: int) -> bool:
    keys = np.random.default_rng(order).permutation(reader.keys()).tolist()
    return all(bytes(reader.read(*key)) == payload(*key) for key in keys)


INHERITED: list[CacheReader] = []


def read_inherited(order: int) -> bool:
    return read_all(INHERITED[0], order)


@pytest.mark.skipif(sys.platform == "win32", reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_several_forked_workers_read_one_cache(tmp_path: Path) -> None:
    reader = CacheReader(built(tmp_path))
    assert read_all(reader, 0)
    INHERITED[:] = [reader]
    with multiprocessing.get_context("fork").Pool(3) as pool:
        assert pool.map(read_inherited, range(6), chunksize=1) == [True] * 6
        assert pool.starmap(read_all, [(reader, order) for order in range(6)], chunksize=1) == [True] * 6
    assert read_all(reader, 7)


def test_memory_does_not_grow_with_the_epochs(tmp_path: Path) -> None:
    reader = CacheReader(built(tmp_path))
    read_all(reader, 0)
    tracemalloc.start()
    try:
        for epoch in range(30):
            if epoch == 5:
                before = tracemalloc.get_traced_memory()[0]
            read_all(reader, epoch)
        assert tracemalloc.get_traced_memory()[0] - before < 20_000
    finally:
        tracemalloc.stop()


def mapped_bytes() -> int:
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"RssFile:\s+(\d+)", status).group(1)) * 1024  # type: ignore[union-attr]


@pytest.mark.skipif(
    not Path("/proc/self/status").exists() or not hasattr(mmap, "MADV_DONTNEED"),
    reason="needs /proc and madvise (Linux)",
)
def test_a_process_does_not_grow_with_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record = np.random.default_rng(0).bytes(1 << 20)
    begin(tmp_path, 48)
    with CacheWriter(tmp_path, shard_bytes=16 << 20) as writer:
        for image in range(48):
            writer.add(image, 0, record)
        writer.finish()

    def growth(limit: int) -> int:
        monkeypatch.setattr(reader_module, "_RELEASE_BYTES", limit)
        reader = CacheReader(tmp_path)
        before = mapped_bytes()
        held = reader.read(0, 0)
        most = 0
        for image in range(48):
            reader.read(image, 0)
            most = max(most, mapped_bytes() - before)
        assert held == record  # what was handed out stays valid when pages are given back
        return most

    assert growth(1 << 40) > 40 << 20
    assert growth(4 << 20) < 20 << 20


def test_ranks_complete_a_cache_together(tmp_path: Path) -> None:
    begin(tmp_path)
    with (
        CacheWriter(tmp_path, rank=0, world_size=2, shard_bytes=500) as even,
        CacheWriter(tmp_path, rank=1, world_size=2, shard_bytes=500) as odd,
    ):
        for writer, keys in ((even, KEYS[0::2]), (odd, KEYS[1::2])):
            assert writer.missing(keys) == keys
            for key in keys:
                writer.add(*key, payload(*key))
        assert not even.finish().complete
        assert even.missing(KEYS)  # what the other one holds in memory is not stored
        assert odd.finish().complete
        assert even.missing(KEYS) == []
        assert even.finish().complete
    assert {path.name[:3] for path in shard_files(tmp_path)} == {"r00", "r01"}
    assert read_all(CacheReader(tmp_path), 0)


def test_another_number_of_ranks_goes_on(tmp_path: Path) -> None:
    begin(tmp_path)
    with CacheWriter(tmp_path, rank=1, world_size=2) as writer:
        for key in KEYS[1::2]:
            writer.add(*key, payload(*key))
    (tmp_path / "shards" / ".r01-00007-xyz.safetensors").write_bytes(b"left by a killed build")
    with CacheWriter(tmp_path) as writer:
        assert writer.missing(KEYS) == KEYS[0::2]
        for key in KEYS[0::2]:
            writer.add(*key, payload(*key))
        assert writer.finish().complete
    assert read_all(CacheReader(tmp_path), 0)
    assert len(list((tmp_path / "shards").iterdir())) == 2


def test_temporary_files_of_a_rank_at_work_are_left(tmp_path: Path) -> None:
    begin(tmp_path)
    with CacheWriter(tmp_path, rank=1, world_size=2):
        busy = tmp_path / "shards" / ".r01-00000-xyz.safetensors"
        busy.parent.mkdir(exist_ok=True)
        busy.write_bytes(b"half")
        with CacheWriter(tmp_path, rank=0, world_size=2):
            assert busy.exists()


def test_a_shard_of_another_cache_is_refused(tmp_path: Path) -> None:
    folder = built(tmp_path)
    shard = shard_files(folder)[0]
    old = open_shard(shard, read_manifest(folder).digest)
    write_shard(shard, "0123456789abcdef", old.keys.tolist(), [b"x"] * len(old.keys))
    with pytest.raises(DataError, match=r"r00-00000.safetensors: the shard belongs to another cache, 0123456789abcdef"):
        CacheReader(folder)


def test_space_is_checked_before_the_start(tmp_path: Path) -> None:
    check_space(tmp_path / "not" / "there", 1000)
    with pytest.raises(DataError, match=r"cache.path: .* needs 1,000,000\.000 GB, got .* GB free; make room"):
        check_space(tmp_path / "not" / "there", 10**15)
    assert list(tmp_path.iterdir()) == []


def test_verify_tells_how_far_it_is(tmp_path: Path) -> None:
    folder = built(tmp_path)
    told: list[tuple[str, int, int]] = []
    verify_checksums(folder, lambda *state: told.append(state))
    total = CacheReader(folder).nbytes
    assert told[0] == ("checksums", 0, total)
    assert told[-1] == ("checksums", total, total)


def test_the_store_needs_no_torch() -> None:
    import subprocess

    code = "import sys, detkd.caching.store, detkd.caching.catalog; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_file_system_without_locks_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class NoLock:
        def __init__(self, path: Path) -> None: ...

        def acquire(self, timeout: float = -1) -> None:
            raise NotImplementedError("FileSystem does not appear to support flock")

    monkeypatch.setattr(manifest_module, "FileLock", NoLock)
    with pytest.raises(DataError, match=r"can't lock .*support flock.*; choose a writable folder on a file system"):
        begin(tmp_path)


def test_a_file_in_the_place_of_the_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("")
    with pytest.raises(DataError, match=r"cache.path: can't make .*cache .File exists.; choose"):
        begin(tmp_path / "cache")
