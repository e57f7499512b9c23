"""Data sets, plans and methods of the distillation benchmark: what is run, in words of the configuration."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from detkd.config import compose
from detkd.errors import DetkdError
from detkd.tasks.recipes import make_recipe

REPO = Path(__file__).resolve().parents[2]
METHODS = tuple(sorted(path.stem for path in (REPO / "conf" / "distill").glob("*.yaml") if path.stem != "none"))
"""Recipes, by the names of their files."""

CONTROLS = ("control", "control_time")
"""Plain trainings: with as many epochs as the students, and with as many as fit in a student's time."""

COMMON = (
    "device=cpu", "pictures=0", "augment=none", "batch=8", "checkpoint=last", "trainer.optimizer=AdamW",
    "trainer.momentum=0.9", "trainer.cos_lr=true", "trainer.mosaic=0.0", "trainer.cache=ram", "trainer.val=false",
)  # fmt: skip


@dataclass(frozen=True)
class Preset:
    """One data set with its student, its teacher and its training; all arms share every word of it.

    Attributes:
        data: Words that choose the data.
        student: Words of the student: `student=...`, `student.slice=...`.
        teacher: File of the teacher; `--teacher` replaces it.
        words: Words of the training: size, epochs, learning rate, `load_imgsz` where the teacher sees more pixels.
        distilled: Words of the arms with a teacher, before the arm's own: `teacher.imgsz`, `cache=views`, region.
            With `cache=views` all arms, those with a live teacher and the controls too, show the views of the cache.
        group_by: Field of the images that are drawn together for the intervals; None: single images.
    """

    data: tuple[str, ...]
    student: tuple[str, ...]
    teacher: str
    words: tuple[str, ...]
    distilled: tuple[str, ...] = ()
    group_by: str | None = None


HALF = ("student=yolo26n_half",)
SLICED = ("student=yolo26n_half", "student.slice=ASSETS/weights/yolo26n.pt")
NANO = ("student=ASSETS/weights/yolo26n.pt",)
HALF_V8 = ("student=yolo26n_half", "student.path=yolov8.yaml")
CCTV = ("data=ASSETS/data/sg_traffic_cctv", "data.name=sg_traffic_cctv")
BCCD = ("data=ASSETS/data/bccd", "data.name=bccd")

CCTV_256 = Preset(  # more pixels for fewer epochs
    data=CCTV,
    student=NANO,
    teacher="runs/cctv_teacher",
    words=("imgsz=256", "load_imgsz=512", "epochs=6", "trainer.lr0=0.0008", "trainer.warmup_epochs=0.5"),
    distilled=("teacher.imgsz=512", "cache=views", "cache.views=6", "cache.check=0"),
    group_by="camera",
)

PRESETS: dict[str, Preset] = {
    "toy": Preset(
        data=("data=toy_demo", "data.label_noise=null"),
        student=HALF,
        teacher="demo",
        words=("imgsz=160", "epochs=15", "trainer.lr0=0.002", "trainer.warmup_epochs=1.0"),
        distilled=("cache=views", "cache.views=15", "cache.check=0"),
    ),
    "toy_noise": Preset(  # the demo's: labels made worse on purpose
        data=("data=toy_demo",),
        student=HALF,
        teacher="demo",
        words=("imgsz=160", "epochs=15", "trainer.lr0=0.002", "trainer.warmup_epochs=1.0"),
        distilled=("cache=views", "cache.views=15", "cache.check=0"),
    ),
    "toy_all": Preset(  # all anchors of the teacher are stored, also where only a student makes a mistake
        data=("data=toy_demo", "data.label_noise=null"),
        student=HALF,
        teacher="demo",
        words=("imgsz=160", "epochs=15", "trainer.lr0=0.002", "trainer.warmup_epochs=1.0"),
        distilled=("cache=views", "cache.views=15", "cache.k=all", "cache.check=0"),
    ),
    "toy_dfl": Preset(  # a student and a teacher whose heads have distance distributions
        data=("data=toy_demo", "data.label_noise=null"),
        student=HALF_V8,
        teacher="runs/toy_dfl_teacher",
        words=("imgsz=160", "epochs=15", "trainer.lr0=0.002", "trainer.warmup_epochs=1.0"),
        distilled=("cache=views", "cache.views=15", "cache.check=0"),
    ),
    "cctv": Preset(  # the nano from its COCO weights; its plain training is over after these epochs
        data=CCTV,
        student=NANO,
        teacher="runs/cctv_teacher",
        words=("imgsz=160", "load_imgsz=320", "epochs=12", "trainer.lr0=0.0008", "trainer.warmup_epochs=0.5"),
        distilled=("teacher.imgsz=320", "cache=views", "cache.views=12", "cache.check=0"),
        group_by="camera",
    ),
    "cctv_sliced": Preset(
        data=CCTV,
        student=SLICED,
        teacher="runs/cctv_teacher",
        words=("imgsz=256", "load_imgsz=512", "epochs=60", "trainer.lr0=0.002", "trainer.warmup_epochs=1.0"),
        distilled=("teacher.imgsz=512",),
        group_by="camera",
    ),
    "cctv_256": CCTV_256,
    # A tenth of the labels; the other images teach through the teacher, which has seen all.
    "cctv_few": replace(CCTV_256, data=(*CCTV, "data.labelled=0.1")),
    # A student without pretrained weights, all labels, and the set's pool of images without theirs (made by
    # `detkd pseudolabel`, the command is in docs/benchmarks/which-method.md).
    "cctv_pool": Preset(
        data=CCTV,
        student=SLICED,
        teacher="runs/cctv_teacher",
        words=(
            "imgsz=192",
            "load_imgsz=384",
            "epochs=18",
            "trainer.lr0=0.002",
            "trainer.warmup_epochs=0.5",
            "unlabelled=runs/cctv_pool",
            "unlabelled.labels=both",
        ),
        distilled=("teacher.imgsz=384", "cache=views", "cache.views=8", "cache.check=0"),
        group_by="camera",
    ),
    "bccd": Preset(
        data=BCCD,
        student=HALF,
        teacher="runs/bccd_teacher",
        words=("imgsz=160", "load_imgsz=320", "epochs=30", "trainer.lr0=0.002", "trainer.warmup_epochs=1.0"),
        distilled=("teacher.imgsz=320", "cache=views", "cache.views=30", "cache.check=0"),
    ),
}
"""By the name behind `--set`. ASSETS stands for the folder DETKD_ASSETS."""

