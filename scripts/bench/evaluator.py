"""Time and memory of COCO evaluation, engine by engine, and of 1,000 paired resamples of two detectors.

    python scripts/bench/evaluator.py                          # 5,000 images, 80 classes, 100 detections an image
    python scripts/bench/evaluator.py --images 500 --classes 6 --repeat 3 --engines hotcoco,pycocotools

Makes a synthetic set like COCO from a seed (7 objects an image, crowd regions, hits that are off by a little,
duplicates, confusions, background; scores with ties), then runs everything in a process of its own, in turns, and the
order is another one in every repetition. Each engine does its whole job from the two JSON files to the 12 numbers.

The last line of the output is one JSON object; seconds are medians, imports are not counted, memory is the peak of the
process in MB:

- `ratio_wall`, `ratio_memory`: pycocotools' seconds over those of hotcoco, and hotcoco's memory over pycocotools'.
  hotcoco reads the files itself here, as pycocotools does. It is the engine detkd takes by default.
- `detkd_ratio_wall`, `detkd_ratio_memory`: the same for `evaluate_detections`, that is with every check of the input.
- `max_difference`: the largest difference to pycocotools in any of the 12 numbers, as shares.
- `bootstrap_seconds`: AP, AP50, AP75 and AR100 per class of two detectors in so many resamples, on one core with one
  thread; `matching_seconds` comes on top once, for both detectors. `bootstrap_cpu_seconds` is the processor's time.

pycocotools needs 2 GB and more than a minute at the full size. Use a machine that does nothing else.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from synthetic import LABELS, RESULTS, write_set

PACKAGES = {"pycocotools": "pycocotools", "hotcoco": "hotcoco", "faster": "faster-coco-eval"}
ENGINES = ("pycocotools", "hotcoco", "faster", "detkd")


# What a child process does. It imports what it needs, so that nobody pays for another's memory.


def _silent(job: Callable[[], Any]) -> dict[str, Any]:
    start = time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()):
        numbers = job()
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    megabytes = peak / (1024 if sys.platform != "darwin" else 1024**2)
    return {"seconds": seconds, "megabytes": megabytes, "numbers": [float(value) for value in numbers]}


def run_pycocotools(labels: str, results: str) -> dict[str, Any]:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    return _silent(lambda: _reference(COCO(labels), COCOeval, results))


def run_faster(labels: str, results: str) -> dict[str, Any]:
    from faster_coco_eval import COCO, COCOeval_faster

    return _silent(lambda: _reference(COCO(labels), COCOeval_faster, results))


def _reference(truth: Any, evaluator: Any, results: str) -> Any:
    run = evaluator(truth, truth.loadRes(results), "bbox")
    run.evaluate()
    run.accumulate()
    run.summarize()
    return run.stats[:12]


def run_hotcoco(labels: str, results: str) -> dict[str, Any]:
    from hotcoco import COCO, COCOeval

    def job() -> Any:
        truth = COCO(labels)
        run = COCOeval(truth, truth.load_res(results), "bbox")
        run.evaluate()
        run.accumulate()
        run.summarize()
        return run.stats

    return _silent(job)


def run_detkd(labels: str, results: str) -> dict[str, Any]:
    from detkd.evaluation.coco import evaluate_detections
    from detkd.evaluation.engine import resolve_engine
    from detkd.evaluation.metrics import METRIC_NAMES

    resolve_engine("auto")  # imports the engine

    def job() -> list[float]:
        metrics = evaluate_detections(labels, results)
        values = [metrics.number(name) for name in METRIC_NAMES]
        return [-1.0 if value is None else value / 100 for value in values]

    return _silent(job)


def run_bootstrap(folder: Path, resamples: int) -> dict[str, Any]:
    """Time matching and weighted scoring of both detectors, on one core."""
    import numpy as np

    from detkd.evaluation.matching import match
    from detkd.evaluation.results import load_detections
    from detkd.evaluation.truth import load_truth
    from detkd.evaluation.weighted import WeightedScorer, overall

    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    truth = load_truth(folder / LABELS)
    found = [load_detections(folder / name, truth) for name in RESULTS]
    start = time.perf_counter()
    scorers = [WeightedScorer(match(truth, one)) for one in found]
    matched, cpu = time.perf_counter(), time.process_time()
    rng, count = np.random.default_rng(0), len(truth.images)
    deltas = []
    for first in range(0, resamples, 100):
        draws = rng.integers(0, count, (min(100, resamples - first), count))
        weights = np.stack([np.bincount(draw, minlength=count) for draw in draws])
        before, after = (s.score(weights, ("AP", "AP50", "AP75", "AR100")) for s in scorers)
        deltas.append(overall(after["AP"]) - overall(before["AP"]))
    done, cpu = time.perf_counter(), time.process_time() - cpu
    spread = float(np.concatenate(deltas).std(ddof=1)) if resamples > 1 else 0.0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"seconds": done - matched, "cpu": cpu, "matching": matched - start, "megabytes": peak, "sd": spread}


RUNNERS = {
    "pycocotools": run_pycocotools,
    "hotcoco": run_hotcoco,
    "faster": run_faster,
    "detkd": run_detkd,
}


def child(job: str, folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Do one job in this process."""
    if job == "set":
        return write_set(folder, args.images, args.classes, args.detections)
    if job == "bootstrap":
        return run_bootstrap(folder, args.resamples)
    return RUNNERS[job](str(folder / LABELS), str(folder / RESULTS[0]))


