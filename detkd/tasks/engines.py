"""From the keys `engine` and `ray` to where the teacher works."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from detkd.caching.engine import Engine, LocalEngine
from detkd.caching.ray_engine import RayEngine, RaySettings, require_ray
from detkd.errors import ConfigError
from detkd.io import is_url
from detkd.signature import call_problems

__all__ = ["check_engine", "engine_of", "own_device"]


def engine_of(config: Mapping[str, Any]) -> Engine:
    """Return the engine of a configuration; one without the key `engine` works in this process.

    Raises:
        ConfigError: If a key can't be used, or Ray is not installed.
    """
    name = config.get("engine") or "local"
    if name == "local":
        return LocalEngine()
    if name != "ray":
        raise ConfigError(f"engine: unknown choice, got {name!r}; use local or ray")
    require_ray()
    given = {str(key): value for key, value in dict(config.get("ray") or {}).items() if value is not None}
    if problems := call_problems(RaySettings, given, "ray"):
        raise ConfigError("\n".join(problems))
    for key, least in (("workers", 1), ("gpus", 0), ("retries", 0)):
        if given.get(key, least) < least:
            raise ConfigError(f"ray.{key}: must be {least} or more, got {given[key]}; leave it out for the default")
    if not given.get("cpus", 1) > 0:
        raise ConfigError(f"ray.cpus: must be above 0, got {given['cpus']}; leave it out for the default")
    device = str(config["device"]).strip().lower()
    if device not in ("auto", "cpu"):
        raise ConfigError(
            f"device: must be auto or cpu with engine=ray, got {device}; ray.gpus says what a worker holds"
        )
    if device == "cpu" and given.get("gpus"):
        raise ConfigError(f"ray.gpus: does not go with device=cpu, got {given['gpus']}; leave one of them out")
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ConfigError("engine: ray shares the work out itself; start detkd once, not with a distributed launcher")
    from detkd.training.plan import usable_cores

    extra: dict[str, Any] = {"gpus": 0.0} if device == "cpu" else {}
    return RayEngine(RaySettings(**{"cores": usable_cores(), **given, **extra}))


def check_engine(config: Mapping[str, Any]) -> None:
    """Refuse before any work what can't be used: an engine, or object storage where a folder is needed.

    Raises:
        ConfigError: Naming the key.
    """
    engine_of(config)
    places = {"out": config.get("out"), "teacher.path": config["teacher"].get("path")}
    for group in ("data", "cache", "unlabelled"):
        node = config.get(group)
        places[f"{group}.path"] = node.get("path") if isinstance(node, Mapping) else None
    for key, value in places.items():
        if value is not None and is_url(value):
            raise ConfigError(
                f"{key}: must be a local or shared folder, got {value}; only source= of detkd pseudolabel reads object "
                "storage, so copy it to a folder first"
                + (" (results: afterwards)" if key in ("out", "cache.path") else "")
            )


def own_device(config: Mapping[str, Any]) -> Any:
    """Return the key `device` for this process, which asks nobody if others do."""
    return config["device"] if (config.get("engine") or "local") == "local" else "cpu"
