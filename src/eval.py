"""Evaluate a finished run: `python src/eval.py run=DIR episodes=100 video=true`; `--help` tells more."""

import sys
from pathlib import Path

from downpour.evaluate import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], Path(__file__).resolve().parents[1] / "conf" / "eval.yaml"))
