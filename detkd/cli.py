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
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any, cast

from detkd import paths, ranks, usage
from detkd.config import VERBS, key_names, plain, rewrite_all
from detkd.errors import ConfigError, DetkdError, printable
from detkd.faults import explain, translate
from detkd.quoting import quote, split_commas, split_options
from detkd.runs import fail_runs
from detkd.signature import nearest
from detkd.sweeps import all_failed, begin_job, check_words, finish, job_folders, take_folder
from detkd.tasks.sweep import Job, write_job

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
}


class _Stopped(BaseException):
    """An error of a single job. No `Exception`, so that Hydra does not add its own report."""


class _JobFailed(Exception):
    """An error of one job of a sweep, as text: it may have to travel from another process. All are told at the end."""


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
    sweep = _is_sweep(overrides, options)
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
    own = [f"{key}={value.format(verb=verb)}" for key, value in _HYDRA.items()]
    if not sweep:
        check_words(typed, options)
    else:
        typed = [_sweep_folder(word) for word in typed]
        folder = _value(typed, "hydra.sweep.dir")
        own += [
            _sweep_folder(f"out=runs/{verb}-sweep/{datetime.now():%Y-%m-%d_%H-%M-%S}"),
            f"hydra.sweep.subdir={job_folders(folder)}",
            "+hydra.callbacks.detkd._target_=detkd.sweep_callback.SweepFolder",
        ]
        if any(word.lstrip("+").startswith("trust=") and len(split_commas(word)) > 1 for word in typed):
            raise ConfigError("trust: can't be swept, it holds for the whole process; give true or false")
    keys = {word.partition("=")[0].lstrip("+") for word in typed}
    return [*(word for word in own if word.partition("=")[0] not in keys), *typed, *words]


def _is_sweep(overrides: Sequence[str], options: Sequence[str]) -> bool:
    return bool({"-m", "--multirun"} & set(options)) or "hydra.mode=MULTIRUN" in overrides


def _value(words: Sequence[str], key: str) -> str | None:
    """Return the value of an override among rewritten words, its quotes taken off."""
    values = [_bare(word.partition("=")[2]) for word in words if word.partition("=")[0] == key]
    return values[-1] if values else None


def _bare(value: str) -> str:
    """Return a value without its quotes."""
    return value[1:-1].replace("\\'", "'") if len(value) > 1 and value[0] == value[-1] == "'" else value


def _sweep_folder(word: str) -> str:
    """Turn one fixed `out` of a sweep into the folder that holds the jobs' folders, the same one for every process."""
    key, _, value = word.partition("=")
    fixed = key == "out" and value not in ("", "null") and "${" not in value and len(split_commas(value)) == 1
    return f"hydra.sweep.dir={quote(os.path.abspath(os.path.expanduser(_bare(value))))}" if fixed else word


def _perform(verb: str, cfg: Any) -> tuple[float | None, int]:
    """Run one job; return the number a sweeper optimises, and the exit status its result asks for."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode
    from omegaconf import OmegaConf

    state = HydraConfig.get()
    typed = [str(word) for word in cast("list[str]", OmegaConf.to_container(state.overrides.task))]
    if state.mode != RunMode.MULTIRUN:
        return _call(verb, plain(verb, cfg, typed=typed))
    sweep = Path(str(state.sweep.dir))
    output = str(state.runtime.output_dir)
    job = Job(Path(output).name, tuple(typed), output)
    try:
        values = plain(verb, cfg, typed=typed)
        job = begin_job(values, typed, int(state.job.num), output, str(sweep))
        if job.status == "done":
            return job.objective, 0
        objective, status = _call(verb, values)
    except Exception as err:
        fail_runs(str(err))
        if os.environ.get("DETKD_TRACEBACK") == "1":
            traceback.print_exception(err)
        lines, code = explain(err)
        write_job(sweep, replace(job, status="failed", error="; ".join(lines), code=code))
        raise _JobFailed("\n".join(lines)) from None
    write_job(sweep, replace(job, status="done", objective=objective))
    return objective, status


def _call(verb: str, values: dict[str, Any]) -> tuple[float | None, int]:
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

    start = os.getcwd()

    def task(cfg: Any) -> float | None:
        sys.argv = ["detkd", verb, *typed]
        if os.getcwd() != start and os.path.isdir(start):
            os.chdir(start)  # a process that a launcher started elsewhere
        try:
            objective, status = _perform(verb, cfg)
        except _JobFailed:
            raise
        except Exception as err:
            fail_runs(str(err))
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
    """Print an error and return the exit status."""
    if _wants_traceback():
        traceback.print_exception(err)
    lines, status = explain(err)
    who = f"detkd {verb}"
    if not ranks.first():
        # Most mistakes are found by all processes alike; torchrun ends this one before it repeats what the first says.
        time.sleep(_SECOND_VOICE)
        who += f" (process {ranks.rank()})"
    for line in lines:
        print(f"{who}: {printable(line)}", file=sys.stderr)
    return status


def run(verb: str, arguments: Sequence[str]) -> int:
    """Run one verb with what was typed behind it and return the exit status.

    Args:
        verb: One of `detkd.config.VERBS`.
        arguments: Overrides (`key=value`) and Hydra's options (`--cfg job`, `--multirun`, ...) in any order.
    """
    ranks.calm()
    status = _attempt(verb, arguments)
    folder = take_folder()  # of a sweep; whatever stopped it, what it has is told
    if folder is None:
        return status
    try:
        found = finish(folder, verb, arguments)
    except Exception as err:
        found = _report(verb, err)
    return status if status == 130 else found or status


def _attempt(verb: str, arguments: Sequence[str]) -> int:
    """Run one verb; every error ends up on stderr and in the exit status."""
    try:
        overrides, options = split_options(arguments)
        if {"-h", "--help"} & set(options):
            config_dir = _option(options, "--config-dir", "-cd")
            print(usage.describe(verb, [Path(config_dir)] if config_dir else []))
            return 0
        _launch(verb, _prepare(verb, overrides, options), arguments)
    except _Stopped as failed:
        return _report(verb, failed.__cause__ or failed.args[0])
    except _JobFailed:
        return 2  # the records of the jobs say more
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
        if all_failed():
            return 2  # a search without a single trial has no best one; the records of the jobs say why
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
