import sys

from detkd.cli import run

sys.exit(run("distill", sys.argv[1:]))
