"""Data sets: where the samples come from."""

from downpour.data.sources.base import Source
from downpour.data.sources.bundled import Digits
from downpour.data.sources.generated import Regression, Sequence, TwoMoons

__all__ = ["Digits", "Regression", "Sequence", "Source", "TwoMoons"]
