"""A comparison and a leaderboard as detkd writes them, with numbers from a seeded generator."""

from __future__ import annotations

import base64
import math
from typing import Any

import cv2
import numpy as np

METRICS = ("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large", "AR1", "AR10", "AR100", "AR_small", "AR_medium", "AR_large")
CLASS_METRICS = ("AP", "AP50", "AP75", "AR100")
TERMS = ("Cls", "Loc", "Both", "Dupe", "Bkg", "Miss")
HOSTILE = "</script><img src=x onerror=alert(1)>"
CLASSES = ("person", "car", "truck", "bus", "bicycle", "motorcycle", "traffic light", "dog", HOSTILE)
SLICES = {"camera": ("gate", "yard", "street \"north\""), "light": ("day", "dusk", "night")}
SIZES = ("small", "medium", "large")


def interval(value: float | None, half: float) -> list[float] | None:
    return None if value is None else [value - half, value + half * 0.9]


def settings(role: str) -> dict[str, Any]:
    return {"conf": 0.001 if role != "after" else 0.01, "iou": 0.7, "max_det": 300, "imgsz": 960 if role == "teacher" else 640, "head": "one2one (NMS-free)"}


def cost(role: str) -> dict[str, Any]:
    params, gflops, ms = (20_100_000, 68.5, 92.4) if role == "teacher" else (2_408_932, 5.4, 14.2 if role == "before" else 14.3)
    return {"params": params, "gflops": gflops, "size_mb": params * 2.2 / 1e6, "latency_ms": ms, "latency_p95_ms": ms * 1.18, "device": "CPU, 2 threads", "head": "one2one (NMS-free)", "imgsz": 640, "runtime": "torch", "runs": 50, "conf": 0.25}


def entry(role: str, name: str, base: float, seeds: int, images: int, objects: int) -> dict[str, Any]:
    runs = [
        {"source": f"runs/{name}-s{seed}/weights/best.pt", "seed": seed, "AP": base + 0.3 * seed - 0.3, "AP50": base * 1.5, "AP75": base * 1.1, "AR100": base * 1.4, "detections_sha256": f"{seed:02d}" + "ab" * 31, "weights_sha256": f"{seed:02d}" + "cd" * 31}
        for seed in range(seeds)
    ]
    factors = (1, 1.5, 1.1, 0.45, 1.05, 1.5, 0.9, 1.3, 1.4, 0.7, 1.45, 1.8)
    metrics = {key: base * factor for key, factor in zip(METRICS, factors, strict=True)}
    return {"role": role, "name": name, "source": runs[0]["source"], "cost": cost(role), "settings": settings(role), "runs": runs, "metrics": metrics, "images": images, "objects": objects, "detections": images * 60, "warnings": []}


