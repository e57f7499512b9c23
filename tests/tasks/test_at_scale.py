"""The teacher on a Ray cluster of two nodes: the same files as from this process, also when a node goes away."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import pytest

from detkd.caching.engine import batched
from detkd.caching.ray_engine import RayEngine, RaySettings, require_ray
from detkd.caching.store import CacheReader, CacheWriter, create_cache
from detkd.config import compose
from detkd.errors import ConfigError, DataError
from detkd.tasks.cache import cache
from detkd.tasks.pseudolabel import pseudolabel
from tests.inference.tiny import picture, save, tiny_model

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::ResourceWarning")]


class Echo:
    """Answers each number with its text; leaves a note of who was asked about what; -1 kills its process."""

    def __init__(self, notes: Path, seconds: float) -> None:
        self.notes, self.seconds = notes, seconds

    def placed(self, device: str) -> Echo:
        assert device == "cpu"
        return self

    def __call__(self, batches: Iterable[Sequence[int]]) -> Iterator[bytes]:
        for batch in batches:
            time.sleep(self.seconds)
            with (self.notes / f"{os.environ.get('DETKD_TEST_NODE', 'head')}-{os.getpid()}").open("a") as stream:
                stream.write("".join(f"{number}\n" for number in batch))
            for number in batch:
                if number == -1:
                    os._exit(1)
                yield str(number).encode()


def asked(folder: Path, node: str) -> list[int]:
    return [
        int(line)
        for path in sorted(folder.glob(f"{node}-*"), key=os.path.getmtime)
        for line in path.read_text().split()
    ]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A node with one core that this process is connected to."""
    ray = pytest.importorskip("ray", reason="needs Ray: pip install 'detkd[ray]'")
    require_ray()
    from ray.cluster_utils import Cluster

    size = {"num_cpus": 1, "object_store_memory": 100 << 20, "include_dashboard": False}
    made = Cluster(initialize_head=True, head_node_args=size)
    ray.init(address=made.address, log_to_driver=False, logging_level="ERROR")
    yield made
    ray.shutdown()
    made.shutdown()


def test_a_machine_that_goes_away_costs_nothing_but_time(
    cluster: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    second = cluster.add_node(num_cpus=1, object_store_memory=100 << 20, env_vars={"DETKD_TEST_NODE": "second"})
    cluster.wait_for_nodes()
    answers = RayEngine(RaySettings()).run(Echo(tmp_path, 0.1), batched(list(range(800)), 4))
    found = [next(answers)]
    while len(asked(tmp_path, "second")) < 20:
        found.append(next(answers))
    cluster.remove_node(second, allow_graceful=False)
    found += list(answers)
    assert found == [str(number).encode() for number in range(800)]
    assert asked(tmp_path, "head")
    assert len(asked(tmp_path, "head")) + len(asked(tmp_path, "second")) > 800
    assert "batches were lost with a worker and are asked again" in capsys.readouterr().err


def test_workers_that_always_die_end_the_work(cluster: Any, tmp_path: Path) -> None:
    answers = RayEngine(RaySettings(retries=0)).run(Echo(tmp_path, 0), [[0, -1], [2], [4]])
    with pytest.raises(DataError, match=r"ray: no worker answered in 1 attempts?.*lower batch="):
        list(answers)
    assert list(answers) == []


def test_an_interrupted_build_goes_on(cluster: Any, tmp_path: Path) -> None:
    folder, notes = tmp_path / "cache", tmp_path / "notes"
    notes.mkdir()
    create_cache(folder, kind="instances", fingerprint={"a": 1}, layout={}, expected=100, facts={})

    def build(stop: int | None) -> None:
        with CacheWriter(folder) as writer:
            numbers = [number for number, _ in writer.missing([(number, 0) for number in range(100)])]
            answers = RayEngine(RaySettings()).run(Echo(notes, 0.02), batched(numbers, 4))
            for number, payload in zip(numbers, answers, strict=True):
                writer.add(number, 0, payload)
                if number == stop:
                    raise KeyboardInterrupt
            writer.finish()

    with pytest.raises(KeyboardInterrupt):
        build(stop=41)
    before = len(asked(notes, "head"))
    build(stop=None)
    assert set(asked(notes, "head")[before:]) >= set(range(42, 100))
    assert min(asked(notes, "head")[before:]) == 42
    assert records(folder) == {(number, 0): str(number).encode() for number in range(100)}


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tiny_model(seed=3), tmp_path_factory.mktemp("teacher") / "teacher.pt")


