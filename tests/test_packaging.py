"""What a `pip install` brings: the wheel's content against the tree, and a run from it outside the checkout."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

NOT_SHIPPED = {"__pycache__", "local"}
"""Folders that exist in a checkout and belong to its owner."""


def run(*command: str | Path, cwd: Path, **variables: str) -> str:
    """Run a command and return its output; a failure shows that output."""
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, f"{' '.join(map(str, command))}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def checkout(repo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what the build reads, so that building leaves no `build/` in the real checkout."""
    copy = tmp_path_factory.mktemp("checkout")
    for folder in ("detkd", "conf"):
        shutil.copytree(repo / folder, copy / folder, ignore=shutil.ignore_patterns(*NOT_SHIPPED))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy2(repo / name, copy / name)
    (copy / "conf" / "local").mkdir()
    (copy / "conf" / "local" / "mine.yaml").write_text("seed: 1\n")
    return copy


def build(source: Path, out: Path) -> Path:
    """Build a wheel from a folder or an sdist with the tools already installed."""
    run(sys.executable, "-m", "pip", "wheel", source, "--no-deps", "--no-build-isolation", "-w", out, cwd=out)
    (wheel,) = out.glob("detkd-*.whl")
    return wheel


@pytest.fixture(scope="module")
def wheel(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(checkout, tmp_path_factory.mktemp("wheel"))


def in_wheel(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return {name for name in archive.namelist() if not name.endswith("/") and ".dist-info/" not in name}


def in_tree(repo: Path) -> set[str]:
    """Return what the wheel must hold: all code and data under detkd/, all yaml under conf/ as detkd/conf/."""
    kept = {
        path.relative_to(repo).as_posix()
        for path in (repo / "detkd").rglob("*")
        if path.is_file() and not NOT_SHIPPED & set(path.parts[len(repo.parts) :])
    }
    configs = {
        f"detkd/{path.relative_to(repo).as_posix()}"
        for path in (repo / "conf").rglob("*.yaml")
        if "local" not in path.relative_to(repo).parts
    }
    return kept | configs | {"detkd/conf/__init__.py"}


def test_wheel_holds_the_tree_and_nothing_else(wheel: Path, repo: Path) -> None:
    shipped, expected = in_wheel(wheel), in_tree(repo)
    assert sorted(expected - shipped) == [], "missing in the wheel: list the package in pyproject.toml"
    assert sorted(shipped - expected) == []
    assert {name.split("/")[0] for name in shipped} == {"detkd"}, "conf and scripts must not become top-level packages"


def test_wheel_says_what_it_needs(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        metadata = archive.read(name).decode()
        (entry,) = [name for name in archive.namelist() if name.endswith(".dist-info/entry_points.txt")]
        assert "detkd = detkd.cli:main" in archive.read(entry).decode()
    assert "License-Expression: AGPL-3.0-or-later" in metadata
    assert "Requires-Python: >=3.11" in metadata
    assert "Requires-Dist: ultralytics<8.5,>=8.4.190" in metadata


def test_wheel_from_the_sdist_is_the_same(checkout: Path, wheel: Path, tmp_path: Path) -> None:
    run(sys.executable, "-m", "build", "--sdist", "--no-isolation", "--outdir", tmp_path, checkout, cwd=tmp_path)
    (sdist,) = tmp_path.glob("detkd-*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path / "unpacked", filter="data")
    (unpacked,) = (tmp_path / "unpacked").iterdir()
    assert in_wheel(build(unpacked, tmp_path)) == in_wheel(wheel)


def test_installed_wheel_runs_in_any_folder(wheel: Path, tmp_path: Path) -> None:
    """The verbs and their configuration come from the wheel, not from a checkout near by."""
    target, elsewhere = tmp_path / "site", tmp_path / "elsewhere"
    elsewhere.mkdir()
    run(sys.executable, "-m", "pip", "install", "--no-deps", "--target", target, wheel, cwd=tmp_path)
    # Before site-packages on the path, so an editable install of the checkout stays out of it.
    where = run(sys.executable, "-c", "import detkd; print(detkd.__file__)", cwd=elsewhere, PYTHONPATH=str(target))
    assert Path(where.strip()).is_relative_to(target)
    listed = run(sys.executable, "-m", "detkd", "--help", cwd=elsewhere, PYTHONPATH=str(target))
    for verb in ("train", "distill", "evaluate", "compare", "export", "predict", "demo"):
        assert verb in listed
    composed = run(sys.executable, "-m", "detkd", "demo", "--cfg", "job", cwd=elsewhere, PYTHONPATH=str(target))
    assert "seed:" in composed
    assert list(elsewhere.iterdir()) == [], "looking at a configuration must not write files"
