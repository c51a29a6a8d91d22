"""A2C and PPO: advantages and losses against TorchRL's, discrete and continuous; exact resume."""

import copy
import csv
from pathlib import Path
from typing import Any

import pytest
import torch
from gymnasium import spaces
from tensordict import TensorDict
from tensordict.nn import ProbabilisticTensorDictModule, ProbabilisticTensorDictSequential, TensorDictModule
from tests.training import algorithm, resumes_exactly, train
from torch import Tensor, nn
from torchrl.objectives import A2CLoss, ClipPPOLoss
from torchrl.objectives.value.functional import generalized_advantage_estimate

from downpour import dynamic_programming as dp
from downpour.algorithms.advantage_actor_critic import AdvantageActorCritic
from downpour.algorithms.ppo import PPO
from downpour.algorithms.returns import RewardNormalizer, generalized_advantage
from downpour.checkpoints import read
from downpour.config import ConfigError
from downpour.environments import Gymnasium
from downpour.environments.tables import start_of, table_of
from downpour.failures import Failed
from downpour.networks import MLP
from downpour.networks.heads import fitting

OBSERVATIONS = spaces.Box(-1.0, 1.0, (3,))
DISCRETE, CONTINUOUS = spaces.Discrete(3), spaces.Box(-1.0, 1.0, (2,))


def make(kind: type[AdvantageActorCritic], actions: Any, **options: Any) -> Any:
    torch.manual_seed(0)
    network = lambda space, outputs: MLP(space, outputs, hidden=[16], activation="tanh")  # noqa: E731
    optimizer = lambda p: torch.optim.Adam(p, 1e-3)  # noqa: E731
    options = {"gae_lambda": 1.0, "normalize_advantage": False, "gradient_clip": None, **options}
    return kind(OBSERVATIONS, network, optimizer, head=fitting(actions), gamma=0.9, **options)


def rollout(actions: Any, steps: int = 12, num_envs: int = 4) -> TensorDict:
    """Rows with terminated and truncated episodes, each followed by a reset."""
    generator = torch.Generator().manual_seed(1)
    shape = (steps + 1, num_envs)
    terminated, truncated = torch.zeros(shape, dtype=torch.bool), torch.zeros(shape, dtype=torch.bool)
    terminated[4, 0] = truncated[6, 1] = terminated[12, 2] = truncated[9, 3] = True
    first = torch.zeros(shape, dtype=torch.bool)
    first[1:] = (terminated | truncated)[:-1]
    weight = (~first).float()
    weight[0] = 0
    discrete = isinstance(actions, spaces.Discrete)
    action = torch.randint(3, shape, generator=generator) if discrete else torch.randn(*shape, 2, generator=generator)
    return TensorDict(
        {
            "observation": torch.randn(*shape, 3, generator=generator),
            "action": action,
            "reward": torch.randn(shape, generator=generator),
            "terminated": terminated,
            "truncated": truncated,
            "weight": weight,
        },
        batch_size=shape,
    )


def test_advantages_are_torchrls() -> None:
    rows = rollout(DISCRETE)
    value = torch.randn(13, 4, generator=torch.Generator().manual_seed(2))
    after = rows[1:]
    ended = after["terminated"] | after["truncated"]
    found = generalized_advantage(after["reward"], value, after["terminated"], ended, 0.9, 0.8)

    def columns(x: Tensor) -> Tensor:
        return x.T.unsqueeze(-1).contiguous()

    expected, _ = generalized_advantage_estimate(
        0.9,
        0.8,
        columns(value[:-1]),
        columns(value[1:]),
        columns(after["reward"]),
        done=columns(ended),
        terminated=columns(after["terminated"]),
    )
    torch.testing.assert_close(found, expected.squeeze(-1).T, atol=1e-6, rtol=1e-6)


def test_a_trace_of_one_is_the_discounted_sum_minus_the_value() -> None:
    reward, value = torch.tensor([[1.0], [2.0], [3.0]]), torch.tensor([[0.5], [0.6], [0.7], [10.0]])
    truncated = torch.tensor([[False], [False], [True]])
    never = torch.zeros(3, 1, dtype=torch.bool)
    found = generalized_advantage(reward, value, never, truncated, 0.5, 1.0)[0, 0]
    assert found.item() == pytest.approx(1 + 0.5 * 2 + 0.25 * 3 + 0.125 * 10 - 0.5)
    found = generalized_advantage(reward, value, truncated, truncated, 0.5, 1.0)[0, 0]
    assert found.item() == pytest.approx(1 + 0.5 * 2 + 0.25 * 3 - 0.5)


class Parameters(nn.Module):
    """What a TorchRL policy needs to make our head's distribution."""

    def __init__(self, rule: Any):
        super().__init__()
        self.network, self.head = copy.deepcopy(rule.policy), copy.deepcopy(rule.head)

    def forward(self, observation: Tensor) -> Any:
        outputs = self.network(observation)
        if hasattr(self.head, "sigma"):
            return self.head.centre + self.head.scale * outputs, self.head.sigma.expand_as(outputs)
        return outputs


