from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from detkd.data.toy import draw_toy
from detkd.diagnosis.slices import make_slices
from detkd.errors import ConfigError
from detkd.evaluation.inputs import GroundTruth
from detkd.evaluation.side import Slice
from detkd.evaluation.truth import load_truth


def truth_of(records: list[dict[str, Any]], objects: int | list[int] = 2, **annotation: Any) -> GroundTruth:
    """Images with these extra fields, and so many objects in each."""
    counts = objects if isinstance(objects, list) else [objects] * len(records)
    return load_truth(
        {
            "images": [
                {"id": n, "file_name": f"{n}.jpg", "width": 64, "height": 64, **r} for n, r in enumerate(records)
            ],
            "categories": [{"id": 1, "name": "car"}],
            "annotations": [
                {"id": 1, "image_id": n, "category_id": 1, "bbox": [1, 1, 9, 9], **annotation}
                for n, count in enumerate(counts)
                for _ in range(count)
            ],
        }
    )


def images_of(slices: tuple[Slice, ...]) -> dict[str, list[int]]:
    return {part.key: np.flatnonzero(part.mask).tolist() for part in slices}


def counts_of(slices: tuple[Slice, ...]) -> dict[str, int]:
    return {part.key: int(part.mask.sum()) for part in slices}


def fields_of(slices: tuple[Slice, ...]) -> list[str]:
    return list(dict.fromkeys(part.field for part in slices))


def cycle(values: list[Any], count: int = 20) -> list[Any]:
    return [values[n % len(values)] for n in range(count)]


def test_named_fields_divide_the_set() -> None:
    records = [{"camera": "gate"}, {"camera": "yard", "capture": {"light": "night"}}, {"camera": "gate"}, {}]
    truth = truth_of(records)
    assert images_of(make_slices(truth, ["camera", "capture.light"])) == {
        "camera=gate": [0, 2], "camera=yard": [1], "camera=not given": [3],
        "capture.light=night": [1], "capture.light=not given": [0, 2, 3],
    }  # fmt: skip
    assert make_slices(truth, []) == ()


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([True, False, True], {"x=false": 1, "x=true": 2}),
        ([10, 9, 9], {"x=9": 2, "x=10": 1}),
        (["cam10", "cam9", "cam1"], {"x=cam1": 1, "x=cam9": 1, "x=cam10": 1}),
        ([0, None, ""], {"x=0": 1, "x=not given": 2}),
        (["other", "not given", None], {"x=not given": 2, "x=other": 1}),
    ],
)
def test_values_as_text_in_their_order(values: list[Any], expected: dict[str, int]) -> None:
    found = counts_of(make_slices(truth_of([{"x": value} for value in values]), ["x"]))
    assert list(found.items()) == list(expected.items())


def test_rare_values_are_other() -> None:
    names = ["other", *[f"c{n}" for n in range(20) for _ in range(n + 1)]]
    found = make_slices(truth_of([{"camera": name} for name in names]), ["camera"], max_values=3)
    assert counts_of(found) == {"camera=c17": 18, "camera=c18": 19, "camera=c19": 20, "camera=other": len(names) - 57}
    assert np.sum([part.mask for part in found], axis=0).tolist() == [1] * len(names)


def test_numbers_are_cut_into_quarters() -> None:
    records = [{"brightness": n / 100} for n in range(40)] + [{}]
    found = make_slices(truth_of(records), ["brightness"])
    assert counts_of(found) == {
        "brightness=0 to 0.09": 10, "brightness=0.1 to 0.19": 10, "brightness=0.2 to 0.29": 10,
        "brightness=0.3 to 0.39": 10, "brightness=not given": 1,
    }  # fmt: skip


def test_what_cannot_be_used_says_what_can() -> None:
    truth = truth_of([{"camera": "a", "tags": ["x"], "capture": {"light": "day"}}] * 3)
    message = r"report\.slices: no image has the field 'weather'; name one that there is: .*camera, tags, capture\.light, objects in the image, hours"
    with pytest.raises(ConfigError, match=message):
        make_slices(truth, ["camera", "weather"])
    with pytest.raises(ConfigError, match=r"report\.slices: the field 'tags' holds lists, such as \['x'\]; name one"):
        make_slices(truth, ["tags"])
    with pytest.raises(ConfigError, match="no image has the field 'hours'"):
        make_slices(truth, ["hours"])


def test_fields_worth_slices_are_found() -> None:
    records = [
        {
            "weather": weather,
            "Camera ID": camera,
            "lanes": lanes,
            "night": night,
            "licence": n % 3,
            "video_frame": f"v{n % 2}",
            "exposure": 0.5 * (n % 2),
            "city": "here",
            "batch_id": n % 2,
        }
        for n, (weather, camera, lanes, night) in enumerate(
            zip(
                cycle(["sun", "sun", "rain"]),
                cycle(["a", "b", "c", "d"]),
                cycle([1, 2]),
                cycle([True] * 9 + [False] * 9),
                strict=True,
            )
        )
    ]
    # Cameras first, then light and weather. `lanes` divides the set as `video_frame` does, the others tell nothing.
    assert fields_of(make_slices(truth_of(records))) == ["Camera ID", "video_frame", "night", "weather"]


