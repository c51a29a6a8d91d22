"""Predicted values against actual returns (van Hasselt et al. 2016, Figure 3)."""

import logging
from typing import Any, ClassVar

import numpy as np
import torch
from lightning.pytorch import Callback
from torch import Tensor

from downpour.callbacks.evaluation import steps_of
from downpour.config import ConfigError, PositiveInt, Probability
from downpour.environments import Environment
from downpour.run import Purpose, Run

log = logging.getLogger(__name__)


class Overestimation(Callback):
    """At each evaluation plays episodes with exploration off, and compares over the states S_t that were visited

    - `eval/value_estimate`: the mean of V(S_t), which is max_a Q(S_t, a) for Q-learning;
    - `eval/value_actual`: the mean of the discounted sum of the rewards that followed;
    - `eval/overestimation`: the first minus the second.

    The paper draws one truth, that of the best policy, played again after training. Here every evaluation has its own,
    from episodes that had no say in which policy is best: that of the best one is the paper's line in
    overestimation.png, which the end of the run draws.
    """

    needs: ClassVar[dict[str, str]] = {"state_values": "learn V(x) or Q(x, a)"}

    def __init__(
        self,
        environment: Environment,
        run: Run,
        *,
        episodes: PositiveInt | None = None,
        num_envs: PositiveInt = 10,
        max_episode_steps: PositiveInt = 27_000,
        unseen: Probability = 0.05,
    ):
        """
        Args:
            episodes: per measurement; null plays as many as an evaluation.
            num_envs: environments stepped together, at most one per episode.
            max_episode_steps: truncate episodes here.
            unseen: of an episode that a limit cut, the states are left out whose discounted sum would have had more
                than this part of its weights beyond the cut: the value knows of no limit.
        """
        self.run, self.unseen, self.max_episode_steps = run, unseen, max_episode_steps
        self.episodes = episodes or run.eval_episodes
        self.environments = environment.vector(min(num_envs, self.episodes))

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        check_values(pl_module, "overestimation")

    @torch.no_grad()
    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        step = trainer.datamodule.step
        seed = self.run.shared_sequence(Purpose.OVERESTIMATION, step)  # different episodes from those of the evaluation
        played = list(self._play(pl_module, seed))
        value, reward, counts, terminated, ended = (np.stack(column) for column in zip(*played, strict=True))
        actual, missing = discounted_to_come(reward, terminated, ended, pl_module.gamma)
        known = counts & (missing <= self.unseen)
        if not known.any():
            log.warning("overestimation not measured: all episodes were truncated, so no return is complete")
            return
        estimate, truth = float(value[known].mean()), float(actual[known].mean())
        metrics = {
            "eval/value_estimate": estimate,
            "eval/value_actual": truth,
            "eval/overestimation": estimate - truth,
        }
        trainer.callback_metrics.update({name: torch.tensor(number) for name, number in metrics.items()})
        for logger in trainer.loggers:
            logger.log_metrics(metrics, step)

    def _play(self, policy: Any, seed: np.random.SeedSequence) -> Any:
        for step in steps_of(policy, self.environments, self.episodes, seed, self.max_episode_steps):
            value: Tensor = policy.state_values(step.observation)
            ended = step.ended | (step.learned_terminated & step.counts)
            reward = step.learned_reward * step.counts
            yield value.double().cpu().numpy(), reward, step.counts, step.learned_terminated, ended

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        self.environments.close()


def check_values(algorithm: Any, callback: str) -> None:
    """
    Raises:
        ConfigError: the algorithm learns no values.
    """
    missing = algorithm.missing_values()
    if missing:
        advice = f"{type(algorithm).__name__} {missing}; use an algorithm that learns values, or callbacks=default"
        raise ConfigError("callbacks", callback, advice)


def discounted_to_come(
    reward: np.ndarray, terminated: np.ndarray, ended: np.ndarray, gamma: float
) -> tuple[np.ndarray, np.ndarray]:
    """Of every row the sum of gamma^k R_t+k to the episode's end, and the part of the weights that lies beyond a cut.

    All [steps, num_envs]. The weights are gamma^k for k = 0, 1, ...: of an episode that goes on after n more rewards
    the part gamma^n is not seen; of one that has terminated none is missing.
    """
    actual, missing = np.zeros(reward.shape), np.zeros(reward.shape)
    following = beyond = np.zeros(reward.shape[1])
    for t in range(len(reward) - 1, -1, -1):
        following = reward[t] + gamma * np.where(ended[t], 0.0, following)
        beyond = gamma * np.where(ended[t], ~terminated[t], beyond)
        actual[t], missing[t] = following, beyond
    return actual, missing
