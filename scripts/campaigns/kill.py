"""Kills detkd at random moments and checks that going on ends where an undisturbed run does, bit for bit.

    python scripts/campaigns/kill.py --seed 0                 # all verbs, about a quarter of an hour on one core
    python scripts/campaigns/kill.py --only cache --trials 2

Each verb runs once undisturbed. Then trials: the same command is killed, started again (`resume=` where the verb has
it), killed again, up to three times in all, and at last runs to its end. There are three ways to be killed:

    time    SIGKILL at a moment drawn from the whole run time
    step    SIGKILL just before the process opens a file to write, renames or removes one; which one is drawn
    byte    the system ends the process in the middle of a write, when a file reaches a size drawn from all files

After every kill all files must be whole. In the end all numbers, weights, optimizer and random states must be equal to
those of the undisturbed run, what was finished before a kill must not have been done again, and no temporary file may
be left. Times, dates and paths are not compared (`facts.py` says what is).

Processes are forked from one that has imported everything already, so a kill hits work and not imports.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

os.environ.setdefault("YOLO_OFFLINE", "true")

import facts  # beside this file

KINDS = ("time", "step", "byte")
BAD = ("failed", "differs", "broken", "redone", "left")
"""What must be empty in a trial."""
TRIALS = {
    "cache build": 5, "pseudolabel": 7, "compare": 4, "export": 3, "train": 4, "distill": 2, "distill from a cache": 2,
}  # fmt: skip


@dataclass(frozen=True)
class Job:
    """A command that is killed.

    Attributes:
        name: Key of `TRIALS`.
        words: What is typed behind `detkd`; `{out}` is the folder it writes to.
        resumes: Whether it goes on with `resume=`; others run again as they are.
    """

    name: str
    words: tuple[str, ...]
    resumes: bool = False

    def typed(self, out: Path) -> list[str]:
        return [word.format(out=out) for word in self.words]


def jobs(base: Path) -> list[Job]:
    """Return all commands, as small as they can be and still do everything."""
    data = ("data=toy", "data.images=28", "data.size=[96,64]", f"data.path={base / 'toy'}")
    shape = ("imgsz=64", "batch=3", "epochs=3", "device=cpu", "threads=1")
    # 16 images are six batches, the last one smaller; an update every other batch crosses the end of an epoch.
    train = (*data, *shape, "pictures=2", "trainer.nbs=12", "trainer.warmup_epochs=0.5", "trainer.close_mosaic=1")
    pair = ("teacher=demo", "student=yolo26n_half")
    distill = ("distill", *pair, *train, "control=true", "out={out}")
    ask = ("similar=0", "blur=0", "dark=0", "min_hits=1", "precision=0.05", "imgsz=64", "device=cpu")
    return [
        Job("train", ("train", "model=yolo26n_half", *train, "checkpoint=best", "out={out}"), True),
        Job("distill", (*distill, "distill=mgd"), True),
        Job("distill from a cache", (*distill, "cache=views", "cache.views=3", "cache.path={out}/cache"), True),
        Job("cache build", ("cache", "build", *pair, *data, *shape[:3], "device=cpu", "cache=views", "cache.views=3",
                            "cache.path={out}")),
        Job("pseudolabel", ("pseudolabel", "teacher=demo", *data, f"source={base / 'footage' / 'images'}", *ask,
                            "out={out}")),
        Job("compare", ("compare", f"before={base / 'models' / 'control'}", f"after={base / 'models'}", "out={out}")),
        Job("export", ("export", f"model={base / 'models'}", *data, "images=4", "format=onnx", "out={out}")),
    ]  # fmt: skip


@dataclass(frozen=True)
class Kill:
    """How a process is to be killed: after so many seconds, before the n-th step, or at the n-th byte of a file."""

    kind: str
    at: float


@dataclass
class Trial:
    """What became of one command that was killed several times.

    Attributes:
        job: Which.
        kills: Kind and moment of those that hit.
        missed: Kills for which the process was too quick.
        resumed: Times it went on with `resume=`.
        again: Times the same command was typed again.
        broken: Files that were not whole after a kill.
        redone: What was finished before a kill and was done again.
        differs: What is not as in the undisturbed run.
        left: Temporary files in the end.
        failed: Why the last attempt did not end well, with its last lines.
    """

    job: str
    kills: list[tuple[str, float]] = field(default_factory=list)
    missed: int = 0
    resumed: int = 0
    again: int = 0
    broken: list[str] = field(default_factory=list)
    redone: list[str] = field(default_factory=list)
    differs: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    failed: str = ""


def in_child(work: Callable[[], Any]) -> Any:
    """Return what a function returns in a process of its own, as JSON: this one stays as it is."""
    with tempfile.TemporaryFile("w+") as answer:
        pid = os.fork()
        if pid == 0:
            try:
                json.dump(work(), answer)
                answer.flush()
                os._exit(0)
            except BaseException as err:
                print(f"{type(err).__name__}: {err}", file=sys.stderr)
                os._exit(1)
        _, status = os.waitpid(pid, 0)
        if status:
            raise RuntimeError("the process that was to look at the files has failed")
        answer.seek(0)
        return json.load(answer)


def start(words: list[str], log: Path, watched: Path, kill: Kill | None, counter: Path | None = None) -> int:
    """Fork a process that runs a command; return its number."""
    pid = os.fork()
    if pid:
        return pid
    os.setsid()
    log.parent.mkdir(parents=True, exist_ok=True)
    # A limit on file sizes does not hold for what is no file.
    target = os.open("/dev/null" if kill else log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (1, 2):
        os.dup2(target, stream)
    steps = 0

    def step(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal steps
        if not _writes(event, arguments, str(watched)):
            return
        steps += 1
        if kill is not None and kill.kind == "step" and steps >= kill.at:
            os.kill(os.getpid(), signal.SIGKILL)

    if kill is not None and kill.kind == "byte":
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(kill.at), int(kill.at)))
    sys.addaudithook(step)
    from detkd import cli

    status = cli.main(words)
    if counter is not None:
        counter.write_text(str(steps), encoding="utf-8")
    os._exit(status)


def _writes(event: str, arguments: tuple[Any, ...], below: str) -> bool:
    """Return whether an audit event is about a change below a folder."""
    if event == "open":
        path, _, flags = arguments
        changes = isinstance(flags, int) and bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
    else:
        path, changes = (arguments or ("",))[0], event in {"os.rename", "os.remove", "os.mkdir", "os.symlink"}
    return changes and str(path).startswith(below)


def wait(pid: int, seconds: float | None) -> int:
    """Wait for a process, kill it after so many seconds; return its wait status."""
    deadline = None if seconds is None else time.monotonic() + seconds
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return status
        if deadline is not None and time.monotonic() >= deadline:
            os.kill(pid, signal.SIGKILL)
            return os.waitpid(pid, 0)[1]
        time.sleep(0.005)


@dataclass(frozen=True)
class Whole:
    """The undisturbed run: its duration, its steps, the sizes of its files, and what it ended with."""

    seconds: float
    steps: int
    sizes: list[int]
    facts: dict[str, str]


def undisturbed(job: Job, base: Path) -> Whole:
    out, log, counter = base / "whole" / "out", base / "whole" / "log", base / "whole" / "steps"
    (base / "whole").mkdir(parents=True)
    started = time.monotonic()
    if wait(start(job.typed(out), log, out, None, counter), None):
        raise SystemExit(f"{job.name} fails undisturbed:\n{log.read_text()[-2000:]}")
    seconds = time.monotonic() - started
    sizes = sorted({size for path in out.rglob("*") if path.is_file() and (size := path.stat().st_size) > 1})
    return Whole(round(seconds, 1), int(counter.read_text()), sizes, in_child(lambda: facts.of_folder(out)))


def draw(rng: random.Random, whole: Whole, kind: str) -> Kill:
    """Draw a moment to kill at."""
    if kind == "time":
        return Kill(kind, round(rng.uniform(0, whole.seconds), 2))
    if kind == "step":
        return Kill(kind, rng.randint(1, whole.steps))
    return Kill(kind, rng.randrange(1, rng.choice(whole.sizes)))


def try_it(job: Job, whole: Whole, base: Path, rng: random.Random, number: int) -> Trial:
    """Kill a command up to three times, let it end, and compare."""
    out, log = base / "out", base / "log"
    base.mkdir(parents=True)
    trial = Trial(job.name)
    before: dict[str, str] = {}
    ended = False
    for attempt in range(2 + number % 2):
        kill = draw(rng, whole, KINDS[(number + attempt) % 3])
        pid = start(_next(job, out, trial), log, out, kill)
        status = wait(pid, kill.at if kill.kind == "time" else None)
        if not os.WIFSIGNALED(status):
            trial.missed += 1
            ended = os.waitstatus_to_exitcode(status) == 0
            if ended or _done(out):
                break
            trial.broken.append(f"exit status {os.waitstatus_to_exitcode(status)} instead of a kill at {kill}")
            continue
        trial.kills.append((kill.kind, kill.at))
        seen = in_child(lambda: facts.finished_work(out))
        trial.redone += facts.lost(before, seen)
        before = seen
        trial.broken += in_child(lambda: facts.broken(out))
    if not (ended or (job.resumes and _done(out))):
        status = wait(start(_next(job, out, trial), log, out, None), None)
        if status:
            lines = log.read_text(encoding="utf-8", errors="replace").splitlines()[-3:]
            trial.failed = " / ".join(lines).replace(str(base), "")
            return trial
    trial.redone += facts.lost(before, in_child(lambda: facts.finished_work(out)))
    trial.broken += in_child(lambda: facts.broken(out))
    trial.left = facts.temporary(out)
    trial.differs = facts.differences(whole.facts, in_child(lambda: facts.of_folder(out)))
    return trial


def _next(job: Job, out: Path, trial: Trial) -> list[str]:
    """Return what one types next: `resume=` where there is something to resume."""
    if not trial.kills and not trial.missed:
        return job.typed(out)
    if job.resumes and (out / "run.json").is_file() and (out / "config.yaml").is_file():
        trial.resumed += 1
        return [job.words[0], f"resume={out}"]
    trial.again += 1
    return job.typed(out)


def _done(out: Path) -> bool:
    file = out / "run.json"
    return file.is_file() and json.loads(file.read_text(encoding="utf-8")).get("status") == "done"


def prepare(base: Path, *, models: bool) -> None:
    """Draw the images and, where asked for, train the two models that compare and export need."""

    def draw_both() -> None:
        from detkd.data.toy import draw_toy

        draw_toy(base / "toy", images=28, size=(96, 64), seed=0, workers=1)
        draw_toy(base / "footage", images=28, size=(96, 64), seed=9, workers=1)

    in_child(draw_both)
    if not models:
        return
    words = next(job for job in jobs(base) if job.name == "distill").typed(base / "models")
    if wait(start([*words, "epochs=1", "pictures=0"], base / "models.log", base, None), None):
        raise SystemExit((base / "models.log").read_text()[-2000:])


def row(name: str, whole: Whole, trials: list[Trial]) -> dict[str, Any]:
    """Return one verb's line of the table."""
    kinds = Counter(kind for trial in trials for kind, _ in trial.kills)
    return {
        "verb": name, "seconds": whole.seconds, "steps": whole.steps, "compared": len(whole.facts),
        "trials": len(trials), "kills": kinds.total(), **{f"kills_{kind}": kinds[kind] for kind in KINDS},
        "missed": sum(trial.missed for trial in trials),
        "resumed": sum(trial.resumed for trial in trials), "again": sum(trial.again for trial in trials),
        "equal": sum(not trial.differs and not trial.failed for trial in trials),
        "redone": sum(len(trial.redone) for trial in trials), "broken": sum(len(trial.broken) for trial in trials),
        "left": sum(len(trial.left) for trial in trials),
    }  # fmt: skip


