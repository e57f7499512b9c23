"""Unlabelled images in a training: hidden labels, and the footage that `detkd pseudolabel` prepared."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from detkd.data.leakage import find_duplicates
from detkd.data.load import load_data
from detkd.data.records import DataSpec, DetectionSet, ImageRecord
from detkd.data.unlabelled import USES, add_pool, hide_labels, labelled_only, plain_records
from detkd.errors import ConfigError, DataError
from detkd.progress import console

__all__ = ["check_use", "control_set", "with_unlabelled"]


def with_unlabelled(spec: DataSpec, config: Mapping[str, Any], *, distilled: bool = True) -> DataSpec:
    """Return the data with its training split as the run shall see it: some labels hidden, further images added.

    Args:
        spec: The data.
        config: A resolved configuration with `data`, `seed` and `unlabelled`.
        distilled: Whether there is a teacher; without one, images whose labels are hidden are left out.

    Raises:
        ConfigError: If a key of `data` or `unlabelled` can't be used.
        DataError: If the added images are labelled ones, or among those that results are reported on.
    """
    train = spec.splits.get("train")
    if train is None:
        return spec
    share = (config.get("data") or {}).get("labelled")
    if share is not None:
        count = len(train)
        train = hide_labels(train, share, seed=int(config.get("seed") or 0))
        shown = sum(record.labelled for record in train.records)
        if not distilled:
            train = labelled_only(train)
        console.print(f"[dim]train: the labels of {shown} of {count} images are used[/dim]")
    node = config.get("unlabelled") or {}
    if node.get("path"):
        use = str(node.get("labels") or "both")
        if use not in USES:
            raise ConfigError(f"unlabelled.labels: unknown choice, got {use!r}; use one of {', '.join(USES)}")
        pool = _pool(Path(str(node["path"])).expanduser(), train, use)
        _refuse_overlap(spec, pool, train)
        train = add_pool(train, pool, use)
        console.print(f"[dim]train: {len(pool)} images without labels of people were added ({use})[/dim]")
    return replace(spec, splits={**spec.splits, "train": train})


def check_use(dataset: DetectionSet, *, distilled: bool) -> None:
    """Refuse images that nothing could be learnt from.

    Raises:
        ConfigError: If there are unlabelled images and no teacher.
    """
    blank = sum(not record.labelled for record in dataset.records)
    if blank and not distilled:
        raise ConfigError(
            f"unlabelled.labels: {blank} training images have no labels and this run has no teacher; use "
            "unlabelled.labels=hard, or detkd distill"
        )


def control_set(dataset: DetectionSet) -> DetectionSet:
    """Return what a control learns from: the labels of people, nothing else."""
    return labelled_only(dataset)


def _pool(path: Path, train: DetectionSet, use: str) -> tuple[ImageRecord, ...]:
    from detkd.footage.form import load_formed
    from detkd.inference.sources import IMAGE_SUFFIXES, find_sources

    if (path / "annotations.json").is_file():
        formed = load_formed(path, names=train.names)
        return formed.records  # compared with val and test when it was formed
    if use == "soft" and path.suffix == ".json":  # a COCO file: its images, not its boxes
        listed = load_data({"format": "coco", "path": str(path), "leakage": "off"})
        return tuple(record for split in listed.splits.values() for record in split.records)
    if use != "soft":
        raise ConfigError(
            f"unlabelled.path: {path} holds no annotations.json, so there are no boxes to learn from; make it with "
            "detkd pseudolabel, or use unlabelled.labels=soft"
        )
    found = find_sources(path)
    if videos := [file for file, _ in found.items if file.suffix.lower() not in IMAGE_SUFFIXES]:
        raise DataError(f"unlabelled.path: {videos[0].name} is a video; take pictures from it with detkd pseudolabel")
    return plain_records([file for file, _ in found.items], first_id=1)


def _refuse_overlap(spec: DataSpec, pool: tuple[ImageRecord, ...], train: DetectionSet) -> None:
    from detkd.footage.overlap import check_overlap

    held = {name: split for name, split in spec.splits.items() if name != "train"}
    both = find_duplicates({"train": replace(train, records=pool), **held})
    for (first, other), pairs in both.items():
        if first == "train":
            raise DataError(
                f"unlabelled.path: {len(pairs)} images are in the {other} split too ({pairs[0][0].name}); results "
                "would be reported on images that were trained on, so leave them out"
            )
    if any(record.quality is None for record in pool):  # what detkd pseudolabel formed was compared by its pixels
        for name, split in held.items():
            files = [record.path for record in split.records]
            check_overlap([r.path for r in pool], files, key="unlabelled.path", held_out=f"{name} split of the data")
