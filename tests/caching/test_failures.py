"""What goes wrong on real machines: processes killed, disks full, files damaged, two builders, changed inputs."""

from __future__ import annotations

import errno
import multiprocessing
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from detkd.caching import shards as shards_module
from detkd.caching.fingerprint import check_fingerprint, image_digests, list_digest
from detkd.caching.shards import shard_files
from detkd.caching.store import CacheReader, CacheWriter, create_cache, read_manifest, verify_checksums
from detkd.errors import ConfigError, DataError, DetkdError
from detkd.io import sha256

KEYS = [(image, view) for image in range(8) for view in range(3)]
FORK = multiprocessing.get_context("fork")

pytestmark = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")


def payload(image: int, view: int) -> bytes:
    return np.random.default_rng([image, view]).bytes(40 + 7 * image + view)


def begin(folder: Path, expected: int = len(KEYS)) -> Any:
    return create_cache(folder, kind="views", fingerprint={"a": 1}, layout={"k": 2}, expected=expected, facts={})


def build(folder: Path, keys: list[tuple[int, int]] = KEYS, *, rank: int = 0, world_size: int = 1) -> Any:
    """Begin or go on with a cache, as the tasks do; shards of about seven records."""
    begin(folder)
    with CacheWriter(folder, rank=rank, world_size=world_size, shard_bytes=500) as writer:
        for key in writer.missing(keys):
            writer.add(*key, payload(*key))
        return writer.finish()


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((folder / "shards").iterdir())}


def check_whole(folder: Path) -> None:
    reader = CacheReader(folder)
    assert all(bytes(reader.read(*key)) == payload(*key) for key in KEYS)
    assert reader.keys().tolist() == [list(key) for key in KEYS]
    assert verify_checksums(folder) == []


def leftovers(folder: Path) -> list[str]:
    return [path.name for path in folder.rglob(".*") if not path.name.startswith(".lock")]


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    folder = tmp_path / "whole"
    assert build(folder).complete
    return folder


# --- killed ---------------------------------------------------------------------------------------------------------

_STEPS = frozenset(
    {
        "open",
        "os.rename",
        "os.remove",
        "os.mkdir",
        "os.chmod",
        "os.scandir",
        "os.listdir",
        "fcntl.flock",
        "mmap.__new__",
    }
)


def kill_at(step: int) -> None:
    """Have this process killed at its n-th system call on files from here on."""
    seen = 0

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal seen
        if event in _STEPS:
            seen += 1
            if seen > step:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


def killed(work: Callable[[], Any], step: int) -> bool:
    """Run `work` in a process that is killed at its n-th step; False when it was done before."""

    def run() -> None:
        kill_at(step)
        work()

    process = FORK.Process(target=run)
    process.start()
    process.join(60)
    assert process.exitcode in (0, -signal.SIGKILL)
    return process.exitcode != 0


@pytest.mark.slow
def test_a_build_killed_at_any_step_goes_on_to_the_same_bytes(tmp_path: Path, whole: Path) -> None:
    wanted = contents(whole)
    kills, kept = 0, set()
    while True:
        folder = tmp_path / str(kills)
        if not killed(lambda: build(folder), kills):  # noqa: B023  (called at once)
            break
        present = {path.name: path.read_bytes() for path in shard_files(folder)}
        assert all(wanted[name] == content for name, content in present.items())
        kept.add(len(present))
        assert build(folder).complete
        assert contents(folder) == wanted
        assert leftovers(folder) == []
        check_whole(folder)
        shutil.rmtree(folder)
        kills += 1
    assert kept == set(range(len(wanted) + 1))
    check_whole(folder)


def test_a_build_killed_again_and_again_gets_done(tmp_path: Path, whole: Path) -> None:
    folder = tmp_path / "cache"
    rng = np.random.default_rng(0)
    attempts = 0
    while killed(lambda: build(folder), int(rng.integers(20, 60))):
        attempts += 1
    assert attempts >= 2
    assert contents(folder) == contents(whole)
    check_whole(folder)


_BUILDER = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[2])
import test_failures as t
t.begin(Path(sys.argv[1]))
with t.CacheWriter(sys.argv[1], shard_bytes=500) as writer:
    for key in t.KEYS:
        writer.add(*key, t.payload(*key))
        print(key, flush=True)
        time.sleep(0.01)
    writer.finish()
