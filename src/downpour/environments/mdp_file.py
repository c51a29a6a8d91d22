"""A Markov decision process from a file."""

import zipfile
from pathlib import Path

import numpy as np

from downpour.config import ConfigError, PositiveInt
from downpour.environments.gymnasium import Gymnasium

SHAPES = "transition [states, actions, states], reward [states, actions] and, if it is not state 0, start [states]"


class MDPFile(Gymnasium):
    """From `transition`, `reward` and, optionally, `start` of a file that `numpy.savez` wrote."""

    def __init__(self, *, path: str, max_episode_steps: PositiveInt | None = None, trials: PositiveInt = 1):
        """
        Args:
            path: of the .npz file.
            max_episode_steps: truncate episodes here; None: no limit.
            trials: see `Gymnasium`.

        Raises:
            ConfigError: it cannot be read, or is not a Markov decision process.
        """
        super().__init__(
            id="downpour/MDP-v0",
            vectorization="table",
            max_episode_steps=max_episode_steps,
            trials=trials,
            kwargs=read(Path(path).expanduser()),
        )


def read(path: Path) -> dict[str, np.ndarray]:
    """`transition`, `reward` and `start` of a file; reading it runs no code.

    Raises:
        ConfigError: as `MDPFile`.
    """

    def refuse(why: str) -> ConfigError:
        return ConfigError("env.path", path, why)

    try:
        with np.load(path, allow_pickle=False) as file:
            found = {name: np.asarray(file[name], np.float64) for name in file.files}
    except (OSError, ValueError, TypeError, AttributeError, EOFError, zipfile.BadZipFile) as error:
        raise refuse(f"cannot be read as .npz ({str(error).splitlines()[0]}); it needs {SHAPES}") from None
    if not {"transition", "reward"} <= set(found):
        raise refuse(f"holds {', '.join(found) or 'nothing'}; it needs {SHAPES}")
    transition, reward = found["transition"], found["reward"]
    states = len(transition) if transition.ndim else 0
    start = found.get("start", np.eye(max(1, states))[0])
    if not states or reward.ndim != 2 or transition.shape != (*reward.shape, states) or start.shape != (states,):
        shapes = ", ".join(f"{name} {list(table.shape)}" for name, table in found.items())
        raise refuse(f"has {shapes}; it needs {SHAPES}")
    if not all(np.isfinite(table).all() for table in (transition, reward, start)):
        raise refuse("holds numbers that are not finite")
    if (transition < 0).any() or (transition.sum(-1) > 1 + 1e-9).any():
        raise refuse("transition must not be negative nor sum to more than 1 over the next states")
    if (start < 0).any() or abs(start.sum() - 1) > 1e-9:
        raise refuse("start must be a distribution over the states")
    return {"transition": transition, "reward": reward, "start": start}
