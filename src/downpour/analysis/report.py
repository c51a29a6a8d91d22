"""The report of a sweep: tables, figures, and a list of failed runs."""

import atexit
import contextlib
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn, JobStatus
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from downpour.analysis.configurations import HARDWARE, LENGTHS, Configuration, group
from downpour.analysis.metrics import headline
from downpour.analysis.runs import FAILURE_FILE, RunDirectory, find_runs
from downpour.analysis.statistics import RESAMPLES
from downpour.analysis.table import comma_separated, markdown, row
from downpour.config import ConfigError
from downpour.directory import write_text
from downpour.failures import Failed, shown

UNFINISHED = ("unfinished", "stopped")
FEW_SEEDS = 5  # with fewer, bootstrap intervals are too narrow
TABLE, NUMBERS, PICTURE = "table.md", "table.csv", "curves"


def report(
    runs: Sequence[Path], out: Path, *, metric: str | None = None, pdf: bool = False, paper: str | None = None
) -> str:
    """Write table.md, table.csv and curves.png into `out`; returns the text of table.md.

    If a number was swept, sensitivity.png shows the last values against it. Failed runs are excluded from the means;
    they are listed with the reason, and so are unfinished runs.

    Args:
        runs: run directories.
        metric: to compare the runs by; None selects one, see `metrics.headline`.
        pdf: write curves.pdf as well.
        paper: name of a table in `downpour.analysis.papers`, written to paper.md, paper.csv and paper.png.

    Raises:
        ConfigError: no run has the metric, or there is no such paper.
        OSError: `out` cannot be written.
    """
    from downpour.analysis import paper_table, papers
    from downpour.analysis.curves import comparison
    from downpour.analysis.drawing import save
    from downpour.analysis.extras import draw_extras
    from downpour.analysis.sensitivity import sensitivity, swept

    if paper is not None:
        papers.find(paper)
    directories = [RunDirectory(Path(path)) for path in runs]
    identified = [run for run in directories if run.identified]
    configurations = group(identified)
    counted = [run for each in configurations for run in each.counted]
    if metric is not None:
        headline(counted, metric)
    rows = [row(each, metric) for each in configurations]
    superseded = {id(run): run for each in configurations for run in each.superseded}
    current = [run for run in directories if id(run) not in superseded]
    parts = (
        _heading(current),
        markdown(rows),
        _legend(configurations),
        *_lists(current, list(superseded.values()), out),
    )
    text = "\n\n".join(part for part in parts if part)
    write_text(out / TABLE, text + "\n")
    write_text(out / NUMBERS, comma_separated(rows))
    for kind in ["png", "pdf"] if pdf else ["png"]:
        picture = out / f"{PICTURE}.{kind}"
        if counted:
            save(comparison(configurations, metric), picture)
        else:
            picture.unlink(missing_ok=True)  # of an earlier report, which does not belong to this table
    draw_extras(configurations, out)
    if counted and swept(configurations):
        save(sensitivity(configurations, metric), out / "sensitivity.png")
    if paper is not None:
        # All runs are compared at one step, for whatever length they were planned and wherever they were trained.
        same = group(identified, without=(*LENGTHS, *HARDWARE))
        if beside := paper_table.write(paper, same, out):
            text += f"\n\n{beside}"
    return text


def _heading(runs: Sequence[RunDirectory]) -> str:
    failed = sum(run.status == "failed" for run in runs)
    if failed == len(runs):
        return f"All {failed} runs failed: there is nothing to compare."
    if not any(len(run.metrics) for run in runs):
        return f"None of the {len(runs)} runs has measured anything yet."
    return f"{failed} of {len(runs)} runs failed." if failed else ""


def _legend(configurations: Sequence[Configuration]) -> str:
    """The explanation of the table."""
    if not any(each.counted for each in configurations):
        return ""
    lines = [
        f"Mean over seeds [95 % interval, percentile bootstrap, {RESAMPLES} resamples], last value;",
        "best: the best of each run's evaluations, which is biased towards good values.",
    ]
    if any(1 < len(each.counted) < FEW_SEEDS for each in configurations):
        lines.append(f"Bootstrap intervals over fewer than {FEW_SEEDS} seeds are too narrow.")
    return "\n".join(lines)


