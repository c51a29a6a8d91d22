"""Evaluation: whole episodes with exploration off, on environments of its own."""

import logging
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback

from downpour.algorithms.base import Algorithm
from downpour.config import PositiveInt
from downpour.environments import Gymnasium
from downpour.run import Run

log = logging.getLogger(__name__)


class Evaluation(Callback):
    """Plays `eval_episodes` episodes at the end of each epoch.

    Every rank plays the same ones, so that a policy whose weights are spread over the ranks can act. The episodes of an
    evaluation depend on the seed and the step alone: nothing of them needs saving.
    """

    def __init__(
        self, environment: Gymnasium, run: Run, *, num_envs: PositiveInt = 10, max_episode_steps: PositiveInt = 27_000
    ):
        """
        Args:
            num_envs: environments stepped together, at most one an episode.
            max_episode_steps: an episode is cut here if the environment does not end it.
        """
        self.run, self.max_episode_steps = run, max_episode_steps
        self.environments = environment.vector(min(num_envs, run.eval_episodes))

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        step = trainer.datamodule.step
        seed = np.random.SeedSequence([self.run.seed, 4, step])
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


def play(
    policy: Algorithm, environments: Any, episodes: int, seed: np.random.SeedSequence, max_steps: int
) -> tuple[np.ndarray, np.ndarray]:
    """Play whole episodes with exploration off.

    Each environment plays its fixed share, whatever the lengths: taking the first that finish would favour short ones.

    Returns:
        Returns and lengths, [episodes] each.
    """
    num_envs = environments.num_envs
    quota = np.full(num_envs, episodes // num_envs)
    quota[: episodes % num_envs] += 1
    rng = np.random.default_rng(seed)
    observation, _ = environments.reset(seed=int(seed.generate_state(1)[0]))
    total, length = np.zeros(num_envs), np.zeros(num_envs, np.int64)
    first = np.zeros(num_envs, bool)
    cut = np.zeros(num_envs, bool)
    returns: list[float] = []
    lengths: list[int] = []
    was_training = policy.training
    policy.eval()
    try:
        while quota.any():
            tensor = torch.as_tensor(observation, device=policy.device)
            tensor = tensor.float() if tensor.dtype == torch.float64 else tensor
            action = policy.act(tensor, rng, env_steps=0, explore=False)
            observation, reward, terminated, truncated, _ = environments.step(action)
            counts = ~first & ~cut
            total += reward * counts
            length += counts
            over = (length >= max_steps) & ~(terminated | truncated) & counts
            if over.any():
                log.warning("an evaluation episode was cut at %d steps", max_steps)
            done = (terminated | truncated) & ~cut | over
            for e in np.flatnonzero(done & (quota > 0)):
                returns.append(float(total[e]))
                lengths.append(int(length[e]))
                quota[e] -= 1
            cut = (cut | over) & ~(terminated | truncated)  # a cut episode is played to its end unseen
            quota[cut] = 0
            total[done] = 0
            length[done] = 0
            first = terminated | truncated
    finally:
        policy.train(was_training)
    return np.array(returns), np.array(lengths)
