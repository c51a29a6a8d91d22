"""Downpour: reinforcement and supervised learning experiments on PyTorch Lightning and Hydra.

Importing the package loads nothing heavy; each module is imported where it is used.
"""

import os

from downpour import lean

__version__ = "0.1.0"

# Read by torch when it first allocates: tensors of 2 MB or more are in huge pages, instead of mapped 4 kB at a time.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")

lean.install()
