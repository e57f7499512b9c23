"""From the records of the distillation benchmark to intervals, a Markdown page and one JSON object."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from distillation_arms import CONTROLS, METHODS, PRESETS
from filelock import FileLock
from rich.table import Table

from detkd.diagnosis.working_point import sweep, working_point
from detkd.evaluation.matching import Matches
from detkd.evaluation.side import Run, Side, make_run
from detkd.evaluation.truth import load_truth
from detkd.io import read_json, write_json
from detkd.progress import console
from detkd.statistics.records import Settings
from detkd.statistics.study import study

SUMMARY = "summary.json"
STEPS = "steps.json"
AGAINST = ("control", "ultralytics", "control_time")
"""What every method is compared with, where it was run; and with controls that have words of their own."""

EQUAL = ("initial_hash", "batch_hash", "labels_hash")
"""What has to be equal for all arms of a set and seed; the number of steps too, unless an arm asks for another.

Where labels are hidden (`data.labelled`), a control sees the labelled images alone, as often as makes as many steps, so
its batches are others."""


def mismatch(control: Mapping[str, Any], record: Mapping[str, Any]) -> str | None:
    """Return what differs between two arms that has to be equal, None where nothing does."""
    longer = record["recipe"] == "control_time" or any(
        word.startswith("epochs=") for word in record.get("arm_words") or ()
    )
    keys = [*EQUAL, *(() if longer else ("steps",))]
    if taught_more(control) and is_control(control) != is_control(record):
        keys.remove("batch_hash")
    wrong = [f"{key} is {record[key]}, the control's {control[key]}" for key in keys if record[key] != control[key]]
    return "; ".join(wrong) or None


def taught_more(record: Mapping[str, Any]) -> bool:
    """Return whether students of a set learn from images that a control does not see."""
    config = record.get("config") or {}
    share = (config.get("data") or {}).get("labelled")
    return (share is not None and share < 1) or bool((config.get("unlabelled") or {}).get("path"))


def is_control(record: Mapping[str, Any]) -> bool:
    """Return whether a record is of a plain training: `none` is one, unless it learns from a teacher's boxes."""
    return record["recipe"] in CONTROLS or (record["recipe"] == "none" and not taught_more(record))


def other_controls(methods: Mapping[str, Mapping[int, Mapping[str, Any]]]) -> list[str]:
    """Return the labels of plain trainings with words of their own, such as another number of epochs."""
    plain = [label for label, of in methods.items() if all(record["recipe"] in CONTROLS for record in of.values())]
    return [label for label in plain if label not in CONTROLS]


def read_records(results: Path) -> dict[str, dict[str, dict[int, dict[str, Any]]]]:
    """Return all stored runs: set, method, seed."""
    found: dict[str, dict[str, dict[int, dict[str, Any]]]] = {}
    for file in sorted(results.glob("*-s*.json")):
        record = read_json(file)
        found.setdefault(record["set"], {}).setdefault(record["arm"], {})[int(record["seed"])] = record
    return found


def read_steps(results: Path) -> dict[str, Any]:
    """Return the measured steps, by set and method."""
    file = results / STEPS
    return dict(read_json(file)) if file.is_file() else {}


def read_summary(results: Path) -> dict[str, Any]:
    """Return the stored comparisons, by set and method."""
    file = results / SUMMARY
    return dict(read_json(file)) if file.is_file() else {}


def false_alarms(matches: Matches, hits: int) -> float | None:
    """Return false alarms per image at the highest threshold with so many hits; None where it never has them."""
    curve = sweep(matches)
    reached = np.flatnonzero(curve.hits >= hits)
    return float(curve.false[reached[0]] / matches.images) if len(reached) else None


def load_runs(folder: Path, label: str, seeds: Iterable[int], truth: Any) -> tuple[Run, ...]:
    """Read the detections of a method on the pooled images, seed by seed."""
    return tuple(
        make_run(truth, folder / f"{label}-s{seed}" / "pooled" / "detections.json", source=label, seed=seed)
        for seed in seeds
    )


