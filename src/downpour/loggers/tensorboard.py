"""TensorBoard event files in the run directory."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only

from downpour.run import Run


class TensorBoard(TensorBoardLogger):
    """Event files in the run directory's `tensorboard` folder, with the metric names of metrics.csv and timing.csv."""

    def __init__(self, run: Run):
        super().__init__(save_dir=run.directory, name="tensorboard", version="")
        self._begun = False

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """config.yaml is the record of these."""

    def save(self) -> None:
        """Nothing to do: events are written as they arrive."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        if not self._begun and step is not None:
            self._begun = True
            self._withdraw_from(step)
        super().log_metrics(metrics, step)

    def _withdraw_from(self, step: int) -> None:
        """Have readers drop what a killed run wrote at `step` and later: the resumed run measures it again.

        As a run goes on it never goes back, so its first step is the first that it measures again.
        """
        if not any(Path(self.log_dir).glob("events.out.*")):
            return
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog

        writer: Any = self.experiment.file_writer
        writer.add_event(Event(step=step, file_version="brain.Event:2"))
        writer.add_event(Event(step=step, session_log=SessionLog(status=SessionLog.START)))
