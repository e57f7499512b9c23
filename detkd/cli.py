"""The `detkd` command: one verb a job, each a Hydra application over the packaged `conf/` tree.

Heavy imports wait until a job really starts, so help and typos answer at once.
"""

from __future__ import annotations

import importlib
import os
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

from detkd import paths, ranks, usage
from detkd.config import VERBS, key_names, plain, rewrite_all
from detkd.errors import ConfigError, DetkdError, printable
from detkd.faults import translate
from detkd.io import FULL
from detkd.quoting import quote, split_commas, split_options
from detkd.runs import fail_runs
from detkd.signature import nearest

__all__ = ["CONDITION_MET", "main", "run"]

CONDITION_MET = 3
"""Exit status when `fail_if` holds; 0 is success, 1 a bug (of detkd doctor: problems found), 2 something the user can
fix, 130 an interruption."""

_SECOND_VOICE = 5.0
"""Seconds that all processes of a run but the first wait before they report an error."""

_CONTINUE = frozenset({"cache", "pseudolabel"})  # find what an interrupted attempt has made by themselves

# Where Hydra would put its own logs and folders. Run folders are ours; a sweep gets one folder with one inside per job.
_HYDRA = {
    "hydra/job_logging": "none",
    "hydra/hydra_logging": "none",
    "hydra.run.dir": ".",
    "hydra.output_subdir": "null",
    "hydra.job.name": "{verb}",
    "hydra.sweep.dir": "runs/{verb}-sweep/${{now:%Y-%m-%d_%H-%M-%S}}",
    "hydra.sweep.subdir": "${{hydra.job.num}}",
}


class _Stopped(BaseException):
    """An error of a single job. No `Exception`, so that Hydra does not add its own report."""


class _JobFailed(Exception):
    """An error of one job of a sweep. Hydra says which job it was and raises it when all have had their turn."""


def _option(options: Sequence[str], *names: str) -> str | None:
    """Return the value of a command-line option, written `--name value` or `--name=value`."""
    for index, word in enumerate(options):
        if word in names and index + 1 < len(options):
            return options[index + 1]
        if word.startswith(tuple(f"{name}=" for name in names)):
            return word.partition("=")[2]
    return None


def _prepare(verb: str, overrides: Sequence[str], options: Sequence[str]) -> list[str]:
    """Return the arguments for Hydra's own parser."""
    sweep = bool({"-m", "--multirun"} & set(options)) or "hydra.mode=MULTIRUN" in overrides
    config_dir = _option(options, "--config-dir", "-cd")
    extra = [Path(config_dir)] if config_dir else []
    words = list(options)
    composed: list[str] = []
    config_path = _option(options, "--config-path", "-cp")
    if config_path and Path(config_path).is_dir():
        # Hydra would look beside this file; people mean a folder seen from where they are.
        words = [word.replace(config_path, str(Path(config_path).resolve())) for word in words]
        name = (_option(options, "--config-name", "-cn") or verb).removesuffix(".yaml")
        if (Path(config_path) / f"{name}.yaml").is_file():
            left = paths.verb_groups(name, Path(config_path))
            composed = [group for group in paths.verb_groups(verb) if group not in left]
    typed = rewrite_all(verb, overrides, sweep=sweep, extra=extra, composed=composed)
    if sweep:
        typed = [_sweep_folder(word) for word in typed]
        if any(word.lstrip("+").startswith("trust=") and len(split_commas(word)) > 1 for word in typed):
            raise ConfigError("trust: can't be swept, it holds for the whole process; give true or false")
    keys = {word.partition("=")[0].lstrip("+") for word in typed}
    own = [f"{key}={value.format(verb=verb)}" for key, value in _HYDRA.items() if key not in keys]
    return [*own, *typed, *words]


def _sweep_folder(word: str) -> str:
    """Turn one fixed `out` of a sweep into the folder that holds the jobs' folders."""
    key, _, value = word.partition("=")
    fixed = key == "out" and value not in ("", "null") and "${" not in value and len(split_commas(value)) == 1
    return f"hydra.sweep.dir={value}" if fixed else word


