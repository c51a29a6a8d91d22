"""The efficiency of a run, (1): `python src/scale.py strategy=ddp devices=1,2,4`; `--help` tells more."""

import sys
from pathlib import Path

from downpour.scaling.command import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], Path(__file__).resolve().parents[1] / "conf" / "scale.yaml"))
