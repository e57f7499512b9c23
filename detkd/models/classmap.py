"""Which of the teacher's classes stand for which class of the data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache

import torch
from torch import Tensor

from detkd.errors import PairError

__all__ = ["UNKNOWN", "known_classes", "map_logits", "only_classes", "partial_class_map", "plain_name"]

UNKNOWN = -20.0
"""Logit of a class that the teacher does not know: lower than any answer, so that regions by score come to it last."""


def partial_class_map(
    teacher_names: Sequence[str],
    data_names: Sequence[str],
    explicit: Mapping[str, str] | None = None,
    *,
    source: str = "the teacher",
) -> tuple[tuple[int, ...], ...]:
    """Map by name: for each class of the data, the indices of the teacher's classes that mean it.

    Names are compared without regard to case, spaces, dashes and underscores. Classes that only the teacher knows are
    left out. It need not know every class of the data: what it does not know, it does not teach.

    Args:
        teacher_names: The teacher's classes in index order.
        data_names: The classes of the data in index order.
        explicit: `teacher.class_map`: teacher's class to class of the data, e.g. {"van": "car"}; several may share one.
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


def only_classes(
    mapping: Sequence[Sequence[int]], data_names: Sequence[str], classes: Sequence[str] | None
) -> tuple[tuple[int, ...], ...]:
    """Let a teacher answer for some classes of the data only; for the others it counts as not knowing them.

    Args:
        mapping: Teacher indices per class of the data.
        data_names: The classes of the data in index order.
        classes: `teacher.classes`: names of the classes it answers for; None for all.

    Raises:
        PairError: If a name does not exist, or the teacher knows none of these classes.
    """
    if classes is None:
        return tuple(tuple(sources) for sources in mapping)
    wanted = {plain_name(name) for name in classes}
    names = {plain_name(name) for name in data_names}
    have = ", ".join(data_names)
    for name in classes:
        if plain_name(name) not in names:
            raise PairError(f"teacher.classes: no class {name!r} in the data, got {list(classes)}; use some of {have}")
    kept = tuple(
        tuple(sources) if plain_name(name) in wanted else () for name, sources in zip(data_names, mapping, strict=True)
    )
    if not any(kept):
        raise PairError(
            f"teacher.classes: the teacher knows none of them, got {list(classes)}; name counterparts with "
            "teacher.class_map, or leave the key out"
        )
    return kept


def known_classes(mapping: Sequence[Sequence[int]]) -> Tensor | None:
    """Return where the teacher has an answer, (C,) bool, or None where it knows every class."""
    known = [bool(sources) for sources in mapping]
    return None if all(known) else torch.tensor(known)


def map_logits(logits: Tensor, mapping: Sequence[Sequence[int]]) -> Tensor:
    """Reorder the teacher's logits (B, A, C_teacher) to the classes of the data (B, A, C).

    Where several classes of the teacher share one class of the data, the most certain of them counts. A class without
    any has logits of `UNKNOWN`. Where there is nothing to do, the tensor itself is returned.
    """
    rows = tuple(tuple(sources) for sources in mapping)
    if rows == tuple((number,) for number in range(logits.shape[-1])):
        return logits
    index, unknown = _index(rows, logits.device)
    mapped = logits[..., index].amax(-1) if index.shape[1] > 1 else logits[..., index[:, 0]]
    return mapped if unknown is None else mapped.masked_fill(unknown, UNKNOWN)


@lru_cache(maxsize=32)
def _index(mapping: tuple[tuple[int, ...], ...], device: torch.device) -> tuple[Tensor, Tensor | None]:
    """Return teacher indices (C, K) and the classes without any (C,); kept, as a GPU would wait for them each time."""
    width = max(len(sources) for sources in mapping)
    # Repeat the first source to a rectangle: the maximum is not changed by it.
    rows = [[*s, *[s[0] if s else 0] * (width - len(s))] for s in mapping]
    known = known_classes(mapping)
    with torch.inference_mode(False):  # it may be kept for a backward pass later
        return torch.tensor(rows, device=device), None if known is None else ~known.to(device)
