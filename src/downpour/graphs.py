"""Gradient steps captured in CUDA graphs: one launch per step instead of a hundred kernel launches."""

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

import torch
from tensordict import TensorDict
from torch import Tensor
from torch.optim import Optimizer

from downpour.config import ConfigError, class_of
from downpour.learning_rate import advance
from downpour.optimizers import capturable

WARMUP = 3  # eager steps before a capture: they allocate the optimizer's state and the libraries' workspaces
MOST = 8  # graphs; each has its own memory pool

Step = tuple[Tensor, dict[str, Tensor]]
"""(loss before the step, metrics by name)"""


class Learner(Protocol):
    """The interface that a captured algorithm must have; see `Algorithm`."""

    fills_in: ClassVar[tuple[str, ...]]

    def learn_from(self, batch: TensorDict) -> Step: ...

    def variant(self) -> Hashable: ...

    def optimizers(self) -> Any: ...


@dataclass
class Slot:
    """The graph of gradient steps, or of forward passes, on inputs of one shape.

    Attributes:
        made: eager executions so far.
        graph: the captured graph; None before the capture.
        batch: its input, always at the same address.
        result: its output, always at the same address.
        stepped: the optimizers whose steps it contains.
    """

    made: int = 0
    graph: Any = None
    batch: Any = None
    result: Any = None
    stepped: list[Optimizer] = field(default_factory=list)


class CapturedStep:
    """Makes an algorithm's gradient steps, with one graph per variant of a step and shape of a batch.

    The first steps of a shape are ordinary ones. Capturing only records, so every step is made once: the weights are
    those that ordinary steps would leave, bit for bit.
    """

    def __init__(self) -> None:
        self._slots: dict[Hashable, Slot] = {}
        self._side: Any = None

    def __call__(self, rule: Learner, batch: TensorDict) -> Step:
        """One gradient step; the metrics are valid until the next call."""
        key = (rule.variant(), *((name, value.shape, value.dtype) for name, value in sorted(batch.items())))
        slot = self._slot(key)
        if slot is None:
            return rule.learn_from(batch)
        if slot.made < WARMUP:
            slot.made += 1
            return self._beside(lambda: rule.learn_from(batch))
        if slot.graph is None:
            self._capture(rule, slot, batch)
        copy(slot.batch, batch)
        slot.graph.replay()
        for optimizer in slot.stepped:
            advance(optimizer)
        for name in rule.fills_in:
            if name in batch:
                batch[name].copy_(slot.batch[name])
        loss, metrics = slot.result
        return loss.clone(), metrics

    def forward(self, function: Callable[[Tensor], Tensor], x: Tensor, mode: Hashable = None) -> Tensor:
        """`function(x)` without gradients; valid until the next call. `mode` separates graphs of one shape."""
        slot = self._slot((function, mode, x.shape, x.dtype))
        if slot is None:
            return function(x)
        if slot.made < WARMUP:
            slot.made += 1
            return self._beside(lambda: function(x))
        if slot.graph is None:
            slot.batch, graph = torch.empty_like(x, memory_format=torch.contiguous_format), torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                slot.result = function(slot.batch)
            slot.graph = graph
        slot.batch.copy_(x)
        slot.graph.replay()
        return slot.result

    def _slot(self, key: Hashable) -> Slot | None:
        """The slot of a key; None if the limit is reached."""
        if key not in self._slots and len(self._slots) == MOST:
            return None
        return self._slots.setdefault(key, Slot())

    def _beside(self, call: Callable[[], Any]) -> Any:
        """An eager call on a side stream, as the capture will be."""
        if self._side is None:
            self._side = torch.cuda.Stream()
        self._side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._side):
            made = call()
        torch.cuda.current_stream().wait_stream(self._side)
        return made

    def _capture(self, rule: Learner, slot: Slot, batch: TensorDict) -> None:
        slot.batch = batch.apply(lambda value: torch.empty_like(value, memory_format=torch.contiguous_format))
        made = rule.optimizers()
        optimizers: list[Optimizer] = made if isinstance(made, list) else [made]
        groups = [group for optimizer in optimizers for group in optimizer.param_groups]
        for group in groups:
            for parameter in group["params"]:
                parameter.grad = None  # gradients are allocated in the graph's memory pool
        # Torch wants to be told that a step may be captured; the fused kernels do the same either way.
        told = [group for group in groups if "capturable" in group]
        graph = torch.cuda.CUDAGraph()
        hooks = [o.register_step_post_hook(lambda o, *_: slot.stepped.append(o)) for o in optimizers]
        try:
            for group in told:
                group["capturable"] = True
            with torch.cuda.graph(graph):
                slot.result = rule.learn_from(slot.batch)
        finally:
            for group in told:
                group["capturable"] = False
            for hook in hooks:
                hook.remove()
        slot.graph = graph

    def clear(self) -> None:
        """Release the graphs and their memory."""
        self._slots.clear()


def copy(to: TensorDict, source: TensorDict) -> None:
    """Copy all fields to the graph's input, with one kernel per dtype."""
    groups: dict[torch.dtype, tuple[list[Tensor], list[Tensor]]] = {}
    for name, value in to.items():
        group = groups.setdefault(value.dtype, ([], []))
        group[0].append(value)
        group[1].append(source[name])
    for targets, sources in groups.values():
        torch._foreach_copy_(targets, sources, non_blocking=True)


def check(hardware: Any, algorithm: Any, config: Mapping[str, Any]) -> None:
    """Check that the gradient steps of a run can be captured.

    Args:
        hardware: of the run.
        algorithm: the class of the algorithm.
        config: the checked configuration.

    Raises:
        ConfigError: they cannot; with the setting to change.
    """
    if not hardware.cuda_graph:
        return
    without = "or trainer.cuda_graph=false"
    if config["strategy"] or hardware.world_size > 1:
        chosen = config["strategy"].get("_target_", "ddp").rpartition(".")[2]
        advice = f"CUDA graphs support one process only: use strategy=auto trainer.devices=1, {without}"
        raise ConfigError("strategy", chosen, advice)
    if hardware.precision == "16-mixed":
        advice = f"gradient scaling cannot be captured in a CUDA graph: use bf16-mixed, {without}"
        raise ConfigError("trainer.precision", hardware.precision, advice)
    if config["debug"]["detect_anomaly"]:
        advice = f"cannot inspect the steps of a CUDA graph: use false, {without}"
        raise ConfigError("debug.detect_anomaly", True, advice)
    if not algorithm.static_shapes:
        advice = f"its gradient steps vary in shape, which a CUDA graph cannot: use {without[3:]}"
        raise ConfigError("algo", algorithm.__name__, advice)
    kind = class_of(config, "optimizer")
    if not capturable(kind, config["optimizer"].get("fused")):
        advice = f"cannot be captured in a CUDA graph: use rmsprop, or adam, adamw or sgd with fused=true, {without}"
        raise ConfigError("optimizer", kind.__name__, advice)
