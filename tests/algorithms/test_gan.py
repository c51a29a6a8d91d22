"""Generative adversarial networks: the value of the game where it is known, who learns from what, a run."""

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from gymnasium import spaces
from scipy.spatial.distance import cdist
from tensordict import TensorDict
from tests.supervised import SMALL, train, train_stopped
from torch import nn

from downpour.algorithms.gan import GAN, discriminator_loss, energy_distance, generator_loss
from downpour.checkpoints import read

DATA, MADE = np.array([4, 2, 1, 1]) / 8, np.array([1, 1, 2, 4]) / 8


def drawn(probabilities: np.ndarray) -> torch.Tensor:
    """Eight draws from four symbols, as often as they are probable."""
    return torch.tensor(np.repeat(np.arange(4), (8 * probabilities).astype(int)))


def divergence(p: np.ndarray, q: np.ndarray) -> float:
    """Jensen and Shannon's, in nats."""
    mean = (p + q) / 2
    return float((p * np.log(p / mean) + q * np.log(q / mean)).sum() / 2)


@pytest.mark.parametrize(("p", "q"), [(DATA, MADE), (DATA, DATA)])
def test_the_best_discriminator_is_the_odds_and_its_loss_log_4_minus_twice_the_divergence(
    p: np.ndarray, q: np.ndarray
) -> None:
    """Propositions 1 and 2 of the paper: D = p / (p + q); log 4 where the two are the same."""
    logits = torch.tensor(np.log(p / q), requires_grad=True)
    loss = discriminator_loss(logits[drawn(p)], logits[drawn(q)])
    assert loss.item() == pytest.approx(np.log(4) - 2 * divergence(p, q), rel=1e-12)
    loss.backward()
    assert logits.grad is not None and logits.grad.abs().max() < 1e-12


def test_the_generators_loss_does_not_saturate_where_the_discriminator_is_sure() -> None:
    logits = torch.tensor([-30.0, 0.0, 30.0], requires_grad=True)
    loss = generator_loss(logits)
    assert loss.item() == pytest.approx((30 + np.log(2)) / 3)
    loss.backward()
    assert logits.grad is not None and (3 * logits.grad).tolist() == pytest.approx([-1, -0.5, 0], abs=1e-6)


def test_the_energy_distance_is_a_mean_over_pairs() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((7, 3)), rng.standard_normal((5, 3)) + 1
    apart = [cdist(a, a)[~np.eye(len(a), dtype=bool)].mean() for a in (x, y)]
    found = energy_distance(torch.tensor(x), torch.tensor(y))
    assert float(found) == pytest.approx(2 * cdist(x, y).mean() - sum(apart), rel=1e-9)
    same = [energy_distance(*torch.randn(2, 200, 2, generator=torch.Generator().manual_seed(i))) for i in range(20)]
    assert abs(float(torch.stack(same).mean())) < 0.01 < float(found)


class Chosen:
    """Two optimizers in place of a trainer's."""

    def __init__(self, learner: GAN):
        self.learner, self.optimizers = learner, learner.configure_optimizers()

    def step(self, batch: torch.Tensor) -> list[str]:
        """Names of the weights that a step changes."""
        before = {name: p.detach().clone() for name, p in self.learner.named_parameters()}
        self.learner.update(TensorDict({"input": batch}, batch_size=[len(batch)]))
        return [name for name, p in self.learner.named_parameters() if not torch.equal(p, before[name])]


def test_each_step_reaches_its_own_network(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    box = spaces.Box(-np.inf, np.inf, (2,))
    learner = GAN(
        box,
        lambda space, outputs: nn.Linear(space.shape[0], outputs),
        lambda p: torch.optim.SGD(p, lr=0.1),
        latent=3,
        generator_every=2,
    )
    chosen = Chosen(learner)
    monkeypatch.setattr(GAN, "optimizers", lambda self: chosen.optimizers)
    monkeypatch.setattr(GAN, "manual_backward", lambda self, loss: loss.backward())
    only_discriminator = {"discriminator.weight", "discriminator.bias"}
    assert set(chosen.step(torch.randn(6, 2))) == only_discriminator
    assert set(chosen.step(torch.randn(6, 2))) == only_discriminator | {"generator.weight", "generator.bias"}
    # A linear D on samples w z + c: descending on -log D moves c along +w_D, by lr * mean(1 - D).
    made, weight = learner.sample(4000), learner.discriminator.weight[0]
    doubt = 1 - torch.sigmoid(learner(made)).mean()
    before = learner.generator.bias.detach().clone()
    optimizer = chosen.optimizers[1]
    learner.backward_and_step(generator_loss(learner(made)), optimizer)
    assert torch.allclose(learner.generator.bias - before, 0.1 * doubt * weight, atol=1e-6)


def test_it_comes_near_the_moons_and_draws_them(tmp_path: Path) -> None:
    options = ("algo=gan", "model.hidden=[64,64]", "total_gradient_steps=1500", "eval_every=500", "optimizer.lr=1e-3")
    summary = train(tmp_path, *options, "optimizer.betas=[0.5,0.999]", "seed=1")
    with open(tmp_path / "metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert summary["gradient_steps"] == 1500 and summary["best/energy_distance"] < 0.04
    assert 0.5 < summary["test/loss"] < 2 and "train/generator_loss" in rows[-1]
    assert (tmp_path / "samples.png").stat().st_size > 1000 and not (tmp_path / "confusion.png").exists()


def test_images_are_made_and_a_run_goes_on_bit_for_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = (*SMALL, "algo=gan", "data=digits", "model.hidden=[16]", "data.batch_size=8")
    train(tmp_path / "whole", *options)
    train_stopped(monkeypatch, tmp_path / "stopped", 33, *options)
    weights = [read(tmp_path / name / "checkpoints" / "last.ckpt")["state_dict"] for name in ("whole", "stopped")]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    for name in ("metrics.csv", "samples.png"):
        assert (tmp_path / "stopped" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
