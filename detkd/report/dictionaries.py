"""The parts that compare.json and leaderboard.json have in common."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from detkd.evaluation.metrics import METRIC_NAMES
from detkd.evaluation.side import Side
from detkd.report.notes import settings_table
from detkd.statistics.records import Study

__all__ = ["entry_dict", "protocol_dict", "statistics_dict"]

_PROTOCOL = (
    "engine", "engine_version", "iou_thresholds", "recall_thresholds", "max_detections", "images", "objects", "crowd",
    "classes_without_objects", "gt",
)  # fmt: skip


def entry_dict(side: Side) -> dict[str, Any]:
    """Return one side with its runs, numbers and cost."""
    first = side.runs[0]
    warnings = [text for run in side.runs for text in run.metrics.protocol.get("warnings", ())]
    return {
        "role": side.role,
        "name": side.name,
        "source": side.source,
        "cost": side.cost,
        "settings": side.settings,
        "runs": [
            {
                "source": run.source,
                "seed": run.seed,
                **{key: run.metrics.number(key) for key in ("AP", "AP50", "AP75", "AR100")},
                "detections_sha256": run.detections.sha256,
                "weights_sha256": (run.metrics.protocol.get("settings") or {}).get("weights_sha256"),
            }
            for run in side.runs
        ],
        "metrics": {key: side.number(key) for key in METRIC_NAMES},
        "images": len(first.truth.images),
        "objects": int((~first.truth.crowd).sum()),
        "detections": len(first.detections),
        "warnings": list(dict.fromkeys(warnings)),
    }


def statistics_dict(study: Study) -> dict[str, Any]:
    """Return how the intervals and p values were made."""
    return {**study.settings.to_dict(), "notes": list(study.notes)}


def protocol_dict(sides: Sequence[Side]) -> dict[str, Any]:
    """Return what all sides were evaluated on and how, and where their detectors were set differently."""
    first = sides[0].runs[0]
    protocol = first.metrics.protocol
    return {
        **{key: protocol[key] for key in _PROTOCOL},
        "gt_sha256": first.truth.sha256,
        "settings": settings_table(sides),
    }
