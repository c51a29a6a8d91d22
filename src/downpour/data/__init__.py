"""Where rounds come from: streams of experience, or the model itself."""

from downpour.data.model_data import ModelData
from downpour.data.replay_data import ReplayData
from downpour.data.rollout_data import EpisodeData, RolloutData

__all__ = ["EpisodeData", "ModelData", "ReplayData", "RolloutData"]
