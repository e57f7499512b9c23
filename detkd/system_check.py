"""Are the native libraries there? Names the missing one and the command that installs it.

`make install` runs this file on its own, so it imports nothing of detkd. The command line uses `explain` for the same
errors met later.
"""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Sequence

__all__ = ["MODULES", "check", "explain", "main"]

MODULES = ("numpy", "torch", "torchvision", "cv2", "pycocotools.mask", "onnxruntime", "openvino")
"""Packages with native code; cv2 is the one that a bare server image usually can't load."""

_PACKAGES = {
    "libGL.so.1": "libgl1",
    "libEGL.so.1": "libegl1",
    "libglib-2.0.so.0": "libglib2.0-0",
    "libgthread-2.0.so.0": "libglib2.0-0",
    "libSM.so.6": "libsm6",
    "libICE.so.6": "libice6",
    "libXext.so.6": "libxext6",
    "libXrender.so.1": "libxrender1",
    "libX11.so.6": "libx11-6",
    "libxcb.so.1": "libxcb1",
    "libgomp.so.1": "libgomp1",
    "libstdc++.so.6": "libstdc++6",
    "libz.so.1": "zlib1g",
}
_MISSING_LIBRARY = re.compile(r"(lib[\w.+-]+\.so[\w.]*): cannot open shared object file")


def explain(error: ImportError) -> str | None:
    """Turn the loader's complaint about a missing shared library into one line with the fix.

    Args:
        error: What an import raised.

    Returns:
        A line that names the library and the command, or None when no shared library is missing.
    """
    found = _MISSING_LIBRARY.search(str(error))
    if not found:
        return None
    library = found.group(1)
    package = _PACKAGES.get(library)
    if package is None:
        return f"system library {library} is missing; find its package with: apt-file search {library}"
    # A bare image lacks both of OpenCV's libraries; one command for the two saves a second round.
    wanted = "libgl1 libglib2.0-0" if package in {"libgl1", "libglib2.0-0"} else package
    return f"system library {library} is missing; install it with: sudo apt-get install -y {wanted}"


def check(modules: Sequence[str] = MODULES) -> list[str]:
    """Import each module and return one line per problem, without repeats.

    Args:
        modules: Dotted names to import.
    """
    problems: dict[str, None] = {}
    for name in modules:
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as error:
            problems[f"{name}: {error}; run make install, or pip install detkd"] = None
        except ImportError as error:
            problems[explain(error) or f"{name}: can't be imported ({error}); reinstall it with pip"] = None
        except OSError as error:  # a library that ctypes loads raises this instead
            problems[explain(ImportError(str(error))) or f"{name}: can't be imported ({error})"] = None
    return list(problems)


def main() -> int:
    """Print the problems and return 1 if there are any."""
    problems = check()
    for line in problems:
        sys.stderr.write(f"error: {line}\n")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
