"""The networks of deep Q-learning on games: convolutions without padding, then fully connected layers."""

import gymnasium as gym
import torch
from torch import Tensor, nn

from downpour.config import ConfigError, NonNegativeFloat, PositiveInt
from downpour.networks.batch_last import BatchLastConv2d, BatchLastLinear
from downpour.networks.convolutional import Pixels, image_shape
from downpour.networks.division import Division, divide_linear
from downpour.networks.mlp import fully_connected
from downpour.networks.parts import ACTIVATIONS, Activation, Initialization, initialize
from downpour.networks.rainbow import to_outputs

Convolution = tuple[PositiveInt, PositiveInt, PositiveInt]
"""(channels, side of the kernel, stride)"""


class StridedConvNet(nn.Module):
    """Mnih et al. 2015, Methods (`model=nature_cnn`), and Young and Tian 2019, section 3 (`model=minatar_cnn`)."""

    def __init__(
        self,
        input_space: gym.Space,
        outputs: int,
        atoms: int = 1,
        *,
        convolutions: list[Convolution],
        hidden: list[PositiveInt],
        activation: Activation = "relu",
        initialization: Initialization = "default",
        channels_last: bool = False,
        batch_last: bool = False,
        dueling: bool = False,
        noise: NonNegativeFloat = 0.0,
    ):
        """
        Args:
            convolutions: (channels, side of the kernel, stride) of each.
            hidden: widths of the fully connected layers.
            activation, initialization, dueling, noise, atoms: as in `MLP`.
            channels_last: keep the channels of a pixel together in memory.
            batch_last: keep a batch together in memory and make each layer one matrix product.

        Raises:
            ConfigError: the inputs are no images, or too small for the convolutions; both orders in memory.
        """
        super().__init__()
        if channels_last and batch_last:
            raise ConfigError("model.batch_last", True, "needs model.channels_last=false")
        before, height, width = image_shape(input_space, "strided_convnet")
        self.format = torch.channels_last if channels_last else torch.contiguous_format
        convolution = BatchLastConv2d if batch_last else nn.Conv2d
        linear = BatchLastLinear if batch_last else nn.Linear
        layers: list[nn.Module] = []
        for channels, kernel, stride in convolutions:
            if min(height, width) < kernel:
                advice = f"a {kernel} x {kernel} kernel does not fit the remaining image of {height} x {width}"
                raise ConfigError("model.convolutions", [list(each) for each in convolutions], advice)
            layers += [convolution(before, channels, kernel, stride), ACTIVATIONS[activation]()]
            before, height, width = channels, (height - kernel) // stride + 1, (width - kernel) // stride + 1
        layers.append(nn.Flatten())
        streams = atoms if dueling else None
        size = before * height * width
        layers += fully_connected(
            size, outputs, hidden=hidden, activation=activation, atoms=streams, noise=noise, linear=linear
        )
        self.pixels, self.layers = Pixels(input_space), nn.Sequential(*layers)
        initialize(self, initialization)
        self.layers.to(memory_format=self.format)  # type: ignore[call-overload]

    def forward(self, x: Tensor) -> Tensor:
        """[batch, channels, height, width] -> [batch, outputs]."""
        return to_outputs(self.layers, self.pixels(x).contiguous(memory_format=self.format))

    def parallel_plan(self) -> dict[str, Division]:
        """How its layers may be divided between ranks."""
        return divide_linear(self)
