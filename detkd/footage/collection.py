"""What was collected, and the file that keeps it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from detkd.errors import DataError
from detkd.io import read_json

__all__ = ["STAGE_FILE", "VERSION", "Collection", "Item", "load_collection"]

STAGE_FILE = "collect.json"

VERSION = 1
"""Of the stage file, and of the way pictures are measured and chosen."""


@dataclass(frozen=True)
class Item:
    """One picture that was kept.

    Attributes:
        file: Absolute path of the image file: where it was found, or the frame that was written.
        source: The video a frame comes from, or the folder of an image.
        time_s: Seconds since the first frame of the video, None for an image.
        width: Pixels.
        height: Pixels.
        sharpness: Variance of the Laplacian, see `similar.measure`.
        brightness: Mean grey level, 0..255.
    """

    file: Path
    source: str
    time_s: float | None
    width: int
    height: int
    sharpness: float
    brightness: float


@dataclass(frozen=True)
class Collection:
    """The pictures kept from some footage.

    Attributes:
        items: The pictures, in the order of the sources and of time.
        dropped: How many were left out, by reason: "dark", "blur", "similar", "limit".
        skipped: What can't be read, as {"file": path, "reason": sentence}.
        notes: What else there is to know, one line each (a variable frame rate, say).
        settings: What was asked for.
    """

    items: list[Item]
    dropped: dict[str, int] = field(default_factory=dict)
    skipped: list[dict[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    settings: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.items)

    @property
    def looked_at(self) -> int:
        """How many pictures were judged: kept and dropped ones."""
        return len(self.items) + sum(self.dropped.values())

    def to_dict(self, folder: str | Path | None = None) -> dict[str, Any]:
        """Return the collection as JSON values; files below `folder` are named relative to it."""
        base = None if folder is None else Path(folder).resolve()
        items = []
        for item in self.items:
            inside = base is not None and item.file.is_relative_to(base)
            items.append({**asdict(item), "file": str(item.file.relative_to(base) if inside and base else item.file)})
        return {
            "items": items,
            "dropped": dict(self.dropped),
            "skipped": [dict(entry) for entry in self.skipped],
            "notes": list(self.notes),
            "settings": dict(self.settings),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], folder: str | Path | None = None) -> Collection:
        """Return the collection that `to_dict` described; relative files are looked for below `folder`.

        Raises:
            DataError: If a field is missing or of the wrong kind.
        """
        base = Path() if folder is None else Path(folder).resolve()
        try:
            return cls(
                [Item(**{**entry, "file": base / entry["file"]}) for entry in values["items"]],
                {str(reason): int(count) for reason, count in values["dropped"].items()},
                [dict(entry) for entry in values["skipped"]],
                list(values["notes"]),
                dict(values["settings"]),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as err:
            raise DataError(
                f"{base / STAGE_FILE}: not a list of collected pictures ({err}); delete it and collect anew"
            ) from err


def load_collection(folder: str | Path) -> Collection:
    """Read what `collect` left in a folder.

    Raises:
        DataError: If there is nothing, or collecting was interrupted.
    """
    file = Path(folder).resolve() / STAGE_FILE
    values = read_json(file)
    if not isinstance(values, dict) or values.get("version") != VERSION:
        raise DataError(f"{file}: not written by this version of detkd; delete it and collect anew")
    if not values.get("complete"):
        raise DataError(f"{file}: collecting was interrupted; run it again with the same settings, it goes on")
    return Collection.from_dict(values, file.parent)
