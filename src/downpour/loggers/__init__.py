"""Loggers: where metrics go besides the run directory's own files."""

from downpour.loggers.files import RunFiles
from downpour.loggers.tensorboard import TensorBoard
from downpour.loggers.wandb import WandB

__all__ = ["RunFiles", "TensorBoard", "WandB"]
