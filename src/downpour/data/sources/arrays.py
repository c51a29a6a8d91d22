"""NumPy files: data sets of any size."""

from pathlib import Path

import numpy as np

from downpour.config import ConfigError
from downpour.data.samples import Samples
from downpour.data.sources.base import Source


class Arrays(Source):
    """Two memory-mapped .npy files: rows are read when needed.

    Inputs are [rows, *shape] of any numeric type; images [rows, channels, height, width]. Integer targets
    are class labels from 0, [rows] or [rows, time]; float targets are for regression, [rows] or [rows, outputs].
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
            ConfigError: a file is missing or not numeric.
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
        reason = (isinstance(error, OSError) and error.strerror) or "not a .npy file of numbers"
        raise ConfigError(f"data.source.{name}", path, f"cannot be read ({reason})") from None
    if (
        not isinstance(found, np.ndarray)
        or found.dtype.kind not in "iufb"
        or found.ndim < (2 if name == "inputs" else 1)
    ):
        raise ConfigError(f"data.source.{name}", path, "holds no rows of numbers")
    return found
