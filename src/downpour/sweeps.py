"""Hydra's optional launchers and sweepers, made to fit."""

import logging
import os
from dataclasses import replace
from pathlib import Path

from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins

OPTIONAL = {"hydra/launcher": ["joblib", "submitit_local", "submitit_slurm"], "hydra/sweeper": ["optuna"]}


def register() -> None:
    """Let a launcher's processes import this package, and give `hydra/sweeper=optuna` defaults that fit this project.

    A YAML file of that name could not: Hydra refuses to merge one with the plugin's own.
    """
    source = str(Path(__file__).resolve().parents[1])
    paths = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    os.environ["PYTHONPATH"] = os.pathsep.join([source, *(path for path in paths if path and path != source)])
    Plugins.instance()  # finding the plugins registers their own defaults
    logging.getLogger("alembic").setLevel(logging.WARNING)  # of Optuna's database; it tells what it sets up
    try:
        from hydra_plugins.hydra_optuna_sweeper.config import Direction, OptunaSweeperConf
    except ImportError:
        return
    node = replace(
        OptunaSweeperConf(),
        direction=Direction.maximize,  # of what a run returns: its last evaluation
        n_jobs=1,  # suggested at once: each suggestion then knows all results before it
        max_failure_rate=1.0,  # a diverged run tells where not to search; it must not end the search
    )
    ConfigStore.instance().store(group="hydra/sweeper", name="optuna", node=node, provider="downpour")


def missing(group: str, name: str) -> str | None:
    """Why an option of Hydra's own groups was not found; None for other groups."""
    if group not in OPTIONAL:
        return None
    from downpour.config import nearest

    if name in OPTIONAL[group]:
        return f"{group}={name}: its package is not installed; pip install 'downpour[sweep]'"
    options = ["basic", *OPTIONAL[group]]
    return f"{group}={name}: there is no such option{nearest(name, options)} (there are: {', '.join(options)})"
