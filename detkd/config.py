"""From configuration files and overrides to plain dictionaries, and from nodes with a `_target_` to objects."""

from __future__ import annotations

import importlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from detkd import paths
from detkd.errors import ConfigError, DetkdError
from detkd.faults import translate
from detkd.io import parse_yaml, read_bytes
from detkd.quoting import RUN_GROUPS, as_typed, name_words, rewrite, text
from detkd.signature import call_problems, nearest, wrong_type

__all__ = ["EXAMPLES", "VERBS", "build", "compose", "from_arguments", "plain", "rewrite_all"]

EXAMPLES = {
    "train": "detkd train model=yolo26n data=toy",
    "distill": "detkd distill teacher=yolo26x student=yolo26n data=toy",
    "doctor": "detkd doctor teacher=yolo26x student=yolo26n data=toy",
    "evaluate": "detkd evaluate model=runs/train data=toy",
    "compare": "detkd compare before=runs/train after=runs/distill",
    "watch": "detkd watch run=runs/distill",
    "export": "detkd export model=runs/distill format=onnx",
    "predict": "detkd predict model=runs/distill source=data/samples",
    "cache": "detkd cache build teacher=yolo26x student=yolo26n data=toy cache=views",
    "pseudolabel": "detkd pseudolabel teacher=yolo26x data=toy source=footage",
    "demo": "detkd demo",
}
"""One typical command for each verb."""

VERBS = tuple(EXAMPLES)

# A group that may stay without a choice: always (None), or when another key is given.
_OPTIONAL: dict[str, dict[str, str | None]] = {
    "evaluate": {"model": "detections", "data": "gt"},
    "compare": {"teacher": None, "data": None, "before": "runs", "after": "runs"},
    "export": {"data": None},
    "cache": {"teacher": None, "student": None, "data": None},
}
_CHOICES = {
    "cache": {"action": ("build", "info", "verify", "prune")},
    "pseudolabel": {"stage": ("all", "collect", "answer", "form")},
}
_WORDS = {"watch": ("run",), "cache": ("action", "path")}  # keys that may be typed as bare words, in this order
_NEEDED = frozenset({"model", "teacher", "student", "data"})  # groups that `key=null` leaves out
_MIXED = frozenset({"control"})  # true, false or a path
_META = frozenset({"_target_", "_args_", "_convert_", "_partial_", "_recursive_"})


def rewrite_all(
    verb: str,
    overrides: Sequence[str],
    *,
    sweep: bool = False,
    extra: Sequence[Path] = (),
    composed: Sequence[str] = (),
) -> list[str]:
    """Return the overrides as Hydra shall read them; see `detkd.quoting.rewrite`."""
    groups = {group: paths.group_choices(group, extra) for group in paths.verb_groups(verb)}
    overrides = name_words(overrides, _WORDS.get(verb, ()))
    return [new for override in overrides for new in rewrite(override, groups, sweep=sweep, composed=composed)]


def compose(verb: str, overrides: Sequence[str] = (), *, config_dir: str | Path | None = None) -> dict[str, Any]:
    """Return the configuration of a verb as a plain dictionary, the same that the command line would build.

    Args:
        verb: One of `VERBS`.
        overrides: As typed behind `detkd <verb>`.
        config_dir: A further folder with presets, as `--config-dir` takes it.

    Raises:
        ConfigError: If a key or choice does not exist, or a mandatory one is missing.
    """
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    extra = [Path(config_dir).resolve()] if config_dir is not None else []
    words = rewrite_all(verb, overrides, extra=extra)
    words += [f"hydra.searchpath=[{text(f'file://{folder}')}]" for folder in extra]
    state = GlobalHydra.instance()
    outer = state.hydra  # a verb may compose the config of another one
    state.clear()
    try:
        with initialize_config_dir(str(paths.config_folder()), version_base="1.3"):
            cfg = hydra_compose(verb, overrides=words)
        return plain(verb, cfg, words)
    except DetkdError:
        raise
    except Exception as err:
        raise translate(err, verb, key_names(verb), paths.verb_groups(verb)) from err
    finally:
        state.hydra = outer


def from_arguments(verb: str, arguments: Mapping[str, Any], *, config_dir: str | Path | None = None) -> dict[str, Any]:
    """Return the configuration of a verb from Python values, e.g. `{"data": "toy", "trainer.lr0": 0.01}`."""
    return compose(verb, [f"{key}={as_typed(value)}" for key, value in arguments.items()], config_dir=config_dir)


