"""Tables without autograd: the same numbers as a plain loop in NumPy and as autograd, and the same data."""

from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from tensordict import TensorDict
from tests.worlds import learner
from torch import Tensor

from downpour.algorithms import tabular
from downpour.algorithms.base import Algorithm
from downpour.algorithms.double_q_learning import DoubleQLearning
from downpour.algorithms.dqn import DQN
from downpour.algorithms.q_learning import QLearning
from downpour.networks import Linear, Table

STATES, ACTIONS, COUNT = 5, 3, 200
SPACE = spaces.Discrete(STATES, start=2)


def a_round(seed: int = 0) -> TensorDict:
    """[COUNT, 1]: every pair of a small world many times."""
    rng = np.random.default_rng(seed)
    columns = {
        "observation": rng.integers(2, 2 + STATES, COUNT),
        "action": rng.integers(ACTIONS, size=COUNT),
        "reward": rng.standard_normal(COUNT).astype(np.float32),
        "next_observation": rng.integers(2, 2 + STATES, COUNT),
        "terminated": rng.random(COUNT) < 0.2,
        "discount": np.full(COUNT, 0.9, np.float32),
        "weight": np.ones(COUNT, np.float32),
    }
    return TensorDict({name: torch.from_numpy(column) for name, column in columns.items()}, [COUNT]).unsqueeze(1)


def by_hand(round: TensorDict, alpha: float, exponent: float | None) -> np.ndarray:
    """(58), a row at a time."""
    q, n = np.zeros((STATES, ACTIONS)), np.zeros((STATES, ACTIONS))
    for row in round[:, 0]:
        x, a, y = int(row["observation"]) - 2, int(row["action"]), int(row["next_observation"]) - 2
        n[x, a] += 1
        step = alpha if exponent is None else alpha * n[x, a] ** -exponent
        target = float(row["reward"]) + (0.0 if row["terminated"] else 0.9 * q[y].max())
        q[x, a] += step * (target - q[x, a])
    return q


STEPS = {"constant": {}, "visits": {"step_size": "visits"}, "power": {"step_size": "visits", "visit_exponent": 0.7}}


