"""The picture of docs/scale-cost.md."""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from scale_limits import breaks
from scale_model import DESIGNS, Assumptions, Costs, base_bill, bill
from scale_table import LABELS

COLOURS = {"live": "#555555", "views": "#0b6e99", "instances": "#c2571a", "control": "#bbbbbb"}


def picture(c: Costs, a: Assumptions, target: Path) -> None:
    """Money over frames, and below it from how many frames on each limit bites."""
    figure, (axes, lanes) = plt.subplots(2, 1, figsize=(8.4, 7.6), layout="constrained", sharex=True,
                                         height_ratios=(1.15, 1))  # fmt: skip
    xs = np.logspace(5, 10.4, 40)
    for design in ("control", *DESIGNS):
        ys = [(base_bill(x, c, a) if design == "control" else bill(design, x, c, a)).total for x in xs]
        name = LABELS.get(design, "the training itself").strip("`")
        axes.plot(xs, ys, color=COLOURS[design], linestyle=":" if design == "control" else "-", linewidth=2, label=name)
    axes.set_yscale("log")
    axes.set_ylim(1, None)
    axes.set_ylabel("US dollars")
    axes.set_title(f"What supplying a teacher's answers costs ({a.epochs:g} epochs), and where it breaks", fontsize=10,
                   loc="left")  # fmt: skip
    axes.legend(fontsize=8.5, frameon=False, loc="upper left")
    limits = [one for one in breaks(c, a) if xs[0] < one.frames < xs[-1]]
    for row, one in enumerate(limits):
        colour = COLOURS.get(one.design, "#888888")
        left = one.frames > 5e8
        lanes.plot(one.frames, -row, "o", color=colour, markersize=5)
        lanes.annotate(one.what, (one.frames, -row), (-7 if left else 7, 0), textcoords="offset points", fontsize=7.5,
                       va="center", ha="right" if left else "left", color=colour)  # fmt: skip
        if one.design == "all":
            axes.axvline(one.frames, color="#bbbbbb", linewidth=0.8, linestyle="--", zorder=0)
        else:
            axes.plot(one.frames, bill(one.design, one.frames, c, a).total, "o", color=colour, markersize=5)
    lanes.set_yticks([])
    lanes.set_xscale("log")
    lanes.set_xlabel("frames; grey: limits of all designs, colours: of one")
    for one in (axes, lanes):
        one.grid(alpha=0.2, axis="x")
        one.spines[["top", "right"]].set_visible(False)
    figure.savefig(target, dpi=100)
    plt.close(figure)
