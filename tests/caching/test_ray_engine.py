"""The teacher on a Ray cluster: the same bytes in the same order, whatever happens to a worker."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from detkd.caching.engine import LocalEngine, batched
from detkd.caching.ray_engine import RayEngine, RaySettings, require_ray
from detkd.errors import ConfigError, DataError


class Echo:
    """Answers each number with its text; leaves a note of who was asked about what."""

    def __init__(self, notes: Path, seconds: float = 0.0, device: str = "") -> None:
        self.notes, self.seconds, self.device = notes, seconds, device

    def placed(self, device: str) -> Echo:
        return Echo(self.notes, self.seconds, device)

    def __call__(self, batches: Iterable[Sequence[int]]) -> Iterator[bytes]:
        for batch in batches:
            time.sleep(self.seconds)
            with (self.notes / f"{os.environ.get('DETKD_TEST_NODE', 'head')}-{os.getpid()}").open("a") as stream:
                stream.write("".join(f"{number}\n" for number in batch))
            for number in batch:
                if number == -1:
                    raise DataError("a.jpg: can't be read; replace it")
                if number == -2:
                    raise KeyError("a bug")
                if number == -3:
                    os._exit(1)
                yield f"record {number} {self.device}".encode()


def asked(folder: Path) -> dict[str, list[int]]:
    return {path.name: [int(line) for line in path.read_text().split()] for path in folder.iterdir()}


def test_without_ray_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.setitem(sys.modules, "ray.data", None)
    with pytest.raises(ConfigError, match=r"engine: ray needs .*pip install 'detkd\[ray\]'"):
        require_ray()


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Two nodes with a core each, on this machine; tests run on the first and may kill the second."""
    ray = pytest.importorskip("ray", reason="needs Ray: pip install 'detkd[ray]'")
    require_ray()
    from ray.cluster_utils import Cluster

    size = {"num_cpus": 1, "object_store_memory": 100 << 20, "include_dashboard": False}
    made = Cluster(initialize_head=True, head_node_args=size)
    ray.init(address=made.address, log_to_driver=False, logging_level="ERROR")
    yield made
    ray.shutdown()
    made.shutdown()


@pytest.fixture(scope="module")
def second(cluster: Any) -> Any:
    """The node beside the first; the last test that uses it kills it."""
    node = cluster.add_node(num_cpus=1, object_store_memory=100 << 20, env_vars={"DETKD_TEST_NODE": "second"})
    cluster.wait_for_nodes()
    return node


pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning:ray"),
    pytest.mark.filterwarnings("ignore::FutureWarning:ray"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]


def test_two_machines_give_what_one_gives(cluster: Any, second: Any, tmp_path: Path) -> None:
    batches = batched(list(range(203)), 4)
    engine = RayEngine(RaySettings())
    assert list(engine.run(Echo(tmp_path, 0.02), batches)) == list(
        LocalEngine().run(Echo(tmp_path / "..", device="cpu"), batches)
    )
    seen = asked(tmp_path)
    assert sorted({name.partition("-")[0] for name in seen}) == ["head", "second"]
    assert sorted(number for numbers in seen.values() for number in numbers) == list(range(203))


def test_a_machine_that_goes_away_costs_nothing_but_time(cluster: Any, second: Any, tmp_path: Path) -> None:
    engine = RayEngine(RaySettings())
    answers = engine.run(Echo(tmp_path, 0.1), batched(list(range(240)), 4))
    found = [next(answers)]
    while not any(name.startswith("second") and len(numbers) > 8 for name, numbers in asked(tmp_path).items()):
        found.append(next(answers))
    cluster.remove_node(second, allow_graceful=False)
    found += list(answers)
    assert found == [f"record {number} cpu".encode() for number in range(240)]


@pytest.mark.parametrize(
    ("number", "kind", "message"), [(-1, DataError, "a.jpg: can't be read"), (-2, RuntimeError, "a bug")]
)
def test_errors_of_a_worker_come_back(cluster: Any, tmp_path: Path, number: int, kind: type, message: str) -> None:
    answers = RayEngine(RaySettings()).run(Echo(tmp_path), [[0, 1], [2, number]])
    with pytest.raises(kind, match=message):
        list(answers)


def test_workers_that_always_die_end_the_work(cluster: Any, tmp_path: Path) -> None:
    answers = RayEngine(RaySettings(retries=1)).run(Echo(tmp_path), [[0, 1], [2, -3], [4]])
    with pytest.raises(DataError, match=r"ray: no worker answered in 2 attempts.*lower batch="):
        list(answers)
