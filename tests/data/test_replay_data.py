"""The off-policy stream: what a round holds, when it learns, and that it goes on exactly."""

import copy
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from tensordict import TensorDict
from tests.training import resumes_exactly
from tests.worlds import Guess, Scripted, a_run, attach, scripted

from downpour.config import ConfigError
from downpour.data import ReplayData
from downpour.environments import Gymnasium

SMALL: dict[str, Any] = {
    "gamma": 0.9,
    "num_envs": 2,
    "round_steps": 4,
    "updates": 3,
    "batch_size": 5,
    "learning_starts": 0,
}


def stream(directory: Path, world: Any = None, run: dict[str, Any] | None = None, **settings: Any) -> ReplayData:
    world = world or Gymnasium(id="CartPole-v1")
    data = ReplayData(world, a_run(directory, **(run or {})), **{**SMALL, **settings})
    return attach(data, Guess(int(world.action_space.n)))


def script(*lengths: int, terminates: bool = True) -> Any:
    """A stand-in for `Gymnasium` whose every environment plays episodes of these lengths."""
    one = Scripted(lengths)
    return SimpleNamespace(
        observation_space=one.observation_space,
        action_space=one.action_space,
        stack=1,
        vector=lambda num_envs: scripted(*[lengths] * num_envs, terminates=[terminates] * len(lengths)),
    )


def everything(data: ReplayData) -> list[TensorDict]:
    """The rounds of a whole run, as the trainer would ask for them."""
    rounds: list[TensorDict] = []
    while not data.finished:
        rounds += [round.clone() for round in data.train_dataloader()]
    return rounds


def test_a_round_is_updates_by_batch(tmp_path: Path) -> None:
    data = stream(tmp_path)
    round = next(iter(data))
    assert round.batch_size == (3, 5)
    assert data.step == 2 * 4
    assert data.step_name == "env_steps"
    assert set(data.spaces) == {"observation_space", "action_space"}


def test_an_epoch_ends_at_the_evaluation_that_is_due(tmp_path: Path) -> None:
    """Also where rounds of 8 steps do not divide 100; the last epoch ends with the run."""
    data = stream(tmp_path, run={"total_steps": 250})
    ends = []
    while not data.finished:
        rounds = len(list(data))
        assert rounds <= len(data)
        ends.append(data.step)
    assert ends == [104, 200, 256]
    assert list(data) == []


def test_an_epoch_that_was_cut_is_finished_by_the_next_iterator(tmp_path: Path) -> None:
    data = stream(tmp_path)
    list(islice(data, 5))
    assert data.step == 40
    list(data)
    assert data.step == 104


def test_no_gradient_step_until_the_warm_up_is_over(tmp_path: Path) -> None:
    rounds = everything(stream(tmp_path, run={"total_steps": 80}, learning_starts=40))
    assert [len(round) for round in rounds] == [0, 0, 0, 0, 0, 3, 3, 3, 3, 3]
    assert all(len(list(round.unbind(0))) == len(round) for round in rounds)


@pytest.mark.parametrize("replay", [True, False])
@pytest.mark.parametrize("n_step", [1, 2, 3, 5])
def test_rounds_shorter_than_the_n_step_window(tmp_path: Path, n_step: int, replay: bool) -> None:
    """Nothing can be learned before the first window is complete; nothing hangs or breaks."""
    data = stream(tmp_path, script(50), n_step=n_step, replay=replay, num_envs=1, round_steps=1, updates=1)
    lengths = [len(round) for round in islice(data, 12)]
    assert lengths == [0] * (n_step - 1) + [1] * (13 - n_step)


