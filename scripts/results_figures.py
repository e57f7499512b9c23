"""Draws the pictures of the documentation from the committed records: python scripts/results_figures.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from detkd.io import read_json

ROOT = Path(__file__).resolve().parents[1]
LIVE, STUDENT, OWN, GREY = "#555555", "#0b6e99", "#c2571a", "#999999"

PLAIN = ("control_time", "plain4", "plain12", "plain14", "plain17")
"""Trainings without a teacher for another time than the control."""


def cache_curve(record: dict[str, Any], target: Path) -> None:
    """AP of one seed against bytes per image, one point per setting; live as a line."""
    rows = record["parts"]["curve"]
    # Several points share a size: their labels go to different sides.
    places = {
        "all anchors, float32": (-2, -13, "right"),
        "K 128, int8, 15 views": (-8, -3, "right"),
        "objects": (7, -4, "left"),
    }
    figure, axes = plt.subplots(figsize=(7.2, 3.8), layout="constrained")
    images = min(row["records"] for row in rows)
    for row in rows:
        size = row["bytes"] / images / 1000
        axes.plot(size, row["after"], "o", color=OWN if row["setting"] == "objects" else STUDENT)
        x, y, side = places.get(row["setting"], (6, 4, "left"))
        axes.annotate(row["setting"], (size, row["after"]), (x, y), textcoords="offset points", fontsize=7.5, ha=side)
    axes.axhline(rows[0]["before"], color=LIVE, linestyle="--", linewidth=1)
    axes.annotate("live teacher, same seed", (0.99, rows[0]["before"]), (0, 4), xycoords=("axes fraction", "data"),
                  textcoords="offset points", fontsize=7.5, ha="right", color=LIVE)  # fmt: skip
    axes.set_xscale("log")
    axes.set_xlabel("kB stored per image, all views (log scale)")
    axes.set_ylabel("AP on 160 test images")
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(target, dpi=130)


def label_efficiency(records: dict[str, dict[str, Any]], target: Path) -> None:
    """AP against the share of labels, with the intervals of the difference to the control with all labels."""
    figure, panels = plt.subplots(
        1, len(records), figsize=(4.2 * len(records), 3.6), layout="constrained", squeeze=False
    )
    for axes, (title, record) in zip(panels[0], records.items(), strict=True):
        curve = record["curve"]
        full = sum(run["AP"] for run in curve["full"]) / len(curve["full"])
        axes.axhline(full, color=LIVE, linestyle="--", linewidth=1)
        axes.annotate("control, all labels", (0.02, full), (0, 4), xycoords=("axes fraction", "data"),
                      textcoords="offset points", fontsize=7.5, color=LIVE)  # fmt: skip
        for row, colour, name in (("given", STUDENT, "given teacher"), ("own", OWN, "teacher of the same labels")):
            cells = {key: cell for key, cell in curve.items() if key.startswith(f"{row}-") and cell["against_full"]}
            points = [(float(key.split("-")[1]), cell["against_full"]["AP"]) for key, cell in cells.items()]
            shares = [share for share, _ in points]
            means = [one["after"] for _, one in points]
            spread = [
                [one["difference"] - one["interval"][0] for _, one in points],
                [one["interval"][1] - one["difference"] for _, one in points],
            ]
            shift = 0.97 if row == "given" else 1.03
            axes.errorbar([s * shift for s in shares], means, spread, fmt="o-", color=colour, label=name, capsize=3)
        axes.set_xscale("log")
        axes.set_xticks([0.05, 0.1, 0.25, 0.5], ["5 %", "10 %", "25 %", "50 %"])
        axes.minorticks_off()
        axes.set_xlabel("images with labels; the rest without")
        axes.set_ylabel("AP")
        axes.set_title(title, fontsize=10)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(fontsize=7.5, frameon=False, loc="lower right")
    figure.savefig(target, dpi=130)


def gains(summary: dict[str, Any], titles: dict[str, str], target: Path) -> None:
    """AP50 over the control of every method with at least two seeds, a panel per set, the best on top."""
    panels: dict[str, list[tuple[float, str, dict[str, Any]]]] = {}
    for name in titles:
        over = {label: entry["over_control"] for label, entry in summary[name].items() if "over_control" in entry}
        panels[name] = sorted((one["gain50"]["mean"], label, one) for label, one in over.items() if one["seeds"] > 1)
    heights = [len(rows) + 1.6 for rows in panels.values()]
    figure, all_axes = plt.subplots(
        len(panels), 1, figsize=(7.2, 0.24 * sum(heights)), layout="constrained", sharex=True, height_ratios=heights
    )
    for axes, (name, rows) in zip(all_axes, panels.items(), strict=True):
        for place, (mean, label, one) in enumerate(rows):
            gain = one["gain50"]
            colour = OWN if label == "ultralytics" else GREY if label in PLAIN else STUDENT
            spread = [[mean - gain["low"]], [gain["high"] - mean]]
            axes.errorbar(mean, place, xerr=spread, fmt="o", color=colour, capsize=2.5, markersize=4)
        axes.set_yticks(range(len(rows)), [f"{label} ({one['seeds']})" for _, label, one in rows], fontsize=7.5)
        axes.set_ylim(-0.7, len(rows) - 0.3)
        axes.axvline(0, color=LIVE, linewidth=1)
        axes.set_title(titles[name], fontsize=9, loc="left")
        axes.grid(alpha=0.25, axis="x")
        axes.spines[["top", "right"]].set_visible(False)
    all_axes[-1].tick_params(axis="x", labelsize=8)
    all_axes[-1].set_xlabel("AP50 over the control, points, 95 % interval; in brackets: seeds", fontsize=8.5)
    figure.savefig(target, dpi=130)


def main() -> None:
    results, images = ROOT / "results", ROOT / "docs" / "images"
    cache_curve(read_json(results / "cache_bench.json"), images / "cache_curve.png")
    names = {"drawn street scenes, half a nano": "toy", "real road cameras, nano": "cctv"}
    found = {title: results / f"unlabelled_{name}.json" for title, name in names.items()}
    label_efficiency(
        {title: read_json(file) for title, file in found.items() if file.is_file()}, images / "label_efficiency.png"
    )
    sets = {
        "toy": "drawn street scenes, half a nano from random weights, 160 pixels",
        "cctv": "road cameras, nano from COCO weights, 160 pixels, all labels",
        "cctv_256": "the same, 256 pixels, half the epochs",
        "cctv_few": "the same, a tenth of the labels; the other images taught by the teacher",
        "bccd": "blood cells, half a nano from random weights, 160 pixels",
    }
    gains(read_json(results / "distillation" / "summary.json"), sets, images / "distillation_gains.png")


if __name__ == "__main__":
    main()
