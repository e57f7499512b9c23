"""The two or more sides of a comparison, from whatever the user has: weights, run folders, results files, seeds."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from itertools import takewhile
from pathlib import Path
from typing import Any

from detkd.data.coco import from_coco, to_coco
from detkd.data.records import DetectionSet
from detkd.errors import ConfigError, DataError
from detkd.evaluation.inputs import GroundTruth
from detkd.evaluation.side import Run, Side, make_run
from detkd.evaluation.truth import load_truth
from detkd.io import read_json
from detkd.runs import read_config
from detkd.tasks.common import TRUTH_FILE, evaluate_weights, get_data, named_split

__all__ = ["Sources", "label"]


class Sources:
    """Reads the sides of one comparison against one set of labels.

    The labels are `gt`, else the split of `data`, else those kept in the first run folder among the sides.

    Args:
        config: A resolved `detkd compare` configuration.
        folder: Run folder of the comparison; detections made here go into it.
        values: Everything that will be read, to find labels among it.
    """

    def __init__(self, config: Mapping[str, Any], folder: Path, values: Sequence[Any]) -> None:
        self.config = config
        self.folder = folder
        self.values = [Path(str(value)).expanduser() for value in values]

    @cached_property
    def truth(self) -> GroundTruth:
        """The labels that all sides are evaluated on.

        Raises:
            ConfigError: If there are none; says how to name them.
        """
        if self.config.get("gt"):
            return load_truth(self.config["gt"], on_bad=self.config["on_bad"])
        if self._has_data:
            return load_truth(to_coco(self.dataset))
        for path in self.values:
            if (path / TRUTH_FILE).is_file():
                return load_truth(path / TRUTH_FILE)
        raise ConfigError(
            f"gt: missing, needed to compare {', '.join(map(str, self.values))}; name the labels, e.g. "
            "gt=annotations/test.json or data=path/to/data.yaml"
        )

    @property
    def _has_data(self) -> bool:
        return (self.config.get("data") or {}).get("path") is not None

    @cached_property
    def dataset(self) -> DetectionSet:
        """The images behind the labels, for weights that have to be run."""
        if self._has_data:
            return named_split(get_data(self.config["data"], self.folder), self.config.get("split"))
        images = (self.config.get("report") or {}).get("images")
        try:
            return from_coco(self.truth.source, split="test", images=images)
        except DataError as err:
            raise ConfigError(
                f"data: needed to run weights ({err}); name the images with data= or report.images="
            ) from err

    def side(self, role: str, value: Any, key: str) -> Side:
        """Return one side.

        Args:
            role: "before", "after", "control", "teacher" or "run".
            value: One of weights, exported model, run folder or COCO results JSON, or a list of them (several seeds).
            key: Config key for messages.
        """
        values = list(value) if isinstance(value, (list, tuple)) else [value]
        if not values:
            raise ConfigError(f"{key}: empty; name weights, a run folder or a results JSON")
        read = [self._run(Path(str(one)).expanduser(), f"{role}{n or ''}", key) for n, one in enumerate(values)]
        runs = tuple(run for run, _ in read)
        source = ", ".join(map(str, values))
        return Side(label([Path(str(one)) for one in values], role), role, runs, read[0][1] or None, source)

    def _run(self, path: Path, stem: str, key: str) -> tuple[Run, dict[str, Any]]:
        if path.suffix == ".json":
            return self._results(path, source=path), {}
        if path.is_dir() and (path / "detections.json").is_file() and (path / "metrics.json").is_file():
            record = read_json(path / "metrics.json")
            protocol = record["metrics"]["protocol"]
            settings = protocol.get("settings") or {}
            other = self._other_settings(settings)
            if protocol.get("gt_sha256") != self.truth.sha256 and not self.config.get("gt"):
                other = "labels"
            if other is None:
                run = self._results(path / "detections.json", source=path, settings=settings, seed=_seed(path))
                return run, record.get("cost") or {}
            if not self._has_data:
                raise ConfigError(
                    f"{key}: the detections in {path} were made with other {other}; give data= and split= to detect "
                    "again"
                )
        run, cost = evaluate_weights(
            str(path), self.dataset, self.folder, settings=self.config, stem=f"{stem}_", key=key, truth=self.truth
        )
        return run, cost

    def _other_settings(self, settings: Mapping[str, Any]) -> str | None:
        """Return a setting that was asked for and is not the one a run folder's detections were made with."""
        for name in ("conf", "iou", "max_det", "imgsz"):
            wanted, had = self.config.get(name), settings.get(name)
            if wanted is not None and had is not None and wanted != had:
                return f"{name} ({had}, now {wanted})"
        nms, head = self.config.get("nms"), str(settings.get("head", ""))
        if nms is not None and head and (nms is False) != head.startswith("one2one"):
            return f"nms ({head}, now nms={str(nms).lower()})"
        return None

    def _results(
        self, file: Path, *, source: Path, settings: Mapping[str, Any] | None = None, seed: int | None = None
    ) -> Run:
        engine = str(self.config["engine"])
        return make_run(
            self.truth,
            file,
            source=str(source),
            seed=seed,
            engine=engine,
            settings=settings,
            on_bad=self.config["on_bad"],
        )


def _seed(folder: Path) -> int | None:
    seed = read_config(folder).get("seed") if (folder / "config.yaml").is_file() else None
    return seed if isinstance(seed, int) and not isinstance(seed, bool) else None


def label(paths: Sequence[Path], role: str) -> str:
    """Return a short name for one entry: the run of `runs/x/weights/last.pt`, else the file's own name.

    Several seeds get what their names have in common: `student-s0`, `student-s1` become "student-s x 2".
    """
    names = [_name(path, role) for path in paths]
    if len(names) == 1:
        return names[0]
    start = "".join(
        letters[0] for letters in takewhile(lambda letters: len(set(letters)) == 1, zip(*names, strict=False))
    )
    common = re.sub(r"[-_. ]*(seed|s)?[-_. ]*\d*$", "", start) or names[0]
    return f"{common} x {len(names)}"


def _name(path: Path, role: str) -> str:
    if path.name in {"last.pt", "best.pt"} and path.parent.name == "weights":
        return path.parent.parent.name
    return path.stem or role