@pytest.mark.parametrize(
    ("num_envs", "round_steps", "n_step"), [(1, 1, 1), (1, 1, 3), (1, 7, 2), (3, 1, 1), (3, 4, 1), (3, 4, 3)]
)
def test_online_learns_from_each_transition_once_as_it_comes(
    tmp_path: Path, num_envs: int, round_steps: int, n_step: int
) -> None:
    data = stream(
        tmp_path,
        script(3, 1, 5),
        replay=False,
        num_envs=num_envs,
        round_steps=round_steps,
        n_step=n_step,
        run={"total_steps": 84 * num_envs},
    )
    seen: list[tuple[int, ...]] = []
    for round in everything(data):
        assert len(round) <= round_steps
        for batch in round.unbind(0):
            assert batch["weight"].any()  # a step in which every environment is reset is none
            for start, end, weight in zip(
                batch["observation"], batch["next_observation"], batch["weight"], strict=True
            ):
                if weight:
                    assert start[:2].tolist() == end[:2].tolist()  # of one environment and episode
                    seen.append(tuple(start.int().tolist()))
    expected, episode, t = [], 0, 0
    for _ in range(84 - n_step + 1):  # the windows of the newest steps are not complete
        length = (3, 1, 5)[episode % 3]
        if t == length:
            episode, t = episode + 1, 0  # this step is the reset
            continue
        expected += [(e, episode, t) for e in range(num_envs)]
        t += 1
    assert seen == expected


def test_online_batches_are_of_as_many_environments_as_asked_for(tmp_path: Path) -> None:
    settings = {"replay": False, "num_envs": 4, "round_steps": 2}
    for size, shape in ((1, (8, 1)), (2, (4, 2)), (4, (2, 4)), (64, (2, 4))):
        round = next(iter(stream(tmp_path, script(50), batch_size=size, **settings)))
        assert round.batch_size == shape
        assert round["observation"].view(-1, 3)[:, 0].tolist() == [0, 1, 2, 3] * 2  # in their order
    with pytest.raises(ConfigError, match=r"data\.batch_size=3: must divide data\.num_envs=4"):
        stream(tmp_path, batch_size=3, **settings)


def test_ranks_make_equal_numbers_of_gradient_steps(tmp_path: Path) -> None:
    """Online on several ranks, a step in which nothing but resets happened is a gradient step of weight 0."""
    data = stream(tmp_path, script(2), replay=False, num_envs=1, round_steps=3, run={"world_size": 2})
    rounds = list(islice(data, 4))
    assert [len(round) for round in rounds] == [3, 3, 3, 3]
    assert torch.cat([round["weight"][:, 0] for round in rounds]).tolist() == [1, 1, 0] * 4


def test_steps_count_over_all_ranks(tmp_path: Path) -> None:
    data = stream(tmp_path, run={"world_size": 3, "rank": 2})
    next(iter(data))
    assert data.step == 2 * 4 * 3
    assert len(data) == 5  # rounds of 24 steps until 100


def test_ranks_and_seeds_draw_other_numbers(tmp_path: Path) -> None:
    def first(seed: int, rank: int) -> tuple[float, ...]:
        round = next(iter(stream(tmp_path, run={"seed": seed, "rank": rank, "world_size": 2})))
        return tuple(round["observation"].flatten().tolist())

    assert first(0, 0) == first(0, 0)
    assert len({first(0, 0), first(0, 1), first(1, 0), first(1, 1)}) == 4


def test_the_policy_explores_and_is_told_the_step(tmp_path: Path) -> None:
    calls = []

    class Watched(Guess):
        def act(self, observation: torch.Tensor, rng: np.random.Generator, **facts: Any) -> np.ndarray:
            calls.append((len(observation), facts))
            return super().act(observation, rng, **facts)

    data = attach(stream(tmp_path), Watched())
    list(islice(data, 2))
    assert calls == [(2, {"env_steps": 2 * t, "explore": True}) for t in range(8)]


