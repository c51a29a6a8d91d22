"""The command line of reports: key=value, as for training."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from downpour.analysis.runs import find_runs
from downpour.config import ConfigError
from downpour.settings import read_settings, show_help

SUMMARY = """
Tables and curves of runs, with 95 % bootstrap intervals over seeds. Runs that differ only by their seed form
one configuration. Unfinished runs are included as far as they got; failed ones are listed with the reason.

  python src/report.py runs=outputs/multirun/2026-11-22/15-04-05-dqn
  python src/report.py runs='outputs/multirun/2026-11-*/*' out=comparison metric=eval/loss pdf=true

Settings, with their defaults:

"""


def main(arguments: Sequence[str], defaults: Path) -> int:
    """Run the command; returns its exit code: 0, or 2 with one line on stderr for invalid input.

    Args:
        arguments: the arguments of the command.
        defaults: the YAML file with every setting, its default and its meaning.
    """
    if show_help(arguments, SUMMARY, defaults):
        return 0
    try:
        settings = read_settings(arguments, defaults, "runs=outputs/multirun/...")
        runs = find_runs(settings["runs"])
        out = _destination(settings, runs)
        try:
            from downpour.analysis.report import report

            text = report(runs, out, metric=settings["metric"], pdf=settings["pdf"], paper=settings["paper"])
        except OSError as error:
            raise ConfigError("out", out, f"cannot be written ({error.strerror}); choose another") from None
    except ConfigError as error:
        print(f"report: {error}", file=sys.stderr)
        return 2
    print(f"{text}\n\nreport: {out}")
    return 0


def _destination(settings: dict[str, Any], runs: Sequence[Path]) -> Path:
    """`out`; if it is not set, the directory given as `runs`, or the deepest one that contains all runs found."""
    if settings["out"] is not None:
        return Path(settings["out"]).expanduser()
    given = Path(settings["runs"]).expanduser()
    return given if given.is_dir() else Path(os.path.commonpath([run.absolute().parent for run in runs]))