def records(folder: Path) -> dict[tuple[int, int], bytes]:
    reader = CacheReader(folder)
    return {(int(i), int(v)): bytes(reader.read(int(i), int(v))) for i, v in reader.keys()}  # noqa: SIM118


def shards(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (folder / "shards").iterdir()}


@pytest.mark.parametrize("kind", ["views", "instances"])
def test_a_cache_is_the_same_from_both_engines(
    cluster: Any, teacher: Path, tmp_path: Path, repo: Path, kind: str
) -> None:
    words = [
        f"teacher={teacher}",
        "student=yolo26n_half",
        f"data={repo / 'data' / 'samples'}",
        "imgsz=64",
        "batch=3",
        "threads=1",
    ]
    words += [
        f"cache={kind}",
        "trainer.optimizer=AdamW",
        *(["cache.views=1", "epochs=2", "trainer.close_mosaic=1", "cache.k=24"] if kind == "views" else []),
    ]
    for engine in ("local", "ray"):
        config = compose(
            "cache", ["build", *words, "device=cpu", f"engine={engine}", f"cache.path={tmp_path / engine}"]
        )
        cache(config)
    local, ray = (shards(tmp_path / engine) for engine in ("local", "ray"))
    assert len(records(tmp_path / "ray")) == (16 if kind == "views" else 8)
    assert ray == local


def test_labels_are_the_same_from_both_engines(cluster: Any, teacher: Path, tmp_path: Path, repo: Path) -> None:
    for number in range(6):
        file = tmp_path / "store" / "cam" / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(file), picture(72, 96, seed=40 + number))
    words = [
        f"teacher={teacher}", f"data={repo / 'data' / 'samples'}", f"source=file://{tmp_path / 'store'}", "imgsz=64", "batch=4", "device=cpu",
        "thresholds={person: 0.1, car: 0.1, truck: 0.1, bicycle: 0.1}", "review=0",
    ]  # fmt: skip
    results = [
        pseudolabel(compose("pseudolabel", [*words, f"out={tmp_path / engine}", f"engine={engine}"]))
        for engine in ("local", "ray")
    ]
    assert results[0].boxes == results[1].boxes
    assert sum(results[0].boxes.values()) > 0
    for part in ("answers", "answers-val"):
        assert shards(tmp_path / "ray" / part) == shards(tmp_path / "local" / part)
    copies = sorted((tmp_path / "ray" / "images").rglob("*.png"))
    assert [path.read_bytes() for path in copies] == [
        path.read_bytes() for path in sorted((tmp_path / "store" / "cam").iterdir())
    ]


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("127.0.0.1:1", "ray.address: nobody answers at 127.0.0.1:1"),
        ("ray://127.0.0.1:10001", "ray.address: must be auto or host:port"),
        ("head", "ray.address: must be auto or host:port"),
    ],
)
def test_a_cluster_that_is_not_there_is_named_at_once(tmp_path: Path, address: str, message: str) -> None:
    ray = pytest.importorskip("ray", reason="needs Ray: pip install 'detkd[ray]'")
    if ray.is_initialized():
        ray.shutdown()
    with pytest.raises(ConfigError, match=message):
        next(RayEngine(RaySettings(address=address)).run(Echo(tmp_path, 0), [[1]]))


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("engine=spark", "engine: .*spark"),
        ("ray.workers=0", "ray.workers: must be 1 or more"),
        ("ray.cpus=0", "ray.cpus: must be above 0"),
        ("ray.gpus=1", "ray.gpus: does not go with device=cpu"),
        ("device=0", "device: must be auto or cpu with engine=ray"),
        ("cache.path=s3://bucket/cache", "cache.path: must be a local or shared folder, got s3://bucket/cache"),
        ("data.path=s3://bucket/data", "data.path: must be a local or shared folder"),
    ],
)
def test_what_can_not_be_is_refused_at_once(teacher: Path, word: str, message: str) -> None:
    pytest.importorskip("ray", reason="needs Ray: pip install 'detkd[ray]'")
    with pytest.raises(ConfigError, match=message):
        cache(
            compose(
                "cache",
                [
                    "build",
                    f"teacher={teacher}",
                    "student=yolo26n",
                    "data=toy",
                    "cache=instances",
                    "device=cpu",
                    "engine=ray",
                    word,
                ],
            )
        )
