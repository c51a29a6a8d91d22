"""Networks for sequences."""

from typing import Any, Literal

import gymnasium as gym
import torch
from gymnasium import spaces
from torch import Tensor, nn

from downpour.config import ConfigError, PositiveInt, Probability
from downpour.networks.parts import Initialization, initialize
from downpour.networks.rainbow import in_full


class Recurrent(nn.Module):
    """GRU (Cho et al. 2014) or LSTM (Hochreiter and Schmidhuber 1997; with a forget gate) and an affine map on top.

    With truncation, the hidden state is treated as a constant at each cut: the gradient flows back
    through at most that many steps (truncated backpropagation through time, Williams and Peng 1990).
    """

    def __init__(
        self,
        input_space: gym.Space,
        outputs: int,
        every_step: bool = False,
        *,
        cell: Literal["gru", "lstm"],
        hidden: PositiveInt = 64,
        layers: PositiveInt = 1,
        truncation: PositiveInt | None = None,
        dropout: Probability = 0.0,
        initialization: Initialization = "orthogonal",
    ):
        """
        Args:
            every_step: an output at each time step, not only after the last.
            cell: gru or lstm.
            hidden: size of the hidden state of each layer.
            layers: number of stacked recurrent layers.
            truncation: time steps between two cuts; null backpropagates through all.
            dropout: probability of dropping an output between layers.
            initialization: of the weights, separately for each gate; an LSTM's forget gate has bias 1 unless `default`.

        Raises:
            ConfigError: the inputs are not sequences.
        """
        super().__init__()
        if not isinstance(input_space, spaces.Box) or len(input_space.shape) != 2:
            advice = f"needs sequences [time, features], not {input_space}: use model=mlp"
            raise ConfigError("model", cell, advice)
        self.every_step, self.truncation = every_step, truncation
        kind = {"gru": nn.GRU, "lstm": nn.LSTM}[cell]
        between = dropout if layers > 1 else 0.0
        self.cell = kind(input_space.shape[1], hidden, layers, batch_first=True, dropout=between)
        self.dropout = nn.Dropout(dropout)
        self.top = nn.Linear(hidden, outputs)
        initialize(self, initialization)
        if cell == "lstm" and initialization != "default":
            for name, bias in self.cell.named_parameters():
                if name.startswith("bias_ih"):
                    nn.init.ones_(bias.data[hidden : 2 * hidden])  # initially remember (Jozefowicz et al. 2015)

    def forward(self, x: Tensor) -> Tensor:
        """[batch, time, features] -> [batch, outputs], or [batch, time, outputs] with `every_step`."""
        state: Any = None
        seen: list[Tensor] = []
        for part in x.split(self.truncation or x.shape[1], 1):
            if isinstance(state, tuple):
                state = tuple(each.detach() for each in state)
            elif state is not None:
                state = state.detach()
            out, state = self.cell(part, state)
            seen.append(out if self.every_step else out[:, -1:])
        result = torch.cat(seen, 1) if self.every_step else seen[-1][:, -1]
        return in_full(self.top, self.dropout(result))
