"""REINFORCE: its gradient against the closed forms (11) and (22), and against TorchRL's loss."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from tensordict import TensorDict
from tests.training import algorithm, resumes_exactly, train
from torch import Tensor, nn

from downpour.algorithms.reinforce import Reinforce, score_function_loss
from downpour.algorithms.returns import discounted_sums
from downpour.analysis.runs import RunDirectory
from downpour.analysis.trials import by_episode
from downpour.config import ConfigError
from downpour.environments.bandits import ContextualBandit, ContinuousBandit
from downpour.networks import Linear
from downpour.networks.heads import Categorical, Gaussian, Head, MixtureOfGaussians

CONTEXTS = {2: torch.tensor([[0.5, -1.0], [-0.3, 0.2], [1.0, 0.9]]), 1: torch.tensor([[-0.8], [0.1], [0.9]])}
GRID = torch.linspace(-9, 9, 6001)


def reinforce(environment: Any, head: Head, seed: int, **options: Any) -> Reinforce:
    torch.manual_seed(seed)
    network = lambda space, outputs: Linear(space, outputs)  # noqa: E731
    spaces_ = (environment.observation_space, environment.action_space)
    options = {"baseline": "none", "normalize_returns": False, "gradient_clip": None, **options}
    rule = Reinforce(spaces_[0], network, lambda p: torch.optim.SGD(p, 0.1), head=head, gamma=1.0, **options)
    for parameter in rule.parameters():
        nn.init.normal_(parameter, std=0.4)
    return rule


def expected_reward(rule: Reinforce, environment: Any) -> Tensor:
    """E f(X, A) with X uniform on the contexts: the sum (11), or the integral (22) by the trapezoidal rule."""
    contexts = CONTEXTS[environment.observation_space.shape[0]]
    total: Any = 0.0
    for x in contexts:
        p = rule.head.distribution(rule.policy(x.unsqueeze(0)))
        if isinstance(environment.action_space, spaces.Discrete):
            actions = torch.arange(environment.action_space.n)
            f = torch.tensor(environment.f(x.numpy()[None], actions.numpy()), dtype=torch.float32)
            total = total + (f * p.log_prob(actions).exp()).sum()
        else:
            f = torch.tensor(environment.f(x.numpy(), GRID.numpy()[:, None]), dtype=torch.float32)
            total = total + torch.trapezoid(f * p.log_prob(GRID.unsqueeze(-1)).exp(), GRID)
    return total / len(contexts)


def sampled(rule: Reinforce, environment: Any, noise: float, seed: int, count: int = 5_000) -> tuple[Any, TensorDict]:
    rng = np.random.default_rng(seed)
    contexts = CONTEXTS[environment.observation_space.shape[0]]
    x = contexts[torch.from_numpy(rng.integers(len(contexts), size=count))]
    action = rule.act(x, rng, env_steps=0, explore=True)
    reward = environment.f(x.numpy(), action) + noise * rng.standard_normal(count)
    batch = TensorDict(
        {
            "observation": x,
            "action": torch.from_numpy(action),
            "return": torch.tensor(reward, dtype=torch.float32),
            "ends": torch.ones(count, dtype=torch.bool),
        },
        batch_size=[count],
    )
    return rng, batch


CASES = {
    "categorical": (ContextualBandit(), lambda e: Categorical(e.action_space), 0.0),
    "noisy reward": (ContextualBandit(), lambda e: Categorical(e.action_space), 1.0),
    "gaussian": (ContinuousBandit(), lambda e: Gaussian(e.action_space, sigma=0.4), 0.0),
    "mixture, fixed weights": (
        ContinuousBandit(),
        lambda e: MixtureOfGaussians(e.action_space, weights="fixed", components=3),
        0.0,
    ),
    "mixture, learned weights": (ContinuousBandit(), lambda e: MixtureOfGaussians(e.action_space, components=2), 0.5),
}


@pytest.mark.parametrize("case", CASES)
def test_the_sampled_gradient_is_unbiased(case: str) -> None:
    """(15), (23), (28): within four standard errors of the closed form at every theta."""
    environment, make_head, noise = CASES[case]
    for seed in range(20):
        rule = reinforce(environment, make_head(environment), seed)
        names = [name for name, _ in rule.named_parameters()]
        exact = torch.autograd.grad(expected_reward(rule, environment), list(rule.parameters()))
        _, batch = sampled(rule, environment, noise, seed)
        loss, _ = rule.loss(batch)
        mean = torch.autograd.grad(loss, list(rule.parameters()))

        def one(parameters: dict[str, Tensor], x: Tensor, a: Tensor, r: Tensor, rule: Reinforce = rule) -> Tensor:
            class Whole(nn.Module):
                def __init__(self) -> None:
                    super().__init__()
                    self.rule = rule

                def forward(self, x: Tensor, a: Tensor, r: Tensor) -> Tensor:
                    p = rule.head.distribution(rule.policy(x.unsqueeze(0)))
                    return score_function_loss(p.log_prob(a.unsqueeze(0)), r.unsqueeze(0), 1)

            values = {f"rule.{name}": value for name, value in parameters.items()}
            return torch.func.functional_call(Whole(), values, (x, a, r))

        each = torch.func.vmap(torch.func.grad(one), in_dims=(None, 0, 0, 0))(
            dict(rule.named_parameters()), batch["observation"], batch["action"], batch["return"]
        )
        for name, closed, average in zip(names, exact, mean, strict=True):
            np.testing.assert_allclose(each[name].mean(0).detach(), average, atol=2e-5)
            standard_error = each[name].std(0).detach() / len(batch) ** 0.5
            assert ((closed + average).abs() <= 4 * standard_error + 1e-5).all(), (seed, name)


def test_the_sum_of_rewards_to_come() -> None:
    """(30), (32): by the definition, over two episodes and a reset in one column."""
    reward, gamma = torch.tensor([1.0, 2.0, 3.0, 0.0, 4.0, 5.0]), 0.9
    ended = torch.tensor([False, False, True, False, False, True])
    found = discounted_sums(reward[:, None], (gamma * ~ended)[:, None])[:, 0]
    expected = [1 + 0.9 * 2 + 0.81 * 3, 2 + 0.9 * 3, 3, 0 + 0.9 * 4 + 0.81 * 5, 4 + 0.9 * 5, 5]
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_a_round_becomes_the_steps_of_its_episodes() -> None:
    rule = reinforce(ContextualBandit(), Categorical(spaces.Discrete(3)), 0)
    rows = TensorDict(
        {
            "observation": torch.arange(10.0).view(5, 1, 2),
            "action": torch.tensor([9, 0, 1, 9, 2]).view(5, 1),
            "reward": torch.tensor([9.0, 1.0, 2.0, 0.0, 5.0]).view(5, 1),
            "terminated": torch.tensor([False, False, True, False, True]).view(5, 1),
            "truncated": torch.zeros(5, 1, dtype=torch.bool),
            "weight": torch.tensor([0.0, 1.0, 1.0, 0.0, 1.0]).view(5, 1),
        },
        batch_size=[5, 1],
    )
    (batch,) = rule.learn(rows)
    assert batch["return"].tolist() == [3.0, 2.0, 5.0]
    assert batch["action"].tolist() == [0, 1, 2]
    assert batch["observation"].tolist() == [[0, 1], [2, 3], [6, 7]]


def torchrls(rule: Reinforce, batch: TensorDict, advantage: Tensor) -> TensorDict:
    """TorchRL's ReinforceLoss for the same policy and value network."""
    from tensordict.nn import ProbabilisticTensorDictModule, ProbabilisticTensorDictSequential, TensorDictModule
    from torchrl.modules.distributions import OneHotCategorical  # noqa: F401  (imports the package's distributions)
    from torchrl.objectives import ReinforceLoss

    class Parameters(nn.Module):
        """Mean and standard deviation, from the network's outputs and the head's own sigma."""

        def __init__(self) -> None:
            super().__init__()
            self.network, self.head = rule.policy, rule.head

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            head: Any = self.head
            mean = head.centre + head.scale * self.network(x)
            return mean, head.sigma.expand_as(mean)

    discrete = isinstance(rule.head, Categorical)
    keys = ["logits"] if discrete else ["loc", "scale"]
    distribution: Any = torch.distributions.Categorical if discrete else IndependentNormal
    actor = ProbabilisticTensorDictSequential(
        TensorDictModule(rule.policy if discrete else Parameters(), in_keys=["observation"], out_keys=keys),
        ProbabilisticTensorDictModule(in_keys=keys, out_keys=["action"], distribution_class=distribution),
    )
    value = rule.value if isinstance(rule.value, nn.Module) else nn.Linear(batch["observation"].shape[-1], 1)
    critic = TensorDictModule(value, in_keys=["observation"], out_keys=["state_value"])
    oracle = ReinforceLoss(actor, critic_network=critic, loss_critic_type="l2")
    targets = {"advantage": advantage[:, None], "value_target": batch["return"][:, None]}
    return oracle(TensorDict({**batch, **targets}, batch.shape))


