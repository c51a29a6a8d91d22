"""Finds a run's checkpoints and loads the trained algorithm from one."""

import logging
import textwrap
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch.distributed as dist

from downpour.algorithms.base import Algorithm
from downpour.building import build_algorithm, build_group
from downpour.checkpoints import BEST, LAST, PREVIOUS, any_checkpoint, inspect, newest_whole, settle
from downpour.config import ConfigError
from downpour.directory import read_config
from downpour.run import process

log = logging.getLogger(__name__)


def load_trained(
    directory: Path, config: Mapping[str, Any], spaces: Mapping[str, Any], first: str, key: str
) -> tuple[Algorithm, Path, int]:
    """The algorithm of a run with the weights of a checkpoint, the checkpoint's path, and the step it was saved at.

    Args:
        config: the run's own, checked.
        first: the checkpoint to prefer.
        key: the setting that named the directory, for messages.

    Raises:
        ConfigError: no readable checkpoint, or one of another algorithm.
    """
    names = [first, *(name for name in (LAST, PREVIOUS, BEST) if name != first)]
    if not any((directory / "checkpoints" / name).exists() for name in names):
        raise ConfigError(key, directory, "has no checkpoint yet")
    if not (directory / "checkpoints" / first).exists():
        log.warning("there is no %s yet: taking another", directory / "checkpoints" / first)
    path, content = newest_whole(directory, names)
    algorithm = build_algorithm(config, spaces, partial(policy_of, spaces=spaces))
    check_origin(content, algorithm, path)
    try:
        algorithm.on_load_checkpoint(content)
        algorithm.load_state_dict(content["state_dict"])
    except (RuntimeError, KeyError, TypeError) as error:
        reason = textwrap.shorten(str(error), 200, placeholder=" ...")
        raise ConfigError(key, directory, f"{path.name} does not fit config.yaml: {reason}") from None
    return algorithm, path, int(content["step"])


def policy_of(directory: Path, spaces: Mapping[str, Any]) -> Algorithm:
    """The policy in a run's best checkpoint, for an environment with these spaces.

    Raises:
        ConfigError: the run has no policy, or its spaces differ.
    """
    key = "algo.policy"
    config = read_config(directory, key)
    if not config.get("env"):
        raise ConfigError(key, directory, "is a run on a data set: it has no policy")
    theirs = build_group(config, "env")
    for name, space in spaces.items():
        if getattr(theirs, name) != space:
            raise ConfigError(key, directory, f"was trained with {name} {getattr(theirs, name)}, here it is {space}")
    return load_trained(directory, config, spaces, BEST, key)[0]


def find_checkpoint(directory: Path, algorithm: Algorithm) -> Path | None:
    """The checkpoint to resume from; None if the run ended before its first one, and starts again.

    Rank 0 chooses, because the search repairs the directory: every rank must resume from the same one.

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
