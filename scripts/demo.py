import sys

from detkd.cli import run

sys.exit(run("demo", sys.argv[1:]))
