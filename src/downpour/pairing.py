"""Checks that the chosen components are compatible, before anything is built."""

import inspect
from collections.abc import Mapping
from typing import Any, ClassVar, Protocol, runtime_checkable

from downpour.algorithms.base import Algorithm
from downpour.config import ConfigError, class_of, locate, parameters
from downpour.optimizers import needs_closure


@runtime_checkable
class Selective(Protocol):
    """A callback that works with some algorithms only.

    Attributes:
        needs: method of the algorithm -> what algorithms with it do, for messages.
    """

    needs: ClassVar[dict[str, str]]


def check_pairing(config: Mapping[str, Any]) -> None:
    """Check that algorithm, data module, environment, optimizer, precision and callbacks go together.

    Args:
        config: its groups, each checked by itself.

    Raises:
        ConfigError: they do not; with an alternative.
    """
    algorithm = class_of(config, "algo")
    data = class_of(config, "data")
    name = algorithm.__name__
    if data.stream not in algorithm.learns_from:
        options = " or ".join(f"data={each}" for each in algorithm.learns_from)
        raise ConfigError("data", data.stream, f"{name} learns from {options}")
    if not config["env"] and _needs_environment(data):
        raise ConfigError("env", "none", f"data={data.stream} needs an environment: choose another option of env")
    if config["optimizer"] and not algorithm.single_pass:
        optimizer = class_of(config, "optimizer")
        if needs_closure(optimizer):
            advice = (
                f"evaluates the loss several times a gradient step, {name} does so once: use algo=supervised, or adam"
            )
            raise ConfigError("optimizer", optimizer.__name__, advice)
    precision = config["trainer"].get("precision", "32-true")
    if precision.endswith("-true") and precision != "32-true" and not data.converts:
        advice = f"is for data sets only; {name} acts in an environment: use bf16-mixed or 32-true"
        raise ConfigError("trainer.precision", precision, advice)
    for key, node in config["callbacks"].items():
        _check_callback(key, locate(node["_target_"], f"callbacks.{key}"), algorithm, bool(config["env"]))


def _check_callback(key: str, callback: Any, algorithm: Any, has_environment: bool) -> None:
    fits = "callbacks=default" if can(algorithm, "act") else "callbacks=classification, regression or generation"
    if not has_environment and _needs_environment(callback):
        raise ConfigError(f"callbacks.{key}", callback.__name__, f"needs an environment, but env=none: use {fits}")
    needs = callback.needs if isinstance(callback, Selective) else {}
    for method, what in needs.items():
        if not can(algorithm, method):
            advice = f"is for algorithms that {what}; {algorithm.__name__} does not: use {fits}"
            raise ConfigError(f"callbacks.{key}", callback.__name__, advice)


def can(algorithm: Any, method: str) -> bool:
    """Whether an algorithm has this method, of its own where all have one that refuses."""
    own = getattr(algorithm, method, None)
    return own is not None and own is not getattr(Algorithm, method, None)


def _needs_environment(kind: Any) -> bool:
    parameter = parameters(kind).get("environment")
    return parameter is not None and parameter.default is inspect.Parameter.empty
