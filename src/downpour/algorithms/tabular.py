"""(55) on tables, transition by transition, without autograd.

The gradient of an entry with respect to its table is a unit vector, so a step is the tabular rule (58): a few
additions. Autograd computes the same at a thousand times the cost.
"""

from typing import Any

import torch
import torch.distributed as dist
from tensordict import TensorDict
from torch import Tensor
from torch.optim import SGD

from downpour.networks.linear import Table
from downpour.precision import unwrapped


def plain_step(optimizer: Any) -> float | None:
    """alpha, if a step of the optimizer is theta - alpha g and nothing else; otherwise None."""
    optimizer = unwrapped(optimizer)
    if type(optimizer) is not SGD or len(optimizer.param_groups) > 1:
        return None
    group = optimizer.param_groups[0]
    extras = ("momentum", "weight_decay", "nesterov", "maximize", "base_lr")  # base_lr: it follows a schedule
    return None if any(group.get(name) for name in extras) else float(group["lr"])


@torch.no_grad()
def learn_in_order(
    tables: list[Table],
    turns: list[int],
    transitions: TensorDict,
    first_action: int,
    step: float,
    visits: Tensor | None = None,
    exponent: float = 1.0,
    ties: list[float] | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Learn from transitions [count] one by one, in order.

    Args:
        tables: one, or two that evaluate each other.
        turns: the table that learns from each transition.
        transitions: as `Replay.transitions`.
        step: alpha.
        visits: n(x, a) of each table so far [tables * states, actions], updated here; alpha is then divided by
            n(x, a)^`exponent`.
        ties: numbers in [0, 1) that select among several best next actions (which matters where another table
            evaluates them); None takes the first.

    Returns:
        For each transition [count]: Q(X_t, A_t) before its step, the TD error, and the factor of alpha.
    """
    first = tables[0].start
    where = torch.stack([transitions["observation"], transitions["next_observation"]]).long() - first
    touched, (states, followers) = torch.unique(where, return_inverse=True)
    q = [table.weight[touched].tolist() for table in tables]
    counts = None if visits is None else visits.view(len(tables), -1, visits.shape[-1])
    n = None if counts is None else counts[:, touched].tolist()
    rows = zip(
        turns,
        states.tolist(),
        (transitions["action"] - first_action).tolist(),
        transitions["reward"].tolist(),
        (transitions["discount"] * ~transitions["terminated"]).tolist(),
        followers.tolist(),
        ties or [0.0] * len(turns),
        strict=True,
    )
    values, errors, parts = [], [], []
    part = 1.0
    for turn, x, a, reward, discount, y, tie in rows:
        mine, judging = q[turn], q[turn - 1]
        row = mine[y]
        best = max(row)
        following = row.index(best)
        if tie and (several := row.count(best)) > 1:
            following = [b for b, q_b in enumerate(row) if q_b == best][int(tie * several)]
        value = mine[x][a]
        error = reward + discount * judging[y][following] - value  # (54), and (65) where there are two
        if n is not None:
            n[turn][x][a] += 1
            part = 1 / n[turn][x][a] ** exponent
        mine[x][a] = value + step * part * error
        values.append(value)
        errors.append(error)
        parts.append(part)
    for table, learned in zip(tables, q, strict=True):
        table.weight[touched] = torch.tensor(learned, dtype=table.weight.dtype, device=table.weight.device)
    if counts is not None:
        counts[:, touched] = torch.tensor(n, dtype=counts.dtype, device=counts.device)
    return torch.tensor(values), torch.tensor(errors), torch.tensor(parts)


def learn_at_once(rule: Any, round: TensorDict) -> Tensor | None:
    """A round of Q-learning by `learn_in_order`; None, with nothing done, where autograd would compute something else.

    The caller has checked that the loss is squared.

    Returns:
        The losses [updates].
    """
    is_rule = rule.gradient == "semi" and rule.clip_td_error is None
    is_rule = is_rule and "td_error" not in round  # prioritized: weighted, and the errors are read back
    one_by_one = len(round) > 0 and round.shape[1] == 1 and rule.gradient_clip is None and not dist.is_initialized()
    step = plain_step(rule.optimizers())
    found = rule.tables(len(round)) if is_rule and one_by_one and step is not None else None
    if step is None or found is None or not all(table.weight.requires_grad for table in found[0]):
        return None
    tables, turns, ties = found
    rows = round.view(-1)
    value, td_error, part = learn_in_order(
        tables, turns, rows, rule.first_action, step, rule.visits, rule.visit_exponent, ties
    )
    rule.gradient_steps += len(rows)
    rule.latest |= {"q_mean": value[-1], "td_error": td_error[-1]}
    return rule.loss_function(td_error) * part