def test_importance_exponent_rises_to_1(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = stream(tmp_path, run={"total_steps": 80}, priority_exponent=0.6, importance_exponent=0.4)
    betas, sample = [], data.memory.sample
    monkeypatch.setattr(data.memory, "sample", lambda *a: betas.append(a[2]) or sample(*a))
    everything(data)
    assert betas == pytest.approx([0.4 + 0.6 * k / 10 for k in range(1, 11)])


def test_td_errors_become_priorities(tmp_path: Path) -> None:
    """The learner writes them into the round; they are read back before the next draw."""
    data = stream(tmp_path, priority_exponent=1.0, updates=1, batch_size=4)
    rounds = iter(data)
    first = next(rounds)
    handed = data.on_after_batch_transfer(first.clone(), 0)  # the learner's copy, on its device
    handed["td_error"].copy_(torch.tensor([[-3.0, 0.5, 7.0, 1.5]]))
    next(rounds)
    sampler: Any = data.memory.buffer.sampler
    latest = dict(zip(handed["index"][0].tolist(), [3.0, 0.5, 7.0, 1.5], strict=True))  # of two draws of a row the last
    for index, priority in latest.items():
        assert float(sampler.mass[index]) == pytest.approx(priority)
    assert sampler.greatest == 7.0


def test_episodes_are_handed_over_once(tmp_path: Path) -> None:
    data = stream(tmp_path, script(3))
    list(islice(data, 2))
    assert [(e.env_steps, e.length) for e in data.take_episodes()] == [(6, 3), (6, 3), (14, 3), (14, 3)]
    assert data.take_episodes() == []


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ({"capacity": 5}, "data.capacity=5"),
        ({"capacity": 9, "n_step": 3}, "data.capacity=9"),
        ({"replay": False, "priority_exponent": 0.5}, "data.priority_exponent=0.5"),
    ],
)
def test_settings_that_cannot_work_together(tmp_path: Path, settings: dict[str, Any], key: str) -> None:
    with pytest.raises(ConfigError) as caught:
        stream(tmp_path, **settings)
    assert str(caught.value).startswith(f"{key}: ")


# Going on exactly

KINDS: dict[str, dict[str, Any]] = {
    "uniform": {},
    "wrapped": {"capacity": 60},
    "n-step": {"n_step": 3, "capacity": 60},
    "prioritized": {"priority_exponent": 0.6, "capacity": 60},
    "disk": {"storage": "disk", "capacity": 60},
    "online": {"replay": False},
    "online n-step": {"replay": False, "n_step": 3},
}


def learn(data: ReplayData, rounds: int) -> list[TensorDict]:
    """Rounds as a learner takes them; it fills in TD errors."""
    seen = []
    for _ in range(rounds):
        round = data.on_after_batch_transfer(data._next_round(), 0)
        if "td_error" in round and len(round):
            round["td_error"].copy_(round["observation"].abs().flatten(2).sum(-1))
        seen.append(round.clone())
    return seen


def assert_same(one: list[TensorDict], two: list[TensorDict]) -> None:
    for here, there in zip(one, two, strict=True):
        assert here.batch_size == there.batch_size
        for name in sorted(here.keys()):
            assert torch.equal(here[name], there[name]), name


def saved(data: ReplayData, directory: Path) -> dict[str, Any]:
    torch.save(data.capture(), directory / "stream.pt")
    return torch.load(directory / "stream.pt", weights_only=True)


@pytest.mark.parametrize("kind", KINDS)
def test_goes_on_exactly(tmp_path: Path, kind: str) -> None:
    """Killed after a checkpoint, some rounds and another checkpoint: the resumed stream repeats those rounds."""
    one = stream(tmp_path, **KINDS[kind])
    next(iter(one))
    learn(one, 11)
    saved(one, tmp_path)
    learn(one, 4)
    state = saved(one, tmp_path)
    future = learn(one, 9)
    saved(one, tmp_path)  # writes rows of the future that the resumed stream does not know of
    two = stream(tmp_path, **KINDS[kind])
    two.restore(copy.deepcopy(state))
    assert two.step == one.step - 9 * 8
    assert_same(future, learn(two, 9))
    assert one.take_episodes() == two.take_episodes()
    assert one.rng.bit_generator.state == two.rng.bit_generator.state
    saved(two, tmp_path)
    learn(two, 3)
    state, future = saved(two, tmp_path), learn(two, 9)
    three = stream(tmp_path, **KINDS[kind])
    three.restore(state)
    assert_same(future, learn(three, 9))


@pytest.mark.parametrize("kind", ["uniform", "n-step", "prioritized"])
def test_an_older_checkpoint_is_still_whole(tmp_path: Path, kind: str) -> None:
    """The newest may turn out to be damaged."""
    one = stream(tmp_path, **KINDS[kind])
    next(iter(one))
    for _ in range(5):
        learn(one, 6)
        older = saved(one, tmp_path)
    future = learn(one, 6)
    saved(one, tmp_path)
    two = stream(tmp_path, **KINDS[kind])
    two.restore(older)
    assert_same(future, learn(two, 6))