def contrast(before: Sequence[Run], after: Sequence[Run], group_by: str | None) -> dict[str, Any]:
    """Compare two methods over seeds and images, in pairs."""
    sides = [Side("before", "before", tuple(before)), Side("after", "after", tuple(after))]
    settings = Settings(permutations=0, group_by=group_by)
    result = study(sides, [("before", "after")], settings=settings)
    rows = result.contrasts["before", "after"]
    found = {
        key: {"mean": rows[metric].delta, "low": rows[metric].low, "high": rows[metric].high}
        for key, metric in (("gain", "AP"), ("gain50", "AP50"))
    }
    return {**found, "seeds": len(after), "images": result.settings.images, "resamples": result.settings.resamples}


def compare_set(name: str, folder: Path, known: Mapping[str, Any]) -> dict[str, Any]:
    """Compare all finished methods of a set; what `known` says of the same runs is kept."""
    finished: dict[str, dict[int, dict[str, Any]]] = {}
    for file in sorted(folder.glob("*-s*/record.json")):
        if (file.parent / "pooled" / "detections.json").is_file():
            record = read_json(file)
            finished.setdefault(record["arm"], {})[int(record["seed"])] = record
    control = finished.get("control")
    if not control:
        return {}
    for label, runs_of in finished.items():
        for seed in [seed for seed in runs_of if seed in control]:
            if problem := mismatch(control[seed], runs_of[seed]):
                console.print(f"[red]{name} {label} seed {seed}: {problem}; left out of the comparison[/red]")
                del runs_of[seed]
    truth = load_truth(folder / f"control-s{min(control)}" / "pooled" / "ground_truth.json")
    cached: dict[str, Run] = {}

    def runs(label: str, seeds: Iterable[int]) -> tuple[Run, ...]:
        for seed in seeds:
            if f"{label}-{seed}" not in cached:
                cached[f"{label}-{seed}"] = load_runs(folder, label, [seed], truth)[0]
        return tuple(cached[f"{label}-{seed}"] for seed in seeds)

    result: dict[str, Any] = {}
    others = other_controls(finished)
    for label, records in finished.items():
        entry: dict[str, Any] = {}
        old = known.get(label) or {}
        for other in (*AGAINST, *(() if all(map(is_control, records.values())) else others)):
            seeds = sorted(set(records) & set(finished.get(other, {})))
            if other == label or not seeds:
                continue
            made_of = [[s, finished[other][s]["fingerprint"], finished[other][s]["pooled"]["AP"],
                        records[s]["fingerprint"], records[s]["pooled"]["AP"]] for s in seeds]  # fmt: skip
            before = old.get(f"over_{other}") or {}
            if before.get("runs") == made_of:
                entry[f"over_{other}"] = before
                continue
            console.print(f"[dim]{name}: {label} against {other}, {len(seeds)} seeds[/dim]")
            found = contrast(
                runs(other, seeds), runs(label, seeds), PRESETS[name].group_by if name in PRESETS else None
            )
            entry[f"over_{other}"] = {**found, "runs": made_of}
        seeds = sorted(set(records) & set(control))
        stamp = [[s, control[s]["fingerprint"], records[s]["fingerprint"], records[s]["pooled"]["AP"]] for s in seeds]
        if (old.get("false_alarms") or {}).get("runs") == stamp:
            entry["false_alarms"] = old["false_alarms"]
        elif seeds:
            entry["false_alarms"] = {**alarms_at_recall(runs("control", seeds), runs(label, seeds)), "runs": stamp}
        result[label] = entry
    return result


