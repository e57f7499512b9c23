"""`detkd compare`: two or many models, run folders or results files side by side."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from detkd.diagnosis.slices import make_slices
from detkd.errors import ConfigError
from detkd.evaluation.inputs import GroundTruth
from detkd.evaluation.side import Side
from detkd.progress import console, out
from detkd.report.comparison import Comparison, compare
from detkd.report.fail_if import parse_fail_if
from detkd.report.flat import flat_numbers
from detkd.report.leaderboard import rank
from detkd.runs import finish_run, new_folder, start_run
from detkd.statistics.draws import units_of
from detkd.statistics.records import Settings
from detkd.tasks.entries import Sources
from detkd.tasks.loggers import check_loggers, log_numbers
from detkd.tasks.results import CompareResult
from detkd.tasks.sweep import Entries, entries, is_sweep

__all__ = ["check_report", "compare_models", "picture_settings", "report_settings", "slice_fields", "write_report"]

ROLES = ("before", "after", "control", "teacher")


def compare_models(config: dict[str, Any]) -> CompareResult:
    """Run `detkd compare`; the result says whether `fail_if` holds."""
    many = config.get("runs") is not None
    taught = config.get("teacher") or {}
    config = {**config, "teacher": taught.get("path")}
    given = [role for role in ROLES if config.get(role) is not None]
    if many and given:
        raise ConfigError(f"runs: gives all entries of a leaderboard, so leave out {given[0]}= or runs=")
    condition = config.get("fail_if")
    if condition is not None:
        if many:
            raise ConfigError("fail_if: compares before and after, not runs=; leave one of them out")
        condition = parse_fail_if(str(condition))
    options = config.get("report") or {}
    loggers = check_loggers(options.get("loggers"))
    settings = report_settings(options)
    folder = new_folder(config.get("out"), config.get("name") or "compare")
    start_run(folder, "compare", config)
    if many:
        return _leaderboard(config, settings, folder, loggers)
    sources = Sources(config, folder, [one for role in given for one in _several(config[role])])
    check_report(options, sources.truth)
    if condition is not None:
        condition.check_classes(sources.truth.names)
    sides = {role: sources.side(role, config[role], role) for role in given if role != "teacher"}
    if "teacher" in given:
        size, mapping = taught.get("imgsz"), taught.get("class_map")
        sides["teacher"] = sources.side("teacher", config["teacher"], "teacher", imgsz=size, class_map=mapping)
    names = [side.name for side in sides.values()]
    sides = {
        role: replace(side, name=f"{side.name} ({role})") if names.count(side.name) > 1 else side
        for role, side in sides.items()
    }
    comparison = compare(
        sides["before"],
        sides["after"],
        control=sides.get("control"),
        teacher=sides.get("teacher"),
        settings=settings,
        slices=slice_fields(options),
        pictures=picture_settings(options, sources.truth),
    )
    write_report(comparison, folder, config)
    out.print(comparison)
    console.print(f"page: {folder / 'compare.html'}")
    verdict = condition.check(comparison) if condition is not None else None
    if verdict is not None and condition is not None:
        if 0 < abs(condition.limit) < 0.05 or abs(condition.limit) > 20:
            console.print(f"[yellow]fail_if {condition}: the limit is a difference after - before in points[/yellow]")
        out.print(verdict.message, highlight=False)
    failed = bool(verdict)
    word = comparison.verdict["word"]
    finish_run(folder, failed=failed, delta_AP=comparison.row("AP").delta, verdict=word)
    return CompareResult(folder, comparison, failed)


def _leaderboard(config: Mapping[str, Any], settings: Settings, folder: Path, loggers: Sequence[str]) -> CompareResult:
    """Rank the entries of `runs`, a list, a dictionary of names or the folder of a sweep."""
    runs = config["runs"]
    swept = entries(runs) if is_sweep(runs) else Entries({}, None, ())
    runs = swept.runs or runs
    if not isinstance(runs, (list, tuple, Mapping)):
        raise ConfigError(
            f"runs: must be a list, names with values or the folder of a sweep, got {runs}; write runs=[runs/a,runs/b]"
        )
    named = runs.items() if isinstance(runs, Mapping) else [(None, value) for value in runs]
    sources = Sources(config, folder, [one for _, value in named for one in _several(value)])
    check_report(config.get("report") or {}, sources.truth)
    sides = []
    for place, (name, value) in enumerate(named, start=1):
        side = sources.side("run", value, "runs")
        sides.append(replace(side, name=str(name)) if name is not None else side)
        console.print(f"[dim]{place}/{len(named)} {sides[-1].name}[/dim]", highlight=False)
    names = [side.name for side in sides]
    sides = [replace(s, name=f"{s.name} ({s.source})") if names.count(s.name) > 1 else s for s in sides]
    board = rank(sides, _reference(config.get("reference") or swept.reference, sides), settings=settings)
    board = replace(board, failed=swept.failed)
    paths = board.write(folder)
    log_numbers(flat_numbers(board.to_dict()), folder, loggers, config=config, page=paths["html"])
    out.print(board)
    console.print(f"page: {paths['html']}")
    finish_run(folder, reference=board.reference.name, best=board.sides[0].name)
    return CompareResult(folder, board)


def _reference(value: Any, sides: Sequence[Side]) -> str | None:
    """Return the name of the entry that was given as this value, or is called so."""
    if value is None:
        return None
    return next((side.name for side in sides if str(value) in (side.name, side.source)), str(value))


def _several(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (list, tuple)) else [value]


def report_settings(options: Mapping[str, Any]) -> Settings:
    """Return the statistics' settings from the `report` group.

    Raises:
        ConfigError: Naming the key that can't be used.
    """
    values = {one.name: options[one.name] for one in fields(Settings) if options.get(one.name) is not None}
    for key, least in (("resamples", 100), ("permutations", 0), ("seed", 0)):
        if key in values:
            values[key] = _whole(options, key, least)
    for key, low, high, usual in (("level", 0.5, 1.0, 0.95), ("margin", 0.0, math.inf, 0.5)):
        value = values.get(key)
        if value is not None and (isinstance(value, (bool, str)) or not low < value < high):
            limits = f"above {low:g}" if high == math.inf else f"between {low:g} and {high:g}"
            raise ConfigError(f"report.{key}: must be a number {limits}, got {value}; use {usual}")
    return Settings(**values)


def _whole(options: Mapping[str, Any], key: str, least: int) -> int:
    value = options[key]
    if isinstance(value, (bool, str)) or int(value) != value or value < least:
        raise ConfigError(f"report.{key}: must be a whole number of {least} or more, got {value}; leave it out")
    return int(value)


def check_report(options: Mapping[str, Any], truth: GroundTruth) -> Mapping[str, Any]:
    """Return the `report` group if it can be used on these labels; asked before work that takes long.

    Raises:
        ConfigError: Naming the key that can't be used.
    """
    check_loggers(options.get("loggers"))
    units_of(truth.images, report_settings(options).group_by)
    make_slices(truth, slice_fields(options))
    picture_settings(options, truth)
    return options


def slice_fields(options: Mapping[str, Any]) -> list[str] | None:
    """Return the fields to slice by; one name need not be written as a list."""
    value = options.get("slices")
    return [value] if isinstance(value, str) else value


def picture_settings(options: Mapping[str, Any], truth: GroundTruth) -> dict[str, Any]:
    """Return the gallery's arguments from the `report` group; pictures are looked for beside the labels too."""
    images = options.get("images")
    beside = Path(truth.source).parent if Path(truth.source).is_file() else None
    return {
        "images": images if images is not None else beside,
        **{key: _whole(options, key, 0) for key in ("objects", "frames") if options.get(key) is not None},
    }


def write_report(comparison: Comparison, folder: Path, config: Mapping[str, Any]) -> dict[str, Path]:
    """Write all files of a comparison and hand its numbers to the loggers that are on."""
    paths = comparison.write(folder)
    wanted = check_loggers((config.get("report") or {}).get("loggers"))
    log_numbers(flat_numbers(comparison.to_dict()), folder, wanted, config=config, page=paths["html"])
    return paths
