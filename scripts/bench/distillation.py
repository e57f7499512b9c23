"""Does distillation pay? Every method, Ultralytics' own and two controls, from one protocol on one machine.

    python scripts/bench/distillation.py --set toy --arms control,binary,ultralytics --seeds 0 1 2 --threads 1
    python scripts/bench/distillation.py --plan funnel1            # all methods, one seed, the drawn set
    python scripts/bench/distillation.py --set toy --arms control,soft:binary+distill.alpha=0.3+distill.lambda=2
    python scripts/bench/distillation.py --steps --set toy         # wall time of a step over Ultralytics' own
    python scripts/bench/distillation.py --table                   # Markdown from the committed records; --json: object

All arms of a set and seed start from one saved file of weights and see the same images in the same order with the same
augmentation: hashes of the weights and of the first batches are compared, and the bench stops where they differ.
`control_time` is a control that trains as long as the method behind `--time-of`, with a schedule of its own for its
number of epochs. An arm is a recipe of conf/distill, or `label:recipe+override=value+...`.

Runs are folders in `--runs`, each trained in a process of its own. Finished ones are read, an interrupted one goes on.
Several calls may share the work: each run is claimed by a lock that the system frees when a process dies. Records are
written to results/distillation; intervals of the differences, over seeds and the images of val and test together, to
results/distillation/summary.json.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

import distillation_table as tables
from distillation_arms import PLANS, PRESETS, REPO, Arm, arm_words, last_wins, parse_arms, resolve_config
from filelock import FileLock, Timeout

from detkd.errors import DetkdError
from detkd.io import read_json, write_json
from detkd.progress import console, out
from detkd.tasks.teachers import teacher_sizes

RESULTS = REPO / "results" / "distillation"
PAGE = REPO / "docs" / "benchmarks" / "distillation.md"
WAIT = 20.0
"""Seconds between two looks at runs of other processes that a control waits for."""
NO_MATTER = ("threads", "workers", "out", "name", "resume", "verbose", "report", "pictures", "trust")
"""Keys of a configuration that can't change a result."""
NOT_FOR_CONTROLS = ("teacher", "distill", "cache")
EMPTY: tuple[Any, ...] = (None, False, [], {}, "")
"""Values that mean the same as a missing key, so that a new option does not make old runs worthless."""
LATER = {"data.use_test": True}
"""Keys that are younger than some records, with the value that does what was done before."""


