"""Convolutions and affine maps as one matrix product each, the batch last in memory: quick on small images.

Libraries of convolutions are made for many channels and many pixels; on 10 x 10 cells their preparations cost more
than the sums. Written as columns, one for each kernel's place in each image, the same sums are a product of two
matrices, and so is an affine map of the columns that come out of it. Shapes are those of the usual layers: only the
order in memory differs, which the next layer sees by the strides.
"""

import torch
from torch import Tensor, nn


def batch_last(x: Tensor) -> Tensor:
    """The same numbers [batch, ...], those of a batch side by side in memory; a copy where they are not yet."""
    return x.movedim(0, -1).contiguous().movedim(-1, 0)


class BatchLastConv2d(nn.Conv2d):
    """A convolution without padding."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int):
        super().__init__(inputs, outputs, kernel, stride)

    def forward(self, x: Tensor) -> Tensor:
        """[batch, channels, height, width] -> [batch, outputs, height, width], batch last."""
        (side, _), (stride, _) = self.kernel_size, self.stride
        places = batch_last(x).unfold(2, side, stride).unfold(3, side, stride)  # [batch, channels, y, x, side, side]
        batch, _, height, width, _, _ = places.shape
        columns = places.permute(1, 4, 5, 2, 3, 0).reshape(-1, height * width * batch)
        y = torch.addmm(self.bias.unsqueeze(1), self.weight.flatten(1), columns)  # type: ignore[union-attr]
        return y.view(-1, height, width, batch).movedim(-1, 0)


class BatchLastLinear(nn.Linear):
    """An affine map."""

    def forward(self, x: Tensor) -> Tensor:
        """[batch, inputs] -> [batch, outputs], batch last."""
        y = self.weight @ x.t() if self.bias is None else torch.addmm(self.bias.unsqueeze(1), self.weight, x.t())
        return y.t()
