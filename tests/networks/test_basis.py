"""Fixed features by their definitions."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import nn

from downpour.config import ConfigError
from downpour.networks import Basis, Tiles

BOX = spaces.Box(np.array([-2.0, 0.0], np.float32), np.array([2.0, 10.0], np.float32))


def by_definition(kind: str, x: float, y: float, order: int) -> list[float]:
    u, v = (x + 2) / 4, y / 10
    powers = [(i, j) for i in range(order + 1) for j in range(order + 1)]
    if kind == "fourier":
        return [math.cos(math.pi * (i * u + j * v)) for i, j in powers]
    return [u**i * v**j for i, j in powers]


@pytest.mark.parametrize("kind", ["fourier", "polynomial"])
def test_the_basis(kind: Any) -> None:
    basis = Basis(BOX, 2, kind=kind, order=2)
    for x, y in ((-2.0, 0.0), (0.3, 7.0), (2.0, 10.0)):
        found = basis.features(torch.tensor([[x, y]]))[0]
        np.testing.assert_allclose(found, by_definition(kind, x, y, 2), atol=1e-6)


def test_every_grid_has_one_tile_for_a_point() -> None:
    """Found by going through all tiles of all grids, each a half-open box that is moved as a whole."""
    tiles, tilings = 3, 4
    network = Tiles(BOX, 1, tiles=tiles, tilings=tilings)
    rng = np.random.default_rng(0)
    for x, y in [*rng.uniform((-2, 0), (2, 10), (20, 2)), (-2.0, 0.0), (2.0, 10.0)]:
        found = network.features(torch.tensor([[x, y]], dtype=torch.float32))[0].nonzero().flatten().tolist()
        expected = []
        for k in range(tilings):
            shift = (k * 1 % tilings / tilings, k * 3 % tilings / tilings)
            for j in range(tiles + 1):
                for i in range(tiles + 1):
                    inside = [
                        n <= min(c * tiles + s, tiles + 1 - 1e-9) < n + 1
                        for n, c, s in zip((i, j), ((x + 2) / 4, y / 10), shift, strict=True)
                    ]
                    if all(inside):
                        expected.append(k * (tiles + 1) ** 2 + j * (tiles + 1) + i)
        assert found == expected and len(found) == tilings


def test_a_step_moves_near_points_along_and_far_ones_not() -> None:
    network = Tiles(spaces.Box(0.0, 1.0, (1,)), 1, tiles=10, tilings=5)
    nn.functional.mse_loss(network(torch.tensor([[0.5]])), torch.ones(1, 1)).backward()
    assert network.weight.grad is not None
    network.weight.data -= 0.5 / 5 * network.weight.grad
    value = network(torch.tensor([[0.5], [0.54], [0.46], [0.7], [0.3]])).detach().flatten()
    assert value[0] == pytest.approx(1.0)  # 5 features, a fifth of a step each
    assert 0 < value[1] < 1 and 0 < value[2] < 1
    assert value[3:].tolist() == [0, 0]
    torch.testing.assert_close(
        network(torch.tensor([[0.37]])), network.features(torch.tensor([[0.37]])) @ network.weight
    )


@pytest.mark.parametrize("network", [Basis, Tiles])
def test_inputs_without_bounds_are_answered(network: Any) -> None:
    with pytest.raises(ConfigError, match="has no bounds"):
        network(spaces.Box(-np.inf, np.inf, (2,)), 1)
    with pytest.raises(ConfigError, match="features; lower it"):
        network(spaces.Box(0, 1, (40,)), 1)
