"""(50)-(60), (64) and (65) of the lecture against what was computed without this project."""

import copy
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete
from lightning.pytorch import Callback, Trainer
from tensordict import TensorDict
from tests.worlds import a_batch, a_run, composed, learner
from torch import Tensor
from torchrl.modules import QValueActor
from torchrl.objectives import DQNLoss

from downpour.algorithms.double_dqn import DoubleDQN
from downpour.algorithms.dqn import DQN
from downpour.algorithms.q_learning import QLearning, huber, squared, td_target
from downpour.experiment import build_parts
from downpour.exploration import Linear as LinearSchedule
from downpour.networks import MLP, Linear
from downpour.validation import validate

VECTORS = Box(-10, 10, (3,), np.float32)
KINDS = [QLearning, DQN, DoubleDQN]


@pytest.fixture
def double_precision() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def random_batch(size: int, actions: int, seed: int = 0) -> TensorDict:
    generator = torch.Generator().manual_seed(seed)
    return a_batch(
        torch.randn(size, 3, generator=generator),
        torch.randn(size, 3, generator=generator),
        action=torch.randint(actions, (size,), generator=generator),
        reward=torch.randn(size, generator=generator),
        terminated=torch.rand(size, generator=generator) < 0.3,
    )


# The loss, against TorchRL's for the same rule


def torchrl_loss(algorithm: Any, batch: TensorDict, **settings: Any) -> tuple[Tensor, list[Tensor]]:
    """TorchRL's DQNLoss of the same networks, and its gradient."""

    def actor(network: torch.nn.Module) -> QValueActor:
        return QValueActor(copy.deepcopy(network).requires_grad_(), in_keys=["observation"], action_space="categorical")

    older = getattr(algorithm, "target_q", None) or algorithm.q
    module = DQNLoss(actor(older), action_space="categorical", **settings)
    module.value_network_params.data.update_(TensorDict.from_module(actor(algorithm.q)).data)
    module.make_value_estimator(gamma=0.9)
    column = {name: batch[name].unsqueeze(-1) for name in ("reward", "terminated")}
    theirs = TensorDict(
        {
            "observation": batch["observation"],
            "action": batch["action"],
            "next": {"observation": batch["next_observation"], "done": column["terminated"], **column},
        },
        batch_size=batch.batch_size,
    )
    if "weight" in batch:
        theirs["priority_weight"] = batch["weight"]
    loss = module(theirs)["loss"]
    return loss, list(torch.autograd.grad(loss, [p for p in module.parameters() if p.requires_grad]))


@pytest.mark.filterwarnings("ignore:No target network updater")
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("loss", ["squared", "huber"])
@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        (QLearning, {"delay_value": False}),
        (partial(DQN, target_network=False), {"delay_value": False}),
        (DQN, {"delay_value": True}),
        (DoubleDQN, {"delay_value": True, "double_dqn": True}),
    ],
)
def test_loss_and_gradient_equal_torchrl(kind: Any, settings: dict[str, Any], loss: str, weighted: bool) -> None:
    torch.manual_seed(0)
    algorithm = learner(kind, VECTORS, 4, network=partial(MLP, hidden=[16]), loss=loss)
    for p in algorithm.q.parameters():  # away from the target network
        p.data += 0.3 * torch.randn_like(p)
    batch = random_batch(64, 4)
    batch["reward"] *= 2  # TD errors on both sides of Huber's knee
    if weighted:
        batch["weight"] = torch.rand(64) + 0.1
    ours, _ = algorithm.loss(batch)
    theirs, gradient = torchrl_loss(
        algorithm, batch, loss_function="l2" if loss == "squared" else "smooth_l1", **settings
    )
    scale = 0.5 if loss == "squared" else 1.0  # (52) is halved, so that its gradient is (55)
    if weighted:  # TorchRL divides by the sum of the weights, Schaul et al. (2016), Algorithm 1, do not
        scale *= float(batch["weight"].mean())
    torch.testing.assert_close(ours, scale * theirs, rtol=1e-6, atol=1e-6)
    assert theirs > 0.5
    for mine, other in zip(torch.autograd.grad(ours, list(algorithm.q.parameters())), gradient, strict=True):
        torch.testing.assert_close(mine, scale * other, rtol=1e-5, atol=1e-6)


