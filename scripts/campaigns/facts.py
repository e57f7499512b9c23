"""What is compared of two run folders, and what must hold of one whose process was killed."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

CHANGES = re.compile(
    r"seconds|latency|fps|date|created|started|finished|_used|size_mb|weights_sha256|detections_sha256|device|speed|commit"
)
"""Keys of what may differ between two runs of the same command: times, and digests of files that hold a date."""

_MOMENT = {"run.json", "live.json", "live.jsonl", "config.yaml", "args.yaml", "used"}
"""Files about the process itself."""
_SHOWN = {".html", ".md", ".png", ".csv"}
"""Files for people, made from JSON that is compared; they hold times. Ultralytics' results.csv is compared."""


def import_everything() -> None:
    """Import what the verbs need, without starting a thread: children of a fork would miss it."""
    import cv2
    import torch

    import detkd.api
    import detkd.exporting.exporter
    import detkd.inference.detector
    import detkd.models.cost
    import detkd.tasks.caches
    import detkd.training.run

    assert detkd.api
    torch.set_num_threads(1)
    cv2.setNumThreads(1)


def files(folder: Path) -> list[Path]:
    """Return the files of a run that are no temporary or hidden ones."""
    found = [path for path in folder.rglob("*") if path.is_file()]
    return sorted(path for path in found if not any(part.startswith(".") for part in path.relative_to(folder).parts))


def temporary(folder: Path) -> list[str]:
    """Return temporary files, hidden ones of finished caches (their locks) aside."""
    found = [path for path in folder.rglob(".*") if not path.name.startswith(".lock")]
    return sorted(str(path.relative_to(folder)) for path in found)


def of_folder(folder: Path) -> dict[str, str]:
    """Return a digest of everything in a finished run that must be equal."""
    made: dict[str, str] = {}
    for path in files(folder):
        name = str(path.relative_to(folder))
        if path.name in _MOMENT or "shards" in path.parts or path.name == "digests.json":
            continue
        if path.suffix in _SHOWN and path.name != "results.csv":
            made[name] = "there"
            continue
        for part, value in _parts(path, str(folder)):
            made[f"{name}{part}"] = _digest(value)
    for cache in sorted({path.parent for path in folder.rglob("cache.json") if (path.parent / "shards").is_dir()}):
        for key, payload in _records(cache):
            made[f"{cache.relative_to(folder)}#{key}"] = _digest(payload)
    return made


def _parts(path: Path, root: str) -> Iterator[tuple[str, Any]]:
    """Yield the parts of a file and their values; raises where it is not whole."""
    if path.suffix == ".json":
        value = json.loads(path.read_text(encoding="utf-8"))
        yield "", None if path.name == "cache.json" else _plain(value, root)
    elif path.name == "results.csv":
        rows = list(csv.reader(io.StringIO(path.read_text(encoding="utf-8"))))
        assert all(len(one) == len(rows[0]) for one in rows), "rows of different length"
        yield "", [one[:1] + one[2:] for one in rows]
    elif path.suffix == ".pt":
        yield from _checkpoint(path)
    elif path.suffix == ".onnx":
        import onnx

        graph = onnx.load(str(path)).graph
        yield "", [one.SerializeToString().hex() for one in (*graph.node, *graph.initializer)]
    elif path.suffix in {".txt", ".yaml"}:
        yield "", path.read_text(encoding="utf-8").replace(root, "")
    else:
        yield "", path.read_bytes()


def _checkpoint(path: Path) -> Iterator[tuple[str, Any]]:
    import torch

    if path.name != "resume.pt":
        content = torch.load(path, map_location="cpu", weights_only=False)  # made by this campaign
        yield ":model", content["model"].state_dict()
        yield ":metrics", content["train_metrics"]
        return
    state = torch.load(path, map_location="cpu", weights_only=True)
    for key, value in state.items():
        if key == "results":
            yield f":{key}", [line.split(",")[:1] + line.split(",")[2:] for line in value.splitlines()]
        elif key != "seconds":
            yield f":{key}", value


