"""Builds the parts of a checked configuration and trains. The only module that knows all the others."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger

from downpour import graphs
from downpour.algorithms.base import Algorithm
from downpour.building import build_algorithm, build_group, build_strategy, run_of, seed_all
from downpour.callbacks.checkpoint import Checkpoint
from downpour.config import build
from downpour.loading import find_checkpoint, policy_of
from downpour.loggers import RunFiles
from downpour.run import Purpose, Run, StepCounts, process
from downpour.strategies import parallelism
from downpour.summary import recorded
from downpour.trainer import Hardware, make_trainer
from downpour.transfer import prepare


def build_parts(config: Mapping[str, Any], run: Run) -> tuple[Algorithm, Any, Any]:
    """(algorithm, data module, environment) of a checked configuration.

    Initial weights depend on `seed` only and are the same on all ranks; what a rank draws afterwards also depends on
    its number.

    Raises:
        ConfigError: a constructor refuses its arguments.
    """
    environment = build_group(config, "env") if config["env"] else None
    data = build_group(config, "data", environment=environment, run=run)
    run_policy = partial(policy_of, spaces=data.spaces)
    algorithm = build_algorithm(config, data.spaces, run_policy, run.synchronous_replicas)
    seed_all(int(run.seed_sequence(Purpose.GLOBAL).generate_state(1)[0]))
    return algorithm, data, environment


def fit(config: Mapping[str, Any], directory: Path, link: Any = None) -> None:
    """Train in this process, one of the ranks of the run.

    Args:
        link: connection to the servers of an asynchronous run.

    Raises:
        ConfigError, TrainingError: with the message to show.
        Stopped: by a signal; the run is saved.
    """
    rank, world_size = process()
    hardware: Hardware = build(config["trainer"])
    hardware.apply()
    strategy = build_strategy(config, hardware)
    parallel = parallelism(strategy)
    if rank == 0:
        hardware.warn_of_crowding(parallel.servers)
    run = run_of(
        config,
        directory,
        rank=rank,
        world_size=world_size or 1,
        ranks_per_replica=parallel.ranks_per_replica,
        asynchronous=link is not None,
        others=link.others if link else StepCounts(),
    )
    algorithm, data, environment = build_parts(config, run)
    prepare(algorithm, config)
    if hardware.cuda_graph:
        algorithm.captured = graphs.CapturedStep()
    parallel.prepare(algorithm)
    records = link is None or rank == 0  # in an asynchronous run only rank 0 evaluates and records
    nodes = config["callbacks"].values() if records else ()
    callbacks = [build(node, run=run, environment=environment) for node in nodes]
    callbacks.sort(key=lambda callback: isinstance(callback, Checkpoint))  # last: it saves the state of the others
    if link:
        strategy.attach(link, run)
        callbacks = strategy.callbacks(callbacks)
    loggers: list[Logger] = [RunFiles(directory, data.step_name)]
    loggers += [build(node, run=run, config=config, step_name=data.step_name) for node in config["logger"].values()]
    trainer = make_trainer(hardware, run, strategy, callbacks, loggers, config["debug"]["detect_anomaly"])
    checkpoint = find_checkpoint(directory, algorithm) if config["resume"] else None
    with recorded(trainer, algorithm, data, run):
        trainer.fit(algorithm, datamodule=data, ckpt_path=checkpoint, weights_only=True)
