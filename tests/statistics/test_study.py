from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from detkd.errors import ConfigError, DataError
from detkd.evaluation.coco import evaluate_detections
from detkd.evaluation.inputs import GroundTruth
from detkd.evaluation.metrics import CLASS_NAMES, METRIC_NAMES
from detkd.evaluation.side import Run, Side, Slice, make_run
from detkd.evaluation.truth import load_truth
from detkd.statistics import resample
from detkd.statistics.draws import bootstrap_weights, units_of
from detkd.statistics.records import Settings, Study
from detkd.statistics.study import resolve, study
from tests.evaluation.worlds import NAMES, make_detections, make_gt

FEW = Settings(resamples=60, permutations=40)


def make_set(images: int = 40, seed: int = 1) -> dict[str, Any]:
    gt = make_gt(seed, images, absent=True)
    for n, record in enumerate(sorted(gt["images"], key=lambda r: r["id"])):
        record["camera"] = "gate" if n % 3 else "yard"
    return gt


GT = make_set()
TRUTH = load_truth(GT)


def run_of(
    noise: float, seed: int = 7, train: int | None = None, truth: GroundTruth = TRUTH, gt: dict[str, Any] = GT
) -> Run:
    return make_run(truth, make_detections(gt, seed, noise=noise, decimals=9), source=f"noise {noise}", seed=train)


def side_of(name: str, *runs: Run) -> Side:
    return Side(name, "run", runs)


@pytest.fixture(scope="module")
def pair() -> list[Side]:
    return [side_of("before", run_of(0.12)), side_of("after", run_of(0.04))]


@pytest.fixture(scope="module")
def slices() -> list[Slice]:
    cameras = np.array([record["camera"] for record in TRUTH.images])
    return [Slice("camera", value, cameras == value) for value in ("gate", "yard")]


@pytest.fixture(scope="module")
def result(pair: list[Side], slices: list[Slice]) -> Study:
    return study(pair, [("before", "after")], slices=slices, settings=FEW)


def test_every_number_is_there(result: Study) -> None:
    keys = {*METRIC_NAMES, *(f"{m}/{n}" for m in CLASS_NAMES for n in NAMES)} | {
        f"{m}@camera={c}" for m in ("AP", "AP50") for c in ("gate", "yard")
    }
    assert set(result.contrasts["before", "after"]) == set(result.estimates["before"]) == keys
    assert result.settings.resamples == 60
    assert result.settings.units == 40
    assert result.settings.p_floor == 1 / 41
    assert result.seeds == {"before": (None,), "after": (None,)}


def test_values_are_the_engines(result: Study, pair: list[Side]) -> None:
    for key in (*METRIC_NAMES, "AP/car", "AR100/person", "AP/toothbrush"):
        contrast = result.contrasts["before", "after"][key]
        assert contrast.before == result.estimates["before"][key].value == pair[0].number(key)
        assert contrast.after == pair[1].number(key)


def test_intervals_surround_values(result: Study) -> None:
    for key in ("AP", "AP50", "AP75", "AR100", "AP/car", "AP@camera=gate"):
        estimate, contrast = result.estimates["after"][key], result.contrasts["before", "after"][key]
        assert estimate.low < estimate.value < estimate.high
        assert contrast.low < contrast.delta < contrast.high
        assert contrast.delta == pytest.approx(contrast.after - contrast.before)
        assert contrast.smallest_visible == pytest.approx(2.8 * contrast.sd)


def test_a_clear_gain_is_called_one(result: Study) -> None:
    contrasts = result.contrasts["before", "after"]
    assert contrasts["AP"].verdict == "improved"
    assert contrasts["AP"].p == 1 / 41
    assert contrasts["AP75/car"].p_adjusted is not None
    assert contrasts["AP"].p_adjusted is None
    assert contrasts["AP_small"].p is None
    assert contrasts["AP@camera=gate"].p is None
    assert contrasts["AP"].not_inferior is None


def test_a_class_without_objects_is_never_zero(result: Study) -> None:
    contrast = result.contrasts["before", "after"]["AP/toothbrush"]
    assert (contrast.before, contrast.delta, contrast.low, contrast.sd, contrast.p, contrast.p_adjusted) == (None,) * 6
    assert contrast.verdict == "not judged"
    assert "rests on 0 objects" in contrast.reason


