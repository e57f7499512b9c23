"""Images in object storage: `s3://bucket/folder`, `gs://...`, anything that fsspec opens."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any

from detkd.errors import ConfigError, DataError
from detkd.inference.sources import IMAGE_SUFFIXES, VIDEO_SUFFIXES
from detkd.io import is_url

__all__ = ["RemoteImage", "fetched", "find_remote"]

_READERS = 16
"""Images fetched at once: what takes time is the wait for each."""


@dataclass(frozen=True)
class RemoteImage:
    """An image that is no local file.

    Attributes:
        url: With protocol, without credentials.
        stamp: Changes when the image does: its size, and what the storage tells of its version.
    """

    url: str
    stamp: str

    @property
    def suffix(self) -> str:
        """Of the file name, with its dot."""
        return PurePosixPath(self.url).suffix

    @property
    def place(self) -> PurePosixPath:
        """Where a copy goes below a folder: the address without protocol, so that no two share one."""
        parts = [part for part in self.url.partition("://")[2].split("/") if part not in ("", ".", "..")]
        return PurePosixPath("fetched", *(re.sub(r"[^\w.=+-]", "_", part) for part in parts))

    @property
    def folder(self) -> str:
        """The URL without the file name."""
        return self.url.rpartition("/")[0]

    def read(self) -> bytes:
        """Return the file's bytes.

        Raises:
            DataError: If it can't be read.
        """
        fs, path = _opened(self.url)
        try:
            return bytes(fs.cat_file(path))
        except Exception as err:  # each storage has errors of its own
            raise DataError(
                f"{self.url}: can't be read ({_reason(err)}); check the address and the access to it"
            ) from err


def find_remote(url: str) -> list[tuple[RemoteImage, str]]:
    """Return the images behind an address, with names for the output folder, in the order of their addresses.

    Args:
        url: A file, a folder (with its subfolders), or a pattern with `*`, `?` or `[...]`.

    Raises:
        ConfigError: If nothing can open such addresses.
        DataError: If it can't be listed, holds no image, or is a video.
    """
    fs, path = _opened(url)
    try:
        if any(letter in path for letter in "*?["):
            found = fs.glob(path, detail=True)
            root = path[: min(path.index(letter) for letter in "*?[" if letter in path)].rpartition("/")[0]
        elif fs.isfile(path):
            found, root = {path: fs.info(path)}, path.rpartition("/")[0]
        else:
            found, root = fs.find(path, detail=True), path.rstrip("/")
    except Exception as err:  # each storage has errors of its own
        raise DataError(f"source: can't list {url} ({_reason(err)}); check the address and the access to it") from err
    files = sorted((name, facts) for name, facts in found.items() if facts.get("type", "file") == "file")
    suffixes = {PurePosixPath(name).suffix.lower() for name, _ in files}
    if videos := sorted(suffixes & VIDEO_SUFFIXES):
        raise DataError(
            f"source: {url} holds videos ({videos[0]}), which are read from a disk only; copy them to one, or name the "
            "images with a pattern like s3://bucket/cam*/*.jpg"
        )
    images = [(name, facts) for name, facts in files if PurePosixPath(name).suffix.lower() in IMAGE_SUFFIXES]
    if not images:
        raise DataError(f"source: no images in {url}; known: {' '.join(sorted(IMAGE_SUFFIXES))}")
    return [
        (RemoteImage(fs.unstrip_protocol(name), _stamp(facts)), _name(name.removeprefix(root).lstrip("/")))
        for name, facts in images
    ]


def fetched(items: Iterable[tuple[Path | RemoteImage, str]]) -> Iterator[tuple[Path | RemoteImage, str, Any]]:
    """Yield each item with a call that returns its bytes; those of the following ones are fetched meanwhile."""
    stream = iter(items)
    waiting: deque[tuple[Path | RemoteImage, str, Future[bytes] | None]] = deque()
    with ThreadPoolExecutor(_READERS) as pool:

        def begin(count: int) -> None:
            for path, name in islice(stream, count):
                waiting.append((path, name, pool.submit(path.read) if isinstance(path, RemoteImage) else None))

        begin(2 * _READERS)
        try:
            while waiting:
                path, name, future = waiting.popleft()
                begin(1)
                yield path, name, None if future is None else future.result
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _opened(url: str) -> tuple[Any, str]:
    """Return the file system of an address and the path in it."""
    import fsspec

    assert is_url(url)
    try:
        fs, path = fsspec.core.url_to_fs(url)
    except ImportError as err:
        raise ConfigError(f"source: {url} needs another package ({err}); pip install it and try again") from err
    except ValueError as err:
        raise ConfigError(f"source: can't open {url} ({_reason(err)}); known are s3://, gs://, az://, file://") from err
    return fs, str(path)


def _name(relative: str) -> str:
    return PurePosixPath(relative).with_suffix("").as_posix()


def _stamp(facts: dict[str, Any]) -> str:
    keys = (
        "size",
        "ETag",
        "etag",
        "md5Hash",
        "content_md5",
        "mtime",
        "LastModified",
        "last_modified",
        "updated",
        "created",
    )
    return " ".join(f"{key}={facts[key]}" for key in keys if facts.get(key) is not None)


def _reason(err: Exception) -> str:
    return next(iter(str(err).strip().splitlines()), type(err).__name__)
