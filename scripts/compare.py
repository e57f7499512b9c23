import sys

from detkd.cli import run

sys.exit(run("compare", sys.argv[1:]))
