"""Which of the teacher's classes stand for which class of the data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from detkd.errors import PairError

__all__ = ["class_map", "map_logits", "partial_class_map", "plain_name"]


def class_map(
    teacher_names: Sequence[str], data_names: Sequence[str], explicit: Mapping[str, str] | None = None
) -> tuple[tuple[int, ...], ...]:
    """Map by name: for each class of the data, the indices of the teacher's classes that mean it.

    Names are compared without regard to case, spaces, dashes and underscores. Classes that only the teacher knows are
    left out; a class that the teacher does not know is refused.

    Args:
        teacher_names: The teacher's classes in index order.
        data_names: The classes of the data (and of the student) in index order.
        explicit: `teacher.class_map`: teacher's class to class of the data, e.g. {"van": "car"}; several may share one.

    Returns:
        One non-empty tuple of teacher indices per class of the data.

    Raises:
        PairError: If an explicit name does not exist or a class of the data has no counterpart.
    """
    sources = _match(teacher_names, data_names, explicit)
    missing = [name for name, found in zip(data_names, sources, strict=True) if not found]
    if missing:
        raise PairError(
            f"teacher.class_map: the teacher does not know {', '.join(missing)}; teacher: {', '.join(teacher_names)}; "
            f"data: {', '.join(data_names)}; "
            f"name counterparts, e.g. teacher.class_map={{{teacher_names[0]}: {missing[0]}}}"
        )
    return tuple(tuple(found) for found in sources)


def partial_class_map(
    teacher_names: Sequence[str],
    data_names: Sequence[str],
    explicit: Mapping[str, str] | None = None,
    *,
    source: str = "the teacher",
) -> tuple[tuple[int, ...], ...]:
    """Map as `class_map` does, for a teacher that need not know every class of the data.

    Args:
        teacher_names: The teacher's classes in index order.
        data_names: The classes of the data in index order.
        explicit: `teacher.class_map`: teacher's class to class of the data.
        source: Which teacher, for messages.

    Returns:
        One tuple of teacher indices per class of the data, empty where the teacher does not know the class.

    Raises:
        PairError: If an explicit name does not exist or the teacher knows no class of the data at all.
    """
    sources = _match(teacher_names, data_names, explicit)
    if not any(sources):
        raise PairError(
            f"teacher.class_map: {source} knows no class of the data; teacher: {', '.join(teacher_names)}; "
            f"data: {', '.join(data_names)}; name counterparts, e.g. "
            f"teacher.class_map={{{next(iter(teacher_names), 'van')}: {next(iter(data_names), 'car')}}}"
        )
    return tuple(tuple(found) for found in sources)


def _match(
    teacher_names: Sequence[str], data_names: Sequence[str], explicit: Mapping[str, str] | None
) -> list[list[int]]:
    """Return the teacher's indices per class of the data, or raise `PairError` for a name that does not exist."""
    known = {plain_name(name): i for i, name in enumerate(teacher_names)}
    wanted = {plain_name(name): i for i, name in enumerate(data_names)}
    sources: list[list[int]] = [[] for _ in data_names]
    renamed = set()
    for source, target in (explicit or {}).items():
        for name, names, whose in ((source, known, "the teacher has"), (target, wanted, "the data has")):
            if plain_name(str(name)) not in names:
                have = ", ".join(teacher_names if names is known else data_names)
                raise PairError(f"teacher.class_map: no class {name!r}; {whose}: {have}")
        index = known[plain_name(str(source))]
        sources[wanted[plain_name(str(target))]].append(index)
        renamed.add(index)
    for name, target_index in wanted.items():
        index = known.get(name, -1)
        if index >= 0 and index not in renamed:
            sources[target_index].insert(0, index)
    return sources


def plain_name(name: str) -> str:
    """Return a class name as it is compared: without case, spaces, dashes and underscores."""
    return "".join(c for c in str(name).casefold() if c not in " -_")


def map_logits(logits: Tensor, mapping: Sequence[Sequence[int]]) -> Tensor:
    """Reorder the teacher's logits (B, A, C_teacher) to the classes of the data (B, A, C).

    Where several classes of the teacher share one class of the data, the most certain of them counts.
    """
    width = max(len(sources) for sources in mapping)
    # Repeat the first source to a rectangle: the maximum is not changed by it.
    index = torch.tensor([[*s, *[s[0]] * (width - len(s))] for s in mapping], device=logits.device)
    return logits[..., index].amax(-1) if width > 1 else logits[..., index[:, 0]]