"""


def test_kill_minus_nine_from_outside(tmp_path: Path, whole: Path) -> None:
    folder = tmp_path / "cache"
    command = [sys.executable, "-c", _BUILDER, str(folder), str(Path(__file__).parent)]
    root = str(Path(__file__).parents[2])
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": root}
    ) as process:
        assert process.stdout is not None
        for _ in range(15):
            assert process.stdout.readline()
        process.kill()
    assert process.returncode == -signal.SIGKILL
    with pytest.raises(DataError, match="is not finished"):
        CacheReader(folder)
    kept = contents(folder)
    assert 1 <= len(kept) < 4
    build(folder)
    assert contents(folder) == contents(whole)
    assert read_manifest(folder).seconds > 0
    check_whole(folder)


def test_what_a_killed_build_left_is_removed(tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    begin(folder)
    left = [".cache-abcd1234.part.json", ".images-abcd1234.part.json", ".used-abcd1234.part"]
    left.append("shards/.r00-00000-abcd1234.part.safetensors")
    (folder / "shards").mkdir()
    for name in left:
        (folder / name).write_text("{")
    assert build(folder).complete
    assert leftovers(folder) == []


def test_digests_whose_file_is_taken_for_left_over_are_digests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process begins to build while this one notes what it has read."""
    image = tmp_path / "a.jpg"
    image.write_bytes(b"a")
    os.utime(image, (0, 0))
    monkeypatch.setattr("detkd.caching.fingerprint._SETTLED_NS", -(1 << 62))

    def gone(*_: Any, **__: Any) -> Any:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))

    monkeypatch.setattr("detkd.caching.fingerprint.write_json", gone)
    assert len(image_digests([image], tmp_path / "images.json")) == 1


# --- no room --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("at", ["first shard", "later shard", "description"])
def test_disk_full(tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch, at: str) -> None:
    folder = tmp_path / "cache"
    begin(folder)
    calls = 0
    # Each shard syncs itself and its folder, then the description does.
    full_from = {"first shard": 1, "later shard": 9, "description": 7}[at]

    def fsync(handle: int) -> None:
        nonlocal calls
        calls += 1
        if calls >= full_from:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(shards_module.os, "fsync", fsync)
        with pytest.raises(
            DataError, match=r"cache.path: no room for .* in .* .No space left on device.*free; make room"
        ):
            build(folder)
    assert leftovers(folder) == []
    assert (
        contents(folder).keys()
        == {
            "first shard": set(),
            "later shard": {"r00-00000.safetensors", "r00-00001.safetensors"},
            "description": {"r00-00000.safetensors", "r00-00001.safetensors"},
        }[at]
    )
    assert verify_checksums(folder)[0].count("not finished") == 1
    assert build(folder).complete
    assert contents(folder) == contents(whole)


def test_no_room_for_another_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begin(tmp_path)

    def mkstemp(**_: Any) -> Any:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("detkd.io.tempfile.mkstemp", mkstemp)
    with pytest.raises(DataError, match=r"no room for r00-00000.safetensors in"):
        build(tmp_path)


def test_a_file_that_may_not_grow(tmp_path: Path, whole: Path) -> None:
    """The real thing: the system refuses the write in the middle of a shard."""
    folder = tmp_path / "cache"
    begin(folder)
    receiver, sender = FORK.Pipe()

    def run() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (600, 600))
        try:
            build(folder)
        except DataError as err:
            sender.send(str(err))

    process = FORK.Process(target=run)
    process.start()
    assert receiver.poll(60)
    assert re.match(r"cache.path: no room for r00-00000.safetensors in .*File too large.*make room", receiver.recv())
    process.join(60)
    assert leftovers(folder) == []
    assert build(folder).complete
    assert contents(folder) == contents(whole)


