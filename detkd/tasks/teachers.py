"""From the `teacher` group to whoever teaches: one live network, or several that answer as one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from detkd.errors import ConfigError, PairError
from detkd.progress import console
from detkd.signature import call_problems
from detkd.tasks.cache_facts import file_facts
from detkd.tasks.recipes import make_recipe, wants_objects

if TYPE_CHECKING:
    from detkd.evaluation.side import Run
    from detkd.models.ensemble import EnsembleTeacher
    from detkd.models.teacher import LiveTeacher

__all__ = [
    "Member",
    "live_teacher",
    "resolved_members",
    "teacher_facts",
    "teacher_file",
    "teacher_members",
    "teacher_notes",
    "teacher_sizes",
    "teacher_source",
    "unknown_classes",
    "weak_teacher",
    "with_packaged_teacher",
]


@dataclass(frozen=True)
class Member:
    """One of the teachers that answer together.

    Attributes:
        path: Weights, run folder or official name.
        imgsz: Side of the image it sees in pixels; None for the student's.
        class_map: Its class to class of the data where the names differ, e.g. {"van": "car"}.
        weight: Its say among several, > 0.
        classes: Classes of the data it answers for; None for all that it knows.
    """

    path: str
    imgsz: int | None = None
    class_map: Mapping[str, str] = field(default_factory=dict)
    weight: float = 1.0
    classes: Sequence[str] | None = None

    @property
    def name(self) -> str:
        """What tells it from others: the run of `runs/x/weights/last.pt`, else the name of the file."""
        path = Path(self.path)
        return path.parent.parent.name if path.parent.name == "weights" and path.suffix == ".pt" else path.name


def with_packaged_teacher(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the configuration with the path of the packaged teacher where `teacher=demo` stands for it."""
    from detkd.tasks.demo import PACKAGED_TEACHER, packaged_teacher

    teacher = config["teacher"]
    if teacher["path"] != PACKAGED_TEACHER:
        return dict(config)
    return {**config, "teacher": {**teacher, "path": str(packaged_teacher())}}


def teacher_members(node: Mapping[str, Any]) -> list[Member]:
    """Return the teachers that the group `teacher` names, the first one first; no file is looked at.

    Raises:
        ConfigError: Naming the key that can't be used.
    """
    others = node.get("others") or []
    if not isinstance(others, (list, tuple)):
        raise ConfigError(f"teacher.others: must be a list, got {others!r}; e.g. teacher.others=[other.pt]")
    members = []
    first = {key: node.get(key) for key in ("path", "imgsz", "class_map", "weight", "classes")}
    for where, entry in [("teacher", first), *((f"teacher.others[{i}]", entry) for i, entry in enumerate(others))]:
        if not isinstance(entry, (str, Mapping)):
            raise ConfigError(
                f"{where}: must be a path or {{path, imgsz, class_map, weight, classes}}, got {entry!r}; "
                "e.g. teacher.others=[{path: other.pt, weight: 0.5}]"
            )
        plain: Mapping[str, Any] = {"path": entry} if isinstance(entry, str) else entry
        given = {str(key): value for key, value in plain.items() if value is not None}
        if problems := call_problems(Member, given, where):
            raise ConfigError("\n".join(problems))
        member = Member(**given)
        if not member.weight > 0:
            raise ConfigError(f"{where}.weight: must be above 0, got {member.weight!r}; leave the teacher out instead")
        if member.classes is not None and not member.classes:
            raise ConfigError(f"{where}.classes: names no class, got []; null stands for all that it knows")
        members.append(member)
    return members


def teacher_sizes(config: Mapping[str, Any]) -> tuple[int, int | None]:
    """Return the pixels the teacher sees and those that images are loaded at (None: what the student sees).

    Of several teachers, the largest size counts; the others see that or the student's.

    Raises:
        ConfigError: If a teacher would see another size than either.
    """
    imgsz = int(config["imgsz"])
    sizes = [int(member.imgsz or imgsz) for member in teacher_members(config["teacher"])]
    largest = max(sizes)
    load = config.get("load_imgsz") or (largest if largest != imgsz else None)
    for number, size in enumerate(sizes):
        if size not in (imgsz, load):
            key = f"teacher.others[{number - 1}].imgsz" if number else "teacher.imgsz"
            raise ConfigError(f"{key}: must be imgsz ({imgsz}) or load_imgsz ({load}), got {size}")
    return largest, load


def live_teacher(
    config: Mapping[str, Any], names: Sequence[str], *, exact: bool = False
) -> LiveTeacher | EnsembleTeacher:
    """Load the teachers of a configuration and say which classes of the data they don't know.

    Args:
        config: A resolved `distill` or `cache` configuration.
        names: Classes of the data in index order.
        exact: For a cache: full precision, not compiled, and only heads of the teacher's own, as answers by objects
            depend on the student of the moment.

    Raises:
        ConfigError: If a key can't be used.
        ModelError: If a teacher can't be loaded.
        PairError: If one knows no class of the data.
    """
    from detkd.models.ensemble import EnsembleTeacher
    from detkd.models.teacher import LiveTeacher

    node = config["teacher"]
    members = resolved_members(node)
    settings: dict[str, Any] = {}
    objects = "distill" not in config or wants_objects(
        make_recipe(config["distill"], tuple(config.get("plugins") or ()))
    )
    if not exact:  # a configuration saved by an earlier version lacks these keys and goes on as it began
        settings = {
            "nms_conf": node.get("nms_conf") if objects else None,
            "nms_iou": node.get("nms_iou", 0.7),
            "half": node.get("half", False),
            "compiled": bool(node.get("compile")),
        }
    several = len(members) > 1
    loaded = []
    for number, member in enumerate(members):
        size = int(member.imgsz or config["imgsz"]) if several else None
        more = {"classes": member.classes, "imgsz": size, **settings}
        try:
            loaded.append(LiveTeacher.load(member.path, names, member.class_map, **more))
        except PairError as err:
            if number and str(err).startswith("teacher."):  # the key of the first one
                raise PairError(str(err).replace("teacher.", f"teacher.others[{number - 1}].", 1)) from err
            raise
    for member, teacher in zip(members, loaded, strict=True):
        _say_unknown(member, names, teacher.mapping)
    return EnsembleTeacher([(t, m.weight) for t, m in zip(loaded, members, strict=True)]) if several else loaded[0]