def table(rows: list[dict[str, Any]]) -> str:
    """Return the rows as Markdown."""
    heads = ["verb", "undisturbed, s", "trials", "kills (time, step, byte)", "resumed", "typed again", "ended equal",
             "done twice", "broken files", "left over"]  # fmt: skip
    lines = [f"| {' | '.join(heads)} |", "|---|" + "---:|" * (len(heads) - 1)]
    for one in rows:
        kinds = ", ".join(str(one[f"kills_{kind}"]) for kind in KINDS)
        cells = [one["verb"], one["seconds"], one["trials"], f"{one['kills']} ({kinds})", one["resumed"], one["again"],
                 f"{one['equal']} of {one['trials']}", one["redone"], one["broken"], one["left"]]  # fmt: skip
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def campaign(base: Path, seed: int, only: str | None, trials: int | None, record: Path | None) -> dict[str, Any]:
    """Run everything; return the record, in which verbs that did not run now are as they were."""
    from detkd.runs import environment_record

    names = tuple((only or "").split(","))
    chosen = [job for job in jobs(base) if job.name in names] or [j for j in jobs(base) if j.name.startswith(names)]
    chosen.sort(key=lambda job: [*TRIALS].index(job.name))
    prepare(base, models=any(job.name in ("compare", "export") for job in chosen))
    content: dict[str, Any] = {"schema": 1, "seed": seed, "environment": environment_record(), "rows": [], "trials": []}
    if record is not None and record.is_file():
        content |= {key: value for key, value in json.loads(record.read_text()).items() if key in ("rows", "trials")}
    for job in chosen:
        rng = random.Random(f"{seed} {job.name}")
        folder = base / job.name.replace(" ", "-")
        whole = undisturbed(job, folder)
        made = []
        for number in range(TRIALS[job.name] if trials is None else trials):
            trial = try_it(job, whole, folder / str(number), rng, number)
            made.append(trial)
            good = not any(getattr(trial, key) for key in BAD)
            print(
                f"{job.name} {number}: {trial.kills} {'good' if good else asdict(trial)}", file=sys.stderr, flush=True
            )
            if good:
                shutil.rmtree(folder / str(number))
        rows = [one for one in content["rows"] if one["verb"] != job.name]
        rows.append({**row(job.name, whole, made), "seed": seed, "commit": content["environment"]["commit"]})
        kept = [one for one in content["trials"] if one["job"] != job.name]
        content["rows"] = sorted(rows, key=lambda one: [*TRIALS].index(one["verb"]))
        content["trials"] = [*kept, *map(asdict, made)]
        content["kills"] = sum(one["kills"] for one in content["rows"])
        if record is not None:
            record.parent.mkdir(parents=True, exist_ok=True)
            record.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return content


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", help="these verbs, or those that begin so: compare,export")
    parser.add_argument("--trials", type=int, help="of each verb, instead of the usual number")
    parser.add_argument("--base", type=Path, help="folder to work in; by default a temporary one, removed afterwards")
    parser.add_argument("--record", type=Path, help="JSON file for the result; rows of other verbs in it are kept")
    options = parser.parse_args(arguments)
    base = options.base or Path(tempfile.mkdtemp(prefix="detkd-kill-"))
    facts.import_everything()
    try:
        record = campaign(base.resolve(), options.seed, options.only, options.trials, options.record)
    finally:
        if options.base is None:
            shutil.rmtree(base, ignore_errors=True)
    print(table(record["rows"]))
    return 1 if any(one[key] for one in record["trials"] for key in BAD) else 0


if __name__ == "__main__":
    sys.exit(main())
