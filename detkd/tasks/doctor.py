"""`detkd doctor`: everything that can be known of a distillation before it costs hours."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from detkd.errors import ConfigError, printable
from detkd.io import write_json
from detkd.progress import console, out
from detkd.runs import finish_run, new_folder, start_run
from detkd.tasks.common import get_data
from detkd.tasks.doctor_checks import Finding
from detkd.tasks.doctor_visit import Visit
from detkd.tasks.pool import with_unlabelled
from detkd.tasks.teachers import with_packaged_teacher

__all__ = ["DoctorResult", "Finding", "doctor"]

REPORT_FILE = "doctor.json"
"""Name of the report in the run folder."""

_STYLES = {"ok": "green", "warning": "yellow", "problem": "red", "skipped": "dim"}


@dataclass(frozen=True)
class DoctorResult:
    """What `detkd doctor` found.

    Attributes:
        folder: Where `doctor.json` is.
        findings: One per check, in their order.
    """

    folder: Path
    findings: tuple[Finding, ...]

    @property
    def verdict(self) -> str:
        """The worst of all findings: ok, warning or problem."""
        verdicts = {finding.verdict for finding in self.findings}
        return next((one for one in ("problem", "warning") if one in verdicts), "ok")

    @property
    def status(self) -> int:
        """Exit status of the command: 1 where something must be mended first."""
        return int(self.verdict == "problem")

    def finding(self, check: str) -> Finding:
        """Return one row by its name.

        Raises:
            KeyError: If there is none.
        """
        for one in self.findings:
            if one.check == check:
                return one
        raise KeyError(check)


def doctor(config: dict[str, Any]) -> DoctorResult:
    """Run `detkd doctor`.

    Raises:
        ConfigError: If a key of its own can't be used.
        DataError: If the data can't be read; nothing can be said without it.
    """
    from detkd.models.weights import quiet
    from detkd.training.integrations import switched

    for key, least in (("images", 1), ("steps", 8), ("seconds", 1)):
        if isinstance(config[key], bool) or not isinstance(config[key], int) or config[key] < least:
            raise ConfigError(f"{key}: must be a whole number of {least} or more, got {config[key]!r}; e.g. {key}=40")
    # The run itself takes these words next: `out` and `name` stay free for it.
    folder = new_folder(Path(str(config["out"])) / "doctor" if config.get("out") else None, "doctor")
    start_run(folder, "doctor", config)
    config = with_packaged_teacher(config)
    spec = with_unlabelled(get_data(config["data"]), config)
    visit = Visit(config, spec, folder)
    with quiet(20 if config.get("verbose") else 40), switched(()):
        visit.run()
    result = DoctorResult(folder, tuple(visit.findings))
    record = {"schema": 1, "verdict": result.verdict, "findings": [asdict(one) for one in result.findings]}
    write_json(folder / REPORT_FILE, record)
    finish_run(folder, verdict=result.verdict)
    if config["json"]:
        print(json.dumps(record, indent=2, ensure_ascii=False))
    else:
        out.print(report_table(result))
        out.print(summary(result), highlight=False, soft_wrap=True)
    console.print(f"[dim]report: {folder / REPORT_FILE}[/dim]", highlight=False, soft_wrap=True)
    return result


def report_table(result: DoctorResult) -> Table:
    """Return one row per check, with advice below what was found."""
    table = Table(title="detkd doctor", show_lines=False, expand=False)
    table.add_column("check", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    table.add_column("what was found", overflow="fold")
    for one in result.findings:
        style = _STYLES[one.verdict]
        advice = (f"\n-> {printable(one.advice)}", style) if one.advice else ""
        table.add_row(one.check, Text(one.verdict, style), Text.assemble(printable(one.text), advice))
    return table


def summary(result: DoctorResult) -> str:
    """Return the last line."""
    count = {name: sum(one.verdict == name for one in result.findings) for name in _STYLES}
    if result.verdict == "problem":
        return f"problems: {count['problem']}, warnings: {count['warning']}; mend the problems before you train"
    if result.verdict == "warning":
        return f"problems: 0, warnings: {count['warning']}; read them, then train"
    return "nothing stands in the way of this run"
