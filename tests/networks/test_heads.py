"""Policy heads: densities against formulas and SciPy, draws against densities, pairings that cannot work."""

from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from scipy import stats

from downpour.config import ConfigError
from downpour.networks.heads import Categorical, Gaussian, MixtureOfGaussians, fitting

LINE = spaces.Box(-2.0, 6.0, (1,))


def test_categorical_is_a_softmax_over_the_spaces_own_numbers() -> None:
    head = Categorical(spaces.Discrete(3, start=5))
    outputs = torch.tensor([[0.0, 1.0, 2.0]])
    expected = np.exp([0, 1, 2]) / np.exp([0, 1, 2]).sum()
    found = [float(head.distribution(outputs).log_prob(torch.tensor([a])).exp()) for a in (5, 6, 7)]
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    draws = head.sample(outputs.repeat(40_000, 1), np.random.default_rng(0))
    frequencies = [(draws == a).mean() for a in (5, 6, 7)]
    np.testing.assert_allclose(frequencies, expected, atol=4 * 0.5 / np.sqrt(40_000))
    assert head.mode(outputs).tolist() == [7]


def test_the_mixture_is_19_and_with_learned_weights_21() -> None:
    outputs = torch.tensor([[0.1, -0.2, 0.3, 0.5, -1.0, 0.2]], dtype=torch.float64)
    actions = torch.linspace(-8, 12, 41, dtype=torch.float64)
    for weights in ("fixed", "learned"):
        head = MixtureOfGaussians(LINE, components=3, weights=weights, sigma=0.2, spread=1.0)
        used = outputs if weights == "learned" else outputs[:, :3]
        assert head.outputs == used.shape[1]
        c = np.exp([0.5, -1.0, 0.2]) / np.exp([0.5, -1.0, 0.2]).sum() if weights == "learned" else np.full(3, 1 / 3)
        mu = 2.0 + 4.0 * (np.array([-1.0, 0.0, 1.0]) + np.array([0.1, -0.2, 0.3]))
        expected = sum(c[i] * stats.norm.pdf(actions.numpy(), mu[i], 4.0 * 0.2) for i in range(3))
        found = head.distribution(used).log_prob(actions.unsqueeze(-1)).exp()
        np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5)
        np.testing.assert_allclose(head.mode(used)[0, 0], mu[int(np.argmax(c))], rtol=1e-6)


def test_fixed_weights_may_be_any_convex_combination() -> None:
    """(19), (20): draws and density, one weight being 0."""
    head = MixtureOfGaussians(LINE, components=3, weights=[0.7, 0.0, 0.3], sigma=0.05, spread=0.8)
    outputs = torch.zeros(1, 3)
    actions = np.linspace(-6, 10, 33)
    mu, c = 2 + 4 * np.array([-0.8, 0.0, 0.8]), [0.7, 0.0, 0.3]
    expected = sum(c[i] * stats.norm.pdf(actions, mu[i], 4 * 0.05) for i in range(3))
    density = head.distribution(outputs).log_prob(torch.tensor(actions).float()[:, None]).exp()
    np.testing.assert_allclose(density, expected, rtol=1e-3, atol=1e-9)
    drawn = head.sample(outputs.repeat(5000, 1), np.random.default_rng(0))[:, 0]
    parts = [float((np.abs(drawn - each) < 1).mean()) for each in mu]
    np.testing.assert_allclose(parts, c, atol=4 * 0.5 / 5000**0.5)
    assert head.mode(outputs)[0, 0] == pytest.approx(mu[0])


@pytest.mark.parametrize("weights", [[0.5, 0.5], [0.5, 0.4, 0.3]])
def test_what_is_no_convex_combination_is_refused(weights: list[float]) -> None:
    with pytest.raises(ConfigError, match="needs 3 non-negative numbers"):
        MixtureOfGaussians(LINE, components=3, weights=weights)


@pytest.mark.parametrize("head", [Gaussian(LINE, sigma=0.3), MixtureOfGaussians(LINE, components=3, sigma=0.1)])
def test_draws_follow_the_density(head: Any) -> None:
    outputs = torch.randn(1, head.outputs, generator=torch.Generator().manual_seed(1)) * 0.3
    with torch.no_grad():
        draws = head.sample(outputs.repeat(20_000, 1), np.random.default_rng(2))[:, 0]
        grid = torch.linspace(-10, 14, 4001)
        density = head.distribution(outputs).log_prob(grid.unsqueeze(-1)).exp().numpy()
    cumulative = np.cumsum(density) * (24 / 4000)
    assert cumulative[-1] == pytest.approx(1.0, abs=1e-3)
    test = stats.kstest(draws, lambda x: np.interp(x, grid.numpy(), cumulative))
    assert test.pvalue > 1e-3


def test_sigma_is_a_parameter_only_if_it_is_learned() -> None:
    assert not list(Gaussian(LINE, learn_sigma=False).parameters())
    assert len(list(Gaussian(LINE, learn_sigma=True).parameters())) == 1
    unbounded = Gaussian(spaces.Box(-np.inf, np.inf, (2,)), sigma=0.7)
    assert unbounded.sigma.tolist() == pytest.approx([0.7, 0.7])


def test_the_head_fits_the_actions() -> None:
    assert isinstance(fitting(spaces.Discrete(2)), Categorical)
    assert isinstance(fitting(LINE), Gaussian)
    with pytest.raises(ConfigError, match="model/head=gaussian or mixture_of_gaussians"):
        Categorical(LINE)
    with pytest.raises(ConfigError, match="model/head=categorical"):
        MixtureOfGaussians(spaces.Discrete(2))
