"""Sharded checkpoints: a folder to which each rank writes the parts of tensors that it holds.

`meta.pt` is the checkpoint as one file would be, except that sharded tensors have no content there (they are on Torch's
meta device). Their parts are stored beside it in the format of `torch.distributed.checkpoint`: one file per rank, and
`.metadata`, which maps tensors to files. Any number of ranks can read them, into any placement.
"""

import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.tensor import DTensor

from downpour import checkpoints

HEAD, METADATA = "meta.pt", ".metadata"
SPREAD = ("state_dict", "optimizer_states")  # the keys of a checkpoint below which there may be sharded tensors
KNOWN = {  # module -> classes that `.metadata` may contain
    "torch": {"Size"},
    "torch.serialization": {"_get_layout"},
    "torch.distributed.checkpoint.filesystem": {"_StorageInfo"},
    # Without BytesStorageMetadata: Torch unpickles what is no tensor, which can run code.
    "torch.distributed.checkpoint.metadata": {
        "ChunkStorageMetadata",
        "Metadata",
        "MetadataIndex",
        "TensorProperties",
        "TensorStorageMetadata",
        "_MEM_FORMAT_ENCODING",
    },
}

Place = tuple[str | int, ...]  # the keys that lead to a tensor
Like = Callable[[Place, Tensor], Tensor]


def write(content: Mapping[str, Any], folder: Path) -> None:
    """Write and sync a checkpoint; all ranks must call it. Rank 0 writes everything that is not sharded.

    Raises:
        OSError: on all ranks, if one could not write its parts.
    """
    first = dist.get_rank() == 0
    if first:
        checkpoints.remove(folder)  # left by a run that was killed
    dist.barrier()
    parts: dict[str, Tensor] = {}

    def take_out(place: Place, value: Any) -> Any:
        if not isinstance(value, DTensor):
            return value
        parts[_name(place)] = value
        return torch.empty(value.shape, dtype=value.dtype, device="meta")

    head = _mapped(content, take_out)
    try:
        dcp.save(parts, storage_writer=_Writer(folder), planner=dcp.DefaultSavePlanner(flatten_state_dict=False))
    except CheckpointException as error:
        if first:
            checkpoints.remove(folder)  # a partial one would only use space on a full disk
        raise next(cause for cause, _ in error.failures.values()) from None
    for file in folder.glob(f"__{dist.get_rank()}_*"):  # Torch syncs before it has flushed its last bytes
        checkpoints.sync(file)
    dist.barrier()
    if first:
        checkpoints.sync(folder / METADATA)
        checkpoints.write(head, folder / HEAD)  # last: a folder with this file is complete
        checkpoints.sync(folder)


def read(folder: Path, like: Like = lambda place, saved: torch.empty_like(saved, device="cpu")) -> dict[str, Any]:
    """A checkpoint's content; reading it runs no code.

    Args:
        like: makes the tensor into which a saved one (given on the meta device) is read. By default the whole tensor is
            read; into a DTensor, this rank's part.

    Raises:
        OSError, RuntimeError, ValueError, pickle.UnpicklingError: a file is missing or damaged.
    """
    wanted: dict[str, Tensor] = {}

    def make(place: Place, value: Any) -> Any:
        if isinstance(value, Tensor) and value.is_meta:
            value = wanted[_name(place)] = like(place, value)
        return value

    content = _mapped(checkpoints.read(folder / HEAD), make)
    _Parts(folder).fill(wanted)
    return content


def inspect(folder: Path) -> dict[str, Any]:
    """As `read`, but sharded tensors are returned on the meta device; raises the same errors.

    All parts are read, one tensor at a time, to see that they are not damaged.
    """
    head, parts = checkpoints.read(folder / HEAD), _Parts(folder)

    def check(place: Place, value: Any) -> Any:
        if isinstance(value, Tensor) and value.is_meta:
            parts.fill({_name(place): torch.empty_like(value, device="cpu")})
        return value

    return _mapped(head, check)


class _Parts:
    """The parts of tensors in a folder. Processes read them independently: Torch's `load` is a collective."""

    def __init__(self, folder: Path):
        self.reader = dcp.FileSystemReader(folder)
        with open(folder / METADATA, "rb") as file:
            try:
                self.metadata = _Unpickler(file).load()
                self.reader.set_up_storage_reader(self.metadata, is_coordinator=True)
            except Exception as error:  # unpickling damaged bytes can raise anything
                raise ValueError(f"{METADATA} is damaged: {error}") from None

    def fill(self, tensors: dict[str, Tensor]) -> None:
        """Read the content of tensors, given by name."""
        planner = dcp.DefaultLoadPlanner(flatten_state_dict=False)
        try:
            planner.set_up_planner(tensors, self.metadata, is_coordinator=True)
            self.reader.read_data(planner.create_local_plan(), planner).wait()
        except (AssertionError, AttributeError, KeyError, TypeError) as error:
            raise ValueError(f"{METADATA} does not fit what it describes: {error}") from None


class _Writer(dcp.FileSystemWriter):
    def storage_meta(self) -> None:
        """Nothing: Torch would write the path, which changes, and a random number."""


class _Unpickler(pickle.Unpickler):
    """Accepts the classes that describe tensors only, so that a file cannot run code."""

    def find_class(self, module: str, name: str) -> Any:
        if name in KNOWN.get(module, ()):
            return super().find_class(module, name)
        if module == "torch" and isinstance(dtype := getattr(torch, name, None), torch.dtype):
            return dtype
        raise pickle.UnpicklingError(f"{module}.{name} describes no tensor")


def _mapped(content: Mapping[str, Any], function: Callable[[Place, Any], Any]) -> dict[str, Any]:
    """The content with `function` applied to every value that may be a sharded tensor."""

    def walk(place: Place, value: Any) -> Any:
        if isinstance(value, dict):
            return {key: walk((*place, key), each) for key, each in value.items()}
        if isinstance(value, list):
            return [walk((*place, index), each) for index, each in enumerate(value)]
        return function(place, value)

    return {key: walk((key,), value) if key in SPREAD else value for key, value in content.items()}


def _name(place: Place) -> str:
    return "/".join(map(str, place))
