"""Tables and curves of runs: `python src/report.py runs=DIR`; `--help` tells more."""

import sys
from pathlib import Path

from downpour.analysis.command import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], Path(__file__).resolve().parents[1] / "conf" / "report.yaml"))
