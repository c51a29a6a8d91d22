"""Pipeline parallelism: each rank has one stage of the layers, and a batch passes through in microbatches."""

import itertools
import math
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

import torch
import torch.distributed as dist
from lightning.fabric.utilities import move_data_to_device
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor, nn
from torch.distributed.pipelining import PipelineStage, Schedule1F1B, ScheduleGPipe
from torch.optim import Optimizer

from downpour.config import ConfigError, PositiveInt
from downpour.failures import TrainingError
from downpour.strategies.base import Parallelism
from downpour.strategies.traffic import Traffic
from downpour.trainer import Hardware

DTYPES = [torch.float32, torch.bfloat16, torch.float64, torch.float16]
SCHEDULES: dict[str, Any] = {"gpipe": ScheduleGPipe, "1f1b": Schedule1F1B}


@runtime_checkable
class Layered(Protocol):
    """A network that is a sequence of layers."""

    def in_order(self) -> list[nn.Module]:
        """The layers, each of which takes the output of the one before."""


class Pipeline(Parallelism, DDPStrategy):
    """DistBelief's partition by layers (Dean et al. 2012, section 3), scheduled as GPipe or one-forward-one-backward.

    A rank has the weights and the optimizer state of its own stage only. The gradient is that of the whole batch (batch
    normalization uses the statistics of a microbatch). A checkpoint is one file with all stages.
    """

    name: ClassVar[str] = "pipeline"

    def __init__(
        self,
        hardware: Hardware,
        *,
        schedule: Literal["gpipe", "1f1b"] = "1f1b",
        microbatches: PositiveInt = 4,
        cuts: list[PositiveInt] | None = None,
    ):
        """
        Args:
            hardware: of the run; there are as many stages as ranks.
            schedule: `gpipe`: all microbatches forward, then all backward (Huang et al. 2019); `1f1b`: backward as soon
                as possible, which holds the activations of fewer of them (Narayanan et al. 2019).
            microbatches: parts that a batch is divided into.
            cuts: number of the first layer of each stage but the first; null balances the numbers of weights.

        Raises:
            ConfigError: more stages than microbatches, a wrong number of cuts, a precision that scales the loss.
        """
        super().__init__()
        self.stages = self.ranks_per_replica = hardware.world_size
        self.schedule, self.microbatches, self.cuts = schedule, microbatches, cuts
        if schedule == "1f1b" and microbatches < self.stages:
            advice = f"1f1b needs one for each of the {self.stages} stages, or more"
            raise ConfigError("strategy.microbatches", microbatches, advice)
        if cuts is not None and (len(cuts) != self.stages - 1 or cuts != sorted(set(cuts))):
            advice = f"{self.stages} ranks need {self.stages - 1} rising number(s), or null"
            raise ConfigError("strategy.cuts", cuts, advice)
        if hardware.precision == "16-mixed":
            raise ConfigError("trainer.precision", hardware.precision, "strategy=pipeline needs bf16-mixed or 32-true")
        self._bounds: list[int] = []
        self._own: list[str] = []
        self._per_step: float | None = None

    @property
    def _last(self) -> bool:
        return self.global_rank == self.stages - 1

    def check(self, algorithm: Any, data: Any, config: Mapping[str, Any]) -> None:
        if not algorithm.single_pass:
            advice = f"{algorithm.__name__} is more than one pass through one network: use strategy=ddp or fsdp2"
            raise ConfigError("strategy", self.name, advice)
        size = config["data"].get("batch_size", self.microbatches)
        if size % self.microbatches:
            fits = self.microbatches * max(1, round(size / self.microbatches))
            advice = f"strategy.microbatches={self.microbatches} do not divide it; use {fits}"
            raise ConfigError("data.batch_size", size, advice)

    def prepare(self, algorithm: Any) -> None:
        network = algorithm.network
        if not isinstance(network, Layered):
            advice = "is not layers in a row: use model=mlp, convnet or resnet, or strategy=ddp"
            raise ConfigError("model", type(network).__name__, advice)
        layers = network.in_order()
        if self.stages > len(layers):
            advice = f"the {len(layers)} layers of {type(network).__name__} cannot be cut into {self.stages} stages"
            raise ConfigError("trainer.devices", self.stages, advice)
        if self.cuts is not None and self.cuts[-1:] and self.cuts[-1] >= len(layers):
            raise ConfigError("strategy.cuts", self.cuts, f"{type(network).__name__} has {len(layers)} layers")
        self._bounds = [0, *(self.cuts or even_cuts(layers, self.stages)), len(layers)]

    def setup(self, trainer: Any) -> None:
        module: Any = self.lightning_module
        assert self.accelerator is not None
        self.accelerator.setup(trainer)
        self.model = self.precision_plugin.convert_module(module)
        rank, layers = self.global_rank, module.network.in_order()
        own = layers[self._bounds[rank] : self._bounds[rank + 1]]
        own_tensors = {id(t) for layer in own for t in (*layer.parameters(), *layer.buffers())}
        self._own = [name for name, value in module.state_dict(keep_vars=True).items() if id(value) in own_tensors]
        for tensor in (*module.parameters(), *module.buffers()):
            if id(tensor) not in own_tensors:
                tensor.data = tensor.data.new_empty(0)
        self.model_to_device()
        self._part = nn.Sequential(*own)
        stage = PipelineStage(self._part, rank, self.stages, self.root_device)
        self._schedule = SCHEDULES[self.schedule](stage, self.microbatches, loss_fn=module.error)
        module.network.forward = self._forward
        self.setup_optimizers(trainer)
        if len(self.optimizers) > 1 or isinstance(self.optimizers[0], torch.optim.LBFGS):
            kind = type(self.optimizers[0]).__name__
            raise ConfigError("optimizer", kind, "looks at a batch more than once: use optimizer=sgd or adam")
        self.setup_precision_plugin()

    def training_step(self, round: Any, batch_idx: int) -> None:
        """The gradient steps of one round.

        Raises:
            TrainingError: a loss is not a finite number.
        """
        module: Any = self.lightning_module
        begin = time.perf_counter()
        losses: list[Tensor] = []
        for x, y in zip(round["input"].unbind(0), round["target"].unbind(0), strict=True):
            if self._per_step is None:  # all steps send the same number of bytes
                with Traffic() as sent:
                    outputs = self._gradient_step(module, x, y, losses)
                self._per_step = sent.bytes
            else:
                outputs = self._gradient_step(module, x, y, losses)
            self.traffic += self._per_step
        results = torch.zeros(2, device=self.root_device)
        if self._last:
            results[0] = torch.stack(losses).mean()
            results[1] = (outputs.argmax(-1) == y).float().mean() if module.classes is not None else 0.0
        dist.broadcast(results, self.stages - 1)
        module.latest["loss"] = loss = float(results[0])
        if module.classes is not None:
            module.latest["accuracy"] = float(results[1])
        if not math.isfinite(loss):
            raise TrainingError(module.explain(loss, round))
        module.learning_seconds += time.perf_counter() - begin

    def _gradient_step(self, module: Any, x: Tensor, y: Tensor, losses: list[Tensor]) -> Any:
        optimizer: Any = module.optimizers()
        optimizer.zero_grad()
        inputs = (x,) if self.global_rank == 0 else ()
        keywords: dict[str, Any] = {"target": y, "losses": losses} if self._last else {}
        with self.precision_plugin.train_step_context():
            outputs = self._schedule.step(*inputs, **keywords)
        module.latest.update(module.clip_and_step(optimizer))
        module.advance()
        return outputs

    @torch.no_grad()
    def _forward(self, x: Tensor) -> Tensor:
        """The network's forward pass outside of training: through all stages; all ranks get the output."""
        rank = self.global_rank
        if rank > 0:
            x = self._receive(rank - 1)
        y = self._part(x)
        if not self._last:
            self._send(y, rank + 1)
        return self._receive(None, y) if self._last else self._receive(None)

    def _send(self, value: Tensor, rank: int) -> None:
        dist.send(self._header(value), rank)
        dist.send(value.contiguous(), rank)

    def _header(self, value: Tensor | None = None) -> Tensor:
        """Shape and dtype of a tensor, [10]: number of dimensions, dtype, shape, zeros."""
        header = torch.zeros(10, dtype=torch.int64)
        if value is not None:
            header[: 2 + value.ndim] = torch.tensor([value.ndim, DTYPES.index(value.dtype), *value.shape])
        return header.to(self.root_device)

    def _receive(self, source: int | None, value: Tensor | None = None) -> Tensor:
        """Receive a tensor from a rank; or, if `source` is None, broadcast `value` from the last rank."""
        header = self._header(value)
        if source is None:
            dist.broadcast(header, self.stages - 1)
        else:
            dist.recv(header, source)
        dimensions, dtype, *shape = header.tolist()
        if value is None:
            value = torch.empty(shape[:dimensions], dtype=DTYPES[dtype], device=self.root_device)
        if source is None:
            dist.broadcast(value, self.stages - 1)
        else:
            dist.recv(value, source)
        return value

    def clip_gradients(self, parameters: Iterable[nn.Parameter], largest: float) -> Tensor:
        learned = [p for p in parameters if p.grad is not None]
        square = nn.utils.get_total_norm([p.grad for p in learned if p.grad is not None]).square()
        dist.all_reduce(square)
        nn.utils.clip_grads_with_norm_(learned, largest, square.sqrt())
        return square.sqrt()

    def lightning_module_state_dict(self) -> dict[str, Any]:
        everything = super().lightning_module_state_dict()
        parts: list[Any] = [None] * self.stages
        dist.all_gather_object(parts, {name: everything[name].cpu() for name in self._own})
        for part in parts:
            everything |= part
        return everything

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        own = super().optimizer_state(optimizer)
        parts: list[Any] = [None] * self.stages
        dist.all_gather_object(parts, move_data_to_device(own["state"], torch.device("cpu")))
        return {**own, "state": {number: state for part in parts for number, state in part.items()}}

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        for optimizer, saved in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            parameters = [p for group in optimizer.param_groups for p in group["params"]]
            own = {number: state for number, state in saved["state"].items() if parameters[number].numel()}
            optimizer.load_state_dict({**saved, "state": own})

    def capture(self) -> dict[str, Any]:
        return {**super().capture(), "per_step": self._per_step}

    def restore(self, state: dict[str, Any]) -> None:
        super().restore(state)
        self._per_step = state["per_step"]


def even_cuts(layers: Sequence[nn.Module], stages: int) -> list[int]:
    """Number of the first layer of each stage but the first. Balances the numbers of weights; no stage is empty."""
    sizes = [sum(p.numel() for p in layer.parameters()) for layer in layers]
    before = list(itertools.accumulate(sizes))
    cuts: list[int] = []
    for stage in range(1, stages):
        least, most = (cuts[-1] if cuts else 0) + 1, len(layers) - (stages - stage)
        goal = before[-1] * stage / stages
        cuts.append(min(range(least, most + 1), key=lambda cut: abs(before[cut - 1] - goal)))
    return cuts
