"""Stopping when the task is solved."""

import logging
from typing import Any, ClassVar

from lightning.pytorch import Callback

from downpour.config import ConfigError
from downpour.environments import Environment

log = logging.getLogger(__name__)


class EarlyStop(Callback):
    """Ends the run at the first evaluation whose mean return reaches a threshold."""

    needs: ClassVar[dict[str, str]] = {"act": "act in an environment"}

    def __init__(self, environment: Environment, *, threshold: float | None = None):
        """
        Args:
            threshold: mean return; null takes the one Gymnasium gives for the environment.

        Raises:
            ConfigError: Gymnasium gives none.
        """
        if threshold is None:
            threshold = environment.solved_at
        if threshold is None:
            advice = f"{environment.id} has no solved threshold; set one"
            raise ConfigError("callbacks.early_stop.threshold", None, advice)
        self.threshold = threshold

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        reached = float(trainer.callback_metrics["eval/return_mean"])
        if reached >= self.threshold:
            log.info("solved: evaluation return %.1f reaches %.1f", reached, self.threshold)
            trainer.should_stop = True
