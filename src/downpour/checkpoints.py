"""Checkpoints: written atomically, found again, read without running code; and the state of random generators."""

import io
import logging
import os
import pickle
import random
import shutil
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO

from downpour.config import ConfigError
from downpour.run import Run

log = logging.getLogger(__name__)

LAST, PREVIOUS, BEST, PARTIAL = "last.ckpt", "previous.ckpt", "best.ckpt", "partial.ckpt"


class WholeFile(TorchCheckpointIO):
    """Writes a checkpoint in place and syncs it (Lightning's goes through the system's temporary folder)."""

    def save_checkpoint(self, checkpoint: Mapping[str, Any], path: Any, storage_options: Any | None = None) -> None:
        if Path(path).is_dir():
            remove(Path(path))  # left by a sharded run that was killed
        write(checkpoint, Path(path))

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        return read(Path(path))


def write(content: Mapping[str, Any], path: Path) -> None:
    """Write a checkpoint file and sync it.

    Raises:
        OSError: it cannot be written; nothing is left of it.
    """
    file_content = io.BytesIO()  # Torch's own writer reports a full disk as a fault of its format
    torch.save(dict(content), file_content)
    try:
        with open(path, "wb") as file:
            file.write(file_content.getbuffer())
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        path.unlink(missing_ok=True)  # a partial file would only use space on a full disk
        raise


def install(directory: Path) -> None:
    """Rename partial.ckpt to last.ckpt, and the last.ckpt before it to previous.ckpt."""
    last = directory / LAST
    if last.exists():
        rename(last, directory / PREVIOUS)
    rename(directory / PARTIAL, last)
    sync(directory)


def settle(path: Path, content: Mapping[str, Any]) -> Path:
    """Finish the renaming of a checkpoint, in which the run may have been killed, before resuming; returns its path."""
    if path.name == PARTIAL:  # not renamed yet: the next checkpoint would overwrite it
        rename(path, path.with_name(LAST))
        sync(path.parent)
        path = path.with_name(LAST)
    best, best_step, *_ = content["best"]
    if best is not None and best_step == content["step"] and path.name != BEST:
        mark_best(path)
    return path


def mark_best(path: Path) -> None:
    """Make best.ckpt a hard link to a checkpoint, or a copy where the file system has no links."""
    best = path.with_name(BEST)
    partial = best.with_suffix(".partial")
    remove(partial)
    _duplicate(path, partial)
    rename(partial, best)
    remove(partial)  # os.replace does nothing if both are links to one file


def _duplicate(path: Path, other: Path) -> None:
    if path.is_dir():
        other.mkdir()
        for each in path.iterdir():
            _duplicate(each, other / each.name)
        sync(other)
        return
    try:
        os.link(path, other)
    except OSError:
        shutil.copyfile(path, other)
        sync(other)


def rename(path: Path, other: Path) -> None:
    """Rename a checkpoint, replacing another; atomically if both are files.

    A folder cannot be replaced: it is renamed first, and deleted afterwards.
    """
    aside = other.with_suffix(".outdated")
    remove(aside)  # left by a run that was killed
    if other.is_dir() or (path.is_dir() and other.exists()):
        os.replace(other, aside)
    os.replace(path, other)
    remove(aside)


