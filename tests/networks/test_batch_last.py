"""The same numbers and gradients as Torch's own layers, whatever the order in memory."""

from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box
from torch import Tensor, nn

from downpour.config import ConfigError
from downpour.networks import StridedConvNet
from downpour.networks.batch_last import BatchLastConv2d, BatchLastLinear, batch_last


def like(layer: nn.Module, theirs: nn.Module) -> tuple[nn.Module, nn.Module]:
    """Both in float64 with the same weights."""
    layer.load_state_dict(theirs.state_dict())
    return layer.double(), theirs.double()


def compare(mine: nn.Module, theirs: nn.Module, x: Tensor) -> None:
    """Outputs and the gradients of parameters and inputs."""
    results: list[Any] = []
    for layer in (mine, theirs):
        given = x.clone(memory_format=torch.preserve_format).requires_grad_()
        y = layer(given)
        (y * torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view(y.shape)).sum().backward()
        results.append([y.detach(), given.grad, *(p.grad for p in layer.parameters())])
    torch.testing.assert_close(*results, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("batch", [1, 7])
@pytest.mark.parametrize(("kernel", "stride"), [(3, 1), (2, 2), (4, 3), (1, 1)])
@pytest.mark.parametrize("arrange", [batch_last, Tensor.contiguous, lambda x: x.to(memory_format=torch.channels_last)])
def test_a_convolution(batch: int, kernel: int, stride: int, arrange: Any) -> None:
    torch.manual_seed(0)
    mine, theirs = like(BatchLastConv2d(3, 5, kernel, stride), nn.Conv2d(3, 5, kernel, stride))
    compare(mine, theirs, arrange(torch.randn(batch, 3, 10, 9, dtype=torch.float64)))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("arrange", [batch_last, Tensor.contiguous])
def test_an_affine_map(bias: bool, arrange: Any) -> None:
    torch.manual_seed(0)
    mine, theirs = like(BatchLastLinear(6, 4, bias=bias), nn.Linear(6, 4, bias=bias))
    compare(mine, theirs, arrange(torch.randn(5, 6, dtype=torch.float64)))


def test_nothing_is_copied_between_the_layers() -> None:
    torch.manual_seed(0)
    y = BatchLastConv2d(3, 5, 3, 1)(torch.randn(7, 3, 10, 10))
    flat = torch.relu(y).flatten(1)
    assert flat.stride() == (1, 7) and torch.relu(y).stride() == y.stride()
    assert batch_last(y).data_ptr() == y.data_ptr()
    assert BatchLastLinear(320, 4)(flat).stride() == (1, 7)


@pytest.mark.parametrize("more", [{}, {"dueling": True}, {"convolutions": [(8, 3, 1), (4, 2, 2)], "hidden": [16, 8]}])
@pytest.mark.parametrize("dtype", [np.bool_, np.uint8])
def test_the_network_is_the_same_function(more: dict[str, Any], dtype: Any) -> None:
    space = Box(0, 1 if dtype == np.bool_ else 255, (4, 10, 10), dtype)
    options: dict[str, Any] = {"convolutions": [(16, 3, 1)], "hidden": [32], **more}
    mine, theirs = (StridedConvNet(space, 6, batch_last=last, **options) for last in (True, False))
    mine.load_state_dict(theirs.state_dict())
    x = torch.from_numpy(np.random.default_rng(0).integers(0, int(space.high.max()) + 1, (5, 4, 10, 10)).astype(dtype))
    gradients = []
    for network in (mine, theirs):
        y = network(x)
        y.square().sum().backward()
        gradients.append([y.detach(), *(p.grad for p in network.parameters())])
    torch.testing.assert_close(*gradients, atol=1e-5, rtol=1e-5)


def test_only_one_order_in_memory() -> None:
    with pytest.raises(ConfigError, match=r"model\.batch_last=true: needs model\.channels_last=false"):
        StridedConvNet(
            Box(0, 1, (4, 10, 10), bool), 6, convolutions=[(8, 3, 1)], hidden=[], channels_last=True, batch_last=True
        )
