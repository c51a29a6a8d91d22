"""Command lines of key=value settings, for the entry points that do not use Hydra.

A YAML file holds every setting with its default and, as a comment, its meaning; `--help` shows it as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from downpour.config import ConfigError, nearest


def show_help(arguments: Sequence[str], summary: str, defaults: Path) -> bool:
    """Print the summary and the settings if --help was given; returns whether it was."""
    asked = any(each in ("-h", "--help", "help") for each in arguments)
    if asked:
        print(summary.lstrip() + defaults.read_text(encoding="utf-8").rstrip())
    return asked


def read_settings(arguments: Sequence[str], defaults: Path, example: str) -> dict[str, Any]:
    """The defaults, overridden by the command line.

    Args:
        arguments: what was typed after the command's name.
        defaults: the YAML file of settings; the one that must be given is `???` there.
        example: an example of the required setting, for messages.

    Returns:
        A value for every setting: text as it was typed, except for true, false and null.

    Raises:
        ConfigError: an unknown setting, no value, neither true nor false, or the one that must be given is missing.
    """
    required = example.partition("=")[0]
    settings: dict[str, Any] = yaml.safe_load(defaults.read_text(encoding="utf-8"))
    for each in arguments:
        key, equals, value = each.partition("=")
        if key not in settings:
            known = ", ".join(settings)
            advice = f"write {required}={each}" if not equals else f"no such setting{nearest(key, list(settings))}"
            raise ConfigError(message=f"{each}: {advice} (settings: {known})")
        if isinstance(settings[key], bool):
            if value.lower() not in ("true", "false"):
                raise ConfigError(key, value, "must be true or false")
            settings[key] = value.lower() == "true"
        elif not equals or not value:
            raise ConfigError(message=f"{key} needs a value: {key}=...")
        else:
            settings[key] = None if value == "null" else value
    if settings[required] in (None, "???"):
        raise ConfigError(message=f"{required} is missing, for example {example} (see --help)")
    return settings
