"""What every data set can do."""

from typing import ClassVar

from downpour.data.samples import Samples


class Source:
    """A data set that can be read into memory."""

    standardizable: ClassVar[bool] = True
    """False where the inputs are codes, whose scale means something."""

    def load(self) -> Samples:
        """Read or make all of it.

        Raises:
            ConfigError: it cannot be had; the message says what to do.
        """
        raise NotImplementedError
