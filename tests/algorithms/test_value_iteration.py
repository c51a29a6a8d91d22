"""Value and policy iteration through the door, against downpour.dynamic_programming."""

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.training import algorithm, resumes_exactly, train

from downpour import dynamic_programming as dp
from downpour.callbacks.checkpoint import read
from downpour.config import ConfigError
from downpour.environments import Gymnasium
from downpour.environments.tables import table_of


@pytest.mark.parametrize("name", ["value_iteration", "policy_iteration"])
def test_a_run_solves_the_environment(tmp_path: Path, name: str) -> None:
    train(tmp_path / "run", f"algo={name}", "env=frozen_lake", "algo.gamma=0.9")
    found = read(tmp_path / "run" / "checkpoints" / "last.ckpt")["state_dict"]["q"]
    exact = dp.policy_iteration(table_of(Gymnasium(id="FrozenLake-v1")), 0.9).q
    assert found.dtype == torch.float64
    np.testing.assert_allclose(found.numpy(), exact, rtol=0, atol=1e-10)
    rows = list(csv.DictReader((tmp_path / "run" / "metrics.csv").open()))
    residuals = [float(row["train/bellman_residual"]) for row in rows if row["train/bellman_residual"]]
    assert residuals[-1] <= 1e-12 and int(rows[-1]["gradient_steps"]) < 10_000


def test_it_resumes_exactly(tmp_path: Path) -> None:
    resumes_exactly(tmp_path, "algo=value_iteration", "env=frozen_lake", steps=100, counted="gradient_steps")


def test_an_environment_without_a_table_is_answered_with_those_that_have_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="env=frozen_lake, cliff_walking"):
        algorithm(tmp_path, "algo=value_iteration", "env=cartpole")