# The target and the step, by hand and by finite differences


def test_target_by_hand() -> None:
    """(54): nothing follows a terminal state."""
    target = td_target(
        torch.tensor([1.0, 2.0, -1.0]),
        torch.tensor([0.5, 0.5, 0.25]),
        torch.tensor([False, True, False]),
        torch.tensor([4.0, 100.0, 8.0]),
    )
    assert target.tolist() == [3.0, 2.0, 1.0]


def test_bootstraps_by_hand() -> None:
    """theta: Q(x, .) = (1, 5, 3); theta^-: (7, 2, 4). (54): 5, (64) with a target network: 7, (65): 2."""
    state = torch.tensor([0])
    expected = {QLearning: 5.0, DQN: 7.0, DoubleDQN: 2.0}
    for kind, value in expected.items():
        algorithm = learner(kind, Discrete(1), 3)
        algorithm.q.weight.data = torch.tensor([[1.0, 5.0, 3.0]])
        if kind is not QLearning:
            algorithm.target_q.weight.data = torch.tensor([[7.0, 2.0, 4.0]])
        assert algorithm.bootstrap({"next_observation": state}).tolist() == [value]
    for kind in (DQN, DoubleDQN):  # theta judges by itself: both are (54) again
        algorithm = learner(kind, Discrete(1), 3, target_network=False)
        algorithm.q.weight.data = torch.tensor([[1.0, 5.0, 3.0]])
        assert algorithm.bootstrap({"next_observation": state}).tolist() == [5.0]


@pytest.mark.parametrize("kind", KINDS)
def test_one_step_is_55_by_finite_differences(double_precision: None, kind: Any) -> None:
    """theta <- theta + alpha (Y - Q) grad Q, with Y a constant, for one transition."""
    torch.manual_seed(1)
    algorithm = learner(kind, VECTORS, 3, network=partial(MLP, hidden=[5], activation="tanh"), lr=0.05)
    transition = a_batch(torch.randn(1, 3), torch.randn(1, 3), action=torch.tensor([2]), reward=torch.randn(1))
    x, action = transition["observation"], int(transition["action"])
    before = torch.nn.utils.parameters_to_vector(algorithm.q.parameters()).detach()

    def q_at(theta: Tensor) -> float:
        network = copy.deepcopy(algorithm.q)
        torch.nn.utils.vector_to_parameters(theta, network.parameters())
        return network(x)[0, action].item()

    tiny = 1e-6 * torch.eye(len(before))
    gradient = torch.tensor([(q_at(before + h) - q_at(before - h)) / 2e-6 for h in tiny])
    target = transition["reward"].item() + 0.9 * algorithm.q(transition["next_observation"]).max().item()
    algorithm.training_step(transition.unsqueeze(0), 0)
    after = torch.nn.utils.parameters_to_vector(algorithm.q.parameters()).detach()
    torch.testing.assert_close(after, before + 0.05 * (target - q_at(before)) * gradient, rtol=1e-6, atol=1e-9)


def test_linear_q_learning_is_60() -> None:
    """Of a linear function the gradient is phi itself."""
    algorithm = learner(QLearning, VECTORS, 2, network=partial(Linear, bias=False), lr=0.1)
    theta = algorithm.q.linear.weight.detach().clone()
    batch = random_batch(1, 2)
    phi, action = batch["observation"][0], int(batch["action"])
    target = batch["reward"] + 0.9 * ~batch["terminated"] * (theta @ batch["next_observation"][0]).max()
    theta[action] += 0.1 * (target - theta[action] @ phi) * phi
    algorithm.training_step(batch.unsqueeze(0), 0)
    torch.testing.assert_close(algorithm.q.linear.weight.detach(), theta)


