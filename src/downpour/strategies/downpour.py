"""Downpour SGD (Dean et al. 2012, section 4.1): (3)-(4) of the lecture, by workers that do not wait for each other."""

import contextlib
import csv
import io
import time
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.optim import Optimizer

from downpour.config import ConfigError, NonNegativeInt, PositiveFloat, PositiveInt, locate
from downpour.directory import write_text
from downpour.failures import Failed
from downpour.optimizers import needs_closure
from downpour.strategies.asynchronous import Asynchronous
from downpour.strategies.board import Board
from downpour.strategies.parameter_server import OptimizerFactory, ParameterServer, ParameterSet
from downpour.strategies.remote import Remote
from downpour.trainer import Hardware

STALENESS = "staleness.csv"
COLUMNS = ("optimizer", "server", "worker", "staleness", "updates")


class Downpour(Asynchronous):
    """Asynchronous stochastic gradient descent with a parameter server.

    theta lies on the servers, each of which keeps some of its tensors. A worker computes g at the theta it has, (3);
    the servers make theta <- theta - alpha g, (4), with the run's optimizer, in the order in which gradients arrive. By
    then theta may be another: the updates in between are the gradient's staleness.
    """

    name: ClassVar[str] = "downpour"

    def __init__(
        self,
        hardware: Hardware,
        *,
        servers: PositiveInt = 1,
        n_push: PositiveInt = 1,
        n_fetch: PositiveInt = 1,
        local_steps: bool = True,
        overlap: bool = False,
        staleness_aware: bool = False,
        max_staleness: NonNegativeInt | None = None,
        seconds: PositiveFloat = 60.0,
    ):
        """
        Args:
            servers: processes that keep the parameters.
            n_push: gradient steps between two pushes, of the sum of their gradients.
            n_fetch: gradient steps between two fetches.
            local_steps: between two fetches, a worker also steps its own copy.
            overlap: push and fetch while the next gradient is computed. What comes is used a step later, so a gradient
                is one update staler; a round still ends when all has come.
            staleness_aware: divide the step size by the staleness of the gradient (Zhang et al. 2016).
            max_staleness: drop gradients that are staler than this; null: none.
            seconds: longest wait for a server, and for what rank 0 asks the others for.
        """
        super().__init__(hardware, servers=servers, seconds=seconds)
        self.n_push, self.n_fetch, self.local_steps = n_push, n_fetch, local_steps
        self.pool = ThreadPoolExecutor(1) if overlap else None
        self.aware, self.bound = staleness_aware, max_staleness
        self._captured: tuple[tuple[int, int], list[dict[str, Any]]] | None = None
        self._recorded: Counter[int] = Counter()

    def server(self, workers: int, make_optimizer: OptimizerFactory) -> ParameterServer:
        """What one of its server processes runs."""
        make_set = partial(ParameterSet, make_optimizer=make_optimizer, bound=self.bound, aware=self.aware)
        return ParameterServer(Board(workers, self.longest_wait), make_set)

    def check(self, algorithm: Any, data: Any, config: Mapping[str, Any]) -> None:
        super().check(algorithm, data, config)
        if needs_closure(locate(config["optimizer"]["_target_"], "optimizer")):
            advice = "evaluates the loss several times a step, servers take gradients: use strategy=sandblaster"
            raise ConfigError("optimizer", config["optimizer"]["_target_"].rpartition(".")[2], advice)

    def setup_optimizers(self, trainer: Any) -> None:
        super().setup_optimizers(trainer)
        self._sets: list[list[Tensor]] = []
        for optimizer in self.optimizers:
            kind = type(optimizer).__name__
            if len(optimizer.param_groups) != 1:
                raise ConfigError("strategy", self.name, f"{kind} has several groups of parameters, servers keep one")
            self._sets.append(optimizer.param_groups[0]["params"])
        self.link.divide(self._sets)
        options: dict[str, Any] = {"n_push": self.n_push, "n_fetch": self.n_fetch, "local_steps": self.local_steps}
        options["pool"] = self.pool
        self.optimizers = [Remote(o, number, self.link, **options) for number, o in enumerate(self.optimizers)]
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
        """The servers' state as it is now; unless this rank has learned since, as it was the last time."""
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
        """As if one process had made all steps."""
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
        """What the servers know beside parameters and optimizers."""
        assert self._captured is not None
        counters = [
            [own and {name: own[name] for name in ("version", "staleness", "dropped")} for own in state["sets"]]
            for state in self._captured[1]
        ]
        return {**super().capture(), "servers": counters, "steps": self._captured[1][0]["steps"]}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what `capture` returned."""
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
