"""Help texts, read from the configuration files themselves, so that they can't fall behind."""

from __future__ import annotations

import re
import shutil
import textwrap
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed_version
from pathlib import Path

from detkd import paths
from detkd.config import VERBS
from detkd.quoting import RUN_GROUPS

__all__ = ["describe", "overview", "version"]

_EXAMPLES = {
    "train": (
        "detkd train model=yolo26n data=toy epochs=20",
        "detkd train model=yolo26n_half data=my/data.yaml imgsz=320 trainer.lr0=0.01",
        "detkd train resume=runs/train",
    ),
    "distill": (
        "detkd distill teacher=yolo26x student=yolo26n data=coco128",
        "detkd distill teacher=runs/train student=yolo26n_half data=my/data.yaml control=true",
        "detkd distill teacher=t.pt student=s.pt data=toy teacher.imgsz=960 distill.alpha=0.3",
    ),
    "doctor": (
        "detkd doctor teacher=yolo26x student=yolo26n data=coco128",
        "detkd doctor teacher=runs/train student=yolo26n_half data=my/data.yaml control=true",
        "detkd doctor teacher=t.pt student=s.pt data=toy teacher.imgsz=960 distill=classic steps=60",
    ),
    "evaluate": (
        "detkd evaluate model=runs/distill data=toy",
        "detkd evaluate model=best.onnx data=my/data.yaml split=val",
        "detkd evaluate detections=results.json gt=instances.json",
    ),
    "compare": (
        "detkd compare before=runs/train after=runs/distill",
        "detkd compare before=old.pt after=new.pt teacher=big.pt data=toy",
        "detkd compare before=a.json after=b.json gt=instances.json fail_if='AP<-0.5'",
        "detkd compare runs=[runs/a,runs/b,runs/c] reference=runs/a",
    ),
    "watch": ("detkd watch runs/distill", "detkd watch", "detkd watch run=runs/distill once=true"),
    "export": (
        "detkd export model=runs/distill format=onnx",
        "detkd export model=best.pt format=openvino_int8 data=my/data.yaml",
        "detkd export model=best.pt format=onnx nms=false imgsz=320",
    ),
    "predict": (
        "detkd predict model=runs/distill source=data/samples",
        "detkd predict model=best.pt source=street.mp4 conf=0.4",
        "detkd predict model=[before.pt,after.pt] source=street.jpg",
    ),
    "cache": (
        "detkd cache build teacher=yolo26x student=yolo26n data=coco128 cache=views cache.views=10",
        "detkd cache build teacher=rtdetr-l.pt student=yolo26n data=my/data.yaml cache=instances cache.flip=true",
        "detkd cache info",
        "detkd cache verify runs/cache/views-toy-0123456789abcdef",
        "detkd cache prune older_days=30 dry_run=true",
    ),
    "pseudolabel": (
        "detkd pseudolabel teacher=runs/teacher data=my/data.yaml source=street.mp4",
        "detkd pseudolabel teacher=a.pt teachers=[b.pt] flip=true data=toy source='footage/*.mp4' precision=0.9",
        "detkd pseudolabel teacher=runs/teacher data=my/data.yaml source=street.mp4 stage=form reject=rejected.json",
    ),
    "demo": ("detkd demo", "detkd demo seed=1 out=runs/demo1", "detkd demo --cfg job"),
}
_KEY = re.compile(r"^(?P<indent> *)(?P<key>\w+): *(?P<value>.*?) *# (?P<comment>.*)$")
_NAMED = frozenset({"model", "student", "teacher"})  # groups that also take the name of official weights
_INDENT = 26


def version() -> str:
    """Return the installed version."""
    try:
        return installed_version("detkd")
    except PackageNotFoundError:
        return "(not installed, running from a checkout)"


def _lines(name: str) -> list[str]:
    return (paths.config_folder() / f"{name}.yaml").read_text(encoding="utf-8").splitlines()