def _records(folder: Path, *, partial: bool = False) -> Iterator[tuple[str, bytes]]:
    from detkd.caching.reader import CacheReader

    reader = CacheReader(folder, partial=partial)
    for image, view in reader.keys().tolist():
        yield f"{image},{view}", bytes(reader.read(image, view))


def _plain(value: Any, root: str) -> Any:
    """Return JSON values without what changes from run to run."""
    if isinstance(value, dict):
        return {key: _plain(one, root) for key, one in value.items() if not CHANGES.search(key)}
    if isinstance(value, list):
        # A remark on measured latencies is there in one run and not in the other.
        return [_plain(one, root) for one in value if not (isinstance(one, dict) and " ms" in str(one.get("text")))]
    return value.replace(root, "") if isinstance(value, str) else value


def _digest(value: Any) -> str:
    digest = hashlib.sha256()
    _feed(value, digest)
    return digest.hexdigest()[:16]


def _feed(value: Any, digest: Any) -> None:
    import torch

    if isinstance(value, dict):
        for key in sorted(value, key=str):
            digest.update(f"{key}:".encode())
            _feed(value[key], digest)
    elif isinstance(value, (list, tuple)):
        for one in value:
            _feed(one, digest)
            digest.update(b",")
    elif isinstance(value, torch.Tensor):
        digest.update(f"{value.dtype}{tuple(value.shape)}".encode() + value.contiguous().view(-1).numpy().tobytes())
    else:
        digest.update(value if isinstance(value, bytes) else repr(value).encode())


def differences(expected: dict[str, str], got: dict[str, str]) -> list[str]:
    """Return the names of what differs, is missing or too much."""
    return sorted(name for name in {*expected, *got} if expected.get(name) != got.get(name))


def broken(folder: Path) -> list[str]:
    """Return files of a killed run that are not whole, and what is wrong with them."""
    from PIL import Image

    found = []
    for path in files(folder) if folder.is_dir() else ():
        try:
            if path.suffix in {".jpg", ".png"}:
                with Image.open(path) as image:
                    image.load()
            elif path.suffix == ".html":
                assert path.read_text(encoding="utf-8").rstrip().endswith("</html>"), "no end"
            elif path.suffix == ".safetensors":
                from safetensors import safe_open

                with safe_open(path, framework="np") as file:
                    assert file.keys()
            elif path.name == "live.jsonl":  # its last line may be cut; readers pass over it
                [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()[:-1]]
            # A row that is being written is put right by the resume file, which holds all of them.
            elif path.name not in {"results.csv", "args.yaml"}:
                list(_parts(path, str(folder)))
        except Exception as err:
            found.append(f"{path.relative_to(folder)}: {type(err).__name__}: {str(err)[:100]}")
    return found


def finished_work(folder: Path) -> dict[str, str]:
    """Return a digest of each piece of work that is finished and must never be done again, times included."""
    made: dict[str, str] = {}
    for path in files(folder) if folder.is_dir() else ():
        name = str(path.relative_to(folder))
        collected = path.name == "collect.json" and json.loads(path.read_text(encoding="utf-8")).get("complete")
        if collected or path.name == "outcome.json" or path.suffix == ".safetensors":
            made[name] = _digest(path.read_bytes())
        elif path.name == "resume.pt":
            import torch

            # The time in a row says by which attempt the epoch was trained.
            for line in torch.load(path, weights_only=True)["results"].splitlines()[1:]:
                made[f"{name} epoch {line.split(',')[0].strip()}"] = _digest(line)
    return made


def lost(before: dict[str, str], after: dict[str, str]) -> list[str]:
    """Return finished work that is gone or was done again."""
    return sorted(name for name, digest in before.items() if after.get(name) != digest)