def test_a_read_only_folder_is_named(tmp_path: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may write everywhere")
    tmp_path.chmod(0o555)
    with pytest.raises(DataError, match="choose a writable folder"):
        begin(tmp_path / "cache")


# --- damaged --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("keep", [0, 1, 7, 8, 100, 0.5, -1])
def test_a_truncated_shard_is_named_and_made_anew(whole: Path, keep: float) -> None:
    wanted = contents(whole)
    shard = shard_files(whole)[1]
    content = shard.read_bytes()
    shard.write_bytes(content[: int(keep * len(content)) if keep == 0.5 else int(keep)])
    with pytest.raises(
        DataError, match=r"r00-00001.safetensors: the shard is cut short or damaged .*; delete that file"
    ):
        CacheReader(whole)
    problems = verify_checksums(whole)
    assert len(problems) == 1
    assert "r00-00001.safetensors" in problems[0]
    assert build(whole).complete
    assert contents(whole) == wanted
    check_whole(whole)


def test_a_missing_shard_is_named_and_made_anew(whole: Path) -> None:
    wanted = contents(whole)
    shard_files(whole)[1].unlink()
    with pytest.raises(DataError, match=r"r00-00001.safetensors: the shard is missing; run `detkd cache build` again"):
        CacheReader(whole)
    assert build(whole).complete
    assert contents(whole) == wanted


def test_a_shard_damaged_before_the_end_is_made_anew(tmp_path: Path, whole: Path, capsys: Any) -> None:
    folder = tmp_path / "cache"
    begin(folder)
    with CacheWriter(folder, shard_bytes=500) as writer:
        for key in KEYS[:16]:
            writer.add(*key, payload(*key))
    first = shard_files(folder)[0]
    first.write_bytes(first.read_bytes()[:-5])
    capsys.readouterr()
    assert build(folder).complete
    assert "cut short or damaged" in capsys.readouterr().err
    assert first.read_bytes() == contents(whole)[first.name]
    check_whole(folder)


def test_one_flipped_bit_in_a_record(whole: Path) -> None:
    shard = shard_files(whole)[0]
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1  # the last record of the shard: records lie at the end of the file
    shard.write_bytes(content)
    reader = CacheReader(whole)
    keys = [tuple(key) for key in shards_module.open_shard(shard, read_manifest(whole).digest).keys.tolist()]
    for key in keys[:-1]:
        assert bytes(reader.read(*key)) == payload(*key)
    image, view = keys[-1]
    where = f"{shard.name}: the record of image {image}, view {view} is damaged, its checksum differs"
    with pytest.raises(DataError, match=rf"{where}; delete that file .*`detkd cache verify`"):
        reader.read(image, view)
    (problem,) = verify_checksums(whole)
    assert f"{shard.name}: 1 damaged records, the first is image {image}, view {view}" in problem
    shard.unlink()  # what the message says
    assert build(whole).complete
    check_whole(whole)


def test_no_flipped_bit_passes_as_an_answer(tmp_path: Path) -> None:
    """Every byte of a shard: header, table of offsets, keys, checksums and records."""
    create_cache(tmp_path, kind="views", fingerprint={}, layout={}, expected=3, facts={})
    with CacheWriter(tmp_path) as writer:
        for image in range(3):
            writer.add(image, 0, payload(image, 0))
        writer.finish()
    shard = shard_files(tmp_path)[0]
    whole = shard.read_bytes()
    refused = 0
    for position in range(len(whole)):
        content = bytearray(whole)
        content[position] ^= 1 << position % 8
        shard.write_bytes(content)
        assert verify_checksums(tmp_path), f"byte {position} went unnoticed"
        try:
            reader = CacheReader(tmp_path)
            assert [bytes(reader.read(image, 0)) for image in range(3)] == [payload(image, 0) for image in range(3)]
        except DetkdError:
            refused += 1
    # A header is padded with blanks, whose change alters nothing that is read.
    assert refused > 0.9 * len(whole)


# --- two builders ---------------------------------------------------------------------------------------------------


@pytest.fixture
def processes() -> Iterator[list[Any]]:
    started: list[Any] = []
    yield started
    for process in started:
        process.join(60)
        assert process.exitcode == 0


def test_a_second_builder_waits_and_finds_the_work_done(tmp_path: Path, processes: list[Any], capsys: Any) -> None:
    begin(tmp_path)
    receiver, sender = FORK.Pipe()

    def first() -> None:
        with CacheWriter(tmp_path, shard_bytes=500) as writer:
            sender.send("at work")
            time.sleep(0.5)
            for key in KEYS:
                writer.add(*key, payload(*key))
            writer.finish()

    processes.append(FORK.Process(target=first))
    processes[0].start()
    assert receiver.recv() == "at work"
    with CacheWriter(tmp_path) as writer:
        assert writer.missing(KEYS) == []
        assert writer.finish().complete
    assert "another process is building" in capsys.readouterr().err
    check_whole(tmp_path)


def test_a_killed_builder_does_not_keep_its_lock(tmp_path: Path) -> None:
    begin(tmp_path)
    receiver, sender = FORK.Pipe()

    def first() -> None:
        with CacheWriter(tmp_path):
            sender.send("at work")
            time.sleep(60)

    process = FORK.Process(target=first)
    process.start()
    assert receiver.recv() == "at work"
    process.kill()
    process.join(60)
    assert build(tmp_path).complete


@pytest.mark.parametrize("world_size", [1, 3])
def test_processes_build_one_cache_at_once(tmp_path: Path, processes: list[Any], world_size: int) -> None:
    for rank in range(3):
        if world_size == 1:  # the same command three times
            process = FORK.Process(target=build, args=(tmp_path,))
        else:
            keys = KEYS[rank::world_size]
            process = FORK.Process(target=build, args=(tmp_path, keys), kwargs={"rank": rank, "world_size": world_size})
        processes.append(process)
        process.start()
    for process in processes:
        process.join(60)
    assert read_manifest(tmp_path).complete
    assert {path.name[:3] for path in shard_files(tmp_path)} == {f"r{rank:02d}" for rank in range(world_size)}
    check_whole(tmp_path)
    assert leftovers(tmp_path) == []


# --- changed inputs -------------------------------------------------------------------------------------------------


def test_a_replaced_teacher_and_an_edited_image_are_named(tmp_path: Path) -> None:
    teacher = tmp_path / "teacher.pt"
    images = [tmp_path / f"{name}.jpg" for name in "abc"]
    for file in (teacher, *images):
        file.write_bytes(file.name.encode())

    def fingerprint() -> dict[str, Any]:
        digests = image_digests(images, tmp_path / "images.json")
        return {"teacher": {"weights": sha256(teacher)}, "data": {"images": list_digest(digests)}}

    stored = fingerprint()
    check_fingerprint(stored, fingerprint(), folder=tmp_path)
    images[1].write_bytes(b"edited")
    with pytest.raises(ConfigError, match=r"its data.images is .*, got .*; choose another cache.path"):
        check_fingerprint(stored, fingerprint(), folder=tmp_path)
    teacher.write_bytes(b"another")
    with pytest.raises(ConfigError, match=r"its teacher.weights is .*, got .* .1 more differ: data.images.; choose"):
        check_fingerprint(stored, fingerprint(), folder=tmp_path)
