"""Finds run directories, and reads them in whatever state they are."""

from __future__ import annotations

import glob
import io
import json
import os
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from downpour.analysis.text import spaced
from downpour.config import ConfigError

if TYPE_CHECKING:
    import pandas

FAILURE_FILE = "failure.txt"  # the error of a job of a sweep; written by downpour.analysis.report.SweepReport
RUN_FILES = ("config.yaml", "metrics.csv")
SWEEP_FILE = "multirun.yaml"  # Hydra writes it into every sweep directory


def is_run(path: Path) -> bool:
    """Whether `path` is a run directory."""
    return all((path / name).is_file() for name in RUN_FILES)


def find_runs(where: str | Path) -> list[Path]:
    """Find run directories, in natural order (job 2 before job 10).

    Directories of jobs that failed before they wrote a metric are included, so that reports can list them.

    Args:
        where: a run, a sweep, a folder above them, a glob, or several of these, separated by commas.

    Raises:
        ConfigError: there is no such path, or no run directory in it.
    """
    found = {run.resolve(): run for root in _roots(str(where)) for run in _walk(root)}
    if not found:
        raise ConfigError("runs", where, f"contains no run directory (one has {' and '.join(RUN_FILES)})")
    return sorted(found.values(), key=lambda run: natural(str(run)))


def _roots(where: str) -> list[Path]:
    """The existing paths that `where` names; an existing path may contain commas and asterisks."""
    path = Path(where).expanduser()
    if path.exists():
        return [path]
    matches = [Path(match) for match in sorted(glob.glob(str(path), recursive=True))]
    if matches:
        return [match for match in matches if match.is_dir()]
    if "," in where:
        parts = [part.strip() for part in where.strip("[]").split(",")]
        return [root for part in parts if part for root in _roots(part)]
    raise ConfigError("runs", where, f"there is no such directory (relative to {Path.cwd()})")


def _walk(root: Path) -> list[Path]:
    if root.is_file():
        raise ConfigError("runs", root, f"is a file; give the run directory, {root.parent}")
    runs: list[Path] = []
    sweeps: set[Path] = set()
    for folder, children, files in os.walk(root):
        here, names = Path(folder), {*files, *children}
        if SWEEP_FILE in files:
            sweeps.add(here)
        in_sweep = here.name.isdecimal() or bool(names & {FAILURE_FILE, "train.log", ".hydra", *RUN_FILES})
        job = in_sweep and here not in sweeps and not sweeps.isdisjoint(here.parents)
        broken = {"config.yaml", "choices.yaml"} <= names  # a config.yaml alone may belong to anything
        children[:] = sorted(name for name in children if not name.startswith("."))  # not into .hydra
        if is_run(here) or job or broken:
            runs.append(here)
            children.clear()  # folders of a run (checkpoints, wandb) contain no runs
    return runs


def natural(text: str) -> list[tuple[int, float, str]]:
    """Sort key: "job 2" before "job 10"; numbers, by their value, before words."""
    try:
        return [(0, float(text), "")]
    except ValueError:
        pieces = re.split(r"(\d+)", text)
    return [(1, float(piece), "") if piece.isdecimal() else (2, 0.0, piece) for piece in pieces]


