"""From a configuration to a trained policy: validate, build, fit. The only module that knows all the others."""

import logging
import random
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import torch.distributed as dist
from lightning.pytorch.loggers import Logger
from pydantic import Field
from torch.optim import Optimizer

from downpour import graphs
from downpour.algorithms.base import Algorithm
from downpour.callbacks.checkpoint import Checkpoint
from downpour.checkpoints import BEST, LAST, PREVIOUS, any_checkpoint, inspect, newest_whole, settle
from downpour.config import (
    ConfigError,
    NonNegativeInt,
    PositiveInt,
    build,
    check,
    check_arguments,
    locate,
    nearest,
    parameters,
    settings_of,
    show,
)
from downpour.directory import read_config
from downpour.learning_rate import follow
from downpour.loggers import RunFiles
from downpour.pairing import check_pairing
from downpour.run import Purpose, Run, StepCounts, process
from downpour.strategies import DataParallel, Parallelism
from downpour.summary import recorded
from downpour.trainer import Hardware, make_trainer
from downpour.transfer import prepare

log = logging.getLogger(__name__)

LEARNING = ("algo", "env", "data", "model", "optimizer", "schedule")
GROUPS = (*LEARNING, "strategy", "trainer", "logger", "callbacks", "debug")


@dataclass(kw_only=True)
class Settings:
    """The keys that belong to no group."""

    seed: Annotated[NonNegativeInt, Field(lt=2**32)]
    total_env_steps: PositiveInt | None = None
    total_gradient_steps: PositiveInt | None = None
    eval_every: PositiveInt
    eval_episodes: PositiveInt | None = None
    resume: str | None
    resume_sweep: str | None = None
    init_from: str | None = None
    freeze: list[str] | None = None


@dataclass(kw_only=True)
class Debug:
    """The `debug` group."""

    traceback: bool
    detect_anomaly: bool


def validate(config: Mapping[str, Any]) -> dict[str, Any]:
    """Check a composed configuration against what it would build.

    Returns:
        The same with values of the types that were asked for.

    Raises:
        ConfigError: see `downpour.config.check`; or parts that do not go together.
    """
    settings = {name: value for name, value in config.items() if name not in GROUPS}
    known = [field.name for field in fields(Settings)]
    for name in settings.keys() - known:
        raise ConfigError(name, show(settings[name]), f"a run has no such setting{nearest(name, [*known, *GROUPS])}")
    settings = check_arguments(Settings, settings, "")
    groups = {name: check(config.get(name) or {}, name) for name in GROUPS}
    groups["debug"] = check_arguments(Debug, groups["debug"], "debug")
    for name in ("algo", "data", "trainer"):
        if "_target_" not in groups[name]:
            raise ConfigError(message=f"{name}._target_ is missing: nothing says what is to be built; choose a {name}=")
    for name in ("callbacks", "logger"):
        for key, node in groups[name].items():
            if not isinstance(node, dict) or "_target_" not in node:
                raise ConfigError(f"{name}.{key}", show(node), "names nothing that could be built: it has no _target_")
    check_pairing(groups)
    algorithm: Any = locate(groups["algo"]["_target_"], "algo")
    data: Any = locate(groups["data"]["_target_"], "data")
    length = f"total_{data.step_name}"
    if settings.get(length) is None:
        raise ConfigError(length, None, f"data={data.stream} counts {data.step_name}: this is the length of its run")
    if groups["schedule"]:
        build_schedule({**settings, **groups})
    hardware: Hardware = build(groups["trainer"])  # says what this machine lacks
    strategy = build_strategy(groups, hardware)
    if isinstance(strategy, Parallelism):
        strategy.check(algorithm, data, groups)
    graphs.check(hardware, algorithm, groups)
    return {**settings, **groups}


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


def check_room(config: Mapping[str, Any], directory: Path, hardware: Hardware) -> None:
    """Refuse what the processes of this node could not hold, before any of them is started.

    Raises:
        ConfigError: with what is needed and what would fit.
    """
    data: Any = locate(config["data"]["_target_"], "data")
    if not hasattr(data, "check_room"):
        return
    run = run_of(config, directory, world_size=hardware.world_size)
    known = {name: each.default for name, each in parameters(data).items() if each.default is not each.empty}
    options = {name: value for name, value in {**known, **config["data"]}.items() if name != "_target_"}
    data.check_room(build_group(config, "env"), run, hardware.devices, **options)


