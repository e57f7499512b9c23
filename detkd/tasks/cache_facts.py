"""What stored answers depend on, as JSON values."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path
from typing import Any

from detkd.caching.fingerprint import image_digests, list_digest
from detkd.data.records import DataSpec
from detkd.io import sha256

__all__ = ["CACHE_ROOT", "code_facts", "data_facts", "file_facts", "moves_boxes"]

CACHE_ROOT = Path("runs/cache")
"""Where caches are kept that were given no place of their own."""

_CODE = 1
"""Raised whenever the same settings give other views or other stored bytes."""


def code_facts() -> dict[str, Any]:
    """Return the versions that decide how a view looks."""
    names = ("ultralytics", "albumentations", "opencv-python")
    return {"detkd": _CODE, **{name: metadata.version(name) for name in names}}


def data_facts(spec: DataSpec, memo: Path) -> dict[str, Any]:
    """Return what the stored answers depend on in the data: the pictures, their order, and the classes."""
    records = spec.splits["train"].records
    pictures = image_digests([record.path for record in records], memo)
    return {"images": list_digest(pictures), "count": len(records), "names": list(spec.names)}


def file_facts(path: Path) -> str:
    """Return the hash of a file, or of all files of a folder."""
    if path.is_dir():
        return list_digest([sha256(file) for file in sorted(path.rglob("*")) if file.is_file()])
    return sha256(path)


def moves_boxes(transforms: Any) -> bool:
    """Whether an Albumentations transform in serialised form, or one nested in it, moves boxes."""
    import albumentations as A

    def walk(transform: Any) -> bool:
        inner = getattr(transform, "transforms", None)
        return isinstance(transform, A.DualTransform) or any(walk(one) for one in inner or ())

    return any(walk(A.from_dict(one)) for one in transforms or ())
