"""A cache of objects: what one or several teachers see in each clean image."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from detkd.caching.engine import Engine, batched
from detkd.caching.objects import SoftObjects, decode_objects, encode_objects, object_bytes
from detkd.caching.store import CacheReader
from detkd.data.records import DataSpec, ImageRecord
from detkd.errors import ConfigError
from detkd.io import read_json
from detkd.progress import console, track
from detkd.tasks.arguments import pick_device
from detkd.tasks.cache_facts import CACHE_ROOT, data_facts
from detkd.tasks.cache_kinds import number_or_all
from detkd.tasks.footage_answers import teacher_specs

__all__ = ["ObjectLookup", "ObjectWork"]

_FORMAT = 1
"""Raised whenever the same settings give other stored bytes."""
_OBJECTS = 12
"""Objects an image usually has, for the estimate of the size only."""
_PRECISION = 1 / 255 + 1e-6
_NOISE = 0.02
"""Probability that another batch size or kind of processor may change."""


class ObjectLookup:
    """Returns the stored objects of an image by its number; goes along to the processes that load images.

    Args:
        reader: An open cache of kind "instances".
        sizes: Width and height of each image.
        num_classes: Classes of the data.
    """

    def __init__(self, reader: CacheReader, sizes: Sequence[tuple[int, int]], num_classes: int) -> None:
        self.reader = reader
        self.sizes = list(sizes)
        self.num_classes = num_classes

    def __call__(self, index: int) -> SoftObjects:
        """Return the objects of image `index`."""
        return decode_objects(self.reader.read(index, 0), size=self.sizes[index], num_classes=self.num_classes)


class ObjectWork:
    """What the teachers see in each clean image; see `detkd.tasks.cache_kinds.Work`."""

    def __init__(self, config: Mapping[str, Any], spec: DataSpec) -> None:
        node = config["cache"]
        self.config = config
        self.spec = spec
        self.records: tuple[ImageRecord, ...] = spec.splits["train"].records
        self.keys = [(number, 0) for number in range(len(self.records))]
        if isinstance(node["max_objects"], bool) or not isinstance(node["max_objects"], int):
            raise ConfigError(f"cache.max_objects: must be a positive integer, got {node['max_objects']!r}")
        self.most = node["max_objects"]
        self.classes = number_or_all(node, "classes", len(spec.names)) or len(spec.names)
        self.layout = {"classes": self.classes, "num_classes": len(spec.names), "max_objects": self.most}
        self.record_bytes = 3 + _OBJECTS * object_bytes(self.classes, len(spec.names))
        folder = Path(str(node["path"])).expanduser() if node.get("path") else CACHE_ROOT
        for note in self.teachers.notes():
            console.print(f"note: {note}", highlight=False)
        self.teachers.check_images(self.records)
        _refuse_numbers(config)
        self.facts = {"teachers": self.teachers.describe()}
        self.fingerprint = {
            "teachers": self.teachers.fingerprint(),
            "data": data_facts(spec, folder / "images.json"),
            "stored": self.layout,
            "code": {"detkd": _FORMAT},
        }

    @cached_property
    def teachers(self) -> Any:
        """Everybody who is asked."""
        from detkd.inference.answers import Answerer

        node = self.config["cache"]
        teacher = self.config["teacher"]
        return Answerer.load(
            teacher_specs(teacher, node.get("teachers") or []),
            self.spec.names,
            imgsz=int(teacher.get("imgsz") or self.config["imgsz"]),
            device=pick_device(self.config["device"], ranks=True),
            batch=int(self.config["batch"]),
            category_ids=self.spec.splits["train"].category_ids,
            **{key: node[key] for key in ("scales", "flip", "conf", "iou", "wbf_iou", "max_objects")},
        )

    def time_estimate(self, count: int, device: str) -> str:
        """Return how long storing `count` records will take, from a first batch."""
        size = min(2 * int(self.config["batch"]), len(self.records))
        list(self.teachers.answer(self.records[: size // 2 or 1]))  # warms up
        started = time.monotonic()
        list(self.teachers.answer(self.records[:size]))
        seconds = (time.monotonic() - started) / size * count
        return f"about {seconds:.0f} s" if seconds < 120 else f"about {seconds / 60:.0f} minutes"

    def build(self, writer: Any, keys: Sequence[tuple[int, int]], device: str, engine: Engine) -> None:
        """Store the records that are missing."""
        from detkd.inference.asking import ObjectAsker, Shot

        numbers = [number for number, _ in writer.missing(keys)]
        asker = ObjectAsker(self.teachers, classes=self.classes, max_objects=self.most)
        shots = [Shot.of(self.records[number]) for number in numbers]
        packed = engine.run(asker, batched(shots, int(self.config["batch"])))
        for number, payload in zip(numbers, track(packed, "teacher, image by image", len(numbers)), strict=True):
            writer.add(number, 0, payload)

    def check(self, reader: CacheReader, count: int, device: str) -> Iterable[str]:
        """Ask again about some images and return what differs."""
        numbers = sorted(int(n) for n in np.random.default_rng(0).permutation(len(self.records))[:count])
        for number, live in zip(numbers, self.teachers.answer([self.records[n] for n in numbers]), strict=True):
            stored = ObjectLookup(reader, self._sizes(), len(self.spec.names))(number)
            wanted = decode_objects(
                self._packed(number, live), size=self._sizes()[number], num_classes=len(self.spec.names)
            )
            if line := _difference(stored, wanted):
                yield f"image {number} ({self.records[number].path.name}): {line}"

    def source(self, reader: CacheReader) -> Callable[[tuple[str, ...]], Any]:
        """Return what makes the teacher that reads the cache."""
        import torch

        from detkd.models.objects import ObjectTeacher

        known = self.teachers.knows()
        return lambda names: ObjectTeacher(None if known.all() else torch.from_numpy(known))

    def plan(self, reader: CacheReader) -> dict[str, Any]:
        """Return the fields of `TrainPlan` that make a run show what was stored."""
        return {"soft": ObjectLookup(reader, self._sizes(), len(self.spec.names))}

    def _sizes(self) -> list[tuple[int, int]]:
        return [(record.width, record.height) for record in self.records]

    def _packed(self, number: int, objects: SoftObjects) -> bytes:
        return encode_objects(objects, size=self._sizes()[number], classes=self.classes, max_objects=self.most)


def _refuse_numbers(config: Mapping[str, Any]) -> None:
    """Refuse results that know images by number once further images were numbered behind the labelled ones.

    Raises:
        ConfigError: Naming the file.
    """
    if not (config.get("unlabelled") or {}).get("path"):
        return
    for spec in teacher_specs(config["teacher"], config["cache"].get("teachers") or []):
        if spec.path.endswith(".json") and isinstance(read_json(spec.path), list):
            raise ConfigError(
                f"teacher: {spec.path} knows images by number, and those of unlabelled.path have none there; give a "
                "COCO file that lists its images by name"
            )


def _difference(stored: SoftObjects, live: SoftObjects) -> str:
    """Return what differs by more than rounding and noise explain.

    Objects near the lowest score may come and go, so only those well above it are looked for.
    """
    floor = max(float(stored.quality.min(initial=1.0)), float(live.quality.min(initial=1.0))) + 0.05
    for mine, theirs, who in ((live, stored, "is not stored"), (stored, live, "is not seen any more")):
        for row in np.flatnonzero(mine.quality > floor):
            apart = np.abs(theirs.boxes_xyxy - mine.boxes_xyxy[row]).max(1, initial=0.0) if len(theirs) else []
            near = int(np.argmin(apart)) if len(theirs) else -1
            side = float((mine.boxes_xyxy[row, 2:] - mine.boxes_xyxy[row, :2]).max())
            if near < 0 or apart[near] > 1.0 + 0.05 * side:
                return f"an object of quality {mine.quality[row]:.2f} {who}"
            gap = float(np.abs(theirs.probs[near] - mine.probs[row]).max())
            if gap > _NOISE + _PRECISION:
                return f"a class probability differs by {gap:.3f}"
    return ""