def contrast(key: str, values: dict[str, float | None], objects: int, half: float, rng: np.random.Generator, **rest: Any) -> dict[str, Any]:
    before, after, teacher = values.get("before"), values.get("after"), values.get("teacher")
    delta = None if before is None or after is None else after - before
    around = interval(delta, half)
    if delta is None or around is None or objects < 10:
        verdict, reason = "not judged", f"only {objects} objects of this class; 10 are needed"
    elif around[0] > 0:
        verdict, reason = "improved", "the 95% interval of the difference lies above 0"
    elif around[1] < 0:
        verdict, reason = "regressed", "the 95% interval of the difference lies below 0"
    else:
        verdict, reason = "no visible difference", "the 95% interval of the difference holds 0"
    gap = delta / (teacher - before) if delta is not None and teacher is not None and before is not None and teacher - before > 0.1 else None
    row = {
        "key": key, "metric": key.replace("@", "/").split("/")[0], "class": None, "slice": None, "objects": objects, "images": max(1, objects // 4),
        "values": values, "intervals": {role: interval(value, half * 1.4) for role, value in values.items()},
        "delta": delta, "delta_interval": around, "p": None if delta is None else float(min(1.0, math.exp(-abs(delta) / half * 2) + 0.001)),
        "p_adjusted": None if delta is None else float(min(1.0, 2 * math.exp(-abs(delta) / half * 2) + 0.001)), "smallest_visible": half * 1.43,
        "verdict": verdict, "reason": reason, "not_inferior": None if around is None else around[0] > -0.5,
        "gap_closed": gap, "gap_interval": interval(gap, 0.15), **rest,
    }  # fmt: skip
    if "control" in values and values["control"] is not None and after is not None:
        step = after - values["control"]
        row["vs_control"] = {"delta": step, "interval": interval(step, half), "p": float(rng.uniform(0, 0.2)), "verdict": "improved" if step > half else "no visible difference"}
    return row


def curve(level: float, best: float) -> list[list[float]]:
    points = []
    for step in range(101):
        recall = step / 100 * (0.55 + level / 250)
        precision = max(0.02, 1 - (step / 100) ** 3 * (1.1 - level / 100) - 0.05 * step / 100)
        points.append([round(recall, 4), round(precision, 4), round(max(0.001, best * 2 * (1 - step / 100) ** 1.3), 4)])
    return points


def diagnosis(name: str, others: list[str], base: float, best: float, classes: tuple[str, ...], rng: np.random.Generator) -> dict[str, Any]:
    point = {"threshold": best, "precision": 0.62 + base / 300, "recall": 0.5 + base / 250, "f1": 0.55 + base / 280, "hits": 5120, "false": 2210, "missed": 3080}
    bins = [{"low": i / 10, "high": (i + 1) / 10, "count": int(9000 / (i + 1) ** 1.5), "confidence": i / 10 + 0.05, "accuracy": min(1.0, (i / 10 + 0.05) ** 0.8 * (0.7 + best))} for i in range(10)]
    bins[9] |= {"count": 0, "confidence": None, "accuracy": None}
    per_class = {one: {key: value for key, value in point.items()} | {"threshold": float(rng.uniform(0.1, 0.6))} for one in classes}
    per_class[classes[-1]] = {"threshold": None, "precision": None, "recall": 0.0, "f1": None, "hits": 0, "false": 0, "missed": 4}
    return {
        "working_point": {"iou": 0.5, **point, "false_per_image": 1.7, "per_class": per_class},
        "at": {other: {"threshold": 0.3, "precision": 0.71, "recall": 0.44, "f1": 0.54, "false_per_image": 1.1} for other in others},
        "calibration": {"iou": 0.5, "ece": 0.04 + best / 5, "mce": 0.21, "count": 61_000, "bins": bins},
        "errors": {"AP50": base * 1.5, "terms": {term: float(rng.uniform(0.2, 9)) for term in TERMS}, "FalsePos": 8.1, "FalseNeg": 14.2, "counts": {term: int(rng.integers(40, 3000)) for term in TERMS}},
        "duplicates": {"threshold": best, "per_object": 0.031 + best / 50, "count": 160},
        "false_per_image": [{"recall": 0.5 + i / 10, "false_per_image": 0.3 * 3**i - best if i < 4 else None, "threshold": 0.5 - i / 10 if i < 4 else None} for i in range(5)],
        "by_iou": [{"iou": 0.5 + i / 20, "AP": base * 1.5 - i * base * 0.13} for i in range(10)],
        "curves": {"iou": 0.5, "all": curve(base, best), "per_class": {one: curve(base + float(rng.normal(0, 8)), best) for one in classes[:-1]} | {classes[-1]: []}},
        "yolo_val": {"AP": base - 0.35, "AP50": base * 1.5 - 0.5, "parts": [{"name": "crowd boxes", "AP": -0.2, "AP50": -0.3, "why": "labels in YOLO's format have none, so what lies on them is a false alarm"}, {"name": "area under the curve", "AP": -0.15, "AP50": -0.2, "why": "a trapezium instead of the mean of 101 values"}], "remarks": ["If yours was measured at conf=0.25, that alone can change it by several points."]},
    }  # fmt: skip


def picture(rng: np.random.Generator, width: int, height: int) -> str:
    image = np.full((height, width, 3), rng.integers(60, 190, 3), np.uint8)
    for _ in range(12):
        x, y = int(rng.integers(0, width)), int(rng.integers(0, height))
        cv2.rectangle(image, (x, y), (x + width // 4, y + height // 4), rng.integers(0, 255, 3).tolist(), -1)
    image = cv2.GaussianBlur(image, (9, 9), 0)
    return "data:image/jpeg;base64," + base64.b64encode(cv2.imencode(".jpg", image)[1].tobytes()).decode()


def make_gallery(objects: int = 60, frames: int = 5, classes: tuple[str, ...] = CLASSES, seed: int = 0) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    crops, wholes = [], []
    for index in range(objects):
        kind, name, size = ("gained", "lost")[index % 3 == 2], classes[index * index % len(classes)], SIZES[index % 3]
        fields = {field: values[(index // 2) % len(values)] for field, values in SLICES.items()}
        one = {"box": [60, 50, 70, 60], "class": name}
        found, nothing = [{**one, "score": 0.55, "hit": True}], [{"box": [10, 10, 30, 40], "class": classes[0], "score": 0.31, "hit": False}]
        crops.append(
            {"kind": kind, "class": name, "size": size, "fields": fields, "image": f"{HOSTILE}{index:04d}.jpg", "uri": picture(rng, 192, 160), "width": 192, "height": 160,
             "score_before": None if kind == "gained" else 0.55, "score_after": 0.55 if kind == "gained" else None,
             "boxes": {"truth": [{**one, "target": True}], "before": nothing if kind == "gained" else found, "after": found if kind == "gained" else []}}
        )  # fmt: skip
    for index in range(frames):
        boxes = [{"box": [40 + 90 * k, 80 + 20 * k, 70, 60], "class": classes[k % len(classes)]} for k in range(5)]
        scored = [{**box, "score": 0.3 + 0.1 * k, "hit": k % 2 == 0} for k, box in enumerate(boxes)]
        fields = {field: values[index % len(values)] for field, values in SLICES.items()}
        wholes.append({"image": f"frame {index:04d}.jpg", "fields": fields, "uri": picture(rng, 640, 360), "width": 640, "height": 360, "gained": 3, "lost": index, "boxes": {"truth": boxes, "before": scored[:3], "after": scored[1:], "teacher": scored}})
    return {"objects": crops, "frames": wholes, "note": "40 more objects were left out to keep the page under 15 MB."}


def make_report(classes: tuple[str, ...] = CLASSES, images: int = 500, seeds: int = 1, shift: float = 1.9, seed: int = 0) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    bases = {"before": 31.25, "after": 31.25 + shift, "control": 31.25 + shift * 0.4, "teacher": 44.8}
    names = {"before": "yolo26n", "after": "yolo26n distilled", "control": "yolo26n longer", "teacher": "yolo26m"}
    objects = images * 9
    entries = [entry(role, names[role], base, seeds, images, objects) for role, base in bases.items()]
    entries[1]["warnings"] = [f"3 boxes of {HOSTILE} lie outside their image"]
    entries[2]["cost"] = None
    rows = [contrast(key, {one["role"]: one["metrics"][key] for one in entries}, objects, 0.8 + 0.5 * index / 6, rng) for index, key in enumerate(METRICS)]
    for index, name in enumerate(classes):
        count = 4 if index == len(classes) - 1 else int(rng.integers(12, 2000))
        level, step = float(rng.normal(0, 9)), float(rng.normal(0, 2.5))
        for key in CLASS_METRICS:
            values: dict[str, float | None] = {one["role"]: max(1.0, one["metrics"][key] + level + (step if one["role"] == "after" else 0)) for one in entries}
            if index == len(classes) - 1:
                values = dict.fromkeys(values)
            rows.append(contrast(f"{key}/{name}", values, count, 30 / math.sqrt(count) + 0.6, rng, **{"class": name}))
    for field, options in SLICES.items():
        for value in options:
            step = float(rng.normal(0, 1.5))
            for key in ("AP", "AP50"):
                values = {one["role"]: one["metrics"][key] + step * (2 if one["role"] == "after" else 1) for one in entries}
                rows.append(contrast(f"{key}@{field}={value}", values, objects // 3, 1.6, rng, slice={"field": field, "value": value}))
    thresholds = {"before": 0.10, "after": 0.41, "control": 0.12, "teacher": 0.33}
    found = {one["name"]: diagnosis(one["name"], [other["name"] for other in entries if other is not one], bases[one["role"]], thresholds[one["role"]], classes, rng) for one in entries}
    flips = {"both": 4310, "only_before": 210, "only_after": 402, "neither": 3278}
    split = [{"name": name, **{key: int(value / (index + 2)) for key, value in flips.items()}} for index, name in enumerate(classes)]
    pair = {
        "flips": {"iou": 0.5, "thresholds": {"before": 0.10, "after": 0.41}, **flips, "p": 3.2e-14, "by_class": split, "by_size": [{"name": size, **split[index % len(split)], "name": size} for index, size in enumerate(SIZES)], "items": []},
        "confusion": [{"truth": "car", "found": "truck", "before": 120, "after": 70, "delta": -50}, {"truth": "person", "found": "background", "before": 800, "after": 730, "delta": -70}, {"truth": "background", "found": HOSTILE, "before": 31, "after": 66, "delta": 35}],
    }  # fmt: skip
    row = rows[0]
    kind = "this knows only the noise of the test set, not that of training"
    verdict = {"word": row["verdict"], "sentence": f"yolo26n distilled is better than yolo26n by {row['delta']:.2f} points of AP (95% interval {row['delta_interval'][0]:+.2f} to {row['delta_interval'][1]:+.2f}).", "rule": "improved when the 95% interval of the difference lies above 0, regressed when it lies below 0.", "seeds": f"One run each: {kind}." if seeds == 1 else f"{seeds} runs each.", "not_inferior": "Not worse by more than 0.5 points: the interval's lower end lies above -0.5."}
    setting_rows = [{"key": key, "values": {one["role"]: one["settings"][key] for one in entries}, "differs": key == "conf"} for key in settings("before")]
    return {
        "schema": 2, "kind": "comparison", "created": "2026-11-22T16:00:00+00:00", "version": "0.1.0", "title": "yolo26n → yolo26n distilled", "entries": entries, "rows": rows,
        "verdict": verdict, "control_verdict": {**verdict, "word": "no visible difference", "sentence": "Against the control, no difference that this set can show (+1.14 points, 95% interval -0.10 to +2.30; smallest visible 1.1)."},
        "statistics": {"resamples": 2000, "permutations": 1000, "seed": 0, "level": 0.95, "group_by": "camera", "units": 42, "margin": 0.5, "p_floor": 1 / 1001, "notes": ["42 groups by camera."]},
        "diagnosis": {"entries": found, "pair": pair}, "gallery": {"objects": 60, "frames": 5, "note": ""},
        "protocol": {"engine": "hotcoco", "engine_version": "1.3.0", "iou_thresholds": [0.5 + i / 20 for i in range(10)], "recall_thresholds": 101, "max_detections": [1, 10, 100], "images": images, "objects": objects, "crowd": 12, "classes_without_objects": ["kite"], "gt": "data/instances_val.json", "gt_sha256": "ef" * 32, "settings": setting_rows},
        "notes": [{"level": "differs", "text": "conf differs: yolo26n 0.001, yolo26n distilled 0.01"}, {"level": "warning", "text": f"yolo26n distilled: 3 boxes of {HOSTILE} lie outside their image"}, {"level": "info", "text": "imgsz differs: yolo26n 640, yolo26m 960"}],
    }  # fmt: skip


def bare_report() -> dict[str, Any]:
    """Two finished metrics files: no detections, so no statistics, no diagnosis, no cost, and some numbers missing."""
    report = make_report()
    report["entries"] = report["entries"][:2]
    for one in report["entries"]:
        one |= {"cost": None, "settings": {}, "runs": [{**run, "weights_sha256": None, "seed": None} for run in one["runs"]], "warnings": []}
    nothing = {"delta_interval": None, "p": None, "p_adjusted": None, "smallest_visible": None, "verdict": "not judged", "reason": "no detections were at hand", "not_inferior": None, "gap_closed": None, "gap_interval": None}
    report["rows"] = [
        {key: value for key, value in {**row, **nothing}.items() if key != "vs_control"} | {"values": {role: row["values"][role] for role in ("before", "after")}, "intervals": {"before": None, "after": None}}
        for row in report["rows"]
        if row["slice"] is None
    ]
    for row in report["rows"]:
        if row["key"] == "AP_small":
            row |= {"values": {"before": None, "after": None}, "delta": None, "objects": 0}
    verdict = {"word": "not judged", "sentence": "AP went from 31.2 to 33.2; without detections nobody can say how sure that is.", "rule": "A verdict needs the detections of both sides.", "seeds": "One run each.", "not_inferior": None}
    report |= {"verdict": verdict, "control_verdict": None, "statistics": None, "diagnosis": None, "gallery": {"objects": 0, "frames": 0, "note": ""}, "notes": []}
    report["protocol"]["settings"] = []
    return report


def make_leaderboard(count: int = 6, classes: tuple[str, ...] = CLASSES, seed: int = 0) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    entries = []
    for place in range(count):
        base = 44.0 - 2.7 * place
        one = entry("run", f"model {place} {HOSTILE if place == 1 else ''}".strip(), base, 1 + place % 2, 500, 4500)
        one["cost"] = None if place == 4 else {**cost("before"), "params": int(3e6 * 1.7 ** (count - place)), "gflops": 5.4 * 1.6 ** (count - place) * float(rng.uniform(0.7, 1.4)), "latency_ms": 12 * 1.5 ** (count - place) * float(rng.uniform(0.7, 1.4)), "latency_p95_ms": 30.0}
        one |= {"rank": place + 1, "intervals": {key: interval(one["metrics"][key], 1.6) for key in CLASS_METRICS}, "against_reference": None}
        entries.append(one)
    reference = entries[2]
    for one in entries:
        if one is not reference:
            one["against_reference"] = {}
            for key in CLASS_METRICS:
                delta = one["metrics"][key] - reference["metrics"][key]
                one["against_reference"][key] = {"delta": delta, "interval": interval(delta, 2.9), "p": 0.004, "p_adjusted": 0.008, "verdict": "no visible difference" if abs(delta) < 2.9 else "improved" if delta > 0 else "regressed"}
    per_class = [{"class": name, "objects": int(rng.integers(3, 900)), "values": {one["name"]: None if index == len(classes) - 1 else max(0.0, one["metrics"]["AP"] + float(rng.normal(0, 8))) for one in entries}} for index, name in enumerate(classes)]
    report = make_report()
    settings_rows = [{"key": key, "values": {one["name"]: one["settings"].get(key) for one in entries}, "differs": False} for key in settings("before")]
    return {"schema": 2, "kind": "leaderboard", "reference": reference["name"], "entries": entries, "per_class": per_class, "statistics": report["statistics"], "protocol": {**report["protocol"], "settings": settings_rows}, "notes": report["notes"][1:2], "created": report["created"], "version": "0.1.0", "title": f"{count} detectors"}