def _job_folder(values: dict[str, Any], typed: Sequence[str]) -> None:
    """Give a job of a sweep a folder of its own, unless the sweep itself varies `out`."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    state = HydraConfig.get()
    if state.mode != RunMode.MULTIRUN or "out" not in values:
        return
    if not any(word.lstrip("+").startswith("out=") for word in typed):
        given = values["out"]
        values["out"] = str(Path(str(given)) / str(state.job.num)) if given else str(state.runtime.output_dir)
    print(f"job {state.job.num}: {' '.join(typed)} -> {values['out']}", file=sys.stderr)


def _perform(verb: str, cfg: Any) -> tuple[float | None, int]:
    """Run one job; return the number a sweeper optimises, and the exit status its result asks for."""
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import OmegaConf

    typed = [str(word) for word in cast("list[str]", OmegaConf.to_container(HydraConfig.get().overrides.task))]
    values = plain(verb, cfg, typed=typed)
    _job_folder(values, typed)
    if values.get("trust"):
        os.environ["DETKD_TRUST"] = "1"  # read when detkd.environment is imported, which is below
    api = importlib.import_module("detkd.api")
    result = getattr(api, verb)(values)
    objective = getattr(result, "objective", None)
    status = CONDITION_MET if getattr(result, "failed", False) else int(getattr(result, "status", 0))
    return None if objective is None else float(objective), status


def _application(verb: str, typed: Sequence[str]) -> Callable[[], Any]:
    """Return the Hydra application of a verb; it reads `sys.argv`, the job sees there what was typed."""
    import hydra
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    def task(cfg: Any) -> float | None:
        sys.argv = ["detkd", verb, *typed]
        try:
            objective, status = _perform(verb, cfg)
        except Exception as err:
            fail_runs(str(err))
            if HydraConfig.get().mode == RunMode.MULTIRUN:
                raise _JobFailed(err) from err
            raise _Stopped(err) from err
        if status and HydraConfig.get().mode != RunMode.MULTIRUN:
            sys.exit(status)  # nothing went wrong: a condition was asked for and holds, or doctor found problems
        return objective

    decorate = hydra.main(version_base="1.3", config_path=paths.CONFIG_PATH, config_name=verb)
    return cast("Callable[[], Any]", decorate(task))


def _launch(verb: str, words: Sequence[str], typed: Sequence[str]) -> None:
    """Run Hydra with these arguments; its errors come out as exceptions, not as text and exit status."""
    saved_argv, saved_flag = sys.argv, os.environ.get("HYDRA_FULL_ERROR")
    sys.argv = [f"detkd {verb}", *words]
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        _application(verb, typed)()
    finally:
        sys.argv = saved_argv
        if saved_flag is None:
            os.environ.pop("HYDRA_FULL_ERROR", None)
        else:
            os.environ["HYDRA_FULL_ERROR"] = saved_flag


def _wants_traceback() -> bool:
    return "1" in (os.environ.get("DETKD_TRACEBACK"), os.environ.get("HYDRA_FULL_ERROR"))


def _report(verb: str, err: BaseException) -> int:
    """Print an error as short as it can be and return the exit status: 2 for what a user can fix, 1 for a bug."""
    if _wants_traceback():
        traceback.print_exception(err)
    if isinstance(err, DetkdError):
        lines, status = str(err).splitlines(), 2
    elif isinstance(err, RecursionError):
        lines, status = (
            ["an input is nested too deep; look for lists inside each other in the files given"],
            2,
        )
    elif isinstance(err, MemoryError):
        lines, status = ["out of memory; use smaller files, a smaller batch= or imgsz=, or a machine with more"], 2
    elif type(err).__name__ == "OutOfMemoryError":
        lines, status = ["batch: the device ran out of memory; use a smaller batch= or imgsz="], 2
    elif isinstance(err, OSError) and err.filename is not None:
        lines, status = [f"{err.filename}: {err.strerror or err}; check the path, its permissions and free space"], 2
    elif isinstance(err, OSError) and err.errno in FULL:  # of a library that writes without saying where
        lines, status = [f"out: can't write there ({err.strerror}); make room and go on where it stopped"], 2
    else:
        detail = next(iter(str(err).splitlines()), "")
        lines = [
            f"internal error: {type(err).__name__}: {detail}; this is a bug, "
            "please report it with the traceback that DETKD_TRACEBACK=1 shows"
        ]
        status = 1
    who = f"detkd {verb}"
    if not ranks.first():
        # Most mistakes are found by all processes alike; torchrun ends this one before it repeats what the first says.
        time.sleep(_SECOND_VOICE)
        who += f" (process {ranks.rank()})"
    for line in lines or [type(err).__name__]:
        print(f"{who}: {printable(line)}", file=sys.stderr)
    return status


def run(verb: str, arguments: Sequence[str]) -> int:
    """Run one verb with what was typed behind it and return the exit status.

    Args:
        verb: One of `detkd.config.VERBS`.
        arguments: Overrides (`key=value`) and Hydra's options (`--cfg job`, `--multirun`, ...) in any order.
    """
    ranks.calm()
    try:
        overrides, options = split_options(arguments)
        if {"-h", "--help"} & set(options):
            config_dir = _option(options, "--config-dir", "-cd")
            print(usage.describe(verb, [Path(config_dir)] if config_dir else []))
            return 0
        _launch(verb, _prepare(verb, overrides, options), arguments)
    except (_Stopped, _JobFailed) as failed:
        return _report(verb, failed.__cause__ or failed.args[0])
    except KeyboardInterrupt as stop:
        # Training raises it with the run folder, once everything needed to go on is on disk.
        hint = f"; go on with: detkd {verb} resume={quote(str(stop.args[0]))}" if stop.args else ""
        if verb in _CONTINUE:
            hint = "; the same command again goes on where it stopped"
        print(f"detkd {verb}: stopped{hint}", file=sys.stderr)
        return 130
    except SystemExit as leave:
        return leave.code if isinstance(leave.code, int) else 1 if leave.code else 0
    except DetkdError as err:
        return _report(verb, err)
    except Exception as err:
        if _wants_traceback():
            traceback.print_exception(err)
        return _report(verb, translate(err, verb, key_names(verb), paths.verb_groups(verb)))
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of the console script; returns the exit status."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0] in {"-h", "--help", "help"}:
        print(usage.overview())
        return 0
    if words[0] == "--version":
        print(f"detkd {usage.version()}")
        return 0
    if words[0] not in VERBS:
        known = ", ".join(VERBS)
        print(f"detkd: {words[0]}: no such verb{nearest(words[0], VERBS)} (verbs: {known})", file=sys.stderr)
        return 2
    return run(words[0], words[1:])
