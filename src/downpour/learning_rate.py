"""How the step size of an optimizer changes with its gradient steps; for every algorithm alike."""

import math
from typing import Any, Literal

from torch.optim import Optimizer

from downpour.config import NonNegativeInt, PositiveInt, Probability


class Constant:
    """The optimizer's own step size, but for a rise at the start and a factor for the number of ranks."""

    def __init__(
        self, copies: int = 1, *, warmup: NonNegativeInt = 0, scale_with: Literal["nothing", "ranks"] = "nothing"
    ):
        """
        Args:
            copies: of the weights, each with its own batch, that make a gradient step together: as many as there are
                ranks where each has all weights and they wait for each other.
            warmup: gradient steps over which the step size rises from nothing (linearly; Goyal et al. 2017, 2.2).
            scale_with: `ranks` multiplies it by the number of copies, as N of them make one step of an N times larger
                batch (Goyal et al. 2017, 2.1).
        """
        self.warmup, self.scale = warmup, copies if scale_with == "ranks" else 1

    def shape(self, step: int) -> float:
        """The factor for gradient step `step` (the first is 0), before warm-up and scaling."""
        return 1.0

    def __call__(self, step: int) -> float:
        """What the optimizer's step size is multiplied by in gradient step `step`."""
        rise = min(1.0, (step + 1) / self.warmup) if self.warmup else 1.0
        return self.scale * rise * self.shape(step)


class Step(Constant):
    """Multiplied by `factor` after every `every` gradient steps."""

    def __init__(self, *args: Any, every: PositiveInt, factor: Probability = 0.1, **kwargs: Any):
        """
        Args:
            every: gradient steps between two drops.
            factor: what remains after each.
        """
        super().__init__(*args, **kwargs)
        self.every, self.factor = every, factor

    def shape(self, step: int) -> float:
        return self.factor ** (step // self.every)


class Cosine(Constant):
    """Half a cosine from 1 to `end` over `steps` gradient steps, then constant (Loshchilov and Hutter 2017, eq. 5)."""

    def __init__(self, *args: Any, steps: PositiveInt, end: Probability = 0.0, **kwargs: Any):
        """
        Args:
            steps: gradient steps of the way down, warm-up included.
            end: what remains, as part of the optimizer's step size.
        """
        super().__init__(*args, **kwargs)
        self.steps, self.end = steps, end

    def shape(self, step: int) -> float:
        way = min(1.0, max(0, step - self.warmup) / max(1, self.steps - self.warmup))
        return self.end + (1 - self.end) * 0.5 * (1 + math.cos(math.pi * way))


def follow(optimizer: Optimizer, schedule: Constant) -> Optimizer:
    """Have `optimizer` change its own step size after each of its steps.

    The count lies in its parameter groups, which every checkpoint holds anyway: a resumed run goes on where it was, and
    no algorithm need know of schedules.
    """
    if type(schedule) is Constant and not schedule.warmup and schedule.scale == 1:
        return optimizer
    for group in optimizer.param_groups:
        group["base_lr"], group["steps_taken"] = group["lr"], 0
        group["lr"] = group["base_lr"] * schedule(0)

    def advance(optimizer: Optimizer, *_: Any) -> None:
        for group in optimizer.param_groups:
            group["steps_taken"] += 1
            group["lr"] = group["base_lr"] * schedule(group["steps_taken"])

    optimizer.register_step_post_hook(advance)
    return optimizer