class IndependentNormal(torch.distributions.Independent):
    def __init__(self, loc: Tensor, scale: Tensor):
        super().__init__(torch.distributions.Normal(loc, scale), 1)


HEADS: dict[str, Any] = {
    "categorical": (ContextualBandit(), lambda e: Categorical(e.action_space)),
    "gaussian": (ContinuousBandit(), lambda e: Gaussian(e.action_space, sigma=0.4)),
}


@pytest.mark.parametrize("baseline", ["none", "batch_mean", "value"])
@pytest.mark.parametrize("head", HEADS)
def test_the_loss_is_torchrls(head: str, baseline: Any) -> None:
    environment, make_head = HEADS[head]
    rule = reinforce(environment, make_head(environment), 1, baseline=baseline, value_coefficient=0.3)
    _, batch = sampled(rule, environment, 0.0, 1, count=64)
    advantage = batch["return"]
    if baseline == "value":
        advantage = advantage - rule.state_values(batch["observation"]).detach()
    elif baseline == "batch_mean":
        advantage = advantage - advantage.mean()
    theirs = torchrls(rule, batch, advantage)
    expected = theirs["loss_actor"] + (0.3 * theirs["loss_value"] if baseline == "value" else 0)
    mine = rule.loss(batch)[0]
    assert mine.item() == pytest.approx(expected.item(), abs=1e-6)
    assert abs(mine.item()) > 1e-3


