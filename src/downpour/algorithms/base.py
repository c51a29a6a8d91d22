"""The base class of algorithms: gradient steps, their count, clipping, and checks."""

import contextlib
import time
from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from lightning.pytorch import LightningModule
from tensordict import TensorDict
from torch import Tensor, nn
from torch.optim import Optimizer

from downpour.config import ConfigError, PositiveFloat
from downpour.failures import TrainingError
from downpour.gpu_clock import GpuClock
from downpour.graphs import CapturedStep
from downpour.precision import bare_optimizers, unscale
from downpour.strategies import parallelism

Network = Callable[..., nn.Module]
"""(input space, number of outputs) -> network; chosen by the `model` group."""
OptimizerFactory = Callable[[Iterable[nn.Parameter]], Optimizer]
"""parameters -> optimizer; chosen by the `optimizer` group."""


class Algorithm(LightningModule):
    """A learning algorithm. A subclass defines `loss`, and `act` if it acts in an environment.

    A round is a TensorDict [updates, batch]: `training_step` makes one gradient step for each of its `updates`. An
    algorithm that needs other batches, such as a rollout's rows in order, overrides `batches`.

    Attributes:
        learns_from: names of the streams whose rounds it accepts.
        single_pass: a gradient step is a pass of a batch's `input` through `network`, judged by `error` with `target`
            (it may be cut in stages, or made again at other weights: `closure_step`).
        static_shapes: `learn_from` asks the host nothing: batches of one shape run the same kernels, each time.
        fills_in: fields of a batch that `learn_from` writes to.
        gradient_steps: optimizer updates so far.
        latest: metrics of the newest gradient step, by name.
        captured: makes the gradient steps with CUDA graphs; None: eager execution.
        gpu_clock: measures how long the GPU is busy; None without a GPU.
        evaluation_epsilon: probability of a uniform action when exploration is off; None where there is no such thing.
        is_td0: whether it converges to the fixed point of linear TD(0).
        classes: number of classes, of a classifier; None of other algorithms.
        num_actions, first_action: of discrete actions, numbered first, first + 1, ...
    """

    learns_from: ClassVar[tuple[str, ...]] = ()
    single_pass: ClassVar[bool] = False
    static_shapes: ClassVar[bool] = False
    fills_in: ClassVar[tuple[str, ...]] = ()
    evaluation_epsilon: float | None = None
    is_td0 = False
    classes: int | None = None
    num_actions: int
    first_action: int

    def __init__(self, optimizer: OptimizerFactory, *, gradient_clip: PositiveFloat | None = None):
        """
        Args:
            gradient_clip: largest norm of the gradient; null: no clipping.
        """
        super().__init__()
        self.automatic_optimization = False
        self.optimizer_factory, self.gradient_clip = optimizer, gradient_clip
        self.gradient_steps = 0
        self.latest: dict[str, Tensor | float] = {}
        self.learning_seconds = 0.0
        self.captured: CapturedStep | None = None
        self.gpu_clock: GpuClock | None = None
        self._bare: list[Optimizer] | None = None
        self._unchecked: tuple[Tensor, TensorDict, int] | None = None

    @classmethod
    def steps_each(cls, settings: Mapping[str, Any]) -> int:
        """Gradient steps per batch of a stream, given all arguments of the constructor."""
        return 1

    def configure_optimizers(self) -> Optimizer:
        return self.optimizer_factory(p for p in self.parameters() if p.requires_grad)

    def loss(self, batch: TensorDict) -> tuple[Tensor, dict[str, Tensor]]:
        """The scalar to minimize for one batch, and metrics by name (their means are recorded)."""
        raise TypeError(f"{type(self).__name__} defines no loss")

    def act(self, observation: Tensor, rng: np.random.Generator, *, env_steps: int, explore: bool) -> np.ndarray:
        """Actions [num_envs, ...] for observations [num_envs, ...]; every random draw comes from `rng`."""
        raise TypeError(f"{type(self).__name__} does not act")

    def action_probabilities(self, observation: Tensor) -> np.ndarray:
        """p(a | x) of discrete actions with exploration off, [batch, actions]; here for a deterministic policy."""
        action = self.act(observation, np.random.default_rng(0), env_steps=0, explore=False)
        return np.eye(self.num_actions)[action - self.first_action]

    def values(self, observation: Tensor) -> Tensor | None:
        """Q(x, a) of observations [batch, ...]: [batch, actions]; None of a rule that learns none."""
        return None

    def state_values(self, observation: Tensor) -> Tensor:
        """V(x) of observations [batch, ...]: [batch]."""
        raise TypeError(f"{type(self).__name__} learns no V(x)")

    def missing_values(self) -> str | None:
        """Why there are no `state_values`, as the end of a sentence; None if there are."""
        return "learns no V(x)" if type(self).state_values is Algorithm.state_values else None

    def valued_policy(self, observation: Tensor) -> np.ndarray | None:
        """p(a | x), [batch, actions], of the policy whose values `state_values` are; None: the optimal policy."""
        return None

    def batches(self, round: TensorDict) -> Iterable[TensorDict]:
        """The batch of each gradient step of a round; an iterator is advanced between the steps."""
        return round.unbind(0)

    def updates(self, round: TensorDict) -> Tensor:
        """Make the gradient steps of one round; returns the loss before each, [updates]."""
        losses = [self.update(batch) for batch in self.batches(round)]
        return torch.stack(losses) if losses else torch.empty(0)

    def update(self, batch: TensorDict) -> Tensor:
        """Make one gradient step; returns the loss before it."""
        loss, metrics = self.learn_from(batch) if self.captured is None else self.captured(self, batch)
        self.latest.update(metrics)
        self.advance()
        return loss

    def learn_from(self, batch: TensorDict) -> tuple[Tensor, dict[str, Tensor]]:
        """The part of a gradient step that a CUDA graph can capture: it only changes tensors.

        Returns:
            The loss before the step, and metrics by name.
        """
        loss, metrics = self.loss(batch)
        return loss.detach(), {**metrics, **self.backward_and_step(loss, self.optimizers())}

    def variant(self) -> Hashable:
        """The kind of the next step, for algorithms whose steps differ."""
        return None

    def advance(self) -> None:
        """Count the step just made, and do what depends on the count."""
        self.gradient_steps += 1

    def training_step(self, round: TensorDict, batch_idx: int) -> None:
        """Make the gradient steps of one round.

        Raises:
            TrainingError: a loss is not a finite number.
        """
        begin = time.perf_counter()
        self.check_loss()
        with self.gpu_clock or contextlib.nullcontext():
            losses = self.updates(round)
            if len(losses):
                mean = losses.mean()
                self.latest["loss"] = mean if mean.is_cuda else float(mean)
                self._unchecked = mean, round, self.gradient_steps
        if not losses.is_cuda or self.trainer.datamodule.evaluation_due:  # type: ignore[attr-defined]
            self.check_loss()
        self.learning_seconds += time.perf_counter() - begin

    def check_loss(self) -> None:
        """Check that the last round's loss was finite; on a GPU one round later, which avoids a synchronization.

        Raises:
            TrainingError: it was not.
        """
        if self._unchecked is None:
            return
        (mean, round, step), self._unchecked = self._unchecked, None
        if not np.isfinite(loss := float(mean)):
            raise TrainingError(self.explain(loss, round, step))

    def backward_and_step(self, loss: Tensor, optimizer: Any) -> dict[str, Tensor]:
        """One step of one optimizer, on the parameters it holds; returns metrics.

        Under data parallelism the gradients of all ranks are averaged first.
        """
        for parameter in parameters_of(optimizer):  # as `zero_grad`, without its profiler hook
            parameter.grad = None
        self.manual_backward(loss)
        return self.clip_and_step(optimizer)

    def clip_and_step(self, optimizer: Any) -> dict[str, Tensor]:
        """Clip the gradients (none in a batch that is only accumulated) and make a step; returns metrics."""
        metrics = {}
        if self.gradient_clip is not None:
            strategy = self._trainer.strategy if self._trainer else None  # none without a trainer
            unscale(strategy, optimizer)
            norm = parallelism(strategy).clip_gradients(parameters_of(optimizer), self.gradient_clip)
            if norm is not None:
                metrics["gradient_norm"] = norm
        optimizer.step()
        return metrics

    def optimizers(self, use_pl_optimizer: bool = True) -> Any:
        """Lightning's wrapped optimizers, or the bare ones where the wrappers would do nothing."""
        if self._bare is None:
            return super().optimizers(use_pl_optimizer)
        return self._bare[0] if len(self._bare) == 1 else self._bare

    def manual_backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        """Gradients of `loss`, with Lightning's hooks if there are any."""
        if self._bare is None:
            super().manual_backward(loss, *args, **kwargs)
        else:
            loss.backward(*args, **kwargs)

    def on_train_start(self) -> None:
        self._bare = bare_optimizers(self.trainer)
        self.gpu_clock = GpuClock() if self.device.type == "cuda" else None
        if self.captured is not None and self._bare is None:
            raise ConfigError("trainer.cuda_graph", True, "a callback hooks into each gradient step: use false")

    def teardown(self, stage: str) -> None:
        """Release what belonged to this fit."""
        self._bare = self._unchecked = None
        if self.captured is not None:
            self.captured.clear()

    def on_train_epoch_end(self) -> None:
        """The data module ends the run, not a number of epochs."""
        if self.trainer.datamodule.finished:  # type: ignore[attr-defined]
            self.trainer.should_stop = True

    def explain(self, loss: float, round: TensorDict, step: int | None = None) -> str:
        """The likely cause of a loss that is not finite, and what to try."""
        bad = [name for name, value in round.items() if value.is_floating_point() and not torch.isfinite(value).all()]
        weights = [name for name, p in self.named_parameters() if not torch.isfinite(p).all()]
        if bad:
            cause = f"the batch contains non-finite values ({', '.join(bad)}): check the environment or data set"
        elif weights:
            cause = f"the weights have diverged ({weights[0]}{', ...' if len(weights) > 1 else ''})"
            cause += ": lower optimizer.lr or set algo.gradient_clip"
        else:
            cause = "lower optimizer.lr or set algo.gradient_clip"
        return f"the loss is {loss} near gradient step {self.gradient_steps if step is None else step}: {cause}"

    def capture(self) -> dict[str, Any]:
        """This rank's own state other than weights and optimizers, as plain data."""
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what `capture` returned."""

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.check_loss()
        checkpoint["gradient_steps"] = self.gradient_steps
        checkpoint["algorithm"] = f"{type(self).__module__}.{type(self).__qualname__}"

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.gradient_steps = checkpoint["gradient_steps"]


def parameters_of(optimizer: Any) -> list[nn.Parameter]:
    """All parameters of an optimizer."""
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]