def theirs(rule: Any, batch: TensorDict) -> tuple[Any, Any, TensorDict]:
    discrete = not hasattr(rule.head, "sigma")
    keys = ["logits"] if discrete else ["loc", "scale"]

    def normal(loc: Tensor, scale: Tensor) -> Any:
        return torch.distributions.Independent(torch.distributions.Normal(loc, scale), 1)

    actor = ProbabilisticTensorDictSequential(
        TensorDictModule(Parameters(rule), in_keys=["observation"], out_keys=keys),
        ProbabilisticTensorDictModule(
            in_keys=keys,
            out_keys=["action"],
            distribution_class=torch.distributions.Categorical if discrete else normal,
            return_log_prob=True,
        ),
    )
    critic = TensorDictModule(copy.deepcopy(rule.value), in_keys=["observation"], out_keys=["state_value"])
    content = {"observation": batch["observation"], "action": batch["action"]}
    content |= {"advantage": batch["advantage"][:, None], "value_target": batch["return"][:, None]}
    if "log_prob" in batch:
        content["action_log_prob"] = batch["log_prob"]
    return actor, critic, TensorDict(content, batch.shape)


@pytest.mark.parametrize("actions", [DISCRETE, CONTINUOUS])
def test_the_a2c_loss_is_torchrls(actions: Any) -> None:
    rule = make(AdvantageActorCritic, actions, entropy_coefficient=0.03, value_coefficient=0.4)
    (batch,) = rule.learn(rollout(actions))
    actor, critic, rows = theirs(rule, batch)
    oracle = A2CLoss(actor, critic, entropy_coeff=0.03, critic_coeff=0.4, loss_critic_type="l2")
    expected = oracle(rows)
    total = expected["loss_objective"] + expected["loss_critic"] + expected["loss_entropy"]
    assert rule.loss(batch)[0].item() == pytest.approx(total.item(), abs=1e-6)


@pytest.mark.parametrize("actions", [DISCRETE, CONTINUOUS])
def test_the_ppo_loss_is_torchrls(actions: Any) -> None:
    rule = make(PPO, actions, entropy_coefficient=0.03, minibatches=1, epochs=1, clip=0.1)
    (batch,) = rule.learn(rollout(actions))
    torch.testing.assert_close(rule.loss(batch)[1]["kl"], torch.tensor(0.0), atol=1e-6, rtol=0)
    for parameter in rule.policy.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    actor, critic, rows = theirs(rule, batch)
    oracle = ClipPPOLoss(actor, critic, clip_epsilon=0.1, entropy_coeff=0.03, critic_coeff=0.5, loss_critic_type="l2")
    expected = oracle(rows)
    total = expected["loss_objective"] + expected["loss_critic"] + expected["loss_entropy"]
    loss, metrics = rule.loss(batch)
    assert loss.item() == pytest.approx(total.item(), abs=1e-6)
    assert metrics["clip_fraction"].item() == pytest.approx(expected["clip_fraction"].item(), abs=1e-6)
    assert 0 < metrics["clip_fraction"] < 1


def test_the_clipped_value_loss_is_torchrls() -> None:
    rule = make(PPO, DISCRETE, minibatches=1, epochs=1, value_clip=0.05)
    (batch,) = rule.learn(rollout(DISCRETE))
    for parameter in rule.value.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    actor, critic, rows = theirs(rule, batch)
    rows["state_value"] = batch["value"][:, None]
    oracle = ClipPPOLoss(
        actor, critic, entropy_bonus=False, critic_coeff=1.0, loss_critic_type="l2", clip_value=0.05, reduction="mean"
    )
    expected, found = oracle(rows)["loss_critic"].item(), rule.loss(batch)[1]["value_loss"].item()
    assert found == pytest.approx(expected, abs=1e-6)
    rule.value_clip = None
    assert found > rule.loss(batch)[1]["value_loss"].item()


def test_passes_end_once_the_policy_has_moved_far_enough() -> None:
    rule = make(PPO, DISCRETE, minibatches=2, epochs=10, target_kl=0.01)
    assert len(list(rule.learn(rollout(DISCRETE)))) == 20  # nobody moves it
    made = 0
    for _ in rule.learn(rollout(DISCRETE)):
        made += 1
        if made == 5:
            for parameter in rule.policy.parameters():
                parameter.data += 0.5 * torch.randn_like(parameter)
    assert made == 6  # seen at the end of the third pass


def test_more_minibatches_than_transitions_are_refused() -> None:
    rule = make(PPO, DISCRETE, minibatches=50)
    with pytest.raises(ConfigError, match=r"4\d transitions per round are too few for 50 minibatches"):
        next(rule.learn(rollout(DISCRETE)))


def test_rows_of_weight_nothing_are_not_in_the_statistics() -> None:
    rule = make(AdvantageActorCritic, DISCRETE, normalize_observations=True)
    rows = rollout(DISCRETE)
    list(rule.batches(rows))
    counted = rows["observation"][rows["weight"].bool()].double()
    assert 0 < len(counted) < rows["weight"][1:].numel()
    torch.testing.assert_close(rule.normalizer.mean, counted.mean(0))
    torch.testing.assert_close(rule.normalizer.squares, (counted - counted.mean(0)).square().sum(0))
    seen = rule.seen(counted.float())
    torch.testing.assert_close(seen.std(0, correction=0), torch.ones(3))


