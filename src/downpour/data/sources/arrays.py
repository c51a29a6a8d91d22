"""Arrays in files of NumPy's: any data set, of any size."""

from pathlib import Path

import numpy as np

from downpour.config import ConfigError
from downpour.data.samples import Samples
from downpour.data.sources.base import Source


class Arrays(Source):
    """Two .npy files, mapped into memory: nothing is read before it is needed.

    Inputs are [rows, *shape] of any number type; images [rows, channels, height, width]. Targets are class numbers
    from 0 [rows] (or [rows, time]) where they are whole, else numbers [rows] or [rows, outputs].
    """

    def __init__(self, *, inputs: str, targets: str):
        """
        Args:
            inputs, targets: the files.
        """
        self.inputs, self.targets = Path(inputs).expanduser(), Path(targets).expanduser()

    def load(self) -> Samples:
        """
        Raises:
            ConfigError: no such file, or not one of numbers.
        """
        inputs, targets = _mapped(self.inputs, "inputs"), np.array(_mapped(self.targets, "targets"))
        origin = str(self.inputs)
        if targets.dtype.kind not in "iu":
            numbers = targets.astype(np.float32)
            return Samples(inputs, numbers[:, None] if numbers.ndim == 1 else numbers, origin=origin)
        classes = tuple(str(number) for number in range(int(targets.max(initial=0)) + 1))
        return Samples(inputs, targets.astype(np.int64), classes, origin=origin)


def _mapped(path: Path, name: str) -> np.ndarray:
    try:
        found = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        reason = getattr(error, "strerror", None) or "not a .npy file of numbers"
        raise ConfigError(f"data.source.{name}", path, f"cannot be read ({reason})") from None
    if (
        not isinstance(found, np.ndarray)
        or found.dtype.kind not in "iufb"
        or found.ndim < (2 if name == "inputs" else 1)
    ):
        raise ConfigError(f"data.source.{name}", path, "holds no rows of numbers")
    return found
