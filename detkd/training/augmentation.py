"""Ultralytics' transforms, made replayable and told which boxes are labels and which are a teacher's objects.

Transforms become these classes after Ultralytics has built them. What a transform does to pixels and labels never
depends on soft objects: a control without them sees the same, to the bit.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import detkd.environment

import numpy as np
import torch
from ultralytics.data.augment import Albumentations, MixUp, Mosaic, RandomPerspective
from ultralytics.utils.instance import Instances

from detkd.errors import ConfigError
from detkd.training.rows import is_soft

__all__ = ["SeededAlbumentations", "adopt", "reseed", "walk"]

_BY_BOXES = {
    "AtLeastOneBBoxRandomCrop",
    "BBoxSafeRandomCrop",
    "ConstrainedCoarseDropout",
    "Mosaic",
    "RandomCropNearBBox",
    "RandomSizedBBoxSafeCrop",
    "TextImage",
}
"""Albumentations whose pixels follow from the boxes."""


class SeededAlbumentations(Albumentations):
    """Albumentations whose generator follows the sample's seed instead of the process's."""

    _seed: int | None = None

    def reseed(self, seed: int) -> None:
        """Restart the generator, and keep the parent from restarting it from torch's seed."""
        self._seed = seed
        if self.transform is not None:
            self.transform.set_random_seed(seed)
            self.transform.seed = torch.initial_seed()

    def __call__(self, labels: dict[str, Any]) -> dict[str, Any]:
        """Transform image and labels, then the soft objects in the same way.

        Ultralytics keeps the image as it was when all labels get lost. Soft objects have no say in that: they go with
        the image in a second pass with the same random numbers.

        Raises:
            ConfigError: If a transform looks at the boxes to decide what it does.
        """
        soft = is_soft(labels["cls"])
        if self.transform is None or not self.contains_spatial or not soft.any():
            return super().__call__(labels)  # type: ignore[no-any-return]
        seed = random.getrandbits(32) if self._seed is None else self._seed
        self.reseed(seed)
        image, cls = labels["img"], labels["cls"]
        before = image.copy()
        height, width = image.shape[:2]
        rest: Instances = labels["instances"][soft]
        rest.convert_bbox("xywh")
        rest.normalize(width, height)
        rest_cls = cls[soft]
        labels["instances"], labels["cls"] = labels["instances"][~soft], cls[~soft]
        labels = super().__call__(labels)
        if labels["img"] is not image:
            self.reseed(seed)
            none = np.zeros((0, 2), dtype=np.float32)
            new = self.transform(
                image=before,
                bboxes=rest.bboxes,
                class_labels=rest_cls,
                idx=np.arange(len(rest_cls)),
                keypoints=none,
                pidx=np.arange(0),
                **({"topology": {}} if self.topology_transforms else {}),
            )
            if not np.array_equal(new["image"], labels["img"]):
                raise ConfigError(
                    "augment: a transform looks at the boxes to decide what it does, so the teacher's objects would "
                    "change the pixels; leave it out or use another kind of cache"
                )
            rest.update(np.array(new["bboxes"], dtype=np.float32).reshape(-1, 4))
            rest_cls = rest_cls[np.array(new["idx"], dtype=int)]
        labels["instances"].convert_bbox("xywh")
        labels["instances"].normalize(*labels["img"].shape[1::-1])
        labels["instances"] = Instances.concatenate([labels["instances"], rest], axis=0)
        labels["cls"] = np.concatenate([labels["cls"], rest_cls], 0)
        return labels


class _SplitPerspective(RandomPerspective):
    """Moves labels and soft objects apart: a matrix product may round a row differently when there are more rows."""

    def apply_instances(self, labels: dict[str, Any], params: dict[str, Any] | None = None) -> dict[str, Any]:
        soft = is_soft(labels["cls"])
        if not soft.any():
            return super().apply_instances(labels, params)  # type: ignore[no-any-return]
        instances, cls = labels["instances"], labels["cls"]
        parts = [
            super(_SplitPerspective, self).apply_instances({"instances": instances[chosen], "cls": cls[chosen]}, params)
            for chosen in (~soft, soft)
        ]
        labels["instances"] = Instances.concatenate([part["instances"] for part in parts], axis=0)
        labels["cls"] = np.concatenate([part["cls"] for part in parts], 0)
        return labels


class _PeerMosaic(Mosaic):
    """Takes the other three images from those of the same kind, so that no part of the picture lacks its labels."""

    def get_indexes(self) -> list[int]:
        return [_peer(self.dataset) for _ in range(self.n - 1)]


class _PeerMixUp(MixUp):
    """Takes the other image from those of the same kind."""

    def get_indexes(self) -> int:
        return _peer(self.dataset)


def _peer(dataset: Any) -> int:
    """Draw an image as Ultralytics does, from the part of the set that the current one belongs to."""
    return int(dataset.peers[random.randint(0, len(dataset.peers) - 1)])


def adopt(transforms: Any, *, rows: bool, soft: bool) -> None:
    """Make built transforms replayable and aware of rows; call it once per pipeline.

    Args:
        transforms: Ultralytics' pipeline.
        rows: Whether the class column holds rows of a table.
        soft: Whether some rows are soft objects.

    Raises:
        ConfigError: If soft objects would change the pixels.
    """
    for transform in walk(transforms):
        if isinstance(transform, Mosaic):
            transform.buffer_enabled = False  # what was loaded before would decide
        if type(transform) is Albumentations:
            transform.__class__ = SeededAlbumentations
            if soft and transform.transform is not None:
                _refuse_by_boxes(transform.transform)
        elif rows and type(transform) is Mosaic:
            transform.__class__ = _PeerMosaic
        elif rows and type(transform) is MixUp:
            transform.__class__ = _PeerMixUp
        elif soft and type(transform) is RandomPerspective:
            transform.__class__ = _SplitPerspective


def reseed(transforms: Any, seed: int) -> None:
    """Restart the generators that the random module's and NumPy's seeds don't reach."""
    for transform in walk(transforms):
        if isinstance(transform, SeededAlbumentations):
            transform.reseed(seed)


def walk(transform: Any) -> Iterator[Any]:
    """Yield a transform and everything nested in it."""
    yield transform
    for child in getattr(transform, "transforms", None) or ():
        yield from walk(child)
    inner = getattr(transform, "pre_transform", None)
    if inner is not None:
        yield from walk(inner)


def _refuse_by_boxes(pipeline: Any) -> None:
    for transform in walk(pipeline):
        if _BY_BOXES & {kind.__name__ for kind in type(transform).__mro__}:
            raise ConfigError(
                f"augment: {type(transform).__name__} looks at the boxes to decide what it does, so the teacher's "
                "objects would change the pixels; leave it out or use another kind of cache"
            )
