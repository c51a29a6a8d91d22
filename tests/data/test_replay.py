"""The ring against a list of transitions that holds both observations of each."""

import copy
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare
from tensordict import TensorDict

from downpour.data.journal import Journal
from downpour.data.replay import Replay

ROW = np.dtype(
    [
        ("observation", np.float32, (2,)),
        ("action", np.int64),
        ("reward", np.float32),
        ("terminated", bool),
        ("truncated", bool),
        ("first", bool),
    ]
)
GAMMA = 0.9

Held = dict[tuple[int, int], dict[str, torch.Tensor]]
"""Transitions by (environment, time of the first observation)."""


@dataclass
class Script:
    """What happens to a ring: rows of several environments, how many at a time, and how it is set up."""

    rows: TensorDict  # [steps, num_envs]
    blocks: list[int]
    capacity: int
    n_step: int

    @property
    def num_envs(self) -> int:
        return self.rows.shape[1]


def make_rows(seed: int, steps: int, num_envs: int, mean_length: int) -> TensorDict:
    """Episodes of random lengths that end both ways, as NEXT_STEP autoreset has them.

    The observation is (environment, time), so that it says which row it came from.
    """
    rng = np.random.default_rng(seed)
    rows = np.zeros((steps, num_envs), ROW)
    done = np.ones(num_envs, bool)
    for t in range(steps):
        rows["first"][t] = done
        rows["observation"][t] = np.stack([np.arange(num_envs), np.full(num_envs, t)], -1)
        rows["action"][t] = rng.integers(5, size=num_envs)
        rows["reward"][t] = np.where(done, 0, rng.normal(size=num_envs))
        ends = (rng.random(num_envs) < 1 / mean_length) & ~done
        rows["terminated"][t] = ends & (rng.random(num_envs) < 0.5)
        rows["truncated"][t] = ends & ~rows["terminated"][t]
        done = ends
    names = ROW.names or ()
    return TensorDict({n: torch.from_numpy(rows[n].copy()) for n in names}, batch_size=[steps, num_envs])


@st.composite
def scripts(draw: st.DrawFn) -> Script:
    n_step = draw(st.integers(1, 5))
    num_envs = draw(st.integers(1, 4))
    capacity = num_envs * draw(st.integers(n_step + 2, 25)) - draw(st.integers(0, num_envs - 1))
    blocks = draw(st.lists(st.integers(1, 40), min_size=1, max_size=6))
    rows = make_rows(draw(st.integers(0, 2**32)), sum(blocks) + n_step + 1, num_envs, draw(st.sampled_from([2, 3, 8])))
    return Script(rows, [n_step + 1, *blocks], capacity, n_step)


def fill(script: Script, alpha: float | None = None, directory: Path | None = None) -> Replay:
    replay = Replay(
        script.capacity,
        script.num_envs,
        torch.Generator().manual_seed(7),
        gamma=GAMMA,
        n_step=script.n_step,
        alpha=alpha,
        directory=directory,
    )
    for block in script.rows.split(script.blocks):
        replay.extend(block)
    return replay


