from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path


def test_evaluator_bench_on_a_small_set(repo: Path) -> None:
    command = [sys.executable, str(repo / "scripts" / "bench" / "evaluator.py")]
    sizes = ["--images", "30", "--classes", "5", "--detections", "20", "--resamples", "10", "--json"]
    done = subprocess.run([*command, *sizes], cwd=repo, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["max_difference"] <= 1e-12
    assert 0.05 < result["AP"] < 0.95
    assert result["detections"] == 600
    assert set(result["engine_seconds"]) >= {"pycocotools", "hotcoco", "detkd"}
    for key in ("ratio_wall", "ratio_memory", "detkd_ratio_wall", "detkd_ratio_memory", "bootstrap_seconds"):
        assert result[key] > 0
    assert result["bootstrap_sd"] > 0
