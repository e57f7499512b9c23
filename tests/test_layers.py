"""The package's layers, checked on its source: imports go downwards only, and files stay short enough to read."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "detkd"
MAX_LINES = 300

LAYERS = {
    "errors": 0, "types": 0, "io": 0, "ranks": 0, "progress": 0, "environment": 0, "system_check": 0, "locks": 0,
    "ops": 1, "runs": 1,
    "losses": 2, "data": 2, "evaluation": 2, "caching": 2,
    "models": 3, "statistics": 3, "diagnosis": 3,
    "training": 4, "inference": 4, "exporting": 4, "report": 4, "footage": 4,
    "config": 5, "paths": 5, "quoting": 5, "faults": 5, "signature": 5,
    "tasks": 6,
    "api": 7, "usage": 7, "sweeps": 7, "sweep_callback": 7,
    "cli": 8, "__main__": 9,
}  # fmt: skip
"""Height of each module or sub-package directly under `detkd/`; a new one must be given its place here."""

BESIDE = {
    "types": {"errors"}, "io": {"errors"}, "progress": {"errors"}, "environment": {"errors"},
    "locks": {"errors"},
    "exporting": {"inference"},  # what was exported is run by the same detector
    "footage": {"inference"},  # images and videos are found and read in the same way
    "faults": {"signature"},
    "config": {"paths", "quoting", "faults", "signature"},
    "sweep_callback": {"sweeps"},
}  # fmt: skip
"""Imports inside one layer. All others are refused: losses, data and evaluation stay strangers."""

FENCED = {
    "ultralytics": {"models", "training", "inference", "exporting"},
    "hydra": {"config", "cli", "sweep_callback"},
    "omegaconf": {"config", "cli"},
    "ray": {"caching"},
    "torch": {"types", "ops", "losses", "caching", "models", "training", "inference", "exporting", "tasks"},
}
"""Which modules or sub-packages may import a heavy or copyleft library."""


def sources() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def unit(path: Path) -> str:
    """Return the name directly under `detkd/` that a file belongs to; the empty string for `detkd/__init__.py`."""
    relative = path.relative_to(PACKAGE)
    if len(relative.parts) > 1:
        return relative.parts[0]
    return "" if relative.stem == "__init__" else relative.stem


def imports(tree: ast.AST, package: str) -> Iterator[tuple[int, str]]:
    """Yield line and absolute dotted name of each import, also inside functions."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*parents, base]).rstrip(".")
            # `from detkd import errors` names a module, `from detkd.errors import X` does not.
            for alias in node.names:
                yield node.lineno, f"{base}.{alias.name}"


def imports_of(path: Path) -> list[tuple[int, str]]:
    package = ".".join(["detkd", *path.relative_to(PACKAGE).parent.parts])
    return list(imports(ast.parse(path.read_text(encoding="utf-8")), package))


def layer_faults(name: str, found: list[tuple[int, str]]) -> list[str]:
    """Return what is wrong with the imports of a file that belongs to `name`."""
    faults = []
    for line, target in found:
        parts = target.split(".")
        if parts[0] != "detkd" or len(parts) < 2 or parts[1] not in LAYERS:
            continue
        other = parts[1]
        below = LAYERS[other] < LAYERS[name]
        if other != name and not below and other not in BESIDE.get(name, ()):
            faults.append(f"line {line}: {name} (layer {LAYERS[name]}) imports {other} (layer {LAYERS[other]})")
    return faults


def fence_faults(name: str, found: list[tuple[int, str]]) -> list[str]:
    """Return imports of fenced libraries by a file that may not use them."""
    return [
        f"line {line}: only {', '.join(sorted(FENCED[library]))} may import {library}"
        for line, target in found
        if (library := target.split(".")[0]) in FENCED and name not in FENCED[library]
    ]


def test_every_module_has_a_layer() -> None:
    names = {unit(path) for path in sources()} - {""}
    assert sorted(names - LAYERS.keys()) == []


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_file_keeps_to_its_layer(path: Path) -> None:
    name = unit(path)
    found = imports_of(path)
    if name:
        assert layer_faults(name, found) == []
        assert fence_faults(name, found) == []
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines <= MAX_LINES, f"{lines} lines; split it where the reader would pause"


@pytest.mark.parametrize(
    "path",
    [path for path in sources() if any(name.split(".")[0] == "ultralytics" for _, name in imports_of(path))],
    ids=lambda path: str(path.relative_to(PACKAGE)),
)
def test_environment_is_imported_before_ultralytics(path: Path) -> None:
    """Ultralytics reads its safety flags when it is imported, so `detkd.environment` must come first."""
    found = imports_of(path)
    first = min(line for line, name in found if name.split(".")[0] == "ultralytics")
    ours = [line for line, name in found if name.startswith("detkd.environment")]
    assert ours, "imports ultralytics without `import detkd.environment`"
    assert min(ours) < first, f"ultralytics on line {first}, detkd.environment only on line {min(ours)}"


def test_package_init_is_light() -> None:
    """`import detkd` reaches nothing but the standard library and detkd at module level."""
    tree = ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8"))
    top = ast.Module(
        body=[node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)], type_ignores=[]
    )
    heavy = {"torch", "ultralytics", "hydra", "cv2", "numpy"}
    assert [name for _, name in imports(top, "detkd") if name.split(".")[0] in heavy] == []


@pytest.mark.parametrize(
    ("name", "source", "expected"),
    [
        ("losses", "from detkd.data.records import DataSpec", "losses (layer 2) imports data"),
        ("ops", "def f():\n    from detkd import models", "ops (layer 1) imports models"),
        ("models", "import detkd.training.trainer", "models (layer 3) imports training"),
        ("data", "import ultralytics.utils", "may import ultralytics"),
        ("training", "from omegaconf import OmegaConf", "may import omegaconf"),
    ],
)
def test_the_check_itself_finds_faults(name: str, source: str, expected: str) -> None:
    found = list(imports(ast.parse(source), f"detkd.{name}"))
    faults = layer_faults(name, found) + fence_faults(name, found)
    assert len(faults) == 1
    assert expected in faults[0]


def test_relative_imports_are_resolved() -> None:
    assert list(imports(ast.parse("from ..data import records"), "detkd.losses")) == [(1, "detkd.data.records")]
    assert list(imports(ast.parse("from . import boxes"), "detkd.ops")) == [(1, "detkd.ops.boxes")]
