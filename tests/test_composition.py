"""Configurations as the command line composes them, without the command line."""

import subprocess
import sys
from pathlib import Path

SOURCES = Path(__file__).parents[1] / "src"


def test_whoever_composes_can_resolve_or() -> None:
    """In an interpreter of its own: others that have been imported here may have registered the resolver."""
    code = "from downpour.composition import composed; print(composed(['resume=a_run']).hydra.run.dir)"
    ended = subprocess.run([sys.executable, "-c", code], cwd=SOURCES, capture_output=True, text=True, timeout=120)
    assert ended.stdout == "a_run\n", ended.stderr