def _purpose(verb: str) -> str:
    """Return what a verb does: the first line of its config, `# detkd VERB: ...`."""
    return _lines(verb)[0].partition(": ")[2]


def _entry(name: str, meaning: str, width: int) -> str:
    """Return one aligned row; long meanings continue below."""
    indent = " " * _INDENT
    start = f"  {name}"
    start = f"{start:<{_INDENT}}" if len(start) < _INDENT else f"{start}\n{indent}"
    return start + f"\n{indent}".join(textwrap.wrap(meaning, max(width - _INDENT, 30)) or [""])


def _keys(lines: Sequence[str], width: int, prefix: str = "") -> list[str]:
    """Return the rows of all keys that have a comment."""
    rows = []
    parent = ""
    for line in lines:
        match = _KEY.match(line)
        if match:
            name = f"{parent}.{match['key']}" if match["indent"] else match["key"]
            rows.append(_entry(f"{prefix}{name}={match['value']}".replace("=???", "="), match["comment"], width))
        parent = line[:-1] if re.fullmatch(r"\w+:", line) else parent if line.startswith(" ") else ""
    return rows


def overview() -> str:
    """Return the text of `detkd --help`."""
    rows = [f"  {verb:<13}{_purpose(verb)}" for verb in VERBS]
    return "\n".join(
        [
            "detkd: make a smaller, faster detector learn from a bigger one, and see mAP before and after.",
            "",
            "usage: detkd VERB [key=value ...] [--cfg job] [--multirun]",
            "",
            *rows,
            "",
            "detkd VERB --help shows the keys of a verb and what can be chosen for them.",
            "detkd demo runs the whole path offline in a few minutes.",
        ]
    )


def describe(verb: str, extra: Sequence[Path] = ()) -> str:
    """Return the text of `detkd VERB --help`; `extra` are folders given with `--config-dir`."""
    width = min(shutil.get_terminal_size((100, 24)).columns, 120)
    groups = []
    for group in paths.verb_groups(verb):
        choices = paths.group_choices(group, extra)
        shown = [choice for choice in choices if choice != "path"]
        if "path" in choices:
            known = "a path or an official name such as yolo26n" if group in _NAMED else "a path"
            shown.append(f"or {known}" if shown else known)
        if shown:
            groups.append(_entry(f"{group}=", " | ".join(shown), width))
    parts = [f"detkd {verb}: {_purpose(verb)}", "", "examples:", *(f"  {line}" for line in _EXAMPLES[verb])]
    if groups:
        parts += ["", "choices, each with keys of its own (see --cfg job):", *groups]
    parts += ["", "keys and their defaults:", *_keys(_lines(verb), width)]
    if "report" in paths.verb_groups(verb) and verb not in {"cache", "doctor"}:  # there it is for overlays only
        parts += ["", "keys of the report (docs/comparison.md):", *_keys(_lines("report/default"), width, "report.")]
    for kind in ("views", "instances") if verb == "cache" else ():
        parts += ["", f"keys of cache={kind} (docs/cache.md):", *_keys(_lines(f"cache/{kind}"), width, "cache.")]
    if "trainer" in paths.verb_groups(verb):
        parts += ["", "Any training argument of Ultralytics: trainer.lr0=0.01"]
    parts += [
        "",
        "look before you run:  --cfg job (the whole config), --info defaults-tree (where it comes from)",
    ]
    if "seed" in paths.primary(verb) and verb != "cache":  # a cache serves all seeds
        parts.append(f"several runs at once: detkd {verb} --multirun seed=0,1,2  (a comma sweeps only here)")
        launchers, sweeps = ("|".join(paths.group_choices(group, extra)) for group in RUN_GROUPS)
        parts.append(f"with --multirun also:  launch={launchers}  sweep={sweeps}  (docs/experiments.md)")
    parts.append("presets of your own:  --config-dir FOLDER experiment=NAME")
    return "\n".join(parts)
