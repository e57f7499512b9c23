r"""What a user types, in the form Hydra's grammar wants.

Hydra reads `key=value` with a grammar of its own: a comma sweeps, brackets make lists, `=`, `(`, `~`, `<`, spaces and
anything outside ASCII are errors. Here values become quoted strings where a person would expect a string, so that
`out='runs/a=1 (2)'`, `device=0,1` and `fail_if='AP<-0.5'` work as typed. Four rules:

1. A comma sweeps under `--multirun` only.
2. Numbers, booleans, `null`, lists `[a, b]`, dictionaries `{a: b}` and values in quotes keep their meaning. Keys that
   hold a path or a text (`TEXT_KEYS` and every `*.path`) take everything but `null` and quoted values as text.
3. `${key}` is an interpolation, as everywhere in Hydra; `\${` is a literal `${`.
4. `data=`, `teacher=`, `student=` and `model=` take a preset (in any case) or a path: `data=my/set.yaml` becomes
   `data=path data.path='my/set.yaml'`.

No Hydra in here: the functions turn strings into strings, the tests compare with Hydra's own parser.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from detkd.errors import ConfigError

__all__ = [
    "OPEN_KEYS",
    "RUN_GROUPS",
    "TEXT_KEYS",
    "as_typed",
    "literal",
    "name_words",
    "quote",
    "rewrite",
    "split_commas",
    "split_options",
    "text",
]

# fmt: off
TEXT_KEYS = frozenset({
    "after", "before", "control", "detections", "device", "fail_if", "gt", "name", "out", "path", "reference",
    "reject", "resume", "run", "source", "teacher",
    "data.name", "data.train", "data.val", "data.test", "data.split.pattern", "data.split.field",
    "student.slice", "model.slice",
})
"""Keys whose value is a text, whatever it looks like (next to every key that ends in `.path`)."""

_FLAG_OR_TEXT = frozenset({"control"})  # true and false keep their meaning
_LIST_OR_TEXT = frozenset({
    "model.path", "data.train", "data.val", "data.test", "before", "after", "control", "reject", "source",
    "teacher.path",
})

OPEN_KEYS = ("trainer.", "teacher.class_map", "student.scale", "model.scale")
"""Dictionaries that take keys of their own, so nobody has to type Hydra's `++`."""

RUN_GROUPS = ("launch", "sweep")
"""Presets for how the runs of a sweep are made; groups that every verb has and no verb's configuration keeps."""

_OVERRIDE = re.compile(r"(?P<prefix>\+\+?|~)?(?P<key>[A-Za-z_$][\w$.\-/@:]*)(?P<value>=.*)?", re.ASCII | re.DOTALL)
_QUOTED = re.compile(r"""'(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*\"""", re.DOTALL)
_NUMBER = r"[+-]?(?:(?:\d[\d_]*\.?(?:\d[\d_]*)?|\.\d[\d_]*)(?:e[+-]?\d+)?|inf|nan)"
_SCALAR = re.compile(rf"{_NUMBER}|true|false|null", re.IGNORECASE | re.ASCII)
_PLAIN = re.compile(r"[A-Za-z0-9_/\-+.%*@?|:$]+")  # what the grammar takes without quotes, as it stands
_DICT_KEY = re.compile(r"[A-Za-z0-9_/\-+.%*@?|$()\[\]{}:=, \\\t]+")
_CAST = re.compile(r"(?:int|float|bool|str)\([^()]*\)")
_SWEEP = re.compile(r"(?:choice|range|interval|glob|tag|sort|shuffle)\(.*\)", re.DOTALL)
_INTERPOLATION = re.compile(r"\$\{\.*[A-Za-z_][\w.]*(?::[^{}$'\"\\]*)?\}")
_BRACE = re.compile(r"(\\*)\$\{")

_WITH_VALUE = frozenset({
    "--cfg", "-c", "--package", "-p", "--config-path", "-cp", "--config-name", "-cn", "--config-dir", "-cd",
    "--experimental-rerun",
})
_FLAGS = frozenset({
    "--help", "-h", "--hydra-help", "--version", "--resolve", "--run", "-r", "--multirun", "-m",
    "--shell-completion", "-sc",
})
_INFO = frozenset({"--info", "-i"})
_INFO_VALUES = frozenset({"all", "config", "defaults", "defaults-tree", "plugins", "searchpath"})
# fmt: on