def test_rewards_are_divided_by_the_deviation_of_their_discounted_sums() -> None:
    """As a loop over single environments computes it, across the border of two rounds."""
    rows = rollout(DISCRETE, steps=24)
    rows["first"] = torch.cat([torch.zeros(1, 4, dtype=torch.bool), (rows["terminated"] | rows["truncated"])[:-1]])
    rows["reward"] = torch.where(rows["first"], 0.0, rows["reward"])
    normalizer, sums = RewardNormalizer(0.9), []
    for e in range(4):
        total = 0.0
        for t in range(1, 25):
            total = 0.0 if rows["first"][t, e] else 0.9 * total + float(rows["reward"][t, e])
            if not rows["first"][t, e]:
                sums.append((t, total))
    for begin in (0, 12):
        part = rows[begin : begin + 13].clone()
        part["weight"] = (~part["first"]).float()
        part["weight"][0] = 0
        given = part.clone()
        found = normalizer(part)
        deviation = torch.tensor([s for t, s in sums if t <= begin + 12], dtype=torch.float64).std(correction=0)
        torch.testing.assert_close(found["reward"], (given["reward"] / deviation).float())
        assert torch.equal(part["reward"], given["reward"])


def test_a_pass_sees_every_step_once_in_as_many_parts_as_asked() -> None:
    rule = make(PPO, DISCRETE, minibatches=5, epochs=2)
    rows = rollout(DISCRETE)
    parts = list(rule.learn(rows))
    assert len(parts) == 10 and sum(map(len, parts)) == 2 * int(rows["weight"].sum())
    seen = torch.cat([part["advantage"] for part in parts[:5]]).sort().values
    torch.testing.assert_close(seen, rule.steps_of(rows)["advantage"].sort().values)


@pytest.mark.parametrize("overrides", [("algo=ppo", "env=cartpole"), ("algo=advantage_actor_critic", "env=pendulum")])
def test_it_resumes_exactly(tmp_path: Path, overrides: tuple[str, ...]) -> None:
    options = (
        "algo.normalize_observations=true",
        "algo.normalize_rewards=true",
        "data.num_envs=2",
        "data.round_steps=25",
        "model.hidden=[16]",
    )
    resumes_exactly(tmp_path, *overrides, *options)


def test_replay_is_answered_with_the_stream_it_learns_from(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="learns from data=rollout"):
        algorithm(tmp_path, "algo=ppo", "data=replay")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("algo=ppo", "data.num_envs=1", "data.round_steps=3"), "3 transitions per round are too few for 4"),
        (("algo=advantage_actor_critic", "data.num_envs=1", "data.round_steps=1"), "0 transitions per round"),
    ],
)
def test_a_round_without_enough_transitions_is_answered(
    tmp_path: Path, overrides: tuple[str, ...], message: str
) -> None:
    """The mean over nothing would be NaN, and the advice to lower the step size."""
    with pytest.raises(Failed, match=message) as caught:
        train(tmp_path / "run", *overrides, "total_env_steps=200", "eval_every=200")
    assert caught.value.code == 2


@pytest.mark.parametrize("algo", ["advantage_actor_critic", "ppo", "reinforce"])
def test_its_values_are_watched_like_any_others(tmp_path: Path, algo: str) -> None:
    """The exact value that they are compared with is that of the policy as it stands."""
    options = ("env=frozen_lake", "model=table", "algo.gamma=0.9", "total_env_steps=4000", "eval_every=2000")
    given = ("algo.baseline=value",) if algo == "reinforce" else ()
    train(tmp_path / "exact", f"algo={algo}", *options, *given, "callbacks=value_distance")
    config = ("callbacks=overestimation", "callbacks.overestimation.episodes=20")
    train(tmp_path / "played", f"algo={algo}", *options, *given, *config)
    exact = last_of_each(tmp_path / "exact")
    weights = read(tmp_path / "exact" / "checkpoints" / "last.ckpt")["state_dict"]
    environment = Gymnasium(id="FrozenLake-v1")
    p = weights["policy.weight"].double().softmax(-1).numpy()
    v = dp.policy_evaluation(table_of(environment), p, 0.9)
    assert float(exact["exact/start_value"]) == pytest.approx(float(start_of(environment) @ v))
    assert 0 < float(exact["exact/value_rms"]) < 1
    best = dp.policy_evaluation(table_of(environment), p.argmax(1), 0.9)
    assert float(exact["exact/policy_value"]) == pytest.approx(float(start_of(environment) @ best))
    assert float(last_of_each(tmp_path / "played")["eval/value_estimate"]) > -1


def last_of_each(directory: Path) -> dict[str, str]:
    rows = csv.DictReader((directory / "metrics.csv").open())
    return {name: value for row in rows for name, value in row.items() if value}
