"""A network in stages learns what a whole one learns; and what cannot be cut is told."""

import json
from pathlib import Path

import pytest
from tests.commands import ROOT, checkpoint, rows
from tests.ranks import furthest, train_together, weights
from tests.supervised import configuration, train
from torch import nn

from downpour import evaluate
from downpour.building import build_strategy
from downpour.config import ConfigError
from downpour.experiment import build_parts
from downpour.run import Run
from downpour.strategies.pipeline import even_cuts
from downpour.trainer import Hardware

DIGITS = ("algo=supervised", "optimizer=sgd", "optimizer.lr=0.1", "optimizer.momentum=0.5", "data.updates=7")
RUN = (*DIGITS, "model.hidden=[32,24]", "eval_every=50", "total_gradient_steps=100", "algo.gradient_clip=0.5")
IMAGES = (
    *DIGITS,
    "model=convnet",
    "model.channels=[8]",
    "model.hidden=[32]",
    "eval_every=10",
    "total_gradient_steps=10",
)
RUNS = {
    "gpipe": (*RUN, "strategy.schedule=gpipe", "strategy.cuts=[1]"),
    "1f1b": RUN,
    "images": (*IMAGES, "strategy.microbatches=8"),
}
PIPED = ("trainer=cpu", "strategy=pipeline")


def test_stages_learn_as_the_whole_does(tmp_path: Path) -> None:
    train_together({tmp_path / name: (*PIPED, *options) for name, options in RUNS.items()})
    train(tmp_path / "one", *RUN)
    train(tmp_path / "one_images", *IMAGES)
    one = weights(tmp_path / "one")
    assert furthest(weights(tmp_path / "gpipe"), one) < 1e-6
    assert furthest(weights(tmp_path / "1f1b"), one) < 1e-6
    assert furthest(weights(tmp_path / "images"), weights(tmp_path / "one_images")) < 1e-6
    for mine, whole in zip(*(rows(tmp_path / name / "metrics.csv") for name in ("1f1b", "one")), strict=True):
        for name in ("train/loss", "train/accuracy", "eval/loss", "test/accuracy"):
            assert (mine[name] == whole[name] == "") or float(mine[name]) == pytest.approx(float(whole[name]), abs=1e-5)
    sent = {name: float(rows(tmp_path / name / "metrics.csv")[-2]["strategy/bytes_per_step"]) for name in RUNS}
    # Rank 0 hands on its outputs, and the square of its gradient's norm.
    assert sent == {"gpipe": 4 * 64 * 64 + 4, "1f1b": 4 * 64 * 32 + 4, "images": 4 * 64 * 32}

    assert evaluate.main([f"run={tmp_path / '1f1b'}", "checkpoint=last"], ROOT / "conf" / "eval.yaml") == 0
    found = json.loads((tmp_path / "1f1b" / "eval.json").read_text())
    (there,) = (row for row in rows(tmp_path / "1f1b" / "metrics.csv") if row["test/accuracy"])
    assert found["metrics"]["accuracy"] == pytest.approx(float(there["test/accuracy"]))

    stopped = tmp_path / "again" / "1f1b"
    train_together({stopped: (*PIPED, *RUN)}, stop_at=30)
    assert checkpoint(stopped)["step"] == 35
    train_together({stopped: (*PIPED, *RUN)})
    assert furthest(weights(stopped), weights(tmp_path / "1f1b")) == 0
    assert (stopped / "metrics.csv").read_bytes() == (tmp_path / "1f1b" / "metrics.csv").read_bytes()
    train(stopped, *RUN, "total_gradient_steps=120", f"resume={stopped}")  # in one process
    assert checkpoint(stopped)["step"] == 120


def test_cuts_leave_each_stage_about_as_many_weights() -> None:
    layers = [nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 8), nn.ReLU()]
    assert even_cuts(layers, 2) == [3]
    assert even_cuts(layers, 3) == [1, 3]
    assert even_cuts([nn.ReLU(), nn.Linear(4, 4), nn.ReLU()], 3) == [1, 2]  # none is empty


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ("algo=dqn", "env=cartpole"),
            "strategy=pipeline: DQN is more than one pass through one network: use strategy",
        ),
        (("data.batch_size=30",), "data.batch_size=30: strategy.microbatches=4 do not divide it; use 32"),
        (("strategy.microbatches=1",), "strategy.microbatches=1: 1f1b needs one for each of the 2 stages, or more"),
        (("strategy.cuts=[2,3]",), "strategy.cuts=[2, 3]: 2 ranks need 1 rising number(s), or null"),
        (("trainer.precision=16-mixed",), "trainer.precision=16-mixed: strategy=pipeline needs bf16-mixed or 32-true"),
    ],
)
def test_what_does_not_go_together(tmp_path: Path, options: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        configuration(tmp_path, *PIPED, "trainer.devices=2", "algo=supervised", *options)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("options", "devices", "message"),
    [
        (
            ("data=sequence", "model=gru"),
            2,
            "model=Recurrent: is not layers in a row: use model=mlp, convnet or resnet",
        ),
        (("model.hidden=[]",), 3, "trainer.devices=3: the 2 layers of MLP cannot be cut into 3 stages"),
        (("strategy.cuts=[9]",), 2, "strategy.cuts=[9]: MLP has 6 layers"),
    ],
)
def test_what_cannot_be_cut(tmp_path: Path, options: tuple[str, ...], devices: int, message: str) -> None:
    config = configuration(tmp_path, *PIPED, "algo=supervised", f"trainer.devices={devices}", *options)
    run = Run(directory=tmp_path, seed=0, total_steps=1, eval_every=1, eval_episodes=0)
    algorithm = build_parts(config, run)[0]
    with pytest.raises(ConfigError) as caught:
        build_strategy(config, Hardware(accelerator="cpu", devices=devices)).prepare(algorithm)
    assert str(caught.value).startswith(message)
