"""Checkpoint files: written whole, found again, read without running code; and the generators that go into them."""

import io
import logging
import os
import pickle
import random
import shutil
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO

from downpour.config import ConfigError

log = logging.getLogger(__name__)

LAST, PREVIOUS, BEST, PARTIAL = "last.ckpt", "previous.ckpt", "best.ckpt", "partial.ckpt"


class WholeFile(TorchCheckpointIO):
    """Writes a checkpoint where it belongs (Lightning goes through the system's temporary folder), down to the disk."""

    def save_checkpoint(self, checkpoint: Mapping[str, Any], path: Any, storage_options: Any | None = None) -> None:
        content = io.BytesIO()  # Torch's own writer reports a full disk as a fault of its format
        torch.save(dict(checkpoint), content)
        try:
            with open(path, "wb") as file:
                file.write(content.getbuffer())
                file.flush()
                os.fsync(file.fileno())
        except OSError:
            Path(path).unlink(missing_ok=True)  # half a file would only keep a full disk full
            raise


def install(directory: Path) -> None:
    """Make partial.ckpt last.ckpt; the one before becomes previous.ckpt."""
    last = directory / LAST
    if last.exists():
        os.replace(last, directory / PREVIOUS)
    os.replace(directory / PARTIAL, last)
    sync(directory)


def settle(path: Path) -> Path:
    """Before a run goes on from a checkpoint that had not got its name yet, give it: the next would overwrite it."""
    if path.name != PARTIAL:
        return path
    os.replace(path, path.with_name(LAST))
    sync(path.parent)
    return path.with_name(LAST)


def mark_best(directory: Path) -> None:
    """Make best.ckpt a second name of last.ckpt: a link where the disk has them."""
    partial = (directory / BEST).with_suffix(".partial")
    partial.unlink(missing_ok=True)
    try:
        os.link(directory / LAST, partial)
    except OSError:
        shutil.copyfile(directory / LAST, partial)
        sync(partial)
    os.replace(partial, directory / BEST)


def newest_whole(
    directory: Path, names: Sequence[str] = (LAST, PARTIAL, PREVIOUS, BEST)
) -> tuple[Path, dict[str, Any]]:
    """The first of a run's checkpoints (by default the newest) that can be read to its end, and its content.

    Args:
        names: which to try, in this order.

    Raises:
        ConfigError: there is none.
    """
    damaged = []
    for name in names:
        path = directory / "checkpoints" / name
        if not path.exists():
            continue
        try:
            content = read(path)
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


def read(path: Path) -> dict[str, Any]:
    """A checkpoint's content, on the CPU; tensors and plain containers only, so reading it runs no code."""
    if not zipfile.is_zipfile(path):
        raise ValueError("cut short, or no checkpoint")
    content = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(content, dict) or "algorithm" not in content:
        raise ValueError("not a checkpoint of this project")
    return content


def sync(path: Path) -> None:
    """Have what a file or a folder holds on the disk, if it is there."""
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


def capture_rank(data: Any, algorithm: Any) -> dict[str, Any]:
    """What a rank alone knows: its part of a checkpoint."""
    own = {"stream": data.capture(), "algorithm": algorithm.capture(), "generators": capture_generators()}
    return {**own, "gradient_steps": algorithm.gradient_steps}


def restore_rank(state: dict[str, Any], data: Any, algorithm: Any, *, draws: bool = True) -> None:
    """Go on from what `capture_rank` returned; last of all what `draws`, as everything before may have drawn."""
    data.restore(state["stream"])
    algorithm.restore(state["algorithm"])
    algorithm.gradient_steps = state.get("gradient_steps", algorithm.gradient_steps)
    if draws:
        restore_generators(state["generators"])


def restore_generators(state: dict[str, Any]) -> None:
    """Set the global generators to what `capture_generators` saw."""
    random.setstate((3, tuple(state["python"]), None))
    name, keys, position, has_gauss, gauss = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), position, has_gauss, gauss))
    torch.set_rng_state(state["torch"])
    if state["cuda"] and torch.cuda.is_initialized():
        torch.cuda.set_rng_state(state["cuda"][0])
