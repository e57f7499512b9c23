import sys

from detkd.cli import run

sys.exit(run("pseudolabel", sys.argv[1:]))