def alarms_at_recall(control: Sequence[Run], method: Sequence[Run]) -> dict[str, Any]:
    """Return false alarms per image where a method finds as much as the control does at its best threshold."""
    points = [working_point(run.matches) for run in control]
    rates = [false_alarms(run.matches, point["hits"]) for run, point in zip(method, points, strict=True)]
    known = [rate for rate in rates if rate is not None]
    return {
        "recall": statistics.mean(point["recall"] or 0.0 for point in points),
        "per_image": statistics.mean(known) if len(known) == len(rates) else None,
    }


def compare_all(folder: Path, results: Path, sets: Iterable[str]) -> None:
    """Compare what is finished in the run folders of sets, and store it beside the records."""
    results.mkdir(parents=True, exist_ok=True)
    for name in sets:
        found = compare_set(name, folder / name, read_summary(results).get(name, {}))
        with FileLock(folder / ".summary.lock"):
            summary = read_summary(results)
            if found:
                summary[name] = {**summary.get(name, {}), **found}
                write_json(results / SUMMARY, summary)


def summarise(results: Path) -> dict[str, Any]:
    """Return for each set and method the gain over the control, from stored files alone."""
    steps, found = read_steps(results), {}
    for name, methods in read_summary(results).items():
        for label, entry in methods.items():
            over = entry.get("over_control")
            if over is not None:
                found.setdefault(name, {})[label] = {
                    "gain": over["gain"],
                    "gain50": over["gain50"],
                    "seeds": over["seeds"],
                    "step_ratio": ((steps.get(name) or {}).get(label) or {}).get("ratio"),
                }
    return found


def mean(records: Mapping[int, Mapping[str, Any]], *path: str) -> float | None:
    """Return the mean over the seeds of a number in the records, None where one has none."""
    values = []
    for record in records.values():
        value: Any = record
        for key in path:
            value = None if value is None else value.get(key)
        values.append(value)
    return None if not values or None in values else float(statistics.mean(values))


def late_gain(records: Mapping[int, Mapping[str, Any]]) -> float | None:
    """Return how much AP50 rose in the last fifth of the epochs, mean over the seeds."""
    end, late = mean(records, "pooled", "AP50"), mean(records, "late", "AP50")
    return None if end is None or late is None else end - late


def number(value: float | None, digits: int = 1) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def interval(value: Mapping[str, Any] | None) -> str:
    """Return a difference with its interval."""
    if value is None or value["mean"] is None:
        return "-"
    if value["low"] is None:
        return f"{value['mean']:+.1f}"
    return f"{value['mean']:+.1f} ({value['low']:+.1f} to {value['high']:+.1f})"


COLUMNS = (
    "method", "seeds", "AP", "AP50", "AP75", "small", "medium", "large", "NMS-free AP", "gain AP", "gain AP50",
    "AP50 over Ultralytics", "AP50 over equal time", "false alarms", "minutes", "GB", "step", "measured step",
)  # fmt: skip


def rows(results: Path, name: str) -> Iterator[tuple[str, ...]]:
    """Yield the cells of a set, best gain in AP50 first, controls on top."""
    records = read_records(results).get(name, {})
    summary, steps = read_summary(results).get(name, {}), read_steps(results).get(name) or {}

    def key(label: str) -> tuple[int, float]:
        gain = ((summary.get(label) or {}).get("over_control") or {}).get("gain50", {}).get("mean")
        first = ("control", "control_time", "ultralytics")
        return (first.index(label) if label in first else len(first), -(gain if gain is not None else -1e9))

    for label in sorted(records, key=key):
        mine, entry = records[label], summary.get(label) or {}
        over = {other: entry.get(f"over_{other}") or {} for other in AGAINST}
        seconds = mean(mine, "train_seconds")
        yield (
            label,
            str(len(mine)),
            *(number(mean(mine, "pooled", k)) for k in ("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large")),
            number(mean(mine, "nms_free", "AP")),
            interval(over["control"].get("gain")),
            interval(over["control"].get("gain50")),
            interval(over["ultralytics"].get("gain50")),
            interval(over["control_time"].get("gain50")),
            number((entry.get("false_alarms") or {}).get("per_image"), 2),
            number(None if seconds is None else seconds / 60),
            number(mean(mine, "peak_memory", "process")),
            number((steps.get(label) or {}).get("ratio"), 2),
            number((steps.get(label) or {}).get("measured_ratio"), 2),
        )


