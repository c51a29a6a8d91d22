"""Data sets: where the samples come from."""

from downpour.data.sources.arrays import Arrays
from downpour.data.sources.base import Source
from downpour.data.sources.bundled import Digits
from downpour.data.sources.generated import Regression, Sequence, TwoMoons
from downpour.data.sources.openml import OpenML
from downpour.data.sources.table import Table

__all__ = ["Arrays", "Digits", "OpenML", "Regression", "Sequence", "Source", "Table", "TwoMoons"]