def remove(path: Path) -> None:
    """Delete a file or a folder, if it exists."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def read(path: Path) -> dict[str, Any]:
    """A checkpoint's content, on the CPU; tensors and plain containers only, so reading it runs no code.

    Raises:
        OSError, RuntimeError, EOFError, ValueError, pickle.UnpicklingError: it is missing, damaged, or no checkpoint.
    """
    if path.is_dir():
        from downpour import shards  # imported here: torch.distributed.checkpoint is slow to import

        return shards.read(path)
    if not zipfile.is_zipfile(path):
        raise ValueError("cut short, or no checkpoint")
    content = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(content, dict) or "algorithm" not in content:
        raise ValueError("not a checkpoint of this project")
    return content


def inspect(path: Path) -> dict[str, Any]:
    """As `read`, but the tensors of a sharded checkpoint are returned without content, though all of it is read."""
    if not path.is_dir():
        return read(path)
    from downpour import shards

    return shards.inspect(path)


def newest_whole(
    directory: Path,
    names: Sequence[str] = (LAST, PARTIAL, PREVIOUS, BEST),
    how: Callable[[Path], dict[str, Any]] = read,
) -> tuple[Path, dict[str, Any]]:
    """(path, content) of the first of a run's checkpoints, by default the newest, that is not damaged.

    Args:
        names: which to try, in this order.
        how: `read` or `inspect`.

    Raises:
        ConfigError: there is none, or all are damaged.
    """
    damaged = []
    for name in names:
        path = directory / "checkpoints" / name
        if not path.exists():
            continue
        try:
            content = how(path)
        except (OSError, RuntimeError, EOFError, pickle.UnpicklingError, ValueError) as error:
            if name != PARTIAL:
                damaged.append(name)
                reason = str(error).partition(". ")[0].partition("\n")[0] or type(error).__name__
                log.warning("%s cannot be read (%s)", path, reason)
            continue
        if damaged:
            log.warning("falling back from %s to %s, of step %d", ", ".join(damaged), path, content["step"])
        return path, content
    raise ConfigError(
        message=f"{directory}: no whole checkpoint"
        + (f" ({', '.join(damaged)} damaged): restore one, or train anew in another directory" if damaged else "")
    )


def any_checkpoint(directory: Path) -> bool:
    """Whether the run has ever been saved, whatever state its checkpoints are in."""
    return any((directory / "checkpoints" / name).exists() for name in (LAST, PREVIOUS, BEST))


def sync(path: Path) -> None:
    """fsync a file or a folder, if it exists."""
    if not path.exists():
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def capture_generators() -> dict[str, Any]:
    """The state of Python's, NumPy's and Torch's global generators, as plain data."""
    name, keys, position, has_gauss, gauss = np.random.get_state(legacy=True)
    return {
        "python": list(random.getstate()[1]),
        "numpy": [
            str(name),
            torch.from_numpy(np.array(keys).astype(np.int64)),
            int(position),
            int(has_gauss),
            float(gauss),
        ],
        "torch": torch.get_rng_state(),
        "cuda": [torch.cuda.get_rng_state()] if torch.cuda.is_initialized() else [],  # of this rank's device
    }


def same_ranks(checkpoint: Mapping[str, Any], run: Run, strategy: Any) -> bool:
    """Whether each rank can go on from its own part of a checkpoint.

    That needs as many ranks and replicas as saved it, and the same meaning of their step counts: in an asynchronous run
    they are each rank's own, and differ between strategies.
    """
    saved, own = len(checkpoint["ranks"]), strategy.name if run.asynchronous else None
    before = saved, checkpoint.get("replicas", saved), checkpoint.get("asynchronous", own)
    return before == (run.world_size, run.replicas, own)


def capture_rank(data: Any, algorithm: Any) -> dict[str, Any]:
    """A rank's part of a checkpoint, as plain data."""
    own = {"stream": data.capture(), "algorithm": algorithm.capture(), "generators": capture_generators()}
    return {**own, "gradient_steps": algorithm.gradient_steps}


def restore_rank(state: dict[str, Any], data: Any, algorithm: Any, *, draws: bool = True) -> None:
    """Restore what `capture_rank` returned.

    Args:
        draws: restore the random generators too; last, as everything before may draw from them.
    """
    data.restore(state["stream"])
    algorithm.restore(state["algorithm"])
    algorithm.gradient_steps = state.get("gradient_steps", algorithm.gradient_steps)
    if draws:
        restore_generators(state["generators"])


def restore_generators(state: dict[str, Any]) -> None:
    """Restore what `capture_generators` returned."""
    random.setstate((3, tuple(state["python"]), None))
    name, keys, position, has_gauss, gauss = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), position, has_gauss, gauss))
    torch.set_rng_state(state["torch"])
    if state["cuda"] and torch.cuda.is_initialized():
        torch.cuda.set_rng_state(state["cuda"][0])
