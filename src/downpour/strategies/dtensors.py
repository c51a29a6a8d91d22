"""Tensors whose parts lie on several ranks, and what does not take them together."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset
from torch.optim import Optimizer


def gathered(value: Any) -> Any:
    """All of a tensor, on the device of every rank, which all must ask; what is not spread as it is."""
    return value.full_tensor() if isinstance(value, DTensor) else value


def whole(value: Any) -> Any:
    """All of a tensor, on the CPU of every rank, which all must ask; what is no tensor as it is."""
    value = gathered(value)
    return value.detach().cpu() if isinstance(value, Tensor) else value


def part(value: Any) -> Any:
    """A tensor as it is spread; one that is not, on the CPU; what is no tensor as it is."""
    return value if isinstance(value, DTensor) else whole(value)


def placed(value: Tensor, like: Tensor) -> Tensor:
    """This rank's part of a whole tensor, spread as `like` is; what is spread already as it is."""
    if not isinstance(like, DTensor) or isinstance(value, DTensor):
        return value
    mesh, placements = like.device_mesh, like.placements
    shape, offset = compute_local_shape_and_global_offset(value.shape, mesh, placements)
    part = value[tuple(slice(begin, begin + size) for begin, size in zip(offset, shape, strict=True))]
    return DTensor.from_local(
        part.to(like.device), mesh, placements, run_check=False, shape=value.shape, stride=value.stride()
    )


def by_mesh(parameters: Iterable[Tensor]) -> list[list[Tensor]]:
    """The parameters in groups that one kernel may take together."""
    groups: dict[Any, list[Tensor]] = {}
    for parameter in parameters:
        groups.setdefault(parameter.device_mesh if isinstance(parameter, DTensor) else None, []).append(parameter)
    return list(groups.values())


def split_by_mesh(optimizer: Optimizer) -> list[dict[str, Any]]:
    """Split the optimizer's groups so that one kernel can take each; returns the groups as they were."""
    before = [{**group, "params": list(group["params"])} for group in optimizer.param_groups]
    optimizer.param_groups[:] = [{**group, "params": part} for group in before for part in by_mesh(group["params"])]
    for group in optimizer.param_groups:
        if group.get("fused") and isinstance(group["params"][0], DTensor):  # not every such kernel takes parts
            group.update(fused=False, foreach=True)
    return before


def optimizer_state(
    optimizer: Optimizer, groups: Sequence[Mapping[str, Any]], of: Callable[[Any], Any] = whole
) -> dict[str, Any]:
    """The state_dict that the optimizer would have in one process; all ranks must ask.

    Args:
        groups: what `split_by_mesh` returned.
        of: `whole`, or `part`.
    """
    number = _numbers(groups)
    options = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    state = {
        number[id(p)]: {name: of(value) for name, value in optimizer.state[p].items()}
        for group in groups
        for p in group["params"]
        if p in optimizer.state
    }
    kernels = ("fused", "foreach")
    found = [
        {
            **options[id(group["params"][0])],
            **{name: group[name] for name in kernels if name in group},
            "params": [number[id(p)] for p in group["params"]],
        }
        for group in groups
    ]
    return {"state": state, "param_groups": found}


def load_optimizer_state(optimizer: Optimizer, groups: Sequence[Mapping[str, Any]], saved: Mapping[str, Any]) -> None:
    """Go on from the state_dict of one process; the inverse of `optimizer_state`."""
    number = _numbers(groups)
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    state = {
        i: {
            name: placed(v, p) if isinstance(v, Tensor) and v.shape == p.shape else v
            for name, v in saved["state"][number[id(p)]].items()
        }
        for i, p in enumerate(parameters)
        if number[id(p)] in saved["state"]
    }
    options: list[dict[str, Any]] = []
    first = 0
    for group in optimizer.param_groups:
        source = next(g for g in saved["param_groups"] if number[id(group["params"][0])] in g["params"])
        kernels: dict[str, Any] = {name: group[name] for name in ("fused", "foreach") if name in group}
        options.append({**source, **kernels, "params": list(range(first, first + len(group["params"])))})
        first += len(group["params"])
    optimizer.load_state_dict({"state": state, "param_groups": options})


def _numbers(groups: Sequence[Mapping[str, Any]]) -> dict[int, int]:
    return {id(p): i for i, p in enumerate(p for group in groups for p in group["params"])}