class Queue:
    """The runs of one call.

    Args:
        sets: Names of presets.
        arms: Methods.
        seeds: Seeds.
        folder: Where run folders are.
        results: Where records go.
        teacher: Teacher in place of the sets' own.
        more: Words for all arms.
        threads: CPU threads of a training.
        time_of: Label of the arm whose time `control_time` gets.
        redo: Whether finished runs with other settings are repeated.
    """

    def __init__(
        self, sets: Sequence[str], arms: Sequence[Arm], seeds: Sequence[int], *, folder: Path, results: Path = RESULTS,
        teacher: str | None = None, more: Sequence[str] = (), threads: int | None = None, time_of: str = "binary",
        redo: bool = False,
    ) -> None:  # fmt: skip
        self.folder, self.results, self.teacher, self.redo = folder, results, teacher, redo
        self.more, self.threads, self.time_of = list(more), threads, time_of
        # Seeds outside, so that whatever is finished can be compared; what has to wait for others comes last.
        ordered = sorted(arms, key=lambda arm: arm.recipe == "control_time")
        self.items = [(name, arm, seed) for seed in seeds for name in sets for arm in ordered]
        self.failed: list[str] = []
        self.probed: dict[tuple[str, str], float | None] = {}

    def place(self, name: str, label: str, seed: int) -> Path:
        """Return the folder of a run."""
        return self.folder / name / f"{label}-s{seed}"

    def record(self, name: str, label: str, seed: int) -> dict[str, Any] | None:
        """Return the record of a finished run."""
        return finished(self.place(name, label, seed))

    def epochs(self, name: str, seed: int) -> int | None:
        """Return the epochs of `control_time`; None while the runs it depends on are not finished."""
        ratios = []
        for one in sorted({one for _, _, one in self.items}):
            other, plain = self.record(name, self.time_of, one), self.record(name, "control", one)
            if other is not None and plain is not None:
                ratios.append(other["train_seconds"] / plain["train_seconds"])
        plain = self.record(name, "control", seed)
        if plain is None or self.record(name, self.time_of, seed) is None:
            return None
        ratio = statistics.median(ratios)
        return max(plain["epochs"], round(plain["epochs"] * ratio))

    def words(self, name: str, arm: Arm, seed: int) -> list[str] | None:
        """Return the words of a run, None where they can't be known yet."""
        more = list(self.more)
        if arm.recipe == "control_time":
            epochs = self.epochs(name, seed)
            if epochs is None:
                return None
            more.append(f"epochs={epochs}")
        return arm_words(PRESETS[name], arm, teacher=self.teacher, seed=seed, more=more)

    def job(self, name: str, arm: Arm, seed: int) -> dict[str, Any] | None:
        """Return what the process of a run is told."""
        from distillation_run import fingerprint, late_period, make_initial, views_of

        words = self.words(name, arm, seed)
        if words is None:
            return None
        config = resolve_config(words)
        if (period := late_period(int(config["epochs"]))) is not None:
            config = resolve_config(last_wins([*words, f"trainer.save_period={period}"]))
        control = arm_words(PRESETS[name], Arm("control", "control"), teacher=self.teacher, seed=seed, more=self.more)
        start = resolve_config(control)
        file = self.folder / name / "initial" / f"s{seed}-{student_name(start)}.pt"
        file.parent.mkdir(parents=True, exist_ok=True)
        initial = make_initial(start, file)
        config["load_imgsz"] = teacher_sizes(start)[1]  # of all arms, whatever their own teacher sees
        if self.threads:
            config["threads"] = self.threads
        return {
            "set": name,
            "label": arm.label,
            "recipe": arm.recipe,
            "plain": arm.plain,
            "words": [word for word in words if not word.startswith("trainer.save_period")],
            "arm_words": list(arm.words),
            "time_of": self.time_of if arm.recipe == "control_time" else None,
            "initial": str(file),
            "shared": str(self.folder / name),
            "shown": views_of(start),
            "initial_hash": initial,
            "fingerprint": fingerprint(config, initial),
            "config": config,
        }

    def run(self, *, waiting: bool = True) -> bool:
        """Do everything that is not finished and that no other process does; return whether nothing failed."""
        self.check_controls()
        left = list(self.items)
        while left:
            progress, blocked = False, []
            for item in left:
                name, arm, seed = item
                title = f"{name} {arm.label} seed {seed}"
                with claimed(self.place(name, arm.label, seed)) as mine:
                    if not mine:
                        console.print(f"[dim]{title}: another process is at it[/dim]")
                        continue
                    job = self.job(name, arm, seed)
                    if job is None:
                        blocked.append(item)
                        continue
                    progress = True
                    self.one(job, title)
            left = blocked
            if left and not progress:
                if not waiting or not any(self.busy(name, seed) for name, _, seed in left):
                    break
                time.sleep(WAIT)
        for name, arm, seed in left:
            self.failed.append(f"{name} {arm.label} seed {seed}: {self.time_of} and control have to be finished first")
        return not self.failed

    def busy(self, name: str, seed: int) -> bool:
        """Return whether another process is at a run that `control_time` waits for."""
        for label in ("control", self.time_of):
            if self.record(name, label, seed) is None:
                with claimed(self.place(name, label, seed)) as mine:
                    if not mine:
                        return True
        return False

    def one(self, job: dict[str, Any], title: str) -> None:
        """Train one run in a process of its own, unless it is finished."""
        from distillation_run import JOB, restart

        folder = self.place(job["set"], job["label"], job["config"]["seed"])
        record = finished(folder)
        if record is not None:
            keys = changed(record, job)
            if not keys:
                console.print(f"[dim]{title}: finished, AP50 {record['pooled']['AP50']:.1f}[/dim]")
            elif not self.redo:
                more = ", ".join(keys[:4])
                console.print(f"[yellow]{title}: finished with other settings ({more}); --redo repeats it[/yellow]")
            if not keys or not self.redo:
                self.publish(record)
                return
            console.print(f"{title}: repeated, because other settings are asked for ({', '.join(keys[:4])})")
            restart(folder)
        elif (folder / JOB).is_file() and changed(read_json(folder / JOB), job):
            console.print(f"{title}: started anew, because its settings have changed")
            restart(folder)
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / JOB, job)
        console.rule(title)
        started = time.monotonic()
        done = subprocess.run([sys.executable, str(Path(__file__).resolve()), "--job", str(folder)], check=False)
        record = finished(folder)
        if done.returncode or record is None:
            self.failed.append(f"{title}: the training ended with code {done.returncode}")
            console.print(f"[red]{self.failed[-1]}[/red]")
            return
        pooled = record["pooled"]
        console.print(
            f"{title}: AP {pooled['AP']:.2f}, AP50 {pooled['AP50']:.2f}, {record['train_seconds'] / 60:.1f} min of "
            f"training, {(time.monotonic() - started) / 60:.1f} min in all"
        )
        self.publish(record)
        self.check(record)
        done_now = sum(finished(self.place(name, arm.label, seed)) is not None for name, arm, seed in self.items)
        console.print(f"[bold]{done_now} of {len(self.items)} runs are finished[/bold]")

    def publish(self, record: dict[str, Any]) -> None:
        """Write the record where it can be committed."""
        from distillation_run import without_paths

        self.results.mkdir(parents=True, exist_ok=True)
        file = self.results / f"{record['set']}-{record['arm']}-s{record['seed']}.json"
        write_json(file, without_paths(record))

    def check(self, record: dict[str, Any]) -> None:
        """Note a failure where a run did not start or see what its control did; no comparison will take it in."""
        control = self.record(record["set"], "control", record["seed"])
        if control is not None and (problem := tables.mismatch(control, record)):
            self.failed.append(f"{record['set']} {record['arm']} seed {record['seed']}: {problem}; not compared")
            console.print(f"[red]{self.failed[-1]}[/red]")

    def check_controls(self) -> None:
        """Refuse to train beside controls that were made with other settings than would be asked for now.

        Raises:
            SystemExit: Naming what has changed.
        """
        control = Arm("control", "control")
        included = any(arm.label == "control" for _, arm, _ in self.items)
        for name, seed in dict.fromkeys((name, seed) for name, _, seed in self.items):
            record = self.record(name, "control", seed)
            if record is None or (self.redo and included):
                continue
            job = self.job(name, control, seed)
            if job is not None and (keys := changed(record, job)):
                raise SystemExit(
                    f"{name} control seed {seed}: finished with other settings ({', '.join(keys[:4])}), so new arms "
                    "could not be compared with it; use --redo with control among --arms, or another --runs"
                )

    def estimate(self) -> str:
        """Return in words how long the runs that are not finished will take."""
        minutes, unknown, count = 0.0, 0, 0
        for name, arm, seed in self.items:
            if finished(self.place(name, arm.label, seed)) is not None:
                continue
            count += 1
            known = [
                record["seconds"]
                for file in (self.folder / name).glob(f"{arm.label}-s*/record.json")
                if (record := read_json(file))
            ]
            if known:
                minutes += statistics.median(known) / 60
            elif (seconds := self.probe(name, arm, seed)) is not None:
                minutes += seconds / 60
            else:
                unknown += 1
        if not count:
            return "nothing to train: all runs are finished"
        more = f", and {unknown} whose time is not known yet" if unknown else ""
        return (
            f"{count} runs to train, about {minutes / 60:.1f} hours{more} (one after the other, on this machine; "
            "the building of caches is not counted)"
        )

    def probe(self, name: str, arm: Arm, seed: int) -> float | None:
        """Return the seconds of a run from a few measured steps, None where that is not possible."""
        from distillation_steps import probe_seconds

        if arm.recipe == "control_time":  # as long as another method
            arm = next((one for _, one, _ in self.items if one.label == self.time_of), Arm("control", "control"))
        if (name, arm.label) not in self.probed:
            self.probed[name, arm.label] = None
            try:
                job = self.job(name, arm, seed)
                self.probed[name, arm.label] = None if job is None else probe_seconds(job)
            except DetkdError as err:
                console.print(f"{name} {arm.label}: {err}", style="yellow", markup=False)
        return self.probed[name, arm.label]


