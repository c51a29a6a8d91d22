"""Every optimizer, step by step, against the lecture's formulas written out in float64; schedules."""

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from tests.supervised import SMALL, train, train_stopped
from tests.worlds import composed

from downpour import config, learning_rate
from downpour.building import build_optimizer
from downpour.cli import CONF
from downpour.optimizers import RMSprop

Array = np.ndarray
LR = 0.05


def gradients() -> Iterator[Array]:
    """Gradients of all sizes, one of them always zero."""
    rng = np.random.default_rng(0)
    for step in range(30):
        g = rng.standard_normal(5) * np.array([1.0, 1e-3, 1e-6, 100.0, 0.0])
        yield g * (1 + step % 3)


def adagrad(theta: Array, delta: float) -> Iterator[Array]:
    r = np.zeros(5)
    for g in gradients():
        r = r + g**2
        theta = theta - LR / (delta + np.sqrt(r)) * g
        yield theta


def rmsprop(
    theta: Array, delta: float, rho: float, inside: bool = True, momentum: float = 0.0, decay: float = 0.0
) -> Iterator[Array]:
    r, step = np.zeros(5), np.zeros(5)
    for g in gradients():
        g = g + decay * theta
        r = rho * r + (1 - rho) * g * g
        root = np.sqrt(delta + r) if inside else delta + np.sqrt(r)
        step = momentum * step + g / root
        theta = theta - LR * step
        yield theta


def centered(theta: Array, delta: float, rho: float) -> Iterator[Array]:
    """Graves 2013, eqs. 38-45, as Mnih et al. 2015 use it."""
    n, mean = np.zeros(5), np.zeros(5)
    for g in gradients():
        n = rho * n + (1 - rho) * g**2
        mean = rho * mean + (1 - rho) * g
        theta = theta - LR * g / np.sqrt(n - mean**2 + delta)
        yield theta


def adam(theta: Array, delta: float, decay: float = 0.0, penalty: float = 0.0) -> Iterator[Array]:
    s, r, rho_1, rho_2 = np.zeros(5), np.zeros(5), 0.9, 0.999
    for t, g in enumerate(gradients(), 1):
        g = g + penalty * theta
        theta = theta - LR * decay * theta
        s = rho_1 * s + (1 - rho_1) * g
        r = rho_2 * r + (1 - rho_2) * g * g
        theta = theta - LR / (delta + np.sqrt(r / (1 - rho_2**t))) * (s / (1 - rho_1**t))
        yield theta


def sgd(theta: Array, momentum: float = 0.0, nesterov: bool = False) -> Iterator[Array]:
    v = np.zeros(5)
    for g in gradients():
        v = momentum * v + g
        theta = theta - LR * (g + momentum * v if nesterov else v)
        yield theta


@pytest.mark.parametrize(
    ("name", "options", "formula"),
    [
        ("sgd", {}, sgd),
        ("sgd", {"momentum": 0.9}, lambda theta: sgd(theta, 0.9)),
        ("sgd", {"momentum": 0.9, "nesterov": True}, lambda theta: sgd(theta, 0.9, True)),
        ("adagrad", {"eps": 1e-4}, lambda theta: adagrad(theta, 1e-4)),
        ("rmsprop", {"eps": 1e-4, "alpha": 0.9}, lambda theta: rmsprop(theta, 1e-4, 0.9)),
        ("rmsprop", {"eps": 1e-4, "eps_inside": False}, lambda theta: rmsprop(theta, 1e-4, 0.95, inside=False)),
        ("rmsprop", {"eps": 1e-4, "momentum": 0.5}, lambda theta: rmsprop(theta, 1e-4, 0.95, momentum=0.5)),
        ("rmsprop", {"eps": 1e-4, "weight_decay": 0.1}, lambda theta: rmsprop(theta, 1e-4, 0.95, decay=0.1)),
        ("rmsprop", {"eps": 1e-2, "centered": True}, lambda theta: centered(theta, 1e-2, 0.95)),
        ("adam", {"eps": 1e-4}, lambda theta: adam(theta, 1e-4)),
        ("adam", {"eps": 1e-4, "weight_decay": 0.1}, lambda theta: adam(theta, 1e-4, penalty=0.1)),
        ("adamw", {"eps": 1e-4, "weight_decay": 0.1}, lambda theta: adam(theta, 1e-4, 0.1)),
    ],
)
def test_each_step_is_the_lectures(
    name: str, options: dict[str, Any], formula: Callable[[Array], Iterator[Array]]
) -> None:
    start = np.array([1.0, -2.0, 0.5, 3.0, 4.0])
    parameter = torch.nn.Parameter(torch.from_numpy(start.copy()))
    node = {**yaml.safe_load((Path(CONF) / "optimizer" / f"{name}.yaml").read_text()), "lr": LR, **options}
    optimizer = config.build(config.check(node, "optimizer"), params=[parameter])
    for g, expected in zip(gradients(), formula(start), strict=True):
        parameter.grad = torch.from_numpy(g)
        optimizer.step()
        assert np.allclose(parameter.detach().numpy(), expected, rtol=1e-9, atol=1e-12)


