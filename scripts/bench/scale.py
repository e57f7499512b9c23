"""What a million, a hundred million and ten billion frames cost with each way to supply a teacher's answers.

    python scripts/bench/scale.py --measure --data path/to/data   # minutes on one core; writes results/scale.json
    python scripts/bench/scale.py --check                         # formulas against the simulation, into the same file
    python scripts/bench/scale.py --table                         # tables and picture of docs/scale-cost.md

Costs per image are measured with detkd's own code (scale_measure.py), assumptions are stated with their range and
source (scale.yaml), formulas (scale_model.py) turn both into hours, bytes and money, and a discrete-event simulation
with failures (scale_sim.py) checks the formulas. Without options the last line is the costs as one JSON object.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import detkd.environment

from scale_model import (
    DESIGNS,
    FLUSH_SECONDS,
    Assumptions,
    Costs,
    Stage,
    base_bill,
    bill,
    build_stage,
    cheapest_epochs,
    costs_of,
    held_seconds,
    read_assumptions,
    train_stage,
    wall_seconds,
)
from scale_sim import simulate

from detkd.io import read_json, write_json

ROOT = Path(__file__).resolve().parents[2]
RECORD = ROOT / "results" / "scale.json"
PAGE = ROOT / "docs" / "scale-cost.md"
PICTURE = ROOT / "docs" / "images" / "scale.png"
ENTRIES = Path(__file__).with_name("scale.yaml")
TOLERANCE = 0.1


class Setting(NamedTuple):
    """One comparison of formula and simulation; `seeds` simulations are averaged."""

    title: str
    stage: Stage
    images: float
    assumed: Assumptions
    seeds: int = 1
    batches: int = 400


def load(record: dict[str, Any], teacher: str | None = None) -> tuple[Costs, Assumptions, dict[str, Any]]:
    """Return costs, assumptions and their entries for the plan of scale.yaml."""
    assumed, entries = read_assumptions(ENTRIES)
    plan = {key: entries[key]["value"] for key in ("teacher", "imgsz", "layout", "objects")}
    return costs_of(record["measured"], **{**plan, **({"teacher": teacher} if teacher else {})}), assumed, entries


def settings(c: Costs, a: Assumptions) -> Iterator[Setting]:
    """Yield situations in which another resource is the bottleneck each time, and some with many failures."""
    a = replace(a, machines=8.0, mtbf_hours=1e9)
    few = replace(a, machines=4.0)
    views, objects = build_stage("views", c, a), build_stage("instances", c, a)
    live = train_stage("live", c, a)
    hour = 3600 / held_seconds(views, a) * a.machines

    def fine(stage: Stage, images: float) -> int:
        """Return how many batches there are if about ten of them are stored at a time."""
        return round(images / a.machines / min(stage.saved, FLUSH_SECONDS / held_seconds(stage, a)) * 10)

    yield Setting("build views, nothing in the way", views, 10 * hour, a)
    yield Setting("build views, network of 0.2 Gbit/s", views, 10 * hour, replace(a, network_gbit=0.2))
    yield Setting("build views, 300 requests/s", views, 10 * hour, replace(a, requests_per_second=300.0))
    often = replace(a, mtbf_hours=0.5, repair_seconds=300.0)
    thin = replace(often, network_gbit=0.2)
    for name, stage in (("views", views), ("instances", objects)):
        images = 10 * 3600 / held_seconds(stage, a) * a.machines
        title = f"build {name}, each machine fails every half hour"
        yield Setting(title, stage, images, often, 3, fine(stage, images))
    # The network slows this down sixfold, so as many more batches go into the 300 s between two shards.
    yield Setting("build views, 0.2 Gbit/s and failures", views, 3 * hour, thin, 3, 5 * fine(views, 3 * hour))
    pass_ = 3600 / held_seconds(live, few) * few.machines  # an hour's work of all
    yield Setting("an epoch with a live teacher", live, 2 * pass_, few)
    for design in DESIGNS[1:]:
        stage = train_stage(design, c, few)
        yield Setting(f"an epoch with stored {design}, 0.2 Gbit/s", stage, 2 * pass_, replace(few, network_gbit=0.2))
    for hours in (1.0, 2.0):
        title = f"live, an epoch takes {hours:g} x the time between two failures"
        yield Setting(title, live, hours * pass_, replace(few, mtbf_hours=4.0, repair_seconds=300.0), 600, 60)


def check(setting: Setting) -> dict[str, Any]:
    """Compare formula and simulation."""
    expected = wall_seconds(setting.stage, setting.images, setting.assumed)
    runs = [
        simulate(setting.stage, setting.images, setting.assumed, batches=setting.batches, seed=seed)
        for seed in range(setting.seeds)
    ]
    seconds = sum(one for one, _ in runs) / len(runs)
    failures = sum(number for _, number in runs) / len(runs)
    return {
        "setting": setting.title, "formula": expected, "simulated": seconds, "difference": seconds / expected - 1,
        "failures": failures, "simulations": len(runs),
    }  # fmt: skip


def tables(record: dict[str, Any]) -> dict[str, str]:
    """Return the tables of the page by name."""
    import scale_table as shown

    c, a, entries = load(record)
    sizes = entries["frames"]["value"]
    return {
        "measured": shown.measured_table(record["measured"]),
        "assumptions": shown.assumption_table(entries),
        "costs": shown.cost_table(c, a, sizes),
        "money": shown.money_table(c, a, sizes),
        "pace": shown.pace_table(c, a),
        "breaks": shown.break_table(c, a),
        "needs": shown.needs_table(record["measured"], c, a, sizes),
        "even": shown.even_table(record["measured"], entries, a),
        "sensitivity": shown.sensitivity_table(c, a, entries, 1e8),
        "checks": shown.check_table(record["checks"]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measure", action="store_true", help="measure the costs per image")
    parser.add_argument("--data", default="data/samples", help="its training images stand for the frames")
    parser.add_argument("--check", action="store_true", help="compare formulas and simulation")
    parser.add_argument("--table", action="store_true", help="write tables and picture of the documentation")
    given = parser.parse_args()
    record: dict[str, Any] = read_json(RECORD) if RECORD.is_file() else {}
    if given.measure:
        from scale_measure import measure

        from detkd.runs import environment_record

        record = {"schema": 1, "command": "python scripts/bench/scale.py --measure --check", **record}
        record["measured"] = measure(given.data)
        record["environment"] = environment_record()
        write_json(RECORD, record)
    c, a, entries = load(record)
    if given.check:
        record["tolerance"] = TOLERANCE
        record["checks"] = [check(setting) for setting in settings(c, a)]
        write_json(RECORD, record)
        for one in record["checks"]:
            print(f"{one['setting']}: {100 * one['difference']:+.1f} %, {one['failures']:.1f} failures")
        if wrong := [one for one in record["checks"] if abs(one["difference"]) > TOLERANCE]:
            raise SystemExit(f"{len(wrong)} settings differ by more than {100 * TOLERANCE:g} %: {wrong[0]['setting']}")
    if given.table:
        from scale_picture import picture
        from scale_table import write_page

        write_page(PAGE, tables(record))
        picture(c, a, PICTURE)
    costs = {f"{n:g}": {"training": asdict(base_bill(n, c, a)), **{d: asdict(bill(d, n, c, a)) for d in DESIGNS}}
             for n in entries["frames"]["value"]}  # fmt: skip
    print(json.dumps({"costs": costs, "cheaper_from_epochs": {d: cheapest_epochs(c, a, d) for d in DESIGNS[1:]}}))


if __name__ == "__main__":
    main()
