import sys

from detkd.cli import run

sys.exit(run("watch", sys.argv[1:]))