def test_a_baseline_takes_its_part_off() -> None:
    head = Categorical(spaces.Discrete(3))
    plain = reinforce(ContextualBandit(), head, 2)
    _, batch = sampled(plain, ContextualBandit(), 0.0, 2, count=50)
    shifted = batch.clone()
    shifted["return"] += 7.0
    mean = reinforce(ContextualBandit(), head, 2, baseline="batch_mean", normalize_returns=True)
    assert float(mean.loss(batch)[0]) == pytest.approx(float(mean.loss(shifted)[0]), abs=1e-4)
    assert float(plain.loss(batch)[0]) != pytest.approx(float(plain.loss(shifted)[0]), abs=1e-2)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("env=cartpole", "model/head=gaussian"), "model/head=categorical"),
        (("env=continuous_bandit", "model/head=categorical"), "mixture_of_gaussians"),
        (("env=cartpole", "data=replay"), "learns from data=episodes"),
        (
            ("env=continuous_bandit", "model/head=mixture_of_gaussians", "algo.entropy_coefficient=0.1"),
            "MixtureOfGaussians has no closed-form entropy",
        ),
        (("env=frozen_lake", "algo.normalize_observations=true"), "needs Box observations"),
    ],
)
def test_wrong_pairings_are_answered_with_right_ones(tmp_path: Path, overrides: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        algorithm(tmp_path, "algo=reinforce", *overrides)


def test_it_resumes_exactly(tmp_path: Path) -> None:
    resumes_exactly(tmp_path, "algo=reinforce", "algo.baseline=value", "algo.normalize_observations=true")


def test_it_learns_a_bandit(tmp_path: Path) -> None:
    """The best policy earns E max_a f(X, a); a uniform one 0."""
    options = ("env=contextual_bandit", "data.num_envs=32", "optimizer.lr=1e-2", "total_env_steps=12_000")
    train(tmp_path / "run", "algo=reinforce", *options, "eval_every=12_000", "eval_episodes=400")
    environment = ContextualBandit()
    x = np.random.default_rng(0).uniform(-1, 1, size=(100_000, 1, 2))
    best = environment.f(x, np.arange(3)).max(1).mean()
    row = (tmp_path / "run" / "metrics.csv").read_text().splitlines()
    found = dict(zip(row[0].split(","), row[-1].split(","), strict=True))
    assert float(found["eval/return_mean"]) > 0.85 * best


@pytest.mark.slow
def test_a_thousand_trials_find_the_best_random_policy(tmp_path: Path) -> None:
    """Sutton and Barto's Example 13.1: right with p = 0.59 is worth -11.6, and no deterministic policy gets out."""
    start = ("model.initial=[0.4,-0.4]", "total_env_steps=9_000_000", "eval_every=9_000_000")
    quick = ("algo.baseline=batch_mean", "optimizer.lr=4", "schedule.steps=110", "callbacks.evaluation.num_envs=2")
    train(tmp_path / "run", "experiment=short_corridor", *start, *quick)
    run = RunDirectory(tmp_path / "run")
    returns, _ = by_episode(run)
    assert returns.shape[0] == 1000 and returns.shape[1] > 90
    first, last = returns[:, 0].mean(), returns[:, -10:].mean()
    p = 1 / (1 + np.exp(0.8))
    assert first == pytest.approx((2 * p - 4) / (p * (1 - p)), abs=4 * returns[:, 0].std() / 1000**0.5)
    assert last == pytest.approx(-11.66, abs=0.6)
    theta = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]["policy.weight"]
    right = theta.softmax(-1)[:, 1]
    assert float(right.mean()) == pytest.approx(0.59, abs=0.05)


