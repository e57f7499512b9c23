"""The table of bad inputs: it grows with every bug. `scripts/campaigns/bad_input.py` writes what each one is told."""

from __future__ import annotations

from tests.hostile import case_labels, case_models, case_results
from tests.hostile.case import Case

CASES: list[Case] = [*case_labels.CASES, *case_results.CASES, *case_models.CASES]
