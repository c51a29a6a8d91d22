"""What watches a run: evaluation, records, checkpoints, progress, films."""

from downpour.callbacks.checkpoint import Checkpoint
from downpour.callbacks.early_stop import EarlyStop
from downpour.callbacks.evaluation import Evaluation
from downpour.callbacks.progress import Progress
from downpour.callbacks.recorder import Recorder
from downpour.callbacks.value_distance import ValueDistance
from downpour.callbacks.video import Video

__all__ = ["Checkpoint", "EarlyStop", "Evaluation", "Progress", "Recorder", "ValueDistance", "Video"]