# What the parent does. It stays small: a child's peak memory starts at that of its parent.


def spawn(job: str, folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Run a job in a process of its own and return its answer."""
    sizes = [f"--{name}={getattr(args, name)}" for name in ("images", "classes", "detections", "resamples")]
    threads = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"} if job == "bootstrap" else {}
    done = subprocess.run(
        [sys.executable, __file__, f"--job={job}", f"--folder={folder}", *sizes],
        env={**os.environ, **threads},
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"{job} failed with exit status {done.returncode}, see above")
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def measure(engines: tuple[str, ...], args: argparse.Namespace, console: Console) -> dict[str, Any]:
    """Make the set, run every job in turns, and return what was measured."""
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in engines}
    with (
        tempfile.TemporaryDirectory(prefix="detkd-bench-") as name,
        Progress(console=console, transient=not console.is_terminal) as progress,
    ):
        folder = Path(name)
        task = progress.add_task("synthetic set", total=2 + args.repeat * len(engines))
        size = spawn("set", folder, args)
        for turn in range(args.repeat):
            for step in range(len(engines)):
                engine = engines[(turn + step) % len(engines)]
                progress.update(task, advance=1, description=f"{engine}, run {turn + 1} of {args.repeat}")
                runs[engine].append(spawn(engine, folder, args))
        progress.update(task, advance=1, description=f"{args.resamples} resamples")
        bootstrap = spawn("bootstrap", folder, args)
        progress.update(task, advance=1, description="done")
    return {"size": size, "runs": runs, "bootstrap": bootstrap}


def summary(measured: dict[str, Any], args: argparse.Namespace) -> dict[str, Any]:
    """Return the JSON object of the last line."""
    runs = measured["runs"]
    seconds = {name: statistics.median(run["seconds"] for run in of) for name, of in runs.items()}
    memory = {name: statistics.median(run["megabytes"] for run in of) for name, of in runs.items()}
    reference = runs["pycocotools"][0]["numbers"]
    largest = {
        name: max(abs(a - b) for run in of for a, b in zip(run["numbers"], reference, strict=True))
        for name, of in runs.items()
    }
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "images": args.images,
        "classes": args.classes,
        **measured["size"],
        "repeat": args.repeat,
        "cores": cores,
        "ratio_wall": seconds["pycocotools"] / seconds["hotcoco"],
        "ratio_memory": memory["hotcoco"] / memory["pycocotools"],
        "detkd_ratio_wall": seconds["pycocotools"] / seconds["detkd"],
        "detkd_ratio_memory": memory["detkd"] / memory["pycocotools"],
        "max_difference": max(largest.values()),
        "AP": reference[0],
        "bootstrap_seconds": measured["bootstrap"]["seconds"],
        "bootstrap_cpu_seconds": measured["bootstrap"]["cpu"],
        "matching_seconds": measured["bootstrap"]["matching"],
        "bootstrap_megabytes": measured["bootstrap"]["megabytes"],
        "bootstrap_sd": measured["bootstrap"]["sd"],
        "resamples": args.resamples,
        "engine_seconds": seconds,
        "engine_megabytes": memory,
        "engine_difference": largest,
        "versions": {
            "python": platform.python_version(),
            "numpy": metadata.version("numpy"),
            **{package: metadata.version(package) for name, package in PACKAGES.items() if name in runs},
        },
    }


def print_table(result: dict[str, Any], console: Console) -> None:
    table = Table(title=f"{result['images']} images, {result['classes']} classes, {result['detections']} detections")
    for heading in ("engine", "seconds", "x pycocotools", "peak MB", "of pycocotools", "difference"):
        table.add_column(heading, justify="left" if heading == "engine" else "right")
    seconds, memory = result["engine_seconds"], result["engine_megabytes"]
    for name in seconds:
        table.add_row(
            name,
            f"{seconds[name]:.3f}",
            f"{seconds['pycocotools'] / seconds[name]:.1f}",
            f"{memory[name]:.0f}",
            f"{memory[name] / memory['pycocotools']:.3f}",
            f"{result['engine_difference'][name]:.1e}",
        )
    console.print(table)
    console.print(
        f"{result['resamples']} paired resamples of two detectors: {result['bootstrap_seconds']:.1f} s on one core, "
        f"and {result['matching_seconds']:.1f} s to match both"
    )


def installed(names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(name for name in names if find_spec(PACKAGES.get(name, "detkd").replace("-", "_")))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--classes", type=int, default=80)
    parser.add_argument("--detections", type=int, default=100, help="an image")
    parser.add_argument("--resamples", type=int, default=1000)
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--engines", default=",".join(ENGINES), help="pycocotools, hotcoco and detkd are always run")
    parser.add_argument("--json", action="store_true", help="no table and no progress, the last line only")
    parser.add_argument("--job", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    args = arguments()
    if args.job:
        print(json.dumps(child(args.job, args.folder, args)))
        return
    console = Console(stderr=True, quiet=args.json)
    wanted = {*args.engines.split(","), "pycocotools", "hotcoco", "detkd"}
    if unknown := wanted - set(ENGINES):
        raise SystemExit(f"--engines: unknown {', '.join(sorted(unknown))}; choose from {', '.join(ENGINES)}")
    result = summary(measure(installed(tuple(name for name in ENGINES if name in wanted)), args, console), args)
    print_table(result, console)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
