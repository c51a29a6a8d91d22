"""Evaluation: whole episodes with exploration off, in separate environments."""

import logging
from collections.abc import Iterator
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from lightning.pytorch import Callback
from torch import Tensor

from downpour.algorithms.base import Algorithm
from downpour.config import PositiveInt
from downpour.environments import Environment
from downpour.run import Purpose, Run

log = logging.getLogger(__name__)


class Evaluation(Callback):
    """Plays `eval_episodes` episodes at the end of each epoch.

    Every rank plays the same ones, so that a policy with sharded weights can act. The episodes depend only on the
    seed and the step, so there is no state to save.
    """

    needs: ClassVar[dict[str, str]] = {"act": "act in an environment"}

    def __init__(
        self, environment: Environment, run: Run, *, num_envs: PositiveInt = 10, max_episode_steps: PositiveInt = 27_000
    ):
        """
        Args:
            num_envs: environments stepped together, at most one per episode.
            max_episode_steps: truncate episodes here.
        """
        self.run, self.max_episode_steps = run, max_episode_steps
        self.environments = environment.vector(min(num_envs, run.eval_episodes))

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        step = trainer.datamodule.step
        seed = self.run.shared_sequence(Purpose.EVALUATION, step)
        returns, lengths = play(pl_module, self.environments, self.run.eval_episodes, seed, self.max_episode_steps)
        metrics = {
            "eval/return_mean": float(np.mean(returns)),
            "eval/return_std": float(np.std(returns)),
            "eval/length_mean": float(np.mean(lengths)),
        }
        trainer.callback_metrics.update({name: torch.tensor(value) for name, value in metrics.items()})
        for logger in trainer.loggers:
            logger.log_metrics(metrics, step)

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        self.environments.close()


class Step(NamedTuple):
    """One step of a vector of environments, [num_envs] each.

    Attributes:
        observation: what was acted on, [num_envs, *shape], on the policy's device.
        counts: whether the step belongs to an episode: False during a reset and after the last episode.
        terminated: the episode terminated.
        ended: the episode terminated or was truncated.
        learned_reward, learned_terminated: what values are learned from (see `Collector`).
    """

    observation: Tensor
    reward: np.ndarray
    counts: np.ndarray
    terminated: np.ndarray
    ended: np.ndarray
    learned_reward: np.ndarray
    learned_terminated: np.ndarray


def steps_of(
    policy: Algorithm, environments: Any, episodes: int, seed: np.random.SeedSequence, max_steps: int
) -> Iterator[Step]:
    """Play whole episodes with exploration off.

    Each environment plays a fixed share: taking the first that finish would favour short episodes. An environment whose
    episode was truncated by `max_steps` plays no further one.
    """
    num_envs = environments.num_envs
    quota = np.full(num_envs, episodes // num_envs)
    quota[: episodes % num_envs] += 1
    rng = np.random.default_rng(seed)
    observation, _ = environments.reset(seed=int(seed.generate_state(1)[0]))
    length = np.zeros(num_envs, np.int64)
    first = np.zeros(num_envs, bool)
    was_training = policy.training
    policy.eval()
    try:
        while quota.any():
            tensor = torch.as_tensor(observation, device=policy.device)
            tensor = tensor.float() if tensor.dtype == torch.float64 else tensor
            action = policy.act(tensor, rng, env_steps=0, explore=False)
            observation, reward, terminated, truncated, info = environments.step(action)
            counts = ~first & (quota > 0)
            first = np.logical_or(terminated, truncated)
            length += counts
            cut = counts & ~first & (length >= max_steps)
            if cut.any():
                log.warning("an evaluation episode was truncated at %d steps", max_steps)
            ended = counts & (first | cut)
            happened = np.asarray(reward), np.asarray(terminated)
            learned = info.get("learned_reward", happened[0]), info.get("learned_terminated", happened[1])
            yield Step(tensor, happened[0], counts, happened[1], ended, *learned)
            quota[ended] -= 1
            quota[cut] = 0
            length[ended] = 0
    finally:
        policy.train(was_training)


def play(
    policy: Algorithm, environments: Any, episodes: int, seed: np.random.SeedSequence, max_steps: int
) -> tuple[np.ndarray, np.ndarray]:
    """Returns and lengths, [episodes] each, of `steps_of`."""
    total, length = np.zeros(environments.num_envs), np.zeros(environments.num_envs, np.int64)
    returns: list[float] = []
    lengths: list[int] = []
    for step in steps_of(policy, environments, episodes, seed, max_steps):
        total += step.reward * step.counts
        length += step.counts
        returns += total[step.ended].tolist()
        lengths += length[step.ended].tolist()
        total[step.ended] = 0
        length[step.ended] = 0
    return np.array(returns), np.array(lengths)
