"""Checkpoints that no rank has whole: a folder to which each writes the parts of tensors that it holds.

`meta.pt` is the checkpoint as one file would have it, except that tensors which are spread over ranks have no content
there (they are on Torch's meta device). Their parts lie beside it in the format of `torch.distributed.checkpoint`: a
file a rank, and `.metadata`, which says what is where. Any number of ranks can read them, spread in any way.
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
SPREAD = ("state_dict", "optimizer_states")  # where in a checkpoint there may be tensors that are
KNOWN = {
    "torch": {"Size"},
    "torch.serialization": {"_get_layout"},
    "torch.distributed.checkpoint.filesystem": {"_StorageInfo"},
    # Without BytesStorageMetadata: what is no tensor Torch would read by running it.
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
    """Write a checkpoint down to the disk; all ranks must. Of what is not spread, rank 0's counts.

    Raises:
        OSError: on all ranks, if one could not write its parts.
    """
    first = dist.get_rank() == 0
    if first:
        checkpoints.remove(folder)  # of a run that was killed
    dist.barrier()
    parts: dict[str, Tensor] = {}

    def keep(place: Place, value: Any) -> Any:
        if not isinstance(value, DTensor):
            return value
        parts[_name(place)] = value
        return torch.empty(value.shape, dtype=value.dtype, device="meta")

    head = _mapped(content, keep)
    try:
        dcp.save(parts, storage_writer=_Writer(folder), planner=dcp.DefaultSavePlanner(flatten_state_dict=False))
    except CheckpointException as error:
        if first:
            checkpoints.remove(folder)  # half of it would only keep a full disk full
        raise next(cause for cause, _ in error.failures.values()) from None
    for file in folder.glob(f"__{dist.get_rank()}_*"):  # Torch asks the disk before it has handed over the last bytes
        checkpoints.sync(file)
    dist.barrier()
    if first:
        checkpoints.sync(folder / METADATA)
        checkpoints.write(head, folder / HEAD)  # last of all: a folder that has it has the rest
        checkpoints.sync(folder)


def read(folder: Path, like: Like = lambda place, saved: torch.empty_like(saved, device="cpu")) -> dict[str, Any]:
    """A checkpoint's content; reading it runs no code.

    Args:
        like: makes the tensor that a saved one (on the meta device) is to be read into. By default all of it is read;
            of a DTensor, this rank's part.

    Raises:
        OSError, RuntimeError, ValueError, pickle.UnpicklingError: a file is gone or damaged.
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
    """What `read` returns, with the tensors that are spread still on the meta device; raises what it would raise.

    All parts are read, though no two tensors are in memory at once.
    """
    head, parts = checkpoints.read(folder / HEAD), _Parts(folder)

    def see(place: Place, value: Any) -> Any:
        if isinstance(value, Tensor) and value.is_meta:
            parts.fill({_name(place): torch.empty_like(value, device="cpu")})
        return value

    return _mapped(head, see)


class _Parts:
    """The parts of tensors in a folder. Each process reads by itself: Torch's `load` would have all ranks agree."""

    def __init__(self, folder: Path):
        self.reader = dcp.FileSystemReader(folder)
        with open(folder / METADATA, "rb") as file:
            try:
                self.metadata = _Unpickler(file).load()
                self.reader.set_up_storage_reader(self.metadata, is_coordinator=True)
            except Exception as error:  # whatever bytes that mean nothing may lead to
                raise ValueError(f"{METADATA} is damaged: {error}") from None

    def fill(self, tensors: dict[str, Tensor]) -> None:
        """Read their content into tensors."""
        planner = dcp.DefaultLoadPlanner(flatten_state_dict=False)
        try:
            planner.set_up_planner(tensors, self.metadata, is_coordinator=True)
            self.reader.read_data(planner.create_local_plan(), planner).wait()
        except (AssertionError, AttributeError, KeyError, TypeError) as error:
            raise ValueError(f"{METADATA} does not fit what it describes: {error}") from None


class _Writer(dcp.FileSystemWriter):
    def storage_meta(self) -> None:
        """Neither the path, which will change, nor a number that is drawn."""


class _Unpickler(pickle.Unpickler):
    """Admits what describes tensors and nothing else; a file cannot make it run code."""

    def find_class(self, module: str, name: str) -> Any:
        if name in KNOWN.get(module, ()):
            return super().find_class(module, name)
        if module == "torch" and isinstance(dtype := getattr(torch, name, None), torch.dtype):
            return dtype
        raise pickle.UnpicklingError(f"{module}.{name} describes no tensor")


def _mapped(content: Mapping[str, Any], function: Callable[[Place, Any], Any]) -> dict[str, Any]:
    """The same content with `function` of every value that may be a spread tensor."""

    def walk(place: Place, value: Any) -> Any:
        if isinstance(value, dict):
            return {key: walk((*place, key), each) for key, each in value.items()}
        if isinstance(value, list):
            return [walk((*place, index), each) for index, each in enumerate(value)]
        return function(place, value)

    return {key: walk((key,), value) if key in SPREAD else value for key, value in content.items()}


def _name(place: Place) -> str:
    return "/".join(map(str, place))
