"""The runs of a scaling measurement."""

import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from omegaconf import OmegaConf

from downpour.building import build_strategy
from downpour.composition import composed
from downpour.config import ConfigError, build
from downpour.scaling import variants
from downpour.strategies import parallelism
from downpour.validation import validate

ENTRY_POINT = Path(__file__).resolve().parents[2] / "train.py"
SEGMENTS = 6  # rows of timing.csv per run; the first is left out, as warm-up
EVALUATIONS = 40  # per run to a fixed accuracy
ALONE = "one process"
Scaling = Literal["weak", "strong"]


@dataclass(frozen=True)
class Case:
    """One of the runs to measure.

    Attributes:
        strategy: a variant (see `variants.read`); `ALONE` for one process without a strategy.
        devices: N, the number of processes that compute.
        size: overrides that define the size of the model.
        batch: samples per gradient step of each replica.
        steps: length in gradient steps; 0 for a run that counts environment steps, which the processes share.
        synchronous_replicas: replicas that make each counted step together, each with its own samples.
        replicas: all of them, including asynchronous ones.
        servers: parameter servers, in addition to `devices`.
    """

    strategy: str
    devices: int
    size: str
    batch: int
    steps: int
    synchronous_replicas: int = 1
    replicas: int = 1
    servers: int = 0

    @property
    def samples(self) -> int:
        """Samples per counted step."""
        return self.batch * self.synchronous_replicas if self.steps else 1

    @property
    def name(self) -> str:
        """The name of the run in messages."""
        words = (variants.label(self.strategy), f"N={self.devices} batch={self.batch}", self.size)
        return " ".join(word for word in words if word)


@dataclass(frozen=True)
class Task:
    """The training task that is measured, for one process.

    Attributes:
        overrides: settings of `train.py`.
        steps: gradient steps; 0 for a run that counts environment steps.
        batch: samples per gradient step.
        monitor, maximize: the metric that selects the best checkpoint, and whether higher is better.
    """

    overrides: tuple[str, ...]
    steps: int
    batch: int
    monitor: str
    maximize: bool

    def case(self, strategy: str, devices: int, size: str, scaling: Scaling) -> Case:
        """The run of `devices` processes, with the same number of samples in total.

        Raises:
            ConfigError: the batch cannot be divided, or the strategy is not compatible with the task.
        """
        synchronous, replicas, servers = _replicas((*self.overrides, *chosen(strategy, devices)))
        if not self.steps:
            if scaling == "strong":
                raise ConfigError("scaling", scaling, "divides batches of a data set; this run uses an environment")
            return Case(strategy, devices, size, self.batch, 0, synchronous, replicas, servers)
        batch = self.batch
        if scaling == "strong":
            if batch % replicas:
                raise ConfigError("data.batch_size", batch, f"cannot be divided evenly between {replicas}")
            batch //= replicas
        steps = max(1, round(self.steps * self.batch / (batch * synchronous)))
        return Case(strategy, devices, size, batch, steps, synchronous, replicas, servers)


def chosen(strategy: str, devices: int) -> tuple[str, ...]:
    """The overrides that select a strategy and a number of processes."""
    if strategy == ALONE:  # explicitly, as the trainer option in use may have several processes
        return ("strategy=auto", "trainer.devices=1")
    return (*variants.arguments(strategy), f"trainer.devices={devices}")


def _replicas(overrides: Sequence[str]) -> tuple[int, int, int]:
    """(replicas that make a step together, all replicas, servers) of a configuration; see `Case`."""
    config = validate(resolved(overrides))
    hardware = build(config["trainer"])
    parallel, ranks = parallelism(build_strategy(config, hardware)), hardware.world_size
    return parallel.in_step(ranks), ranks // parallel.ranks_per_replica, parallel.servers


def resolved(overrides: Sequence[str]) -> dict[str, Any]:
    """The configuration that `train.py` would compose from overrides."""
    composition: Any = OmegaConf.to_container(composed(overrides))
    del composition["hydra"]
    plain: Any = OmegaConf.to_container(OmegaConf.create(composition), resolve=True)
    return plain


def task(overrides: Sequence[str], size: str) -> Task:
    """The task that the overrides, with those of a model size, define."""
    typed = (*overrides, *size.split())
    config = resolved(typed)
    checkpoint = config["callbacks"].get("checkpoint", {})
    steps, batch = int(config.get("total_gradient_steps") or 0), int(config["data"].get("batch_size") or 0)
    return Task(typed, steps, batch, checkpoint.get("monitor", ""), checkpoint.get("maximize", True))


def cases(each: Task, strategies: Sequence[str], devices: Sequence[int], size: str, scaling: Scaling) -> list[Case]:
    """The runs of a task: one process with each batch size in use, and each strategy with each number of processes."""
    first = each.case(ALONE, 1, size, scaling)
    several = [each.case(strategy, count, size, scaling) for count in devices for strategy in strategies]
    alone = [replace(first, batch=case.batch) for case in several]
    return list(dict.fromkeys([first, *alone, *several]))


def arguments(each: Task, case: Case, directory: Path) -> Iterator[str]:
    """Arguments of `train.py` for measuring the speed of a run, which is evaluated at its end only."""
    yield from each.overrides
    yield from chosen(case.strategy, case.devices)
    if case.steps:
        every = max(1, case.steps // SEGMENTS)
        yield from (f"total_gradient_steps={case.steps}", f"data.batch_size={case.batch}")
        yield from (f"eval_every={case.steps}", f"callbacks.recorder.every={every}")
    yield f"hydra.run.dir={directory}"


def to_accuracy(each: Task, case: Case, seed: int, directory: Path) -> Iterator[str]:
    """Arguments for a run to a fixed accuracy: as many steps per replica as one process makes, evaluated often."""
    others = ("eval_every=", "total_gradient_steps=") if case.steps else ()
    yield from (o for o in arguments(each, case, directory) if not o.startswith(others))
    if case.steps:
        steps = each.steps * case.replicas // case.synchronous_replicas
        yield from (f"total_gradient_steps={steps}", f"eval_every={max(1, steps // EVALUATIONS)}")
    yield f"seed={seed}"


def run(settings: Sequence[str]) -> str:
    """Run `train.py`; returns the error in one line, or an empty string."""
    ended = subprocess.run([sys.executable, str(ENTRY_POINT), *settings], capture_output=True, text=True, check=False)
    if not ended.returncode:
        return ""
    lines = [line for line in ended.stderr.splitlines() if line.strip()]
    told = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    return (told or lines[-1:] or [f"exit code {ended.returncode}"])[0]
