"""Initializing from another run's weights, and freezing parameters."""

import logging
from collections.abc import Mapping, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import torch
from torch import nn

from downpour.checkpoints import newest_whole
from downpour.config import ConfigError, nearest

log = logging.getLogger(__name__)


def prepare(module: nn.Module, config: Mapping[str, Any]) -> None:
    """Apply `init_from` and `freeze`; a resumed run has weights of its own, but its parameters stay frozen.

    Raises:
        ConfigError: see `take`, `freeze`.
    """
    if config.get("init_from") and not config.get("resume"):
        take(module, Path(config["init_from"]))
    freeze(module, config.get("freeze") or [])


def take(module: nn.Module, directory: Path) -> list[str]:
    """Copy the weights of a run's newest checkpoint whose names and shapes match; log the others.

    Returns:
        Names of the copied weights.

    Raises:
        ConfigError: not a run, or no weights match.
    """
    if not directory.is_dir():
        raise ConfigError("init_from", directory, "there is no such run directory")
    path, content = newest_whole(directory)
    source, own = content["state_dict"], module.state_dict()
    fits = [name for name in own if name in source and source[name].shape == own[name].shape]
    if not fits:
        raise ConfigError("init_from", directory, "has no weight that matches one of this model by name and shape")
    with torch.no_grad():
        for name in fits:
            own[name].copy_(source[name])
    for name in own:
        if name in source and name not in fits:
            log.info("init_from: skipped %s: %s there, %s here", name, list(source[name].shape), list(own[name].shape))
        elif name not in source:
            log.info("init_from: skipped %s: not in the checkpoint", name)
    log.info("init_from: loaded %d of %d weights from %s: %s", len(fits), len(own), path, ", ".join(fits))
    return fits


def freeze(module: nn.Module, patterns: Sequence[str]) -> None:
    """Freeze the parameters whose names match one of `patterns` (`network.layers.0.*`).

    Raises:
        ConfigError: a pattern matches none, or no trainable parameter remains.
    """
    names = [name for name, _ in module.named_parameters()]
    for pattern in patterns:
        if not any(fnmatch(name, pattern) for name in names):
            raise ConfigError("freeze", pattern, f"matches no parameter{nearest(pattern, names)}")
    for name, parameter in module.named_parameters():
        if any(fnmatch(name, pattern) for pattern in patterns):
            parameter.requires_grad_(False)
            log.info("frozen: %s", name)
    if patterns and not any(parameter.requires_grad for parameter in module.parameters()):
        raise ConfigError("freeze", list(patterns), "leaves nothing to learn")
