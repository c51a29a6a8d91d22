"""The digits, and the networks of conf/model, for loops without this framework."""

import gymnasium as gym
import numpy as np
import torch
import yaml
from common import HERE

from downpour.data.samples import split
from downpour.data.sources import Digits
from downpour.networks import MLP, ConvNet

WIDTHS = {"mlp": {"hidden": [120, 84]}, "convnet": {"channels": [32, 64], "hidden": [128]}}


def training_rows() -> tuple[torch.Tensor, torch.Tensor]:
    """(images [rows, 1, 8, 8], classes [rows]) of a training split of the size that conf/data defines."""
    samples = Digits().load()
    shared = yaml.safe_load((HERE.parent / "conf" / "data" / "_dataset.yaml").read_text())
    fractions = shared["validation"], shared["test"]
    rows = split(len(samples.inputs), *fractions, np.random.default_rng(0))["train"]
    return torch.from_numpy(samples.inputs[rows]), torch.from_numpy(samples.targets[rows])


def network(model: str, widths: dict[str, list[int]] | None = None) -> torch.nn.Module:
    """The network of conf/model, `mlp` or `convnet`, with these widths instead of its own."""
    space = gym.spaces.Box(-np.inf, np.inf, (1, 8, 8), np.float32)
    options = widths or WIDTHS[model]
    return MLP(space, 10, **options) if model == "mlp" else ConvNet(space, 10, **options, initialization="he")
