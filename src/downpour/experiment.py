"""From a checked configuration to a trained policy. The only module that knows all the others."""

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

    Initial weights follow `seed` and are the same on all ranks; what a rank draws afterwards follows both `seed` and
    its number.
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
        link: to the servers of a run whose ranks do not wait for each other.

    Raises:
        ConfigError, TrainingError: with the message to show.
        Stopped: a signal asked for it; the run is saved.
    """
    rank, world_size = process()
    hardware: Hardware = build(config["trainer"])
    hardware.apply()
    strategy = build_strategy(config, hardware)
    ours = parallelism(strategy)
    if rank == 0:
        hardware.warn_of_crowding(ours.servers)
    run = run_of(
        config,
        directory,
        rank=rank,
        world_size=world_size or 1,
        ranks_per_replica=ours.ranks_per_replica,
        asynchronous=link is not None,
        others=link.others if link else StepCounts(),
    )
    algorithm, data, environment = build_parts(config, run)
    prepare(algorithm, config)
    if hardware.cuda_graph:
        algorithm.captured = graphs.CapturedStep()
    ours.prepare(algorithm)
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
