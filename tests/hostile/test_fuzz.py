"""Whatever JSON or YAML holds: a reader returns, or raises one `DetkdError`. Label files are in tests/data/test_fuzz.py."""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from detkd.caching.manifest import MANIFEST, read_manifest
from detkd.errors import DetkdError
from detkd.evaluation.results import load_detections
from detkd.evaluation.truth import load_truth
from detkd.footage.collection import STAGE_FILE, load_collection
from detkd.footage.reject import read_rejected
from detkd.io import parse_json, parse_yaml
from detkd.runs import read_config
from detkd.tasks.entries import _kept
from detkd.tasks.watch_state import read_parts
from tests.hostile.case_results import _manifest
from tests.hostile.good import instances, results, save

MANY = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow], database=None)

values = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=6), st.just(10**400), st.just(-(2**63))
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=6), inner, max_size=3)),
    max_leaves=6,
)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the way to each part of a JSON value."""
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, part in parts for place in places(part, (*path, key)))]


def changed(data: st.DataObject, content: Any) -> Any:
    """Replace one part of a good content by anything."""
    path = data.draw(st.sampled_from(places(content)))
    new = data.draw(values)
    if not path:
        return new
    inner = content
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = new
    return content


def _stage() -> dict[str, Any]:
    item = {"file": "a.jpg", "source": "v", "time_s": 0.5, "width": 6, "height": 4, "sharpness": 1.0, "brightness": 9.0}
    lists: dict[str, Any] = {"items": [item], "dropped": {"dark": 1}, "skipped": [{"file": "b"}], "notes": ["n"]}
    return {"version": 1, "complete": True, **lists, "settings": {"every": 1}}


def _metrics() -> dict[str, Any]:
    return {"metrics": {"protocol": {"settings": {"conf": 0.1}}}, "cost": {"params": 5, "device": "cpu"}}


READERS: dict[str, tuple[str, Callable[[], Any], Callable[[Path], Any]]] = {
    "results": ("found.json", results, lambda file: load_detections(file, load_truth(instances()))),
    "results skipped": ("found.json", results, lambda file: load_detections(file, load_truth(instances()), on_bad="skip")),
    "truth": ("gt.json", instances, load_truth),
    "truth skipped": ("gt.json", instances, lambda file: load_truth(file, on_bad="skip")),
    "rejected": ("r.json", lambda: [1, {"id": 2**40, "bbox": [1, 2, 3, 4]}], read_rejected),
    "manifest": (MANIFEST, _manifest, lambda file: read_manifest(file.parent)),
    "collection": (STAGE_FILE, _stage, lambda file: load_collection(file.parent)),
    "metrics": ("metrics.json", _metrics, lambda file: _kept(file.parent)),
    "config": ("config.yaml", lambda: {"epochs": 3, "data": {"path": "x"}}, lambda file: read_config(file.parent)),
    "run": ("run.json", lambda: {"verb": "train", "status": "running", "pid": 1}, lambda file: read_parts(file.parent, 1e9)),
}  # fmt: skip


@pytest.mark.parametrize("name", READERS)
@MANY
@given(data=st.data())
def test_readers(name: str, data: st.DataObject) -> None:
    file, content, read = READERS[name]
    text = data.draw(st.one_of(st.builds(lambda: None), st.binary(max_size=40)))
    with tempfile.TemporaryDirectory() as folder:
        path = save(Path(folder) / file, json.dumps(changed(data, content())) if text is None else text)
        said = "read"
        try:
            read(path)
        except DetkdError as err:
            said = str(err)
        assert 0 < len(said) < 2000


@MANY
@given(st.one_of(st.binary(max_size=60), st.text(alphabet='[]{}",:\\ ae01.-', max_size=60).map(str.encode)))
def test_json_texts(content: bytes) -> None:
    with contextlib.suppress(ValueError):
        parse_json(content)


@MANY
@given(st.text(alphabet="[]{}:,-!&*|>?'\"#% \nabc01.\t", max_size=60))
def test_yaml_texts(content: str) -> None:
    with contextlib.suppress(ValueError, yaml.YAMLError):
        parse_yaml(content)
