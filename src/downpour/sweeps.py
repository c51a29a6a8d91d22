"""Hydra's optional launchers and sweepers."""

import contextlib
import logging
import os
from dataclasses import replace
from pathlib import Path

from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins

from downpour.config import how_to_install, nearest

OPTIONAL = {"hydra/launcher": ["joblib", "submitit_local", "submitit_slurm"], "hydra/sweeper": ["optuna"]}


def register() -> None:
    """Let a launcher's processes import this package, and adapt two plugins to this project.

    `hydra/launcher=joblib` becomes `parallel_jobs.Launcher`; `hydra/sweeper=optuna` gets other defaults, which a YAML
    file of that name could not give: Hydra refuses to merge one with the plugin's own.
    """
    source = str(Path(__file__).resolve().parents[1])
    paths = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    os.environ["PYTHONPATH"] = os.pathsep.join([source, *(path for path in paths if path and path != source)])
    Plugins.instance()  # finding the plugins registers their own defaults
    with contextlib.suppress(ImportError):
        from downpour.parallel_jobs import JoblibLauncher, Launcher

        classes = Plugins.instance().class_name_to_class  # Hydra refuses a `_target_` outside hydra_plugins
        classes[f"{JoblibLauncher.__module__}.{JoblibLauncher.__name__}"] = Launcher
    logging.getLogger("alembic").setLevel(logging.WARNING)  # Optuna's storage logs its schema set-up
    try:
        from hydra_plugins.hydra_optuna_sweeper.config import Direction, OptunaSweeperConf
    except ImportError:
        return
    node = replace(
        OptunaSweeperConf(),
        direction=Direction.maximize,  # of the value a run returns: its last evaluation
        n_jobs=1,  # one at a time: each suggestion then uses all results before it
        max_failure_rate=1.0,  # a diverged run is information for the search; it must not end it
    )
    ConfigStore.instance().store(group="hydra/sweeper", name="optuna", node=node, provider="downpour")


def missing(group: str, name: str) -> str | None:
    """Why an option of Hydra's own groups was not found (a missing extra); None for other groups."""
    if group not in OPTIONAL:
        return None
    if name in OPTIONAL[group]:
        return f"{group}={name}: its package is not installed; {how_to_install('sweep')}"
    options = ["basic", *OPTIONAL[group]]
    return f"{group}={name}: there is no such option{nearest(name, options)} (there are: {', '.join(options)})"
