import sys

from detkd.cli import run

sys.exit(run("train", sys.argv[1:]))
