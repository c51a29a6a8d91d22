"""Evaluation on held-out data."""

import logging
from typing import Any, ClassVar

import torch
from lightning.pytorch import Callback

from downpour.analysis.confusion import confusion_matrix
from downpour.callbacks.early_stop import EarlyStop
from downpour.loggers import WandB
from downpour.run import Run
from downpour.scores import confusion

log = logging.getLogger(__name__)


class Validation(Callback):
    """Metrics of the validation split at each epoch's end; of the test split once, when the run ends.

    Every rank evaluates the whole split, so that a network with sharded weights can be evaluated.
    """

    needs: ClassVar[dict[str, str]] = {"evaluate": "learn from a data set"}

    def __init__(self, run: Run, *, picture: bool = True):
        """
        Args:
            picture: draw the confusion matrix of the test split, confusion.png, when the run ends.
        """
        self.run, self.picture = run, picture

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        with trainer.precision_plugin.tensor_init_context():  # which networks make their numbers in
            self._measure(trainer, pl_module)

    def _measure(self, trainer: Any, pl_module: Any) -> None:
        data = trainer.datamodule
        metrics = {f"eval/{name}": value for name, value in pl_module.evaluate(data.split("validation")).items()}
        predictions = None
        if data.finished or trainer.should_stop or self._stops(trainer, metrics):
            if self.picture and pl_module.classes:
                predictions = pl_module.predict(data.split("test"))
                found = pl_module.judge(*predictions)
            else:
                found = pl_module.evaluate(data.split("test"))
            metrics |= {f"test/{name}": value for name, value in found.items()}
        trainer.callback_metrics.update({name: torch.tensor(value) for name, value in metrics.items()})
        for logger in trainer.loggers:
            logger.log_metrics(metrics, data.step)
        if predictions and trainer.is_global_zero:
            self._draw(trainer, pl_module, data, *predictions)

    def _stops(self, trainer: Any, metrics: dict[str, float]) -> bool:
        """Whether another callback is about to end the run for these metrics."""
        known = {**trainer.callback_metrics, **metrics}
        return any(each.ends(known) for each in trainer.callbacks if isinstance(each, EarlyStop))

    def _draw(self, trainer: Any, algorithm: Any, data: Any, outputs: torch.Tensor, targets: torch.Tensor) -> None:
        path = self.run.directory / "confusion.png"
        counts = confusion(outputs, targets, algorithm.classes)
        confusion_matrix(counts.cpu().numpy(), data.samples.classes, path)
        for logger in trainer.loggers:
            if isinstance(logger, WandB):
                logger.log_image("test/confusion", [str(path)], step=data.step)