def test_clipped_td_errors_give_hubers_gradient() -> None:
    """Mnih et al. 2015, Methods: clipping the error to +-1 is an absolute loss outside of +-1."""
    torch.manual_seed(0)
    clipped = learner(DQN, VECTORS, 4, network=partial(MLP, hidden=[16]), clip_td_error=1.0)
    smooth = learner(DQN, VECTORS, 4, network=partial(MLP, hidden=[16]), loss="huber")
    smooth.load_state_dict(clipped.state_dict())
    batch = random_batch(64, 4)
    batch["reward"] *= 3
    one, two = (
        torch.autograd.grad(algorithm.loss(batch)[0], list(algorithm.q.parameters())) for algorithm in (clipped, smooth)
    )
    for mine, other in zip(one, two, strict=True):
        torch.testing.assert_close(mine, other)


def test_losses_by_hand() -> None:
    error = torch.tensor([-3.0, -1.0, 0.0, 0.5, 2.0])
    assert squared(error).tolist() == [4.5, 0.5, 0.0, 0.125, 2.0]
    assert huber(error).tolist() == [2.5, 0.5, 0.0, 0.125, 1.5]


# Tabular Q-learning


def tabular_q_learning(
    env: gym.Env, seed: int, steps: int, alpha: float, gamma: float, epsilon: Any
) -> list[np.ndarray]:
    """The textbook's loop, in NumPy; the table after each update.

    Its random numbers are drawn in the order that this project documents: the seed of the first reset, then for each
    step a uniform action and a coin, and where several actions are best a number for each. A vector environment asks
    for an action once more when it resets.
    """
    q = np.full((env.observation_space.n, env.action_space.n), 0.5, np.float32)
    rng, tables, done = np.random.default_rng([seed, 3]), [], False
    state, _ = env.reset(seed=int(np.random.SeedSequence([seed, 1, 1]).generate_state(1)[0]))
    for t in range(steps):
        uniform, coin = int(rng.integers(q.shape[1], size=1)[0]), rng.random(1)[0]
        best = q[state] == q[state].max()
        greedy = int((best * rng.random(len(best))).argmax() if best.sum() > 1 else best.argmax())
        if done:
            (state, _), done = env.reset(), False
            continue
        action = uniform if coin < epsilon(t) else greedy
        following, reward, terminated, truncated, _ = env.step(action)
        target = float(reward) + float(np.float32(gamma)) * (0 if terminated else float(q[following].max()))
        q[state, action] = float(q[state, action]) + alpha * (target - float(q[state, action]))
        tables.append(q.copy())
        state, done = following, terminated or truncated
    return tables


class Tables(Callback):
    """The table after each gradient step."""

    def __init__(self) -> None:
        self.seen: list[np.ndarray] = []
        self.gradient_steps = 0

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        if pl_module.gradient_steps > self.gradient_steps:
            assert pl_module.gradient_steps == self.gradient_steps + 1
            self.gradient_steps += 1
            self.seen.append(pl_module.q.weight.detach().numpy().copy())


@pytest.mark.parametrize(
    ("env", "id", "alpha", "steps"),
    [
        ("frozen_lake", "FrozenLake-v1", 0.5, 400),
        ("taxi", "Taxi-v4", 0.3, 500),
        ("cliff_walking", "CliffWalking-v1", 0.8, 400),
    ],
)
def test_tabular_q_learning_update_for_update(tmp_path: Path, env: str, id: str, alpha: float, steps: int) -> None:
    """The command line's own parts and Lightning's trainer against fifteen lines of NumPy."""
    config = validate(
        composed(
            "algo=q_learning",
            "model=table",
            "model.initial=0.5",
            "optimizer=sgd",
            f"optimizer.lr={alpha}",
            f"env={env}",
            "env.vectorization=sync",  # Gymnasium's own draws
            "env.max_episode_steps=60",  # truncations too
            "algo.gamma=0.95",
            "algo.epsilon.start=0.9",
            "algo.epsilon.end=0.3",
            "algo.epsilon.steps=200",
            "seed=3",
        )
    )
    run = a_run(tmp_path, seed=3, total_steps=steps, eval_every=150)
    algorithm, data, _ = build_parts(config, run)
    tables = Tables()
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=-1,
        callbacks=[tables],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    trainer.fit(algorithm, datamodule=data)
    epsilon = LinearSchedule(start=0.9, end=0.3, steps=200)
    expected = tabular_q_learning(gym.make(id, max_episode_steps=60), 3, steps, alpha, 0.95, epsilon)
    assert len(tables.seen) == len(expected) > 0.9 * steps
    for k, (ours, theirs) in enumerate(zip(tables.seen, expected, strict=True)):
        np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-7, err_msg=f"update {k}")
    assert np.ptp(expected[-1]) > 0.2


