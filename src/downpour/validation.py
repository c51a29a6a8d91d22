"""Validates a whole configuration before anything is started."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from downpour import graphs
from downpour.building import build_group, build_schedule, build_strategy, run_of
from downpour.config import (
    ConfigError,
    NonNegativeInt,
    PositiveInt,
    build,
    check,
    check_arguments,
    class_of,
    nearest,
    settings_of,
    show,
)
from downpour.pairing import check_pairing
from downpour.strategies import parallelism
from downpour.trainer import Hardware

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
    """Check a composed configuration against the constructors of what it builds.

    Returns:
        The same with values converted to the annotated types.

    Raises:
        ConfigError: see `downpour.config.check`; or incompatible parts.
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
    algorithm = class_of(groups, "algo")
    data = class_of(groups, "data")
    length = f"total_{data.step_name}"
    if settings.get(length) is None:
        raise ConfigError(length, None, f"data={data.stream} counts {data.step_name}: this is the length of its run")
    if groups["schedule"]:
        build_schedule({**settings, **groups})
    hardware: Hardware = build(groups["trainer"])  # reports what this machine lacks
    parallelism(build_strategy(groups, hardware)).check(algorithm, data, groups)
    graphs.check(hardware, algorithm, groups)
    return {**settings, **groups}


def check_room(config: Mapping[str, Any], directory: Path, hardware: Hardware) -> None:
    """Check that the data of all processes of this node will fit, before any of them is started.

    Raises:
        ConfigError: with what is needed and what would fit.
    """
    data = class_of(config, "data")
    environment = build_group(config, "env") if config["env"] else None
    run = run_of(config, directory, world_size=hardware.world_size)
    data.check_room(settings_of(config["data"]), environment, run, hardware.devices)
