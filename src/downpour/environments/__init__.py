"""Environments: Gymnasium's, single and vectorized, and small textbook examples."""

from gymnasium import register

from downpour.environments.atari import Atari
from downpour.environments.base import Environment
from downpour.environments.gymnasium import Gymnasium
from downpour.environments.mdp_file import MDPFile
from downpour.environments.minatar import MinAtar

register("downpour/ContextualBandit-v0", "downpour.environments.bandits:ContextualBandit")
register("downpour/ContinuousBandit-v0", "downpour.environments.bandits:ContinuousBandit")
register("downpour/RandomWalk-v0", "downpour.environments.textbook:RandomWalk")
register("downpour/MaximizationBias-v0", "downpour.environments.textbook:MaximizationBias")
register("downpour/TwoStates-v0", "downpour.environments.textbook:TwoStates", max_episode_steps=1)
register("downpour/MDP-v0", "downpour.environments.textbook:Given")
register("downpour/ShortCorridor-v0", "downpour.environments.textbook:ShortCorridor", max_episode_steps=1000)

__all__ = ["Atari", "Environment", "Gymnasium", "MDPFile", "MinAtar"]
