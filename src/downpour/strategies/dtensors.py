"""DTensors, whose parts are on several ranks: gathering, placing, and the optimizers that hold them."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset
from torch.optim import Optimizer


def gathered(value: Any) -> Any:
    """The whole of a DTensor, on the device of every rank (a collective); anything else unchanged."""
    return value.full_tensor() if isinstance(value, DTensor) else value


def whole(value: Any) -> Any:
    """The whole of a tensor, on the CPU of every rank (a collective); anything else unchanged."""
    value = gathered(value)
    return value.detach().cpu() if isinstance(value, Tensor) else value


def part(value: Any) -> Any:
    """A DTensor unchanged; any other tensor on the CPU; anything else unchanged."""
    return value if isinstance(value, DTensor) else whole(value)


def placed(value: Tensor, like: Tensor) -> Tensor:
    """A whole tensor as a DTensor that is placed as `like` is; a DTensor unchanged."""
    if not isinstance(like, DTensor) or isinstance(value, DTensor):
        return value
    mesh, placements = like.device_mesh, like.placements
    shape, offset = compute_local_shape_and_global_offset(value.shape, mesh, placements)
    part = value[tuple(slice(begin, begin + size) for begin, size in zip(offset, shape, strict=True))]
    return DTensor.from_local(
        part.to(like.device), mesh, placements, run_check=False, shape=value.shape, stride=value.stride()
    )


def by_mesh(parameters: Iterable[Tensor]) -> list[list[Tensor]]:
    """The parameters grouped by device mesh: a fused kernel accepts one mesh only."""
    groups: dict[Any, list[Tensor]] = {}
    for parameter in parameters:
        groups.setdefault(parameter.device_mesh if isinstance(parameter, DTensor) else None, []).append(parameter)
    return list(groups.values())


def split_by_mesh(optimizer: Optimizer) -> list[dict[str, Any]]:
    """Split the optimizer's groups by device mesh, which fused kernels need; returns the groups before."""
    before = [{**group, "params": list(group["params"])} for group in optimizer.param_groups]
    optimizer.param_groups[:] = [{**group, "params": part} for group in before for part in by_mesh(group["params"])]
    for group in optimizer.param_groups:
        if group.get("fused") and isinstance(group["params"][0], DTensor):  # not every fused kernel accepts DTensors
            group.update(fused=False, foreach=True)
    return before


def optimizer_state(
    optimizer: Optimizer, groups: Sequence[Mapping[str, Any]], of: Callable[[Any], Any] = whole
) -> dict[str, Any]:
    """The state_dict that the optimizer would have in one process (a collective).

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
    merged = [
        {
            **options[id(group["params"][0])],
            **{name: group[name] for name in kernels if name in group},
            "params": [number[id(p)] for p in group["params"]],
        }
        for group in groups
    ]
    return {"state": state, "param_groups": merged}


def load_optimizer_state(optimizer: Optimizer, groups: Sequence[Mapping[str, Any]], saved: Mapping[str, Any]) -> None:
    """Load the state_dict of one process; the inverse of `optimizer_state`."""
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
    """id of a parameter -> its number in a state_dict."""
    return {id(p): i for i, p in enumerate(p for group in groups for p in group["params"])}
