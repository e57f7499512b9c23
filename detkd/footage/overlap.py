"""Whether footage holds pictures that a model is judged on: training on these would make its scores worthless."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import cv2
import numpy as np

from detkd.errors import DataError
from detkd.footage.similar import Thumbnails, measure
from detkd.progress import track

__all__ = ["Overlap", "check_overlap", "find_overlap"]

_WORST_CELL = 12.0
_ALL_CELLS = 1.0
# A picture saved again as JPEG of quality 30 differs by up to 13 grey levels in its worst cell and 1.8 (root mean
# square) over all; scaled to 3/4 by up to 24 and 2.5, half of them by less than 9 and 0.8. The two most alike of 1427
# pictures of 26 fixed traffic cameras differ by 13 and 1.3.
_FLAT = 2.0  # grey levels; a black picture is like any other black picture and gives nothing away
_WORKERS = 4
_AHEAD = 64


@dataclass(frozen=True)
class Overlap:
    """A picture of the footage that is also held out.

    Attributes:
        pool: The picture of the footage.
        held_out: The one it is like; of several the most alike.
        difference: Grey levels in the worst cell of their thumbnails, 0 for equal files.
        same_bytes: Whether the files are equal.
    """

    pool: Path
    held_out: Path
    difference: float
    same_bytes: bool


@dataclass(frozen=True)
class _Look:
    path: Path
    digest: str | None
    thumbnail: np.ndarray | None


def find_overlap(pool_paths: Sequence[Path], held_out_paths: Sequence[Path]) -> list[Overlap]:
    """Find pictures of a pool that are also held out: equal files, or nearly the same pixels.

    Found are copies under other names, saved again as JPEG or moderately scaled, and neighbouring frames of a still
    scene. Not found are crops, mirror images, and other moments of the same scene: compare the cameras for these.

    Args:
        pool_paths: Images to train on.
        held_out_paths: Images to judge with. Files that can't be read are passed over on both sides.

    Returns:
        One entry for each picture of the pool that is held out, in the order of the pool.
    """
    if not pool_paths or not held_out_paths:
        return []
    by_digest: dict[str, Path] = {}
    known, owners = Thumbnails(), list[Path]()
    for look in track(_looks(held_out_paths), "held-out pictures", len(held_out_paths)):
        if look.digest is not None:
            by_digest.setdefault(look.digest, look.path)
        if look.thumbnail is not None:
            known.add(look.thumbnail)
            owners.append(look.path)
    found = []
    for look in track(_looks(pool_paths), "overlap", len(pool_paths)):
        if look.digest in by_digest:
            found.append(Overlap(look.path, by_digest[look.digest], 0.0, True))
        elif look.thumbnail is not None and (match := _most_alike(known, look.thumbnail)):
            found.append(Overlap(look.path, owners[match[0]], match[1], False))
    return found


def check_overlap(
    pool_paths: Sequence[Path],
    held_out_paths: Sequence[Path],
    *,
    key: str = "source",
    held_out: str = "validation set",
) -> None:
    """Refuse footage that holds pictures a model is judged on.

    Args:
        pool_paths: Images to train on.
        held_out_paths: Images to judge with.
        key: Setting to name in the message.
        held_out: What to call the held-out pictures.

    Raises:
        DataError: With the number of pictures and the first of them.
    """
    if not (found := find_overlap(pool_paths, held_out_paths)):
        return
    shown = "; ".join(
        f"{pair.pool} = {pair.held_out} ({'same file content' if pair.same_bytes else 'nearly the same pixels'})"
        for pair in found[:3]
    )
    more = f"; and {len(found) - 3} more" if len(found) > 3 else ""
    raise DataError(
        f"{key}: {len(found)} of {len(pool_paths)} pictures {'is' if len(found) == 1 else 'are'} also in the {held_out}"
        f" ({shown}{more}); take them out of the footage, else its scores say nothing"
    )


def _most_alike(known: Thumbnails, thumbnail: np.ndarray) -> tuple[int, float] | None:
    """Return number and difference of the thumbnail that shows the same picture, if there is one."""
    # Cells that differ by 1 on average can't move the mean of a group of 36 by more than 7, so none is missed here.
    close = known.candidates(thumbnail, _WORST_CELL)
    if not len(close):
        return None
    gaps = known.differences(thumbnail, close)
    worst = gaps.max(axis=1)
    same = (worst < _WORST_CELL) | (np.sqrt((gaps.astype(np.float32) ** 2).mean(axis=1)) < _ALL_CELLS)
    if not same.any():
        return None
    best = int(np.where(same, worst, 256).argmin())
    return int(close[best]), float(worst[best])


def _looks(paths: Iterable[Path]) -> Iterator[_Look]:
    """Read pictures in threads, in order, without holding more than a few of them."""
    left = iter(paths)
    with ThreadPoolExecutor(_WORKERS) as pool:
        while part := list(islice(left, _AHEAD)):
            yield from pool.map(_look, part)


def _look(path: Path) -> _Look:
    try:
        content = Path(path).read_bytes()
    except OSError:
        return _Look(Path(path), None, None)
    digest = hashlib.blake2b(content, digest_size=16).hexdigest()
    try:
        image = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR) if content else None
    except cv2.error:
        image = None
    if image is None:
        return _Look(Path(path), digest if content else None, None)
    thumbnail = measure(np.asarray(image)).thumbnail
    return _Look(Path(path), digest, thumbnail if thumbnail.std() > _FLAT else None)