def length_key(config: Mapping[str, Any]) -> str:
    """The setting that says how long a run is, named after the steps that its data module counts."""
    data: Any = locate(config["data"]["_target_"], "data")
    return f"total_{data.step_name}"


def monitored(config: Mapping[str, Any]) -> str:
    """The metric by which the run is judged: what decides which checkpoint is best."""
    return config["callbacks"].get("checkpoint", {}).get("monitor", "eval/return_mean")


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


def build_parts(config: Mapping[str, Any], run: Run) -> tuple[Algorithm, Any, Any]:
    """(algorithm, data module, environment) of a checked configuration.

    Initial weights follow `seed` and are the same on all ranks; what a rank draws afterwards follows both `seed` and
    its number.
    """
    environment = build_group(config, "env") if config["env"] else None
    data = build_group(config, "data", environment=environment, run=run)
    algorithm = build_algorithm(config, data.spaces, run.synchronous_replicas)
    seed_all(int(run.seed_sequence(Purpose.GLOBAL).generate_state(1)[0]))
    return algorithm, data, environment


def build_algorithm(config: Mapping[str, Any], spaces: Mapping[str, Any], in_step: int = 1) -> Algorithm:
    """The algorithm of a checked configuration, for the spaces that its data module or environment has.

    Args:
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
        run_policy=lambda directory: policy_of(directory, spaces),
    )


def trained(
    directory: Path, config: Mapping[str, Any], spaces: Mapping[str, Any], first: str, key: str
) -> tuple[Algorithm, Path, int]:
    """The algorithm of a run with the weights of a checkpoint, where it was read from, and at which step it was saved.

    Args:
        config: the run's own, checked.
        first: the checkpoint to look for before all others.
        key: what named the directory, for messages.

    Raises:
        ConfigError: no checkpoint that can be read, or one of something else.
    """
    names = [first, *(name for name in (LAST, PREVIOUS, BEST) if name != first)]
    if not any((directory / "checkpoints" / name).exists() for name in names):
        raise ConfigError(key, directory, "has no checkpoint yet")
    if not (directory / "checkpoints" / first).exists():
        log.warning("there is no %s yet: taking another", directory / "checkpoints" / first)
    path, content = newest_whole(directory, names)
    algorithm = build_algorithm(config, spaces)
    check_origin(content, algorithm, path)
    try:
        algorithm.on_load_checkpoint(content)
        algorithm.load_state_dict(content["state_dict"])
    except (RuntimeError, KeyError, TypeError) as error:
        reason = textwrap.shorten(str(error), 200, placeholder=" ...")
        raise ConfigError(key, directory, f"{path.name} does not fit config.yaml: {reason}") from None
    return algorithm, path, int(content["step"])


def policy_of(directory: Path, spaces: Mapping[str, Any]) -> Algorithm:
    """What a run has learned by its best checkpoint, to act in an environment with these spaces.

    Raises:
        ConfigError: not a run that acts, or its policy does not fit.
    """
    key = "algo.policy"
    config = read_config(directory, key)
    if not config.get("env"):
        raise ConfigError(key, directory, "is a run on a data set: it has no policy")
    theirs = build_group(config, "env")
    for name, space in spaces.items():
        if getattr(theirs, name) != space:
            raise ConfigError(key, directory, f"was trained with {name} {getattr(theirs, name)}, here it is {space}")
    return trained(directory, config, spaces, BEST, key)[0]


def build_strategy(config: Mapping[str, Any], hardware: Hardware) -> Any:
    """The strategy of a checked configuration; where none is named, one that fits the number of processes."""
    if config["strategy"]:
        return build_group(config, "strategy", hardware=hardware)
    return DataParallel() if hardware.world_size > 1 else "auto"


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
    algorithm: Any = locate(config["algo"]["_target_"], "algo")
    data: Any = locate(config["data"]["_target_"], "data")
    planned = data.planned_batches(settings_of(config["data"]), config[length_key(config)], in_step)
    if planned is not None:
        planned *= algorithm.steps_each(settings_of(config["algo"]))
    return build(config["schedule"], copies=in_step, planned=planned)


def seed_all(seed: int) -> None:
    """Seed the generators that libraries draw from when they are given none."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def fit(config: Mapping[str, Any], directory: Path, link: Any = None) -> None:
    """Train in this process, one of the ranks of the run.

    Args:
        link: to the servers of a run whose ranks do not wait for each other.

    Raises:
        ConfigError, TrainingError: with the message to show.
        Stopped: a signal asked for it; the run is saved.
    """
    rank, world_size = process()
    hardware: Hardware = build(config["trainer"])
    hardware.apply()
    strategy = build_strategy(config, hardware)
    if rank == 0:
        hardware.warn_of_crowding(getattr(strategy, "servers", 0))
    run = run_of(
        config,
        directory,
        rank=rank,
        world_size=world_size or 1,
        ranks_per_replica=getattr(strategy, "ranks_per_replica", 1),
        asynchronous=link is not None,
        others=link.others if link else StepCounts(),
    )
    algorithm, data, environment = build_parts(config, run)
    prepare(algorithm, config)
    if hardware.cuda_graph:
        algorithm.captured = graphs.CapturedStep()
    if isinstance(strategy, Parallelism):
        strategy.prepare(algorithm)
    watches = link is None or rank == 0  # where the ranks do not wait for each other, one evaluates and records
    nodes = config["callbacks"].values() if watches else ()
    callbacks = [build(node, run=run, environment=environment) for node in nodes]
    callbacks.sort(key=lambda callback: isinstance(callback, Checkpoint))  # saves what the others know by then
    if link:
        strategy.attach(link, run)
        callbacks = strategy.callbacks(callbacks)
    loggers: list[Logger] = [RunFiles(directory, data.step_name)]
    loggers += [build(node, run=run, config=config, step_name=data.step_name) for node in config["logger"].values()]
    trainer = make_trainer(hardware, run, strategy, callbacks, loggers, config["debug"]["detect_anomaly"])
    checkpoint = find_checkpoint(directory, algorithm) if config["resume"] else None
    with recorded(trainer, algorithm, data, run):
        trainer.fit(algorithm, datamodule=data, ckpt_path=checkpoint, weights_only=True)


