"""Random changes to training samples, made on tensors a round at a time."""

from typing import Any

import torch
from torch import Tensor, nn

from downpour.config import ConfigError, NonNegativeFloat, NonNegativeInt, Probability


class Augmentation:
    """Shift, crop, flip and noise, each its own switch; every sample draws its own."""

    def __init__(
        self,
        *,
        shift: NonNegativeInt = 0,
        crop: NonNegativeInt = 0,
        flip: Probability = 0.0,
        noise: NonNegativeFloat = 0.0,
    ):
        """
        Args:
            shift: largest move of an image along each axis, in pixels; the edge is repeated behind it.
            crop: an image is cut to a window this many pixels smaller, stretched to the old size.
            flip: probability of mirroring an image, left to right.
            noise: standard deviation of the normal number added to each value.
        """
        self.shift, self.crop, self.flip, self.noise = shift, crop, flip, noise

    def __call__(self, inputs: Tensor, generator: torch.Generator) -> Tensor:
        """[rows, *shape] -> the same; every draw comes from `generator`, which is on the device of the inputs.

        Raises:
            ConfigError: an image operation on what is no image, or a window without a pixel.
        """
        if self.shift or self.crop or self.flip:
            if inputs.ndim != 4:
                name = next(n for n in ("shift", "crop", "flip") if getattr(self, n))
                advice = f"needs images, not {list(inputs.shape[1:])}; only noise applies to any input"
                raise ConfigError(f"data.augmentation.{name}", getattr(self, name), advice)
            if self.crop >= min(inputs.shape[2:]):
                raise ConfigError("data.augmentation.crop", self.crop, f"images are only {list(inputs.shape[2:])}")
            inputs = self._window(inputs, generator)
        if self.noise:
            draws = torch.randn(inputs.shape, generator=generator, dtype=inputs.dtype, device=inputs.device)
            inputs = inputs + self.noise * draws
        return inputs

    def _window(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Every sample seen through a window of its own."""
        rows, _, height, width = images.shape
        there: dict[str, Any] = {"generator": generator, "device": images.device}
        index = []
        for size in (height, width):
            start = torch.randint(-self.shift, self.crop + self.shift + 1, (rows, 1), **there)
            index.append((torch.arange(size - self.crop, device=images.device) + start).clamp(0, size - 1))
        mirrored = torch.rand(rows, 1, **there) < self.flip
        y, x = index[0], torch.where(mirrored, index[1].flip(1), index[1])
        sample = torch.arange(rows, device=images.device)[:, None, None]
        # Indexing puts the channels last; they go back to where they were.
        seen = images[sample, :, y[:, :, None], x[:, None, :]].permute(0, 3, 1, 2)
        if self.crop:
            seen = nn.functional.interpolate(seen, (height, width), mode="bilinear", align_corners=False)
        return seen.contiguous()
