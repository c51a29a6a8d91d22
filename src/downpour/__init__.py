"""Downpour: reinforcement and supervised learning experiments on PyTorch Lightning and Hydra.

Importing the package loads nothing heavy; each module is imported where it is used.
"""

from downpour import lean

__version__ = "0.1.0"

lean.install()
