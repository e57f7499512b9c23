"""From a configuration to Ultralytics' arguments."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from detkd.config import build
from detkd.errors import ConfigError
from detkd.ranks import launched, local_rank, local_size

__all__ = ["albumentations_list", "list_devices", "pick_device", "ultralytics_arguments"]


def list_devices(value: object) -> list[str]:
    """Return the devices that the key `device` names, as written; whether they are there is asked by `pick_device`.

    Raises:
        ConfigError: If it names none, or one twice.
    """
    text = str(value).strip().lower()
    if text in {"auto", "mps"}:
        return [text]
    parts = [part.strip().strip("'\"") for part in text.removeprefix("cuda:").strip("[]").split(",")]
    if not all(part == "cpu" for part in parts) and not all(part.isdigit() for part in parts):
        raise ConfigError(f"device: must be auto, cpu, mps or GPU numbers such as 0 or 0,1, got {value!r}")
    if parts[0] != "cpu" and len(set(parts)) < len(parts):
        raise ConfigError(f"device: names a GPU twice, got {value!r}; name each once")
    return parts


def pick_device(value: object, *, ranks: bool = False) -> str:
    """Return the device of this process as Ultralytics writes it; `auto` takes the first GPU, else the CPU.

    Args:
        value: The key `device`.
        ranks: Whether several processes may share the work; each takes a device of its own.

    Raises:
        ConfigError: If there is no such device.
    """
    import torch

    if launched() and not ranks:
        raise ConfigError(
            "device: torchrun is for detkd train, distill and cache build; run this without it (RANK is set)"
        )
    parts = list_devices(value)
    count = torch.cuda.device_count()
    if parts == ["auto"]:
        return str(local_rank() % count) if count else "cpu"
    if parts == ["mps"]:
        if not torch.backends.mps.is_available():
            raise ConfigError("device: this machine has no MPS device; use device=cpu")
        return "mps"
    missing = [part for part in parts if part.isdigit() and int(part) >= count]
    if missing:
        raise ConfigError(
            f"device: no GPU {', '.join(missing)}, this machine has {count}; use device=cpu or device=auto"
        )
    if parts == ["cpu"]:
        return "cpu"
    if launched():
        if local_rank() >= len(parts):
            raise ConfigError(
                f"device: {local_size()} processes on this machine, but devices for {len(parts)}, got {value!r}; name "
                "one each, or use device=auto"
            )
        return parts[local_rank()]
    if len(parts) > 1:
        raise ConfigError(
            f"device: only detkd train and distill start on several devices, got {value!r}; name one, e.g. device=0"
        )
    return parts[0]


def albumentations_list(node: Mapping[str, Any] | None, plugins: tuple[str, ...] = ()) -> list[dict[str, Any]]:
    """Build the `augment` group and return it in Albumentations' own serialised form."""
    import albumentations as A

    transforms = (node or {}).get("transforms") or []
    allowed = ("albumentations.", *(f"{name}." for name in plugins))
    return [A.to_dict(build(item, allow=allowed, key="augment.transforms")) for item in transforms]


_OURS = {"epochs", "imgsz", "batch", "seed", "device", "nms", "model", "data", "resume", "augmentations", "workers"}
_FIXED = {
    "task",
    "mode",
    "save_dir",
    "exist_ok",
    "project",
    "name",
    "distill_model",
    "dis",
    "pretrained",
    "split",
    "plots",
}
_BREAKING = {
    "single_cls": "labels would lose their classes, teacher and evaluator would not; relabel the data instead",
    "classes": "labels would be filtered, the teacher would not; choose classes with data.names",
    "time": "the number of epochs would differ between control and student; use epochs",
    "rect": "batches of different shapes can't be shuffled alike; leave it out",
    # Measured with torch 2.15 on a CPU: traced without code generation every loss and weight is bit for bit the same;
    # generated code is 1e-5 apart at the first step and up to 35 % within eight (an uncompiled run drifts as much
    # if its pixels change by 1e-7).
    "compile": "generated code rounds otherwise, so losses drift apart by percents within a few steps and control and "
    "student could not be matched; leave it out (teacher.compile=true compiles the teacher alone)",
}


def ultralytics_arguments(config: Mapping[str, Any], folder: Path, *, ranks: bool = False) -> dict[str, Any]:
    """Translate a training config to Ultralytics' arguments.

    Raises:
        ConfigError: For keys of `trainer` that Ultralytics does not know or that break a matched comparison.
    """
    from detkd.training.arguments import explain_unknown

    extra = {k: v for k, v in dict(config.get("trainer") or {}).items() if v is not None}
    for key in extra:
        if key in _OURS:
            raise ConfigError(
                f"trainer.{key}: set {'augment' if key == 'augmentations' else key} at the top level instead"
            )
        if key in _FIXED:
            raise ConfigError(f"trainer.{key}: is decided by detkd; leave it out")
        if key in _BREAKING and extra[key]:
            raise ConfigError(f"trainer.{key}: {_BREAKING[key]}")
        if problem := explain_unknown(key):
            raise ConfigError(f"trainer.{key}: {problem}")
    if extra.get("cache") == "disk":
        raise ConfigError("trainer.cache: disk writes .npy files beside your images; use ram or false")
    if extra.get("multi_scale"):
        raise ConfigError(
            "trainer.multi_scale: changes the image size from batch to batch; use trainer.scale for size variety"
        )
    batch = int(config["batch"])
    if batch < 1:
        raise ConfigError(
            f"batch: must be 1 or more, got {config['batch']}; automatic batch sizes would differ between runs"
        )
    return {
        "task": "detect",
        "mode": "train",
        "model": "student",
        "data": "records",
        "plots": False,
        "verbose": False,
        "patience": 0,  # control and student train for the same number of epochs
        "nbs": batch,  # one weight update per batch: small runs stay on the floor with Ultralytics' 64
        **extra,
        "epochs": int(config["epochs"]),
        "imgsz": int(config["imgsz"]),
        "batch": batch,
        "seed": int(config["seed"]),
        "device": pick_device(config["device"], ranks=ranks),
        "nms": config.get("nms"),
        "workers": 8 if config.get("workers") is None else int(config["workers"]),
        "augmentations": albumentations_list(config.get("augment"), tuple(config.get("plugins") or ())),
        "save_dir": str(folder / "train"),
        "exist_ok": True,
    }