ELSEWHERE = ("localization", "exposure")
"""Methods that need another set than `toy`: see the plans `distributions` and `false_alarms`."""

UNCALIBRATED = "uncalibrated:binary+distill.calibrate=null"
SHARE1 = "share1:binary+distill.calibrate.head=1.0"
STRONG = "strong:combined+distill.calibrate.head=1.0+distill.calibrate.features=1.0"
CLS = "cls:binary+~distill.terms.giou+~distill.terms.l1"
BOXES = "boxes:binary+~distill.terms.cls"
TEACHERS_CHOICE = "teachers_choice:binary+distill.assignment=teacher"

PLANS: dict[str, tuple[tuple[str, ...], tuple[str, ...], tuple[int, ...]]] = {
    "funnel1": (("toy",), ("control", *(method for method in METHODS if method not in ELSEWHERE)), (0,)),
    "funnel2": (
        ("toy", "cctv"),
        ("control", "ultralytics", "binary", UNCALIBRATED, "combined", "control_time"),
        (0, 1, 2),
    ),
    "ablation": (
        ("toy",),
        (
            "control",
            "binary",
            UNCALIBRATED,
            SHARE1,
            CLS,
            BOXES,
            "one2many:binary+distill.heads.one2one=0",
            "one2one:binary+distill.heads.one2many=0",
            "guard:binary+distill.terms.giou.loss.guard=true+distill.terms.l1.loss.guard=true",
            TEACHERS_CHOICE,
        ),
        (0, 1, 2),
    ),
    "ablation_cameras": (
        ("cctv",),
        ("control", "binary", UNCALIBRATED, SHARE1, CLS, BOXES, TEACHERS_CHOICE, STRONG),
        (0, 1, 2),
    ),
    "strengths": (  # of all recipes that the ablation leaves out; of two shares seed 0 alone is on record
        ("toy",),
        (
            "control",
            "share01:binary+distill.calibrate.head=0.1",
            "share3:binary+distill.calibrate.head=3.0",
            STRONG,
            "auxiliary",
            "pgd",
        ),
        (0, 1, 2),
    ),
    "headline": (
        ("cctv",),
        ("control", "ultralytics", "binary", "combined", "plain14:control+epochs=14", "control_time"),
        (0, 1, 2, 3, 4),
    ),
    "headline_toy": (
        ("toy",),
        ("control", "ultralytics", "binary", "combined", "plain17:control+epochs=17", "control_time"),
        (0, 1, 2, 3, 4),
    ),
    "false_alarms": (("toy_all",), ("control", "binary", "exposure"), (0, 1)),
    "distributions": (
        ("toy_dfl",),
        ("control", "ultralytics", "binary", "localization", "balanced:localization+distill.calibrate={head: 0.3}"),
        (0,),
    ),
    "blood_cells": (
        ("bccd",),
        ("control", "ultralytics", "binary", "combined", UNCALIBRATED, SHARE1, STRONG),
        (0, 1, 2),
    ),
    "footage": (("cctv_pool",), ("control", SHARE1), (0,)),
    "more_pixels": (("cctv_256",), ("control", "binary"), (0, 1)),
    "few_labels": (
        ("cctv_few",),
        (
            "control",
            "ultralytics",
            "binary",
            UNCALIBRATED,
            "plain4:control+epochs=4",
            "plain12:control+epochs=12",
        ),
        (0, 1, 2, 3, 4),
    ),
}
"""Sets, arms and seeds behind `--plan`; `--set`, `--arms` and `--seeds` replace what they name."""

FIXED: dict[str, tuple[str, ...]] = {
    # Their loss compares maps cell by cell, so their teacher has to see what the student sees.
    "ultralytics": ("teacher.imgsz=null",),
}
"""Words that a recipe needs whatever the set says; dropped where the arm's own words name the key."""