def console_tables(results: Path, sets: Iterable[str]) -> Iterator[Table]:
    """Yield a short table per set for people at a terminal."""
    shown = [0, 1, 2, 3, 9, 10, 13, 14]
    for name in sets:
        cells = list(rows(results, name))
        if not cells:
            continue
        rise = late_gain(read_records(results).get(name, {}).get("control", {}))
        title = name if rise is None else f"{name}: AP50 of the control rises {rise:+.1f} in its last fifth"
        table = Table(title=title, box=None, padding=(0, 1))
        for index in shown:
            table.add_column(
                COLUMNS[index].replace(" alarms", ""), justify="left" if index == 0 else "right", no_wrap=True
            )
        for row in cells:
            table.add_row(*(row[index] for index in shown))
        yield table


def markdown(results: Path) -> str:
    """Return the page."""
    lines = [INTRO.strip(), ""]
    records = read_records(results)
    for name, methods in records.items():
        lines += [f"## {name}", "", *facts(methods), ""]
        lines.append("| " + " | ".join(COLUMNS) + " |")
        lines.append("|" + "|".join(["---"] + ["---:"] * (len(COLUMNS) - 1)) + "|")
        lines += ["| " + " | ".join(row) + " |" for row in rows(results, name)]
        lines += ["", *own_words(methods), *over_others(methods, read_summary(results).get(name, {})), ""]
        if alarms := sorted(
            {f"{label}: {text}" for label, m in methods.items() for r in m.values() for text in r["alarms"]}
        ):
            lines += ["Alarms raised while training:", "", *(f"- {text}" for text in alarms), ""]
    if not records:
        lines += ["No runs are stored yet.", ""]
    return "\n".join(lines).rstrip() + "\n"


def over_others(methods: Mapping[str, Mapping[int, Mapping[str, Any]]], summary: Mapping[str, Any]) -> Iterator[str]:
    """Yield what the recipes as they are gain over each control that has words of its own."""
    for other in other_controls(methods):
        over = {label: entry.get(f"over_{other}") for label, entry in summary.items() if label in METHODS}
        if told := [f"{label} {interval(one['gain50'])}" for label, one in over.items() if one]:
            yield f"- AP50 over {other}: {', '.join(told)}"


def facts(methods: Mapping[str, Mapping[int, Mapping[str, Any]]]) -> list[str]:
    """Return what all methods of a set share, as sentences of the page."""
    some = next(iter(next(iter(methods.values())).values()))
    config, machine = some["config"], some["environment"]
    control = methods.get("control")
    with_teacher = [r for m in methods.values() for r in m.values() if r.get("teacher")]
    student = config["student"]
    made = f"`{student['path']}`"
    if scale := student.get("scale"):
        made += f" of width {scale['width']:g} and depth {scale['depth']:g}"
    if student.get("slice"):
        made += f", cut from `{student['slice']}`,"
    lines = [
        f"Student {made} at {config['imgsz']} pixels, batch {config['batch']}; "
        f"{some['pooled']['images']} images of {some['pooled']['split']}.",
    ]
    if taught_more(some):
        share = (config.get("data") or {}).get("labelled")
        use = (config.get("unlabelled") or {}).get("labels")
        which = (
            f"All images have labels, the same for all; students alone see those of `unlabelled` too (`{use}`)"
            if share is None
            else f"Labels of {share:.0%} of the training images, the same for all; students alone see the others"
        )
        lines.append(f"{which}, taught by the teacher. The control takes as many steps on its labelled ones.")
    if with_teacher:
        lines.append(teachers_of(with_teacher))
    if control:
        one = next(iter(control.values()))
        rise = late_gain(control)
        lines.append(
            f"The control trains {one['epochs']} epochs ({one['steps']} steps)"
            + ("." if rise is None else f"; its AP50 rises {rise:+.1f} points in the last fifth of them.")
        )
    if timed := methods.get("control_time"):
        one = next(iter(timed.values()))
        lines.append(f"`control_time` trains {one['epochs']} epochs, as long as `{one.get('time_of')}` takes.")
    versions = machine["versions"]
    cpus = ", ".join(sorted({str(r["environment"]["cpu"]) for m in methods.values() for r in m.values()}))
    commits = sorted({str(r["environment"]["commit"])[:12] for m in methods.values() for r in m.values()})
    lines.append(
        f"{cpus}, {some['threads']} thread{'s' * (some['threads'] != 1)}; torch {versions['torch']}, "
        f"Ultralytics {versions['ultralytics']}, detkd {', '.join(commits)}."
    )
    return lines


