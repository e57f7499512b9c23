"""Print the README's results table from the committed result files: `python scripts/results_table.py`."""

from __future__ import annotations

from pathlib import Path

from detkd.io import read_json

HEAD = ("result file", "seed", "teacher", "control", "distilled", "gain AP", "gain AP50")


def row(path: Path) -> tuple[str, ...]:
    record = read_json(path)
    sides = (f"{record[name]['AP']:.1f} / {record[name]['AP50']:.1f}" for name in ("teacher", "control", "distilled"))
    gain = record["gain"]
    link = f"[{path.stem}]({path.as_posix()})"
    return (link, str(record["seed"]), *sides, f"{gain['AP']:+.1f}", f"{gain['AP50']:+.1f}")


def main() -> None:
    print("| " + " | ".join(HEAD) + " |\n" + "|---" * len(HEAD) + "|")
    for path in sorted(Path("results").glob("*.json")):
        if "distilled" in read_json(path):
            print("| " + " | ".join(row(path)) + " |")


if __name__ == "__main__":
    main()
