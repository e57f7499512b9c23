"""Find and load detectors: an official name, a `.pt` file or a model YAML.

Checkpoints are pickles. They are opened through Ultralytics' allow-list (see `detkd.environment`), never executed.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import detkd.environment as environment

# isort: split
import torch
from torch import nn
from ultralytics.nn import tasks
from ultralytics.nn.modules.head import Detect, RTDETRDecoder
from ultralytics.nn.tasks import DetectionModel, _SafeLoad, load_checkpoint, yaml_model_load
from ultralytics.utils import LOGGER, SETTINGS
from ultralytics.utils.downloads import GITHUB_ASSETS_NAMES, attempt_download_asset

from detkd.errors import ModelError
from detkd.io import read_json
from detkd.models.slicing import slice_weights
from detkd.progress import console
from detkd.runs import read_config

__all__ = [
    "build_detector",
    "checkpoint_imgsz",
    "detect_head",
    "is_rtdetr",
    "load_detector",
    "model_names",
    "quiet",
    "resolve",
    "state_hash",
]


@contextlib.contextmanager
def quiet(level: int = 40) -> Iterator[None]:
    """Silence Ultralytics' logger (and with it its progress bars) for the duration."""
    before = LOGGER.level
    LOGGER.setLevel(level)
    try:
        yield
    finally:
        LOGGER.setLevel(before)


def resolve(value: str | Path, *, key: str) -> Path:
    """Return the file behind a name or path, downloading official weights where that is possible.

    Args:
        value: `yolo26n`, `yolo26n.pt`, `path/to/best.pt`, a run folder, or a model YAML (`yolo26n.yaml`).
        key: Config key for messages, e.g. "teacher".

    Raises:
        ModelError: If nothing can be found or downloaded.
    """
    text = str(value)
    if "://" in text:
        raise ModelError(f"{key}: {text} is an address; download the file yourself and give its path")
    path = Path(text).expanduser()
    if path.is_dir():
        if (weights := _run_weights(path, key)) is not None:
            return weights
        if not path.name.endswith("_openvino_model"):
            raise ModelError(f"{key}: no weights in the folder {path}; name a .pt file or a finished run folder")
        return path
    if path.is_file():
        return path
    if path.suffix in {".yaml", ".yml"}:
        with quiet(), contextlib.suppress(Exception):
            yaml_model_load(text)
            return path
        raise ModelError(f"{key}: no model YAML {text}; give a path or an Ultralytics name such as yolo26n.yaml")
    name = path.name if path.suffix else f"{path.name}.pt"
    if path.parent != Path() or name not in GITHUB_ASSETS_NAMES:
        raise ModelError(
            f"{key}: no such file {text}; give a .pt file, a model YAML, a run folder or an official name like yolo26n"
        )
    for folder in (Path(), Path(SETTINGS["weights_dir"])):
        if (folder / name).is_file():
            return folder / name
    try:
        with quiet(50):
            found = Path(attempt_download_asset(name))
    except Exception as err:  # every network failure looks different; the fix is the same
        raise ModelError(f"{key}: {name} is not here and can't be downloaded; {_download_help(name)}") from err
    if not found.is_file():
        raise ModelError(f"{key}: {name} is not here and can't be downloaded; {_download_help(name)}")
    return found


def _run_weights(folder: Path, key: str) -> Path | None:
    """Return the checkpoint that a finished run reported, or None when the folder is no run."""
    if not (folder / "run.json").is_file():
        plain = folder / "last.pt"
        return plain if plain.is_file() else None
    record = read_json(folder / "run.json")
    if not isinstance(record, dict):
        raise ModelError(f"{key}: {folder / 'run.json'} is damaged; name a .pt file in the folder")
    if record.get("status") != "done" and not (folder / "outcome.json").is_file():
        raise ModelError(f"{key}: the run in {folder} is not finished; resume it, or name a .pt file in it")
    chosen = read_config(folder, key).get("checkpoint")
    weights = folder / "weights" / ("best.pt" if chosen == "best" else "last.pt")
    if not weights.is_file():
        raise ModelError(f"{key}: no weights in the run folder {folder} ({weights.name}); name a .pt file")
    return weights


def _download_help(name: str) -> str:
    return f"check the network, or copy {name} to this folder and name its path"


def load_detector(value: str | Path, *, key: str, rtdetr: bool = False) -> DetectionModel:
    """Load a detector in float32, eval mode, with its class names.

    Args:
        value: Name or path, see `resolve`.
        key: Config key for messages.
        rtdetr: Accept RT-DETR too: it can answer, but has no anchors on which a student could be compared with it.

    Raises:
        ModelError: If the file is missing, damaged, refused by the allow-list, or no detector.
    """
    path = resolve(value, key=key)
    if path.suffix != ".pt":
        raise ModelError(f"{key}: {path} has no weights; a .pt checkpoint is needed here")
    if not environment.trusted() and not _SafeLoad.SUPPORTED:
        raise ModelError(
            f"{key}: this torch can't load checkpoints safely; upgrade torch, or set trust=true to load anyway"
        )
    _guard()
    try:
        with quiet():
            model, _ = load_checkpoint(path)
    except TypeError as err:
        if "types outside the supported" in str(err):
            raise ModelError(
                f"{key}: {path} holds objects that are no part of an Ultralytics checkpoint and was not opened; "
                "if you made this file yourself, trust=true opens it"
            ) from err
        raise ModelError(f"{key}: {path} is not a readable checkpoint (empty, truncated or another format)") from err
    except Exception as err:
        raise ModelError(
            f"{key}: {path} can't be loaded ({type(err).__name__}: {str(err).splitlines()[0][:160]})"
        ) from err
    if not (rtdetr and is_rtdetr(model)):
        detect_head(model, key=key, source=str(path))
    return model


