from __future__ import annotations

import cv2
import numpy as np
import pytest

from detkd.data.records import DetectionSet, ImageRecord
from tests.inference.conftest import weights as weights
from tests.inference.tiny import NAMES, picture


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> DetectionSet:
    """Ten pictures with one labelled box each."""
    folder = tmp_path_factory.mktemp("images")
    records = []
    for i in range(10):
        path = folder / f"{i}.png"
        cv2.imwrite(str(path), picture(60, 90, i))
        box = np.array([[5.0, 5.0, 60.0, 50.0]])
        records.append(ImageRecord(i + 1, path, 90, 60, box, np.array([i % 4]), np.array([False]), np.array([2475.0])))
    return DetectionSet("val", NAMES, (1, 2, 3, 4), tuple(records))
