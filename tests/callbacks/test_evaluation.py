"""Whole episodes, each environment its share, exploration off."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from tests.worlds import a_run, scripted

from downpour.callbacks import Evaluation
from downpour.callbacks.evaluation import play
from downpour.environments import Gymnasium


class Always:
    """A policy of one action, which notes what it is asked."""

    device = torch.device("cpu")

    def __init__(self, action: int = 0):
        self.action, self.training, self.asked = action, True, []

    def act(self, observation: torch.Tensor, rng: np.random.Generator, **facts: Any) -> np.ndarray:
        self.asked.append((observation.dtype, self.training, facts))
        return np.full(len(observation), self.action)

    def eval(self) -> None:
        self.training = False

    def train(self, mode: bool) -> None:
        self.training = mode


class Lean(Always):
    """Balances a pole for a while; sometimes draws."""

    def act(self, observation: torch.Tensor, rng: np.random.Generator, **facts: Any) -> np.ndarray:
        action = (observation[:, 2] + 0.3 * observation[:, 3] > 0).long().numpy()
        return np.where(rng.random(len(action)) < 0.3, 1 - action, action)


SEED = np.random.SeedSequence([0, 4, 100])


def test_every_environment_plays_its_share_whatever_the_lengths() -> None:
    """Three of the environment of 2 steps, two of that of 7; of the first five to end four would be short."""
    returns, lengths = play(Always(1), scripted([2], [7]), 5, SEED, 1000)
    assert sorted(lengths.tolist()) == [2, 2, 2, 7, 7]
    by_hand = {2: 1.1 + 2.1, 7: sum(t + 0.1 for t in range(1, 8))}
    assert returns.tolist() == pytest.approx([by_hand[length] for length in lengths])


@pytest.mark.parametrize("episodes", [1, 2, 3, 8])
def test_as_many_episodes_as_asked_for(episodes: int) -> None:
    returns, lengths = play(Always(), scripted([3, 4], [5], [1, 9]), episodes, SEED, 1000)
    assert len(returns) == len(lengths) == episodes


def test_truncated_episodes_count_like_others() -> None:
    _, lengths = play(Always(), scripted([3, 5], terminates=[False, True]), 4, SEED, 1000)
    assert lengths.tolist() == [3, 5, 3, 5]


def test_an_episode_without_end_is_cut(caplog: pytest.LogCaptureFixture) -> None:
    """The environment that does not end by itself counts what it had; it is not asked for another."""
    returns, lengths = play(Always(), scripted([3], [10_000]), 4, SEED, 6)
    assert sorted(lengths.tolist()) == [3, 3, 6]
    assert max(returns) == sum(range(1, 7))
    assert "truncated at 6 steps" in caplog.text


def test_a_long_episode_that_is_cut_leaves_the_others_alone() -> None:
    _, lengths = play(Always(), scripted([9, 2, 2], [3]), 6, SEED, 6)
    assert lengths.tolist().count(3) == 3
    assert 9 not in lengths


def test_exploration_is_off_and_the_mode_comes_back() -> None:
    policy = Always()
    play(policy, scripted([3]), 2, SEED, 1000)
    assert policy.asked == [(torch.float32, False, {"env_steps": 0, "explore": False})] * 7  # one was for the reset
    assert policy.training


def test_observations_in_64_bits_are_handed_over_in_32() -> None:
    world = Gymnasium(id="CartPole-v1", vectorization="sync")
    one = gym.spaces.Box(-9, 9, (4,), np.float64)
    environments = gym.wrappers.vector.TransformObservation(
        world.vector(2), lambda o: o.astype(np.float64), gym.vector.utils.batch_space(one, 2), one
    )
    policy = Always()
    play(policy, environments, 2, SEED, 100)
    assert {dtype for dtype, *_ in policy.asked} == {torch.float32}


def test_equals_one_environment_after_the_other() -> None:
    """Against plain gymnasium loops with the same seeds and the same random numbers."""
    episodes, num_envs = 7, 3
    environments = Gymnasium(id="CartPole-v1", vectorization="sync").vector(num_envs)
    returns, _ = play(Lean(), environments, episodes, SEED, 1000)

    rng, worlds = np.random.default_rng(SEED), [gym.make("CartPole-v1") for _ in range(num_envs)]
    start = int(SEED.generate_state(1)[0])
    observation = [world.reset(seed=start + i)[0] for i, world in enumerate(worlds)]
    done, total, found = [False] * num_envs, [0.0] * num_envs, [[] for _ in range(num_envs)]
    while any(len(found[i]) < (3, 2, 2)[i] for i in range(num_envs)):
        action = Lean().act(torch.from_numpy(np.stack(observation)), rng)
        for i, world in enumerate(worlds):
            if done[i]:
                observation[i], done[i], total[i] = world.reset()[0], False, 0.0
                continue
            observation[i], reward, terminated, truncated, _ = world.step(action[i])
            total[i] += float(reward)
            done[i] = terminated or truncated
            if done[i]:
                found[i].append(total[i])
    by_hand = found[0][:3] + found[1][:2] + found[2][:2]
    assert sorted(returns.tolist()) == sorted(by_hand)
    assert len(set(by_hand)) > 3


def evaluate(directory: Path, step: int, seed: int = 0, rank: int = 0) -> tuple[dict, list]:
    """One evaluation at `step`: what it leaves on the trainer, what it tells the loggers."""
    told: list[tuple[dict, int]] = []
    trainer = SimpleNamespace(
        datamodule=SimpleNamespace(step=step),
        callback_metrics={},
        loggers=[SimpleNamespace(log_metrics=lambda metrics, at: told.append((metrics, at)))],
    )
    run = a_run(directory, seed=seed, rank=rank, world_size=2, eval_episodes=6)
    callback = Evaluation(Gymnasium(id="CartPole-v1"), run, num_envs=4)
    callback.on_train_epoch_end(trainer, Lean())
    callback.teardown(trainer, None, "fit")
    return {name: float(value) for name, value in trainer.callback_metrics.items()}, told


def test_what_is_recorded(tmp_path: Path) -> None:
    metrics, told = evaluate(tmp_path, 500)
    assert set(metrics) == {"eval/return_mean", "eval/return_std", "eval/length_mean"}
    assert metrics["eval/return_mean"] == metrics["eval/length_mean"] > 5  # CartPole gives 1 a step
    assert metrics["eval/return_std"] > 0
    assert [step for _, step in told] == [500]
    assert told[0][0] == pytest.approx(metrics)


def test_an_evaluation_depends_on_the_seed_and_the_step_alone(tmp_path: Path) -> None:
    """Nothing of it needs saving; every rank plays the same."""
    assert evaluate(tmp_path, 500)[0] == evaluate(tmp_path, 500)[0] == evaluate(tmp_path, 500, rank=1)[0]
    assert evaluate(tmp_path, 500)[0] != evaluate(tmp_path, 1000)[0]
    assert evaluate(tmp_path, 500)[0] != evaluate(tmp_path, 500, seed=1)[0]


def test_no_more_environments_than_episodes(tmp_path: Path) -> None:
    run = a_run(tmp_path, eval_episodes=3)
    callback = Evaluation(Gymnasium(id="CartPole-v1"), run, num_envs=10)
    assert callback.environments.num_envs == 3