def test_slices_are_the_numbers_of_the_smaller_set(result: Study) -> None:
    ids = {record["id"] for record in GT["images"] if record["camera"] == "yard"}
    part = {
        **GT,
        "images": [r for r in GT["images"] if r["id"] in ids],
        "annotations": [a for a in GT["annotations"] if a["image_id"] in ids],
    }
    for name, noise in (("before", 0.12), ("after", 0.04)):
        found = [one for one in make_detections(GT, 7, noise=noise, decimals=9) if one["image_id"] in ids]
        want = evaluate_detections(part, found)
        assert result.estimates[name]["AP@camera=yard"].value == pytest.approx(want.AP, abs=1e-9)
        assert result.estimates[name]["AP50@camera=yard"].value == pytest.approx(want.AP50, abs=1e-9)


def test_draws_are_those_of_sets_built_anew() -> None:
    """Images, labels and detections copied as often as they were drawn, and evaluated by an engine."""
    found = make_detections(GT, 7, noise=0.12, decimals=12)
    one = make_run(TRUTH, found)
    weights = bootstrap_weights(units_of(TRUTH.images), 3, seed=5)
    values = resample.side_values([one], weights, np.ones((3, 1)))
    for row, got in zip(weights, values, strict=True):
        rebuilt: dict[str, Any] = {"images": [], "categories": GT["categories"], "annotations": []}
        copies = []
        for record, count in zip(TRUTH.images, row.tolist(), strict=True):
            for _ in range(count):
                new = len(rebuilt["images"]) + 1
                rebuilt["images"].append({"id": new})
                rebuilt["annotations"] += [
                    {**a, "image_id": new} for a in GT["annotations"] if a["image_id"] == record["id"]
                ]
                copies += [{**d, "image_id": new} for d in found if d["image_id"] == record["id"]]
        want = evaluate_detections(rebuilt, copies)
        for key, value in zip([*METRIC_NAMES, *(f"{m}/{n}" for n in NAMES for m in CLASS_NAMES)], got, strict=True):
            expected = want.number(key)
            assert np.isnan(value) if expected is None else value == pytest.approx(expected, abs=1e-3), key


