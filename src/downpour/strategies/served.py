"""Base of the strategies whose parameters are kept by servers, which make the steps of the optimizers."""

import contextlib
import csv
import io
import time
from collections import Counter
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from downpour.config import ConfigError, PositiveInt, class_of
from downpour.directory import write_text
from downpour.failures import Failed
from downpour.optimizers import needs_closure
from downpour.strategies.asynchronous import Asynchronous
from downpour.strategies.remote import Remote

STALENESS = "staleness.csv"
COLUMNS = ("optimizer", "server", "worker", "staleness", "updates")


class Served(Asynchronous):
    """Workers that push gradients to parameter servers and fetch parameters; a subclass defines the server."""

    def __init__(self, *args: Any, servers: PositiveInt = 1, **kwargs: Any):
        """
        Args:
            servers: processes that keep the parameters, each some of the tensors.
        """
        super().__init__(*args, **kwargs)
        self.servers = servers
        self._captured: tuple[tuple[int, int], list[dict[str, Any]]] | None = None
        self._recorded: Counter[int] = Counter()

    def remote(self, optimizer: Optimizer, number: int) -> Remote:
        """The replacement of optimizer `number` of the algorithm, whose steps are made by the servers."""
        return Remote(optimizer, number, self.link)

    def check(self, algorithm: Any, data: Any, config: Mapping[str, Any]) -> None:
        super().check(algorithm, data, config)
        optimizer = class_of(config, "optimizer")
        if needs_closure(optimizer):
            advice = "evaluates the loss several times a step, servers take gradients: use strategy=sandblaster"
            raise ConfigError("optimizer", optimizer.__name__, advice)

    def setup_optimizers(self, trainer: Any) -> None:
        super().setup_optimizers(trainer)
        self._sets: list[list[Tensor]] = []
        for optimizer in self.optimizers:
            kind = type(optimizer).__name__
            if len(optimizer.param_groups) != 1:
                raise ConfigError("strategy", self.name, f"{kind} has several groups of parameters, servers keep one")
            self._sets.append(optimizer.param_groups[0]["params"])
        self.link.divide(self._sets)
        self.optimizers = [self.remote(optimizer, number) for number, optimizer in enumerate(self.optimizers)]
        if self.is_global_zero:
            self.link.create(self._sets)

    def on_train_start(self) -> None:
        super().on_train_start()
        for number, parameters in enumerate(self._sets):
            self.link.fetch(number, parameters)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> Any:
        begin = time.perf_counter()
        output = super().optimizer_step(*args, **kwargs)
        self.seconds["communicating"] += time.perf_counter() - begin
        return output

    def report(self) -> list[tuple[int, str]]:
        self._settle()
        return super().report()

    def teardown(self) -> None:
        with contextlib.suppress(Failed):
            self._settle()
        super().teardown()

    def _settle(self) -> None:
        module: Any = self.lightning_module
        begin = time.perf_counter()
        for optimizer in self.optimizers:
            if isinstance(optimizer, Remote):
                optimizer.settle()
        spent = time.perf_counter() - begin
        module.learning_seconds += spent
        self.seconds["communicating"] += spent

    def flush(self) -> None:
        for optimizer in self.optimizers:
            optimizer.flush()  # type: ignore[attr-defined]

    @torch.no_grad()
    def snapshot(self) -> None:
        """Capture the servers' state, and use its parameters; not again before this rank has made another step."""
        module: Any = self.lightning_module
        moment = (module.gradient_steps, module.trainer.datamodule.own_steps)
        if self._captured and self._captured[0] == moment:
            return
        self.flush()
        states = self.link.capture()
        self._captured = moment, states
        for number, parts in enumerate(self.link.sets):
            for part in parts:
                own = states[part.server]["sets"][number]
                part.version = own["version"]
                torch._foreach_copy_([self._sets[number][i] for i in part.index], own["parameters"])

    def lightning_module_state_dict(self) -> dict[str, Any]:
        self.snapshot()
        return super().lightning_module_state_dict()

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """The state_dict that the optimizer would have in one process."""
        self.snapshot()
        assert self._captured is not None
        number = self.optimizers.index(optimizer)
        state: dict[int, Any] = {}
        groups: list[dict[str, Any]] = []
        for part in self.link.sets[number]:
            own = self._captured[1][part.server]["sets"][number]["optimizer"]
            state |= {part.index[i]: values for i, values in own["state"].items()}
            groups = [{**own["param_groups"][0], "params": list(range(len(self._sets[number])))}]
        return {"state": dict(sorted(state.items())), "param_groups": groups}

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        states: list[dict[str, Any]] = [
            {"sets": [None] * len(self._sets), "steps": {}} for _ in range(len(self.link.channels))
        ]
        for number, (parts, whole) in enumerate(zip(self.link.sets, checkpoint["optimizer_states"], strict=True)):
            for part in parts:
                state = {i: whole["state"][index] for i, index in enumerate(part.index) if index in whole["state"]}
                group = {**whole["param_groups"][0], "params": list(range(len(part.index)))}
                own = {"optimizer": {"state": state, "param_groups": [group]}}
                own["parameters"] = [self._sets[number][i].detach().cpu() for i in part.index]  # type: ignore[assignment]
                states[part.server]["sets"][number] = own
        self.link.restore(states)

    def capture(self) -> dict[str, Any]:
        """The servers' counters; parameters and optimizer states are in Lightning's part of the checkpoint."""
        assert self._captured is not None
        counters = [
            [own and {name: own[name] for name in ("version", "staleness", "dropped")} for own in state["sets"]]
            for state in self._captured[1]
        ]
        return {**super().capture(), "servers": counters, "steps": self._captured[1][0]["steps"]}

    def restore(self, state: dict[str, Any]) -> None:
        """Restore what `capture` returned."""
        super().restore(state)
        if len(state["servers"]) == len(self.link.channels):
            self.link.restore([{"sets": sets, "steps": state["steps"]} for sets in state["servers"]])
            others = [made for worker, made in state["steps"].items() if worker != self.run.rank]
            self.link.others.steps = sum(made[0] for made in others)
            self.link.others.gradient_steps = sum(made[1] for made in others)

    def metrics(self, gradient_steps: int) -> dict[str, float]:
        statistics = self.link.statistics()
        rows = [
            (number, part.server, worker, staleness, count)
            for number, (parts, found) in enumerate(zip(self.link.sets, statistics, strict=True))
            for part, each in zip(parts, found, strict=True)
            for worker, staleness, count in sorted(each["staleness"])
        ]
        for optimizer, found in zip(self.optimizers, statistics, strict=True):
            optimizer.param_groups[0]["lr"] = found[0]["lr"]
        content = io.StringIO()
        writer = csv.writer(content, lineterminator="\n")
        writer.writerows([COLUMNS, *rows])
        write_text(self.run.directory / STALENESS, content.getvalue())
        total: Counter[int] = Counter()
        for *_, staleness, count in rows:
            total[staleness] += count
        new, self._recorded = total - self._recorded, total
        updates = {"strategy/updates": max(each["updates"] for each in statistics[0])}
        if new:
            updates["strategy/staleness_mean"] = sum(s * count for s, count in new.items()) / new.total()
            updates["strategy/staleness_max"] = max(new)
        updates["strategy/dropped"] = sum(each["dropped"] for found in statistics for each in found)
        return {**super().metrics(gradient_steps), **updates}
