"""Data modules: experience, data sets, or the transition model itself."""

from downpour.data.dataset_data import DatasetData
from downpour.data.model_data import ModelData
from downpour.data.replay_data import ReplayData
from downpour.data.rollout_data import EpisodeData, RolloutData

__all__ = ["DatasetData", "EpisodeData", "ModelData", "ReplayData", "RolloutData"]
