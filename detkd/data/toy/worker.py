"""Child process of `parts.run_workers`: reads its share of frames from stdin, prints one JSON record per frame."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import cv2

from detkd.data.toy.parts import draw_part


def main() -> None:
    """Draw what the parent asked for."""
    cv2.setNumThreads(1)
    task = json.load(sys.stdin)
    for record in draw_part(Path(task["folder"]), task["jobs"], task["arguments"]):
        print(json.dumps(record), flush=True)


if __name__ == "__main__":
    main()
