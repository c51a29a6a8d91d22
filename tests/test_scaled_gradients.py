"""Every precision that `trainer.precision` names trains and evaluates on a CPU; scaled gradients are clipped."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tests import supervised, training
from tests.commands import checkpoint, rows
from torch import nn

from downpour.algorithms.base import Algorithm
from downpour.precision import Scaled

TYPES = {"bf16-true": torch.bfloat16, "64-true": torch.float64}


@pytest.mark.parametrize("data", ["digits", "regression"])
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "16-mixed", "bf16-true", "64-true"])
def test_on_a_data_set(tmp_path: Path, precision: str, data: str) -> None:
    watched = "classification" if data == "digits" else "regression"
    options = (f"data={data}", f"callbacks={watched}", f"trainer.precision={precision}", "model.hidden=[16]")
    supervised.train(tmp_path, *supervised.SMALL, *options)
    weights = checkpoint(tmp_path)["state_dict"].values()
    assert {weight.dtype for weight in weights if weight.is_floating_point()} == {TYPES.get(precision, torch.float32)}
    losses = [float(row["eval/loss"]) for row in rows(tmp_path / "metrics.csv") if row["eval/loss"]]
    assert len(losses) == 3 and losses[-1] < losses[0]


@pytest.mark.parametrize("precision", ["bf16-true", "64-true"])
def test_a_rule_with_two_networks(tmp_path: Path, precision: str) -> None:
    options = ("algo=gan", "data.batch_size=8", f"trainer.precision={precision}", "model.hidden=[16]")
    summary = supervised.train(tmp_path, *supervised.SMALL[1:], *options)
    assert summary["gradient_steps"] == 60


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize("algo", ["dqn", "sac", "ppo"])
def test_in_an_environment(tmp_path: Path, algo: str, precision: str) -> None:
    options = ("env=pendulum",) if algo == "sac" else ()
    lengths = ("total_env_steps=512", "eval_every=256", "model.hidden=[16]", f"trainer.precision={precision}")
    training.train(tmp_path, f"algo={algo}", *options, *lengths, *(("data.warmup=64",) if algo != "ppo" else ()))
    assert checkpoint(tmp_path)["gradient_steps"] > 0
    assert len([row for row in rows(tmp_path / "metrics.csv") if row["eval/return_mean"]]) == 2


@pytest.mark.parametrize("kind", [torch.optim.SGD, lambda p, lr: torch.optim.Adam(p, lr, fused=True)])
def test_clipping_sees_gradients_without_their_scale(kind: Any) -> None:
    steps = {}
    for scaled in (True, False):
        w = nn.Parameter(torch.tensor([1.0, -2.0]))
        optimizer = kind([w], lr=0.1)
        rule = Algorithm(kind, gradient_clip=0.5)
        step = optimizer.step
        if scaled:
            plugin = Scaled("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=1024.0))
            plugin._after_closure = lambda *_: None  # type: ignore[method-assign]
            rule._trainer = SimpleNamespace(strategy=SimpleNamespace(precision_plugin=plugin))  # type: ignore[assignment]
            wrapper: Any = SimpleNamespace(optimizer=optimizer, param_groups=optimizer.param_groups)
            wrapper.step = lambda o=optimizer, p=plugin: p.optimizer_step(o, None, lambda: None)
        else:
            plugin, wrapper = None, SimpleNamespace(optimizer=optimizer, param_groups=optimizer.param_groups, step=step)
        norms = []
        for _ in range(3):
            optimizer.zero_grad()
            loss = (w * torch.tensor([3.0, 4.0])).sum()
            (plugin.scaler.scale(loss) if plugin else loss).backward()
            norms.append(float(rule.take_step(wrapper)["gradient_norm"]))
        steps[scaled] = norms, w.detach()
    assert steps[True][0] == pytest.approx([5, 5, 5])
    assert torch.equal(steps[True][1], steps[False][1])


def test_a_step_that_is_not_finite_is_left_out() -> None:
    w = nn.Parameter(torch.ones(2))
    optimizer = torch.optim.SGD([w], lr=0.1)
    plugin = Scaled("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=1024.0))
    plugin._after_closure = lambda *_: None  # type: ignore[method-assign]
    plugin.scaler.scale((w * torch.inf).sum()).backward()  # type: ignore[union-attr]
    plugin.unscale(optimizer)
    plugin.optimizer_step(optimizer, None, lambda: None)
    assert w.tolist() == [1, 1] and plugin.scaler.get_scale() == 512  # type: ignore[union-attr]
