"""What a person watching the terminal sees."""

import logging
import sys
from typing import Any

from lightning.pytorch import Callback
from tqdm import tqdm

from downpour.config import PositiveFloat
from downpour.run import Run

log = logging.getLogger(__name__)


class Progress(Callback):
    """A bar on a terminal: steps of total, return, epsilon, steps/s, time left. Elsewhere one line an evaluation."""

    def __init__(self, run: Run, *, refresh_seconds: PositiveFloat = 0.2):
        """
        Args:
            refresh_seconds: least time between two drawings of the bar.
        """
        self.run, self.refresh_seconds = run, refresh_seconds
        self.bar: Any = None

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        if trainer.is_global_zero and sys.stderr.isatty():
            data = trainer.datamodule
            self.bar = tqdm(
                total=self.run.total_steps,
                initial=data.step,
                unit="step",
                unit_scale=True,
                mininterval=self.refresh_seconds,
                dynamic_ncols=True,
                file=sys.stderr,
            )

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        if self.bar is not None:
            data = trainer.datamodule
            if self.bar.update(data.step - self.bar.n):  # drawn just now
                known = {"return": "train/return_mean", "epsilon": "train/epsilon", "loss": "train/loss"}
                known["accuracy"] = "train/accuracy"
                seen = trainer.callback_metrics
                self.bar.set_postfix({k: f"{float(seen[v]):.3g}" for k, v in known.items() if v in seen}, refresh=False)

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        data = trainer.datamodule
        if trainer.is_global_zero:
            shown = {name: float(v) for name, v in trainer.callback_metrics.items() if name.startswith("eval/")}
            text = "  ".join(f"{name} {value:.4g}" for name, value in shown.items())
            log.info("%s %d of %d  %s", data.step_name, data.step, self.run.total_steps, text)

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        if self.bar is not None:
            self.bar.close()
            self.bar = None
