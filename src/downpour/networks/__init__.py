"""Function approximators: tables, linear functions, networks."""

from downpour.networks.basis import Basis, GivenFeatures, Tiles
from downpour.networks.convolutional import ConvNet, ResNet
from downpour.networks.features import Features
from downpour.networks.linear import Linear, Table
from downpour.networks.mlp import MLP
from downpour.networks.recurrent import Recurrent
from downpour.networks.strided import StridedConvNet

__all__ = [
    "MLP",
    "Basis",
    "ConvNet",
    "Features",
    "GivenFeatures",
    "Linear",
    "Recurrent",
    "ResNet",
    "StridedConvNet",
    "Table",
    "Tiles",
]
