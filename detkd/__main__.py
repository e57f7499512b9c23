"""`python -m detkd`, the same as the `detkd` command."""

from __future__ import annotations

import sys

from detkd.cli import main

if __name__ == "__main__":
    sys.exit(main())
