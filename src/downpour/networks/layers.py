"""Networks that are layers in a row."""

from torch import Tensor, nn

from downpour.networks.division import Division, divide_linear
from downpour.networks.rainbow import to_outputs


class Layers(nn.Module):
    """A network that computes its `layers` one after the other."""

    layers: nn.Sequential

    def forward(self, x: Tensor) -> Tensor:
        """[batch, *shape] -> [batch, outputs]."""
        return to_outputs(self.layers, x)

    def in_order(self) -> list[nn.Module]:
        """The layers in order; a pipeline may cut between any two."""
        return list(self.layers)

    def parallel_plan(self) -> dict[str, Division]:
        """How its layers may be divided between ranks."""
        return divide_linear(self)
