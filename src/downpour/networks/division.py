"""How a network's linear layers are split between ranks (tensor parallelism)."""

from typing import Literal

from torch import nn

from downpour.networks.parts import ACTIVATIONS

Division = Literal["outputs", "outputs_gathered", "inputs", "inputs_of_whole"]
ELEMENTWISE = tuple(type(make()) for make in ACTIVATIONS.values())


def divide_linear(network: nn.Module) -> dict[str, Division]:
    """A plan for all linear layers, by name; what stands between them, every rank does alike.

    Of two with only an activation between, the first is divided by its outputs, the second by its inputs, whose parts
    of the sum are then added up: one communication for both (Shoeybi et al. 2019, section 3). A layer without such a
    neighbour divides what it is given, for its outputs may be as few as one; the first, its outputs.
    """
    parents = [m for m in network.modules() if m is not network and any(True for _ in m.children())]
    in_a_row = all(isinstance(m, nn.Sequential) for m in parents)
    leaves = [(name, m) for name, m in network.named_modules() if not any(True for _ in m.children())]
    first = next((name for name, m in leaves if isinstance(m, nn.Linear)), None)
    plan: dict[str, Division] = {}
    following = ""  # the layer after, as long as only activations stand between
    for name, module in reversed(leaves):
        if isinstance(module, nn.Linear):
            if following and in_a_row:
                plan[name], plan[following] = "outputs", "inputs"
                following = ""
            else:
                plan[name] = "outputs_gathered" if plan and name == first else "inputs_of_whole"
                following = name
        elif not isinstance(module, ELEMENTWISE):
            following = ""
    return {name: plan[name] for name, _ in leaves if name in plan}
