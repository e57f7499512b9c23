import sys

from detkd.cli import run

sys.exit(run("export", sys.argv[1:]))
