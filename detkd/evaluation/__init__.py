"""Evaluation with COCO's numbers, and comparison of detectors."""

from __future__ import annotations
