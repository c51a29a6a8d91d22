"""Records training metrics and episodes at regular intervals."""

import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback

from downpour.algorithms.base import Algorithm
from downpour.config import PositiveInt
from downpour.data.collector import Episode
from downpour.loggers.files import RunFiles
from downpour.run import Run
from downpour.strategies import Parallelism, parallelism


class Recorder(Callback):
    """Every `every` steps and at each epoch's end: episodes of all ranks to episodes.csv, metrics to every logger."""

    def __init__(self, run: Run, *, every: PositiveInt = 1000):
        """
        Args:
            every: steps (of the x axis) between two rows of training metrics.
        """
        self.run, self.every = run, every
        self.episodes = 0
        self.last_return: float | None = None
        self._due = every
        self._recorded = 0
        self._clock = time.perf_counter()
        self._clock_step = 0
        self._seconds: dict[str, float] = {}
        self._gpu_seconds = 0.0

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self._clock, self._clock_step = time.perf_counter(), trainer.datamodule.step

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        step = trainer.datamodule.step
        if step >= self._due:
            self.record(trainer, pl_module, step)
            self._due = (step // self.every + 1) * self.every

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        step = trainer.datamodule.step
        if step > self._recorded:
            self.record(trainer, pl_module, step)

    def record(self, trainer: Any, algorithm: Algorithm, step: int) -> None:
        """Record what happened since the last record."""
        self._recorded = step
        data = trainer.datamodule
        algorithm.check_loss()
        metrics = {f"train/{name}": value for name, value in means(algorithm.latest).items()}
        metrics["train/gradient_steps"] = algorithm.gradient_steps + self.run.others.gradient_steps
        if isinstance(trainer.strategy, Parallelism):
            metrics |= trainer.strategy.metrics(algorithm.gradient_steps)
        groups = trainer.optimizers[0].param_groups if trainer.optimizers else []
        if groups and "base_lr" in groups[0]:  # the learning rate follows a schedule
            metrics["train/learning_rate"] = float(groups[0]["lr"])
        seen = data.take_episodes() if self.run.is_replica_leader else []
        episodes = [Episode(*each) for each in parallelism(trainer.strategy).gather(seen)]
        if episodes:
            episodes.sort(key=lambda episode: (episode.env_steps, episode.environment))
            self.episodes += len(episodes)
            self.last_return = float(np.mean([episode.episode_return for episode in episodes]))
            metrics["train/return_mean"] = self.last_return
            metrics["train/length_mean"] = float(np.mean([episode.length for episode in episodes]))
        trainer.callback_metrics.update({name: torch.tensor(value) for name, value in metrics.items()})
        metrics.update(self._timing(trainer, algorithm, step))
        for logger in trainer.loggers:
            if isinstance(logger, RunFiles) and trainer.is_global_zero:
                logger.episodes.append(dict(zip(logger.episodes.columns, e, strict=True)) for e in episodes)
            logger.log_metrics(metrics, step)

    def _timing(self, trainer: Any, algorithm: Algorithm, step: int) -> dict[str, float]:
        now = time.perf_counter()
        elapsed, steps = now - self._clock, step - self._clock_step
        self._clock, self._clock_step = now, step
        by_strategy = parallelism(trainer.strategy).seconds
        learning = algorithm.learning_seconds - sum(by_strategy.values())  # which is part of the gradient steps
        spent = {**trainer.datamodule.seconds, "learning": learning, **by_strategy}
        shares = {name: (total - self._seconds.get(name, 0.0)) / elapsed for name, total in spent.items()}
        self._seconds = spent
        shares["framework"] = 1.0 - sum(shares.values())
        if algorithm.gpu_clock is not None:
            before, self._gpu_seconds = self._gpu_seconds, algorithm.gpu_clock.read()
            shares["gpu_idle"] = max(0.0, 1.0 - (self._gpu_seconds - before) / elapsed)
        timing = {f"time/{name}": share for name, share in shares.items()}
        return {"time/steps_per_second": steps / elapsed, **timing}

    def state_dict(self) -> dict[str, Any]:
        return {
            "episodes": self.episodes,
            "due": self._due,
            "recorded": self._recorded,
            "last_return": self.last_return,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.episodes, self._due = state_dict["episodes"], state_dict["due"]
        self._recorded, self.last_return = state_dict["recorded"], state_dict["last_return"]


def means(values: Mapping[str, Any]) -> dict[str, float]:
    """The mean of each, with a single transfer from a GPU."""
    found = {name: torch.as_tensor(value).mean() for name, value in values.items()}
    there = [name for name, mean in found.items() if mean.is_cuda]
    if there:
        asked = torch.stack([found[name].double() for name in there]).cpu()
        found |= dict(zip(there, asked, strict=True))
    return {name: float(mean) for name, mean in found.items()}
