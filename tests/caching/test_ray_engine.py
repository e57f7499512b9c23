"""Where the teacher is asked: batches, and what a Ray worker does with them; a cluster is in tests/tasks/test_at_scale.py."""

from __future__ import annotations

import pickle
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import pytest

from detkd.caching.engine import LocalEngine, batched
from detkd.caching.ray_engine import require_ray
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
