"""What an evaluation says: the 12 COCO numbers, the same per class, and how they were obtained."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from detkd.errors import DataError

__all__ = ["CLASS_NAMES", "METRIC_NAMES", "SCHEMA", "ClassMetrics", "Metrics", "plain"]

SCHEMA = 1
"""Version of the dictionaries written by `Metrics.to_dict`. Raised when a reader of the old ones would go wrong."""

METRIC_NAMES = (
    "AP",
    "AP50",
    "AP75",
    "AP_small",
    "AP_medium",
    "AP_large",
    "AR1",
    "AR10",
    "AR100",
    "AR_small",
    "AR_medium",
    "AR_large",
)
"""The 12 standard numbers in COCO's order."""

CLASS_NAMES = ("AP", "AP50", "AP75", "AR100")
"""The numbers there are for each class."""


@dataclass(frozen=True)
class ClassMetrics:
    """Numbers of one class.

    Attributes:
        AP: Mean over IoU 0.50:0.95, points (COCO AP x 100), None without objects.
        AP50: At IoU 0.50, points or None.
        AP75: At IoU 0.75, points or None.
        AR100: Recall with 100 detections per image, mean over IoU, points or None.
        objects: Labelled objects that are no crowd regions.
        images: Images with at least one of them.
    """

    AP: float | None
    AP50: float | None
    AP75: float | None
    AR100: float | None
    objects: int
    images: int


@dataclass(frozen=True)
class Metrics:
    """The 12 COCO numbers in points (x 100), None where the set has no such objects, and where they come from.

    Attributes:
        AP: Mean over IoU 0.50:0.95, all sizes, 100 detections per class and image. The others follow COCO's naming:
            `AP50`, `AP75` at one IoU; `_small`, `_medium`, `_large` by object area (limits 32^2 and 96^2 pixels);
            `AR1`, `AR10`, `AR100` recall with so many detections per class and image.
        per_class: Class name to its numbers, in the ground truth's class order.
        images: Images in the ground truth.
        objects: Labelled objects that are no crowd regions.
        detections: Detections evaluated.
        protocol: How the numbers were made, JSON values only: engine and version, COCO settings, hashes of both
            inputs, crowd count, warnings, and the settings the detections were made with.
    """

    AP: float | None
    AP50: float | None
    AP75: float | None
    AP_small: float | None
    AP_medium: float | None
    AP_large: float | None
    AR1: float | None
    AR10: float | None
    AR100: float | None
    AR_small: float | None
    AR_medium: float | None
    AR_large: float | None
    per_class: dict[str, ClassMetrics]
    images: int
    objects: int
    detections: int
    protocol: dict[str, Any] = field(default_factory=dict)

    @property
    def names(self) -> tuple[str, ...]:
        """Class names in order."""
        return tuple(self.per_class)

    def number(self, key: str) -> float | None:
        """Return one number by name: one of the 12, or `AP/person` for a class.

        Raises:
            KeyError: If there is no such number.
        """
        if key in METRIC_NAMES:
            value: float | None = getattr(self, key)
            return value
        metric, _, name = key.partition("/")
        if metric not in CLASS_NAMES or name not in self.per_class:
            raise KeyError(key)
        of_class: float | None = getattr(self.per_class[name], metric)
        return of_class

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values with the version of their layout under `schema`."""
        return {"schema": SCHEMA, **asdict(self)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], source: str = "metrics") -> Metrics:
        """Rebuild from `to_dict`.

        Args:
            data: The dictionary.
            source: Where it was read, for the error message.

        Raises:
            DataError: If it is no metrics dictionary of a version this code knows.
        """
        if not isinstance(data, Mapping) or "schema" not in data or "per_class" not in data:
            raise DataError(f"{source}: these are no metrics written by detkd evaluate (no `schema`); evaluate again")
        if data["schema"] != SCHEMA:
            raise DataError(
                f"{source}: metrics of schema {data['schema']!r}, this version reads {SCHEMA}; "
                "evaluate again or update detkd"
            )
        try:
            per_class = {
                str(name): ClassMetrics(**{f.name: values[f.name] for f in fields(ClassMetrics)})
                for name, values in data["per_class"].items()
            }
            rest = {f.name: data[f.name] for f in fields(cls) if f.name != "per_class"}
        except (KeyError, TypeError, AttributeError) as err:
            raise DataError(f"{source}: incomplete metrics ({err!r} is missing or wrong); evaluate again") from err
        return cls(per_class=per_class, **rest)


def plain(value: Any) -> Any:
    """Return `value` as JSON knows it: paths, tuples and numpy numbers become strings, lists and Python numbers."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "item") and not isinstance(value, (str, bytes)):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)
