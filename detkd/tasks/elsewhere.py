"""The teacher of a configuration on another machine: found under the same path, and the same one."""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from detkd.caching.fingerprint import differences
from detkd.errors import ModelError
from detkd.tasks.cache_facts import code_facts
from detkd.tasks.teachers import live_teacher, resolved_members, teacher_facts, teacher_sizes

__all__ = ["portable", "same_teacher"]


def portable(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a worker needs of a configuration to load its teachers, with absolute paths."""
    first, *others = [
        {**asdict(member), "path": str(Path(member.path).absolute())} for member in resolved_members(config["teacher"])
    ]
    sizes = {key: config.get(key) for key in ("imgsz", "load_imgsz")}
    return {**sizes, "teacher": {**first, "others": others}}


def same_teacher(
    config: Mapping[str, Any], names: Sequence[str], teacher: Mapping[str, Any], code: Mapping[str, Any]
) -> Any:
    """Load the teacher of a portable configuration.

    Args:
        config: What `portable` returned.
        names: Classes of the data.
        teacher: `teacher_facts` where the work was begun.
        code: `code_facts` there.

    Raises:
        ModelError: If the files or the versions of what draws the views differ here.
    """
    here = {"teacher": teacher_facts(config, teacher_sizes(config)[0]), "code": code_facts()}
    if others := differences({"teacher": teacher, "code": code}, here):
        name, wanted, found = others[0]
        raise ModelError(
            f"teacher: {socket.gethostname()} would answer otherwise, its {name} is {found}, where the work was begun "
            f"it is {wanted}; all machines of a cluster need the same files under the same paths and the same packages"
        )
    return live_teacher(config, names, exact=True)
