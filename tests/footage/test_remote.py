"""Images in object storage as sources, with fsspec's file system in memory."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import fsspec
import numpy as np
import pytest

from detkd.errors import ConfigError, DataError
from detkd.footage.collect import collect, load_collection
from detkd.footage.remote import fetched, find_remote


def encoded(seed: int) -> bytes:
    blocks = np.random.default_rng(seed).integers(0, 255, (9, 12, 3), dtype=np.uint8)
    return bytes(cv2.imencode(".png", cv2.resize(blocks, (96, 72), interpolation=cv2.INTER_NEAREST))[1].tobytes())


@pytest.fixture
def bucket() -> Iterator[Any]:
    """Three pictures of two cameras, a copy of one, a broken one and a text file."""
    fs = fsspec.filesystem("memory")
    files = {
        "a/0.png": encoded(0),
        "a/1.png": encoded(1),
        "b/0.png": encoded(2),
        "b/same.png": encoded(0),
        "b/cut.png": encoded(3)[:40],
        "notes.txt": b"x",
    }
    for name, content in files.items():
        fs.pipe_file(f"/bucket/{name}", content)
    yield fs
    fs.rm("/bucket", recursive=True)


def test_a_folder_a_file_and_a_pattern(bucket: Any) -> None:
    assert [name for _, name in find_remote("memory://bucket")] == ["a/0", "a/1", "b/0", "b/cut", "b/same"]
    assert [image.url for image, _ in find_remote("memory://bucket/a/1.png")] == ["memory:///bucket/a/1.png"]
    assert [name for _, name in find_remote("memory://bucket/*/0.png")] == ["a/0", "b/0"]


def test_kept_images_are_copied_and_collected_once(
    bucket: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = collect("memory://bucket", folder=tmp_path / "out")
    assert [item.file.read_bytes() for item in found.items] == [encoded(0), encoded(1), encoded(2)]
    assert [item.file.relative_to(tmp_path / "out").as_posix() for item in found.items] == [
        f"images/fetched/bucket/{name}.png" for name in ("a/0", "a/1", "b/0")
    ]
    assert found.items[0].source == "memory:///bucket/a"
    assert found.dropped == {"similar": 1}
    assert found.skipped[0]["file"] == "memory:///bucket/b/cut.png"
    assert load_collection(tmp_path / "out").items == found.items
    collect("memory://bucket", folder=tmp_path / "out")
    assert "3 pictures were collected before" in capsys.readouterr().err
    bucket.pipe_file("/bucket/a/1.png", encoded(9))
    assert [item.file.read_bytes() for item in collect("memory://bucket", folder=tmp_path / "out").items][1] == encoded(
        9
    )


def test_local_and_remote_sources_together(bucket: Any, tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "x.png").write_bytes(encoded(7))
    found = collect([tmp_path / "own", "memory://bucket/a"], folder=tmp_path / "out")
    assert [item.file.name for item in found.items] == ["x.png", "0.png", "1.png"]


def test_only_a_window_is_fetched_ahead(bucket: Any) -> None:
    items = find_remote("memory://bucket") * 40
    pulled: list[int] = []

    def watched() -> Iterator[Any]:
        for number, item in enumerate(items):
            pulled.append(number)
            yield item

    stream = fetched(watched())
    _, name, fetch = next(stream)
    assert (name, fetch()) == ("a/0", encoded(0))
    assert len(pulled) <= 33
    stream.close()


@pytest.mark.parametrize(
    ("url", "kind", "message"),
    [
        ("nothing://bucket", ConfigError, "source: can't open nothing://bucket"),
        ("memory://bucket/none", DataError, "source: .*memory://bucket/none"),
        ("memory://bucket/notes.txt", DataError, "source: no images in"),
        ("memory://clips", DataError, r"source: memory://clips holds videos \(.mp4\).*copy them"),
    ],
)
def test_what_can_not_be_read_is_named(bucket: Any, url: str, kind: type[Exception], message: str) -> None:
    bucket.pipe_file("/clips/a.mp4", b"x")
    with pytest.raises(kind, match=message):
        find_remote(url)
    bucket.rm("/clips", recursive=True)


def test_the_output_must_be_a_folder(bucket: Any) -> None:
    with pytest.raises(ConfigError, match="out: must be a local or shared folder, got s3://bucket/out"):
        collect("memory://bucket", folder="s3://bucket/out")
