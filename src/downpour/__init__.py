"""Downpour: reinforcement and supervised learning experiments on PyTorch Lightning and Hydra.

Importing the package loads nothing else; each module is imported where it is used.
"""

__version__ = "0.1.0"