def test_rmsprop_with_delta_outside_is_torchs() -> None:
    options = {"lr": LR, "alpha": 0.9, "eps": 1e-3, "centered": True, "momentum": 0.3, "weight_decay": 0.1}
    ours, theirs = (torch.nn.Parameter(torch.ones(5, dtype=torch.float64)) for _ in range(2))
    pair = [RMSprop([ours], eps_inside=False, **options), torch.optim.RMSprop([theirs], **options)]  # type: ignore[arg-type]
    for g in gradients():
        for parameter, optimizer in zip((ours, theirs), pair, strict=True):
            parameter.grad = torch.from_numpy(g)
            optimizer.step()
    assert torch.allclose(ours, theirs, rtol=1e-9)


def test_minatars_protocol_has_the_step_of_its_papers_code() -> None:
    """Young and Tian train with Torch's RMSprop, whose delta is outside the root; Mnih et al. have theirs inside."""
    ours, theirs, mnihs = (torch.nn.Parameter(torch.zeros(5)) for _ in range(3))
    optimizers = [
        build_optimizer(composed("experiment=minatar_breakout"), [ours]),
        torch.optim.RMSprop([theirs], lr=2.5e-4, alpha=0.95, eps=0.01, centered=True),
        build_optimizer(composed("experiment=atari_breakout"), [mnihs]),
    ]
    for parameter, optimizer in zip((ours, theirs, mnihs), optimizers, strict=True):
        for g in gradients():
            parameter.grad = torch.from_numpy(g).float()
            optimizer.step()
    assert torch.allclose(ours, theirs, rtol=1e-5)
    assert not torch.allclose(ours, mnihs, rtol=1e-3)


@pytest.mark.parametrize("eps_inside", [True, False])
def test_a_constant_gradient_has_no_negative_variance(eps_inside: bool) -> None:
    """The square of its mean rounds to more than the mean of its square."""
    parameter = torch.nn.Parameter(torch.zeros(1000))
    optimizer = RMSprop([parameter], centered=True, eps_inside=eps_inside)
    for _ in range(1000):
        parameter.grad = torch.linspace(0.01, 1, 1000)
        optimizer.step()
    assert parameter.isfinite().all()


def test_a_checkpoint_from_before_there_was_weight_decay_is_taken() -> None:
    optimizer = RMSprop([torch.nn.Parameter(torch.ones(5))])
    state = optimizer.state_dict()
    del state["param_groups"][0]["weight_decay"]
    optimizer.load_state_dict(state)
    optimizer.param_groups[0]["params"][0].grad = torch.ones(5)
    optimizer.step()


