"""The run directory's CSV files: metrics.csv, episodes.csv, timing.csv."""

import csv
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only


class Table:
    """A CSV file that grows by rows and, rarely, by columns, and can be cut back to an earlier state."""

    def __init__(self, path: Path, columns: Sequence[str]):
        self.path, self.columns, self.rows = path, list(columns), 0

    def append(self, rows: Iterable[dict[str, Any]]) -> None:
        """Add rows; a name not seen before adds a column."""
        rows = list(rows)
        new = [name for row in rows for name in row if name not in self.columns]
        if new or not self.path.exists():
            kept = self._read()
            self.columns += dict.fromkeys(new)
            self._write(kept)
        with open(self.path, "a", newline="") as file:
            csv.DictWriter(file, self.columns, lineterminator="\n").writerows(rows)
        self.rows += len(rows)

    def capture(self) -> dict[str, Any]:
        """The current length of the table."""
        return {"columns": list(self.columns), "rows": self.rows}

    def restore(self, state: dict[str, Any]) -> None:
        """Truncate the file to its length at `capture`."""
        self.columns, self.rows = list(state["columns"]), state["rows"]
        self._write(self._read()[: self.rows])

    def _read(self) -> list[dict[str, Any]]:
        if not self.path.exists():
            return []
        with open(self.path, newline="") as file:
            return [{name: row.get(name) or "" for name in self.columns} for row in csv.DictReader(file)]

    def _write(self, rows: Iterable[dict[str, Any]]) -> None:
        partial = self.path.with_suffix(".partial")
        with open(partial, "w", newline="") as file:
            writer = csv.DictWriter(file, self.columns, lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
        os.replace(partial, self.path)


class RunFiles(Logger):
    """metrics.csv: one row per event, the step first. It does not depend on the clock: equal runs write equal files."""

    def __init__(self, directory: Path, step_name: str):
        super().__init__()
        self.directory, self.step_name = directory, step_name
        self.metrics = Table(directory / "metrics.csv", [step_name])
        self.episodes = Table(directory / "episodes.csv", [step_name, "return", "length", "environment"])
        self.timing = Table(directory / "timing.csv", [step_name])

    @property
    def name(self) -> str:
        return self.directory.name

    @property
    def version(self) -> str:
        return ""

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """config.yaml is the record of these."""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        clocked = {name: value for name, value in metrics.items() if name.startswith("time/")}
        steady = {name: value for name, value in metrics.items() if name not in clocked}
        for table, values in ((self.metrics, steady), (self.timing, clocked)):
            if values:
                table.append([{self.step_name: step, **values}])

    def capture(self) -> dict[str, Any]:
        """Lengths of the files."""
        return {"metrics": self.metrics.capture(), "episodes": self.episodes.capture(), "timing": self.timing.capture()}

    def restore(self, state: dict[str, Any]) -> None:
        """Truncate the files to their captured lengths; rows written after the checkpoint are dropped."""
        self.metrics.restore(state["metrics"])
        self.episodes.restore(state["episodes"])
        self.timing.restore(state["timing"])
