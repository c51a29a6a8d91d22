"""Networks for images: a plain one and a residual one."""

import gymnasium as gym
import torch
from gymnasium import spaces
from torch import Tensor, nn

from downpour.config import ConfigError, NonNegativeFloat, PositiveInt, Probability
from downpour.networks.layers import Layers
from downpour.networks.parts import Activation, Initialization, Normalization, initialize, unit


def image_shape(space: gym.Space, model: str) -> tuple[int, int, int]:
    """(channels, height, width).

    Raises:
        ConfigError: the space does not contain images, or their channels are not first.
    """
    if not isinstance(space, spaces.Box) or len(space.shape) != 3:
        raise ConfigError("model", model, f"needs images [channels, height, width], not {space}: use model=mlp")
    channels, height, width = space.shape
    if min(channels, height) > 4 and (width in (3, 4) or (width == 1 and channels == height)):
        advice = f"needs images [channels, height, width], but the inputs look channels-last: {list(space.shape)}"
        raise ConfigError("model", model, f"{advice}; move the channels to the front, or use model=mlp")
    return channels, height, width


class Pixels(nn.Module):
    """Images as floats; bytes are divided by 255."""

    def __init__(self, space: gym.Space):
        super().__init__()
        self.scale = 1 / 255 if space.dtype == "uint8" else 1.0

    def forward(self, x: Tensor) -> Tensor:
        """[batch, channels, height, width] -> the same."""
        return x.to(torch.get_default_dtype()) if self.scale == 1.0 else x * self.scale  # one kernel


class ConvNet(Layers):
    """Stages of convolutions, the image halved after each, and fully connected layers on top."""

    def __init__(
        self,
        input_space: gym.Space,
        outputs: int,
        *,
        channels: list[PositiveInt],
        depth: PositiveInt = 1,
        kernel: PositiveInt = 3,
        hidden: list[PositiveInt],
        activation: Activation = "relu",
        normalization: Normalization = "none",
        normalization_eps: NonNegativeFloat | None = None,
        dropout: Probability = 0.0,
        initialization: Initialization = "he",
    ):
        """
        Args:
            channels: of each stage, which ends with 2 x 2 max pooling.
            depth: convolutions in each stage.
            kernel: height and width of a kernel; the image is padded to keep its size.
            hidden: widths of the fully connected layers.
            activation, normalization, normalization_eps, dropout, initialization: as in `MLP`; dropout after each stage
                by channels, and after each fully connected layer.

        Raises:
            ConfigError: the inputs are not images.
        """
        super().__init__()
        before, height, width = image_shape(input_space, "convnet")
        layers: list[nn.Module] = [Pixels(input_space)]
        bias = normalization == "none"
        affine: nn.Module
        for size in channels:
            for _ in range(depth):
                affine = nn.Conv2d(before, size, kernel, padding="same", bias=bias)
                layers += unit(affine, size, normalization, activation, normalization_eps)
                before = size
            if min(height, width) > 1:
                layers.append(nn.MaxPool2d(2))
                height, width = height // 2, width // 2
            if dropout:
                layers.append(nn.Dropout2d(dropout))
        layers.append(nn.Flatten())
        before *= height * width
        for size in hidden:
            affine = nn.Linear(before, size, bias=bias)
            layers += unit(affine, size, normalization, activation, normalization_eps)
            if dropout:
                layers.append(nn.Dropout(dropout))
            before = size
        self.layers = nn.Sequential(*layers, nn.Linear(before, outputs))
        initialize(self, initialization)


class Block(nn.Module):
    """Two convolutions and a shortcut (He et al. 2016, figure 2), projected where the shape changes."""

    def __init__(
        self,
        before: int,
        size: int,
        stride: int,
        normalization: Normalization,
        activation: Activation,
        normalization_eps: float | None = None,
    ):
        super().__init__()
        bias, how = normalization == "none", (normalization, activation, normalization_eps)
        first = unit(nn.Conv2d(before, size, 3, stride, 1, bias=bias), size, *how)
        *second, self.activation = unit(nn.Conv2d(size, size, 3, 1, 1, bias=bias), size, *how)
        self.layers = nn.Sequential(*first, *second)
        same = stride == 1 and before == size
        self.past = nn.Identity() if same else nn.Conv2d(before, size, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[batch, before, height, width] -> [batch, size, height / stride, width / stride]."""
        return self.activation(self.past(x) + self.layers(x))


class ResNet(Layers):
    """A residual network in the style of CIFAR (He et al. 2016, section 4.2): 3 stages of `blocks` give 6 blocks + 2
    layers."""

    def __init__(
        self,
        input_space: gym.Space,
        outputs: int,
        *,
        channels: list[PositiveInt],
        blocks: PositiveInt = 1,
        activation: Activation = "relu",
        normalization: Normalization = "batch",
        normalization_eps: NonNegativeFloat | None = None,
        dropout: Probability = 0.0,
        initialization: Initialization = "he",
    ):
        """
        Args:
            channels: of each stage; the image is halved before every stage but the first.
            blocks: of two convolutions each, in every stage.
            activation, normalization, normalization_eps, initialization: as in `MLP`.
            dropout: of the channels' means, before the last layer.

        Raises:
            ConfigError: the inputs are not images.
        """
        super().__init__()
        before, _, _ = image_shape(input_space, "resnet")
        first = nn.Conv2d(before, channels[0], 3, padding=1, bias=normalization == "none")
        layers = [Pixels(input_space), *unit(first, channels[0], normalization, activation, normalization_eps)]
        before = channels[0]
        for stage, size in enumerate(channels):
            for number in range(blocks):
                stride = 2 if stage > 0 and number == 0 else 1
                layers.append(Block(before, size, stride, normalization, activation, normalization_eps))
                before = size
        layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
        if dropout:
            layers.append(nn.Dropout(dropout))
        self.layers = nn.Sequential(*layers, nn.Linear(before, outputs))
        initialize(self, initialization)
