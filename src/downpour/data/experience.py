"""What all streams of experience share: environments, step counting, epochs, rounds."""

import logging
import math
import time
from abc import abstractmethod
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from tensordict import TensorDict
from torch import Tensor

from downpour.config import ConfigError
from downpour.data.collector import Collector, Episode
from downpour.data.stream import Stream
from downpour.environments import Environment
from downpour.networks.parts import BatchNormalization
from downpour.run import Purpose, Run

log = logging.getLogger(__name__)


class Experience(Stream):
    """A stream that collects a block of experience for each round; a subclass shapes and saves it."""

    def __init__(self, environment: Environment, run: Run, *, num_envs: int, round_steps: int, stack: int = 1):
        """
        Args:
            num_envs: environments stepped together, on each rank.
            round_steps: least number of steps of each environment in a round.
            stack: frames per observation; rows hold the newest only.
        """
        super().__init__(run)
        self.num_envs, self.round_steps = num_envs, round_steps
        self.spaces = {
            "observation_space": environment.observation_space,
            "action_space": environment.action_space,
        }
        self.rng = run.rng(Purpose.ACTION)
        self.collector = Collector(environment.vector(num_envs), run, stack=stack)
        self.seconds = self.collector.seconds
        self._started = self._told = False

    def tell_of_restarts(self) -> None:
        """Log, once, that checkpoints end the episodes of environments whose state cannot be saved."""
        if not self._told:
            log.info("the state of these environments cannot be saved: each checkpoint starts new episodes")
            self._told = True

    def setup(self, stage: str) -> None:
        """
        Raises:
            ConfigError: the network has batch normalization or dropout.
        """
        policy: Any = self.trainer.lightning_module  # type: ignore[union-attr]
        for module in policy.modules():
            if isinstance(module, BatchNormalization):
                advice = "batch statistics change with the policy; use layer, rms or none"
                raise ConfigError("model.normalization", "batch", advice)
            if isinstance(module, torch.nn.Dropout) and module.p > 0:
                advice = "would make actions and targets random; use 0 with an environment"
                raise ConfigError("model.dropout", module.p, advice)
        if self.trainer.strategy.root_device.type == "cuda":  # type: ignore[union-attr]
            self.seconds["transfer"] = 0.0

    @property
    def step(self) -> int:
        return self.collector.env_steps

    @property
    def own_steps(self) -> int:
        return self.collector.own_steps

    def __len__(self) -> int:
        round_size = self.num_envs * self.round_steps * self.run.synchronous_replicas
        return math.ceil(self.run.eval_every / round_size)

    def _rounds(self) -> Iterator[TensorDict]:
        if not self._started:
            self._start()
            self._started = True
        while not self.evaluation_due:
            yield self._next_round()

    @abstractmethod
    def _start(self) -> None:
        """Make the first observations."""

    @abstractmethod
    def _next_round(self) -> TensorDict:
        """Collect experience and shape the round."""

    def _act(self, observation: Tensor) -> np.ndarray:
        policy: Any = self.trainer.lightning_module  # type: ignore[union-attr]
        with policy.gpu_clock or nullcontext():
            return policy.act(observation.to(policy.device), self.rng, env_steps=self.step, explore=True)

    def transfer_batch_to_device(self, batch: TensorDict, device: torch.device, dataloader_idx: int) -> TensorDict:
        """Skip the copy, field by field, if the round is on the device already."""
        if device.type == "cpu":
            return batch
        begin = time.perf_counter()
        batch = batch.to(device)
        self.seconds["transfer"] += time.perf_counter() - begin
        return batch

    def teardown(self, stage: str) -> None:
        """Finish a step in progress before the environments are closed."""
        self.collector.abandon()

    def take_episodes(self) -> list[Episode]:
        episodes, self.collector.episodes = self.collector.episodes, []
        return episodes