def _guard() -> None:
    """Turn the allow-list on where Ultralytics was imported before `detkd.environment` could ask for it."""
    tasks.SAFE_LOAD = not environment.trusted()


def is_rtdetr(model: nn.Module) -> bool:
    """Return whether the model ends in RT-DETR's decoder."""
    layers = getattr(model, "model", None)
    return isinstance(layers, nn.Sequential) and len(layers) > 0 and isinstance(layers[-1], RTDETRDecoder)


def detect_head(model: nn.Module, *, key: str, source: str) -> Detect:
    """Return the model's Detect head.

    Raises:
        ModelError: If the model ends in something else (segmentation, classification, RT-DETR, ...).
    """
    if is_rtdetr(model):
        raise ModelError(
            f"{key}: {source} is an RT-DETR, which has no Detect head; choose a YOLO detection model, or let RT-DETR "
            "teach through stored answers (cache=instances)"
        )
    layers = getattr(model, "model", None)
    head = layers[-1] if isinstance(layers, nn.Sequential) and len(layers) else None
    if type(head) is not Detect:
        kind = type(head).__name__ if head is not None else type(model).__name__
        raise ModelError(
            f"{key}: {source} ends in {kind}, not in a Detect head; choose a YOLO detection model such as yolo26n.pt "
            "(segmentation, pose, oriented boxes, classification and YOLO-World are not supported)"
        )
    return head


def build_detector(
    value: str | Path,
    names: Sequence[str],
    *,
    key: str,
    scale: Mapping[str, float] | None = None,
    seed: int = 0,
    slice_from: str | Path | None = None,
    slice_by: str = "power",
) -> DetectionModel:
    """Build a student for the given classes: from weights where there are any, else from random numbers.

    The same arguments give the same weights, bit for bit, whatever ran before: control and student start alike.

    Args:
        value: Name, `.pt` or model YAML, see `resolve`.
        names: Class names of the data.
        key: Config key for messages.
        scale: `depth`, `width` and `max_channels` replacing those of a model YAML, for students smaller than nano.
        seed: Seed of the random initial weights.
        slice_from: Larger detector of the same family whose trained weights the initial ones are cut out of.
        slice_by: How its channels are chosen, see `detkd.models.slicing`.

    Raises:
        ModelError: If it can't be found or built, or `scale` or `slice_from` is given with trained weights.
    """
    path = resolve(value, key=key)
    weights = None
    if path.suffix == ".pt":
        weights = load_detector(path, key=key)
        if scale:
            raise ModelError(
                f"{key}.scale: {path} has trained weights of fixed width; give a model YAML, e.g. yolo26n.yaml"
            )
        if slice_from is not None:
            raise ModelError(
                f"{key}.slice: {path} has trained weights already; give a model YAML, e.g. yolo26n.yaml, or slice=null"
            )
        config = deepcopy(weights.yaml)
    else:
        try:
            with quiet():
                config = yaml_model_load(str(path))
        except Exception as err:  # the parser's errors and Ultralytics' own
            reason = " ".join(str(err).split())[:160]
            raise ModelError(f"{key}: {path} is no model YAML ({type(err).__name__}: {reason})") from err
        if scale:
            config = {**config, "scale": "n", "scales": {"n": [scale["depth"], scale["width"], scale["max_channels"]]}}
    _guard()  # of a model YAML too: its `activation` would be evaluated
    with torch.random.fork_rng(devices=[]), quiet():
        torch.manual_seed(seed)
        try:
            model = DetectionModel(config, nc=len(names), verbose=False)
        except Exception as err:
            raise ModelError(f"{key}: {path} does not describe a model ({type(err).__name__}: {err})") from err
        detect_head(model, key=key, source=str(path))
        model.names = dict(enumerate(names))
        if weights is not None:
            model.load(weights, verbose=False)
    if slice_from is not None:
        larger = load_detector(slice_from, key=f"{key}.slice")
        report = slice_weights(model, larger, names=(model_names(larger), tuple(names)), by=slice_by, key=key)
        console.print(
            f"{key}: initial weights from {Path(slice_from).name}: {report}",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )
    return model


def checkpoint_imgsz(path: Path) -> int:
    """Return the image size a checkpoint was trained at, 640 for files that don't say (exported: their own)."""
    if path.suffix != ".pt":
        return 640
    args: Any = load_detector(path, key="model", rtdetr=True).args
    size = (args if isinstance(args, Mapping) else vars(args)).get("imgsz", 640)
    return int(max(size) if isinstance(size, (list, tuple)) else size)


def model_names(model: nn.Module) -> tuple[str, ...]:
    """Return the class names in index order."""
    names: Any = model.names
    return tuple(str(names[i]) for i in sorted(names)) if isinstance(names, Mapping) else tuple(map(str, names))


def state_hash(model: nn.Module) -> str:
    """Return a short hash of all weights and buffers; equal hashes mean equal starting points."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
