"""Normalizations against their formulas in float64; initial weights; dropout and residual connections."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor, nn

from downpour.config import ConfigError
from downpour.networks import MLP, ConvNet, Recurrent, ResNet
from downpour.networks.convolutional import Block, image_shape
from downpour.networks.parts import BatchNormalization, LayerNormalization, ReLU, RMSNormalization, initialize

BOX = spaces.Box(-np.inf, np.inf, (6,), np.float32)
IMAGES = spaces.Box(-np.inf, np.inf, (2, 8, 6), np.float32)


def randomized(module: nn.Module) -> nn.Module:
    """In float64, with parameters that are not what they start as."""
    generator = torch.Generator().manual_seed(1)
    for parameter in module.double().parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    return module


@pytest.mark.parametrize("batch", [1, 5])
def test_layer_normalization_is_67_and_68(batch: int) -> None:
    layer = randomized(LayerNormalization(7))
    gamma, b = (p.detach().numpy() for p in (layer.gamma, layer.b))
    a = np.random.default_rng(0).standard_normal((batch, 7)) * 3 + 2
    mu = np.array([sum(row) / 7 for row in a])
    beta = np.array([math.sqrt(sum((x - m) ** 2 for x in row) / 7) for row, m in zip(a, mu, strict=True)])
    expected = gamma * (a - mu[:, None]) / beta[:, None] + b
    assert np.allclose(layer(torch.from_numpy(a)).detach().numpy(), expected, rtol=1e-12, atol=1e-12)


def test_a_normalized_layer_is_67_from_end_to_end_and_sees_one_sample_at_a_time() -> None:
    network = randomized(MLP(BOX, 3, hidden=[4], activation="tanh", normalization="layer"))
    weight, gamma, b, top, top_b = (p.detach() for p in network.parameters())
    x = torch.randn(5, 6, dtype=torch.float64)
    a = x @ weight.T
    normal = gamma * (a - a.mean(1, keepdim=True)) / a.std(1, keepdim=True, correction=0)
    expected = torch.tanh(normal + b) @ top.T + top_b
    assert torch.allclose(network(x), expected, rtol=1e-11, atol=1e-12)
    alone = torch.cat([network(row[None]) for row in x])
    assert torch.allclose(network.train()(x), alone, rtol=1e-12) and torch.allclose(
        network.eval()(x), alone, rtol=1e-12
    )


def test_equal_units_give_the_bias_and_a_finite_gradient() -> None:
    layer = LayerNormalization(4)
    a = torch.full((2, 4), 3.0, requires_grad=True)
    out = layer(a)
    out.sum().backward()
    assert torch.equal(out, torch.zeros(2, 4)) and a.grad is not None and bool(torch.isfinite(a.grad).all())


@pytest.mark.parametrize("shape", [(3, 6), (3, 6, 4, 2)])
@pytest.mark.parametrize("kind", [LayerNormalization, RMSNormalization])
def test_eps_is_added_in_the_root(kind: type[nn.Module], shape: tuple[int, ...]) -> None:
    a = torch.randn(shape, dtype=torch.float64)
    over = tuple(range(1, len(shape)))
    moved = a - a.mean(over, keepdim=True) if kind is LayerNormalization else a
    expected = moved / (moved.square().mean(over, keepdim=True) + 0.3).sqrt()
    assert torch.allclose(kind(6, eps=0.3).double()(a), expected, rtol=1e-12)


@pytest.mark.parametrize("normalization", ["layer", "rms"])
@pytest.mark.parametrize("eps", [None, 1e-5])
def test_a_sample_of_zeros_has_a_moderate_gradient(normalization: str, eps: float | None) -> None:
    """tanh(0) = 0 hands it on to the layer above, and its slope 1 the gradient down."""
    sizes, options = [8, 8, 8], {"activation": "tanh", "normalization": normalization, "normalization_eps": eps}
    network = MLP(BOX, 3, hidden=sizes, **options)  # type: ignore[arg-type]
    x = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
    x[1] = 0
    nn.functional.cross_entropy(network(x), torch.tensor([0, 1, 2, 0])).backward()
    largest = max(float(p.grad.abs().max()) for p in network.parameters() if p.grad is not None)
    assert largest < (10 if eps is None else 1e7)
    with torch.no_grad():
        assert torch.equal(network(x), network.train()(x))


def test_on_images_the_hidden_units_are_all_of_a_sample() -> None:
    a = torch.randn(3, 4, 5, 2, dtype=torch.float64)
    for kind, moved in ((LayerNormalization, a - a.mean((1, 2, 3), keepdim=True)), (RMSNormalization, a)):
        layer = randomized(kind(4))
        root = moved.square().mean((1, 2, 3), keepdim=True).sqrt()
        expected = layer.gamma.view(4, 1, 1) * moved / root + layer.b.view(4, 1, 1)
        assert torch.allclose(layer(a), expected, rtol=1e-10)


@pytest.mark.parametrize("shape", [(9, 4), (3, 4, 5, 2)])
def test_batch_normalization_is_torchs(shape: tuple[int, ...]) -> None:
    ours = randomized(BatchNormalization(4))
    theirs = (nn.BatchNorm1d if len(shape) == 2 else nn.BatchNorm2d)(4).double()
    theirs.weight.data, theirs.bias.data = ours.gamma.data, ours.b.data
    for _ in range(3):
        a = torch.randn(shape, dtype=torch.float64)
        assert torch.allclose(ours(a), theirs(a))
    assert torch.allclose(ours.eval()(a), theirs.eval()(a))


def test_batch_normalization_of_one_sample_hands_out_its_bias() -> None:
    layer = randomized(BatchNormalization(4))
    a = torch.randn(1, 4, dtype=torch.float64, requires_grad=True)
    out = layer(a)
    out.sum().backward()
    assert torch.equal(out, layer.b[None]) and a.grad is not None and not a.grad.any()
    assert torch.allclose(layer.mean, 0.1 * a[0]) and torch.allclose(layer.variance, torch.full((4,), 0.9).double())


def test_initial_weights_have_the_spread_they_should() -> None:
    fan_in, fan_out = 400, 200
    deviations = {"xavier": math.sqrt(2 / (fan_in + fan_out)), "he": math.sqrt(2 / fan_in)}
    for kind, deviation in deviations.items():
        layer = nn.Linear(fan_in, fan_out)
        initialize(layer, kind)  # type: ignore[arg-type]
        assert float(layer.weight.detach().std()) == pytest.approx(deviation, rel=0.02) and not layer.bias.any()
    layer = nn.Linear(fan_in, fan_out)
    initialize(layer, "orthogonal")
    assert torch.allclose(layer.weight @ layer.weight.T, torch.eye(fan_out), atol=1e-5)
    cell = nn.GRU(3, 5)
    initialize(cell, "orthogonal")
    for gate in cell.weight_hh_l0.chunk(3):
        assert torch.allclose(gate @ gate.T, torch.eye(5), atol=1e-5)


def test_residual_layers_add_to_what_they_are_given() -> None:
    network = MLP(BOX, 2, hidden=[6, 6], residual=True)
    for parameter in network.parameters():
        nn.init.zeros_(parameter)
    top = network.layers[-1]
    nn.init.ones_(top.weight)
    x = torch.rand(3, 6)
    assert torch.allclose(network(x), x.sum(1, keepdim=True).expand(3, 2))


def test_dropout_leaves_units_out_in_training_only() -> None:
    network = MLP(BOX, 1, hidden=[2000], dropout=0.25)
    seen: list[Tensor] = []
    network.layers[2].register_forward_hook(lambda module, given, out: seen.append((out / given[0]).nan_to_num(-1)))
    x = torch.randn(1, 6)
    network(x)
    kept = seen[0][seen[0] >= 0]
    assert float((kept == 0).float().mean()) == pytest.approx(0.25, abs=0.06)
    assert torch.allclose(kept[kept > 0], torch.tensor(1 / 0.75))
    network.eval()
    assert torch.equal(network(x), network(x))


@pytest.mark.parametrize("normalization", ["none", "batch", "layer", "rms"])
def test_networks_for_images(normalization: str) -> None:
    x = torch.randn(3, 2, 8, 6)
    for network in (
        ConvNet(IMAGES, 5, channels=[4, 8], depth=2, hidden=[7], normalization=normalization, dropout=0.1),  # type: ignore[arg-type]
        ResNet(IMAGES, 5, channels=[4, 8], blocks=2, normalization=normalization),  # type: ignore[arg-type]
    ):
        out = network(x)
        out.square().sum().backward()
        assert out.shape == (3, 5) and all(p.grad is not None for p in network.parameters())
        assert network(x[:1]).shape == (1, 5)


def test_a_residual_network_has_the_depth_it_says() -> None:
    network = ResNet(IMAGES, 10, channels=[4, 8, 16], blocks=3)
    ways_past = [block.past for block in network.modules() if isinstance(block, Block)]
    layers = [m for m in network.modules() if isinstance(m, nn.Linear | nn.Conv2d) and m not in ways_past]
    assert len(layers) == 20


def test_images_and_sequences_are_asked_for() -> None:
    with pytest.raises(ConfigError, match="model=convnet: needs images"):
        ConvNet(BOX, 2, channels=[4], hidden=[])
    with pytest.raises(ConfigError, match="model=gru: needs sequences"):
        Recurrent(BOX, 2, cell="gru")


@pytest.mark.parametrize("shape", [(96, 96, 3), (84, 84, 1), (210, 160, 4)])
def test_channels_that_come_last_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match=r"model=convnet: .*channels-last"):
        ConvNet(spaces.Box(0, 1, shape), 2, channels=[4], hidden=[])


@pytest.mark.parametrize("shape", [(3, 96, 96), (16, 4, 4), (12, 100, 1), (1, 8, 8), (4, 84, 84)])
def test_what_may_be_an_image_is_taken(shape: tuple[int, int, int]) -> None:
    assert image_shape(spaces.Box(0, 1, shape), "convnet") == shape


def test_relu_writes_over_its_input_where_autograd_lets_it() -> None:
    x, affine = torch.randn(7, 3), nn.Linear(3, 5)
    a = affine(x)
    assert ReLU()(a).data_ptr() == a.data_ptr()
    with torch.no_grad():
        a = affine(x)
        assert ReLU()(a).data_ptr() == a.data_ptr()


@pytest.mark.parametrize("make", [lambda x: x, lambda x: (x * 1).t()], ids=["leaf", "view"])
def test_relu_leaves_alone_what_autograd_needs(make: Callable[[torch.Tensor], torch.Tensor]) -> None:
    """What a stage of a pipeline is sent, and what a transpose or another rank hands on."""
    x = torch.randn(4, 4, dtype=torch.float64, requires_grad=True)
    before = x.detach().clone()
    (ReLU()(make(x)) ** 2).sum().backward()
    assert torch.equal(x.detach(), before)
    torch.testing.assert_close(x.grad, 2 * before.clamp(min=0))


def test_relu_has_the_gradient_of_torch() -> None:
    torch.manual_seed(0)
    x, mine = torch.randn(6, 3), nn.Sequential(nn.Linear(3, 8), ReLU(), nn.Linear(8, 8), ReLU(), nn.Linear(8, 2))
    plain = nn.Sequential(*(nn.ReLU() if isinstance(layer, ReLU) else layer for layer in mine))
    gradients = [torch.autograd.grad(net(x).square().sum(), list(mine.parameters())) for net in (mine, plain)]
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))
