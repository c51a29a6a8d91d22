"""Callbacks: evaluation, records, checkpoints, progress, videos."""

from downpour.callbacks.checkpoint import Checkpoint
from downpour.callbacks.early_stop import EarlyStop
from downpour.callbacks.evaluation import Evaluation
from downpour.callbacks.overestimation import Overestimation
from downpour.callbacks.progress import Progress
from downpour.callbacks.recorder import Recorder
from downpour.callbacks.samples import Samples
from downpour.callbacks.validation import Validation
from downpour.callbacks.value_distance import ValueDistance
from downpour.callbacks.video import Video

__all__ = [
    "Checkpoint",
    "EarlyStop",
    "Evaluation",
    "Overestimation",
    "Progress",
    "Recorder",
    "Samples",
    "Validation",
    "ValueDistance",
    "Video",
]
