"""Data parallelism computes what one process computes, whatever it leaves out of its communication."""

from pathlib import Path

import pytest
import torch
from tests.commands import checkpoint, rows
from tests.ranks import furthest, train_together, weights
from tests.supervised import configuration, train
from torch import Tensor

from downpour.config import ConfigError
from downpour.experiment import build_parts
from downpour.run import Run

SHAPE = ("algo=supervised", "model.hidden=[16]", "optimizer=sgd", "optimizer.lr=0.1", "eval_every=50", "data.updates=7")
RUN = (*SHAPE, "total_gradient_steps=100")
TWO = (*RUN, "trainer=ddp_cpu", "data.batch_size=32")
ONE = (*RUN, "data.batch_size=64")
DOWN = ("algo.gradient_clip=0.5", "schedule=linear")  # over the steps of the optimizer
FOUR_EACH = ("data.batch_size=8", "strategy.accumulate=4", "total_gradient_steps=400", *DOWN)
VARIANTS = {
    "plain": (),
    "static": ("strategy.static_graph=true", "strategy.gradient_as_bucket_view=false"),
    "fp16": ("strategy.compress=fp16",),
    "bf16": ("strategy.compress=bf16",),
    "accumulate": FOUR_EACH,
    "local3": ("strategy.local_steps=3", "algo.gradient_clip=0.5"),
    "batchnorm": ("model.normalization=batch",),
}


def test_two_ranks_are_one_process_with_the_doubled_batch(tmp_path: Path) -> None:
    runs, again = tmp_path / "runs", tmp_path / "again"
    train_together({runs / name: (*TWO, *options) for name, options in VARIANTS.items()})
    train(tmp_path / "one", *ONE)
    train(tmp_path / "clipped", *ONE, *DOWN)
    one, clipped = weights(tmp_path / "one"), weights(tmp_path / "clipped")
    assert furthest(weights(runs / "plain"), one) < 1e-6
    assert furthest(weights(runs / "static"), one) < 1e-6
    assert furthest(weights(runs / "accumulate"), clipped) < 1e-6
    assert 1e-6 < furthest(weights(runs / "fp16"), one) < 2e-3
    assert 1e-6 < furthest(weights(runs / "bf16"), one) < 2e-2
    assert furthest(weights(runs / "local3"), averaged_every_three_steps(tmp_path)) < 1e-6

    size = 4 * sum(value.numel() for value in one.values())
    sent = {name: float(rows(runs / name / "metrics.csv")[-2]["strategy/bytes_per_step"]) for name in VARIANTS}
    assert sent["plain"] == sent["static"] == size
    assert sent["fp16"] == sent["bf16"] == size / 2
    assert sent["accumulate"] == size / 4
    assert sent["local3"] == pytest.approx(size * 34 / 100)  # 17 averages in 50 steps, the last for the evaluation

    stopped = {again / name: (*TWO, *VARIANTS[name]) for name in ("accumulate", "local3", "batchnorm", "plain")}
    train_together(stopped, stop_at=30)
    assert [checkpoint(run)["step"] for run in stopped] == [35] * 4  # three batches of four; two steps alone
    train(again / "plain", *ONE, f"resume={again / 'plain'}")  # in one process
    assert furthest(weights(again / "plain"), one) < 1e-6
    del stopped[again / "plain"]
    train_together(stopped)
    for run in stopped:
        assert (run / "metrics.csv").read_bytes() == (runs / run.name / "metrics.csv").read_bytes()
        assert furthest(weights(run), weights(runs / run.name)) == 0


def averaged_every_three_steps(folder: Path) -> dict[str, Tensor]:
    """Local SGD on two ranks (Stich 2019, Algorithm 1), written down once more."""
    config = configuration(folder, *TWO, *VARIANTS["local3"])
    facts = {"directory": folder, "seed": 0, "total_steps": 100, "eval_every": 50, "eval_episodes": 0}
    parts = [build_parts(config, Run(**facts, rank=rank, world_size=2))[:2] for rank in (0, 1)]
    streams = [[batch for _ in range(2) for round in data for batch in round.unbind(0)] for _, data in parts]
    alone = 0
    for step, batches in enumerate(zip(*streams, strict=True), 1):
        for (algorithm, _), batch in zip(parts, batches, strict=True):
            algorithm.zero_grad()
            algorithm.loss(batch)[0].backward()
            torch.nn.utils.clip_grad_norm_(algorithm.parameters(), 0.5)
            for p in algorithm.parameters():
                p.data -= 0.1 * p.grad
        alone += 1
        if alone == 3 or step in (50, 100):
            for one, other in zip(parts[0][0].parameters(), parts[1][0].parameters(), strict=True):
                one.data = (one.data + other.data) / 2
                other.data = one.data.clone()
            alone = 0
    return dict(parts[0][0].state_dict())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ("+strategy.acumulate=2",),
            "strategy.acumulate=2: DataParallel has no such setting; did you mean accumulate?",
        ),
        (("strategy.accumulate=2", "strategy.local_steps=2"), "strategy.accumulate=2: needs strategy.local_steps=1"),
        (("strategy.static_graph=true", "strategy.accumulate=2"), "strategy.static_graph=true: every backward pass"),
        (("strategy.compress=fp16", "strategy.local_steps=2"), "strategy.compress=fp16: no gradients are sent"),
        (("strategy.compress=fp8",), "strategy.compress=fp8: must be 'none', 'fp16' or 'bf16'"),
    ],
)
def test_switches_that_cannot_be(tmp_path: Path, options: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        configuration(tmp_path, *TWO, *options)
    assert str(caught.value).startswith(message)