def plain(verb: str, cfg: Any, typed: Sequence[str] = ()) -> dict[str, Any]:
    """Return a composed Hydra config as nested plain containers, interpolations resolved and checked.

    Args:
        verb: The verb it was composed for.
        cfg: What Hydra hands to the task.
        typed: Overrides of this run. With `resume=RUN` the configuration is the one saved in the run folder, and only
            the keys named here replace its values.

    Raises:
        ConfigError: If a mandatory value is missing, an interpolation leads nowhere or a value has the wrong type.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    OmegaConf.set_struct(cfg, False)
    try:
        missing = {str(key) for key in OmegaConf.missing_keys(cfg)}
        for key in missing:
            OmegaConf.update(cfg, key, None)
        values: dict[str, Any] = OmegaConf.to_container(cfg, resolve=True)  # type: ignore[assignment]
    except OmegaConfBaseException as err:
        raise translate(err, verb, key_names(verb), paths.verb_groups(verb)) from err
    if values.get("resume"):
        values = _resumed(values, typed)
    else:
        _settle_missing(verb, values, missing)
    for group in paths.verb_groups(verb):
        if group != "experiment":
            values.setdefault(group, None)
    defaults = paths.primary(verb)
    known = [*defaults, *paths.verb_groups(verb), "local"]
    problems = [f"{key}: no such key of detkd {verb}{nearest(str(key), known)}" for key in values if key not in known]
    problems += [
        f"{group}: must be a group of keys, got {values[group]!r:.60}; leave it out for the default"
        for group in paths.verb_groups(verb)
        if group != "experiment" and not isinstance(values[group], (dict, type(None)))
    ]
    problems += [
        f"{key}: {problem}"
        for key, default in defaults.items()
        if key in values and key not in _MIXED and (problem := wrong_type(values[key], default))
    ]
    problems += [
        f"{key}: must be one of {', '.join(known)}, got {values[key]}{nearest(str(values[key]), known)}"
        for key, known in _CHOICES.get(verb, {}).items()
        if values[key] not in known
    ]
    if problems:
        raise ConfigError("\n".join(problems))
    return values


def _settle_missing(verb: str, values: dict[str, Any], missing: set[str]) -> None:
    """Replace groups nobody chose by None where the verb can do without, and refuse the rest by name."""
    optional = {} if (verb, values.get("action")) == ("cache", "build") else _OPTIONAL.get(verb, {})
    groups = paths.verb_groups(verb)
    problems = []
    for name in [*groups, *(key for key in sorted(missing) if key.removesuffix(".path") not in groups)]:
        if (name in missing or f"{name}.path" in missing) or (name not in values and name in _NEEDED):
            instead = optional.get(name, "")
            if name in optional and (instead is None or values.get(instead) is not None):
                values[name] = None
            else:
                hint = f" (or {instead}=...)" if instead else ""
                problems.append(f"{name}: missing; e.g. {EXAMPLES[verb]}{hint}")
    if problems:
        raise ConfigError("\n".join(problems))


def _resumed(values: dict[str, Any], typed: Sequence[str]) -> dict[str, Any]:
    """Return the config saved in the run folder with the typed keys on top, so that `resume=RUN` alone is enough."""
    run = Path(str(values["resume"]))
    run = run.parent if run.is_file() else run
    file = run / "config.yaml"
    if not file.is_file():
        raise ConfigError(f"resume: no config.yaml in {run}; give the folder of a run, e.g. resume=runs/distill")
    try:
        saved = parse_yaml(read_bytes(file).decode("utf-8-sig"))
        if not isinstance(saved, dict):
            raise ValueError("no key: value pairs")
    except (yaml.YAMLError, OSError, ValueError) as err:
        reason = next(iter(str(err).splitlines()), type(err).__name__)
        raise ConfigError(f"resume: can't read {file} ({reason}); start the run again without resume=") from err
    # What lets code run is asked for by the one who runs it: the folder may come from somebody else.
    saved["trust"] = bool(values.get("trust"))
    if saved.get("plugins") and not any(override.lstrip("+").startswith("plugins=") for override in typed):
        raise ConfigError(
            f"plugins: the run in {run} used code of {saved['plugins']}; to run it again, add plugins=[...] to resume="
        )
    for override in typed:
        key = override.partition("=")[0].lstrip("+").partition("@")[0]
        if key.startswith(("~", "hydra")) or key in {"experiment", "local"}:
            continue  # their values are in the saved config already
        *parents, last = key.split(".")
        source, target = values, saved
        for name in parents:
            source, inner = source.get(name) or {}, target.get(name)
            target[name] = target = inner if isinstance(inner, dict) else {}
        target[last] = source.get(last)
    return {**saved, "resume": str(run)}


def key_names(verb: str) -> list[str]:
    """Return the keys a user may type for a verb: short keys and `group.key` of the groups' first choices."""
    names = [*paths.primary(verb), *paths.verb_groups(verb), *RUN_GROUPS]
    for group in paths.verb_groups(verb):
        for choice in paths.group_choices(group):
            names += [name for name in paths.preset_keys(group, choice) if name not in names]
    return names


