"""Sandblaster L-BFGS (Dean et al. 2012, section 4.2): one large batch, computed in portions by free workers."""

import array
import time
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.optim import Optimizer

from downpour.config import ConfigError, NonNegativeInt, PositiveInt, class_of
from downpour.networks.parts import BatchNormalization
from downpour.optimizers import needs_closure
from downpour.strategies.asynchronous import Asynchronous
from downpour.strategies.blocks import Block, shape_of
from downpour.strategies.board import Board
from downpour.strategies.coordinator import COMPLETE, OVER, WORK, Coordinator
from downpour.strategies.link import Link
from downpour.strategies.messages import Kind, pack, unpack
from downpour.strategies.transport import Frame
from downpour.trainer import Hardware


class Portioned(Optimizer):
    """Rank 0 makes the steps of an optimizer that evaluates a closure; all ranks compute the evaluations.

    The closure must take a slice of the batch, return its mean loss and set its gradient; its length is the batch size.

    Attributes:
        number: gradient steps so far.
        waited: seconds spent waiting for the coordinator, and so for the portions of others.
    """

    def __init__(self, inner: Optimizer, link: Link, portions: int, seed: int = 0):
        """
        Args:
            inner: the optimizer; only rank 0's makes steps.
            portions: number of parts of a batch.
            seed: of what a network draws (dropout), which depends on the step and the portion only, so that all
                evaluations of a step are of the same function.
        """
        super().__init__([p for group in inner.param_groups for p in group["params"]], {})
        self.inner, self.link, self.portions, self.seed = inner, link, portions, seed
        self.parameters: list[Tensor] = self.param_groups[0]["params"]
        self.param_groups = inner.param_groups
        shapes = [shape_of(p) for p in self.parameters]
        self.point, self.gradient = Block(shapes), Block(shapes)
        self.number, self.waited = 0, 0.0
        if link.rank == 0:
            link.ask(0, Kind.CREATE, content=pack([tuple(shape) for shape in shapes]))

    def step(self, closure: Any = None) -> Any:
        """Gradient step `number`; returns the loss before it (0 if the others have already made it)."""
        if self.link.rank == 0:
            loss: Any = self.inner.step(lambda: self._evaluate(closure))  # type: ignore[arg-type, return-value]
            self._ask(Kind.FINISH, 0, self.number, content=array.array("d", [float(loss)]))
        else:
            loss = torch.tensor(array.array("d", self._work(closure, OVER).content.cast("d"))[0])
        self.number += 1
        return torch.as_tensor(loss)

    @torch.no_grad()
    def _evaluate(self, closure: Any) -> Tensor:
        torch._foreach_copy_(self.point.tensors, self.parameters)
        content = self.point.buffer[: self.point.size]
        self._ask(Kind.EVALUATE, 0, self.number, min(self.portions, len(closure)), content=content)
        answer = self._work(closure, COMPLETE)
        self.gradient.buffer[: self.gradient.size] = answer.content[:-8]
        for parameter, gradient in zip(self.parameters, self.gradient.tensors, strict=True):
            parameter.grad = gradient.to(parameter.device, copy=True)
        return torch.tensor(answer.content[-8:].cast("d")[0])

    def _ask(self, *arguments: Any, **content: Any) -> Frame:
        begin = time.perf_counter()
        answer = self.link.ask(0, *arguments, **content)
        self.waited += time.perf_counter() - begin
        return answer

    def _work(self, closure: Any, end: int) -> Frame:
        """Compute portions until the coordinator replies with `end`."""
        answer = self._ask(Kind.TASK, 0, self.number)
        while answer.a != end:
            if answer.a != WORK:
                answer = self._ask(Kind.TASK, 0, self.number)
                continue
            if answer.content:
                self.point.buffer[: self.point.size] = answer.content
                with torch.no_grad():
                    torch._foreach_copy_(self.parameters, self.point.tensors)
            version = answer.c
            answer = self.link.ask(
                0, Kind.RESULT, version, self.number, answer.b, content=self._compute(closure, answer.b)
            )
        return answer

    def _compute(self, closure: Any, portion: int) -> bytes:
        """This portion's part of the gradient of the batch's mean loss, followed by its part of that loss, as bytes."""
        size, portions = len(closure), min(self.portions, len(closure))
        begin, end = size * portion // portions, size * (portion + 1) // portions
        with torch.enable_grad(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(hash((self.seed, self.number, portion)) & (2**63 - 1))
            loss = closure(slice(begin, end)).detach()
        share = (end - begin) / size
        for to, parameter in zip(self.gradient.tensors, self.parameters, strict=True):
            to.zero_() if parameter.grad is None else to.copy_(parameter.grad).mul_(share)
        return bytes(self.gradient.buffer[: self.gradient.size]) + array.array("d", [share * float(loss)]).tobytes()

    def state_dict(self) -> dict[str, Any]:
        return self.inner.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.inner.load_state_dict(state_dict)
        self.param_groups = self.inner.param_groups


class Sandblaster(Asynchronous):
    """Batch optimization: rank 0 runs the optimizer, every rank computes portions of the same batch.

    The loss of a worker makes the run slower, but does not change its result.
    """

    name: ClassVar[str] = "sandblaster"

    def __init__(
        self,
        hardware: Hardware,
        *,
        portions: PositiveInt = 16,
        backups: NonNegativeInt = 1,
        **kwargs: Any,
    ):
        """
        Args:
            portions: number of parts of a batch; many more than workers, so that faster ones compute more of them.
            backups: copies of a late portion that free workers may compute.
        """
        super().__init__(hardware, **kwargs)
        self.ranks_per_replica = hardware.world_size  # all see the same batch
        self.portions, self.backups = portions, backups

    def server(self, workers: int, make_optimizer: Callable[..., Optimizer]) -> Coordinator:
        """The server that its server process runs."""
        return Coordinator(Board(workers, self.longest_wait), self.backups)

    def check(self, algorithm: Any, data: Any, config: Mapping[str, Any]) -> None:
        optimizer = class_of(config, "optimizer")
        if not needs_closure(optimizer):
            advice = "takes one gradient a step: use optimizer=lbfgs, or strategy=downpour or ddp"
            raise ConfigError("optimizer", optimizer.__name__, advice)
        if not algorithm.single_pass:
            advice = f"{algorithm.__name__} has no batch to divide: use algo=supervised"
            raise ConfigError("strategy", self.name, advice)

    def prepare(self, algorithm: Any) -> None:
        for name, module in algorithm.named_modules():
            if isinstance(module, BatchNormalization):
                advice = f"the statistics of {name} would be those of a portion: choose another normalization"
                raise ConfigError("strategy", self.name, advice)

    def setup_optimizers(self, trainer: Any) -> None:
        super().setup_optimizers(trainer)
        self.optimizers = [Portioned(each, self.link, self.portions, self.run.seed) for each in self.optimizers]

    def on_train_start(self) -> None:
        module: Any = self.lightning_module
        if self.run.rank == 0:
            self._states = dict.fromkeys(range(self.run.world_size), self._states.get(0))
            if self._states[0] is None:
                self._states = {}
        super().on_train_start()
        for optimizer in self.optimizers:
            optimizer.number = module.gradient_steps  # type: ignore[attr-defined]

    def optimizer_step(self, optimizer: Optimizer, closure: Any, *_: Any, **__: Any) -> Any:
        output = optimizer.step(closure)
        self.seconds["communicating"] = sum(each.waited for each in self.optimizers)  # type: ignore[attr-defined]
        return output

    def progress(self, data: Any, algorithm: Any) -> tuple[int, int]:
        return 0, 0  # all workers make each step together

    def gather(self, items: list[Any]) -> list[Any]:
        return items

    def gather_states(self, own: dict[str, Any]) -> list[dict[str, Any] | None]:
        return [own] * self.run.world_size

    def metrics(self, gradient_steps: int) -> dict[str, float]:
        found = unpack(self.link.ask(0, Kind.STATISTICS).content)
        return {**super().metrics(gradient_steps), **{f"strategy/{name}": value for name, value in found.items()}}
