"""What a resumed run takes from its directory, and what it may be told anew."""

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override

from downpour import directory as directories
from downpour.config import ConfigError, nearest, show
from downpour.experiment import length_key

ANEW = ("trainer", "logger", "callbacks", "debug")  # groups that decide how a run is computed and watched, not what
FIXED = ("seed", "resume")


def resumed(directory: Path, composed: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """The configuration to go on with: the run's own, but for what the command line says of its length, its hardware
    and what watches it.

    Args:
        directory: the run's.
        composed: what the command line alone would have been.
        overrides: of that command line.

    Raises:
        ConfigError: not a run; a finished one; or an override that would make it another run.
    """
    own = directories.read_config(directory, "resume")
    config = copy.deepcopy(own)
    for override in OverridesParser.create().parse_overrides(list(overrides)):
        if override.key_or_group != "resume":
            _apply(override, config, composed)
    config["resume"] = str(directory)
    before, now = _processes(own), _processes(config)
    if now != before:
        advice = f"{now} process(es), but the run was trained by {before}; resume it with as many"
        raise ConfigError("trainer.devices", config["trainer"].get("devices"), advice)
    length = length_key(own)
    if directories.read_summary(directory).get("status") == "finished" and config[length] <= own[length]:
        advice = f"the run is finished; {length}={2 * own[length]} would go on with it"
        raise ConfigError("resume", directory, advice)
    return config


def _apply(override: Override, config: dict[str, Any], composed: Mapping[str, Any]) -> None:
    key, value = override.key_or_group, override.value()
    group = key.partition(".")[0]
    if override.is_delete() or (group not in ANEW and not (key in config and not isinstance(config[key], dict))):
        free = ", ".join(name for name, own in config.items() if not isinstance(own, dict) and name not in FIXED)
        advice = f"a resumed run keeps its own; only {free} and {', '.join(ANEW)} may change. Leave it out"
        raise ConfigError(key, "" if override.is_delete() else value, advice)
    if key in FIXED:
        raise ConfigError(key, show(value), "a resumed run keeps its own; leave it out")
    if key in ANEW:
        config[key] = copy.deepcopy(composed[key])
        if key == "trainer":
            config["strategy"] = copy.deepcopy(composed["strategy"])
        return
    node: Any = config
    *path, last = key.split(".")
    for name in path:
        node = node.get(name) if isinstance(node, dict) else None
    if not isinstance(node, dict) or (last not in node and not override.is_add()):
        known = [f"{'.'.join(path)}.{name}" for name in node] if isinstance(node, dict) else list(config)
        raise ConfigError(key, value, f"there is no such key in the run{nearest(key, known)}")
    node[last] = value


def _processes(config: Mapping[str, Any]) -> int:
    trainer = config["trainer"]
    return int(trainer.get("devices", 1)) * int(trainer.get("nodes", 1))
