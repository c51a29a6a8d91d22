"""Resuming a sweep: which overrides its jobs had, and which may be others now."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from downpour.config import ConfigError, key_of
from downpour.resume import ANEW, may_change


def typed_before(directory: str, arguments: Sequence[str]) -> list[str]:
    """The overrides that `-m resume_sweep=DIR` leaves out: those that the sweep was started with.

    What a resumed run may change (its length, its hardware), a resumed sweep may, and the launcher.

    Args:
        directory: DIR.
        arguments: the whole command line.

    Raises:
        ConfigError: DIR is not a sweep's, -m is missing, or the overrides would make other jobs of it.
    """
    if not {"-m", "--multirun"} & set(arguments):
        raise ConfigError("resume_sweep", directory, "needs -m; to resume a single run, use resume=DIR")
    try:
        begun: Any = OmegaConf.load(Path(directory) / "multirun.yaml").hydra.overrides
        recorded = [*begun.hydra, *begun.task]
    except (OSError, OmegaConfBaseException, YAMLError, AttributeError, TypeError):
        advice = "is not a sweep directory: it has no multirun.yaml, or not a whole one"
        raise ConfigError("resume_sweep", directory, advice) from None
    before, launcher_before = _parts(recorded)
    now, launcher = _parts([each for each in arguments if not each.startswith("-")])
    # As they are recorded; the order of the others numbers the jobs.
    now.sort(key=lambda each: not key_of(each).startswith("hydra"))
    changes = [each for each in now if each not in before]
    kept = _without(before, changes)
    repeated = [each for each in now if each in before]
    if not _same_jobs(before, kept, changes) or (repeated and repeated != kept):
        advice = f"was started with `{' '.join(before)}`: repeat these settings in this order, or leave them out"
        advice += f"; only the length, the launcher and {', '.join(ANEW)} may be others"
        raise ConfigError("resume_sweep", directory, advice)
    if "hydra/launcher" in map(key_of, launcher):
        launcher_before = []
    return [*([] if repeated else kept), *_without(launcher_before, launcher)]


def _parts(overrides: Sequence[str]) -> tuple[list[str], list[str]]:
    """(what defines the jobs, what says how they are launched), without what differs between a sweep and its resume."""
    kept = [each for each in overrides if key_of(each) not in ("hydra.sweep.dir", "hydra.mode", "resume_sweep")]
    launcher = [each for each in kept if key_of(each).startswith(("hydra/launcher", "hydra.launcher."))]
    return [each for each in kept if each not in launcher], launcher


def _without(overrides: Sequence[str], changes: Sequence[str]) -> list[str]:
    """The overrides whose keys the changes do not name."""
    changed = {key_of(each) for each in changes}
    return [each for each in overrides if key_of(each) not in changed]


def _same_jobs(before: Sequence[str], kept: Sequence[str], changes: Sequence[str]) -> bool:
    """Whether the jobs of a sweep keep their numbers, and each can be resumed, with these changes."""
    touched = OverridesParser.create().parse_overrides([*changes, *(each for each in before if each not in kept)])
    return all(may_change(key_of(each)) for each in changes) and not any(o.is_sweep_override() for o in touched)
