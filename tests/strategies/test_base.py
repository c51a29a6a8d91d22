"""The answers that a strategy of Lightning's own is taken to give."""

import pytest
import torch
from lightning.pytorch.strategies import DDPStrategy

from downpour.strategies import DataParallel, Parallelism, parallelism, parallelism_of
from downpour.strategies.downpour import Downpour


def test_lightnings_own_strategies_answer_with_the_defaults() -> None:
    for strategy in ("auto", None, DDPStrategy()):
        known = parallelism(strategy)
        assert (known.in_step(4), known.ranks_per_replica, known.servers) == (4, 1, 0)
        assert (known.own_launcher(), known.seconds) == (None, {})
        assert (known.gather([1, 2]), known.gather_states({"step": 3})) == ([1, 2], [{"step": 3}])
    ours = DataParallel()
    assert parallelism(ours) is ours


@pytest.mark.parametrize(
    ("target", "kind"),
    [
        ("downpour.strategies.downpour.Downpour", Downpour),
        ("downpour.strategies.DataParallel", DataParallel),
        ("lightning.pytorch.strategies.DDPStrategy", Parallelism),
        (None, Parallelism),
    ],
)
def test_class_that_a_configuration_names(target: str | None, kind: type[Parallelism]) -> None:
    assert parallelism_of({"strategy": {"_target_": target} if target else {}}) is kind


def test_only_strategies_with_servers_start_their_own_processes() -> None:
    assert Downpour.own_launcher() is not None and DataParallel.own_launcher() is None


def test_an_optimizer_step_may_take_several_batches() -> None:
    assert DataParallel.batches_each({"accumulate": 4}) == 4
    assert type(parallelism("auto")).batches_each({}) == 1


@pytest.mark.parametrize("largest", [0.1, 5.0, 1e6])
def test_clips_as_torch_does(largest: float) -> None:
    torch.manual_seed(0)
    parameters = [torch.nn.Parameter(torch.zeros(shape)) for shape in ((3, 4), (5,), (), (2,))]
    for parameter in parameters[:3]:
        parameter.grad = torch.randn_like(parameter)
    others = [torch.nn.Parameter(torch.zeros_like(p)) for p in parameters]
    for mine, other in zip(parameters, others, strict=True):
        other.grad = None if mine.grad is None else mine.grad.clone()
    norm = Parallelism().clip_gradients(parameters, largest)
    assert torch.equal(norm, torch.nn.utils.clip_grad_norm_(others, largest))
    for mine, other in zip(parameters[:3], others, strict=False):
        assert mine.grad is not None and other.grad is not None and torch.equal(mine.grad, other.grad)


def test_clips_nothing_where_no_parameter_has_a_gradient() -> None:
    parameters = [torch.nn.Parameter(torch.ones(2))]
    assert Parallelism().clip_gradients(parameters, 1.0) is None