def teacher_source(config: Mapping[str, Any]) -> Callable[[tuple[str, ...]], LiveTeacher | EnsembleTeacher]:
    """Return what makes the live teacher of a run from the class names of the data; the files are looked for now.

    Raises:
        ConfigError: If a key can't be used.
        ModelError: If there is no such file.
    """
    resolved_members(config["teacher"])
    return lambda names: live_teacher(config, names)


def teacher_facts(config: Mapping[str, Any], imgsz: int) -> dict[str, Any]:
    """Return what a teacher's answers depend on, as JSON values; paths are no part of it.

    Args:
        config: A resolved `distill` or `cache` configuration.
        imgsz: Pixels the teacher sees (the largest size, if there are several).
    """
    members = resolved_members(config["teacher"])
    facts = [
        {
            "weights": file_facts(Path(member.path)),
            "imgsz": int(member.imgsz or config["imgsz"]),
            "class_map": dict(member.class_map),
            "weight": float(member.weight),
            "classes": None if member.classes is None else list(member.classes),
        }
        for member in members
    ]
    first, *others = facts
    if others:
        return {**first, "others": others}
    # What caches of one teacher have always been known by.
    told = {"weights": first["weights"], "imgsz": imgsz, "class_map": first["class_map"]}
    return told if first["classes"] is None else {**told, "classes": first["classes"]}


def teacher_file(config: Mapping[str, Any]) -> str:
    """Return the file of the (first) teacher.

    Raises:
        ConfigError: If it is no checkpoint and nothing but a checkpoint will do.
    """
    from detkd.models.weights import resolve

    path = str(config["teacher"]["path"])
    if path.endswith(".json"):
        if config["cache"]["kind"] != "instances" or not config.get("control"):
            raise ConfigError(
                f"teacher: {path} holds answers, not a network; use it with cache=instances and control=true"
            )
        return path
    return str(resolve(path, key="teacher"))


def teacher_notes(config: Mapping[str, Any], names: Sequence[str]) -> list[str]:
    """Return what a reader must know of the teacher's row in a report."""
    members = teacher_members(config["teacher"])
    lines = []
    if len(members) > 1:
        lines.append(
            f"the student had {len(members)} teachers; the teacher's row is that of the first, {members[0].name}"
        )
    if unknown := unknown_classes(config, names):
        lines.append(
            f"the teacher does not know {', '.join(unknown)}; its average precision counts them as 0, the student "
            "learned them from labels" + " and the other teachers" * (len(members) > 1)
        )
    return lines


def unknown_classes(config: Mapping[str, Any], names: Sequence[str]) -> list[str]:
    """Return the classes of the data that the first teacher does not know; none for files that are no checkpoint.

    Raises:
        PairError: If it knows none.
    """
    from detkd.models.classmap import partial_class_map
    from detkd.models.weights import load_detector, model_names

    member = resolved_members(config["teacher"])[0]
    if not member.path.endswith(".pt"):
        return []
    own = model_names(load_detector(member.path, key="teacher", rtdetr=True))
    return _missing(names, partial_class_map(own, names, member.class_map))


def weak_teacher(
    config: Mapping[str, Any], names: Sequence[str], teacher: Run | None, control: Run | None
) -> list[str]:
    """Return what to say of a teacher that is no better than the plain student; nothing where that can't be told.

    It can't without a control, for one of several teachers, or for one that does not know every class.
    """
    if teacher is None or control is None or config["teacher"].get("others") or unknown_classes(config, names):
        return []
    known, without = teacher.metrics.AP, control.metrics.AP
    if known is None or without is None or known > without:
        return []
    return [
        f"the teacher is worse here than the student without it ({known:.1f} and {without:.1f} AP): it has nothing to "
        "teach; train it on this data, raise teacher.imgsz, check teacher.class_map, and run detkd doctor"
    ]


def resolved_members(node: Mapping[str, Any]) -> list[Member]:
    """Return the members with the paths of their files."""
    from detkd.models.weights import resolve
    from detkd.tasks.demo import PACKAGED_TEACHER, packaged_teacher

    found = []
    for number, member in enumerate(teacher_members(node)):
        key = f"teacher.others[{number - 1}]" if number else "teacher"
        path = packaged_teacher() if member.path == PACKAGED_TEACHER else resolve(member.path, key=key)
        found.append(replace(member, path=str(path)))
    return found


def _missing(names: Sequence[str], mapping: Sequence[Sequence[int]]) -> list[str]:
    return [name for name, sources in zip(names, mapping, strict=True) if not sources]


def _say_unknown(member: Member, names: Sequence[str], mapping: Sequence[Sequence[int]]) -> None:
    if missing := _missing(names, mapping):
        why = "answers for chosen classes only" if member.classes is not None else "does not know every class"
        console.print(
            f"note: the teacher {member.name} {why}; learnt without it: {', '.join(missing)} "
            "(teacher.class_map names counterparts)",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )
