"""Where rounds come from: streams of experience, data sets."""

from downpour.data.dataset_data import DatasetData
from downpour.data.replay_data import ReplayData

__all__ = ["DatasetData", "ReplayData"]