def _locate(target: Any, where: str, allow: Sequence[str]) -> Any:
    """Import what `_target_` names, if it is allowed."""
    hint = "add its package to plugins=[...]"
    if not isinstance(target, str) or not target.startswith(tuple(allow)):
        raise ConfigError(f"{where}: must start with {' or '.join(allow)}, got {target}; {hint}")
    module, _, rest = target.rpartition(".")
    trail = [rest]
    while module:
        try:
            found: Any = importlib.import_module(module)
            break
        except ModuleNotFoundError as err:
            if err.name is None or not (module == err.name or module.startswith(f"{err.name}.")):
                raise ConfigError(f"{where}: importing {target} failed ({err}); install what it needs") from err
            module, _, rest = module.rpartition(".")
            trail.insert(0, rest)
    else:
        raise ConfigError(f"{where}: no module of that name, got {target}; check the spelling and PYTHONPATH")
    for index, name in enumerate(trail):
        if not hasattr(found, name):
            known = [word for word in vars(found) if not word.startswith("_")]
            path = ".".join([module, *trail[:index]])
            raise ConfigError(f"{where}: {path} has no {name}{nearest(name, known)}")
        found = getattr(found, name)
    origin = f"{getattr(found, '__module__', '')}."
    if not callable(found) or not origin.startswith(tuple(allow)):  # detkd.io.os.system is not ours
        raise ConfigError(f"{where}: must be a function or class of {' or '.join(allow)}, got {target}; {hint}")
    return found


def _check(node: Any, where: str, allow: Sequence[str]) -> list[str]:
    """Return the problems of a node and everything in it."""
    problems: list[str] = []
    if isinstance(node, Mapping):
        if "_target_" in node:
            try:
                target = _locate(node["_target_"], f"{where}._target_" if where else "_target_", allow)
            except ConfigError as err:
                problems.append(str(err))
            else:
                if not node.get("_args_") and not node.get("_partial_"):
                    arguments = {key: value for key, value in node.items() if key not in _META}
                    problems += call_problems(target, arguments, where)
        for key, value in node.items():
            problems += _check(value, f"{where}.{key}" if where else str(key), allow)
    elif isinstance(node, (list, tuple)):
        for index, value in enumerate(node):
            problems += _check(value, f"{where}[{index}]", allow)
    return problems


def build(node: Mapping[str, Any], *, key: str = "", allow: Sequence[str] = ("detkd.",)) -> Any:
    """Return the object a node with a `_target_` describes; nested nodes are built first.

    Args:
        node: Plain dictionary with `_target_` and the arguments.
        key: Where the node stands in the config, e.g. `distill.terms.logit.loss`; used in messages.
        allow: What a dotted name must start with. Calling code a config file names is running that file's code, so
            other packages are named on purpose: `allow=("detkd.", *(f"{name}." for name in cfg["plugins"]))`.

    Raises:
        ConfigError: With all problems of the node, one a line: a target that is not allowed or not there, unknown,
            missing and mistyped arguments.
    """
    problems = _check(node, key, allow)
    if problems:
        raise ConfigError("\n".join(problems))
    from hydra.errors import InstantiationException
    from hydra.utils import instantiate

    try:
        return instantiate(dict(node), _convert_="all")
    except InstantiationException as err:
        cause = err.__cause__
        if isinstance(cause, DetkdError):
            below = re.search(r"full_key: (\S+)", str(err))  # of a node inside this one
            path = ".".join(part for part in (key, below[1] if below else "") if part)
            named = path and re.match(r"\w+:", str(cause))  # by its argument alone
            raise (type(cause)(f"{path}.{cause}") if named else cause) from None
        prefix = f"{key}: " if key else ""
        raise ConfigError(f"{prefix}can't build {node.get('_target_')} ({cause or err})") from err
