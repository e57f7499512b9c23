"""Everything diagnosis says about one detector alone, as plain JSON values."""

from __future__ import annotations

from typing import Any

from detkd.diagnosis.calibration import calibration
from detkd.diagnosis.curves import by_iou, curves, false_per_image
from detkd.diagnosis.duplicates import duplicates
from detkd.diagnosis.errors import errors
from detkd.diagnosis.working_point import working_point
from detkd.evaluation.side import Run

__all__ = ["diagnose"]

_DIGITS = 8


def diagnose(run: Run) -> dict[str, Any]:
    """Return working point, calibration, errors, duplicates, false alarms, AP by IoU and curves of one run.

    Args:
        run: A matched run, with the arrays of its evaluation.

    Returns:
        `working_point`, `calibration`, `errors`, `duplicates`, `false_per_image`, `by_iou` and `curves` as the
        functions of these names give them, numbers with 8 significant digits. Thresholds are left as they are,
        because rounding one can change which detections pass it.

    Raises:
        ConfigError: If the matches have no IoU 0.5.
    """
    best = working_point(run.matches)
    result: dict[str, Any] = _short(
        {
            "working_point": best,
            "calibration": calibration(run.matches),
            "errors": errors(run.truth, run.detections, run.matches),
            "duplicates": duplicates(run.truth, run.detections, run.matches, best["threshold"]),
            "false_per_image": false_per_image(run.matches),
            "by_iou": by_iou(run.arrays),
            "curves": curves(run.matches),
        }
    )
    return result


def _short(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: item if key == "threshold" else _short(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_short(item) for item in value]
    return float(f"{value:.{_DIGITS}g}") if isinstance(value, float) else value
