"""The interface of a data set."""

from typing import ClassVar

from downpour.data.samples import Samples


class Source:
    """A data set that can be read into memory."""

    standardizable: ClassVar[bool] = True
    """False if the inputs are codes whose scale is meaningful."""

    def load(self) -> Samples:
        """Read or generate all of it.

        Raises:
            ConfigError: it is not available; the message says what to do.
        """
        raise NotImplementedError
