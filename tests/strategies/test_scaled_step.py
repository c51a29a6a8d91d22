"""`schedule.scale_with=ranks` multiplies the step size by the batches that make a step together, and by no others."""

from pathlib import Path

import pytest
from tests.supervised import configuration
from torch import nn

from downpour.building import build_optimizer, build_strategy
from downpour.experiment import build_parts
from downpour.run import Run
from downpour.strategies.asynchronous import Asynchronous
from downpour.trainer import Hardware

OPTIONS = ("algo=supervised", "trainer=cpu", "trainer.devices=4", "schedule.scale_with=ranks", "optimizer.lr=0.1")


@pytest.mark.parametrize(
    ("strategy", "copies"),
    [
        ("ddp", 4),
        ("fsdp2", 4),
        ("fsdp2_tp", 2),
        ("tensor_parallel", 1),
        ("pipeline", 1),
        ("downpour", 1),
        ("backup_workers", 3),
        ("sandblaster", 1),
    ],
)
def test_scaled_by_the_batches_of_a_step(tmp_path: Path, strategy: str, copies: int) -> None:
    optimizer = "lbfgs" if strategy == "sandblaster" else "sgd"
    config = configuration(tmp_path, *OPTIONS, f"strategy={strategy}", f"optimizer={optimizer}")
    built = build_strategy(config, Hardware(accelerator="cpu", devices=4))
    asynchronous = isinstance(built, Asynchronous)
    facts = {"directory": tmp_path, "seed": 0, "total_steps": 1, "eval_every": 1, "eval_episodes": 0}
    run = Run(**facts, world_size=4, ranks_per_replica=built.ranks_per_replica, asynchronous=asynchronous)
    assert built.in_step(4) == copies
    made = build_optimizer(config, nn.Linear(1, 1).parameters(), built.in_step(4))
    assert made.param_groups[0]["lr"] == pytest.approx(0.1 * copies)
    if not asynchronous:
        rule = build_parts(config, run)[0]
        assert rule.configure_optimizers().param_groups[0]["lr"] == pytest.approx(0.1 * copies)
