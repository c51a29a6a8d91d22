"""Noisy layers and dueling heads."""

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box
from torch import nn

from downpour.networks import MLP, StridedConvNet
from downpour.networks.rainbow import Dueling, NoisyLinear


def test_noise_is_that_of_the_paper() -> None:
    """Eqs. 10-11: w = mu + sigma f(e_i) f(e_j), f(e) = sgn(e) sqrt|e|, so E f = 0, E f^2 = sqrt(2 / pi)."""
    torch.manual_seed(0)
    layer = NoisyLinear(4, 3, 0.5)
    assert layer.weight_sigma.unique().tolist() == [0.25]
    assert layer.bias_sigma.unique().tolist() == [0.25]
    x = torch.eye(4).repeat(2, 1)
    with torch.no_grad():
        drawn = torch.stack([layer(x) for _ in range(20_000)])
    noise = drawn - layer.mean(x)
    assert torch.equal(noise[:, :4], noise[:, 4:])  # one draw for a batch
    spread = 0.25 * (2 / torch.pi) ** 0.5 * (1 + (torch.pi / 2) ** 0.5) ** 0.5
    torch.testing.assert_close(noise[:, :4].mean(0), torch.zeros(4, 3), atol=0.01, rtol=0)
    torch.testing.assert_close(noise[:, :4].std(0), torch.full((4, 3), spread), atol=0.01, rtol=0)


def test_there_is_no_noise_in_evaluation() -> None:
    network = MLP(Box(-1, 1, (4,)), 2, hidden=[8], noise=0.5)
    x = torch.randn(3, 4)
    assert not torch.equal(network(x), network(x))
    network.eval()
    assert torch.equal(network(x), network(x))
    plain = MLP(Box(-1, 1, (4,)), 2, hidden=[8])
    plain.load_state_dict({n.replace(".mean", ""): p for n, p in network.state_dict().items() if ".mean." in n})
    torch.testing.assert_close(network(x), plain(x))


def test_dueling_by_hand() -> None:
    """Eq. 9 for two actions of two atoms."""
    value, advantage = (lambda x: torch.tensor([[10.0, 20]])), (lambda x: torch.tensor([[1.0, 5, 3, 1]]))
    q: Any = Dueling(nn.Identity(), nn.Identity(), 2)
    q.value, q.advantage = nn.Identity(), nn.Identity()
    q.value.forward, q.advantage.forward = value, advantage
    assert q(torch.zeros(1)).tolist() == [[9, 22, 11, 18]]


@pytest.mark.parametrize("atoms", [1, 5])
@pytest.mark.parametrize(
    ("network", "space"),
    [
        (partial(MLP, hidden=[16, 8]), Box(-1, 1, (4,))),
        (partial(MLP, hidden=[]), Box(-1, 1, (4,))),
        (partial(StridedConvNet, convolutions=[(8, 3, 1)], hidden=[16]), Box(0, 1, (4, 10, 10), np.bool_)),
    ],
)
def test_both_go_with_any_network_and_distribution(network: Any, space: Box, atoms: int) -> None:
    q = network(space, 3 * atoms, atoms, dueling=True, noise=0.1)
    (head,) = (module for module in q.modules() if isinstance(module, Dueling))
    assert not any(type(child) is nn.Linear for m in head.modules() if type(m) is nn.Sequential for child in m)
    space.seed(0)
    x = torch.from_numpy(np.stack([space.sample() for _ in range(5)]))
    out = q(x)
    assert out.shape == (5, 3 * atoms)
    out.sum().backward()
    used = [p.grad is not None for p in q.parameters()]
    assert all(used)


@pytest.mark.parametrize("more", [{}, {"dueling": True}, {"noise": 0.5}, {"batch_last": True}])
def test_values_are_told_apart_under_autocast(more: dict[str, Any]) -> None:
    """Near 10 a bfloat16 could not tell values that are 1/64 apart."""
    torch.manual_seed(0)
    space = Box(0, 1, (4, 10, 10), np.bool_)
    network = StridedConvNet(space, 3, convolutions=[(8, 3, 1)], hidden=[16], **more).eval()
    *_, bias = (p for name, p in network.named_parameters() if name.endswith("bias"))
    with torch.no_grad():
        bias.copy_(10 + torch.arange(3) / 64)
        if "dueling" in more:  # which takes the mean from the advantages
            network.layers[-1].value[-1].bias.fill_(10)
        x = torch.rand(5, 4, 10, 10) > 0.5
        exact = network(x)
        with torch.autocast("cpu", torch.bfloat16):
            mixed, hidden = network(x), network.layers[:2](x.float())
    assert hidden.dtype == torch.bfloat16 and mixed.dtype == torch.float32
    assert (mixed - mixed.bfloat16()).abs().max() > 1e-3
    torch.testing.assert_close(mixed, exact, atol=1 / 100, rtol=0)