@pytest.mark.parametrize("kind", STEPS)
def test_update_for_update_the_sequential_rule(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    round, exponent = a_round(), {"constant": None, "visits": 1.0, "power": 0.7}[kind]
    rule = learner(QLearning, SPACE, ACTIONS, lr=0.3, **STEPS[kind])
    slow = learner(QLearning, SPACE, ACTIONS, lr=0.3, **STEPS[kind])
    with monkeypatch.context() as patch:
        patch.setattr(QLearning, "update", None)  # no transition takes the long way
        losses = rule.updates(round)
    expected = Algorithm.updates(slow, round)  # by autograd
    np.testing.assert_allclose(rule.q.weight.detach(), by_hand(round, 0.3, exponent), atol=1e-6)
    torch.testing.assert_close(rule.q.weight, slow.q.weight, atol=2e-6, rtol=0)
    torch.testing.assert_close(losses, expected, atol=2e-6, rtol=1e-5)
    assert rule.gradient_steps == slow.gradient_steps == COUNT
    if exponent is not None:
        assert torch.equal(rule.visits, slow.visits) and rule.visits.sum() == COUNT


def test_two_tables_take_the_same_turns_either_way() -> None:
    rules = [learner(DoubleQLearning, SPACE, ACTIONS, lr=0.3) for _ in range(2)]
    torch.manual_seed(5)
    rules[0].updates(a_round())
    torch.manual_seed(5)
    Algorithm.updates(rules[1], a_round())
    for name in ("q", "other_q"):
        fast, slow = (getattr(rule, name).weight for rule in rules)
        torch.testing.assert_close(fast, slow, atol=2e-6, rtol=0)
        assert fast.abs().max() > 0.1
    assert not torch.allclose(rules[0].q.weight, rules[0].other_q.weight, atol=0.01)


def test_the_other_table_judges_what_this_one_chooses() -> None:
    """One transition, both coins, by hand."""
    row = a_round()[:1]
    row["terminated"][:] = False
    x, a, y = (int(row[name]) - 2 * (name != "action") for name in ("observation", "action", "next_observation"))
    rule = learner(DoubleQLearning, SPACE, ACTIONS, lr=1.0)
    drawn: Any = {}
    for seed in range(20):
        torch.manual_seed(seed)
        with torch.no_grad():
            rule.q.weight.copy_(torch.arange(15.0).view(5, 3))
            rule.other_q.weight.copy_(-torch.arange(15.0).view(5, 3))
        rule.updates(row)
        moved = "q" if rule.q.weight[x, a] != 3 * x + a else "other_q"
        drawn[moved] = getattr(rule, moved).weight[x, a].item()
    reward = float(row["reward"])
    assert drawn["q"] == pytest.approx(reward - 0.9 * (3 * y + 2), abs=1e-5)  # the last action of y looks best to q
    assert drawn["other_q"] == pytest.approx(reward + 0.9 * 3 * y, abs=1e-5)  # the first to the other


def test_ties_are_broken_at_random_where_another_table_judges() -> None:
    """Two actions of y are best to the one that learns; the other finds them worth 10 and 20."""
    row = a_round()[:1]
    row["terminated"][:] = False
    y = int(row["next_observation"]) - 2
    x, a, reward = int(row["observation"]) - 2, int(row["action"]), float(row["reward"])
    found = []
    for slow in (False, True):
        torch.manual_seed(0)
        for _ in range(400):
            rule = learner(DoubleQLearning, SPACE, ACTIONS, lr=1.0)
            with torch.no_grad():
                rule.q.weight[y] = torch.tensor([1.0, 0.0, 1.0])
                rule.other_q.weight[y] = torch.tensor([10.0, 0.0, 20.0])
            before = rule.other_q.weight.clone()
            Algorithm.updates(rule, row) if slow else rule.updates(row)
            if torch.equal(rule.other_q.weight, before):  # the first has learned
                found.append((rule.q.weight[x, a].item() - reward) / 0.9)
    assert sorted({round(value, 3) for value in found}) == [10.0, 20.0]
    half = len(found) // 2
    assert abs(np.mean(np.array(found) > 15) - 0.5) < 4 * 0.5 / len(found) ** 0.5
    assert abs(half - 200) < 60


def test_each_of_two_tables_counts_its_own_visits() -> None:
    """Of a step of 1 / n with nothing to follow, each table is the mean of the rewards that it has seen."""
    round = a_round()
    round["terminated"][:] = True
    rules = [learner(DoubleQLearning, SPACE, ACTIONS, lr=1.0, step_size="visits") for _ in range(2)]
    torch.manual_seed(3)
    rules[0].updates(round)
    torch.manual_seed(3)
    Algorithm.updates(rules[1], round)
    torch.manual_seed(3)
    turns = torch.cat([rules[0].coins(1)[0] for _ in range(COUNT)])
    rows = round[:, 0]
    for rule in rules:
        assert rule.visits.shape == (2 * STATES, ACTIONS) and rule.visits.sum() == COUNT
        for turn, table in enumerate((rule.q, rule.other_q)):
            for x in range(STATES):
                for a in range(ACTIONS):
                    mine = (turns == turn) & (rows["observation"] == x + 2) & (rows["action"] == a)
                    assert rule.visits[turn * STATES + x, a] == mine.sum()
                    if mine.any():
                        seen = rows["reward"][mine].mean().item()
                        assert table.weight[x, a].item() == pytest.approx(seen, abs=1e-5)


def momentum(parameters: Any, lr: float) -> torch.optim.SGD:
    return torch.optim.SGD(parameters, lr=lr, momentum=0.5)


OTHERS: dict[str, dict[str, Any]] = {
    "huber": {"loss": "huber"},
    "clipped error": {"clip_td_error": 0.5},
    "residual": {"gradient": "residual"},
    "clipped gradient": {"gradient_clip": 0.1},
    "adam": {"optimizer": torch.optim.Adam},
    "momentum": {"optimizer": momentum},
    "linear": {"network": Linear},
    "dqn": {"kind": DQN},
}


@pytest.mark.parametrize("other", OTHERS)
def test_what_is_no_plain_rule_takes_the_long_way(other: str) -> None:
    options = {"kind": QLearning, **OTHERS[other]}
    rules = []
    for _ in range(2):
        torch.manual_seed(0)
        rules.append(learner(observations=SPACE, actions=ACTIONS, **options))
    rules[0].updates(a_round())
    Algorithm.updates(rules[1], a_round())
    for mine, theirs in zip(rules[0].parameters(), rules[1].parameters(), strict=True):
        assert torch.equal(mine, theirs)


def test_prioritized_replay_is_weighted_and_told_the_errors() -> None:
    """Batches of one from a prioritized replay: the weights scale the steps, the TD errors are read back."""
    rules = [learner(QLearning, SPACE, ACTIONS, lr=0.3) for _ in range(2)]
    rounds = [a_round() for _ in range(2)]
    for round in rounds:
        round["weight"] = torch.linspace(0.1, 1, COUNT).unsqueeze(1)
        round["td_error"] = torch.zeros(COUNT, 1)
    rules[0].updates(rounds[0])
    Algorithm.updates(rules[1], rounds[1])
    assert torch.equal(rules[0].q.weight, rules[1].q.weight)
    first = rounds[0][0, 0]
    assert first["td_error"] == first["reward"] != 0  # of a table of zeros
    assert torch.equal(rounds[0]["td_error"], rounds[1]["td_error"])
    unweighted = learner(QLearning, SPACE, ACTIONS, lr=0.3)
    unweighted.updates(a_round())
    assert not torch.allclose(rules[0].q.weight, unweighted.q.weight, atol=0.01)


def test_a_target_of_ones_own_is_kept() -> None:
    class Pessimist(QLearning):
        def bootstrap(self, batch: TensorDict) -> Tensor:
            return self.q(batch["next_observation"]).amin(-1)

    rules = [learner(Pessimist, SPACE, ACTIONS) for _ in range(2)]
    rules[0].updates(a_round())
    Algorithm.updates(rules[1], a_round())
    assert torch.equal(rules[0].q.weight, rules[1].q.weight)


def test_only_the_states_of_a_round_are_touched() -> None:
    table = Table(spaces.Discrete(1_000_000), 2, initial=3.0)
    fields = {"observation": [7, 9], "next_observation": [9, 7], "action": [0, 1], "reward": [1.0, 2.0]}
    rows = TensorDict({name: torch.tensor(values) for name, values in fields.items()}, [2])
    rows["terminated"], rows["discount"] = torch.ones(2, dtype=torch.bool), torch.ones(2)
    tabular.learn_in_order([table], [0, 0], rows, 0, 0.5)
    changed = (table.weight != 3).nonzero().tolist()
    assert changed == [[7, 0], [9, 1]]
