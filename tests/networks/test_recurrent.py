"""Recurrent networks: the cells against their equations, truncated backpropagation through time, learning."""

from pathlib import Path

import numpy as np
import pytest
import torch
from gymnasium import spaces
from tests.supervised import train

from downpour.networks import Recurrent

SEQUENCES = spaces.Box(-np.inf, np.inf, (12, 3), np.float32)


def test_a_gru_is_its_equations() -> None:
    network = Recurrent(SEQUENCES, 2, cell="gru", hidden=4).double()
    x = torch.randn(1, 12, 3, dtype=torch.float64)
    w_x, w_h, b_x, b_h = (p.detach() for p in network.cell.parameters())
    h = torch.zeros(4, dtype=torch.float64)
    for step in x[0]:
        given, own = w_x @ step + b_x, w_h @ h + b_h
        reset, update = torch.sigmoid(given[:4] + own[:4]), torch.sigmoid(given[4:8] + own[4:8])
        candidate = torch.tanh(given[8:] + reset * own[8:])
        h = update * h + (1 - update) * candidate
    assert torch.allclose(network(x)[0], network.top(h))


@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_truncation_changes_the_gradient_and_not_the_output(cell: str) -> None:
    torch.manual_seed(0)
    network = Recurrent(SEQUENCES, 2, cell=cell, hidden=4, layers=2)  # type: ignore[arg-type]
    x = torch.randn(2, 12, 3, requires_grad=True)
    reach = {}
    for truncation in (None, 12, 5, 1):
        network.truncation, x.grad = truncation, None
        out = network(x)
        out.sum().backward()
        assert x.grad is not None
        reach[truncation] = out.detach(), x.grad.abs().sum((0, 2)) > 0, x.grad.clone()
    assert all(torch.allclose(reach[None][0], out, atol=1e-6) for out, _, _ in reach.values())
    assert torch.allclose(reach[None][2], reach[12][2]) and reach[None][1].all()
    assert reach[5][1].tolist() == [False] * 10 + [True] * 2  # cuts after 5 and 10 steps
    assert reach[1][1].tolist() == [False] * 11 + [True]


def test_the_truncated_gradient_is_that_of_a_constant_state() -> None:
    network = Recurrent(SEQUENCES, 2, cell="gru", hidden=4, truncation=8)
    x = torch.randn(2, 12, 3)
    network(x).sum().backward()
    found = [p.grad.clone() for p in network.cell.parameters() if p.grad is not None]
    network.zero_grad()
    with torch.no_grad():
        _, state = network.cell(x[:, :8])
    out, _ = network.cell(x[:, 8:], state)
    network.top(out[:, -1]).sum().backward()
    expected = [p.grad for p in network.cell.parameters() if p.grad is not None]
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(found, expected, strict=True)) and len(found) == 4


def test_outputs_at_every_step_or_after_the_last() -> None:
    network = Recurrent(SEQUENCES, 2, True, cell="lstm", hidden=4, truncation=5)
    x = torch.randn(3, 12, 3)
    every = network(x)
    network.every_step = False
    assert every.shape == (3, 12, 2) and torch.allclose(every[:, -1], network(x), atol=1e-6)


@pytest.mark.slow
def test_a_gru_learns_to_add(tmp_path: Path) -> None:
    options = ("data=sequence", "data.source.length=10", "model=gru", "optimizer.lr=5e-3", "model.hidden=32")
    steps = ("total_gradient_steps=600", "eval_every=300")
    assert train(tmp_path, "algo=supervised", *options, *steps)["test/rmse"] < 0.17  # always answering 1: 0.41


def test_a_gru_copies_a_symbol(tmp_path: Path) -> None:
    task = ("data=sequence", "callbacks=classification", "data.source.task=copy", "data.source.length=2")
    options = ("data.source.symbols=1", "data.source.rows=500", "model=gru", "optimizer.lr=1e-2", "model.hidden=24")
    steps = ("total_gradient_steps=150", "eval_every=75")
    assert train(tmp_path, "algo=supervised", *task, *options, *steps)["test/accuracy"] > 0.95
