"""Distributions of returns: against TorchRL, closed forms, and what they are the limit of."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete
from tensordict import TensorDict
from tests.training import composed, resumes_exactly
from tests.worlds import CONF, a_batch, learner
from torch import nn

from downpour.algorithms.distributions import Categorical, DistributionalQ, Quantile
from downpour.algorithms.double_dqn import DoubleDQN
from downpour.algorithms.dqn import DQN
from downpour.config import ConfigError
from downpour.networks import MLP
from downpour.validation import validate

SPACE, ACTIONS, ATOMS = Box(-1, 1, (4,)), 3, 7
MLP_8 = partial(MLP, hidden=[8])


def transitions(size: int = 32) -> TensorDict:
    torch.manual_seed(1)
    x, y = torch.randn(2, size, 4)
    action = torch.randint(ACTIONS, (size,))
    return a_batch(x, y, action=action, reward=2 * torch.randn(size), terminated=torch.rand(size) < 0.3)


@pytest.mark.filterwarnings("ignore:No target network updater")  # the test moves the weights by itself
def test_the_loss_and_gradient_of_torchrl() -> None:
    """Its DistributionalDQNLoss is the cross-entropy; ours is less by the entropy of the target, a constant."""
    from tensordict.nn import TensorDictModule
    from torchrl.data import OneHot
    from torchrl.modules import DistributionalQValueActor
    from torchrl.objectives import DistributionalDQNLoss

    distribution = Categorical(atoms=ATOMS, low=-3, high=3)
    algorithm = learner(DoubleDQN, SPACE, ACTIONS, network=MLP_8, distribution=distribution)
    with torch.no_grad():
        for p in algorithm.target_q.parameters():
            p += 0.3 * torch.randn_like(p)

    class Body(nn.Module):
        def __init__(self, q: DistributionalQ):
            super().__init__()
            self.q = q

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.q.atoms(x).transpose(-1, -2)  # TorchRL: [batch, atoms, actions]

    module = TensorDictModule(Body(algorithm.q), in_keys=["observation"], out_keys=["action_value"])
    actor = DistributionalQValueActor(
        module=module, support=distribution.support, spec=OneHot(ACTIONS), action_space="one-hot"
    )
    theirs = DistributionalDQNLoss(actor, gamma=0.9, delay_value=True)
    own = algorithm.target_q.state_dict()
    for name, p in theirs.target_value_network_params.flatten_keys(".").items():
        if ".q." in name:
            p.data.copy_(own[name.partition(".q.")[2]])
    batch = transitions()
    one_hot = nn.functional.one_hot(batch["action"], ACTIONS)
    following = {
        "observation": batch["next_observation"],
        "reward": batch["reward"].unsqueeze(-1),
        "terminated": batch["terminated"].unsqueeze(-1),
        "done": batch["terminated"].unsqueeze(-1),
    }
    asked = TensorDict(
        {
            "observation": batch["observation"],
            "action": one_hot,
            "next": TensorDict(following, [32]),
            "steps_to_next_obs": torch.ones(32, 1),
        },
        [32],
    )
    expected = theirs(asked)["loss"]
    learned = {n.partition(".q.")[2]: p for n, p in theirs.value_network_params.flatten_keys(".").items() if ".q." in n}
    named = [(name, learned[name]) for name, _ in algorithm.q.named_parameters()]
    gradients = torch.autograd.grad(expected, [p for _, p in named])
    loss, _ = algorithm.loss(batch)
    with torch.no_grad():
        chosen = algorithm.q(batch["next_observation"]).argmax(-1)
        z = algorithm.target_q.atoms(batch["next_observation"])[torch.arange(32), chosen]
        target = distribution.project(z.softmax(-1), batch["reward"], 0.9 * ~batch["terminated"])
    entropy = -torch.special.xlogy(target, target).sum(-1).mean()
    torch.testing.assert_close(loss + entropy, expected)
    loss.backward()
    for p, gradient in zip(algorithm.q.parameters(), gradients, strict=True):
        torch.testing.assert_close(p.grad, gradient, rtol=1e-4, atol=1e-6)


def test_the_projection_keeps_mass_and_mean() -> None:
    distribution = Categorical(atoms=11, low=-5, high=5)
    draws = torch.Generator().manual_seed(0)
    p = torch.rand(20, 11, generator=draws).softmax(-1)
    reward, discount = torch.rand(20, generator=draws) - 0.5, torch.full((20,), 0.9)
    projected = distribution.project(p, reward, discount)
    torch.testing.assert_close(projected.sum(-1), torch.ones(20))
    torch.testing.assert_close(projected @ distribution.support, reward + 0.9 * (p @ distribution.support))
    certain = distribution.project(p, torch.full((20,), 2.25), torch.zeros(20))  # a terminal step
    assert certain[0].tolist() == pytest.approx([0, 0, 0, 0, 0, 0, 0, 0.75, 0.25, 0, 0])
    beyond = distribution.project(p, torch.full((20,), 99.0), torch.zeros(20))
    assert beyond[0].tolist() == pytest.approx([0] * 10 + [1])  # as p, up to rounding


def test_the_quantile_loss_by_hand() -> None:
    """Eq. 10 with two atoms: tau = 1/4, 3/4; errors 3 and -0.5 from one target atom each."""
    distribution = Quantile(atoms=2, kappa=1.0)
    atoms, following = torch.tensor([[0.0, 3.5]]), torch.tensor([[3.0, 3.0]])
    loss = distribution.losses(atoms, following, torch.zeros(1), torch.ones(1))
    assert loss.item() == pytest.approx(0.25 * (3 - 0.5) + (1 - 0.75) * 0.5 * 0.25)
    assert distribution.mean(atoms).item() == 1.75


@pytest.mark.parametrize(
    ("distribution", "expected"),
    [
        (Categorical(atoms=5, low=-2, high=2), None),
        (Quantile(atoms=5, kappa=1e-3), [-1.0, -1.0, 0.0, 1.0, 1.0]),  # of -1, 0, 1: the 10, 30, 50, 70, 90 %
    ],
)
def test_what_it_learns_is_the_distribution(distribution: Any, expected: list[float] | None) -> None:
    """Of a reward that is -1, 0 or 1 with equal chance, and then the end."""
    network = lambda space, outputs, atoms: nn.Sequential(nn.Embedding(1, outputs))  # noqa: E731
    algorithm = learner(
        DQN, Discrete(1), 1, network=network, distribution=distribution, optimizer=torch.optim.Adam, lr=0.05
    )
    state = torch.zeros(300, dtype=torch.long)
    reward = torch.tensor([-1.0, 0.0, 1.0]).repeat(100)
    batch = a_batch(state, state, reward=reward, terminated=torch.ones(300).bool())
    for _ in range(400):
        algorithm.training_step(batch.unsqueeze(0), 0)
    atoms = algorithm.q.atoms(state[:1])[0, 0].detach()
    if expected is None:
        torch.testing.assert_close(atoms.softmax(-1), torch.tensor([0, 1, 1, 1, 0]) / 3, atol=0.01, rtol=0)
    else:
        torch.testing.assert_close(atoms, torch.tensor(expected), atol=0.1, rtol=0)
    assert algorithm.q(state[:1]).item() == pytest.approx(0, abs=0.05)


@pytest.mark.parametrize("distribution", [Categorical(atoms=ATOMS), Quantile(atoms=ATOMS)])
def test_priorities_are_the_losses(distribution: Any) -> None:
    algorithm = learner(DQN, SPACE, ACTIONS, network=MLP_8, distribution=distribution)
    batch = transitions()
    batch["td_error"] = torch.zeros(32)
    loss, metrics = algorithm.loss(batch)
    assert (batch["td_error"] >= 0).all()
    assert loss.item() == pytest.approx(batch["td_error"].mean().item())
    torch.testing.assert_close(
        metrics["q_mean"], algorithm.q(batch["observation"]).detach()[range(32), batch["action"]]
    )
    x = batch["observation"]
    assert (
        algorithm.act(x, np.random.default_rng(0), env_steps=10**6, explore=False) == algorithm.q(x).argmax(-1).numpy()
    ).all()


class OfThePolicy(DQN):
    """Bootstraps from a mean over actions, as in the README."""

    def bootstrap(self, batch: TensorDict) -> torch.Tensor:
        return self.next_values(batch).mean(-1)


@pytest.mark.parametrize(
    ("kind", "settings", "words"),
    [
        (OfThePolicy, {}, r"algo/distribution=OfThePolicy: does not bootstrap from a single action"),
        (DQN, {"clip_td_error": 1.0}, r"needs algo.gradient=semi algo.clip_td_error=null"),
        (DQN, {"gradient": "residual", "target_network": False}, r"needs algo.gradient=semi"),
    ],
)
def test_what_does_not_go_together_is_refused(kind: Any, settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        learner(kind, SPACE, ACTIONS, network=MLP_8, distribution=Categorical(), **settings)


def test_atoms_that_span_nothing_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"atoms=51: needs at least 2, and low=3 below high=3"):
        Categorical(low=3, high=3)


def parts(config: dict[str, Any]) -> dict[str, bool]:
    """Which of Rainbow's are on."""
    algo, data, model = config["algo"], config["data"], config["model"]
    return {
        "double": algo["_target_"].endswith("DoubleDQN"),
        "priorities": data["priority_exponent"] is not None,
        "n_step": data["n_step"] > 1,
        "dueling": model["dueling"],
        "noise": model["noise"] > 0 and algo["epsilon"]["start"] == 0,
        "distribution": algo["distribution"] is not None,
    }


def test_the_ablation_takes_away_one_part_at_a_time() -> None:
    folder = CONF / "experiment" / "without"
    options = [f"experiment/without={path.stem}" for path in folder.glob("*.yaml")]
    assert len(options) == 8
    for option in options:
        found = parts(validate(composed("experiment=rainbow_ablation", option)))
        name = option.partition("=")[2]
        assert found == {each: name not in (each, "everything") for each in found}, option


@pytest.mark.parametrize("distribution", ["categorical", "quantile"])
def test_all_of_rainbow_at_once_resumes_exactly(tmp_path: Path, distribution: str) -> None:
    parts = (
        "algo=double_dqn",
        f"algo/distribution={distribution}",
        "data.priority_exponent=0.5",
        "data.importance_exponent=1",  # otherwise it depends on the length of the run
        "data.n_step=3",
        "model.hidden=[16,16]",
        "model.dueling=true",
        "model.noise=0.5",
        "algo.epsilon.start=0",
        "algo.epsilon.end=0",
    )
    config = validate(composed(*parts))
    assert config["algo"]["distribution"]["atoms"] == 51
    resumes_exactly(tmp_path, *parts, "data.learning_starts=100", "data.updates=8")