def test_the_same_seed_gives_the_same_study_in_any_batches(
    pair: list[Side], slices: list[Slice], result: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("detkd.statistics.resample._BATCH", 7)
    monkeypatch.setattr("detkd.statistics.permutation._BATCH", 3)
    again = study(pair, [("before", "after")], slices=slices, settings=FEW)
    assert again == result
    other = study(pair, [("before", "after")], slices=slices, settings=replace(FEW, seed=1))
    assert other.estimates["after"]["AP"].low != result.estimates["after"]["AP"].low


def test_differences_are_paired(pair: list[Side], result: Study) -> None:
    """Two sides that are one detector differ by exactly nothing, however wide their own intervals are."""
    twin = study([pair[0], replace(pair[0], name="twin")], [("before", "twin")], settings=FEW)
    contrast = twin.contrasts["before", "twin"]["AP"]
    assert (contrast.low, contrast.high, contrast.sd, contrast.p) == (0, 0, 0, 1)
    assert contrast.verdict == "no visible difference"
    assert twin.estimates["twin"]["AP"] == result.estimates["before"]["AP"]


def test_direction(pair: list[Side], result: Study) -> None:
    back = study(pair, [("after", "before")], settings=FEW).contrasts["after", "before"]["AP"]
    there = result.contrasts["before", "after"]["AP"]
    assert back.verdict == "regressed"
    assert back.delta == pytest.approx(-there.delta)
    assert (back.low, back.high) == pytest.approx((-there.high, -there.low))


def test_gap_and_margin(pair: list[Side]) -> None:
    sides = [*pair, side_of("teacher", run_of(0.01))]
    found = study(
        sides,
        [("before", "after"), ("before", "teacher"), ("after", "before")],
        teacher="teacher",
        settings=replace(FEW, margin=0.5),
    )
    contrast = found.contrasts["before", "after"]["AP"]
    lead = sides[2].number("AP") - sides[0].number("AP")
    assert contrast.gap_closed == pytest.approx(contrast.delta / lead)
    assert contrast.gap_low < contrast.gap_closed < contrast.gap_high
    assert contrast.not_inferior is True
    assert found.contrasts["before", "teacher"]["AP"].gap_closed is None
    assert found.contrasts["after", "before"]["AP"].not_inferior is False
    behind = study(sides, [("after", "teacher")], teacher="before", settings=FEW).contrasts["after", "teacher"]["AP"]
    assert (behind.gap_closed, behind.gap_low, behind.gap_high) == (None, None, None)


def test_groups_make_intervals_longer_when_frames_are_copies() -> None:
    gt = make_set(24, seed=3)
    copied: dict[str, Any] = {"images": [], "categories": gt["categories"], "annotations": []}
    found: dict[float, list[dict[str, Any]]] = {0.12: [], 0.04: []}
    for record in gt["images"]:
        for copy in range(4):
            new = len(copied["images"]) + 1
            copied["images"].append({"id": new, "video": record["id"], "copy": copy})
            copied["annotations"] += [
                {**a, "image_id": new} for a in gt["annotations"] if a["image_id"] == record["id"]
            ]
            for noise, mine in found.items():
                mine += [
                    {**d, "image_id": new} for d in make_detections(gt, 7, noise=noise) if d["image_id"] == record["id"]
                ]
    truth = load_truth(copied)
    sides = [side_of(str(noise), make_run(truth, mine)) for noise, mine in found.items()]
    alone = study(sides, [("0.12", "0.04")], settings=replace(FEW, resamples=300))
    grouped = study(sides, [("0.12", "0.04")], settings=replace(FEW, resamples=300, group_by="video"))
    ratio = grouped.contrasts["0.12", "0.04"]["AP"].sd / alone.contrasts["0.12", "0.04"]["AP"].sd
    assert ratio == pytest.approx(math.sqrt(4), rel=0.25)
    assert grouped.settings.units == 24
    assert any("report.group_by=video" in note for note in alone.notes)
    assert not any("group_by=video" in note for note in grouped.notes)


def test_the_spread_of_runs_adds_to_that_of_images() -> None:
    """Var(mean of runs) = variance over images of the mean + s^2 / R between runs."""
    noises = (0.03, 0.08, 0.13)
    runs = [run_of(noise) for noise in noises]
    settings = Settings(resamples=1500, permutations=0)
    side = side_of("several", *runs)
    got = study([side, side_of("fixed", runs[1])], [("fixed", "several")], settings=settings)
    weights = bootstrap_weights(units_of(TRUTH.images), 1500, 0)
    alone = [resample.side_values([one], weights, np.ones((1500, 1)))[:, 0] for one in runs]
    between = np.var([one.metrics.AP for one in runs], ddof=1) / 3
    paired = np.mean(alone, axis=0) - alone[1]
    assert between > 4 * paired.var()  # the seeds dominate here
    sd = got.contrasts["fixed", "several"]["AP"].sd
    assert sd == pytest.approx(math.sqrt(between + paired.var()), rel=0.1)
    assert got.estimates["several"]["AP"].value == pytest.approx(np.mean([one.metrics.AP for one in runs]))
    assert any("several (3)" in note for note in got.notes)


def test_runs_with_the_same_seeds_stay_together() -> None:
    """The second side is the first a bit worse, seed by seed: paired, the seeds cancel, in whatever order they come."""
    noises = (0.03, 0.08, 0.13)
    first = [run_of(noise, train=n) for n, noise in enumerate(noises)]
    second = [run_of(noise + 0.005, train=n) for n, noise in enumerate(noises)]
    settings = Settings(resamples=300, permutations=20)

    def contrast(*sides: Side) -> Any:
        return study(sides, [("a", "b")], settings=settings).contrasts["a", "b"]["AP"]

    paired = contrast(side_of("a", *first), side_of("b", *second[::-1]))
    strangers = contrast(side_of("a", *first), side_of("b", *(replace(one, seed=one.seed + 10) for one in second)))
    assert paired.sd < strangers.sd / 3
    assert paired.delta == pytest.approx(strangers.delta)


def test_progress_counts_to_the_end(pair: list[Side], slices: list[Slice]) -> None:
    seen: dict[str, list[tuple[int, int]]] = {}
    study(
        pair,
        [("before", "after")],
        slices=slices,
        settings=FEW,
        progress=lambda label, done, total: seen.setdefault(label, []).append((done, total)),
    )
    assert list(seen) == ["resampling before", "resampling after", "permuting before and after"]
    for steps in seen.values():
        assert [done for done, _ in steps] == sorted(done for done, _ in steps)
        assert steps[-1][0] == steps[-1][1]


def test_one_side_alone(pair: list[Side]) -> None:
    alone = study(pair[:1], [], settings=FEW)
    assert alone.contrasts == {}
    assert alone.estimates["before"]["AP"].low is not None


def test_a_single_image_has_no_interval() -> None:
    gt = make_gt(3, 1, empty=0.0)
    truth = load_truth(gt)
    sides = [side_of(str(noise), run_of(noise, truth=truth, gt=gt)) for noise in (0.1, 0.02)]
    found = study(sides, [("0.1", "0.02")], settings=FEW)
    contrast = found.contrasts["0.1", "0.02"]["AP"]
    assert (contrast.low, contrast.p, contrast.sd) == (None, None, None)
    assert contrast.verdict == "not judged"
    assert any("single image" in note for note in found.notes)


@pytest.mark.parametrize("permutations", [0, 40])
def test_few_groups_get_no_verdict_on_any_number(permutations: int) -> None:
    """However clear the difference is; its value and interval stay."""
    gt = make_set()
    for n, record in enumerate(gt["images"]):
        record["camera"] = n % 5
    truth = load_truth(gt)
    sides = [side_of(str(noise), run_of(noise, truth=truth, gt=gt)) for noise in (0.12, 0.02)]
    found = study(sides, [("0.12", "0.02")], settings=replace(FEW, permutations=permutations, group_by="camera"))
    contrasts = found.contrasts["0.12", "0.02"]
    assert {one.verdict for one in contrasts.values()} == {"not judged"}
    assert contrasts["AP"].delta > 0
    assert contrasts["AP"].low > 0
    assert "it rests on 5 groups of camera, too few to tell" in contrasts["AP"].reason
    assert any("With 5 groups no difference is judged: a verdict needs 6" in note for note in found.notes)


def test_a_slice_of_few_images_gets_no_verdict(pair: list[Side]) -> None:
    masks = {n: np.arange(len(TRUTH.images)) < n for n in (5, 20)}
    slices = [Slice("first", str(n), mask) for n, mask in masks.items()]
    contrasts = study(pair, [("before", "after")], slices=slices, settings=FEW).contrasts["before", "after"]
    assert contrasts["AP@first=5"].verdict == "not judged"
    assert "it rests on 5 images, too few to tell" in contrasts["AP@first=5"].reason
    assert contrasts["AP@first=20"].verdict == "improved"


def test_a_detector_that_finds_nothing(pair: list[Side]) -> None:
    silent = side_of("silent", make_run(TRUTH, []))
    contrast = study([pair[0], silent], [("before", "silent")], settings=FEW).contrasts["before", "silent"]["AP"]
    assert contrast.after == 0
    assert contrast.verdict == "regressed"


def test_defaults_and_notes(pair: list[Side]) -> None:
    small, large = units_of([{}] * 999), units_of([{}] * 1000)
    assert resolve(Settings(), small).resamples == 2000
    assert resolve(Settings(), large).resamples == 1000
    assert resolve(Settings(), small).permutations == 1000
    assert resolve(Settings(), small).p_floor == 1 / 1001
    assert resolve(Settings(), units_of([{}] * 5)).p_floor == 2 / 32
    found = study(pair, [], settings=replace(FEW, permutations=0))
    assert found.settings.p_floor is None
    for text in (
        "With 40 images the intervals are a little short",
        "use report.resamples=1000 or more",
        "With 40 images single values are less sure than differences",
        "report.permutations=0",
        "report.group_by=camera",
    ):
        assert any(text in note for note in found.notes), text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"resamples": 5}, "^report.resamples: must be at least 20, got 5"),
        ({"permutations": -1}, "^report.permutations: must not be negative, got -1"),
        ({"seed": -1}, "^report.seed: must not be negative"),
        ({"level": 95}, "^report.level: must be between 0.5 and 1, got 95"),
        ({"margin": 0}, "^report.margin: must be above 0 points, got 0"),
        ({"group_by": "night"}, "^report.group_by: no image record has the field 'night'; choose one of camera"),
    ],
)
def test_settings_that_cannot_be_used(pair: list[Side], change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        study(pair, [], settings=Settings(**change))


def test_names_that_cannot_be_used(pair: list[Side]) -> None:
    with pytest.raises(ConfigError, match="contrasts: there is no side 'other'; choose from before, after"):
        study(pair, [("before", "other")])
    with pytest.raises(ConfigError, match="sides: names must be unique, got before, before"):
        study([pair[0], pair[0]], [])
    gt = make_set(seed=9)
    stranger = side_of("stranger", run_of(0.1, truth=load_truth(gt), gt=gt))
    with pytest.raises(DataError, match="stranger: evaluated on"):
        study([pair[0], stranger], [])
