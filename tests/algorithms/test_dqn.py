"""The target network, and how little Double DQN adds."""

import copy
import inspect
from functools import partial
from typing import Any

import pytest
import torch
from gymnasium.spaces import Box, Discrete
from tests.worlds import a_batch, learner
from torch import nn

from downpour.algorithms.double_dqn import DoubleDQN
from downpour.algorithms.dqn import DQN, move_towards
from downpour.networks import MLP


def a_round(updates: int) -> Any:
    """The same transition again and again; Q(0, 0) moves towards 1."""
    state = torch.tensor([0])
    batch = a_batch(state, state, reward=torch.ones(1), terminated=torch.ones(1).bool())
    return torch.stack([batch] * updates)


def q_of(network: nn.Module) -> float:
    return network.weight[0, 0].item()


@pytest.mark.parametrize("kind", [DQN, DoubleDQN])
def test_the_target_is_a_copy_every_so_many_gradient_steps(kind: Any) -> None:
    algorithm = learner(kind, Discrete(1), 2, target_every=3)
    seen, copies = [], []
    for _ in range(10):
        algorithm.training_step(a_round(1), 0)
        seen.append(q_of(algorithm.q))
        copies.append(q_of(algorithm.target_q))
    assert len(set(seen)) == 10
    assert copies == [0, 0, *[seen[2]] * 3, *[seen[5]] * 3, *[seen[8]] * 2]


def test_gradient_steps_count_not_rounds() -> None:
    """A round of 7 updates and seven rounds of one are the same."""
    one, seven = (learner(DQN, Discrete(1), 2, target_every=3) for _ in range(2))
    one.training_step(a_round(7), 0)
    for _ in range(7):
        seven.training_step(a_round(1), 0)
    for here, there in zip(one.parameters(), seven.parameters(), strict=True):
        assert torch.equal(here, there)


def test_polyak_averaging_by_hand() -> None:
    algorithm = learner(DQN, Discrete(1), 2, target_every=2, target_tau=0.25)
    older = 0.0
    for step in range(1, 9):
        algorithm.training_step(a_round(1), 0)
        if step % 2 == 0:
            older = 0.75 * older + 0.25 * q_of(algorithm.q)
        assert q_of(algorithm.target_q) == pytest.approx(older, rel=1e-5)


@pytest.mark.parametrize("tau", [1.0, 0.1])
def test_buffers_are_copied_whatever_tau_is(tau: float) -> None:
    """A running mean, say, is no weight to be averaged."""
    source = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    target = copy.deepcopy(source)
    source(torch.randn(8, 3) + 5)
    for p in source.parameters():
        p.data += 1
    before = [p.clone() for p in target.parameters()]
    move_towards(target, source, tau)
    assert torch.equal(target[1].running_mean, source[1].running_mean)
    assert int(target[1].num_batches_tracked) == 1
    for old, new, now in zip(before, source.parameters(), target.parameters(), strict=True):
        torch.testing.assert_close(now, (1 - tau) * old + tau * new)


def test_the_target_begins_equal_and_is_never_learned() -> None:
    algorithm = learner(DQN, Box(-1, 1, (4,)), 2, network=partial(MLP, hidden=[8]), target_every=10**6)
    for here, there in zip(algorithm.q.parameters(), algorithm.target_q.parameters(), strict=True):
        assert torch.equal(here, there)
        assert here is not there
    assert not any(p.requires_grad for p in algorithm.target_q.parameters())  # DDP would wait for its gradients
    optimized = {id(p) for group in algorithm.optimizers().param_groups for p in group["params"]}
    assert optimized == {id(p) for p in algorithm.q.parameters()}
    before = copy.deepcopy(algorithm.target_q.state_dict())
    x = torch.randn(16, 4)
    algorithm.training_step(a_batch(x, x, reward=torch.randn(16)).unsqueeze(0), 0)
    assert all(torch.equal(value, before[name]) for name, value in algorithm.target_q.state_dict().items())


def test_without_a_target_network_there_is_none() -> None:
    """One of the four of Mnih's ablation."""
    algorithm = learner(DQN, Discrete(1), 2, target_network=False)
    algorithm.training_step(a_round(5), 0)
    assert algorithm.target_q is None
    assert algorithm.bootstrap_network is algorithm.q


def test_double_dqn_only_changes_the_bootstrap() -> None:
    own = [name for name, value in vars(DoubleDQN).items() if inspect.isfunction(value)]
    assert own == ["next_action", "bootstrap"]
    assert DoubleDQN.__bases__ == (DQN,)


def test_the_target_network_is_saved() -> None:
    algorithm = learner(DQN, Discrete(1), 2, target_every=3)
    algorithm.training_step(a_round(4), 0)
    other = learner(DQN, Discrete(1), 2, target_every=3)
    other.load_state_dict(algorithm.state_dict())
    assert q_of(other.target_q) == q_of(algorithm.target_q) != q_of(algorithm.q)


@pytest.mark.parametrize("kind", [DQN, DoubleDQN])
def test_asking_older_weights_at_once_changes_nothing(kind: Any) -> None:
    """Within a round theta^- moves after gradient steps 3 and 6: the batches in between see the one of their time."""
    network = partial(MLP, hidden=[8])
    at_once, one_by_one = (learner(kind, Box(-1, 1, (4,)), 2, network=network, target_every=3) for _ in range(2))
    one_by_one.load_state_dict(at_once.state_dict())
    x = torch.randn(8, 16, 4)
    rounds = torch.stack([a_batch(each, -each, reward=torch.randn(16)) for each in x])
    at_once.training_step(rounds, 0)
    for batch in rounds.exclude("next_values").unbind(0):
        one_by_one.update(batch)
    for here, there in zip(at_once.parameters(), one_by_one.parameters(), strict=True):
        torch.testing.assert_close(here, there)
