"""What a model card says, worked out from a run's records: results, limits, settings without private paths."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from detkd.evaluation.metrics import METRIC_NAMES
from detkd.evaluation.tables import format_points, signed_points
from detkd.io import sha256
from detkd.statistics.verdict import MIN_OBJECTS

__all__ = ["config_text", "limits", "measured_on", "per_class_rows", "result_rows", "shorten", "use_facts"]

_SMALL_SET = 500  # images; below, intervals are several points wide
_WEAK = 0.5  # of the overall AP
_UNMEASURED_CONF = 0.25  # the default of Ultralytics
_BADLY_CALIBRATED = 0.05
_NOT_CONFIG = frozenset({
    "out", "name", "resume", "trust", "verbose", "pictures", "dry_run", "report", "threads", "workers", "plugins",
    "control",
})  # fmt: skip
_SHARES = (("precision", "precision"), ("recall", "recall"), ("F1", "f1"))
_ABSOLUTE = re.compile(r"(?<![\w./])(?:~|[A-Za-z]:|file://)?[/\\](?:[^\s'\",\]}/\\]+[/\\])*([^\s'\",\]}/\\]+)")


def shorten(value: Any) -> Any:
    """Return a value without the folders of this machine: absolute paths inside become `.../name`."""
    if isinstance(value, Mapping):
        return {key: shorten(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [shorten(item) for item in value]
    return _ABSOLUTE.sub(r".../\1", value) if isinstance(value, str) else value


def config_text(config: Mapping[str, Any]) -> str:
    """Return what decides about a training as YAML: keys without a value and those about this machine left out."""
    kept = _without_empty({key: value for key, value in config.items() if key not in _NOT_CONFIG})
    text: str = yaml.safe_dump(shorten(kept), sort_keys=False, allow_unicode=True, width=110)
    return text


def _without_empty(node: Mapping[str, Any]) -> dict[str, Any]:
    kept = {}
    for key, value in node.items():
        item = _without_empty(value) if isinstance(value, Mapping) else value
        if item is not None and item not in ({}, []):
            kept[str(key)] = list(item) if isinstance(item, tuple) else item
    return kept


def measured_on(record: Mapping[str, Any], weights: Path) -> bool:
    """Return whether the numbers of a metrics.json are those of a checkpoint.

    Args:
        record: Content of metrics.json; without a hash in it, as older versions wrote it, the file's name decides.
        weights: The checkpoint.
    """
    protocol = (record.get("metrics") or {}).get("protocol") or {}
    if known := (protocol.get("settings") or {}).get("weights_sha256"):
        return bool(known == sha256(weights))
    name = record.get("weights")
    return not name or str(name).replace("\\", "/").rpartition("/")[2] == weights.name


def _rows(comparison: Mapping[str, Any] | None) -> dict[str, Mapping[str, Any]]:
    return {} if comparison is None else {row["key"]: row for row in comparison["rows"]}


def _with_interval(value: float | None, interval: Sequence[float] | None) -> str:
    text = format_points(value)
    return text if interval is None or value is None else f"{text} ({interval[0]:.1f} to {interval[1]:.1f})"


def _difference(row: Mapping[str, Any]) -> str:
    interval = row.get("delta_interval")
    text = signed_points(row.get("delta"))
    return text if not interval else f"{text} ({interval[0]:+.1f} to {interval[1]:+.1f})"


def result_rows(metrics: Mapping[str, Any], comparison: Mapping[str, Any] | None) -> list[list[str]]:
    """Return number, points with interval, and where there is a comparison: the other side, difference, verdict.

    Args:
        metrics: What `Metrics.to_dict` returns.
        comparison: Content of compare.json in which the model is `after`, or None.
    """
    known = _rows(comparison)
    table = []
    for key in METRIC_NAMES:
        line = [key.replace("_", " ")]
        if row := known.get(key):
            line += [_with_interval(row["values"].get("after"), (row.get("intervals") or {}).get("after"))]
            line += [format_points(row["values"].get("before")), _difference(row), str(row["verdict"])]
        else:
            line += [format_points(metrics.get(key))]
        table.append(line)
    return table


def per_class_rows(metrics: Mapping[str, Any], comparison: Mapping[str, Any] | None) -> list[list[str]]:
    """Return class, objects, AP with interval, AP50, and the difference in AP where there is a comparison."""
    known = _rows(comparison)
    table = []
    for name, numbers in metrics["per_class"].items():
        row = known.get(f"AP/{name}")
        interval = (row.get("intervals") or {}).get("after") if row else None
        line = [name, str(numbers["objects"]), _with_interval(numbers["AP"], interval), format_points(numbers["AP50"])]
        if comparison is not None:
            line += [_difference(row), str(row["verdict"])] if row else ["n/a", "not judged"]
        table.append(line)
    return table


def use_facts(
    record: Mapping[str, Any],
    metrics: Mapping[str, Any] | None,
    comparison: Mapping[str, Any] | None,
    export: Mapping[str, Any],
    unmeasured: str | None,
) -> dict[str, Any]:
    """Return how the model is best used: `conf`, `working_text` and `limits`.

    Args:
        record: Content of metrics.json, which has a diagnosis where `detkd evaluate` wrote it.
        metrics: As for `limits`.
        comparison: As for `limits`.
        export: As for `limits`.
        unmeasured: As for `limits`; nothing is known of the working point then.
    """
    found = {} if unmeasured else _diagnosis(record, comparison)
    point = found.get("working_point") or {}
    conf = point.get("threshold")
    if conf is not None:
        shares = ", ".join(f"{name} {point[key]:.2f}" for name, key in _SHARES if point.get(key) is not None)
        text = (
            f"Best used from a score of {conf:g}, where F1 is highest on the test images: {shares}, "
            f"{point['false_per_image']:.2f} false alarms per image. Lower it to find more objects, raise it for fewer "
            "false alarms."
        )
    else:
        what = "it found no object of the test images" if point else "the best threshold was not measured"
        text = f"The score {_UNMEASURED_CONF:g} below is only a default, {what}: choose one on images of your own."
    known = [*limits(metrics, comparison, export, unmeasured)]
    if said := _calibration_text(found.get("calibration") or {}):
        known.append(said)
    return {"conf": f"{_UNMEASURED_CONF if conf is None else conf:g}", "working_text": text, "limits": known}


def _diagnosis(record: Mapping[str, Any], comparison: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """Return the diagnosis of the model, that of the comparison before that of its own evaluation."""
    entries = ((comparison or {}).get("diagnosis") or {}).get("entries") or {}
    name = next((entry["name"] for entry in (comparison or {}).get("entries") or () if entry["role"] == "after"), None)
    found: Mapping[str, Any] = entries.get(name) or record.get("diagnosis") or {}
    return found


def _calibration_text(calibration: Mapping[str, Any]) -> str:
    error, shift = calibration.get("ece"), calibration.get("shift") or 0.0
    if error is None or error <= _BADLY_CALIBRATED:
        return ""
    way = "" if abs(shift) < error / 2 else f", mostly too {'high' if shift > 0 else 'low'}"
    return (
        f"Scores of the model are off by {100 * error:.0f} % on average (mean calibration error{way}): a score of 0.7 "
        "does not mean that 7 of 10 such detections are right."
    )


def limits(
    metrics: Mapping[str, Any] | None,
    comparison: Mapping[str, Any] | None,
    export: Mapping[str, Any],
    unmeasured: str | None = None,
) -> list[str]:
    """Return, one sentence each, what the numbers do not say and where the model is weak.

    Args:
        metrics: What `Metrics.to_dict` returns, or None where the model was not evaluated.
        comparison: Content of compare.json, or None.
        export: What `ExportResult.to_dict` returns.
        unmeasured: Name of the checkpoint, where its run evaluated another one.
    """
    found = [] if metrics is None else _about_numbers(metrics, comparison)
    if unmeasured:
        found.append(
            f"This checkpoint, {unmeasured}, was not evaluated: the numbers of its run are those of another one. "
            "Measure it with detkd evaluate."
        )
    if export.get("ap_difference") is not None:
        found.append(
            f"The exported file was checked on {export['images']} images; the numbers above, where there are any, are "
            "those of the original weights."
        )
    else:
        found.append("The AP of the exported file was not measured: it was checked by its raw outputs alone.")
    if "int8" in str(export.get("format")):
        found.append("It computes with 8 bit integers; on images unlike those it was calibrated on it may lose more.")
    return found


def _about_numbers(metrics: Mapping[str, Any], comparison: Mapping[str, Any] | None) -> list[str]:
    images, objects, classes = metrics["images"], metrics["objects"], metrics["per_class"]
    found = []
    headline = _rows(comparison).get("AP")
    if images < _SMALL_SET:
        visible = headline.get("smallest_visible") if headline else None
        hint = "" if visible is None else f" Differences in AP below about {visible:.1f} points can't be seen on it."
        found.append(f"The test set is small ({images} images, {objects} objects).{hint}")
    runs = _runs(comparison)
    if runs == 1:
        found.append("The numbers are those of one training with one seed; another seed gives somewhat other ones.")
    few = [name for name, numbers in classes.items() if 0 < numbers["objects"] < MIN_OBJECTS]
    none = [name for name, numbers in classes.items() if numbers["objects"] == 0]
    if few:
        found.append(f"Fewer than {MIN_OBJECTS} test objects, so hardly judged: {_list(few)}.")
    if none:
        found.append(f"Not tested at all, the test set has no such objects: {_list(none)}.")
    overall = metrics.get("AP")
    weak = [
        f"{name} (AP {numbers['AP']:.1f})"
        for name, numbers in sorted(classes.items(), key=lambda item: item[1]["AP"] or 0.0)
        if overall and numbers["AP"] is not None and numbers["AP"] < _WEAK * overall
        and numbers["objects"] >= MIN_OBJECTS
    ]  # fmt: skip
    if weak:
        found.append(f"Weak classes, less than half of the overall AP: {_list(weak)}.")
    small = metrics.get("AP_small")
    if overall and small is not None and small < _WEAK * overall:
        found.append(f"Weak on small objects (below 32 x 32 pixels): AP {small:.1f} against {overall:.1f} overall.")
    worse = [row["key"] for row in _rows(comparison).values() if row["verdict"] == "regressed"]
    if worse:
        before = next(entry["name"] for entry in (comparison or {})["entries"] if entry["role"] == "before")
        found.append(f"Visibly worse than {before} in: {_list(worse)}.")
    found.append(
        "Nothing but this data set was tested; other cameras, places, seasons and kinds of light can give far worse "
        "results."
    )
    return found


def _runs(comparison: Mapping[str, Any] | None) -> int:
    if comparison is None:
        return 1
    return next((len(entry["runs"]) for entry in comparison["entries"] if entry["role"] == "after"), 1)


def _list(names: Sequence[str], most: int = 12) -> str:
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + rest
