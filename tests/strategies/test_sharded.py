"""Weights spread over ranks learn what one process learns, whatever the rule; and what cannot be spread is told."""

import json
import os
from pathlib import Path
from typing import Any
from unittest import mock

import gymnasium as gym
import numpy as np
import pytest
import torch
import torch.distributed as dist
from tests.commands import ROOT, SMALL, checkpoint, rows
from tests.ranks import furthest, train_together, weights
from tests.supervised import configuration, train

from downpour import evaluate
from downpour.config import ConfigError
from downpour.experiment import build_parts
from downpour.networks import MLP, ConvNet, ResNet
from downpour.run import Run
from downpour.strategies.sharded import check_plan, networks, plan_of
from downpour.transfer import take

DIGITS = ("algo=supervised", "model.hidden=[32,24]", "optimizer=sgd", "optimizer.lr=0.1")
SHAPE = (*DIGITS, "eval_every=50", "data.updates=7")
RUN = (*SHAPE, "total_gradient_steps=100", "algo.gradient_clip=0.5")
GAME = tuple(o for o in SMALL if not o.startswith("logger"))
ACTING = (*(o for o in GAME if o.partition("=")[0] in ("model.hidden", "data.num_envs")), "data.round_steps=16")
PLAYED = ("total_env_steps=512", "eval_every=256", "eval_episodes=2", *ACTING)
RULES = {
    "dqn": (*GAME, "algo=dqn", "algo.target_every=20", "algo.gradient_clip=1"),
    "td3": (*GAME, "algo=td3", "env=pendulum", "algo.random_steps=64"),
    "gaussian": (*PLAYED, "algo=advantage_actor_critic", "env=pendulum", "model/head=gaussian"),
}


def evaluated(run: Path, *settings: str) -> dict[str, Any]:
    """What `eval.py` finds on one process."""
    assert evaluate.main([f"run={run}", "checkpoint=last", *settings], ROOT / "conf" / "eval.yaml") == 0
    return json.loads((run / "eval.json").read_text())