# Q -> V, (59)


def small_mdp(states: int = 6, actions: int = 3, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Transition probabilities [states, actions, states] and rewards [states, actions]."""
    rng = np.random.default_rng(seed)
    return rng.dirichlet(np.full(states, 0.5), (states, actions)), rng.normal(size=(states, actions))


def value_iteration(p: np.ndarray, r: np.ndarray, gamma: float) -> np.ndarray:
    """V(x, a) of the optimal policy, by dynamic programming."""
    v = np.zeros_like(r)
    for _ in range(2000):
        v = r + gamma * p @ v.max(-1)
    return v


@pytest.mark.parametrize("kind", KINDS)
def test_q_converges_to_value_iteration(kind: Any) -> None:
    """Every pair (x, a) is visited again and again, with steps that shrink as 1/n: (59)."""
    gamma, draws, updates = 0.8, 64, 800
    p, r = small_mdp()
    states, actions = r.shape
    pairs = np.stack(np.meshgrid(np.arange(states), np.arange(actions), indexing="ij"), -1).reshape(-1, 2)
    x, a = torch.from_numpy(np.repeat(pairs, draws, 0)).unbind(-1)
    rng = np.random.default_rng(1)
    more = {} if kind is QLearning else {"target_every": 10}
    algorithm = learner(kind, Discrete(states), actions, gamma=gamma, **more)
    cumulative = p.cumsum(-1)[x, a]
    for n in range(updates):
        following = torch.from_numpy((rng.random((len(x), 1)) > cumulative).sum(-1).clip(max=states - 1))
        noise = rng.normal(size=len(x))  # rewards may be random too
        batch = a_batch(
            x,
            following,
            action=a,
            reward=torch.from_numpy(r[x, a] + noise).float(),
            discount=torch.full((len(x),), gamma),
        )
        # The mean over the batch gives each of the pairs a step of lr / pairs.
        algorithm.optimizers().param_groups[0]["lr"] = len(pairs) / (1 + 0.1 * n)
        algorithm.training_step(batch.unsqueeze(0), 0)
    truth = value_iteration(p, r, gamma)
    assert np.ptp(truth) > 1
    np.testing.assert_allclose(algorithm.q.weight.detach().numpy(), truth, atol=0.05)


# Maximisation bias


@pytest.mark.parametrize("m", [2, 4, 10])
def test_van_hasselts_lemma(m: int) -> None:
    """True values of 0, errors uniform on [-1, 1]: the max is (m-1)/(m+1) too high, the double estimate is not."""
    states = 40_000
    generator = torch.Generator().manual_seed(m)
    state = torch.arange(states)
    error = 4 * 2 / np.sqrt(12 * states)  # four standard errors, of the widest of the means
    for kind, bias in ((DQN, (m - 1) / (m + 1)), (DoubleDQN, 0.0)):
        algorithm = learner(kind, Discrete(states), m)
        for table in (algorithm.q, algorithm.target_q):
            table.weight.data = 2 * torch.rand(states, m, generator=generator) - 1
        assert float(algorithm.bootstrap({"next_observation": state}).mean()) == pytest.approx(bias, abs=error)
