"""Does a configuration fit the function it is meant for? Checked on the signature, before anything is called."""

from __future__ import annotations

import collections.abc
import difflib
import inspect
import types
from collections.abc import Callable, Collection, Mapping
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

__all__ = ["call_problems", "nearest", "type_problem", "wrong_type"]

_WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "a text", type(None): "null"}
_SEQUENCES = (list, tuple, collections.abc.Sequence, collections.abc.Iterable, collections.abc.Collection)
_MAPPINGS = (dict, collections.abc.Mapping, collections.abc.MutableMapping)


def nearest(name: str, known: Collection[str]) -> str:
    """Return "; did you mean X?" for the most similar known name, else ""."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f"; did you mean {close[0]}?" if close else ""


def _fits(value: Any, hint: Any) -> bool | None:
    """Return whether a plain value fits a type hint; None when that can't be told."""
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        answers = [_fits(value, option) for option in get_args(hint)]
        return True if True in answers else None if None in answers else False
    if origin is Literal:
        return value in get_args(hint)
    if hint in (None, type(None)):
        return value is None
    if hint is bool:
        return isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if hint is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if hint is str:
        return isinstance(value, str)
    base = origin or hint
    if base in _SEQUENCES:
        return isinstance(value, (list, tuple))
    if base in _MAPPINGS:
        return isinstance(value, Mapping)
    return None


def _describe(hint: Any) -> str:
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        return " or ".join(_describe(option) for option in get_args(hint))
    if origin is Literal:
        return "one of " + ", ".join(str(choice) for choice in get_args(hint))
    base = origin or hint
    if base in _SEQUENCES:
        return "a list"
    if base in _MAPPINGS:
        return "a dictionary"
    return _WORDS.get(hint, str(hint))


def type_problem(value: Any, hint: Any) -> str | None:
    """Return "must be X, got Y" when a value from a configuration does not fit a type hint."""
    if _fits(value, hint) is not False:
        return None
    return f"must be {_describe(hint)}, got {value!r}"


def call_problems(target: Callable[..., Any], arguments: Mapping[str, Any], where: str) -> list[str]:
    """Return what is wrong with calling `target(**arguments)`, one line a problem, in the words of config keys.

    Nested nodes with a `_target_` of their own stand for objects, so their types are not compared.

    Args:
        target: Function or class.
        arguments: Plain values by parameter name.
        where: Config key of the node, put in front of each parameter's name.
    """
    try:
        parameters = dict(inspect.signature(target).parameters)
    except (TypeError, ValueError):  # some C extensions have no signature; calling them tells
        return []
    try:
        function = target.__init__ if inspect.isclass(target) else target
        hints = get_type_hints(function)
    except Exception:  # a hint may name something that is only imported for type checkers
        hints = {}
    kinds = inspect.Parameter
    named = {
        name: parameter
        for name, parameter in parameters.items()
        if parameter.kind in (kinds.POSITIONAL_OR_KEYWORD, kinds.KEYWORD_ONLY)
    }
    takes_more = any(parameter.kind is kinds.VAR_KEYWORD for parameter in parameters.values())
    prefix = f"{where}." if where else ""
    problems = []
    for name, value in arguments.items():
        if name in named:
            nested = isinstance(value, Mapping) and "_target_" in value
            problem = None if nested or name not in hints else type_problem(value, hints[name])
            if problem:
                problems.append(f"{prefix}{name}: {problem}")
        elif not takes_more:
            problems.append(f"{prefix}{name}: no such key{nearest(name, named)} (known: {', '.join(named) or 'none'})")
    problems += [
        f"{prefix}{name}: missing; {getattr(target, '__name__', 'the target')} needs it"
        for name, parameter in named.items()
        if parameter.default is kinds.empty and name not in arguments
    ]
    return problems


def wrong_type(value: Any, default: Any) -> str | None:
    """Return what is wrong with the type of a value, judged by the default of its key; None where nothing is."""
    if default is None or isinstance(default, (list, dict)) or default == "???":
        return None
    problem = type_problem(value, type(default))
    if problem and isinstance(value, str) and "," in value:
        problem += "; add --multirun to sweep over several values"
    return problem
