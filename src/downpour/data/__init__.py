"""Where rounds come from: streams of experience."""

from downpour.data.replay_data import ReplayData
from downpour.data.rollout_data import EpisodeData, RolloutData

__all__ = ["EpisodeData", "ReplayData", "RolloutData"]
