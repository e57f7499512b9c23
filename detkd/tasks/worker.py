"""One of the processes that `device=0,1` starts: `python -m detkd.tasks.worker job.json`."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
import traceback
from pathlib import Path

from detkd import ranks
from detkd.errors import DetkdError
from detkd.io import read_json
from detkd.runs import fail_runs
from detkd.tasks.arguments import pick_device
from detkd.tasks.together import learn_together, silence

__all__ = ["main"]


def main(arguments: list[str]) -> int:
    """Do this process's part of a training; the process that started it reads what went wrong from a file."""
    ranks.calm()
    job = read_json(arguments[0])
    silence()
    threading.Thread(target=_outlive_nobody, args=(os.getppid(),), daemon=True).start()
    try:
        from detkd.training import group

        group.join(pick_device(job["config"]["device"], ranks=True))
        learn_together(job["config"], job["verb"], Path(job["folder"]), job["resume"])
    except KeyboardInterrupt:
        return 130
    except Exception as err:
        text = str(err)
        ours = isinstance(err, DetkdError)
        if type(err).__name__ == "OutOfMemoryError":
            text, ours = "batch: the device ran out of memory; use a smaller batch= or imgsz=", True
        if os.environ.get("DETKD_TRACEBACK") == "1":
            traceback.print_exception(err)
        fail_runs(text)
        _tell(type(err).__name__, text if ours else f"{type(err).__name__}: {text}", ours)
        return 2 if ours else 1
    return 0


def _outlive_nobody(parent: int) -> None:
    """End this process when the one that started it has: it holds the run folder, and would be resumed."""
    while os.getppid() == parent:
        time.sleep(1.0)
    os._exit(1)


def _tell(kind: str, text: str, ours: bool) -> None:
    """Write what went wrong where torch's launcher looks for it."""
    file = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if file:
        record = {"message": text, "detkd": {"kind": kind, "text": text, "ours": ours}}
        Path(file).write_text(json.dumps(record), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
