"""(70)-(72): exchanging hidden units gives other weights and the same function, so minima come in families."""

from pathlib import Path

import pytest
import torch
from tests.supervised import SMALL, configuration, train

from downpour import experiment
from downpour.checkpoints import read
from downpour.networks import MLP
from downpour.run import Run


@pytest.mark.parametrize("normalization", ["none", "layer", "batch"])
def test_permuted_hidden_units_are_the_same_minimum(tmp_path: Path, normalization: str) -> None:
    options = (*SMALL, "data=two_moons", "model.hidden=[8,6]", f"model.normalization={normalization}")
    train(tmp_path, *options, "total_gradient_steps=200", "eval_every=100", "optimizer.lr=1e-2")
    config = configuration(tmp_path, *options)
    run = Run(tmp_path, 0, 200, 100, 0)
    algorithm, data, _ = experiment.build_parts(config, run)
    algorithm.load_state_dict(read(tmp_path / "checkpoints" / "last.ckpt")["state_dict"])
    algorithm.double()
    data.inputs, data._dtype = data.inputs.double(), torch.float64
    before = algorithm.evaluate(data.split("test"))
    theta = [p.detach().clone() for p in algorithm.network.parameters()]
    permute(algorithm.network, torch.randperm(8, generator=torch.Generator().manual_seed(1)))
    after = algorithm.evaluate(data.split("test"))
    assert after["loss"] == pytest.approx(before["loss"], rel=1e-12) and before["loss"] < 0.3
    moved = [
        float((p.detach() - old).abs().max()) for p, old in zip(algorithm.network.parameters(), theta, strict=True)
    ]
    assert moved[0] > 0.1  # another point of parameter space


def permute(network: MLP, order: torch.Tensor) -> None:
    """(C1, W1, C2, W2) -> (C2, W2, C1, W1), for all units of the first hidden layer."""
    first, second = [m for m in network.layers if isinstance(m, torch.nn.Linear)][:2]
    between = network.layers[list(network.layers).index(first) + 1 : list(network.layers).index(second)]
    with torch.no_grad():
        first.weight.copy_(first.weight[order])
        second.weight.copy_(second.weight[:, order])
        for vector in [first.bias, *(v for m in between for v in (*m.parameters(), *m.buffers()))]:
            if vector is not None:
                vector.copy_(vector[order])
