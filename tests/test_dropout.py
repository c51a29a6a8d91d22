"""Dropout in use: weight scaling, the exact mean over masks, Monte Carlo."""

import math

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor, nn

from downpour.dropout import drops, exact, monte_carlo, monte_carlo_numbers, scaled
from downpour.networks import MLP

BOX = spaces.Box(-np.inf, np.inf, (3,), np.float32)


def network(units: int = 6, p: float = 0.4) -> nn.Module:
    torch.manual_seed(3)
    net = MLP(BOX, 3, hidden=[units], activation="tanh", dropout=p).double()
    for parameter in net.parameters():
        parameter.data *= 3
    return net


def inputs() -> Tensor:
    return torch.randn(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def by_chance(net: nn.Module, x: Tensor, samples: int) -> Tensor:
    """Monte Carlo with fifty masks a call: every row of a batch draws its own."""
    several = monte_carlo(net, x.repeat(50, 1), samples // 50)[0].exp()
    return several.view(50, *x.shape[:1], -1).mean(0)


def test_the_exact_mean_is_the_sum_over_all_masks() -> None:
    net, x = network(units=2), inputs()
    first, _, _, top = net.layers
    a = torch.tanh(first(x))
    expected = torch.zeros(4, 3, dtype=torch.float64)
    for mask, chance in {(0, 0): 0.16, (0, 1): 0.24, (1, 0): 0.24, (1, 1): 0.36}.items():
        expected += chance * top(a * torch.tensor(mask) / 0.6).softmax(-1).detach()
    assert torch.allclose(exact(net, x).exp(), expected)


def test_monte_carlo_comes_to_the_exact_mean_as_one_over_the_root_of_the_samples() -> None:
    net, x = network(), inputs()
    truth = exact(net, x).exp()
    for samples in (100, 10_000):
        estimate = by_chance(net, x, samples)
        assert float((estimate - truth).abs().max()) < 4 * 0.5 / math.sqrt(samples)


def test_weight_scaling_is_not_the_mean_behind_a_nonlinearity() -> None:
    net, x = network(), inputs()
    gap = float((scaled(net, x).exp() - exact(net, x).exp()).abs().max())
    error = float((by_chance(net, x, 10_000) - exact(net, x).exp()).abs().max())
    assert gap > 0.02 > error


def test_weight_scaling_is_the_geometric_mean_for_one_softmax_layer() -> None:
    """Behind the masks there is one affine map and a softmax: the normalized geometric mean over masks is exact
    (Baldi and Sadowski 2013)."""
    net, x = network(units=3), inputs()
    first, _, _, top = net.layers
    a = torch.tanh(first(x)).detach()
    logarithm = torch.zeros(4, 3, dtype=torch.float64)
    for bits in range(8):
        mask = torch.tensor([bits >> i & 1 for i in range(3)], dtype=torch.float64)
        chance = 0.6 ** float(mask.sum()) * 0.4 ** float(3 - mask.sum())
        logarithm += chance * top(a * mask / 0.6).log_softmax(-1).detach()
    assert torch.allclose(scaled(net, x), logarithm.log_softmax(-1))


def test_masks_disagree_only_where_there_are_masks() -> None:
    x = inputs()
    assert float(monte_carlo(network(p=0.4), x, 200)[1].min()) > 1e-3
    assert float(monte_carlo(network(p=0.0), x, 5)[1].max()) < 1e-12


def test_mean_and_deviation_of_numbers_over_masks_are_those_of_all_masks() -> None:
    """Var(sum of w_i a_i R_i / (1 - p)) = p / (1 - p) * sum of (w_i a_i)^2, for each output."""
    net, x = network(units=6, p=0.4), inputs()
    first, _, _, top = net.layers
    a = torch.tanh(first(x)).detach()
    variance = 0.4 / 0.6 * (a[:, None] * top.weight.detach()).square().sum(-1)
    mean, deviation = monte_carlo_numbers(net, x, 4000)
    assert torch.allclose(deviation, variance.sqrt(), rtol=0.06)
    assert bool(((mean - top(a).detach()).abs() < 4.5 * variance.sqrt() / math.sqrt(4000)).all())
    assert drops(net) and not drops(network(p=0.0))


def test_nothing_else_changes() -> None:
    net, x = network().train(), inputs()
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = monte_carlo(net, x, 3, seed=1)[0]
    exact(net, x)
    assert torch.equal(first, monte_carlo(net, x, 3, seed=1)[0])
    assert not torch.equal(first, monte_carlo(net, x, 3, seed=2)[0])
    assert torch.equal(before, torch.get_rng_state()) and all(module.training for module in net.modules())


def test_too_many_masks_are_refused() -> None:
    with pytest.raises(ValueError, match=r"2\^21 masks"):
        exact(network(units=21), inputs())
    with pytest.raises(ValueError, match="the network has 0"):
        exact(network(p=0.0), inputs())
