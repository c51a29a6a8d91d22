"""Every rule with gradients under ddp_cpu: it learns, and its weights are the same on both ranks."""

import json
import os
import socket
from pathlib import Path
from typing import Any

import torch
from tests.commands import forkserver
from tests.training import composed

from downpour import experiment
from downpour.config import build
from downpour.validation import validate

SHORT = ("trainer=ddp_cpu", "logger=csv", "total_env_steps=256", "eval_every=256", "eval_episodes=2")
TABLE = ("env=frozen_lake", "model=table", "model.initial=1", "optimizer=sgd", "data.num_envs=4")
CONTROL = ("env=pendulum", "model.hidden=[8]", "data.learning_starts=64", "data.batch_size=16", "data.updates=4")
RULES: dict[str, tuple[str, ...]] = {
    "q_learning": (*TABLE, "algo.step_size=visits"),
    "double_q_learning": TABLE,
    "td_prediction": ("env=random_walk", "model=tiles", "optimizer=sgd"),
    "reinforce": ("env=cartpole", "model.hidden=[8]", "data.num_envs=2", "algo.baseline=value"),
    "advantage_actor_critic": ("env=cartpole", "model.hidden=[8]", "data.num_envs=2", "data.round_steps=8"),
    "ppo": ("env=pendulum", "model.hidden=[8]", "data.num_envs=2", "data.round_steps=16", "algo.epochs=2"),
    "actor_critic": CONTROL,
    "td3": CONTROL,
    "sac": CONTROL,
}


def free_ports(count: int) -> list[int]:
    probes = [socket.socket() for _ in range(count)]
    for probe in probes:
        probe.bind(("127.0.0.1", 0))
    ports = [int(probe.getsockname()[1]) for probe in probes]
    for probe in probes:
        probe.close()
    return ports


def rank(number: int, folder: str, configs: dict[str, dict[str, Any]], ports: list[int]) -> None:
    """One of two processes: takes part in one run after the other, leaves its weights before and after each."""
    os.environ.update(RANK=str(number), LOCAL_RANK=str(number), WORLD_SIZE="2", LOCAL_WORLD_SIZE="2")
    os.environ.update(TORCHELASTIC_RUN_ID="test", TORCHELASTIC_USE_AGENT_STORE="False", MASTER_ADDR="127.0.0.1")
    from downpour import worker

    built, kept, before = experiment.build_parts, [], []

    def build_and_keep(*arguments: Any) -> Any:
        parts = built(*arguments)
        kept.append(parts[0])
        before.append({name: value.clone() for name, value in parts[0].state_dict().items()})
        return parts

    experiment.build_parts = build_and_keep
    for (name, config), port in zip(configs.items(), ports, strict=True):
        os.environ["MASTER_PORT"] = str(port)
        directory = Path(folder) / name
        directory.mkdir(exist_ok=True)
        worker.take_part(config, directory)
        torch.save([before[-1], kept[-1].state_dict()], f"{folder}/{name}-{number}.pt")


def test_all_ranks_learn_the_same(tmp_path: Path) -> None:
    configs = {name: validate(composed(f"algo={name}", *SHORT, *own)) for name, own in RULES.items()}
    assert all(build(config["trainer"]).world_size == 2 for config in configs.values())
    context = forkserver()
    ports = free_ports(len(configs))
    ranks = [context.Process(target=rank, args=(number, str(tmp_path), configs, ports)) for number in (0, 1)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(300)
        process.kill()
    assert [process.exitcode for process in ranks] == [0, 0]
    for name in RULES:
        (before, after), (_, other) = (torch.load(tmp_path / f"{name}-{n}.pt", weights_only=True) for n in (0, 1))
        assert all(torch.equal(after[key], other[key]) for key in after), name
        assert all(value.isfinite().all() for value in after.values()), name
        moved = {key for key in after if not torch.equal(before[key], after[key])}
        parts = {key.split(".")[0] for key in before if "weight" in key}  # actor, critics, both tables, ...
        assert {key.split(".")[0] for key in moved} >= parts, name
        summary = json.loads((tmp_path / name / "summary.json").read_text())
        assert summary["processes"] == 2 and summary["gradient_steps"] > 0, name
