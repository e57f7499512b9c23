"""Memory over a long training and a large evaluation.

    python scripts/campaigns/endurance.py                     # 50 epochs, then 20,000 images; a few minutes on one core

`training`: the smallest student on 16 drawn images, 50 epochs with validation; memory in use after every epoch.
`detection`: what a detector finds in 20,000 images (drawn numbers, the images are read) goes through `stream_set` into
a file, as `detkd evaluate` does it; memory after every 1,000 images must stay what it was.
`evaluation`: the file is read back piece by piece and evaluated, for a quarter of the images and for all of them, and
three times in a row. Detections lie in memory as columns, so it grows with their number, by so many bytes each; the
second and third time must take no more than the first.

Each part runs in a process of its own. The last line of the output is one JSON object; memory is in MB.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("YOLO_OFFLINE", "true")

PARTS = ("training", "detection", "evaluation")
PER_IMAGE = 100


def growth(values: list[float]) -> float:
    """Return by how much the last fifth is above the second, in medians: the first fifth fills pools and caches."""
    fifth = max(len(values) // 5, 1)
    return round(statistics.median(values[-fifth:]) - statistics.median(values[fifth : 2 * fifth]), 1)


def draw(folder: Path) -> Path:
    from detkd.data.toy import draw_toy

    return draw_toy(folder / "toy", images=28, size=(96, 64), seed=0, workers=1)


def training(folder: Path, epochs: int) -> dict[str, Any]:
    from detkd import cli
    from detkd.training.live import resident_mb
    from detkd.training.trainer import Trainer

    memory: list[float] = []
    save = Trainer.save_model

    def measured(self: Trainer) -> bool:
        done = save(self)
        memory.append(float(resident_mb() or 0))
        return done

    Trainer.save_model = measured  # type: ignore[method-assign]
    words = ["model=yolo26n_half", "data=toy", "data.images=28", "data.size=[96,64]", f"data.path={folder / 'toy'}"]
    words += [
        "imgsz=64",
        "batch=8",
        f"epochs={epochs}",
        "device=cpu",
        "threads=1",
        "pictures=0",
        f"out={folder / 'run'}",
    ]
    status = cli.main(["train", *words])
    assert status == 0, status
    return {"epochs": epochs, "mb": memory, "growth_mb": growth(memory)}


class Drawn:
    """Stands in for a detector: reads the images it is given and finds drawn boxes in them."""

    names = ("person", "car", "truck", "bicycle")

    def detect(self, images: Iterable[Path], classes: Any = None) -> Iterator[Any]:
        import numpy as np

        from detkd.inference.detector import Detections
        from detkd.inference.images import read_image

        rng = np.random.default_rng(0)
        for path in images:
            height, width = read_image(path).shape[:2]
            corner = rng.random((PER_IMAGE, 2)) * [width - 9, height - 9]
            boxes = np.concatenate([corner, corner + rng.uniform(1, 8, (PER_IMAGE, 2))], 1).astype(np.float32)
            scores = np.sort(rng.random(PER_IMAGE).astype(np.float32))[::-1]
            yield Detections(boxes, scores, rng.integers(0, 4, PER_IMAGE))


def large_set(toy: Path, images: int) -> Any:
    """Return the drawn images over and over, under numbers of their own."""
    from dataclasses import replace

    from detkd.data.load import load_data

    spec = load_data({"name": "toy", "format": "coco", "path": str(toy)})
    train = spec.splits["train"]
    records = tuple(replace(train.records[n % len(train)], image_id=n + 1) for n in range(images))
    return replace(train, records=records)


def detection(folder: Path, images: int) -> dict[str, Any]:
    from detkd.inference.results import stream_set
    from detkd.io import write_json_list
    from detkd.training.live import resident_mb

    memory: list[float] = []

    def measured(records: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        for number, record in enumerate(records, 1):
            yield record
            if number % (1000 * PER_IMAGE) == 0:
                memory.append(float(resident_mb() or 0))

    found = stream_set(Drawn(), large_set(folder / "toy", images), progress=False)  # type: ignore[arg-type]
    file = write_json_list(folder / "detections.json", measured(found))
    return {
        "images": images, "file_mb": round(file.stat().st_size / 1e6, 1), "mb": memory, "growth_mb": growth(memory),
    }  # fmt: skip


def evaluation(folder: Path, images: int) -> dict[str, Any]:
    from itertools import chain, islice

    import detkd.inference.detector  # torch and Ultralytics are there in a real evaluation, too
    from detkd.data.coco import to_coco
    from detkd.evaluation.records import read_records
    from detkd.evaluation.side import make_run
    from detkd.evaluation.truth import load_truth
    from detkd.training.live import resident_mb

    assert detkd.inference.detector

    def evaluated(count: int) -> float:
        truth = load_truth(to_coco(large_set(folder / "toy", count)))
        records = chain.from_iterable(read_records(folder / "detections.json"))
        run = make_run(truth, islice(records, count * PER_IMAGE))
        assert run.metrics.images == count
        return float(resident_mb() or 0)

    start = float(resident_mb() or 0)
    quarter = evaluated(images // 4)
    whole = [evaluated(images) for _ in range(3)]
    more = 3 * images // 4 * PER_IMAGE
    return {
        "images": images, "detections": images * PER_IMAGE, "start_mb": start, "quarter_mb": quarter, "mb": whole,
        "bytes_per_detection": round((whole[0] - quarter) * 1e6 / more), "growth_mb": round(whole[-1] - whole[0], 1),
    }  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=50)
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--part", choices=PARTS, help="one part only, in this process; needs --folder")
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--record", type=Path, help="JSON file for the result")
    options = parser.parse_args()
    if options.part:
        size = options.epochs if options.part == "training" else options.images
        made = globals()[options.part](options.folder, size)
        (options.folder / f"{options.part}.json").write_text(json.dumps(made), encoding="utf-8")
        return 0
    from detkd.runs import environment_record

    record: dict[str, Any] = {"schema": 1}
    with tempfile.TemporaryDirectory(prefix="detkd-endurance-") as name:
        folder = Path(name)
        draw(folder)
        for part in PARTS:
            sizes = [f"--epochs={options.epochs}", f"--images={options.images}"]
            subprocess.run([sys.executable, __file__, *sizes, "--part", part, "--folder", name], check=True)
            record[part] = json.loads((folder / f"{part}.json").read_text(encoding="utf-8"))
            values = record[part]["mb"]
            print(f"{part}: {' '.join(f'{value:.0f}' for value in values)}; grown by {record[part]['growth_mb']} MB")
    record["environment"] = environment_record()
    if options.record:
        options.record.parent.mkdir(parents=True, exist_ok=True)
        options.record.write_text(json.dumps(record, ensure_ascii=False) + "\n", encoding="utf-8")
    print(json.dumps(record))
    return 0


if __name__ == "__main__":
    sys.exit(main())