@pytest.mark.timeout(900)
def test_spread_weights_learn_as_whole_ones_do(tmp_path: Path) -> None:
    fsdp2, tensor = "strategy=fsdp2", "strategy=tensor_parallel"
    runs = {
        "whole": (*RUN, fsdp2, "data.batch_size=32"),
        "layered": (*RUN, fsdp2, "data.batch_size=32", "model.normalization=layer", "strategy.gather_above=500"),
        "divided": (*RUN, tensor, "data.batch_size=64"),
        "normalized": (*RUN, tensor, "data.batch_size=64", "model.normalization=layer", "optimizer.momentum=0.5"),
        "dqn_divided": (*RULES["dqn"], tensor),
        **{f"{rule}_spread": (*options, fsdp2) for rule, options in RULES.items()},
        **{f"{rule}_copied": (*options, "strategy=ddp") for rule, options in RULES.items()},
    }
    train_together({tmp_path / name: ("trainer=cpu", *options) for name, options in runs.items()})
    found = {name: weights(tmp_path / name) for name in runs}
    for name, options in {"one": (), "one_layered": ("model.normalization=layer",)}.items():
        train(tmp_path / name, *RUN, "data.batch_size=64", *options)
        found[name] = weights(tmp_path / name)
    train(tmp_path / "momentum", *runs["normalized"], "strategy=auto")
    train(tmp_path / "dqn", *RULES["dqn"])
    assert furthest(found["whole"], found["one"]) < 1e-6
    assert furthest(found["layered"], found["one_layered"]) < 1e-6
    assert furthest(found["divided"], found["one"]) < 1e-6
    assert furthest(found["normalized"], weights(tmp_path / "momentum")) < 1e-6
    assert furthest(found["dqn_divided"], weights(tmp_path / "dqn")) < 1e-6
    for rule in RULES:
        assert furthest(found[f"{rule}_spread"], found[f"{rule}_copied"]) < 1e-6
    one, two = (rows(tmp_path / name / "episodes.csv") for name in ("dqn", "dqn_divided"))
    assert one == two  # both ranks see one world

    size = 4 * sum(value.numel() for value in found["one"].values())
    sent = float(rows(tmp_path / "whole" / "metrics.csv")[-2]["strategy/bytes_per_step"])
    assert size * 1.5 <= sent < size * 1.5 + 100  # gathered forward and backward, scattered; padded; the norm

    for name in ("whole", "divided"):
        (there,) = (row for row in rows(tmp_path / name / "metrics.csv") if row["test/accuracy"])
        assert evaluated(tmp_path / name)["metrics"]["accuracy"] == pytest.approx(float(there["test/accuracy"]))
    assert len(evaluated(tmp_path / "dqn_spread", "episodes=2")["returns"]) == 2

    again, sharded = tmp_path / "again", "strategy.checkpoint=sharded"
    stopped = {again / "normalized": runs["normalized"], again / "dqn_spread": (*runs["dqn_spread"], sharded)}
    elsewhere = {again / "whole": runs["whole"], again / "sharded": (*runs["whole"], sharded)}
    train_together({run: ("trainer=cpu", *options) for run, options in {**stopped, **elsewhere}.items()}, stop_at=30)
    train_together({run: ("trainer=cpu", *options) for run, options in stopped.items()})
    for run in stopped:
        assert furthest(weights(run), found[run.name]) == 0
        assert (run / "metrics.csv").read_bytes() == (tmp_path / run.name / "metrics.csv").read_bytes()
    assert len(evaluated(again / "dqn_spread", "episodes=2")["returns"]) == 2
    here = Run(directory=tmp_path, seed=1, total_steps=1, eval_every=1, eval_episodes=0)
    module = build_parts(configuration(tmp_path / "here", *RULES["dqn"]), here)[0]
    take(module, again / "dqn_spread")
    assert furthest(module.state_dict(), found["dqn_spread"]) == 0
    for run in elsewhere:
        assert checkpoint(run)["step"] == 35
        assert len(list((run / "checkpoints" / "last.ckpt").glob("*.distcp"))) == (2 if run.name == "sharded" else 0)
        train(run, *RUN, "data.batch_size=64", f"resume={run}")
        assert furthest(weights(run), found["one"]) < 1e-6


@pytest.mark.slow
def test_both_at_once_on_four_ranks(tmp_path: Path) -> None:
    run = ("algo.gradient_clip=0.5", "total_gradient_steps=20", "eval_every=20")
    options = (*SHAPE, *run, "optimizer.momentum=0.5", "data.batch_size=32")
    mesh = {tmp_path / "mesh": (*options, "strategy=fsdp2_tp")}
    sharded = {tmp_path / "sharded": (*options, "strategy=fsdp2_tp", "strategy.checkpoint=sharded")}
    train_together({**mesh, **sharded}, ranks=4, stop_at=10)
    assert checkpoint(tmp_path / "mesh")["step"] == checkpoint(tmp_path / "sharded")["step"] == 14
    train_together(mesh, ranks=4)
    train_together({tmp_path / "sharded": (*options, "strategy=fsdp2", "strategy.checkpoint=sharded")}, ranks=2)
    train(tmp_path / "one", *SHAPE, *run, "optimizer.momentum=0.5", "data.batch_size=64")
    for name in ("mesh", "sharded"):
        assert furthest(weights(tmp_path / name), weights(tmp_path / "one")) < 1e-6


def test_spread_over_one_process(tmp_path: Path) -> None:
    run = (*SHAPE, "trainer=cpu", "total_gradient_steps=20", "eval_every=20")
    train(tmp_path / "one", *run)
    with mock.patch.dict(os.environ):  # rank and address stay with this run
        try:
            train(tmp_path / "spread", *run, "strategy=fsdp2")
        finally:
            if dist.is_initialized():
                dist.destroy_process_group()
    assert furthest(weights(tmp_path / "spread"), weights(tmp_path / "one")) < 1e-6


