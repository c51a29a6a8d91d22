"""How much memory there is, and what to say to who asks for more."""

import os
import shutil
from pathlib import Path

from downpour.config import ConfigError

GROUP = Path("/sys/fs/cgroup")  # a container's limit (cgroup v2)
SPARE = 0.1  # of what is free is left to the rest of the run


def free_memory() -> int:
    """Bytes that this machine, or the container it seems to be, can still give."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):  # no Linux
        free = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    try:
        limit, used = ((GROUP / f"memory.{name}").read_text().strip() for name in ("max", "current"))
        if limit != "max":
            free = min(free, int(limit) - int(used))
    except OSError:
        pass
    return max(0, free)


def check_room(rows: int, row_bytes: int, folder: Path | None) -> None:
    """Before a ring is made: that it will fit, those of the other processes of this machine beside it.

    Args:
        folder: where its files go; None keeps it in memory.

    Raises:
        ConfigError: it will not; with what it needs and what would fit.
    """
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    if folder is None:
        free, place = free_memory(), "of memory"
    else:
        existing = next(each for each in (folder, *folder.absolute().parents) if each.exists())
        free, place = shutil.disk_usage(existing).free, f"on the disk of {folder}"
    need = rows * row_bytes * processes
    if need <= (1 - SPARE) * free:
        return
    fits = int((1 - SPARE) * free / (row_bytes * processes))
    rounded = fits - fits % 10 ** max(0, len(str(fits)) - 2)
    advice = f"needs {gigabytes(need)} {place}, {gigabytes(free)} are free: data.capacity={rounded} would fit"
    raise ConfigError("data.capacity", rows, advice + (", or data.storage=disk" if folder is None else ""))


def gigabytes(size: int) -> str:
    """As a person reads it."""
    return f"{size / 1e9:.3g} GB"
