"""Which runs a measurement is made of, and making them."""

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

DOOR = Path(__file__).resolve().parents[2] / "train.py"
SEGMENTS = 6  # rows of timing.csv; the first is left out
EVALUATIONS = 40  # of a run to a fixed accuracy
ALONE = "one process"
Scaling = Literal["weak", "strong"]


@dataclass(frozen=True)
class Case:
    """A run.

    Attributes:
        strategy: a variant (see `variants.read`); `ALONE` for one process without one.
        devices: processes that compute.
        size: overrides that make the model.
        batch: samples of a gradient step of each copy of the model.
        steps: gradient steps that the run counts; 0 where it counts environment steps, which the processes share.
        together: copies of the model that make each counted step, all with samples of their own.
        copies: of the model, those that go at their own pace included.
        servers: processes that keep the parameters beside them.
    """

    strategy: str
    devices: int
    size: str
    batch: int
    steps: int
    together: int = 1
    copies: int = 1
    servers: int = 0

    @property
    def samples(self) -> int:
        """Of a counted step."""
        return self.batch * self.together if self.steps else 1

    @property
    def name(self) -> str:
        """For messages."""
        words = (variants.label(self.strategy), f"N={self.devices} batch={self.batch}", self.size)
        return " ".join(word for word in words if word)


@dataclass(frozen=True)
class Task:
    """What is run: settings for `train.py`, and how they are divided.

    Attributes:
        steps: gradient steps of one process; 0 where the run counts environment steps.
        batch: samples of its gradient step.
        monitor, maximize: the metric that chooses the best checkpoint, and whether more of it is better.
    """

    overrides: tuple[str, ...]
    steps: int
    batch: int
    monitor: str
    maximize: bool

    def case(self, strategy: str, devices: int, size: str, scaling: Scaling) -> Case:
        """The run of `devices` processes: the same number of samples in all.

        Raises:
            ConfigError: the batch does not divide, or the strategy does not go with the rest.
        """
        together, copies, servers = _copies((*self.overrides, *chosen(strategy, devices)))
        if not self.steps:
            if scaling == "strong":
                raise ConfigError("scaling", scaling, "divides batches of a data set; this run uses an environment")
            return Case(strategy, devices, size, self.batch, 0, together, copies, servers)
        batch = self.batch
        if scaling == "strong":
            if batch % copies:
                raise ConfigError("data.batch_size", batch, f"cannot be divided evenly between {copies}")
            batch //= copies
        steps = max(1, round(self.steps * self.batch / (batch * together)))
        return Case(strategy, devices, size, batch, steps, together, copies, servers)


def chosen(strategy: str, devices: int) -> tuple[str, ...]:
    """The overrides that have a number of processes work by a strategy."""
    if strategy == ALONE:  # said aloud, for the trainer that was chosen may have several processes
        return ("strategy=auto", "trainer.devices=1")
    return (*variants.arguments(strategy), f"trainer.devices={devices}")


def _copies(overrides: Sequence[str]) -> tuple[int, int, int]:
    """Copies of the model that make a counted step together, all that there are, and servers."""
    config = validate(resolved(overrides))
    hardware = build(config["trainer"])
    ours, ranks = parallelism(build_strategy(config, hardware)), hardware.world_size
    return ours.in_step(ranks), ranks // ours.ranks_per_replica, ours.servers


def resolved(overrides: Sequence[str]) -> dict[str, Any]:
    """The configuration that `train.py` would have."""
    composition: Any = OmegaConf.to_container(composed(overrides))
    del composition["hydra"]
    plain: Any = OmegaConf.to_container(OmegaConf.create(composition), resolve=True)
    return plain


def task(overrides: Sequence[str], size: str) -> Task:
    """What the settings, and those of a size, come to."""
    typed = (*overrides, *size.split())
    config = resolved(typed)
    checkpoint = config["callbacks"].get("checkpoint", {})
    steps, batch = int(config.get("total_gradient_steps") or 0), int(config["data"].get("batch_size") or 0)
    return Task(typed, steps, batch, checkpoint.get("monitor", ""), checkpoint.get("maximize", True))


def cases(each: Task, strategies: Sequence[str], devices: Sequence[int], size: str, scaling: Scaling) -> list[Case]:
    """One process, each strategy with each number of them, and one process with the batch that each of those has."""
    first = each.case(ALONE, 1, size, scaling)
    several = [each.case(strategy, count, size, scaling) for count in devices for strategy in strategies]
    alone = [replace(first, batch=case.batch) for case in several]
    return list(dict.fromkeys([first, *alone, *several]))


def arguments(each: Task, case: Case, directory: Path) -> Iterator[str]:
    """What `train.py` is given for a run of which the speed is measured: nothing is evaluated before its end."""
    yield from each.overrides
    yield from chosen(case.strategy, case.devices)
    if case.steps:
        every = max(1, case.steps // SEGMENTS)
        yield from (f"total_gradient_steps={case.steps}", f"data.batch_size={case.batch}")
        yield from (f"eval_every={case.steps}", f"callbacks.recorder.every={every}")
    yield f"hydra.run.dir={directory}"


def to_accuracy(each: Task, case: Case, seed: int, directory: Path) -> Iterator[str]:
    """What it is given for a run to a fixed accuracy: as many steps of each copy as one has, evaluated often."""
    others = ("eval_every=", "total_gradient_steps=")
    yield from (o for o in arguments(each, case, directory) if not o.startswith(others))
    if case.steps:
        steps = each.steps * case.copies // case.together
        yield from (f"total_gradient_steps={steps}", f"eval_every={max(1, steps // EVALUATIONS)}")
    yield f"seed={seed}"


def run(settings: Sequence[str]) -> str:
    """Train; returns what went wrong in a line, or nothing."""
    done = subprocess.run([sys.executable, str(DOOR), *settings], capture_output=True, text=True, check=False)
    if not done.returncode:
        return ""
    return next((line for line in done.stderr.splitlines() if line.strip()), f"exit code {done.returncode}")
