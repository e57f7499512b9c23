"""Costs of a distillation at scale: units, directions, and formulas against the simulation."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import scale as bench  # conftest.py puts scripts/bench on the path
import scale_limits as limits
import scale_model as model
import scale_table as shown
from scale_picture import picture
from scale_sim import simulate

from detkd.caching.objects import object_bytes
from detkd.io import read_json

REPO = Path(__file__).resolve().parents[2]

COSTS = model.Costs(
    teacher=2.0, step=0.6, sample=0.04, decode=0.01, frames_per_sample=4.0, frame_bytes=50_000.0, load=0.001,
    digest=0.001, record_bytes={"live": 0.0, "views": 7000.0, "instances": 300.0},
    encode={"live": 0.0, "views": 0.004, "instances": 0.0002}, write={"live": 0.0, "views": 0.001, "instances": 0.0},
    read={"live": 0.0, "views": 0.0005, "instances": 0.0002}, set_memory=4000.0,
    index_memory=80.0, key_memory=100.0, sha_byte=1e-9,
)  # fmt: skip


def assumed(**changes: float) -> model.Assumptions:
    values = model.read_assumptions(bench.ENTRIES)[0]
    plain = {"gpu_speedup_teacher": 100.0, "gpu_speedup_student": 100.0, "epochs": 20.0, "closing": 10.0, "views": 8.0}
    return replace(values, **{**plain, **changes})


def test_bill_of_the_live_teacher_by_hand() -> None:
    """1,000 frames, 20 epochs, 2 s / 100 a pass; the loader holds the control up for 10 ms, 6 ms are the step's."""
    one = model.bill("live", 1000, COSTS, assumed(threads=4.0, price_gpu_hour=3.6))
    assert one.passes == 20_000
    assert one.teacher_hours == pytest.approx(20_000 * 0.02 / 3600)
    assert one.gpu_hours == pytest.approx(20_000 * (0.026 - 0.010) / 3600)
    assert one.total == one.gpu_money == pytest.approx(20_000 * 0.016 / 1000)
    assert one.stored == one.network == one.requests == 0


def test_bill_of_stored_views_by_hand() -> None:
    one = model.bill("views", 1000, COSTS, assumed(price_cache_gb_month=2.0, months=3.0, price_network_gb=0.5,
                                                    price_million_reads=7.0))  # fmt: skip
    assert one.passes == 1000 * (8 + 8)  # ten epochs with mosaic, ten without: eight views of each kind
    assert one.stored == 16_000 * 7000
    assert one.network == 16_000 * (4 * 50_000 + 7000) + 20_000 * 7000
    assert one.requests == 16_000 * 4
    assert one.storage_money == pytest.approx(16_000 * 7000 / 1e9 * 2 * 3)
    assert one.network_money == pytest.approx(one.network / 1e9 * 0.5 + 0.064 * 7)


@pytest.mark.parametrize(
    ("epochs", "closing", "views", "stored"), [(100, 10, 8, 16), (5, 0, 8, 5), (12, 10, 8, 10), (1, 10, 8, 1)]
)
def test_views_stored(epochs: float, closing: float, views: float, stored: float) -> None:
    """No more than there are epochs of either kind, as detkd counts them."""
    from detkd.training.sampler import ViewPlan

    assert model.stored_views(assumed(epochs=epochs, closing=closing, views=views)) == stored
    plan = ViewPlan(views=views, closing=min(closing, epochs), epochs=epochs)  # type: ignore[arg-type]
    assert len({plan.view(epoch) for epoch in range(int(epochs))}) == stored


@pytest.mark.parametrize("design", model.DESIGNS)
def test_costs_grow_with_frames_epochs_and_prices(design: str) -> None:
    def total(frames: float = 1e6, **changes: float) -> float:
        return model.bill(design, frames, COSTS, assumed(**changes)).total

    assert total(1e8) == pytest.approx(100 * total())
    assert total(epochs=200.0) > total()
    assert total(price_gpu_hour=4.0) > total(price_gpu_hour=1.0)
    assert total(gpu_speedup_teacher=400.0) < total(gpu_speedup_teacher=100.0)


def test_caches_pay_with_many_epochs_and_runs() -> None:
    """The live teacher's bill grows with every run, that of a cache hardly."""
    few, many = assumed(runs=1.0), assumed(runs=20.0)
    growth = {
        d: model.bill(d, 1e6, COSTS, many).gpu_hours / model.bill(d, 1e6, COSTS, few).gpu_hours for d in model.DESIGNS
    }
    assert growth["live"] == pytest.approx(20)
    assert growth["views"] < 3
    assert model.cheapest_epochs(COSTS, assumed(), "instances") <= model.cheapest_epochs(COSTS, assumed(), "views")
    assert model.cheapest_epochs(replace(COSTS, teacher=0.0), assumed(), "views") == math.inf


