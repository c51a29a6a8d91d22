"""A generative adversarial network: two networks, each with its optimizer (Goodfellow et al. 2014)."""

from collections.abc import Iterable
from typing import ClassVar

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from lightning.pytorch.strategies import DDPStrategy
from tensordict import TensorDict
from torch import Tensor
from torch.nn.functional import softplus
from torch.optim import Optimizer

from downpour.algorithms.base import Algorithm, Network, OptimizerFactory
from downpour.config import PositiveFloat, PositiveInt


class GAN(Algorithm):
    """A generator G maps noise to samples; a discriminator D learns to tell them from the data, and G to fool D.

    Both networks are built from `model`; D's output is the logit of the probability that its input is real.
    """

    learns_from: ClassVar[tuple[str, ...]] = ("dataset",)

    def __init__(
        self,
        input_space: gym.Space,
        network: Network,
        optimizer: OptimizerFactory,
        *,
        latent: PositiveInt,
        generator_every: PositiveInt = 1,
        gradient_clip: PositiveFloat | None = None,
    ):
        """
        Args:
            latent: dimension of the standard normal noise.
            generator_every: discriminator steps per generator step (k of the paper's Algorithm 1).
        """
        super().__init__(optimizer, gradient_clip=gradient_clip)
        self.latent, self.generator_every = latent, generator_every
        self.shape = input_space.shape or ()
        noise = spaces.Box(-np.inf, np.inf, (latent,))
        self.generator = network(noise, int(torch.Size(self.shape).numel()))
        self.discriminator = network(input_space, 1)

    def configure_optimizers(self) -> list[Optimizer]:  # type: ignore[override]
        return [self.optimizer_factory(part.parameters()) for part in (self.discriminator, self.generator)]

    def setup(self, stage: str) -> None:
        if isinstance(self.trainer.strategy, DDPStrategy):  # each backward pass reaches only one of the networks
            self.trainer.strategy._ddp_kwargs["find_unused_parameters"] = True

    def sample(self, rows: int, rng: torch.Generator | None = None) -> Tensor:
        """Generate samples [rows, *shape]. With `rng`, noise is drawn on its device: the same everywhere."""
        noise = torch.randn(rows, self.latent, generator=rng, device=rng.device if rng else self.device)
        return self.generator(noise.to(self.device)).view(rows, *self.shape)

    def forward(self, x: Tensor) -> Tensor:
        """The logits of D: [batch, *shape] -> [batch]."""
        return self.discriminator(x).squeeze(-1)

    def update(self, batch: TensorDict) -> Tensor:
        optimizers = self.optimizers()
        true = batch["input"]
        with torch.no_grad():
            made = self.sample(len(true))
        loss = discriminator_loss(self(true), self(made))
        self.latest.update(self.backward_and_step(loss, optimizers[0]))
        self.gradient_steps += 1
        if self.gradient_steps % self.generator_every == 0:
            # D gets no gradient here.
            weights = {name: weight.detach() for name, weight in self.discriminator.named_parameters()}
            logits = torch.func.functional_call(self.discriminator, weights, self.sample(len(true)))
            passing = generator_loss(logits)
            self.latest.update(self.backward_and_step(passing, optimizers[1]))
            self.latest["generator_loss"] = passing.detach()
        return loss.detach()

    @torch.no_grad()
    def evaluate(self, batches: Iterable[TensorDict]) -> dict[str, float]:
        """Distance of samples from the data, and how well D tells them apart; always with the same noise."""
        was_training, rng = self.training, torch.Generator().manual_seed(0)
        self.eval()
        found = []
        for batch in batches:
            true, made = batch["input"], self.sample(len(batch), rng)
            logits = self(true), self(made)
            right = [(logits[0] > 0).float().mean(), (logits[1] <= 0).float().mean()]
            loss = discriminator_loss(*logits)
            found.append(
                torch.stack([energy_distance(true.flatten(1).float(), made.flatten(1).float()), loss, sum(right) / 2])
            )
        self.train(was_training)
        mean = torch.stack(found).mean(0).tolist()
        return dict(zip(("energy_distance", "loss", "discriminator_accuracy"), mean, strict=True))


def discriminator_loss(true: Tensor, made: Tensor) -> Tensor:
    """-E log D(x) - E log(1 - D(G(z))) of logits [batch] each: minus eq. (1) of the paper.

    For the best D it is log 4 minus twice the Jensen-Shannon divergence of data and samples: log 4 when they are equal.
    """
    return softplus(-true).mean() + softplus(made).mean()


def generator_loss(made: Tensor) -> Tensor:
    """-E log D(G(z)): the non-saturating form (section 3 of the paper)."""
    return softplus(-made).mean()


def energy_distance(x: Tensor, y: Tensor) -> Tensor:
    """2 E|X - Y| - E|X - X'| - E|Y - Y'| of rows [n, size] and [m, size], unbiased; 0 for equal distributions.

    For samples of one distribution it fluctuates around 0 (Székely and Rizzo 2013, eq. 6.1).
    """
    n, m = len(x), len(y)
    within = torch.cdist(x, x).sum() / (n * (n - 1)) + torch.cdist(y, y).sum() / (m * (m - 1))
    return 2 * torch.cdist(x, y).mean() - within