@pytest.mark.parametrize("options", [{}, {"momentum": 0.5}, {"centered": True, "eps_inside": False}])
def test_the_step_size_of_rmsprop_may_be_a_tensor(options: dict[str, Any]) -> None:
    ours, theirs = (torch.nn.Parameter(torch.ones(5, dtype=torch.float64)) for _ in range(2))
    pair = [RMSprop([ours], lr=LR, **options), RMSprop([theirs], lr=LR, **options)]
    pair[0].param_groups[0]["lr"] = torch.tensor(LR, dtype=torch.float64)
    for g in gradients():
        for parameter, optimizer in zip((ours, theirs), pair, strict=True):
            parameter.grad = torch.from_numpy(g)
            optimizer.step()
    assert torch.allclose(ours, theirs, rtol=1e-12)


def test_step_sizes_that_are_tensors_follow_schedules_and_are_saved_as_numbers() -> None:
    """As on a GPU, where a CUDA graph reads them."""

    def make() -> torch.optim.Optimizer:
        theta = torch.nn.Parameter(torch.zeros(1))
        optimizer = learning_rate.follow(RMSprop([theta], lr=0.5), learning_rate.Step(every=2, factor=0.5))
        learning_rate.keep_as_tensors(optimizer)
        theta.grad = torch.ones(1)
        return optimizer

    optimizer, seen = make(), []
    place = optimizer.param_groups[0]["lr"]
    for _ in range(3):
        seen.append(float(place))
        optimizer.step()
    assert seen == [0.5, 0.5, 0.25] and optimizer.param_groups[0]["lr"] is place
    saved = optimizer.state_dict()
    assert saved["param_groups"][0]["lr"] == 0.25 and isinstance(saved["param_groups"][0]["lr"], float)
    other = make()
    other.load_state_dict(saved)
    other.param_groups[0]["params"][0].grad = torch.ones(1)
    other.step()
    assert float(other.param_groups[0]["lr"]) == 0.125 and isinstance(other.param_groups[0]["lr"], torch.Tensor)


def rates(schedule: learning_rate.Constant, steps: int) -> list[float]:
    """The step size of each of `steps` gradient steps, as theta shows it."""
    theta = torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))
    optimizer = learning_rate.follow(torch.optim.SGD([theta], lr=0.5), schedule)
    seen = []
    for _ in range(steps):
        before = float(theta.detach())
        theta.grad = -torch.ones(1, dtype=torch.float64)
        optimizer.step()
        seen.append(float(theta.detach()) - before)
    return seen


def test_exploration() -> None:
    assert rates(learning_rate.Constant(), 3) == pytest.approx([0.5] * 3)
    assert rates(learning_rate.Constant(warmup=4), 6) == pytest.approx([0.125, 0.25, 0.375, 0.5, 0.5, 0.5])
    assert rates(learning_rate.Constant(4, scale_with="ranks"), 2) == pytest.approx([2.0, 2.0])
    assert rates(learning_rate.Constant(4), 2) == pytest.approx([0.5, 0.5])
    assert rates(learning_rate.Step(every=2, factor=0.5), 5) == pytest.approx([0.5, 0.5, 0.25, 0.25, 0.125])
    cosine = rates(learning_rate.Cosine(steps=10, end=0.1), 12)
    assert cosine[:10] == pytest.approx([0.5 * (0.1 + 0.45 * (1 + math.cos(math.pi * t / 10))) for t in range(10)])
    assert cosine[10:] == pytest.approx([0.05, 0.05])
    warm = rates(learning_rate.Cosine(steps=6, warmup=2), 7)
    assert warm[:3] == pytest.approx([0.25, 0.5, 0.5]) and warm[6] == pytest.approx(0)


@pytest.mark.parametrize("optimizer", ["rmsprop", "sgd"])
def test_a_stopped_run_goes_on_with_its_schedule(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, optimizer: str
) -> None:
    options = (*SMALL, f"optimizer={optimizer}", "schedule=cosine", "schedule.warmup=20", "callbacks.recorder.every=5")
    train(tmp_path / "whole", *options)
    train_stopped(monkeypatch, tmp_path / "stopped", 13, *options)
    whole, stopped = ((tmp_path / name / "metrics.csv").read_text() for name in ("whole", "stopped"))
    assert whole == stopped and "train/learning_rate" in whole
