"""Atari: what its protocols hand out, beside ale-py's own vector; and through replay and a run."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from tests.training import resumes_exactly
from tests.worlds import Guess, a_run

from downpour.callbacks.evaluation import play
from downpour.config import ConfigError
from downpour.data.collector import Collector
from downpour.data.replay import Replay
from downpour.environments import Atari

pytest.importorskip("ale_py")


def beside(world: Atari, steps: int, num_envs: int = 2, **arguments: Any) -> Any:
    """Each step of ours and of ale-py's vector with these arguments, on the same seeds and actions."""
    from ale_py.vector_env import AtariVectorEnv

    theirs = AtariVectorEnv(world.game, num_envs, use_fire_reset=False, **arguments)
    ours = world.vector(num_envs)
    rng = np.random.default_rng(0)
    assert np.array_equal(ours.reset(seed=3)[0], theirs.reset(seed=3)[0])
    for _ in range(steps):
        action = rng.integers(theirs.single_action_space.n, size=num_envs)
        yield ours.step(action), theirs.step(action)
    ours.close()
    theirs.close()


def test_lives_end_what_is_learned_and_nothing_else() -> None:
    """ale-py tells of lost lives by `life_loss_info`; its `episodic_life` would begin a new game after each."""
    raw = {"reward_clipping": False}
    lost = ended = 0
    for ours, theirs in beside(Atari(game="breakout"), 330, life_loss_info=True, **raw):
        observation, reward, terminated, truncated, info = ours
        assert np.array_equal(observation, theirs[0])
        assert np.array_equal(reward, theirs[1])
        assert np.array_equal(info["learned_terminated"], theirs[2])
        assert not truncated.any()
        assert (info["learned_terminated"] >= terminated).all()
        assert np.array_equal(terminated, theirs[2] & (theirs[4]["lives"] == 0))
        lost += int((info["learned_terminated"] & ~terminated).sum())
        ended += int(terminated.sum())
    assert (lost, ended) > (4, 0)


def test_sticky_actions_and_all_of_them() -> None:
    world = Atari(game="breakout", protocol="machado2018")
    arguments = {"noop_max": 0, "repeat_action_probability": 0.25, "full_action_space": True}
    assert world.action_space.n == 18  # type: ignore[attr-defined]
    for ours, theirs in beside(world, 150, reward_clipping=False, **arguments):
        assert np.array_equal(ours[0], theirs[0])
        assert np.array_equal(ours[2], ours[4]["learned_terminated"])


def test_rewards_are_clipped_for_learning_only() -> None:
    seen = {
        (float(r), float(c))
        for step, _ in beside(Atari(game="space_invaders"), 200, reward_clipping=False)
        for r, c in zip(step[1], step[4]["learned_reward"], strict=True)
    }
    assert {clipped for _, clipped in seen} == {0.0, 1.0}
    assert max(raw for raw, _ in seen) >= 5


@pytest.mark.parametrize("protocol", ["mnih2015", "machado2018"])
def test_stacks_read_from_replay_are_those_that_were_seen(tmp_path: Path, protocol: Any) -> None:
    """Zeros before a game's first screen; over a lost life the stack goes on, as ale-py's does."""
    world = Atari(game="breakout", protocol=protocol, max_frames=400)  # also cut games
    collector = Collector(world.vector(3), a_run(tmp_path), stack=4)
    replay = Replay(3 * 250, 3, torch.Generator(), gamma=0.9, stack=4)
    seen = []

    def act(observation: torch.Tensor) -> np.ndarray:
        seen.append(observation.clone())
        return guess.act(observation, rng, env_steps=0, explore=True)

    guess, rng = Guess(4), np.random.default_rng(1)
    replay.extend(collector.start())
    replay.extend(collector.collect(220, act))
    whole = torch.stack(seen)  # [220, 3, 4, 84, 84]; the last observation has not been acted on
    assert replay.field("observation").shape[1:] == (84, 84)
    rows = torch.arange(3, 3 * 220)
    rows = rows[replay.is_transition(rows)]
    batch = replay.transitions(rows)
    assert torch.equal(batch["observation"], whole.flatten(0, 1)[rows - 3])
    assert torch.equal(batch["next_observation"], whole.flatten(0, 1)[rows])
    assert replay.field("truncated").any()
    started = (batch["observation"][:, 0] == 0).flatten(1).all(1)
    assert started.any()
    lengths = [episode.length for episode in collector.episodes]
    assert max(lengths) <= 100
    collector.environments.close()


def test_an_evaluation_plays_whole_games_for_their_score() -> None:
    policy: Any = Guess(4)
    policy.eval = policy.train = lambda *_: None
    environments = Atari(game="breakout").vector(2)
    returns, lengths = play(policy, environments, 2, np.random.SeedSequence(0), 10_000)
    assert min(lengths) > 100  # a life of a guessing player lasts some 25 steps
    assert all(value == int(value) for value in returns)
    environments.close()


def test_a_film_shows_the_newest_screen() -> None:
    single = Atari(game="pong").single("rgb_array")
    observation, _ = single.reset(seed=0)
    picture: Any = single.render()
    assert picture.shape == (336, 336, 3)
    assert np.array_equal(picture[::4, ::4, 0], observation[-1])
    check_env(single, skip_render_check=True)
    single.close()


def test_a_run_resumes_exactly_on_all_parts(tmp_path: Path) -> None:
    """Worlds that cannot be saved start anew at each checkpoint; frames, overlap and bf16 with them."""
    small = ("data.num_envs=2", "data.round_steps=8", "data.updates=1", "data.batch_size=2", "data.learning_starts=32")
    parts = ("data.capacity=400", "data.overlap=true", "trainer.precision=bf16-mixed", "model.hidden=[16]")
    watch = ("eval_episodes=1", "callbacks.evaluation.max_episode_steps=10", "data.n_step=2")
    resumes_exactly(tmp_path, "algo=dqn", "env=atari", "model=nature_cnn", *small, *parts, *watch, steps=256)


@pytest.mark.parametrize(("typed", "near"), [("Breakuot", "breakout"), ("space-invader", "space_invaders")])
def test_an_unknown_game_is_answered_with_the_nearest(typed: str, near: str) -> None:
    with pytest.raises(ConfigError, match=rf"env\.game={typed}: there is no such game; nearest: .*{near}"):
        Atari(game=typed)


def test_a_missing_package_is_answered_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ale_py", None)
    with pytest.raises(ConfigError, match=r"needs ale-py, which is not installed; make setup EXTRAS=atari "):
        Atari(game="breakout")
