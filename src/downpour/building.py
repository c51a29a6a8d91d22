"""The parts of a checked configuration, built one by one."""

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
    """The setting that says how long a run is, named after the steps that its data module counts."""
    data = class_of(config, "data")
    return f"total_{data.step_name}"


def run_of(config: Mapping[str, Any], directory: Path, **process_facts: Any) -> Run:
    """The facts of a run of a checked configuration, with those of one of its processes (see `Run`)."""
    return Run(
        directory=directory,
        seed=config["seed"],
        total_steps=config[length_key(config)],
        eval_every=config["eval_every"],
        eval_episodes=config.get("eval_episodes") or 0,
        **process_facts,
    )


def build_group(config: Mapping[str, Any], group: str, **available: Any) -> Any:
    """Build what a group says; see `downpour.config.build`.

    Raises:
        ConfigError: it says nothing, or its constructor refuses what the types could not.
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
        run_policy: loads what another run has learned, for rules that follow it.
        in_step: copies of the weights that make each step together.
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
    """The optimizer of a checked configuration, its step size on the configuration's schedule.

    Args:
        in_step: copies of the weights whose batches make one step together.
    """
    optimizer = build_group(config, "optimizer", params=parameters)
    return follow(optimizer, build_schedule(config, in_step))


def build_schedule(config: Mapping[str, Any], in_step: int = 1) -> Any:
    """The schedule of a checked configuration, which may want to know how long the run is.

    Raises:
        ConfigError: it does, and nobody can tell.
    """
    algorithm = class_of(config, "algo")
    data = class_of(config, "data")
    planned = data.planned_batches(settings_of(config["data"]), config[length_key(config)], in_step)
    if planned is not None:
        steps = planned * algorithm.steps_each(settings_of(config["algo"]))
        planned = max(1, steps // _batches_each(config))
    return build(config["schedule"], copies=in_step, planned=planned)


def _batches_each(config: Mapping[str, Any]) -> int:
    """Batches that each step of the optimizer is made of."""
    settings = settings_of(config["strategy"]) if config["strategy"] else {}
    return parallelism_of(config).batches_each(settings)


def build_strategy(config: Mapping[str, Any], hardware: Hardware) -> Any:
    """The strategy of a checked configuration; where none is named, one that fits the number of processes."""
    if config["strategy"]:
        return build_group(config, "strategy", hardware=hardware)
    return DataParallel() if hardware.world_size > 1 else "auto"


def seed_all(seed: int) -> None:
    """Seed the generators that libraries draw from when they are given none."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
