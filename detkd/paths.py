"""Where the configuration files are: inside the installed package, or `conf/` of a checkout."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml

__all__ = ["CONFIG_PATH", "config_folder", "group_choices", "preset_keys", "primary", "verb_groups"]


def _locate() -> tuple[str, Path]:
    """Return Hydra's name for the configuration tree and its folder."""
    beside = Path(__file__).resolve().parent.parent / "conf"
    spec = find_spec("detkd.conf")
    if spec is not None and spec.submodule_search_locations:
        installed = Path(next(iter(spec.submodule_search_locations)))
        if installed.resolve() == beside or not (beside / "distill.yaml").is_file():
            return "pkg://detkd.conf", installed
    return str(beside), beside  # a clone that nobody installed, perhaps beside one that somebody did


CONFIG_PATH, _FOLDER = _locate()


def config_folder() -> Path:
    """Return the folder with the packaged configuration tree."""
    return _FOLDER


def group_choices(group: str, extra: Sequence[Path] = ()) -> list[str]:
    """Return the choices of a group, sorted, e.g. `["none", "sub/name"]`; empty when there is no such group."""
    found = {
        file.relative_to(root / group).with_suffix("").as_posix()
        for root in (_FOLDER, *extra)
        for file in (root / group).rglob("*.yaml")
    }
    return sorted(found)


def _load(file: Path) -> dict[str, Any]:
    content = yaml.safe_load(file.read_text(encoding="utf-8"))
    return content if isinstance(content, dict) else {}


def primary(verb: str) -> dict[str, Any]:
    """Return the keys of a verb's primary config with their defaults, groups left out."""
    content = _load(_FOLDER / f"{verb}.yaml")
    content.pop("defaults", None)
    return content


def verb_groups(verb: str, folder: Path | None = None) -> list[str]:
    """Return the groups of a verb's primary config in their order; `folder` replaces the packaged one."""
    entries = _load((folder or _FOLDER) / f"{verb}.yaml").get("defaults", [])
    names = [next(iter(entry)) for entry in entries if isinstance(entry, Mapping)]
    return [str(name) for name in names if not str(name).startswith("optional ")]


def preset_keys(group: str, choice: str) -> list[str]:
    """Return the keys that a preset of a group brings, as `group.key`, one level deep."""
    file = _FOLDER / group / f"{choice}.yaml"
    if not file.is_file() or "@package _global_" in file.read_text(encoding="utf-8"):
        return []
    return [f"{group}.{key}" for key in _load(file) if key != "defaults"]
