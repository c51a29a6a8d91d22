"""Scaled gradients are clipped as they are without the scale."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from torch import nn

from downpour.algorithms.base import Algorithm
from downpour.precision import Scaled


@pytest.mark.parametrize("kind", [torch.optim.SGD, lambda p, lr: torch.optim.Adam(p, lr, fused=True)])
def test_clipping_sees_gradients_without_their_scale(kind: Any) -> None:
    steps = {}
    for scaled in (True, False):
        w = nn.Parameter(torch.tensor([1.0, -2.0]))
        optimizer = kind([w], lr=0.1)
        rule = Algorithm(kind, gradient_clip=0.5)
        wrapper: Any = LightningOptimizer(optimizer)
        if scaled:
            plugin = Scaled("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=1024.0))
            plugin._after_closure = lambda *_: None  # type: ignore[method-assign]
            rule._trainer = SimpleNamespace(strategy=SimpleNamespace(precision_plugin=plugin))  # type: ignore[assignment]
            wrapper.step = lambda o=optimizer, p=plugin: p.optimizer_step(o, None, lambda: None)
        else:
            plugin, wrapper.step = None, optimizer.step
        norms = []
        for _ in range(3):
            optimizer.zero_grad()
            loss = (w * torch.tensor([3.0, 4.0])).sum()
            (plugin.scaler.scale(loss) if plugin else loss).backward()
            norms.append(float(rule.clip_and_step(wrapper)["gradient_norm"]))
        steps[scaled] = norms, w.detach()
    assert steps[True][0] == pytest.approx([5, 5, 5])
    assert torch.equal(steps[True][1], steps[False][1])


def test_a_step_that_is_not_finite_is_left_out() -> None:
    w = nn.Parameter(torch.ones(2))
    optimizer = torch.optim.SGD([w], lr=0.1)
    plugin = Scaled("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=1024.0))
    plugin._after_closure = lambda *_: None  # type: ignore[method-assign]
    plugin.scaler.scale((w * torch.inf).sum()).backward()  # type: ignore[union-attr]
    plugin.unscale(optimizer)
    plugin.optimizer_step(optimizer, None, lambda: None)
    assert w.tolist() == [1, 1] and plugin.scaler.get_scale() == 512  # type: ignore[union-attr]