def naive(script: Script) -> Held:
    """Every transition that a ring of that size still holds."""
    steps, num_envs = script.rows.shape
    oldest = max(0, steps - -(-script.capacity // num_envs))
    found = {}
    for e in range(num_envs):
        row = [{name: script.rows[name][t, e] for name in ROW.names or ()} for t in range(steps)]
        for t in range(oldest, steps - script.n_step):
            if row[t + 1]["first"]:  # row t ended its episode, or its step was the reset
                continue
            total, discount, last = 0.0, 1.0, t
            for _ in range(script.n_step):
                last += 1
                total += discount * float(row[last]["reward"])
                discount *= GAMMA
                if row[last]["terminated"] or row[last]["truncated"]:
                    break
            found[e, t] = {
                "observation": row[t]["observation"],
                "action": row[t + 1]["action"],
                "reward": torch.tensor(total),
                "next_observation": row[last]["observation"],
                "terminated": row[last]["terminated"],
                "discount": torch.tensor(discount),
            }
    return found


def origin(batch: TensorDict) -> list[tuple[int, int]]:
    """(environment, time) of the first observation of each transition."""
    return [(int(e), int(t)) for e, t in batch["observation"].reshape(-1, 2)]


def assert_held(batch: TensorDict, held: Held) -> None:
    """Each transition of the batch is one of the list, in every field."""
    if not len(batch):
        return
    flat = batch.reshape(-1)
    expected = [held[key] for key in origin(flat)]  # a KeyError: no such transition exists
    for name in ("observation", "action", "next_observation", "terminated"):
        assert torch.equal(flat[name], torch.stack([item[name] for item in expected])), name
    for name in ("reward", "discount"):
        torch.testing.assert_close(flat[name], torch.stack([item[name] for item in expected]))


def rows_of_ring(replay: Replay) -> torch.Tensor:
    return torch.arange(min(replay.count, replay.capacity))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(scripts(), st.booleans())
def test_every_sample_is_a_transition_that_happened(script: Script, prioritized: bool) -> None:
    held = naive(script)
    replay = fill(script, alpha=0.6 if prioritized else None)
    assert replay.has_transitions() == bool(held)
    if held:
        batch = replay.sample(2, 40)
        assert batch.batch_size == (2, 40)
        assert_held(batch, held)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(scripts())
def test_what_can_be_drawn_is_exactly_what_is_held(script: Script) -> None:
    replay, held = fill(script), naive(script)
    index = rows_of_ring(replay)
    can = replay.is_transition(index)
    assert not can[replay.incomplete()].any()
    batch = replay.transitions(index[can])
    assert sorted(origin(batch)) == sorted(held)
    assert_held(batch, held)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(scripts())
def test_no_sample_crosses_an_episode(script: Script) -> None:
    """Said of the rows themselves, without the list."""
    replay = fill(script)
    if not replay.has_transitions():
        return
    batch = replay.sample(1, 64).view(-1)
    episode = script.rows["first"].cumsum(0)  # [steps, num_envs]: number of the episode each row belongs to
    final = script.rows["terminated"] | script.rows["truncated"]
    e, t = batch["observation"].long().unbind(-1)
    other, last = batch["next_observation"].long().unbind(-1)
    assert torch.equal(e, other)
    assert ((t < last) & (last <= t + script.n_step)).all()
    assert torch.equal(episode[t, e], episode[last, e])
    assert not final[t, e].any()
    assert not script.rows["first"][last, e].any()
    assert torch.equal(batch["terminated"], script.rows["terminated"][last, e])  # never for a truncation
    torch.testing.assert_close(batch["discount"], GAMMA ** (last - t).float())


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(scripts(), st.integers(1, 12))
def test_latest_is_each_step_once_in_order(script: Script, steps: int) -> None:
    """Without replay a ring of a few rows hands on every transition when it is complete, and none twice."""
    script.capacity = script.num_envs * (steps + script.n_step + 1)
    replay = fill(Script(script.rows[: script.n_step + 1], [script.n_step + 1], script.capacity, script.n_step))
    seen = []
    everything = Script(script.rows, [], script.rows.numel(), script.n_step)
    held = naive(everything)
    for block in script.rows[script.n_step + 1 :].split(steps):
        replay.extend(block)
        batch = replay.latest(min(steps, len(block)))
        kept = batch[batch["weight"] == 1]
        assert_held(kept, held)
        seen += origin(kept)
    assert seen == sorted(seen, key=lambda key: (key[1], key[0]))
    assert seen == sorted((key for key in held if key[1] > 0), key=lambda key: (key[1], key[0]))


def fixed(n_step: int = 1, steps: int = 60, capacity: int = 60) -> Script:
    return Script(make_rows(3, steps, 2, 5), [steps], capacity, n_step)


@pytest.mark.parametrize("n_step", [1, 3])
def test_sampling_is_uniform_over_transitions(n_step: int) -> None:
    script = fixed(n_step)
    held = naive(script)
    counts = Counter(origin(fill(script).sample(40, 1000)))
    assert chisquare([counts[key] for key in held]).pvalue > 0.001


def test_a_ring_holds_what_fits_and_rounds_up() -> None:
    replay = Replay(7, 3, torch.Generator(), gamma=GAMMA)
    assert replay.capacity == 9
    replay.extend(make_rows(0, 50, 3, 5))
    assert replay.count == 150
    assert len(replay.buffer) == 9


def test_memory_and_disk_draw_the_same(tmp_path: Path) -> None:
    script = fixed(2)
    memory, disk = fill(script), fill(script, directory=tmp_path / "ring")
    assert (tmp_path / "ring").is_dir()
    assert (memory.sample(3, 50) == disk.sample(3, 50)).all()


def test_a_ring_on_disk_starts_empty_where_an_older_one_lay(tmp_path: Path) -> None:
    fill(fixed(), directory=tmp_path)
    script = Script(make_rows(9, 6, 2, 4), [6], 60, 1)
    assert_held(fill(script, directory=tmp_path).sample(1, 200), naive(script))


# Prioritized replay: Schaul et al. 2016


def prioritized(alpha: float, script: Script) -> tuple[Replay, dict[tuple[int, int], float]]:
    """A ring and the priority p_i that each of its transitions was given."""
    replay = fill(script, alpha=alpha)
    index = rows_of_ring(replay)
    ends = index[replay.is_transition(index)]
    error = torch.randn(len(ends), generator=torch.Generator().manual_seed(5))
    replay.update_priority(ends, error)
    priorities = error.abs().tolist()
    return replay, dict(zip(origin(replay.transitions(ends)), priorities, strict=True))


@pytest.mark.parametrize("alpha", [0.6, 1.0])
def test_prioritized_frequencies_are_those_of_equation_1(alpha: float) -> None:
    replay, priority = prioritized(alpha, fixed())
    total = sum(p**alpha for p in priority.values())
    likely = {key: 40_000 * p**alpha / total for key, p in priority.items() if 40_000 * p**alpha / total > 10}
    counts = Counter(origin(replay.sample(40, 1000)))
    drawn, expected = sum(counts[key] for key in likely), sum(likely.values())
    assert drawn == pytest.approx(expected, abs=20)  # the rest is too rare to be tested one by one
    frequencies = [n * drawn / expected for n in likely.values()]
    assert chisquare([counts[key] for key in likely], frequencies).pvalue > 0.001


@pytest.mark.parametrize("beta", [0.0, 0.4, 1.0])
def test_importance_weights_are_those_of_section_3_4(beta: float) -> None:
    """w_i = (N P(i))^-beta, divided by the largest of them."""
    alpha = 0.6
    replay, priority = prioritized(alpha, fixed())
    total = sum(p**alpha for p in priority.values())
    weight = {key: (len(priority) * p**alpha / total) ** -beta for key, p in priority.items()}
    greatest = max(weight.values())
    batch = replay.sample(4, 500, beta=beta)
    expected = torch.tensor([weight[key] / greatest for key in origin(batch)])
    torch.testing.assert_close(batch["weight"].view(-1), expected, rtol=1e-4, atol=1e-6)
    assert batch["weight"].max() <= 1 + 1e-6


def test_new_transitions_come_with_the_greatest_priority_so_far() -> None:
    script = Script(make_rows(3, 60, 2, 1000), [50, 10], 120, 1)
    replay = Replay(120, 2, torch.Generator().manual_seed(0), gamma=GAMMA, alpha=1.0)
    old, new = script.rows.split([50, 10])
    replay.extend(old)
    ends = torch.arange(2, 100)
    replay.update_priority(ends, torch.full((98,), 0.5))
    replay.update_priority(torch.tensor([17]), torch.tensor([-8.0]))  # the size counts, not the sign
    replay.extend(new)
    counts = Counter(replay.sample(1, 40_000)["index"].view(-1).tolist())
    mass = 8.0 * 21 + 0.5 * 97
    fresh = sum(counts[i] for i in range(100, 120))
    assert fresh / 40_000 == pytest.approx(8.0 * 20 / mass, abs=0.01)
    assert counts[17] / 40_000 == pytest.approx(8.0 / mass, abs=0.01)


def test_index_says_which_row_to_update() -> None:
    replay, _ = prioritized(1.0, fixed())
    batch = replay.sample(2, 30)
    again = replay.transitions(batch["index"].view(-1))
    assert torch.equal(again["observation"], batch["observation"].view(-1, 2))
    assert batch["td_error"].shape == (2, 30)
    assert not batch["td_error"].any()


# State


def copy_of(replay: Replay, script: Script, alpha: float | None, journal: Journal, state: dict) -> Replay:
    new = Replay(
        script.capacity,
        script.num_envs,
        torch.Generator().manual_seed(99),  # the generator is part of the state too
        gamma=GAMMA,
        n_step=script.n_step,
        alpha=alpha,
    )
    new.restore(copy.deepcopy(state), journal)
    assert new.count == replay.count
    return new


def assert_same_future(one: Replay, two: Replay, rows: TensorDict) -> None:
    """Both go on alike: draws, priorities learned from them, new rows that wrap around, draws."""
    for block in rows.split(7):
        for replay in (one, two):
            replay.extend(block)
        if not one.has_transitions():
            assert not two.has_transitions()
            continue
        first, second = one.sample(2, 16, beta=0.5), two.sample(2, 16, beta=0.5)
        assert sorted(first.keys()) == sorted(second.keys())
        for name in sorted(first.keys()):
            assert torch.equal(first[name], second[name]), name
        if one.alpha is not None:
            error = first["reward"] + 0.1
            one.update_priority(first["index"], error)
            two.update_priority(second["index"], error)


def journal_in(directory: Path, script: Script) -> Journal:
    return Journal(directory, ROW, segment=max(1, script.capacity // 8))


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(scripts(), st.booleans(), st.integers(0, 60))
def test_capture_and_restore_change_nothing(
    tmp_path_factory: pytest.TempPathFactory, script: Script, prioritized: bool, abandoned: int
) -> None:
    """Also when the ring has wrapped, and when rows of an abandoned future were journaled after the capture."""
    alpha = 0.6 if prioritized else None
    replay = fill(script, alpha)
    if prioritized and replay.has_transitions():
        batch = replay.sample(1, 32)
        replay.update_priority(batch["index"], batch["reward"])
    journal = journal_in(tmp_path_factory.mktemp("journal"), script)
    state = copy.deepcopy(replay.capture(journal, 0))
    restored = copy_of(replay, script, alpha, journal, state)
    if abandoned:
        saved = restored.count
        restored.extend(make_rows(1, abandoned, script.num_envs, 3))
        restored.capture(journal, saved)
        restored = copy_of(replay, script, alpha, journal, state)
    assert_same_future(replay, restored, make_rows(2, 40, script.num_envs, 3))


@pytest.mark.parametrize("alpha", [None, 0.6])
def test_a_journal_grows_by_what_is_new(tmp_path: Path, alpha: float | None) -> None:
    """Capture after capture, pruned in between, each restores; one that is two captures old does not."""
    script = Script(make_rows(3, 4, 2, 5), [4], 32, 2)
    replay = fill(script, alpha)
    journal = journal_in(tmp_path, script)
    saved = before = 0
    for round in range(12):
        replay.extend(make_rows(10 + round, 1 + round, 2, 4))
        state = copy.deepcopy(replay.capture(journal, saved))
        journal.prune(before - replay.capacity)
        before, saved = saved, replay.count
        twin = copy_of(replay, script, alpha, journal, state)
        assert_same_future(copy_of(replay, script, alpha, journal, state), twin, make_rows(50, 20, 2, 4))
    written = sum(path.stat().st_size for path in tmp_path.iterdir()) // ROW.itemsize
    assert written < replay.count


def test_the_state_is_plain(tmp_path: Path) -> None:
    """A checkpoint of it loads without running code."""
    replay, _ = prioritized(0.6, fixed())
    state = replay.capture(journal_in(tmp_path / "journal", fixed()), 0)
    torch.save(state, tmp_path / "state.pt")
    loaded = torch.load(tmp_path / "state.pt", weights_only=True)
    twin = copy_of(replay, fixed(), 0.6, journal_in(tmp_path / "journal", fixed()), loaded)
    assert_same_future(replay, twin, make_rows(4, 30, 2, 4))


def test_ended_episodes_are_truncations() -> None:
    """A world that is started anew: its last row ends an episode, without a termination."""
    replay = Replay(40, 1, torch.Generator().manual_seed(0), gamma=GAMMA, n_step=3)
    rows = make_rows(0, 8, 1, 10_000)
    replay.extend(rows)
    replay.end_episodes()
    again = make_rows(1, 8, 1, 10_000)
    again["observation"][..., 1] += 100
    replay.extend(again)
    batch = replay.sample(1, 300).view(-1)
    start, end = batch["observation"][:, 1], batch["next_observation"][:, 1]
    assert ((start < 50) == (end < 50)).all()
    assert not batch["terminated"].any()
    into_the_end = end == 7
    assert into_the_end.any()
    torch.testing.assert_close(batch["discount"][into_the_end], GAMMA ** (7 - start[into_the_end]))
