"""Hydra's and OmegaConf's errors in one line that names a key to type. Recognised by class name: no import needed."""

from __future__ import annotations

import re
from collections.abc import Collection

from detkd.errors import ConfigError, DetkdError
from detkd.io import FULL
from detkd.signature import nearest

__all__ = ["explain", "translate"]

_EXTRAS = {
    "hydra/launcher": {"joblib": "sweep", "ray": "ray", "submitit_slurm": "slurm", "submitit_local": "slurm"},
    "hydra/sweeper": {"optuna": "sweep"},
}
"""Plugins of Hydra, and which of our extras brings them."""

_IN_FILE = re.compile(r"In '([^']+)'")


def _no_choice(err: Exception) -> str | None:
    """Return the message for a choice that a group does not have."""
    file = getattr(err, "missing_cfg_file", None)
    options = getattr(err, "options", None)
    if not file:
        return None
    if "primary config" in str(err):
        return f"--config-name: no config called {file}; check the name, --config-dir and --config-path"
    group, _, choice = str(file).removesuffix(".yaml").rpartition("/")
    parent = _IN_FILE.search(str(err))
    if extra := _EXTRAS.get(group, {}).get(choice):
        key = "launch" if group == "hydra/launcher" else "sweep"
        return f"{key}: needs Hydra's plugin for {choice}, which is not installed; pip install 'detkd[{extra}]'"
    known = sorted(str(option) for option in options or ())
    listed = f" (choices: {', '.join(known)})" if known else ""
    asked = f", asked for by {parent[1]}.yaml" if parent and "/" in parent[1] else ""
    return f"{group or choice}: no such choice, got {choice}{asked}{nearest(choice, known)}{listed}"


def _no_key(err: Exception, keys: Collection[str], groups: Collection[str]) -> str | None:
    """Return the message for an override of a key that does not exist."""
    message = str(err)
    match = re.search(r"Could not override '([^']+)'", message)
    if match is None:
        return None
    key = match[1].removeprefix("++").removeprefix("+")
    if "No match in the defaults list" in message and key in groups:
        return f"{key}: not a choice of this config; set {key}.path=... instead"
    group = key.partition(".")[0]
    if key in keys and group in groups:  # e.g. cache.views with cache=none
        return f"{key}: the choice made for {group} has no such key; make another with {group}=... (see --help)"
    node, _, last = str(getattr(err.__cause__, "full_key", None) or "").rpartition(".")
    if "." in node:  # deeper than `keys` go; OmegaConf knows what is there
        there = [name for name in map(str, getattr(err.__cause__, "parent_node", None) or ()) if name != "_target_"]
        return f"{key}: no such key{nearest(last, there)} (below {node}: {', '.join(there) or 'no keys'})"
    return f"{key}: no such key{nearest(key, keys) or '; see the keys with --help'}"


def translate(err: Exception, verb: str, keys: Collection[str], groups: Collection[str]) -> DetkdError:
    """Return the error a user should see for one raised while a config was composed or resolved.

    Args:
        err: Raised by Hydra, OmegaConf, the YAML parser or the file system.
        verb: The verb whose config it was.
        keys: Keys that exist, for "did you mean".
        groups: Configuration groups of the verb.
    """
    kinds = {kind.__name__ for kind in type(err).__mro__}
    message = str(err)
    first = next((line.strip() for line in message.splitlines() if line.strip()), type(err).__name__)
    full_key = getattr(err, "full_key", None) or "config"
    if "MissingConfigException" in kinds:
        return ConfigError(_no_choice(err) or first)
    if "OverrideParseException" in kinds:
        override = str(getattr(err, "override", "") or first)
        return ConfigError(f"{override}: can't be read as key=value; put the value in single quotes inside double ones")
    if "InterpolationKeyError" in kinds:
        wrong = re.search(r"key '([^']+)'", message)
        asked = f"${{{wrong[1] if wrong else '...'}}}"
        return ConfigError(f"{full_key}: {asked} names no key; fix the name, or write \\${{ to mean ${{ itself")
    if "ConfigCompositionException" in kinds:
        found = _no_key(err, keys, groups)
        if found:
            return ConfigError(found)
        if "Multiple values for" in message:
            twice = message.split("Multiple values for ")[1].split(".")[0]
            return ConfigError(f"{twice}: given twice; keep one of them")
        exists = re.search(r"An item is already at '([^']+)'", message)
        if exists:
            return ConfigError(f"{exists[1]}: exists already; leave out the +")
        gone = re.search(r"delete from config\. '([^']+)' does not exist|Could not delete '([^']+)'", message)
        if gone:
            name = gone[1] or gone[2]
            return ConfigError(f"~{name}: no such key{nearest(name, keys)}")
        cause = err.__cause__
        detail = str(cause).splitlines()[0] if cause is not None and str(cause) else ""
        return ConfigError(f"{first.rstrip('.')}{f' ({detail})' if detail else ''}; see `detkd {verb} --help`")
    if "OmegaConfBaseException" in kinds:
        variable = re.search(r"Environment variable '([^']+)' not found", message)
        if variable:
            name = variable[1]
            return ConfigError(f"{full_key}: the environment variable {name} is not set; export {name}=...")
        return ConfigError(f"{full_key}: {first}; see the whole config with `detkd {verb} ... --cfg job`")
    if "YAMLError" in kinds:
        mark = getattr(err, "problem_mark", None)
        where = f"{mark.name}, line {mark.line + 1}" if mark is not None else "a config file"
        return ConfigError(f"{where}: not valid YAML ({getattr(err, 'problem', None) or first}); fix the file")
    if "HydraException" in kinds or "SearchPathException" in kinds:
        return ConfigError(f"{first}; see `detkd {verb} --help`")
    if isinstance(err, OSError):
        name = f" {err.filename}" if err.filename else ""
        return ConfigError(f"out: can't write{name} ({err.strerror or first}); choose a writable folder with out=...")
    return ConfigError(f"config: {first}; see the whole config with `detkd {verb} ... --cfg job`")


def explain(err: BaseException) -> tuple[list[str], int]:
    """Return an error in as few lines as it can be, and the exit status: 2 for what a user can fix, 1 for a bug."""
    if isinstance(err, DetkdError):
        return str(err).splitlines() or [type(err).__name__], 2
    if isinstance(err, RecursionError):
        return ["an input is nested too deep; look for lists inside each other in the files given"], 2
    if isinstance(err, MemoryError):
        return ["out of memory; use smaller files, a smaller batch= or imgsz=, or a machine with more"], 2
    if type(err).__name__ == "OutOfMemoryError":
        return ["batch: the device ran out of memory; use a smaller batch= or imgsz="], 2
    if isinstance(err, OSError) and err.filename is not None:
        return [f"{err.filename}: {err.strerror or err}; check the path, its permissions and free space"], 2
    if isinstance(err, OSError) and err.errno in FULL:  # of a library that writes without saying where
        return [f"out: can't write there ({err.strerror}); make room and go on where it stopped"], 2
    detail = next(iter(str(err).splitlines()), "")
    return [
        f"internal error: {type(err).__name__}: {detail}; this is a bug, "
        "please report it with the traceback that DETKD_TRACEBACK=1 shows"
    ], 1