def test_found_values_have_five_images() -> None:
    names = ["a"] * 5 + ["b"] * 5 + ["c"] * 4 + [None]
    records = [{} if name is None else {"scene": name} for name in names]
    assert counts_of(make_slices(truth_of(records))) == {
        "scene=a": 5,
        "scene=b": 5,
        "scene=other": 4,
        "scene=not given": 1,
    }
    assert make_slices(truth_of(records[1:])) == ()
    assert make_slices(truth_of([{"scene": "a"} for _ in range(9)])) == ()
    many = [{"kind": f"k{n % 13}", "scene": f"s{n % 13}"} for n in range(65)]
    assert counts_of(make_slices(truth_of(many))) == {f"scene=s{n}": 5 for n in [*range(12)]} | {"scene=other": 5}
    # A field needs most images.
    assert make_slices(truth_of([{"scene": "a" if n % 2 else "b"} if n < 10 else {} for n in range(20)])) == ()


@pytest.mark.parametrize("field", ["crowd_known", "original_split", "crop_top", "license", "kind", "time", "set"])
def test_bookkeeping_is_not_found_but_can_be_named(field: str) -> None:
    truth = truth_of([{field: n % 2} for n in range(20)])
    assert make_slices(truth) == ()
    assert counts_of(make_slices(truth, [field])) == {f"{field}=0": 10, f"{field}=1": 10}


@pytest.mark.parametrize(
    "field", ["camera_id", "attributes.timeofday", "time of day", "weather", "season", "videoName", "site", "seq"]
)
def test_conditions_are_found(field: str) -> None:
    truth = truth_of([{field: n % 2} for n in range(20)])
    assert fields_of(make_slices(truth)) == [field]


def test_number_of_objects() -> None:
    counts = [0] * 6 + [1, 2, 3, 3, 3] + [4, 10, 5, 5, 5, 5] + [11, 30]
    truth = truth_of([{} for _ in counts], counts)
    bins = {"objects in the image=1 to 3": 5, "objects in the image=4 to 10": 6}
    assert counts_of(make_slices(truth)) == bins
    for names in (["objects"], ["objects in the image"], ["objects", "objects in the image"]):
        assert counts_of(make_slices(truth, names)) == {**bins, "objects in the image=11 or more": 2}
    assert make_slices(truth_of([{} for _ in counts], counts, iscrowd=1)) == ()
    own = truth_of([{"objects": "few" if n < 6 else "many"} for n, _ in enumerate(counts)], counts)
    assert counts_of(make_slices(own)) == bins
    assert counts_of(make_slices(own, ["objects"])) == {"objects=few": 6, "objects=many": 13}


@pytest.mark.parametrize(
    ("record", "hours"),
    [
        ({"time": "2024-03-07T05:59:59"}, "00 to 06 h"),
        ({"timestamp": "2024-03-07 06:00"}, "06 to 12 h"),
        ({"file_name": "1003-2021_03_20_185153.jpg"}, "18 to 24 h"),
        ({"file_name": "20240307-1201.png"}, "12 to 18 h"),
        ({"time": "no idea", "file_name": "cam/2024-03-07_23-15-00.png"}, "18 to 24 h"),
        ({"time": "2024-03-07"}, None),
        ({"file_name": "000000139.jpg"}, None),
        ({"file_name": "1710000000.jpg"}, None),
        ({"date_captured": "2013-11-14 17:02:52"}, None),
    ],
)
def test_hours(record: dict[str, Any], hours: str | None) -> None:
    truth = truth_of([record])
    if hours is None:
        with pytest.raises(ConfigError, match="no image has the field 'hours'"):
            make_slices(truth, ["hours"])
        return
    assert images_of(make_slices(truth, ["hours"])) == {f"hours={hours}": [0]}


def test_hours_are_found_where_nothing_tells_the_light() -> None:
    times = cycle(["2024-03-07T05:00", "2024-03-07T15:00"])
    dated = [{"time": time} for time in times]
    assert counts_of(make_slices(truth_of(dated))) == {"hours=00 to 06 h": 10, "hours=12 to 18 h": 10}
    lit = [{**record, "light": light} for record, light in zip(dated, ["day"] * 10 + ["night"] * 10, strict=True)]
    assert fields_of(make_slices(truth_of(lit))) == ["light"]
    same = [{**record, "daytime": record["time"][11:]} for record in dated]
    assert fields_of(make_slices(truth_of(same))) == ["daytime"]


def test_the_toy_set_has_cameras_light_and_weather(tmp_path: Path) -> None:
    folder = draw_toy(tmp_path / "toy", images={"train": 60, "val": 4, "test": 4}, size=(96, 64), workers=1)
    truth = load_truth(folder / "annotations" / "train.json")
    found = make_slices(truth)
    assert fields_of(found)[:3] == ["camera", "light", "weather"]
    assert "hours" not in fields_of(found)
    for field in ("camera", "light", "weather"):
        assert np.sum([part.mask for part in found if part.field == field], axis=0).tolist() == [1] * 60
    for part in found:
        if part.field == "camera":
            assert {truth.images[n]["camera"] for n in np.flatnonzero(part.mask)} == {part.value}


def test_real_sets(assets: Path) -> None:
    roads = load_truth(assets / "data" / "sg_traffic_cctv" / "annotations" / "val.json")
    found = counts_of(make_slices(roads))
    assert found["camera=1003"] == 36
    assert (found["hours=06 to 12 h"], found["hours=18 to 24 h"]) == (85, 99)
    assert fields_of(make_slices(roads)) == ["camera", "hours", "objects in the image"]
    many = make_slices(load_truth(assets / "data" / "sg_traffic_cctv" / "annotations" / "train.json"), ["camera"])
    assert [part.value for part in many][-1] == "other"
    assert (len(many), sum(int(part.mask.sum()) for part in many)) == (13, 507)
    photos = load_truth(assets / "data" / "coco_mini" / "annotations" / "val.json")
    assert fields_of(make_slices(photos)) == ["objects in the image"]
