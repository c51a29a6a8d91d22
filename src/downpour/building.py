"""Builds the parts of a checked configuration, one function per part."""

import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.optim import Optimizer

from downpour.algorithms.base import Algorithm
from downpour.algorithms.fixed_policy import RunPolicy
from downpour.config import ConfigError, build, class_of, settings_of, show
from downpour.learning_rate import follow
from downpour.run import Run
from downpour.strategies import DataParallel, parallelism_of
from downpour.trainer import Hardware


def length_key(config: Mapping[str, Any]) -> str:
    """The key of the run's length, named after the steps that its data module counts."""
    data = class_of(config, "data")
    return f"total_{data.step_name}"


def run_of(config: Mapping[str, Any], directory: Path, **process_facts: Any) -> Run:
    """The `Run` of a checked configuration; `process_facts` are the fields that differ between processes."""
    return Run(
        directory=directory,
        seed=config["seed"],
        total_steps=config[length_key(config)],
        eval_every=config["eval_every"],
        eval_episodes=config.get("eval_episodes") or 0,
        **process_facts,
    )


def build_group(config: Mapping[str, Any], group: str, **available: Any) -> Any:
    """Build the object that a config group describes; see `downpour.config.build`.

    Raises:
        ConfigError: the group is empty, or the constructor rejects a value.
    """
    node = config[group]
    if "_target_" not in node:
        raise ConfigError(group, show(node or None), "names nothing that could be built; choose an option of the group")
    try:
        return build(node, **available)
    except (TypeError, ValueError) as error:  # torch.optim's, for example
        raise ConfigError(group, node["_target_"].rpartition(".")[2], str(error)) from error


def build_algorithm(
    config: Mapping[str, Any], spaces: Mapping[str, Any], run_policy: RunPolicy, in_step: int = 1
) -> Algorithm:
    """The algorithm of a checked configuration, for the spaces that its data module or environment has.

    Args:
        run_policy: loads the policy of another run, for algorithms that follow one.
        in_step: replicas whose batches are combined in each gradient step.
    """
    seed_all(config["seed"])
    return build_group(
        config,
        "algo",
        **spaces,
        network=lambda input_space, outputs, **more: build_group(
            config, "model", input_space=input_space, outputs=outputs, **more
        ),
        optimizer=lambda parameters: build_optimizer(config, parameters, in_step),
        run_policy=run_policy,
    )


def build_optimizer(config: Mapping[str, Any], parameters: Any, in_step: int = 1) -> Optimizer:
    """The optimizer of a checked configuration, with the configuration's learning rate schedule.

    Args:
        in_step: replicas whose batches are combined in each gradient step.
    """
    optimizer = build_group(config, "optimizer", params=parameters)
    return follow(optimizer, build_schedule(config, in_step))


def build_schedule(config: Mapping[str, Any], in_step: int = 1) -> Any:
    """The learning rate schedule of a checked configuration; some need the length of the run.

    Raises:
        ConfigError: it needs the number of gradient steps, which is not known in advance.
    """
    algorithm = class_of(config, "algo")
    data = class_of(config, "data")
    planned = data.planned_batches(settings_of(config["data"]), config[length_key(config)], in_step)
    if planned is not None:
        steps = planned * algorithm.steps_each(settings_of(config["algo"]))
        planned = max(1, steps // _batches_each(config))
    return build(config["schedule"], copies=in_step, planned=planned)


def _batches_each(config: Mapping[str, Any]) -> int:
    """Batches per optimizer step (gradient accumulation)."""
    settings = settings_of(config["strategy"]) if config["strategy"] else {}
    return parallelism_of(config).batches_each(settings)


def build_strategy(config: Mapping[str, Any], hardware: Hardware) -> Any:
    """The strategy of a checked configuration; if none is named, the default for the number of processes."""
    if config["strategy"]:
        return build_group(config, "strategy", hardware=hardware)
    return DataParallel() if hardware.world_size > 1 else "auto"


def seed_all(seed: int) -> None:
    """Seed the global generators, which libraries use when they are given none."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
