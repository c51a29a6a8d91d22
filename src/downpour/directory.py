"""A run's directory: what lies in it, and who may write there."""

import fcntl
import json
import logging
import os
import platform
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import yaml
from tqdm import tqdm

from downpour.config import TRUSTED, ConfigError, check, targets

CONFIG, CHOICES, SUMMARY, LOG = "config.yaml", "choices.yaml", "summary.json", "train.log"
PACKAGES = ("downpour", "torch", "lightning", "torchrl", "tensordict", "gymnasium", "hydra-core", "numpy")


def write_text(path: Path, text: str) -> None:
    """Replace a file at once: a reader, or a crash, sees the old one or the new one."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text)
    os.replace(partial, path)


def write_config(directory: Path, config: Mapping[str, Any], choices: Mapping[str, Any]) -> None:
    """config.yaml (resolved, replayable) and choices.yaml (which option of each group, which overrides)."""
    directory.mkdir(parents=True, exist_ok=True)
    write_text(directory / CONFIG, yaml.safe_dump(dict(config), sort_keys=False))
    write_text(directory / CHOICES, yaml.safe_dump(dict(choices), sort_keys=False))


def read_config(directory: Path, key: str) -> dict[str, Any]:
    """The checked configuration of a run somebody names.

    Args:
        key: what named it, for messages (`resume`, `run`).

    Raises:
        ConfigError: not a run directory, or one that would build what this project is not made of.
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
        if target.split(".")[0] not in TRUSTED:
            raise ConfigError(
                key, directory, f"its configuration would build {target}, which is not of {', '.join(TRUSTED)}"
            )
    module, colon, _ = str((config.get("env") or {}).get("id", "")).rpartition(":")
    if colon and module.split(".")[0] not in TRUSTED:
        raise ConfigError(
            key, directory, f"its environment would import {module}, which is not of {', '.join(TRUSTED)}"
        )
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


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Hold the right to write in a run directory; the system lets go of it when the process dies.

    Raises:
        ConfigError: another process holds it.
    """
    directory.mkdir(parents=True, exist_ok=True)
    with open(directory / ".lock", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ConfigError("hydra.run.dir", directory, "another process is writing there") from None
        yield


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
        file = logging.FileHandler(directory / LOG)
        file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        root.addHandler(file)
    logging.captureWarnings(True)
    for name in ("lightning.pytorch", "lightning.fabric", "torchrl"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
        logger.setLevel(logging.WARNING)


class _Terminal(logging.Handler):
    """Writes above the progress bar instead of through it."""

    def emit(self, record: logging.LogRecord) -> None:
        tqdm.write(self.format(record), file=sys.stderr)


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
    """What the run was computed with."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
