import sys

from detkd.cli import run

sys.exit(run("doctor", sys.argv[1:]))
