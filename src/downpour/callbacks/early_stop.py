"""Early stopping: when the task is solved, or when a metric no longer improves."""

import logging
import math
from collections.abc import Mapping
from typing import Any, Literal

from lightning.pytorch import Callback

from downpour.config import ConfigError, PositiveInt
from downpour.environments import Environment

log = logging.getLogger(__name__)


class EarlyStop(Callback):
    """Ends the run at the first evaluation at which a metric reaches a threshold, or has not improved for a while.

    Attributes:
        best: the best value so far.
        waited: evaluations since then.
    """

    def __init__(
        self,
        environment: Environment | None = None,
        *,
        monitor: str = "eval/return_mean",
        mode: Literal["max", "min"] = "max",
        threshold: float | None = None,
        patience: PositiveInt | None = None,
    ):
        """
        Args:
            monitor: the metric.
            mode: whether the metric is to be maximized or minimized.
            threshold: value to reach; null takes Gymnasium's reward threshold of the environment, if the
                return is monitored and there is no patience.
            patience: evaluations without improvement after which the run ends; null: no limit.

        Raises:
            ConfigError: a threshold is needed, and Gymnasium defines none.
        """
        if threshold is None and patience is None and environment is not None and monitor == "eval/return_mean":
            threshold = environment.solved_at
            if threshold is None:
                advice = f"{environment.id} has no reward threshold; set this one, or callbacks.early_stop.patience"
                raise ConfigError("callbacks.early_stop.threshold", None, advice)
        self.monitor, self.sign = monitor, 1.0 if mode == "max" else -1.0
        self.threshold, self.patience = threshold, patience
        self.best: float | None = None
        self.waited = 0

    @property
    def watches(self) -> bool:
        """Whether there is a threshold or a patience."""
        return self.threshold is not None or self.patience is not None

    def ends(self, metrics: Mapping[str, Any]) -> str:
        """Why the run ends with the evaluation that measured `metrics`, or None; does not change the state.

        Raises:
            ConfigError: the metric is not among them.
        """
        if not self.watches:
            return ""
        value = self._value(metrics)
        if self.threshold is not None and self.sign * value >= self.sign * self.threshold:
            return f"{self.monitor} {value:.4g} reaches {self.threshold:.4g}"
        if self.patience is not None and not self._improves(value) and self.waited + 1 >= self.patience:
            return f"{self.monitor} has not improved on {self.best} for {self.patience} evaluation(s)"
        return ""

    def _value(self, metrics: Mapping[str, Any]) -> float:
        if self.monitor not in metrics:
            known = ", ".join(sorted(name for name in metrics if name.startswith("eval/")))
            there = f"there are {known}" if known else "nothing is: add callbacks.evaluation, or validation"
            raise ConfigError("callbacks.early_stop.monitor", self.monitor, f"is not measured here; {there}")
        return float(metrics[self.monitor])

    def _improves(self, value: float) -> bool:
        return not math.isnan(value) and (self.best is None or self.sign * value > self.sign * self.best)

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        if reason := self.ends(trainer.callback_metrics):
            log.info("stopping early: %s", reason)
            trainer.should_stop = True
        if self.watches:
            value = self._value(trainer.callback_metrics)
            self.best, self.waited = (value, 0) if self._improves(value) else (self.best, self.waited + 1)

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "waited": self.waited}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best, self.waited = state_dict["best"], state_dict["waited"]
