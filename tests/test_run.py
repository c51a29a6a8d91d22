"""What the parts of a run draw."""

from itertools import product
from pathlib import Path

import numpy as np
import pytest

from downpour.run import Purpose, Run


def run(seed: int = 0, rank: int = 0, world_size: int = 2, ranks_per_replica: int = 1) -> Run:
    lengths = {"total_steps": 1, "eval_every": 1, "eval_episodes": 1}
    ranks = {"rank": rank, "world_size": world_size, "ranks_per_replica": ranks_per_replica}
    return Run(directory=Path(), seed=seed, **lengths, **ranks)


def test_draws_differ_by_seed_rank_purpose_and_step() -> None:
    """Seed 0 on rank 1 is not seed 1 on rank 0: runs of a sweep over seeds are independent."""
    kinds = product(range(4), range(4), (Purpose.ENVIRONMENT, Purpose.REPLAY, Purpose.ACTION), range(3))
    draws = {run(seed, rank, 4).rng(purpose, step).integers(2**63) for seed, rank, purpose, step in kinds}
    assert len(draws) == 4 * 4 * 3 * 3


@pytest.mark.parametrize("seed", [0, 7])
def test_replica_0_draws_as_a_run_of_one_process(seed: int) -> None:
    expected = np.random.default_rng(np.random.SeedSequence([seed, 3])).integers(2**63, size=4)
    assert (run(seed).rng(Purpose.ACTION).integers(2**63, size=4) == expected).all()


def test_ranks_that_share_a_replica_draw_the_same() -> None:
    first, second, third = (run(rank=rank, world_size=4, ranks_per_replica=2) for rank in (0, 1, 2))
    assert first.rng(Purpose.ACTION).random() == second.rng(Purpose.ACTION).random()
    assert first.rng(Purpose.ACTION).random() != third.rng(Purpose.ACTION).random()
    assert first.shared_sequence(Purpose.EVALUATION, 5).state == third.shared_sequence(Purpose.EVALUATION, 5).state
