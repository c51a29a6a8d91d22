"""Worlds to act in: Gymnasium environments, alone and in vectors."""

from downpour.environments.gymnasium import Gymnasium

__all__ = ["Gymnasium"]
