"""How far a run is from the exact solution, where there is one."""

from typing import Any, ClassVar

import numpy as np
import torch
from lightning.pytorch import Callback
from numpy.typing import NDArray

from downpour import dynamic_programming as dp
from downpour.config import PositiveFloat
from downpour.environments import Environment
from downpour.environments.tables import start_of, table_of


class ValueDistance(Callback):
    """At each evaluation compares the learned V(x) with the exact one: of a fixed policy, or value iteration's, (59).

    It logs `exact/value_distance` and `exact/value_rms` (largest and root mean square difference over the states that
    can be reached), `exact/start_value` (the exact value of the start) and, where a policy is learned,
    `exact/policy_value` (the expected discounted return of the one that evaluation uses, computed, not played). Where
    TD(0) learns a linear function of fixed features, `exact/fixed_point_distance` is the largest difference from what
    it converges to (Tsitsiklis and Van Roy 1997).
    """

    needs: ClassVar[dict[str, str]] = {"state_values": "learn V(x) or Q(x, a)"}

    def __init__(self, environment: Environment, *, tolerance: PositiveFloat = 1e-10):
        """
        Args:
            tolerance: largest change at which value iteration stops.

        Raises:
            ConfigError: the environment shows no transition table.
        """
        self.mdp, self.start, self.tolerance = table_of(environment), start_of(environment), tolerance
        self.reachable = reachable(self.mdp, self.start)
        self.exact: NDArray[np.float64] | None = None
        self.fixed_point: NDArray[np.float64] | None = None

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        if hasattr(pl_module, "fixed_policy"):
            policy = np.tile(pl_module.fixed_policy(), (len(self.start), 1))
            self.exact = dp.policy_evaluation(self.mdp, policy, pl_module.gamma)
            phi = features_of(pl_module, len(self.start))
            if phi is not None and pl_module.is_td0:
                theta = dp.td_fixed_point(self.mdp, policy, self.start, phi, pl_module.gamma)
                self.fixed_point = phi @ theta
        else:
            self.exact = dp.value_iteration(self.mdp, pl_module.gamma, self.tolerance).v

    @torch.no_grad()
    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        assert self.exact is not None
        states = torch.arange(len(self.start), device=pl_module.device)
        value = pl_module.state_values(states).double().cpu().numpy()
        error = (value - self.exact)[self.reachable]
        metrics = {
            "exact/value_distance": float(np.abs(error).max()),
            "exact/value_rms": float(np.sqrt(np.square(error).mean())),
            "exact/start_value": float(self.start @ self.exact),
        }
        if self.fixed_point is not None:
            metrics["exact/fixed_point_distance"] = float(np.abs(value - self.fixed_point)[self.reachable].max())
        # Undiscounted, a policy that never ends has no value; one that is fixed has that of the start.
        if pl_module.gamma < 1 and not hasattr(pl_module, "fixed_policy"):
            policy = pl_module.act(states, np.random.default_rng(0), env_steps=0, explore=False)
            metrics["exact/policy_value"] = float(self.start @ dp.policy_evaluation(self.mdp, policy, pl_module.gamma))
        trainer.callback_metrics.update({name: torch.tensor(value) for name, value in metrics.items()})
        for logger in trainer.loggers:
            logger.log_metrics(metrics, trainer.datamodule.step)


def reachable(mdp: dp.MDP, start: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which states some policy visits and acts in, [states]."""
    found: Any = start > 0
    possible: Any = (mdp.transition > 0).any(1)
    while True:
        wider = found | possible[found].any(0)
        if (wider == found).all():
            return found
        found = wider


def features_of(algorithm: Any, states: int) -> NDArray[np.float64] | None:
    """phi(x) = grad_theta V(x; theta) of every state [states, weights]; None where V is not theta^T phi(x), (60)."""
    weights = dict(algorithm.named_parameters())
    rows = []
    for x in range(states):
        value = algorithm.state_values(torch.tensor([x], device=algorithm.device))[0]
        gradients = torch.autograd.grad(value, list(weights.values()), allow_unused=True, materialize_grads=True)
        rows.append(torch.cat([gradient.flatten() for gradient in gradients]).double())
    phi, theta = torch.stack(rows), torch.cat([weight.flatten() for weight in weights.values()]).double()
    with torch.no_grad():
        value = algorithm.state_values(torch.arange(states, device=algorithm.device)).double()
    return phi.cpu().numpy() if torch.allclose(phi @ theta, value, atol=1e-5) else None
