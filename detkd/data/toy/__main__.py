"""`python -m detkd.data.toy --folder data/toy` draws a toy set."""

from __future__ import annotations

import argparse
import sys

from detkd.data.toy import draw_toy
from detkd.errors import DetkdError
from detkd.progress import out


def main(arguments: list[str] | None = None) -> int:
    """Draw a set as the arguments say; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m detkd.data.toy", description="Draw the toy security-camera set.")
    parser.add_argument("--folder", required=True, help="where the set goes")
    parser.add_argument(
        "--images", nargs="+", default=["600"], help="images in all, or per split: train=400 val=80 test=120"
    )
    parser.add_argument("--size", nargs="+", type=int, default=[320, 192], help="width, or width and height, in pixels")
    parser.add_argument("--difficulty", default="normal", help="easy, normal or hard")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--splits", nargs="+", default=None, help="cameras per split: train=crossing,alley val=market")
    parser.add_argument("--workers", type=int, default=None, help="processes (default: one per core)")
    options = parser.parse_args(arguments)
    try:
        if len(options.images) == 1 and "=" not in options.images[0]:
            images: int | dict[str, int] = int(options.images[0])
        else:
            images = {name: int(count) for name, count in (item.split("=") for item in options.images)}
        splits = options.splits and {
            name: tuple(cameras.split(",")) for name, cameras in (item.split("=") for item in options.splits)
        }
    except ValueError:
        parser.error("--images takes a number or split=number, --splits takes split=camera,camera")
    if len(options.size) > 2:
        parser.error("--size takes one or two numbers")
    size: int | tuple[int, int] = options.size[0] if len(options.size) == 1 else (options.size[0], options.size[1])
    try:
        folder = draw_toy(
            options.folder, images=images, size=size, difficulty=options.difficulty, seed=options.seed, splits=splits,
            workers=options.workers,
        )  # fmt: skip
    except DetkdError as err:
        print(err, file=sys.stderr)
        return 2
    out.print(str(folder))
    return 0


if __name__ == "__main__":
    sys.exit(main())
