"""On-policy data: rollouts of fixed length, or whole episodes, each used once."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from tensordict import TensorDict

from downpour.config import PositiveInt
from downpour.data.experience import Experience
from downpour.environments import Environment
from downpour.failures import TrainingError
from downpour.run import Run


class RolloutData(Experience):
    """Rounds of `round_steps` consecutive steps of `num_envs` environments, in order.

    A round is rows [round_steps + 1, num_envs] as `Collector` writes them, each observation once: row t + 1 holds the
    action taken in row t and its outcome. `weight` is 1 where a row ends a transition, 0 in the first row and where an
    environment was being reset. The next row always has the observation to bootstrap from, including the true last
    observation of a truncated episode. The last row of a round is the first of the next.
    """

    stream = "rollout"

    def __init__(self, environment: Environment, run: Run, *, num_envs: PositiveInt = 8, round_steps: PositiveInt = 32):
        """
        Args:
            num_envs: environments stepped together, on each rank.
            round_steps: steps of each environment in a round.
        """
        super().__init__(environment, run, num_envs=num_envs, round_steps=round_steps)
        self._last: Any = None

    @classmethod
    def planned_batches(cls, settings: Mapping[str, Any], total_steps: int, in_step: int) -> int | None:
        return math.ceil(total_steps / (settings["num_envs"] * settings["round_steps"] * in_step))

    def _start(self) -> None:
        self._last = self.collector.start()

    def _next_round(self) -> TensorDict:
        rows: Any = torch.cat([self._last, self.collector.collect(self.round_steps, self._act)])
        self._last = rows[-1:].clone()
        rows["weight"] = (~rows["first"]).float()
        rows["weight"][0] = 0
        return rows

    def capture(self) -> dict[str, Any]:
        """This rank's part of a checkpoint, between two rounds."""
        collector = self.collector.capture()
        if collector["environments"] is None:  # restart them at each checkpoint, in an uninterrupted run too
            self.tell_of_restarts()
            self._last = self.collector.start()
            collector = self.collector.capture()
        last = {name: value.clone() for name, value in self._last.items()} if self._last is not None else {}
        return {"collector": collector, "rng": self.rng.bit_generator.state, "last": last}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what `capture` returned."""
        self.rng.bit_generator.state = state["rng"]
        self.collector.restore(state["collector"])
        self._last = TensorDict(state["last"], batch_size=[1, self.num_envs])
        if state["collector"]["environments"] is None:
            self.tell_of_restarts()
        self._started = True


class EpisodeData(Experience):
    """Rounds of whole episodes, for algorithms that need the complete return, (30)-(33).

    Every environment is reset, then plays the same number of episodes to their end: taking the first that finish would
    favour short ones. Rows are as in `RolloutData`, as many as the longest episodes need; rows after an environment's
    last episode have `weight` 0. No episode spans two rounds, so a checkpoint needs only counters.
    """

    stream = "episodes"
    even = False
    BLOCK = 128

    def __init__(
        self,
        environment: Environment,
        run: Run,
        *,
        num_envs: PositiveInt = 8,
        episodes_per_env: PositiveInt = 1,
        max_round_steps: PositiveInt = 10_000,
    ):
        """
        Args:
            num_envs: environments stepped together, on each rank.
            episodes_per_env: episodes of each environment in a round.
            max_round_steps: steps of a round; an environment that has not ended its episodes by then is an error.
        """
        super().__init__(environment, run, num_envs=num_envs, round_steps=episodes_per_env)
        self.episodes_per_env, self.max_round_steps = episodes_per_env, max_round_steps

    def _start(self) -> None:
        """Nothing to do: each round resets the environments."""

    def _next_round(self) -> TensorDict:
        known = len(self.collector.episodes)
        blocks = [self.collector.start()]
        while not self._complete():
            if sum(map(len, blocks)) > self.max_round_steps:
                advice = "some episodes are longer than this; limit them with env.max_episode_steps"
                raise TrainingError(f"data.max_round_steps={self.max_round_steps}: {advice}")
            blocks.append(self.collector.collect(self.BLOCK, self._act, until=self._complete))
        self._forget_surplus(known)
        if self.run.synchronous_replicas > 1:  # ranks wait for the longest, whose steps count for all
            longest = torch.tensor(self.collector.vector_steps)
            dist.all_reduce(longest, dist.ReduceOp.MAX)
            self.collector.vector_steps = int(longest)
        rows: Any = torch.cat(blocks)
        ends = (rows["terminated"] | rows["truncated"]).long()
        ended_before = ends.cumsum(0) - ends
        rows["weight"] = (~rows["first"] & (ended_before < self.episodes_per_env)).float()
        rows["weight"][0] = 0
        return rows

    def _complete(self) -> bool:
        return bool((self.collector.finished >= self.episodes_per_env).all())

    def _forget_surplus(self, known: int) -> None:
        """Remove from the log what an environment played after its last episode of the round."""
        played = np.zeros(self.num_envs, np.int64)
        kept = []
        for episode in self.collector.episodes[known:]:
            local = episode.environment % self.num_envs
            played[local] += 1
            if played[local] <= self.episodes_per_env:
                kept.append(episode)
        self.collector.episodes[known:] = kept

    def capture(self) -> dict[str, Any]:
        """This rank's part of a checkpoint, between two rounds."""
        return {"collector": self.collector.counters(), "rng": self.rng.bit_generator.state}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what `capture` returned."""
        self.rng.bit_generator.state = state["rng"]
        self.collector.restore_counters(state["collector"])
        self._started = True
