"""What the parts of a run share: its directory, seed, length, and ranks."""

import os
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path

import numpy as np


class Purpose(IntEnum):
    """The purpose of a random stream, so that no two parts of a run share one.

    The last three reuse numbers of purposes that only data sets have.
    """

    ENVIRONMENT = 1
    REPLAY = 2
    ACTION = 3
    EVALUATION = 4
    GLOBAL = 5  # the global generators
    SPLIT = 6  # of a data set
    ORDER = 7  # of its rows
    AUGMENTATION = 8
    VIDEO = 9
    PLAYED = 6  # by eval.py
    FILMED = 7  # by eval.py
    OVERESTIMATION = 8


@dataclass
class StepCounts:
    """Steps made by other ranks, as far as is known here: of their streams, and of their optimizers."""

    steps: int = 0
    gradient_steps: int = 0


@dataclass(frozen=True)
class Run:
    """One training run, as one of its processes sees it.

    Attributes:
        directory: where the run writes; the same for all ranks.
        seed: fixes the initial weights on all ranks.
        total_steps: length of the run over all ranks, in the steps its data module counts.
        eval_every: the same steps between two evaluations; an epoch of the trainer.
        eval_episodes: episodes of one evaluation.
        rank, world_size: this process's.
        ranks_per_replica: neighbouring ranks that share one copy of the weights and see the same data.
        asynchronous: whether ranks do not wait for each other.
        others: in an asynchronous run, the steps of the other ranks.
    """

    directory: Path
    seed: int
    total_steps: int
    eval_every: int
    eval_episodes: int
    rank: int = 0
    world_size: int = 1
    ranks_per_replica: int = 1
    asynchronous: bool = False
    others: StepCounts = field(default_factory=StepCounts)

    @property
    def replica(self) -> int:
        """Index of this rank's replica (copy of the weights)."""
        return self.rank // self.ranks_per_replica

    @property
    def replicas(self) -> int:
        """Number of replicas, each with its own experience."""
        return self.world_size // self.ranks_per_replica

    @property
    def synchronous_replicas(self) -> int:
        """Number of replicas whose gradients are averaged in each step."""
        return 1 if self.asynchronous else self.replicas

    @property
    def is_replica_leader(self) -> bool:
        """Whether this rank records its replica's episodes and metrics."""
        return self.rank % self.ranks_per_replica == 0

    def rng(self, purpose: Purpose, *step: int) -> np.random.Generator:
        """A generator for this replica."""
        return np.random.default_rng(self.seed_sequence(purpose, *step))

    def seed_sequence(self, purpose: Purpose, *step: int) -> np.random.SeedSequence:
        """The seed sequence of this replica, independent of other replicas and other seeds."""
        return np.random.SeedSequence([self.seed, purpose, *step], spawn_key=(self.replica,) if self.replica else ())

    def shared_sequence(self, purpose: Purpose, *step: int) -> np.random.SeedSequence:
        """A seed sequence that is the same on all ranks."""
        return np.random.SeedSequence([self.seed, purpose, *step])


def process() -> tuple[int, int | None]:
    """(rank, world size) of a process that torchrun started; (0, None) of any other.

    A cluster may set RANK and WORLD_SIZE too: they count only if torchrun's variable is set.
    """
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return 0, None
    return int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
