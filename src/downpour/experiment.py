"""From a configuration to a trained policy: validate, build, fit. The only module that knows all the others."""

import contextlib
import logging
import random
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Trainer

from downpour import directory as directories
from downpour.algorithms.base import Algorithm
from downpour.callbacks.checkpoint import Checkpoint, Stopped, newest_whole
from downpour.callbacks.recorder import Recorder
from downpour.config import ConfigError, NonNegativeInt, PositiveInt, build, check, check_arguments, locate
from downpour.loggers import RunFiles, WandB
from downpour.run import Run, process
from downpour.trainer import Hardware

log = logging.getLogger(__name__)

GROUPS = ("algo", "env", "data", "model", "optimizer", "strategy", "trainer", "logger", "callbacks", "debug")


@dataclass(kw_only=True)
class Settings:
    """The keys that belong to no group."""

    seed: NonNegativeInt
    total_env_steps: PositiveInt
    eval_every: PositiveInt
    eval_episodes: PositiveInt
    resume: str | None


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
        ConfigError: see `downpour.config.check`; or an algorithm and a data module that do not fit.
    """
    settings = check_arguments(Settings, {name: v for name, v in config.items() if name not in GROUPS}, "")
    groups = {name: check(config.get(name) or {}, name) for name in GROUPS}
    groups["debug"] = check_arguments(Debug, groups["debug"], "debug")
    for name in ("algo", "data", "trainer"):
        if "_target_" not in groups[name]:
            raise ConfigError(message=f"{name}._target_ is missing: nothing says what is to be built; choose a {name}=")
    algorithm: Any = locate(groups["algo"]["_target_"], "algo")
    data: Any = locate(groups["data"]["_target_"], "data")
    if data.stream not in algorithm.learns_from:
        options = " or ".join(f"data={name}" for name in algorithm.learns_from)
        raise ConfigError("data", data.stream, f"{algorithm.__name__} learns from {options}")
    build(groups["trainer"])  # says what this machine lacks
    return {**settings, **groups}


def build_parts(config: Mapping[str, Any], run: Run) -> tuple[Algorithm, Any, Any]:
    """(algorithm, data module, environment) of a checked configuration.

    Initial weights follow `seed` and are the same on all ranks; all that a rank draws afterwards follows `seed + rank`.
    """
    environment = build(config["env"]) if config["env"] else None
    data = build(config["data"], environment=environment, run=run)
    algorithm = build_algorithm(config, data.spaces)
    seed_all(int(run.seed_sequence(5).generate_state(1)[0]))
    return algorithm, data, environment


def build_algorithm(config: Mapping[str, Any], spaces: Mapping[str, Any]) -> Algorithm:
    """The algorithm of a checked configuration, for the spaces that its data module or environment has."""
    seed_all(config["seed"])
    return build(
        config["algo"],
        **spaces,
        network=lambda input_space, outputs: build(config["model"], input_space=input_space, outputs=outputs),
        optimizer=lambda parameters: build(config["optimizer"], params=parameters),
    )


def seed_all(seed: int) -> None:
    """Seed the generators that libraries draw from when they are given none."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def fit(config: Mapping[str, Any], directory: Path) -> float | None:
    """Train in this process, one of the ranks of the run.

    Returns:
        The mean return of the last evaluation.

    Raises:
        ConfigError, TrainingError: with the message to show.
        Stopped: a signal asked for it; the run is saved.
    """
    rank, world_size = process()
    hardware: Hardware = build(config["trainer"])
    if hardware.threads:
        torch.set_num_threads(hardware.threads)
    run = Run(
        directory=directory,
        seed=config["seed"],
        total_steps=config["total_env_steps"],
        eval_every=config["eval_every"],
        eval_episodes=config["eval_episodes"],
        rank=rank,
        world_size=world_size,
    )
    algorithm, data, environment = build_parts(config, run)
    callbacks = [build(node, run=run, environment=environment) for node in config["callbacks"].values()]
    loggers = [RunFiles(directory, data.step_name)]
    loggers += [build(node, run=run, config=config, step_name=data.step_name) for node in config["logger"].values()]
    strategy = build(config["strategy"]) if config["strategy"] else "auto"
    trainer = Trainer(
        accelerator=hardware.accelerator,
        devices=hardware.devices,
        num_nodes=hardware.nodes,
        strategy=strategy,
        **hardware.arithmetic(strategy),
        deterministic=hardware.deterministic,
        detect_anomaly=config["debug"]["detect_anomaly"],
        callbacks=callbacks,
        logger=loggers,
        max_epochs=-1,  # the stream ends the run
        num_sanity_val_steps=0,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        default_root_dir=directory,
    )
    checkpoint = None
    if config["resume"]:
        checkpoint, content = newest_whole(directory)
        check_origin(content, algorithm, checkpoint)
        log.info("resuming from %s at %s %d", checkpoint, data.step_name, content["step"])
    begin, before = time.perf_counter(), content["step"] if checkpoint else 0
    status = "failed"
    try:
        trainer.fit(algorithm, datamodule=data, ckpt_path=checkpoint, weights_only=True)
        status = "finished"
    except Stopped:
        status = "stopped"
        raise
    finally:
        try:
            if trainer.is_global_zero:
                summary = summarize(config, directory, trainer, time.perf_counter() - begin, before, status)
                directories.write_summary(directory, summary)
        finally:
            for logger in trainer.loggers:
                with contextlib.suppress(Exception):
                    logger.finalize("success" if status == "finished" else "failed")
                    if isinstance(logger, WandB):
                        logger.close(status)
    value = trainer.callback_metrics.get("eval/return_mean")
    return None if value is None else float(value)


def check_origin(content: Mapping[str, Any], algorithm: Algorithm, path: Path) -> None:
    """Refuse a checkpoint that another algorithm wrote.

    Raises:
        ConfigError: it did.
    """
    mine = f"{type(algorithm).__module__}.{type(algorithm).__qualname__}"
    if content["algorithm"] != mine:
        raise ConfigError("algo", mine, f"{path} was written by {content['algorithm']}")


def summarize(
    config: Mapping[str, Any], directory: Path, trainer: Trainer, seconds: float, before: int, status: str
) -> dict[str, Any]:
    """What summary.json says of a run."""
    data: Any = trainer.datamodule  # type: ignore[attr-defined]
    old = directories.read_summary(directory) if before else {}
    metrics = {name: float(v) for name, v in trainer.callback_metrics.items() if name.startswith("eval/")}
    saver = next((c for c in trainer.callbacks if isinstance(c, Checkpoint)), None)  # type: ignore[attr-defined]
    recorder = next((c for c in trainer.callbacks if isinstance(c, Recorder)), None)  # type: ignore[attr-defined]
    return {
        "status": status,
        **(metrics or {name: v for name, v in old.items() if name.startswith("eval/")}),
        "eval/episodes": config["eval_episodes"],
        "best/return_mean": saver.best if saver else None,
        f"best/{data.step_name}": saver.best_step if saver else None,
        data.step_name: data.step,
        "gradient_steps": trainer.lightning_module.gradient_steps,
        "episodes": recorder.episodes if recorder else None,
        "wall_seconds": seconds + old.get("wall_seconds", 0.0),
        f"{data.step_name}_per_second": (data.step - before) / seconds,
        "seed": config["seed"],
        "processes": trainer.world_size,
        "git_commit": directories.git_commit(),
        "versions": directories.versions(),
    }
