from __future__ import annotations

from pathlib import Path

import pytest

from tests.inference.tiny import save, tiny_model


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A YOLO26 (both heads) and a YOLOv8 (one head, with DFL)."""
    folder = tmp_path_factory.mktemp("weights")
    return {
        "26": save(tiny_model("yolo26n.yaml"), folder / "tiny26.pt"),
        "v8": save(tiny_model("yolov8n.yaml"), folder / "tiny8.pt"),
    }
