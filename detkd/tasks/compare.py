"""`detkd compare`: two or many models, run folders or results files side by side."""

from __future__ import annotations

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
from detkd.report.fail_if import check_fail_if, parse_fail_if
from detkd.report.flat import flat_numbers
from detkd.report.leaderboard import rank
from detkd.runs import finish_run, new_folder, start_run
from detkd.statistics.draws import units_of
from detkd.statistics.records import Settings
from detkd.tasks.entries import Sources
from detkd.tasks.loggers import check_loggers, log_numbers
from detkd.tasks.results import CompareResult

__all__ = ["check_report", "compare_models", "picture_settings", "report_settings", "write_report"]

ROLES = ("before", "after", "control", "teacher")


def compare_models(config: dict[str, Any]) -> CompareResult:
    """Run `detkd compare`; the result says whether `fail_if` holds."""
    many = config.get("runs") is not None
    given = [role for role in ROLES if config.get(role) is not None]
    if many and given:
        raise ConfigError(f"runs: gives all entries of a leaderboard, so leave out {given[0]}= or runs=")
    condition = config.get("fail_if")
    if condition is not None:
        if many:
            raise ConfigError("fail_if: compares before and after, not runs=; leave one of them out")
        parse_fail_if(str(condition))
    options = config.get("report") or {}
    check_loggers(options.get("loggers"))
    settings = report_settings(options)
    folder = new_folder(config.get("out"), config.get("name") or "compare")
    start_run(folder, "compare", config)
    if many:
        return _leaderboard(config, settings, folder)
    sources = Sources(config, folder, [one for role in given for one in _several(config[role])])
    sides = {role: sources.side(role, config[role], role) for role in given}
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
        slices=options.get("slices"),
        pictures=picture_settings(options, sources.truth),
    )
    write_report(comparison, folder, config)
    out.print(comparison)
    console.print(f"page: {folder / 'compare.html'}")
    verdict = check_fail_if(comparison, str(condition)) if condition is not None else None
    if verdict is not None:
        out.print(verdict.message, highlight=False)
    failed = bool(verdict)
    word = comparison.verdict["word"]
    finish_run(folder, failed=failed, delta_AP=comparison.row("AP").delta, verdict=word)
    return CompareResult(folder, comparison, failed)


def _leaderboard(config: Mapping[str, Any], settings: Settings, folder: Path) -> CompareResult:
    """Rank the entries of `runs`, a list or a dictionary of names."""
    runs = config["runs"]
    if not isinstance(runs, (list, tuple, Mapping)):
        raise ConfigError(f"runs: must be a list or names with values, got {runs}; write runs=[runs/a,runs/b]")
    named = runs.items() if isinstance(runs, Mapping) else [(None, value) for value in runs]
    sources = Sources(config, folder, [one for _, value in named for one in _several(value)])
    sides = []
    for place, (name, value) in enumerate(named, start=1):
        side = sources.side("run", value, "runs")
        sides.append(replace(side, name=str(name)) if name is not None else side)
        console.print(f"[dim]{place}/{len(named)} {sides[-1].name}[/dim]", highlight=False)
    names = [side.name for side in sides]
    sides = [replace(s, name=f"{s.name} ({s.source})") if names.count(s.name) > 1 else s for s in sides]
    board = rank(sides, _reference(config.get("reference"), sides), settings=settings)
    paths = board.write(folder)
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
    for key, least in (("resamples", 100), ("permutations", 100)):
        if key in values and (not isinstance(values[key], int) or values[key] < least):
            raise ConfigError(f"report.{key}: must be {least} or more, got {values[key]}; leave it out for the default")
    if "level" in values and not 0.5 <= float(values["level"]) < 1:
        raise ConfigError(f"report.level: must be from 0.5 to below 1, got {values['level']}; use 0.95")
    if "margin" in values and not float(values["margin"]) > 0:
        raise ConfigError(f"report.margin: must be above 0 points, got {values['margin']}; use 0.5")
    return Settings(**values)


def check_report(options: Mapping[str, Any], truth: GroundTruth) -> Mapping[str, Any]:
    """Return the `report` group if it can be used on these labels; asked before work that takes long.

    Raises:
        ConfigError: Naming the key that can't be used.
    """
    check_loggers(options.get("loggers"))
    units_of(truth.images, report_settings(options).group_by)
    make_slices(truth, options.get("slices"))
    return options


def picture_settings(options: Mapping[str, Any], truth: GroundTruth) -> dict[str, Any]:
    """Return the gallery's arguments from the `report` group; pictures are looked for beside the labels too."""
    images = options.get("images")
    beside = Path(truth.source).parent if Path(truth.source).is_file() else None
    return {
        "images": images if images is not None else beside,
        **{key: int(options[key]) for key in ("objects", "frames") if options.get(key) is not None},
    }


def write_report(comparison: Comparison, folder: Path, config: Mapping[str, Any]) -> dict[str, Path]:
    """Write all files of a comparison and hand its numbers to the loggers that are on."""
    paths = comparison.write(folder)
    wanted = check_loggers((config.get("report") or {}).get("loggers"))
    log_numbers(flat_numbers(comparison.to_dict()), folder, wanted, config=config, page=paths["html"])
    return paths
