"""Reading the user's files, never writing: safe look-ups, text with or without byte-order mark, YAML, image folders."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import yaml

from detkd.errors import DataError
from detkd.io import parse_json, parse_yaml, read_bytes

__all__ = [
    "IMAGE_SUFFIXES",
    "absolute",
    "is_dir",
    "is_file",
    "is_image",
    "list_images",
    "load_json",
    "load_yaml",
    "read_text",
]

IMAGE_SUFFIXES = frozenset(
    {".avif", ".bmp", ".dng", ".heic", ".heif", ".jp2", ".jpeg", ".jpg", ".mpo", ".png", ".tif", ".tiff", ".webp"}
)
"""The formats Ultralytics trains on, lower case."""


def is_file(path: str | Path) -> bool:
    """Return whether a file exists; False for names no file system accepts (too long, NUL, lone surrogates)."""
    try:
        return os.path.isfile(path)
    except (OSError, ValueError):
        return False


def is_dir(path: str | Path) -> bool:
    """Return whether a folder exists; False for names no file system accepts."""
    try:
        return os.path.isdir(path)
    except (OSError, ValueError):
        return False


def absolute(path: str | Path, root: Path | None = None) -> Path:
    """Return an absolute path without resolving links: labels are looked up beside the name the user gave.

    Args:
        path: May start with `~`.
        root: What a relative path is relative to; the working directory by default.
    """
    text = str(path)
    try:
        expanded = os.path.expanduser(text)
    except (RuntimeError, ValueError):
        expanded = text
    return Path(os.path.normpath(os.path.join(root if root is not None else os.getcwd(), expanded)))


def is_image(name: str) -> bool:
    """Return whether a file name has an image suffix (any case) and isn't hidden (macOS leaves `._x.jpg` files)."""
    return os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES and not os.path.basename(name).startswith(".")


def list_images(folder: Path) -> list[Path]:
    """Return all images below a folder, sorted; links to folders are followed once each."""
    found: list[Path] = []
    seen: set[str] = set()
    for root, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(root)
        if real in seen:  # a link back up would never end
            folders.clear()
            continue
        seen.add(real)
        found.extend(Path(root, name) for name in files if is_image(name))
    return sorted(found)


def read_text(path: Path, key: str = "data.path") -> str:
    """Return the text of a UTF-8 file without its byte-order mark.

    Raises:
        DataError: If the file is missing, unreadable or no UTF-8 text; names `key` and the file.
    """
    try:
        return read_bytes(path).decode("utf-8-sig")
    except FileNotFoundError as err:
        raise DataError(f"{key}: no such file, got {path}; check the path") from err
    except UnicodeDecodeError as err:
        raise DataError(f"{key}: {path} isn't UTF-8 text (byte {err.start}); save it as UTF-8") from err
    except (OSError, ValueError) as err:
        raise DataError(f"{key}: {path} can't be read ({err}); check the file and its permissions") from err


def load_yaml(path: Path, key: str = "data.path") -> Any:
    """Return the content of a YAML file. Only plain values: tags that build objects are refused.

    Raises:
        DataError: If the file can't be read or isn't plain YAML.
    """
    try:
        return parse_yaml(read_text(path, key))
    except yaml.YAMLError as err:
        mark = getattr(err, "problem_mark", None)
        line = f" at line {mark.line + 1}" if mark is not None else ""
        problem = str(getattr(err, "problem", None) or err).splitlines()[0]
        raise DataError(f"{key}: {path} isn't plain YAML{line} ({problem}); correct the file") from err
    except ValueError as err:  # nested too deep, 0000-00-00 as a date
        raise DataError(f"{key}: {path} isn't plain YAML ({err}); correct the file") from err


def load_json(path: Path, key: str = "data.path") -> Any:
    """Return the content of a JSON file.

    Raises:
        DataError: If the file can't be read or isn't JSON; names the line.
    """
    try:
        return parse_json(read_text(path, key).encode())
    except json.JSONDecodeError as err:
        raise DataError(f"{key}: {path} isn't JSON (line {err.lineno}: {err.msg}); is the file complete?") from err
    except ValueError as err:  # nested too deep, an integer of thousands of digits
        raise DataError(f"{key}: {path} isn't usable JSON ({err}); correct the file") from err
