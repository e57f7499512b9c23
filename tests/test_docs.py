"""README and docs say what is true: links exist, commands compose, Python runs.

A comment right above a code block changes what is done with it:

- `<!-- test: run -->`: the shell block is executed as it stands (slow);
- `<!-- test: file NAME -->`: the block is saved as NAME before anything else of that page is tried;
- `<!-- test: dry -->`: the Python block runs with verbs that only compose their configuration;
- `<!-- test: skip REASON -->`: the block is left alone.
"""

from __future__ import annotations

import dataclasses
import doctest
import functools
import importlib
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, get_args, get_type_hints
from unittest.mock import Mock

import pytest
import yaml

REPO = Path(__file__).resolve().parents[1]
PAGES = sorted([*REPO.glob("*.md"), *(REPO / "docs").rglob("*.md")])
SHELL_WORDS = {"cd", "export", "git", "pip", "python", "ray", "source", "eval", "sudo"}
"""Commands besides `detkd` and `make` that an example may start with."""


class Block(NamedTuple):
    """A fenced code block: where it is, its language, the test comment above it, and its text."""

    page: Path
    line: int
    language: str
    mark: str
    text: str

    @property
    def name(self) -> str:
        return f"{self.page.relative_to(REPO)}:{self.line}"


def blocks(text: str, page: Path) -> list[Block]:
    found, mark, opened, body = [], "", None, []
    for number, line in enumerate(text.splitlines(), start=1):
        fence = re.match(r"```(\w*)", line)
        if opened is None and fence:
            opened, body = (number, fence.group(1)), []
        elif opened is not None and line.startswith("```"):
            found.append(Block(page, opened[0], opened[1], mark, "\n".join(body) + "\n"))
            opened, mark = None, ""
        elif opened is not None:
            body.append(line)
        elif comment := re.fullmatch(r"<!-- test: (.*?) -->", line.strip()):
            mark = comment.group(1)
        elif line.strip():
            mark = ""
    assert opened is None, f"{page.name}: the block opened on line {opened} is never closed"
    return found


def commands(block: Block) -> list[str]:
    """Return the command lines of a shell block: continued lines joined, prompts, comments and blanks dropped."""
    joined = block.text.replace("\\\n", " ")
    stripped = (line.strip().removeprefix("$ ") for line in joined.splitlines())
    return [line for line in stripped if line and not line.startswith("#")]


ALL = [block for page in PAGES for block in blocks(page.read_text(encoding="utf-8"), page)]
SHELL = [block for block in ALL if block.language in {"bash", "sh", "console"} and not block.mark.startswith("skip")]
COMMANDS = [(block, line) for block in SHELL for line in commands(block)]
DETKD = [(block, line) for block, line in COMMANDS if re.match(r"(\w+=\S+ )*(detkd|python -m detkd)\b", line)]


def save_files(page: Path, folder: Path) -> None:
    """Save the blocks that a page tells the reader to save."""
    for block in ALL:
        if block.page == page and block.mark.startswith("file "):
            target = folder / block.mark.removeprefix("file ")
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(block.text, encoding="utf-8")


def arguments(line: str) -> list[str]:
    """Return what follows `detkd` on a command line, up to a pipe, a redirection or a trailing comment."""
    words = shlex.split(line, comments=True)
    words = words[next(i for i, word in enumerate(words) if word == "detkd") + 1 :]
    ends = [i for i, word in enumerate(words) if word in {"|", ">", "&&", ";"}]
    return words[: ends[0]] if ends else words


def compositions(words: list[str]) -> list[list[str]]:
    """Return the command as one that only composes; a sweep as the first and the last of its jobs."""
    if not words or words[0].startswith("-") or any(word in {"--help", "-h", "--info"} for word in words):
        return [words]
    words = [word for word in words if word not in {"--cfg", "job"}]
    if "--multirun" not in words and "-m" not in words:
        return [[*words, "--cfg", "job"]]
    plain = [word for word in words if word not in {"--multirun", "-m"}]
    first = [re.sub(r"(=[^,]*),.*", r"\1", word) for word in plain]
    last = [re.sub(r"=.*,", "=", word) for word in plain]
    return [[*first, "--cfg", "job"], [*last, "--cfg", "job"]]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPO)))
def test_relative_links_exist(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    targets = re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r"src=\"([^\"]+)\"", text)
    local = [target.split("#")[0] for target in targets if not re.match(r"[a-z]+:|#", target)]
    assert [target for target in local if not (page.parent / target).exists()] == []


