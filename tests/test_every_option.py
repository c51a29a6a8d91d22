"""Every option of every group and every experiment, from the command line to the end of a short run.

`trainer` and `strategy` are left to the tests that start several processes.
"""

import logging
import os
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import MissingConfigException
from tests.commands import DOOR, checkpoint
from tests.worlds import CONF, composed

from downpour import cli, jobs
from downpour import directory as directories

GROUPS_ELSEWHERE = ("trainer", "strategy", "hydra/job_logging")
ELSEWHERE = {"data=mnist", "data=fashion_mnist", "data=cifar10"}  # tests/data/test_openml.py, on a stand-in
OPTIONS = sorted(
    f"{path.parent.relative_to(CONF)}={path.stem}"
    for path in CONF.glob("*/**/*.yaml")
    if not path.stem.startswith("_") and str(path.parent.relative_to(CONF)) not in GROUPS_ELSEWHERE
)
# What an option needs beside it.
WITH = {
    "algo=actor_critic": "env=pendulum",
    "algo=sac": "env=pendulum",
    "algo=td3": "env=pendulum",
    "algo=double_q_learning": "env=frozen_lake model=table optimizer=sgd",
    "algo=value_iteration": "env=frozen_lake",
    "algo=policy_evaluation": "env=frozen_lake",
    "algo=policy_iteration": "env=frozen_lake",
    "algo=td_prediction": "env=random_walk model=table",
    "algo/distribution=*": "algo=dqn",
    "algo/noise=*": "algo=actor_critic env=pendulum",
    "callbacks=classification": "algo=supervised",
    "callbacks=regression": "algo=supervised data=regression",
    "callbacks=generation": "algo=gan",
    "callbacks=value_distance": "env=frozen_lake model=table",
    "data=arrays": "algo=supervised data.source.inputs=inputs.npy data.source.targets=targets.npy",
    "data=csv": "algo=supervised data.source.path=table.csv",
    "data=digits": "algo=supervised",
    "data=episodes": "algo=reinforce",
    "data=model": "algo=value_iteration env=frozen_lake",
    "data=online": "algo=q_learning",
    "data=regression": "algo=supervised",
    "data=rollout": "algo=ppo",
    "data=sequence": "algo=supervised model=gru data.source.rows=200",
    "data=two_moons": "algo=gan",
    "env=atari": "model=nature_cnn model.hidden=[16]",
    "env=continuous_bandit": "algo=reinforce",
    "env=contextual_bandit": "algo=reinforce",
    "env=half_cheetah": "algo=sac",
    "env=inverted_pendulum": "algo=sac",
    "env=mdp": "algo=value_iteration",
    "env=maximization_bias": "algo=q_learning model=table optimizer=sgd",
    "env=minatar": "model=minatar_cnn",
    "env=mountain_car": "env.max_episode_steps=20",
    "env=none": "algo=supervised",
    "env=pendulum": "algo=sac",
    "experiment=ppo_inverted_pendulum": "algo.minibatches=2",
    "experiment/scale=atari": "model.hidden=[16]",
    "experiment/without=*": "experiment=rainbow_ablation",
    "length=gradient_steps": "algo=supervised",
    "logger=many": "logger.wandb.mode=disabled",
    "logger=wandb": "logger.wandb.mode=disabled",
    "model=basis": "env=mountain_car algo=q_learning env.max_episode_steps=20",
    "model=tiles": "env=mountain_car algo=q_learning env.max_episode_steps=20",
    "model=convnet": "algo=supervised",
    "model=features": "env=two_states algo=q_learning optimizer=sgd",
    "model=resnet": "algo=supervised model.channels=[4]",
    "model=gru": "algo=supervised data=sequence data.source.rows=200",
    "model=lstm": "algo=supervised data=sequence data.source.rows=200",
    "model=minatar_cnn": "env=minatar",
    "model=nature_cnn": "env=atari model.hidden=[16]",
    "model=table": "env=frozen_lake algo=q_learning optimizer=sgd",
    "model/head=*": "algo=reinforce",
    "model/head=gaussian": "algo=reinforce env=continuous_bandit",
    "model/head=mixture_of_gaussians": "algo=reinforce env=continuous_bandit",
    "optimizer=lbfgs": "algo=supervised",
}
# What makes a run short, of those settings that it has.
SHORT: dict[str, Any] = {
    "total_env_steps": 64,
    "total_gradient_steps": 4,
    "eval_every": 64,
    "eval_episodes": 1,
    "data.num_envs": 2,
    "data.round_steps": 8,
    "data.updates": 2,
    "data.batch_size": 2,
    "data.learning_starts": 16,
    "data.capacity": 200,
    "callbacks.evaluation.num_envs": 1,
    "callbacks.evaluation.max_episode_steps": 10,
    "callbacks.overestimation.num_envs": 1,
    "callbacks.overestimation.max_episode_steps": 10,
    "callbacks.overestimation.unseen": 1.0,
    "callbacks.video.max_episode_steps": 10,
}


def needed(option: str) -> list[str]:
    group, _, _ = option.partition("=")
    return WITH.get(option, WITH.get(f"{group}=*", "")).split()


def shortened(overrides: list[str]) -> list[str]:
    """Of `SHORT` what the configuration has, and what `overrides` do not say."""
    try:
        config = composed(*overrides)
    except MissingConfigException as error:
        pytest.skip(f"needs the sweep extra ({error.missing_cfg_file})")

    def has(key: str) -> bool:
        node: Any = config
        for name in key.split("."):
            node = node.get(name) if isinstance(node, dict) else None
        return node is not None

    said = {each.partition("=")[0] for each in overrides}
    steps = 64 if has("total_env_steps") and config["data"]["_target_"].rpartition(".")[2] != "DatasetData" else 4
    trials = {"env.trials": 2} if config["env"].get("trials", 1) > 1 else {}
    values = {**SHORT, **trials, "eval_every": steps if config["env"] and not has("total_gradient_steps") else 4}
    return [f"{key}={value}" for key, value in values.items() if key not in said and has(key)]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the runs lie, with data sets of one's own."""
    rng = np.random.default_rng(0)
    np.save(tmp_path / "inputs.npy", rng.normal(size=(60, 3)).astype(np.float32))
    np.save(tmp_path / "targets.npy", np.arange(60) % 2)
    (tmp_path / "table.csv").write_text("a,b,kind\n" + "".join(f"{i},{i % 7},{'xy'[i % 2]}\n" for i in range(60)))
    process = {"transition": np.full((2, 1, 2), 0.5), "reward": np.ones((2, 1))}
    np.savez(tmp_path / "mdp.npz", **process)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("option", [each for each in OPTIONS if each not in ELSEWHERE])
def test_every_option_trains(option: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    added = "+" if option.startswith("experiment/scale") else ""  # no default chooses one
    overrides = [added + option, *needed(option)]
    arguments = [*overrides, *shortened(overrides), "hydra.run.dir=run"]
    GlobalHydra.instance().clear()
    monkeypatch.setattr(sys, "argv", [DOOR, *arguments])
    if not option.startswith("callbacks"):
        monkeypatch.setattr(jobs, "finish", lambda directory: None)  # its pictures take longer than it does
    handlers = list(logging.getLogger().handlers)
    with mock.patch.dict(os.environ):
        try:
            cli.train()
        finally:
            logging.getLogger().handlers[:] = handlers
    run = folder / "run"
    summary = directories.read_summary(run)
    assert summary["status"] == "finished", (arguments, summary)
    assert checkpoint(run)["step"] >= 4
    assert len((run / "metrics.csv").read_text().splitlines()) > 1
