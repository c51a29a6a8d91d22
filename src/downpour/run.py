"""The facts of one run that its parts share."""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np


@dataclass(frozen=True)
class Run:
    """One training run, as one of its processes sees it.

    Attributes:
        directory: where the run writes; the same for all ranks.
        seed: fixes the initial weights on all ranks.
        total_steps: length of the run, in the steps its data module counts (`env_steps` or `gradient_steps`), over
        all ranks. eval_every: the same steps between two evaluations; an epoch of the trainer.
        eval_episodes: episodes of one evaluation.
        rank, world_size: this process among those of the run.
    """

    directory: Path
    seed: int
    total_steps: int
    eval_every: int
    eval_episodes: int
    rank: int = 0
    world_size: int = 1

    def rng(self, *purpose: int) -> np.random.Generator:
        """A generator of this rank's own; `purpose` keeps streams of one rank apart."""
        return np.random.default_rng(self.seed_sequence(*purpose))

    def seed_sequence(self, *purpose: int) -> np.random.SeedSequence:
        """Draws of rank r follow `seed + r`, so that ranks differ and 0 is a seed like any other."""
        return np.random.SeedSequence([self.seed + self.rank, *purpose])


def process() -> tuple[int, int | None]:
    """(rank, world size) of a process that torchrun started; (0, None) of any other.

    A cluster may set RANK and WORLD_SIZE for processes of its own: they count only beside torchrun's mark.
    """
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return 0, None
    return int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
