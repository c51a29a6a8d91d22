"""Lightning's precisions, fitted to rounds; and gradient steps without the hooks around them, where nobody has any."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from lightning.pytorch import Callback
from lightning.pytorch.plugins import DoublePrecision, HalfPrecision, Precision
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import Tensor
from torch.optim import Optimizer

# Precisions of weights and data alike: what a stream hands out must have this type.
DTYPES = {"bf16-true": torch.bfloat16, "64-true": torch.float64}
HOOKS = ("on_before_backward", "on_after_backward", "on_before_optimizer_step")


class Direct(Precision):
    """32-bit arithmetic that calls no callback before and after `backward` and before a step.

    Asking each callback, under a profiler's clock, costs a small network a tenth of its gradient step.
    """

    def pre_backward(self, tensor: Tensor, module: Any) -> Tensor:
        return tensor

    def post_backward(self, tensor: Tensor, module: Any) -> Tensor:
        return tensor

    def optimizer_step(self, optimizer: Optimizer, model: Any, closure: Callable[[], Any], **kwargs: Any) -> Any:  # type: ignore[override]
        return optimizer.step(closure, **kwargs)

    @staticmethod
    def serves(callbacks: Iterable[Callback]) -> bool:
        """Whether none of them wants to be called there."""
        return not any(is_overridden(hook, callback, Callback) for callback in callbacks for hook in HOOKS)


class _Converted:
    """A round stays the TensorDict that it is: Lightning's conversion rebuilds it without its shape."""

    def convert_input(self, data: Any) -> Any:
        return data


class Half(_Converted, HalfPrecision):
    """Weights and data in 16 bits."""


class Double(_Converted, DoublePrecision):
    """Weights and data in 64 bits."""


def of_all(name: str) -> Precision | None:
    """The precision of that name if weights and data have it alike; None for 32 bits, and for mixed ones."""
    if name == "bf16-true":
        return Half("bf16-true")
    return Double() if name == "64-true" else None
