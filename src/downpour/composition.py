"""Composes configurations, and lists the groups, options and keys that there are."""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

CONF = Path(__file__).resolve().parents[2] / "conf"

OmegaConf.register_new_resolver("or", lambda first, second: first or second, replace=True)  # ${or:...} in conf/


@functools.cache  # it reads the folders
def groups() -> list[str]:
    """The config groups, in alphabetical order."""
    folders = (p.parent.relative_to(CONF).as_posix() for p in CONF.rglob("*.yaml"))
    return sorted({name for name in folders if name != "." and not name.startswith("hydra")})


def options_of(group: str) -> list[str]:
    """The options of a group; files that start with _ are parts of others."""
    return sorted(p.stem for p in (CONF / group).glob("*.yaml") if not p.stem.startswith("_"))


def composed(overrides: Sequence[str]) -> DictConfig:
    """The configuration, `hydra` included, as a command line would have it; nothing is run."""
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("train", overrides=list(overrides), return_hydra_config=True)


def known_keys(overrides: Sequence[str]) -> list[str]:
    """The groups, and every dotted key of the configuration with the options that the overrides choose."""
    chosen = [o for o in overrides if o.partition("=")[0] in groups() and "," not in o]
    try:
        config: Any = OmegaConf.to_container(composed(chosen))
    except (HydraException, OmegaConfBaseException):
        return groups()
    config.pop("hydra", None)
    return groups() + dotted(config)


def dotted(node: Any, prefix: str = "") -> list[str]:
    """Every key in nested dictionaries, in dotted form."""
    if not isinstance(node, dict):
        return []
    return [k for name, v in node.items() for k in (f"{prefix}{name}", *dotted(v, f"{prefix}{name}."))]