def test_plans_divide_every_linear_layer() -> None:
    vector = gym.spaces.Box(-1, 1, (4,), np.float32)
    image = gym.spaces.Box(-1, 1, (1, 8, 8), np.float32)
    three = {"layers.0": "outputs_gathered", "layers.2": "outputs", "layers.4": "inputs"}
    assert MLP(vector, 1, hidden=[6, 4]).parallel_plan() == three
    normalized = MLP(vector, 1, hidden=[6, 4], normalization="layer").parallel_plan()
    assert list(normalized.values()) == ["outputs_gathered", "inputs_of_whole", "inputs_of_whole"]
    dueling = MLP(vector, 2, hidden=[6, 4], dueling=True).parallel_plan()
    assert "inputs" not in dueling.values() and len(dueling) == 5
    assert ConvNet(image, 10, channels=[8], hidden=[32]).parallel_plan() == {
        "layers.5": "outputs",
        "layers.7": "inputs",
    }
    assert list(ResNet(image, 10, channels=[4, 8]).parallel_plan().values()) == ["inputs_of_whole"]


def test_a_layer_that_ranks_do_not_divide_is_named() -> None:
    network = MLP(gym.spaces.Box(-1, 1, (4,), np.float32), 1, hidden=[6, 9])
    with pytest.raises(ConfigError) as caught:
        check_plan("q", network, 2)
    told = "strategy.tensor_parallel=2: 2 ranks do not divide the 9 outputs of layer q.layers.2; "
    assert str(caught.value).startswith(told)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ("strategy=tensor_parallel", "strategy.tensor_parallel=3"),
            "strategy.tensor_parallel=3: does not divide the 2",
        ),
        (("strategy=fsdp2", "algo=reinforce"), "strategy=fsdp2: ranks act until their own episodes end"),
        (("strategy=fsdp", "algo=reinforce"), "strategy=fsdp2: ranks act until their own episodes end"),
    ],
)
def test_what_does_not_go_together(tmp_path: Path, options: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        configuration(tmp_path, "trainer=cpu", "trainer.devices=2", *options)
    assert str(caught.value).startswith(message)


def test_a_model_without_a_plan_is_told_who_has_one(tmp_path: Path) -> None:
    config = configuration(tmp_path, "algo=supervised", "data=sequence", "model=gru")
    run = Run(directory=tmp_path, seed=0, total_steps=1, eval_every=1, eval_episodes=0)
    ((name, network),) = networks(build_parts(config, run)[0])
    assert name == "network"
    with pytest.raises(ConfigError) as caught:
        plan_of(network)
    assert str(caught.value).startswith("model=Recurrent: no plan says how its layers are divided: use MLP, ConvNet,")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize("options", [RUN, RULES["dqn"]])
def test_one_gpu_learns_as_it_does_by_itself(tmp_path: Path, options: tuple[str, ...], precision: str) -> None:
    chosen = (*options, "trainer=gpu", f"trainer.precision={precision}", "trainer.deterministic=true")
    strategies = {"auto": ("strategy=auto",), "fsdp": ("strategy=fsdp",)}
    strategies["sharded"] = ("strategy=fsdp", "strategy.checkpoint=sharded")
    for name, strategy in strategies.items():
        train(tmp_path / name, *chosen, *strategy)
        if dist.is_initialized():
            dist.destroy_process_group()
    one, other, parts = (checkpoint(tmp_path / name) for name in ("fsdp", "auto", "sharded"))
    assert one["gradient_steps"] == other["gradient_steps"] > 50
    assert furthest(one["state_dict"], other["state_dict"]) < (1e-6 if precision == "32-true" else 1e-2)
    assert furthest(one["state_dict"], parts["state_dict"]) == 0
