"""Whatever is in a label file: either it loads, or one `DataError` says why not."""

from __future__ import annotations

import json
import math
import tempfile
from pathlib import Path

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from detkd.data.coco import to_coco
from detkd.data.load import load_data
from detkd.data.records import DataSpec
from detkd.data.voc import parse_voc
from detkd.data.yolo import LabelLineError, parse_label_line
from detkd.errors import DataError
from tests.data.sets import coco_content, draw, write_coco, write_yolo

MANY = settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
FEWER = settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])

numbers = st.one_of(
    st.floats(allow_nan=True, allow_infinity=True).map(repr),
    st.floats(0, 1).map(repr),
    st.integers(-3, 12).map(str),
    st.sampled_from(["1e400", "0x1", "1_0", "", "nan", "-0", "\u0663", "\u0661.\u0665", "1e-320", "\0"]),
)
lines = st.one_of(st.text(max_size=40), st.lists(numbers, max_size=12).map(" ".join))
json_values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8), st.just(10**400)),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=6), inner, max_size=3)),
    max_leaves=8,
)


def check(spec: DataSpec) -> None:
    """Every record must keep what `ImageRecord` promises."""
    for dataset in spec.splits.values():
        assert len({r.image_id for r in dataset.records}) == len(dataset)
        for r in dataset.records:
            count = len(r.classes)
            assert r.boxes_xyxy.shape == (count, 4)
            assert r.areas.shape == r.crowd.shape == (count,)
            assert np.isfinite(r.boxes_xyxy).all()
            assert np.isfinite(r.areas).all()
            assert (r.areas > 0).all()
            assert (r.boxes_xyxy >= 0).all()
            assert (r.boxes_xyxy <= [r.width, r.height, r.width, r.height]).all()
            assert (r.boxes_xyxy[:, 2:] > r.boxes_xyxy[:, :2]).all()
            assert ((r.classes >= 0) & (r.classes < len(dataset.names))).all()
        json.dumps(to_coco(dataset), allow_nan=False)


def attempt(source: object, on_bad: str = "error") -> str:
    """Return the error of loading `source`, "" where it loads and keeps its promises."""
    try:
        check(load_data(source, on_bad=on_bad))  # type: ignore[arg-type]
    except DataError as err:
        return str(err)
    return ""


@MANY
@given(lines, st.sampled_from([None, (2, 2), (17, 3)]))
def test_label_lines(line: str, pose: tuple[int, int] | None) -> None:
    try:
        row = parse_label_line(line, 3, pose)
    except LabelLineError as err:
        slug, sentence = err.args
        assert slug
        assert sentence
    else:
        assert 0 <= row.class_index < 3
        assert all(math.isfinite(value) for value in row.corners)


@FEWER
@given(
    st.one_of(
        st.lists(lines, max_size=6).map(lambda rows: "\n".join(rows).encode("utf-8", "replace")), st.binary(max_size=60)
    )
)
def test_label_files(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = write_yolo(Path(folder), {"train/a": "0 0.5 0.5 0.5 0.5", "train/b": ""})
        (Path(folder) / "labels/train/a.txt").write_bytes(content)
        assert "\n" not in attempt(file)
        assert attempt(file, "skip") == ""


@FEWER
@given(st.data())
def test_coco_files(data: st.DataObject) -> None:
    """Replaces random parts of a good file by anything JSON can hold."""
    content = coco_content(2)
    for _ in range(data.draw(st.integers(1, 3))):
        table = data.draw(st.sampled_from(sorted(content)))
        if data.draw(st.booleans()) and isinstance(content[table], list) and content[table]:
            item = data.draw(st.sampled_from(range(len(content[table]))))
            if isinstance(content[table][item], dict) and content[table][item] and data.draw(st.booleans()):
                key = data.draw(st.sampled_from(sorted(content[table][item])))
                content[table][item][key] = data.draw(json_values)
            else:
                content[table][item] = data.draw(json_values)
        else:
            content[table] = data.draw(json_values)
    with tempfile.TemporaryDirectory() as folder:
        root = write_coco(Path(folder), train=coco_content(2))
        (root / "annotations/train.json").write_text(json.dumps(content))
        for on_bad in ("error", "skip"):
            message = attempt(root, on_bad)
            assert "\n" not in message
            assert message.encode("utf-8").decode("utf-8") == message


@FEWER
@given(json_values)
def test_any_json_and_yaml(content: object) -> None:
    with tempfile.TemporaryDirectory() as folder:
        draw(Path(folder) / "images/a.jpg")
        for name in ("train.json", "data.yaml"):
            file = Path(folder) / name
            file.write_text(
                json.dumps(content) if name == "train.json" else json.dumps({"names": content, "train": content})
            )
            for source in (file, {"path": file, "names": content}):
                assert "\n" not in attempt(source)


@MANY
@given(st.binary(max_size=80), st.booleans())
def test_voc_files(content: bytes, wrap: bool) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "a.xml"
        file.write_bytes(b"<annotation><object>" + content + b"</object></annotation>" if wrap else content)
        label = parse_voc(file)
        assert label.problem is None or all(label.problem)