def find_checkpoint(directory: Path, algorithm: Algorithm) -> Path | None:
    """The checkpoint to go on from; None where the run was ended before its first, and starts again.

    Rank 0 chooses, for looking changes what there is: every rank must go on from the same one.

    Raises:
        ConfigError: all are damaged, or another algorithm's.
    """
    chosen: list[Any] = [None]
    if process()[0] == 0:
        chosen[0] = _choose_checkpoint(directory, algorithm)
    if dist.is_initialized():
        dist.broadcast_object_list(chosen, src=0)
    return chosen[0]


def _choose_checkpoint(directory: Path, algorithm: Algorithm) -> Path | None:
    if not any_checkpoint(directory):
        log.info("%s was ended before its first checkpoint: starting again", directory)
        for name in ("metrics.csv", "episodes.csv", "timing.csv"):
            (directory / name).unlink(missing_ok=True)
        return None
    path, content = newest_whole(directory, how=inspect)
    check_origin(content, algorithm, path)
    theirs = {name: tuple(value.shape) for name, value in content["state_dict"].items()}
    if theirs != {name: tuple(value.shape) for name, value in algorithm.state_dict().items()}:
        raise ConfigError("model", type(algorithm).__name__, f"the weights in {path} are of another shape")
    log.info("resuming from %s at step %d", path, content["step"])
    return settle(path, content)


def check_origin(content: Mapping[str, Any], algorithm: Algorithm, path: Path) -> None:
    """Refuse a checkpoint that another algorithm wrote.

    Raises:
        ConfigError: it did.
    """
    mine = f"{type(algorithm).__module__}.{type(algorithm).__qualname__}"
    if content["algorithm"] != mine:
        raise ConfigError("algo", mine, f"{path} was written by {content['algorithm']}")
