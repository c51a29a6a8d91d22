"""Means that are written down."""

import pytest
import torch

from downpour.callbacks.recorder import means


def test_means_are_torchs() -> None:
    values = {
        "many": torch.tensor([0.1, 0.2, 0.7]),
        "one": torch.tensor(0.3),
        "number": 0.25,
        "q": torch.rand(7).double(),
    }
    found = means(values)
    assert list(found) == list(values)
    assert found == {name: float(torch.as_tensor(value).mean()) for name, value in values.items()}


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_means_of_a_gpu_are_those_of_the_host() -> None:
    values = {"exact": torch.arange(8.0), "one": torch.tensor(0.3), "number": 0.25}
    there = {name: value.cuda() if isinstance(value, torch.Tensor) else value for name, value in values.items()}
    assert means(there) == means(values)