@pytest.mark.parametrize("n_step", [1, 3])
@pytest.mark.parametrize("replay", [True, False])
def test_a_world_that_cannot_be_frozen_is_started_anew_at_each_checkpoint(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, n_step: int, replay: bool
) -> None:
    """In the run that is never interrupted too, so that both are the same."""
    settings = {"n_step": n_step, "replay": replay, "round_steps": 5}
    world = Gymnasium(id="Blackjack-v1")
    one = stream(tmp_path, world, **settings)
    next(iter(one))
    learn(one, 7)
    state = saved(one, tmp_path)
    future = learn(one, 7)
    two = stream(tmp_path, world, **settings)
    with caplog.at_level("INFO"):
        two.restore(state)
    assert "each checkpoint starts new episodes" in caplog.text
    assert_same(future, learn(two, 7))
    assert one.take_episodes() == two.take_episodes()


def test_what_starting_anew_does_to_the_episode_before(tmp_path: Path) -> None:
    """It is truncated, not terminated, and no transition joins the two."""
    data = stream(tmp_path, script(1000), num_envs=1, replay=False, round_steps=4)
    rounds = iter(data)
    first = next(rounds)
    data.capture()
    second = next(rounds)
    assert first["observation"][:, 0, 1:].tolist() == [[0, 0], [0, 1], [0, 2], [0, 3]]
    assert second["observation"][:, 0, 1:].tolist() == [[1, 0], [1, 1], [1, 2], [1, 3]]
    assert not second["terminated"].any()
    assert data.step == 8  # starting is no step
    assert data.take_episodes() == []


@pytest.mark.parametrize("replay", [True, False])
def test_no_n_step_window_reaches_into_the_world_after(tmp_path: Path, replay: bool) -> None:
    data = stream(tmp_path, script(1000), num_envs=1, replay=replay, round_steps=4, n_step=3, updates=20)
    rounds = iter(data)
    next(rounds)
    data.capture()
    batches = torch.cat([next(rounds).reshape(-1), next(rounds).reshape(-1)])
    start, end = batches["observation"][:, 1:], batches["next_observation"][:, 1:]  # (episode, step in it)
    assert torch.equal(start[:, 0], end[:, 0])
    ends_early = end[:, 1] - start[:, 1] < 3
    assert ends_early.any()
    assert (end[ends_early] == torch.tensor([0, 4])).all()  # the newest row when the world was started anew
    torch.testing.assert_close(batches["discount"], 0.9 ** (end[:, 1] - start[:, 1]))


# The world turns while the learner learns


def test_overlap_is_the_same_whoever_steps(tmp_path: Path) -> None:
    """Environments in other processes go on meanwhile, those of this one do not: the rounds are equal, bit for bit."""
    rounds = []
    for vectorization in ("sync", "async"):
        world = Gymnasium(id="CartPole-v1", vectorization=vectorization)  # type: ignore[arg-type]
        data = stream(tmp_path / vectorization, world, run={"total_steps": 240}, overlap=True)
        rounds.append(everything(data))
        data.teardown("fit")
        data.collector.environments.close()
    for one, two in zip(*rounds, strict=True):
        for name in sorted(one.keys()):
            assert torch.equal(one[name], two[name]), name


def test_overlap_chooses_before_the_gradient_steps(tmp_path: Path) -> None:
    """What the learner does between two rounds changes the second action of the next, not the first."""
    data = stream(tmp_path, script(50), overlap=True, num_envs=1, round_steps=3, n_step=1)
    policy = data.trainer.lightning_module
    policy.chosen = 0
    policy.act = lambda observation, *_, **__: np.full(len(observation), policy.chosen)
    rounds = iter(data)
    next(rounds)
    policy.chosen = 1
    next(rounds)
    assert data.memory.field("action")[1:7].tolist() == [0, 0, 0, 0, 1, 1]


@pytest.mark.slow
@pytest.mark.parametrize("vectorization", ["sync", "async"])
def test_overlap_resumes_exactly(tmp_path: Path, vectorization: str) -> None:
    """A step that is under way at a checkpoint is done again or, where the worlds start anew, never was."""
    options = ("algo=dqn", "data.overlap=true", f"env.vectorization={vectorization}", "data.learning_starts=100")
    resumes_exactly(tmp_path, *options, "model.hidden=[8]", "data.updates=2", steps=400)
