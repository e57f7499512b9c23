"""Settings that Ultralytics reads at import time. Import this module before any `ultralytics` import.

Checkpoints are pickles, so they are loaded through Ultralytics' allow-list unless `DETKD_TRUST=1` or `trust=true` says
otherwise, and nothing is installed at run time.
"""

from __future__ import annotations

import os

__all__ = ["trusted"]

os.environ["YOLO_AUTOINSTALL"] = "false"
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")


def trusted() -> bool:
    """Return whether the user switched the allow-list off for this process."""
    return os.environ.get("DETKD_TRUST", "") == "1"


# Set, not defaulted: an inherited "false" must not switch the protection off silently.
os.environ["ULTRALYTICS_SAFE_LOAD"] = "false" if trusted() else "true"