def _lists(runs: Sequence[RunDirectory], superseded: Sequence[RunDirectory], out: Path) -> list[str]:
    """Lists of the runs that are not finished, with the reason."""
    listed = {
        "Failed, excluded from the means": [run for run in runs if run.status == "failed"],
        "Not finished, included as far as they got": [run for run in runs if run.status in UNFINISHED],
        "Superseded by another run with the same seed": superseded,
    }
    return [
        f"{title}:\n\n" + "\n".join(f"- {_title(run, out)}{run.why and ': '}{run.why}" for run in members)
        for title, members in listed.items()
        if members
    ]


def _title(run: RunDirectory, out: Path) -> str:
    path = os.path.relpath(run.path, out)
    typed = " ".join(run.overrides)
    return f"{run.path if path.startswith('..') else path}" + (f" ({typed})" if typed else "")


def announce(directory: Path, paper: str | None = None) -> None:
    """Write and print the report of a sweep. An error is printed as one line on stderr, not raised."""
    try:
        text = report(find_runs(directory), directory, paper=paper)
        print(f"\n{text}\n\nreport: {directory}", flush=True)
    except (Exception, KeyboardInterrupt) as error:
        reason = str(error) if isinstance(error, ConfigError) else f"{type(error).__name__}: {error}"
        print(
            f"The report of the sweep failed ({reason}). The runs are intact; to try again: "
            f"python src/report.py runs={directory}{f' paper={paper}' if paper else ''}",
            file=sys.stderr,
        )


class SweepReport(Callback):
    """Hydra callback: after a multirun, writes its report into the sweep directory and prints it.

    A sweep with a failed job, or Ctrl-C, ends in an exception before Hydra calls `on_multirun_end`; the report is then
    written when the process exits. The error of each failed job is saved in failure.txt of its directory, for the
    report. The exit code of the sweep stays the same.
    """

    def __init__(self, paper: str | None = None) -> None:
        """
        Args:
            paper: see `report`.
        """
        self._paper = paper
        self._directory: str | None = None
        self._process = os.getpid()

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Note the directory of the sweep."""
        self._directory = os.path.abspath(str(config.hydra.sweep.dir))
        self._process = os.getpid()
        atexit.register(self._at_exit)

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Write and print the report."""
        directory, self._directory = self._directory, None
        if directory is not None:
            announce(Path(directory), self._paper)

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        """Save the error of a failed job in its directory. Called in the process of the job, on any host."""
        hydra = job_return.hydra_cfg
        if hydra is None or OmegaConf.select(hydra, "hydra.mode") != RunMode.MULTIRUN:
            return
        reason = Path(str(OmegaConf.select(hydra, "hydra.runtime.output_dir"))) / FAILURE_FILE
        with contextlib.suppress(OSError):  # a full disk, for example, of which the job may have failed
            error = job_return._return_value  # `return_value` would raise it
            stopped = isinstance(error, Failed) and error.code > 128  # by a signal, which is no failure
            if job_return.status == JobStatus.FAILED and not stopped:
                ours = type(error).__module__.startswith("downpour")  # its message says everything
                text = str(error) if ours else f"{type(error).__name__}: {error}"
                reason.write_text(text + "\n", encoding="utf-8")
                _identify(reason.parent, job_return)
            else:
                reason.unlink(missing_ok=True)  # of an earlier sweep in the same directory

    def _at_exit(self) -> None:
        if self._directory is None or os.getpid() != self._process or not os.path.isdir(self._directory):
            return
        sys.stdout.flush()
        # In a new process: at exit, this one can no longer import what a report needs.
        code = "import sys; from downpour.analysis.report import *; announce(Path(sys.argv[1]), sys.argv[2] or None)"
        paths = [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in paths if path)}
        with contextlib.suppress(OSError, KeyboardInterrupt):
            subprocess.run(
                [sys.executable, "-c", code, self._directory, self._paper or ""], env=environment, check=False
            )
        print(f"To go on with this sweep:\n  python src/train.py -m resume_sweep={shown(Path(self._directory))}")


def _identify(directory: Path, job: JobReturn) -> None:
    """Write choices.yaml for a job that failed before it did, so that the report can label it."""
    path = directory / "choices.yaml"
    if path.exists() or job.hydra_cfg is None:
        return
    chosen = OmegaConf.select(job.hydra_cfg, "hydra.runtime.choices") or {}
    choices = {str(group): name for group, name in chosen.items() if not str(group).startswith("hydra/")}
    OmegaConf.save({"overrides": list(job.overrides or []), "choices": choices}, path)
