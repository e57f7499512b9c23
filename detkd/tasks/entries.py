"""The two or more sides of a comparison, from whatever the user has: weights, run folders, results files, seeds."""

from __future__ import annotations

import math
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

_COST_TEXTS = frozenset({"device", "head", "runtime"})


class Sources:
    """Reads the sides of one comparison against one set of labels.

    The labels are `gt`, else the split of `data`, else those kept in the first run folder among the sides.

    Args:
        config: A resolved `detkd compare` configuration.
        folder: Run folder of the comparison; detections made here go into it.
        values: Everything that will be read, to find labels among it.
    """

    def __init__(self, config: Mapping[str, Any], folder: Path, values: Sequence[Any]) -> None:
        if (config.get("data") or {}).get("path") is None and config.get("split") not in (None, "test"):
            raise ConfigError(f"split: {config['split']} of what? name the data with data=, or leave split out")
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

    @cached_property
    def labels(self) -> Any:
        """The same as COCO instances, to be kept in the run folder."""
        if self.config.get("gt"):
            return read_json(self.config["gt"])
        return to_coco(self.dataset) if self._has_data else read_json(self.truth.source)

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
            return from_coco(self.truth.source, split="test", images=images, on_bad=self.config["on_bad"])
        except DataError as err:
            raise ConfigError(
                f"data: needed to run weights ({err}); name the images with data= or report.images="
            ) from err

    def side(
        self, role: str, value: Any, key: str, *, imgsz: int | None = None, class_map: Mapping[str, str] | None = None
    ) -> Side:
        """Return one side.

        Args:
            role: "before", "after", "control", "teacher" or "run".
            value: One of weights, exported model, run folder or COCO results JSON, or a list of them (several seeds).
            key: Config key for messages.
            imgsz: Pixels, where this side has a size of its own.
            class_map: Names of its classes to read as others.

        Raises:
            ConfigError: If it can't be read, or was made with other settings and there are no images to detect again.
        """
        values = list(value) if isinstance(value, (list, tuple)) else [value]
        if not values:
            raise ConfigError(f"{key}: empty; name weights, a run folder or a results JSON")
        own = {"imgsz": imgsz if imgsz is not None or role == "teacher" else self.config.get("imgsz")}
        read = [
            self._run(Path(str(one)).expanduser(), f"{role}{n or ''}", key, own, class_map)
            for n, one in enumerate(values)
        ]
        runs = tuple(run for run, _ in read)
        source = ", ".join(map(str, values))
        return Side(label([Path(str(one)) for one in values], role), role, runs, read[0][1] or None, source)

    def _run(
        self, path: Path, stem: str, key: str, own: Mapping[str, Any], class_map: Mapping[str, str] | None
    ) -> tuple[Run, dict[str, Any]]:
        if path.suffix == ".json":
            return self._results(path, source=path), {}
        if path.is_dir() and (path / "detections.json").is_file() and (path / "metrics.json").is_file():
            protocol, settings, cost = _kept(path)
            other = self._other_settings(settings, own["imgsz"])
            foreign = protocol.get("gt_sha256") != self.truth.sha256
            if foreign and not (self.config.get("gt") and _same_images(self.truth, path / TRUTH_FILE)):
                other = "images or labels"
            if other is None:
                run = self._results(path / "detections.json", source=path, settings=settings, seed=_seed(path))
                if foreign:
                    text = f"{path} was evaluated on other labels of these images before"
                    run.metrics.protocol["warnings"].append(text)
                return run, cost
            if not self._has_data:
                raise ConfigError(
                    f"{key}: the detections in {path} were made with other {other}; give data= and split= to detect "
                    "again"
                )
        from detkd.models.weights import resolve

        weights = resolve(str(path), key=key)  # a wrong path is told before images are asked for
        return evaluate_weights(
            weights,
            self.dataset,
            self.folder,
            settings={**self.config, "imgsz": own["imgsz"] or self.config.get("imgsz")},
            stem=f"{stem}_",
            key=key,
            class_map=class_map,
            truth=self.truth,
        )

    def _other_settings(self, settings: Mapping[str, Any], imgsz: int | None) -> str | None:
        """Return a setting that was asked for and is not the one a run folder's detections were made with."""
        for name in ("conf", "iou", "max_det", "imgsz"):
            wanted, had = imgsz if name == "imgsz" else self.config.get(name), settings.get(name)
            if wanted is not None and had is not None and wanted != had:
                return f"{name} ({had}, now {wanted})"
        nms, head = self.config.get("nms"), str(settings.get("head", ""))
        if nms is not None and head and (nms is False) != head.startswith("one2one"):
            return f"nms ({head}, now nms={str(nms).lower()})"
        return None

    def results(self, file: Path) -> Run:
        """Return a results file made elsewhere, evaluated on the labels."""
        return self._results(file, source=file)

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


