"""The user's data as it is: from a path or the keys under `data` to checked splits. Nothing is written beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from detkd.data.build import build_set
from detkd.data.leakage import check_leakage
from detkd.data.problems import Findings
from detkd.data.readers import Resolver, choose_splits, read_source
from detkd.data.records import DataSpec, DetectionSet
from detkd.data.source import Source, parse_source
from detkd.data.split import SplitOptions, split_set, with_camera
from detkd.data.summary import summary_table, write_report
from detkd.errors import DataError

__all__ = ["Resolver", "load_data", "summary_table", "write_report"]


def load_data(
    source: str | Path | Mapping[str, Any],
    *,
    splits: Sequence[str] | None = None,
    on_bad: str = "error",
    resolver: Resolver | None = None,
    workers: int | None = None,
) -> DataSpec:
    """Load a detection data set, checking every image and label.

    Args:
        source: Path of a data YAML, COCO JSON or folder, or a mapping with the keys of `conf/data/path.yaml`.
        splits: Splits to load; by default train, val and test as far as they exist.
        on_bad: `error` raises at data that can't be used, `skip` leaves it out and lists it in the result; a key
            `on_bad` of the source wins.
        resolver: Called with the name of an Ultralytics data YAML for `format: ultralytics`; returns a local YAML or
            its content with absolute paths.
        workers: Threads that look at images.

    Raises:
        DataError: In one line that names the key or file, what is wrong and what to do.
    """
    options = parse_source(source, on_bad=on_bad)
    findings = Findings(options.on_bad)
    divide = options.split is not None and options.split.by is not None
    raws = read_source(options, findings, splits=None if divide else splits, resolver=resolver)
    sets = {name: build_set(raw, findings, verify=options.verify, workers=workers) for name, raw in raws.items()}
    skipped = findings.close()
    for name, dataset in sets.items():
        if not dataset.records:
            raise DataError(f"data.{name}: no usable image is left of {len(raws[name].images)}; {_first(findings)}")
    if options.split is not None:
        sets = _with_split(sets, options.split, findings)
    if divide:
        sets = {name: sets[name] for name in choose_splits(list(sets), splits, findings)}
    if "train" in sets and not any(len(record.classes) for record in sets["train"].records):
        findings.note("train: no image has a box; there is nothing to learn from")
    first = next(iter(sets.values()))
    spec = DataSpec(options.name, first.names, sets, skipped)
    return replace(spec, notes=(*findings.notes(), *_leaks(spec, options)))


def _with_split(sets: dict[str, DetectionSet], options: SplitOptions, findings: Findings) -> dict[str, DetectionSet]:
    if options.pattern is not None and options.by in (None, "camera"):
        sets = {name: with_camera(dataset, options.pattern) for name, dataset in sets.items()}
    if options.by is None:
        return sets
    if "train" in sets and "val" in sets:
        raise DataError(
            "data.split.by: the data already has train and val; remove data.split, or name one file: data.train=..."
        )
    base = "train" if "train" in sets else next(iter(sets))
    others = {name: dataset for name, dataset in sets.items() if name != base}
    shares = {name: share for name, share in options.fractions.items() if name not in others}
    made = split_set(sets[base], replace(options, fractions=shares))
    sizes = ", ".join(f"{name} {len(dataset)}" for name, dataset in made.items())
    caution = "; frames of one scene may be on both sides" if options.by == "random" else ""
    findings.note(f"{base} was split by {options.by}: {sizes} images (seed {options.seed}){caution}")
    return {**made, **others}


def _leaks(spec: DataSpec, options: Source) -> tuple[str, ...]:
    if options.leakage == "off" or len(spec.splits) < 2:
        return ()
    return check_leakage(spec, raise_error=options.leakage == "error")


def _first(findings: Findings) -> str:
    return findings.message() if findings.items else "check the files"
