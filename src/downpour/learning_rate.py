"""Learning rate schedules, for every algorithm."""

import math
from typing import Any, Literal
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from downpour.config import ConfigError, NonNegativeInt, PositiveInt, Probability
from downpour.optimizers import capturable


class Constant:
    """The optimizer's own step size, with optional warm-up and scaling by the number of ranks."""

    def __init__(
        self,
        copies: int = 1,
        planned: int | None = None,
        *,
        warmup: NonNegativeInt = 0,
        scale_with: Literal["nothing", "ranks"] = "nothing",
    ):
        """
        Args:
            copies: replicas, each with its own batch, whose gradients are averaged in a step: the number of
                ranks in synchronous data parallelism.
            planned: gradient steps of the whole run, if known in advance.
            warmup: gradient steps over which the step size rises linearly from 0 (Goyal et al. 2017, 2.2).
            scale_with: `ranks` multiplies it by the number of copies, as N of them make one step of an N times larger
                batch (Goyal et al. 2017, 2.1).
        """
        self.planned, self.warmup, self.scale = planned, warmup, copies if scale_with == "ranks" else 1

    def shape(self, step: int) -> float:
        """The factor for gradient step `step` (the first is 0), before warm-up and scaling."""
        return 1.0

    def __call__(self, step: int) -> float:
        """The factor of the optimizer's step size in gradient step `step`."""
        rise = min(1.0, (step + 1) / self.warmup) if self.warmup else 1.0
        return self.scale * rise * self.shape(step)


class Step(Constant):
    """Multiplied by `factor` after every `every` gradient steps."""

    def __init__(self, *args: Any, every: PositiveInt, factor: Probability = 0.1, **kwargs: Any):
        """
        Args:
            every: gradient steps between two drops.
            factor: multiplies the step size at each.
        """
        super().__init__(*args, **kwargs)
        self.every, self.factor = every, factor

    def shape(self, step: int) -> float:
        return self.factor ** (step // self.every)


class Linear(Constant):
    """Falls linearly from 1 to `end` over `steps` gradient steps, then stays constant."""

    def __init__(self, *args: Any, steps: PositiveInt | None = None, end: Probability = 0.0, **kwargs: Any):
        """
        Args:
            steps: duration in gradient steps, warm-up included; null takes the whole run.
            end: final step size, as a fraction of the optimizer's.

        Raises:
            ConfigError: the number of gradient steps is not known in advance.
        """
        super().__init__(*args, **kwargs)
        known = steps or self.planned
        if known is None:
            advice = "the number of gradient steps depends on the length of the episodes: set it explicitly"
            raise ConfigError("schedule.steps", None, advice)
        self.steps, self.end = known, end

    def way(self, step: int) -> float:
        """Fraction of the duration that has passed at gradient step `step`, in [0, 1]."""
        return min(1.0, max(0, step - self.warmup) / max(1, self.steps - self.warmup))

    def shape(self, step: int) -> float:
        return 1 - (1 - self.end) * self.way(step)


class Cosine(Linear):
    """Falls along half a cosine (Loshchilov and Hutter 2017, eq. 5)."""

    def shape(self, step: int) -> float:
        return self.end + (1 - self.end) * 0.5 * (1 + math.cos(math.pi * self.way(step)))


def follow(optimizer: Optimizer, schedule: Constant) -> Optimizer:
    """Have `optimizer` change its own step size after each of its steps.

    The count lies in its parameter groups, which every checkpoint holds anyway: a resumed run goes on where it was, and
    no algorithm need know of schedules. On a GPU the step size is a tensor there, which a CUDA graph reads anew at each
    step; checkpoints hold numbers.
    """
    if type(schedule) is Constant and not schedule.warmup and schedule.scale == 1:
        return optimizer
    schedules[optimizer] = schedule
    for group in optimizer.param_groups:
        group["base_lr"], group["steps_taken"] = group["lr"], 0
        group["lr"] = group["base_lr"] * schedule(0)
    optimizer.register_step_post_hook(lambda optimizer, *_: advance(optimizer))
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    on_one = all(p.is_cuda and not isinstance(p, DTensor) for p in parameters)
    if on_one and capturable(type(optimizer), optimizer.defaults.get("fused")):
        keep_as_tensors(optimizer)
    return optimizer


schedules: WeakKeyDictionary[Optimizer, Constant] = WeakKeyDictionary()


def advance(optimizer: Optimizer) -> None:
    """Set the step size of the next step, if `optimizer` follows a schedule; capturing a graph is not a step."""
    schedule = schedules.get(optimizer)
    if schedule is None:
        return
    for group in optimizer.param_groups:
        if isinstance(group["lr"], Tensor) and group["lr"].is_cuda and torch.cuda.is_current_stream_capturing():
            return
        group["steps_taken"] += 1
        lr = group["base_lr"] * schedule(group["steps_taken"])
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(lr)
        else:
            group["lr"] = lr


def keep_as_tensors(optimizer: Optimizer) -> None:
    """Keep the step sizes as tensors on the parameters' device, and as numbers in checkpoints."""
    optimizer.register_state_dict_post_hook(_as_numbers)
    optimizer.register_load_state_dict_post_hook(_as_tensors)
    _as_tensors(optimizer)


def _as_tensors(optimizer: Optimizer) -> None:
    for group in optimizer.param_groups:
        group["lr"] = torch.tensor(float(group["lr"]), dtype=torch.float32, device=group["params"][0].device)


def _as_numbers(optimizer: Optimizer, state: dict[str, Any]) -> None:
    for group in state["param_groups"]:
        group["lr"] = group["base_lr"] * schedules[optimizer](group["steps_taken"])
