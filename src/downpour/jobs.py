"""Runs one job: new or resumed, in this process or in several."""

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch.distributed as dist

from downpour import directory as directories
from downpour.config import ConfigError, build, key_of
from downpour.experiment import fit
from downpour.failures import BAD_INPUT, Failed, explain, has_trained, last_checkpoint
from downpour.launch import launcher
from downpour.resume import longer, may_change, resumed
from downpour.run import process
from downpour.trainer import Hardware
from downpour.validation import check_room, validate
from downpour.worker import take_part

log = logging.getLogger(__name__)


def run(
    config: Mapping[str, Any], directory: Path, overrides: Sequence[str], choices: Mapping[str, str]
) -> float | None:
    """Train what `config` says, in `directory`.

    Returns:
        The last value of the metric that selects the best checkpoint; for sweepers.

    Raises:
        ConfigError: nothing is written yet.
        Failed: training did not finish; chained to its cause if that is known in this process.
    """
    overrides = [each for each in overrides if not each.startswith("resume_sweep=")]
    if (config.get("resume_sweep") or may_be_requeued()) and (directory / directories.CONFIG).exists():
        own = directories.read_config(directory, "resume_sweep")
        _check_job(directory, overrides)
        summary = directories.read_summary(directory)
        if summary.get("status") == "finished" and not longer(config, own):
            log.info("%s is finished", directory)
            return summary.get(monitored(config))
        config = {**config, "resume": str(directory)}
    config = {**config, "resume_sweep": None}
    if config["resume"]:
        directory = Path(config["resume"]).resolve()
        config = resumed(directory, config, overrides)
    config = validate(config)
    hardware: Hardware = build(config["trainer"])
    rank, world_size = process()
    launch = launcher(config, hardware)
    if world_size is not None:  # an external torchrun started this process and the others
        hardware.check_world(world_size)
    if launch:
        check_room(config, directory, hardware)
    if rank or hardware.node_rank:
        launch(config, directory, hardware) if launch else take_part(config, directory)
        return None
    with directories.locked(directory) as share:
        if config["resume"]:
            directories.keep_settings(directory, config)
        else:
            if (directory / directories.CONFIG).exists():
                advice = "already contains a run; choose another directory, or resume it with resume=DIR"
                raise ConfigError("hydra.run.dir", directory, advice)
            directories.write_config(directory, config, {"overrides": list(overrides), "choices": dict(choices)})
        try:
            if launch:
                share()
                launch(config, directory, hardware)
            elif world_size:
                share()
                take_part(config, directory)
            else:
                directories.log_to(directory)
                fit(config, directory)
                if dist.is_initialized():  # a strategy for several processes, in one
                    dist.destroy_process_group()
        except (Exception, KeyboardInterrupt) as error:
            failed = explain(error, directory)
            if failed.code == BAD_INPUT and not config["resume"] and has_trained(directory):
                failed = Failed(BAD_INPUT, f"{failed}\n{last_checkpoint(directory)}")
            directories.note_failure(directory, failed)
            raise failed from (None if error is failed else error)
        finish(directory)
    return directories.read_summary(directory).get(monitored(config))


def may_be_requeued() -> bool:
    """Whether a cluster may have started this job before: SLURM says so; submitit repeats jobs that reach their time
    limit, and does not say."""
    return "SUBMITIT_FOLDER" in os.environ or int(os.environ.get("SLURM_RESTART_COUNT") or 0) > 0


def _check_job(directory: Path, overrides: Sequence[str]) -> None:
    """
    Raises:
        ConfigError: the directory has another job; the sweep's experiment has changed since.
    """
    from downpour.analysis.runs import RunDirectory

    recorded = RunDirectory(directory).overrides
    before, now = (sorted(each for each in some if not may_change(key_of(each))) for some in (recorded, overrides))
    if recorded and before != now:
        advice = f"was job `{' '.join(before)}`, now it is `{' '.join(now)}`: the configuration has changed"
        raise ConfigError("hydra.run.dir", directory, advice)


def monitored(config: Mapping[str, Any]) -> str:
    """The metric that selects the best checkpoint."""
    return config["callbacks"].get("checkpoint", {}).get("monitor", "eval/return_mean")


def finish(directory: Path) -> None:
    """Draw the learning curve and the other figures; a figure must not fail a run that has finished."""
    from downpour.analysis.configurations import group
    from downpour.analysis.curves import learning_curve
    from downpour.analysis.extras import draw_extras
    from downpour.analysis.runs import RunDirectory

    try:
        learning_curve(directory)
        draw_extras(group([RunDirectory(directory)]), directory)
    except Exception as error:
        log.warning("the figures could not be drawn: %s", error)
