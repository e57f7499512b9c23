import sys

from detkd.cli import run

sys.exit(run("predict", sys.argv[1:]))
