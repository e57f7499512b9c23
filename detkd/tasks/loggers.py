"""Results for the experiment trackers a user works with: TensorBoard, MLflow and Weights & Biases."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from detkd.errors import ConfigError
from detkd.progress import console

__all__ = ["check_loggers", "log_numbers"]

_PACKAGES = ("tensorboard", "mlflow", "wandb")  # a tracker is called as its package on PyPI and in Python
_MLFLOW_BATCH = 500  # a server takes at most 1000 metrics and 100 parameters at once
_MLFLOW_VALUE = 500  # characters of a parameter; longer ones are refused by older servers


def check_loggers(value: object, *, key: str = "report.loggers") -> tuple[str, ...]:
    """Return the trackers that results go to; ask before the work starts, so that a missing package costs nothing.

    Args:
        value: Of the config key: names, or None for those that are on in Ultralytics' settings, which the
            curves of a training go to already. MLflow is on there by default and so needs a further sign: a server,
            an experiment's name in the environment, or a run that is active.
        key: Config key for messages.

    Raises:
        ConfigError: If a name is unknown or its package is not installed.
    """
    if value is None:
        there = [name for name in _PACKAGES if _installed(name)]
        if not there:
            return ()
        from detkd.training.integrations import switched_on

        return tuple(name for name in switched_on() if name in there and (name != "mlflow" or _uses_mlflow()))
    names = [value] if isinstance(value, str) else list(value) if isinstance(value, (list, tuple)) else None
    if names is None or [name for name in names if name not in _PACKAGES]:
        raise ConfigError(f"{key}: must be some of {', '.join(_PACKAGES)}, got {value!r}; e.g. {key}=[mlflow]")
    missing = [name for name in names if not _installed(name)]
    if missing:
        words = " and ".join(missing)
        raise ConfigError(f"{key}: {words} not installed; run pip install {' '.join(missing)}, or leave it out")
    return tuple(dict.fromkeys(names))


def _installed(name: str) -> bool:
    spec = find_spec(name)
    return spec is not None and spec.origin is not None  # a folder `wandb/` full of runs is no package


def _uses_mlflow() -> bool:
    if os.environ.get("MLFLOW_TRACKING_URI") or os.environ.get("MLFLOW_EXPERIMENT_NAME"):
        return True
    mlflow: Any = import_module("mlflow")
    return mlflow.active_run() is not None


def log_numbers(
    numbers: Mapping[str, float],
    folder: Path,
    wanted: Sequence[str] | None,
    *,
    config: Mapping[str, Any],
    page: Path | None = None,
) -> tuple[str, ...]:
    """Send numbers to trackers, into the run that is active or else one of their own.

    A tracker that fails, say because its server is away, is named in a warning: the results are on disk already.

    Args:
        numbers: What `flat_numbers` returns.
        folder: Run folder; its name is the run's, and TensorBoard's events are written there.
        wanted: Value of the config key, see `check_loggers`.
        config: The verb's configuration, sent as parameters with a new run.
        page: Report that is kept with the run; TensorBoard notes only where it is.

    Returns:
        The trackers that took the numbers.

    Raises:
        ConfigError: As `check_loggers` does.
    """
    send = {"tensorboard": _tensorboard, "mlflow": _mlflow, "wandb": _wandb}
    taken = []
    for name in check_loggers(wanted):
        try:
            send[name](numbers, folder, config, page)
        except Exception as err:
            reason = next(iter(str(err).splitlines()), "") or type(err).__name__
            text = f"report.loggers: {name} did not take the numbers ({reason}); they are in {folder}"
            console.print(text, style="yellow", markup=False, highlight=False)
        else:
            taken.append(name)
    return tuple(taken)


def _tensorboard(numbers: Mapping[str, float], folder: Path, _config: Mapping[str, Any], page: Path | None) -> None:
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(str(folder))
    try:
        for key, value in numbers.items():
            writer.add_scalar(key, value, 0)
        if page is not None:
            writer.add_text("report", str(page), 0)
    finally:
        writer.close()


def _mlflow(numbers: Mapping[str, float], folder: Path, config: Mapping[str, Any], page: Path | None) -> None:
    mlflow: Any = import_module("mlflow")
    metrics = list(_mlflow_names(numbers).items())
    with _mlflow_run(mlflow, folder, config):
        for start in range(0, len(metrics), _MLFLOW_BATCH):
            mlflow.log_metrics(dict(metrics[start : start + _MLFLOW_BATCH]))
        if page is not None:
            mlflow.log_artifact(str(page))


@contextmanager
def _mlflow_run(mlflow: Any, folder: Path, config: Mapping[str, Any]) -> Iterator[None]:
    """Use the active run, or open one beside those that Ultralytics makes of the trainings."""
    if mlflow.active_run() is not None:
        yield
        return
    mlflow.set_experiment(os.environ.get("MLFLOW_EXPERIMENT_NAME") or "/Shared/Ultralytics")
    with mlflow.start_run(run_name=os.environ.get("MLFLOW_RUN") or folder.name):
        params = [(_mlflow_key(key), str(value)[:_MLFLOW_VALUE]) for key, value in _flat(config)]
        for start in range(0, len(params), 100):
            mlflow.log_params(dict(params[start : start + 100]))
        yield


def _flat(node: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in node.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _mlflow_key(key: str) -> str:
    return re.sub(r"[^\w\-. :/]", "_", key, flags=re.ASCII)


def _mlflow_names(numbers: Mapping[str, float]) -> dict[str, float]:
    """Return the numbers under keys that MLflow takes; keys that would become the same get a number."""
    named: dict[str, float] = {}
    for key, value in numbers.items():
        plain = name = _mlflow_key(key)
        count = 1
        while name in named:
            count += 1
            name = f"{plain}_{count}"
        named[name] = value
    return named


def _wandb(numbers: Mapping[str, float], folder: Path, config: Mapping[str, Any], page: Path | None) -> None:
    wandb: Any = import_module("wandb")

    own = wandb.run is None
    run = wandb.run
    if own:
        project = os.environ.get("WANDB_PROJECT") or "Ultralytics"
        run = wandb.init(project=project, name=folder.name, dir=str(folder), config=dict(config))
    failed = 1
    try:
        run.log(dict(numbers))
        if page is not None:
            artifact = wandb.Artifact(name=f"{re.sub(r'[^A-Za-z0-9_.-]', '_', folder.name)}-report", type="report")
            artifact.add_file(str(page))
            run.log_artifact(artifact)
        failed = 0
    finally:
        if own:
            run.finish(exit_code=failed)
