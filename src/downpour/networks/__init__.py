"""Function classes: from observations (or inputs) to numbers."""

from downpour.networks.basis import Basis
from downpour.networks.features import Features
from downpour.networks.linear import Linear, Table
from downpour.networks.mlp import MLP

__all__ = ["MLP", "Basis", "Features", "Linear", "Table"]