def split_options(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return overrides and options (`--cfg job`, `-m`, ...), so that they may be typed in any order.

    Raises:
        ConfigError: If Hydra has no such option, or its value is missing.
    """
    overrides: list[str] = []
    options: list[str] = []
    rest = list(arguments)
    while rest:
        word = rest.pop(0)
        name, equals, _ = word.partition("=")
        if not word.startswith("-"):
            overrides.append(word)
        elif name in _WITH_VALUE:
            if not equals and not rest:
                raise ConfigError(f"{name}: needs a value; see --hydra-help")
            options += [word] if equals else [word, rest.pop(0)]
        elif name in _INFO:
            options += [word, rest.pop(0)] if rest and rest[0] in _INFO_VALUES else [word]
        elif word in _FLAGS:
            options.append(word)
        else:
            key = name.lstrip("-").replace("-", "_")
            raise ConfigError(f"{name}: no such option; keys are written {key}=VALUE (options: --hydra-help)")
    return overrides, options


def name_words(words: Sequence[str], names: Sequence[str]) -> list[str]:
    """Return overrides with the bare words among them turned into `name=word`, in the order of `names`.

    Words beyond the names stay as they are and are refused later; `~key` deletes a key and is no bare word.
    """
    given = {word.partition("=")[0] for word in words if "=" in word}
    free = [name for name in names if name not in given]
    out = []
    for word in words:
        bare = "=" not in word and (not word.startswith("~") or word.startswith("~/"))
        out.append(f"{free.pop(0)}={word}" if bare and free else word)
    return out


def as_typed(value: object) -> str:
    """Return a Python value as a person would type it behind `key=`."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}: {_nested(item)}" for key, item in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ",".join(_nested(item) for item in value) + "]"
    return str(value)


def _nested(value: object) -> str:
    return text(str(value)) if isinstance(value, (str, Path)) else as_typed(value)


def quote(value: str) -> str:
    """Return `value` as a quoted string of Hydra's grammar."""
    # Backslashes count only in front of a quote, the closing one included.
    inner = re.sub(r"(\\*)('|\Z)", lambda match: match[1] * 2 + ("\\'" if match[2] else ""), value)
    return f"'{inner}'"


def text(value: str) -> str:
    """Return `value` quoted, with every `${` that is no interpolation made literal."""

    def escape(match: re.Match[str]) -> str:
        if _INTERPOLATION.match(value, match.end() - 2):
            return match[0]
        return match[1] * 2 + r"\${"

    return quote(_BRACE.sub(escape, value))


def split_commas(value: str, separator: str = ",") -> list[str]:
    """Split at commas outside quotes and brackets, or at all of them when the brackets don't match."""
    parts, depth, start, index = [], 0, 0, 0
    while index < len(value):
        char = value[index]
        before = value[start:index].rstrip()
        quoted = _QUOTED.match(value, index) if not before or before[-1] in ":[{(," else None
        if quoted:
            index = quoted.end()
            continue
        depth += (char in "([{") - (char in ")]}")
        if depth < 0:
            return value.split(separator)
        if char == separator and depth == 0:
            parts.append(value[start:index])
            start = index + 1
        index += 1
    return [*parts, value[start:]] if depth == 0 else value.split(separator)


def _pair(item: str) -> str | None:
    """Return `key: value` in Hydra's form, or None when the item has no colon."""
    word = item.strip()
    quoted = _QUOTED.match(word)  # Hydra refuses quotes around keys, people type them
    if quoted:
        key, rest = quoted[0][1:-1], word[quoted.end() :].lstrip()
    else:
        key = word.partition(":")[0].rstrip()
        rest = word[len(key) :].lstrip()
    if not key or not rest.startswith(":"):
        return None
    if not _DICT_KEY.fullmatch(key):
        raise ConfigError(
            f"{key}: a name with such letters can't be typed as a key of a dictionary, got {item.strip()}; "
            "put the dictionary in a YAML file (experiment/mine.yaml) and add --config-dir FOLDER experiment=mine"
        )
    return re.sub(r"([\\()\[\]{}:=,\t ])", r"\\\1", key) + ":" + (literal(rest[1:]) or "''")


def literal(value: str) -> str:
    """Return a value that keeps its type where it has one, and becomes a quoted string otherwise."""
    word = value.strip(" \t")
    if not word:
        return ""
    if any(known.fullmatch(word) for known in (_QUOTED, _SCALAR, _CAST, _INTERPOLATION)):
        return word
    if _PLAIN.fullmatch(word):
        return word
    if word[0] == "[" and word[-1] == "]":
        inner = word[1:-1]
        return "[" + ",".join(literal(item) or "''" for item in split_commas(inner)) + "]" if inner.strip() else "[]"
    if word[0] == "{" and word[-1] == "}":
        inner = word[1:-1]
        pairs = [_pair(item) for item in split_commas(inner)] if inner.strip() else []
        if None not in pairs:
            return "{" + ",".join(pair for pair in pairs if pair) + "}"
    return text(word)


def _text_value(key: str, value: str) -> str:
    """Return the value of a text key: only `null` and quoted values are not taken as they stand."""
    if not value or value.lower() == "null" or _QUOTED.fullmatch(value):
        return value
    if key in _FLAG_OR_TEXT and value.lower() in {"true", "false"}:
        return value
    if key in _LIST_OR_TEXT and value[0] == "[" and value[-1] == "]":
        return literal(value)
    return text(value)


def _elements(value: str, sweep: bool) -> list[str]:
    return split_commas(value) if sweep else [value]


def _choose(key: str, value: str, presets: Collection[str], sweep: bool) -> list[str]:
    """Return overrides for a group that takes a preset name or a path."""
    parts = [part.strip(" \t") if sweep else part for part in _elements(value, sweep)]
    unquoted = [part[1:-1] if _QUOTED.fullmatch(part) else part for part in parts]
    # VOC and VisDrone are written in capitals everywhere but in file names.
    unquoted = [part.lower() if part not in presets and part.lower() in presets else part for part in unquoted]
    if all(part in presets for part in unquoted):
        return [f"{key}={','.join(unquoted)}"]
    if not value or (sweep and _SWEEP.fullmatch(value)):
        return [f"{key}={value}"]
    names = [part for part in unquoted if part in presets]
    if names:
        others = [part for part in unquoted if part not in presets]
        raise ConfigError(
            f"{key}: a sweep takes presets or paths, not both, got {', '.join(names)} (preset) and "
            f"{', '.join(others)} (path); run two sweeps"
        )
    return [f"{key}=path", f"{key}.path={','.join(_text_value(f'{key}.path', part) for part in parts)}"]


def rewrite(
    override: str, groups: Mapping[str, Collection[str]], *, sweep: bool = False, composed: Collection[str] = ()
) -> list[str]:
    """Return what Hydra shall read for one typed override: one override, or two for a path in place of a preset.

    Args:
        override: As typed, e.g. `data=my set.yaml`.
        groups: Choices of each group of the primary config, by group name.
        sweep: True under `--multirun`: commas at the top level separate the values of a sweep.
        composed: Groups without a choice left, because the primary config is that of a finished run.

    Raises:
        ConfigError: If it is no override, or mixes what can't be mixed.
    """
    match = _OVERRIDE.fullmatch(override)
    if match is None or (match["value"] is None and match["prefix"] != "~"):
        raise ConfigError(f"{override}: not of the form key=value; see the keys with --help")
    prefix, key = match["prefix"] or "", match["key"]
    if match["value"] is None or prefix == "~":
        return [override]
    value = match["value"][1:]
    if key in composed:
        if "path" not in groups.get(key, ()):
            raise ConfigError(f"{key}: this config is composed already, got {value}; set single keys ({key}.NAME=...)")
        return [f"{key}.path={_text_value(f'{key}.path', value)}"]
    if key in RUN_GROUPS and not prefix:
        return [] if value.lower() == "null" else [f"+{key}={value}"]
    choices = groups.get(key)
    if choices is not None and value.lower() == "null":  # Hydra has no null for a group, it removes it
        return [] if key == "experiment" else [f"~{key}"]
    if choices is not None and "path" in choices and not prefix:
        return _choose(key, value, choices, sweep)
    if not prefix and key.startswith(OPEN_KEYS):
        prefix = "++"
    if sweep and _SWEEP.fullmatch(value):
        return [f"{prefix}{key}={value}"]
    if key in TEXT_KEYS or key.endswith(".path"):
        return [f"{prefix}{key}={','.join(_text_value(key, part) for part in _elements(value, sweep))}"]
    is_group = choices is not None or "/" in key or "@" in key
    if not sweep and (_SWEEP.fullmatch(value) or (is_group and len(split_commas(value)) > 1)):
        raise ConfigError(f"{key}: one value expected, got {value}; add --multirun to sweep over several")
    return [f"{prefix}{key}={','.join(literal(part) for part in _elements(value, sweep))}"]
