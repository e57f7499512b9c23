"""Where the teacher is asked: batches, and what a Ray worker does with them; a cluster is in tests/tasks/test_at_scale.py."""

from __future__ import annotations

import pickle
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest

from detkd.caching import ray_engine
from detkd.caching.engine import LocalEngine, batched
from detkd.caching.ray_engine import RayEngine, RaySettings, require_ray
from detkd.caching.ray_worker import RayWorker, raised, to_table
from detkd.errors import ConfigError, DataError


class Echo:
    """Answers each number with its text; -1 is an image that can't be read, -2 a bug."""

    def placed(self, device: str) -> Echo:
        return self

    def __call__(self, batches: Iterable[Sequence[int]]) -> Iterator[bytes]:
        for batch in batches:
            for number in batch:
                if number == -1:
                    raise DataError("a.jpg: can't be read; replace it")
                if number == -2:
                    raise KeyError("a bug")
                yield str(number).encode()


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """The numbers asked in each pass of a cluster whose workers die of batch 0, where that is poisoned."""
    passes: list[list[int]] = []

    def one_pass(ray: Any, size: Any, asker: Any, batches: Any, wanted: Sequence[int], lost: Any) -> Iterator[Any]:
        passes.append(list(wanted))
        if batches[0] == ["slow"]:
            wanted = [*(number for number in wanted if number), *(number for number in wanted if not number)]
        yield from ((number, [b"x" * 100]) for number in wanted if batches[number] != ["poison"])

    @contextmanager
    def cluster(settings: Any) -> Iterator[None]:
        yield None

    monkeypatch.setattr(ray_engine, "require_ray", lambda: None)
    monkeypatch.setattr(ray_engine, "_cluster", cluster)
    monkeypatch.setattr(ray_engine, "_pool", lambda ray, settings: ray_engine._Size(1, True, 1.0, 0.0))
    monkeypatch.setattr(ray_engine, "_pass", one_pass)
    monkeypatch.setattr(ray_engine, "_HELD_BYTES", 350)
    return passes


def test_a_batch_that_kills_its_workers_is_not_asked_for_ever(asked: list[list[int]]) -> None:
    batches = [["poison"], *[[n] for n in range(1, 50)]]
    with pytest.raises(DataError, match="ray: no worker answered in 3 attempts"):
        list(RayEngine(RaySettings(retries=2)).run(Echo(), batches))
    assert asked == [list(range(50)), [0], [0], [0]]  # then only what all wait for


def test_a_slow_batch_holds_no_more_than_the_limit(asked: list[list[int]]) -> None:
    batches = [["slow"], *[[n] for n in range(1, 10)]]
    assert list(RayEngine(RaySettings()).run(Echo(), batches)) == [b"x" * 100] * 10
    assert asked == [list(range(10)), [0], [5, 6, 7, 8, 9]]


def test_batches_and_their_records_in_order() -> None:
    batches = batched(list(range(7)), 3)
    assert batches == [[0, 1, 2], [3, 4, 5], [6]]
    assert list(LocalEngine().run(Echo(), batches)) == [b"0", b"1", b"2", b"3", b"4", b"5", b"6"]


def test_without_ray_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.setitem(sys.modules, "ray.data", None)
    with pytest.raises(ConfigError, match=r"engine: ray needs .*pip install 'detkd\[ray\]'"):
        require_ray()


def rows(batches: Sequence[Sequence[int]]) -> list[tuple[int, str, Any]]:
    pytest.importorskip("pyarrow", reason="needs Ray: pip install 'detkd[ray]'")
    numbers = list(range(10, 10 + len(batches)))
    table = to_table({"number": numbers, "content": [pickle.dumps(batch) for batch in batches]})
    answers = RayWorker(pickle.dumps(Echo()), {})(table)
    return [
        (row["number"], row["error"], row["content"] if row["error"] else pickle.loads(row["content"]))
        for one in answers
        for row in one.to_pylist()
    ]


def test_a_worker_answers_batch_by_batch() -> None:
    assert rows([[1, 2], [3]]) == [(10, "", [b"1", b"2"]), (11, "", [b"3"])]


@pytest.mark.parametrize(
    ("number", "kind", "message"), [(-1, DataError, r"a.jpg: can't .*\(on "), (-2, RuntimeError, "a bug")]
)
def test_what_a_worker_meets_is_raised_again(number: int, kind: type[Exception], message: str) -> None:
    first, (at, error, text) = rows([[1], [2, number], [3]])
    assert (first, at) == ((10, "", [b"1"]), 11)
    with pytest.raises(kind, match=message):
        raise raised(error, text)
