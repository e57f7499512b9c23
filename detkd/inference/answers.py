"""Ask one or several teachers about clean images and get one answer per image: soft objects.

A teacher is anything that detects: a checkpoint (RT-DETR too), an exported file, or a results file from elsewhere.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from detkd.caching.objects import SoftObjects
from detkd.data.records import ImageRecord
from detkd.errors import ConfigError
from detkd.inference.detector import Detector
from detkd.inference.fusion import fuse
from detkd.inference.images import read_image
from detkd.inference.listed import ListedTeacher
from detkd.inference.networks import NetworkTeacher

__all__ = ["Answerer", "TeacherSpec"]

Item = str | Path | ImageRecord

_READERS = 4
"""Images read at once, while the network works on those before."""


@dataclass(frozen=True)
class TeacherSpec:
    """One teacher.

    Attributes:
        path: A `.pt`, a `.onnx`, an OpenVINO folder, a run folder, an official name, or a COCO results `.json`.
        imgsz: Side of its square input in pixels; None takes that of the others, or the one it was trained at.
        class_map: Its class to class of the data where the names differ, e.g. {"van": "car"}.
        weight: Its say where several teachers' answers are merged, > 0.
    """

    path: str
    imgsz: int | None = None
    class_map: Mapping[str, str] = field(default_factory=dict)
    weight: float = 1.0


class _Teacher(Protocol):
    path: Path
    names: tuple[str, ...]
    mapping: tuple[tuple[int, ...], ...]
    looks: int

    def fingerprint(self) -> dict[str, Any]: ...

    def describe(self) -> dict[str, Any]: ...


class Answerer:
    """One or several teachers that are asked about images; use `Answerer.load`.

    Attributes:
        names: Classes of the data; a class vector has one entry for each.
        looks: Answers per image that are merged into one; with 1 nothing is merged.
    """

    def __init__(
        self,
        teachers: Sequence[tuple[TeacherSpec, NetworkTeacher | ListedTeacher]],
        data_names: Sequence[str],
        *,
        batch: int,
        settings: Mapping[str, Any],
        load: Mapping[str, Any] | None = None,
    ) -> None:
        self._load = dict(load or {})
        self.names = tuple(data_names)
        self.looks = sum(teacher.looks for _, teacher in teachers)
        self._teachers = list(teachers)
        self._batch = batch
        self._settings = dict(settings)
        # A teacher's say does not grow with the number of its looks.
        self._weights = [spec.weight / teacher.looks for spec, teacher in teachers for _ in range(teacher.looks)]
        able = [[bool(found) for found in teacher.mapping] for _, teacher in teachers for _ in range(teacher.looks)]
        self._able = np.asarray(able, dtype=bool)

    @classmethod
    def load(
        cls,
        teachers: Sequence[TeacherSpec],
        data_names: Sequence[str],
        *,
        imgsz: int | None = None,
        device: Any = "cpu",
        batch: int = 8,
        scales: Sequence[float] = (1.0,),
        flip: bool = False,
        conf: float = 0.05,
        iou: float = 0.7,
        wbf_iou: float = 0.55,
        max_objects: int = 100,
        category_ids: Sequence[int] | None = None,
    ) -> Answerer:
        """Load the teachers.

        Args:
            teachers: At least one.
            data_names: Classes of the data in index order.
            imgsz: Side of the square input in pixels for teachers that don't say; None takes what they were trained at.
            device: Where networks run; exported files mostly on the CPU only.
            batch: Images in memory and per forward pass.
            scales: Each network sees the image at these multiples of its size, rounded to what it can take.
            flip: Each network also sees the mirrored image.
            conf: Least score of an object in one look, 0..1.
            iou: Overlap above which NMS drops the weaker box of the same class in one look.
            wbf_iou: Overlap above which boxes of several looks are one object.
            max_objects: Most objects per image, best first.
            category_ids: The data's category id of each class, for results files; None: index + 1.

        Raises:
            ConfigError: If an argument can't be used.
            ModelError: If a teacher can't be loaded.
            PairError: If a teacher knows no class of the data.
            DataError: If a results file can't be read.
        """
        _check(teachers, scales, max_objects, batch, {"conf": conf, "iou": iou, "wbf_iou": wbf_iou})
        ids = tuple(range(1, len(data_names) + 1)) if category_ids is None else tuple(category_ids)
        loaded: list[tuple[TeacherSpec, NetworkTeacher | ListedTeacher]] = []
        for spec in teachers:
            if spec.path.lower().endswith(".json"):
                path = Path(spec.path).expanduser()
                listed = ListedTeacher(path, data_names, category_ids=ids, class_map=spec.class_map, conf=conf)
                loaded.append((spec, listed))
                continue
            place = device if is_checkpoint(spec.path) else "cpu"  # exported files run there everywhere
            detector = Detector.load(
                spec.path, device=place, imgsz=spec.imgsz or imgsz, batch=batch, conf=conf, iou=iou, multi_label=False
            )
            network = NetworkTeacher(detector, data_names, class_map=spec.class_map, scales=scales, flip=flip)
            loaded.append((spec, network))
        settings = {
            "scales": [float(scale) for scale in scales],
            "flip": bool(flip),
            "conf": float(conf),
            "iou": float(iou),
            "wbf_iou": float(wbf_iou),
            "max_objects": int(max_objects),
        }
        load = {"imgsz": imgsz, "batch": batch, "iou": float(iou), "category_ids": ids}
        return cls(loaded, data_names, batch=batch, settings=settings, load=load)

    def reloader(self, device: str) -> Callable[[], Answerer]:
        """Return what loads the same teachers in another process, from the files they came from; it can be pickled."""
        specs = [replace(spec, path=str(teacher.path.absolute())) for spec, teacher in self._teachers]
        settings = {**self._load, **self._settings, "device": device}
        return partial(Answerer.load, specs, self.names, **settings)

    def answer(self, items: Iterable[Item]) -> Iterator[SoftObjects]:
        """Answer images in their order, one result each; at most two batches of images are in memory.

        Images of which only a results file is asked are not opened where a record tells their size.

        Args:
            items: Paths or records.

        Raises:
            DataError: If an image can't be read.
        """
        stream = iter(items)
        with ThreadPoolExecutor(_READERS) as pool:
            following = self._read(pool, stream)
            while chunk := following:
                following = self._read(pool, stream)
                yield from self._answer([item for item, _ in chunk], [image.result() for _, image in chunk])

    def check_images(self, items: Iterable[Item]) -> None:
        """Make sure that results files belong to the images that will be asked about.

        Raises:
            DataError: If a results file has a detection in none of them.
        """
        listed = list(items)
        for _, teacher in self._teachers:
            if isinstance(teacher, ListedTeacher):
                teacher.check_images(listed)

    def fingerprint(self) -> dict[str, Any]:
        """Return everything the answers depend on besides the images, as JSON values; paths are no part of it."""
        teachers = [
            {**teacher.fingerprint(), "class_map": self._class_map(teacher), "weight": float(spec.weight)}
            for spec, teacher in self._teachers
        ]
        return {"teachers": teachers, "data_names": list(self.names), **self._settings}

    def describe(self) -> dict[str, Any]:
        """Return the settings for people to read: where each teacher comes from and how it is asked."""
        return {"teachers": [t.describe() for _, t in self._teachers], "looks": self.looks, **self._settings}

    def notes(self) -> list[str]:
        """Return remarks for the user, one line each: classes that a teacher does not know."""
        lines = []
        for _, teacher in self._teachers:
            missing = [name for name, found in zip(self.names, teacher.mapping, strict=True) if not found]
            if missing:
                lines.append(f"{teacher.path} does not know {', '.join(missing)}: it never finds that")
        return lines

    def knows(self) -> np.ndarray:
        """Return which classes of the data at least one teacher knows, (C,) bool."""
        return np.asarray(self._able.any(0))

    def _class_map(self, teacher: _Teacher) -> dict[str, list[str]]:
        pairs = zip(self.names, teacher.mapping, strict=True)
        return {name: [teacher.names[index] for index in found] for name, found in pairs}

    def _read(self, pool: ThreadPoolExecutor, stream: Iterator[Item]) -> list[tuple[Item, Future[np.ndarray | None]]]:
        """Begin to read the next batch."""
        return [(item, pool.submit(self._open, item)) for item in itertools.islice(stream, self._batch)]

    def _open(self, item: Item) -> np.ndarray | None:
        if not isinstance(item, ImageRecord):
            return read_image(item)
        needed = any(isinstance(teacher, NetworkTeacher) for _, teacher in self._teachers)
        return read_image(item.path) if needed else None

    def _answer(self, items: Sequence[Item], images: Sequence[np.ndarray | None]) -> Iterator[SoftObjects]:
        sizes = [_size(item, image) for item, image in zip(items, images, strict=True)]
        pictures = [image for image in images if image is not None]
        answers: list[list[SoftObjects]] = [[] for _ in items]
        for _, teacher in self._teachers:
            if isinstance(teacher, ListedTeacher):
                found = [[teacher.answer(item, size)] for item, size in zip(items, sizes, strict=True)]
            else:
                found = teacher.answer(pictures)
            for collected, more in zip(answers, found, strict=True):
                collected.extend(more)
        for looks, size in zip(answers, sizes, strict=True):
            merged = fuse(looks, size=size, iou=self._settings["wbf_iou"], weights=self._weights, knows=self._able)
            yield merged.take(np.arange(len(merged))[: self._settings["max_objects"]])


def is_checkpoint(path: str) -> bool:
    """Whether a teacher is a checkpoint or a name of one, and no exported file."""
    folder = Path(path).expanduser()
    return folder.suffix not in (".onnx", ".xml") and not (folder.is_dir() and any(folder.glob("*.xml")))


def _size(item: Item, image: np.ndarray | None) -> tuple[int, int]:
    """Return width and height."""
    if image is not None:
        return image.shape[1], image.shape[0]
    assert isinstance(item, ImageRecord)
    return item.width, item.height


def _check(
    teachers: Sequence[TeacherSpec],
    scales: Sequence[float],
    max_objects: int,
    batch: int,
    shares: Mapping[str, float],
) -> None:
    """Raise `ConfigError` for the first argument that can't be used."""
    if not teachers:
        raise ConfigError("teachers: at least one is needed, got none; name a checkpoint")
    for spec in teachers:
        if not spec.weight > 0:
            raise ConfigError(f"teachers: weight of {spec.path} must be above 0, got {spec.weight!r}; leave it out")
    if not scales or not all(0.1 <= scale <= 10 for scale in scales):
        raise ConfigError(f"scales: need factors of the image size, 0.1 to 10, got {list(scales)}; use scales=[1.0]")
    for key, value in shares.items():
        if not 0 <= value < 1:
            raise ConfigError(f"{key}: must be at least 0 and below 1, got {value!r}; change {key}=")
    for key, count in (("max_objects", max_objects), ("batch", batch)):
        if count < 1:
            raise ConfigError(f"{key}: must be at least 1, got {count!r}; change {key}=")
