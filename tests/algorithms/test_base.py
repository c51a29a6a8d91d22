"""What all learning rules share."""

from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.spaces import Discrete
from tensordict import TensorDict
from tests.worlds import a_batch, learner

from downpour.algorithms.base import Algorithm, TrainingError
from downpour.algorithms.dqn import DQN
from downpour.algorithms.q_learning import QLearning


class Slope(Algorithm):
    """Descends on `factor * w . x`."""

    def __init__(self, **settings: Any):
        super().__init__(lambda parameters: torch.optim.SGD(parameters, lr=1.0), **settings)
        self.w = torch.nn.Parameter(torch.zeros(2))
        made = self.configure_optimizers()
        self.optimizers = lambda: made  # type: ignore[method-assign]
        self.manual_backward = lambda loss: loss.backward()  # type: ignore[method-assign]

    def loss(self, batch: TensorDict) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        return (self.w @ batch["x"].T).mean(), {"x": batch["x"].mean()}


def a_round(*slopes: list[float]) -> TensorDict:
    """[updates, 1] of x."""
    return TensorDict({"x": torch.tensor(slopes).float().reshape(len(slopes), 1, 2)}, batch_size=[len(slopes), 1])


def test_a_round_is_a_gradient_step_for_each_of_its_updates() -> None:
    algorithm = Slope()
    algorithm.training_step(a_round([1, 0], [0, 2], [3, 0]), 0)
    assert algorithm.w.tolist() == [-4, -2]
    assert algorithm.gradient_steps == 3
    # The losses were 0, then 0 . 0 + 2 . 0, then 3 . -1.
    assert algorithm.latest["loss"] == pytest.approx(-1)
    assert float(algorithm.latest["x"]) == pytest.approx(1.5)  # of the newest step


def test_a_round_without_updates_changes_nothing() -> None:
    algorithm = Slope()
    algorithm.training_step(a_round([1, 0])[:0], 0)
    assert algorithm.w.tolist() == [0, 0]
    assert algorithm.gradient_steps == 0
    assert algorithm.latest == {}


@pytest.mark.parametrize(("clip", "expected"), [(None, [-3.0, -4.0]), (10.0, [-3.0, -4.0]), (0.5, [-0.3, -0.4])])
def test_gradients_are_clipped_by_their_norm(clip: float | None, expected: list[float]) -> None:
    algorithm = Slope(gradient_clip=clip)
    algorithm.training_step(a_round([3, 4]), 0)
    assert algorithm.w.tolist() == pytest.approx(expected, rel=1e-4)
    if clip is not None:
        assert float(algorithm.latest["gradient_norm"]) == pytest.approx(5)


def test_the_norm_of_no_gradient_is_not_recorded() -> None:
    """Under `strategy.accumulate` only every k-th batch has gradients to clip."""
    algorithm = Slope(gradient_clip=1.0)
    algorithm.w.grad = None
    assert algorithm.clip_and_step(torch.optim.SGD([algorithm.w])) == {}


@pytest.mark.parametrize(
    ("spoil", "cause"),
    [
        (lambda algorithm, round: round["x"].fill_(float("nan")), r"batch contains non-finite values \(x\)"),
        (
            lambda algorithm, round: algorithm.w.data.fill_(float("inf")),
            r"weights have diverged \(w\): lower optimizer",
        ),
        (lambda algorithm, round: round["x"].fill_(1e30), r"gradient step 2: lower optimizer\.lr or set"),
    ],
)
def test_a_loss_that_is_not_finite_says_where_it_came_from(spoil: Any, cause: str) -> None:
    algorithm, round = Slope(), a_round([1, 1], [1, 1])
    spoil(algorithm, round)
    with pytest.raises(TrainingError, match=cause) as caught:
        algorithm.training_step(round, 0)
    assert "near gradient step 2" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_only_what_learns_is_optimized() -> None:
    algorithm = Slope()
    algorithm.frozen = torch.nn.Parameter(torch.ones(3), requires_grad=False)
    assert [len(group["params"]) for group in algorithm.configure_optimizers().param_groups] == [1]


def test_a_rule_that_gives_no_loss_or_does_not_act_says_so() -> None:
    algorithm = Algorithm(torch.optim.SGD)
    with pytest.raises(TypeError, match="Algorithm defines no loss"):
        algorithm.loss(TensorDict({}, batch_size=[]))
    with pytest.raises(TypeError, match="Algorithm does not act"):
        algorithm.act(torch.zeros(1), np.random.default_rng(0), env_steps=0, explore=True)


def test_checkpoints_carry_the_count_and_the_name() -> None:
    algorithm, checkpoint = learner(DQN, Discrete(2), 2), {}
    algorithm.gradient_steps = 41
    algorithm.on_save_checkpoint(checkpoint)
    assert checkpoint == {"gradient_steps": 41, "algorithm": "downpour.algorithms.dqn.DQN"}
    other = learner(DQN, Discrete(2), 2)
    other.on_load_checkpoint(checkpoint)
    assert other.gradient_steps == 41


def test_learning_leaves_the_data_as_it_is() -> None:
    """Rounds may be views into something that goes on living."""
    batch = a_batch(torch.tensor([0, 1]), torch.tensor([1, 0]), reward=torch.tensor([1.0, 2.0]))
    before = batch.clone()
    algorithm = learner(QLearning, Discrete(2), 2)
    algorithm.training_step(batch.unsqueeze(0), 0)
    assert (batch == before).all()