def student_name(config: Mapping[str, Any]) -> str:
    """Return a short name of how a student is made, so that another student gets another initial file."""
    import hashlib

    text = json.dumps([config["student"], config["data"], config["seed"]], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def finished(folder: Path) -> dict[str, Any] | None:
    """Return the record of a finished run, None for all others."""
    file = folder / "record.json"
    if not file.is_file() or not (folder / "run.json").is_file() or read_json(folder / "run.json")["status"] != "done":
        return None
    record: dict[str, Any] = read_json(file)
    return record


def changed(old: Mapping[str, Any], job: Mapping[str, Any]) -> list[str]:
    """Return the keys in which a run differs from what is asked for now: of a control, only those that matter to it."""
    before, now = dict(old["config"]), dict(job["config"])
    for config in (before, now):
        for key in NO_MATTER + (NOT_FOR_CONTROLS if job["plain"] else ()):
            config.pop(key, None)
    if job["plain"]:  # it has no cache, yet shows the same views
        before["views"], now["views"] = (shown_views(one["config"]) for one in (old, job))
    keys = differences(before, now)
    if old.get("initial_hash") not in (None, job["initial_hash"]):
        keys.append("the initial weights")
    return keys


def shown_views(config: Mapping[str, Any]) -> list[Any] | None:
    """Return how many views of which seed a run shows, None where every epoch has new ones."""
    node = config.get("cache") or {}
    return [node.get("views"), node.get("seed")] if node.get("kind") == "views" else None


def differences(one: Mapping[str, Any], other: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Return the keys in which two configurations differ."""
    found = []
    for key in sorted({*one, *other}, key=str):
        a, b = (x.get(key, LATER.get(f"{prefix}{key}")) for x in (one, other))
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            found += differences(a, b, f"{prefix}{key}.")
        elif a != b and not (a in EMPTY and b in EMPTY):
            found.append(f"{prefix}{key}")
    return found


def training_lock(folder: Path) -> FileLock:
    """Return the lock that the process of a training holds itself: it may outlive the one that started it."""
    return FileLock(folder.parent / f".{folder.name}.training.lock")


@contextmanager
def claimed(folder: Path) -> Iterator[bool]:
    """Hold the lock of a run folder; yields False where another process has it, or a training whose caller died."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    lock, training = FileLock(folder.parent / f".{folder.name}.lock"), training_lock(folder)
    try:
        lock.acquire(timeout=0)
        training.acquire(timeout=0)
        training.release()
    except Timeout:
        lock.release()
        yield False
        return
    try:
        yield True
    finally:
        lock.release()


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--set", nargs="+", choices=sorted(PRESETS), default=None, dest="sets")
    parser.add_argument("--arms", nargs="+", default=None, help="recipes, or label:recipe+override=value, by commas")
    parser.add_argument("--seeds", nargs="+", default=None, help="numbers, by spaces or commas")
    parser.add_argument("--plan", choices=sorted(PLANS), default=None, help="sets, arms and seeds in one word")
    parser.add_argument("--epochs", type=int, default=None)
    parser.add_argument("--teacher", default=None, help="in place of the set's own")
    parser.add_argument("--override", nargs="+", default=[], help="words of the configuration for all arms")
    parser.add_argument("--time-of", default="binary", help="label of the arm whose time control_time gets")
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--runs", type=Path, default=Path("runs/bench_distillation"))
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--no-estimate", action="store_true", help="start without measuring how long it will take")
    parser.add_argument("--redo", action="store_true", help="repeat finished runs whose settings differ from now")
    parser.add_argument("--summary", action="store_true", help="only compare what is finished in --runs")
    parser.add_argument("--steps", action="store_true", help="only measure training steps against Ultralytics' own")
    parser.add_argument("--rounds", type=int, default=30, help="of --steps")
    parser.add_argument("--table", action="store_true", help="only write the Markdown table from the stored records")
    parser.add_argument("--json", action="store_true", help="with --table: print one JSON object")
    parser.add_argument("--job", type=Path, default=None, help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    sets, arms, seeds = PLANS.get(given.plan or "", (("toy",), ("control", "binary"), (0,)))
    given.sets = given.sets or list(sets)
    try:
        given.arms = parse_arms(given.arms or arms)
        given.seeds = [int(part) for text in given.seeds or map(str, seeds) for part in text.split(",") if part]
    except ValueError as err:
        parser.error(str(err))
    return given


def main() -> int:
    given = parse()
    if given.job is not None:
        from distillation_run import run_job

        with training_lock(given.job.resolve()):
            run_job(given.job)
        return 0
    if given.table:
        summary = tables.summarise(given.results)
        if given.json:
            print(json.dumps(summary))
            return 0
        page = PAGE if given.results.resolve() == RESULTS else given.results / "distillation.md"
        page.parent.mkdir(parents=True, exist_ok=True)
        page.write_text(tables.markdown(given.results), encoding="utf-8")
        console.print(f"{page} written")
        return 0
    more = [f"epochs={given.epochs}"] if given.epochs else []
    queue = Queue(
        given.sets, given.arms, given.seeds, folder=given.runs.resolve(), results=given.results,
        teacher=given.teacher, more=[*more, *given.override], threads=given.threads, time_of=given.time_of,
        redo=given.redo,
    )  # fmt: skip
    if given.steps:
        from distillation_steps import measure_steps

        measure_steps(queue, rounds=given.rounds)
        return 0
    try:
        good = work(queue, given)
    except KeyboardInterrupt:
        console.print("stopped; the same command goes on where it was")
        return 130
    tables.compare_all(queue.folder, given.results, given.sets)
    for table in tables.console_tables(given.results, given.sets):
        out.print(table)
    for line in queue.failed:
        console.print(f"[red]{line}[/red]")
    return 0 if good else 1


def work(queue: Queue, given: argparse.Namespace) -> bool:
    """Train what is asked for; return whether nothing failed."""
    if given.summary:
        return True
    if not given.no_estimate:
        console.print(queue.estimate())
    return queue.run()


if __name__ == "__main__":
    sys.exit(main())
