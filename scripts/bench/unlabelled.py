"""What unlabelled images are worth: hard against soft labels against both, and the label-efficiency curve.

    DETKD_ASSETS=folder python scripts/bench/unlabelled.py --set toy       # drawn street scenes, half a nano
    DETKD_ASSETS=folder python scripts/bench/unlabelled.py --set cctv --teacher runs/cctv_teacher    # real cameras

`kinds`: the same student five times: labels alone (control), labels and a teacher (distilled), and with a pool of
unlabelled images beside them: the teacher's boxes as labels (hard), its answers (soft), both. All make the same number
of steps. The pool comes from `detkd pseudolabel`; on the drawn set it is 75 % of the training images without their
labels, on the road cameras the 544 images of the split `pool`.

`curve`: a control with all labels, and students with 5, 10, 25 and 50 % of them and the rest as unlabelled images: with
the given teacher, and with a teacher trained on the same few labels only. At 25 % also the control with these labels
and as many steps.

Run folders stay in `--out` and are not repeated, so an interrupted bench goes on, and several processes may share the
work with `--jobs`. The last line of the output is one JSON object.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from detkd import api
from detkd.config import compose
from detkd.data.coco import to_coco
from detkd.data.records import DetectionSet
from detkd.data.unlabelled import hide_labels, labelled_only
from detkd.io import read_json, write_json
from detkd.progress import console, out
from detkd.runs import environment_record
from detkd.tasks.common import get_data

SHARES = (0.05, 0.1, 0.25, 0.5)
POOL_SHARE = 0.25
"""Labelled part of the drawn set where the rest is the pool."""

COMMON = ["device=cpu", "pictures=0", "augment=none", "batch=8", "trainer.optimizer=AdamW", "trainer.momentum=0.9",
          "trainer.cos_lr=true", "trainer.mosaic=0.0", "trainer.cache=ram", "trainer.val=false"]  # fmt: skip


class Setting:
    """A data set with its student and its given teacher.

    Attributes:
        data: Words that choose the data.
        student: Words of the student, without its key.
        shape: Words of the training: size, epochs, learning rate.
        teacher: The given teacher and the size it sees.
        recipe: Words of the distillation.
        precision: Asked of the teacher's boxes; one that it reaches for every class.
        few: Words of a teacher that learns from few labels, for a number of images.
    """

    def __init__(self, teacher: str) -> None:
        self.teacher = [f"teacher={teacher}"]

    data: Sequence[str]
    student: str
    shape: Sequence[str]
    recipe: Sequence[str]
    precision = 0.5

    def few(self, images: int) -> list[str]:
        """Return the words of a teacher trained on so many images: as many steps whatever their number."""
        raise NotImplementedError


class Toy(Setting):
    """The demo's drawn set with accurate labels."""

    data = ("data=toy_demo", "data.label_noise=null")
    student = "yolo26n_half"
    shape = ("imgsz=192", "epochs=15", "trainer.lr0=0.002", "trainer.warmup_epochs=1.0")
    recipe = (
        "distill.calibrate=null",
        "distill.alpha=0.2",
        "distill.region.fraction=0.05",
        "cache=views",
        "cache.check=0",
    )

    def few(self, images: int) -> list[str]:
        """Fine-tune a COCO nano at the student's size for about 280 steps."""
        epochs = max(1, round(280 / -(-images // 8)))
        return [f"model={os.environ['DETKD_ASSETS']}/weights/yolo26n.pt", "imgsz=192", f"epochs={epochs}",
                "trainer.lr0=0.0008", "trainer.warmup_epochs=0.5"]  # fmt: skip


class Cctv(Setting):
    """Real road cameras; the teacher sees twice the student's size."""

    student = "ASSETS/weights/yolo26n.pt"
    shape = ("imgsz=256", "load_imgsz=512", "epochs=2", "trainer.lr0=0.0008", "trainer.warmup_epochs=0.5")
    recipe = (
        "distill.calibrate=null",
        "distill.region.fraction=0.05",
        "teacher.imgsz=512",
        "cache=views",
        "cache.views=1",
        "cache.check=0",
    )

    def __init__(self, teacher: str) -> None:
        super().__init__(teacher)
        assets = os.environ["DETKD_ASSETS"]
        self.data = [f"data={assets}/data/sg_traffic_cctv"]
        self.student = f"{assets}/weights/yolo26n.pt"

    def few(self, images: int) -> list[str]:
        """Fine-tune a COCO nano at the teacher's size for about 80 steps."""
        epochs = max(1, round(80 / -(-images // 8)))
        return [f"model={self.student}", "imgsz=512", f"epochs={epochs}", "trainer.lr0=0.0008",
                "trainer.warmup_epochs=0.5"]  # fmt: skip


def done(folder: Path) -> bool:
    return (folder / "run.json").is_file() and read_json(folder / "run.json")["status"] == "done"


def run(verb: str, folder: Path, words: Iterable[str]) -> None:
    """Run a verb in a folder, or go on with what is there."""
    if done(folder):
        return
    started = (folder / "config.yaml").is_file() and verb != "pseudolabel"
    words = [f"resume={folder}"] if started else [*words, f"out={folder}"]
    console.rule(f"{folder.name}: detkd {verb} {' '.join(words)}"[:200])
    getattr(api, verb)(compose(verb, words))


def subset(setting: Setting, folder: Path) -> tuple[list[str], Path]:
    """Write the labelled part of a set as COCO files and the pool as a folder of links."""
    pool = folder / "pool"
    config = compose("train", ["model=yolo26n.yaml", *setting.data])["data"]
    if isinstance(setting, Cctv):
        assets = Path(os.environ["DETKD_ASSETS"]) / "data" / "sg_traffic_cctv"
        names = [image["file_name"] for image in read_json(assets / "annotations" / "pool.json")["images"]]
        link(pool, [assets / "images" / name for name in names])
        return list(setting.data), pool
    spec = get_data(config)
    train: DetectionSet = hide_labels(spec.splits["train"], POOL_SHARE, seed=0)
    link(pool, [record.path for record in train.records if not record.labelled])
    sets = {"train": labelled_only(train), "val": spec.splits["val"], "test": spec.splits["test"]}
    for split, dataset in sets.items():
        content = to_coco(dataset)
        for entry, record in zip(content["images"], dataset.records, strict=True):
            entry["file_name"] = str(record.path)
        write_json(folder / "labelled" / "annotations" / f"{split}.json", content)
    return [f"data={folder / 'labelled'}", "data.name=toy_part"], pool


def link(folder: Path, files: Iterable[Path]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for file in files:
        if not (folder / file.name).exists():
            (folder / file.name).symlink_to(file.resolve())


def make_jobs(setting: Setting, folder: Path, seeds: list[int], more: list[str]) -> dict[str, Callable[[], None]]:
    """Return everything there is to do, by name."""
    jobs: dict[str, Callable[[], None]] = {}
    base = [*COMMON, *setting.shape, *more]
    given = [*setting.teacher, *setting.recipe]
    pseudo = folder / "pseudo"

    def kinds(seed: int, kind: str) -> None:
        data, pool = subset(setting, folder)
        here = folder / f"kind-{kind}-{seed}"
        mine = [*data, *base, f"seed={seed}"]
        if kind != "distilled":
            sizes = [word.replace("teacher.", "") for word in setting.recipe if word.startswith("teacher.imgsz")]
            run("pseudolabel", pseudo, [*setting.teacher, *data, f"source={pool}", *sizes, "device=cpu", "similar=0",
                                        "blur=0", "dark=0", f"precision={setting.precision}"])  # fmt: skip
        if kind == "distilled":
            run("distill", here, [*mine, *given, f"student={setting.student}", *equal_steps(setting, folder)])
        elif kind == "hard":
            run("train", here, [*mine, f"model={setting.student}", f"unlabelled={pseudo}", "unlabelled.labels=hard"])
        else:
            extra = [f"unlabelled={pseudo}", f"unlabelled.labels={kind}", f"student={setting.student}"]
            run("distill", here, [*mine, *given, *extra, *(["control=true"] if kind == "soft" else [])])

    def full(seed: int) -> None:
        run("train", folder / f"full-{seed}", [*setting.data, *base, f"seed={seed}", f"model={setting.student}"])

    def few(seed: int, share: float) -> None:
        images = round(
            share * len(get_data(compose("train", ["model=yolo26n.yaml", *setting.data])["data"]).splits["train"])
        )
        words = [*setting.data, *COMMON, *setting.few(images), *more, f"seed={seed}", f"data.labelled={share}"]
        run("train", folder / f"teacher-{share}-{seed}", words)

    def student(seed: int, share: float, row: str) -> None:
        words = [*setting.data, *base, f"seed={seed}", f"data.labelled={share}", f"student={setting.student}"]
        words += given
        if row == "own":
            few(seed, share)
            words = [word for word in words if not word.startswith("teacher=")]
            words.append(f"teacher={folder / f'teacher-{share}-{seed}'}")
        elif share == POOL_SHARE:
            words.append("control=true")
        run("distill", folder / f"{row}-{share}-{seed}", words)

    for seed in seeds:
        for kind in ("soft", "hard", "both", "distilled"):
            jobs[f"kind-{kind}-{seed}"] = lambda seed=seed, kind=kind: kinds(seed, kind)
        jobs[f"full-{seed}"] = lambda seed=seed: full(seed)
        for row in ("given", "own"):
            for share in SHARES:
                jobs[f"{row}-{share}-{seed}"] = lambda seed=seed, share=share, row=row: student(seed, share, row)
    return jobs


def equal_steps(setting: Setting, folder: Path) -> list[str]:
    """Return the epochs that give a student without a pool as many steps as one with it."""
    data, pool = subset(setting, folder)
    config = compose("train", ["model=yolo26n.yaml", *data])["data"]
    labelled = len(get_data(config).splits["train"])
    every = labelled + len(list(pool.iterdir()))
    epochs = int(next(word for word in setting.shape if word.startswith("epochs=")).partition("=")[2])
    return [f"epochs={round(epochs * every / labelled)}"]


def numbers(folder: Path, stem: str = "") -> dict[str, Any] | None:
    """Return AP, AP50 and seconds of a finished run."""
    if not (folder / f"{stem}metrics.json").is_file():
        return None
    metrics = read_json(folder / f"{stem}metrics.json")["metrics"]
    outcome = folder / "outcome.json"
    seconds = read_json(outcome)["seconds"] if outcome.is_file() and not stem else None
    cache = folder / "cache.json"
    built = read_json(cache)["build_seconds"] if cache.is_file() and not stem else None
    return {"AP": metrics["AP"], "AP50": metrics["AP50"], "train_seconds": seconds, "cache_seconds": built}


def against(before: list[Path], after: list[Path], folder: Path) -> dict[str, Any] | None:
    """Compare finished runs over their seeds and test images."""
    pairs = [(a, b) for a, b in zip(before, after, strict=True) if (a / "metrics.json").is_file() and done(b)]
    if not pairs:
        return None
    words = [
        f"before=[{','.join(str(a) for a, _ in pairs)}]",
        f"after=[{','.join(str(b) for _, b in pairs)}]",
        f"out={folder}",
    ]
    result = api.compare(compose("compare", words))
    rows = {
        row["key"]: row for row in read_json(result.folder / "compare.json")["rows"] if row["key"] in ("AP", "AP50")
    }
    return {
        key: {**row["values"], "difference": row["delta"], "interval": row["delta_interval"], "verdict": row["verdict"]}
        for key, row in rows.items()
    }


def assemble(folder: Path, seeds: list[int]) -> dict[str, Any]:
    """Collect what is finished."""
    paths: dict[str, list[Path]] = {"control": [folder / f"kind-soft-{seed}" / "control" for seed in seeds]}
    for kind in ("distilled", "hard", "soft", "both"):
        paths[kind] = [folder / f"kind-{kind}-{seed}" for seed in seeds]
    kinds = {
        kind: {
            "runs": [numbers(run) for run in runs],
            "against_control": None if kind == "control" else against(paths["control"], runs, folder / f"cmp-{kind}"),
        }
        for kind, runs in paths.items()
    }
    if all(run for run in paths["soft"] if done(run)):
        kinds["both"]["against_hard"] = against(paths["hard"], paths["both"], folder / "cmp-both-hard")
        kinds["soft"]["against_hard"] = against(paths["hard"], paths["soft"], folder / "cmp-soft-hard")
    full = [folder / f"full-{seed}" for seed in seeds]
    curve: dict[str, Any] = {"full": [numbers(run) for run in full]}
    for row in ("given", "own"):
        for share in SHARES:
            runs = [folder / f"{row}-{share}-{seed}" for seed in seeds]
            curve[f"{row}-{share}"] = {
                "runs": [numbers(run) for run in runs],
                "control": [numbers(run / "control") for run in runs] if row == "given" else None,
                "teacher": [numbers(run, "teacher_") for run in runs],
                "against_full": against(full, runs, folder / f"cmp-{row}-{share}"),
            }
    pseudo = folder / "pseudo" / "thresholds.json"
    return {
        "seeds": seeds,
        "kinds": kinds,
        "curve": curve,
        "thresholds": read_json(pseudo) if pseudo.is_file() else None,
        "pseudo_boxes": read_json(folder / "pseudo" / "run.json").get("boxes") if pseudo.is_file() else None,
        "environment": environment_record(),
    }


def tables(record: dict[str, Any]) -> Iterable[Table]:
    """Yield the tables for people: means over the seeds."""

    def mean(runs: list[dict[str, Any] | None] | None, key: str) -> str:
        values = [run[key] for run in runs or [] if run and run[key] is not None]
        return f"{sum(values) / len(values):.1f}" if values else "-"

    def difference(cell: dict[str, Any] | None) -> str:
        if not cell:
            return "-"
        low, high = cell["AP"]["interval"]
        return f"{cell['AP']['difference']:+.1f} ({low:+.1f} to {high:+.1f})"

    table = Table(title="hard, soft, both")
    for column in ("student", "AP", "AP50", "against control", "training, s", "cache, s"):
        table.add_column(column, justify="left" if column == "student" else "right")
    for kind, cell in record["kinds"].items():
        runs = cell["runs"]
        table.add_row(kind, mean(runs, "AP"), mean(runs, "AP50"), difference(cell["against_control"]),
                      mean(runs, "train_seconds"), mean(runs, "cache_seconds"))  # fmt: skip
    yield table
    table = Table(title=f"label efficiency; control with all labels: {mean(record['curve']['full'], 'AP')} AP")
    for column in ("teacher", "labels", "teacher AP", "control AP", "student AP", "against all labels"):
        table.add_column(column, justify="right")
    for row in ("given", "own"):
        for share in SHARES:
            cell = record["curve"][f"{row}-{share}"]
            table.add_row(row, f"{share:.0%}", mean(cell["teacher"], "AP"), mean(cell["control"], "AP"),
                          mean(cell["runs"], "AP"), difference(cell["against_full"]))  # fmt: skip
    yield table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--set", choices=("toy", "cctv"), default="toy")
    parser.add_argument("--teacher", default="detkd/assets/demo_teacher.pt", help="the given teacher")
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--jobs", default="*", help="names or patterns, e.g. kind-*,full-0; none: only collect")
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--out", type=Path, default=None)
    parser.add_argument("--json", action="store_true", help="print the JSON line only")
    given = parser.parse_args()
    folder = (given.out or Path("runs") / f"bench_unlabelled_{given.set}").resolve()
    setting = (Toy if given.set == "toy" else Cctv)(str(Path(given.teacher).resolve()))
    seeds = [int(seed) for seed in given.seeds.split(",")]
    more = [f"threads={given.threads}"] if given.threads else []
    for name, job in make_jobs(setting, folder, seeds, more).items():
        if any(fnmatch.fnmatch(name, pattern) for pattern in given.jobs.split(",")):
            job()
    record = {"set": given.set, "command": f"scripts/bench/unlabelled.py --set {given.set}", **assemble(folder, seeds)}
    write_json(folder / "result.json", record)
    if not given.json:
        for table in tables(record):
            out.print(table)
    print(json.dumps(record))


if __name__ == "__main__":
    main()