def _kept(folder: Path) -> tuple[Mapping[str, Any], Mapping[str, Any], dict[str, Any]]:
    """Return protocol, settings and cost that a run folder reports.

    Raises:
        DataError: If they are not what detkd writes: the folder may come from somewhere else.
    """
    file = folder / "metrics.json"
    record = read_json(file)
    metrics = record.get("metrics") if isinstance(record, Mapping) else None
    protocol = metrics.get("protocol") if isinstance(metrics, Mapping) else None
    settings, cost = (protocol or {}, record) if isinstance(protocol, Mapping) else ({}, {})
    settings, cost = settings.get("settings") or {}, cost.get("cost") or {}
    if not isinstance(protocol, Mapping) or not isinstance(settings, Mapping) or not isinstance(cost, Mapping):
        raise DataError(f"{file}: no metrics of detkd; name a results JSON or weights in the folder instead")
    cost = dict(cost)
    if cost and (folder / "outcome.json").is_file():
        outcome = read_json(folder / "outcome.json")
        cost["train_seconds"] = outcome.get("seconds") if isinstance(outcome, Mapping) else None
    for key, value in cost.items():
        text = key in _COST_TEXTS
        if value is not None and not isinstance(value, str if text else (int, float, bool)):
            wanted = "a text" if text else "a number"
            raise DataError(f"{file}: cost.{key} must be {wanted}, got {value!r:.60}; evaluate the run again")
        if isinstance(value, float) and not math.isfinite(value):
            raise DataError(f"{file}: cost.{key} is {value}; evaluate the run again")
    return protocol, settings, cost


def _same_images(truth: GroundTruth, kept: Path) -> bool:
    """Return whether images with the same id have the same file name in the labels that a run folder kept.

    Ids are often just 1, 2, 3, so equal ids alone say nothing.
    """
    if not kept.is_file():
        return False
    names = {image["id"]: Path(str(image.get("file_name", ""))).stem for image in load_truth(kept).images}
    shared = [image for image in truth.images if image["id"] in names]
    return bool(shared) and all(Path(str(image.get("file_name", ""))).stem == names[image["id"]] for image in shared)


def _seed(folder: Path) -> int | None:
    seed = read_config(folder).get("seed") if (folder / "config.yaml").is_file() else None
    return seed if isinstance(seed, int) and not isinstance(seed, bool) else None


def label(paths: Sequence[Path], role: str) -> str:
    """Return a short name for one entry: the run of `runs/x/weights/last.pt`, else the file's own name.

    Several seeds get what their names have in common: `student-s0`, `student-s1` become "student x 2", and the jobs
    `sweep/0`, `sweep/1` become "sweep x 2".
    """
    names = [_name(path, role) for path in paths]
    if len(names) == 1:
        return names[0]
    start = "".join(
        letters[0] for letters in takewhile(lambda letters: len(set(letters)) == 1, zip(*names, strict=False))
    )
    common = re.sub(r"[-_. ]+(seed|s)?[-_. ]*\d*$", "", start)
    if not common and all(path.parent == paths[0].parent for path in paths):
        common = paths[0].parent.name
    return f"{common or names[0]} x {len(names)}"


def _name(path: Path, role: str) -> str:
    if path.name in {"last.pt", "best.pt"} and path.parent.name == "weights":
        return path.parent.parent.name
    known = path.suffix in {".json", ".pt", ".onnx", ".xml", ".yaml"}
    return (path.stem if known else path.name) or role
