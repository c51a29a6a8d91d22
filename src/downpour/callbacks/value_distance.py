"""The distance of learned values from the exact solution."""

from typing import Any, ClassVar

import numpy as np
import torch
from lightning.pytorch import Callback
from numpy.typing import NDArray

from downpour import dynamic_programming as dp
from downpour.callbacks.overestimation import check_values
from downpour.config import ConfigError, PositiveFloat
from downpour.environments import Environment
from downpour.environments.tables import start_of, table_of


class ValueDistance(Callback):
    """At each evaluation compares the learned V(x) with the exact one: of the policy that it is learned for, or, where
    that is the best one, value iteration's, (59).

    It logs `exact/value_distance` and `exact/value_rms` (largest and root mean square difference over the states that
    can be reached), `exact/start_value` (the exact value of the start) and, where a policy is learned,
    `exact/policy_value` (the expected discounted return of the one that evaluation uses, computed, not played). Of a
    learned Q it logs `exact/squared_residual`, (49) over the same states. Where TD(0) learns a linear function of fixed
    features, `exact/fixed_point_distance` is the largest difference from what it converges to (Tsitsiklis and Van Roy
    1997).
    """

    needs: ClassVar[dict[str, str]] = {"state_values": "learn V(x) or Q(x, a)"}

    def __init__(self, environment: Environment, *, tolerance: PositiveFloat = 1e-10):
        """
        Args:
            tolerance: largest change at which value iteration stops.

        Raises:
            ConfigError: the environment has no transition table.
        """
        self.mdp, self.start, self.tolerance = table_of(environment), start_of(environment), tolerance
        self.reachable = reachable(self.mdp, self.start)
        self.best: NDArray[np.float64] | None = None
        self.fixed_point: NDArray[np.float64] | None = None

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        check_values(pl_module, "value_distance")
        states = self._states(pl_module)
        policy = pl_module.valued_policy(states)
        if policy is None:
            self.best = dp.value_iteration(self.mdp, pl_module.gamma, self.tolerance).v
        elif pl_module.is_td0:
            self.fixed_point = fixed_point(pl_module, self.mdp, policy, self.start)

    @torch.no_grad()
    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        states, gamma = self._states(pl_module), pl_module.gamma
        value = pl_module.state_values(states).double().cpu().numpy()
        exact = self._evaluate(pl_module.valued_policy(states), gamma) if self.best is None else self.best
        error = (value - exact)[self.reachable]
        metrics = {
            "exact/value_distance": float(np.abs(error).max()),
            "exact/value_rms": float(np.sqrt(np.square(error).mean())),
            "exact/start_value": float(self.start @ exact),
        }
        q = pl_module.values(states)
        if q is not None:
            q = q.double().cpu().numpy()
            residual = dp.squared_residual(self.mdp, q, gamma)[self.reachable]
            metrics["exact/squared_residual"] = float(residual[np.isfinite(q[self.reachable])].sum())
        if self.fixed_point is not None:
            metrics["exact/fixed_point_distance"] = float(np.abs(value - self.fixed_point)[self.reachable].max())
        if gamma < 1:  # without discounting, a policy that never terminates has no value
            played = self._evaluate(pl_module.action_probabilities(states), gamma)
            metrics["exact/policy_value"] = float(self.start @ played)
        trainer.callback_metrics.update({name: torch.tensor(value) for name, value in metrics.items()})
        for logger in trainer.loggers:
            logger.log_metrics(metrics, trainer.datamodule.step)

    def _states(self, algorithm: Any) -> torch.Tensor:
        return torch.arange(len(self.start), device=algorithm.device)

    def _evaluate(self, policy: NDArray[np.float64], gamma: float) -> NDArray[np.float64]:
        """The exact value of a policy [states]."""
        try:
            return dp.policy_evaluation(self.mdp, policy, gamma)
        except np.linalg.LinAlgError as error:
            raise ConfigError("algo.gamma", gamma, f"{error}; use one below 1") from None


def reachable(mdp: dp.MDP, start: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which states are reachable from the start, [states]."""
    found: Any = start > 0
    possible: Any = (mdp.transition > 0).any(1)
    while True:
        wider = found | possible[found].any(0)
        if (wider == found).all():
            return found
        found = wider


def fixed_point(
    algorithm: Any, mdp: dp.MDP, policy: NDArray[np.float64], start: NDArray[np.float64]
) -> NDArray[np.float64] | None:
    """The values that linear TD(0) converges to, [states]; None if V is not linear or the policy never terminates."""
    phi = features_of(algorithm, len(start))
    if phi is None:
        return None
    try:
        return np.asarray(phi @ dp.td_fixed_point(mdp, policy, start, phi, algorithm.gamma))
    except np.linalg.LinAlgError:
        return None


def features_of(algorithm: Any, states: int) -> NDArray[np.float64] | None:
    """phi(x) = grad_theta V(x; theta) of every state, [states, weights]; None if V is not theta^T phi(x), (60)."""
    weights = {name: weight for name, weight in algorithm.named_parameters() if weight.requires_grad}
    rows = []
    for x in range(states):
        value = algorithm.state_values(torch.tensor([x], device=algorithm.device))[0]
        gradients = torch.autograd.grad(value, list(weights.values()), allow_unused=True, materialize_grads=True)
        rows.append(torch.cat([gradient.flatten() for gradient in gradients]).double())
    phi, theta = torch.stack(rows), torch.cat([weight.flatten() for weight in weights.values()]).double()
    with torch.no_grad():
        value = algorithm.state_values(torch.arange(states, device=algorithm.device)).double()
    return phi.cpu().numpy() if torch.allclose(phi @ theta, value, atol=1e-5) else None
