"""What a bad teacher does to a student, and what the weights of teacher errors change about it.

Two bad teachers are made from a good one by moving the bias of its class scores: `eager` sees objects where there are
none, `blind` misses those there are. Students learn from each with and without the weights `w_fp` and `w_fn` of the
class term, from the same weights, images and order as a control. A table then gives, on the test images, false alarms
per image and recall, both at the score threshold that a camera would use whoever trained the detector, and false alarms
per image at the control's recall, where thresholds can't hide anything. The rows `exposure` add pressure where the
student itself is wrong (`distill=exposure`).

    python scripts/bench/teacher_errors.py --out runs/bench_teacher_errors --seeds 0 1 2

Finished runs are read, not repeated; the record is written to results/teacher_errors.json.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from detkd import api
from detkd.config import compose
from detkd.diagnosis.working_point import at_threshold, sweep
from detkd.evaluation.side import Run, make_run
from detkd.evaluation.truth import load_truth
from detkd.io import read_json, write_json
from detkd.models.weights import load_detector
from detkd.progress import console
from detkd.runs import environment_record
from detkd.training.checkpoint import save_plain

SHIFTS = {"good": 0.0, "eager": 3.0, "blind": -3.0}
"""Added to every class logit of the good teacher, in both heads."""

THRESHOLD = 0.25
"""Score from which a detection counts."""

COMMON = [
    "student=yolo26n_half", "data=toy_demo", "data.label_noise=null", "imgsz=160", "epochs=10", "batch=8",
    "augment=none", "device=cpu", "pictures=0", "control=false", "cache=views", "cache.views=10", "cache.k=all",
    "cache.check=0", "trainer.optimizer=AdamW", "trainer.lr0=0.002", "trainer.momentum=0.9",
    "trainer.cos_lr=true", "trainer.warmup_epochs=1.0", "trainer.mosaic=0.0", "trainer.cache=ram", "trainer.val=false",
]  # fmt: skip
"""Words of every run; the control is the recipe without terms, so that it is shown the same views. All anchors are
stored, because `exposure` asks about any of them."""

FP = [f"distill.terms.{term}.loss.w_fp=0" for term in ("cls", "giou", "l1")]
FN = [f"distill.terms.{term}.loss.w_fn=0" for term in ("cls", "giou", "l1")]

ARMS: dict[str, tuple[str, str, list[str]]] = {
    "binary, good teacher": ("good", "binary", []),
    "binary, eager teacher": ("eager", "binary", []),
    "binary, eager teacher, w_fp=0": ("eager", "binary", FP),
    "binary, blind teacher": ("blind", "binary", []),
    "binary, blind teacher, w_fn=0": ("blind", "binary", FN),
    "classic, eager teacher": ("eager", "classic", []),
    "classic, eager teacher, w_fp=0": ("eager", "classic", FP),
    "exposure, good teacher": ("good", "exposure", []),
}
"""Row of the table: teacher, recipe, overrides."""


def make_teachers(good: Path, folder: Path) -> dict[str, Path]:
    """Write the teachers that are wrong on purpose."""
    files = {}
    for name, shift in SHIFTS.items():
        files[name] = folder / f"teacher_{name}.pt"
        if not files[name].is_file():
            model = load_detector(good, key="teacher")
            head: Any = model.model[-1]
            for towers in (head.cv3, head.one2one_cv3):
                for tower in towers:
                    with torch.no_grad():
                        tower[-1].bias += shift
            folder.mkdir(parents=True, exist_ok=True)
            save_plain(model, files[name], train_args={"imgsz": 192}, metrics={})
    return files


def run(verb: str, folder: Path, words: Iterable[str]) -> None:
    """Run a verb in a folder, or go on with what is there."""
    if (folder / "run.json").is_file() and read_json(folder / "run.json")["status"] == "done":
        return
    words = [f"resume={folder}"] if (folder / "config.yaml").is_file() else [*words, f"out={folder}"]
    console.rule(f"{folder.name}: detkd {verb} {' '.join(words)}"[:200])
    getattr(api, verb)(compose(verb, words))


def numbers(folder: Path, recall: float | None) -> dict[str, float | None]:
    """Return AP, false alarms and recall of a finished run."""
    found: Run = make_run(load_truth(folder / "ground_truth.json"), folder / "detections.json")
    point = at_threshold(found.matches, THRESHOLD)
    curve = sweep(found.matches)
    reached = [] if recall is None else [i for i in range(len(curve.score)) if curve.hits[i] >= recall * curve.objects]
    return {
        "AP": found.metrics.AP,
        "AP50": found.metrics.AP50,
        "false_per_image": point["false_per_image"],
        "recall": point["recall"],
        "false_at_recall": int(curve.false[reached[0]]) / found.matches.images if reached else None,
    }


def main() -> None:
    """Train what is missing, write the record and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", type=Path, default=Path("detkd/assets/demo_teacher.pt"))
    parser.add_argument("--out", type=Path, default=Path("runs/bench_teacher_errors"))
    parser.add_argument("--record", type=Path, default=Path("results/teacher_errors.json"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    teachers = make_teachers(options.teacher, options.out)
    rows: dict[str, list[dict[str, float | None]]] = {}
    for seed in options.seeds:
        words = [*COMMON, f"seed={seed}", f"threads={options.threads}"]
        control = options.out / f"control-{seed}"
        run("distill", control, [*words, "distill=none", f"teacher={teachers['good']}"])
        recall = 0.8 * float(numbers(control, None)["recall"] or 0.0)
        rows.setdefault("control", []).append(numbers(control, recall))
        for name, (teacher, recipe, overrides) in ARMS.items():
            folder = options.out / f"{name.replace(', ', '-').replace(' ', '_').replace('=', '')}-{seed}"
            run("distill", folder, [*words, f"distill={recipe}", f"teacher={teachers[teacher]}", *overrides])
            rows.setdefault(name, []).append(numbers(folder, recall))
    record = {
        "schema": 1,
        "command": "scripts/bench/teacher_errors.py",
        "settings": {"shifts": SHIFTS, "threshold": THRESHOLD, "common": COMMON, "seeds": options.seeds},
        "environment": environment_record(),
        "rows": rows,
    }
    write_json(options.record, record)
    console.print(table(rows))


def table(rows: dict[str, list[dict[str, float | None]]]) -> str:
    """Return the means over the seeds as a Markdown table."""
    lines = [
        f"| student | AP50 | false alarms per image at {THRESHOLD} | recall at {THRESHOLD} | false alarms per image at "
        "80 % of the control's recall |",
        "|---|---|---|---|---|",
    ]
    for name, runs in rows.items():
        cells = []
        for key, form in (("AP50", "{:.1f}"), ("false_per_image", "{:.2f}"), ("recall", "{:.3f}"),
                          ("false_at_recall", "{:.2f}")):  # fmt: skip
            values = [run[key] for run in runs if run[key] is not None]
            cells.append(form.format(statistics.mean(values)) if values else "not reached")  # type: ignore[type-var]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
