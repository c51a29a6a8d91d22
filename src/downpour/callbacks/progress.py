"""The progress bar."""

import logging
import os
import sys
from typing import Any

from lightning.pytorch import Callback
from tqdm import tqdm

from downpour.config import PositiveFloat
from downpour.run import Run

log = logging.getLogger(__name__)

# Metrics shown on the bar, if known: name -> format.
SHOWN = {
    "train/return_mean": "return {:.1f}  ",
    "train/accuracy": "accuracy {:.3f}  ",
    "train/epsilon": "epsilon {:.2f}  ",
    "train/loss": "loss {:.3g}  ",
}
FORMAT = "{percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} steps  {desc}{rate_fmt}  {remaining} left"


class Progress(Callback):
    """On a terminal a bar with return, epsilon, steps/s and time left; otherwise one line per evaluation."""

    def __init__(self, run: Run, *, refresh_seconds: PositiveFloat = 0.2):
        """
        Args:
            refresh_seconds: shortest time between two updates of the bar.
        """
        self.run, self.refresh_seconds = run, refresh_seconds
        self.bar: Any = None

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        if not trainer.is_global_zero or not sys.stderr.isatty():
            return
        has_width = os.get_terminal_size(sys.stderr.fileno()).columns > 0
        self.bar = tqdm(
            total=self.run.total_steps,
            initial=min(trainer.datamodule.step, self.run.total_steps),
            unit=" steps",
            unit_scale=True,
            bar_format=FORMAT,
            mininterval=self.refresh_seconds,
            smoothing=0.05,  # averages over evaluations, which take time too
            dynamic_ncols=has_width,
            ncols=None if has_width else 100,  # tqdm draws nothing if the terminal reports no width
            file=sys.stderr,
        )

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        if self.bar is None:
            return
        step = min(trainer.datamodule.step, self.run.total_steps)  # the last round may exceed the total
        if self.bar.update(step - self.bar.n):  # drawn just now
            seen = trainer.callback_metrics
            texts = [text.format(float(seen[name])) for name, text in SHOWN.items() if name in seen]
            self.bar.set_description_str("".join(texts), refresh=False)

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
