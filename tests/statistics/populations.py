"""Pairs of detectors on sets of any size from one source, as `Matches` without a single box."""

from __future__ import annotations

import numpy as np

from detkd.evaluation.engine import COCO_PARAMS
from detkd.evaluation.matching import Matches

AREAS = np.array([16.0**2, 64.0**2, 200.0**2])


def make_pair(
    rng: np.random.Generator,
    images: int,
    shares: tuple[float, ...] = (0.5, 0.3, 0.15, 0.05),
    skills: tuple[float, ...] = (0.0, 0.0),
) -> list[Matches]:
    """Detectors with the given skills on one fresh set.

    Images differ in difficulty and so do objects; all detectors feel both, which pairs them. An object is found once
    at most, better (higher IoU, higher score) where it is easy, and every image has false alarms of low scores.
    """
    per_image = rng.poisson(3.0, images)
    image = np.repeat(np.arange(images), per_image)
    label = rng.choice(len(shares), len(image), p=shares)
    ease = rng.normal(0, 0.7, images)[image] + rng.normal(0, 0.7, len(image)) - 0.2 * label
    size = rng.integers(0, 3, len(image))
    return [_detector(rng, images, image, label, ease + skill, size, len(shares)) for skill in skills]


def _detector(
    rng: np.random.Generator,
    images: int,
    image: np.ndarray,
    label: np.ndarray,
    ease: np.ndarray,
    size: np.ndarray,
    classes: int,
) -> Matches:
    feeling = ease + rng.normal(0, 0.6, len(ease))
    iou = 0.45 + 0.55 / (1 + np.exp(-(feeling + rng.normal(0, 0.6, len(ease)))))
    found = np.flatnonzero(rng.random(len(ease)) < 1 / (1 + np.exp(-(feeling + 3.0))))
    alarms = rng.poisson(12.0, images).sum()
    every_image = np.concatenate([image[found], rng.integers(0, images, alarms)])
    every_label = np.concatenate([label[found], rng.integers(0, classes, alarms)])
    every_size = np.concatenate([size[found], rng.integers(0, 3, alarms)])
    score = 1 / (1 + np.exp(-np.concatenate([feeling[found], rng.normal(-2.2, 1.0, alarms)])))
    every_iou = np.concatenate([iou[found], np.zeros(alarms)])
    row = np.concatenate([found, np.full(alarms, -1)])
    order = np.lexsort((every_image, -score, every_label))
    every_image, every_label, every_size = every_image[order], every_label[order], every_size[order]
    score, every_iou, row = score[order], every_iou[order], row[order]

    hit = every_iou >= np.asarray(COCO_PARAMS.iou_thresholds)[:, None]
    inside = np.stack([np.ones(len(order), dtype=bool), *(every_size == s for s in range(3))])
    outcome = np.where(inside[:, None], hit, -1).astype(np.int8)
    group = every_label.astype(np.int64) * images + every_image
    by_group = np.argsort(group, kind="stable")
    first = np.flatnonzero(np.diff(group[by_group], prepend=-1))
    rank = np.empty(len(order), dtype=np.int16)
    rank[by_group] = np.arange(len(order)) - np.repeat(first, np.diff(first, append=len(order)))
    return Matches(
        params=COCO_PARAMS,
        images=images,
        names=tuple(f"class {k}" for k in range(classes)),
        offsets=np.searchsorted(every_label, np.arange(classes + 1)).astype(np.int64),
        detection=order.astype(np.int64),
        image=every_image.astype(np.int32),
        rank=rank,
        score=score,
        outcome=outcome,
        target=np.where(hit, row, -1).astype(np.int32),
        object_row=np.arange(len(image)),
        object_image=image.astype(np.int32),
        object_label=label.astype(np.int32),
        object_counts=np.stack([np.ones(len(image), dtype=bool), *(size == s for s in range(3))]),
    )
