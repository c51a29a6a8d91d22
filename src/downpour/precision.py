"""Gradient steps without the hooks around them, where nobody has any."""

from collections.abc import Callable, Iterable
from typing import Any

from lightning.pytorch import Callback
from lightning.pytorch.plugins import Precision
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import Tensor
from torch.optim import Optimizer

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
