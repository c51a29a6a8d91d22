"""Where rounds come from: streams of experience."""

from downpour.data.replay_data import ReplayData

__all__ = ["ReplayData"]
