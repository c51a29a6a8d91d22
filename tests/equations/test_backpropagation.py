"""The midterm's question: backpropagation through one hidden layer with dropout, by hand (docs/backpropagation.md)."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from gymnasium import spaces

from downpour.networks import MLP

Array = np.ndarray
INPUTS, HIDDEN, CLASSES, KEEP = 4, 5, 2, 0.7
SIGMA = {"tanh": (np.tanh, lambda z: 1 - np.tanh(z) ** 2), "logistic": (None, None)}
SIGMA["logistic"] = (lambda z: 1 / (1 + np.exp(-z)), lambda z: np.exp(-z) / (1 + np.exp(-z)) ** 2)


@dataclass
class Sample:
    """x, y, the mask R and the parameters theta = {W1, b1, W2, b2}."""

    x: Array
    y: int
    mask: Array
    theta: dict[str, Array]


def sample(seed: int) -> Sample:
    rng = np.random.default_rng(seed)
    shapes = {"W1": (HIDDEN, INPUTS), "b1": (HIDDEN,), "W2": (CLASSES, HIDDEN), "b2": (CLASSES,)}
    theta = {name: rng.standard_normal(shape) for name, shape in shapes.items()}
    mask = (rng.random(HIDDEN) < KEEP).astype(float)
    return Sample(rng.standard_normal(INPUTS), int(rng.integers(CLASSES)), mask, theta)


def loss(theta: dict[str, Array], s: Sample, sigma: str) -> float:
    """-log P[Y = y | X = x]."""
    z1 = theta["W1"] @ s.x + theta["b1"]
    z2 = theta["W2"] @ (s.mask * SIGMA[sigma][0](z1)) + theta["b2"]
    return float(np.log(np.exp(z2).sum()) - z2[s.y])


def by_hand(s: Sample, sigma: str) -> dict[str, Array]:
    """The gradient as the page derives it."""
    function, slope = SIGMA[sigma]
    z1 = s.theta["W1"] @ s.x + s.theta["b1"]
    a = s.mask * function(z1)
    z2 = s.theta["W2"] @ a + s.theta["b2"]
    p = np.exp(z2) / np.exp(z2).sum()
    delta2 = p - np.eye(CLASSES)[s.y]
    delta1 = (s.theta["W2"].T @ delta2) * s.mask * slope(z1)
    return {"W1": np.outer(delta1, s.x), "b1": delta1, "W2": np.outer(delta2, a), "b2": delta2}


@pytest.mark.parametrize("sigma", list(SIGMA))
@pytest.mark.parametrize("seed", range(5))
def test_by_hand_is_autograd(seed: int, sigma: str) -> None:
    s = sample(seed)
    theta = {name: torch.tensor(value, requires_grad=True) for name, value in s.theta.items()}
    z1 = theta["W1"] @ torch.tensor(s.x) + theta["b1"]
    hidden = torch.tanh(z1) if sigma == "tanh" else torch.sigmoid(z1)
    z2 = theta["W2"] @ (torch.tensor(s.mask) * hidden) + theta["b2"]
    torch.nn.functional.cross_entropy(z2[None], torch.tensor([s.y])).backward()
    for name, gradient in by_hand(s, sigma).items():
        found = theta[name].grad
        assert found is not None and np.abs(gradient - found.numpy()).max() < 1e-12


def network(s: Sample, dropout: float) -> MLP:
    """The same layers as this project has them, with the same weights."""
    made = MLP(spaces.Box(-9, 9, (INPUTS,), np.float64), CLASSES, hidden=[HIDDEN], activation="tanh", dropout=dropout)
    with torch.no_grad():
        for parameter, value in zip(made.parameters(), s.theta.values(), strict=True):
            parameter.copy_(torch.tensor(value))
    return made.double()


@pytest.fixture
def double_precision() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def test_a_layer_is_66(double_precision: None) -> None:
    """H = sigma(W X + b), and an affine map on top."""
    s = sample(0)
    hidden = np.tanh(s.theta["W1"] @ s.x + s.theta["b1"])
    found = network(s, 0.0)(torch.tensor(s.x)[None])[0].detach().numpy()
    np.testing.assert_allclose(found, s.theta["W2"] @ hidden + s.theta["b2"], rtol=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_by_hand_is_the_networks_gradient(double_precision: None, seed: int) -> None:
    """The masks that the network draws are R / P(R = 1): with those the page's derivation is its gradient."""
    s = sample(seed)
    torch.manual_seed(seed)
    made, seen = network(s, 1 - KEEP), []
    (dropout,) = (module for module in made.modules() if isinstance(module, torch.nn.Dropout))
    dropout.register_forward_hook(lambda _, given, out: seen.append((out / given[0])[0].detach().numpy()))
    torch.nn.functional.cross_entropy(made(torch.tensor(s.x)[None]), torch.tensor([s.y])).backward()
    s.mask = seen[0]
    assert set(np.round(s.mask, 9)) <= {0.0, round(1 / KEEP, 9)}
    for parameter, gradient in zip(made.parameters(), by_hand(s, "tanh").values(), strict=True):
        assert parameter.grad is not None
        np.testing.assert_allclose(parameter.grad.numpy(), gradient, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("sigma", list(SIGMA))
@pytest.mark.parametrize("seed", range(5))
def test_by_hand_is_a_finite_difference(seed: int, sigma: str) -> None:
    """Central differences of fourth order: the error is that of float64 alone, below 1e-8."""
    s, h = sample(seed), 1e-3
    for name, gradient in by_hand(s, sigma).items():
        for place in np.ndindex(gradient.shape):
            values = {}
            for k in (-2, -1, 1, 2):
                moved = {key: value.copy() for key, value in s.theta.items()}
                moved[name][place] += k * h
                values[k] = loss(moved, s, sigma)
            difference = (8 * (values[1] - values[-1]) - (values[2] - values[-2])) / (12 * h)
            assert abs(difference - gradient[place]) < 1e-8


def test_a_unit_that_is_left_out_does_not_learn() -> None:
    s = next(s for s in map(sample, range(20)) if 0 in s.mask)
    out = int(np.flatnonzero(s.mask == 0)[0])
    gradient = by_hand(s, "tanh")
    assert not gradient["W1"][out].any() and gradient["b1"][out] == 0 and not gradient["W2"][:, out].any()


def test_descending_by_hand_lowers_the_loss() -> None:
    """theta <- theta - alpha g, over and over on one sample with fresh masks, as the page's algorithm has it."""
    s, rng = sample(1), np.random.default_rng(0)
    before = loss(s.theta, s, "tanh")
    for _ in range(100):
        s.mask = (rng.random(HIDDEN) < KEEP).astype(float)
        gradient = by_hand(s, "tanh")
        s.theta = {name: value - 0.1 * gradient[name] for name, value in s.theta.items()}
    assert loss(s.theta, s, "tanh") < 0.2 * before
