"""The on-policy streams against plain stepping of single environments."""

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from tests.training import train
from torch import Tensor

from downpour.data import EpisodeData, RolloutData
from downpour.environments import Gymnasium
from downpour.failures import Failed, TrainingError
from downpour.run import Purpose, Run


def make(kind: type, tmp_path: Path, id: str = "CartPole-v1", limit: int | None = 7, **options: Any) -> Any:
    run = Run(directory=tmp_path, seed=3, total_steps=10_000, eval_every=10_000, eval_episodes=1)
    environment = Gymnasium(id=id, vectorization="sync", max_episode_steps=limit)
    data = kind(environment, run, **options)
    space = environment.action_space
    data._act = lambda observation: np.array([_draw(space, data.rng) for _ in range(data.num_envs)])
    return data


def _draw(space: gym.Space, rng: np.random.Generator) -> Any:
    return int(rng.integers(space.n)) if isinstance(space, gym.spaces.Discrete) else 3.0 * rng.standard_normal(1)


def equal(a: Any, b: Any) -> bool:
    return all(torch.equal(a[name], b[name]) for name in a.keys())  # noqa: SIM118


@pytest.mark.parametrize("id", ["CartPole-v1", "Pendulum-v1"])
def test_rounds_hold_what_single_environments_hand_out(tmp_path: Path, id: str) -> None:
    data = make(RolloutData, tmp_path, id, num_envs=3, round_steps=20)
    rounds = [row for _, row in zip(range(3), iter(data), strict=False)]
    seed = int(data.run.seed_sequence(Purpose.ENVIRONMENT, 1).generate_state(1)[0])
    for e in range(3):
        single = gym.make(id, max_episode_steps=7)
        expected, _ = single.reset(seed=seed + e)
        over = False
        for rows in rounds:
            np.testing.assert_allclose(rows["observation"][0, e], expected, rtol=1e-5, atol=1e-6)
            for t in range(1, 21):
                row = rows[t, e]
                assert bool(row["first"]) == over and float(row["weight"]) == (not over)
                if over:
                    expected, _ = single.reset()
                    over = False
                else:
                    action = row["action"].numpy()
                    if isinstance(single.action_space, gym.spaces.Box):
                        action = np.clip(action, single.action_space.low, single.action_space.high)
                    expected, reward, terminated, truncated, _ = single.step(action)
                    assert float(row["reward"]) == pytest.approx(float(reward), rel=1e-5)
                    assert (bool(row["terminated"]), bool(row["truncated"])) == (terminated, truncated)
                    over = terminated or truncated
                np.testing.assert_allclose(row["observation"], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("kind", "options"), [(RolloutData, {"round_steps": 11}), (EpisodeData, {"episodes_per_env": 2})]
)
def test_a_restored_stream_goes_on_exactly(tmp_path: Path, kind: type, options: dict[str, int]) -> None:
    data = make(kind, tmp_path, num_envs=2, **options)
    stream = iter(data)
    for _ in range(3):
        next(stream)
    state = data.capture()
    following = [next(stream).clone() for _ in range(3)]
    other = make(kind, tmp_path, num_envs=2, **options)
    other.restore(state)
    for expected, found in zip(following, iter(other), strict=False):
        assert equal(expected, found)
    assert other.step == data.step


def test_a_world_that_cannot_be_saved_restarts_at_the_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("downpour.data.collector.freeze_environments", lambda environments: None)
    data = make(RolloutData, tmp_path, num_envs=2, round_steps=5)
    stream = iter(data)
    next(stream)
    state = data.capture()
    expected = next(stream).clone()
    other = make(RolloutData, tmp_path, num_envs=2, round_steps=5)
    other.restore(state)
    assert equal(expected, next(iter(other)))


def test_every_environment_plays_its_share_of_whole_episodes(tmp_path: Path) -> None:
    data = make(EpisodeData, tmp_path, limit=None, num_envs=4, episodes_per_env=3)
    rows = next(iter(data))
    ends = (rows["terminated"] | rows["truncated"]).float() * rows["weight"]
    assert torch.equal(ends.sum(0), torch.full((4,), 3.0))
    episodes = data.take_episodes()
    assert len(episodes) == 12
    counted: Tensor = rows["weight"].sum()
    assert int(counted) == sum(episode.length for episode in episodes)
    assert float((rows["reward"] * rows["weight"]).sum()) == sum(episode.episode_return for episode in episodes)


def test_episodes_that_never_end_are_an_error(tmp_path: Path) -> None:
    data = make(EpisodeData, tmp_path, "CliffWalking-v1", None, num_envs=1, max_round_steps=50)
    with pytest.raises(TrainingError, match=r"data\.max_round_steps=50: .* env\.max_episode_steps"):
        next(iter(data))


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("model.dropout=0.2", r"model\.dropout=0\.2: would make actions and targets random"),
        ("model.normalization=batch", r"model\.normalization=batch: batch statistics change.*use layer, rms or none"),
    ],
)
@pytest.mark.parametrize("algo", ["ppo", "dqn"])
def test_what_acts_otherwise_than_it_learns_is_refused(tmp_path: Path, algo: str, model: str, message: str) -> None:
    with pytest.raises(Failed, match=message) as caught:
        train(tmp_path / "run", f"algo={algo}", model, "total_env_steps=100", "eval_every=100")
    assert caught.value.code == 2
