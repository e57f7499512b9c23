from __future__ import annotations

import pytest

from detkd.config import compose
from detkd.errors import ConfigError
from detkd.tasks.arguments import check_sizes
from detkd.tasks.distill import distill


@pytest.mark.parametrize(("size", "near"), [(100, 96), (1, 32), (0, 32), (-64, 32), (650, 640)])
def test_a_size_that_no_network_takes_is_refused(size, near):
    for key in ("imgsz", "load_imgsz"):
        with pytest.raises(ConfigError, match=rf"^{key}: must be a multiple of 32, got {size}; use {near}$"):
            check_sizes({"imgsz": 64, "load_imgsz": None, key: size})


def test_an_estimate_refuses_it_too():
    with pytest.raises(ConfigError, match=r"^imgsz: must be a multiple of 32, got 100"):
        distill(compose("distill", ["data=toy", "teacher=demo", "student=yolo26n_half", "imgsz=100", "dry_run=true"]))
