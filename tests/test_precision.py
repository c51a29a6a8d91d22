"""Every precision that `trainer.precision` names trains, evaluates and goes on, on a CPU."""

from pathlib import Path

import pytest
import torch
from tests import supervised, training
from tests.commands import checkpoint, rows

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
    training.train(
        tmp_path, f"algo={algo}", *options, *lengths, *(("data.learning_starts=64",) if algo != "ppo" else ())
    )
    assert checkpoint(tmp_path)["gradient_steps"] > 0
    assert len([row for row in rows(tmp_path / "metrics.csv") if row["eval/return_mean"]]) == 2
