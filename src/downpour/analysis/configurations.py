"""Groups runs that differ only by their seed into configurations, and labels them by what sets them apart."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import Any

from downpour.analysis.runs import RunDirectory, natural

IGNORED = ("seed", "resume", "logger", "hydra")  # keys, and all below them, that do not define a configuration
ALWAYS = ("algo", "env", "data", "trainer.devices")  # distinguish configurations even if no override names them
LENGTHS = ("total_env_steps", "total_gradient_steps")
HARDWARE = ("trainer", "trainer.accelerator", "trainer.threads", "trainer.cuda_graph", "trainer.deterministic")
ENVIRONMENT_KEYS = ("env", "env.id", "env.game", "data")  # that the title of a panel stands for


@dataclass
class Configuration:
    """Runs of one experiment, at most one per seed.

    Attributes:
        settings: every setting that an override of any run of the report names, in that order.
        pieces: key -> text in the label, such as "lr=0.001", of the settings that differ between configurations.
        runs: sorted by seed.
        superseded: other runs of seeds that `runs` contains.
    """

    settings: dict[str, str]
    pieces: dict[str, str] = field(default_factory=dict)
    runs: list[RunDirectory] = field(default_factory=list)
    superseded: list[RunDirectory] = field(default_factory=list)

    @property
    def label(self) -> str:
        """Short name, e.g. "algo=dqn, lr=0.001"."""
        return self.label_without()

    def label_without(self, *keys: str) -> str:
        """The label without these settings, for use where a title shows them."""
        return ", ".join(piece for key, piece in self.pieces.items() if key not in keys) or "default"

    @property
    def counted(self) -> list[RunDirectory]:
        """The runs that enter the statistics: those that measured something and did not fail."""
        return [run for run in self.runs if run.status != "failed" and len(run.metrics)]


def group(runs: Iterable[RunDirectory], without: Collection[str] = ()) -> list[Configuration]:
    """Group runs into configurations, in natural order of their settings, `without` some of them.

    A setting that only some runs override is looked up in the choices and the config of the others, so that a run with
    the override `algo=double_dqn` and one with this default belong to the same configuration. Of two runs with the same
    seed only one is counted: the finished one, otherwise the newer that has not failed; the other is in `superseded`.
    """
    runs = list(runs)
    typed = {id(run): _settings(run.overrides) for run in runs}
    keys = list(dict.fromkeys(key for run in runs for key in typed[id(run)] if key not in without))
    implied = [key for key in ALWAYS if key not in keys]
    found: dict[tuple[str, ...], Configuration] = {}
    for run in runs:
        own = typed[id(run)]
        settings = {key: own[key] if key in own else _look_up(run, key) for key in [*keys, *implied]}
        configuration = found.setdefault(tuple(settings.values()), Configuration(settings))
        configuration.runs.append(run)
    configurations = sorted(found.values(), key=lambda c: [natural(value) for value in c.settings.values()])
    _label(configurations, keys, implied)
    for configuration in configurations:
        _deduplicate(configuration)
    return configurations


def _settings(overrides: Iterable[str]) -> dict[str, str]:
    settings = {}
    for text in overrides:
        key, _, value = text.lstrip("+").partition("=")
        if key.split(".")[0].split("/")[0] not in IGNORED:
            settings[key] = _canonical(value.strip("'\"")) or "yes"  # "~key" has no value
    return settings


def _look_up(run: RunDirectory, key: str) -> str:
    """The value of a setting that the run did not override; "" if it has no such setting."""
    if key in run.choices:
        return run.choices[key]
    value: Any = run.config
    for part in key.split("."):
        if not isinstance(value, dict) or part not in value:
            return ""
        value = value[part]
    return "" if isinstance(value, dict) else _canonical("null" if value is None else str(value))


def _canonical(text: str) -> str:
    """The canonical spelling of a value: 1e-3, 0.001 and .001 are the same, True and true, [64,64] and [64, 64]."""
    if text.startswith("["):
        return re.sub(r"[^][,\s]+", lambda found: _canonical(found[0].strip("'\"")), re.sub(r"\s*,\s*", ", ", text))
    try:
        return f"{float(text):.15g}"
    except ValueError:
        return text.lower() if text.lower() in ("true", "false", "null") else text


def _label(configurations: list[Configuration], keys: list[str], implied: list[str]) -> None:
    """Set the labels: the settings that differ, as in "algo=dqn, lr=0.001"; of a single one: "dqn on CartPole-v1"."""
    if len(configurations) == 1:
        run = [*configurations[0].counted, *configurations[0].runs][0]
        configurations[0].pieces = {"": f"{run.algorithm} on {run.environment}"}
        return
    differing = [key for key in [*keys, *implied] if len({c.settings[key] for c in configurations}) > 1]
    shown = [key for key in differing if key in keys]
    if len({tuple(c.settings[key] for key in shown) for c in configurations}) < len(configurations):
        shown = differing
    short = {key: key.replace("/", ".").split(".")[-1] for key in shown}
    for key in shown:  # the last part of a key is ambiguous if two keys share it
        if list(short.values()).count(short[key]) > 1:
            short = {other: other if short[other] == short[key] else name for other, name in short.items()}
    for each in configurations:
        each.pieces = {key: f"{short[key]}={each.settings[key]}" for key in shown if each.settings[key]}


def _deduplicate(configuration: Configuration) -> None:
    """Keep one run per seed; move the others to `superseded`."""
    rank = {"finished": 2, "stopped": 1, "unfinished": 1, "failed": 0}

    def priority(run: RunDirectory) -> tuple[int, float, list[tuple[int, float, str]]]:
        written = run.path / "config.yaml"
        return rank[run.status], written.stat().st_mtime if written.exists() else 0.0, natural(str(run.path))

    kept: dict[object, RunDirectory] = {}
    for run in sorted(configuration.runs, key=priority):
        key = id(run) if run.seed is None else run.seed
        if key in kept:
            configuration.superseded.append(kept[key])
        kept[key] = run
    configuration.runs = sorted(kept.values(), key=lambda run: (run.seed or 0, natural(str(run.path))))
