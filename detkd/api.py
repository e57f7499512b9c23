"""The verbs as functions: `detkd.api.<verb>(config)` with a resolved configuration, as the command line calls them.

For use from Python see the keyword functions of the package itself (`detkd.train(...)`), which compose the same
configuration.
"""

from __future__ import annotations

from detkd.tasks.cache import cache
from detkd.tasks.compare import compare_models as compare
from detkd.tasks.demo import demo
from detkd.tasks.distill import distill
from detkd.tasks.doctor import doctor
from detkd.tasks.evaluate import evaluate
from detkd.tasks.export import export
from detkd.tasks.predict import predict
from detkd.tasks.pseudolabel import pseudolabel
from detkd.tasks.train import train
from detkd.tasks.watch import watch

__all__ = [
    "cache", "compare", "demo", "distill", "doctor", "evaluate", "export", "predict", "pseudolabel", "train", "watch",
]  # fmt: skip
