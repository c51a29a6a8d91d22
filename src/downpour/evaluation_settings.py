"""The settings of an evaluation, and the trained algorithm that they name."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from downpour.config import ConfigError, NonNegativeInt, PositiveInt, Probability

if TYPE_CHECKING:  # torch takes seconds to import, and --help needs the settings only
    from downpour.algorithms.base import Algorithm


@dataclass(kw_only=True)
class Settings:
    """What conf/eval.yaml says, typed."""

    run: str
    episodes: PositiveInt
    checkpoint: Literal["best", "last"]
    seed: NonNegativeInt | None
    epsilon: Probability | None
    device: str
    num_envs: PositiveInt | None
    video: bool
    video_episodes: PositiveInt
    dropout: Literal["scaled", "monte_carlo"] | None
    samples: PositiveInt
    out: str | None
    traceback: bool


def load(
    directory: Path, config: Mapping[str, Any], spaces: Mapping[str, Any], settings: Settings
) -> "tuple[Algorithm, Path, int]":
    """The algorithm of a run with the weights of a checkpoint, where it was read from, and at which step it was saved.

    Raises:
        ConfigError: no checkpoint that can be read, one of something else, no such device.
    """
    import torch

    from downpour.checkpoints import BEST, LAST
    from downpour.loading import load_trained

    try:
        device = torch.device(settings.device)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError):
        fits = f"cpu, cuda:0 to cuda:{n - 1}" if (n := torch.cuda.device_count()) else "cpu (no GPU was found)"
        raise ConfigError("device", settings.device, f"is not available on this machine, which has {fits}") from None
    first = BEST if settings.checkpoint == "best" else LAST
    algorithm: Any
    algorithm, path, step = load_trained(directory, config, spaces, first, "run")
    if settings.epsilon is not None:
        if algorithm.evaluation_epsilon is None:
            advice = f"{type(algorithm).__name__} has no evaluation_epsilon; remove this setting"
            raise ConfigError("epsilon", settings.epsilon, advice)
        algorithm.evaluation_epsilon = settings.epsilon
    return algorithm.to(device), path, step
