from __future__ import annotations

from typing import Any

import pytest

from detkd.evaluation.side import Run, Side, make_run
from detkd.evaluation.truth import load_truth
from detkd.report.comparison import Comparison, compare
from detkd.statistics.records import Settings
from tests.evaluation.worlds import make_detections, make_gt

QUICK = Settings(resamples=200, permutations=200)
KNOWN: dict[str, Any] = {"conf": 0.001, "iou": 0.7, "imgsz": 640, "max_det": 300, "head": "one2one (NMS-free)"}


def world(images: int = 60) -> dict[str, Any]:
    """Labels with two cameras; no toothbrush among the objects."""
    gt = make_gt(5, images, absent=True)
    for number, image in enumerate(sorted(gt["images"], key=lambda record: record["id"])):
        image["camera"] = "gate" if number % 3 else "yard"
    return gt


def run_of(gt: dict[str, Any], seed: int, noise: float, settings: dict[str, Any] | None = None, train: int = 0) -> Run:
    found = make_detections(gt, seed, noise=noise, decimals=4)
    return make_run(load_truth(gt), found, source=f"results-{seed}.json", seed=train, settings=settings or KNOWN)


def side_of(name: str, role: str, *runs: Run, cost: dict[str, Any] | None = None) -> Side:
    return Side(name, role, runs, cost, runs[0].source)


@pytest.fixture(scope="session")
def gt() -> dict[str, Any]:
    return world()


@pytest.fixture(scope="session")
def better(gt: dict[str, Any]) -> Comparison:
    """A clear gain, with a teacher and a control."""
    cost = {"params": 1_300_000, "gflops": 2.1, "size_mb": 2.8, "latency_ms": 12.0, "head": "one2one (NMS-free)"}
    return compare(
        side_of("old", "before", run_of(gt, 1, 0.2), cost=cost),
        side_of("new", "after", run_of(gt, 2, 0.06), cost=cost),
        control=side_of("plain", "control", run_of(gt, 3, 0.15), cost=cost),
        teacher=side_of("big", "teacher", run_of(gt, 4, 0.01), cost={**cost, "params": 58_000_000}),
        settings=QUICK,
        progress=False,
    )