def test_examples_use_known_commands() -> None:
    """A command nobody checks is a command that rots."""
    targets = set(re.findall(r"^([a-z-]+):", (REPO / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    unknown = []
    for block, line in COMMANDS:
        words = [word for word in line.split() if not re.match(r"[A-Z_]+=", word)]
        if words[0] == "make":
            known = words[1] in targets
        elif words[:2] == ["python", "-m"]:
            known = words[2] in {"detkd", "pytest", "venv", "pip"}
        elif words[0] == "python":
            known = (REPO / words[1]).is_file()
        else:
            known = words[0] in SHELL_WORDS | {"detkd"}
        if not known:
            unknown.append(f"{block.name}: {line}")
    assert unknown == []


@pytest.mark.parametrize(
    ("block", "line"), DETKD, ids=[f"{block.name}-{number}" for number, (block, _) in enumerate(DETKD)]
)
def test_command_composes(
    block: Block, line: str, tmp_path: Path, capfd: pytest.CaptureFixture[str], own_modules: None
) -> None:
    """Every command with a configuration can print it, and what it names under `distill` can be built."""
    save_files(block.page, tmp_path)
    for words in compositions(arguments(line)):
        status = compose(words)
        out, err = capfd.readouterr()
        if missing := re.search(r"not installed; pip install 'detkd\[.*", err):
            pytest.skip(missing[0])
        assert status == 0, f"{line}\n{err}"
        assert out.strip(), f"{line}: printed nothing"
        if "--cfg" in words:
            settle(words)
            if words[0] == "distill":
                build_recipe(yaml.safe_load(out))


def settle(words: list[str]) -> None:
    """Check what `--cfg job` does not: that nothing mandatory is missing and every value has its type."""
    from detkd.config import compose as settled

    overrides, folder = [word for word in words[1:] if word not in {"--cfg", "job"}], None
    if "--config-dir" in overrides:
        index = overrides.index("--config-dir")
        folder = overrides[index + 1]
        del overrides[index : index + 2]
    if not any(word.startswith("resume=") for word in overrides):  # takes its values from a run that isn't here
        assert settled(words[0], overrides, config_dir=folder)


def build_recipe(config: dict[str, Any]) -> None:
    from detkd.tasks.recipes import make_recipe

    recipe = make_recipe(config["distill"], tuple(config["plugins"]))
    assert set(recipe.terms) == set(config["distill"]["terms"])


@pytest.fixture
def own_modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let Python find the files a page told the reader to save, and forget them afterwards."""
    before = set(sys.modules)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "") or "").startswith(str(tmp_path)):
            del sys.modules[name]


def compose(words: list[str]) -> int:
    """Run the command line in this process and return its exit status."""
    from detkd.cli import main

    try:
        return int(main(words) or 0)
    except SystemExit as stop:
        return int(stop.code or 0)


PYTHON_PAGES = sorted({block.page for block in ALL if block.language == "python"})


@pytest.mark.parametrize("page", PYTHON_PAGES, ids=lambda page: str(page.relative_to(REPO)))
def test_python_blocks_run(page: Path, tmp_path: Path, own_modules: None) -> None:
    """All Python of a page runs in order in one session, as a reader would type it."""
    save_files(page, tmp_path)
    session: dict[str, object] = {"__name__": "page"}
    for block in ALL:
        if block.page == page and block.language == "python" and not block.mark.startswith("skip"):
            with pytest.MonkeyPatch.context() as patch:
                if block.mark == "dry":
                    replace_verbs(patch)
                padding = "\n" * block.line  # a traceback then names the page's own line
                exec(compile(padding + block.text, str(page), "exec"), session)


def replace_verbs(patch: pytest.MonkeyPatch) -> None:
    """Let each verb answer with a stand-in that has the attributes of its result and no others."""
    from detkd import api

    for verb in api.__all__:
        patch.setattr(api, verb, functools.partial(stand_in, getattr(api, verb)))


def stand_in(function: Callable[..., Any], config: dict[str, Any]) -> Mock:
    assert config
    answer = get_type_hints(function)["return"]
    result = next(iter(get_args(answer)), answer)  # some verbs return nothing when there is nothing to do
    return Mock(spec=[*(field.name for field in dataclasses.fields(result)), *dir(result)])


@pytest.mark.parametrize(
    "block", [block for block in ALL if block.language in {"yaml", "yml"}], ids=lambda block: block.name
)
def test_yaml_blocks_parse(block: Block) -> None:
    assert yaml.safe_load(block.text) is not None


EXECUTED = [block for block in SHELL if block.mark == "run"]


@pytest.mark.slow
@pytest.mark.parametrize("block", EXECUTED, ids=lambda block: block.name)
def test_marked_blocks_run(block: Block, tmp_path: Path) -> None:
    save_files(block.page, tmp_path)
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", block.text],
        cwd=tmp_path,
        env={**os.environ, "PATH": path},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, f"{block.text}\n{done.stdout}\n{done.stderr}"


WITH_EXAMPLES = [path for path in sorted((REPO / "detkd").rglob("*.py")) if ">>> " in path.read_text(encoding="utf-8")]


@pytest.mark.parametrize("path", WITH_EXAMPLES, ids=lambda path: str(path.relative_to(REPO)))
def test_docstring_examples(path: Path) -> None:
    module = importlib.import_module(".".join(path.relative_to(REPO).with_suffix("").parts).removesuffix(".__init__"))
    result = doctest.testmod(module, optionflags=doctest.NORMALIZE_WHITESPACE)
    assert result.attempted > 0
    assert result.failed == 0


def test_blocks_are_found() -> None:
    text = "x\n\n<!-- test: skip no network -->\n\n```bash\na \\\n  b\n# c\n```\n\n```python\nd\n```\n"
    first, second = blocks(text, REPO / "README.md")
    assert (first.language, first.mark, first.line) == ("bash", "skip no network", 5)
    assert commands(first) == ["a    b"]
    assert (second.language, second.mark, second.text) == ("python", "", "d\n")


def test_sweeps_become_their_first_and_last_job() -> None:
    assert compositions(arguments("detkd distill seed=0,1,2 device=cpu --multirun  # all")) == [
        ["distill", "seed=0", "device=cpu", "--cfg", "job"],
        ["distill", "seed=2", "device=cpu", "--cfg", "job"],
    ]
    assert compositions(["train", "device=0,1"]) == [["train", "device=0,1", "--cfg", "job"]]
    assert compositions(["--help"]) == [["--help"]]
