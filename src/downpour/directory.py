"""The run directory: its files and its lock."""

import contextlib
import fcntl
import json
import logging
import os
import platform
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import yaml
from tqdm import tqdm

from downpour.config import ConfigError, check, key_of, targets, untrusted
from downpour.failures import Failed

log = logging.getLogger(__name__)

CONFIG, CHOICES, SUMMARY, LOG, LOCK = "config.yaml", "choices.yaml", "summary.json", "train.log", ".lock"
PACKAGES = ("downpour", "torch", "lightning", "torchrl", "tensordict", "gymnasium", "hydra-core", "numpy")
IRRELEVANT = (  # Lightning's warnings that do not apply here
    "The number of training batches .* is smaller than the logging interval",
    "Your `IterableDataset` has `__len__` defined",
    "`isinstance.treespec, LeafSpec.` is deprecated",
)


def write_text(path: Path, text: str) -> None:
    """Replace a file atomically: readers (and crashes) see the old or the new content."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    try:
        partial.write_text(text, encoding="utf-8")
        os.replace(partial, path)
    except OSError:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        raise


def write_config(directory: Path, config: Mapping[str, Any], choices: Mapping[str, Any]) -> None:
    """config.yaml (resolved, replayable) and choices.yaml (which option of each group, which overrides)."""
    directory.mkdir(parents=True, exist_ok=True)
    write_text(directory / CONFIG, yaml.safe_dump(dict(config), sort_keys=False))
    write_text(directory / CHOICES, yaml.safe_dump(dict(choices), sort_keys=False))


def keep_settings(directory: Path, config: Mapping[str, Any]) -> None:
    """Record the settings, such as the length, that a resumed run has changed: the next `resume=` goes on with them.

    Groups (trainer, logger) are not recorded: they are those of the command line, or else the run's first.
    """
    own, summary = yaml.safe_load((directory / CONFIG).read_text()), read_summary(directory)
    settings = [name for name, value in own.items() if name != "resume" and not isinstance(value, dict)]
    changed = {name: config[name] for name in settings if config[name] != own[name]}
    if not changed:
        return
    if summary.get("status") == "finished":
        write_summary(directory, {**summary, "status": "stopped"})
    choices = yaml.safe_load((directory / CHOICES).read_text())
    typed = choices["overrides"]
    overrides = [f"{key}={changed[key]}" if (key := key_of(each)) in changed else each for each in typed]
    write_config(directory, {**own, **changed}, {**choices, "overrides": overrides})


def read_config(directory: Path, key: str) -> dict[str, Any]:
    """The validated configuration of a run.

    Args:
        key: the setting that named it, for messages (`resume`, `run`).

    Raises:
        ConfigError: not a run directory, or one whose configuration is not trusted.
    """
    path = directory / CONFIG
    if not path.is_file():
        raise ConfigError(key, directory, f"is not a run directory: it has no {CONFIG}")
    try:
        config = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(key, directory, f"{CONFIG} cannot be read ({str(error).splitlines()[0]})") from None
    if not isinstance(config, dict) or "algo" not in config:
        raise ConfigError(key, directory, f"{CONFIG} is not the configuration of a run")
    for target in targets(config):
        if reason := untrusted(target):
            raise ConfigError(key, directory, f"its configuration would build {target}, {reason}")
    module, colon, _ = str((config.get("env") or {}).get("id", "")).rpartition(":")
    if colon and (reason := untrusted(module)):
        raise ConfigError(key, directory, f"its environment would import {module}, {reason}")
    return check(config)


def read_summary(directory: Path) -> dict[str, Any]:
    """summary.json, or nothing if the run has not ended yet."""
    try:
        return json.loads((directory / SUMMARY).read_text())
    except (OSError, ValueError):
        return {}


def write_summary(directory: Path, summary: Mapping[str, Any]) -> None:
    """Write summary.json."""
    write_text(directory / SUMMARY, json.dumps(summary, indent=2) + "\n")


def note_failure(directory: Path, failed: Failed) -> None:
    """Record in summary.json why a run failed."""
    summary = read_summary(directory)
    with contextlib.suppress(OSError):  # a full disk may be the cause
        if summary.get("status") in ("running", "failed") and not failed.stopped:
            write_summary(directory, {**summary, "status": "failed", "error": str(failed).splitlines()[0]})


@contextmanager
def locked(directory: Path, *, shared: bool = False) -> Iterator[Callable[[], None]]:
    """Lock a run directory for writing; the lock is released when the process dies.

    A launcher shares its lock with the rank that writes, so that it is held until both exit.

    Args:
        shared: join a holder that has called the yielded function, instead of requiring exclusive access.

    Raises:
        ConfigError: another process holds it.
    """
    directory.mkdir(parents=True, exist_ok=True)
    with open(directory / LOCK, "a") as file:
        try:
            fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            advice = "another process is writing to it; wait for it or stop it"
            raise ConfigError("hydra.run.dir", directory, advice) from None
        except OSError as error:  # some network file systems have no locks
            log.warning("%s cannot be locked (%s): make sure that nothing else writes to it", directory, error.strerror)

        def share() -> None:
            with contextlib.suppress(OSError):
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)

        yield share


def log_to(directory: Path | None) -> None:
    """Send messages to the terminal and, given a directory, to its train.log (where the progress bar never writes)."""
    root = logging.getLogger()
    for handler in list(root.handlers):
        root.removeHandler(handler)
        handler.close()
    root.setLevel(logging.INFO)
    terminal = _Terminal()
    terminal.setFormatter(logging.Formatter("%(message)s"))
    terminal.addFilter(lambda record: record.name.startswith("downpour"))
    root.addHandler(terminal)
    if directory is not None:
        file = _Log(directory / LOG)
        file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        root.addHandler(file)
    logging.captureWarnings(True)
    for irrelevant in IRRELEVANT:
        warnings.filterwarnings("ignore", irrelevant)
    for name in ("lightning.pytorch", "lightning.fabric", "torchrl"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
        logger.setLevel(logging.WARNING)


class _Terminal(logging.Handler):
    """Writes above the progress bar; a closed terminal is not an error."""

    def emit(self, record: logging.LogRecord) -> None:
        with contextlib.suppress(OSError):
            tqdm.write(self.format(record), file=sys.stderr)


class _Log(logging.FileHandler):
    """A full disk is reported once, elsewhere."""

    def handleError(self, record: logging.LogRecord) -> None:
        if not isinstance(sys.exc_info()[1], OSError):
            super().handleError(record)


def provenance() -> dict[str, Any]:
    """The commit and package versions of a run."""
    return {"git_commit": git_commit(), "versions": versions()}


def git_commit() -> str | None:
    """The commit of the code that runs, with `+` where files differ from it."""
    here = Path(__file__).parent
    try:
        head = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, timeout=10, check=True
        )
        changed = subprocess.run(
            ["git", "status", "--porcelain", "--untracked-files=no"],
            cwd=here,
            capture_output=True,
            text=True,
            timeout=10,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return head.stdout.strip() + ("+" if changed.stdout.strip() else "")


def versions() -> dict[str, str]:
    """Versions of Python and the main packages."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