@dataclass
class RunDirectory:
    """A run directory, read lazily. Reading a run that is running, failed or was killed raises no errors."""

    path: Path

    @cached_property
    def config(self) -> dict[str, Any]:
        """config.yaml, or {} where it is missing or broken."""
        return read_yaml(self.path / "config.yaml")

    @cached_property
    def overrides(self) -> list[str]:
        """The overrides of the command line, e.g. ["algo=dqn", "seed=3"]."""
        return [str(each) for each in self._choices_file.get("overrides") or []]

    @cached_property
    def choices(self) -> dict[str, str]:
        """Config group -> chosen option, e.g. {"algo": "dqn"}."""
        chosen = self._choices_file.get("choices") or {}
        return {str(group): str(name) for group, name in chosen.items() if name is not None}

    @cached_property
    def _choices_file(self) -> dict[str, Any]:
        own = read_yaml(self.path / "choices.yaml")
        if own:
            return own
        # A job that failed early: Hydra's own record, if it was configured to write one.
        hydra = read_yaml(self.path / ".hydra" / "hydra.yaml").get("hydra") or {}
        overrides, runtime = hydra.get("overrides") or {}, hydra.get("runtime") or {}
        return {"overrides": overrides.get("task"), "choices": runtime.get("choices")} if hydra else {}

    @property
    def identified(self) -> bool:
        """Whether the configuration of the run is known."""
        return bool(self._choices_file or self.config)

    @cached_property
    def summary(self) -> dict[str, Any]:
        """summary.json, or {} if there is none yet."""
        try:
            content = json.loads((self.path / "summary.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return content if isinstance(content, dict) else {}

    @cached_property
    def metrics(self) -> pandas.DataFrame:
        """metrics.csv; its first column is `axis`."""
        return read_csv(self.path / "metrics.csv")

    @cached_property
    def episodes(self) -> pandas.DataFrame:
        """episodes.csv; an empty table for a run without episodes."""
        return read_csv(self.path / "episodes.csv")

    @property
    def axis(self) -> str:
        """The steps that the run counts: "env_steps" or "gradient_steps"."""
        columns = self.metrics.columns
        return str(columns[0]) if len(columns) else "env_steps"

    @property
    def steps(self) -> int:
        """Steps so far, in units of `axis`."""
        done = self.summary.get(self.axis)
        if isinstance(done, (int, float)):
            return int(done)
        return int(self.metrics[self.axis].max()) if len(self.metrics) else 0

    @property
    def seed(self) -> int | None:
        """The run's seed; None if it is not known."""
        seed = self.summary.get("seed", self.config.get("seed"))
        return seed if isinstance(seed, int) else None

    @property
    def algorithm(self) -> str:
        """Name of the algorithm on the command line."""
        return self.choices.get("algo", "run")

    @property
    def environment(self) -> str:
        """The environment's id ("MinAtar breakout" of a game), or the data set's name for a supervised run."""
        if self.axis == "gradient_steps" and "data" in self.choices:
            return self.choices["data"]
        env = self.config.get("env") or {}
        name = env.get("id")
        if "game" in env:
            name = f"{str(env.get('_target_', '')).rpartition('.')[2]} {env['game']}".strip()
        return str(name or self.choices.get("env") or self.choices.get("data", "unknown environment"))

    @property
    def status(self) -> str:
        """finished | stopped | failed | unfinished (running, or killed)."""
        status = self.summary.get("status")
        if status in ("finished", "stopped", "failed"):
            return str(status)
        broken = (self.path / FAILURE_FILE).is_file() or (not is_run(self.path) and self._last_error())
        return "failed" if broken else "unfinished"

    @property
    def why(self) -> str:
        """Why the run is not finished, in one line; empty if it is."""
        if self.status == "finished":
            return ""
        missing = [name for name in RUN_FILES if not (self.path / name).is_file()]
        if self.status == "unfinished" and missing:
            return f"just started, or killed at the start: no {' and no '.join(missing)}"
        if self.status == "unfinished":
            return f"still running or killed; read up to {spaced(self.steps)} {self.axis}"
        if self.status == "stopped":
            return f"stopped at {spaced(self.steps)} {self.axis}"
        told = _text(self.path / FAILURE_FILE)
        bare = told.startswith("exit code")  # the log may have the cause
        reasons = (str(self.summary.get("error", "")), "" if bare else told, self._last_error(), told)
        return next((_one_line(reason) for reason in reasons if reason.strip()), "no reason recorded; see train.log")

    def _last_error(self) -> str:
        lines = reversed(_text(self.path / "train.log").splitlines())
        return next((line for line in lines if re.search(r"\b(ERROR|CRITICAL)\b|^[\w.]+Error\b", line)), "")


def read_csv(path: Path) -> pandas.DataFrame:
    """Read a CSV file of numbers that may be still growing; an empty table if there is none.

    A last line without a newline is skipped, as its last number may be incomplete, and so are rows without a first
    column. Other cells that are not numbers become NaN.
    """
    import pandas

    try:
        content = path.read_bytes()
    except OSError:
        return pandas.DataFrame()
    content = content[: content.rfind(b"\n") + 1]
    if not content.strip():
        return pandas.DataFrame()
    table = pandas.read_csv(io.BytesIO(content), on_bad_lines="skip", encoding_errors="replace")
    table = table.apply(pandas.to_numeric, errors="coerce")
    return table.dropna(subset=table.columns[:1]).reset_index(drop=True)


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML mapping as plain Python; {} if the file is missing or damaged. Interpolations are not resolved."""
    from omegaconf import OmegaConf

    try:
        content = OmegaConf.to_container(OmegaConf.load(path), resolve=False)
    except Exception:  # of an incomplete file: errors of yaml or omegaconf, OSError
        return {}
    return {str(key): value for key, value in content.items()} if isinstance(content, dict) else {}


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _one_line(text: str, longest: int = 300) -> str:
    line = " ".join(text.split())
    return line if len(line) <= longest else line[: longest - 1] + "…"