def test_retries() -> None:
    """As long as the time between failures: e - 1 times the work; a short piece of work hardly notices."""
    assert model.retried(100.0, 100.0, 0.0) == pytest.approx(100 * (math.e - 1))
    assert model.retried(1.0, 1e9, 600.0) == pytest.approx(1.0, rel=1e-5)
    assert model.retried(1e6, 1.0, 0.0) == math.inf


def test_limits_shrink_with_memory_and_views() -> None:
    def first(word: str, **changes: float) -> float:
        return next(one.frames for one in limits.breaks(COSTS, assumed(**changes)) if word in one.what)

    assert first("labels", memory_gib=16.0) == pytest.approx(16 * 2**30 / 4000)
    assert first("list of views", memory_gib=32.0) == pytest.approx(2 * first("list of views", memory_gib=16.0))
    assert first("index", views=1.0) > first("index", views=8.0)
    assert {one.frames for one in limits.breaks(COSTS, assumed()) if "2^31" in one.what} == {2.0**31}


def test_limits_are_those_of_the_code() -> None:
    from inspect import signature

    from detkd.caching import shards, writer

    assert limits.KEY_LIMIT == shards.KEY_LIMIT
    assert signature(writer.CacheWriter).parameters["shard_bytes"].default == model.SHARD_BYTES
    assert writer._FLUSH_SECONDS == model.FLUSH_SECONDS


@pytest.mark.parametrize("number", [0, 1, 2, 3, 6, 8])
def test_formula_and_simulation_agree(number: int) -> None:
    """Nothing, network, requests, failures; training with a live teacher, and with stored objects and a slow network."""
    setting = list(bench.settings(COSTS, assumed()))[number]._replace(seeds=1)
    setting = setting._replace(batches=min(setting.batches, 400))
    found = bench.check(setting)
    assert abs(found["difference"]) < bench.TOLERANCE, found
    assert (found["failures"] > 0) == (number == 3)


def test_simulated_failures_cost_what_the_formula_says() -> None:
    few = assumed(machines=2.0, mtbf_hours=2.0, repair_seconds=300.0, network_gbit=1000.0, requests_per_second=1e9)
    stage = model.Stage(gpu=0.1, cpu=0.1, down=0.0, up=0.0, requests=1.0, together=True)
    images = 3600 / 0.1 * 2 / 2  # half an hour's work of both, which fail every hour
    runs = [simulate(stage, images, few, batches=40, seed=seed)[0] for seed in range(150)]
    assert sum(runs) / len(runs) == pytest.approx(model.wall_seconds(stage, images, few), rel=0.12)


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0"), (1234, "1,230"), (12.345, "12.3"), (0.0123, "0.0123"), (math.inf, "never")]
)
def test_three_digits(value: float, text: str) -> None:
    assert shown.significant(value) == text


def test_units() -> None:
    assert [shown.size(x) for x in (12, 7e3, 2.5e9, 1.2e15)] == ["12 B", "7.00 kB", "2.50 GB", "1.20 PB"]
    assert [shown.count(x) for x in (950, 1e6, 2.5e8, 1e10)] == ["950", "1 million", "250 million", "10 billion"]


@pytest.fixture(scope="module")
def record() -> dict[str, Any]:
    return read_json(bench.RECORD)


def test_page_shows_the_record(record: dict[str, Any]) -> None:
    """Page, record and assumptions belong together; `python scripts/bench/scale.py --table` writes the page."""
    text = bench.PAGE.read_text(encoding="utf-8")
    assert shown.filled(text, bench.tables(record)) == text


def test_record_is_sound(record: dict[str, Any]) -> None:
    """The formulas hold within the stated tolerance, and sizes are those of the formats."""
    assert all(abs(one["difference"]) <= record["tolerance"] for one in record["checks"])
    measured = record["measured"]
    sizes = {int(n): one["bytes"] for n, one in measured["objects"].items()}
    assert sizes[12] - sizes[4] == 8 * object_bytes(8, 80)
    assert measured["views"]["K 128, int8"]["bytes"] == pytest.approx(2 * 128 * (2 + 8 + 8 + 9) + 20, rel=0.01)


def test_speed_of_the_gpu_is_what_its_source_says(record: dict[str, Any]) -> None:
    """Measured seconds over the published 11.8 and 1.7 ms, rounded."""
    seconds, a = record["measured"]["teacher_seconds"], bench.load(record)[1]
    assert a.gpu_speedup_teacher == pytest.approx(seconds["yolo26x"]["640"] / 0.0118, rel=0.1)
    assert a.gpu_speedup_student == pytest.approx(seconds["yolo26n"]["640"] / 0.0017, rel=0.1)


def test_picture(tmp_path: Path, record: dict[str, Any]) -> None:
    costs, a, _ = bench.load(record)
    picture(costs, a, tmp_path / "scale.png")
    assert 10_000 < (tmp_path / "scale.png").stat().st_size < 150_000
    assert bench.PICTURE.stat().st_size < 150_000
