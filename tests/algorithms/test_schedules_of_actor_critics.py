"""When actors, targets and alpha move: policy_delay, target_every, target_tau and learn_alpha, step by step."""

from typing import Any

import pytest
import torch
from tests.algorithms.test_actor_critic import make, transitions
from torch import Tensor, nn

from downpour.algorithms.actor_critic import ActorCritic
from downpour.algorithms.sac import SAC
from downpour.algorithms.td3 import TD3

KINDS = [ActorCritic, TD3, SAC]
STEPS = 12


def driven(kind: type[ActorCritic], **options: Any) -> Any:
    """The rule with optimizers of its own, no trainer."""
    rule = make(kind, **options)
    made = rule.configure_optimizers()
    rule.optimizers = lambda: made
    rule.manual_backward = lambda loss: loss.backward()
    return rule


def flat(network: nn.Module) -> Tensor:
    return nn.utils.parameters_to_vector(network.parameters()).detach().clone()


def moved(rule: Any, parts: dict[str, Any], batch: Any) -> set[str]:
    """Which of the networks an update changes."""
    before = {name: flat(part) for name, part in parts.items()}
    rule.update(batch)
    return {name for name, part in parts.items() if not torch.equal(flat(part), before[name])}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("policy_delay", "target_every"), [(1, 1), (2, 2), (3, 2), (2, 5)])
def test_each_moves_at_its_own_steps_and_no_others(kind: Any, policy_delay: int, target_every: int) -> None:
    rule, batch = driven(kind, policy_delay=policy_delay, target_every=target_every), transitions()
    parts = {"critics": rule.critics, "actor": rule.actor, "target critics": rule.target_critics}
    if kind is not SAC:
        parts["target actor"] = rule.target_actor
    for step in range(1, STEPS + 1):
        expected = {"critics"}
        expected |= {"actor"} if step % policy_delay == 0 else set()
        expected |= {name for name in parts if name.startswith("target")} if step % target_every == 0 else set()
        assert moved(rule, parts, batch) == expected, step
    assert rule.gradient_steps == STEPS


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tau", [1.0, 0.1])
def test_the_targets_move_a_part_of_the_way(kind: Any, tau: float) -> None:
    """(1 - tau) theta^- + tau theta, of the weights as the step has left them."""
    rule, batch = driven(kind, target_tau=tau, target_every=2), transitions()
    pairs = [(rule.target_critics, rule.critics)]
    if kind is not SAC:
        pairs.append((rule.target_actor, rule.actor))
    for step in range(1, 7):
        before = [flat(target) for target, _ in pairs]
        rule.update(batch)
        for old, (target, source) in zip(before, pairs, strict=True):
            expected = (1 - tau) * old + tau * flat(source) if step % 2 == 0 else old
            torch.testing.assert_close(flat(target), expected, atol=1e-7, rtol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_without_target_networks_there_is_nothing_to_move(kind: Any) -> None:
    rule = driven(kind, target_network=False)
    assert rule.target_critics is rule.critics
    assert moved(rule, {"critics": rule.critics, "actor": rule.actor}, transitions()) == {"critics", "actor"}


def test_td3_delays_by_default_as_its_paper_says() -> None:
    """Its YAML has both at 2 (Fujimoto et al. 2018, Algorithm 1, d = 2)."""
    from tests.worlds import composed

    algo = composed("algo=td3")["algo"]
    assert (algo["policy_delay"], algo["target_every"], algo["target_tau"]) == (2, 2, 0.005)


@pytest.mark.parametrize("every", [1, 3])
def test_alpha_moves_with_the_actor(every: int) -> None:
    rule, batch = driven(SAC, policy_delay=every), transitions()
    for step in range(1, 7):
        before = rule.log_alpha.item()
        rule.update(batch)
        assert (rule.log_alpha.item() != before) == (step % every == 0)


def test_alpha_stays_where_it_is_not_learned() -> None:
    rule, batch = driven(SAC, alpha=0.3, learn_alpha=False), transitions()
    start = rule.log_alpha.item()
    assert len(rule.optimizers()) == 2 and not rule.log_alpha.requires_grad
    for _ in range(5):
        rule.update(batch)
    assert rule.log_alpha.item() == start
    assert rule.latest["alpha"].item() == pytest.approx(torch.tensor(start).exp().item())
