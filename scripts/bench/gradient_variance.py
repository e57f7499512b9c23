"""Do soft labels teach more per image? The variance of the gradient between images, for hard labels and soft ones.

    python scripts/bench/gradient_variance.py --student runs/x/weights/last.pt --teacher runs/t --data data/toy_demo
    python scripts/bench/gradient_variance.py --json

Hinton et al. (2015) say that soft labels carry more information per case and far less variance in the gradient between
cases. This measures it for a detector: one gradient per image (batch statistics frozen), over all weights, for the
native loss on the labels and for distillation at several temperatures. Relative variance is
`E |g_i - E g|^2 / |E g|^2`, with |E g|^2 estimated from pairs of different images. It has no unit and does not depend
on the size of the loss: it is the number of images a batch needs for signal and noise to be equally strong.

The last line is one JSON object with a row per loss.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import detkd.environment

import numpy as np
import torch
from rich.table import Table
from torch import Tensor, nn
from ultralytics.cfg import get_cfg

from detkd.data.load import load_data
from detkd.losses.binary import BinaryLogits
from detkd.losses.boxes import BoxIoU, BoxL1
from detkd.losses.classic import ClassicLogits
from detkd.losses.recipe import Recipe
from detkd.losses.regions import TeacherTop
from detkd.models.head import AssignmentRecorder, native_weights, read_view
from detkd.models.teacher import LiveTeacher
from detkd.models.weights import build_detector, detect_head, resolve
from detkd.progress import out, track
from detkd.runs import environment_record
from detkd.training.dataset import RecordDataset

TEMPERATURES = (1.0, 2.0, 4.0, 8.0)
RESAMPLES = 2000


def recipe(loss: nn.Module) -> Recipe:
    """Return one term, as strong as the recipe's own, over the teacher's best anchors and those of the labels."""
    return Recipe.from_parts({"one": {"loss": loss}}, region=TeacherTop(fraction=0.05), alpha=0.0)


def losses() -> dict[str, Recipe | None]:
    """Return the soft losses by name; None stands for the native one."""
    import warnings

    found: dict[str, Recipe | None] = {"hard: all": None, "hard: class": None, "hard: box": None}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the sigmoid loss warns of temperatures above 1: they are what is measured
        for t in TEMPERATURES:
            found[f"soft: class, sigmoid, T={t:g}"] = recipe(BinaryLogits(temperature=t))
        for t in TEMPERATURES:
            found[f"soft: class, sigmoid, T={t:g}, gamma=0"] = recipe(BinaryLogits(temperature=t, gamma=0.0))
        for t in TEMPERATURES:
            found[f"soft: class, softmax, T={t:g}"] = recipe(ClassicLogits(temperature=t, score_weight=True))
    found["soft: box, GIoU"] = recipe(BoxIoU())
    found["soft: box, L1"] = recipe(BoxL1())
    return found


def gradient(model: nn.Module, loss: Tensor, *, keep: bool) -> np.ndarray:
    """Return the gradient of a scalar with respect to all weights, as one row."""
    weights = [p for p in model.parameters() if p.requires_grad]
    parts = torch.autograd.grad(loss, weights, retain_graph=keep, allow_unused=True)
    rows = [torch.zeros_like(p) if g is None else g for p, g in zip(weights, parts, strict=True)]
    return torch.cat([row.flatten() for row in rows]).double().numpy()


def common_share(gram: np.ndarray) -> tuple[float, float]:
    """Return the share of the gradient all images have in common and the mean cosine, from products of pairs (N, N).

    The mean product of two different images estimates |mean g|^2 without the noise that the mean of N gradients still
    holds; a negative estimate counts as 0.
    """
    n = len(gram)
    square = float(np.trace(gram)) / n  # mean |g|^2
    signal = (float(gram.sum()) - float(np.trace(gram))) / (n * (n - 1))
    lengths = np.sqrt(np.maximum(np.diag(gram), 1e-30))
    cosines = (gram / np.outer(lengths, lengths)).sum() - n
    return max(signal / max(square, 1e-30), 0.0), float(cosines / (n * (n - 1)))


def with_interval(gram: np.ndarray, rng: np.random.Generator) -> dict[str, Any]:
    """Return the numbers of one loss with a 95 % interval: half of the images drawn without repetition.

    Half samples without repetition vary as much as bootstrap samples do, and hold no pair of one image with itself.
    """
    share, cosine = common_share(gram)
    n = len(gram)
    draws = [common_share(gram[np.ix_(c, c)])[0] for c in (rng.permutation(n)[: n // 2] for _ in range(RESAMPLES))]
    low, high = np.percentile(draws, [2.5, 97.5])
    return {
        "relative_variance": as_variance(share),
        "low": as_variance(float(high)),
        "high": as_variance(float(low)),
        "common_share": share,
        "mean_cosine": cosine,
    }


def as_variance(share: float) -> float | None:
    """Return noise over signal; None where no signal can be told from none."""
    return None if share < 1e-4 else (1 - share) / share


def text(value: float | None) -> str:
    """Return a number for the table."""
    return "no signal" if value is None else f"{value:.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--student", default="yolo26.yaml", help="checkpoint or model YAML (half the nano's width)")
    parser.add_argument("--teacher", default="detkd/assets/demo_teacher.pt")
    parser.add_argument("--data", default="data/toy_demo")
    parser.add_argument("--split", default="train")
    parser.add_argument("--images", type=int, default=96)
    parser.add_argument("--imgsz", type=int, default=192)
    parser.add_argument("--teacher-imgsz", type=int, default=None)
    parser.add_argument("--json", action="store_true", help="print the JSON line only")
    given = parser.parse_args()
    torch.manual_seed(0)
    spec = load_data(given.data, on_bad="skip")
    scale = {"depth": 0.5, "width": 0.125, "max_channels": 1024} if given.student.endswith(".yaml") else None
    student: Any = build_detector(given.student, spec.names, key="student", scale=scale)
    student.args = get_cfg(overrides={"imgsz": given.imgsz})
    student.eval().requires_grad_(True)  # batch statistics stay as they are: a batch of one has none
    teacher = LiveTeacher.load(str(resolve(given.teacher, key="teacher")), spec.names)
    size = given.teacher_imgsz or given.imgsz
    dataset = RecordDataset(
        spec.splits[given.split], seed=0, imgsz=size, augment=False, hyp=student.args, rect=False, cache=None,
        stride=32, pad=0.0, batch_size=1, classes=None, single_cls=False,
        data={"names": dict(enumerate(spec.names)), "nc": len(spec.names), "channels": 3},
    )  # fmt: skip
    chosen = np.random.default_rng(0).permutation(len(dataset))
    chosen = [int(i) for i in chosen if len(dataset.labels[int(i)]["cls"])][: given.images]
    terms = losses()
    rows: dict[str, list[np.ndarray]] = {name: [] for name in terms}
    student.criterion = student.init_criterion()
    recorder = AssignmentRecorder(student.criterion)
    head = detect_head(student, key="student", source="the student")
    for index in track(chosen, "one gradient per image"):
        batch: dict[str, Any] = dataset.collate_fn([dataset[index]])
        batch["img"] = batch["img"].float() / 255
        if size != given.imgsz:
            batch["img_teacher"] = batch["img"]
            batch["img"] = nn.functional.interpolate(batch["img"], size=(given.imgsz, given.imgsz), mode="area")
        outputs = student(batch["img"])[1]
        native, _ = student.loss(batch, outputs)
        view = read_view(outputs, head)
        answer = teacher.answer(batch, view)
        assigned = recorder.take()
        hard: dict[str, Callable[[], Tensor]] = {
            "hard: all": native.sum,
            "hard: class": lambda native=native: native[1],
            "hard: box": lambda native=native: native[0] + native[2],
        }
        for name, term in terms.items():
            native_shares = native_weights(student.criterion)
            loss = hard[name]() if term is None else term(view, answer, assigned, 0.5, native_shares)[0]
            rows[name].append(gradient(student, loss, keep=True).astype(np.float32))
    rng = np.random.default_rng(0)
    table = Table(title=f"gradient between images, {len(chosen)} images, {Path(given.student).name}")
    table.add_column("loss", no_wrap=True)
    for column in ("relative variance", "95 % interval", "mean cosine"):
        table.add_column(column, justify="right")
    record: dict[str, Any] = {}
    for name, parts in rows.items():
        stack = np.stack(parts).astype(np.float64)
        one = record[name] = with_interval(stack @ stack.T, rng)
        interval = f"{text(one['low'])} to {text(one['high'])}"
        table.add_row(name, text(one["relative_variance"]), interval, f"{one['mean_cosine']:.2f}")
    if not given.json:
        out.print(table)
    settings = {**vars(given), "seed": 0}
    print(json.dumps({"settings": settings, "losses": record, "environment": environment_record()}))


if __name__ == "__main__":
    main()
