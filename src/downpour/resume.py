"""What a resumed run keeps of its configuration, and what may be overridden."""

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override

from downpour import directory as directories
from downpour.building import length_key
from downpour.composition import groups
from downpour.config import ConfigError, class_of, nearest, show

# Groups that affect how a run is computed and logged, not its results.
ANEW = ("trainer", "strategy", "logger", "callbacks", "debug")
FIXED = ("seed", "resume", "resume_sweep", "init_from", "freeze")


def resumed(directory: Path, composed: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """The configuration to go on with: the run's own, but for what the command line says of its length, its hardware
    and what watches it.

    Args:
        directory: the run's.
        composed: the configuration of the command line alone.
        overrides: of that command line.

    Raises:
        ConfigError: not a run; a finished one; or an override that would change its results.
    """
    own = directories.read_config(directory, "resume")
    config = copy.deepcopy(own)
    for override in OverridesParser.create().parse_overrides(list(overrides)):
        if override.key_or_group != "resume" and not _says_nothing_new(override, own, composed):
            _apply(override, config, composed)
    config["resume"] = str(directory)
    before, now = _processes(own), _processes(config)
    data = class_of(own, "data")
    if now != before and not data.any_ranks:
        advice = f"{now} process(es), but the run was trained by {before}; resume it with the same number"
        raise ConfigError("trainer.devices", config["trainer"].get("devices"), advice)
    length = length_key(own)
    if directories.read_summary(directory).get("status") == "finished" and not longer(config, own):
        advice = f"the run is finished; to train for longer, add for example {length}={2 * own[length]}"
        raise ConfigError("resume", directory, advice)
    return config


def longer(config: Mapping[str, Any], own: Mapping[str, Any]) -> bool:
    """Whether a run is to make more steps than `own`, its configuration so far, says.

    Raises:
        ConfigError: the new length is no number.
    """
    length = length_key(own)
    try:
        return config[length] > own[length]
    except TypeError:
        raise ConfigError(length, show(config[length]), "must be a number of steps") from None


def _says_nothing_new(override: Override, own: Mapping[str, Any], composed: Mapping[str, Any]) -> bool:
    """Whether the run has this already: its own command line with resume=DIR added must work."""
    group, *path = override.key_or_group.split(".")
    if group not in own and group not in composed:  # such as an experiment, which can set any key
        groups = [name for name, node in own.items() if isinstance(node, dict) and name not in ANEW]
        return all(_same(own[name], composed.get(name)) for name in groups)
    mine, theirs = own.get(group), composed.get(group)
    for name in path:
        mine = mine.get(name) if isinstance(mine, dict) else None
        theirs = theirs.get(name) if isinstance(theirs, dict) else None
    return _same(mine, theirs)


def _same(mine: Any, theirs: Any) -> bool:
    if isinstance(mine, dict) and isinstance(theirs, dict):
        return mine.keys() == theirs.keys() and all(_same(mine[name], theirs[name]) for name in mine)
    if isinstance(mine, list | tuple) and isinstance(theirs, list | tuple):
        return len(mine) == len(theirs) and all(map(_same, mine, theirs))
    return bool(mine == theirs) or (not mine and not theirs)


def may_change(key: str) -> bool:
    """Whether a resumed run may have another value of a key, or another option of a group."""
    group, _, below = key.partition(".")
    return group in ANEW or not (below or key in FIXED or key in groups())


def _apply(override: Override, config: dict[str, Any], composed: Mapping[str, Any]) -> None:
    key, value = override.key_or_group, override.value()
    if override.is_delete() or not may_change(key):
        settings = [name for name, own in config.items() if not isinstance(own, dict) and name not in FIXED]
        advice = f"cannot change in a resumed run (only {', '.join([*settings, *ANEW])} can)"
        raise ConfigError(key, show(value), advice)
    if key in ANEW:
        config[key] = copy.deepcopy(composed.get(key) or {})
        if key == "trainer":
            config["strategy"] = copy.deepcopy(composed["strategy"])
        return
    node: Any = config
    *path, last = key.split(".")
    for name in path:
        node = node.get(name) if isinstance(node, dict) else None
    if not isinstance(node, dict) or (last not in node and not override.is_add()):
        known = [f"{'.'.join(path)}.{name}" for name in node] if isinstance(node, dict) else list(config)
        raise ConfigError(key, show(value), f"there is no such key in the run{nearest(key, known)}")
    node[last] = value


def _processes(config: Mapping[str, Any]) -> int:
    trainer = config["trainer"]
    return int(trainer.get("devices", 1)) * int(trainer.get("nodes", 1))
