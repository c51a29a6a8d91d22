"""Synchronous data parallelism: N ranks average the gradients of M samples each, for a step on a batch of N M."""

import time
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal

import torch
import torch.distributed as dist
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor, nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import bf16_compress_hook, fp16_compress_hook
from torch.distributed.algorithms.model_averaging.utils import average_parameters
from torch.optim import Optimizer

from downpour.config import ConfigError, PositiveFloat, PositiveInt
from downpour.strategies.base import Parallelism, all_reduced, share_buffers, wire_bytes


def _as_bf16(state: Any, bucket: dist.GradBucket) -> torch.futures.Future[Tensor]:
    """Torch's hook; under its own name DistributedDataParallel accepts it with NCCL only."""
    return bf16_compress_hook(state, bucket)


WIRE: dict[str, tuple[torch.dtype | None, Any]] = {
    "none": (None, None),
    "fp16": (torch.float16, fp16_compress_hook),
    "bf16": (torch.bfloat16, _as_bf16),
}


class DataParallel(Parallelism, DDPStrategy):
    """Torch's DistributedDataParallel, with gradient accumulation and local SGD as options.

    With `accumulate` = k the optimizer makes one step for k batches, on the mean of their gradients, which is
    communicated once. With `local_steps` = H the ranks make H steps on their own, then average their weights (local
    SGD, Stich 2019, Algorithm 1), and also before every evaluation; the states of their optimizers are not averaged.
    """

    name: ClassVar[str] = "ddp"

    def __init__(
        self,
        *,
        static_graph: bool = False,
        gradient_as_bucket_view: bool = True,
        bucket_mb: PositiveFloat = 25,
        compress: Literal["none", "fp16", "bf16"] = "none",
        accumulate: PositiveInt = 1,
        local_steps: PositiveInt = 1,
    ):
        """
        Args:
            static_graph: assert that every step uses the same parameters.
            gradient_as_bucket_view: store gradients in the communication buffers.
            bucket_mb: megabytes of gradients that are communicated at once, overlapping the backward pass.
            compress: send gradients as 16-bit floats.
            accumulate: batches per optimizer step.
            local_steps: gradient steps between two averages of the weights.

        Raises:
            ConfigError: options that exclude each other.
        """
        if accumulate > 1 and local_steps > 1:
            raise ConfigError("strategy.accumulate", accumulate, "needs strategy.local_steps=1")
        if static_graph and max(accumulate, local_steps) > 1:
            advice = "every backward pass must communicate: needs strategy.accumulate=1 and strategy.local_steps=1"
            raise ConfigError("strategy.static_graph", True, advice)
        if compress != "none" and local_steps > 1:
            raise ConfigError("strategy.compress", compress, "no gradients are sent: needs strategy.local_steps=1")
        super().__init__(
            static_graph=static_graph,
            gradient_as_bucket_view=gradient_as_bucket_view,
            bucket_cap_mb=bucket_mb,
        )
        self.compress, self.accumulate, self.local_steps = compress, accumulate, local_steps
        self._payload = 0.0
        self._unaccounted = 0  # backward passes that averaged gradients
        self.seconds = {"communicating": 0.0}  # in the backward pass, beyond what overlaps with it
        self._batches = 0  # accumulated for the next optimizer step
        self._steps_alone = 0  # local steps since the last average
        self._accumulated: list[Tensor | None] = []  # gradients that are being accumulated

    @classmethod
    def batches_each(cls, settings: Mapping[str, Any]) -> int:
        return settings["accumulate"]

    def setup_optimizers(self, trainer: Any) -> None:
        super().setup_optimizers(trainer)
        if self.accumulate > 1 and (len(self.optimizers) > 1 or isinstance(self.optimizers[0], torch.optim.LBFGS)):
            advice = "needs a rule with one optimizer, which looks at each batch once; use 1"
            raise ConfigError("strategy.accumulate", self.accumulate, advice)

    def configure_ddp(self) -> None:
        super().configure_ddp()
        model: Any = self.model
        dtype, hook = WIRE[self.compress]
        if hook is not None:  # Lightning registers hooks on a GPU only
            model.register_comm_hook(None, hook)
        self._payload = all_reduced(wire_bytes(model, dtype))

    @property
    def _communicates(self) -> bool:
        """Whether the next backward pass averages gradients."""
        return self.local_steps == 1 and self._batches + 1 == self.accumulate

    def metrics(self, gradient_steps: int) -> dict[str, float]:
        model: Any = self.model
        found = model._get_ddp_logging_data()  # Torch measures one backward pass in a hundred
        waited = found.get("avg_backward_comm_time", 0) - found.get("avg_backward_compute_comm_overlap_time", 0)
        self.seconds["communicating"] += 1e-9 * waited * self._unaccounted
        self._unaccounted = 0
        return super().metrics(gradient_steps)

    def backward(self, closure_loss: Tensor, optimizer: Optimizer | None, *args: Any, **kwargs: Any) -> Tensor:
        if self.accumulate > 1:
            closure_loss = closure_loss / self.accumulate
        return super().backward(closure_loss, optimizer, *args, **kwargs)

    def pre_backward(self, closure_loss: Tensor) -> None:
        if self._accumulated:
            for parameter, gradient in zip(self._trained(), self._accumulated, strict=True):
                parameter.grad = gradient
            self._accumulated = []
        if self._communicates:
            super().pre_backward(closure_loss)

    def post_backward(self, closure_loss: Tensor) -> None:
        if self._communicates:
            super().post_backward(closure_loss)
            self.traffic += self._payload
            self._unaccounted += 1
        elif self.accumulate > 1:  # put aside, so that the algorithm neither clips nor clears them
            self._accumulated = [parameter.grad for parameter in self._trained()]
            for parameter in self._trained():
                parameter.grad = None

    def optimizer_step(self, optimizer: Optimizer, closure: Callable[[], Any], model: Any = None, **kwargs: Any) -> Any:
        if self.accumulate > 1:
            self._batches = (self._batches + 1) % self.accumulate
            if self._batches:
                return closure()
        output = super().optimizer_step(optimizer, closure, model, **kwargs)
        if self.local_steps > 1 and optimizer is self.optimizers[0]:
            self._steps_alone += 1
            if self._steps_alone == self.local_steps:
                self._average()
        return output

    def training_step(self, *args: Any, **kwargs: Any) -> Any:
        output = super().training_step(*args, **kwargs)
        module: Any = self.lightning_module
        if module.trainer.datamodule.evaluation_due:  # evaluations and checkpoints are of the same weights on all ranks
            if self._steps_alone or (self.local_steps > 1 and len(self.optimizers) > 1):
                self._average()
            share_buffers(module)
        return output

    @torch.no_grad()
    def _average(self) -> None:
        begin = time.perf_counter()
        learned = self._trained()
        average_parameters(iter(learned), dist.distributed_c10d._get_default_group())
        self.traffic += all_reduced(sum(p.numel() * p.element_size() for p in learned))
        self._steps_alone = 0
        self.seconds["communicating"] += time.perf_counter() - begin

    def _trained(self) -> list[nn.Parameter]:
        assert self.lightning_module is not None
        return [p for p in self.lightning_module.parameters() if p.requires_grad]

    @torch.no_grad()
    def lightning_module_state_dict(self) -> dict[str, Any]:
        state = super().lightning_module_state_dict()
        if self._steps_alone:  # a checkpoint holds the average
            assert self.lightning_module is not None
            for name in [name for name, p in self.lightning_module.named_parameters() if p.requires_grad]:
                state[name] = state[name].clone()
                dist.all_reduce(state[name])
                state[name] /= dist.get_world_size()
        return state

    def capture(self) -> dict[str, Any]:
        state = {**super().capture(), "batches": self._batches, "alone": self._steps_alone}
        if self._accumulated:
            state["gradients"] = [None if g is None else g.cpu() for g in self._accumulated]
        if self.local_steps > 1:  # they differ between the ranks until the next average
            state["weights"] = [p.detach().cpu().clone() for p in self._trained()]
            state["optimizers"] = [optimizer.state_dict() for optimizer in self.optimizers]
        return state

    @torch.no_grad()
    def restore(self, state: dict[str, Any]) -> None:
        super().restore(state)
        self._batches, self._steps_alone = state["batches"], state["alone"]
        self._accumulated = [None if g is None else g.to(self.root_device) for g in state.get("gradients", [])]
        for parameter, value in zip(self._trained(), state.get("weights", []), strict=False):
            parameter.copy_(value)
        for optimizer, own in zip(self.optimizers, state.get("optimizers", []), strict=False):
            optimizer.load_state_dict(own)
