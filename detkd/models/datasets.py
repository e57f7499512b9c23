"""Data sets that Ultralytics knows by name and can download."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import detkd.environment

from ultralytics.data.utils import check_det_dataset
from ultralytics.utils import ROOT, SETTINGS

from detkd.errors import DataError
from detkd.models.weights import quiet

__all__ = ["ultralytics_dataset"]


def ultralytics_dataset(name: str) -> dict[str, Any]:
    """Return a data YAML of Ultralytics with absolute paths, downloading the images into `data/` where needed.

    Only the YAMLs that come with Ultralytics are read: their `download` key is Python code, which Ultralytics runs.

    Raises:
        DataError: If it is unknown or can't be downloaded.
    """
    file = ROOT / "cfg" / "datasets" / f"{Path(name).stem}.yaml"
    if Path(name).name != name or not file.is_file():
        raise DataError(
            f"data.path: Ultralytics has no data set {name}; format: ultralytics takes its own names only, such as "
            "coco128.yaml; for your own data leave format out"
        )
    before = SETTINGS.get("datasets_dir")
    dict.update(SETTINGS, {"datasets_dir": str(Path("data").resolve())})  # for this process, not in the user's settings
    try:
        with quiet(50):
            data: dict[str, Any] = check_det_dataset(str(file))
    except Exception as err:  # a download fails in many ways
        raise DataError(
            f"data: {name} is not on this machine and can't be downloaded ({_first_line(err)}); "
            "check the network, or give the path of your own data"
        ) from err
    finally:
        dict.update(SETTINGS, {"datasets_dir": before})
    return data


def _first_line(err: Exception) -> str:
    return (str(err).strip().splitlines() or [type(err).__name__])[0][:120]
