import sys

from detkd.cli import run

sys.exit(run("cache", sys.argv[1:]))
