"""Give detkd every bad input of the table and write what it says to docs/benchmarks/bad-input.md.

    python scripts/campaigns/bad_input.py [--check]

With --check nothing is written; the exit status is 1 when an input is not refused in its own words.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import warnings
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from tests.hostile import good  # noqa: E402
from tests.hostile.case import Case  # noqa: E402
from tests.hostile.cases import CASES  # noqa: E402
from tests.hostile.play import Answer, play  # noqa: E402

TARGET = ROOT / "docs" / "benchmarks" / "bad-input.md"
LONGEST = 220

HEAD = """# Bad input

{count} inputs that are wrong in one way each, given to detkd one after the other: {kinds}.
{refused} are refused with exit status 2 and one message, {counted} are left out and counted because `on_bad=skip` or a
folder with other pictures asked for it. None gives a traceback, runs what is in the file, or leaves half-written files.
The table is made by `python scripts/campaigns/bad_input.py`; `tests/hostile/` holds the inputs and runs them all.

| Input | Command | What it says | Verdict |
|---|---|---|---|
"""


def verdict(case: Case, answer: Answer) -> str:
    """Return what became of an input."""
    if answer.status != (0 if case.counted else 2) or case.says not in answer.text or "Traceback" in answer.text:
        return "**WRONG**"
    return "counted" if case.counted else "refused"


def said(case: Case, answer: Answer) -> str:
    """Return the line of the answer that matters."""
    lines = answer.text.splitlines() if case.counted else answer.message.splitlines()
    line = next((line for line in lines if case.says in line), "".join(lines[:1]))
    return line.partition(": ")[2] if line.startswith("detkd") else line.strip()


def cell(text: str, longest: int = LONGEST) -> str:
    """Return a text for a cell of a Markdown table."""
    line = " ".join(text.split())
    line = line if len(line) <= longest else f"{line[:longest]}..."
    for old, new in (("\\", "\\\\"), ("|", "\\|"), ("<", "&lt;"), ("`", "'"), ("*", "\\*"), ("[", "\\["), ("_", "\\_")):
        line = line.replace(old, new)
    return line


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    warnings.simplefilter("ignore")
    os.environ["DETKD_FILE_LIMIT_MB"] = "64"
    rows, verdicts = [], Counter[str]()
    with tempfile.TemporaryDirectory() as store:
        good.STORE[:] = [Path(store)]
        for case in CASES:
            with tempfile.TemporaryDirectory() as folder:
                answer = play(case, Path(folder))
                text = said(case, answer).replace(folder, ".").replace(str(ROOT), ".")
            became = verdict(case, answer)
            verdicts[became] += 1
            rows.append(f"| {cell(case.id)} | `{cell(answer.typed, 90)}` | {cell(text)} | {became} |")
            print(f"{became}: {case.id}", file=sys.stderr)
    kinds = ", ".join(f"{kind} {count}" for kind, count in Counter(case.kind for case in CASES).items())
    head = HEAD.format(count=len(CASES), kinds=kinds, refused=verdicts["refused"], counted=verdicts["counted"])
    if not check:
        TARGET.write_text(head + "\n".join(rows) + "\n", encoding="utf-8")
    return 1 if verdicts["**WRONG**"] else 0


if __name__ == "__main__":
    sys.exit(main())
