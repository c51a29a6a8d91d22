"""Optimizers that Torch lacks."""

import inspect
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from downpour.config import NonNegativeFloat, PositiveFloat, Probability


def needs_closure(kind: Any) -> bool:
    """Whether an optimizer of this class evaluates the loss itself, as often as it likes (L-BFGS)."""
    closure = inspect.signature(kind.step).parameters.get("closure")
    return closure is not None and closure.default is inspect.Parameter.empty


class RMSprop(Optimizer):
    """RMSprop as the lecture has it: r <- rho r + (1 - rho) g * g; theta <- theta - epsilon g / sqrt(delta + r).

    Torch adds delta to the root instead: sqrt(r) + delta. The two differ where gradients are small, so both
    are here. Centered, r loses the square of the mean gradient (Graves 2013, eqs. 38-45, which Mnih et al. 2015 use
    with delta inside).
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter],
        *,
        lr: PositiveFloat = 2.5e-4,
        alpha: Probability = 0.95,
        eps: NonNegativeFloat = 1e-8,
        eps_inside: bool = True,
        centered: bool = False,
        momentum: Probability = 0.0,
        weight_decay: NonNegativeFloat = 0.0,
    ):
        """
        Args:
            lr: epsilon of the lecture.
            alpha: rho of the lecture, the decay rate of the mean square gradient.
            eps: delta of the lecture.
            eps_inside: add it to r, inside the root; False adds it to the root.
            centered: divide by the standard deviation of the gradient, not by its root mean square.
            momentum: fraction of the previous step that is added.
            weight_decay: multiple of the parameters that is added to their gradient (L2 penalty).
        """
        defaults = {"lr": lr, "alpha": alpha, "eps": eps, "eps_inside": eps_inside, "centered": centered}
        super().__init__(params, {**defaults, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One update of all parameters that have a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            self._update(group)
        return loss

    def _update(self, group: dict[str, Any]) -> None:
        parameters: list[Tensor] = [p for p in group["params"] if p.grad is not None]
        if not parameters:
            return
        gradients: Any = [p.grad for p in parameters]
        if decay := group.get("weight_decay"):  # older checkpoints have none
            gradients = torch._foreach_add(gradients, parameters, alpha=decay)
        forget = 1 - group["alpha"]
        square = self._memory(parameters, "square_avg")
        torch._foreach_mul_(square, group["alpha"])
        torch._foreach_addcmul_(square, gradients, gradients, forget)
        inside, outside = (group["eps"], 0.0) if group["eps_inside"] else (0.0, group["eps"])
        root: Any
        if group["centered"]:
            mean = self._memory(parameters, "grad_avg")
            torch._foreach_lerp_(mean, gradients, forget)
            root = torch._foreach_addcmul(square, mean, mean, -1.0)
            torch._foreach_clamp_min_(root, 0.0)  # rounding: negative for a constant gradient
            if inside:
                torch._foreach_add_(root, inside)
        else:
            root = torch._foreach_add(square, inside)
        torch._foreach_sqrt_(root)
        if outside:
            torch._foreach_add_(root, outside)
        if group["momentum"]:
            taken = self._memory(parameters, "momentum_buffer")
            torch._foreach_mul_(taken, group["momentum"])
            torch._foreach_addcdiv_(taken, gradients, root)
            if isinstance(group["lr"], Tensor):
                torch._foreach_sub_(parameters, torch._foreach_mul(taken, group["lr"]))
            else:
                torch._foreach_add_(parameters, taken, alpha=-group["lr"])
        elif isinstance(group["lr"], Tensor):  # set by a schedule on a GPU
            step: Any = torch._foreach_div(gradients, root)
            torch._foreach_mul_(step, group["lr"])
            torch._foreach_sub_(parameters, step)
        else:
            torch._foreach_addcdiv_(parameters, gradients, root, -group["lr"])

    def _memory(self, parameters: list[Tensor], name: str) -> list[Tensor]:
        for parameter in parameters:
            if name not in self.state[parameter]:
                self.state[parameter][name] = torch.zeros_like(parameter)
        return [self.state[parameter][name] for parameter in parameters]


def capturable(kind: Any, fused: Any) -> bool:
    """Whether a CUDA graph can capture a step of this optimizer class; Torch's need their fused kernels."""
    return kind is RMSprop or (kind in (Adam, AdamW, SGD) and bool(fused))