def teachers_of(records: Iterable[Mapping[str, Any]]) -> str:
    """Return the teacher at each size it was asked at, as a sentence: a method may need another size than the rest."""
    at: dict[int, dict[str, Any]] = {}
    for record in records:
        one = at.setdefault(int(record["teacher"]["imgsz"]), {**record["teacher"], "arms": set()})
        one["arms"].add(record["arm"])
        path = record["config"]["teacher"]["path"]
    sizes = sorted(at, key=lambda size: -len(at[size]["arms"]))
    told = [f"at {size} pixels AP {at[size]['AP']:.1f}, AP50 {at[size]['AP50']:.1f}" for size in sizes]
    for number, size in enumerate(sizes[1:], start=1):
        arms = ", ".join(f"`{arm}`" for arm in sorted(at[size]["arms"]))
        told[number] += f" (for {arms})"
    return f"Teacher `{path}` {'; '.join(told)}."


def own_words(methods: Mapping[str, Mapping[int, Mapping[str, Any]]]) -> list[str]:
    """Return what a row with a label of its own stands for."""
    found = []
    for label, records in methods.items():
        one = next(iter(records.values()))
        words = list(one.get("arm_words") or ())
        if words or label != one["recipe"]:
            found.append(f"- {label}: `distill={one['recipe']}{''.join(f' {word}' for word in words)}`")
    return found


INTRO = """
# Distillation, side by side

Generated by `scripts/bench/distillation.py --table` from the records in results/distillation; do not edit.

All arms of a set and seed start from one saved file of weights and see the same images in the same order with the same
augmentation, which hashes assert, for the same number of steps; but for controls of another length (`control_time`,
`plain14` and the like), and controls where some images have no labels: those see the labelled ones alone. The final
weights are evaluated, none is chosen by its result. Numbers are means over the seeds, in COCO points on val and test
together. Differences are paired over seeds and images (whole cameras, 12 of them, on the `cctv` sets), with 95 %
intervals, not widened for the number of rows; a single seed says nothing about other seeds, so its interval is too
short. Ultralytics' own compares maps cell by cell, so its teacher has to see as many pixels as the student, and on road
cameras and blood cells it is a weaker teacher there; on the drawn set all have the same. Recipes and strengths were
compared on these same images: the best row of a table is partly luck.

Columns: `gain` is over the control; `control_time` is a control that trains as long as one of the methods, with a
schedule of its own. `false alarms` are those per image at the threshold where a method finds as much as the control
does at its best F1. The last fifth of a training is as near to it as whole epochs allow; the learning rate is near 0
there, so that a flat end does not mean that more epochs would not help. `minutes` are of training, `GB` the peak memory
of its process, `step` the wall time of a training step with a live teacher, at the student's resolution, over that of
Ultralytics' own distillation with the same teacher, student and batch; `measured step` that of a step whose gradients
calibration measures (4 in an epoch) over the method's others.
"""
