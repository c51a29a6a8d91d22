"""Supervised learning: minimize the mean loss of a batch, (69)."""

from collections.abc import Iterable
from typing import Any, ClassVar, Literal

import gymnasium as gym
import torch
from gymnasium import spaces
from tensordict import TensorDict
from torch import Tensor, nn

from downpour.algorithms.base import Algorithm, Network, OptimizerFactory
from downpour.config import ConfigError, PositiveFloat
from downpour.optimizers import needs_closure
from downpour.scores import scores


class Supervised(Algorithm):
    """Fit a network to pairs of inputs and targets.

    The data set decides between classification and regression: one output per class, or per target.
    """

    learns_from: ClassVar[tuple[str, ...]] = ("dataset",)
    single_pass: ClassVar[bool] = True
    static_shapes: ClassVar[bool] = True

    def __init__(
        self,
        input_space: gym.Space,
        target_space: gym.Space,
        network: Network,
        optimizer: OptimizerFactory,
        target_units: tuple[Tensor, Tensor] | None = None,
        *,
        loss: Literal["auto", "cross_entropy", "squared", "huber"] = "auto",
        gradient_clip: PositiveFloat | None = None,
    ):
        """
        Args:
            target_units: what was subtracted from targets that are numbers, and what they were then divided by.
            loss: rho of (69); auto takes cross-entropy for classes and the squared error for numbers.

        Raises:
            ConfigError: a loss for numbers on classes, or the other way round.
        """
        super().__init__(optimizer, gradient_clip=gradient_clip)
        if isinstance(target_space, spaces.Discrete):
            self.classes = int(target_space.n)
        elif isinstance(target_space, spaces.MultiDiscrete):
            self.classes = int(target_space.nvec[0])
        if loss == "auto":
            loss = "squared" if self.classes is None else "cross_entropy"
        if (loss == "cross_entropy") != (self.classes is not None):
            kind = "numbers" if self.classes is None else "classes"
            fits = "squared or huber" if self.classes is None else "cross_entropy"
            raise ConfigError("algo.loss", loss, f"the targets are {kind}: use {fits}")
        self.loss_name = loss
        outputs = self.classes or int(torch.Size(target_space.shape or ()).numel())
        every_step = isinstance(target_space, spaces.MultiDiscrete)
        self.network = network(input_space, outputs, every_step=every_step)
        self.takes_closure = False
        self.target_units = target_units

    def configure_optimizers(self) -> Any:
        optimizer = super().configure_optimizers()
        self.takes_closure = needs_closure(type(optimizer))
        return optimizer

    def forward(self, x: Tensor) -> Tensor:
        """[batch, *shape] -> logits [batch, classes] or [batch, time, classes], or numbers [batch, outputs]."""
        return self.network(x)

    def error(self, outputs: Tensor, target: Tensor) -> Tensor:
        """The mean of rho over the batch, (69)."""
        if self.loss_name == "cross_entropy":
            return nn.functional.cross_entropy(outputs.flatten(0, -2), target.flatten())
        if self.loss_name == "huber":
            return nn.functional.huber_loss(outputs, target)
        return nn.functional.mse_loss(outputs, target)

    def loss(self, batch: TensorDict) -> tuple[Tensor, dict[str, Tensor]]:
        outputs = self.network(batch["input"])
        loss = self.error(outputs, batch["target"])
        with torch.no_grad():
            return loss, {} if self.classes is None else {"accuracy": _accuracy(outputs, batch["target"])}

    def updates(self, round: TensorDict) -> Tensor:
        """A loop with little overhead: a small network's step takes 0.2 ms."""
        if self.captured is not None:
            return super().updates(round)
        optimizer = self.optimizers()
        losses: list[Tensor] = []
        for x, y in zip(round["input"].unbind(0), round["target"].unbind(0), strict=True):
            if self.takes_closure:
                losses.append(self.closure_step(x, y))
                continue
            outputs = self.network(x)
            loss = self.error(outputs, y)
            self.latest.update(self.backward_and_step(loss, optimizer))
            self.advance()
            losses.append(loss.detach())
        if self.classes is not None and not self.takes_closure:
            self.latest["accuracy"] = _accuracy(outputs.detach(), y)  # metrics of the newest gradient step
        return torch.stack(losses)

    def closure_step(self, x: Tensor, y: Tensor) -> Tensor:
        """A gradient step of an optimizer that evaluates the loss as often as it likes (L-BFGS); its first loss."""
        optimizer = self.optimizers()
        loss = optimizer.step(BatchLoss(self, optimizer, x, y))
        self.advance()
        return torch.as_tensor(loss).detach()

    @torch.no_grad()
    def evaluate(self, batches: Iterable[TensorDict]) -> dict[str, float]:
        """Metrics over all of `batches`, without dropout and with the running statistics of batch normalization."""
        return self.judge(*self.predict(batches))

    def judge(self, outputs: Tensor, targets: Tensor) -> dict[str, float]:
        """Metrics of what `predict` returns: the loss, of standardized targets, and scores in the data set's units."""
        loss = float(self.error(outputs, targets))
        return {"loss": loss, **scores(self.in_units(outputs), self.in_units(targets), self.classes)}

    def in_units(self, numbers: Tensor, *, differences: bool = False) -> Tensor:
        """Targets or predictions of them, or differences, in the data set's units; logits and labels as they are."""
        if self.target_units is None:
            return numbers
        mean, scale = (each.to(numbers.device, torch.float64) for each in self.target_units)
        return numbers * scale if differences else numbers * scale + mean

    @torch.no_grad()
    def predict(self, batches: Iterable[TensorDict]) -> tuple[Tensor, Tensor]:
        """Outputs and targets of all of `batches`, one after another; `in_units` gives them the data set's units."""
        was_training = self.training
        self.eval()
        try:
            pairs = [(self.network(batch["input"]), batch["target"]) for batch in batches]
        finally:
            self.train(was_training)
        outputs, targets = (torch.cat([pair[each] for pair in pairs]) for each in (0, 1))
        return _measurable(outputs), _measurable(targets)


class BatchLoss:
    """The mean loss of a batch, or of a part of it, at the weights of the moment; calling it leaves its gradient."""

    def __init__(self, algorithm: Supervised, optimizer: Any, x: Tensor, y: Tensor):
        self.algorithm, self.optimizer, self.x, self.y = algorithm, optimizer, x, y

    def __len__(self) -> int:
        return len(self.x)

    def __call__(self, part: slice = slice(None)) -> Tensor:
        self.optimizer.zero_grad()
        loss = self.algorithm.error(self.algorithm.network(self.x[part]), self.y[part])
        self.algorithm.manual_backward(loss)
        return loss


def _measurable(numbers: Tensor) -> Tensor:
    """Means over many rows need more than 16 bits."""
    return numbers.float() if numbers.dtype == torch.bfloat16 else numbers


def _accuracy(outputs: Tensor, target: Tensor) -> Tensor:
    return (outputs.argmax(-1) == target).float().mean()