class Arm(NamedTuple):
    """One method.

    Attributes:
        label: Its name in files and tables.
        recipe: Name of a file in conf/distill, or of a control.
        words: Overrides of its own.
    """

    label: str
    recipe: str
    words: tuple[str, ...] = ()

    @property
    def plain(self) -> bool:
        """Whether there is no teacher."""
        return self.recipe in CONTROLS


def parse_arm(text: str) -> Arm:
    """Read `binary`, `name=binary`, `label:binary` or `label:binary+distill.alpha=0.3+cache=none`.

    Raises:
        ValueError: If the label can't be a file name or there is no such recipe.
    """
    label, colon, rest = text.strip().partition(":")
    if not colon:
        rest = label
        label = ""
    recipe, *words = [part.strip() for part in rest.replace("++", "+\0").split("+")]
    words = [word.replace("\0", "+") for word in words]  # a key that is to be added keeps its own +
    if "=" in recipe:
        label, _, recipe = recipe.partition("=")
    label = label or recipe
    if not label.replace("_", "").replace("-", "").replace(".", "").isalnum():
        raise ValueError(f"--arms: {label!r} can't be part of a file name; use letters, digits, - and _")
    known = (*CONTROLS, "none", *METHODS)
    if recipe not in known:
        raise ValueError(f"--arms: there is no recipe {recipe!r}; choose from {', '.join(known)}")
    if label in CONTROLS and label != recipe:
        raise ValueError(f"--arms: {label} is the name of a control; give {recipe} another label")
    if bad := [word for word in words if "=" not in word and not word.startswith("~")]:
        raise ValueError(f"--arms: {bad[0]!r} is no override; write {label}:{recipe}+key=value+key=value")
    return Arm(label, recipe, tuple(words))


def parse_arms(values: Iterable[str]) -> list[Arm]:
    """Read arms separated by commas or spaces; commas within brackets belong to a value."""
    arms = [parse_arm(part) for value in values for part in split_outside(value) if part.strip()]
    labels = [arm.label for arm in arms]
    if twice := [label for label in labels if labels.count(label) > 1]:
        raise ValueError(f"--arms: {twice[0]} is there twice; give one of them a label of its own, label:recipe+...")
    return arms


def split_outside(text: str) -> list[str]:
    """Split at commas outside of brackets."""
    parts, depth = [""], 0
    for letter in text:
        depth += (letter in "[{(") - (letter in "]})")
        if letter == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    return parts


def with_assets(words: Iterable[str]) -> list[str]:
    """Put the folder of real images and weights in its place."""
    found = list(words)
    if any("ASSETS" in word for word in found) and "DETKD_ASSETS" not in os.environ:
        raise ValueError("DETKD_ASSETS: this set needs the folder of real images and weights; set the variable")
    return [word.replace("ASSETS", os.environ.get("DETKD_ASSETS", "")) for word in found]


def key_of(word: str) -> str:
    """Return the key of an override."""
    return word.partition("=")[0].lstrip("+~")


def arm_words(preset: Preset, arm: Arm, *, teacher: str | None, seed: int, more: Sequence[str] = ()) -> list[str]:
    """Return the words of `detkd distill` for an arm; a control's are those of `distill=none`, without its cache.

    Later words win: the set's, then the command line's, then what the recipe needs, then the arm's own.

    Args:
        preset: The set.
        arm: The method.
        teacher: The teacher in place of the set's.
        seed: Of initial weights, order and augmentation.
        more: Further words, from the command line.
    """
    own = {key_of(word) for word in arm.words}
    recipe = "none" if arm.plain else arm.recipe
    base = [*COMMON, *preset.data, *preset.student, *preset.words, f"teacher={teacher or preset.teacher}"]
    words = [*base, f"distill={recipe}", f"seed={seed}"]
    given = [word for word in more if not skipped(word, recipe)]
    words += [word for word in preset.distilled if not skipped(word, recipe)]
    needed = [] if arm.plain else [word for word in FIXED.get(recipe, ()) if key_of(word) not in own]
    return last_wins(with_assets([*words, *given, *needed, *arm.words]))


def skipped(word: str, recipe: str) -> bool:
    """Return whether a word of the set means nothing to a recipe, such as a key its file doesn't have."""
    key = key_of(word)
    if not key.startswith("distill."):
        return False
    if recipe == "none":
        return True
    try:
        config = compose("distill", ["teacher=demo", "student=yolo26n_half", "data=toy", f"distill={recipe}", word])
        make_recipe(config["distill"])
    except DetkdError:
        return True
    return False


def last_wins(words: Iterable[str]) -> list[str]:
    """Keep the last word of each key, in the place of the first: a key may be there only once."""
    found: dict[str, str] = {}
    for word in words:
        found[key_of(word)] = word
    return list(found.values())


def resolve_config(words: Sequence[str]) -> dict[str, Any]:
    """Return the configuration of `detkd distill` for these words."""
    return compose("distill", list(words))
