"""Lightning's precision plugins, adapted to rounds; gradient steps without hooks; clipping of scaled gradients."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from lightning.pytorch import Callback
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.plugins import DoublePrecision, HalfPrecision, MixedPrecision, Precision
from lightning.pytorch.strategies import SingleDeviceStrategy
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import Tensor
from torch.optim import Optimizer

# Precisions of both weights and data: batches must have this dtype.
DTYPES = {"bf16-true": torch.bfloat16, "64-true": torch.float64}
HOOKS = ("on_before_backward", "on_after_backward", "on_before_optimizer_step")


class Direct(Precision):
    """32-bit precision without the callback hooks around `backward` and before a step.

    Calling every callback inside a profiler takes a tenth of a small network's gradient step.
    """

    def pre_backward(self, tensor: Tensor, module: Any) -> Tensor:
        return tensor

    def post_backward(self, tensor: Tensor, module: Any) -> Tensor:
        return tensor

    def optimizer_step(self, optimizer: Optimizer, model: Any, closure: Callable[[], Any], **kwargs: Any) -> Any:  # type: ignore[override]
        return optimizer.step(closure, **kwargs)

    @staticmethod
    def serves(callbacks: Iterable[Callback]) -> bool:
        """Whether no callback implements these hooks."""
        return not any(is_overridden(hook, callback, Callback) for callback in callbacks for hook in HOOKS)


class _Converted:
    """Leaves a round as it is: Lightning's conversion would lose the shape of the TensorDict."""

    def convert_input(self, data: Any) -> Any:
        return data


class Half(_Converted, HalfPrecision):
    """Weights and data in 16 bits."""


class Double(_Converted, DoublePrecision):
    """Weights and data in 64 bits."""


def of_all(name: str) -> Precision | None:
    """The plugin for a precision of both weights and data; None for 32-bit and mixed precisions."""
    if name == "bf16-true":
        return Half("bf16-true")
    return Double() if name == "64-true" else None


class Scaled(MixedPrecision):
    """16-mixed with gradients that can be unscaled before the step, as clipping requires.

    Lightning's plugin unscales in the step, and unscaling twice is an error.
    """

    def unscale(self, optimizer: Optimizer) -> None:
        """Divide the gradients by the loss scale; the step then does not."""
        assert self.scaler is not None
        self.scaler.unscale_(optimizer)

    def optimizer_step(self, optimizer: Any, model: Any, closure: Callable[[], Any], **kwargs: Any) -> Any:  # type: ignore[override]
        assert self.scaler is not None
        closure()
        self._after_closure(model, optimizer)
        output = self.scaler.step(optimizer, **kwargs)  # unscales if needed; skips a step that is not finite
        self.scaler.update()
        return output


def unscale(strategy: Any, optimizer: Any) -> None:
    """Undo the loss scaling, if there is any, before gradients are used."""
    if strategy is not None and isinstance(precision := strategy.precision_plugin, Scaled):
        precision.unscale(unwrapped(optimizer))


def unwrapped(optimizer: Any) -> Optimizer:
    """The optimizer without Lightning's wrapper, if it has one."""
    return optimizer.optimizer if isinstance(optimizer, LightningOptimizer) else optimizer


def bare_optimizers(trainer: Any) -> list[Optimizer] | None:
    """The unwrapped optimizers, if nothing needs Lightning's wrappers; otherwise None.

    Lightning's wrapper calls the strategy and the precision plugin: a tenth of a small network's gradient step.
    """
    strategy = trainer.strategy
    precision = strategy.precision_plugin
    scales = isinstance(precision, MixedPrecision) and precision.scaler is not None
    plain = type(strategy) is SingleDeviceStrategy and not scales
    return list(strategy.optimizers) if plain and Direct.serves(trainer.callbacks) else None
