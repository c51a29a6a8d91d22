"""Runs that differ by nothing but their seed are one configuration, and get one short name."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from downpour.analysis.runs import RunDirectory, natural

SILENT = (
    "seed",
    "resume",
    "logger",
    "hydra",
)  # keys (and all below them) that change no result beside the seed's
ALWAYS = ("algo", "env", "data")  # groups that tell configurations apart even if nobody typed them


@dataclass
class Configuration:
    """One experiment: its runs, at most one a seed, and what sets it apart from the others."""

    settings: dict[str, str]  # every setting that any run of the report names, in the order typed
    pieces: dict[str, str] = field(default_factory=dict)  # the differing ones, as they are shown: "lr=0.001"
    runs: list[RunDirectory] = field(default_factory=list)
    superseded: list[RunDirectory] = field(default_factory=list)  # earlier runs of a seed that `runs` has

    @property
    def label(self) -> str:
        """Short name, e.g. "algo=dqn, lr=0.001"."""
        return self.label_without()

    def label_without(self, *keys: str) -> str:
        """The short name without these settings, for where a title says them already."""
        return ", ".join(piece for key, piece in self.pieces.items() if key not in keys) or "default"

    @property
    def counted(self) -> list[RunDirectory]:
        """The runs whose numbers count: all but those that failed."""
        return [run for run in self.runs if run.status != "failed" and len(run.metrics)]


def group(runs: Iterable[RunDirectory]) -> list[Configuration]:
    """Configurations of `runs`, in natural order of their settings.

    A setting that only some runs name is looked up in the others' choices and config, so that a run with
    `algo=double_dqn` typed and one that had it by default are the same configuration. Two runs of one seed
    would count one draw twice: the finished one stays, of two alike the newest; the others are in
    `superseded`.
    """
    runs = list(runs)
    typed = {id(run): _settings(run.overrides) for run in runs}
    keys = list(dict.fromkeys(key for run in runs for key in typed[id(run)]))
    implied = [key for key in ALWAYS if key not in keys]
    found: dict[tuple[str, ...], Configuration] = {}
    for run in runs:
        own = typed[id(run)]
        settings = {key: own[key] if key in own else _looked_up(run, key) for key in [*keys, *implied]}
        configuration = found.setdefault(tuple(settings.values()), Configuration(settings))
        configuration.runs.append(run)
    configurations = sorted(found.values(), key=lambda c: [natural(value) for value in c.settings.values()])
    _name(configurations, keys, implied)
    for configuration in configurations:
        _one_run_a_seed(configuration)
    return configurations


def _settings(overrides: Iterable[str]) -> dict[str, str]:
    settings = {}
    for text in overrides:
        key, _, value = text.lstrip("+").partition("=")
        if key.split(".")[0].split("/")[0] not in SILENT:
            settings[key] = _plain(value.strip("'\"")) or "yes"  # "~key" has no value
    return settings


def _looked_up(run: RunDirectory, key: str) -> str:
    """The value of a setting that this run did not name; "" where it has none."""
    if key in run.choices:
        return run.choices[key]
    value: Any = run.config
    for part in key.split("."):
        if not isinstance(value, dict) or part not in value:
            return ""
        value = value[part]
    return "" if isinstance(value, dict) else _plain("null" if value is None else str(value))


def _plain(text: str) -> str:
    """One spelling a value: 1e-3, 0.001 and .001 are one learning rate, True and true one switch."""
    try:
        return f"{float(text):.15g}"
    except ValueError:
        return text.lower() if text.lower() in ("true", "false", "null") else text


def _name(configurations: list[Configuration], keys: list[str], implied: list[str]) -> None:
    """Labels out of what differs: "algo=dqn, lr=0.001"; of one that stands alone: "dqn on CartPole-v1"."""
    if len(configurations) == 1:
        run = [*configurations[0].counted, *configurations[0].runs][0]
        configurations[0].pieces = {"": f"{run.algorithm} on {run.environment}"}
        return
    differing = [key for key in [*keys, *implied] if len({c.settings[key] for c in configurations}) > 1]
    shown = [key for key in differing if key in keys]
    if len({tuple(c.settings[key] for key in shown) for c in configurations}) < len(configurations):
        shown = differing
    short = {key: key.replace("/", ".").split(".")[-1] for key in shown}
    for key in shown:  # a last part that two keys share says too little
        if list(short.values()).count(short[key]) > 1:
            short = {other: other if short[other] == short[key] else name for other, name in short.items()}
    for each in configurations:
        each.pieces = {key: f"{short[key]}={each.settings[key]}" for key in shown if each.settings[key]}


def _one_run_a_seed(configuration: Configuration) -> None:
    rank = {"finished": 3, "stopped": 2, "unfinished": 1, "failed": 0}

    def newness(run: RunDirectory) -> tuple[int, float, list[tuple[int, float, str]]]:
        written = run.path / "config.yaml"
        return rank[run.status], written.stat().st_mtime if written.exists() else 0.0, natural(str(run.path))

    kept: dict[object, RunDirectory] = {}
    for run in sorted(configuration.runs, key=newness):
        key = id(run) if run.seed is None else run.seed
        if key in kept:
            configuration.superseded.append(kept[key])
        kept[key] = run
    configuration.runs = sorted(kept.values(), key=lambda run: (run.seed or 0, natural(str(run.path))))
