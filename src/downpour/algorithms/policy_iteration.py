"""Policy iteration (Howard 1960): the greedy policy (37) is evaluated exactly, then made greedy again."""

from downpour import dynamic_programming as dp
from downpour.algorithms.value_iteration import DynamicProgramming


class PolicyIteration(DynamicProgramming):
    """Each sweep evaluates the greedy policy exactly; optimal after finitely many sweeps."""

    def state_to_go(self, mdp: dp.MDP) -> dp.Floats:
        """The value of the greedy policy, from (I - gamma P) V = r, [states]."""
        return dp.policy_evaluation(mdp, self.q.argmax(-1).cpu().numpy(), self.gamma)
