from __future__ import annotations

from pathlib import Path

import pytest

from detkd import system_check


@pytest.mark.parametrize(
    ("library", "packages"),
    [
        ("libGL.so.1", "libgl1 libglib2.0-0"),
        ("libgthread-2.0.so.0", "libgl1 libglib2.0-0"),
        ("libgomp.so.1", "libgomp1"),
    ],
)
def test_missing_library_is_named_with_its_command(library: str, packages: str) -> None:
    error = ImportError(f"{library}: cannot open shared object file: No such file or directory")
    line = system_check.explain(error)
    assert line == f"system library {library} is missing; install it with: sudo apt-get install -y {packages}"


def test_unknown_library_is_named_with_a_way_to_find_it() -> None:
    line = system_check.explain(ImportError("libodd.so.3: cannot open shared object file: No such file"))
    assert line == "system library libodd.so.3 is missing; find its package with: apt-file search libodd.so.3"


def test_other_import_errors_are_left_to_the_caller() -> None:
    assert system_check.explain(ImportError("cannot import name 'x'")) is None


def test_each_problem_is_reported_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    message = "libGL.so.1: cannot open shared object file: No such file or directory"
    for name in ("needs_gl", "needs_gl_too"):
        (tmp_path / f"{name}.py").write_text(f"raise ImportError({message!r})\n")
    (tmp_path / "by_ctypes.py").write_text(f"raise OSError({message!r})\n")
    (tmp_path / "broken.py").write_text("raise ImportError('half installed')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    problems = system_check.check(["needs_gl", "needs_gl_too", "by_ctypes", "broken", "not_there_at_all", "json"])
    assert problems == [
        "system library libGL.so.1 is missing; install it with: sudo apt-get install -y libgl1 libglib2.0-0",
        "broken: can't be imported (half installed); reinstall it with pip",
        "not_there_at_all: No module named 'not_there_at_all'; run make install, or pip install detkd",
    ]
    monkeypatch.setattr(system_check, "check", lambda: problems)
    assert system_check.main() == 1
    assert capsys.readouterr().err.splitlines() == [f"error: {line}" for line in problems]


def test_this_machine_has_them() -> None:
    assert system_check.check() == []


def test_it_stands_alone() -> None:
    """`make install` runs the file before anybody knows whether detkd's own imports work."""
    source = Path(system_check.__file__).read_text(encoding="utf-8")
    assert "import detkd" not in source
    assert "from detkd" not in source
