"""Hydra's optional launchers and sweepers, and resuming a sweep."""

import contextlib
import logging
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from downpour.config import ConfigError, how_to_install, nearest

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


def typed_before(arguments: Sequence[str]) -> list[str]:
    """The overrides that `-m resume_sweep=DIR` leaves out: those that the sweep was started with.

    Raises:
        ConfigError: DIR is not a sweep's, -m is missing, or the overrides differ from those of the sweep; only the
            launcher may differ.
    """
    settings = [each for each in arguments if not each.startswith("-")]
    given = [each.partition("=")[2] for each in settings if each.startswith("resume_sweep=")]
    directory = given[0] if given else "null"
    if directory in ("", "null"):
        return []
    if not {"-m", "--multirun"} & set(arguments):
        raise ConfigError("resume_sweep", directory, "needs -m; to resume a single run, use resume=DIR")
    try:
        begun: Any = OmegaConf.load(Path(directory) / "multirun.yaml").hydra.overrides
    except (OSError, OmegaConfBaseException, YAMLError):
        raise ConfigError("resume_sweep", directory, "is not a sweep directory: it has no multirun.yaml") from None
    before, launcher_before = _parts([*begun.hydra, *begun.task])
    now, launcher = _parts(settings)
    now.sort(key=lambda each: not each.startswith("hydra"))  # as they are recorded; the others' order numbers the jobs
    if now and now != before:
        advice = (
            f"was started with `{' '.join(before)}`: repeat these settings in this order, or give resume_sweep alone"
        )
        raise ConfigError("resume_sweep", directory, advice)
    replaced = {each.partition("=")[0] for each in launcher}
    if "hydra/launcher" in replaced:
        launcher_before = []
    return [*(() if now else before), *(o for o in launcher_before if o.partition("=")[0] not in replaced)]


def _parts(overrides: Sequence[str]) -> tuple[list[str], list[str]]:
    """(what defines the jobs, what says how they are launched), without what differs between a sweep and its resume."""
    own, launcher = ("hydra.sweep.dir=", "hydra.mode=", "resume_sweep="), ("hydra/launcher=", "hydra.launcher.")
    kept = [each for each in overrides if not each.startswith(own)]
    return [o for o in kept if not o.startswith(launcher)], [o for o in kept if o.startswith(launcher)]


def missing(group: str, name: str) -> str | None:
    """Why an option of Hydra's own groups was not found (a missing extra); None for other groups."""
    if group not in OPTIONAL:
        return None
    if name in OPTIONAL[group]:
        return f"{group}={name}: its package is not installed; {how_to_install('sweep')}"
    options = ["basic", *OPTIONAL[group]]
    return f"{group}={name}: there is no such option{nearest(name, options)} (there are: {', '.join(options)})"
