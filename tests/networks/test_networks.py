"""Function classes: shapes, what they are by hand, what they refuse."""

from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete
from torch import nn

from downpour.config import ConfigError
from downpour.networks import MLP, ConvNet, Features, Linear, ResNet, StridedConvNet, Table

SPACES: list[gym.Space] = [
    Box(-1, 1, (4,), np.float32),
    Box(-1, 1, (4,), np.float64),
    Box(-1, 1, (), np.float32),
    Box(-1, 1, (2, 3), np.float32),
    Box(0, 255, (6, 5, 3), np.uint8),
    Box(0, 1, (10, 10, 4), bool),
    Discrete(5),
    Discrete(5, start=-2),
    MultiBinary(3),
    MultiDiscrete([3, 4]),
]


def samples(space: gym.Space, batch: int = 7) -> torch.Tensor:
    """Observations as the collector hands them over: floats in 32 bits."""
    space.seed(0)
    array = np.stack([space.sample() for _ in range(batch)])
    return torch.from_numpy(array.astype(np.float32) if array.dtype == np.float64 else array)


@pytest.mark.parametrize("space", SPACES, ids=str)
@pytest.mark.parametrize(
    "network", [Linear, partial(Linear, bias=False), partial(MLP, hidden=[8, 6]), partial(MLP, hidden=[])]
)
def test_any_observation_gives_a_number_an_output(network: Any, space: gym.Space) -> None:
    out = network(space, 3)(samples(space))
    assert out.shape == (7, 3)
    assert out.dtype == torch.float32
    assert torch.isfinite(out).all()
    out.sum().backward()


@pytest.mark.parametrize("space", SPACES, ids=str)
def test_features_are_flat(space: gym.Space) -> None:
    features, x = Features(space), samples(space)
    out = features(x)
    assert out.shape == (7, features.size)
    assert out.abs().max() <= (1 if space.dtype in (np.uint8, np.float32) else 3)
    if features.is_identity:
        assert torch.equal(out, x)


def test_features_by_hand() -> None:
    assert Features(Discrete(3, start=5))(torch.tensor([5, 7])).tolist() == [[1, 0, 0], [0, 0, 1]]
    assert Features(Box(0, 255, (2,), np.uint8))(torch.tensor([[0, 51]], dtype=torch.uint8)).tolist() == [
        [0, pytest.approx(0.2)]
    ]


@pytest.mark.parametrize("network", [Linear, partial(MLP, hidden=[4])])
def test_what_cannot_be_fed_is_refused(network: Any) -> None:
    with pytest.raises(ConfigError, match=r"^env\.id=Dict: observation spaces of this type"):
        network(Dict(a=Discrete(2)), 2)


def test_a_table_is_a_number_for_each_state_and_output() -> None:
    table = Table(Discrete(3, start=2), 2, initial=1.5)
    assert [p.shape for p in table.parameters()] == [(3, 2)]
    assert (table.weight == 1.5).all()
    table.weight.data = torch.tensor([[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]])
    states = torch.tensor([4, 2, 2])
    assert table(states).tolist() == [[4, 5], [0, 1], [0, 1]]
    gradient = torch.autograd.grad(table(states)[:, 1].sum(), table.weight)[0]
    assert gradient.tolist() == [[0, 2], [0, 0], [0, 1]]  # unit vectors: (58)


@pytest.mark.parametrize("space", [Box(-1, 1, (2,)), MultiDiscrete([2, 2])])
def test_a_table_needs_a_discrete_observation(space: gym.Space) -> None:
    with pytest.raises(ConfigError, match=r"^model=table: .*model=mlp"):
        Table(space, 2)


def test_a_table_is_a_linear_map_of_unit_vectors() -> None:
    """Q(x, a) = theta_a^T phi(x)."""
    table, linear = Table(Discrete(4), 3), Linear(Discrete(4), 3, bias=False)
    table.weight.data = torch.randn(4, 3)
    linear.linear.weight.data = table.weight.T.clone()
    states = torch.arange(4)
    torch.testing.assert_close(table(states), linear(states))


def test_linear_by_hand() -> None:
    """theta^T phi(x) of (60), and a constant feature."""
    linear = Linear(Box(-1, 1, (2,)), 1)
    linear.linear.weight.data, linear.linear.bias.data = torch.tensor([[2.0, -3.0]]), torch.tensor([0.5])
    assert linear(torch.tensor([[1.0, 1.0]])).tolist() == [[-0.5]]
    assert [p.numel() for p in Linear(Box(-1, 1, (2,)), 1, bias=False).parameters()] == [2]


@pytest.mark.parametrize(
    ("activation", "sigma"),
    [
        ("relu", torch.relu),
        ("tanh", torch.tanh),
        ("elu", nn.functional.elu),
        ("gelu", nn.functional.gelu),
        ("silu", nn.functional.silu),
    ],
)
def test_an_mlp_is_66(activation: Any, sigma: Any) -> None:
    """W2 sigma(W1 sigma(W0 x + b0) + b1) + b2."""
    torch.manual_seed(0)
    network = MLP(Box(-1, 1, (3,)), 2, hidden=[5, 4], activation=activation)
    weights = list(network.parameters())
    assert [tuple(w.shape) for w in weights] == [(5, 3), (5,), (4, 5), (4,), (2, 4), (2,)]
    x = torch.randn(6, 3)
    by_hand = x
    for layer in range(3):
        by_hand = by_hand @ weights[2 * layer].T + weights[2 * layer + 1]
        if layer < 2:
            by_hand = sigma(by_hand)
    torch.testing.assert_close(network(x), by_hand)


def test_the_network_of_mnih() -> None:
    """Methods: 32 of 8 x 8 by 4, 64 of 4 x 4 by 2, 64 of 3 x 3 by 1, 512; bytes count as parts of 1."""
    space = Box(0, 255, (4, 84, 84), np.uint8)
    network = StridedConvNet(space, 6, convolutions=[(32, 8, 4), (64, 4, 2), (64, 3, 1)], hidden=[512])
    weights = [(32, 4, 8, 8), (64, 32, 4, 4), (64, 64, 3, 3), (512, 64 * 7 * 7), (6, 512)]
    assert [tuple(p.shape) for p in network.parameters()][::2] == weights
    x = samples(space)
    torch.testing.assert_close(network(x), network.layers(x.float() / 255))
    last = StridedConvNet(space, 6, convolutions=[(32, 8, 4), (64, 4, 2), (64, 3, 1)], hidden=[512], channels_last=True)
    last.load_state_dict(network.state_dict())
    torch.testing.assert_close(last(x), network(x))


def test_images_too_small_for_the_kernels_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"a 4 x 4 kernel does not fit the remaining image of 1 x 1"):
        StridedConvNet(Box(0, 1, (4, 10, 10), bool), 6, convolutions=[(32, 8, 4), (64, 4, 2)], hidden=[])


@pytest.mark.parametrize(
    "network", [partial(MLP, hidden=[8]), partial(ConvNet, channels=[4], hidden=[8]), partial(ResNet, channels=[4])]
)
def test_outputs_are_in_full_precision_under_autocast(network: Any) -> None:
    space = Box(0, 1, (3, 8, 8), np.float32)
    made, x = network(space, 5).eval(), samples(space)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        below, outputs = made.layers[:-1](x), made(x)
    assert (below.dtype, outputs.dtype) == (torch.bfloat16, torch.float32)
    torch.testing.assert_close(outputs, made.layers[-1](below.float()))
