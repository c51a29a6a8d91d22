"""The midterm's question: backpropagation through one hidden layer with dropout, by hand (docs/backpropagation.md)."""

from dataclasses import dataclass

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import nn

from downpour.algorithms.supervised import Supervised
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


class Masked(nn.Module):
    """Dropout with masks that are given: Torch divides what is kept by 1 - p in training, where the page keeps it."""

    def __init__(self, masks: Array):
        super().__init__()
        self.factors = torch.tensor(masks) / KEEP

    def forward(self, a: torch.Tensor) -> torch.Tensor:
        return a * self.factors


def of_this_framework(s: list[Sample]) -> Supervised:
    """Our network, loss and dropout in float64, with the parameters of the first sample and the mask of each."""

    def network(space: gym.Space, outputs: int, **_: object) -> nn.Module:
        made = MLP(space, outputs, hidden=[HIDDEN], activation="tanh", dropout=1 - KEEP).double()
        (place,) = (i for i, layer in enumerate(made.layers) if isinstance(layer, nn.Dropout))
        made.layers[place] = Masked(np.stack([each.mask for each in s]))
        for parameter, value in zip(made.parameters(), s[0].theta.values(), strict=True):
            parameter.data = torch.tensor(value)
        return made

    box, kinds = spaces.Box(-np.inf, np.inf, (INPUTS,), np.float64), spaces.Discrete(CLASSES)
    return Supervised(box, kinds, network, lambda parameters: torch.optim.SGD(parameters, lr=0.1))


def test_the_masks_stand_where_dropout_stands_and_scale_as_it_does() -> None:
    torch.manual_seed(0)
    ones, layer = torch.ones(200, HIDDEN, dtype=torch.float64), nn.Dropout(1 - KEEP)
    kept = layer(ones)
    assert torch.equal(kept, Masked((kept > 0).double().numpy())(ones))


@pytest.mark.parametrize("seed", range(3))
def test_by_hand_is_our_network(seed: int) -> None:
    """The mean over a batch, (69), each sample with a mask of its own; A of the page is divided by 1 - p."""
    batch = [sample(10 * seed + i) for i in range(6)]
    learner, theta = of_this_framework(batch), batch[0].theta
    x, y = torch.tensor(np.stack([s.x for s in batch])), torch.tensor([s.y for s in batch])

    def mean_loss() -> torch.Tensor:
        return learner.error(learner.network(x), y)

    mean_loss().backward()
    scaled = [Sample(s.x, s.y, s.mask / KEEP, theta) for s in batch]
    gradients = [by_hand(s, "tanh") for s in scaled]
    assert float(mean_loss().detach()) == pytest.approx(np.mean([loss(theta, s, "tanh") for s in scaled]), rel=1e-13)
    h = 1e-3
    for name, parameter in zip(theta, learner.network.parameters(), strict=True):
        expected = np.mean([gradient[name] for gradient in gradients], 0)
        assert parameter.grad is not None and np.abs(parameter.grad.numpy() - expected).max() < 1e-12
        for place in np.ndindex(expected.shape):
            values, before = {}, parameter.data[place].item()
            for k in (-2, -1, 1, 2):
                parameter.data[place] = before + k * h
                values[k] = float(mean_loss().detach())
            parameter.data[place] = before
            difference = (8 * (values[1] - values[-1]) - (values[2] - values[-2])) / (12 * h)
            assert abs(difference - expected[place]) < 1e-8


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