PEAKS = ("algo=reinforce", "env=continuous_bandit", "data.num_envs=64", "optimizer.lr=3e-3", "data.episodes_per_env=2")
MIXTURE = ("model/head=mixture_of_gaussians", "algo.head.weights=fixed", "algo.head.learn_sigma=true")


def near_the_peaks(rule: Any, x: Tensor, within: float = 0.3) -> Tensor:
    """P(|A - peak| < within) for the upper and the lower peak of each context [contexts, 2], by integration."""
    grid = torch.linspace(-8, 8, 8001)
    density = torch.stack([rule.head.distribution(o[None]).log_prob(grid[:, None]).exp() for o in rule.policy(x)])
    peaks = torch.stack([1 + x[:, 0] / 2, -1 - x[:, 0] / 2], 1)
    inside = (grid - peaks[..., None]).abs() < within
    return (density[:, None] * inside).sum(-1) * float(grid[1] - grid[0])


def most_of_one_gaussian(within: float = 0.3) -> float:
    """The largest min(P near +1, P near -1) of any Gaussian: by symmetry its mean is 0, and one number is left."""
    sigma = torch.linspace(0.05, 5, 5000)
    normal = torch.distributions.Normal(0.0, sigma)
    return float((normal.cdf(torch.tensor(1 + within)) - normal.cdf(torch.tensor(1 - within))).max())


@pytest.mark.parametrize("seed", [0, 1])
def test_a_mixture_is_at_both_peaks_where_no_gaussian_can_be(tmp_path: Path, seed: int) -> None:
    options = (*PEAKS, *MIXTURE, f"seed={seed}", "total_env_steps=60_000", "eval_every=60_000", "logger=csv")
    train(tmp_path / "run", *options)
    rule = algorithm(tmp_path / "again", *options)
    rule.load_state_dict(torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"])
    with torch.no_grad():
        found = near_the_peaks(rule, torch.tensor([[-0.5], [0.0], [0.5]]))
    assert most_of_one_gaussian() == pytest.approx(0.1452, abs=0.001)
    assert found[1].min() > 2 * most_of_one_gaussian()
    assert found.min() > 0.25
