import sys

from detkd.cli import run

sys.exit(run("evaluate", sys.argv[1:]))
