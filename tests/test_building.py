"""The parts of a checked configuration."""

from pathlib import Path

import numpy as np
import pytest
import torch
from tests.worlds import composed

from downpour.building import build_group, build_strategy, length_key, run_of, seed_all
from downpour.config import ConfigError, build
from downpour.strategies import DataParallel


def test_the_length_of_a_run_is_read_under_the_name_of_its_steps() -> None:
    assert length_key(composed()) == "total_env_steps"
    assert length_key(composed("algo=supervised")) == "total_gradient_steps"


def test_the_facts_of_a_run_come_from_its_configuration_and_its_process() -> None:
    config = composed("seed=3", "total_env_steps=700", "eval_every=70", "eval_episodes=9")
    run = run_of(config, Path("here"), rank=1, world_size=2)
    assert (run.seed, run.total_steps, run.eval_every, run.eval_episodes) == (3, 700, 70, 9)
    assert (run.directory, run.rank, run.world_size) == (Path("here"), 1, 2)
    assert run_of(composed("algo=supervised"), Path()).eval_episodes == 0  # a data set has none


def test_what_a_constructor_refuses_is_told_with_its_group() -> None:
    config = composed("optimizer=sgd", "optimizer.nesterov=true")
    with pytest.raises(ConfigError, match=r"^optimizer=SGD: Nesterov momentum requires a momentum"):
        build_group(config, "optimizer", params=[torch.nn.Parameter(torch.zeros(1))])
    with pytest.raises(ConfigError, match=r"^env=null: names nothing that could be built"):
        build_group({"env": {}}, "env")


def test_where_no_strategy_is_named_the_number_of_processes_decides() -> None:
    for overrides, expected in ((), "auto"), (("trainer.devices=2",), DataParallel):
        config = composed(*overrides)
        strategy = build_strategy(config, build(config["trainer"]))
        assert strategy == expected or type(strategy) is expected


def test_every_generator_is_seeded() -> None:
    drawn = []
    for seed in (5, 5, 6):
        seed_all(seed)
        drawn.append((float(torch.rand(())), float(np.random.random())))
    assert drawn[0] == drawn[1] and drawn[0][0] != drawn[2][0] and drawn[0][1] != drawn[2][1]
